"""Whether TLS holds, from what the listener does and from the certificates in force."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from doorward.adapters.tls_probe import Seen, look
from doorward.controls.keep_ledger import Health
from doorward.settings_common import is_loopback, split_listen

if TYPE_CHECKING:
    from doorward.app.certificates import Holding
    from doorward.settings import Settings

_AGAIN_SECONDS = 60.0


class TlsHealth:
    """Looks at the data plane's listener now and then."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._fault = ""
        self._looked_at = 0.0

    def forget(self) -> None:
        """What was seen is not in force any more."""
        self._looked_at = 0.0

    async def look(self, settings: Settings) -> None:
        """Look, unless that was done a moment ago."""
        if settings.gateway.tls is None or time.monotonic() - self._looked_at < _AGAIN_SECONDS:
            return
        self._looked_at = time.monotonic()
        host, port = split_listen(settings.gateway.listen)
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        try:
            self._seen, self._fault = await asyncio.to_thread(look, here, port), ""
        except (OSError, ValueError) as error:
            self._seen, self._fault = None, type(error).__name__

    def say(self, settings: Settings, holding: Holding, refused: str) -> Health:
        """Whether it holds, and in words why."""
        now = time.time()
        over = [where for where, facts in holding.facts.items() if facts.not_after <= now]
        if over:
            return "failing", f"these certificates have run out: {', '.join(over)}"
        if refused:
            return "failing", "a changed certificate was refused and the one before is in force"
        report = sorted(
            name
            for name, spec in settings.servers.items()
            if spec.tls is not None and spec.tls.mode == "report"
        )
        if report:
            return "failing", f"broken pins are let through (mode = report): {', '.join(report)}"
        if settings.gateway.tls is None:
            if is_loopback(split_listen(settings.gateway.listen)[0]):
                return "ok", "plain HTTP on loopback only"
            return "unknown", f"something else speaks TLS: {settings.gateway.terminator}"
        return self._judge(settings.gateway.tls.min_version, holding)

    def _judge(self, oldest: str, holding: Holding) -> Health:
        seen = self._seen
        if seen is None:
            return ("failing", f"the listener cannot be reached ({self._fault})") if self._fault else (
                "unknown", "the listener has not been looked at yet"
            )  # fmt: skip
        if seen.plain:
            return "failing", "the listener answers plain HTTP"
        wanted = ("1.3",) if oldest == "1.3" else ("1.2", "1.3")
        if seen.versions != wanted:
            return "failing", f"the listener speaks TLS {' and '.join(seen.versions) or 'not at all'}"
        if seen.serial != holding.facts["gateway"].serial:
            return "failing", "the listener shows another certificate than the one in force"
        return "ok", f"TLS {' and '.join(wanted)}, the certificate in force is shown, plain HTTP is refused"
