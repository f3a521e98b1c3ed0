"""The admin plane as an ASGI app: what it shows and does comes from the supervisor through one port.

Whoever comes by the Unix socket is the owner of the process (or root); whoever comes by TCP needs the admin token, and
Host and Origin are checked first. A browser gets a session cookie for the token; the pages build everything that they
show from text nodes, and the content security policy allows nothing from elsewhere and no inline script or style.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doorward.base.errors import CallerError, DoorwardError
from doorward.console.acts import Act, Asked
from doorward.console.openapi import document_of

_COOKIE = "doorward_admin"
_BODY_BYTES = 65_536
_SESSIONS_COUNT = 64
_SESSION_SECONDS = 28_800
_FIELDS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends forms with the origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}


class AdminPort(Protocol):
    """What the admin plane may see and do."""

    def status(self) -> dict[str, Any]: ...

    def workers(self) -> list[dict[str, Any]]: ...

    def controls(self) -> list[dict[str, Any]]: ...

    def servers(self) -> list[dict[str, Any]]: ...

    def limits(self) -> list[dict[str, Any]]: ...

    async def calls(self) -> list[dict[str, Any]]: ...

    def metrics(self) -> str: ...

    async def revoke(self, jti: str, until: float, by: str) -> None: ...

    async def reload(self, by: str, *, force: bool = False) -> bool: ...


class AdminPlane:
    """Routes, access and pages."""

    def __init__(self, port: AdminPort, token: str, hosts: frozenset[str], acts: Sequence[Act] = ()) -> None:
        self._port = port
        self._token = token.encode()
        self._hosts = hosts
        self._sessions: dict[str, float] = {}  # session -> when it ends, by the monotonic clock
        gets: dict[str, Callable[[], Any]] = {
            "status": port.status, "workers": port.workers, "controls": port.controls, "servers": port.servers,
            "limits": port.limits, "calls": port.calls, "overview": self._overview,
        }  # fmt: skip
        routes = [Route(f"/api/v1/{name}", self._guarded(_shown(see))) for name, see in gets.items()]
        routes += [
            Route("/api/v1/revocations", self._guarded(self._revoke), methods=["POST"]),
            Route("/api/v1/reload", self._guarded(self._reload), methods=["POST"]),
            Route("/api/openapi.json", self._guarded(_shown(lambda: document_of(acts)))),
            Route("/metrics", self._guarded(self._metrics)),
            Route("/", self._page),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
        ]
        routes += [Route(f"/static/{name}", self._file(name, kind)) for name, kind in _STATIC.items()]
        routes += [
            Route(f"/api/v1/{act.path}", self._guarded(_acting(act)), methods=[act.verb]) for act in acts
        ]
        self.app: ASGIApp = _Hardened(Starlette(routes=routes))

    # -- access -------------------------------------------------------------------------------------------------

    def _refused(self, request: Request) -> Response | None:
        """Host and Origin, for everybody who does not come by the socket."""
        if _owner(request):
            return None
        origin = request.headers.get("origin")
        if request.headers.get("host", "").lower() not in self._hosts:
            return _json({"error": {"code": "host", "message": "This host is not served."}}, 403)
        if origin is not None and origin.lower() not in {
            f"{request.url.scheme}://{host}" for host in self._hosts
        }:
            return _json({"error": {"code": "origin", "message": "This origin may not call."}}, 403)
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _navigates(
            request
        ):
            return _json({"error": {"code": "origin", "message": "Another site may not call."}}, 403)
        return None

    def _who(self, request: Request) -> str:
        """Who asks, or "" for nobody we know."""
        if owner := _owner(request):
            return owner
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token):
            return "admin-token"
        if not self._has_session(request):
            return ""
        # SECURITY: a cookie comes by itself, so what changes something must come from our own page.
        from_us = "origin" in request.headers or request.headers.get("sec-fetch-site") == "same-origin"
        return "console" if request.method in ("GET", "HEAD") or from_us else ""

    def _has_session(self, request: Request) -> bool:
        cookie = request.cookies.get(_COOKIE, "").encode()
        now = time.monotonic()
        self._sessions = {name: until for name, until in self._sessions.items() if until > now}
        found = [hmac.compare_digest(cookie, one.encode()) for one in self._sessions]  # constant time
        return any(found)

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
                return found if isinstance(found, Response) else await found
            except CallerError as error:
                return _json({"error": {"code": error.code, "message": error.tell}}, error.status)
            except DoorwardError as error:
                return _json({"error": {"code": error.code, "message": error.tell}}, 503)

        return endpoint

    # -- acts and views -----------------------------------------------------------------------------------------

    async def _revoke(self, request: Request, who: str) -> Response:
        body = await _body(request)
        match body:
            case {"jti": str(jti), "until": (int() | float()) as until} if not isinstance(until, bool):
                await self._port.revoke(jti, float(until), who)
                return _json({"revoked": jti})
            case _:
                raise CallerError("body", 'Send {"jti": text, "until": Unix seconds}.')

    async def _reload(self, request: Request, who: str) -> Response:
        await _body(request)
        if await self._port.reload(who, force=True):
            return _json({"reloaded": True})
        error = self._port.status().get("last_reload_error") or {}
        return _json({"error": {"code": error.get("code", ""), "message": error.get("tell", "")}}, 422)

    def _metrics(self, request: Request, who: str) -> Response:
        return Response(self._port.metrics(), media_type="text/plain; version=0.0.4")

    async def _overview(self) -> dict[str, Any]:
        port = self._port
        return {
            "status": port.status(),
            "servers": port.servers(),
            "workers": port.workers(),
            "controls": port.controls(),
            "limits": port.limits(),
            "calls": await port.calls(),
        }

    # -- pages --------------------------------------------------------------------------------------------------

    async def _login(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        try:
            content = await _read(request)
        except CallerError as error:
            return _json({"error": {"code": error.code, "message": error.tell}}, error.status)
        given = content.decode("latin-1").partition("token=")[2].partition("&")[0].encode("latin-1")
        if not hmac.compare_digest(given, self._token):
            return Response(_content("login-again.html"), 401, media_type="text/html")
        session = secrets.token_urlsafe(32)
        kept = list(self._sessions.items())[1 - _SESSIONS_COUNT :]
        self._sessions = {**dict(kept), session: time.monotonic() + _SESSION_SECONDS}
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            _COOKIE,
            session,
            httponly=True,
            samesite="strict",
            max_age=_SESSION_SECONDS,
            secure=request.url.scheme == "https",
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        answer = RedirectResponse("/", 303)
        if self._who(request) == "console":
            self._sessions.pop(request.cookies.get(_COOKIE, ""), None)
            answer.delete_cookie(_COOKIE, httponly=True, samesite="strict")
        return answer

    async def _page(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        page = "console.html" if self._who(request) else "login.html"
        return Response(_content(page), 200, media_type="text/html")

    def _file(self, name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        """A file of the pages: the same for everybody, so that the login page can use it."""

        async def serve(request: Request) -> Response:
            return self._refused(request) or Response(_content(name), media_type=kind)

        return serve


class _Hardened:
    """Adds the security fields to every answer, those of the router for unknown paths too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = [(name.lower().encode(), value.encode()) for name, value in _FIELDS.items()]
                message["headers"] = [*message.get("headers", []), *fields]
            await send(message)

        await self._app(scope, receive, sending)


def _shown(see: Callable[[], Any]) -> Callable[[Request, str], Awaitable[Response]]:
    async def serve(_: Request, __: str) -> Response:
        found = see()
        return _json(await found if isinstance(found, Awaitable) else found)

    return serve


def _acting(act: Act) -> Callable[[Request, str], Awaitable[Response]]:
    async def serve(request: Request, who: str) -> Response:
        body = await _body(request) if act.verb == "POST" else None
        found = act.serve(Asked(who, dict(request.path_params), dict(request.query_params), body))
        return _json(await found if isinstance(found, Awaitable) else found)

    return serve


def _content(name: str) -> bytes:
    folder = files("doorward.console") / "static"
    if name != "login-again.html":
        return (folder / name).read_bytes()
    again = b'<p class="fault" role="alert">That is not the admin token.</p>'
    return (folder / "login.html").read_bytes().replace(b"<!-- fault -->", again)


def _navigates(request: Request) -> bool:
    """A person follows a link to the page; with SameSite=Strict they then see the login form."""
    return request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"


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
    return Response(msgspec.json.encode(value), status, media_type="application/json")
