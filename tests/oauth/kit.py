"""A browser without a screen and an OAuth client without a library, for talking to the authorization server byte by byte."""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import json
import re
import secrets
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.stack.kit import Stack
from tests.stack.wire import until

CALLBACK = "http://127.0.0.1:43127/callback"
VERIFIER = "verifier-0123456789-0123456789-0123456789-0123456789"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
FORM = "application/x-www-form-urlencoded"
SERVER = """
[[identity.clients]]
id = "desk"
name = "Desk"
redirect_uris = ["http://127.0.0.1/callback", "https://desk.example/cb"]
"""


class Page:
    """One answer."""

    def __init__(self, status: int, lines: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.lines = lines
        self.fields = {name.lower(): value for name, value in lines}
        self.body = body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def location(self) -> str:
        """Where it redirects to."""
        return self.fields.get("location", "")

    @property
    def answer(self) -> dict[str, str]:
        """The parameters of the redirect, each once."""
        found = parse_qs(urlsplit(self.location).query, keep_blank_values=True)
        assert all(len(values) == 1 for values in found.values()), self.location
        return {name: values[0] for name, values in found.items()}

    @property
    def text(self) -> str:
        """What a person reads."""
        return html.unescape(re.sub(r"<[^>]*>", " ", self.body))

    def hidden(self, name: str = "transaction") -> str:
        """A hidden field of the page's form."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.body)
        assert found is not None, self.body
        return html.unescape(found[1])

    def __repr__(self) -> str:
        return f"<{self.status} {self.fields} {self.body[:600]!r}>"


class Browser:
    """Keeps cookies, follows nothing by itself."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.cookies: dict[str, str] = {}

    def ask(self, verb: str, url: str, body: str | None = None, **fields: Any) -> Page:
        """One request; ``url`` may be whole or a path."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        given = {name.replace("_", "-"): value for name, value in fields.items()}
        lines = {"Host": self.stack.host, **given}
        if self.cookies and "Cookie" not in lines:
            lines["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.port, timeout=20)
        try:
            connection.putrequest(verb, target, skip_host=True, skip_accept_encoding=True)
            if body is not None:
                lines.setdefault("Content-Type", FORM)
                lines["Content-Length"] = str(len(body.encode()))
            for name, value in lines.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body.encode() if body is not None else None)
            answer = connection.getresponse()
            page = Page(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()
        for name, value in page.lines:
            if name.lower() == "set-cookie":
                cookie, _, rest = value.partition(";")
                key, _, text = cookie.partition("=")
                if "max-age=0" in rest.lower():
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = text
        return page

    def get(self, url: str, **fields: Any) -> Page:
        """GET."""
        return self.ask("GET", url, **fields)

    def post(self, url: str, form: Any = None, **fields: Any) -> Page:
        """POST a form."""
        return self.ask("POST", url, urlencode(form or {}), **fields)

    def sign_in(self, user: str = "alice") -> Browser:
        """Sign in by a fresh link."""
        page = self.get(link(self.stack, user))
        assert page.status == 200, page
        done = self.post("/oauth/login", {"transaction": page.hidden(), "ticket": page.hidden("ticket")})
        assert done.status == 200, done
        return self


def link(stack: Stack, user: str = "alice") -> str:
    """A link that signs in once."""
    made = stack.admin("/api/v1/login-links", {"user": user})
    assert made.status == 200, made
    return str(made.json["url"])


def authorize_url(stack: Stack, *, leave_out: tuple[str, ...] = (), **changes: str) -> str:
    """An authorization request, with changes."""
    given = {
        "response_type": "code",
        "client_id": "desk",
        "redirect_uri": CALLBACK,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "resource": f"{stack.url}/notes/mcp",
        "scope": "mcp",
        "state": "a state",
    }
    given.update(changes)
    return "/oauth/authorize?" + urlencode({k: v for k, v in given.items() if k not in leave_out})


def code_of(browser: Browser, **changes: str) -> str:
    """Consent, and the code that it gives."""
    page = browser.get(authorize_url(browser.stack, **changes))
    if page.status == 302:
        return page.answer["code"]
    assert page.status == 200, page
    done = browser.post("/oauth/consent", {"transaction": page.hidden(), "decision": "approve"})
    assert done.status == 303, done
    return done.answer["code"]


def token_form(stack: Stack, code: str, **changes: str) -> dict[str, str]:
    """A token request for a code; an empty value leaves a parameter out."""
    given = {
        "grant_type": "authorization_code",
        "client_id": "desk",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        "resource": f"{stack.url}/notes/mcp",
    }
    given.update(changes)
    return {name: value for name, value in given.items() if value}


def tokens_of(browser: Browser, **changes: str) -> dict[str, Any]:
    """A whole flow's tokens."""
    form = token_form(
        browser.stack,
        code_of(browser, **changes),
        **{k: v for k, v in changes.items() if k in ("client_id", "redirect_uri", "resource")},
    )
    done = Browser(browser.stack).post("/oauth/token", form)
    assert done.status == 200, done
    return dict(done.json)


def call(stack: Stack, token: str, server: str = "notes") -> int:
    """The status of a tool call with a token."""
    return stack.modern(
        server, "tools/call", {"name": "list", "arguments": {}}, Authorization=f"Bearer {token}"
    ).status


def auth_rows(stack: Stack, method: str = "") -> list[dict[str, Any]]:
    """Rows of kind auth, newest first."""
    return [row for row in stack.rows(kind="auth") if not method or row["method"] == method]


def one_record(stack: Stack, before: int, method: str) -> dict[str, Any]:
    """The single record that came since there were ``before`` rows of kind auth."""
    until(lambda: len(auth_rows(stack)) > before, "a record")
    rows = auth_rows(stack)
    assert len(rows) == before + 1, [row["method"] for row in rows[: len(rows) - before]]
    assert rows[0]["method"] == method, rows[0]
    return dict(rows[0])


def fresh_state() -> str:
    """A random state."""
    return secrets.token_urlsafe(16)
