"""What the supervisor knows of the postures: whether the ledger is written, the cage holds, and TLS does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from doorward.app.certificates import Certificates
from doorward.app.controls import mode_of
from doorward.app.secrets import core_limit
from doorward.controls.ask_consent import AskConsent
from doorward.controls.keep_cage import KeepCage
from doorward.controls.keep_ledger import Health, KeepLedger
from doorward.controls.keep_secrets import KeepSecrets
from doorward.controls.keep_tls import KeepTls

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor

State = Literal["ok", "degraded", "unknown"]
_UNSIGNED_SECONDS = 5.0  # a log without a new checkpoint for longer is not healthy
_STATES: dict[str, State] = {"ok": "ok", "failing": "degraded", "unknown": "unknown"}


class Postures:
    """Probes of the postures. The cage is tried in a thread when ``try_cage`` is called, not for every question."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._cage: Health = ("unknown", "the cage has not been tried yet")

    async def try_cage(self) -> None:
        """Start a caged program, if any server of the settings needs it."""
        own = self._supervisor
        if not any(spec.is_stdio for spec in own.settings.servers.values()):
            return
        from doorward.adapters.cage import Cage

        cage = Cage(own.data_dir, own.loaded.path.parent)
        state, why = await asyncio.to_thread(cage.probe)
        # Where it holds, the page needs no paths of this machine; `doorward doctor` shows them.
        self._cage = (
            state,
            why if state == "failing" else "a caged program starts, in namespaces of its own",
        )

    def look(self) -> dict[str, tuple[State, str]]:
        """Slug -> state and what was seen."""
        settings = self._supervisor.settings
        asks = mode_of(settings, AskConsent.slug) == "enforce"
        probes = (
            KeepLedger(self._ledger),
            AskConsent(settings.identity.mode, asks=asks),
            self._secrets(),
            KeepCage(lambda: self._cage, self._supervisor.settings.servers),
            KeepTls(self._supervisor.offices.of(Certificates).health),
        )
        found = {}
        for posture in probes:
            state, why = posture.probe()
            found[posture.slug] = (_STATES[state], why)
        return found

    def _secrets(self) -> KeepSecrets:
        own = self._supervisor
        seen = own.secrets.seen if hasattr(own, "secrets") else {}
        failing = {key: one.why for key, one in dict(seen).items() if one.state == "failing"}
        keys = own.offices.find("keys")
        sealed = getattr(keys, "sealed", None)
        return KeepSecrets(failing, len(sealed.keys.names) if sealed is not None else 0, core_limit())

    def _ledger(self) -> Health:
        own = self._supervisor
        if own.chronicle is None:
            return "unknown", "the ledger is not open yet"
        if own.chronicle.failed is not None:
            return "failing", "the supervisor cannot write its log"
        late = [own.chronicle.unsigned_seconds]
        for index, worker in sorted(own.workers.items()):
            if not worker.numbers:
                return "unknown", f"worker {index} has not reported yet"
            if not worker.numbers.get("ledger_ok", False):
                return "failing", f"worker {index} cannot write its log and has stopped serving"
            late.append(float(worker.numbers.get("ledger_unsigned_seconds", 0.0)))
        if max(late) > _UNSIGNED_SECONDS:
            return "failing", f"no checkpoint could be signed for {max(late):.0f} s"
        return "ok", "every log is written and signed"
