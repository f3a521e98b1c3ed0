"""Write the table of docs/guide/configuration.md from the structs of src/doorward/settings.py.

`python docs/make_settings.py` writes it, `python docs/make_settings.py --check` only says whether it is current (exit 1
if not).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

HOME = Path(__file__).resolve().parent.parent
GUIDE = HOME / "docs" / "guide" / "configuration.md"
sys.path.insert(0, str(HOME / "src"))

OPENING = """# Configuration

Written by `docs/make_settings.py` from the settings themselves; change a sentence there, then run it again.

One TOML file holds every setting. Each `doorward` command takes `--config FILE`; without it, `./doorward.toml` is used, else
`doorward/doorward.toml` in the user's configuration folder (`$XDG_CONFIG_HOME`, usually `~/.config`). Relative paths are
relative to the file. `doorward check` reads a file as `doorward serve` does and names the key and the line of a mistake;
`doorward check --explain` prints each value that is in force, where it came from and what it does.

    [gateway]
    listen = "127.0.0.1:8808"

    [[identity.users]]
    name = "alice"
    roles = ["user"]

    [servers.time]
    package = "pypi:mcp-server-time==2026.10.19"
    command = ["mcp-server-time"]

    [servers.tickets]
    url = "https://mcp.example.com/mcp"
    credentials = { type = "header", prefix = "Bearer ", value = { file = "tickets.token" } }

## Rules

* **Nothing is ignored.** A key that does not exist is an error (`settings-unknown-key`) that names the nearest one, a wrong
  value is `settings-invalid`, and a value whose machinery does not exist yet is `settings-not-available`.
* **Secrets are references**: `{ env = "NAME" }` or `{ file = "PATH" }`. A secret file must be readable by its owner only.
* **Server names** are a to z, 0 to 9 and `-`, begin with a letter and are at most 24 characters long; `mcp`, `oauth`, `connect`,
  `healthz`, `readyz`, `api` and `metrics` are taken.
* **Profiles.** `local` is for one machine. `team`, `production` and `regulated` promise signed revisions and the review of
  tool definitions; they refuse to start until those exist. `lab` is for the range: it needs `DOORWARD_LAB=1`, loopback
  listeners and a fresh data folder.
* **The floor** (FLOOR) cannot be switched off or set to `report` outside of profile `lab`; trying is `settings-floor`.
* **Reload.** In profile `local` a changed file takes effect while Doorward runs, or is refused whole. These keys are read
  only at the start: RESTART.

## Every setting

`*` stands for a name that you choose, `[]` for each entry of a list.

| setting | type | default | what it does |
|---|---|---|---|
"""


def write_type(hint: Any) -> str:
    """A type in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list of {write_type(parts[0])}"
    if origin is dict:
        return f"table of {write_type(parts[1])}"
    if parts:
        return " or ".join(write_type(part) for part in parts if part is not type(None))
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(
        hint, "secret reference"
    )


def write_default(key: str, value: Any) -> str:
    """A default as TOML."""
    if key == "servers.*.trust":
        return "`off`, until definitions are pinned"
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | dict):
        return "`[]`" if isinstance(value, tuple) else "`{}`"
    return f"`{value}`"


def write_guide() -> str:
    """Return the text of the page."""
    from doorward.settings import RESTART_KEYS, SLUGS, catalogue

    floor = ", ".join(f"`{slug}`" for slug, is_floor in SLUGS.items() if is_floor)
    opening = OPENING.replace("FLOOR", floor).replace(
        "RESTART", ", ".join(f"`{key}`" for key in RESTART_KEYS)
    )
    lines = [
        f"| `{key}` | {write_type(kind)} | {write_default(key, default)} | {sentence.replace('|', '/')} |"
        for key, kind, default, sentence in catalogue()
    ]
    return opening + "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    text = write_guide()
    if "--check" in sys.argv[1:]:
        current = GUIDE.exists() and GUIDE.read_text(encoding="utf-8") == text
        if not current:
            print("docs/guide/configuration.md is not current: run `python docs/make_settings.py`")
        return 0 if current else 1
    GUIDE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
