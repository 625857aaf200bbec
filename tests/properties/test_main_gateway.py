"""Property 2 for the main gateway: any text is taken, and there is always something to wait for."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.protocol.main_gateway import GatewayFailed, GatewaySession

names = st.sampled_from(["READY", "RESUMED", "VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"])
fields = st.sampled_from(["heartbeat_interval", "user", "id", "session_id", "x"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.just("7")
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3)
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "op": st.integers(0, 12) | scalars,
        "t": names | scalars,
        "s": scalars,
        "d": values,
    },
).map(json.dumps)
texts = messages | st.text() | values.map(json.dumps)


@given(st.lists(texts, max_size=12))
def test_any_text_into_a_gateway_session_never_raises(received: list[str]) -> None:
    session = GatewaySession("secret", 129, now=0.0)
    now = 0.0
    failed = False
    for text in received:
        now += 0.1
        session.receive_text(text, now)
        for message in session.messages_to_send():
            assert isinstance(json.loads(message)["op"], int)
        while (event := session.next_event()) is not None:
            failed = failed or isinstance(event, GatewayFailed)
        due = session.next_timeout()
        assert (due is None) is failed
        if due is not None and due <= now:
            session.handle_timeout(now)
