"""Another issuer's hand: keys of every kind, and tokens in any shape."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

ISSUER = "https://idp.test"
RESOURCE = "https://gateway.test/time/mcp"
NOW = 1_800_000_000
HOUR = 3_600


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Hand:
    """One signing key."""

    def __init__(self, algorithm: str = "ES256", kid: str = "k1", **more: Any) -> None:
        self.algorithm = algorithm
        self.kid = kid
        kinds = {
            "ES256": lambda: ECKey.generate_key("P-256", private=True),
            "ES384": lambda: ECKey.generate_key("P-384", private=True),
            "RS256": lambda: RSAKey.generate_key(2048, private=True),
            "PS256": lambda: RSAKey.generate_key(2048, private=True),
            "EdDSA": lambda: OKPKey.generate_key("Ed25519", private=True),
        }
        self.key: Any = kinds[algorithm]()
        self.more = more

    def public(self) -> dict[str, Any]:
        members = self.key.as_dict(private=False)
        return {**members, "kid": self.kid, "use": "sig", "alg": self.algorithm, **self.more}

    def private(self) -> dict[str, Any]:
        return {**self.key.as_dict(private=True), "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def jwks(self, *others: Hand) -> dict[str, Any]:
        return {"keys": [one.public() for one in (self, *others)]}

    def sign(self, header: dict[str, Any], payload: bytes) -> str:
        start = f"{b64(msgspec.json.encode(header))}.{b64(payload)}"
        return f"{start}.{b64(jws.JWSRegistry.algorithms[self.algorithm].sign(start.encode(), self.key))}"

    def token(self, header: dict[str, Any] | None = None, now: float = NOW, **changes: Any) -> str:
        """A good token of RFC 9068, changed; ``...`` leaves a member out."""
        members = {"alg": self.algorithm, "typ": "at+jwt", "kid": self.kid} | (header or {})
        claims = claims_at(now) | changes
        return self.sign(
            {name: value for name, value in members.items() if value is not ...},
            msgspec.json.encode({name: value for name, value in claims.items() if value is not ...}),
        )


def claims_at(now: float) -> dict[str, Any]:
    start = int(now)
    return {
        "iss": ISSUER, "sub": "alice", "aud": RESOURCE, "client_id": "cli", "jti": "t-1", "iat": start, "exp": start + HOUR,
        "scope": "mcp other", "roles": ["user"],
    }  # fmt: skip
