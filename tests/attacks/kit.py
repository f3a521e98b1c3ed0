"""What every attack is measured by: ordinary traffic passes, the attack does not reach the server, and is on record.

An attack that cannot be judged is a failure: each test proves first that the same road is open to ordinary traffic, and
where a control guards it, that the attack works once that control is off (profile lab).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.stack.kit import Stack, running
from tests.stack.wire import Answer
from tests.stand_ins.http_server import HttpUpstream

ERAS = ("modern", "legacy")
CELLS = tuple(f"{client}-{server}" for client in ERAS for server in ERAS)


class Target:
    """A gateway and the one server behind it."""

    def __init__(self, stack: Stack, upstream: HttpUpstream) -> None:
        self.stack = stack
        self.upstream = upstream
        self._sessions: dict[str, str] = {}

    def session(self, user: str = "alice") -> str:
        """A session of the 2025 era, opened once for each principal."""
        if user not in self._sessions:
            self._sessions[user] = self.stack.session("s", user=user)
        return self._sessions[user]

    def forget(self, user: str) -> None:
        """Open a new session next time."""
        self._sessions.pop(user, None)

    def call(self, era: str, arguments: Any = None, tool: str = "echo", **more: Any) -> Answer:
        """A tool call in an era."""
        user = more.get("user", "alice")
        session = self.session(user) if era == "legacy" else ""
        return self.stack.call(era, "s", tool, arguments, session=session, **more)

    def passes(self, era: str = "modern", **more: Any) -> Answer:
        """Ordinary traffic gets through: the positive control."""
        before = len(self.upstream.calls())
        answer = self.call(era, {"ordinary": True}, **more)
        assert answer.status == 200 and answer.text == '{"ordinary": true}', (
            answer,
            self.stack.log()[-2000:],
        )
        assert len(self.upstream.calls()) == before + 1
        return answer

    def message(
        self, era: str, method: str = "tools/call", params: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A message and the fields that go with it."""
        params = {"name": "echo", "arguments": {}} if params is None and method == "tools/call" else params
        if era == "modern":
            body, fields = self.stack.modern_message(method, params)
            return body, dict(fields)
        fields = {"Mcp_Session_Id": self.session(), "MCP_Protocol_Version": "2025-11-25"}
        return self.stack.legacy_message(method, params), fields

    def post(self, era: str, body: Any = None, **fields: Any) -> Answer:
        """POST a body (a good call unless given) with the era's fields, changed by ``fields``."""
        good, own = self.message(era)
        return self.stack.ask("s", good if body is None else body, **{**own, **fields})

    def refuses(
        self,
        send: Callable[[], Answer],
        status: int,
        *,
        control: str,
        code: int | None = None,
        reason: str = "",
    ) -> Answer:
        """The attack is refused in this way, does not reach the server and is on record."""
        before = self.upstream.hits
        answer = send()
        assert self.upstream.hits == before, "the attack reached the server"
        assert answer.status == status, answer
        if code is not None:
            assert answer.code == code, answer
        row = self.stack.row_of(answer)
        assert (row["verdict"], row["control"], row["http_status"]) == ("refuse", control, status), row
        assert reason in row["reason"], row
        return answer

    def lets_through(self, send: Callable[[], Answer]) -> Answer:
        """The attack reaches the server: what the control that is off here prevents elsewhere."""
        before = self.upstream.hits
        answer = send()
        assert self.upstream.hits > before, ("the attack does not work even with its control off", answer)
        return answer


@contextmanager
def target(
    *, off: tuple[str, ...] = (), upstream: HttpUpstream | None = None, **options: Any
) -> Iterator[Target]:
    """A started gateway before a stand-in."""
    upstream = upstream or HttpUpstream()
    with running({"s": upstream}, off=off, **options) as stack:
        yield Target(stack, upstream)
