"""Servers that want a token of their own authorization server: Doorward gets it, keeps it and renews it; callers' tokens stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from doorward.identity.metadata import resource_of
from tests.stack.kit import Stack, at_once, running
from tests.stack.wire import until
from tests.stand_ins.oauth_server import EXCHANGE, JWT_BEARER, OAuthServer, ProtectedUpstream, Refused

ECHO = {"name": "echo", "arguments": {"a": 1}}
SECRET = "canary-client-secret-3f77"
MISSING = -31007


@contextmanager
def stack_of(
    folder: Path, server: OAuthServer, upstream: ProtectedUpstream, *, workers: int = 1, **credentials: Any
) -> Iterator[Stack]:
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    server.clients.setdefault("doorward", SECRET)
    given = {
        "client_id": "doorward",
        "client_secret": {"file": str(secret)},
        "issuer": server.issuer,
        **credentials,
    }
    given = {name: value for name, value in given.items() if value is not None}
    tables = {
        "servers.up": {"url": upstream.url, "credentials": given},
        "network": {"allow": [server.host]},
    }
    try:
        with running({"up": upstream}, workers=workers, tables=tables) as stack:
            yield stack
    finally:
        server.close()


def both(stack: Stack, **fields: Any) -> None:
    """A call of each era succeeds."""
    assert stack.modern("up", "tools/call", ECHO, **fields).text == '{"a": 1}'
    session = stack.session("up", **fields)
    assert stack.legacy("up", session, "tools/call", ECHO, **fields).text == '{"a": 1}'


def presented(upstream: ProtectedUpstream) -> set[str]:
    return {ask.fields.get("authorization", "") for ask in list(upstream.asks)}


def test_one_token_serves_everybody_and_no_callers_token_leaves(tmp_path: Path) -> None:
    server = OAuthServer(path="/tenant")
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="client-credentials", scopes=["read", "write"]) as stack:
        at_once(6, lambda number: both(stack, user=f"user{number}"))
        [grant] = server.grants("client_credentials")
        assert grant["form"]["scope"] == "read write"
        assert grant["form"]["resource"] == upstream.url
        assert grant["fields"]["authorization"].startswith("Basic ")
        assert presented(upstream) == {"Bearer " + next(iter(server.tokens))}
        for number in range(6):
            token = stack.token("up", f"user{number}").encode()
            assert token not in upstream.seen_bytes()
            assert all(token not in one["body"] for one in server.asked)


def test_a_private_key_proves_who_doorward_is_without_a_secret(tmp_path: Path) -> None:
    server = OAuthServer()
    key = ECKey.generate_key("P-256")
    server.clients["doorward"] = key
    pem = tmp_path / "key.pem"
    pem.write_bytes(key.as_pem(private=True))
    pem.chmod(0o600)
    upstream = ProtectedUpstream(server)
    given = {"client_secret": None, "private_key": {"file": str(pem)}, "key_id": "k1"}
    with stack_of(tmp_path, server, upstream, type="client-credentials", **given) as stack:
        both(stack)
        form = server.grants("client_credentials")[0]["form"]
        assert jwt.decode(form["client_assertion"], key, algorithms=["ES256"]).header["kid"] == "k1"
        assert "client_secret" not in form


def test_a_short_token_is_renewed_before_it_is_over_and_no_call_fails(tmp_path: Path) -> None:
    server = OAuthServer()
    server.lifetime = 2
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="client-credentials") as stack:
        session = stack.session("up")

        def called() -> bool:
            assert stack.legacy("up", session, "tools/call", ECHO).status == 200
            assert stack.modern("up", "tools/call", ECHO).text == '{"a": 1}'
            return len(server.grants("client_credentials")) >= 4

        until(called, "three renewals")
        assert all(row["outcome"] == "ok" for row in stack.rows(kind="call", tool="echo"))


def test_a_refused_token_is_replaced_once_and_the_call_goes_on(tmp_path: Path) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="client-credentials", workers=2) as stack:
        both(stack)
        asked = len(server.grants("client_credentials"))
        server.tokens.clear()  # revoked at its issuer
        for _ in range(8):  # the worker that is late finds what the other one has brought
            assert stack.modern("up", "tools/call", ECHO).text == '{"a": 1}'
        assert len(server.grants("client_credentials")) == asked + 1
        upstream.on["tools/call"] = lambda ask: ask.reply(401, WWW_Authenticate="Bearer")
        upstream.needs = "nothing-that-helps"
        before = len(upstream.calls())
        answer = stack.modern("up", "tools/call", ECHO)
        assert answer.code == MISSING, answer
        assert len(upstream.calls()) - before == 2, "once more and never again"


def test_a_scope_that_the_server_asks_for_is_asked_for_once_with_those_there_are(tmp_path: Path) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server, needs="write")
    with stack_of(tmp_path, server, upstream, type="client-credentials", scopes=["read"]) as stack:
        assert stack.modern("up", "tools/call", ECHO).text == '{"a": 1}'
        assert server.grants("client_credentials")[-1]["form"]["scope"] == "read write"


def test_a_server_that_wants_other_rights_each_time_is_soon_given_none(tmp_path: Path) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="client-credentials", workers=2, scopes=["read"]) as stack:
        both(stack)
        before = len(server.grants("client_credentials"))
        names = (f'Bearer error="insufficient_scope", scope="more{number}"' for number in range(1_000))
        upstream.on["tools/call"] = lambda ask: ask.reply(403, WWW_Authenticate=next(names))
        answers = [stack.modern("up", "tools/call", ECHO) for _ in range(12)]
        assert {answer.code for answer in answers} == {MISSING}
        assert "again and again" in answers[-1].json["error"]["message"], answers[-1]
        assert len(server.grants("client_credentials")) - before <= 3
        del upstream.on["tools/call"]
        for _ in range(4):
            both(stack)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/token", (400, {"error": "invalid_scope", "error_description": "hunter2"})),
        ("/token", (401, {"error": "invalid_client"})),
        ("/token", (500, {})),
        ("/token", (200, b"not json")),
        ("/token", (200, {"access_token": "x", "token_type": "DPoP", "expires_in": 60})),
        ("/token", (200, {"access_token": "a\r\nX: y", "token_type": "Bearer"})),
        ("/token", (200, {"access_token": "x", "token_type": "Bearer", "expires_in": -1})),
        ("/token", (302, {})),
        ("/.well-known/oauth-authorization-server", (200, {"issuer": "https://other.example", "token_endpoint": "https://other.example/t"})),
        ("/.well-known/oauth-authorization-server", (503, {})),
    ],
)  # fmt: skip
def test_without_a_credential_nothing_reaches_the_server(
    tmp_path: Path, path: str, answer: tuple[int, Any]
) -> None:
    server = OAuthServer()
    server.on[path] = answer
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="client-credentials") as stack:
        refused = stack.modern("up", "tools/call", ECHO)
        assert refused.code == MISSING, refused
        row = stack.row_of(refused)
        assert (row["verdict"], row["control"]) == ("refuse", "present-credential")
        begun = stack.ask("up", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})  # fmt: skip
        assert begun.code == MISSING, begun
        assert upstream.hits == 0
        told = refused.body + begun.body + stack.log().encode() + json.dumps(stack.rows()).encode()
        for secret in (SECRET.encode(), b"hunter2"):
            assert secret not in told


# -- tokens for each caller ------------------------------------------------------------------------------------------


def knows_doorward(stack: Stack, server: OAuthServer) -> Any:
    """The subject of a token that Doorward issued, as an authorization server that trusts it finds out."""
    from joserfc.jwk import KeySet

    def verify(token: str) -> str:
        keys = stack.ask("", verb="GET", path="/oauth/jwks", Authorization=None, Accept="*/*").json
        try:
            claims = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"]).claims
        except Exception as error:
            raise Refused("invalid_grant") from error
        if claims["aud"] != resource_of(stack.url, "up"):
            raise Refused("invalid_target")
        return str(claims["sub"])

    server.verify = verify
    return verify


@pytest.mark.parametrize("workers", [1, 2])
def test_each_callers_token_is_exchanged_for_one_of_their_own(tmp_path: Path, workers: int) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(
        tmp_path,
        server,
        upstream,
        workers=workers,
        type="token-exchange",
        scopes=["read"],
        audience="tickets",
    ) as stack:
        knows_doorward(stack, server)
        at_once(4, lambda number: both(stack, user=("alice", "bob")[number % 2]))
        exchanges = server.grants(EXCHANGE)
        assert 2 <= len(exchanges) <= 2 * workers
        assert {one["form"]["audience"] for one in exchanges} == {"tickets"}
        rows = [row for row in server.tokens.values() if row["client"] == "doorward" and "act" in row]
        assert {row["subject"] for row in rows} == {"alice", "bob"}
        assert {row["act"] for row in rows} == {"doorward"}
        # Whose call it was is whose token was presented.
        for ask, user in ((ask, (upstream.row(ask) or {})["subject"]) for ask in upstream.calls()):
            assert user in ("alice", "bob"), ask
        for user in ("alice", "bob"):
            token = stack.token("up", user).encode()
            assert token not in upstream.seen_bytes()
            assert token not in stack.log().encode()


def test_a_caller_is_never_served_with_anothers_token(tmp_path: Path) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="token-exchange", act=False) as stack:
        knows_doorward(stack, server)

        def call(number: int) -> None:
            user = f"user{number % 5}"
            for _ in range(5):
                text = stack.modern(
                    "up", "tools/call", {"name": "echo", "arguments": {"who": user}}, user=user
                ).text
                assert json.loads(text) == {"who": user}

        at_once(10, call)
        for ask in upstream.calls():
            assert (upstream.row(ask) or {})["subject"] == ask.params["arguments"]["who"]
        assert "client_credentials" not in {one.get("form", {}).get("grant_type") for one in server.asked}


def test_a_server_that_gives_the_callers_own_token_back_is_refused(tmp_path: Path) -> None:
    server = OAuthServer()
    upstream = ProtectedUpstream(server)
    with stack_of(tmp_path, server, upstream, type="token-exchange", act=False) as stack:
        token = stack.token("up")
        server.on["/token"] = (
            200,
            {"access_token": token, "token_type": "Bearer", "expires_in": 60, "issued_token_type": "x"},
        )
        assert stack.modern("up", "tools/call", ECHO).code == MISSING
        assert upstream.hits == 0
        assert token not in stack.log()


def test_on_behalf_of_as_entra_wants_it(tmp_path: Path) -> None:
    server = OAuthServer(path="/tid/v2.0")
    upstream = ProtectedUpstream(server)
    scopes = ["api://tickets/.default"]
    with stack_of(tmp_path, server, upstream, type="on-behalf-of", scopes=scopes) as stack:
        knows_doorward(stack, server)
        both(stack, user="alice")
        [grant] = server.grants(JWT_BEARER)
        assert grant["form"]["scope"] == scopes[0]
        assert grant["form"]["assertion"] == stack.token("up", "alice")
        assert {(upstream.row(ask) or {})["subject"] for ask in upstream.calls()} == {"alice"}
        assert stack.token("up", "alice").encode() not in upstream.seen_bytes()
        server.verify = lambda _: (_ for _ in ()).throw(Refused("interaction_required"))
        refused = stack.modern("up", "tools/call", ECHO, user="bob")
        assert refused.code == MISSING
