"""Which official client can do what with which kind of server through Doorward; `make matrix` writes docs/reference/eras.md.

Every cell is a real run: a client of an official SDK, a server of an official SDK that speaks one era and one transport only,
and `doorward serve` between them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.peers.places import HERE, KEPT, NODE_FOLDER, ROOT, STAND_INS, node, node_package, python_1
from tests.stack.kit import Stack, running

FEATURES = (
    "tools", "resources", "prompts", "elicitation", "sampling", "subscriptions", "cancellation", "progress",
)  # fmt: skip
CLIENTS = ("Python SDK 1.x", "Python SDK 2.x", "TypeScript SDK 1.x", "TypeScript SDK 2.x")
SERVERS = {
    "legacy-stdio": "legacy, stdio",
    "legacy-http": "legacy, HTTP",
    "legacy-sse": "legacy, HTTP+SSE",
    "modern-http": "modern, HTTP",
    "modern-stdio": "modern, stdio",
}
COMMITTED = HERE / "matrix.json"
PAGE = ROOT / "docs" / "reference" / "eras.md"
VISIT_SECONDS = 150
Works = dict[str, dict[str, list[str]]]  # client -> server -> the features that work


@contextmanager
def listening(*command: str) -> Iterator[int]:
    """A server process that says its port."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("port="), f"{command} said {line!r}"
        yield int(line.removeprefix("port="))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def matrix_stack() -> Iterator[Stack]:
    """Doorward before one server of each kind."""
    legacy, modern = str(STAND_INS / "matrix_legacy.py"), str(STAND_INS / "matrix_modern.py")
    old, new = str(python_1()), sys.executable
    asks = ["sampling", "elicitation"]
    with ExitStack() as stack:
        ports = {
            "legacy-http": stack.enter_context(listening(old, legacy, "http")),
            "legacy-sse": stack.enter_context(listening(old, legacy, "sse")),
            "modern-http": stack.enter_context(listening(new, modern, "http")),
        }
        servers: dict[str, Any] = {
            name: {"url": f"http://127.0.0.1:{port}/mcp{'/' if name == 'legacy-http' else ''}"}
            for name, port in ports.items()
        }
        files = [{"path": str(STAND_INS)}, {"path": str(KEPT.resolve())}, {"path": str(ROOT / ".venv")}]
        servers["legacy-stdio"] = {"command": [old, legacy, "stdio"], "files": files}
        servers["modern-stdio"] = {"command": [new, modern, "stdio"], "files": files}
        yield stack.enter_context(
            running({name: {**spec, "allow_requests": asks} for name, spec in servers.items()})
        )


def command_of(client: str) -> list[str]:
    """How a client of the matrix is started."""
    kind, _, version = client.partition(" SDK ")
    script = f"matrix_{version[0]}"
    if kind == "TypeScript":
        node_package("@modelcontextprotocol/client" if version[0] == "2" else "@modelcontextprotocol/sdk")
        return [str(node()), str(NODE_FOLDER / f"{script}.mjs")]
    python = str(python_1()) if version[0] == "1" else sys.executable
    return [python, str(HERE / "python" / f"{script}.py")]


def visit(stack: Stack, client: str, server: str) -> dict[str, str]:
    """What a client found of each feature at one server: ``works``, or what went wrong."""
    target = {"url": stack.url + stack.path(server), "token": stack.token(server)}
    done = subprocess.run(
        [*command_of(client), ",".join(FEATURES)],
        input=json.dumps([target]),
        capture_output=True,
        text=True,
        timeout=VISIT_SECONDS,
        check=False,
    )
    if done.returncode:
        why = [line.strip() for line in done.stderr.splitlines() if "Error" in line]
        return dict.fromkeys(FEATURES, f"failed: {(why or ['without a word'])[-1]}")
    found: dict[str, str] = json.loads(done.stdout)[0]
    return found


def page_of(works: Works) -> str:
    """The page as Markdown: one table a client."""
    lines = [
        "# Eras and transports",
        "",
        "Which official client can do what with which kind of server through Doorward. `make matrix` makes every cell anew",
        "by a real run: a client of an official SDK, a server of an official SDK that speaks one era and one transport only,",
        "and Doorward between them. `make test` runs the same and compares.",
    ]
    for client in CLIENTS:
        lines += ["", f"## {client}", "", "| server | " + " | ".join(FEATURES) + " |"]
        lines.append("|---" * (len(FEATURES) + 1) + "|")
        for server, title in SERVERS.items():
            marks = ["yes" if feature in works[client][server] else "no" for feature in FEATURES]
            lines.append(f"| {title} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything, and write what was found."""
    works: Works = {client: {} for client in CLIENTS}
    with matrix_stack() as stack:
        for client in CLIENTS:
            for server in SERVERS:
                found = visit(stack, client, server)
                bad = {name: why for name, why in found.items() if why != "works"}
                print(f"{client} at {server}: {bad or 'all works'}", file=sys.stderr)
                works[client][server] = [name for name in FEATURES if name not in bad]
    COMMITTED.write_text(json.dumps(works, indent=1) + "\n")
    PAGE.write_text(page_of(works))


if __name__ == "__main__":
    main()
