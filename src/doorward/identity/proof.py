"""Proofs of possession: a signed word that this very request comes from the holder of a key (RFC 9449, DPoP).

There is no I/O here, and nothing that a proof brings is fetched. A proof is judged as a function of its bytes, the request and the
time; that it is used once is for whoever keeps the marks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from doorward.base.clock import Clock
from doorward.base.errors import CallerError
from doorward.protocol.json_door import parse_json

PROOF_BYTES = 4_096  # ours have about 700
HEADER_BYTES = 1_024
JTI_CHARS = 128
AGE_SECONDS = 60.0  # for which a proof can be used
AHEAD_SECONDS = 5.0  # that the client's clock may lie ahead of ours
NONCE_SECONDS = 300.0  # for which a nonce of ours can be used
NONCE_FRESH_SECONDS = 60.0  # after which another one is given out

# alg -> (kty, crv, bytes of each coordinate). RSA is left out: whoever brings the key also chooses how long checking takes.
_ALGORITHMS = {
    "ES256": ("EC", "P-256", 32),
    "ES384": ("EC", "P-384", 48),
    "EdDSA": ("OKP", "Ed25519", 32),
    "Ed25519": ("OKP", "Ed25519", 32),
}
ALGORITHMS = tuple(_ALGORITHMS)
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_REFUSED_HEADERS = frozenset({"jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk"})
_KEY_MEMBERS = frozenset({"kty", "crv", "x", "y", "alg", "use", "kid", "key_ops"})  # none of them private
_NONCE_AAD = b"doorward proof nonce 1"


class Proof(msgspec.Struct, frozen=True):
    """A good proof. ``digest`` names it among all proofs of its key; it can be used until ``expires_at``."""

    key: str
    digest: str
    expires_at: float  # Unix seconds
    nonce_at: float  # when its nonce was given out; 0 without one


class ProofRefusal(msgspec.Struct, frozen=True):
    """Why a proof does not count. ``reason`` is for the record and holds nothing of the proof."""

    reason: str
    error: str = "invalid_dpop_proof"


class NonceSeal:
    """Nonces that the server gives out (RFC 9449 §8): sealed times, so that every worker knows all of them."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        """``key``: shared by all workers; what is sealed with it here opens nowhere else."""
        self._cipher = AESGCM(hashlib.sha256(_NONCE_AAD + key).digest())
        self._clock = clock
        self._current = ("", -math.inf)

    def current(self) -> str:
        """The nonce to give out now."""
        nonce, made_at = self._current
        now = self._clock.now()
        if not 0 <= now - made_at < NONCE_FRESH_SECONDS:
            salt = secrets.token_bytes(12)
            plain = int(now * 1_000).to_bytes(8, "big")
            sealed = self._cipher.encrypt(salt, plain, _NONCE_AAD)
            nonce = base64.urlsafe_b64encode(salt + sealed).rstrip(b"=").decode()
            self._current = (nonce, now)
        return nonce

    def opened(self, nonce: str) -> float | None:
        """When a nonce of ours was made (Unix seconds); None for anything else."""
        raw = _decoded(nonce) if len(nonce) <= 64 else None
        if raw is None or len(raw) != 36:
            return None
        try:
            plain = self._cipher.decrypt(raw[:12], raw[12:], _NONCE_AAD)
        except InvalidTag:
            return None
        return int.from_bytes(plain, "big") / 1_000


class ProofJudge:
    """Judges ``DPoP`` headers. Fails: whatever is not understood is refused."""

    def __init__(
        self, nonces: NonceSeal, clock: Clock, *, requires_nonce: bool = True, since: float = 0.0
    ) -> None:
        """``since``: from when on the marks of used proofs are known (Unix seconds); older ones could come twice."""
        self._nonces = nonces
        self._clock = clock
        self._requires_nonce = requires_nonce
        self._since = since
        self.signature_checks = 0  # how often the costly part ran

    def judge(self, text: str, *, verb: str, url: str, token: str | None, key: str) -> Proof | ProofRefusal:
        """Judge a proof for a request ``verb`` to ``url`` with the access token ``token``, bound to ``key``.

        ``token`` is None where none is presented yet (a token endpoint); ``key`` "" takes any key.
        """
        segments = text.split(".") if len(text) <= PROOF_BYTES else []
        if len(segments) != 3:
            return ProofRefusal("not a signed JWT")
        decoded = [_decoded(segment) for segment in segments]
        if decoded[0] is None or decoded[1] is None or decoded[2] is None:
            return ProofRefusal("not canonical base64url")
        found = _read_header(decoded[0])
        if isinstance(found, ProofRefusal):
            return found
        algorithm, jwk = found
        thumbprint = _thumbprint(jwk)
        # Before the signature: nobody can make us check those of keys that have nothing to do with the token.
        if key and not hmac.compare_digest(thumbprint, key):
            return ProofRefusal("made with another key than the token's")
        if not self._is_signed(text, algorithm, jwk):
            return ProofRefusal("signature does not hold")
        claims = _parse_object(decoded[1])
        if claims is None:
            return ProofRefusal("claims are not one strict JSON object")
        return self._judge_claims(claims, verb, url, token, thumbprint)

    def _is_signed(self, text: str, algorithm: str, jwk: dict[str, str]) -> bool:
        self.signature_checks += 1
        return _holds_ed25519(text, jwk["x"]) if jwk["kty"] == "OKP" else _holds_ecdsa(text, algorithm, jwk)

    def _judge_claims(
        self, claims: dict[str, Any], verb: str, url: str, token: str | None, thumbprint: str
    ) -> Proof | ProofRefusal:
        identity, issued_at = claims.get("jti"), _moment(claims.get("iat"))
        if not isinstance(identity, str) or not 0 < len(identity) <= JTI_CHARS:
            return ProofRefusal("jti is not one short text")
        if claims.get("htm") != verb:
            return ProofRefusal("made for another method")
        if not _is_same_url(claims.get("htu"), url):
            return ProofRefusal("made for another URL")
        if token is not None and not _is_digest_of(claims.get("ath"), token):
            return ProofRefusal("made for another access token")
        now = self._clock.now()
        if issued_at is None or issued_at > now + AHEAD_SECONDS:
            return ProofRefusal("iat is not a point in time that has come")
        if issued_at <= now - AGE_SECONDS:
            return ProofRefusal("too old")
        nonce_at = self._judge_nonce(claims.get("nonce"), issued_at, now)
        if isinstance(nonce_at, ProofRefusal):
            return nonce_at
        digest = hashlib.sha256(msgspec.json.encode([thumbprint, identity])).hexdigest()
        return Proof(thumbprint, digest, issued_at + AGE_SECONDS, nonce_at)

    def _judge_nonce(self, nonce: object, issued_at: float, now: float) -> float | ProofRefusal:
        if nonce is None:
            if self._requires_nonce:
                return ProofRefusal("no nonce", "use_dpop_nonce")
            # Made before we could have remembered that it was used: a fresh nonce shows that it was not.
            if issued_at <= self._since + AHEAD_SECONDS:
                return ProofRefusal("older than what is remembered", "use_dpop_nonce")
            return 0.0
        made_at = self._nonces.opened(nonce) if isinstance(nonce, str) else None
        if (
            made_at is None
            or not self._since <= made_at <= now + AHEAD_SECONDS
            or made_at <= now - NONCE_SECONDS
        ):
            return ProofRefusal("nonce is not one of ours, or too old", "use_dpop_nonce")
        return made_at


def _decoded(segment: str) -> bytes | None:
    if not _SEGMENT.fullmatch(segment):
        return None
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == segment else None


def _parse_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(text)
    except CallerError:
        return None
    return value if isinstance(value, dict) else None


def _read_header(text: bytes) -> tuple[str, dict[str, str]] | ProofRefusal:
    """The algorithm and the public key that it fits."""
    header = _parse_object(text) if len(text) <= HEADER_BYTES else None
    if header is None:
        return ProofRefusal("JOSE header is not one small strict JSON object")
    kind, algorithm = header.get("typ"), header.get("alg")
    if not isinstance(kind, str) or kind.lower() not in ("dpop+jwt", "application/dpop+jwt"):
        return ProofRefusal("not a DPoP proof")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        return ProofRefusal("algorithm not allowed")
    if not _REFUSED_HEADERS.isdisjoint(header):
        return ProofRefusal("JOSE header member not allowed")
    jwk = _public_key(header.get("jwk"), algorithm)
    return ProofRefusal("jwk is not a public key of the algorithm") if jwk is None else (algorithm, jwk)


def _public_key(given: object, algorithm: str) -> dict[str, str] | None:
    """The members that make the key, and nothing else of it. A private one is refused, not stripped (RFC 9449 §4.3)."""
    kind, curve, size = _ALGORITHMS[algorithm]
    if not isinstance(given, dict) or not set(given) <= _KEY_MEMBERS:
        return None
    if given.get("kty") != kind or given.get("crv") != curve or given.get("alg", algorithm) != algorithm:
        return None
    if given.get("use", "sig") != "sig" or ("y" in given) != (kind == "EC"):
        return None
    made = {"crv": curve, "kty": kind}
    for name in ("x", "y") if kind == "EC" else ("x",):
        raw = _decoded(given[name]) if isinstance(given.get(name), str) else None
        if raw is None or len(raw) != size:
            return None
        made[name] = given[name]
    return made


def _thumbprint(jwk: dict[str, str]) -> str:
    """RFC 7638 §3: the required members alone, in order."""
    text = msgspec.json.encode(dict(sorted(jwk.items())))
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()


def _holds_ecdsa(text: str, algorithm: str, jwk: dict[str, str]) -> bool:
    from joserfc import jws
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey

    members: dict[str, str | list[str]] = dict(jwk)
    try:
        jws.deserialize_compact(text, ECKey.import_key(members), algorithms=[algorithm])
    except (JoseError, ValueError, TypeError):
        return False
    return True


def _holds_ed25519(text: str, x: str) -> bool:
    """By hand: joserfc warns of the name EdDSA (RFC 9864), under which most clients still sign with this key."""
    signed, _, signature = text.rpartition(".")
    public, raw = _decoded(x), _decoded(signature)
    if public is None or raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw, signed.encode("ascii"))
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_digest_of(given: object, token: str) -> bool:
    wanted = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(given, wanted)


def _is_same_url(given: object, url: str) -> bool:
    """Equal to the letter, but for the case of scheme and host and a default port (RFC 9449 §4.3, RFC 3986 §6.2)."""
    if (
        not isinstance(given, str)
        or not given.isascii()
        or not given.isprintable()
        or len(given) > PROOF_BYTES
    ):
        return False
    return given == url or _normal(given) == _normal(url) is not None


def _normal(url: str) -> tuple[str, str, int, str] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").lower()
    if "?" in url or "#" in url or "@" in parts.netloc or not host:
        return None
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path


def _moment(value: object) -> float | None:
    """A NumericDate (RFC 7519 §2) as Unix seconds."""
    if value is None or isinstance(value, (bool, str, bytes, list, dict)):
        return None
    try:
        moment = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if math.isfinite(moment) and moment >= 0 else None
