"""Public keys of other issuers, from their JWK sets: only what can verify, and only with what it is for (RFC 7517, RFC 8725)."""

from __future__ import annotations

import base64
import functools
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

KEYS_COUNT = 64  # of one set
KEY_SET_BYTES = 262_144
_RSA_BITS = (2_048, 8_192)  # weaker is broken, larger costs whoever checks
_CURVES = {"P-256": "ES256", "P-384": "ES384", "Ed25519": "EdDSA"}
_RSA_ALGORITHMS = ("RS256", "PS256")
_SPELLINGS = {"Ed25519": "EdDSA"}  # RFC 9864
_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}

VerifyingKeys = dict[tuple[str, str], Any]  # (kid, algorithm) -> key


def algorithm_of(name: object) -> str:
    """The one name that we use for an ``alg``; "" for what is no text."""
    return _SPELLINGS.get(name, name) if isinstance(name, str) else ""


def foreign_keys(jwks: Mapping[str, Any], algorithms: Collection[str]) -> VerifyingKeys:
    """The keys of a set by kid and algorithm.

    Left out: symmetric and private keys, keys for encryption, keys of unusual sizes, and two keys of one name.
    """
    found: VerifyingKeys = {}
    doubled: set[tuple[str, str]] = set()
    keys = jwks.get("keys")
    for key in keys[:KEYS_COUNT] if isinstance(keys, list) else ():
        kid = key.get("kid") if isinstance(key, dict) else None
        if not isinstance(kid, str) or not kid:
            continue
        for algorithm in _algorithms_of(key):
            if algorithm not in algorithms:
                continue
            made = _make(msgspec.json.encode({name: key[name] for name in ("kty", *_MEMBERS[key["kty"]])}))
            if made is None:
                continue
            if (kid, algorithm) in found:
                doubled.add((kid, algorithm))
            found[kid, algorithm] = made
    # SECURITY: which of two keys a name means must not depend on the order of a list.
    return {name: key for name, key in found.items() if name not in doubled}


def holds(key: Any, algorithm: str, signed: bytes, signature: bytes) -> bool:
    """Check one signature with the algorithm that the key is for."""
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        return bool(jws.JWSRegistry.algorithms[algorithm].verify(signed, signature, key))
    except (JoseError, ValueError):
        return False


def _algorithms_of(key: Mapping[str, Any]) -> tuple[str, ...]:
    """What a key may verify: what its kind can do, narrowed by what it says of itself."""
    members = _MEMBERS.get(str(key.get("kty")))
    if (
        members is None
        or not all(isinstance(key.get(name), str) for name in members)
        or "d" in key
        or "k" in key
    ):
        return ()
    operations = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return ()
    able = _RSA_ALGORITHMS if key["kty"] == "RSA" else (_CURVES.get(key["crv"], ""),)
    if key["kty"] != "RSA" and (able == ("EdDSA",)) is not (key["kty"] == "OKP"):
        return ()
    said = algorithm_of(key["alg"]) if "alg" in key else None
    return tuple(one for one in able if one and said in (None, one))


@functools.lru_cache(maxsize=256)
def _make(members: bytes) -> Any:
    """The key itself, or None; cached, because every snapshot reads the same sets again."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    value = msgspec.json.decode(members)
    kinds: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    try:
        if value["kty"] == "RSA" and not _is_usual(_number(value["n"]), _number(value["e"])):
            return None
        key = kinds[value["kty"]].import_key(value)
        key.get_op_key("verify")
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    return key


def _is_usual(modulus: int, exponent: int) -> bool:
    """Whether an RSA key is neither weak nor made to cost us time."""
    fits = _RSA_BITS[0] <= modulus.bit_length() <= _RSA_BITS[1] and modulus % 2 == 1
    return fits and 65_537 <= exponent < 2**32 and exponent % 2 == 1


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
