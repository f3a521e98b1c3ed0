"""The keys that sign access tokens, and the public document that others verify with (RFC 7517, RFC 7518 §3.4,
RFC 7638).

One algorithm, ES256. The current key signs; retired keys only verify, until the last token that they signed
is over.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Collection

    from joserfc.jwk import ECKey

ALGORITHM = "ES256"
RETIRED_KEYS_COUNT = 8  # more retired keys than this are forgotten, oldest first
_PUBLIC_MEMBERS = ("kty", "crv", "x", "y")


class SigningKey:
    """A private P-256 key. It never prints itself; only ``stored`` lets the private part out."""

    __slots__ = ("_key", "kid")

    def __init__(self, key: ECKey) -> None:
        self._key = key
        self.kid = key.thumbprint()  # RFC 7638: the name follows from the key, so two keys never share one

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a fresh key."""
        from joserfc.jwk import ECKey

        return cls(ECKey.generate_key("P-256", private=True))

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> SigningKey:
        """Read back what ``stored`` gave.

        Raises:
            OperatorError: ``key-file-broken`` when it is no private P-256 key.
        """
        from joserfc.errors import JoseError
        from joserfc.jwk import ECKey

        try:
            if stored["kty"] != "EC" or stored["crv"] != "P-256" or not stored["d"]:
                raise ValueError("not a private P-256 key")
            members: dict[str, str | list[str]] = {
                name: str(stored[name]) for name in (*_PUBLIC_MEMBERS, "d")
            }
            key = ECKey.import_key(members)
            key.as_dict(private=True)
            return cls(key)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise _broken(type(error).__name__) from error

    def stored(self) -> dict[str, Any]:
        """The private JWK, for the key file only."""
        return {name: str(value) for name, value in self._key.as_dict(private=True).items() if name != "kid"}

    def public(self) -> dict[str, str]:
        """The public JWK with ``kid``, ``use`` and ``alg`` (RFC 7517 §4)."""
        members = self._key.as_dict(private=False)
        return {name: str(members[name]) for name in _PUBLIC_MEMBERS} | {
            "kid": self.kid,
            "use": "sig",
            "alg": ALGORITHM,
        }

    def sign(self, header: dict[str, Any], payload: bytes) -> str:
        """A JWS in compact form (RFC 7515 §7.1); ``alg`` and ``kid`` are set here."""
        from joserfc import jws

        return jws.serialize_compact(
            {**header, "alg": ALGORITHM, "kid": self.kid}, payload, self._key, [ALGORITHM]
        )

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"


class KeySet:
    """The key that signs now and the public halves of those that signed before."""

    __slots__ = ("current", "retired")

    def __init__(self, current: SigningKey, retired: tuple[dict[str, str], ...] = ()) -> None:
        self.current = current
        self.retired = retired

    @classmethod
    def generate(cls) -> KeySet:
        """A set of one fresh key."""
        return cls(SigningKey.generate())

    def rotated(self) -> KeySet:
        """A new set that signs with a fresh key and still verifies with the old ones."""
        return KeySet(SigningKey.generate(), (self.current.public(), *self.retired)[:RETIRED_KEYS_COUNT])

    def without(self, kids: Collection[str]) -> KeySet:
        """The same set without these retired keys: what they signed verifies no more."""
        return KeySet(self.current, tuple(key for key in self.retired if key.get("kid") not in kids))

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public JWK set (RFC 7517 §5), current key first."""
        return {"keys": [self.current.public(), *self.retired]}

    def to_bytes(self) -> bytes:
        """The key file's content; private."""
        return msgspec.json.encode({"current": self.current.stored(), "retired": self.retired})

    @classmethod
    def from_bytes(cls, content: bytes) -> KeySet:
        """Read a key file.

        Raises:
            OperatorError: ``key-file-broken``.
        """
        try:
            value = msgspec.json.decode(content, type=_StoredKeys)
        except msgspec.MsgspecError as error:
            raise _broken(type(error).__name__) from error
        return cls(SigningKey.from_stored(value.current), tuple(value.retired))


class _StoredKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current: dict[str, Any]
    retired: list[dict[str, str]] = []


def _broken(cause: str) -> OperatorError:
    return OperatorError(
        "key-file-broken", "The token signing key cannot be read; restore the key file from a backup.", cause
    )


@functools.lru_cache(maxsize=64)
def _verifier(x: str, y: str) -> ECKey:
    from joserfc.jwk import ECKey

    return ECKey.import_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})


def verifying_keys(jwks: dict[str, Any]) -> dict[str, ECKey]:
    """The keys of a JWK set by ``kid``. Anything but a named public P-256 signature key is left out:
    symmetric keys above all, with which a public document would become a signing key (RFC 8725 §3.1-3.2)."""
    from joserfc.errors import JoseError

    found: dict[str, ECKey] = {}
    for key in jwks.get("keys", ()):
        fits = key.get("kty") == "EC" and key.get("crv") == "P-256" and key.get("alg", ALGORITHM) == ALGORITHM
        if not fits or key.get("use", "sig") != "sig" or not key.get("kid"):
            continue
        try:
            found[key["kid"]] = _verifier(key["x"], key["y"])
        except (JoseError, ValueError, KeyError):
            continue
    return found
