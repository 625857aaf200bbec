"""What the user of a connection may choose."""

from __future__ import annotations

import pytest

from discord_rtc.connection.options import ConnectionOptions, codec_offers
from discord_rtc.errors import UsageError
from discord_rtc.frames import Codec
from discord_rtc.transport.base import DEFAULT_CODECS
from discord_rtc.transport.ice_options import IceOptions, IceServer
from discord_rtc.transport.memory import memory_pair

RELAY_ONLY = IceOptions((IceServer("turn:turn.example", "ann", "hidden"),), relay_only=True)
MODES = ("aead_aes256_gcm_rtpsize",)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dave": "perhaps"}, "required, preferred or off, not 'perhaps'"),
        ({"dave_library": "libdave"}, "dave.py or davey, not 'libdave'"),
        ({"transport": "pigeon"}, "not 'pigeon'"),
        ({"gateway_version": 3}, "4 to 9"),
        ({"gateway_version": 10}, "4 to 9"),
        ({"codecs": (Codec.AV1, Codec.H264)}, "not built in this version: AV1$"),
        ({"transport": "udp", "ice": RELAY_ONLY}, "plain UDP would show"),
        ({"modes": MODES, "ice": RELAY_ONLY}, "plain UDP would show"),
        ({"transport": "webrtc", "modes": MODES}, "only plain UDP has"),
    ],
)
def test_choices_that_cannot_be_are_refused_where_they_are_made(
    options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        ConnectionOptions(**options)  # type: ignore[arg-type]  # wrong on purpose


def test_what_is_built_is_accepted() -> None:
    for version in range(4, 10):
        ConnectionOptions(gateway_version=version)
    ConnectionOptions(transport="udp")
    ConnectionOptions(transport=lambda _: memory_pair()[0])
    ConnectionOptions(ice=RELAY_ONLY)
    ConnectionOptions(transport="webrtc", ice=RELAY_ONLY)
    ConnectionOptions(modes=MODES)
    for choice in ("required", "preferred", "off"):
        ConnectionOptions(dave=choice)
    for library in ("dave.py", "davey", None):
        ConnectionOptions(dave_library=library)
    ConnectionOptions(identity="~/.config/key.pem")


def test_without_a_choice_all_codecs_are_offered() -> None:
    assert codec_offers(None) == DEFAULT_CODECS


def test_chosen_codecs_keep_their_order_and_opus_is_always_there() -> None:
    chosen = codec_offers((Codec.VP8, Codec.H264))
    assert [offer.codec for offer in chosen] == [Codec.OPUS, Codec.VP8, Codec.H264]
    assert [offer.codec for offer in codec_offers((Codec.VP8, Codec.OPUS))] == [
        Codec.VP8,
        Codec.OPUS,
    ]
