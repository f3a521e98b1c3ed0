"""Get tokens for servers from their authorization servers: one flight for each, kept until shortly before they are over."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from doorward.adapters.guarded_http import GuardedHttp
from doorward.adapters.upstream_oauth import UpstreamOAuth
from doorward.base.addresses import NetworkRules
from doorward.base.errors import DoorwardError, UpstreamError
from doorward.identity import oauth_client
from doorward.identity.oauth_client import Client, Token
from doorward.identity.oauth_metadata import ServerMetadata, canonical
from doorward.settings_common import OPEN_PROFILES

if TYPE_CHECKING:
    from doorward.app.secrets import SecretReader
    from doorward.catalogue.server import Credentials, SecretReference, ServerSpec
    from doorward.settings import Settings

SKEW_SECONDS = 5.0  # a token is not presented in its last seconds
_AHEAD = 0.2  # of its life, at most ...
_AHEAD_SECONDS = 60.0  # ... this much before its end a fresh one is asked for
_METADATA_SECONDS = 600.0
_KEPT_COUNT = 8_192
STEP_UPS_COUNT = 2  # with the first token three attempts, as for linked accounts ...
STEP_UP_SECONDS = 86_400.0  # ... in this time
_FAILED_SECONDS = 2.0  # a refusal is believed this long: a caller's loop must not become a flood there

Key = tuple[str, ...]


class Presented(msgspec.Struct, frozen=True):
    """What a worker presents, and for how long."""

    line: bytes
    again_at: float
    until: float


class _Wanted(msgspec.Struct, frozen=True):
    """What a server asked for beyond the settings, how often, and until when that counts."""

    scopes: tuple[str, ...]
    times: int
    until: float


class _Failed(msgspec.Struct, frozen=True):
    error: UpstreamError
    until: float


def presented(token: Token, now: float) -> Presented:
    """A token as a header line."""
    life = max(0.0, token.expires_at - now)
    ahead = min(_AHEAD_SECONDS, life * _AHEAD)
    line = b"Authorization: Bearer " + token.access.encode("ascii") + b"\r\n"
    return Presented(line, token.expires_at - ahead, token.expires_at - min(SKEW_SECONDS, life / 2))


class TokenDesk:
    """Knows clients and issuers of the settings in force. Raises everywhere: UpstreamError, OperatorError ``secret-...``."""

    def __init__(self, settings: Settings, secrets: SecretReader) -> None:
        self.settings = settings
        self._secrets = secrets
        plain = settings.gateway.profile in OPEN_PROFILES
        rules = NetworkRules.of(settings.network.allow, plain_loopback=plain)
        self._guarded = GuardedHttp(rules)
        # What a server's own URL opens is what the settings open anyway: exactly its host and port.
        own = NetworkRules.of([*settings.network.allow, *_origins(settings)], plain_loopback=True)
        self._own = GuardedHttp(own)
        self.oauth = UpstreamOAuth(self._guarded, self._own)
        self._tokens: dict[Key, Token] = {}
        self._failed: dict[Key, _Failed] = {}
        self._wanted: dict[Key, _Wanted] = {}
        self._flights: dict[Key, asyncio.Task[Token]] = {}
        self._metadata: dict[tuple[str, str], tuple[float, ServerMetadata]] = {}

    def close(self) -> None:
        """Drop what is under way."""
        for task in self._flights.values():
            task.cancel()
        self._guarded.close()
        self._own.close()

    def take_over(self, before: TokenDesk) -> None:
        """Keep the tokens of servers whose settings did not change."""
        same = {
            name for name, spec in self.settings.servers.items() if before.settings.servers.get(name) == spec
        }
        self._tokens = {key: token for key, token in before._tokens.items() if key[0] in same}
        self._wanted = {key: wanted for key, wanted in before._wanted.items() if key[0] in same}

    def forget(self, owner: Key) -> None:
        """What is kept under keys that begin so counts no more."""
        for kept in (self._tokens, self._failed):
            for key in [key for key in kept if key[: len(owner)] == owner]:
                del kept[key]

    async def metadata(self, issuer: str, ca_file: str) -> ServerMetadata:
        """An issuer's metadata, kept for ten minutes."""
        known = self._metadata.get((issuer, ca_file))
        if known is None or known[0] < time.monotonic():
            found = await self.oauth.server(issuer, ca_file)
            self._metadata[issuer, ca_file] = known = (time.monotonic() + _METADATA_SECONDS, found)
        return known[1]

    async def endpoint(self, given: Credentials) -> ServerMetadata:
        """The authorization server of credentials that name one."""
        if given.issuer:
            return await self.metadata(given.issuer, given.ca_file)
        methods = ("client_secret_post", "client_secret_basic")
        return ServerMetadata(
            "", given.token_url, authorization_endpoint=given.authorize_url, auth_methods=methods
        )

    async def client(self, spec: ServerSpec) -> Client:
        """Who Doorward is there; secrets are read anew each time."""
        given = spec.credentials

        async def read(name: str, reference: SecretReference | None) -> bytes:
            if reference is None:
                return b""
            where = f"servers.{spec.name}.credentials.{name}"
            found = await asyncio.to_thread(self._secrets.resolve, reference, where, "sign-in")
            return found.reveal()

        return Client(
            given.client_id,
            await read("client_secret", given.client_secret),
            await read("private_key", given.private_key),
            given.key_id,
            given.client_auth,
        )

    async def shared(self, spec: ServerSpec, spent: bytes, scopes: tuple[str, ...]) -> Presented:
        """Doorward's own token for a server (client credentials)."""
        given, key = spec.credentials, (spec.name,)
        self._step_up(key, spent, scopes)

        async def ask() -> Token:
            wanted = self._union(key, given.scopes)
            at, client = await self.endpoint(given), await self.client(spec)
            form = oauth_client.client_credentials(wanted, resource_of(spec))
            return await self.oauth.token(at, client, form, asked=wanted, ca_file=given.ca_file)

        return await self.once(key, ask, spent)

    async def exchanged(
        self,
        spec: ServerSpec,
        caller: tuple[str, ...],
        subject_token: str,
        spent: bytes,
        scopes: tuple[str, ...],
    ) -> Presented:
        """A token for one caller, in exchange for the one that they sent to Doorward; that one goes nowhere else."""
        given = spec.credentials
        key = (spec.name, *caller, hashlib.sha256(subject_token.encode()).hexdigest())
        self._step_up(key, spent, scopes)

        async def ask() -> Token:
            wanted = self._union(key, given.scopes)
            at, client = await self.endpoint(given), await self.client(spec)
            if given.type == "on-behalf-of":
                form = oauth_client.on_behalf_of(subject_token, wanted)
            else:
                actor = await self._actor(spec) if given.act else ""
                form = oauth_client.token_exchange(
                    subject_token, actor, wanted, resource_of(spec), given.audience
                )
            found = await self.oauth.token(at, client, form, asked=wanted, ca_file=given.ca_file)
            # SECURITY: a server that gives back what it was given would make Doorward pass the caller's token on.
            if found.access == subject_token:
                raise UpstreamError(
                    "oauth-answer", "The upstream's authorization server gave no usable token.", "passthrough"
                )
            return msgspec.structs.replace(found, refresh="")

        return await self.once(key, ask, spent)

    def _union(self, key: Key, given: tuple[str, ...]) -> tuple[str, ...]:
        """What to ask for: the scopes of the settings and those of earlier step-ups (OC-16)."""
        wanted = self._wanted.get(key)
        return given if wanted is None else tuple(dict.fromkeys((*given, *wanted.scopes)))

    def _step_up(self, key: Key, spent: bytes, scopes: tuple[str, ...]) -> None:
        """Remember what the server wants more; SECURITY: a few times, or it could have tokens of any scope without end (OC-15)."""
        now = time.time()
        known = self._tokens.get(key)
        if not scopes or (known is not None and presented(known, now).line != spent):
            return  # somebody else has brought another token since
        before = self._wanted.get(key)
        if before is None or before.until < now:
            before = _Wanted((), 0, now + STEP_UP_SECONDS)
        if before.times >= STEP_UPS_COUNT:
            raise UpstreamError("oauth-step-up", "The protected server asks for more rights again and again.")
        if len(self._wanted) >= _KEPT_COUNT:
            self._wanted.pop(next(iter(self._wanted)))
        union = tuple(dict.fromkeys((*before.scopes, *scopes)))
        self._wanted[key] = _Wanted(union, before.times + 1, before.until)

    async def _actor(self, spec: ServerSpec) -> str:
        """Doorward's own token at the same authorization server: who acts (RFC 8693 section 1.1)."""
        given = spec.credentials
        key = (spec.name, "actor")

        async def ask() -> Token:
            at, client = await self.endpoint(given), await self.client(spec)
            form = oauth_client.client_credentials((), "")
            return await self.oauth.token(at, client, form, ca_file=given.ca_file)

        await self.once(key, ask, b"")
        return self._tokens[key].access

    async def once(self, key: Key, ask: Callable[[], Awaitable[Token]], spent: bytes) -> Presented:
        """The token under ``key``, asked for where there is none that lasts; of many who want it one asks."""
        now = time.time()
        known = self._tokens.get(key)
        if known is not None:
            shown = presented(known, now)
            if shown.line != spent and now < shown.again_at:
                return shown
            if shown.line == spent:
                del self._tokens[key]
                known = None
        failed = self._failed.get(key)
        if failed is not None and now < failed.until:
            raise failed.error
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.ensure_future(self._fly(key, ask))
        try:
            token = await asyncio.shield(task)
        except UpstreamError:
            if known is not None and known.expires_at - SKEW_SECONDS > now:
                return presented(known, now)  # the old one still lasts
            raise
        return presented(token, time.time())

    async def _fly(self, key: Key, ask: Callable[[], Awaitable[Token]]) -> Token:
        try:
            token = await ask()
            if len(self._tokens) >= _KEPT_COUNT:
                self._tokens.pop(next(iter(self._tokens)))
            self._tokens[key] = token
            self._failed.pop(key, None)
            return token
        except UpstreamError as error:
            if len(self._failed) >= _KEPT_COUNT:
                self._failed.clear()
            self._failed[key] = _Failed(error, time.time() + _FAILED_SECONDS)
            raise
        except DoorwardError as error:
            raise UpstreamError("credential-unavailable", error.tell, error.code) from error
        finally:
            del self._flights[key]


def resource_of(spec: ServerSpec) -> str:
    """The OAuth resource that a server is (RFC 8707; MCP, canonical server URI)."""
    return spec.credentials.resource or canonical(spec.url)


def _origins(settings: Settings) -> list[str]:
    from urllib.parse import urlsplit

    found = []
    for spec in settings.servers.values():
        if spec.url:
            parts = urlsplit(spec.url)
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            found.append(f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
    return found
