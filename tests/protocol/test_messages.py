"""Frames of the voice gateway: public examples, framing, classification of errors."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from discord_rtc.errors import MalformedMessage
from discord_rtc.protocol.messages import (
    BackendVersion,
    BackendVersionRequest,
    BadField,
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    CodecInfo,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Identify,
    MediaSinkWants,
    Message,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    Ready,
    Resolution,
    Resume,
    Resumed,
    SelectProtocol,
    SessionDescription,
    SessionUpdate,
    Speaking,
    StreamInfo,
    UndecodableMessage,
    UnknownMessage,
    Video,
    build,
    build_binary,
    build_text,
    opcode_of,
    parse_from_client,
    parse_from_server,
)

VECTORS: list[dict[str, object]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "gateway_messages.json").read_text()
)

GUILD, OWN, OTHER = 41771983423143937, 104694319306248192, 852892297661906993
OLD_MODES = ("xsalsa20_poly1305", "xsalsa20_poly1305_suffix", "xsalsa20_poly1305_lite")
GCM = "aead_aes256_gcm_rtpsize"
LAYER = StreamInfo("video", "100", 100, 13960, 13961, True, None, 60, Resolution("source", 0, 0))
SENT_LAYER = StreamInfo(
    "video", "100", 100, 13960, 13961, True, 9000000, 60, Resolution("source", 0, 0)
)
CODECS = (
    CodecInfo("opus", "audio", 1000, 120),
    CodecInfo("AV1", "video", 1000, 101, 102, encode=False),
    CodecInfo("H264", "video", 2000, 103, 104),
)

EXPECTED: dict[str, Message] = {
    "hello_flat": Hello(41250),
    "hello_flat_v1": Hello(41250),
    "hello_v3": Hello(41250),
    "hello": Hello(41250, version=8),
    "identify": Identify(GUILD, OWN, "my_session_id", "my_token", max_dave_protocol_version=1),
    "identify_streams": Identify(
        GUILD,
        OWN,
        "30f32c5d54ae86130fc4a215c7474263",
        "66d29164ee8cd919",
        video=True,
        streams=(StreamInfo("video", "100", 100), StreamInfo("video", "50", 50)),
    ),
    "identify_channel": Identify(
        81384788765712384,
        OWN,
        "9b2d1f0c6a7e4d53b8c1e2f3a4958677",
        "4f1c0e9a7d3b2688",
        channel_id=381870553235193857,
        video=True,
        streams=(StreamInfo(),),
        max_dave_protocol_version=1,
    ),
    "ready_with_wrong_interval": Ready(1, "127.0.0.1", 1234, OLD_MODES),
    "ready_v1": Ready(1, "127.0.0.1", 1234, OLD_MODES),
    "ready_streams": Ready(
        12871,
        "127.0.0.1",
        1234,
        (
            GCM,
            "aead_aes256_gcm",
            "aead_xchacha20_poly1305_rtpsize",
            "xsalsa20_poly1305_lite_rtpsize",
            "xsalsa20_poly1305_lite",
            "xsalsa20_poly1305_suffix",
            "xsalsa20_poly1305",
        ),
        ("fixed_keyframe_interval",),
        (
            StreamInfo("video", "50", 50, 12872, 12873, active=False),
            StreamInfo("video", "100", 100, 12874, 12875, active=False),
        ),
    ),
    "heartbeat": Heartbeat(1501184119561, 10),
    "heartbeat_bare": Heartbeat(1501184119561),
    "heartbeat_ack": HeartbeatAck(1501184119561),
    "heartbeat_ack_bare": HeartbeatAck(1501184119561),
    "heartbeat_echo": HeartbeatAck(1501184119561),
    "select_protocol": SelectProtocol("udp", "127.0.0.1", 1337, GCM),
    "select_protocol_codecs": SelectProtocol(
        "udp",
        "127.0.0.1",
        1337,
        GCM,
        codecs=CODECS,
        rtc_connection_id="d6b92f64-40df-48eb-8bce-7facb043149a",
        experiments=("fixed_keyframe_interval",),
    ),
    "session_description": SessionDescription(
        "opus", "H264", "89f1d62f166b948746f7646713d39dbb", GCM, bytes(range(32))
    ),
    "session_description_sdp": SessionDescription(
        "opus",
        "H264",
        "c2a4e6081b3d5f7091a2b3c4d5e6f708",
        sdp="m=audio 50026 ICE/SDP\nc=IN IP4 203.0.113.7\n",
        keyframe_interval=2000,
        dave_protocol_version=1,
    ),
    "speaking_sent": Speaking(5, 1, delay=0),
    "speaking_received": Speaking(5, 2, user_id=OTHER),
    "speaking_with_seq": Speaking(0, 110, delay=0),
    "speaking_boolean": Speaking(1, 1, delay=0),
    "speaking_boolean_received": Speaking(0, 2, user_id=OTHER),
    "resume": Resume(GUILD, "my_session_id", "my_token"),
    "resume_buffered": Resume(GUILD, "my_session_id", "my_token", seq_ack=10),
    "resumed": Resumed(),
    "clients_connect": ClientsConnect((OTHER,)),
    "video_sent": Video(13959, 13960, 13961, (SENT_LAYER,)),
    "video_received": Video(13959, 13960, None, (LAYER,), OTHER),
    "client_disconnect": ClientDisconnect(OTHER),
    "media_sink_wants": MediaSinkWants(100),
    "media_sink_wants_ssrcs": MediaSinkWants(0, {13960: 100}, {13960: 921600.5}),
    "backend_version_request": BackendVersionRequest(),
    "backend_version": BackendVersion("0.9.1", "0.3.35"),
    "client_flags": ClientFlags(OTHER, 3),
    "client_platform": ClientPlatform(OTHER, 0),
    "prepare_transition": PrepareTransition(1, 10),
    "prepare_epoch": PrepareEpoch(1, 1),
    "key_package_prefix": MlsKeyPackage(bytes.fromhex("00010002404104")),
    "external_sender_prefix": MlsExternalSender(bytes.fromhex("40410400010400010100")),
    "announce_commit": MlsAnnounceCommit(10, bytes.fromhex("00010001")),
}


def frame_of(vector: dict[str, object]) -> str | bytes:
    if "hex" in vector:
        return bytes.fromhex(str(vector["hex"]))
    return json.dumps(vector["frame"])


def version_of(vector: dict[str, object]) -> int:
    version = vector["version"]
    assert isinstance(version, int)
    return version


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_public_example_is_understood(vector: dict[str, object]) -> None:
    frame, version = frame_of(vector), version_of(vector)
    if vector["from"] == "client":
        assert parse_from_client(frame, version=version) == EXPECTED[str(vector["name"])]
    else:
        message, _ = parse_from_server(frame, version=version)
        assert message == EXPECTED[str(vector["name"])]


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS if vector["exact"]],
    ids=lambda vector: str(vector["name"]),
)
def test_public_example_is_what_we_build(vector: dict[str, object]) -> None:
    frame, version = frame_of(vector), version_of(vector)
    seq = None
    if vector["from"] == "server":
        _, seq = parse_from_server(frame, version=version)
    built = build(EXPECTED[str(vector["name"])], version=version, seq=seq)
    if isinstance(built, str):
        assert json.loads(built) == vector["frame"]
    else:
        assert built == frame


def test_every_example_is_expected() -> None:
    assert {str(vector["name"]) for vector in VECTORS} == set(EXPECTED)


@pytest.mark.parametrize(
    ("frame", "version", "seq"),
    [
        ('{"op":9,"d":null,"seq":0}', 8, 0),
        ('{"op":9,"d":null}', 8, None),
        ('{"op":9,"d":null,"seq":null}', 8, None),
        ('{"op":9,"d":null,"seq":65536}', 9, 65536),
        ('{"op":9,"d":null,"seq":1}', 7, None),
        (b"\x00\x00\x19", 8, 0),
        (b"\xff\xff\x19", 8, 65535),
    ],
)
def test_sequence_numbers_of_both_framings(
    frame: str | bytes, version: int, seq: int | None
) -> None:
    assert parse_from_server(frame, version=version)[1] == seq


def test_sequence_numbers_are_left_out_below_version_8() -> None:
    assert json.loads(build_text(Resumed(), version=8, seq=0)) == {"op": 9, "d": None, "seq": 0}
    assert "seq" not in json.loads(build_text(Resumed(), version=7, seq=0))


def test_binary_frames_of_the_client_have_no_sequence_number() -> None:
    assert build_binary(MlsCommitWelcome(b"mls")) == b"\x1cmls"
    assert build_binary(MlsProposals(b"mls"), seq=258) == b"\x01\x02\x1bmls"


def test_server_heartbeat_needs_no_content() -> None:
    for version, data in ((8, "null"), (8, '{"t":0}'), (7, "0"), (4, "null")):
        frame = f'{{"op":3,"d":{data}}}'
        assert parse_from_server(frame, version=version) == (Heartbeat(0), None)
    with pytest.raises(BadField, match="opcode 3"):
        parse_from_client('{"op":3,"d":null}', version=8)


def test_flat_hello_ends_with_version_3() -> None:
    with pytest.raises(UndecodableMessage):
        parse_from_server('{"heartbeat_interval":41250}', version=3)
    with pytest.raises(BadField, match="opcode 8"):
        parse_from_server('{"heartbeat_interval":0}', version=2)
    assert parse_from_server('{"op":8,"d":{"heartbeat_interval":1}}', version=2)[0] == Hello(1)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "x",
        "[]",
        "null",
        "3",
        "{}",
        '{"op":null}',
        '{"op":"3"}',
        '{"op":true}',
        '{"op":3.0}',
        b"",
    ],
)
def test_frame_without_opcode_is_undecodable(frame: str | bytes) -> None:
    with pytest.raises(UndecodableMessage):
        parse_from_client(frame, version=8)
    with pytest.raises(UndecodableMessage):
        parse_from_server(frame, version=8)


@pytest.mark.parametrize("frame", [b"\x00", b"\x00\x00"])
def test_short_binary_frame_of_the_server_is_undecodable(frame: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        parse_from_server(frame, version=8)


@pytest.mark.parametrize("opcode", [2, 4, 6, 8, 9, 10, 11, 13, 17, 18, 25, 26, 33, 99, -1, 10**30])
def test_opcode_that_is_not_for_clients_to_send_is_unknown(opcode: int) -> None:
    frame = f'{{"op":{opcode},"d":[1]}}'
    assert parse_from_client(frame, version=8) == UnknownMessage(opcode, [1])


@pytest.mark.parametrize("opcode", [0, 1, 7, 10, 17, 19, 23, 25, 26, 31, 32, 33])
def test_opcode_that_is_not_for_servers_to_send_is_unknown(opcode: int) -> None:
    frame = f'{{"op":{opcode},"d":[1],"seq":4}}'
    assert parse_from_server(frame, version=8) == (UnknownMessage(opcode, [1]), 4)


def test_json_in_a_binary_frame_is_not_read_as_json() -> None:
    frame = build_text(Speaking(1, 1), version=8).encode()
    message = parse_from_client(frame, version=8)
    assert message == UnknownMessage(ord("{"), frame[1:])
    assert parse_from_server(b"\x00\x01\x05abc", version=8) == (UnknownMessage(5, b"abc"), 1)


def test_bad_field_names_opcode_and_field() -> None:
    with pytest.raises(BadField) as caught:
        parse_from_client('{"op":5,"d":{"speaking":"31337","ssrc":1}}', version=8)
    assert str(caught.value) == "opcode 5: field 'speaking' is not an integer"
    assert (caught.value.where, caught.value.field) == ("opcode 5", "speaking")
    with pytest.raises(BadField, match=r"opcode 2: field 'd' is not an object"):
        parse_from_server('{"op":2,"d":[]}', version=8)
    with pytest.raises(BadField, match=r"opcode 9: field 'seq' is not within"):
        parse_from_server('{"op":9,"d":null,"seq":-1}', version=8)
    with pytest.raises(BadField, match=r"opcode 30: field 'transition_id' is missing"):
        parse_from_server(b"\x00\x00\x1e\x00", version=8)


@pytest.mark.parametrize("frame", ["[" * 100_000, '{"op":' * 100_000, "1" * 10_000, '{"op":NaN}'])
def test_hostile_json_is_malformed(frame: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_from_server(frame, version=8)


def test_unknown_fields_are_ignored() -> None:
    frame = '{"op":13,"d":{"user_id":"1","new":[]},"seq":1,"t":"X"}'
    assert parse_from_server(frame, version=8) == (ClientDisconnect(1), 1)


def test_unknown_message_can_be_built_for_tests_of_others() -> None:
    assert json.loads(build(UnknownMessage(99, {"a": 1}), version=8)) == {"op": 99, "d": {"a": 1}}
    assert opcode_of(UnknownMessage(99)) == 99
    assert opcode_of(Resumed()) == 9


def test_no_secret_shows_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2"
    key = (secret.encode() * 5)[:32]
    messages: tuple[Message | UnknownMessage, ...] = (
        Identify(1, 2, secret, secret),
        SelectProtocol("webrtc", sdp=secret),
        SessionDescription("opus", None, secret, "m", key, secret),
        SessionUpdate(media_session_id=secret),
        Resume(1, secret, secret),
        MlsExternalSender(key),
        MlsKeyPackage(key),
        MlsProposals(key),
        MlsCommitWelcome(key),
        MlsAnnounceCommit(1, key),
        MlsWelcome(1, key),
        UnknownMessage(99, {"token": secret}),
    )
    with caplog.at_level(logging.DEBUG):
        for message in messages:
            logging.getLogger("discord_rtc.protocol").debug("< %r", message)
    assert len(caplog.records) == len(messages)
    assert secret not in caplog.text
