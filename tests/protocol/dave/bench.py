"""One session under test with a partner in the same fake group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.frames import Codec
from discord_rtc.protocol.dave.session import DaveSession
from discord_rtc.protocol.messages import (
    ClientsConnect,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    SessionDescription,
)

from .fake_group import EXTERNAL_SENDER, FakeBackend, append, form, proposal, split

if TYPE_CHECKING:
    from discord_rtc.protocol.dave.events import DaveEvent, Undecrypted
    from discord_rtc.protocol.dave.lifecycle import DaveMessage
    from discord_rtc.protocol.messages import ServerMessage

OWN, ANN, BOB, CAT = 1, 2, 3, 4
FRAME = b"a frame"


class Bench:
    """A `DaveSession` with fake back ends, and Ann, who is one herself.

    Attributes:
        made: The back ends that the session asked for.
        ann: The partner's back end.
        epoch: That of the group.
    """

    def __init__(
        self, *, follows: bool = False, keyless: bool = False, required: bool = False
    ) -> None:
        self.made: list[FakeBackend] = []
        self.unavailable: Exception | None = None
        self._follows = follows
        self._keyless = keyless
        self.session = DaveSession(self._make, user_id=OWN, required=required)
        self.ann = FakeBackend(ANN)
        self.epoch = 0
        self._serial = 0

    def _make(self) -> FakeBackend:
        if self.unavailable is not None:
            raise self.unavailable
        self.made.append(FakeBackend(OWN, follows=self._follows, keyless=self._keyless))
        return self.made[-1]

    def tell(self, *messages: ServerMessage, now: float = 0.0) -> list[DaveMessage]:
        """Hand messages of the server in; returns what is sent."""
        for message in messages:
            self.session.receive(message, now)
        return self.session.messages_to_send()

    def wait(self, now: float) -> list[DaveMessage]:
        """Let time pass; returns what is sent."""
        self.session.handle_timeout(now)
        return self.session.messages_to_send()

    def events(self) -> list[DaveEvent]:
        """What happened since the last call."""
        return list(iter(self.session.next_event, None))

    def counted(self, name: str) -> int:
        return self.session.counters.get(name, 0)

    def connect(self, version: int = 1, now: float = 0.0) -> bytes:
        """Everything up to our key package, which is returned; empty at version 0."""
        sent = self.tell(
            described(version),
            MlsExternalSender(EXTERNAL_SENDER),
            ClientsConnect((OWN, ANN)),
            now=now,
        )
        return package_of(sent) if sent else b""

    def found(self, transition_id: int = 0, now: float = 0.0) -> list[DaveMessage]:
        """The first group, of Ann and us, with our commit; returns what is sent after it."""
        self.ann = FakeBackend(ANN)
        self.ann.set_external_sender(EXTERNAL_SENDER)
        adding = append(proposal(0, add=self.ann.begin(1)))
        (made,) = self.tell(MlsProposals(adding), now=now)
        assert isinstance(made, MlsCommitWelcome)
        commit, welcome = split(made.payload)
        sent = self.tell(MlsAnnounceCommit(transition_id, commit), now=now)
        assert welcome is not None
        self.ann.process_welcome(welcome, {OWN, ANN})
        self.ann.switch_sender()
        self.epoch = 1
        return sent

    def welcome(self, package: bytes, transition_id: int = 0, *, others: int = 0) -> MlsWelcome:
        """Ann has a group already and adds us to it."""
        companions = [FakeBackend(CAT + number) for number in range(others)] or [FakeBackend(CAT)]
        form(self.ann, *companions)
        users = frozenset({OWN, ANN, *(each.user_id for each in companions)})
        made = self.ann.process_proposals(append(proposal(1, add=package)), users)
        assert made is not None
        commit, welcome = split(made)
        self.ann.process_commit(commit)
        self.ann.switch_sender()
        self.epoch = 2
        assert welcome is not None
        return MlsWelcome(transition_id, welcome)

    def next_commit(self, transition_id: int, now: float = 0.0) -> MlsAnnounceCommit:
        """Bob is added by Ann's commit, whose proposals we have; returns the announcement."""
        self._serial += 1
        adding = append(proposal(self.epoch, add=f"{BOB}:{self._serial}".encode()))
        self.tell(ClientsConnect((BOB,)), MlsProposals(adding), now=now)
        made = self.ann.process_proposals(adding, {OWN, ANN, BOB})
        assert made is not None
        commit = split(made)[0]
        self.ann.process_commit(commit)
        self.epoch += 1
        return MlsAnnounceCommit(transition_id, commit)

    def goes_out(self, now: float = 0.0) -> bytes | None:
        """Our frame as the session would send it."""
        return self.session.encrypt(FRAME, Codec.OPUS, now)

    def hears_ann(self, now: float = 0.0) -> bytes | Undecrypted:
        frame = self.ann.encrypt(FRAME, Codec.OPUS)
        return self.session.decrypt(ANN, Codec.OPUS.kind, frame, now)


def described(version: int) -> SessionDescription:
    return SessionDescription("opus", "H264", None, dave_protocol_version=version)


def package_of(sent: list[DaveMessage]) -> bytes:
    """The key package, which must be all that was sent."""
    (message,) = sent
    assert isinstance(message, MlsKeyPackage)
    return message.payload
