"""End-to-end encrypted calls over real sockets: both libraries, both transports, and trouble."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc import ConnectionOptions, DaveUnavailable, E2eeChanged
from discord_rtc.lab import CHANNEL_ID, GUILD_ID, Lab
from discord_rtc.server import LocalServer

from .calls import (
    assert_hears_and_sees,
    assert_in_order,
    assert_media_flows,
    assert_two_way_media,
    eventually,
    note,
    numbers_of,
    publish,
)
from .seam import Frames, watched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from discord_rtc import VoiceConnection
    from discord_rtc.protocol.dave.backend import DaveLibrary

pytestmark = pytest.mark.asyncio

PAIRS = [("udp", "udp"), ("udp", "webrtc"), ("webrtc", "webrtc")]
LIBRARIES: list[tuple[DaveLibrary, DaveLibrary]] = [
    ("dave.py", "davey"),
    ("davey", "dave.py"),
]
RECOVERY = 3.0
"""Seconds within which every fault is recovered from."""


@pytest_asyncio.fixture
async def secure_lab() -> AsyncIterator[Lab]:
    """A lab whose server refuses who does not encrypt."""
    async with Lab(LocalServer(dave="required")) as lab:
        yield lab


def using(
    library: DaveLibrary | None = None, transport: str = "udp", frames: Frames | None = None
) -> ConnectionOptions:
    """Options of a member; ``frames`` gets what it sends."""
    watch = (frames or Frames()).packet
    return ConnectionOptions(
        transport=watched(transport, watch), dave="required", dave_library=library
    )


async def pair(lab: Lab, *libraries: DaveLibrary) -> list[VoiceConnection]:
    """Members of one call with these libraries, encryption standing."""
    members = [
        await lab.user(f"m{number}", options=using(library))
        for number, library in enumerate(libraries)
    ]
    for member in members:
        await member.secured(timeout=5)
    return members


def assert_same_epoch(*members: VoiceConnection) -> None:
    groups = [member.stats().dave for member in members]
    assert all(group is not None for group in groups)
    assert len({group.epoch_authenticator for group in groups if group is not None}) == 1
    assert len({member.privacy_code for member in members}) == 1
    assert members[0].privacy_code is not None


@pytest.mark.parametrize("libraries", LIBRARIES)
@pytest.mark.parametrize(("one", "two"), PAIRS)
async def test_media_flows_encrypted_both_ways(
    secure_lab: Lab, one: str, two: str, libraries: tuple[DaveLibrary, DaveLibrary]
) -> None:
    sent = Frames(), Frames()
    ann = await secure_lab.user("ann", options=using(libraries[0], one, sent[0]))
    assert (ann.e2ee, ann.privacy_code) == ("pending", None)
    bob = await secure_lab.user("bob", options=using(libraries[1], two, sent[1]))
    await assert_media_flows(ann, bob)
    assert ann.e2ee == bob.e2ee == "active"
    assert_same_epoch(ann, bob)
    assert len(ann.privacy_code or "") == 30
    for frames in sent:
        assert frames.encrypted > 40
        assert (frames.clear, frames.broken) == ([], 0)


async def test_both_sides_read_the_same_fingerprint(secure_lab: Lab) -> None:
    ann, bob = await pair(secure_lab, "dave.py", "davey")
    of_bob = await (await ann.user(bob.id)).fingerprint()
    of_ann = await (await bob.user(ann.id)).fingerprint()
    assert of_bob == of_ann
    assert (len(of_ann), of_ann.isdigit()) == (45, True)


async def test_a_persistent_identity_keeps_its_fingerprint_over_calls(
    secure_lab: Lab, tmp_path: Path
) -> None:
    seen = []
    key = tmp_path / "identity.pem"
    for library in ("dave.py", "davey"):
        first = ConnectionOptions(
            dave="required", dave_library=library, identity=key, transport="udp"
        )
        second = ConnectionOptions(
            dave="required", identity=tmp_path / "other.pem", transport="udp"
        )
        ann = await secure_lab.user("ann", options=first)
        bob = await secure_lab.user("bob", options=second)
        await ann.secured(timeout=5)
        await bob.secured(timeout=5)
        seen.append(await (await bob.user(ann.id)).fingerprint())
        await secure_lab.leave("ann")
        await secure_lab.leave("bob")
    assert seen[0] == seen[1]
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("libraries", LIBRARIES)
async def test_who_comes_and_goes_costs_the_others_no_frame(
    secure_lab: Lab, libraries: tuple[DaveLibrary, DaveLibrary]
) -> None:
    ann, bob = await pair(secure_lab, *libraries)
    await publish(ann, bob)
    listening = asyncio.create_task(_long_listen(bob, ann))
    for number in range(3):
        await asyncio.sleep(0.3)
        cat = await secure_lab.user("cat", options=using(libraries[number % 2], "webrtc"))
        await cat.secured(timeout=5)
        assert_same_epoch(ann, bob, cat)
        await assert_hears_and_sees(cat, ann)
        await secure_lab.leave("cat")
        await eventually(lambda: len((ann.stats().dave or _NONE).members) == 2)
    await listening
    drops = bob.stats().drops
    assert not {"undecryptable", "no-key", "unencrypted"} & {name for name, n in drops.items() if n}


async def test_someone_alone_sends_nothing_and_is_heard_from_the_first_listener_on(
    secure_lab: Lab,
) -> None:
    frames = Frames()
    ann = await secure_lab.user("ann", options=using(frames=frames))
    await publish(ann)
    await asyncio.sleep(1)
    assert (ann.e2ee, frames.encrypted, frames.silence, frames.clear) == ("pending", 0, 0, [])
    bob = await secure_lab.user("bob", options=using())
    await assert_hears_and_sees(bob, ann)
    await secure_lab.leave("bob")
    await eventually(lambda: ann.e2ee == "pending")
    cat = await secure_lab.user("cat", options=using("davey"))
    await assert_hears_and_sees(cat, ann)
    assert frames.clear == []


@pytest.mark.parametrize("server_first", [False, True])
async def test_a_move_makes_a_new_group(server_first: bool) -> None:
    async with Lab(LocalServer(dave="required", server_update_first=server_first)) as lab:
        ann, bob, cat = await pair(lab, "dave.py", "davey", "dave.py")
        await publish(ann, bob, cat)
        before = ann.privacy_code
        for member in (ann, bob):
            lab.server.move(member.id, GUILD_ID, CHANNEL_ID + 1)
        await eventually(lambda: cat.e2ee == "pending")
        await eventually(
            lambda: (
                ann.e2ee == bob.e2ee == "active" and ann.privacy_code == bob.privacy_code != before
            )
        )
        await assert_two_way_media(ann, bob)


class TestHostileHeaders:
    async def test_padding_csrcs_and_every_extension_size_decrypt_entirely(
        self, secure_lab: Lab
    ) -> None:
        secure_lab.faults.padding(0.5, padding_only=0.2, seed=3)
        secure_lab.faults.headers(0.5, seed=3)
        ann, bob = await pair(secure_lab, "dave.py", "davey")
        await publish(ann, bob)
        await asyncio.gather(_long_listen(bob, ann, 100), _long_listen(ann, bob, 100))
        for one in (ann, bob):
            stats = one.stats()
            assert stats.rtp is not None
            lost = {"undecryptable", "no-key", "unencrypted", "no-keyframe"}
            assert not lost & {name for name, count in stats.drops.items() if count}
            assert all(stream.malformed_frames == 0 for stream in stats.rtp.inbound)


class TestModes:
    async def test_a_required_room_refuses_who_does_not_encrypt_in_one_sentence(
        self, secure_lab: Lab
    ) -> None:
        with pytest.raises(DaveUnavailable, match=r'dave="preferred"'):
            await secure_lab.user("ann", options=ConnectionOptions(dave="off"))
        counters = secure_lab.server.counters
        assert counters["voice.closed.4017"] == 1  # tried once, not in a loop

    async def test_a_user_who_insists_does_not_stay_in_a_call_in_the_clear(self) -> None:
        async with Lab(LocalServer(dave="off")) as lab:
            with pytest.raises(DaveUnavailable):
                await lab.user("ann", options=ConnectionOptions(dave="required"))

    @pytest.mark.parametrize("libraries", LIBRARIES)
    async def test_encryption_goes_off_for_who_lacks_it_and_comes_back(
        self, libraries: tuple[DaveLibrary, DaveLibrary]
    ) -> None:
        async with Lab(LocalServer(dave="optional")) as lab:
            ann, bob = [
                await lab.user(
                    name, options=ConnectionOptions(dave="preferred", dave_library=library)
                )
                for name, library in zip(("ann", "bob"), libraries, strict=True)
            ]
            await ann.secured(timeout=5)
            await bob.secured(timeout=5)
            changes = ann.events(E2eeChanged)
            await assert_media_flows(ann, bob)
            cat = await lab.user("cat", options=ConnectionOptions(dave="off"))
            await eventually(lambda: ann.e2ee == bob.e2ee == cat.e2ee == "off")
            await publish(cat)
            await assert_two_way_media(ann, cat)
            await assert_two_way_media(ann, bob)
            await lab.leave("cat")
            await eventually(lambda: ann.e2ee == bob.e2ee == "active")
            await assert_two_way_media(ann, bob)
            assert_same_epoch(ann, bob)
            changes.close()
            assert [event.state async for event in changes] == ["off", "pending", "active"]

    async def test_one_who_insists_leaves_when_encryption_goes_off(self) -> None:
        async with Lab(LocalServer(dave="optional")) as lab:
            frames = Frames()
            ann = await lab.user("ann", options=using(frames=frames))
            await lab.user("bob", options=ConnectionOptions(dave="preferred"))
            await ann.secured(timeout=5)
            await publish(ann)
            await lab.user("cat", options=ConnectionOptions(dave="off"))
            await eventually(lambda: not ann.is_valid)
            assert ann.invalidation is not None
            assert isinstance(ann.invalidation.error, DaveUnavailable)
            assert frames.clear == []

    async def test_a_stage_is_exempt(self) -> None:
        server = LocalServer(dave="required", stage_channels=(CHANNEL_ID,))
        async with Lab(server) as lab:
            ann = await lab.user("ann", options=ConnectionOptions(dave="preferred"))
            bob = await lab.user("bob", options=ConnectionOptions(dave="off"))
            await assert_media_flows(ann, bob)
            assert ann.e2ee == bob.e2ee == "off"


FAULTS: dict[str, Callable[[Lab], None]] = {
    "lost-execute": lambda lab: lab.faults.dave.lose_execute(),
    "late-execute": lambda lab: lab.faults.dave.delay_execute(1.0),
    "corrupt-commit": lambda lab: lab.faults.dave.corrupt_commit(),
    "corrupt-welcome": lambda lab: lab.faults.dave.corrupt_welcome(),
    "lost-commit": lambda lab: lab.faults.dave.lose_commit(),
    "lost-welcome": lambda lab: lab.faults.dave.lose_welcome(),
    "proposals-out-of-order": lambda lab: lab.faults.dave.proposals_out_of_order(),
    "proposals-after-commit": (
        lambda lab: lab.faults.dave.proposals_out_of_order(after_commit=True)
    ),
}

REASONS = {
    "lost-execute": "without op 22",
    "corrupt-commit": "a commit could not be processed",
    "corrupt-welcome": "a welcome could not be processed",
    "lost-commit": "does not answer",
    "lost-welcome": "does not answer",
    "proposals-after-commit": "a commit could not be processed",
}
"""What the log says of those that somebody must do something about."""


# Each fault with one mixture of libraries; tests/pairs tries the others without sockets.
@pytest.mark.parametrize(
    ("fault", "libraries"),
    [(fault, LIBRARIES[number % 2]) for number, fault in enumerate(FAULTS)],
)
async def test_every_fault_is_recovered_from_within_three_seconds(
    secure_lab: Lab,
    fault: str,
    libraries: tuple[DaveLibrary, DaveLibrary],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "discord_rtc")
    members = await pair(secure_lab, *libraries, libraries[0])
    await publish(*members)
    FAULTS[fault](secure_lab)
    # Three at once give a batch of two after one of one: a single proposal has no order.
    names = ("cat", "dan", "eve") if fault == "proposals-out-of-order" else ("cat",)
    started = time.monotonic()
    joined = await asyncio.gather(
        *(secure_lab.user(name, options=using(libraries[1])) for name in names)
    )
    everybody = [*members, *joined]
    await eventually(lambda: _agree(everybody), within=RECOVERY)
    note(f"{fault}, {libraries}: {time.monotonic() - started:.2f} s")
    await assert_hears_and_sees(joined[0], members[0])
    await assert_two_way_media(members[0], members[1])
    assert secure_lab.faults.dave.counters == {fault: 1}
    assert f"asked for: {fault}" in caplog.text
    assert REASONS.get(fault, "") in caplog.text


def _agree(members: list[VoiceConnection]) -> bool:
    ids = {member.id for member in members}
    groups = [member.stats().dave for member in members]
    return (
        all(member.e2ee == "active" for member in members)
        and all(group is not None and group.members == ids for group in groups)
        and all(group is not None and group.sending == "encrypt" for group in groups)
        and len({group.epoch_authenticator for group in groups if group is not None}) == 1
    )


class _NoGroup:
    members: frozenset[int] = frozenset()


_NONE = _NoGroup()


async def _long_listen(
    receiver: VoiceConnection, sender: VoiceConnection, frames: int = 75
) -> None:
    """Many frames in a row, none missing."""
    user = await receiver.user(sender.id, timeout=5)
    async with asyncio.timeout(30):
        assert_in_order(await numbers_of(user.microphone, frames))
