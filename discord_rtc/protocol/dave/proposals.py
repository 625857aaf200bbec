"""Taking the server's proposals, also when they overtake what they build on. Sans-I/O.

Spec: DAVE protocol whitepaper 1.1.4, "Proposals".

Proposals are bound to an epoch. Those of the next epoch that come before the commit which
begins it are refused by the library; so are those that come before the external sender. Left at
that, the commit that follows could not be processed and the group would have to be joined anew.
So what was refused is tried once more when either has come.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from discord_rtc.errors import DaveError
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Set as AbstractSet

    from discord_rtc.protocol.dave.backend import DaveBackend

_REFUSED_LIMIT = 4  # a server has one batch of proposals under way, or two

logger = logging.getLogger("discord_rtc.protocol.dave")


class ProposalIntake:
    """Hands proposals to the library and keeps the last four payloads that it refused.

    Args:
        counters: Where to count.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._refused: RollingQueue[bytes] = RollingQueue(_REFUSED_LIMIT)

    def take(
        self, backend: DaveBackend, payload: bytes, recognised: AbstractSet[int]
    ) -> bytes | None:
        """Take an op 27.

        Args:
            backend: The group.
            payload: That of op 27.
            recognised: Who may be added.

        Returns:
            The payload of op 28, when there is a commit to send.

        Raises:
            DaveError: They were refused.
        """
        try:
            return self._process(backend, payload, recognised)
        except DaveError:
            self._counters["refused-proposals"] += 1
            self._refused.append(payload)
            raise

    def retry(self, backend: DaveBackend, recognised: AbstractSet[int]) -> list[bytes]:
        """Try what was refused once more; returns payloads of op 28."""
        commits = []
        for payload in self._refused.drain():
            try:
                commit = self._process(backend, payload, recognised)
            except DaveError as error:
                logger.debug("! proposals were refused again: %s", error)
                continue
            self._counters["reordered-proposals"] += 1
            if commit is not None:
                commits.append(commit)
        return commits

    def forget(self) -> None:
        """The group is another one: what was refused is void."""
        self._refused.drain()

    def _process(
        self, backend: DaveBackend, payload: bytes, recognised: AbstractSet[int]
    ) -> bytes | None:
        commit = backend.process_proposals(payload, recognised)
        if commit is not None:
            self._counters["proposed-commits"] += 1
        return commit
