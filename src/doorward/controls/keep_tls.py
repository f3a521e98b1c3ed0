"""Everything that leaves this machine is encrypted, with certificates that hold (MCP security best practices, transport; RFC 9325)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from doorward.controls.control import Posture
from doorward.controls.keep_ledger import Health


class KeepTls(Posture):
    """TLS 1.3 on whatever listens beyond loopback, certificates that are in force, and pinned keys of upstreams."""

    slug: ClassVar[str] = "keep-tls"
    covers: ClassVar[tuple[str, ...]] = ("S2.4", "N2.5")
    partly: ClassVar[tuple[str, ...]] = ("S1.6", "S2.5", "S2.6", "S2.7", "N2.7")
    floor: ClassVar[bool] = True

    def __init__(self, health: Callable[[], Health] | None = None) -> None:
        """``health`` looks at the listeners that run; without it nothing is known."""
        self._health = health

    def probe(self) -> Health:
        """See ``Posture``."""
        if self._health is None:
            return "unknown", "nothing listens here"
        return self._health()
