"""The way to the identity provider and back in mode broker: fetches through the guarded client, judged in ``identity``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from doorward.app.oauth_limits import AddressLimit
from doorward.base.errors import CallerError, UpstreamError
from doorward.identity import brokered
from doorward.identity.brokered import Provider
from doorward.identity.id_jag import check_client, read_id_jag
from doorward.identity.oauth_forms import Form, OAuthRefusal, read_form
from doorward.identity.requests import check_scope
from doorward.protocol.json_door import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from doorward.app.authorization import Authorization, InForce
    from doorward.app.oauth_web import BrowserFace
    from doorward.identity.clients import Client
    from doorward.identity.grants import Issued, Who
    from doorward.identity.requests import Asked

_T = TypeVar("_T")
_TRIPS = 600  # that one address may begin within the life of a trip
_METADATA_SECONDS = 600.0
_JWKS_SECONDS = 300.0
_JWKS_AGAIN_SECONDS = 30.0  # an unknown key is looked for anew, but not as often as somebody likes


class Callbacks:
    """Goes on after consent in mode broker, and takes what the provider's redirect brings."""

    def __init__(self, office: Authorization, face: BrowserFace) -> None:
        self._office = office
        self._face = face
        face.callbacks = self
        self._trips = AddressLimit(_TRIPS, brokered.TRIP_SECONDS, "Too many sign-ins; try later.")
        self._cached: dict[tuple[str, str], tuple[float, Any]] = {}

    async def leave(
        self, request: Request, now: InForce, client: Client, asked: Asked, browser: str
    ) -> Response:
        """After consent: send the browser to the provider. Only now is there a state, and a cookie for it (AS-27)."""
        from doorward.app.oauth_web import redirect

        self._trips.admit(request.client.host if request.client else "")
        provider = await self._provider(now)
        broker = now.settings.identity.broker
        target, state = await asyncio.to_thread(
            lambda: brokered.leave(
                now.state,
                provider,
                asked,
                browser=browser,
                client_id=broker.client_id,
                scopes=broker.scopes,
                callback=_callback(now),
                derive=self._office.seal.derive,
                now=time.time(),
            )
        )
        self._office.record(
            "sent-to-provider", "", client=client.id, item=asked.resource, reason=provider.issuer
        )
        answer = redirect(target, 303)
        secure = now.issuer.startswith("https:")
        answer.set_cookie(
            _cookie(now, state),
            state,
            max_age=int(brokered.TRIP_SECONDS),
            path="/" if secure else "/oauth",
            secure=secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    async def come_back(self, request: Request, now: InForce) -> Response:
        """GET /oauth/callback."""
        if not now.is_broker:
            raise OAuthRefusal("invalid_request", "There is nothing here.", status=404)
        from doorward.app.oauth_web import still_fits

        form = read_form(request.url.query)
        browser = request.cookies.get(self._face.cookie(now), "")
        cookie = request.cookies.get(_cookie(now, form.get("state")), "")
        trip = await asyncio.to_thread(
            lambda: brokered.come_back(
                now.state, form, browser=browser, state_cookie=cookie, now=time.time(), is_bound=now.asks
            )
        )
        provider = await self._provider(now)
        brokered.check_issuer(trip, provider, form)
        if form.get("error") or not form.get("code"):
            # SECURITY: the words of an answer are the provider's or anybody's; none of them is shown (OC-07).
            raise OAuthRefusal("access_denied", "The identity provider did not sign you in.", status=403)
        who = await self._who(now, provider, form)
        client = await now.clients.find(trip.asked.client_id)
        if not still_fits(now, client, trip.asked):
            raise OAuthRefusal("access_denied", "The client has changed since it asked.", status=403)
        await asyncio.to_thread(now.browsers.sign_out, browser)
        fresh = await asyncio.to_thread(now.browsers.sign_in, who, time.time())
        self._office.record("signed-in", who.subject, verdict="allow", reason=provider.issuer)
        answer = await self._face.agreed(request, now, client, trip.asked, who)
        secure = now.issuer.startswith("https:")
        answer.delete_cookie(_cookie(now, form.get("state")), path="/" if secure else "/oauth", secure=secure)
        return self._face.with_cookie(answer, now, fresh)

    async def by_assertion(self, now: InForce, client: Client, form: Form) -> Issued:
        """A token for an assertion of the provider (ID-JAG). Raises: OAuthRefusal."""
        check_client(client)
        provider, scopes = await self._provider(now), check_scope(form)

        def read(jwks: Any) -> tuple[dict[str, Any], str]:
            return read_id_jag(
                form,
                jwks,
                client,
                provider=provider.issuer,
                issuer=now.issuer,
                algorithms=provider.algorithms,
                resources=now.resources,
                store=now.state,
                now=time.time(),
            )

        claims, resource = await self._with_keys(now, provider, read)
        who = self._person(now, provider, claims)
        return await asyncio.to_thread(now.grants.asserted, client, who, resource, scopes)

    # -- what is fetched ----------------------------------------------------------------------------------------

    async def _who(self, now: InForce, provider: Provider, form: Form) -> Who:
        broker = now.settings.identity.broker
        derive, state = self._office.seal.derive, form.get("state")
        fields, body = brokered.token_request(
            provider,
            code=form.get("code"),
            verifier=derive("verifier", state),
            callback=_callback(now),
            client_id=broker.client_id,
            secret=now.broker_secret,
        )
        answer = await self._post(now, provider.token_endpoint, fields, body)
        expected = derive("nonce", state)
        claims = await self._with_keys(
            now,
            provider,
            lambda jwks: brokered.read_id_token(
                answer, jwks, provider, expected=expected, client_id=broker.client_id, now=time.time()
            ),
        )
        return self._person(now, provider, claims)

    def _person(self, now: InForce, provider: Provider, claims: dict[str, Any]) -> Who:
        broker = now.settings.identity.broker
        return brokered.who_is(
            claims,
            provider=provider.issuer,
            subject_claim=broker.subject_claim,
            roles_claim=broker.roles_claim,
            mapped=broker.roles,
        )

    async def _with_keys(self, now: InForce, provider: Provider, read: Callable[[Any], _T]) -> _T:
        """What ``read`` finds (in a thread); a key that nobody knows is looked for once more: a rollover must fail nobody."""
        jwks = await self._fetched(now, "jwks", provider.jwks_uri, _JWKS_SECONDS)
        try:
            return await asyncio.to_thread(read, jwks)
        except OAuthRefusal as error:
            if "unknown key" not in error.reason:
                raise
        jwks = await self._fetched(now, "jwks", provider.jwks_uri, _JWKS_SECONDS, again=_JWKS_AGAIN_SECONDS)
        return await asyncio.to_thread(read, jwks)

    async def _provider(self, now: InForce) -> Provider:
        issuer = now.settings.identity.broker.issuer
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
        said = await self._fetched(now, "metadata", url, _METADATA_SECONDS)
        provider = brokered.read_provider(issuer, said)
        # The browser goes to this one: it must be a URL that we would go to ourselves (OC-27).
        try:
            now.http.rules.admit(provider.authorization_endpoint)
        except UpstreamError as error:
            raise brokered.unusable(f"authorization endpoint: {error.code}") from None
        return provider

    async def _fetched(self, now: InForce, kind: str, url: str, seconds: float, *, again: float = 0.0) -> Any:
        """A JSON document of the provider; with ``again`` anew unless it was fetched within so many seconds."""
        key, at = (kind, url), time.monotonic()
        until, value = self._cached.get(key, (0.0, None))
        if until > at and not (again and until - seconds < at - again):
            return value
        try:
            got = await now.http.get(url, ca_file=now.settings.identity.broker.ca_file or None)
            if got.status != 200:
                raise brokered.unusable(f"{kind}: status {got.status}")
            value = parse_json(got.body)
        except (UpstreamError, CallerError) as error:
            if isinstance(error, OAuthRefusal):
                raise
            raise brokered.unusable(f"{kind}: {error.code}") from None
        if not isinstance(value, dict):
            raise brokered.unusable(f"{kind}: no object")
        self._cached = {
            (kind, url): (at + seconds, value),
            **{k: v for k, v in self._cached.items() if k[0] != kind},
        }
        return value

    async def _post(self, now: InForce, url: str, fields: list[tuple[str, str]], body: str) -> Any:
        try:
            got = await now.http.post(
                url, fields, body.encode(), ca_file=now.settings.identity.broker.ca_file or None
            )
            if got.status != 200:
                raise brokered.unusable(f"token: status {got.status}")
            return parse_json(got.body)
        except (UpstreamError, CallerError) as error:
            if isinstance(error, OAuthRefusal):
                raise
            raise brokered.unusable(f"token: {error.code}") from None


def _callback(now: InForce) -> str:
    return f"{now.issuer}/oauth/callback"


def _cookie(now: InForce, state: str) -> str:
    """The cookie of one trip; its own name each, so that two tabs do not disturb one another."""
    mark = "".join(char for char in state[:12] if char.isalnum())
    return f"__Host-doorward-trip-{mark}" if now.issuer.startswith("https:") else f"doorward-trip-{mark}"
