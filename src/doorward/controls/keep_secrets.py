"""What Doorward keeps secret is read from references, sealed where it is stored, changed with an overlap, and written nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from doorward.controls.control import Posture


class KeepSecrets(Posture):
    """Every reference can be read, and nothing is sealed with a key that was to be destroyed."""

    slug: ClassVar[str] = "keep-secrets"
    partly: ClassVar[tuple[str, ...]] = ("S1.5", "S1.6", "S1.7")
    floor: ClassVar[bool] = True

    def __init__(
        self, failing: Mapping[str, str] | None = None, master_keys: int = 0, core_bytes: int = 0
    ) -> None:
        """``failing``: keys of references that cannot be read, and why; ``master_keys`` in the ring, 0 where unknown."""
        self._failing = failing or {}
        self._master_keys = master_keys
        self._core_bytes = core_bytes

    def probe(self) -> tuple[Literal["ok", "failing", "unknown"], str]:
        """See ``Posture``."""
        if self._failing:
            told = ", ".join(f"{key} ({why})" for key, why in sorted(self._failing.items()))
            return "failing", f"these secrets cannot be read again: {told}"
        if self._core_bytes:
            return "failing", "a crash may write memory to disk: core dumps are not off"
        if not self._master_keys:
            return "unknown", "the master key is not read yet"
        if self._master_keys > 1:
            return "failing", "rows do not open and hold an old master key; the log says how many"
        return "ok", "every secret can be read, what is stored is sealed with one key, and core dumps are off"
