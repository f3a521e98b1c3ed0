"""The office that keeps the keys of other issuers, and asks them about opaque tokens, for all workers.

Only this office connects to issuers. Keys are fetched by age and when a worker meets a key that nobody knows, not more often
than the rhythm below; the last good ones outlive an outage up to ``keys_max_age_seconds`` and survive a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.adapters.guarded_http import GuardedHttp
from doorward.adapters.issuer_client import IssuerClient, IssuerKeys
from doorward.app.chronicle import own_actor
from doorward.app.office import Answering, Office
from doorward.app.trust import PAPER
from doorward.base.clock import rfc3339
from doorward.base.errors import CallerError, DoorwardError, OperatorError
from doorward.console.acts import Act, Asked
from doorward.settings_issuers import rules_of

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor
    from doorward.settings import Loaded
    from doorward.settings_identity import IssuerSettings

_log = logging.getLogger("doorward.issuers")
_SPACE = "issuer-keys"
_FRESH_SECONDS = 3_600.0  # keys of this age are fetched anew
_ASK_AGAIN_SECONDS = 2.0  # between two fetches that unknown keys are the reason for
_BACKOFF_SECONDS = (2.0, 300.0)  # after the first failure, and at most
_START_SECONDS = 5.0  # that a start waits for issuers whose keys are not known from before
_ROUND_SECONDS = 0.5


class _Kept(msgspec.Struct):
    """What is kept of an issuer between starts."""

    keys: list[dict[str, Any]]
    fetched_at: float
    introspection_url: str = ""


class _Known:
    """One issuer: its settings, its keys as last fetched, and how the last attempts went."""

    def __init__(self, settings: IssuerSettings, client: IssuerClient) -> None:
        self.settings = settings
        self.client = client
        self.kept = _Kept([], 0.0, "")
        self.tried_at = 0.0
        self.failures = 0
        self.error: DoorwardError | None = None
        self.task: asyncio.Task[None] | None = None
        self.soon: asyncio.Task[None] | None = None  # the next fetch that unknown keys are the reason for

    def cancel(self) -> None:
        """Ask no more."""
        for task in (self.task, self.soon):
            if task is not None:
                task.cancel()

    @property
    def until(self) -> float:
        """Unix seconds until which the keys count."""
        return self.kept.fetched_at + self.settings.keys_max_age_seconds

    def due_at(self) -> float:
        """When they should be fetched next."""
        if self.failures:
            first, most = _BACKOFF_SECONDS
            return self.tried_at + min(first * 2.0 ** (self.failures - 1), most)
        return self.kept.fetched_at + min(_FRESH_SECONDS, self.settings.keys_max_age_seconds / 3)

    def kids(self) -> list[str]:
        """Names of the keys."""
        return [str(key["kid"]) for key in self.kept.keys if "kid" in key]

    def state(self, now: float) -> str:
        """In one word: ok, degraded (old keys still count) or failed (its tokens are refused)."""
        if now >= self.until:
            return "failed"
        return "ok" if self.error is None else "degraded"


class Issuers(Office):
    """See the module."""

    name = PAPER

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._known: dict[str, _Known] = {}
        self._http: GuardedHttp | None = None
        self._rounds: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up what is kept, and wait a little for what is not. Raises: OperatorError for files that cannot be read."""
        await asyncio.to_thread(self.judge, self.supervisor.loaded)
        self.renew()
        rows = await asyncio.to_thread(self.supervisor.ready_state().all_kept, _SPACE, time.time())
        for issuer, row in rows.items():
            if issuer in self._known:
                self._known[issuer].kept = msgspec.msgpack.decode(row, type=_Kept)
        missing = [known for known in self._known.values() if not known.kept.keys]
        if missing:
            await asyncio.wait([self._fetching(known) for known in missing], timeout=_START_SECONDS)
        self._rounds = asyncio.get_running_loop().create_task(self._go_round())

    def judge(self, fresh: Loaded) -> None:
        """See that files of authorities and secrets are there. Raises: OperatorError."""
        for index, one in enumerate(fresh.settings.identity.issuers):
            if one.ca_file:
                try:
                    with open(one.ca_file, "rb") as stream:
                        stream.read(1)
                except OSError as error:
                    raise OperatorError(
                        "ca-unreadable", f"The authorities in {one.ca_file} cannot be read."
                    ) from error
            if one.introspection is not None:
                self.supervisor.secret(
                    one.introspection.client_secret, f"identity.issuers[{index}].introspection.client_secret"
                )

    def renew(self) -> None:
        """Adopt the issuers of the settings; what is known of those that stay is kept."""
        settings = self.supervisor.settings
        rules = rules_of(settings)
        if self._http is None or self._http.rules != rules:
            if self._http is not None:
                self._http.close()
            self._http = GuardedHttp(rules)
        before, self._known = self._known, {}
        issuers = settings.identity.issuers if settings.identity.mode == "external" else ()
        for one in issuers:
            known = _Known(one, IssuerClient(self._http, one.issuer, one.ca_file))
            old = before.get(one.issuer)
            if old is not None:
                same = (old.settings.jwks_uri, old.settings.ca_file) == (one.jwks_uri, one.ca_file)
                # SECURITY: keys that were had in a way that is no longer wanted are not taken over.
                if same:
                    known.kept, known.tried_at = old.kept, old.tried_at
                    known.failures, known.error = old.failures, old.error
            self._known[one.issuer] = known
        for old in before.values():
            old.cancel()

    async def close(self) -> None:
        """Stop asking."""
        if self._rounds is not None:
            self._rounds.cancel()
        for known in self._known.values():
            known.cancel()
        if self._http is not None:
            self._http.close()

    # -- what workers get ---------------------------------------------------------------------------------------

    def paper(self) -> Any:
        """The keys of every issuer, and until when they count."""
        if not self._known:
            return None
        return {
            issuer: {"keys": known.kept.keys, "until": known.until}
            for issuer, known in self._known.items()
            if known.kept.keys
        }

    def asks(self) -> Mapping[str, Answering]:
        """See ``Office.asks``."""
        return {"issuer-key": self._find_key, "issuer-introspect": self._introspect}

    def keys(self, issuer: str) -> list[dict[str, Any]]:
        """The keys of an issuer that count now."""
        known = self._known.get(issuer)
        return known.kept.keys if known is not None and time.time() < known.until else []

    async def _find_key(self, index: int, payload: Any) -> str:
        return await self.find(str(payload["issuer"]), str(payload["kid"]))

    async def find(self, issuer: str, kid: str) -> str:
        """Whether an issuer has a key of this name: known, unknown or down. New keys reach workers first, in a snapshot."""
        known = self._known.get(issuer)
        if known is None:
            return "unknown"
        if kid not in known.kids():
            # SECURITY: callers choose kids, so they must not choose how often an issuer is asked: all who come before the
            # next turn wait for it together.
            if known.soon is None or known.soon.done():
                known.soon = asyncio.get_running_loop().create_task(self._fetch_in_turn(known))
            await asyncio.wait([known.soon])
        if kid in known.kids() and time.time() < known.until:
            return "known"
        return "unknown" if known.error is None else "down"

    async def _fetch_in_turn(self, known: _Known) -> None:
        await asyncio.sleep(max(0.0, known.tried_at + _ASK_AGAIN_SECONDS - time.time()))
        await asyncio.wait([self._fetching(known)])

    async def _introspect(self, index: int, payload: Any) -> bytes | None:
        """The issuer's answer about a token; None where it cannot be had."""
        known = self._known.get(str(payload["issuer"]))
        if known is None or known.settings.introspection is None:
            return None
        wanted = known.settings.introspection
        try:
            secret = await asyncio.to_thread(
                self.supervisor.secret, wanted.client_secret, "identity.issuers.introspection.client_secret"
            )
            url = wanted.url or known.kept.introspection_url
            return await known.client.introspect(url, str(payload["token"]), wanted.client_id, secret)
        except DoorwardError as error:
            _log.warning(
                "an issuer could not be asked about a token",
                extra={"issuer": known.settings.issuer, "code": error.code, "tell": error.tell},
            )
            return None

    # -- fetching -----------------------------------------------------------------------------------------------

    def _fetching(self, known: _Known) -> asyncio.Task[None]:
        """The fetch that is under way, or a new one."""
        if known.task is None or known.task.done():
            known.tried_at = time.time()
            known.task = asyncio.get_running_loop().create_task(self._fetch(known))
        return known.task

    async def _fetch(self, known: _Known) -> None:
        settings = known.settings
        wanted = settings.introspection
        try:
            found = await known.client.keys(
                settings.jwks_uri,
                wanted.url if wanted is not None else "",
                wants_introspection=wanted is not None,
            )
        except DoorwardError as error:
            self._failed(known, error)
        except Exception as error:  # noqa: BLE001 - a bug here must not look like an issuer that answers
            _log.exception("an issuer's keys could not be read")
            self._failed(
                known, OperatorError("issuer-fault", "The keys could not be read.", type(error).__name__)
            )
        else:
            await self._took(known, found)

    async def _took(self, known: _Known, found: IssuerKeys) -> None:
        issuer = known.settings.issuer
        if known.error is not None or known.failures:
            self._note("issuer-back", issuer, "its keys can be fetched again")
        if known.kept.keys and known.kept.keys != found.keys:
            self._note("issuer-keys-changed", issuer, f"{len(found.keys)} keys")
        known.error, known.failures = None, 0
        known.kept = _Kept(found.keys, time.time(), found.introspection_url)
        if self._known.get(issuer) is not known:
            return
        self.supervisor.push()
        row = msgspec.msgpack.encode(known.kept)
        try:
            await asyncio.to_thread(
                self.supervisor.ready_state().keep, _SPACE, issuer, row, expires_at=known.until
            )
        except DoorwardError as error:
            _log.error("an issuer's keys could not be kept for the next start", extra={"code": error.code})

    def _failed(self, known: _Known, error: DoorwardError) -> None:
        if known.error is None:
            self._note("issuer-unreachable", known.settings.issuer, f"{error.code}: {error.tell}")
        known.error = error
        known.failures += 1
        _log.warning(
            "an issuer's keys could not be fetched",
            extra={
                "issuer": known.settings.issuer,
                "code": error.code,
                "tell": error.tell,
                "detail": error.detail,
            },
        )

    def _note(self, method: str, issuer: str, reason: str) -> None:
        self.supervisor.note(method, own_actor(), item=issuer, control="check-token", reason=reason)

    async def _go_round(self) -> None:
        while True:
            now = time.time()
            for known in self._known.values():
                if now >= known.due_at():
                    self._fetching(known)
            await asyncio.sleep(_ROUND_SECONDS)

    # -- what operators see -------------------------------------------------------------------------------------

    def acts(self) -> Sequence[Act]:
        """See ``Office.acts``."""
        schema = {"type": "object", "properties": {"issuer": {"type": "string"}}, "required": ["issuer"]}
        return [
            Act("GET", "issuers", "The trusted issuers, and whether their keys are fresh.", self._list),
            Act("POST", "issuers/refresh", "Fetch the keys of one issuer now.", self._refresh, schema),
        ]

    def _list(self, asked: Asked) -> list[dict[str, Any]]:
        now = time.time()
        return [
            {
                "issuer": issuer,
                "profile": known.settings.profile,
                "state": known.state(now),
                "keys": known.kids(),
                "fetched_at": rfc3339(known.kept.fetched_at) if known.kept.fetched_at else None,
                "until": rfc3339(known.until) if known.kept.fetched_at else None,
                "error": None
                if known.error is None
                else {"code": known.error.code, "tell": known.error.tell},
            }
            for issuer, known in self._known.items()
        ]

    async def _refresh(self, asked: Asked) -> dict[str, Any]:
        name = asked.body.get("issuer") if isinstance(asked.body, dict) else None
        known = self._known.get(name) if isinstance(name, str) else None
        if known is None:
            raise CallerError("issuer-unknown", "There is no such issuer in the settings.", status=404)
        await asyncio.wait([self._fetching(known)])
        self.supervisor.note("issuer-refreshed", asked.who, item=known.settings.issuer)
        return next(one for one in self._list(asked) if one["issuer"] == name)
