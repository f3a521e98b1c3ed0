"""What Doorward starts, it starts in a sandbox: no network, no home folder, nothing of Doorward's (MCP security best practices,
local server compromise)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from doorward.catalogue.server import ServerSpec
from doorward.controls.control import Posture

CageProbe = Callable[[], tuple[Literal["ok", "failing", "unknown"], str]]


class KeepCage(Posture):
    """Every stdio server runs in the cage unless its ``sandbox`` says otherwise, which shows here."""

    slug: ClassVar[str] = "keep-cage"
    partly: ClassVar[tuple[str, ...]] = ("S4.5",)
    floor: ClassVar[bool] = True

    def __init__(
        self, probe_cage: CageProbe | None = None, servers: Mapping[str, ServerSpec] | None = None
    ) -> None:
        """``probe_cage`` starts a caged program and tells how it went; ``servers`` are those of the settings in force."""
        self._probe_cage = probe_cage
        self._servers = servers or {}

    def probe(self) -> tuple[Literal["ok", "failing", "unknown"], str]:
        """See ``Posture``."""
        started = [spec for spec in self._servers.values() if spec.is_stdio]
        if not started:
            return "ok", "no stdio server is configured: Doorward starts nothing"
        bare = sorted(spec.name for spec in started if spec.sandbox == "none")
        if bare:
            return "failing", f'these servers run without a cage (sandbox = "none"): {", ".join(bare)}'
        if self._probe_cage is None:
            return "unknown", "the cage was not tried here"
        return self._probe_cage()
