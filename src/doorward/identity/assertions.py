"""JWTs that others signed for us: a client's proof of itself and an identity provider's ID token (RFC 7523, RFC 8725).

The algorithms are a fixed list of asymmetric ones, the key comes from the set that the caller hands in, and nothing that
the token says (``jku``, ``x5u``, ``jwk``) is ever followed.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from doorward.base.errors import CallerError
from doorward.protocol.json_door import parse_json

ALGORITHMS = ("ES256", "ES384", "PS256", "RS256", "EdDSA")
JWT_CHARS = 16_384
KEYS_COUNT = 32  # of one set that are looked at
_KINDS = {"EC": ("ES256", "ES384"), "RSA": ("PS256", "RS256"), "OKP": ("EdDSA",)}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "EdDSA": "Ed25519"}
_REFUSED_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk"})
_RSA_CHARS = 341  # of a modulus of 2,048 bits in base64url


class BadAssertion(Exception):  # noqa: N818 - a verdict on what somebody sent
    """A JWT that does not hold; the text is for the record and holds nothing of the token."""


def peek(token: str) -> dict[str, Any]:
    """What a JWT says, unproven; {} when it says nothing readable."""
    parts = token.split(".")
    return _object(parts[1]) or {} if len(parts) == 3 and len(token) <= JWT_CHARS else {}


def verified(
    token: str,
    jwks: Mapping[str, Any],
    *,
    types: tuple[str, ...] = ("", "jwt"),
    algorithms: tuple[str, ...] = ALGORITHMS,
) -> dict[str, Any]:
    """The claims of a JWT that a key of the set signed. Raises: BadAssertion."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > JWT_CHARS or not token.isascii():
        raise BadAssertion("not a signed JWT")
    header, claims = _object(parts[0]), _object(parts[1])
    if header is None or claims is None:
        raise BadAssertion("header or claims are not one strict JSON object")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "")
    if algorithm not in algorithms or algorithm not in ALGORITHMS:
        raise BadAssertion("algorithm not allowed")
    if not _REFUSED_HEADERS.isdisjoint(header):
        raise BadAssertion("header member not allowed")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in types:
        raise BadAssertion("another type of token")
    if kid is not None and not isinstance(kid, str):
        raise BadAssertion("kid is no text")
    keys = _fitting(jwks, str(algorithm), kid)
    if not keys:
        raise BadAssertion("signed with an unknown key")
    if not any(_holds(token, str(algorithm), key) for key in keys):
        raise BadAssertion("signature does not hold")
    return claims


def check_times(claims: Mapping[str, Any], now: float, *, longest: float, skew: float = 30.0) -> float:
    """See that claims are in time, with a bounded life; gives ``exp``. Raises: BadAssertion."""
    expires_at, issued_at, not_before = (moment(claims.get(name)) for name in ("exp", "iat", "nbf"))
    if expires_at is None:
        raise BadAssertion("exp is missing")
    if now >= expires_at + skew:
        raise BadAssertion("expired")
    if "iat" in claims and (issued_at is None or issued_at > now + skew):
        raise BadAssertion("issued in the future")
    if "nbf" in claims and (not_before is None or not_before > now + skew):
        raise BadAssertion("not valid yet")
    if expires_at > (now if issued_at is None else issued_at) + longest:
        raise BadAssertion("lives too long")
    return expires_at


def audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """For whom a token is."""
    found = claims.get("aud")
    listed = found if isinstance(found, list) else [found]
    return tuple(one for one in listed if isinstance(one, str))


def moment(value: object) -> float | None:
    """A NumericDate (RFC 7519 §2)."""
    if value is None or isinstance(value, (bool, str, bytes, list, dict)):
        return None
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _object(segment: str) -> dict[str, Any] | None:
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != segment:
            return None
        value = parse_json(decoded)
    except (ValueError, CallerError):
        return None
    return value if isinstance(value, dict) else None


def _fitting(jwks: Mapping[str, Any], algorithm: str, kid: str | None) -> list[dict[str, Any]]:
    """The public keys of the set that may have signed: their kind fits, and their name where the token names one."""
    found: list[dict[str, Any]] = []
    listed = jwks.get("keys")
    for key in listed[:KEYS_COUNT] if isinstance(listed, list) else ():
        if not isinstance(key, dict) or algorithm not in _KINDS.get(str(key.get("kty")), ()):
            continue
        if key.get("alg", algorithm) != algorithm or key.get("use", "sig") != "sig":
            continue
        if algorithm in _CURVES and key.get("crv") != _CURVES[algorithm]:
            continue
        if kid is None or key.get("kid") == kid:
            found.append(key)
    return found if kid is not None or len(found) == 1 else []


def _holds(token: str, algorithm: str, key: dict[str, Any]) -> bool:
    from joserfc import jws
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    makers: dict[str, Any] = {"EC": ECKey, "RSA": RSAKey, "OKP": OKPKey}
    public = {
        name: key[name] for name in ("kty", "crv", "x", "y", "n", "e") if isinstance(key.get(name), str)
    }
    try:
        if public["kty"] == "RSA" and not _RSA_CHARS <= len(public["n"]) <= 4 * _RSA_CHARS:
            return False  # too small to trust, or so large that looking costs
        made = makers[public["kty"]].import_key(public)
        jws.deserialize_compact(token, made, algorithms=[algorithm])
    except (JoseError, ValueError, KeyError, TypeError):
        return False
    return True
