"""A client that proves possession of a key (RFC 9449), written from the RFC with plain cryptography, and able to lie."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Holder:
    """One key and the proofs made with it. Members set to None are left out."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.algorithm = algorithm
        self._ec: ec.EllipticCurvePrivateKey | None = None
        self._ed: ed25519.Ed25519PrivateKey | None = None
        if algorithm in ("EdDSA", "Ed25519"):
            self._ed = ed25519.Ed25519PrivateKey.generate()
            self.jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(self._ed.public_key().public_bytes_raw())}
        else:
            curve: ec.EllipticCurve = ec.SECP384R1() if algorithm == "ES384" else ec.SECP256R1()
            self._size = 48 if algorithm == "ES384" else 32
            self._ec = ec.generate_private_key(curve)
            numbers = self._ec.public_key().public_numbers()
            self.jwk = {
                "kty": "EC",
                "crv": "P-384" if algorithm == "ES384" else "P-256",
                "x": b64(numbers.x.to_bytes(self._size, "big")),
                "y": b64(numbers.y.to_bytes(self._size, "big")),
            }

    @property
    def jkt(self) -> str:
        """RFC 7638."""
        text = json.dumps(self.jwk, sort_keys=True, separators=(",", ":"))
        return b64(hashlib.sha256(text.encode()).digest())

    @property
    def private(self) -> str:
        """The private member of the JWK."""
        assert self._ec is not None
        return b64(self._ec.private_numbers().private_value.to_bytes(self._size, "big"))

    def sign(self, data: bytes) -> bytes:
        if self._ed is not None:
            return self._ed.sign(data)
        assert self._ec is not None
        digest = hashes.SHA384() if self._size == 48 else hashes.SHA256()
        r, s = decode_dss_signature(self._ec.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(self._size, "big") + s.to_bytes(self._size, "big")

    def jws(self, header: Any, claims: Any) -> str:
        """Sign; bytes are taken as they are."""
        parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in (header, claims)]
        text = f"{b64(parts[0])}.{b64(parts[1])}"
        return f"{text}.{b64(self.sign(text.encode()))}"

    def header(self, **changes: Any) -> dict[str, Any]:
        given = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk, **changes}
        return {name: value for name, value in given.items() if value is not None}

    def claims(self, url: str, token: str | None, *, verb: str = "POST", **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": verb,
            "htu": url,
            "iat": int(time.time()),
            "ath": None if token is None else b64(hashlib.sha256(token.encode()).digest()),
            **changes,
        }
        return {name: value for name, value in given.items() if value is not None}

    def proof(self, url: str, token: str | None, **changes: Any) -> str:
        """A good proof, but for the changes."""
        return self.jws(self.header(), self.claims(url, token, **changes))
