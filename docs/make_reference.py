"""Write docs/reference/controls.md from the list of controls, and docs/reference/cli.md from the commands' own help.

`python docs/make_reference.py` writes them, `--check` only says whether they are current (exit 1 if not).
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
PAGES = HOME / "docs" / "reference"
ORDER_FILE = HOME / "src" / "doorward" / "controls" / "order.py"
HOOKS = ("head", "request", "listing", "reply", "notice", "claim", "settled")
WIDTH = 100
sys.path.insert(0, str(HOME / "src"))

CONTROLS_OPENING = """# Controls

Written by `docs/make_reference.py` from `src/doorward/controls`; run `make format` after a change.

A control is one class in one file. The pipeline calls its hooks in the order below; a refusal ends it. `covers` names ids of the
catalogue that it fulfils, `partly` those to which it contributes; `doorward controls --catalogue` lists all 87. A control of the
**floor** is always in force outside of profile `lab`. The others can be set to `report` (what would have been refused is only
noted on record; what a hook without a call at hand, such as `head`, would have refused is in the log) or `off` in `[controls.SLUG]`; both show in `doorward check` and `doorward controls`.

| hook | when |
|---|---|
| `head` | a request's head is read, its body not yet |
| `request` | a message was parsed, before it is sent on |
| `listing` | a server listed tools, prompts, resources or templates |
| `reply` | a server's final answer came |
| `notice` | a server sends a notification, or asks the client something |
| `claim` | a caller presents a session or a state that is not plainly theirs |
| `settled` | the exchange is over; nothing can be changed |

Before all of them the framing of HTTP is checked. The path is checked after `check-origin`, the limit for each peer address
before `check-token`, and the body is parsed after the `head` hooks.
"""

CLI_OPENING = """# Commands

Written by `docs/make_reference.py` from the commands themselves; run `make format` after a change.

Exit codes: 0 fine, 1 a finding or a refused action, 2 wrong usage or configuration, 3 the environment. Errors go to stderr as
`error [code]: sentence`; the codes are in [errors.md](errors.md). `--json` prints exactly one document on stdout. Without
`--config FILE`, `./doorward.toml` is used, else `doorward/doorward.toml` in the user's configuration folder.
"""


def reasons() -> dict[str, str]:
    """Class name -> the comment on its line of order.py."""
    found = {}
    for line in ORDER_FILE.read_text(encoding="utf-8").splitlines():
        name, mark, comment = line.strip().partition(",  # ")
        if mark and name.isidentifier():
            found[name] = comment
    return found


def lists_of_order() -> list[str]:
    """Names of the classes in order.py's literal lists, in order."""
    tree = ast.parse(ORDER_FILE.read_text(encoding="utf-8"))
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple)
    ]
    return [one.id for found in lists for one in found.elts if isinstance(one, ast.Name)]


def sentence(kind: type[Any]) -> str:
    """The first paragraph of a class's docstring as one line."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")


def controls_page() -> str:
    """The text of controls.md."""
    from doorward.controls.catalogue import CATALOGUE
    from doorward.controls.control import Control
    from doorward.controls.order import ORDER, POSTURES
    from doorward.range.index import labs_of

    why = reasons()
    lines = [
        CONTROLS_OPENING,
        "## In order",
        "",
        "| | control | why here | hooks | floor |",
        "|---|---|---|---|---|",
    ]
    for place, kind in enumerate(ORDER, start=1):
        hooks = " ".join(hook for hook in HOOKS if getattr(kind, hook) is not getattr(Control, hook))
        floor = "yes" if kind.floor else ""
        lines.append(
            f"| {place} | [`{kind.slug}`](#{kind.slug}) | {why[kind.__name__]} | {hooks} | {floor} |"
        )
    lines += [
        "",
        "## Beside the path",
        "",
        "Postures protect without a place on the path; a probe says whether they hold.",
        "",
        "| posture | why | floor |",
        "|---|---|---|",
    ]
    lines += [
        f"| [`{kind.slug}`](#{kind.slug}) | {why[kind.__name__]} | {'yes' if kind.floor else ''} |"
        for kind in POSTURES
    ]
    for kind in (*ORDER, *POSTURES):
        file = f"src/doorward/controls/{kind.slug.replace('-', '_')}.py"
        lines += ["", f"## {kind.slug}", "", f"{sentence(kind)} [{file}](../../{file})", ""]
        for word, ids in (("Covers", kind.covers), ("Partly", kind.partly)):
            lines += [f"* {word} {one}: {CATALOGUE[one]}" for one in ids]
        if not kind.covers and not kind.partly:
            lines.append("* Claims no id of the catalogue.")
        if labs := labs_of(kind.slug):
            lines.append(f"* Proven by [lab](../guide/range.md) {', '.join(labs)}.")
    return "\n".join(lines) + "\n"


def helps() -> Iterator[tuple[str, str]]:
    """(command, help text) of every command and sub-command, in order."""
    from cyclopts import App
    from rich.console import Console

    from doorward.cli.main import COMMANDS, build_app

    app = build_app()

    def shown(words: list[str]) -> str:
        out = io.StringIO()
        console = Console(
            file=out, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False, _environ={}
        )
        app.help_print(words, console=console)
        return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())

    yield "doorward", shown([])
    for noun in COMMANDS:
        yield f"doorward {noun}", shown([noun])
        inner = app[noun]
        names = [name for name in inner if not name.startswith("-")] if isinstance(inner, App) else []
        for name in sorted(names):
            yield f"doorward {noun} {name}", shown([noun, name])


def cli_page() -> str:
    """The text of cli.md."""
    lines = [CLI_OPENING]
    for command, text in helps():
        lines += [f"## {command}", "", "```text", text, "```", ""]
    return "\n".join(lines)


def main() -> int:
    """Write the pages, or compare them."""
    stale = []
    for name, text in (("controls.md", controls_page()), ("cli.md", cli_page())):
        page = PAGES / name
        if "--check" not in sys.argv[1:]:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(name)
            print(f"docs/reference/{name} is not current: run `make format`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
