"""``doorward servers``: the settings file changes in one place only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doorward.base.errors import OperatorError
from doorward.cli import servers

TEXT = """# the company's gateway
[gateway]
data_dir = "./data"  # beside this file

[servers.files]
command = ["/bin/cat"]  # kept
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "doorward.toml"
    path.write_text(TEXT)
    return path


def test_a_table_is_added_and_taken_out_and_comments_stay(config: Path) -> None:
    servers._write_table(config, "time", "pypi:mcp-server-time==1", ["mcp-server-time"])
    text = config.read_text()
    assert text.startswith(TEXT)
    assert '[servers.time]\npackage = "pypi:mcp-server-time==1"' in text
    servers._write_table(config, "time", "pypi:mcp-server-time==2", ["mcp-server-time"])
    assert config.read_text().count("[servers.time]") == 1
    servers.remove("time", config=config)
    assert config.read_text().rstrip() == TEXT.rstrip()


def test_an_unknown_server_is_named_with_the_known_ones(config: Path) -> None:
    with pytest.raises(OperatorError, match="files"):
        servers.remove("tiem", config=config)
    assert config.read_text() == TEXT


@pytest.mark.parametrize("name", ["mcp", "Time", "1x", "a" * 25, "../x", "a b", "oauth"])
def test_names_that_a_path_or_an_endpoint_would_take_are_refused(config: Path, name: str) -> None:
    with pytest.raises(OperatorError):
        servers.add("pypi:mcp-server-time==1", name=name, config=config)
    assert config.read_text() == TEXT


def test_the_list_is_one_document(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers._write_table(config, "time", "pypi:mcp-server-time==1", ["mcp-server-time"])
    assert servers.list_servers(config=config, as_json=True) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["time"]["installed"] is False
    assert rows["files"]["kind"] == "stdio"
    assert servers.list_servers(config=config) == 0
    assert "NOT INSTALLED" in capsys.readouterr().out
