"""The endpoints of the authorization server: requests in, pages and documents out; what holds is in ``identity``.

Order at /oauth/authorize: client, redirect URI (both shown when wrong, never redirected), the rest of the request, who is
signed in, consent. Nothing goes anywhere before the user has agreed, and what comes back must come from the browser that
was asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from doorward.app import oauth_pages as pages
from doorward.app.oauth_limits import AddressLimit
from doorward.base.ids import mint_handle
from doorward.identity.browsers import Session, gone_link
from doorward.identity.clients import DEVICE
from doorward.identity.oauth_forms import Form, OAuthRefusal, read_form
from doorward.identity.redirects import Parts, with_query
from doorward.identity.requests import Asked, Opened, check_redirect, check_request

if TYPE_CHECKING:
    from starlette.requests import Request

    from doorward.app.authorization import Authorization, InForce
    from doorward.identity.clients import Client
    from doorward.identity.grants import Who

_CODES = 30  # user codes that one address may type in ten minutes
_STYLE_FIELDS = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}


def routes_of(office: Authorization) -> Sequence[Route]:
    """Every route below /oauth/ that people's browsers and clients' programs come to."""
    from doorward.app.oauth_broker import Callbacks
    from doorward.app.oauth_tokens import Tokens

    browser = BrowserFace(office)
    callbacks = Callbacks(office, browser)
    tokens = Tokens(office, callbacks)
    return [
        Route("/oauth/authorize", browser.shown(browser.authorize), methods=["GET"]),
        Route("/oauth/login", browser.shown(browser.look_at_link), methods=["GET"]),
        Route("/oauth/login", browser.shown(browser.sign_in), methods=["POST"]),
        Route("/oauth/consent", browser.shown(browser.decide), methods=["POST"]),
        Route("/oauth/device", browser.shown(browser.ask_code), methods=["GET"]),
        Route("/oauth/device", browser.shown(browser.take_code), methods=["POST"]),
        Route("/oauth/device_authorization", tokens.told(tokens.begin_device), methods=["POST"]),
        Route("/oauth/callback", browser.shown(callbacks.come_back), methods=["GET"]),
        Route("/oauth/style.css", _style, methods=["GET"]),
        Route("/oauth/token", tokens.told(tokens.token), methods=["POST"]),
        Route("/oauth/register", tokens.told(tokens.register), methods=["POST"]),
        Route("/oauth/revoke", tokens.told(tokens.revoke), methods=["POST"]),
        Route("/oauth/introspect", tokens.told(tokens.introspect), methods=["POST"]),
    ]


async def _style(_: Request) -> Response:
    return Response(pages.STYLE, 200, _STYLE_FIELDS, media_type="text/css")


class BrowserFace:
    """What a user's browser sees."""

    def __init__(self, office: Authorization) -> None:
        self.office = office
        self._codes = AddressLimit(_CODES, 600.0, "Too many codes; try later.")
        self.callbacks: Any = None  # set by Callbacks: how mode broker goes on after consent

    def shown(
        self, serve: Callable[[Request, InForce], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint whose refusals are pages and records."""

        async def endpoint(request: Request) -> Response:
            try:
                return await serve(request, self.office.now)
            except OAuthRefusal as error:
                where = request.url.path.rpartition("/")[2]
                status = (
                    400 if error.status == 401 else error.status
                )  # a browser has nothing to prove itself with
                self._refused(request, error, where, status)
                return pages.refusal(error.tell, status=status)

        return endpoint

    def _refused(
        self, request: Request, error: OAuthRefusal, where: str, status: int, client: str = ""
    ) -> None:
        address = request.client.host if request.client else ""
        reason = f"{error.error}: {error.reason}"
        self.office.refused(f"{where}-refused", reason, http_status=status, address=address, client=client)

    # -- authorize ----------------------------------------------------------------------------------------------

    async def authorize(self, request: Request, now: InForce) -> Response:
        """GET /oauth/authorize."""
        form = read_form(request.url.query)
        client = await now.clients.find(form.get("client_id"))
        uri = check_redirect(form, client, now.rules)
        parts = now.rules.find(uri, client.redirect_uris)
        assert parts is not None  # noqa: S101 - check_redirect has just found it
        try:
            asked = check_request(form, client, uri, now.resources)
        except OAuthRefusal as error:
            return self._tell_client(request, now, client, parts, uri, form.get("state"), error)
        session = await self._session(request, now)
        if asked.prompt == "none":
            return await self._without_asking(request, now, client, parts, asked, session)
        if not now.is_broker and (session is None or asked.prompt in ("login", "select_account")):
            return self._ask_who(request, now, client, asked)
        if session is not None and await self._may_skip(now, session, parts, asked):
            return await self._give_code(now, client, asked, session.who, status=302)
        if not now.asks:
            return await self._unasked(request, now, client, asked, session)
        return self._ask_consent(request, now, client, asked, parts, session)

    async def _unasked(
        self, request: Request, now: InForce, client: Client, asked: Asked, session: Session | None
    ) -> Response:
        """Profile lab with the control off: the confused deputy, for the range to attack."""
        if session is not None:
            return await self._give_code(now, client, asked, session.who, status=302)
        browser, fresh = self.browser_of(request, now)
        answer: Response = await self.callbacks.leave(request, now, client, asked, browser)
        return self.with_cookie(answer, now, fresh)

    def _tell_client(
        self,
        request: Request,
        now: InForce,
        client: Client,
        parts: Parts,
        uri: str,
        state: str,
        error: OAuthRefusal,
    ) -> Response:
        """An error that the client may hear. Nobody is sent to an unknown web site by themselves (RFC 9700 §4.11.2)."""
        trusted = client.kind == "settings" or parts.is_loopback
        self._refused(request, error, "authorize", 302 if trusted else 400, client.id)
        if not trusted:
            return pages.refusal(error.tell, status=400)
        return _error_redirect(now, uri, state, error.error, error.tell, status=302)

    async def _without_asking(
        self,
        request: Request,
        now: InForce,
        client: Client,
        parts: Parts,
        asked: Asked,
        session: Session | None,
    ) -> Response:
        if session is not None and await self._may_skip(now, session, parts, asked):
            return await self._give_code(now, client, asked, session.who, status=302)
        code = "login_required" if session is None else "consent_required"
        error = OAuthRefusal(code, "The user has to be asked.")
        return self._tell_client(request, now, client, parts, asked.redirect_uri, asked.state, error)

    async def _may_skip(self, now: InForce, session: Session, parts: Parts, asked: Asked) -> bool:
        """Who agreed before is not asked again, save where any program on the machine could stand in (RFC 8252 §8.6)."""
        if parts.scheme != "https" or asked.prompt == "consent":
            return False
        return await asyncio.to_thread(now.browsers.has_agreed, session.who, asked, time.time())

    def _ask_who(
        self, request: Request, now: InForce, client: Client, asked: Asked, *, failed: str = ""
    ) -> Response:
        browser, fresh = self.browser_of(request, now)
        sealed = self.office.seal.close("login", asked, browser=browser, subject="", now=time.time())
        command = f"doorward login-link --user NAME --config {now_path(self.office)}"
        return self.with_cookie(pages.sign_in(client, sealed, command, failed=failed), now, fresh)

    def _ask_consent(
        self,
        request: Request,
        now: InForce,
        client: Client,
        asked: Asked,
        parts: Parts | None,
        session: Session | None,
    ) -> Response:
        browser, fresh = self.browser_of(request, now)
        user = session.who.subject if session is not None else ""
        sealed = self.office.seal.close("consent", asked, browser=browser, subject=user, now=time.time())
        self.office.seen(
            "consent-asked", user, client=client.id, item=asked.resource, address=_address(request)
        )
        provider, form_to = now.settings.identity.broker.issuer, pages.leads_to(parts) if parts else ""
        if now.is_broker:  # browsers apply it to every hop, and the provider's come between
            form_to = f"{'/'.join(provider.split('/')[:3])} {form_to}"
        answer = pages.consent(client, asked, parts, sealed, user=user, provider=provider, form_to=form_to)
        return self.with_cookie(answer, now, fresh)

    # -- sign-in by a link --------------------------------------------------------------------------------------

    async def look_at_link(self, request: Request, now: InForce) -> Response:
        """GET /oauth/login?ticket=...: ask before it is used up."""
        ticket = read_form(request.url.query).get("ticket")
        who = await asyncio.to_thread(now.browsers.look_at_link, ticket, time.time()) if ticket else None
        if who is None:
            raise gone_link()
        browser, fresh = self.browser_of(request, now)
        sealed = self.office.seal.close("login", None, browser=browser, subject="", now=time.time())
        return self.with_cookie(pages.confirm_link(who.subject, ticket, sealed), now, fresh)

    async def sign_in(self, request: Request, now: InForce) -> Response:
        """POST /oauth/login."""
        form, opened, browser = await self.posted(request, now, "login")
        ticket = form.get("ticket").strip()
        if "ticket=" in ticket:
            ticket = ticket.partition("ticket=")[2].partition("&")[0]
        try:
            who = await asyncio.to_thread(now.browsers.use_link, ticket, time.time())
            if now.roles_of(who) is None:
                raise OAuthRefusal("access_denied", "There is no such account any more.", status=403)
        except OAuthRefusal as error:
            if opened.asked is None:
                raise
            client = await now.clients.find(opened.asked.client_id)
            self._refused(request, error, "login", 403, client.id)
            return self._ask_who(request, now, client, opened.asked, failed=error.tell)
        await asyncio.to_thread(self.office.seal.use, opened, now.state, time.time())
        await asyncio.to_thread(now.browsers.sign_out, browser)
        fresh = await asyncio.to_thread(now.browsers.sign_in, who, time.time())
        self.office.record(
            "signed-in", who.subject, verdict="allow", reason="one-time link", address=_address(request)
        )
        if opened.asked is None:
            return self.with_cookie(pages.signed_in(who.subject), now, fresh)
        if opened.asked.device:
            return self.with_cookie(pages.device(opened.asked.device), now, fresh)
        again = msgspec.structs.replace(opened.asked, prompt="")
        target = with_query(f"{now.issuer}/oauth/authorize", again.again())
        return self.with_cookie(redirect(target, 303), now, fresh)

    # -- consent ------------------------------------------------------------------------------------------------

    async def decide(self, request: Request, now: InForce) -> Response:
        """POST /oauth/consent."""
        form, opened, browser = await self.posted(request, now, "consent")
        decision, asked = form.get("decision"), opened.asked
        if decision not in ("approve", "deny", "switch") or asked is None:
            raise OAuthRefusal("invalid_request", "Allow or deny.", reason="no decision")
        client = await now.clients.find(asked.client_id)
        if not still_fits(now, client, asked):
            raise OAuthRefusal("access_denied", "The client has changed since it asked.", status=403)
        session = await self._session(request, now)
        if (session.who.subject if session is not None else "") != opened.subject:
            raise OAuthRefusal("access_denied", "Somebody else is signed in now.", status=403)
        await asyncio.to_thread(self.office.seal.use, opened, now.state, time.time())
        if decision == "switch":
            await asyncio.to_thread(now.browsers.sign_out, browser)
            if asked.device:
                return pages.device(asked.device)
            return redirect(with_query(f"{now.issuer}/oauth/authorize", asked.again()), 303)
        if decision == "deny":
            self.office.record(
                "consent-denied", opened.subject, client=client.id, item=asked.resource, verdict="refuse"
            )
            if asked.device:
                await asyncio.to_thread(now.devices.decide, asked.device, None, time.time())
                return pages.device_done(agreed=False)
            tell = "The user did not agree."
            return _error_redirect(now, asked.redirect_uri, asked.state, "access_denied", tell, status=303)
        if session is None:
            return await self.callbacks.leave(request, now, client, asked, browser)  # type: ignore[no-any-return]
        return await self.agreed(request, now, client, asked, session.who)

    async def agreed(
        self, request: Request, now: InForce, client: Client, asked: Asked, who: Who
    ) -> Response:
        """The user agreed: keep that, and send a code to where the client said."""
        if asked.device:
            await asyncio.to_thread(now.devices.decide, asked.device, who, time.time())
        else:
            await asyncio.to_thread(now.browsers.remember, who, client, asked, time.time())
        self.office.record(
            "consent-given",
            who.subject,
            verdict="allow",
            client=client.id,
            item=asked.resource,
            address=_address(request),
        )
        if asked.device:
            return pages.device_done(agreed=True)
        return await self._give_code(now, client, asked, who, status=303)

    # -- devices ------------------------------------------------------------------------------------------------

    async def ask_code(self, request: Request, now: InForce) -> Response:
        """GET /oauth/device."""
        return pages.device("")

    async def take_code(self, request: Request, now: InForce) -> Response:
        """POST /oauth/device: nothing is decided by that, it only leads to the page that asks."""
        self._codes.admit(_address(request))
        form = read_form((await request.body()).decode("latin-1"))
        asked = await asyncio.to_thread(now.devices.find, form.get("user_code"), time.time())
        client = await now.clients.find(asked.client_id)
        if not still_fits(now, client, asked):
            raise OAuthRefusal("access_denied", "The client has changed since it asked.", status=403)
        session = await self._session(request, now)
        if session is None and not now.is_broker:
            return self._ask_who(request, now, client, asked)
        return self._ask_consent(request, now, client, asked, None, session)

    async def _give_code(
        self, now: InForce, client: Client, asked: Asked, who: Who, *, status: int
    ) -> Response:
        code = await asyncio.to_thread(now.grants.grant, asked, who)
        answer = [("code", code), ("state", asked.state), ("iss", now.issuer)]
        return redirect(with_query(asked.redirect_uri, answer), status)

    # -- browsers -----------------------------------------------------------------------------------------------

    async def posted(self, request: Request, now: InForce, kind: str) -> tuple[Form, Opened, str]:
        """A form of ours that came back: from our own page, in the browser that it was shown in."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        if site != "same-origin":
            raise OAuthRefusal(
                "access_denied", "This form is not ours.", reason="sent by another site", status=403
            )
        kind_of_body = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind_of_body != "application/x-www-form-urlencoded":
            raise OAuthRefusal("invalid_request", "Send a form.", status=415)
        form = read_form((await request.body()).decode("latin-1"))
        browser = request.cookies.get(cookie_name(now), "")
        opened = self.office.seal.open(kind, form.get("transaction"), browser=browser, now=time.time())
        return form, opened, browser

    async def _session(self, request: Request, now: InForce) -> Session | None:
        browser = request.cookies.get(cookie_name(now), "")
        session = await asyncio.to_thread(now.browsers.session, browser, time.time())
        return session if session is not None and now.roles_of(session.who) is not None else None

    def browser_of(self, request: Request, now: InForce) -> tuple[str, str]:
        """The browser's name, and the one that it must be told now ("" for none)."""
        browser = request.cookies.get(cookie_name(now), "")
        if len(browser) == 43:
            return browser, ""
        fresh = mint_handle()
        return fresh, fresh

    def cookie(self, now: InForce) -> str:
        """The name of the browser's cookie."""
        return cookie_name(now)

    def with_cookie(self, answer: Response, now: InForce, browser: str) -> Response:
        """The answer that tells the browser its name."""
        if browser:
            secure = now.issuer.startswith("https:")
            answer.set_cookie(
                cookie_name(now),
                browser,
                max_age=now.settings.identity.session_seconds,
                path="/",
                secure=secure,
                httponly=True,
                samesite="lax",
            )
        return answer


def cookie_name(now: InForce) -> str:
    """The browser's cookie: bound to this host where there is TLS (RFC 6265bis §4.1.3.2)."""
    return "__Host-doorward" if now.issuer.startswith("https:") else "doorward-browser"


def still_fits(now: InForce, client: Client, asked: Asked) -> bool:
    """Whether client and resource are still what they were when the request was judged."""
    same = client.version == asked.client_version and asked.resource in now.resources
    if asked.device:
        return same and DEVICE in client.grants
    return same and now.rules.find(asked.redirect_uri, client.redirect_uris) is not None


def now_path(office: Authorization) -> str:
    """The settings file's name, without the folders of this machine."""
    return office.supervisor.loaded.path.name


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def redirect(target: str, status: int) -> Response:
    """A redirect to exactly this target."""
    answer = RedirectResponse(target, status, pages.FIELDS)
    answer.headers["location"] = target  # as it was registered, to the letter
    return answer


def _error_redirect(now: InForce, uri: str, state: str, error: str, tell: str, *, status: int) -> Response:
    answer = [("error", error), ("error_description", tell), ("state", state), ("iss", now.issuer)]
    return redirect(with_query(uri, answer), status)
