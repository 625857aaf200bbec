"""Messages that set up and keep a session: shapes by version, fields by type."""

from __future__ import annotations

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.protocol.fields import BadField
from discord_rtc.protocol.handshake import (
    Heartbeat,
    HeartbeatAck,
    Hello,
    Identify,
    Ready,
    Resume,
    Resumed,
    SelectProtocol,
    SessionDescription,
)

IDENTIFY = Identify(1, 2, "session", "token", channel_id=3)
RESUME = Resume(1, "session", "token", seq_ack=0, channel_id=3)


def test_only_version_9_names_the_channel() -> None:
    assert Identify.from_data(IDENTIFY.to_data(9), 9) == IDENTIFY
    assert Identify.from_data(IDENTIFY.to_data(9), 8).channel_id is None
    assert Identify.from_data(IDENTIFY.to_data(8), 9).channel_id is None
    assert Resume.from_data(RESUME.to_data(9), 9) == RESUME
    assert Resume.from_data(RESUME.to_data(8), 9).channel_id is None


def test_version_9_does_without_a_channel() -> None:
    identify = Identify(1, 2, "session", "token")
    assert Identify.from_data(identify.to_data(9), 9) == identify


def test_sequence_numbers_exist_from_version_8_on() -> None:
    assert Resume.from_data(RESUME.to_data(8), 8).seq_ack == 0
    assert Resume.from_data(RESUME.to_data(7), 8).seq_ack == -1
    assert Resume.from_data(RESUME.to_data(8), 7).seq_ack == -1


@pytest.mark.parametrize("version", [1, 4, 7])
def test_heartbeats_are_bare_integers_below_version_8(version: int) -> None:
    assert Heartbeat(5, seq_ack=3).to_data(version) == 5
    assert Heartbeat.from_data(5, version) == Heartbeat(5)
    assert HeartbeatAck(5).to_data(version) == 5
    assert HeartbeatAck.from_data(5, version) == HeartbeatAck(5)
    for data in ({"t": 5}, None, True, "5"):
        with pytest.raises(BadField):
            Heartbeat.from_data(data, version)


def test_heartbeats_are_objects_from_version_8_on() -> None:
    assert Heartbeat(5, seq_ack=-1).to_data(8) == {"t": 5, "seq_ack": -1}
    assert Heartbeat(5).to_data(8) == {"t": 5}
    assert HeartbeatAck(5).to_data(8) == {"t": 5}
    with pytest.raises(BadField):
        Heartbeat.from_data(5, 8)
    with pytest.raises(BadField):
        HeartbeatAck.from_data(5, 8)


@pytest.mark.parametrize("interval", [0, -1, True, "5", None, 10**400])
def test_hello_needs_an_interval_above_zero(interval: object) -> None:
    with pytest.raises(BadField, match="heartbeat_interval"):
        Hello.from_data({"heartbeat_interval": interval}, 8)


def test_select_protocol_takes_its_data_by_type() -> None:
    datagrams = SelectProtocol("a", "192.0.2.1", 5, "mode")
    assert SelectProtocol.from_data(datagrams.to_data(8), 8) == datagrams
    offer = SelectProtocol("b", sdp="a=ice-ufrag:x")
    assert offer.to_data(8) == {"protocol": "b", "data": offer.sdp, "sdp": offer.sdp}
    assert SelectProtocol.from_data(offer.to_data(8), 8) == offer


def test_select_protocol_without_data_is_left_to_the_server() -> None:
    data = {"protocol": "c", "data": None}
    assert SelectProtocol.from_data(data, 8) == SelectProtocol("c")


@pytest.mark.parametrize(
    "incomplete",
    [
        SelectProtocol("a"),
        SelectProtocol("a", "192.0.2.1"),
        SelectProtocol("a", "192.0.2.1", 5),
        SelectProtocol("a", port=5, mode="m"),
    ],
)
def test_selecting_nothing_is_a_usage_error(incomplete: SelectProtocol) -> None:
    with pytest.raises(UsageError):
        incomplete.to_data(8)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"address": "a", "port": 65536, "mode": "m"}, r"data\.port"),
        ({"address": "a", "port": 1}, r"data\.mode"),
        ({"address": 1, "port": 1, "mode": "m"}, r"data\.address"),
        ([], "data"),
    ],
)
def test_select_protocol_names_the_wrong_field(data: object, field: str) -> None:
    with pytest.raises(BadField, match=field):
        SelectProtocol.from_data({"protocol": "a", "data": data}, 8)


def test_ready_needs_no_streams() -> None:
    data = {"ssrc": 1, "ip": "192.0.2.1", "port": 2, "modes": ["m"], "heartbeat_interval": 1}
    assert Ready.from_data(data, 8) == Ready(1, "192.0.2.1", 2, ("m",))


@pytest.mark.parametrize(
    ("field", "value"),
    [("ssrc", -1), ("ssrc", True), ("ip", 1), ("port", 65536), ("modes", "m"), ("modes", [1])],
)
def test_ready_names_the_wrong_field(field: str, value: object) -> None:
    data: dict[str, object] = {"ssrc": 1, "ip": "192.0.2.1", "port": 2, "modes": ["m"]}
    with pytest.raises(BadField, match=field):
        Ready.from_data(data | {field: value}, 8)


@pytest.mark.parametrize("key", [[], list(range(31)), [0] * 33, [256] * 32, [0.0] * 32, "k" * 32])
def test_secret_key_is_32_bytes(key: object) -> None:
    with pytest.raises(BadField, match="secret_key"):
        SessionDescription.from_data({"secret_key": key}, 8)


def test_description_may_be_nearly_empty() -> None:
    assert SessionDescription.from_data({}, 8) == SessionDescription(None, None, None)


def test_secret_key_is_written_as_integers() -> None:
    description = SessionDescription("opus", None, None, "mode", bytes(range(32)))
    data = description.to_data(8)
    assert isinstance(data, dict)
    assert data["secret_key"] == list(range(32))
    assert SessionDescription.from_data(data, 8) == description


@pytest.mark.parametrize("data", [None, {}, 7])
def test_resumed_says_nothing(data: object) -> None:
    assert Resumed.from_data(data, 8) == Resumed()
    assert Resumed().to_data(8) is None


@pytest.mark.parametrize("version", [1, 4, 9])
def test_what_the_server_says_first_is_the_same_in_every_version(version: int) -> None:
    hello, ready = Hello(13750, 8), Ready(1, "192.0.2.1", 2, ("m",), ("e",))
    assert Hello.from_data(hello.to_data(version), version) == hello
    assert Ready.from_data(ready.to_data(version), version) == ready


def test_answers_of_version_8_come_back() -> None:
    assert HeartbeatAck.from_data({"t": 5}, 8) == HeartbeatAck(5)
    assert Heartbeat.from_data({"t": 5, "seq_ack": 0}, 8) == Heartbeat(5, 0)
