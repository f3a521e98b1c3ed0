"""Write docs/map.md: every room and file of src/doorward with the first line of its docstring.

`python docs/make_map.py` writes it, `python docs/make_map.py --check` only says whether it is current (exit 1 if not).
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
SOURCE = HOME / "src" / "doorward"
MAP = HOME / "docs" / "map.md"

OPENING = """# The map

Written by `docs/make_map.py` from the files themselves; change a docstring, then run `make format`.

Imports run one way, and `make lint` enforces it:

    cli -> app -> {console, range} -> adapters -> gateway -> controls -> response
        -> {identity | policy | catalogue | detect | flow | audit | supply}   (not one another)
        -> protocol -> base

The inner rooms (`base`, `protocol`, `identity`, `policy`, `catalogue`, `detect`, `audit`) do no I/O at all; only the outer ones
import drivers. `settings.py` is read by `app`, `cli` and `range`; every other room gets the one struct that it needs.

## Words

| word | what it means here |
|---|---|
| server | a protected MCP server, as a `[servers.NAME]` table configures it |
| upstream | the far end of our own connection to a server, over HTTP or stdio |
| tool | what a server lets a client call; prompts, resources and templates are the other items |
| client | the program that speaks MCP to us |
| caller | whoever stands behind a client; not trusted beyond their own calls |
| principal | the caller as the token names it |
| exchange | one request from the client's door to the server's and back |
| control | one class in one file that judges exchanges; its slug is the file's name with hyphens |
| posture | what protects without a place on the path, with a probe that says whether it holds |
| verdict | what a control answers: no objection, note, rewrite, hold or refuse |
| hold | a verdict: wait for a person. Nobody answers holds yet, so it refuses with -31002 |
| finding | what an inspection found in a text or a definition: a rule, how bad, where, and a fingerprint; `doorward scan` and `inspect` print them |
| idea | what a word stands for in any language, such as "ignore" or "secret"; the rules of `detect` are about ideas |
| pin | the digest of a tool's definition as it was approved; not built yet |
| switch | what turns a tool, a server or a caller off at once; not built yet, but for revoked tokens |
| record | one entry of the ledger: a decision, an outcome or a happening |
| checkpoint | the ledger's size and root hash, signed |
| snapshot | settings, keys and revocations as a worker knows them, with a generation number |
| generation | which snapshot is in force; a worker with an older one refuses |
| federated | of all servers as one, at `/mcp`; names then carry the server's configured name |
| cell | eras of client and server of one call, such as `legacy-modern`; translated where they differ |
| park | where a call waits for its client to come back with an answer |
| era | legacy (revisions up to 2025-11-25, with sessions) or modern (2026-07-28, without) |

## Rooms
"""


def first_line(path: Path) -> str:
    """Return the first paragraph of a module's docstring as one line, or "" when it has none."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def write_map() -> str:
    """Return the text of the map."""
    lines = [OPENING]
    rooms = sorted(p.parent for p in SOURCE.glob("*/__init__.py"))
    for room in rooms:
        lines += [
            f"### {room.name}/",
            "",
            first_line(room / "__init__.py"),
            "",
            "| file | what it is |",
            "|---|---|",
        ]
        for path in sorted(room.rglob("*.py")):
            if path != room / "__init__.py":
                lines.append(f"| `{path.relative_to(room)}` | {first_line(path).replace('|', '/')} |")
        lines.append("")
    lines += ["### At the top", "", "| file | what it is |", "|---|---|"]
    lines += [f"| `{path.name}` | {first_line(path)} |" for path in sorted(SOURCE.glob("*.py"))]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the map, or compare it."""
    text = write_map()
    if "--check" in sys.argv[1:]:
        current = MAP.exists() and MAP.read_text(encoding="utf-8") == text
        if not current:
            print("docs/map.md is not current: run `make format`")
        return 0 if current else 1
    MAP.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
