"""Which refusal wins when a request has two faults: the table of the order of checks, over real sockets, in both eras."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from doorward.cli.token import mint_token
from doorward.identity.binding import Confirmation
from doorward.settings import load
from tests.stack.kit import LEGACY, Stack, running
from tests.stack.wire import Answer
from tests.stand_ins.http_server import HttpUpstream

# fault -> (status, control on record, part of the reason on record), in the order of the checks.
ORDER: dict[str, tuple[int, str, str]] = {
    "framing": (400, "check-head", "http-"),
    "host": (403, "check-origin", "host-foreign"),
    "origin": (403, "check-origin", "origin-foreign"),
    "path": (404, "gateway", "no such path"),
    "address": (429, "limit-rate", "peer address"),
    "token": (401, "check-token", "token missing"),
    "binding": (401, "bind-token", "bound to a key"),
    "method": (405, "check-head", "verb"),
    "accept": (406, "check-head", "accept"),
    "type": (415, "check-head", "content-type"),
    "size": (413, "check-head", "body-too-large"),
    "body": (400, "check-shape", "json"),
    "limits": (429, "limit-rate", "limit-calls (principal)"),
    "policy": (200, "ask-policy", "nothing permits it"),
}
PAIRS = list(combinations(ORDER, 2))
NEVER_AGAIN = 86_400


class Bench:
    """Two gateways, of which one has spent its allowance for this address; and the principals that a fault needs."""

    def __init__(self, fresh: Stack, spent: Stack, upstream: HttpUpstream) -> None:
        self.fresh, self.spent, self.upstream = fresh, spent, upstream
        self.sessions = {user: fresh.session("s", user=user) for user in ("alice", "bob", "spender")}
        assert fresh.modern("s", "tools/list", user="spender").status == 429
        assert spent.modern("s", "tools/list").status == 200
        assert spent.modern("s", "tools/list").status == 429

    @staticmethod
    def bound(stack: Stack, user: str) -> str:
        """A token that is bound to a key which nobody proves here."""
        settings = load(stack.config).settings
        return mint_token(
            settings, user=user, server="s", confirmation=Confirmation(key="A" * 43)
        ).access_token

    def send(self, era: str, faults: tuple[str, ...]) -> tuple[Stack, Answer]:
        """Send a good call with these faults in it."""
        stack = self.spent if "address" in faults else self.fresh
        user = "spender" if "limits" in faults else "bob" if "policy" in faults else "alice"
        params = {"name": "delete" if "policy" in faults else "echo", "arguments": {}}
        if era == "modern":
            body, fields = stack.modern_message("tools/call", params)
        else:
            body = stack.legacy_message("tools/call", params)
            fields = {"Mcp_Session_Id": self.sessions[user], "MCP_Protocol_Version": LEGACY}
        more: dict[str, Any] = {"user": user, **fields}
        if "binding" in faults:
            more["Authorization"] = f"Bearer {self.bound(stack, user)}"
        values: dict[str, dict[str, Any]] = {
            "framing": {"X_Bad ": "a space before the colon"},
            "host": {"Host": "rebound.example:80"},
            "origin": {"Origin": "https://evil.example"},
            "path": {"path": "/nowhere/mcp"},
            "token": {"Authorization": None},
            "method": {"verb": "PUT"},
            "accept": {"Accept": "text/html"},
            "type": {"Content_Type": "text/plain"},
            "size": {"Content_Length": "99999999"},
        }
        for fault in faults:
            more.update(values.get(fault, {}))
        content: Any = b'{"jsonrpc": "2.0", ' if "body" in faults else body
        if "method" in faults and "size" not in faults:
            more.setdefault("Content_Length", str(len(content) if isinstance(content, bytes) else 0))
            content = content if isinstance(content, bytes) else None
        return stack, stack.ask("s", content, **more)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    people = {
        "identity": {"users": [{"name": "alice", "roles": ["user"]}, {"name": "bob", "roles": ["reader"]},
                               {"name": "spender", "roles": ["reader"]}]},
        "roles.reader": {"servers": ["*"], "tools": ["echo"]},
        "limits.principal.spender": {"calls": 1, "per_seconds": NEVER_AGAIN},
    }  # fmt: skip
    address = {**people, "limits.address": {"calls": 1, "per_seconds": NEVER_AGAIN}}
    upstream = HttpUpstream()
    with running({"s": upstream}, tables=people) as fresh, running({"s": upstream}, tables=address) as spent:
        yield Bench(fresh, spent, upstream)


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_good_call_passes(bench: Bench, era: str) -> None:
    stack, answer = bench.send(era, ())
    assert answer.status == 200 and "result" in answer.json, (answer, stack.log()[-2000:])


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("fault", ORDER)
def test_each_fault_alone_is_refused_as_itself_and_on_record(bench: Bench, fault: str, era: str) -> None:
    before = bench.upstream.hits
    stack, answer = bench.send(era, (fault,))
    status, control, reason = ORDER[fault]
    assert answer.status == status, answer
    row = stack.row_of(answer)
    assert (row["control"], row["http_status"], row["verdict"]) == (control, status, "refuse"), row
    assert reason in row["reason"], row
    assert answer.control == control, answer
    assert bench.upstream.hits == before


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("pair", PAIRS, ids="-before-".join)
def test_of_two_faults_the_earlier_wins(bench: Bench, pair: tuple[str, str], era: str) -> None:
    before = bench.upstream.hits
    alone = bench.send(era, (pair[0],))[1]
    both = bench.send(era, pair)[1]
    assert (both.status, both.json["error"]["message"]) == (alone.status, alone.json["error"]["message"])
    assert both.status == ORDER[pair[0]][0]
    assert bench.upstream.hits == before
