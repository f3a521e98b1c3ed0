"""The office that signs workers' checkpoints and sets marks that may be set once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from doorward.app.office import Answering, Office
from doorward.base.errors import StoreError


class Notary(Office):
    """What is true once for all workers is written down here."""

    name = "notary"

    def asks(self) -> Mapping[str, Answering]:
        """See ``Office.asks``."""
        return {"sign": self._sign, "mark-once": self._mark_once}

    async def _sign(self, index: int, payload: Any) -> str:
        match payload:
            case {"origin": str(origin), "size": int(size), "root": bytes(root)}:
                return await asyncio.to_thread(self.supervisor.signer.sign, origin, size, root)
            case _:
                raise StoreError("bus-payload", "A worker asked for a signature in a wrong way.")

    async def _mark_once(self, index: int, payload: Any) -> bool:
        match payload:
            case {"space": str(space), "key": str(key), "expires_at": (int() | float()) as expires_at}:
                state = self.supervisor.ready_state()
                return await asyncio.to_thread(state.mark_once, space, key, float(expires_at), time.time())
            case _:
                raise StoreError("bus-payload", "A worker asked for a mark in a wrong way.")
