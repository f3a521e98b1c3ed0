"""What the documents say is what the code does: generated pages are current, examples run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).resolve().parents[2]
SOURCE = HOME / "src" / "doorward"
PAGES = [HOME / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((HOME / "docs").rglob("*.md"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"make_{name}", HOME / "docs" / f"make_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its tuples look themselves up there
    spec.loader.exec_module(module)
    return module


def page_name(path: Path) -> str:
    return str(path.relative_to(HOME))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize(
    ("name", "function", "page"),
    [
        ("errors", "render", "reference/errors.md"),
        ("reference", "controls_page", "reference/controls.md"),
        ("reference", "cli_page", "reference/cli.md"),
        ("threats", "render", "threat-model.md"),
        ("detection", "render", "reference/detection.md"),
    ],
)
def test_a_page_that_is_written_from_the_code_is_current(name, function, page):
    text = getattr(script(name), function)()
    assert (HOME / "docs" / page).read_text(encoding="utf-8") == text, "run `make format`"


def test_every_error_code_of_the_source_is_in_the_reference():
    # Found by reading the text, not by the script's own way of following calls.
    page = (HOME / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    pattern = re.compile(
        r'(?:CallerError|UpstreamError|OperatorError|StoreError|TamperError)\(\s*"([a-z][a-z0-9-]*[a-z0-9])"'
    )
    for path in sorted(SOURCE.rglob("*.py")):
        for code in pattern.findall(path.read_text(encoding="utf-8")):
            assert f"| `{code}` |" in page, f"{path.relative_to(SOURCE)}: {code}"


def test_codes_that_go_through_a_maker_are_in_the_reference():
    page = (HOME / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    for code in (
        "message-batch",
        "json-duplicate",
        "settings-floor",
        "settings-unknown-key",
        "upstream-status",
    ):
        assert f"| `{code}` |" in page


def test_every_json_rpc_code_is_in_the_reference():
    from doorward.protocol import codes

    page = (HOME / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    for name, number in vars(codes).items():
        if isinstance(number, int):
            assert f"| {number} |" in page, name


def test_every_line_of_the_order_has_its_reason():
    module = script("reference")
    names = module.lists_of_order()
    assert len(names) >= 9
    assert all(module.reasons().get(name) for name in names)


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_a_page_names_nothing_outside_of_the_project(path):
    text = path.read_text(encoding="utf-8")
    for word in ("../shared", "DESIGN" + ".md"):
        assert word not in text


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_leads_to_a_file_that_is_there(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        found = path.parent / place if place else path
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_settings_in_a_page_are_ones_that_doorward_takes(path, tmp_path):
    from doorward.settings import load

    for number, text in enumerate(blocks(path, "toml")):
        folder = tmp_path / str(number)
        folder.mkdir()
        for reference in re.findall(r'file = "([^"]+)"', text):
            (folder / reference).write_text("secret\n")
            (folder / reference).chmod(0o600)
        tomllib.loads(text)
        (folder / "doorward.toml").write_text(text)
        assert load(folder / "doorward.toml").settings.servers is not None


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_policies_in_a_page_are_cedar(path):
    from doorward.policy.engine import PolicyEngine

    for text in blocks(path, "cedar"):
        PolicyEngine({}, {page_name(path): text}, ("time", "notes")).warm()


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_in_a_page_exist_with_their_options(path):
    from doorward.cli.main import COMMANDS

    cli = (HOME / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for text in blocks(path, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|[ (/])doorward ((?!-)[^|);&]*)", line)
            if found is None or line.lstrip().startswith("#"):
                continue
            words = shlex.split(found[1], comments=True)
            assert words[0] in COMMANDS, line
            options = [word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2]
            for option in options[: words.index("--command") if "--command" in words else None]:
                assert option in cli, line


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_verbs_of_make_in_a_page_exist(path):
    verbs = set(
        re.findall(r"^([a-z][a-z-]*):", (HOME / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for verb in re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")):
        assert verb in verbs, verb
