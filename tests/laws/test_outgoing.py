"""Where Doorward may open a connection: each file that can is named here with its reason, and no other may begin to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "doorward"
FILES = sorted(SOURCE.rglob("*.py"))
CLIENTS = frozenset(
    [
        "http.client",
        "urllib.request",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "requests",
        "aiohttp",
        "urllib3",
        "ftplib",
        "smtplib",
        "telnetlib",
        "xmlrpc.client",
        "websockets",
    ]
)
CALLS = frozenset(
    [
        "open_connection",
        "create_connection",
        "urlopen",
        "urlretrieve",
        "getaddrinfo",
        "gethostbyname",
        "gethostbyname_ex",
        "sock_connect",
        "PyJWKClient",
    ]
)
ON_PURPOSE = {
    "adapters/admin_client.py": {"http.client"},  # our own admin socket, a file
    "adapters/guarded_http.py": {
        "getaddrinfo",
        "open_connection",
    },  # URLs of others, to addresses that it has judged itself
    "adapters/http_out.py": {"create_connection"},  # servers, at exactly the host and port of the settings
    "adapters/tls_probe.py": {"create_connection"},  # Doorward's own listener, to see what it speaks
    "cli/demo_call.py": {"http.client"},  # the demo's own gateway on loopback
    "range/wire.py": {"open_connection"},  # labs attack their own gateway on loopback
}


def reaches(text: str) -> set[str]:
    """The clients that a file imports and the connecting functions that it names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            found |= {alias.name for alias in node.names} & CALLS
        elif isinstance(node, ast.Attribute):
            found |= {node.attr} & CALLS
            continue
        else:
            continue
        found |= {client for client in CLIENTS for name in names if f"{name}.".startswith(f"{client}.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_opens_no_connection_that_is_not_named_here(path: Path) -> None:
    name = path.relative_to(SOURCE).as_posix()
    assert reaches(path.read_text(encoding="utf-8")) == ON_PURPOSE.get(name, set())


@pytest.mark.parametrize(
    "text",
    [
        "import urllib.request",
        "from urllib import request",
        "from urllib.request import urlopen",
        "import http.client as plain",
        "def late():\n    import requests.sessions",
        "import asyncio\nasyncio.open_connection('h', 1)",
        "from socket import create_connection as dial",
        "loop.getaddrinfo('h', 1)",
    ],
)
def test_the_law_sees_a_connection_in_each_of_its_forms(text: str) -> None:
    assert reaches(text)


def test_the_law_lets_ordinary_imports_pass() -> None:
    assert not reaches("from urllib.parse import urlsplit\nimport http\nimport asyncio\nimport socket")
