"""Clients of the voice gateway that share no code with ours: a websocket, a UDP socket, AES-GCM of
`cryptography`, and either MLS library driven directly. A witness for both of our ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import dave
import davey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from websockets.asyncio.client import ClientConnection

    from discord_rtc.server import LocalServer

Json = dict[str, Any]

GUILD = 10
MODE = "aead_aes256_gcm_rtpsize"
OPUS_TYPE = 120
SILENCE = b"\xf8\xff\xfe"


class Library(Protocol):
    """One user's MLS library."""

    def restart(self) -> bytes:
        """Begin anew; a key package."""
        ...

    def set_sender(self, payload: bytes) -> None: ...

    def propose(self, payload: bytes, known: set[int]) -> bytes | None:
        """Take op 27; what to send as op 28."""
        ...

    def commit(self, commit: bytes) -> None: ...

    def welcome(self, welcome: bytes, known: set[int]) -> None: ...

    def execute(self) -> None:
        """Send with the keys of the newest epoch."""
        ...

    def encrypt(self, frame: bytes) -> bytes: ...

    def decrypt(self, user_id: int, frame: bytes) -> bytes | None: ...

    def authenticator(self) -> bytes: ...


class DaveyLibrary:
    """davey (PyPI). Its sending key changes with the commit already."""

    def __init__(self, user_id: int, channel_id: int) -> None:
        self._ids = (user_id, channel_id)
        self._session = davey.DaveSession(1, user_id, channel_id)
        self._begun = False

    def restart(self) -> bytes:
        if self._begun:
            self._session.reinit(1, *self._ids)
        self._begun = True
        return bytes(self._session.get_serialized_key_package())

    def set_sender(self, payload: bytes) -> None:
        self._session.set_external_sender(payload)

    def propose(self, payload: bytes, known: set[int]) -> bytes | None:
        append, revoke = davey.ProposalsOperationType.append, davey.ProposalsOperationType.revoke
        kind = revoke if payload[0] else append
        made = self._session.process_proposals(kind, payload[1:], sorted(known))
        return None if made is None else made.commit + (made.welcome or b"")

    def commit(self, commit: bytes) -> None:
        self._session.process_commit(commit)

    def welcome(self, welcome: bytes, known: set[int]) -> None:  # noqa: ARG002 - it checks nothing
        self._session.process_welcome(welcome)

    def execute(self) -> None:
        pass

    def encrypt(self, frame: bytes) -> bytes:
        return bytes(self._session.encrypt_opus(frame))

    def decrypt(self, user_id: int, frame: bytes) -> bytes | None:
        try:
            return bytes(self._session.decrypt(user_id, davey.MediaType.audio, frame))
        except ValueError:
            return None

    def authenticator(self) -> bytes:
        return bytes(self._session.get_epoch_authenticator() or b"")


class LibdaveLibrary:
    """dave.py (PyPI): Discord's libdave."""

    def __init__(self, user_id: int, channel_id: int) -> None:
        self._user_id, self._channel_id = user_id, channel_id
        self._session = dave.Session(lambda source, reason: self.failures.append(source + reason))
        self._encryptor = dave.Encryptor()
        self._encryptor.assign_ssrc_to_codec(1, dave.Codec.opus)
        self._decryptors: dict[int, dave.Decryptor] = {}
        self._sender = b""
        self.failures: list[str] = []

    def restart(self) -> bytes:
        self._session.reset()
        self._session.init(1, self._channel_id, str(self._user_id))
        if self._sender:
            self._session.set_external_sender(self._sender)
        package = self._session.get_marshalled_key_package()
        assert package is not None
        return bytes(package)

    def set_sender(self, payload: bytes) -> None:
        self._sender = payload
        self._session.set_external_sender(payload)

    def propose(self, payload: bytes, known: set[int]) -> bytes | None:
        made = self._session.process_proposals(payload, set(map(str, known)))
        return None if made is None else bytes(made)

    def commit(self, commit: bytes) -> None:
        result = self._session.process_commit(commit)
        assert result is not dave.RejectType.failed, self.failures
        if not isinstance(result, dave.RejectType):
            self._learn(result)

    def welcome(self, welcome: bytes, known: set[int]) -> None:
        roster = self._session.process_welcome(welcome, set(map(str, known)))
        assert roster is not None, self.failures
        self._learn(roster)

    def _learn(self, roster: dict[int, list[int]]) -> None:
        for user_id in {*map(int, roster), *self._decryptors} - {self._user_id}:
            ratchet = self._session.get_key_ratchet(str(user_id))
            if ratchet is not None:
                decryptor = self._decryptors.setdefault(user_id, dave.Decryptor())
                decryptor.transition_to_key_ratchet(ratchet)

    def execute(self) -> None:
        self._encryptor.set_key_ratchet(self._session.get_key_ratchet(str(self._user_id)))

    def encrypt(self, frame: bytes) -> bytes:
        encrypted = self._encryptor.encrypt(dave.MediaType.audio, 1, frame)
        assert encrypted is not None
        return bytes(encrypted)

    def decrypt(self, user_id: int, frame: bytes) -> bytes | None:
        if user_id not in self._decryptors:
            return None
        found = self._decryptors[user_id].decrypt(dave.MediaType.audio, frame)
        return None if found is None else bytes(found)

    def authenticator(self) -> bytes:
        return bytes(self._session.get_last_epoch_authenticator() or b"")


class DaveUser:
    """A user in a call.

    Attributes:
        opcodes: Of everything that came, in order; binary messages too.
        version: Protocol version in force for what this client sends.
        heard: What arrived as audio, decrypted: ``(user id, frame)``. None for the frame if it
            could not be decrypted.
        packets: How many media packets arrived.
        closed: Code and reason, once the server has closed.
    """

    def __init__(self, websocket: ClientConnection, library: Library | None, user_id: int) -> None:
        self.user_id = user_id
        self.library = library
        self.opcodes: list[int] = []
        self.version = 0
        self.heard: list[tuple[int, bytes | None]] = []
        self.packets = 0
        self.closed: tuple[int, str] | None = None
        self.known: set[int] = {user_id}
        self.ssrc = 0
        self._websocket = websocket
        self._users: dict[int, int] = {}  # by SSRC
        self._transitions: dict[int, int] = {}  # id to version
        self._key: AESGCM | None = None
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._expected = 0  # version that a new group will have

    @property
    def settled(self) -> bool:
        """Whether no transition is open."""
        return not self._transitions

    async def identify(self, session_id: str, token: str) -> None:
        await self.send(
            0,
            {
                "server_id": str(GUILD),
                "user_id": str(self.user_id),
                "session_id": session_id,
                "token": token,
                "max_dave_protocol_version": 0 if self.library is None else 1,
            },
        )

    async def run(self) -> None:
        """Take what the server sends until it ends."""
        try:
            async for data in self._websocket:
                if isinstance(data, str):
                    message = json.loads(data)
                    self.opcodes.append(message["op"])
                    await self._text(message["op"], message["d"])
                else:
                    self.opcodes.append(data[2])
                    await self._binary(data[2], data[3:])
        except ConnectionClosed:
            pass
        finally:
            assert self._websocket.close_code is not None
            self.closed = (self._websocket.close_code, self._websocket.close_reason or "")

    async def send(self, opcode: int, data: object) -> None:
        with suppress(ConnectionClosed):
            await self._websocket.send(json.dumps({"op": opcode, "d": data}))

    async def send_binary(self, opcode: int, payload: bytes) -> None:
        with suppress(ConnectionClosed):
            await self._websocket.send(bytes((opcode,)) + payload)

    def speak(self, frame: bytes) -> None:
        """Send one frame, encrypted if this client encrypts now."""
        assert self._key is not None
        assert self._socket is not None
        if self.version:
            assert self.library is not None
            frame = self.library.encrypt(frame)
        self._sequence += 1
        header = struct.pack(
            "!BBHII", 0x80, OPUS_TYPE, self._sequence, 960 * self._sequence, self.ssrc
        )
        nonce = struct.pack("!I", self._sequence)
        self._socket.send(header + self._key.encrypt(nonce + bytes(8), frame, header) + nonce)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    async def _text(self, opcode: int, data: Any) -> None:
        match opcode:
            case 2:
                await self._select(data)
            case 4:
                self._key = AESGCM(bytes(data["secret_key"]))
                self._expected = self.version = data["dave_protocol_version"]
                if self.version:
                    await self._begin()
                await self.send(5, {"speaking": 1, "delay": 0, "ssrc": self.ssrc})
            case 5:
                self._users[data["ssrc"]] = int(data["user_id"])
            case 11:
                self.known |= set(map(int, data["user_ids"]))
            case 13:
                self.known.discard(int(data["user_id"]))
            case 21:
                await self._prepare(data["transition_id"], data["protocol_version"])
            case 22:
                self._execute(data["transition_id"])
            case 24:
                self._expected = data["protocol_version"]
                await self._begin()

    async def _binary(self, opcode: int, payload: bytes) -> None:
        if self.library is None:
            return
        if opcode == 25:
            self.library.set_sender(payload)
        elif opcode == 27:
            made = self.library.propose(payload, self.known)
            if made is not None:
                await self.send_binary(28, made)
        elif opcode in {29, 30}:
            if opcode == 29:
                self.library.commit(payload[2:])
            else:
                self.library.welcome(payload[2:], self.known)
            await self._prepare(int.from_bytes(payload[:2], "big"), self._expected)

    async def _begin(self) -> None:
        assert self.library is not None
        await self.send_binary(26, self.library.restart())

    async def _prepare(self, transition_id: int, version: int) -> None:
        self._transitions[transition_id] = version
        if transition_id:
            await self.send(23, {"transition_id": transition_id})
        else:
            self._execute(0)

    def _execute(self, transition_id: int) -> None:
        version = self._transitions.pop(transition_id, None)
        if version is None:
            return
        self.version = version
        if version:
            assert self.library is not None
            self.library.execute()

    async def _select(self, ready: Json) -> None:
        self.ssrc = ready["ssrc"]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect((ready["ip"], ready["port"]))
        loop = asyncio.get_running_loop()
        self._socket.send(struct.pack("!HHI", 1, 70, self.ssrc) + bytes(66))
        answer = await loop.sock_recv(self._socket, 100)
        address = answer[8:72].rstrip(b"\0").decode()
        port = int.from_bytes(answer[72:74], "big")
        loop.add_reader(self._socket, self._read)
        data = {"address": address, "port": port, "mode": MODE}
        await self.send(1, {"protocol": "udp", "data": data})

    def _read(self) -> None:
        assert self._socket is not None
        assert self._key is not None
        datagram = self._socket.recv(2048)
        if datagram[1] & 0x7F != OPUS_TYPE:
            return
        header, nonce = datagram[:12], datagram[-4:]
        with suppress(InvalidTag):
            frame = self._key.decrypt(nonce + bytes(8), datagram[12:-4], header)
            self.packets += 1
            self._hear(self._users.get(int.from_bytes(header[8:12], "big"), 0), frame)

    def _hear(self, user_id: int, frame: bytes) -> None:
        encrypted = frame.endswith(b"\xfa\xfa")
        if encrypted and self.library is not None:
            self.heard.append((user_id, self.library.decrypt(user_id, frame)))
        else:
            self.heard.append((user_id, None if encrypted else frame))


LIBRARIES: dict[str, Callable[[int, int], Library]] = {
    "davey": DaveyLibrary,
    "dave.py": LibdaveLibrary,
}


@asynccontextmanager
async def dave_user(
    server: LocalServer, user_id: int, library: str | None, channel_id: int = 20
) -> AsyncIterator[DaveUser]:
    """A user in a call; without a library one who cannot encrypt."""
    credentials = server.admit(user_id, GUILD, channel_id)
    made = None if library is None else LIBRARIES[library](user_id, channel_id)
    async with (
        connect(f"{credentials.endpoint}/?v=8", compression=None) as websocket,
        asyncio.TaskGroup() as group,
    ):
        user = DaveUser(websocket, made, user_id)
        await user.identify(credentials.session_id, credentials.token)
        reader = group.create_task(user.run())
        try:
            yield user
        finally:
            await websocket.close()
            await reader
            user.close()


async def soon(condition: Callable[[], object], *, within: float = 5.0) -> None:
    """Wait until that is true."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - it depends on sockets
            await asyncio.sleep(0.005)
