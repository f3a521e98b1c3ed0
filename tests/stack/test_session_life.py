"""Sessions of the older era over their life: kept by a refreshed token, begun anew by a stronger one, ended by an operator."""

from __future__ import annotations

from typing import Any

import pytest

from doorward.cli.token import mint_token
from doorward.identity.binding import Confirmation
from doorward.settings import load
from tests.stack.kit import Stack, environment, running
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream
from tests.stand_ins.proofs import Holder


def bearer(
    stack: Stack, *, user: str = "alice", scopes: tuple[str, ...] = (), key: str = ""
) -> dict[str, str]:
    with environment():
        settings = load(stack.config).settings
    text = mint_token(
        settings, user=user, server="time", scopes=scopes, confirmation=Confirmation(key=key)
    ).access_token
    return {"Authorization": f"Bearer {text}"}


def test_a_refreshed_token_goes_on_and_a_stronger_one_begins_anew() -> None:
    with running({"time": HttpUpstream()}, workers=2) as stack:
        session = stack.session("time", **bearer(stack))
        for _ in range(6):  # another token of the same rights, on any worker
            assert stack.legacy("time", session, "tools/list", **bearer(stack)).status == 200
        strong = bearer(stack, scopes=("mcp", "tickets:write"))
        assert stack.legacy("time", session, "tools/list", **strong).status == 404
        for _ in range(4):  # and the old id is over for everybody
            assert stack.legacy("time", session, "tools/list", **bearer(stack)).status == 404
        fresh = stack.session("time", **strong)
        assert fresh != session
        assert stack.legacy("time", fresh, "tools/list", **strong).status == 200
        assert stack.legacy("time", fresh, "tools/list", **bearer(stack)).status == 200


def test_a_session_opened_with_a_key_is_none_of_a_token_without_it() -> None:
    with running(
        {"time": HttpUpstream()}, workers=2, tables={"identity": {"dpop_nonce": "optional"}}
    ) as stack:
        holder = Holder()
        text = bearer(stack, key=holder.jkt)["Authorization"].partition(" ")[2]
        nonce: list[str] = []

        def proven() -> dict[str, str]:
            proof = holder.proof(f"{stack.url}/time/mcp", text, nonce=nonce[0] if nonce else None)
            return {"Authorization": f"DPoP {text}", "DPoP": proof}

        nonce.append(stack.initialize("time", **proven()).fields["dpop-nonce"])
        opening = stack.initialize("time", **proven())
        session = opening.fields["mcp-session-id"]
        assert stack.legacy("time", session, "notifications/initialized", id=None, **proven()).status == 202
        for _ in range(4):
            assert stack.legacy("time", session, "tools/list", **bearer(stack)).status == 404
            assert stack.legacy("time", session, "tools/list", **proven()).status == 200


@pytest.mark.parametrize("by", ["subject", "key"])
def test_an_operator_ends_the_sessions_and_streams_of_one_caller_on_all_workers(by: str) -> None:
    with running({"time": HttpUpstream()}, workers=2) as stack:
        mine = [stack.session("time", **bearer(stack)) for _ in range(6)]
        other = stack.session("time", **bearer(stack, user="bob"))
        stream = stack.events("time", verb="GET", Mcp_Session_Id=mine[0], MCP_Protocol_Version="2025-11-25",
                              Accept="text/event-stream", **bearer(stack))  # fmt: skip
        name = (
            "alice"
            if by == "subject"
            else next(
                f"{row['tenant']}|{stack.url}|alice|doorward-cli" for row in stack.rows(principal="alice")
            )
        )
        answer = stack.admin("/api/v1/sessions/kill", {"principal": name})
        assert answer.status == 200 and answer.json["killed"] == name

        def over() -> bool:
            return all(stack.legacy("time", one, "tools/list", **bearer(stack)).status == 404 for one in mine)

        until(over, "the end of the sessions", 2.0)
        assert stream.rest() == []  # the open stream has ended
        assert stack.legacy("time", other, "tools/list", **bearer(stack, user="bob")).status == 200
        row = until(lambda: next((row for row in stack.rows(kind="admin") if row["method"] == "sessions-killed"), None),
                    "the record")  # fmt: skip
        assert row["item"] == name and row["principal"].startswith("os:")
        again = stack.session("time", **bearer(stack))  # the token is good still: it is not revoked
        assert stack.legacy("time", again, "tools/list", **bearer(stack)).status == 200
        stack.admin("/api/v1/sessions/kill", {"principal": "nobody"})
        assert stack.legacy("time", again, "tools/list", **bearer(stack)).status == 200


def test_a_kill_that_names_nobody_is_refused() -> None:
    with running({"time": HttpUpstream()}) as stack:
        bodies: list[Any] = [
            {"principal": ""},
            {"principal": 5},
            {"x": "alice"},
            {"principal": "a", "x": 1},
            ["alice"],
        ]
        for body in bodies:
            assert stack.admin("/api/v1/sessions/kill", body).status == 400
