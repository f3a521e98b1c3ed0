"""Settings of a lab: merged, written, read back, compared."""

from __future__ import annotations

import os
import tomllib

import msgspec

from doorward.range.gate import difference, lab_environment, merge, write_toml
from doorward.settings import ControlSettings, Settings


def test_later_tables_win_key_by_key() -> None:
    assert merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": {}}) == {"a": {"x": 1, "y": 3}, "b": {}}


def test_tables_are_written_as_toml() -> None:
    tables = {
        "gateway": {"listen": '127.0.0.1:"\\', "workers": 2, "hosts": ["a"]},
        "controls.check-head": {"mode": "off"},
    }
    read = tomllib.loads(write_toml(tables))
    assert read == {"gateway": tables["gateway"], "controls": {"check-head": {"mode": "off"}}}


def test_only_what_differs_is_named() -> None:
    off = Settings(controls={"check-head": ControlSettings(mode="off")})
    on = msgspec.structs.replace(off, controls={"check-head": ControlSettings(mode="enforce")})
    assert difference(off, on) == [{"key": "controls.check-head.mode", "before": "off", "after": "enforce"}]
    assert difference(on, on) == []


def test_the_environment_is_as_before_afterwards(monkeypatch) -> None:
    monkeypatch.delenv("DOORWARD_LAB", raising=False)
    with lab_environment():
        assert os.environ["DOORWARD_LAB"] == "1"
    assert "DOORWARD_LAB" not in os.environ
