"""What a delivery service sends, and what faults do to it. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Voice Gateway Opcodes" 22, 27, 29 and 30.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import (
    ExecuteTransition,
    MlsAnnounceCommit,
    MlsProposals,
    MlsWelcome,
)
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.mls import proposals_payload, revoke_payload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.server.dave_faults import DaveFault
    from discord_rtc.server.mls import Proposal


class Outbox:
    """Messages to the users of a call, in order.

    Args:
        faults: What goes wrong on purpose.
    """

    def __init__(self, faults: DaveFaults | None = None) -> None:
        self._faults = DaveFaults() if faults is None else faults
        self._messages: list[tuple[int, ServerMessage]] = []
        self._held: tuple[int, list[MlsProposals]] | None = None

    def drain(self) -> list[tuple[int, ServerMessage]]:
        """Take what there is: ``(user id, message)``, oldest first."""
        messages, self._messages = self._messages, []
        return messages

    def send(self, user_id: int, message: ServerMessage) -> None:
        """Send a message that no fault concerns."""
        self._messages.append((user_id, message))

    def propose(self, deliveries: Mapping[int, Sequence[Proposal]]) -> None:
        """Send op 27: to each user the proposals that are new to him."""
        self.release()
        longest = max(map(len, deliveries.values()), default=0)
        scattered = longest > 1 and self._faults.take("proposals-out-of-order")
        held: int | None = None
        if len(deliveries) > 1 and self._faults.take("proposals-after-commit"):
            held = list(deliveries)[-1]
        for user_id, proposals in deliveries.items():
            parts = [[each] for each in reversed(proposals)] if scattered else [proposals]
            messages = [MlsProposals(proposals_payload(part)) for part in parts]
            if user_id == held:
                self._held = (user_id, messages)
            else:
                self._messages += [(user_id, message) for message in messages]

    def revoke(self, user_id: int, proposals: Iterable[Proposal]) -> None:
        """Send op 27: take all of these back from a user who has them."""
        self.release()
        refs = [proposal.ref for proposal in proposals]
        self._messages.append((user_id, MlsProposals(revoke_payload(refs))))

    def announce(self, transition_id: int, user_ids: Iterable[int], commit: bytes) -> None:
        """Send op 29 to members of the group."""
        faults, is_first = self._faults, transition_id == 0
        corrupt_for_all = not is_first and faults.take("corrupt-commit")
        for user_id in user_ids:
            if not is_first and self._takes("lost-commit", user_id):
                continue
            corrupt = corrupt_for_all or (not is_first and faults.take("corrupt-commit", user_id))
            payload = _altered(commit) if corrupt else commit
            self._messages.append((user_id, MlsAnnounceCommit(transition_id, payload)))
        self.release()

    def welcome(self, transition_id: int, user_id: int, welcome: bytes) -> None:
        """Send op 30 to a new member."""
        if transition_id and self._takes("lost-welcome", user_id):
            return
        payload = _altered(welcome) if self._takes("corrupt-welcome", user_id) else welcome
        self._messages.append((user_id, MlsWelcome(transition_id, payload)))

    def delay_of_execute(self) -> float:
        """By how many seconds the next op 22 is to be late."""
        return self._faults.take_delay()

    def execute(self, transition_id: int, user_ids: Iterable[int]) -> None:
        """Send op 22."""
        lost = self._faults.take("lost-execute")
        for user_id in user_ids:
            if not lost and not self._faults.take("lost-execute", user_id):
                self._messages.append((user_id, ExecuteTransition(transition_id)))

    def release(self) -> None:
        """Send the proposals that were held back."""
        if self._held is not None:
            user_id, messages = self._held
            self._messages += [(user_id, message) for message in messages]
            self._held = None

    def forget(self, user_id: int | None = None) -> None:
        """What was held back for a user is void, or with None, for whomever it is."""
        if self._held is not None and user_id in (None, self._held[0]):
            self._held = None

    def _takes(self, fault: DaveFault, user_id: int) -> bool:
        """Whether a fault happens to a user for whom, or for whomever, it was asked."""
        return self._faults.take(fault, user_id) or self._faults.take(fault)


def _altered(payload: bytes) -> bytes:
    return payload[:-1] + bytes((payload[-1] ^ 1,))
