"""``doorward range``: what it lists and how it ends; the labs themselves run in tests/attacks/test_range.py."""

from __future__ import annotations

import msgspec

from doorward.cli.main import run
from doorward.cli.range import exit_code_of
from doorward.range.signing import write_signed


def test_the_list_is_one_json_document(capsys):
    assert run(["range", "list", "--json"]) == 0
    rows = msgspec.json.decode(capsys.readouterr().out)
    assert [row["lab"] for row in rows] == ["L01", "L09", "L17", "L19", "L21", "L22", "L23", "L25", "L34"]
    assert all(row["cells"] for row in rows)
    assert {row["lab"] for row in rows if row["eras"] == ["legacy"]} == {"L19"}


def test_the_list_for_people_names_labs_and_controls(capsys):
    assert run(["range", "list"]) == 0
    shown = capsys.readouterr().out
    assert "L22" in shown
    assert "check-head" in shown


def test_an_unknown_lab_is_wrong_usage_and_names_the_known_ones(capsys):
    assert run(["range", "run", "L01", "L99", "--json"]) == 2
    said = capsys.readouterr()
    assert msgspec.json.decode(said.out)["error"]["code"] == "range-unknown-lab"
    assert "L01, L09, L17, L19, L21, L22, L23, L25, L34" in said.err


def test_nothing_run_proves_nothing():
    assert exit_code_of([]) == 1


def test_controls_name_the_labs_that_prove_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert run(["controls", "--json"]) == 0
    labs = {row["slug"]: row["labs"] for row in msgspec.json.decode(capsys.readouterr().out)}
    assert labs["check-origin"] == ["L23"]
    assert labs["keep-ledger"] == []


def test_a_signed_file_is_checked_with_the_installations_own_key(capsys, tmp_path):
    config, results = tmp_path / "doorward.toml", tmp_path / "results.json"
    config.write_text('[gateway]\ndata_dir = "./data"\n')
    write_signed(results, [], tmp_path / "data")
    words = ["range", "verify", str(results), "--config", str(config)]
    assert run([*words, "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["says"][0] == "0 of 0 as expected"
    results.write_text("[{}]")
    assert run(words) == 1
    assert "not the one that was signed" in capsys.readouterr().err
