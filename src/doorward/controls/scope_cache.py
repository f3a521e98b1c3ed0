"""What Doorward filters for one caller is no other caller's, whatever a server allows caches to do (2026-07-28
server/utilities/caching; SF-58)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from doorward.controls.control import Call, Control, Mode

Narrow = Callable[[Call, dict[str, Any]], None]


class ScopeCache(Control):
    """Results that may be cached say ``cacheScope: "private"``: a cache on the way shares them with nobody.

    It has no hook: the flow asks for it only where a server has said ``public``.

    Fails: it decides nothing that could fail.
    """

    slug: ClassVar[str] = "scope-cache"
    partly: ClassVar[tuple[str, ...]] = ("S2.2",)
    floor: ClassVar[bool] = True

    @classmethod
    def narrowing(cls, mode: Mode) -> Narrow:
        """What to do with a result that any caller may see, as its server says."""
        return {"enforce": cls._narrow, "report": cls._note, "off": cls._leave}[mode]

    @staticmethod
    def _narrow(call: Call, result: dict[str, Any]) -> None:  # noqa: ARG004 - as the others
        result["cacheScope"] = "private"

    @staticmethod
    def _note(call: Call, result: dict[str, Any]) -> None:  # noqa: ARG004 - as the others
        call.notes.append(f"{ScopeCache.slug} would rewrite: a shared cache may keep this for everybody")

    @staticmethod
    def _leave(call: Call, result: dict[str, Any]) -> None:
        """The server is taken at its word."""
