"""What a cage may be asked to show, and what it never shows (ST-11; T-44)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from doorward.adapters import cage as cages
from doorward.adapters.cage import Cage, explain_failure
from doorward.adapters.executables import find_program
from doorward.base.errors import OperatorError
from doorward.catalogue.server import FileGrant, ServerSpec
from doorward.controls.keep_cage import KeepCage

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cage needs Linux")


def spec_of(*command: str, **more: object) -> ServerSpec:
    return ServerSpec(name="s", command=command, **more)  # type: ignore[arg-type]


def run(cage: Cage, spec: ServerSpec) -> subprocess.CompletedProcess[str]:
    launch = cage.launch(spec, {})
    return subprocess.run(
        launch.argv,
        env=launch.env,
        cwd=launch.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data" / "keys").mkdir(parents=True)
    (tmp_path / "data" / "keys" / "signing").write_text("sentinel")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    return tmp_path


def test_exactly_what_the_command_names_is_shown(place: Path) -> None:
    cage = Cage(place / "data", place)
    done = run(cage, spec_of("/bin/sh", "-c", f"cat notes/a.txt; ls {place}", "notes", "./notes"))
    assert done.stdout == "hellonotes\n", done.stderr


def test_a_folder_around_the_data_folder_is_shown_without_it(place: Path) -> None:
    done = run(
        Cage(place / "data", place), spec_of("/bin/sh", "-c", f"ls -A {place}/data; ls {place}", str(place))
    )
    assert done.stdout == "data\nnotes\n", done.stderr


@pytest.mark.parametrize("named", ["/", "~", "~/..", "data", "data/keys", "data/keys/signing"])
def test_home_and_data_folder_cannot_be_named(place: Path, named: str) -> None:
    with pytest.raises(OperatorError) as caught:
        Cage(place / "data", place).launch(spec_of("/bin/cat", os.path.expanduser(named)), {})
    assert caught.value.code == "cage-too-wide"
    with pytest.raises(OperatorError):
        Cage(place / "data", place).launch(spec_of("/bin/cat", files=(FileGrant(named, write=True),)), {})


def test_a_link_into_the_data_folder_is_refused(place: Path) -> None:
    (place / "innocent").symlink_to(place / "data" / "keys")
    with pytest.raises(OperatorError):
        Cage(place / "data", place).launch(spec_of("/bin/cat", "innocent"), {})


def test_grants_are_readable_or_writable_as_they_say(place: Path) -> None:
    (place / "out").mkdir()
    grants = (FileGrant("notes"), FileGrant("out", write=True))
    done = run(
        Cage(place / "data", place),
        spec_of("/bin/sh", "-c", "cp notes/a.txt out/b; touch notes/c", files=grants),
    )
    assert done.returncode != 0
    assert (place / "out" / "b").read_text() == "hello"
    assert not (place / "notes" / "c").exists()


def test_no_secret_stands_in_an_argument_list(place: Path) -> None:
    launch = Cage(place / "data", place).launch(spec_of("/bin/true"), {"TOKEN": "sentinel-value"})
    assert launch.env["TOKEN"] == "sentinel-value"
    assert not any("sentinel-value" in word for word in launch.argv)


def test_network_that_cannot_be_given_is_refused(place: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        Cage(place / "data", place).launch(spec_of("/bin/true", egress=("example.com:443",)), {})
    assert caught.value.code == "settings-not-available"


def test_without_linux_a_caged_start_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cages.sys, "platform", "darwin")
    with pytest.raises(OperatorError) as caught:
        Cage(place / "data", place).launch(spec_of("/bin/true"), {})
    assert caught.value.code == "cage-not-available"
    assert Cage(place / "data", place).probe()[0] == "failing"


def test_the_probe_starts_a_caged_program(place: Path) -> None:
    state, what = Cage(place / "data", place).probe()
    assert state == "ok", what


def test_a_forbidding_kernel_is_explained() -> None:
    text = explain_failure("bwrap: No permissions to create a new namespace\n")
    assert "No permissions" in text
    assert text.endswith(".")


def test_a_script_brings_its_interpreter(tmp_path: Path) -> None:
    prefix = tmp_path / "tool"
    (prefix / "bin").mkdir(parents=True)
    script = prefix / "bin" / "serve"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    program = find_program("tool/bin/serve", tmp_path)
    assert program.path == script
    assert prefix in program.needs
    assert Path(sys.prefix) in program.needs


def test_keep_cage_shows_servers_without_a_cage() -> None:
    caged, bare = spec_of("x"), ServerSpec(name="bare", command=("x",), sandbox="none")
    assert KeepCage().probe()[0] == "ok"
    assert KeepCage(lambda: ("failing", "why"), {"s": caged}).probe() == ("failing", "why")
    assert KeepCage(None, {"s": caged}).probe()[0] == "unknown"
    state, what = KeepCage(lambda: ("ok", ""), {"s": caged, "bare": bare}).probe()
    assert state == "failing"
    assert "bare" in what
