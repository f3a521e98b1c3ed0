"""The supervisor's own log in the ledger: what operators and servers did, beside the calls that the workers record."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from doorward.adapters.ledger_files import LedgerWriter
from doorward.audit.record import Records
from doorward.base.clock import SystemClock
from doorward.base.errors import StoreError
from doorward.base.ids import EventIds

if TYPE_CHECKING:
    from doorward.adapters.ledger_signer import LedgerSigner

WRITER = "supervisor"
Weight = Literal["note", "allow", "refuse"]


class Chronicle:
    """Writes records that are no calls. ``on_failed`` hears once, in the loop, that the log cannot be written."""

    def __init__(
        self,
        data_dir: Path,
        signer: LedgerSigner,
        digest_key: bytes,
        sync_ms: float,
        on_failed: Callable[[StoreError], None],
    ) -> None:
        origin = signer.origin_of(WRITER)
        self._signer = signer
        self._clock = SystemClock()
        self._ids = EventIds()
        self._records = Records(origin, digest_key)
        self._log = LedgerWriter(
            data_dir / "ledger", origin, self._sign, self._clock, sync_ms, public_key=signer.public_key
        )
        self._log.on_failed = on_failed
        self._is_open = False
        self.on_alert: Callable[[dict[str, str]], None] = lambda _: None  # hears of each record of kind alert

    async def _sign(self, origin: str, size: int, root: bytes) -> str:
        return await asyncio.to_thread(self._signer.sign, origin, size, root)

    async def start(self) -> None:
        """Open the log. Raises: StoreError."""
        await self._log.start()
        self._is_open = True

    async def close(self) -> None:
        """Publish what is left. Raises: StoreError."""
        if self._is_open:
            self._is_open = False
            await self._log.close()

    @property
    def failed(self) -> StoreError | None:
        """Why nothing can be written any more, or None."""
        return self._log.failed

    @property
    def unsigned_seconds(self) -> float:
        """For how long no checkpoint could be signed; 0.0 when all is well."""
        return self._log.unsigned_seconds

    def note(
        self,
        method: str,
        actor: str,
        *,
        kind: Literal["auth", "admin", "server", "alert"] = "admin",
        verdict: Weight = "note",
        server: str = "",
        item: str = "",
        control: str = "",
        reason: str = "",
        client: str = "",
        http_status: int = 0,
        address: str = "",
    ) -> None:
        """Put a happening on record; ``actor`` is ``os:<uid>``, ``file``, ``signal`` or who the admin plane knows.

        The record is with the kernel when this returns. A log that cannot be written has told ``on_failed``.
        """
        if not self._is_open or self._log.failed is not None:
            return
        self._log.append(
            self._records.happening(
                kind,
                event=self._ids.mint(),
                at=self._clock.now(),
                method=method,
                verdict=verdict,
                principal=actor,
                server=server,
                item=item,
                control=control,
                reason=reason,
                client=client,
                http_status=http_status,
                address=address,
            )
        )
        try:
            self._log.flush()
        except StoreError:
            return  # on_failed was told, which ends the whole
        if kind == "alert":
            self.on_alert(
                {
                    "method": method,
                    "principal": actor,
                    "server": server,
                    "item": item,
                    "reason": reason,
                    "address": address,
                }
            )


def own_actor() -> str:
    """Who runs this process."""
    return f"os:{os.geteuid()}"
