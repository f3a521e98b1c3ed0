"""Servers that other people wrote, added by name and started by Doorward in the cage: they answer as without Doorward."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.places import KEPT, give_up
from tests.peers.real_servers import LEGACY, MODERN, REAL, START_SECONDS, Direct, install, prepare
from tests.stack.kit import Stack

pytestmark = [pytest.mark.cage, pytest.mark.node]
Ask = Callable[[str, dict[str, Any]], dict[str, Any]]
LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")


@pytest.fixture(scope="module")
def packages() -> Path:
    """The installed packages; they are kept, so that only the first run needs the network."""
    said = install(KEPT / "servers")
    if said:
        give_up(said)
    return KEPT / "servers" / "data" / "packages"


@pytest.fixture(scope="module")
def stack(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Doorward before all of them, each with a folder of its own."""
    folder = tmp_path_factory.mktemp("real")
    servers: dict[str, Any] = {}
    for name, real in REAL.items():
        place = folder / "caged" / name
        place.mkdir(parents=True)
        servers[name] = {
            "package": real.package,
            "command": [real.program, *real.rest(place)],
            "env": real.env(place),
            "files": [{"path": str(place), "write": True}],
        }
    one = Stack(folder, servers)
    one.patience = START_SECONDS
    one.data_dir.mkdir(mode=0o700)
    (one.data_dir / "packages").symlink_to(packages)
    try:
        yield one.start()
    finally:
        one.stop()


def _starts(packages: Path, stack: Stack, name: str, era: str) -> tuple[Direct, Path, Path]:
    """The same installed package, started by hand in a folder of its own, and both folders."""
    there, here = stack.folder / "direct" / era / name, stack.folder / "caged" / name
    for folder in (there, here):
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder)
    return Direct(packages / name, REAL[name], there, era), there, here


def _compare(ask: Ask, server: Direct, name: str, there: Path, here: Path) -> None:
    for method in LISTS:
        assert ask(method, {}) == server.ask(method, {}), method
    assert ask("tools/list", {})["result"]["tools"], "it has tools"
    calls = zip(REAL[name].calls(there), REAL[name].calls(here), strict=True)
    for number, ((tool, direct), (_, caged)) in enumerate(calls):
        wanted = server.ask("tools/call", {"name": tool, "arguments": direct})
        found = ask("tools/call", {"name": tool, "arguments": caged})
        assert _without(found, here) == _without(wanted, there), tool
        assert number or not wanted["result"].get("isError"), "the first call of each succeeds"


def _outcome(value: dict[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in ("result", "error") if key in value}


@pytest.mark.parametrize("name", REAL)
def test_a_real_server_answers_from_the_cage_as_it_does_directly(
    packages: Path, stack: Stack, name: str
) -> None:
    direct, there, here = _starts(packages, stack, name, LEGACY)
    with direct as server:
        session = stack.session(name)
        _compare(
            lambda method, params: _outcome(stack.legacy(name, session, method, params).json),
            server,
            name,
            there,
            here,
        )
        assert stack.ask(name, verb="DELETE", Mcp_Session_Id=session).status == 200


@pytest.mark.parametrize("name", [name for name, real in REAL.items() if real.is_modern])
def test_a_real_server_does_so_in_the_new_era_too(packages: Path, stack: Stack, name: str) -> None:
    direct, there, here = _starts(packages, stack, name, MODERN)
    with direct as server:
        _compare(
            lambda method, params: _outcome(stack.modern(name, method, params).json),
            server,
            name,
            there,
            here,
        )


def _without(value: Any, folder: Path) -> Any:
    """The value with the folder's name taken out of all texts, as the two folders differ in nothing else."""
    if isinstance(value, dict):
        return {key: _without(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, folder) for one in value]
    return value.replace(str(folder), "FOLDER") if isinstance(value, str) else value
