"""The command line: one document with --json, plain errors, and exit codes that scripts can trust."""

from __future__ import annotations

import importlib
import json
import socket
import threading
from pathlib import Path

import pytest

from doorward.adapters.admin_client import SOCKET_NAME, AdminClient
from doorward.base.errors import OperatorError, StoreError, TamperError
from doorward.cli.main import COMMANDS, exit_code_of, run

SETTINGS = '[servers.time]\ncommand = ["python3"]\n[servers.web]\nurl = "http://127.0.0.1:9/mcp"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "doorward.toml"
    path.write_text(SETTINGS)
    return path


@pytest.mark.parametrize("noun", COMMANDS)
def test_every_command_of_the_table_exists(noun):
    module, _, name = COMMANDS[noun][0].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_check_finds_nothing_wrong(file, capsys):
    assert run(["--config", str(file), "check"]) == 0
    assert "is fine" in capsys.readouterr().out


def test_check_json_is_one_document(file, capsys):
    assert run(["check", "--explain", "--json", "--config", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {"key", "value", "source", "sentence"} <= set(document["settings"][0])


def test_a_wrong_setting_is_exit_2_and_named_on_stderr(file, capsys):
    file.write_text("[gateway]\nlisen = 1\n")
    assert run(["check", "--config", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "error [settings-unknown-key]" in said.err
    assert "line 2" in said.err


def test_with_json_an_error_is_the_one_document(file, capsys):
    file.write_text("x = 1\n")
    assert run(["check", "--json", "--config", str(file)]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "settings-unknown-key"


@pytest.mark.parametrize("words", [["nonsense"], ["check", "--nonsense"], ["completion", "ksh"]])
def test_wrong_usage_is_exit_2(words, capsys):
    assert run(words) == 2
    assert "error [usage]" in capsys.readouterr().err


def test_exit_codes_follow_who_must_act():
    assert exit_code_of(OperatorError("settings-invalid", "")) == 2
    assert exit_code_of(OperatorError("admin-not-running", "")) == 3
    assert exit_code_of(StoreError("ledger", "")) == 3
    assert exit_code_of(TamperError("proof", "")) == 1


def test_controls_are_listed_in_order_without_a_settings_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert run(["controls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = [
        "slug",
        "kind",
        "covers",
        "hooks",
        "order",
        "mode",
        "source",
        "since",
        "floor",
        "state",
        "labs",
        "last_event",
    ]
    assert all(set(keys) <= set(row) for row in rows)
    assert [row["order"] for row in rows] == sorted(row["order"] for row in rows)
    assert {row["state"] for row in rows} == {"unknown"}


def test_the_catalogue_has_87_rows(capsys):
    assert run(["controls", "--catalogue", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 87


def test_routes_name_each_endpoint_and_its_resource(file, capsys):
    assert run(["routes", "--json", "--config", str(file)]) == 0
    rows = {row["path"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["/time/mcp"]["resource"] == "http://127.0.0.1:8808/time/mcp"
    assert rows["/web/mcp"]["upstream"] == "http"
    assert "/readyz" in rows


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell, capsys):
    assert run(["completion", shell]) == 0
    assert "doorward" in capsys.readouterr().out


def test_doctor_says_what_is_wrong_with_the_settings(file, capsys):
    file.write_text("[gateway]\nlisen = 1\n")
    assert run(["doctor", "--json", "--config", str(file)]) == 2
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["settings"]["state"] == "fail"
    assert "gateway.lisen" in lines["settings"]["what"]


def test_doctor_says_which_port_is_taken(file, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file.write_text(f"[gateway]\nlisten = '127.0.0.1:{port}'\n")
        assert run(["doctor", "--json", "--config", str(file)]) == 3
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["gateway.listen"]["state"] == "fail"


def serve_once(folder: Path, answer: bytes) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / SOCKET_NAME))
    listener.listen()
    listener.settimeout(5)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.settimeout(5)
            heard = b""
            while b"\r\n\r\n" not in heard or (heard.startswith(b"POST") and not heard.endswith(b"}")):
                heard += connection.recv(
                    65536
                )  # all of it: closing with unread bytes would reset the connection
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_the_admin_client_reads_the_running_doorward(tmp_path):
    thread = serve_once(tmp_path, http("200 OK", '[{"slug":"check-head"}]'))
    assert AdminClient(tmp_path).get("/api/v1/controls") == [{"slug": "check-head"}]
    thread.join(5)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http("409 Conflict", '{"error":{"code":"server-unknown","tell":"No."}}'), "server-unknown"),
        (http("500 Oops", ""), "admin-refused"),
        (http("200 OK", "<html>"), "admin-answer"),
        (b"SSH-2.0\r\n\r\n", "admin-answer"),
    ],
)
def test_a_strange_answer_of_the_admin_socket_is_a_clear_error(tmp_path, answer, code):
    thread = serve_once(tmp_path, answer)
    with pytest.raises(OperatorError) as caught:
        AdminClient(tmp_path).post("/api/v1/kill", {})
    assert caught.value.code == code
    thread.join(5)


def test_without_a_running_doorward_the_client_says_what_to_do(tmp_path):
    with pytest.raises(OperatorError, match="admin-not-running") as caught:
        AdminClient(tmp_path).get("/")
    assert "doorward serve" in caught.value.tell
