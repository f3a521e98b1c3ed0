"""Tokens that somebody else must vouch for: the request waits with its body unread, and goes on or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from doorward.identity.bearer import Pending
from doorward.identity.foreign_judge import ForeignJudge, KnownKeys
from doorward.identity.trust import Introspected, TrustedIssuer
from tests.talks.talk import URL, Ear, PlayedServer, Talk

IDP = "https://idp.test"
TOKEN = "opaque-token"


class Office:
    """Stands where the supervisor is; a test answers."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[Any], None]] = []
        self.topics: list[str] = []

    def ask(self, topic: str, payload: dict[str, Any], then: Callable[[Any], None]) -> None:
        self.topics.append(topic)
        self.waiting.append(then)

    def judge_of(self, talk: Talk) -> ForeignJudge:
        trust = TrustedIssuer(IDP, introspection=Introspected(30.0))
        keys = {IDP: KnownKeys(talk.keys.jwks(), talk.clock.now() + 10_000)}
        return ForeignJudge([trust], keys, talk.clock, ask=self.ask)

    def says(self, talk: Talk, **more: Any) -> None:
        now = int(talk.clock.now())
        answer = {"active": True, "sub": "alice", "client_id": "cli", "scope": "mcp", "roles": ["user"]}
        answer |= {"aud": f"{URL}/time/mcp", "iat": now, "exp": now + 600} | more
        self.waiting.pop(0)(msgspec.json.encode(answer))


def begin(**options: Any) -> tuple[Talk, Office, PlayedServer]:
    office, server = Office(), PlayedServer()
    return Talk({"time": server}, judge_of=office.judge_of, **options), office, server


def call(talk: Talk) -> Ear:
    return talk.modern("time", "tools/call", {"name": "echo", "arguments": {}}, token=TOKEN)


def test_a_call_waits_for_the_answer_and_then_goes_on() -> None:
    talk, office, server = begin()
    first, second = call(talk), call(talk)
    assert (first.status, second.status, office.topics) == (0, 0, ["issuer-introspect"])
    assert server.methods() == [] and talk.journal.entries == []
    office.says(talk)
    assert (first.status, second.status) == (200, 200), first.body
    assert "tools/call" in server.methods()
    assert call(talk).status == 200 and len(office.topics) == 1
    assert {entry["principal"] for entry in talk.journal.entries if "principal" in entry} == {"alice"}


@pytest.mark.parametrize(
    ("answer", "status"), [({"active": False}, 401), ({"aud": f"{URL}/x/mcp"}, 401), ({"scope": "x"}, 403)]
)
def test_a_call_whose_token_is_not_vouched_for_reaches_nothing(answer: dict[str, Any], status: int) -> None:
    talk, office, server = begin()
    ear = call(talk)
    office.says(talk, **answer)
    assert ear.status == status
    assert server.methods() == []
    assert [entry["control"] for entry in talk.journal.entries] == ["check-token"]


def test_no_answer_is_no_leave_and_says_when_to_come_back() -> None:
    talk, office, server = begin()
    ear = call(talk)
    office.waiting.pop(0)(None)
    assert (ear.status, ear.field("Retry-After")) == (503, "1")
    assert server.methods() == []
    talk.clock.advance(5)
    talk.freshness.tick(1)
    again = call(talk)
    office.says(talk)
    assert again.status == 200


def test_an_answer_that_has_run_out_is_asked_for_again() -> None:
    talk, office, server = begin()
    ear = call(talk)
    office.says(talk)
    assert ear.status == 200
    talk.clock.advance(31)
    late = call(talk)
    assert late.status == 0
    office.says(talk, active=False)
    assert late.status == 401
    assert server.methods().count("tools/call") == 1


def test_a_judge_that_never_decides_does_not_hold_a_request_for_ever() -> None:
    class Undecided:
        def judge(self, authorization: str | None, resource: str, address: str = "") -> Pending:
            return Pending(lambda then: then())

    server = PlayedServer()
    talk = Talk({"time": server}, judge_of=lambda talk: Undecided())
    assert call(talk).status == 503
    assert server.methods() == []


def test_a_pending_token_is_nobody_and_never_the_local_principal() -> None:
    """With check-token in report mode nothing is refused, but what is pending still waits."""
    talk, office, server = begin(report=("check-token",))
    ear = call(talk)
    assert ear.status == 0 and server.methods() == []
    office.says(talk)
    assert ear.status == 200
    assert {entry["principal"] for entry in talk.journal.entries if "principal" in entry} == {"alice"}


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_streams_and_ends_of_the_older_era_wait_too(verb: str) -> None:
    talk, office, server = begin()
    fields = {"Mcp_Session_Id": "none", "MCP_Protocol_Version": "2025-11-25"}
    ear = talk.send("time", b"", verb=verb, token=TOKEN, **fields)
    assert ear.status == 0
    office.says(talk)
    assert ear.status in (400, 404), ear.body
