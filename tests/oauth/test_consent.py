"""Consent: what the page says, and that no forged, foreign, stale or repeated form ever leads to a code (T-08, T-14, T-34)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from doorward.app.oauth_pages import refusal
from tests.oauth.kit import (
    CALLBACK,
    CHALLENGE,
    Browser,
    Page,
    auth_rows,
    authorize_url,
    call,
    code_of,
    link,
    one_record,
    token_form,
    tokens_of,
)  # fmt: skip
from tests.stack.kit import Stack

STALE = "This page is not current any more. Go back to your MCP client and connect again."
NOT_OURS = "This form is not ours."
GONE = "This link does not sign anybody in any more: it was used, is older than ten minutes or never was. Make a new one."


def asked(browser: Browser, **changes: str) -> Page:
    """A consent page."""
    page = browser.get(authorize_url(browser.stack, **changes))
    assert page.status == 200
    assert "Allow " in page.text
    return page


def approve(browser: Browser, transaction: str, **fields: Any) -> Page:
    """The form's button."""
    return browser.post("/oauth/consent", {"transaction": transaction, "decision": "approve"}, **fields)


def turned(text: str, at: int) -> str:
    """A text with one bit of one character changed."""
    other = "A" if text[at] != "A" else "B"
    return text[:at] + other + text[at + 1 :]


def test_the_page_says_who_asks_for_what_and_where_it_leads(browser: Browser) -> None:
    page = asked(browser)
    for word in (
        "Desk",
        "the operator of this gateway",
        "http://127.0.0.1:43127",
        f"{browser.stack.url}/notes/mcp",
        "mcp",
        "alice",
    ):
        assert word in page.text
    assert "any program on this computer can claim to be it" in page.text
    assert "<script" not in page.body
    assert " style=" not in page.body
    assert page.fields["content-security-policy"] == (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "form-action 'self' http://127.0.0.1:43127 https:"
    )
    assert page.fields["x-frame-options"] == "DENY"
    assert page.fields["referrer-policy"] == "same-origin"
    assert page.fields["x-content-type-options"] == "nosniff"
    assert page.fields["cache-control"] == "no-store"
    assert browser.get("/oauth/style.css").fields["content-type"] == "text/css; charset=utf-8"


def test_the_cookie_says_nothing_and_no_script_reads_it(stack: Stack) -> None:
    browser = Browser(stack)
    page = browser.get(authorize_url(stack))
    cookie = page.fields["set-cookie"]
    for part in ("doorward-browser=", "HttpOnly", "SameSite=lax", "Path=/;"):
        assert part in cookie
    before = dict(browser.cookies)
    browser.post("/oauth/login", {"transaction": page.hidden(), "ticket": link(stack)})
    assert browser.cookies != before  # signing in never keeps a name that somebody could have planted


def forge(name: str, status: int, tell: str, reason: str, work: Callable[[Browser, Page], Page]) -> Any:
    return pytest.param(status, tell, reason, work, id=name)


def body_of(browser: Browser, form: str, **fields: Any) -> Page:
    return browser.ask("POST", "/oauth/consent", form, **fields)


def other_browser(browser: Browser, user: str = "alice") -> Browser:
    return Browser(browser.stack).sign_in(user)


def again(browser: Browser, page: Page) -> Page:
    assert approve(browser, page.hidden()).status == 303
    return approve(browser, page.hidden())


def after_switch(browser: Browser, page: Page) -> Page:
    browser.cookies = other_browser(browser, "bob").cookies
    return approve(browser, page.hidden())


def with_login_seal(browser: Browser, page: Page) -> Page:
    signed_out = Browser(browser.stack)
    login = signed_out.get(authorize_url(browser.stack))
    signed_out.cookies.update(browser.cookies)
    return approve(browser, login.hidden())


def resealed(page: Page, **changes: Any) -> str:
    """The sealed request with something changed in it, and the old MAC."""
    import msgspec

    body, _, mac = page.hidden().partition(".")
    value = msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    value[5].update(changes)
    fresh = base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).rstrip(b"=").decode()
    return f"{fresh}.{mac}"


FORGED = [
    forge("no transaction", 403, STALE, "no seal of ours", lambda b, p: approve(b, "")),
    forge("a made-up transaction", 403, STALE, "no seal of ours", lambda b, p: approve(b, "x.y")),
    forge("only a dot", 403, STALE, "no seal of ours", lambda b, p: approve(b, ".")),
    forge("without its MAC", 403, STALE, "no seal of ours", lambda b, p: approve(b, p.hidden().partition(".")[0])),
    forge("with an empty MAC", 403, STALE, "no seal of ours", lambda b, p: approve(b, p.hidden().partition(".")[0] + ".")),
    forge("first character turned", 403, STALE, "no seal of ours", lambda b, p: approve(b, turned(p.hidden(), 0))),
    forge("middle turned", 403, STALE, "no seal of ours", lambda b, p: approve(b, turned(p.hidden(), 60))),
    forge("MAC turned", 403, STALE, "no seal of ours", lambda b, p: approve(b, turned(p.hidden(), len(p.hidden()) - 20))),
    forge("MAC of another page", 403, STALE, "no seal of ours",
          lambda b, p: approve(b, p.hidden().partition(".")[0] + "." + asked(b, state="x").hidden().partition(".")[2])),
    forge("another redirect URI inside", 403, STALE, "no seal of ours",
          lambda b, p: approve(b, resealed(p, redirect_uri="https://evil.example/cb"))),
    forge("another resource inside", 403, STALE, "no seal of ours",
          lambda b, p: approve(b, resealed(p, resource=f"{b.stack.url}/wiki/mcp"))),
    forge("another client inside", 403, STALE, "no seal of ours", lambda b, p: approve(b, resealed(p, client_id="shop"))),
    forge("another challenge inside", 403, STALE, "no seal of ours", lambda b, p: approve(b, resealed(p, challenge="k" * 43))),
    forge("not base64", 403, STALE, "no seal of ours", lambda b, p: approve(b, "é." + p.hidden().partition(".")[2])),
    forge("no cookie", 403, STALE, "seal of another browser", lambda b, p: approve(b, p.hidden(), Cookie=None)),
    forge("an empty cookie", 403, STALE, "seal of another browser", lambda b, p: approve(b, p.hidden(), Cookie="doorward-browser=")),
    forge("a made-up cookie", 403, STALE, "seal of another browser",
          lambda b, p: approve(b, p.hidden(), Cookie="doorward-browser=" + "x" * 43)),
    forge("a cookie of another name", 403, STALE, "seal of another browser",
          lambda b, p: approve(b, p.hidden(), Cookie="__Host-doorward=" + b.cookies["doorward-browser"])),
    forge("the same user's other browser", 403, STALE, "seal of another browser",
          lambda b, p: approve(other_browser(b), p.hidden())),
    forge("the attacker's page at the victim", 403, STALE, "seal of another browser",
          lambda b, p: approve(b, asked(other_browser(b, "bob")).hidden())),
    forge("somebody else signed in meanwhile", 403, STALE, "seal of another browser", after_switch),
    forge("the seal of the sign-in page", 403, STALE, "seal of another page", with_login_seal),
    forge("the form twice", 403, STALE, "the form came back twice", again),
    forge("from another site", 403, NOT_OURS, "sent by another site",
          lambda b, p: approve(b, p.hidden(), Sec_Fetch_Site="cross-site")),
    forge("from a sibling site", 403, NOT_OURS, "sent by another site",
          lambda b, p: approve(b, p.hidden(), Sec_Fetch_Site="same-site")),
    forge("typed into the address bar", 403, NOT_OURS, "sent by another site",
          lambda b, p: approve(b, p.hidden(), Sec_Fetch_Site="none")),
    forge("no decision", 400, "Allow or deny.", "no decision",
          lambda b, p: b.post("/oauth/consent", {"transaction": p.hidden()})),
    forge("an odd decision", 400, "Allow or deny.", "no decision",
          lambda b, p: b.post("/oauth/consent", {"transaction": p.hidden(), "decision": "APPROVE"})),
    forge("two decisions", 400, "A parameter stands there twice.", "A parameter stands there twice.",
          lambda b, p: body_of(b, urlencode([("transaction", p.hidden()), ("decision", "deny"), ("decision", "approve")]))),
    forge("two transactions", 400, "A parameter stands there twice.", "A parameter stands there twice.",
          lambda b, p: body_of(b, urlencode([("transaction", "x"), ("transaction", p.hidden()), ("decision", "approve")]))),
    forge("as JSON", 415, "Send a form.", "Send a form.",
          lambda b, p: body_of(b, json.dumps({"transaction": p.hidden(), "decision": "approve"}), Content_Type="application/json")),
    forge("as plain text", 415, "Send a form.", "Send a form.",
          lambda b, p: body_of(b, f"transaction={p.hidden()}&decision=approve", Content_Type="text/plain")),
    forge("as multipart", 415, "Send a form.", "Send a form.",
          lambda b, p: body_of(b, "--x--", Content_Type="multipart/form-data; boundary=x")),
    forge("a broken form", 400, "The parameters cannot be read.", "The parameters cannot be read.",
          lambda b, p: body_of(b, "%ff%fe&&==")),
    forge("a body that is no form", 400, "The parameters cannot be read.", "The parameters cannot be read.",
          lambda b, p: body_of(b, "approve")),
]  # fmt: skip


@pytest.mark.parametrize(("status", "tell", "reason", "work"), FORGED)
def test_t08_no_forged_form_leads_to_a_code(
    browser: Browser, status: int, tell: str, reason: str, work: Callable[[Browser, Page], Page]
) -> None:
    stack = browser.stack
    page = asked(browser)
    hits = stack.servers["notes"].hits
    refusals = len([row for row in auth_rows(stack) if row["verdict"] == "refuse"])
    answer = work(browser, page)
    assert answer.status == status, answer
    assert answer.body.encode() == refusal(tell, status=status).body
    assert "location" not in answer.fields
    assert stack.servers["notes"].hits == hits
    rows = [row for row in auth_rows(stack) if row["verdict"] == "refuse"]
    assert len(rows) == refusals + 1
    assert rows[0]["method"] == "consent-refused"
    assert rows[0]["reason"].endswith(": " + reason)
    assert rows[0]["http_status"] == status


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://evil.localhost"]
)
def test_a_foreign_origin_never_gets_to_the_form(browser: Browser, origin: str) -> None:
    answer = approve(browser, asked(browser).hidden(), Origin=origin)
    assert answer.status == 403
    assert "location" not in answer.fields


def test_our_own_origin_may_send_the_form(browser: Browser) -> None:
    answer = approve(browser, asked(browser).hidden(), Origin=browser.stack.url, Sec_Fetch_Site="same-origin")
    assert answer.status == 303


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_a_post_decides(browser: Browser, verb: str) -> None:
    page = asked(browser)
    query = urlencode({"transaction": page.hidden(), "decision": "approve"})
    answer = browser.ask(verb, f"/oauth/consent?{query}")
    assert answer.status in (404, 405)
    assert "location" not in answer.fields
    assert approve(browser, page.hidden()).status == 303


def test_who_says_no_sends_the_client_an_error_and_no_code(browser: Browser) -> None:
    page = asked(browser)
    before = len(auth_rows(browser.stack))
    answer = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "deny"})
    assert answer.status == 303
    assert answer.location.startswith(CALLBACK + "?")
    assert answer.answer["error"] == "access_denied"
    assert answer.answer["iss"] == browser.stack.url
    assert answer.answer["state"] == "a state"
    assert "code" not in answer.answer
    assert one_record(browser.stack, before, "consent-denied")["principal"] == "alice"


def test_two_tabs_decide_for_themselves(browser: Browser) -> None:
    first, second = asked(browser, state="first"), asked(browser, state="second")
    assert approve(browser, second.hidden()).answer["state"] == "second"
    denied = browser.post("/oauth/consent", {"transaction": first.hidden(), "decision": "deny"})
    assert denied.answer["state"] == "first"
    assert "code" not in denied.answer


def test_t08_consent_is_for_one_user_one_client_one_redirect_and_one_resource(stack: Stack) -> None:
    """AS-24: remembered only for exactly the same, and never across users or clients."""
    alice, bob = Browser(stack).sign_in("alice"), Browser(stack).sign_in("bob")
    shop = {"client_id": "shop", "redirect_uri": "https://shop.example/cb?from=us"}
    approve(alice, asked(alice, **shop).hidden())
    remembered = alice.get(authorize_url(stack, **shop))
    assert remembered.status == 302
    assert remembered.location.startswith("https://shop.example/cb?from=us&code=")
    asked(bob, **shop)
    asked(alice, **{**shop, "redirect_uri": "https://shop.example/second"})
    asked(alice, **shop, resource=f"{stack.url}/wiki/mcp")
    asked(alice, client_id="desk", redirect_uri="https://desk.example/cb")
    asked(alice, **shop, prompt="consent")
    mobile = Browser(stack)
    assert "Sign in first" in mobile.get(authorize_url(stack, **shop)).text  # another browser of alice


def test_a_loopback_client_is_asked_about_each_time(browser: Browser) -> None:
    approve(browser, asked(browser).hidden())
    asked(browser)


def test_who_must_not_be_asked_is_not(stack: Stack) -> None:
    nobody = Browser(stack).get(authorize_url(stack, prompt="none"))
    assert (nobody.status, nobody.answer["error"]) == (302, "login_required")
    fresh = Browser(stack).sign_in("bob").get(authorize_url(stack, prompt="none"))
    assert (fresh.status, fresh.answer["error"]) == (302, "consent_required")


def test_t34_no_parameter_or_header_says_who_somebody_is(stack: Stack) -> None:
    browser = Browser(stack).sign_in("bob")
    code = code_of(browser, login_hint="alice", user="alice", sub="alice", user_id="alice")
    form = token_form(stack, code) | {"user": "alice", "sub": "alice"}
    token = (
        Browser(stack)
        .post("/oauth/token", form, X_User="alice", X_Forwarded_User="alice")
        .json["access_token"]
    )
    payload = token.split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"] == "bob"
    assert call(stack, token) == 200
    assert stack.rows(kind="call")[0]["principal"] == "bob"


def test_t14_a_client_is_told_its_own_secret_and_no_other(stack: Stack) -> None:
    body = {"client_name": "<script>x</script>\u202e\x00", "redirect_uris": ["https://x.example/cb"], "client_id": "shop",
            "client_secret": "chosen", "logo_uri": "javascript:x"}  # fmt: skip
    made = Browser(stack).ask("POST", "/oauth/register", json.dumps(body), Content_Type="application/json")
    assert made.status == 201
    assert made.json["client_id"].startswith("dcr-")
    assert made.json["client_secret"] not in ("chosen", "")
    assert "the secret of the" not in made.body
    assert set(made.json) == {
        "client_id", "client_id_issued_at", "client_name", "redirect_uris", "grant_types", "response_types",
        "token_endpoint_auth_method", "application_type", "scope", "client_secret", "client_secret_expires_at",
    }  # fmt: skip
    page = Browser(stack).get(
        authorize_url(stack, client_id=made.json["client_id"], redirect_uri="https://x.example/cb")
    )
    assert "<script>x" not in page.body
    assert "&lt;script&gt;x" in page.body
    assert made.json["client_secret"] not in page.body


BAD_LINKS = [
    ("nothing", ""),
    ("a made-up ticket", "x" * 43),
    ("an access token", "a.b.c"),
    ("markup", "<script>alert(1)</script>"),
]


@pytest.mark.parametrize(("name", "ticket"), BAD_LINKS)
def test_a_wrong_ticket_signs_nobody_in(stack: Stack, name: str, ticket: str) -> None:
    browser = Browser(stack)
    page = browser.get(authorize_url(stack))
    before = len(auth_rows(stack))
    answer = browser.post("/oauth/login", {"transaction": page.hidden(), "ticket": ticket})
    assert answer.status == 403
    assert GONE in answer.text
    assert "<script" not in answer.body
    assert one_record(stack, before, "login-refused")["http_status"] == 403
    assert "Sign in first" in browser.get(authorize_url(stack)).text


def test_a_ticket_is_good_once_and_only_with_our_own_form(stack: Stack) -> None:
    url = link(stack)
    ticket = url.partition("ticket=")[2]
    victim = Browser(stack)
    assert victim.post("/oauth/login", {"ticket": ticket}).status == 403
    attacker = Browser(stack).get(url)
    assert victim.post("/oauth/login", {"transaction": attacker.hidden(), "ticket": ticket}).status == 403
    page = victim.get(url)
    assert victim.post("/oauth/login", {"transaction": page.hidden(), "ticket": ticket}).status == 200
    late = Browser(stack)
    page = late.get(authorize_url(stack))
    assert late.post("/oauth/login", {"transaction": page.hidden(), "ticket": ticket}).status == 403
    assert Browser(stack).get(url).status == 403


REQUESTS = [
    ("no client", {"leave_out": ("client_id",)}, 400, "client_id is missing.", None),
    ("unknown client", {"client_id": "nobody"}, 400, "The client is not known or did not prove itself.", None),
    ("no redirect URI", {"leave_out": ("redirect_uri",)}, 400, "redirect_uri is missing.", None),
    ("no PKCE", {"leave_out": ("code_challenge",)}, 302, "code_challenge is missing: PKCE is needed.", "invalid_request"),
    ("plain PKCE", {"code_challenge_method": "plain"}, 302, "code_challenge_method must be S256.", "invalid_request"),
    ("PKCE without method", {"leave_out": ("code_challenge_method",)}, 302, "code_challenge_method must be S256.", "invalid_request"),
    ("s256 in small letters", {"code_challenge_method": "s256"}, 302, "code_challenge_method must be S256.", "invalid_request"),
    ("short challenge", {"code_challenge": CHALLENGE[:-1]}, 302, "code_challenge is not an S256 challenge.", "invalid_request"),
    ("padded challenge", {"code_challenge": CHALLENGE + "="}, 302, "code_challenge is not an S256 challenge.", "invalid_request"),
    ("implicit", {"response_type": "token"}, 302, "The one response type is code.", "unsupported_response_type"),
    ("hybrid", {"response_type": "code id_token"}, 302, "The one response type is code.", "unsupported_response_type"),
    ("no response type", {"leave_out": ("response_type",)}, 302, "The one response type is code.", "unsupported_response_type"),
    ("fragment mode", {"response_mode": "fragment"}, 302, "The one response mode is query.", "invalid_request"),
    ("form post mode", {"response_mode": "form_post"}, 302, "The one response mode is query.", "invalid_request"),
    ("request object", {"request": "x.y.z"}, 302, "Request objects are not supported.", "invalid_request"),
    ("request URI", {"request_uri": "https://evil.example/r"}, 302, "Request objects are not supported.", "invalid_request"),
    ("odd prompt", {"prompt": "yes"}, 302, "prompt is not supported.", "invalid_request"),
    ("no resource", {"leave_out": ("resource",)}, 302, "resource is missing: name the MCP endpoint that the token is for.", "invalid_target"),
    ("foreign resource", {"resource": "https://evil.example/mcp"}, 302, "This resource is not served here.", "invalid_target"),
    ("the gateway itself", {"resource": "URL"}, 302, "This resource is not served here.", "invalid_target"),
    ("a server that is none", {"resource": "URL/none/mcp"}, 302, "This resource is not served here.", "invalid_target"),
    ("a longer path", {"resource": "URL/notes/mcp/x"}, 302, "This resource is not served here.", "invalid_target"),
    ("a slash more", {"resource": "URL/notes/mcp/"}, 302, "This resource is not served here.", "invalid_target"),
    ("a fragment", {"resource": "URL/notes/mcp#x"}, 302, "This resource is not served here.", "invalid_target"),
    ("more scope", {"scope": "mcp admin"}, 302, "The one scope here is mcp.", "invalid_scope"),
    ("client credentials only", {"client_id": "lamp"}, 400, "The redirect URI is not one that this client has.", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "status", "tell", "error"), REQUESTS, ids=lambda one: str(one)[:28]
)
def test_a_bad_request_is_refused_before_anybody_is_asked(
    browser: Browser, name: str, changes: dict[str, Any], status: int, tell: str, error: str | None
) -> None:
    stack = browser.stack
    before = len(auth_rows(stack))
    given = {
        key: one.replace("URL", stack.url) if isinstance(one, str) else one for key, one in changes.items()
    }
    page = browser.get(authorize_url(stack, **given))
    assert page.status == status, page
    if error is None:
        assert page.body.encode() == refusal(tell, status=status).body
    else:
        assert page.answer == {
            "error": error,
            "error_description": tell,
            "state": "a state",
            "iss": stack.url,
        }
        assert page.location.startswith(CALLBACK + "?")
    one_record(stack, before, "authorize-refused")


@pytest.mark.parametrize("resources", [2, 3])
def test_a_token_is_for_one_resource(browser: Browser, resources: int) -> None:
    more = "".join(f"&resource={browser.stack.url}/wiki/mcp" for _ in range(resources - 1))
    page = browser.get(authorize_url(browser.stack) + more)
    assert page.answer["error"] == "invalid_target"


@pytest.mark.parametrize(
    "twice", ["client_id=desk", "state=x", "scope=mcp", "redirect_uri=https://desk.example/cb"]
)
def test_a_parameter_stands_once(browser: Browser, twice: str) -> None:
    page = browser.get(authorize_url(browser.stack) + "&" + twice)
    assert page.status == 400
    assert page.body.encode() == refusal("A parameter stands there twice.", status=400).body


def test_scheme_and_host_of_a_resource_may_be_written_in_capitals(browser: Browser) -> None:
    resource = f"{browser.stack.url}/notes/mcp".replace("http://", "HTTP://")
    assert call(browser.stack, tokens_of(browser, resource=resource)["access_token"]) == 200


def test_nobody_is_sent_to_an_unknown_web_site_by_an_error(stack: Stack) -> None:
    """RFC 9700 §4.11.2: whoever registers could else use the gateway as an open redirector."""
    body = json.dumps(
        {
            "client_name": "x",
            "redirect_uris": ["https://evil.example/phish"],
            "token_endpoint_auth_method": "none",
        }
    )
    made = Browser(stack).ask("POST", "/oauth/register", body, Content_Type="application/json").json
    page = Browser(stack).get(
        authorize_url(
            stack, client_id=made["client_id"], redirect_uri="https://evil.example/phish", scope="x"
        )
    )
    assert page.status == 400
    assert "location" not in page.fields


@pytest.mark.parametrize(
    "path", ["consents/x", "consents", "oauth-clients/x", "oauth-clients", "login-links"]
)
@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
def test_t18_no_identifier_of_ours_opens_anything_to_a_user(browser: Browser, path: str, verb: str) -> None:
    """Consents and clients are for operators: no user reaches them, their owner neither, and nobody without the admin token."""
    stack = browser.stack
    token = tokens_of(browser)["access_token"]
    assert browser.ask(verb, f"/api/v1/{path}", Authorization=f"Bearer {token}").status == 404
    admin = Browser(stack)
    import http.client

    stack.wait_admin()
    connection = http.client.HTTPConnection("127.0.0.1", stack.admin_port, timeout=10)
    connection.request(
        verb,
        f"/api/v1/{path}",
        headers={
            "Authorization": f"Bearer {token}",
            "Cookie": "; ".join(f"{k}={v}" for k, v in browser.cookies.items()),
        },
    )
    assert connection.getresponse().status in (401, 405)
    connection.close()
    assert admin.cookies == {}
