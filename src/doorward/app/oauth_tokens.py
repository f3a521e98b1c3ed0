"""The endpoints that clients' programs ask: token, registration, revocation and introspection (RFC 6749, 7591, 7009, 7662)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from doorward.app.oauth_limits import AddressLimit
from doorward.base.clock import SystemClock
from doorward.identity.assertions import audiences, peek
from doorward.identity.clients import DEVICE, ID_JAG, Client, prove, register
from doorward.identity.oauth_forms import FORM, Form, OAuthRefusal, Token, read_client, read_form
from doorward.identity.principal import Principal
from doorward.identity.tokens import TokenJudge

if TYPE_CHECKING:
    from starlette.requests import Request

    from doorward.app.authorization import Authorization, InForce
    from doorward.app.oauth_broker import Callbacks
    from doorward.identity.grants import Issued

_FIELDS = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
_WAITING = frozenset({"authorization_pending", "slow_down"})  # what a device that waits hears all the time
_REGISTRATIONS = 30  # of one address in ...
_REGISTRATION_SECONDS = 600.0


class Tokens:
    """What a client's program talks to."""

    def __init__(self, office: Authorization, callbacks: Callbacks) -> None:
        self._office = office
        self._callbacks = callbacks
        self._devices = AddressLimit(
            _REGISTRATIONS, _REGISTRATION_SECONDS, "Too many devices wait; try later."
        )
        self._registrations = AddressLimit(
            _REGISTRATIONS, _REGISTRATION_SECONDS, "Too many registrations; try later."
        )

    def told(
        self, serve: Callable[[Request, InForce], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint whose refusals are documents (RFC 6749 §5.2) and records."""

        async def endpoint(request: Request) -> Response:
            try:
                return await serve(request, self._office.now)
            except OAuthRefusal as error:
                return await self._refuse(request, error)

        return endpoint

    async def _refuse(self, request: Request, error: OAuthRefusal) -> Response:
        where = request.url.path.rpartition("/")[2]
        await self._office.withdraw(error.withdrawn, "authorization")
        address = request.client.host if request.client else ""
        reason = f"{error.error}: {error.reason}"
        if error.error not in _WAITING:
            self._office.refused(
                f"{where}-refused", reason, http_status=error.status, address=address, who=error.subject
            )
        answer = _json({"error": error.error, "error_description": error.tell}, error.status)
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = f'Basic realm="{self._office.now.issuer}"'
        return answer

    # -- token --------------------------------------------------------------------------------------------------

    async def token(self, request: Request, now: InForce) -> Response:
        """POST /oauth/token."""
        form, client = await self._asking(request, now)
        grants: dict[str, Callable[[Client, Form], Issued]] = {
            "authorization_code": now.grants.redeem,
            "refresh_token": now.grants.refresh,
            "client_credentials": now.grants.own,
            DEVICE: lambda client, form: now.devices.redeem(client, form, time.time()),
        }
        kind = form.get("grant_type")
        if not kind:
            raise OAuthRefusal("invalid_request", "grant_type is missing.")
        if kind == ID_JAG and now.is_broker:
            issued = await self._callbacks.by_assertion(now, client, form)
        elif kind in grants:
            issued = await asyncio.to_thread(grants[kind], client, form)
        else:
            raise OAuthRefusal("unsupported_grant_type", "There is no such grant here.")
        if kind == "authorization_code":
            await asyncio.to_thread(now.clients.used, client, time.time())
        self._office.record(
            "token-issued",
            issued.subject,
            verdict="allow",
            client=client.id,
            item=issued.resource,
            reason=f"{kind} {issued.token_id}",
            address=request.client.host if request.client else "",
        )
        return _json(issued.answer(), 200)

    async def _asking(self, request: Request, now: InForce) -> tuple[Form, Client]:
        """The form and the client that sent it, proven."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise OAuthRefusal("invalid_request", f"Send {FORM}.")
        if request.url.query:
            raise OAuthRefusal("invalid_request", "Parameters belong into the body.")
        form = read_form((await request.body()).decode("latin-1"))
        presented = read_client(form, request.headers.get("authorization"))
        client = await now.clients.find(presented.client_id)
        audience = (now.issuer, f"{now.issuer}/oauth/token")
        proven = await asyncio.to_thread(
            prove, presented, client, store=now.state, now=time.time(), audience=audience
        )
        return form, proven

    async def begin_device(self, request: Request, now: InForce) -> Response:
        """POST /oauth/device_authorization."""
        form, client = await self._asking(request, now)
        self._devices.admit(request.client.host if request.client else "")
        uri = f"{now.issuer}/oauth/device"
        answer = await asyncio.to_thread(now.devices.begin, client, form, uri, time.time())
        self._office.record("device-waits", "", client=client.id)
        return _json(answer, 200)

    # -- registration -------------------------------------------------------------------------------------------

    async def register(self, request: Request, now: InForce) -> Response:
        """POST /oauth/register."""
        if not now.settings.identity.registration.dynamic:
            raise OAuthRefusal("access_denied", "Programs cannot register themselves here.", status=403)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise OAuthRefusal("invalid_client_metadata", "Send application/json.")
        address = request.client.host if request.client else ""
        at = time.time()
        client, _, answer = register(await request.body(), now.rules, at)
        self._registrations.admit(address)
        await asyncio.to_thread(now.clients.add, client, at)
        self._office.record(
            "client-registered", "", client=client.id, item=client.name, address=address, verdict="allow"
        )
        return _json(answer, 201)

    # -- revocation and introspection ---------------------------------------------------------------------------

    async def revoke(self, request: Request, now: InForce) -> Response:
        """POST /oauth/revoke: 200 whatever the token was (RFC 7009 §2.2)."""
        form, client = await self._asking(request, now)
        token = form.get("token")
        if not token:
            raise OAuthRefusal("invalid_request", "token is missing.")
        tokens = await asyncio.to_thread(now.grants.revoke_refresh, client, token)
        if tokens is None:
            principal = self._read(now, token)
            own = principal is not None and principal.client == client.id
            tokens = (
                [Token(principal.token_id, principal.expires_at)] if principal is not None and own else None
            )
        if tokens is not None:
            await self._office.withdraw(tokens, f"client:{client.id}")
        done = "revoked" if tokens is not None else "no token of this client"
        self._office.record("revocation", f"client:{client.id}", client=client.id, reason=done)
        return Response(b"", 200, _FIELDS)

    async def introspect(self, request: Request, now: InForce) -> Response:
        """POST /oauth/introspect: only for clients that prove themselves, about tokens that are theirs to ask about."""
        form, client = await self._asking(request, now)
        if client.is_public:
            raise OAuthRefusal("invalid_client", "Only a client that proves itself may ask.", status=401)
        token = form.get("token")
        if not token:
            raise OAuthRefusal("invalid_request", "token is missing.")
        found: dict[str, Any] = {"active": False}
        family = await asyncio.to_thread(now.grants.living, token)
        principal = self._read(now, token) if family is None else None
        if family is not None and (client.may_introspect or family.client_id == client.id):
            found = {
                "active": True, "client_id": family.client_id, "sub": family.who.subject, "scope": " ".join(family.scopes),
                "aud": family.resource, "iss": now.issuer, "exp": int(family.expires_at),
            }  # fmt: skip
        elif principal is not None and (client.may_introspect or principal.client == client.id):
            found = {
                "active": True, "client_id": principal.client, "sub": principal.subject, "jti": principal.token_id,
                "scope": " ".join(principal.scopes), "aud": audiences(peek(token))[0], "iss": now.issuer,
                "exp": int(principal.expires_at), "token_type": "Bearer",
            }  # fmt: skip
        self._office.record(
            "introspection",
            f"client:{client.id}",
            client=client.id,
            reason="active" if found["active"] else "inactive",
        )
        return _json(found, 200)

    def _read(self, now: InForce, token: str) -> Principal | None:
        """Who an access token of ours is for, if it is good now."""
        named = audiences(peek(token))
        if len(named) != 1 or named[0] not in now.resources:
            return None
        judge = TokenJudge(
            now.keys.jwks(),
            now.issuer,
            SystemClock(),
            self._office.supervisor._revoked,
            users=now._accounts,
            accepts_created=now.settings.gateway.profile in ("local", "lab"),
            is_brokered=now.is_broker,
        )
        found = judge.judge(f"Bearer {token}", named[0])
        return found if isinstance(found, Principal) else None


def _json(value: Any, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, _FIELDS, media_type="application/json")
