"""What gateways get wrong most often, each as a named test against a real Doorward, in all cells where it can go wrong.

The numbers are those of the table in tests/attacks/most_wrong.py, which also says what waits for a part that is not built yet.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks.cells import LOOK, Cell, challenge_of, claims_of, document, scoped
from tests.stack.kit import LEGACY, MODERN, Stack, at_once, running
from tests.stack.wire import Wire, until
from tests.stand_ins.http_server import Ask, HttpUpstream, tool

CELLS = [(era, server) for era in ("legacy", "modern") for server in ("old", "new")]
PUBLIC = "https://mcp.example.com"
FORGED = {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "ftp", "Forwarded": "host=evil.example"}
REGION = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, HttpUpstream]]:
    tools = [tool("echo"), tool("delete", read_only=False), tool("regional", **REGION)]
    found = {"old": HttpUpstream("legacy", tools), "new": HttpUpstream("modern", tools)}
    yield found
    for one in found.values():
        one.close()


@pytest.fixture(scope="module")
def stack(upstreams: dict[str, HttpUpstream]) -> Iterator[Stack]:
    """Doorward before a server of each era; mallory may call echo and nothing else."""
    servers = {name: {"url": one.url, "allow_requests": ["elicitation"]} for name, one in upstreams.items()}
    tables: dict[str, Any] = {
        "roles.few": {"servers": ["*"], "tools": ["echo"]},
        "identity": {"users": [{"name": "alice", "roles": ["user"]}, {"name": "bob", "roles": ["user"]},
                               {"name": "mallory", "roles": ["few"]}]},
    }  # fmt: skip
    with running(servers, tables=tables) as one:
        for name in servers:
            assert one.modern(name, "tools/list").status == 200
        yield one


@pytest.fixture(params=CELLS, ids=[f"{era}-at-{server}" for era, server in CELLS])
def cell(request: pytest.FixtureRequest, stack: Stack, upstreams: dict[str, HttpUpstream]) -> Iterator[Cell]:
    era, server = request.param
    yield Cell(stack, era, server, upstreams[server])
    upstreams[server].on.clear()


# -- the authorization of the door itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tools/call", "tools/list", "first"])
def test_01_a_token_for_another_audience_opens_nothing(cell: Cell, method: str) -> None:
    """1: a token that was issued for somebody else's ears is taken because its signature is good."""
    cell.passes()
    before = cell.upstream.hits
    other = {"old": "new", "new": "old"}[cell.server]
    body, fields = cell.message("tools/call", {"name": "echo", "arguments": {}})
    if method == "first":
        body, fields = cell.message("server/discover" if cell.era == "modern" else "initialize")
    elif method == "tools/list":
        body, fields = cell.message("tools/list")
    for endpoint in (other, "mcp"):
        token = f"Bearer {cell.stack.token(endpoint)}"
        answer = cell.stack.ask(cell.server, body, **fields, Authorization=token)
        assert answer.status == 401 and answer.control == "check-token", answer
    assert cell.upstream.hits == before


def test_02_the_callers_token_stays_here(cell: Cell) -> None:
    """2: header fields are forwarded in general, and the caller's credential with them."""
    secrets = {
        "Cookie": "of-the-client-1",
        "X_Api_Key": "of-the-client-2",
        "Proxy_Authorization": "Basic b2YtdGhl",
    }
    cell.passes(**secrets)
    token = cell.stack.token(cell.server)
    seen = cell.upstream.seen_bytes()
    assert token.encode() not in seen and token.split(".")[1].encode() not in seen
    assert b"of-the-client" not in seen and b"b2YtdGhl" not in seen
    assert not any("authorization" in ask.fields for ask in cell.upstream.asks)


def test_03_what_is_protected_is_named_by_the_settings_only(upstreams: dict[str, HttpUpstream]) -> None:
    """3: the resource is the root, another scheme, or whatever the request says behind a proxy that ends TLS."""
    tables = {"gateway": {"public_url": PUBLIC, "hosts": ["mcp.example.com"]}}
    with running({"new": {"url": upstreams["new"].url}}, tables=tables) as stack:
        for path in ("/new/mcp", "/mcp", ""):
            for host in (stack.host, "mcp.example.com"):
                url = f"/.well-known/oauth-protected-resource{path}"
                found = document(stack, url, Host=host, **FORGED).json
                assert found["resource"] == PUBLIC + (path or "/mcp")
        answer = stack.ask("new", {}, Authorization=None, **FORGED)
        assert challenge_of(answer)["resource_metadata"].startswith(f"{PUBLIC}/.well-known/")
        assert stack.modern("new", "tools/list").status == 200, "a token for that resource is good"


@pytest.mark.parametrize("path", ["/old/mcp", "/new/mcp", "/mcp", ""])
def test_04_the_metadata_lies_where_clients_look(stack: Stack, path: str) -> None:
    """4: the document is missing at the endpoint's own path, or asks for the token that it should help to get."""
    answer = document(stack, f"/.well-known/oauth-protected-resource{path}")
    assert answer.status == 200 and answer.fields["content-type"].startswith("application/json")
    assert answer.json["authorization_servers"] == [stack.url]
    assert document(stack, "/.well-known/oauth-protected-resource/nowhere/mcp").status == 404


def test_05_a_refusal_says_in_http_what_is_missing(cell: Cell) -> None:
    """5: no scope in the challenge, one error word for everything, or a JSON-RPC error under status 200."""
    body, fields = cell.message("tools/call", {"name": "echo", "arguments": {}})

    def refused(token: str | None) -> tuple[int, dict[str, str]]:
        answer = cell.stack.ask(cell.server, body, **fields, Authorization=token)
        return answer.status, challenge_of(answer)

    status, told = refused(None)
    assert status == 401 and told["scope"] == "mcp" and "error" not in told
    status, told = refused("Bearer a.b.c")
    assert status == 401 and told["error"] == "invalid_token" and told["scope"] == "mcp"
    status, told = refused(scoped(cell.stack, cell.server, "other"))
    assert status == 403 and told["error"] == "insufficient_scope" and told["scope"] == "mcp"
    assert told["resource_metadata"].endswith(f"/{cell.server}/mcp")
    assert cell.stack.ask(cell.server, body, **fields, Authorization=["Bearer a", "Bearer b"]).status == 400


def test_06_one_challenge_names_all_that_is_needed(cell: Cell) -> None:
    """6: the client is sent for one scope after the other."""
    body, fields = cell.message("tools/list")
    first = cell.stack.ask(cell.server, body, **fields, Authorization=None)
    scopes = challenge_of(first)["scope"].split()
    path = f"/.well-known/oauth-protected-resource/{cell.server}/mcp"
    assert set(scopes) <= set(document(cell.stack, path).json["scopes_supported"])
    token = scoped(cell.stack, cell.server, *scopes)
    assert cell.send("tools/list", Authorization=token).status == 200
    cell.passes(Authorization=token)


def test_09_a_token_is_issued_for_exactly_one_endpoint(stack: Stack) -> None:
    """9: tokens are issued with an empty or a wrong audience."""
    for server, resource in (("old", "/old/mcp"), ("new", "/new/mcp"), ("mcp", "/mcp")):
        assert claims_of(stack.token(server))["aud"] == stack.url + resource


def test_10_the_issuer_is_one_string_everywhere(stack: Stack) -> None:
    """10: a slash more or less between the issuer's name in metadata, documents and tokens."""
    named = {
        document(stack, "/.well-known/oauth-protected-resource/old/mcp").json["authorization_servers"][0],
        *(document(stack, f"/.well-known/{name}").json["issuer"]
          for name in ("oauth-authorization-server", "openid-configuration")),
        claims_of(stack.token("old"))["iss"],
    }  # fmt: skip
    assert named == {stack.url}


def test_11_no_url_that_others_name_is_fetched(cell: Cell) -> None:
    """11: a link in a challenge, a schema, an icon or a question makes the gateway fetch what it should not reach."""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.0)
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/x"
        lure = {**tool("lure", properties={"a": {"$ref": url}}), "icons": [{"src": url}]}
        cell.upstream.on["tools/list"] = lambda ask: {
            "tools": [lure, tool("echo")],
            "ttlMs": 0,
            "cacheScope": "private",
        }
        assert cell.send("tools/list").status == 200
        link = {"type": "resource_link", "uri": url, "name": "x"}
        cell.upstream.on["tools/call"] = lambda ask: {"content": [link]}
        assert cell.call().status == 200
        challenge = f'Bearer resource_metadata="{url}"'
        cell.upstream.on["tools/call"] = lambda ask: ask.reply(401, WWW_Authenticate=challenge)
        assert cell.call().code is not None
        with pytest.raises(BlockingIOError):
            canary.accept()


# -- sessions, origins, bodies and headers --------------------------------------------------------------------------------


def test_15_a_session_is_its_principals_and_outlives_their_token(cell: Cell) -> None:
    """15: whoever knows a session's id may use it, or every new token ends it."""
    if cell.era == "modern":  # the id means nothing here, and is never given out
        answer = cell.call(
            Mcp_Session_Id=Cell(cell.stack, "legacy", cell.server, cell.upstream).session()["Mcp_Session_Id"]
        )
        assert answer.status == 200 and "mcp-session-id" not in answer.fields
        return
    session = cell.session()
    assert cell.call(**session).status == 200
    assert cell.call(**session, user="bob").status == 404
    fresh = cell.stack.token(cell.server, fresh=True)
    assert fresh != cell.stack.token(cell.server)
    assert cell.call(**session, Authorization=f"Bearer {fresh}").status == 200


@pytest.mark.parametrize("verb", ["POST", "GET", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_16_a_foreign_origin_is_refused_before_anything_else(cell: Cell, origin: str, verb: str) -> None:
    """16: the origin is not looked at, only after the token, or only the host is."""
    body, fields = cell.message("tools/call", {"name": "echo", "arguments": {}})
    before = cell.upstream.hits
    for token in (None, f"Bearer {cell.stack.token(cell.server)}"):
        answer = cell.stack.ask(
            cell.server,
            body if verb == "POST" else None,
            verb=verb,
            **fields,
            Authorization=token,
            Origin=origin,
        )
        assert answer.status == 403, answer
    assert cell.upstream.hits == before
    if verb == "POST":
        cell.passes(Origin=cell.stack.url)


def test_17_policy_is_asked_about_what_the_server_will_read(cell: Cell) -> None:
    """17: policy believes the header fields, and the server runs the body."""
    token = f"Bearer {cell.stack.token(cell.server, 'mallory', ('few',))}"
    cell.passes(Authorization=token)
    lies = {"Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    for claims in (lies, {**lies, "Mcp_Method": "tools/list"}):
        answer = cell.call("delete", Authorization=token, **claims)
        assert (answer.status, answer.code) == (400, -32020), (
            answer
        )  # in the older era too, which has no such fields
    honest, unknown = (cell.call(name, Authorization=token) for name in ("delete", "no-such-tool"))
    assert honest.code == unknown.code and "result" not in honest.json
    other = {"MCP_Protocol_Version": MODERN if cell.era == "legacy" else LEGACY}
    assert cell.call("delete", Authorization=token, **lies | other).status == 400
    assert not [ask for ask in cell.upstream.calls() if ask.params["name"] == "delete"]


def test_18_mirrored_fields_are_written_for_what_is_sent(cell: Cell) -> None:
    """18: a renamed tool keeps its old name in a header, and parameters in headers are dropped."""
    given = {"name": f"{cell.server}__regional", "arguments": {"region": "Zürich"}}
    stack, fields = cell.stack, {}
    encoded = f"=?base64?{base64.b64encode('Zürich'.encode()).decode()}?="
    if cell.era == "modern":
        assert stack.modern("", "tools/list").status == 200
        body, fields = stack.modern_message("tools/call", given)
        fields |= {"Mcp_Param_Region": encoded}
    else:
        body = stack.legacy_message("tools/call", given)
        fields = {"Mcp_Session_Id": stack.session(""), "MCP_Protocol_Version": LEGACY}
        assert stack.ask("", stack.legacy_message("tools/list", {}), **fields).status == 200
    answer = stack.ask("", body, **fields)
    assert answer.status == 200 and "Z\\u00fcrich" in answer.text, answer
    seen = cell.upstream.calls()[-1]
    assert seen.params["name"] == "regional"
    if cell.server_era == "modern":
        assert (seen.fields["mcp-method"], seen.fields["mcp-name"]) == ("tools/call", "regional")
        assert seen.fields["mcp-param-region"] == encoded


def test_19_meta_arrives_whole(cell: Cell) -> None:
    """19: the meta object is built anew from what the gateway knows, so that traces, progress and extensions are lost."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    own = {"traceparent": trace, "com.example/key": {"deep": [1, 1.0, "é"]}}

    def script(ask: Ask) -> None:
        ask.start_events()
        told = {"progressToken": ask.params["_meta"]["progressToken"], "progress": 1}
        ask.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": told})
        result = {"content": [], **({"resultType": "complete"} if ask.is_modern else {})}
        ask.event({"jsonrpc": "2.0", "id": ask.json["id"], "result": result})
        ask.end()

    cell.upstream.on["tools/call"] = script
    params = {"name": "echo", "arguments": {}, "_meta": {**own, "progressToken": "mine"}}
    said = cell.open(params).rest()
    seen = cell.upstream.calls()[-1].params["_meta"]
    assert {name: seen[name] for name in own} == own
    assert said[0]["params"]["progressToken"] == "mine" and said[-1]["result"]["content"] == []


def test_20_a_server_hears_of_no_more_than_its_client_can_do(cell: Cell) -> None:
    """20: the gateway declares everything for everybody, and clients are asked what they cannot answer."""
    for declared, kept in (
        ({}, {}),
        ({"elicitation": {}}, {"elicitation": {}}),
        ({"elicitation": {}, "sampling": {}, "roots": {}}, {"elicitation": {}}),  # as the settings allow
    ):
        assert cell.call(capabilities=declared, user="bob").status == 200
        if cell.server_era == "modern":
            heard = cell.upstream.calls()[-1].params["_meta"]["io.modelcontextprotocol/clientCapabilities"]
        else:
            session = cell.upstream.calls()[-1].fields["mcp-session-id"]
            first = [ask for ask in cell.upstream.calls("initialize") if _made(ask) == session]
            heard = first[-1].params["capabilities"]
        assert heard == kept, declared


def _made(ask: Ask) -> str:
    """The session that an initialize opened: the stand-in names them by their order."""
    found: str = ask.session
    return found


def test_21_a_list_for_one_caller_is_never_shared(cell: Cell) -> None:
    """21: a list that was filtered for one caller is kept for others, or called public."""
    tools = [tool("echo"), tool("delete", read_only=False)]
    cell.upstream.on["tools/list"] = lambda ask: {
        "tools": list(tools),
        "ttlMs": 600_000,
        "cacheScope": "public",
    }
    few = f"Bearer {cell.stack.token(cell.server, 'mallory', ('few',))}"
    all_of_them = f"Bearer {cell.stack.token(cell.server)}"
    for token, wanted in (
        (all_of_them, {"echo", "delete"}),
        (few, {"echo"}),
        (all_of_them, {"echo", "delete"}),
    ):
        result = cell.send("tools/list", Authorization=token).json["result"]
        assert {one["name"] for one in result["tools"]} == wanted
        assert cell.era == "legacy" or result["cacheScope"] == "private"  # the older era has no such word


def test_22_leaving_cancels_in_the_newer_era_and_only_there(cell: Cell) -> None:
    """22: a lost connection cancels where it must not, or does not where it must."""
    started: list[Ask] = []
    done: list[bool] = []

    def script(ask: Ask) -> None:
        started.append(ask)
        until(lambda: done or ask.is_gone() or _cancelled(cell, ask), "an end")
        if not ask.is_gone():
            ask.result({"content": [{"type": "text", "text": "worked on"}]})

    cell.upstream.on["tools/call"] = script
    session = cell.session()
    body, fields = cell.message("tools/call", {"name": "echo", "arguments": {}})
    with Wire(cell.stack.port) as wire:
        wire.send(cell.stack.request(cell.server, body, **fields, **session))
        until(lambda: started, "the call at the server")
    if cell.era == "modern":
        until(lambda: started[0].is_gone() or _cancelled(cell, started[0]), "the end of work for nobody")
        return
    # A request that comes after the loss is answered after it: then the loss was noticed, and nothing was cancelled.
    later = cell.stack.ask(cell.server, {**cell.message("tools/list")[0], "id": 2}, **session)
    assert later.status == 200, later
    assert not started[0].is_gone() and not _cancelled(cell, started[0])
    done.append(True)


def _cancelled(cell: Cell, ask: Ask) -> bool:
    told = cell.upstream.calls("notifications/cancelled")
    return any(one.params["requestId"] == ask.json["id"] for one in told)


def test_23_events_come_as_they_are_said(cell: Cell) -> None:
    """23: events are gathered until the answer is complete, or a silent stream is cut."""
    heard: list[int] = []

    def script(ask: Ask) -> None:
        ask.start_events()
        for step in (1, 2, 3):
            told = {"progressToken": ask.params["_meta"]["progressToken"], "progress": step}
            ask.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": told})
            until(lambda step=step: step in heard, f"step {step} at the client, before the next is said")  # type: ignore[misc]
        result = {"content": [], **({"resultType": "complete"} if ask.is_modern else {})}
        ask.event({"jsonrpc": "2.0", "id": ask.json["id"], "result": result})
        ask.end()

    cell.upstream.on["tools/call"] = script
    events = cell.open({"name": "echo", "arguments": {}, "_meta": {"progressToken": 1}})
    for step in (1, 2, 3):
        assert events.next()["params"]["progress"] == step
        heard.append(step)
    assert "result" in events.rest()[-1]


def test_24_every_end_has_its_own_status(cell: Cell) -> None:
    """24: 400 where a session has ended, 200 where a method is unknown, anything where a verb is not served."""
    ask, server = cell.stack.ask, cell.server
    if cell.era == "modern":
        assert (cell.send("no/such").status, cell.send("no/such").code) == (404, -32601)
        body, fields = cell.message("tools/list")
        del body["params"]["_meta"]
        answer = ask(server, body, **fields)
        assert (answer.status, answer.code) == (400, -32602)
        for verb in ("GET", "DELETE", "PUT"):
            assert ask(server, verb=verb, MCP_Protocol_Version=MODERN).status in (400, 405)
        answer = cell.send("tools/list", MCP_Protocol_Version="2031-01-01")
        assert answer.status == 400
        return
    session = cell.session()
    assert cell.send("no/such", **session).code == -32601
    listing = cell.message("tools/list")[0]
    assert ask(server, listing, MCP_Protocol_Version=LEGACY).status == 400, "a session is needed"
    assert ask(server, verb="DELETE", **session).status in (200, 204)
    for verb, content in (("POST", listing), ("GET", None), ("DELETE", None)):
        gone = {"Accept": "text/event-stream"} if verb == "GET" else {}
        assert ask(server, content, verb=verb, **session, **gone).status == 404
        made_up = {**session, "Mcp_Session_Id": "A" * len(session["Mcp_Session_Id"])}
        assert ask(server, content, verb=verb, **made_up, **gone).status == 404
    assert ask(server, verb="PUT", **session, Content_Length="0").status == 405


# -- stdio ----------------------------------------------------------------------------------------------------------------

WORD = "PRINTED_BY_NOBODY"


@pytest.mark.cage
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_25_no_caller_chooses_what_runs_and_none_shares_a_process(
    era: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """25: callers choose command, arguments or environment, or share one stateful process with colliding ids."""
    script = tmp_path_factory.mktemp("stdio") / "look.py"
    script.write_text(LOOK)
    servers = {"s": {"command": [sys.executable, str(script), "--as-configured"], "env": {"A": "1"}}}
    with running(servers) as stack:
        stack.patience = 30.0
        lures = {"command": ["sh"], "args": [WORD], "env": {WORD: WORD}, "cwd": f"/{WORD}"}

        def look(number: int) -> dict[str, Any]:
            user = ("alice", "bob")[number % 2]
            params = {"name": "look", "arguments": {"nonce": number, **lures}, **lures}
            if era == "modern":
                answer = stack.modern("s", "tools/call", params, id=7, user=user, X_Command=WORD)
            else:
                session = stack.session("s", user=user)
                answer = stack.legacy("s", session, "tools/call", params, id=7, user=user, X_Command=WORD)
            assert answer.status == 200 and answer.json["id"] == 7, answer
            found: dict[str, Any] = json.loads(answer.text)
            return found

        for user in ("alice", "bob"):
            assert stack.modern("s", "tools/list", user=user).status == 200
        seen = at_once(8, look, 60.0)
        assert [one["nonce"] for one in seen] == list(range(8))
        for one in seen:
            assert one["argv"] == ["--as-configured"] and one["env"].get("A") == "1"
            assert WORD not in json.dumps(one)
        mine, others = seen[::2], seen[1::2]
        assert {one["who"] for one in mine}.isdisjoint(one["who"] for one in others)
        if era == "modern":  # each principal's own process has counted its own calls only
            assert [sorted(one["calls"] for one in some) for some in (mine, others)] == [[1, 2, 3, 4]] * 2
