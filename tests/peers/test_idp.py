"""Real identity providers in processes of their own: two at once, key rollover, outage and return, opaque tokens (S1.2)."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.peers.idp import AGENT, GATEWAY, Idp
from tests.stack.kit import LEGACY, Stack, at_once, running
from tests.stack.wire import Answer, until
from tests.stand_ins.http_server import HttpUpstream, tool
from tests.unit.identity.foreign_kit import Hand
from tests.wire.tls_kit import Authority

pytestmark = pytest.mark.node
ERAS = ["modern", "legacy"]


@contextmanager
def external(
    idp: Idp, *more: dict[str, Any], allow: tuple[str, ...] = (), workers: int = 1, **issuer: Any
) -> Iterator[Stack]:
    """A Doorward before one server that trusts the provider, and whatever ``more`` says."""
    upstream = HttpUpstream(tools=[tool("echo")])
    issuers = [{"issuer": idp.url, **issuer}, *more]
    tables: dict[str, dict[str, Any]] = {
        "identity": {"mode": "external", "issuers": issuers},
        "network": {"allow": [idp.host, *allow]},
    }
    with running({"s": upstream, "t": upstream}, workers=workers, tables=tables) as stack:
        yield stack


def upstream_of(stack: Stack) -> HttpUpstream:
    found = stack.servers["s"]
    assert isinstance(found, HttpUpstream)
    return found


def call(stack: Stack, token: str, era: str = "modern", server: str = "s") -> Answer:
    return stack.call(era, server, Authorization=f"Bearer {token}")


def issuers(stack: Stack) -> list[dict[str, Any]]:
    found = stack.admin("/api/v1/issuers").json
    assert isinstance(found, list)
    return found


@pytest.fixture
def idp() -> Iterator[Idp]:
    provider = Idp(Hand("RS256", "first")).start()
    yield provider
    provider.stop()


@pytest.mark.parametrize("era", ERAS)
def test_a_token_of_the_provider_opens_its_own_server_and_no_other(idp: Idp, era: str) -> None:
    with external(idp, workers=2) as stack:
        token = idp.token(f"{stack.url}/s/mcp")
        answer = call(stack, token, era)
        assert answer.status == 200 and "result" in answer.json, answer
        row = until(lambda: next(iter(stack.rows(kind="call", principal="agent")), None), "the call's record")
        assert (row["principal"], row["client"], row["verdict"]) == ("agent", "agent", "allow")
        assert row["issuer"] == idp.url
        hits = upstream_of(stack).hits
        for wrong in (
            idp.token(f"{stack.url}/t/mcp"),
            idp.token(stack.url),
            idp.token("https://elsewhere.example/"),
        ):
            refused = stack.modern("s", "tools/call", {"name": "echo"}, Authorization=f"Bearer {wrong}")
            assert refused.status == 401
            assert 'error="invalid_token"' in refused.fields["www-authenticate"]
        assert upstream_of(stack).hits == hits
        assert token not in stack.log()


def test_the_documents_send_clients_to_the_provider(idp: Idp) -> None:
    with external(idp, scope="mcp", ask_scope="api://x/mcp") as stack:
        document = stack.ask(
            path="/.well-known/oauth-protected-resource/s/mcp", verb="GET", Authorization=None
        )
        assert document.json["authorization_servers"] == [idp.url]
        assert document.json["scopes_supported"] == ["api://x/mcp"]
        assert document.json["resource"] == f"{stack.url}/s/mcp"
        own = stack.ask(path="/.well-known/oauth-authorization-server", verb="GET", Authorization=None)
        assert own.status == 404
        challenge = stack.modern("s", "tools/list", Authorization=None).fields["www-authenticate"]
        assert 'scope="api://x/mcp"' in challenge and "error=" not in challenge
        done = stack.command("token", "--user", "alice", "--server", "s")
        assert done.returncode == 2 and "token-not-embedded" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_key_rollover_needs_no_restart_and_fails_no_call(idp: Idp, workers: int) -> None:
    with external(idp, workers=workers) as stack:
        old = idp.token(f"{stack.url}/s/mcp")
        assert call(stack, old).status == 200
        idp.stop()
        idp.start(Hand("ES256", "second"))
        fresh = idp.token(f"{stack.url}/s/mcp")
        answers = at_once(12, lambda index: call(stack, fresh))
        assert [answer.status for answer in answers] == [200] * 12  # whichever worker meets it first
        assert idp.count("/jwks") <= 2
        until(lambda: call(stack, old).status == 401, "the end of the old key")
        assert [one["keys"] for one in issuers(stack)] == [["second"]]
        assert [row for row in stack.rows(kind="admin") if row["method"] == "issuer-keys-changed"]


def test_an_outage_is_outlived_with_the_last_good_keys_and_ends_by_itself(idp: Idp) -> None:
    with external(idp) as stack:
        known, unseen = idp.token(f"{stack.url}/s/mcp"), idp.token(f"{stack.url}/s/mcp")
        assert call(stack, known).status == 200
        idp.stop()
        assert call(stack, known).status == call(stack, unseen).status == 200
        stack.admin("/api/v1/issuers/refresh", {"issuer": idp.url})
        found = issuers(stack)[0]
        assert (found["state"], found["error"]["code"]) == ("degraded", "fetch-failed")
        assert "degraded" in stack.command("doctor").stdout
        stranger = Hand("RS256", "third")
        closed = call(stack, stranger.token(iss=idp.url, aud=f"{stack.url}/s/mcp"))
        assert (closed.status, closed.fields["retry-after"]) == (503, "1")
        stack.stop()
        stack.start()  # keys outlive a restart too
        assert call(stack, known).status == 200
        idp.start()
        until(lambda: issuers(stack)[0]["state"] == "ok", "the provider's return", 15.0)
        assert call(stack, idp.token(f"{stack.url}/s/mcp")).status == 200


def test_a_start_without_the_provider_serves_nobody_until_it_is_there(idp: Idp) -> None:
    idp.stop()
    with external(idp) as stack:
        stranger = Hand("RS256", "first").token(iss=idp.url, aud=f"{stack.url}/s/mcp")
        assert call(stack, stranger).status == 503
        assert upstream_of(stack).hits == 0
        assert issuers(stack)[0]["state"] == "failed"
        idp.start()
        token = idp.token(f"{stack.url}/s/mcp")
        until(lambda: call(stack, token).status == 200, "the first keys", 15.0)


def test_unknown_keys_do_not_choose_how_often_the_provider_is_asked(idp: Idp) -> None:
    with external(idp) as stack:
        assert call(stack, idp.token(f"{stack.url}/s/mcp")).status == 200
        before = idp.count("/jwks")
        hand = Hand("RS256", "x")
        aud = f"{stack.url}/s/mcp"
        tokens = [
            hand.token({"kid": f"no-{number}"}, iss=idp.url, aud=aud, jti=f"{number}") for number in range(25)
        ]
        answers = at_once(25, lambda index: call(stack, tokens[index]))
        assert {answer.status for answer in answers} <= {401, 429}
        assert 1 <= idp.count("/jwks") - before <= 2
        assert call(stack, idp.token(f"{stack.url}/s/mcp")).status in (200, 429)


def test_a_revoked_token_of_the_provider_ends_its_open_streams_on_every_worker(idp: Idp) -> None:
    with external(idp, workers=2) as stack:
        token = idp.token(f"{stack.url}/s/mcp")
        bearer = f"Bearer {token}"
        fields = {"MCP_Protocol_Version": LEGACY, "Authorization": bearer}
        sessions = [stack.session("s", Authorization=bearer) for _ in range(6)]
        streams = [stack.events("s", verb="GET", Mcp_Session_Id=one, **fields) for one in sessions]
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        begun = time.monotonic()
        asked = {"jti": claims["jti"], "until": claims["exp"]}
        assert stack.admin("/api/v1/revocations", asked).status in (200, 201, 204)
        for stream in streams:
            assert stream.rest() == []
        until(lambda: all(call(stack, token).status == 401 for _ in range(8)), "the refusal")
        assert time.monotonic() - begun < 2.0
        assert call(stack, idp.token(f"{stack.url}/s/mcp")).status == 200


def event(idp: Idp, hand: Hand, audience: str, subject: str = "agent", **changes: Any) -> str:
    """A CAEP event of the provider: a session was revoked."""
    kind = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
    claims = {"iss": idp.url, "aud": audience, "iat": int(time.time()), "jti": f"e-{time.monotonic_ns()}"}
    claims |= {
        "sub_id": {"format": "iss_sub", "iss": idp.url, "sub": subject},
        "events": {kind: {}},
    } | changes
    header = {"typ": "secevent+jwt", "alg": hand.algorithm, "kid": hand.kid}
    return hand.sign(header, json.dumps(claims).encode())


def tell(stack: Stack, token: str) -> Answer:
    fields = {"Content_Type": "application/secevent+jwt", "Authorization": None}
    return stack.ask(body=token.encode(), path="/oauth/events", **fields)


def test_a_security_event_of_the_provider_ends_what_its_subject_has_open(idp: Idp) -> None:
    audience = "https://gateway.test/events"
    hand = idp.keys[0]
    with external(idp, workers=2, events_audience=audience) as stack:
        token = idp.token(f"{stack.url}/s/mcp")
        bearer = f"Bearer {token}"
        session = stack.session("s", Authorization=bearer)
        stream = stack.events(
            "s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, Authorization=bearer
        )
        for wrong in (
            event(idp, hand, "https://other.test"),
            event(idp, Hand("RS256", "first"), audience),
            token,
        ):
            assert tell(stack, wrong).status == 400
        assert tell(stack, event(idp, hand, audience, "somebody-else")).status == 202
        assert call(stack, token).status == 200
        said = event(idp, hand, audience)
        begun = time.monotonic()
        assert tell(stack, said).status == 202
        assert stream.rest() == []
        until(lambda: all(call(stack, token).status == 401 for _ in range(8)), "the refusal")
        assert time.monotonic() - begun < 2.0
        before = {one["subject"]: one["before"] for one in stack.admin("/api/v1/withdrawals").json}

        def fresh() -> bool:  # a token from the next second counts
            return call(stack, idp.token(f"{stack.url}/s/mcp")).status == 200

        until(fresh, "a token from after the event")
        assert tell(stack, said).status == 202  # sent again, it moves nothing
        assert {one["subject"]: one["before"] for one in stack.admin("/api/v1/withdrawals").json} == before
        stack.stop()
        stack.start()
        assert call(stack, token).status == 401


def test_an_operator_withdraws_a_subject_of_an_issuer(idp: Idp) -> None:
    with external(idp) as stack:
        token = idp.token(f"{stack.url}/s/mcp")
        assert call(stack, token).status == 200
        assert tell(stack, "x").status == 404  # nobody may send events here
        assert (
            stack.admin("/api/v1/withdrawals", {"issuer": "https://x.test", "subject": "agent"}).status == 404
        )
        assert stack.admin("/api/v1/withdrawals", {"issuer": idp.url, "subject": "agent"}).status == 200
        until(lambda: call(stack, token).status == 401, "the refusal")
        assert [row for row in stack.rows(kind="admin") if row["method"] == "subject-withdrawn"]


def test_a_trust_that_is_narrowed_while_serving_ends_what_it_let_in(idp: Idp) -> None:
    with external(idp, workers=2) as stack:
        token = idp.token(f"{stack.url}/s/mcp")
        bearer = f"Bearer {token}"
        session = stack.session("s", Authorization=bearer)
        stream = stack.events(
            "s", verb="GET", Mcp_Session_Id=session, MCP_Protocol_Version=LEGACY, Authorization=bearer
        )
        narrowed = {"mode": "external", "issuers": [{"issuer": idp.url, "clients": ["somebody-else"]}]}
        stack.write_settings(stack.settings_text(identity=narrowed))
        assert stream.rest() == []
        until(lambda: all(call(stack, token).status == 401 for _ in range(6)), "the refusal")
        stack.write_settings()
        until(lambda: all(call(stack, token).status == 200 for _ in range(6)), "the way back")


def test_a_flood_of_forged_tokens_is_answered_429_and_leaves_others_alone(idp: Idp) -> None:
    with external(idp) as stack:
        good = idp.token(f"{stack.url}/s/mcp")
        assert call(stack, good).status == 200
        forger = Hand("RS256", "first")
        now = time.time()
        aud = f"{stack.url}/s/mcp"
        tokens = [forger.token(now=now, iss=idp.url, aud=aud, jti=f"f-{number}") for number in range(60)]
        statuses = [call(stack, token).status for token in tokens]
        assert statuses[0] == 401 and 429 in statuses and set(statuses) == {401, 429}
        assert call(stack, good).status == 200
        refused = call(stack, forger.token(now=now, iss=idp.url, aud=aud, jti="more"))
        assert refused.status in (401, 429)
        assert refused.status == 401 or refused.fields["retry-after"] == "1"


# -- opaque tokens ------------------------------------------------------------------------------------------------


@pytest.fixture
def opaque(tmp_path: Path) -> Iterator[tuple[Idp, dict[str, Any]]]:
    provider = Idp(Hand("RS256", "first"), format="opaque").start()
    secret = tmp_path / "secret"
    secret.write_text(GATEWAY[1])
    secret.chmod(0o600)
    asks = {"client_id": GATEWAY[0], "client_secret": {"file": str(secret)}, "cache_seconds": 1}
    yield provider, asks
    provider.stop()


@pytest.mark.parametrize("era", ERAS)
def test_an_opaque_token_is_asked_about_and_withdrawn_with_its_answer(
    opaque: tuple[Idp, dict[str, Any]], era: str
) -> None:
    idp, asks = opaque
    with external(idp, introspection=asks, workers=2) as stack:
        token = idp.token(f"{stack.url}/s/mcp")
        assert "." not in token
        answer = call(stack, token, era)
        assert answer.status == 200 and "result" in answer.json, answer
        assert call(stack, idp.token(f"{stack.url}/t/mcp")).status == 401 if era == "modern" else True
        assert call(stack, "made-up-token").status == 401 if era == "modern" else True
        idp.revoke(token)
        until(
            lambda: stack.modern("s", "tools/list", Authorization=f"Bearer {token}").status == 401,
            "the withdrawal",
        )
        assert token not in stack.log()


def test_an_answer_is_kept_for_its_time_and_no_provider_means_no_leave(
    opaque: tuple[Idp, dict[str, Any]],
) -> None:
    idp, asks = opaque
    with external(idp, introspection=asks | {"cache_seconds": 60}) as stack:
        token, other = idp.token(f"{stack.url}/s/mcp"), idp.token(f"{stack.url}/s/mcp")
        at_once(8, lambda index: call(stack, token))
        assert idp.count("/token/introspection") == 1
        idp.stop()
        assert call(stack, token).status == 200  # within its time
        refused = call(stack, other)
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        assert upstream_of(stack).hits > 0


def test_with_the_wrong_secret_nobody_gets_in(opaque: tuple[Idp, dict[str, Any]], tmp_path: Path) -> None:
    idp, asks = opaque
    wrong = tmp_path / "wrong"
    wrong.write_text("not the secret")
    wrong.chmod(0o600)
    with external(idp, introspection=asks | {"client_secret": {"file": str(wrong)}}) as stack:
        assert call(stack, idp.token(f"{stack.url}/s/mcp")).status == 503
        assert "not the secret" not in stack.log()


# -- a second provider, over TLS with an authority of its own -------------------------------------------------------


class SecondIdp:
    """Metadata and keys over TLS, by hand: Keycloak's look, Ed25519 keys, an issuer with a path."""

    def __init__(self, folder: Path) -> None:
        self.hand = Hand("EdDSA", "ed")
        self.authority = Authority(folder)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                documents = {
                    "/realms/r/.well-known/openid-configuration": {
                        "issuer": outer.issuer,
                        "jwks_uri": outer.issuer + "/certs",
                    },
                    "/realms/r/certs": outer.hand.jwks(),
                }
                found = documents.get(self.path)
                content = json.dumps(found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = self.authority.server("127.0.0.1").wrap_socket(
            self.server.socket, server_side=True
        )
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.issuer = f"https://{self.host}/realms/r"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def token(self, resource: str, **changes: Any) -> str:
        claims = {
            "client_id": ...,
            "azp": "web",
            "typ": "Bearer",
            "aud": [resource, "account"],
            "roles": ...,
            "iss": self.issuer,
        }
        claims |= {"realm_access": {"roles": ["user"]}}
        return self.hand.token({"typ": "JWT"}, now=time.time(), **(claims | changes))


def test_two_providers_are_trusted_at_once_each_by_its_own_rules(idp: Idp, tmp_path: Path) -> None:
    second = SecondIdp(tmp_path)
    trust = {
        "issuer": second.issuer,
        "profile": "keycloak",
        "ca_file": str(second.authority.file),
        "clients": ["web"],
    }
    try:
        with external(idp, trust, allow=(second.host,)) as stack:
            resource = f"{stack.url}/s/mcp"
            assert call(stack, idp.token(resource)).status == 200
            assert call(stack, second.token(resource)).status == 200
            for bad in (
                second.token(resource, azp="other"),
                second.token(resource, typ="ID"),
                second.token(resource, iss=idp.url),  # its key is not the other's
                second.token(f"{stack.url}/t/mcp"),
                second.token(resource, iss="https://unknown.example"),
            ):
                assert call(stack, bad).status == 401
            documents = stack.ask(
                path="/.well-known/oauth-protected-resource/s/mcp", verb="GET", Authorization=None
            )
            assert documents.json["authorization_servers"] == [idp.url, second.issuer]
    finally:
        second.close()


def test_a_provider_whose_certificate_does_not_hold_is_not_believed(idp: Idp, tmp_path: Path) -> None:
    second = SecondIdp(tmp_path)
    other = Authority(tmp_path, "another authority")
    trust = {"issuer": second.issuer, "profile": "keycloak", "ca_file": str(other.file)}
    try:
        with external(idp, trust, allow=(second.host,)) as stack:
            assert call(stack, second.token(f"{stack.url}/s/mcp")).status == 503
            states = {one["issuer"]: one for one in issuers(stack)}
            assert states[second.issuer]["error"]["code"] == "fetch-untrusted"
            assert states[idp.url]["state"] == "ok"
            assert call(stack, idp.token(f"{stack.url}/s/mcp", AGENT)).status == 200
    finally:
        second.close()


# -- doctor oauth -------------------------------------------------------------------------------------------------


def settings_for(folder: Path, issuers_: list[dict[str, Any]], allow: list[str]) -> Stack:
    """A stack that is not started: the doctor needs its settings only."""
    tables: dict[str, dict[str, Any]] = {
        "identity": {"mode": "external", "issuers": issuers_},
        "network": {"allow": allow},
    }
    stack = Stack(folder, {"s": {"url": "https://mcp.example.com/mcp"}}, tables=tables)
    stack.write_settings()
    return stack


def examine(stack: Stack, target: str, token: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and lines of `doorward doctor oauth` by name."""
    words = ["doctor", "oauth", target, "--json"]
    if token:
        place = stack.folder / "token"
        place.write_text(token + "\n")
        words += ["--token-file", str(place)]
    done = stack.command(*words)
    assert done.stdout, done.stderr
    assert not token or token not in done.stdout
    return done.returncode, {line["name"]: line for line in json.loads(done.stdout)}


def test_the_doctor_says_that_a_token_fits_and_in_one_sentence_why_not(idp: Idp, tmp_path: Path) -> None:
    stack = settings_for(tmp_path, [{"issuer": idp.url}], [idp.host])
    resource = f"{stack.url}/s/mcp"
    code, lines = examine(stack, "s", idp.token(resource))
    assert code == 0, lines
    assert "fits: agent through agent" in lines["token"]["what"]
    assert "usable: first (RS256)" in lines["keys"]["what"]
    for audience, words in (
        (resource + "/", "trailing slash"),
        (resource.replace("127.0.0.1", "localhost"), "says localhost where this server says 127.0.0.1"),
        (resource.replace(str(stack.port), "1"), f"has port 1, gateway.public_url has {stack.port}"),
        (f"{stack.url}/mcp", "another endpoint"),
    ):
        code, lines = examine(stack, "s", idp.token(audience))
        assert (code, lines["token"]["state"]) == (1, "fail")
        assert words in lines["token"]["what"], lines["token"]
    code, lines = examine(stack, idp.url + "/")
    assert code == 1 and "the trailing slash counts" in lines["settings"]["what"]
    code, lines = examine(stack, "s", Hand().token(iss="https://other.example", aud=resource))
    assert code == 1 and "issuer https://other.example" in lines["token"]["what"]


def test_the_doctor_sees_what_clients_see(idp: Idp, tmp_path: Path) -> None:
    with external(idp) as stack:
        code, lines = examine(stack, "s", idp.token(f"{stack.url}/s/mcp"))
        assert code == 0 and lines["published"]["what"] == f"clients are sent to {idp.url}", lines
        elsewhere = settings_for(tmp_path, [{"issuer": idp.url}], [idp.host])
        code, lines = examine(elsewhere, "s")
        assert code == 0 and lines["published"]["state"] == "warn"
        other = upstream_of(stack).url.removesuffix("/mcp")
        elsewhere.write_settings(elsewhere.settings_text(gateway={"public_url": other}))
        code, lines = examine(elsewhere, "s")
        assert code == 1 and "without a challenge" in lines["published"]["what"]


def test_the_doctor_finds_what_is_wrong_between_the_issuer_and_the_settings(idp: Idp, tmp_path: Path) -> None:
    slash = settings_for(tmp_path, [{"issuer": idp.url + "/"}], [idp.host])
    code, lines = examine(slash, "s")
    assert code == 1 and "another trailing slash" in lines["metadata"]["what"]
    curve = settings_for(tmp_path, [{"issuer": idp.url, "algorithms": ["ES256"]}], [idp.host])
    code, lines = examine(curve, "s")
    assert code == 1 and "none of its 1 keys can verify with ES256" in lines["keys"]["what"]
    second = SecondIdp(tmp_path)
    try:
        trust = {"issuer": second.issuer, "profile": "keycloak"}
        code, lines = examine(settings_for(tmp_path, [trust], [second.host]), "s")
        assert code == 1 and "set ca_file" in lines["metadata"]["what"]
        trust["ca_file"] = str(second.authority.file)
        stack = settings_for(tmp_path, [trust], [second.host])
        code, lines = examine(stack, "s", second.token(f"{stack.url}/s/mcp"))
        assert code == 0, lines
        code, lines = examine(stack, "s", second.token(f"{stack.url}/s/mcp", typ="ID"))
        assert code == 1 and "is it an ID token" in lines["token"]["what"]
    finally:
        second.close()
    curve.write_settings()
    idp.stop()
    code, lines = examine(curve, idp.url)
    assert code == 1 and "cannot be reached" in lines["metadata"]["what"]
    done = curve.command("doctor", "oauth", "nowhere")
    assert done.returncode == 2 and "doctor-target" in done.stderr
