"""The table of what gateways get wrong most often is whole: twenty-five rows, each with tests that exist."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.attacks.most_wrong import MOST_WRONG

TESTS = Path(__file__).resolve().parents[1]
OWN = "attacks/test_most_wrong.py"


def functions(path: str) -> dict[str, str]:
    """The test functions of a file and their docstrings."""
    tree = ast.parse((TESTS / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {one.name: ast.get_docstring(one) or "" for one in tree.body if isinstance(one, kinds)}


def test_every_row_has_tests_that_exist() -> None:
    assert [row.number for row in MOST_WRONG] == list(range(1, 26))
    for row in MOST_WRONG:
        assert row.wrong and row.tests, row
        for name in row.tests:
            path, _, test = name.rpartition("::")
            assert test in functions(path or OWN), f"row {row.number} names {name}, which does not exist"


def test_every_test_belongs_to_the_row_that_its_name_and_its_words_say() -> None:
    listed = {name: row.number for row in MOST_WRONG for name in row.tests if "::" not in name}
    found = {name: words for name, words in functions(OWN).items() if name.startswith("test_")}
    assert found.keys() == listed.keys()
    for name, number in listed.items():
        assert name.startswith(f"test_{number:02}_") and found[name].startswith(f"{number}: "), name
