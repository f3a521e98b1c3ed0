"""Secrets that stand in settings where text is allowed: found by the form of the text or the name of its key, and refused.

What only may be a reference is refused elsewhere; this is for ``env``, ``command``, ``url`` and ``prefix``. Names the key, never the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from doorward.catalogue.server import ServerSpec

_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bglpat-[A-Za-z0-9_-]{18,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abeprs]-[A-Za-z0-9-]{10,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.|\bhvs\.[A-Za-z0-9_-]{20,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[A-Za-z0-9_-]{30,}"
)
_NAME = re.compile(
    r"(^|[_.-])(token|secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|client[_-]?secret|credentials?|pat)$",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"[0-9]{1,12}|true|false|on|off|yes|no|none|null|[~.]{0,2}/.*|[A-Za-z]:\\.*", re.IGNORECASE
)
_SHORT_CHARS = 8
_PREFIX_CHARS = 32


def literals_of(spec: ServerSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path below the server's table, what to do) of each text that is a secret itself."""
    for name, value in spec.env.items():
        if isinstance(value, str) and (has_form(value) or (_NAME.search(name) and is_value(value))):
            yield ("env", name), _ADVICE
    for index, word in enumerate(spec.command):
        name, mark, value = word.lstrip("-").partition("=")
        before = spec.command[index - 1] if index else ""
        named = (mark and _NAME.search(name) and is_value(value)) or (
            before.startswith("--") and not word.startswith("-") and _NAME.search(before) and is_value(word)
        )
        if has_form(word) or named:
            yield (
                ("command", index),
                "holds a secret, which every user of this machine could read; give it in env as a reference.",
            )
    for name, value in parse_qsl(urlsplit(spec.url).query) if spec.url else ():
        if has_form(value) or (_NAME.search(name) and is_value(value)):
            yield ("url",), "holds a secret in its query; use credentials."
    if len(spec.credentials.prefix) > _PREFIX_CHARS or has_form(spec.credentials.prefix):
        yield (
            ("credentials", "prefix"),
            "is only what stands before the secret; the secret is value, a reference.",
        )


_ADVICE = 'looks like a secret itself; write a reference such as { file = "PATH" }.'


def has_form(text: str) -> bool:
    """True for text that has the form of a known kind of secret."""
    return _FORMS.search(text) is not None


def is_value(text: str) -> bool:
    """True unless a text of a telling name is plainly no secret: short, a number, a switch or a path."""
    return len(text) >= _SHORT_CHARS and not _PLAIN.fullmatch(text)
