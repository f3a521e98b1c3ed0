"""Mode broker before a real identity provider: consent first, our own state, and an answer only in the browser that agreed (M4)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from doorward.app.oauth_pages import refusal
from tests.oauth.conftest import DESK
from tests.oauth.kit import Browser, Page, auth_rows, authorize_url, call, one_record, token_form
from tests.oauth.provider import SECRET, Provider
from tests.stack.kit import Stack
from tests.stand_ins.http_server import HttpUpstream, tool

pytestmark = pytest.mark.node
KEY = RSAKey.generate_key(2_048, private=True, auto_kid=True)
ROBOT = ECKey.generate_key("P-256", private=True)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
STRAY = (
    "This sign-in was not begun in this browser, or is over. Go back to your MCP client and connect again."
)


class Brokered(Stack):
    """A stack before whose start the provider is started, because each needs the other's address."""

    provider: Provider

    def start(self) -> Stack:
        """See ``Stack.start``."""
        self.provider = Provider(
            f"{self.url}/oauth/callback", keys=[{**KEY.as_dict(private=True), "use": "sig", "alg": "RS256"}]
        )
        robot = self.folder / "robot.json"
        robot.write_text(json.dumps({"keys": [ROBOT.as_dict(private=False)]}))
        secret = self.folder / "idp-secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        self.tables = {
            "identity": {
                "mode": "broker",
                "clients": [DESK, {"id": "robot", "grants": ["jwt_bearer"], "jwks_file": "robot.json"}],
                "broker": {
                    "issuer": self.provider.url,
                    "client_id": "doorward",
                    "secret": {"file": "idp-secret"},
                },
            },
            "network": {"allow": [f"127.0.0.1:{self.provider.port}"]},
        }
        return super().start()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokered]:
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    started = Brokered(tmp_path_factory.mktemp("broker"), servers, workers=2)
    try:
        started.start()
        yield started
    finally:
        try:
            started.stop()
        finally:
            started.provider.close()
            servers["notes"].close()


def approved(browser: Browser, **changes: str) -> Page:
    """The redirect to the provider, after consent."""
    page = browser.get(authorize_url(browser.stack, **changes))
    assert page.status == 200, page
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    assert done.status == 303, done
    return done


def changed(url: str, **changes: str | None) -> str:
    """A URL with query parameters changed; None leaves one out."""
    parts = urlsplit(url)
    given = {**dict(parse_qsl(parts.query)), **changes}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    return urlunsplit(parts._replace(query=query))


def test_a_user_signs_in_at_the_provider_and_has_the_roles_that_it_says(stack: Brokered) -> None:
    browser, provider = Browser(stack), stack.provider
    page = browser.get(authorize_url(stack))
    assert f"you sign in at {provider.url}" in page.text
    assert provider.authorizations() == 0
    assert not any("trip" in name for name in browser.cookies)  # AS-27, AS-30
    done = approved(browser)
    assert any("trip" in name for name in browser.cookies)
    back = provider.walk(done.location)
    assert back.startswith(f"{stack.url}/oauth/callback?code=")
    answer = browser.get(back)
    assert answer.status == 303, answer
    assert set(answer.answer) == {"code", "state", "iss"}
    assert answer.answer["state"] == "a state"
    assert not any("trip" in name for name in browser.cookies)
    tokens = Browser(stack).post("/oauth/token", token_form(stack, answer.answer["code"])).json
    payload = tokens["access_token"].split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (said["sub"], said["roles"], said["iss"]) == ("carol", ["user"], stack.url)
    assert call(stack, tokens["access_token"]) == 200
    form = {"grant_type": "refresh_token", "client_id": "desk", "refresh_token": tokens["refresh_token"]}
    assert Browser(stack).post("/oauth/token", form).status == 200
    # the browser is known now: consent is asked again, the provider is not
    before = provider.authorizations()
    page = browser.get(authorize_url(stack))
    assert "carol" in page.text
    again = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    assert again.answer["code"]
    assert provider.authorizations() == before
    assert stack.rows(kind="call")[0]["principal"] == "carol"


def test_r9_nothing_of_the_clients_request_goes_to_the_provider(stack: Brokered) -> None:
    done = approved(
        Browser(stack),
        prompt="consent",
        login_hint="victim",
        acr_values="x",
        max_age="1",
        nonce="n",
        claims="{}",
    )
    sent = parse_qs(urlsplit(done.location).query)
    assert set(sent) == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method",
    }  # fmt: skip
    assert sent["client_id"] == ["doorward"]
    assert sent["redirect_uri"] == [f"{stack.url}/oauth/callback"]
    assert sent["scope"] == ["openid profile"]
    assert sent["state"] != ["a state"]
    assert sent["code_challenge_method"] == ["S256"]
    other = parse_qs(urlsplit(approved(Browser(stack)).location).query)
    for name in ("state", "nonce", "code_challenge"):
        assert other[name] != sent[name]


def test_t08_a_link_with_an_attackers_client_gives_no_code_although_the_provider_remembers(
    stack: Brokered,
) -> None:
    body = {
        "client_name": "Nice",
        "redirect_uris": ["https://evil.example/cb"],
        "token_endpoint_auth_method": "none",
    }
    made = (
        Browser(stack).ask("POST", "/oauth/register", json.dumps(body), Content_Type="application/json").json
    )
    before = stack.provider.authorizations()
    url = authorize_url(stack, client_id=made["client_id"], redirect_uri="https://evil.example/cb")
    victim = Browser(stack).get(url)
    assert victim.status == 200
    assert "https://evil.example" in victim.text
    assert "nobody has checked it" in victim.text
    assert "location" not in victim.fields
    assert stack.provider.authorizations() == before


def test_t09_who_agreed_in_one_browser_gets_no_code_through_another(stack: Brokered) -> None:
    """GHSA-rww4-4w9c-7733: the attacker agrees, the victim with a session at the provider follows the link."""
    attacker, victim = Browser(stack), Browser(stack)
    done = approved(attacker)
    back = stack.provider.walk(done.location)
    victim.get(authorize_url(stack))  # it has a cookie of its own
    before = len(auth_rows(stack))
    answer = victim.get(back)
    assert answer.status == 403
    assert answer.body.encode() == refusal(STRAY, status=403).body
    assert "location" not in answer.fields
    assert one_record(stack, before, "callback-refused")["reason"].endswith("state is not this browser's")
    assert attacker.get(back).status == 303  # for the one who agreed it still counts, once
    assert attacker.get(back).status == 403


CHANGED: list[tuple[str, dict[str, Any], str]] = [
    ("no state", {"state": None}, "state is not this browser's"),
    ("an empty state", {"state": ""}, "state is not this browser's"),
    ("another state", {"state": "x" * 43}, "state is not this browser's"),
    ("state with an umlaut", {"state": "ü"}, "state is not this browser's"),
    ("another issuer", {"iss": "https://evil.example"}, "answer of another issuer"),
    ("an issuer with a slash more", {"iss": "ISSUER/"}, "answer of another issuer"),
    ("no issuer, though it is promised", {"iss": None}, "answer without its issuer"),
    ("no code", {"code": None}, "The identity provider did not sign you in."),
    ("an error", {"code": None, "error": "access_denied", "error_description": "<b>call 555</b>"},
     "The identity provider did not sign you in."),
    ("an error beside the code", {"error": "x"}, "The identity provider did not sign you in."),
    ("another code", {"code": "made-up"}, "token: status 400"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "reason"), CHANGED, ids=lambda one: one if isinstance(one, str) else ""
)
def test_an_answer_that_is_not_exactly_ours_ends_the_sign_in(
    stack: Brokered, name: str, changes: dict[str, Any], reason: str
) -> None:
    browser = Browser(stack)
    back = stack.provider.walk(approved(browser).location)
    before, hits = len(auth_rows(stack)), stack.servers["notes"].hits
    given = {key: one and one.replace("ISSUER", stack.provider.url) for key, one in changes.items()}
    answer = browser.get(changed(back, **given))
    assert answer.status in (403, 502), answer
    assert "555" not in answer.body
    assert "location" not in answer.fields
    assert stack.servers["notes"].hits == hits
    assert one_record(stack, before, "callback-refused")["reason"].endswith(reason)
    if "state is not" not in reason:
        assert browser.get(back).status == 403  # the state was used up by that


def test_the_way_back_needs_the_cookie_of_the_trip(stack: Brokered) -> None:
    browser = Browser(stack)
    back = stack.provider.walk(approved(browser).location)
    name = next(one for one in browser.cookies if "trip" in one)
    kept = browser.cookies.pop(name)
    assert browser.get(back).status == 403
    browser.cookies[name] = kept
    assert browser.get(back).status == 303


def test_two_tabs_come_back_each_with_their_own(stack: Brokered) -> None:
    browser = Browser(stack)
    first, second = approved(browser, state="first"), approved(browser, state="second")
    assert browser.get(stack.provider.walk(second.location)).answer["state"] == "second"
    # signing in has given the browser another name, so what the older one had begun is begun anew
    assert browser.get(stack.provider.walk(first.location)).status == 403


def test_nothing_of_the_providers_answer_or_our_secret_there_is_kept(stack: Brokered, tmp_path: Path) -> None:
    browser = Browser(stack)
    done = approved(browser)
    state = parse_qs(urlsplit(done.location).query)["state"][0]
    for path in [*stack.data_dir.rglob("*"), stack.log_path]:
        if path.is_file():
            content = path.read_bytes()
            for canary in (state, SECRET, parse_qs(urlsplit(done.location).query)["nonce"][0]):
                assert canary.encode() not in content, path.name


def test_a_provider_that_is_gone_signs_nobody_in_and_says_nothing_of_why(tmp_path: Path) -> None:
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    stack = Brokered(tmp_path, servers)
    try:
        stack.start()
        stack.provider.close()
        browser = Browser(stack)
        page = browser.get(authorize_url(stack))
        before = len(auth_rows(stack))
        done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
        assert done.status == 502
        tell = "The identity provider did not sign you in. Try again, or ask the operator."
        assert done.body.encode() == refusal(tell, status=502).body
        assert (
            one_record(stack, before, "consent-refused")["reason"] == "server_error: metadata: fetch-failed"
        )
        assert stack.command("token", "--user", "carol", "--server", "notes").returncode == 2
        assert stack.admin("/api/v1/login-links", {"user": "carol"}).status == 409
    finally:
        stack.stop()
        servers["notes"].close()


def test_users_of_another_provider_are_other_people(tmp_path: Path) -> None:
    """The settings change to a provider that has a carol, too: sessions and refresh tokens of the first are worth nothing."""
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    stack = Brokered(tmp_path, servers)
    other = None
    try:
        stack.start()
        browser = Browser(stack)
        back = browser.get(stack.provider.walk(approved(browser).location))
        tokens = Browser(stack).post("/oauth/token", token_form(stack, back.answer["code"])).json
        assert "carol" in browser.get(authorize_url(stack)).text
        other = Provider(f"{stack.url}/oauth/callback")
        stack.tables["identity"]["broker"]["issuer"] = other.url
        stack.tables["network"]["allow"].append(f"127.0.0.1:{other.port}")
        stack.write_settings()
        assert stack.admin("/api/v1/reload", {}).status == 200
        assert "carol" not in browser.get(authorize_url(stack)).text
        form = {"grant_type": "refresh_token", "client_id": "desk", "refresh_token": tokens["refresh_token"]}
        refused = Browser(stack).post("/oauth/token", form)
        assert (refused.status, refused.json["error"]) == (400, "invalid_grant")
    finally:
        stack.stop()
        stack.provider.close()
        if other is not None:
            other.close()
        servers["notes"].close()


def signed(key: Any, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A JWT."""
    now = int(time.time())
    body = json.dumps({"iat": now, "exp": now + 60, **claims})
    return jws.serialize_compact(header, body, key, [header["alg"]])


def with_assertion(stack: Brokered, number: int, *, client: str = "robot", **changes: Any) -> Page:
    """A token request of the robot with an assertion of the provider."""
    claims = {"iss": stack.provider.url, "sub": "carol", "aud": stack.url, "client_id": "robot", "jti": f"a{number}",
              "resource": f"{stack.url}/notes/mcp", "roles": ["user"], **changes}  # fmt: skip
    own = {"iss": client, "sub": client, "aud": stack.url, "jti": f"c{number}-{client}"}
    form = {
        "grant_type": GRANT,
        "assertion": signed(KEY, {"alg": "RS256", "typ": "oauth-id-jag+jwt", "kid": KEY.kid}, claims),
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": signed(ROBOT, {"alg": "ES256"}, own),
    }
    return Browser(stack).post("/oauth/token", form)


def test_a_client_of_the_enterprise_brings_an_assertion_instead_of_a_browser(stack: Brokered) -> None:
    assert (
        GRANT in Browser(stack).get("/.well-known/oauth-authorization-server").json["grant_types_supported"]
    )
    done = with_assertion(stack, 1)
    assert done.status == 200, done
    assert "refresh_token" not in done.json
    assert call(stack, done.json["access_token"]) == 200
    assert stack.rows(kind="call")[0]["principal"] == "carol"
    before, hits = len(auth_rows(stack)), stack.servers["notes"].hits
    again = with_assertion(stack, 1)  # the client's own proof is used, too
    assert (again.status, again.json["error"]) == (401, "invalid_client")
    replayed = with_assertion(stack, 2, jti="a1")
    assert (replayed.status, replayed.json["error"]) == (400, "invalid_grant")
    foreign = with_assertion(stack, 3, client_id="desk")
    assert (foreign.status, foreign.json["error"]) == (400, "invalid_grant")
    other = with_assertion(stack, 4, resource=f"{stack.url}/none/mcp")
    assert (other.status, other.json["error"]) == (400, "invalid_target")
    public = Browser(stack).post(
        "/oauth/token", {"grant_type": GRANT, "client_id": "desk", "assertion": "x.y.z"}
    )
    assert (public.status, public.json["error"]) == (400, "unauthorized_client")
    assert len(auth_rows(stack)) == before + 5
    assert stack.servers["notes"].hits == hits
