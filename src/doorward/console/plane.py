"""The admin plane as an ASGI app: what it shows and does comes from the supervisor through one port.

Whoever comes by the Unix socket is the owner of the process (or root); whoever comes by TCP needs the admin token, and
Host and Origin are checked first.
"""

from __future__ import annotations

import hmac
import html
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from doorward.base.errors import CallerError, DoorwardError

_COOKIE = "doorward_admin"
_BODY_BYTES = 65_536
_SESSIONS_COUNT = 64
_FIELDS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class AdminPort(Protocol):
    """What the admin plane may see and do."""

    def status(self) -> dict[str, Any]: ...

    def controls(self) -> list[dict[str, Any]]: ...

    def servers(self) -> list[dict[str, Any]]: ...

    def metrics(self) -> str: ...

    async def revoke(self, jti: str, until: float, by: str) -> None: ...

    async def reload(self, by: str, *, force: bool = False) -> bool: ...


class AdminPlane:
    """Routes, access and pages."""

    def __init__(self, port: AdminPort, token: str, hosts: frozenset[str]) -> None:
        self._port = port
        self._token = token.encode()
        self._hosts = hosts
        self._sessions: list[str] = []
        api = [
            Route("/api/v1/status", self._guarded(lambda _, __: _json(port.status()))),
            Route("/api/v1/controls", self._guarded(lambda _, __: _json(port.controls()))),
            Route("/api/v1/servers", self._guarded(lambda _, __: _json(port.servers()))),
            Route("/api/v1/revocations", self._guarded(self._revoke), methods=["POST"]),
            Route("/api/v1/reload", self._guarded(self._reload), methods=["POST"]),
            Route("/api/openapi.json", self._guarded(lambda _, __: _json(_openapi()))),
            Route("/metrics", self._guarded(lambda _, __: Response(port.metrics(), media_type="text/plain; version=0.0.4"))),
        ]
        self.app = Starlette(
            routes=[Route("/", self._page), Route("/login", self._login, methods=["POST"]), *api]
        )

    # -- access -------------------------------------------------------------------------------------------------

    def _refused(self, request: Request) -> Response | None:
        """Host and Origin, for everybody who does not come by the socket."""
        if _owner(request):
            return None
        origin = request.headers.get("origin")
        if request.headers.get("host", "").lower() not in self._hosts:
            return _json({"error": {"code": "host", "message": "This host is not served."}}, 403)
        if origin is not None and origin.removeprefix("http://").lower() not in self._hosts:
            return _json({"error": {"code": "origin", "message": "This origin may not call."}}, 403)
        return None

    def _who(self, request: Request) -> str:
        """Who asks, or "" for nobody we know."""
        if owner := _owner(request):
            return owner
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token):
            return "admin-token"
        cookie = request.cookies.get(_COOKIE, "").encode()
        if any([hmac.compare_digest(cookie, one.encode()) for one in self._sessions]):  # noqa: C419 - constant time
            return "console"
        return ""

    def _guarded(self, serve: Callable[[Request, str], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if (refused := self._refused(request)) is not None:
                return refused
            who = self._who(request)
            if not who:
                answer = _json({"error": {"code": "token", "message": "An admin token is needed."}}, 401)
                answer.headers["WWW-Authenticate"] = "Bearer"
                return answer
            try:
                found = serve(request, who)
                answer = found if isinstance(found, Response) else await found
            except CallerError as error:
                answer = _json({"error": {"code": error.code, "message": error.tell}}, error.status)
            except DoorwardError as error:
                answer = _json({"error": {"code": error.code, "message": error.tell}}, 503)
            answer.headers.update(_FIELDS)
            return answer

        return endpoint

    async def _revoke(self, request: Request, who: str) -> Response:
        body = await _body(request)
        match body:
            case {"jti": str(jti), "until": (int() | float()) as until} if not isinstance(until, bool):
                await self._port.revoke(jti, float(until), who)
                return _json({"revoked": jti})
            case _:
                raise CallerError("body", "Send {\"jti\": text, \"until\": Unix seconds}.")

    async def _reload(self, request: Request, who: str) -> Response:
        await _body(request)
        if await self._port.reload(who, force=True):
            return _json({"reloaded": True})
        error = self._port.status().get("last_reload_error") or {}
        return _json({"error": {"code": error.get("code", ""), "message": error.get("tell", "")}}, 422)

    # -- pages --------------------------------------------------------------------------------------------------

    async def _login(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        content = await _read(request)
        given = content.decode("latin-1").partition("token=")[2].partition("&")[0].encode("latin-1")
        if not hmac.compare_digest(given, self._token):
            return Response(_shell(_LOGIN), 401, _FIELDS, "text/html")
        session = secrets.token_urlsafe(32)
        self._sessions = [*self._sessions, session][-_SESSIONS_COUNT:]
        answer = RedirectResponse("/", 303, _FIELDS)
        answer.set_cookie(_COOKIE, session, httponly=True, samesite="strict", max_age=28_800)
        return answer

    async def _page(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if not self._who(request):
            return Response(_shell(_LOGIN), 200, _FIELDS, "text/html")
        body = "".join(
            f"<h2>{title}</h2>{_table(rows)}"
            for title, rows in (
                ("Status", [self._port.status()]),
                ("Servers", self._port.servers()),
                ("Controls", self._port.controls()),
            )
        )
        return Response(_shell(body), 200, _FIELDS, "text/html")


def _owner(request: Request) -> str:
    client = request.client
    return client.host if client is not None and client.host.startswith("os:") else ""


async def _read(request: Request) -> bytes:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _BODY_BYTES:
            raise CallerError("body", "The body is too large.", status=413)
    return content


async def _body(request: Request) -> Any:
    content = await _read(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise CallerError("body", "Send application/json.", status=415)
    try:
        return msgspec.json.decode(content or b"{}")
    except msgspec.DecodeError as error:
        raise CallerError("body", "The body is not JSON.") from error


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, _FIELDS, "application/json")


def _openapi() -> dict[str, Any]:
    paths = {path: {"get": {"responses": {"200": {"description": "A JSON document"}}}} for path in (
        "/api/v1/status", "/api/v1/controls", "/api/v1/servers")}
    posts = {path: {"post": {"responses": {"200": {"description": "Done"}}}} for path in (
        "/api/v1/revocations", "/api/v1/reload")}
    return {"openapi": "3.1.0", "info": {"title": "Doorward admin", "version": "1"}, "paths": {**paths, **posts}}


_LOGIN = '<form method="post" action="/login"><label>Admin token <input type="password" name="token" autofocus></label> <button>Open</button></form>'
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b2430}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.35rem .6rem;border-bottom:1px solid #d9dee5;text-align:left}"
    ".red{color:#b00020;font-weight:600}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}"
)


def _shell(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Doorward</title>'
        f"<style>{_STYLE}</style><h1>Doorward</h1>{body}</html>"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    heads = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
    lines = "".join(
        f"<tr{' class=red' if row.get('sandbox') == 'none' else ''}>"
        + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{heads}</tr>{lines}</table>"
