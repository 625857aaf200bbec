"""Envelopes of end-to-end encryption."""

from __future__ import annotations

import pytest

from discord_rtc.protocol.fields import BadField
from discord_rtc.protocol.transitions import (
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    TransitionReady,
)


@pytest.mark.parametrize("kind", [ExecuteTransition, TransitionReady, InvalidCommitWelcome])
def test_transition_messages_hold_an_id(
    kind: type[ExecuteTransition | TransitionReady | InvalidCommitWelcome],
) -> None:
    assert kind(7).to_data(8) == {"transition_id": 7}
    assert kind.from_data({"transition_id": 7}, 8) == kind(7)
    with pytest.raises(BadField, match="transition_id"):
        kind.from_data({"transition_id": 65536}, 8)


def test_equal_ids_do_not_make_equal_messages() -> None:
    messages: list[object] = [ExecuteTransition(7), TransitionReady(7)]
    assert messages[0] != messages[1]
    assert repr(messages[0]) == "ExecuteTransition(transition_id=7)"


def test_epoch_and_transition_name_a_version() -> None:
    transition = PrepareTransition(1, 10)
    assert PrepareTransition.from_data(transition.to_data(8), 8) == transition
    epoch = PrepareEpoch(1, 1)
    # One source says that a transition id is part of it; it is tolerated.
    assert (
        PrepareEpoch.from_data({"protocol_version": 1, "epoch": 1, "transition_id": 9}, 8) == epoch
    )
    assert epoch.to_data(8) == {"protocol_version": 1, "epoch": 1}


@pytest.mark.parametrize("kind", [MlsExternalSender, MlsKeyPackage, MlsProposals, MlsCommitWelcome])
def test_mls_bytes_are_opaque(
    kind: type[MlsExternalSender | MlsKeyPackage | MlsProposals | MlsCommitWelcome],
) -> None:
    for payload in (b"", b"\x00\x01\xff"):
        assert kind.from_payload(payload).to_payload() == payload


@pytest.mark.parametrize("kind", [MlsAnnounceCommit, MlsWelcome])
def test_transition_id_comes_before_the_mls_bytes(
    kind: type[MlsAnnounceCommit | MlsWelcome],
) -> None:
    message = kind.from_payload(b"\x01\x02mls")
    assert message.transition_id == 0x0102
    assert message == kind(0x0102, b"mls")
    assert message.to_payload() == b"\x01\x02mls"
    with pytest.raises(BadField, match="transition_id"):
        kind.from_payload(b"\x01")
