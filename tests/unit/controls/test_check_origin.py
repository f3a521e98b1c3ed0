from __future__ import annotations

import pytest

from doorward.controls.check_origin import CheckOrigin, allowed_hosts, allowed_origins
from doorward.controls.control import Head, Refuse

LOCAL = CheckOrigin(
    allowed_hosts("127.0.0.1:8808", "127.0.0.1:8808", ["gate.example:8808"]),
    allowed_origins("127.0.0.1:8808", "http://127.0.0.1:8808", ["https://app.example"]),
)
PUBLIC = CheckOrigin(
    allowed_hosts("0.0.0.0:8808", "gate.example", [], "https"),
    allowed_origins("0.0.0.0:8808", "https://gate.example", []),
)


def status(control: CheckOrigin, host: str | None, origin: str | None = None, repeated: str = "") -> int:
    fields = {name: value for name, value in (("host", host), ("origin", origin)) if value is not None}
    made = Head(verb="POST", path="/mcp", query="", fields=fields, repeated=frozenset({repeated} - {""}))
    verdict = control.head(made)
    assert verdict is None or isinstance(verdict, Refuse)
    return 0 if verdict is None else verdict.status


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8808", "localhost:8808", "LOCALHOST:8808", "[::1]:8808", "gate.example:8808"]
)
def test_our_own_names_are_served(host: str) -> None:
    assert status(LOCAL, host) == 0


@pytest.mark.parametrize(
    "host",
    ["evil.example:8808", "127.0.0.1:1", "127.0.0.1", "localhost", "localhost.:8808", "127.0.0.1.nip.io:8808",
     "localhost.evil.example:8808", "gate.example", "0.0.0.0:8808", "[::]:8808", "127.1:8808", "127.0.0.2:8808"],
)  # fmt: skip
def test_foreign_names_are_403(host: str) -> None:
    assert status(LOCAL, host) == 403


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "localhost@evil.example",
        "a b",
        "127.0.0.1:8808, evil",
        "x/y",
        "host:",
        "host:80a",
        "[::1",
        "é",
    ],
)
def test_malformed_names_are_400(host: str | None) -> None:
    assert status(LOCAL, host) == 400


def test_a_repeated_host_is_400() -> None:
    assert status(LOCAL, "localhost:8808", repeated="host") == 400


@pytest.mark.parametrize(
    "origin",
    ["http://127.0.0.1:8808", "http://localhost:8808", "http://[::1]:8808", "https://app.example",
     "HTTPS://APP.example:443"],
)  # fmt: skip
def test_allowed_origins_are_served(origin: str) -> None:
    assert status(LOCAL, "localhost:8808", origin) == 0


@pytest.mark.parametrize(
    "origin",
    ["", "null", "http://evil.example", "http://localhost.evil.example", "http://evil-localhost",
     "http://127.0.0.1.nip.io", "https://127.0.0.1:8808", "http://127.0.0.1:1", "http://127.0.0.1", "file://",
     "http://localhost:8808/", "http://localhost:8808@evil.example", "http://localhost:8808, http://evil.example",
     "http://app.example", "https://app.example.evil.example", "chrome-extension://x", "javascript:x", "localhost:8808"],
)  # fmt: skip
def test_foreign_origins_are_403(origin: str) -> None:
    assert status(LOCAL, "localhost:8808", origin) == 403


def test_a_repeated_origin_is_403() -> None:
    assert status(LOCAL, "localhost:8808", "https://app.example", repeated="origin") == 403


def test_behind_a_public_url_only_its_name_is_served() -> None:
    assert status(PUBLIC, "gate.example", "https://gate.example") == 0
    assert status(PUBLIC, "gate.example:443") == 0
    for host in ("localhost:8808", "127.0.0.1:8808", "gate.example:8808", "gate.example:80"):
        assert status(PUBLIC, host) == 403
    assert status(PUBLIC, "gate.example", "http://gate.example") == 403
    assert status(PUBLIC, "gate.example", "http://localhost:8808") == 403


def test_a_loopback_listener_with_tls_takes_its_pages_over_https_only() -> None:
    secured = allowed_origins("127.0.0.1:8808", "https://127.0.0.1:8808", (), "https")
    assert "https://localhost:8808" in secured
    assert not any(one.startswith("http:") for one in secured)
    assert "http://localhost:8808" in allowed_origins("127.0.0.1:8808", "http://127.0.0.1:8808", ())
