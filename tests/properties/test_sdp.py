"""Session descriptions: any text gives a value or `MalformedSdp`; what is written is read again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import MalformedSdp
from discord_rtc.frames import MediaKind
from discord_rtc.protocol.sdp import (
    ServerFragment,
    host_candidate,
    parse_client_fragment,
    parse_server_fragment,
    reduce_offer,
)
from discord_rtc.protocol.sdp_sections import parse_description
from discord_rtc.transport.base import CodecOffer, MediaOffer, SendingSsrcs
from discord_rtc.transport.description import (
    OFFERED_EXTENSION_IDS,
    RemoteSource,
    build_offer,
    expand_answer,
    negotiated_extensions,
    negotiated_feedback,
)

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"
FRAGMENT = (VECTORS / "discord_server.txt").read_text()
OFFERS = {path.stem: path.read_text() for path in sorted(VECTORS.glob("*.sdp"))}

ICE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ssrcs = st.integers(1, 0xFFFF_FFFF)
ports = st.integers(1, 0xFFFF)
ips = st.ip_addresses().filter(lambda ip: not (ip.is_multicast or ip.is_unspecified)).map(str)
ufrags = st.text(ICE, min_size=4, max_size=256)
passwords = st.text(ICE, min_size=22, max_size=256)
fingerprints = st.sampled_from([("sha-256", 32), ("sha-384", 48), ("sha-512", 64)]).flatmap(
    lambda kind: st.binary(min_size=kind[1], max_size=kind[1]).map(
        lambda digest: f"{kind[0]} {digest.hex(':').upper()}"
    )
)
candidates = st.lists(
    st.builds(host_candidate, ips, ports), min_size=1, max_size=4, unique=True
).map(tuple)
fragments = st.builds(ServerFragment, ips, ports, ufrags, passwords, fingerprints, candidates)

# Words that descriptions are made of, so that mutations go further than the first check.
words = st.sampled_from(
    [
        "m=audio ", "m=video ", "a=mid:", "a=rtpmap:", "a=fmtp:", "a=extmap:", "a=rtcp-fb:",
        "a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=candidate:", "a=group:BUNDLE ", "c=",
        "a=sendrecv", "a=inactive", "a=bundle-only", "UDP/TLS/RTP/SAVPF", "opus/48000/2",
        "VP8/90000", "H264/90000", "rtx/90000", "apt=", " ", "0", "96", "\r\n", "\n", "\r", "/",
        "\u2028", "\x00", "\ud800", "-1", "99999999999999999999", "٣", "sha-256 ", "IN IP4 ",
    ]
)  # fmt: skip
anything = st.text(max_size=200) | st.lists(words, max_size=60).map("".join)


@st.composite
def mutated(draw: st.DrawFn, original: str) -> str:
    """The text truncated, with lines reordered, repeated, left out, or lying."""
    lines = original.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, max(len(lines) - 1, 0)))
        match draw(st.sampled_from(["cut", "swap", "repeat", "drop", "lie", "insert"])):
            case "cut":
                text = "\n".join(lines)
                lines = text[: draw(st.integers(0, len(text)))].splitlines()
            case "swap":
                lines = draw(st.permutations(lines))
            case "repeat":
                lines[index:index] = lines[index : index + 1]
            case "drop":
                del lines[index : index + 1]
            case "lie" if lines:
                line = lines[index]
                start = draw(st.integers(0, len(line)))
                stop = draw(st.integers(start, len(line)))
                lines[index] = line[:start] + draw(anything) + line[stop:]
            case _:
                lines.insert(index, draw(anything))
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


offers = st.sampled_from(sorted(OFFERS.values()))
any_offer = anything | offers.flatmap(mutated)
any_fragment = anything | mutated(FRAGMENT)


def check_answer(answer: str, offer: str) -> None:
    """An answer has the sections of the offer, and can be read."""
    given_sections = parse_description(offer, limit=1 << 20, what="the offer").sections
    sections = parse_description(answer, limit=1 << 20, what="the answer").sections
    assert [(part.kind, part.mid) for part in sections] == [
        (part.kind, part.mid) for part in given_sections
    ]
    offered = {(extmap.uri, extmap.id) for part in given_sections for extmap in part.extmaps}
    assert set(negotiated_extensions(answer).items()) <= offered
    negotiated_feedback(answer)
    assert "\u2028" not in answer
    assert "\n" not in answer.replace("\r\n", "")


@given(fragments)
def test_a_fragment_comes_back(fragment: ServerFragment) -> None:
    assert parse_server_fragment(fragment.to_text()) == fragment
    assert fragment.addresses


@given(fragments, st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(fragment: ServerFragment, random: object) -> None:
    lines = FRAGMENT.splitlines()
    random.shuffle(lines)  # type: ignore[attr-defined]
    assert parse_server_fragment("\r\n".join(lines)) == parse_server_fragment(FRAGMENT)
    shuffled = fragment.to_text().splitlines()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    read = parse_server_fragment("\n".join(shuffled))
    assert set(read.candidates) == set(fragment.candidates)


@given(any_fragment)
def test_any_server_fragment_gives_a_value_or_a_typed_error(text: str) -> None:
    with suppress(MalformedSdp):
        fragment = parse_server_fragment(text)
        assert parse_server_fragment(fragment.to_text()) == fragment
        check_answer(expand_answer(text, OFFERS["aiortc"]), OFFERS["aiortc"])


@given(any_offer | mutated(FRAGMENT))
def test_any_client_fragment_gives_a_value_or_a_typed_error(text: str) -> None:
    with suppress(MalformedSdp):
        fragment = parse_client_fragment(text)
        assert len({codec.payload_type for codec in fragment.codecs}) == len(fragment.codecs)
        assert len(set(fragment.extension_ids.values())) == len(fragment.extension_ids)
        assert all(0 < number < 256 for number in fragment.extension_ids.values())


@given(any_offer)
def test_any_offer_is_reduced_to_what_a_server_reads_or_a_typed_error(text: str) -> None:
    with suppress(MalformedSdp):
        reduced = reduce_offer(text)
        whole, read = parse_client_fragment(text), parse_client_fragment(reduced)
        assert (read.ufrag, read.password) == (whole.ufrag, whole.password)
        assert read.fingerprints == whole.fingerprints
        assert read.extension_ids == whole.extension_ids


@given(any_offer)
def test_any_offer_is_answered_or_a_typed_error(text: str) -> None:
    with suppress(MalformedSdp):
        check_answer(expand_answer(FRAGMENT, text), text)


@pytest.mark.parametrize("read", [negotiated_extensions, negotiated_feedback])
@given(text=any_offer)
def test_any_answer_is_read_or_a_typed_error(read: Callable[[str], object], text: str) -> None:
    with suppress(MalformedSdp):
        read(text)


codec_lists = st.permutations(
    [
        CodecOffer(codec.codec, codec.payload_type, codec.rtx_payload_type)
        for codec in MediaOffer().codecs
    ]
).flatmap(lambda codecs: st.integers(1, len(codecs)).map(lambda count: tuple(codecs[:count])))
layers = st.none() | st.builds(SendingSsrcs, st.just("100"), ssrcs, ssrcs)


@given(codec_lists, ufrags, passwords, fingerprints, ssrcs, layers)
def test_our_offer_is_read_and_answered(
    codecs: tuple[CodecOffer, ...],
    ufrag: str,
    password: str,
    fingerprint: str,
    audio_ssrc: int,
    video: SendingSsrcs | None,
) -> None:
    offer = build_offer(
        MediaOffer(codecs), (ufrag, password), fingerprint, audio_ssrc=audio_ssrc, video=video
    )
    read = parse_client_fragment(offer)
    assert (read.ufrag, read.password, read.fingerprints) == (ufrag, password, (fingerprint,))
    assert {codec.payload_type for codec in read.codecs if codec.apt is None} == {
        entry.payload_type for entry in codecs
    }
    assert read.extension_ids.items() <= OFFERED_EXTENSION_IDS.items()
    answer = expand_answer(FRAGMENT, offer, extensions=OFFERED_EXTENSION_IDS)
    check_answer(answer, offer)
    assert negotiated_extensions(answer) == read.extension_ids
    assert negotiated_feedback(answer) == read.feedback


@given(
    offers,
    st.lists(st.tuples(st.sampled_from(MediaKind), st.integers(0, 1 << 64)), max_size=2),
    st.integers(1, 0xFFFF_FFF0),
)
def test_every_user_is_in_the_answer(
    offer: str, users: list[tuple[MediaKind, int]], ssrc: int
) -> None:
    kinds = dict(users)
    sources = [
        RemoteSource(user, kind, ssrc + 2 * number)
        for number, (kind, user) in enumerate(kinds.items())
    ]
    answer = expand_answer(FRAGMENT, offer, sources)
    check_answer(answer, offer)
    for source in sources:
        name = f"{source.user_id}-{source.ssrc}"
        assert answer.count(f"a=msid:{name} {source.kind[0]}{name}\r\n") == 1
        assert f"a=ssrc:{source.ssrc} cname:{name}\r\n" in answer
