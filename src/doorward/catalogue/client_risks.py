"""What is dangerous about the way in which a client starts or reaches a server."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from doorward.catalogue.client_configs import Entry

Severity = Literal["low", "medium", "high", "critical"]
_SHELLS = frozenset(
    {"sh", "bash", "zsh", "dash", "fish", "ksh", "cmd", "cmd.exe", "powershell", "pwsh", "powershell.exe"}
)
_CODE_FLAGS: dict[str, frozenset[str]] = {
    "python": frozenset({"-c"}), "node": frozenset({"-e", "--eval", "-p", "--print"}), "deno": frozenset({"eval"}),
    "perl": frozenset({"-e", "-E"}), "ruby": frozenset({"-e"}), "bun": frozenset({"-e", "--eval"}), "php": frozenset({"-r"}),
}  # fmt: skip
_NPM_RUNNERS = frozenset({"npx", "bunx", "pnpx"})
_PYPI_RUNNERS = frozenset({"uvx", "pipx", "uv"})
_TAKES_VALUE = frozenset({"--from", "--with", "--python", "-p", "--package", "--index-url", "--directory"})
_EXACT_NPM = re.compile(r"(@[^/@\s]+/)?[^/@\s]+@\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?")
_EXACT_PYPI = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[^\]]*\])?(?:==|@)\d[0-9A-Za-z.+!-]*")
_SECRET_NAME = re.compile(
    r"(?i)(?:token|secret|passw|api_?-?key|apikey|private_?key|credential|authorization|_pat$|_key$|^pat$)"
)
_SECRET_VALUE = re.compile(
    r"(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_-]{10,}|AKIA[A-Z0-9]{12,}|eyJ[A-Za-z0-9_-]{10,}\."
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY|(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}|://[^/\s:@]+:[^/\s@]{3,}@"
)
_REFERENCE = re.compile(r"\$\{[^}]+\}|\$[A-Za-z_][A-Za-z0-9_]*|%[A-Za-z_][A-Za-z0-9_]*%|\{env:[^}]+\}")
_DANGEROUS = re.compile(
    r"\bsudo\b|\bdoas\b|\brm\s+-[a-z]*[rf]|\b(?:curl|wget)\b[^|;&]*[|;&]|base64\s+(?:-d|--decode)|/dev/tcp/|\bnc\s+-|(?<![-\w])eval\b"
    r"|chmod\s+[0-7]*7[0-7]*\b|--privileged|docker\.sock|\bmkfs\b|\bdd\s+if=|Invoke-Expression|\biex\b|DownloadString"
)
_LOADER_VARIABLES = frozenset(
    {"LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "NODE_OPTIONS", "PYTHONSTARTUP", "PYTHONPATH", "BASH_ENV",
     "ENV", "PATH", "PERL5OPT", "RUBYOPT", "GIT_SSH_COMMAND"}
)  # fmt: skip
_PADDING = re.compile(r"\s{24,}")
_LONG_CHARS = 1_024


class Risk(msgspec.Struct, frozen=True):
    """One finding. ``where`` is a word such as ``args[2]`` or ``env.TOKEN``; the message never holds a value."""

    rule: str
    severity: Severity
    where: str
    message: str


def is_secret(name: str, value: str) -> bool:
    """Whether a variable or header holds a secret in plain text rather than a reference to one."""
    if not value or _REFERENCE.fullmatch(value.removeprefix("Bearer ").strip()):
        return False
    return bool(_SECRET_VALUE.search(value)) or (len(value) >= 6 and bool(_SECRET_NAME.search(name)))


def risks_of(entry: Entry, home: str = "") -> list[Risk]:
    """All findings about one server, most severe first. ``home`` is the user's home folder."""
    found = [*_of_words(entry, home), *_of_values(entry), *_of_url(entry)]
    order = ("critical", "high", "medium", "low")
    return sorted(found, key=lambda one: order.index(one.severity))


def runner_of(words: tuple[str, ...]) -> str:
    """The package runner that fetches the server at each start, or "" when it is none."""
    name = _program(words)
    return name if name in _NPM_RUNNERS | _PYPI_RUNNERS else ""


def _program(words: tuple[str, ...]) -> str:
    return words[0].replace("\\", "/").rpartition("/")[2].lower() if words else ""


def _of_words(entry: Entry, home: str) -> list[Risk]:
    words, found = entry.command, []
    program = _program(words)
    if program in _SHELLS:
        found.append(
            Risk("shell", "high", "command", "A shell is started: what runs is a text that it interprets.")
        )
    for language, flags in _CODE_FLAGS.items():
        if program.startswith(language) and flags & {*words[1:]}:
            found.append(Risk("inline-code", "high", "args", "The program's code stands in the arguments."))
    if (package := _unpinned(program, words[1:])) is not None:
        found.append(
            Risk("unpinned-runner", "high", "args", f"The newest {package} is fetched and run at each start.")
        )
    if program in ("docker", "podman") and not any("@sha256:" in word for word in words):
        found.append(
            Risk("unpinned-runner", "medium", "args", "The container image is not named by its digest.")
        )
    for index, word in enumerate(words):
        where = "command" if index == 0 else f"args[{index - 1}]"
        found += _of_text(where, word)
        if index and is_secret("", word):
            found.append(
                Risk(
                    "plain-secret",
                    "high",
                    where,
                    "A secret stands in the arguments, where every process can read it.",
                )
            )
        if index and home and word.rstrip("/") in (home.rstrip("/"), "", "~", "$HOME", "${HOME}") and word:
            found.append(
                Risk(
                    "home-exposed",
                    "high",
                    where,
                    "The whole home folder, or the whole disk, is given to the server.",
                )
            )
    joined = " ".join(words)
    if _DANGEROUS.search(joined):
        found.append(
            Risk(
                "dangerous-command",
                "critical",
                "args",
                "The command does what no server needs: look at it closely.",
            )
        )
    return found


def _unpinned(program: str, arguments: tuple[str, ...]) -> str | None:
    """The package that a runner fetches without an exact version; None where there is none."""
    if program not in _NPM_RUNNERS | _PYPI_RUNNERS:
        return None
    exact = _EXACT_NPM if program in _NPM_RUNNERS else _EXACT_PYPI
    given = list(arguments)
    if program in ("pipx", "uv") and given[:1] != ["run"] and given[:2] != ["tool", "run"]:
        return None
    given = [word for word in given if word not in ("run", "tool")] if program in ("pipx", "uv") else given
    skip = False
    for place, word in enumerate(given):
        if skip:
            skip = False
            continue
        if word in ("--from", "--package", "-p") and place + 1 < len(given):
            return None if exact.fullmatch(given[place + 1]) else _shown(given[place + 1])
        if word.startswith("-"):
            skip = word in _TAKES_VALUE
            continue
        if program == "uv" and (word.endswith(".py") or "/" in word):
            return None  # a script of one's own
        return None if exact.fullmatch(word) else _shown(word)
    return None


def _shown(word: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in word)[:80]


def _of_text(where: str, text: str) -> list[Risk]:
    found = []
    if any(not char.isprintable() for char in text):
        found.append(
            Risk(
                "hidden-characters",
                "critical",
                where,
                "It holds characters that do not show, or turn the text around.",
            )
        )
    if _PADDING.search(text) or len(text) > _LONG_CHARS:
        found.append(
            Risk(
                "padding",
                "high",
                where,
                "It is padded or very long: something may hide beyond the edge of a dialog.",
            )
        )
    return found


def _of_values(entry: Entry) -> list[Risk]:
    found = []
    for name, value in entry.env.items():
        where = f"env.{name}"
        found += _of_text(where, value)
        if is_secret(name, value):
            found.append(Risk("plain-secret", "medium", where, "A secret stands in plain text in the file."))
        if name.upper() in _LOADER_VARIABLES:
            found.append(
                Risk(
                    "loader-variable",
                    "high",
                    where,
                    "It changes which code the server, or its interpreter, loads.",
                )
            )
    for name, value in entry.headers.items():
        if is_secret(name, value):
            found.append(
                Risk(
                    "plain-secret", "medium", f"headers.{name}", "A secret stands in plain text in the file."
                )
            )
    return found


def _of_url(entry: Entry) -> list[Risk]:
    if not entry.url:
        return []
    found = _of_text("url", entry.url)
    try:
        parts = urlsplit(entry.url)
        host = parts.hostname or ""
    except ValueError:
        return [*found, Risk("url-invalid", "high", "url", "It is no URL.")]
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        found.append(
            Risk("plain-http", "high", "url", "What is said, tokens included, can be read on the way.")
        )
    if parts.username or parts.password or is_secret("", entry.url):
        found.append(Risk("plain-secret", "high", "url", "A secret stands in the address."))
    return found
