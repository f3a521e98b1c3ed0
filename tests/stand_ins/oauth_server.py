"""A strict authorization server for upstreams: checks every parameter, gives opaque tokens, records, and fails when told to.

Grants: client_credentials, authorization_code (PKCE), refresh_token (rotating), token exchange, on-behalf-of. Serves in threads.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

from tests.stand_ins.http_server import Ask, HttpUpstream

ACCESS = "urn:ietf:params:oauth:token-type:access_token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, error: str, status: int = 400) -> None:
        super().__init__(error)
        self.error, self.status = error, status


class OAuthServer:
    """``tokens`` maps each token that was given to what it is worth; ``on[path]`` replaces an answer by (status, JSON)."""

    def __init__(self, *, path: str = "", user: str = "ulla") -> None:
        self.user = user  # who is signed in at this server's pages
        self.clients: dict[str, Any] = {}  # id -> secret, None for public, or an ECKey for assertions
        self.redirects: dict[str, list[str]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.refresh: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        self.jtis: set[str] = set()
        self.subjects: dict[str, str] = {}  # subject token -> whose it is; checked in exchanges by ``verify``
        self.verify: Any = None  # subject token -> subject; raises Refused
        self.asked: list[dict[str, Any]] = []
        self.on: dict[str, tuple[int, Any]] = {}
        self.lifetime = 600
        self.metadata: dict[str, Any] = {}  # laid over the honest document; None removes a member
        self.answers: dict[str, str] = {}  # laid over an authorization response; "" removes a parameter
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *_: Any) -> None: ...

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def finish(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().finish()

            def do_GET(self) -> None:
                outer._serve(self, b"")

            def do_POST(self) -> None:
                outer._serve(self, self.rfile.read(int(self.headers.get("content-length", "0"))))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.issuer = f"http://{self.host}{path}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def grants(self, kind: str) -> list[dict[str, Any]]:
        """Token requests with this grant."""
        return [one for one in self.asked if one.get("form", {}).get("grant_type") == kind]

    # -- HTTP ---------------------------------------------------------------------------------------------------

    def _serve(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        ask: dict[str, Any] = {
            "verb": handler.command, "path": parts.path, "query": dict(parse_qsl(parts.query)),
            "fields": {name.lower(): value for name, value in handler.headers.items()}, "body": body,
        }  # fmt: skip
        self.asked.append(ask)
        self.gate.wait(15)
        extra: dict[str, str] = {}
        try:
            if parts.path in self.on:
                status, told = self.on[parts.path]
            else:
                status, told = 200, self._answer(ask, extra)
        except Refused as refused:
            status, told = refused.status, {"error": refused.error}
        content = told if isinstance(told, bytes) else json.dumps(told).encode()
        if "Location" in extra:
            status = 302
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Cache-Control", "no-store")
        handler.send_header("Content-Length", str(len(content)))
        for name, value in extra.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def _answer(self, ask: dict[str, Any], extra: dict[str, str]) -> Any:
        path = urlsplit(self.issuer).path
        match ask["verb"], ask["path"]:
            case "GET", place if place == "/.well-known/oauth-authorization-server" + path:
                return self.document()
            case "GET", "/authorize":
                extra["Location"] = self._authorize(ask["query"])
                return {}
            case "POST", "/token":
                return self._token(ask)
            case "POST", "/register":
                return self._register(ask)
            case "POST", "/revoke":
                form = self._form(ask)
                self.tokens.pop(form["token"], None)
                self.refresh.pop(form["token"], None)
                return {}
        raise Refused("not_found", 404)

    def document(self) -> dict[str, Any]:
        root = f"http://{self.host}"
        told = {
            "issuer": self.issuer,
            "authorization_endpoint": root + "/authorize",
            "token_endpoint": root + "/token",
            "registration_endpoint": root + "/register",
            "revocation_endpoint": root + "/revoke",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
                "private_key_jwt",
                "none",
            ],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return {name: value for name, value in told.items() if value is not None}

    # -- OAuth --------------------------------------------------------------------------------------------------

    def _form(self, ask: dict[str, Any]) -> dict[str, str]:
        if ask["fields"].get("content-type") != "application/x-www-form-urlencoded":
            raise Refused("invalid_request", 415)
        pairs = parse_qsl(ask["body"].decode(), keep_blank_values=True, strict_parsing=True)
        form = dict(pairs)
        if len(form) != len(pairs):
            raise Refused("invalid_request")
        ask["form"] = form
        return form

    def _client(self, ask: dict[str, Any], form: dict[str, str]) -> str:
        basic = ask["fields"].get("authorization", "")
        if basic:
            if "client_secret" in form or "client_assertion" in form:
                raise Refused("invalid_request")
            name, _, secret = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")
            name, secret = unquote(name), unquote(secret)
        elif "client_assertion" in form:
            return self._assertion(form)
        else:
            name, secret = form.get("client_id", ""), form.get("client_secret")  # type: ignore[assignment]
        if name not in self.clients or self.clients[name] != secret:
            raise Refused("invalid_client", 401)
        return name

    def _assertion(self, form: dict[str, str]) -> str:
        key = self.clients.get(form.get("client_id", ""))
        if form["client_assertion_type"] != ASSERTION or not isinstance(key, ECKey):
            raise Refused("invalid_client", 401)
        claims = jwt.decode(form["client_assertion"], key, algorithms=["ES256"]).claims
        now = time.time()
        good = (
            claims["iss"] == claims["sub"] == form["client_id"]
            and claims["aud"] == self.issuer
            and now - 60 < claims["iat"] <= now + 5
            and now < claims["exp"] < now + 600
            and claims["jti"] not in self.jtis
        )
        self.jtis.add(claims["jti"])
        if not good:
            raise Refused("invalid_client", 401)
        return str(form["client_id"])

    def _token(self, ask: dict[str, Any]) -> dict[str, Any]:
        form = self._form(ask)
        client = self._client(ask, form)
        scopes, resource = form.get("scope", ""), form.get("resource", "")
        match form["grant_type"]:
            case "client_credentials":
                return self._give(subject=client, client=client, scopes=scopes, resource=resource)
            case "authorization_code":
                row = self.codes.pop(form["code"], None)
                challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
                if (
                    row is None
                    or row["client"] != client
                    or row["redirect_uri"] != form["redirect_uri"]
                    or row["challenge"] != challenge.decode().rstrip("=")
                    or row["resource"] != resource
                ):
                    raise Refused("invalid_grant")
                return self._give(
                    subject=row["subject"],
                    client=client,
                    scopes=row["scopes"],
                    resource=resource,
                    refresh=True,
                )
            case "refresh_token":
                row = self.refresh.pop(form["refresh_token"], None)
                if row is None or row["client"] != client or row["resource"] != resource:
                    raise Refused("invalid_grant")
                return self._give(**{**row, "refresh": True})
            case grant if grant == EXCHANGE:
                if form["subject_token_type"] != ACCESS or form.get("requested_token_type", ACCESS) != ACCESS:
                    raise Refused("invalid_request")
                row = {
                    "subject": self.verify(form["subject_token"]),
                    "client": client,
                    "scopes": scopes,
                    "resource": resource,
                }
                if "actor_token" in form:
                    actor = self.tokens.get(form["actor_token"])
                    if actor is None or form["actor_token_type"] != ACCESS:
                        raise Refused("invalid_grant")
                    row["act"] = actor["subject"]
                return {**self._give(**row, audience=form.get("audience", "")), "issued_token_type": ACCESS}
            case grant if grant == JWT_BEARER:
                if form.get("requested_token_use") != "on_behalf_of" or not scopes or "resource" in form:
                    raise Refused("invalid_request")
                return self._give(
                    subject=self.verify(form["assertion"]), client=client, scopes=scopes, resource=""
                )
        raise Refused("unsupported_grant_type")

    def _give(self, *, refresh: bool = False, **row: Any) -> dict[str, Any]:
        token = "up-" + secrets.token_urlsafe(24)
        self.tokens[token] = {**row, "until": time.time() + self.lifetime}
        told = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "scope": row["scopes"],
        }
        if refresh:
            fresh = "re-" + secrets.token_urlsafe(24)
            self.refresh[fresh] = {name: row[name] for name in ("subject", "client", "scopes", "resource")}
            told["refresh_token"] = fresh
        return told

    def _authorize(self, query: dict[str, str]) -> str:
        if query.get("redirect_uri") not in self.redirects.get(query.get("client_id", ""), ()):
            raise Refused("invalid_client")
        if (
            query.get("response_type") != "code"
            or query.get("code_challenge_method") != "S256"
            or not query.get("state")
        ):
            raise Refused("invalid_request")
        code = secrets.token_urlsafe(24)
        self.codes[code] = {
            "client": query["client_id"], "redirect_uri": query["redirect_uri"], "challenge": query["code_challenge"],
            "subject": self.user, "scopes": query.get("scope", ""), "resource": query.get("resource", ""),
        }  # fmt: skip
        told = {"code": code, "state": query["state"], "iss": self.issuer, **self.answers}
        return query["redirect_uri"] + "?" + urlencode({name: value for name, value in told.items() if value})

    def _register(self, ask: dict[str, Any]) -> dict[str, Any]:
        wanted = json.loads(ask["body"])
        ask["registration"] = wanted
        name = "dyn-" + secrets.token_urlsafe(8)
        self.clients[name] = None
        self.redirects[name] = wanted["redirect_uris"]
        return {**wanted, "client_id": name, "token_endpoint_auth_method": "none"}


class ProtectedUpstream(HttpUpstream):
    """An MCP server that takes only tokens of ``server`` that are for it; with ``needs`` its calls want this scope."""

    def __init__(self, server: OAuthServer, *, scope: str = "", needs: str = "", **options: Any) -> None:
        self.server, self.scope, self.needs = server, scope, needs
        self.resource = ""  # what its document says that it is; "" is the truth
        super().__init__(**options)

    def row(self, ask: Ask) -> dict[str, Any] | None:
        """What the presented token is worth."""
        return self.server.tokens.get(ask.fields.get("authorization", "").removeprefix("Bearer "))

    def _answer(self, ask: Ask) -> None:
        if ask.verb == "GET" and ask.target.startswith("/.well-known/oauth-protected-resource"):
            told = {
                "resource": self.resource or self.url,
                "authorization_servers": [self.server.issuer],
                "scopes_supported": ["read"],
            }
            return ask.say(told) if ask.target.endswith("/mcp") else ask.reply(404)
        row = self.row(ask)
        place = f'resource_metadata="http://127.0.0.1:{self.port}/.well-known/oauth-protected-resource/mcp"'
        more = f', scope="{self.scope}"' if self.scope else ""
        if row is None or row["until"] < time.time() or row["resource"] not in ("", self.url):
            return ask.reply(401, WWW_Authenticate=f"Bearer {place}{more}")
        if self.needs and ask.method == "tools/call" and self.needs not in row["scopes"].split():
            challenge = f'Bearer error="insufficient_scope", scope="{self.needs}", {place}'
            return ask.reply(403, WWW_Authenticate=challenge)
        return super()._answer(ask)
