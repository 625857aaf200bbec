"""What we ask a TURN server, read by aioice."""

from __future__ import annotations

import pytest
from aioice import stun, turn

from discord_rtc.transport.turn_inquiry import TurnInquiry

pytestmark = pytest.mark.interop


def reply(request: stun.Message, kind: stun.Class, **attributes: object) -> bytes:
    named = {name.replace("_", "-"): value for name, value in attributes.items()}
    return bytes(stun.Message(request.message_method, kind, request.transaction_id, named))


def test_aioice_reads_every_request() -> None:
    inquiry = TurnInquiry("user", "secret", ("192.0.2.7", 50_000))
    request = stun.parse_message(inquiry.request())
    assert request.message_method is stun.Method.ALLOCATE
    assert request.attributes == {"REQUESTED-TRANSPORT": turn.UDP_TRANSPORT}
    error = (401, "Unauthorized")
    inquiry.receive(
        reply(request, stun.Class.ERROR, ERROR_CODE=error, REALM="realm", NONCE=b"nonce")
    )
    key = turn.make_integrity_key("user", "realm", "secret")
    seen = []
    while not inquiry.finished:
        request = stun.parse_message(inquiry.request())
        assert request.check_message_integrity(key)
        login = [request.attributes[name] for name in ("USERNAME", "REALM", "NONCE")]
        assert login == ["user", "realm", b"nonce"]
        seen.append(request)
        inquiry.receive(reply(request, stun.Class.RESPONSE))
    assert [request.message_method for request in seen] == [
        stun.Method.ALLOCATE,
        stun.Method.CREATE_PERMISSION,
        stun.Method.REFRESH,
    ]
    assert seen[1].attributes["XOR-PEER-ADDRESS"] == ("192.0.2.7", 50_000)
    assert seen[2].attributes["LIFETIME"] == 0
