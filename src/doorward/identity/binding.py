"""To what a token is bound: a key that its holder proves with each request (RFC 9449), or a certificate (RFC 8705)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_DIGEST = re.compile(
    r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII
)  # base64url of 32 bytes, in its one spelling


class Confirmation(msgspec.Struct, frozen=True):
    """What ``cnf`` of a token asks of whoever presents it; both where both are set."""

    key: str = ""  # jkt: the RFC 7638 thumbprint of the key that signs proofs
    certificate: str = ""  # x5t#S256: the SHA-256 of the client's certificate


FREE = Confirmation()  # a bearer token
_MEMBERS = {"jkt": "key", "x5t#S256": "certificate"}


def read_confirmation(claims: Mapping[str, Any]) -> Confirmation | None:
    """What the claims of a token bind it to; None for a binding that is not understood, which must be refused.

    SECURITY: a member that is left out because nobody knows it would turn a bound token into a bearer token.
    """
    if "cnf" not in claims:
        return FREE
    given = claims["cnf"]
    if not isinstance(given, dict) or not given or not set(given) <= set(_MEMBERS):
        return None
    if not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in given.values()):
        return None
    return Confirmation(**{_MEMBERS[name]: value for name, value in given.items()})


def written(bound: Confirmation) -> dict[str, str]:
    """The ``cnf`` of a token that is bound so; empty for a bearer token."""
    return {name: getattr(bound, field) for name, field in _MEMBERS.items() if getattr(bound, field)}
