"""The authorization server's office: what it is made of under the settings in force, its acts, and its records.

The pages and endpoints are in oauth_web.py, the machine behind them in ``identity``. Rows are in the supervisor's state, so
codes, refresh tokens and consents exist once, however many workers there are; revocations go to all workers at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from doorward.adapters.guarded_http import GuardedHttp
from doorward.adapters.key_files import load_or_create_secret
from doorward.app.controls import accounts_of, mode_of
from doorward.app.oauth_clients import Clients, configured_clients
from doorward.app.office import Office
from doorward.base.addresses import NetworkRules
from doorward.base.clock import SystemClock, rfc3339
from doorward.base.errors import CallerError
from doorward.console.acts import Act, Asked
from doorward.controls.ask_consent import AskConsent
from doorward.identity.browsers import LINK_SECONDS, Browsers
from doorward.identity.clients import DEVICE
from doorward.identity.devices import Devices
from doorward.identity.grants import CLIENT_SUBJECT, Grants, Lifetimes, Who
from doorward.identity.metadata import issuer_of, resource_of
from doorward.identity.redirects import RedirectRules
from doorward.identity.requests import Seal

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from doorward.app.supervisor import Supervisor
    from doorward.identity.clients import Client
    from doorward.identity.oauth_forms import Token
    from doorward.settings import Loaded, Settings

_OPEN_PROFILES = ("local", "lab")
_CREATED_ROLES = ("user",)
_RECORDS_BURST = 500.0  # refusals of nobody that are put on record at once ...
_RECORDS_PER_SECOND = 20.0  # ... and on the long run: a flood must not fill the disk
_PATHS = ("authorize", "token", "revoke", "introspect", "consent", "style.css")


_Secrets = tuple[dict[str, "Client"], str]  # the clients of the settings, and our own secret at the provider


class InForce:
    """Everything that follows from one state of the settings."""

    def __init__(self, office: Authorization, settings: Settings, secrets: _Secrets) -> None:
        configured, self.broker_secret = secrets
        supervisor, identity = office.supervisor, settings.identity
        self.settings = settings
        self.issuer = issuer_of(settings.gateway.public_url)
        self.is_broker = identity.mode == "broker"
        self.asks = mode_of(settings, AskConsent.slug) == "enforce"  # the range alone runs without
        self.rules = RedirectRules(identity.registration.schemes, identity.registration.localhost_ports)
        network = NetworkRules.of(
            settings.network.allow, plain_loopback=settings.gateway.profile in _OPEN_PROFILES
        )
        self.http = GuardedHttp(network)
        state = supervisor.ready_state()
        self.state = state
        self.clients = Clients(configured, identity.registration, self.rules, self.http, state)
        self.resources = frozenset(
            resource_of(settings.gateway.public_url, name) for name in ("", *settings.servers)
        )
        refresh = identity.refresh_token_seconds
        if self.is_broker:  # what the provider takes back is noticed when somebody signs in anew
            refresh = min(refresh, identity.session_seconds)
        self.keys = supervisor._keys
        self.grants = Grants(
            state,
            self.keys,
            SystemClock(),
            issuer=self.issuer,
            resources=self.resources,
            accounts=self.roles_of,
            lifetimes=Lifetimes(identity.access_token_seconds, refresh),
        )
        self.devices = Devices(state, self.grants, self.resources)
        self.has_devices = any(DEVICE in one.grants for one in configured.values())
        self.browsers = Browsers(state, session_seconds=identity.session_seconds)
        self._accounts = accounts_of(settings)

    def roles_of(self, who: Who) -> tuple[str, ...] | None:
        """The roles of a user now; None when there is no such account (any more)."""
        # Two providers may give the same name to different people.
        if who.provider != (self.settings.identity.broker.issuer if self.is_broker else ""):
            return None
        if self.is_broker:
            known = self.settings.roles
            return tuple(role for role in who.roles if role in known)
        if who.subject.startswith(CLIENT_SUBJECT):
            return None
        found = self._accounts.get(who.subject)
        if found is None and who.created and self.settings.gateway.profile in _OPEN_PROFILES:
            return _CREATED_ROLES
        return found


class Authorization(Office):
    """Codes, tokens, clients, consents and sign-ins."""

    name: ClassVar[str] = "authorization"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._judged: _Secrets = ({}, "")
        self._room = _RECORDS_BURST
        self._room_at = time.monotonic()

    async def open(self) -> None:
        """See ``Office.open``."""
        self.seal = Seal(load_or_create_secret(self.supervisor.data_dir, "oauth"))
        settings = self.supervisor.settings
        self.now = InForce(self, settings, await asyncio.to_thread(self._read, settings))

    def judge(self, fresh: Loaded) -> None:
        """See ``Office.judge``."""
        self._judged = self._read(fresh.settings)

    def renew(self) -> None:
        """See ``Office.renew``."""
        before = self.now
        self.now = InForce(self, self.supervisor.settings, self._judged)
        before.http.close()

    async def close(self) -> None:
        """See ``Office.close``."""
        self.now.http.close()

    def _read(self, settings: Settings) -> _Secrets:
        secret = settings.identity.broker.secret
        own = self._resolve(secret, "identity.broker.secret").reveal().decode() if secret is not None else ""
        return configured_clients(settings, self._resolve), own

    def _resolve(self, reference: Any, where: str) -> Any:
        return self.supervisor.secrets.resolve(reference, where, "settings")

    # -- pages --------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether there is an authorization server at all."""
        return self.now.settings.identity.mode in ("embedded", "broker")

    def web_paths(self) -> Sequence[str]:
        """See ``Office.web_paths``."""
        if not self.is_open:
            return ()
        registration = self.now.settings.identity.registration
        paths = [*_PATHS, "callback" if self.now.is_broker else "login"]
        paths += ["device", "device_authorization"] if self.now.has_devices else []
        return [f"/oauth/{name}" for name in (*paths, *(("register",) if registration.dynamic else ()))]

    def web(self) -> Sequence[BaseRoute]:
        """See ``Office.web``."""
        from doorward.app.oauth_web import routes_of

        return routes_of(self)

    # -- what endpoints share -----------------------------------------------------------------------------------

    def record(self, method: str, who: str, **more: Any) -> None:
        """Put on record what happened."""
        self.supervisor.note(method, who, kind="auth", **more)

    def refused(self, method: str, reason: str, **more: Any) -> None:
        """Put a refusal on record; a flood of them by nobody is cut."""
        self.seen(method, more.pop("who", ""), verdict="refuse", reason=reason, **more)

    def seen(self, method: str, who: str, **more: Any) -> None:
        """Put on record what anybody can make happen; a flood of it is cut."""
        at = time.monotonic()
        self._room = min(_RECORDS_BURST, self._room + (at - self._room_at) * _RECORDS_PER_SECOND)
        self._room_at = at
        if self._room >= 1.0:
            self._room -= 1.0
            self.record(method, who, **more)

    async def withdraw(self, tokens: Sequence[Token], by: str) -> None:
        """Revoke access tokens everywhere, before anybody is answered."""
        for token in tokens:
            if token.token_id in self.supervisor._revoked:
                continue  # whoever sends a used code again and again makes no work
            await self.supervisor.revoke(token.token_id, token.expires_at, by)

    # -- acts ---------------------------------------------------------------------------------------------------

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        link = {
            "type": "object",
            "properties": {"user": {"type": "string"}},
            "required": ["user"],
            "additionalProperties": False,
        }
        return [
            Act("POST", "login-links", "Make a link that signs a browser in once.", self._make_link, link),
            Act("GET", "consents", "Which users agreed to which clients.", self._consents),
            Act(
                "DELETE",
                "consents/{id}",
                "Take a consent back, with all that was made from it.",
                self._forget,
            ),
            Act("GET", "oauth-clients", "Clients that registered themselves.", self._registered),
            Act("DELETE", "oauth-clients/{id}", "Delete a client that registered itself.", self._delete),
        ]

    async def _make_link(self, asked: Asked) -> dict[str, Any]:
        match asked.body:
            case {"user": str(user)} if user and len(user) <= 128 and user.isprintable():
                pass
            case _:
                raise CallerError("body", 'Send {"user": name}.')
        if self.now.settings.identity.mode != "embedded":
            raise CallerError("login-link", "Links are for embedded accounts.", status=409)
        profile = self.now.settings.gateway.profile
        known = user in self.now._accounts and not user.startswith(CLIENT_SUBJECT)
        if not known and (profile not in _OPEN_PROFILES or user.startswith(CLIENT_SUBJECT)):
            raise CallerError("login-link", "There is no such account in the settings.", status=404)
        now = time.time()
        who = Who(user, created=not known)
        ticket = await asyncio.to_thread(self.now.browsers.make_link, who, now)
        self.record("login-link-made", asked.who, item=user)
        url = f"{self.now.issuer}/oauth/login?ticket={ticket}"
        return {"url": url, "user": user, "created": not known, "expires_at": rfc3339(now + LINK_SECONDS)}

    async def _consents(self, asked: Asked) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(self.now.browsers.consents, time.time())
        return [
            {
                "id": key,
                "user": one.subject,
                "client_id": one.client_id,
                "client_name": one.client_name,
                "redirect_uris": list(one.redirect_uris),
                "resources": list(one.resources),
                "scopes": list(one.scopes),
                "at": rfc3339(one.at),
            }
            for key, one in found.items()
        ]

    async def _forget(self, asked: Asked) -> dict[str, Any]:
        consent = await asyncio.to_thread(self.now.browsers.forget, asked.path["id"], time.time())
        if consent is None:
            raise CallerError("consent", "There is no such consent.", status=404)
        tokens = await asyncio.to_thread(self.now.grants.end_all, consent.subject, consent.client_id)
        await self.withdraw(tokens, asked.who)
        self.record("consent-revoked", asked.who, item=consent.subject, client=consent.client_id)
        return {"revoked": asked.path["id"], "tokens": len(tokens)}

    async def _registered(self, asked: Asked) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(self.now.clients.registered, time.time())
        return [
            {
                "id": one.client.id,
                "name": one.client.name,
                "redirect_uris": list(one.client.redirect_uris),
                "used": one.used,
                "since": rfc3339(one.at),
            }
            for one in found
        ]

    async def _delete(self, asked: Asked) -> dict[str, Any]:
        client_id = asked.path["id"]
        if not await asyncio.to_thread(self.now.clients.forget, client_id):
            raise CallerError("oauth-client", "There is no such client.", status=404)
        consents = await asyncio.to_thread(self.now.browsers.consents, time.time())
        for key, one in consents.items():
            if one.client_id == client_id:
                await self._forget(Asked(who=asked.who, path={"id": key}, query={}))
        self.record("client-deleted", asked.who, client=client_id)
        return {"deleted": client_id}
