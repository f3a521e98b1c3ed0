"""From a fresh browser to a tool call and back: codes, tokens, renewal, reuse, revocation and introspection."""

from __future__ import annotations

import base64
import json

import pytest

from tests.oauth.kit import (
    CALLBACK,
    VERIFIER,
    Browser,
    auth_rows,
    authorize_url,
    call,
    code_of,
    link,
    token_form,
    tokens_of,
)  # fmt: skip
from tests.stack.kit import Stack, at_once
from tests.stack.wire import until

SHOP_URI = "https://shop.example/cb?from=us"
BASIC = "Basic " + base64.b64encode(b"shop:the+secret+of+the+shop").decode()


def claims(token: str) -> dict[str, object]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


def test_a_user_signs_in_consents_and_the_client_calls_a_tool(stack: Stack) -> None:
    browser = Browser(stack)
    page = browser.get(authorize_url(stack))
    assert page.status == 200
    assert "doorward login-link" in page.text
    assert "Location" not in page.fields
    ticket = link(stack)
    page = browser.post("/oauth/login", {"transaction": page.hidden(), "ticket": ticket})
    assert page.status == 303
    page = browser.get(page.location)
    assert "Allow Desk?" in page.text
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    assert done.status == 303
    assert done.location.startswith(CALLBACK + "?code=")
    assert set(done.answer) == {"code", "state", "iss"}
    assert done.answer["state"] == "a state"
    assert done.answer["iss"] == stack.url
    answer = Browser(stack).post("/oauth/token", token_form(stack, done.answer["code"]))
    assert answer.status == 200, answer
    assert answer.fields["cache-control"] == "no-store"
    tokens = answer.json
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 900
    said = claims(tokens["access_token"])
    assert said["aud"] == f"{stack.url}/notes/mcp"
    assert (said["iss"], said["sub"], said["client_id"], said["scope"]) == (stack.url, "alice", "desk", "mcp")
    assert call(stack, tokens["access_token"]) == 200


def test_t10_a_token_is_for_the_resource_that_was_asked_and_for_no_other(browser: Browser) -> None:
    token = tokens_of(browser)["access_token"]
    stack = browser.stack
    assert call(stack, token) == 200
    calls = stack.servers["wiki"].hits
    assert call(stack, token, "wiki") == 401
    assert call(stack, token, "") == 401
    assert stack.servers["wiki"].hits == calls


def test_t41_a_token_of_another_installation_is_nothing_here(browser: Browser, tmp_path) -> None:
    from doorward.base.clock import SystemClock
    from doorward.identity.keys import KeySet
    from doorward.identity.tokens import issue

    stack = browser.stack
    foreign = issue(
        KeySet.generate(),
        issuer=stack.url,
        resource=f"{stack.url}/notes/mcp",
        subject="alice",
        client="desk",
        roles=("user",),
        clock=SystemClock(),
    )
    assert call(stack, foreign) == 401
    assert call(stack, tokens_of(browser)["access_token"]) == 200


WRONG_REDEEMS = [
    ("wrong verifier", {"code_verifier": VERIFIER + "x"}, 400, "invalid_grant"),
    ("no verifier", {"code_verifier": ""}, 400, "invalid_grant"),
    ("short verifier", {"code_verifier": "x" * 42}, 400, "invalid_grant"),
    ("the challenge as verifier", {"code_verifier": "k" * 43}, 400, "invalid_grant"),
    ("another redirect URI", {"redirect_uri": "http://127.0.0.1:43128/callback"}, 400, "invalid_grant"),
    ("another resource", {"resource": "RESOURCE/wiki/mcp"}, 400, "invalid_target"),
    ("a resource that is none", {"resource": "https://evil.example/mcp"}, 400, "invalid_target"),
    ("another client", {"client_id": "shop", "client_secret": "the secret of the shop"}, 400, "invalid_grant"),
    ("a client that is none", {"client_id": "nobody"}, 401, "invalid_client"),
    ("a secret of a public client", {"client_secret": "x"}, 401, "invalid_client"),
    ("more scope", {"scope": "mcp admin"}, 400, "invalid_scope"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "status", "error"), WRONG_REDEEMS, ids=lambda one: str(one)[:24])
def test_a_code_is_bound_to_everything_and_used_up_by_any_try(
    browser: Browser, name: str, changes: dict[str, str], status: int, error: str
) -> None:
    stack, code = browser.stack, code_of(browser)
    changes = {key: value.replace("RESOURCE", stack.url) for key, value in changes.items()}
    before = len(auth_rows(stack))
    answer = Browser(stack).post("/oauth/token", token_form(stack, code, **changes))
    assert (answer.status, answer.json["error"]) == (status, error), answer
    assert set(answer.json) == {"error", "error_description"}
    assert len(auth_rows(stack)) == before + 1
    again = Browser(stack).post("/oauth/token", token_form(stack, code))
    assert again.status == (200 if status == 401 else 400), again


def test_a_code_that_comes_twice_ends_what_was_made_from_it(browser: Browser) -> None:
    stack, code = browser.stack, code_of(browser)
    first = Browser(stack).post("/oauth/token", token_form(stack, code))
    assert call(stack, first.json["access_token"]) == 200
    second = Browser(stack).post("/oauth/token", token_form(stack, code))
    assert (second.status, second.json["error"]) == (400, "invalid_grant")
    until(lambda: call(stack, first.json["access_token"]) == 401, "the token's end")
    form = {"grant_type": "refresh_token", "client_id": "desk", "refresh_token": first.json["refresh_token"]}
    assert Browser(stack).post("/oauth/token", form).json["error"] == "invalid_grant"


def test_of_many_who_redeem_one_code_at_once_nobody_keeps_a_token(browser: Browser) -> None:
    stack, code = browser.stack, code_of(browser)
    answers = at_once(8, lambda _: Browser(stack).post("/oauth/token", token_form(stack, code)))
    good = [one for one in answers if one.status == 200]
    assert len(good) <= 1
    for one in good:
        until(lambda: call(stack, one.json["access_token"]) == 401, "the token's end")


def test_refresh_tokens_change_and_an_old_one_ends_the_family(browser: Browser) -> None:
    stack = browser.stack
    first = tokens_of(browser)
    form = {"grant_type": "refresh_token", "client_id": "desk", "resource": f"{stack.url}/notes/mcp"}
    second = Browser(stack).post("/oauth/token", {**form, "refresh_token": first["refresh_token"]})
    assert second.status == 200, second
    assert second.json["refresh_token"] != first["refresh_token"]
    assert call(stack, second.json["access_token"]) == 200
    third = Browser(stack).post("/oauth/token", {**form, "refresh_token": second.json["refresh_token"]})
    assert third.status == 200
    stolen = Browser(stack).post("/oauth/token", {**form, "refresh_token": first["refresh_token"]})
    assert (stolen.status, stolen.json["error"]) == (400, "invalid_grant")
    for token in (first, second.json, third.json):
        until(lambda: call(stack, token["access_token"]) == 401, "the family's end")  # noqa: B023
    last = Browser(stack).post("/oauth/token", {**form, "refresh_token": third.json["refresh_token"]})
    assert last.json["error"] == "invalid_grant"
    assert any("used before" in row["reason"] for row in auth_rows(stack, "token-refused"))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"resource": "https://evil.example/mcp"}, "invalid_target"),
        ({"scope": "mcp admin"}, "invalid_scope"),
        ({"client_id": "shop", "client_secret": "the secret of the shop"}, "invalid_grant"),
        ({"refresh_token": "a.b"}, "invalid_grant"),
        ({"refresh_token": ""}, "invalid_request"),
    ],
)
def test_a_refresh_token_is_bound_to_client_resource_and_scope(
    browser: Browser, changes: dict[str, str], error: str
) -> None:
    stack, tokens = browser.stack, tokens_of(browser)
    form = {"grant_type": "refresh_token", "client_id": "desk", "refresh_token": tokens["refresh_token"]}
    answer = Browser(stack).post("/oauth/token", {**form, **changes})
    assert (answer.status, answer.json["error"]) == (400, error)
    assert Browser(stack).post("/oauth/token", form).status == 200


def test_a_client_revokes_its_own_tokens_and_nobody_elses(browser: Browser) -> None:
    stack, tokens = browser.stack, tokens_of(browser)
    shop = Browser(stack).post("/oauth/revoke", {"token": tokens["access_token"]}, Authorization=BASIC)
    assert (shop.status, shop.body) == (200, "")
    assert call(stack, tokens["access_token"]) == 200
    own = Browser(stack).post("/oauth/revoke", {"token": tokens["access_token"], "client_id": "desk"})
    assert own.status == 200
    until(lambda: call(stack, tokens["access_token"]) == 401, "the token's end")
    form = {"grant_type": "refresh_token", "client_id": "desk", "refresh_token": tokens["refresh_token"]}
    renewed = Browser(stack).post("/oauth/token", form).json
    assert (
        Browser(stack).post("/oauth/revoke", {"token": renewed["refresh_token"], "client_id": "desk"}).status
        == 200
    )
    until(lambda: call(stack, renewed["access_token"]) == 401, "the family's end")
    assert Browser(stack).post("/oauth/revoke", {"token": "nothing", "client_id": "desk"}).status == 200


def test_only_a_proven_client_may_ask_about_tokens(browser: Browser) -> None:
    stack, tokens = browser.stack, tokens_of(browser)
    asked = Browser(stack).post("/oauth/introspect", {"token": tokens["access_token"]}, Authorization=BASIC)
    assert asked.status == 200
    found = asked.json
    assert (found["active"], found["sub"], found["client_id"]) == (True, "alice", "desk")
    assert found["aud"] == f"{stack.url}/notes/mcp"
    refresh = Browser(stack).post(
        "/oauth/introspect", {"token": tokens["refresh_token"]}, Authorization=BASIC
    )
    assert refresh.json["active"] is True
    lamp = {
        "client_id": "lamp",
        "client_secret": "the secret of the lamp",
    }  # proven, but not trusted with others' tokens
    other = Browser(stack).post("/oauth/introspect", {"token": tokens["access_token"], **lamp})
    assert other.json == {"active": False}
    public = Browser(stack).post("/oauth/introspect", {"token": tokens["access_token"], "client_id": "desk"})
    assert (public.status, public.json["error"]) == (401, "invalid_client")
    Browser(stack).post("/oauth/revoke", {"token": tokens["refresh_token"], "client_id": "desk"})
    until(
        lambda: (
            Browser(stack)
            .post("/oauth/introspect", {"token": tokens["access_token"]}, Authorization=BASIC)
            .json
            == {"active": False}
        ),
        "the token's end",
    )


def test_a_client_acts_for_itself_with_its_own_roles(stack: Stack) -> None:
    form = {"grant_type": "client_credentials", "resource": f"{stack.url}/notes/mcp"}
    lamp = {"client_id": "lamp", "client_secret": "the secret of the lamp"}
    done = Browser(stack).post("/oauth/token", {**form, **lamp})
    assert done.status == 200
    assert "refresh_token" not in done.json
    assert claims(done.json["access_token"])["sub"] == "client:lamp"
    assert call(stack, done.json["access_token"]) == 200
    for changes, status, error in (
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": "desk", "client_secret": ""}, 400, "unauthorized_client"),
        ({"resource": ""}, 400, "invalid_target"),
    ):
        refused = Browser(stack).post("/oauth/token", {**form, **lamp, **changes})
        assert (refused.status, refused.json["error"]) == (status, error), changes


def test_a_consent_is_listed_and_taken_back_with_its_tokens(stack: Stack) -> None:
    browser = Browser(stack).sign_in("bob")
    tokens = tokens_of(browser)
    listed = json.loads(stack.command("consents", "list", "--json").stdout)
    own = next(one for one in listed if one["user"] == "bob" and one["client_id"] == "desk")
    done = stack.command("consents", "revoke", own["id"], "--json")
    assert json.loads(done.stdout)["tokens"] == 1
    until(lambda: call(stack, tokens["access_token"]) == 401, "the token's end")
    form = {"grant_type": "refresh_token", "client_id": "desk", "refresh_token": tokens["refresh_token"]}
    assert Browser(stack).post("/oauth/token", form).json["error"] == "invalid_grant"
    assert stack.command("consents", "revoke", own["id"]).returncode != 0


def test_nothing_of_a_secret_is_kept_logged_or_put_on_record(browser: Browser) -> None:
    stack = browser.stack
    code = code_of(browser)
    tokens = Browser(stack).post("/oauth/token", token_form(stack, code)).json
    ticket = link(stack).partition("ticket=")[2]
    stack.command("audit", "verify", "--json")
    canaries = [
        code,
        tokens["access_token"],
        tokens["refresh_token"].partition(".")[2],
        ticket,
        *browser.cookies.values(),
    ]
    for path in [*stack.data_dir.rglob("*"), stack.log_path]:
        if path.is_file():
            content = path.read_bytes()
            for canary in (*canaries, "the secret of the shop"):
                assert canary.encode() not in content, path.name
