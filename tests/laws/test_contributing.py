"""What CONTRIBUTING.md and README.md tell people to do is what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
CONTRIBUTING = (HOME / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_example_control_passes_its_own_tests():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "examples/add_a_control",
    ]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b\d+ passed", done.stdout)


def test_the_guide_shows_the_example_control_as_it_is():
    shown = re.search(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
    assert shown
    code = (HOME / "examples" / "add_a_control" / "keep_hours.py").read_text(encoding="utf-8")
    assert shown[1].strip() in code


def test_adding_a_control_takes_five_steps():
    section = CONTRIBUTING.split("## Add a control in five steps")[1].split("\n## ")[0]
    assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == ["1", "2", "3", "4", "5"]


def test_links_inside_of_the_project_lead_somewhere():
    for page in [*HOME.glob("*.md"), *(HOME / "docs").rglob("*.md"), *(HOME / "examples").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_verb_that_the_pages_name_exists():
    verbs = set(
        re.findall(r"^([a-z][a-z-]*):", (HOME / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for page in (HOME / "README.md", HOME / "CONTRIBUTING.md"):
        for verb in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert verb in verbs, f"{page.name}: make {verb}"


def test_the_ci_runs_exactly_the_test_command_of_the_readme():
    steps = (HOME / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert steps[-1] == "exec make test"
    assert "`make test`" in (HOME / "README.md").read_text(encoding="utf-8")
