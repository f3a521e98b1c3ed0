"""Strict stand-ins for Vault/OpenBao (KV 2, AppRole) and Azure Key Vault with its directory: the wire contract or an error.

They serve TLS when told to, put off when told to, and record; every answer has the shape of the real one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

API_VERSION = "7.5"


class Answer(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, body: Any, **fields: str) -> None:
        super().__init__(status)
        self.status, self.body, self.fields = status, body, fields


class Store:
    """``faults`` are answers that come first: (status, body, fields). ``asked`` is (verb, path, query, fields, body)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str, dict[str, str], dict[str, str], bytes]] = []
        self.faults: list[tuple[int, Any, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()

            def do_GET(self) -> None:
                outer._serve(self, b"")

            def do_POST(self) -> None:
                outer._serve(self, self.rfile.read(int(self.headers.get("content-length", "0"))))

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        fields = {name.lower(): value for name, value in handler.headers.items()}
        query = dict(parse_qsl(parts.query))
        self.asked.append((handler.command, parts.path, query, fields, body))
        try:
            if self.faults:
                status, told, more = self.faults.pop(0)
                raise Answer(status, told, **more)
            answer = Answer(200, self.answer(handler.command, parts.path, query, fields, body))
        except Answer as found:
            answer = found
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **answer.fields,
        }.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    def answer(self, verb: str, path: str, query: dict[str, str], fields: dict[str, str], body: bytes) -> Any:
        raise NotImplementedError


class FakeVault(Store):
    """KV version 2 below its mounts, tokens and AppRole."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tokens = {"hvs.root"}
        self.roles: dict[str, str] = {}
        self.data: dict[str, dict[str, Any] | None] = {}  # "mount/path" -> fields; None for a deleted version
        self.namespace = ""
        self.lease = 3_600
        super().__init__(tls)

    def answer(self, verb: str, path: str, query: dict[str, str], fields: dict[str, str], body: bytes) -> Any:
        if fields.get("x-vault-request") != "true" or fields.get("x-vault-namespace", "") != self.namespace:
            raise Answer(400, {"errors": ["bad request"]})
        if (verb, path) == ("POST", "/v1/auth/approle/login"):
            given = json.loads(body)
            if self.roles.get(given["role_id"]) != given["secret_id"] or set(given) != {
                "role_id",
                "secret_id",
            }:
                raise Answer(400, {"errors": ["invalid role or secret ID"]})
            token = "hvs." + secrets.token_urlsafe(16)
            self.tokens.add(token)
            return {
                "auth": {
                    "client_token": token,
                    "lease_duration": self.lease,
                    "renewable": True,
                    "token_type": "service",
                }
            }
        if fields.get("x-vault-token") not in self.tokens or "authorization" in fields:
            raise Answer(403, {"errors": ["permission denied"]})
        parts = unquote(path).split("/")
        if verb != "GET" or parts[:2] != ["", "v1"] or len(parts) < 5 or parts[3] != "data" or query:
            raise Answer(404, {"errors": []})
        place = f"{parts[2]}/{'/'.join(parts[4:])}"
        if place not in self.data:
            raise Answer(404, {"errors": []})
        found = self.data[place]
        if found is None:  # KV 2 answers 404 with the metadata of the deleted version
            raise Answer(
                404,
                {"data": {"data": None, "metadata": {"deletion_time": "2026-11-01T00:00:00Z", "version": 1}}},
            )
        return {"request_id": "r", "lease_id": "", "lease_duration": 0, "renewable": False,
                "data": {"data": found, "metadata": {"version": 3, "destroyed": False}}}  # fmt: skip


class FakeAzure(Store):
    """A directory, a machine's identity endpoint and one key vault, told apart by path."""

    def __init__(self, tls: ssl.SSLContext | None = None, resource: str = "https://vault.azure.net") -> None:
        self.resource = resource
        self.tenant, self.client, self.secret = "tenant-1", "app-1", "azure-client-secret"
        self.tokens: set[str] = set()
        self.secrets: dict[str, str] = {}  # "name" or "name/version" -> value
        self.disabled: set[str] = set()
        self.make: Callable[[], str] = lambda: "eyJ." + secrets.token_urlsafe(16)
        super().__init__(tls)

    def answer(self, verb: str, path: str, query: dict[str, str], fields: dict[str, str], body: bytes) -> Any:
        if (verb, path) == ("POST", f"/{self.tenant}/oauth2/v2.0/token"):
            form = dict(parse_qsl(body.decode(), strict_parsing=True))
            wanted = {"grant_type": "client_credentials", "client_id": self.client, "client_secret": self.secret,
                      "scope": f"{self.resource}/.default"}  # fmt: skip
            if form != wanted or fields["content-type"] != "application/x-www-form-urlencoded":
                raise Answer(401, {"error": "invalid_client", "error_description": f"AADSTS7000215 {form}"})
            return {"token_type": "Bearer", "expires_in": 3599, "access_token": self._token()}
        if (verb, path) == ("GET", "/metadata/identity/oauth2/token"):
            if (
                fields.get("metadata") != "true"
                or query.get("resource") != self.resource
                or query.get("api-version") != "2018-02-01"
            ):
                raise Answer(400, {"error": "invalid_request"})
            return {
                "token_type": "Bearer",
                "expires_in": "3599",
                "resource": self.resource,
                "access_token": self._token(),
            }
        if verb == "GET" and path.startswith("/secrets/"):
            if query != {"api-version": API_VERSION}:
                raise Answer(400, {"error": {"code": "BadParameter", "message": "api-version"}})
            if fields.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                challenge = (
                    f'Bearer authorization="https://login.example/{self.tenant}", resource="{self.resource}"'
                )
                raise Answer(401, {"error": {"code": "Unauthorized"}}, WWW_Authenticate=challenge)
            name = path.removeprefix("/secrets/")
            if name not in self.secrets:
                raise Answer(404, {"error": {"code": "SecretNotFound", "message": f"not found: {name}"}})
            host = fields["host"]
            return {
                "value": self.secrets[name],
                "id": f"https://{host}/secrets/{name}",
                "attributes": {"enabled": name not in self.disabled},
            }
        raise Answer(404, {"error": {"code": "NotFound"}})

    def _token(self) -> str:
        token = self.make()
        self.tokens.add(token)
        return token
