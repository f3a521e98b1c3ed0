"""Find an OAuth client by its identifier: in the settings, at its own URL, or among those that registered themselves."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.app.oauth_limits import AddressLimit
from doorward.base.errors import CallerError, DoorwardError, OperatorError, UpstreamError
from doorward.identity.clients import (
    DEVICE,
    DOCUMENT_BYTES,
    ID_JAG,
    Client,
    document_url,
    read_document,
    version_of,
)
from doorward.identity.oauth_forms import OAuthRefusal, unknown_client
from doorward.identity.oauth_store import hashed
from doorward.protocol.json_door import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from doorward.adapters.guarded_http import Fetched, GuardedHttp
    from doorward.adapters.state import State
    from doorward.base.secret import Secret
    from doorward.catalogue.server import SecretReference
    from doorward.identity.redirects import RedirectRules
    from doorward.settings import Settings
    from doorward.settings_oauth import RegistrationSettings

REGISTERED = "oauth-client"
_GRANTS = {"jwt_bearer": ID_JAG, "device_code": DEVICE}  # as the settings write them
_UNUSED_SECONDS = 86_400.0  # that a registered client may wait for its first consent
_USED_SECONDS = 7_776_000.0  # that it is kept after its last one
_FRESH_SECONDS = (60.0, 3_600.0, 86_400.0)  # at least, usually and at most: how long a document holds
_FAILED_SECONDS = 60.0
_CACHED_COUNT = 512
_FETCH_SECONDS = 5.0
_FETCHES = 120  # documents a minute
_JWKS_BYTES = 65_536
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=([0-9]{1,9})(?:$|[,\s])", re.ASCII)


class _Kept(msgspec.Struct, frozen=True):
    client: Client
    at: float
    used: bool = False


def configured_clients(
    settings: Settings, resolve: Callable[[SecretReference, str], Secret]
) -> dict[str, Client]:
    """The clients of the settings. Raises: OperatorError for a secret or a key file that cannot be used."""
    found: dict[str, Client] = {}
    for index, one in enumerate(settings.identity.clients):
        where = f"identity.clients[{index}]"
        secret = resolve(one.secret, f"{where}.secret").reveal().decode() if one.secret else ""
        jwks = read_jwks(one.jwks_file, f"{where}.jwks_file") if one.jwks_file else {}
        name = one.name or one.id
        found[one.id] = Client(
            id=one.id,
            name=name,
            kind="settings",
            redirect_uris=one.redirect_uris,
            grants=tuple(_GRANTS.get(grant, grant) for grant in one.grants),
            secret_hash=hashed(secret) if secret else "",
            jwks=jwks,
            roles=one.roles,
            may_introspect=one.introspect,
            version=version_of(name, one.redirect_uris, jwks),
        )
    return found


def read_jwks(path: str, where: str) -> dict[str, Any]:
    """A file with a JWK set. Raises: OperatorError ``settings-unusable``."""
    try:
        with Path(path).open("rb") as file:
            value = parse_json(file.read(_JWKS_BYTES))
    except (OSError, CallerError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list) or not value["keys"]:
        raise OperatorError(
            "settings-unusable", f"{where}: the file does not hold a JWK set with public keys."
        )
    if any(not isinstance(key, dict) or "d" in key or "k" in key for key in value["keys"]):
        raise OperatorError("settings-unusable", f"{where}: only public keys belong into this file.")
    return value


class Clients:
    """All clients of one state of the settings."""

    def __init__(
        self,
        configured: dict[str, Client],
        registration: RegistrationSettings,
        rules: RedirectRules,
        http: GuardedHttp,
        state: State,
    ) -> None:
        self.rules = rules
        self._configured = configured
        self._registration = registration
        self._http = http
        self._state = state
        self._documents: dict[str, tuple[float, Client | OAuthRefusal]] = {}
        self._fetches = AddressLimit(_FETCHES, 60.0, "Too many clients with documents at once; try later.")
        self._fetching: dict[str, asyncio.Task[Client | OAuthRefusal]] = {}

    async def find(self, client_id: str) -> Client:
        """The client. Raises: OAuthRefusal ``invalid_client``, StoreError."""
        if not client_id:
            raise OAuthRefusal("invalid_request", "client_id is missing.")
        if client_id in self._configured:
            return self._configured[client_id]
        if client_id.startswith(("https:", "http:")):
            return await self._by_document(client_id)
        kept = await asyncio.to_thread(self._state.kept, REGISTERED, hashed(client_id), time.time())
        if kept is None:
            raise unknown_client("unknown client")
        return msgspec.msgpack.decode(kept[0], type=_Kept).client

    # -- documents ----------------------------------------------------------------------------------------------

    async def _by_document(self, url: str) -> Client:
        known = self._documents.get(url)
        if known is None or known[0] <= time.monotonic():
            fetching = self._fetching.get(url)
            if fetching is None:  # many who ask at once wait for one answer
                fetching = self._fetching[url] = asyncio.get_running_loop().create_task(self._fetch(url))
                fetching.add_done_callback(lambda _: self._fetching.pop(url, None))
            found = await asyncio.shield(fetching)
        else:
            found = known[1]
        if isinstance(found, OAuthRefusal):
            raise OAuthRefusal(found.error, found.tell, reason=found.reason, status=found.status)
        return found

    async def _fetch(self, url: str) -> Client | OAuthRefusal:
        found: Client | OAuthRefusal
        seconds = _FAILED_SECONDS
        try:
            found, seconds = await self._ask(url)
        except OAuthRefusal as error:
            found = OAuthRefusal(
                "invalid_client", error.tell, reason=f"client document: {error.reason}", status=401
            )
        except DoorwardError as error:
            tell = "The client's document cannot be had."
            found = OAuthRefusal("invalid_client", tell, reason=f"client document: {error.code}", status=401)
        while len(self._documents) >= _CACHED_COUNT:
            del self._documents[next(iter(self._documents))]
        self._documents.pop(url, None)
        self._documents[url] = (time.monotonic() + seconds, found)
        return found

    async def _ask(self, url: str) -> tuple[Client, float]:
        registration = self._registration
        target = document_url(url)
        if not registration.documents:
            raise OAuthRefusal("invalid_client", "Clients with documents are not accepted here.")
        if target is None:
            raise OAuthRefusal(
                "invalid_client", "The client_id is not an https URL with a path, in its one spelling."
            )
        if registration.document_hosts and target.host not in registration.document_hosts:
            raise OAuthRefusal(
                "invalid_client", "Documents of this host are not accepted here.", reason="host not allowed"
            )
        self._fetches.admit("")  # anybody may name a URL: we must not be what floods its host
        answer = await self._http.get(
            url,
            ca_file=registration.ca_file or None,
            limit_bytes=DOCUMENT_BYTES,
            seconds=_FETCH_SECONDS,
        )
        if answer.status != 200:
            raise UpstreamError("fetch-failed", "The client's document is not there.", str(answer.status))
        if answer.media_type != "application/json" and not answer.media_type.endswith("+json"):
            raise UpstreamError("fetch-failed", "The client's document is no JSON.", answer.media_type)
        return read_document(url, answer.body, self.rules), _holds_for(answer)

    # -- registration -------------------------------------------------------------------------------------------

    def add(self, client: Client, now: float) -> None:
        """Keep a client that registered itself (in a thread). Raises: OAuthRefusal when there is no room."""
        rows = self._state.all_kept(REGISTERED, now)
        if len(rows) >= self._registration.dynamic_count:
            kept = {key: msgspec.msgpack.decode(value, type=_Kept) for key, value in rows.items()}
            unused = sorted((one.at, key) for key, one in kept.items() if not one.used)
            if not unused:
                raise OAuthRefusal(
                    "temporarily_unavailable", "No more clients can register here.", status=503
                )
            self._state.drop(REGISTERED, unused[0][1])
        self._keep(_Kept(client, now), now + _UNUSED_SECONDS)

    def used(self, client: Client, now: float) -> None:
        """A registered client got tokens: it is kept on (in a thread)."""
        if client.kind == "registered":
            self._keep(_Kept(client, now, used=True), now + _USED_SECONDS)

    def _keep(self, kept: _Kept, until: float) -> None:
        self._state.keep(REGISTERED, hashed(kept.client.id), msgspec.msgpack.encode(kept), expires_at=until)

    def registered(self, now: float) -> list[_Kept]:
        """All that registered themselves (in a thread)."""
        rows = self._state.all_kept(REGISTERED, now)
        return [msgspec.msgpack.decode(value, type=_Kept) for value in rows.values()]

    def forget(self, client_id: str) -> bool:
        """Delete a client that registered itself (in a thread)."""
        return self._state.drop(REGISTERED, hashed(client_id))


def _holds_for(answer: Fetched) -> float:
    """How long an answer may be used (RFC 9111 §5.2.2), within our own bounds."""
    least, usual, most = _FRESH_SECONDS
    control = answer.fields.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return least
    age = _MAX_AGE.search(control)
    return min(max(float(age[1]), least), most) if age else usual
