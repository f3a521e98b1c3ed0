"""Accounts of users at upstreams: linked by the user in a browser, kept sealed for exactly one owner, renewed, and unlinked.

An owner is a tenant, issuer, subject and client; a link belongs to one owner, one server and one authorization server there.
What was linked at another authorization server is never used at this one (OC-22).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.adapters.sealed_state import SealedState, owner_key
from doorward.app.token_desk import Presented, TokenDesk, resource_of
from doorward.base.errors import UpstreamError
from doorward.identity import oauth_client
from doorward.identity.oauth_client import Attempt, Client, Token, TokenRefusedError
from doorward.identity.oauth_metadata import ServerMetadata

if TYPE_CHECKING:
    from doorward.catalogue.server import ServerSpec

_log = logging.getLogger("doorward.accounts")
TOKENS, ATTEMPTS, CLIENTS, WANTED = (
    "upstream-tokens",
    "upstream-attempts",
    "upstream-clients",
    "upstream-wanted",
)
ATTEMPT_SECONDS = 600.0
STEP_UPS_COUNT = (
    2  # times that a user is sent back for more rights at one server: with the first link three attempts
)
WANTED_SECONDS = 86_400.0
_PLACE_SECONDS = 600.0
DOCUMENT_PATH = "/connect/client-metadata.json"  # no server's name holds a dot

Owner = tuple[str, ...]  # tenant, issuer, subject, client


class LinkMissingError(UpstreamError):
    """The user has not linked an account, or has to do it anew; ``url`` is where."""

    def __init__(self, tell: str, url: str) -> None:
        super().__init__("credential-missing", tell)
        self.url = url


class Linked(msgspec.Struct, frozen=True):
    """One link, as it is kept. It never prints itself."""

    owner: Owner
    server: str
    issuer: str
    client: Client
    token: Token
    linked_at: float

    def __repr__(self) -> str:
        return f"Linked({self.server!r}, {self.issuer!r})"


class Wanted(msgspec.Struct, frozen=True):
    """Scopes that a server asked for, and how often the user was sent for them."""

    scopes: tuple[str, ...]
    times: int


class Place(msgspec.Struct, frozen=True):
    """Where a server's accounts are."""

    at: ServerMetadata
    scopes: tuple[str, ...]
    resource: str  # to the letter as the server publishes it


class Accounts:
    """Links over the sealed state. Raises: UpstreamError, TamperError, StoreError."""

    def __init__(self, desk: TokenDesk, sealed: SealedState, public_url: str) -> None:
        self._desk = desk
        self._sealed = sealed
        self._public_url = public_url
        self._places: dict[str, tuple[float, Place]] = {}

    # -- where --------------------------------------------------------------------------------------------------

    async def place(self, spec: ServerSpec, *, again: bool = False) -> Place:
        """The authorization server of a server: the configured one, or the one that it names itself."""
        known = self._places.get(spec.name)
        if known is not None and known[0] > time.monotonic() and not again:
            return known[1]
        found = await self._find_place(spec)
        self._places[spec.name] = (time.monotonic() + _PLACE_SECONDS, found)
        return found

    async def _find_place(self, spec: ServerSpec) -> Place:
        given = spec.credentials
        if given.issuer or given.token_url:
            at = await self._desk.endpoint(given)
            # Endpoints from the settings have no metadata to say it: the operator vouches for S256.
            at = msgspec.structs.replace(at, has_s256=True) if given.token_url else at
            return Place(at, given.scopes, resource_of(spec))
        challenge = await self._desk.oauth.challenge_of(spec.url)
        resource = await self._desk.oauth.resource(spec.url, challenge.metadata_url)
        if resource is None:
            raise UpstreamError("oauth-metadata", "The server does not say where accounts for it are.")
        at = await self._desk.metadata(resource.issuers[0], given.ca_file)
        scopes = oauth_client.wanted_scopes(given.scopes, challenge.scopes, resource.scopes)
        return Place(at, scopes, given.resource or resource.resource)

    def url_of(self, server: str, owner: Owner) -> str:
        """Where this owner links an account; holds no secret: who opens it has to be signed in."""
        from urllib.parse import quote

        return f"{self._public_url}/connect/{server}?client={quote(owner[3], safe='')}"

    def redirect_uri(self, server: str) -> str:
        """Where an authorization server sends browsers back to; one for each server, so that answers do not mix."""
        return f"{self._public_url}/connect/{server}/callback"

    # -- what is presented --------------------------------------------------------------------------------------

    async def present(
        self, spec: ServerSpec, owner: Owner, spent: bytes, scopes: tuple[str, ...]
    ) -> Presented:
        """The owner's token, renewed where it must be. Raises: LinkMissingError."""
        place = await self.place(spec, again=bool(spent))
        key = _key(owner, spec.name, place.at.issuer)
        if scopes:
            await self._want(spec, owner, key, scopes)

        async def ask() -> Token:
            return await self._current(spec, owner, key, place, spent)

        return await self._desk.once((spec.name, *owner, place.at.issuer), ask, spent)

    async def _current(self, spec: ServerSpec, owner: Owner, key: str, place: Place, spent: bytes) -> Token:
        row = await asyncio.to_thread(self._sealed.kept, TOKENS, key, time.time())
        if row is None:
            raise self._missing(spec, owner, "Link your account at this server first.")
        linked = msgspec.msgpack.decode(row[0], type=Linked)
        token, now = linked.token, time.time()
        line = b"Authorization: Bearer " + token.access.encode() + b"\r\n"
        is_spent = bool(spent) and hmac.compare_digest(line, spent)
        if not is_spent and now < token.expires_at - min(60.0, 0.2 * (token.expires_at - linked.linked_at)):
            return token
        if not token.refresh:
            if not is_spent and now < token.expires_at - 5.0:
                return token
            raise self._missing(
                spec, owner, "The link to your account at this server has run out; link it again."
            )
        try:
            fresh = await self._desk.oauth.token(
                place.at,
                linked.client,
                oauth_client.refresh_grant(token.refresh, place.resource),
                asked=token.scopes,
                ca_file=spec.credentials.ca_file,
            )
        except TokenRefusedError as error:
            if error.error in ("invalid_grant", "invalid_client", "unauthorized_client"):
                await asyncio.to_thread(self._sealed.drop, TOKENS, key)
                raise self._missing(
                    spec, owner, "The link to your account at this server was ended; link it again."
                ) from error
            raise
        fresh = msgspec.structs.replace(fresh, refresh=fresh.refresh or token.refresh)
        renewed = msgspec.structs.replace(linked, token=fresh, linked_at=time.time())
        # SECURITY: a refresh token that changed must be kept before it is needed, or the link is lost.
        await asyncio.to_thread(self._keep, key, renewed)
        return fresh

    async def _want(self, spec: ServerSpec, owner: Owner, key: str, scopes: tuple[str, ...]) -> None:
        """The server wants more scopes than the link has: remember them for the next consent, a few times (OC-15, OC-16)."""
        now = time.time()
        row = await asyncio.to_thread(self._sealed.kept, WANTED, key, now)
        before = msgspec.msgpack.decode(row[0], type=Wanted) if row else Wanted((), 0)
        union = tuple(dict.fromkeys((*before.scopes, *scopes)))
        times = before.times + 1
        value = msgspec.msgpack.encode(Wanted(union, times))
        keep = self._sealed.keep
        await asyncio.to_thread(lambda: keep(WANTED, key, value, now=now, expires_at=now + WANTED_SECONDS))
        if times > STEP_UPS_COUNT:
            raise UpstreamError("oauth-step-up", "The protected server asks for more rights again and again.")
        raise self._missing(
            spec, owner, "The protected server wants more rights than you gave; link your account again."
        )

    def _missing(self, spec: ServerSpec, owner: Owner, tell: str) -> LinkMissingError:
        return LinkMissingError(tell, self.url_of(spec.name, owner))

    def _keep(self, key: str, linked: Linked) -> None:
        self._sealed.keep(TOKENS, key, msgspec.msgpack.encode(linked), now=time.time())

    # -- linking ------------------------------------------------------------------------------------------------

    async def begin(self, spec: ServerSpec, owner: Owner, browser: str) -> str:
        """The URL to send this browser to, once its user agreed. State is kept only now (L18)."""
        place = await self.place(spec, again=True)
        client = await self._client(spec, place.at)
        scopes = await self.scopes(spec, owner, place)
        redirect = self.redirect_uri(spec.name)
        url, state, verifier = oauth_client.begin_code_flow(
            place.at, client.client_id, redirect, scopes, place.resource
        )
        attempt = Attempt(
            owner, _digest(browser), spec.name, place.at.issuer, place.at.says_iss, client.client_id,
            verifier, redirect, place.resource, scopes,
        )  # fmt: skip
        value, now = msgspec.msgpack.encode(attempt), time.time()
        keep = self._sealed.keep
        await asyncio.to_thread(
            lambda: keep(ATTEMPTS, _digest(state), value, now=now, expires_at=now + ATTEMPT_SECONDS)
        )
        return url

    async def scopes(self, spec: ServerSpec, owner: Owner, place: Place) -> tuple[str, ...]:
        """What the user is asked for: what the server names, what it asked for since, and leave to renew it."""
        key = _key(owner, spec.name, place.at.issuer)
        row = await asyncio.to_thread(self._sealed.kept, WANTED, key, time.time())
        more = msgspec.msgpack.decode(row[0], type=Wanted).scopes if row else ()
        found = tuple(dict.fromkeys((*place.scopes, *more)))
        if found and "offline_access" in place.at.scopes:  # only where the server lists it (OC-23)
            found = tuple(dict.fromkeys((*found, "offline_access")))
        return found

    async def _client(self, spec: ServerSpec, at: ServerMetadata) -> Client:
        """Who Doorward is there: as configured, by its document, or registered; one for each issuer (OC-19, OC-22)."""
        if spec.credentials.client_id:
            return await self._desk.client(spec)
        if at.takes_documents and self._public_url.startswith("https:"):
            return Client(self._public_url + DOCUMENT_PATH, auth="none")
        key, now = owner_key(at.issuer, spec.name, self.redirect_uri(spec.name)), time.time()
        row = await asyncio.to_thread(self._sealed.kept, CLIENTS, key, now)
        if row is not None:
            return msgspec.msgpack.decode(row[0], type=Client)
        if not at.registration_endpoint:
            raise UpstreamError(
                "oauth-registration",
                "The upstream's authorization server wants a client that the operator registers; set client_id.",
            )
        client = await self._desk.oauth.register(
            at, self.redirect_uri(spec.name), f"Doorward ({spec.name})", spec.credentials.ca_file
        )
        value, keep = msgspec.msgpack.encode(client), self._sealed.keep
        await asyncio.to_thread(lambda: keep(CLIENTS, key, value, now=now))
        return client

    async def finish(
        self, spec: ServerSpec, parameters: Sequence[tuple[str, str]], browser: str, subject: str
    ) -> Linked:
        """Act on an authorization response, if it belongs to this browser's own attempt. Raises: ResponseRefusedError."""
        states = [value for name, value in parameters if name == "state"]
        if len(states) != 1:
            raise oauth_client.ResponseRefusedError("no state")
        row = await asyncio.to_thread(self._sealed.take, ATTEMPTS, _digest(states[0]), time.time())
        if row is None:
            raise oauth_client.ResponseRefusedError("unknown state")
        attempt = msgspec.msgpack.decode(row, type=Attempt)
        # SECURITY: whoever finishes must be who began, in the same browser: else a victim would link their account to
        # an attacker (tests/stack/test_connect.py; MCP elicitation, phishing).
        if (
            not hmac.compare_digest(attempt.browser, _digest(browser))
            or attempt.server != spec.name
            or attempt.owner[2] != subject
        ):
            raise oauth_client.ResponseRefusedError("another browser or user")
        code = oauth_client.read_response(parameters, attempt)
        place = await self.place(spec)
        client = await self._client(spec, place.at)
        if place.at.issuer != attempt.issuer or client.client_id != attempt.client_id:
            raise oauth_client.ResponseRefusedError("the authorization server has changed since")
        form = oauth_client.code_grant(code, attempt.redirect_uri, attempt.verifier, attempt.resource)
        token = await self._desk.oauth.token(
            place.at, client, form, asked=attempt.scopes, ca_file=spec.credentials.ca_file
        )
        linked = Linked(attempt.owner, spec.name, place.at.issuer, client, token, time.time())
        key = _key(attempt.owner, spec.name, place.at.issuer)
        await asyncio.to_thread(self._keep, key, linked)
        self._desk.forget((spec.name, *attempt.owner))
        return linked

    # -- seeing and ending --------------------------------------------------------------------------------------

    async def all(self) -> dict[str, Linked]:
        """All links by their identifiers."""
        rows = await asyncio.to_thread(self._sealed.all_kept, TOKENS, time.time())
        return {key: msgspec.msgpack.decode(value, type=Linked) for key, value in rows.items()}

    async def unlink(self, key: str, specs: dict[str, ServerSpec]) -> Linked | None:
        """End a link here and, where it can be, at the authorization server; the caller sees to the workers."""
        row = await asyncio.to_thread(self._sealed.take, TOKENS, key, time.time())
        if row is None:
            return None
        linked = msgspec.msgpack.decode(row, type=Linked)
        await asyncio.to_thread(self._sealed.drop, WANTED, key)
        self._desk.forget((linked.server, *linked.owner))
        spec = specs.get(linked.server)
        try:
            if spec is not None:
                place = await self.place(spec)
                if place.at.issuer == linked.issuer:
                    for token in filter(None, (linked.token.refresh, linked.token.access)):
                        await self._desk.oauth.revoke(
                            place.at, linked.client, token, spec.credentials.ca_file
                        )
        except UpstreamError as error:
            _log.warning(
                "a token could not be revoked at its issuer",
                extra={"server": linked.server, "code": error.code},
            )
        return linked

    def document(self, servers: Sequence[str]) -> dict[str, Any]:
        """Doorward's own client id metadata document (OC-20)."""
        return {
            "client_id": self._public_url + DOCUMENT_PATH,
            "client_name": "Doorward",
            "client_uri": self._public_url,
            "redirect_uris": [self.redirect_uri(name) for name in servers],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }


def _key(owner: Owner, server: str, issuer: str) -> str:
    return owner_key(*owner, server, issuer)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
