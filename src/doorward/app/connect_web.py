"""The pages at which users link their accounts at upstreams: signed in, asked, sent, and taken back by the same browser.

Nothing is kept and nobody is sent anywhere before the user agreed on a page of ours; the link that leads here proves nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from doorward.app import oauth_pages as pages
from doorward.app.accounts import DOCUMENT_PATH, Owner
from doorward.app.oauth_web import BrowserFace, cookie_name
from doorward.base.errors import DoorwardError, UpstreamError
from doorward.identity.metadata import issuer_of
from doorward.identity.oauth_client import ResponseRefusedError, TokenRefusedError
from doorward.identity.oauth_forms import OAuthRefusal, read_form
from doorward.identity.principal import LOCAL
from doorward.identity.tokens import TENANT

if TYPE_CHECKING:
    from starlette.requests import Request

    from doorward.app.authorization import Authorization
    from doorward.app.credential_room import CredentialRoom
    from doorward.catalogue.server import ServerSpec

_CLIENT_CHARS = 512
_QUERY_CHARS = 16_384


class ConnectFace:
    """What a user's browser sees below /connect/."""

    def __init__(self, room: CredentialRoom, sign_ins: Authorization) -> None:
        self._room = room
        self._sign_ins = sign_ins
        self._browsers = BrowserFace(sign_ins)

    def routes(self) -> Sequence[Route]:
        """Every route."""
        return [
            Route(DOCUMENT_PATH, self._document, methods=["GET"]),
            Route("/connect/{server}", self._shown(self._page), methods=["GET"]),
            Route("/connect/{server}", self._shown(self._decide), methods=["POST"]),
            Route("/connect/{server}/callback", self._shown(self._callback), methods=["GET"]),
        ]

    def _shown(
        self, serve: Callable[[Request, ServerSpec], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            spec = self._room.supervisor.settings.servers.get(request.path_params["server"])
            if spec is None or spec.credentials.type != "oauth":
                return pages.refusal("There is no server here for which accounts are linked.", status=404)
            try:
                return await serve(request, spec)
            except OAuthRefusal as error:
                return self._refused(spec, f"{error.error}: {error.reason}", error.tell, error.status)
            except TokenRefusedError as error:
                # What an authorization server says in words is not shown: it may be anybody's.
                tell = "The authorization server did not agree. Nothing was linked."
                return self._refused(spec, f"{error.code} {error.error}", tell, 400)
            except ResponseRefusedError as error:
                return self._refused(spec, f"{error.code}: {error.detail}", error.tell, 400)
            except UpstreamError as error:
                return self._refused(spec, f"{error.code}: {error.tell}", error.tell, 502)
            except DoorwardError as error:
                return self._refused(spec, error.code, "This is not possible now; tell the operator.", 503)

        return endpoint

    def _refused(self, spec: ServerSpec, reason: str, tell: str, status: int) -> Response:
        self._sign_ins.refused("link-refused", reason, server=spec.name)
        return pages.refusal(tell, status=status)

    async def _document(self, _: Request) -> Response:
        servers = [
            name
            for name, spec in self._room.supervisor.settings.servers.items()
            if spec.credentials.type == "oauth"
        ]
        return JSONResponse(self._room.accounts.document(servers), headers={"Cache-Control": "max-age=300"})

    # -- who ----------------------------------------------------------------------------------------------------

    async def _subject(self, request: Request) -> str:
        """Who is signed in at this browser; "" for nobody."""
        now = self._sign_ins.now
        if now.settings.identity.mode == "off":
            return LOCAL.subject
        session = await asyncio.to_thread(
            now.browsers.session, request.cookies.get(cookie_name(now), ""), time.time()
        )
        return session.who.subject if session is not None and now.roles_of(session.who) is not None else ""

    def _owner(self, subject: str, client: str) -> Owner:
        if self._sign_ins.now.settings.identity.mode == "off":
            return (LOCAL.tenant, LOCAL.issuer, LOCAL.subject, LOCAL.client)
        return (TENANT, issuer_of(self._room.supervisor.settings.gateway.public_url), subject, client)

    def _sign_in(self) -> Response:
        if self._sign_ins.now.is_broker:
            way = "<p>Connect your MCP client first: signing in there signs this browser in as well. Then come back.</p>"
        else:
            command = f"doorward login-link --user NAME --config {self._sign_ins.supervisor.loaded.path.name}"
            way = f"<p>Run</p>\n<p><code>{escape(command)}</code></p>\n<p>open the link that it prints in this browser, and come back.</p>"
        return pages.page(
            "Sign in first",
            f"<p>To link an account, this browser has to be signed in.</p>\n{way}",
            status=401,
        )

    # -- pages --------------------------------------------------------------------------------------------------

    async def _page(self, request: Request, spec: ServerSpec) -> Response:
        subject = await self._subject(request)
        if not subject:
            return self._sign_in()
        client = _client(read_form(request.url.query).get("client"))
        owner = self._owner(subject, client)
        place = await self._room.accounts.place(spec)
        scopes = await self._room.accounts.scopes(spec, owner, place)
        now = self._sign_ins.now
        browser, fresh = self._browsers.browser_of(request, now)
        sealed = self._sign_ins.seal.close(
            "connect", None, browser=browser, subject=_bound(spec, owner), now=time.time()
        )
        where = place.at.issuer or place.at.authorization_endpoint
        rows = [
            ("You are", subject),
            ("Program", owner[3]),
            ("Server", f"{spec.name} ({urlsplit(spec.url).netloc})"),
            ("You sign in at", urlsplit(where).netloc),
            ("Rights", " ".join(scopes) or "those that it gives by default"),
        ]
        table = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in rows)
        body = f"""<dl>
{table}</dl>
<p>Doorward then calls this server with your account whenever this program calls it in your name. Go on only if you began this yourself.</p>
<form method="post" action="/connect/{spec.name}">
<input type="hidden" name="transaction" value="{escape(sealed)}">
<input type="hidden" name="client" value="{escape(client)}">
<button name="decision" value="link">Link my account</button>
<button name="decision" value="unlink">Remove the link</button>
</form>"""
        target = urlsplit(place.at.authorization_endpoint)
        answer = pages.page(
            f"Link your account at {spec.name}?", body, form_to=f"{target.scheme}://{target.netloc} https:"
        )
        return self._browsers.with_cookie(answer, now, fresh)

    async def _decide(self, request: Request, spec: ServerSpec) -> Response:
        form, opened, browser = await self._browsers.posted(request, self._sign_ins.now, "connect")
        subject = await self._subject(request)
        owner = self._owner(subject, _client(form.get("client")))
        if not subject or opened.subject != _bound(spec, owner):
            raise OAuthRefusal("access_denied", "Somebody else is signed in now.", status=403)
        await asyncio.to_thread(self._sign_ins.seal.use, opened, self._sign_ins.now.state, time.time())
        match form.get("decision"):
            case "link":
                target = await self._room.accounts.begin(spec, owner, browser)
                answer = RedirectResponse(target, 303, pages.FIELDS)
                answer.headers["location"] = target
                return answer
            case "unlink":
                gone = await self._room.unlink_owner(spec, owner)
                tell = "The link is removed." if gone else "There was no link."
                return pages.page("Not linked", f"<p>{tell}</p>")
        raise OAuthRefusal("invalid_request", "Link or remove.", reason="no decision")

    async def _callback(self, request: Request, spec: ServerSpec) -> Response:
        if len(request.url.query) > _QUERY_CHARS:
            raise ResponseRefusedError("too long")
        parameters = parse_qsl(request.url.query, keep_blank_values=True)
        browser = request.cookies.get(cookie_name(self._sign_ins.now), "")
        subject = await self._subject(request)
        if not browser or not subject:
            raise ResponseRefusedError("nobody is signed in at this browser")
        linked = await self._room.accounts.finish(spec, parameters, browser, subject)
        self._room.linked(linked, request.client.host if request.client else "")
        return pages.page(
            "Linked",
            f"<p>Your account at <strong>{escape(spec.name)}</strong> is linked. Go back to your program and call again.</p>",
        )


def _client(text: str) -> str:
    if not text or len(text) > _CLIENT_CHARS or not text.isprintable():
        raise OAuthRefusal(
            "invalid_request", "The address does not say for which program; take it from the refused call."
        )
    return text


def _bound(spec: ServerSpec, owner: Owner) -> str:
    import msgspec

    return msgspec.json.encode((spec.name, *owner)).decode()


def routes_of(room: CredentialRoom, sign_ins: Any) -> Sequence[Route]:
    """Every route below /connect/."""
    return ConnectFace(room, sign_ins).routes()
