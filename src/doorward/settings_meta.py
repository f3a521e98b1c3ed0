"""How a setting carries its one sentence and its bounds."""

from __future__ import annotations

from typing import Any

import msgspec


def says(sentence: str, **bounds: Any) -> msgspec.Meta:
    """Metadata of one setting: what ``doorward check --explain`` and the reference say of it, and its bounds."""
    return msgspec.Meta(description=sentence, **bounds)
