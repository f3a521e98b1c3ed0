"""The list of labs: complete, true to the controls, and cheap to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from doorward.base.errors import OperatorError
from doorward.controls.catalogue import CATALOGUE
from doorward.range import labs
from doorward.range.index import CELLS, LABS, LabRow, find, labs_of, load_lab
from doorward.range.stage import era_of
from doorward.settings import SLUGS

ids = [row.lab for row in LABS]


@pytest.mark.parametrize("row", LABS, ids=ids)
def test_a_lab_names_controls_and_catalogue_ids_that_exist(row: LabRow) -> None:
    assert set(row.controls) <= set(SLUGS)
    assert set(row.catalogue) <= set(CATALOGUE)
    assert row.owasp
    assert row.references


@pytest.mark.parametrize("row", LABS, ids=ids)
def test_a_lab_opens_and_closes_exactly_the_controls_that_it_proves(row: LabRow) -> None:
    lab = load_lab(row)
    assert lab.name == row.lab
    tables = {f"controls.{slug}" for slug in row.controls}
    assert set(lab.vulnerable) == set(lab.fixed) == tables
    assert all(table == {"mode": "off"} for table in lab.vulnerable.values())
    assert all(table == {"mode": "enforce"} for table in lab.fixed.values())


@pytest.mark.parametrize("row", LABS, ids=ids)
def test_a_labs_eras_are_those_of_the_clients_in_its_cells(row: LabRow) -> None:
    assert set(row.eras) == {era_of(cell) for cell in row.cells}
    assert set(row.cells) <= set(CELLS)


def test_every_lab_file_is_listed_and_every_listed_lab_has_its_file() -> None:
    folder = Path(labs.__file__).parent
    assert sorted(path.stem.upper() for path in folder.glob("l*.py")) == sorted(ids)


def test_a_control_knows_its_labs() -> None:
    assert labs_of("check-token") == ["L01"]
    assert labs_of("keep-cage") == []


def test_a_lab_is_found_in_any_case_and_an_unknown_one_tells_the_known_ones() -> None:
    assert find("l22") is find("L22")
    with pytest.raises(OperatorError) as caught:
        find("L99")
    assert caught.value.code == "range-unknown-lab"
    assert all(name in caught.value.tell for name in ids)


def test_reading_the_list_loads_nothing_that_runs_labs() -> None:
    code = "import sys, doorward.range.index; print([m for m in ('asyncio', 'httptools', 'doorward.settings') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
