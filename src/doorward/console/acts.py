"""What offices of the supervisor let operators see and do: paths of the admin API beyond the built-in ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec


class Asked(msgspec.Struct, frozen=True):
    """One request of an operator. ``who`` is ``os:<uid>``, ``admin-token`` or ``console``."""

    who: str
    path: dict[str, str]  # the values of ``{name}`` in the act's path
    query: dict[str, str]
    body: Any = None  # the JSON body of a POST


class Act(msgspec.Struct, frozen=True):
    """One verb on one path below ``/api/v1/``; ``serve`` gives a JSON value. Raises CallerError for what it refuses."""

    verb: Literal["GET", "POST", "DELETE"]
    path: str  # such as "tools/{server}/{name}"
    summary: str
    serve: Callable[[Asked], Any | Awaitable[Any]]
    schema: dict[str, Any] = {}  # JSON Schema of a POST's body
