"""The office that reads certificates and keys, watches them, and knows when each runs out.

Listeners and upstream connections use what it hands out. A file that changes is taken while Doorward runs: new connections use
the new pair, open ones go on; a pair that does not hold is refused, the old one stays, and both are on record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.adapters.local_authority import renew_where_due
from doorward.adapters.tls_contexts import (
    PEM_BYTES,
    CertificateFacts,
    ListenerMaterial,
    UpstreamMaterial,
    check_authorities,
    check_pair,
    server_context,
    upstream_context,
)
from doorward.adapters.tls_face import TlsDoor
from doorward.app.chronicle import own_actor
from doorward.app.expiry import Expiry
from doorward.app.office import Answering, Office
from doorward.app.tls_health import TlsHealth
from doorward.base.clock import rfc3339
from doorward.base.errors import DoorwardError, OperatorError, StoreError
from doorward.console.acts import Act, Asked
from doorward.controls.keep_ledger import Health

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor
    from doorward.catalogue.server import SecretReference, ServerTls
    from doorward.settings import Loaded, Settings
    from doorward.settings_transport import ListenerTls

_log = logging.getLogger("doorward.certificates")
_LOOK_SECONDS = 1.0
_RENEW_SECONDS = 3_600.0

_Stamps = tuple[tuple[int, int, int] | None, ...]


class Holding(msgspec.Struct, frozen=True):
    """Everything that the settings name, as it was read and judged."""

    gateway: ListenerMaterial | None = None
    admin: ListenerMaterial | None = None
    upstreams: dict[str, UpstreamMaterial] = {}
    facts: dict[str, CertificateFacts] = {}  # "gateway", "admin" or "servers.NAME"


class Certificates(Office):
    """Hands out what TLS is made of."""

    name = "tls"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self.holding = Holding()
        self.refused = ""  # why the files as they are now are not in force; "" when they are
        self.seen: dict[str, dict[str, Any]] = {}  # server -> what the workers saw of its certificate
        self.admin_door: TlsDoor | None = None
        self._expiry = Expiry()
        self._health = TlsHealth()
        self._judged = Holding()
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See ``Office``. Raises: OperatorError when a certificate cannot be used."""
        await asyncio.to_thread(self._renew_local)
        self.holding = await asyncio.to_thread(self._read, self.supervisor.settings)
        if self.holding.admin is not None:
            self.admin_door = TlsDoor(server_context(self.holding.admin))
        self._note_weakened()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def judge(self, fresh: Loaded) -> None:
        """See ``Office``."""
        self._judged = self._read(fresh.settings)

    def renew(self) -> None:
        """See ``Office``."""
        self.seen = {name: row for name, row in self.seen.items() if name in self.supervisor.settings.servers}
        self._adopt(self._judged)
        self._note_weakened()

    def _note_weakened(self) -> None:
        """What the settings in force let through."""
        for name, spec in self.supervisor.settings.servers.items():
            if spec.tls is not None and spec.tls.mode == "report":
                why = "a key that is not pinned goes through: tls.mode is report"
                self.supervisor.note(
                    "control-weakened", own_actor(), server=name, control="keep-tls", reason=why
                )

    async def close(self) -> None:
        """See ``Office``."""
        if self._watching is not None:
            self._watching.cancel()

    def paper(self) -> Any:
        """See ``Office``. It holds keys: it goes to workers over their own sockets and nowhere else."""
        held = self.holding
        return {
            "gateway": None
            if held.gateway is None
            else msgspec.to_builtins(held.gateway, builtin_types=(bytes,)),
            "upstreams": msgspec.to_builtins(held.upstreams, builtin_types=(bytes,)),
        }

    def asks(self) -> Mapping[str, Answering]:
        """See ``Office``."""
        return {"upstream-certificate": self._learn}

    def acts(self) -> Sequence[Act]:
        """See ``Office``."""
        return [Act("GET", "certificates", "The certificates of listeners and upstreams.", self._show)]

    # -- reading ------------------------------------------------------------------------------------------------

    def _read(self, settings: Settings) -> Holding:
        """Read and judge all files. Raises: OperatorError; nothing has changed then."""
        facts: dict[str, CertificateFacts] = {}
        upstreams = {
            name: self._read_upstream(f"servers.{name}", spec.tls, facts)
            for name, spec in settings.servers.items()
            if spec.tls is not None
        }
        return Holding(
            gateway=self._read_listener("gateway", settings.gateway.tls, facts),
            admin=self._read_listener("admin", settings.admin.tls, facts),
            upstreams=upstreams,
            facts=facts,
        )

    def _read_listener(
        self, where: str, tls: ListenerTls | None, facts: dict[str, CertificateFacts]
    ) -> ListenerMaterial | None:
        if tls is None or tls.key is None:
            return None
        chain, key = _content(tls.cert, f"{where}.tls.cert"), self._key(tls.key, f"{where}.tls.key")
        facts[where] = check_pair(chain, key, f"{where}.tls", time.time())
        client_ca = b""
        if tls.client_ca:
            client_ca = _content(tls.client_ca, f"{where}.tls.client_ca")
            check_authorities(client_ca, f"{where}.tls.client_ca")
        material = ListenerMaterial(
            chain=chain,
            key=key,
            client_ca=client_ca,
            requires_client=tls.client_certificate == "required",
            min_version=tls.min_version,
        )
        server_context(material)  # what OpenSSL cannot use is found here
        return material

    def _read_upstream(
        self, where: str, tls: ServerTls, facts: dict[str, CertificateFacts]
    ) -> UpstreamMaterial:
        ca = chain = key = b""
        if tls.ca_file:
            ca = _content(tls.ca_file, f"{where}.tls.ca_file")
            check_authorities(ca, f"{where}.tls.ca_file")
        if tls.client_key is not None:
            chain = _content(tls.client_cert, f"{where}.tls.client_cert")
            key = self._key(tls.client_key, f"{where}.tls.client_key")
            facts[where] = check_pair(chain, key, f"{where}.tls", time.time())
        material = UpstreamMaterial(ca=ca, chain=chain, key=key)
        upstream_context(material)
        return material

    def _key(self, reference: SecretReference, where: str) -> bytes:
        return self.supervisor.secret(reference, where).reveal()

    # -- watching -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Take changed files. A pair is two files: what does not fit is looked at twice before it counts as refused."""
        taken = self._stamps()
        odd: _Stamps | None = None
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if time.monotonic() - renewed_at > _RENEW_SECONDS:
                renewed_at = time.monotonic()
                await asyncio.to_thread(self._renew_local)
            self._warn()
            if self.supervisor.is_ready:
                await self._health.look(self.supervisor.settings)
            found = self._stamps()
            if found == taken:
                continue
            try:
                fresh = await asyncio.to_thread(self._read, self.supervisor.settings)
            except DoorwardError as error:
                if found == odd:
                    taken = found
                    self._refuse(error)
                odd = found
                continue
            taken, odd = found, None
            if fresh != self.holding:
                self._adopt(fresh)
                self.supervisor.push()
            self.refused = ""

    def _renew_local(self) -> None:
        """Renew what `doorward keys ca` has made, when it is due; the watch takes it like any changed file."""
        for tls in (self.supervisor.settings.gateway.tls, self.supervisor.settings.admin.tls):
            try:
                if tls is not None and renew_where_due(Path(tls.cert), time.time()):
                    _log.info("local certificate renewed")
            except OperatorError as error:
                _log.warning(
                    "a local certificate cannot be renewed", extra={"code": error.code, "tell": error.tell}
                )

    def _stamps(self) -> _Stamps:
        settings = self.supervisor.settings
        paths: list[str | None] = []
        for tls in (settings.gateway.tls, settings.admin.tls):
            if tls is not None:
                paths += [tls.cert, tls.key.file if tls.key else None, tls.client_ca]
        for spec in settings.servers.values():
            if spec.tls is not None:
                paths += [spec.tls.ca_file, spec.tls.client_cert]
                paths.append(spec.tls.client_key.file if spec.tls.client_key else None)
        return tuple(_stamp(path) for path in paths if path)

    def _refuse(self, error: DoorwardError) -> None:
        self.refused = error.tell
        _log.error(
            "changed certificate refused; the old one stays", extra={"code": error.code, "tell": error.tell}
        )
        self.supervisor.note(
            "certificate-refused",
            "file",
            verdict="refuse",
            control="keep-tls",
            reason=f"{error.code}: {error.tell}",
        )

    def _adopt(self, fresh: Holding) -> None:
        before, self.holding = self.holding, fresh
        self.refused = ""
        self._health.forget()
        if fresh.admin is not None and self.admin_door is not None and fresh.admin != before.admin:
            self.admin_door.context = server_context(fresh.admin)
        for where, facts in fresh.facts.items():
            if before.facts.get(where) != facts:
                _log.info("certificate in force", extra={"where": where, "serial": facts.serial})
                self.supervisor.note(
                    "certificate-activated",
                    "file",
                    verdict="allow",
                    item=where,
                    control="keep-tls",
                    reason=f"serial {facts.serial}, until {rfc3339(facts.not_after)}",
                )

    def _warn(self) -> None:
        """Say once for each step that a certificate runs out."""
        now = time.time()
        rows = {where: (facts.not_before, facts.not_after) for where, facts in self.holding.facts.items()}
        for server, row in self.seen.items():
            rows[f"upstream {server}"] = (row["not_before"], row["not_after"])
        for where, left in self._expiry.steps(rows, now):
            what = (
                f"it has run out {-left / 86_400:.1f} days ago"
                if left <= 0
                else f"{left / 86_400:.1f} days are left"
            )
            _log.warning("a certificate runs out", extra={"where": where, "left_seconds": int(left)})
            self.supervisor.note(
                "certificate-expiring", own_actor(), kind="alert", item=where, control="keep-tls", reason=what
            )

    # -- upstreams ----------------------------------------------------------------------------------------------

    def _learn(self, index: int, payload: Any) -> None:
        """A worker has seen a certificate of a server for the first time, or one that breaks a pin."""
        match payload:
            case {
                "server": str(server), "spki": str(spki), "verdict": ("fits" | "reported" | "refused") as verdict,
                "subject": str(subject), "issuer": str(issuer), "serial": str(serial),
                "not_before": (int() | float()) as not_before, "not_after": (int() | float()) as not_after,
            } if server in self.supervisor.settings.servers:  # fmt: skip
                pass
            case _:
                raise StoreError("bus-payload", "A worker told of a certificate in a wrong way.")
        row = {
            "spki": spki, "verdict": verdict, "subject": subject[:256], "issuer": issuer[:256], "serial": serial[:64],
            "not_before": float(not_before), "not_after": float(not_after),
        }  # fmt: skip
        known = self.seen.get(server)
        self.seen[server] = row
        if verdict != "fits" and row != known:
            self.supervisor.note(
                "upstream-pin-broken",
                own_actor(),
                kind="alert",
                verdict="refuse" if verdict == "refused" else "note",
                server=server,
                control="keep-tls",
                reason=f"its key is {spki}",
            )

    # -- showing ------------------------------------------------------------------------------------------------

    def _show(self, asked: Asked) -> list[dict[str, Any]]:
        return self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """What is in force and what was seen, for people."""
        now = time.time()
        found = [
            _row(where, msgspec.structs.asdict(facts), now, "in force")
            for where, facts in self.holding.facts.items()
        ]
        found += [
            _row(f"upstream {name}", row, now, {"fits": "accepted"}.get(row["verdict"], row["verdict"]))
            for name, row in self.seen.items()
        ]
        if self.refused:
            found.append({"where": "files", "state": "refused", "why": self.refused})
        return found

    def names_of(self, where: str) -> tuple[str, ...]:
        """The names that a certificate in force is for, as a client writes them before a port; wildcards are none."""
        facts = self.holding.facts.get(where)
        names = () if facts is None else facts.names
        return tuple(f"[{name}]" if ":" in name else name for name in names if "*" not in name)

    def health(self) -> Health:
        """Whether TLS holds."""
        return self._health.say(self.supervisor.settings, self.holding, self.refused)

    def seconds_left(self) -> dict[str, float]:
        """Of every certificate, for the metrics page."""
        now = time.time()
        left = {where: facts.not_after - now for where, facts in self.holding.facts.items()}
        return left | {f"upstream {name}": row["not_after"] - now for name, row in self.seen.items()}


def _row(where: str, facts: dict[str, Any], now: float, state: str) -> dict[str, Any]:
    left = facts["not_after"] - now
    return {
        "where": where,
        "state": "run out" if left <= 0 else state,
        "subject": facts["subject"],
        "issuer": facts["issuer"],
        "serial": facts["serial"],
        "spki": facts["spki"],
        "not_after": rfc3339(facts["not_after"]),
        "days_left": round(left / 86_400, 1),
        "due": Expiry.step_of(facts["not_before"], facts["not_after"], now) is not None,
    }


def _content(path: str, where: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(PEM_BYTES + 1)
    except OSError as error:
        raise OperatorError(
            "tls-certificate", f"{where}: the file cannot be read: {error.strerror}."
        ) from error
    if len(content) > PEM_BYTES:
        raise OperatorError("tls-certificate", f"{where}: the file is larger than {PEM_BYTES} bytes.")
    return content


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
