"""Words and small judgements that the rules of settings share."""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doorward.settings_load import Reader

OPEN_PROFILES = ("local", "lab")
HARD_PROFILES = ("production", "regulated")
HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses, with or without brackets."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split_listen(listen: str) -> tuple[str, int]:
    """Host (without brackets) and port of ``host:port``. Raises: ValueError."""
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535:
        raise ValueError(listen)
    plain = host[1:-1] if bracketed else host
    if plain != "localhost" and ipaddress.ip_address(plain).version != (6 if bracketed else 4):
        raise ValueError(listen)
    return plain, int(port)


def no_such(reader: Reader, path: tuple[str | int, ...], what: str, name: str, known: list[str]) -> None:
    """Refuse a name that means nothing, with the nearest that does."""
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}."
    reader.fail("settings-invalid", path, f"there is no {what} {name!r}; {hint}")
