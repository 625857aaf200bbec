"""Faults by script: what the local server does to the traffic of its users. Sans-I/O.

Rules are kept per user, and one set for everybody. They may change at any time and then hold for
sessions that exist and for later ones::

    faults = Faults()
    faults.loss(0.05, seed=7)                                  # everybody, both directions
    faults.impair(user_id, down=Impairment(delay=0.2), seed=7)  # one user, from the server
    faults.padding(0.1)                                        # legal RTP that trips receivers
    faults.block("stun", "dtls")                                # as a firewall does
    faults.dave.lose_execute()                                 # see `DaveFaults`
    faults.clear()

What a user has no rule of its own for follows the rule for everybody; blocks add up. Two sessions
of one user, or two users, draw different random numbers, but always the same ones for the same
seed. Datagrams that are under way when the rule of their direction changes are lost and counted.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from discord_rtc.errors import UsageError
from discord_rtc.netem import Impairment, Netem
from discord_rtc.server.dave_faults import DaveFaults
from discord_rtc.server.distortion import Distortion, Padding, check_probability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Address: TypeAlias = tuple[str, int]
Direction: TypeAlias = Literal["up", "down"]

Blockable: TypeAlias = Literal["stun", "dtls", "discovery", "media", "ping"]
"""Kinds of datagrams that can be blocked: connectivity checks, DTLS, IP discovery, RTP with RTCP,
and UDP pings."""

_BLOCKABLE: frozenset[Blockable] = frozenset(get_args(Blockable))


@dataclass(frozen=True, slots=True)
class _Block:
    """Datagrams that vanish."""

    kinds: frozenset[Blockable]
    allow: Callable[[Address], bool] | None

    def stops(self, kind: Blockable, address: Address) -> bool:
        return kind in self.kinds and not (self.allow is not None and self.allow(address))


@dataclass(frozen=True, slots=True)
class _Rules:
    """Each with its seed. None: not ruled here."""

    up: tuple[Impairment, int] | None = None
    down: tuple[Impairment, int] | None = None
    padding: tuple[Padding, int] | None = None
    headers: tuple[float, int] | None = None
    blocks: tuple[_Block, ...] = ()

    def over(self, base: _Rules) -> _Rules:
        """These rules, and those of ``base`` where there are none; the blocks of both."""
        return _Rules(
            self.up or base.up,
            self.down or base.down,
            self.padding or base.padding,
            self.headers or base.headers,
            self.blocks + base.blocks,
        )


class ImpairedPath:
    """One direction between the server's socket and one user.

    The user's address travels in front of each datagram. It counts against a limited rate and
    stands for the headers of IP and UDP, which have 28 bytes where this has 11 to 22 on IPv4.

    Args:
        impairment: What happens on the way.
        seed: Same seed, same outcome.
    """

    def __init__(self, impairment: Impairment, seed: int) -> None:
        self._netem = Netem(impairment, seed)

    def send(self, datagram: bytes, address: Address, now: float) -> list[tuple[bytes, Address]]:
        """Put a datagram on its way, and take those that have arrived."""
        self._netem.send(b"%b %d %b" % (address[0].encode(), address[1], datagram), now)
        return self.receive(now)

    def receive(self, now: float) -> list[tuple[bytes, Address]]:
        """Take the datagrams that have arrived by ``now``, with their addresses."""
        arrived = []
        for sealed in self._netem.receive(now):
            host, port, datagram = sealed.split(b" ", 2)
            arrived.append((datagram, (host.decode(), int(port))))
        return arrived

    def next_timeout(self) -> float | None:
        """When the next datagram arrives."""
        return self._netem.next_timeout()

    def counters(self) -> Counter[str]:
        """What happened so far, by the names of `discord_rtc.netem.NetemCounters`."""
        counters = self._netem.counters
        return Counter(
            lost=counters.lost,
            duplicated=counters.duplicated,
            reordered=counters.reordered,
            overflowed=counters.overflowed,
            passed=counters.passed,
        )

    def abandon(self) -> int:
        """Lose what is under way; tell how many datagrams that were."""
        before = self._netem.counters.passed
        self._netem.receive(float("inf"))
        return self._netem.counters.passed - before


class LegFaults:
    """What currently happens to one session. Read by its leg on every packet, set by `Faults`.

    Args:
        user_id: Whose session this is.
        salt: Tells the sessions of a user apart, 0 for the first one.

    Attributes:
        up: Path from the user to the server; None for a perfect one.
        down: Path from the server to the user; None for a perfect one.
        distortion: What is done to RTP packets before protection, or None.
        blocking: Whether any datagrams are blocked, so that `blocks` has to be asked.
    """

    __slots__ = ("_blocked", "_rules", "_salt", "blocking", "distortion", "down", "up", "user_id")

    def __init__(self, user_id: int, salt: int = 0) -> None:
        self.user_id = user_id
        self.up: ImpairedPath | None = None
        self.down: ImpairedPath | None = None
        self.distortion: Distortion | None = None
        self.blocking = False
        self._salt = salt
        self._rules = _Rules()
        self._blocked: Counter[str] = Counter()

    def blocks(self, kind: Blockable, address: Address) -> bool:
        """Whether a datagram vanishes, which is then counted.

        Args:
            kind: What it is.
            address: Where it comes from, or where it goes to.
        """
        return _stopped(self._rules.blocks, kind, address, self._blocked)

    def follow(self, rules: _Rules) -> Counter[str]:
        """Change to other rules.

        Returns:
            What the paths that end hereby had counted.
        """
        ended: Counter[str] = Counter()
        if rules.up != self._rules.up:
            ended += _retire("up", self.up)
            self.up = self._path("up", rules.up)
        if rules.down != self._rules.down:
            ended += _retire("down", self.down)
            self.down = self._path("down", rules.down)
        self._distort(rules)
        self.blocking = bool(rules.blocks)
        self._rules = rules
        return ended

    def counters(self) -> Counter[str]:
        """What the current paths have counted, as ``up-lost`` and so on, and what was blocked."""
        return _named("up", self.up) + _named("down", self.down) + self._blocked

    def next_timeout(self) -> float | None:
        """When a datagram arrives on either path."""
        due = [path.next_timeout() for path in (self.up, self.down) if path is not None]
        return min((at for at in due if at is not None), default=None)

    def _path(
        self, direction: Direction, rule: tuple[Impairment, int] | None
    ) -> ImpairedPath | None:
        return rule and ImpairedPath(rule[0], self._seed(rule[1], direction))

    def _distort(self, rules: _Rules) -> None:
        padding, headers = rules.padding, rules.headers
        if self.distortion is None:
            rule = padding or headers
            if rule is None:
                return
            self.distortion = Distortion(self._seed(rule[1], "distortion"))
        # It stays when the rules go: packets that it inserted have moved all later numbers.
        self.distortion.padding = padding and padding[0]
        self.distortion.headers = headers[0] if headers else 0.0

    def _seed(self, seed: int, purpose: str) -> int:
        return zlib.crc32(f"{seed}/{self.user_id}/{self._salt}/{purpose}".encode())


def _stopped(
    blocks: tuple[_Block, ...], kind: Blockable, address: Address, counters: Counter[str]
) -> bool:
    stopped = any(block.stops(kind, address) for block in blocks)
    if stopped:
        counters[f"blocked-{kind}"] += 1
    return stopped


def _named(direction: Direction, path: ImpairedPath | None) -> Counter[str]:
    counted = Counter[str]() if path is None else path.counters()
    return Counter({f"{direction}-{name}": count for name, count in counted.items() if count})


def _retire(direction: Direction, path: ImpairedPath | None) -> Counter[str]:
    counted = _named(direction, path)
    if path is not None and (abandoned := path.abandon()):
        counted[f"{direction}-abandoned"] = abandoned
    return counted


class Faults:
    """The faults of one server. See the module's text for how to use it.

    Attributes:
        impairing: Whether any path is impaired.
        dave: The faults of end-to-end encryption.
    """

    def __init__(self) -> None:
        self.impairing = False
        self.dave = DaveFaults()
        self._rules: dict[int | None, _Rules] = {None: _Rules()}
        self._legs: list[LegFaults] = []
        self._impaired: list[LegFaults] = []
        self._sessions: Counter[int] = Counter()  # by user
        self._ended: Counter[str] = Counter()

    def impair(
        self,
        user_id: int | None = None,
        *,
        up: Impairment | None = None,
        down: Impairment | None = None,
        seed: int = 0,
    ) -> None:
        """Impair the datagrams of a user: media, IP discovery and pings alike.

        Args:
            user_id: Whose; None for everybody without a rule of their own.
            up: From the user to the server; None leaves that direction as it is.
            down: From the server to the user; likewise.
            seed: Same seed, same outcome.
        """
        if up is not None:
            self._add(user_id, _Rules(up=(up, seed)))
        if down is not None:
            self._add(user_id, _Rules(down=(down, seed)))

    def loss(self, probability: float, *, seed: int = 0, user_id: int | None = None) -> None:
        """Lose datagrams at random in both directions.

        Raises:
            UsageError: Not a probability from 0 to 1.
        """
        impairment = Impairment(loss=probability)
        self.impair(user_id, up=impairment, down=impairment, seed=seed)

    def padding(
        self,
        probability: float,
        *,
        padding_only: float | None = None,
        seed: int = 0,
        user_id: int | None = None,
    ) -> None:
        """Pad RTP packets on their way to users.

        Args:
            probability: That 1 to 255 bytes are added to a packet.
            padding_only: That a packet of nothing but padding follows an audio packet; a tenth
                of ``probability`` by default.
            seed: Same seed, same outcome. The first of `padding` and `headers` decides.
            user_id: Who receives it; None for everybody without a rule of their own.

        Raises:
            UsageError: Not a probability from 0 to 1.
        """
        only = probability / 10 if padding_only is None else padding_only
        self._add(user_id, _Rules(padding=(Padding(probability, only), seed)))

    def headers(self, probability: float, *, seed: int = 0, user_id: int | None = None) -> None:
        """Give RTP packets CSRCs and an unknown header extension, and shuffle the known ones.

        Args:
            probability: That it happens to a packet.
            seed: Same seed, same outcome. The first of `padding` and `headers` decides.
            user_id: Who receives it; None for everybody without a rule of their own.

        Raises:
            UsageError: Not a probability from 0 to 1.
        """
        check_probability(probability)
        self._add(user_id, _Rules(headers=(probability, seed)))

    def block(
        self,
        *kinds: Blockable,
        user_id: int | None = None,
        allow: Callable[[Address], bool] | None = None,
    ) -> None:
        """Let datagrams vanish in both directions, as a firewall on the way does.

        Args:
            kinds: What vanishes; without any, everything does. Each call adds to those before.
            user_id: Whose; None for everybody, and for datagrams that are nobody's.
            allow: Says which addresses of users are let through all the same, e.g. that of a
                TURN relay.

        Raises:
            UsageError: There is no such kind.
        """
        unknown = set(kinds) - _BLOCKABLE
        if unknown:
            known = ", ".join(sorted(_BLOCKABLE))
            raise UsageError(f"{', '.join(sorted(unknown))} cannot be blocked; {known} can")
        blocked = frozenset(kinds) or _BLOCKABLE
        self._add(user_id, _Rules(blocks=(_Block(blocked, allow),)))

    def clear(self, user_id: int | None = None) -> None:
        """Drop the rules of one user, or with None all rules there are, those of `dave` too."""
        if user_id is None:
            self._rules = {None: _Rules()}
            self.dave.clear()
        else:
            self._rules.pop(user_id, None)
        self._apply()

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened to datagrams so far, e.g. ``up-lost``, ``blocked-stun``."""
        return sum((leg.counters() for leg in self._legs), self._ended)

    def attach(self, user_id: int) -> LegFaults:
        """Begin a session. For the server's use."""
        leg = LegFaults(user_id, self._sessions[user_id])
        self._sessions[user_id] += 1
        leg.follow(self._rules_of(user_id))
        self._legs.append(leg)
        self._find_impaired()
        return leg

    def detach(self, leg: LegFaults) -> None:
        """End a session that was begun with `attach`. For the server's use."""
        self._legs.remove(leg)
        ended = leg.follow(_Rules())
        self._ended += ended + leg.counters()
        self._find_impaired()

    def blocks(self, kind: Blockable, source: Address) -> bool:
        """Whether a datagram that is nobody's vanishes, which is then counted."""
        return _stopped(self._rules[None].blocks, kind, source, self._ended)

    def next_timeout(self) -> float | None:
        """When a datagram arrives on any impaired path."""
        due = [leg.next_timeout() for leg in self._impaired]
        return min((at for at in due if at is not None), default=None)

    def _add(self, user_id: int | None, rules: _Rules) -> None:
        self._rules[user_id] = rules.over(self._rules.get(user_id, _Rules()))
        self._apply()

    def _rules_of(self, user_id: int) -> _Rules:
        return self._rules.get(user_id, _Rules()).over(self._rules[None])

    def _apply(self) -> None:
        self.impairing = any(rules.up or rules.down for rules in self._rules.values())
        for leg in self._legs:
            self._ended += leg.follow(self._rules_of(leg.user_id))
        self._find_impaired()

    def _find_impaired(self) -> None:
        self._impaired = [leg for leg in self._legs if leg.up or leg.down]
