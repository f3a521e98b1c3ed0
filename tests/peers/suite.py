"""The official conformance suite as a function: which checks of which scenarios came out how.

``python -m tests.peers.suite`` writes conformance_direct.json and conformance_client.json anew, from peers alone and without
Doorward, after the suite or its version has changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.peers.places import HERE, ROOT, STAND_INS, node, node_package, python_1

SETS = ("2025-11-25", "2026-07-28")
DIRECT = HERE / "conformance_direct.json"
HTTP = HERE / "conformance_http.json"
STDIO = HERE / "conformance_stdio.json"
CLIENT = HERE / "conformance_client.json"
CLIENT_CROSSED = HERE / "conformance_client_crossed.json"
CLIENT_SCENARIOS = [
    *(
        ("2025-11-25", name)
        for name in (
            "initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry",
            "json-schema-2020-12-preservation",
        )
    ),
    *(
        ("2026-07-28", name)
        for name in (
            "tools_call", "request-metadata", "http-standard-headers", "http-custom-headers",
            "http-invalid-tool-headers", "sep-2322-client-request-state", "json-schema-ref-no-deref",
            "json-schema-2020-12-preservation",
        )
    ),
]  # fmt: skip
EVERYTHING = STAND_INS / "everything_server.py"
_SUITE_SECONDS = 120
_FOLDER = "server-"  # what the suite puts before a scenario's name ...
_STAMP = len("-2026-11-24T02-51-33-921Z")  # ... and after it


class Run:
    """One run of a requirement set against ``url``: its ``rows`` are "scenario check STATUS", sorted.

    A check that a scenario makes several times stands as often, save for INFO, which only logs.
    """

    def __init__(self, url: str, requirements: str) -> None:
        self._run("server", "--url", url, "--requirements", requirements)

    def _run(self, *words: str) -> None:
        script = node_package("@modelcontextprotocol/conformance") / "dist" / "index.js"
        with tempfile.TemporaryDirectory(prefix="doorward-conformance-") as folder:
            done = subprocess.run(
                [str(node()), str(script), *words, "-o", folder], cwd=ROOT,
                capture_output=True, text=True, timeout=_SUITE_SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            self.status = done.returncode
            self.said = (done.stdout + done.stderr)[-4_000:]
            self.rows: list[str] = []
            self.why: dict[str, str] = {}
            for path in sorted(Path(folder).rglob("checks.json")):
                self._read(path)
        self.rows.sort()

    def _read(self, path: Path) -> None:
        scenario = path.parent.name.removeprefix(_FOLDER)[:-_STAMP]
        for check in json.loads(path.read_text()):
            row = f"{scenario} {check['id']} {check['status']}"
            if check["status"] != "INFO" or row not in self.rows:
                self.rows.append(row)
            if check.get("errorMessage"):
                self.why[row] = check["errorMessage"]

    def passed(self) -> int:
        """How many checks are SUCCESS."""
        return sum(row.endswith(" SUCCESS") for row in self.rows)

    def scenarios(self) -> int:
        """How many scenarios made checks."""
        return len({row.partition(" ")[0] for row in self.rows})


class ClientRun(Run):
    """One client scenario against the suite's own server: Doorward with a client of the server's era before it.

    ``how``: "direct" is the client alone, "crossed" Doorward with a client of the other era.
    """

    def __init__(self, scenario: str, version: str, how: str = "") -> None:
        command = f"{sys.executable} -m tests.peers.client_face {how}".rstrip()
        self._run("client", "--command", command, "--scenario", scenario, "--spec-version", version)
        self.rows = sorted({row for row in self.rows if not row.endswith(" INFO")})


class OAuthRun(Run):
    """One scenario in which Doorward is the OAuth client of the suite's own servers."""

    def __init__(self, scenario: str, version: str, *more: str) -> None:
        command = f"{sys.executable} -m tests.peers.oauth_face"
        self._run("client", "--command", command, "--scenario", scenario, "--spec-version", version,
                  "--timeout", "90000", *more)  # fmt: skip


def committed(path: Path) -> dict[str, list[str]]:
    """A committed list of rows: requirement set -> rows."""
    return dict(json.loads(path.read_text()))


def expected(requirements: str, *changes: Path) -> list[str]:
    """The direct list with the changes that these files name and explain."""
    rows = Counter(committed(DIRECT)[requirements])
    for path in changes:
        for change in json.loads(path.read_text())[requirements]:
            assert change["why"]
            rows.subtract(change["without"])
            assert min(rows.values()) >= 0, f"{path.name} takes rows away that are not in the direct list"
            rows.update(change["with"])
    return sorted(rows.elements())


@contextmanager
def everything_over_http(era: str = "") -> Iterator[int]:
    """The everything server over Streamable HTTP, in both eras or in one; gives its port."""
    words = ["http", "0", era] if era else ["http"]
    with _listening(sys.executable, str(EVERYTHING), *words) as port:
        yield port


@contextmanager
def everything_of_the_other_era(requirements: str) -> Iterator[int]:
    """A server that does not speak the era of a requirement set: for the newer one the SDK 1.x, which never heard of it."""
    if requirements == "2025-11-25":
        with everything_over_http("modern") as port:
            yield port
    else:
        with _listening(str(python_1()), str(STAND_INS / "everything_legacy.py")) as port:
            yield port


@contextmanager
def _listening(*command: str) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("port="), f"the everything server said {line!r}"
        yield int(line.removeprefix("port="))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _write() -> None:
    with everything_over_http() as port:
        found = {name: Run(f"http://127.0.0.1:{port}/mcp", name).rows for name in SETS}
    DIRECT.write_text(json.dumps(found, indent=1) + "\n")
    clients = {
        f"{version} {name}": ClientRun(name, version, "direct").rows for version, name in CLIENT_SCENARIOS
    }
    CLIENT.write_text(json.dumps(clients, indent=1) + "\n")


if __name__ == "__main__":
    _write()
