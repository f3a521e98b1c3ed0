"""A token that is bound to a key or a certificate is good only in the hands of who has it (RFC 9449, RFC 8705)."""

from __future__ import annotations

import hmac
from typing import ClassVar

from doorward.controls.control import Answer, Control, Head, ProofMark, Refuse
from doorward.identity import metadata
from doorward.identity.binding import Confirmation
from doorward.identity.proof import (
    ALGORITHMS,
    NONCE_FRESH_SECONDS,
    NonceSeal,
    Proof,
    ProofJudge,
    ProofRefusal,
)

_ALGS = " ".join(ALGORITHMS)
_HELP = "Send Authorization: DPoP TOKEN with a fresh proof for this method and URL, made with the token's own key."
_TELL = {
    "invalid_dpop_proof": "The proof of possession is not valid for this request.",
    "use_dpop_nonce": "The proof of possession needs the nonce of this answer.",
    "invalid_token": "This access token is bound to what this request does not show.",
}


class BindToken(Control):
    """Ask for what a bound token is bound to; a stolen one alone opens nothing.

    A key is proven anew for each request, with a proof that counts once over all workers; a certificate by the connection
    that the request came on. Fails: refuses with 401, with 503 where it cannot be known whether a proof was used.
    """

    slug: ClassVar[str] = "bind-token"
    partly: ClassVar[tuple[str, ...]] = ("S1.4",)
    floor: ClassVar[bool] = True

    def __init__(self, judge: ProofJudge, nonces: NonceSeal, public_url: str) -> None:
        self._judge = judge
        self._nonces = nonces
        self._public_url = public_url

    def head(self, head: Head) -> Answer:
        who = head.principal
        if who is None or head.server is None:
            return None
        scheme, _, token = head.fields.get("authorization", "").strip(" \t").partition(" ")
        proves = scheme.lower() == "dpop"
        bound = who.bound
        if bound.certificate:
            refusal = self._check_certificate(head, bound)
            if refusal is not None:
                return refusal
        if bound.key:
            if not proves:
                return self._refuse(head, "invalid_token", "bound to a key, and presented as a bearer token")
            return self._check_proof(head, token.strip(" "), bound.key)
        if proves:
            return self._refuse(head, "invalid_token", "presented with a proof, and bound to no key")
        return None

    def _check_certificate(self, head: Head, bound: Confirmation) -> Refuse | None:
        shown = head.certificate
        if shown is None:
            return self._refuse(
                head, "invalid_token", "bound to a certificate, and the connection has none", "Bearer"
            )
        if not hmac.compare_digest(shown.thumbprint, bound.certificate):
            return self._refuse(
                head, "invalid_token", "bound to another certificate than the connection's", "Bearer"
            )
        # The handshake has seen that it was in force; the front comes back here when it is not any more.
        head.expires_at = min(head.expires_at, shown.expires_at) if head.expires_at else shown.expires_at
        return None

    def _check_proof(self, head: Head, token: str, key: str) -> Refuse | None:
        text = head.fields.get("dpop")
        if text is None:
            head.answer_fields = self._nonce_field()
            return self._refuse(head, "invalid_dpop_proof", "no proof")
        if "dpop" in head.repeated:
            return self._refuse(head, "invalid_dpop_proof", "more than one proof")
        found = self._judge.judge(text.strip(" \t"), verb=head.verb, url=head.resource, token=token, key=key)
        if isinstance(found, ProofRefusal):
            if found.error == "use_dpop_nonce":
                head.answer_fields = self._nonce_field()
            return self._refuse(head, found.error, f"proof: {found.reason}")
        head.expires_at = min(head.expires_at, found.expires_at) if head.expires_at else found.expires_at
        self._mark(head, found)
        return None

    def _mark(self, head: Head, proof: Proof) -> None:
        """Let the front see to it that the proof counts once."""
        if proof.expires_at - proof.nonce_at > NONCE_FRESH_SECONDS * 2:
            head.answer_fields = self._nonce_field()
        head.proof = ProofMark(
            key=proof.key,
            digest=proof.digest,
            expires_at=proof.expires_at,
            used=self._refuse(head, "invalid_dpop_proof", "proof: used before"),
            unknown=Refuse(
                reason="it cannot be known whether a proof was used",
                tell="Proofs of possession cannot be checked at the moment.",
                status=503,
                help="Try again with a fresh proof.",
                headers=(("Retry-After", "1"),),
            ),
        )

    def _nonce_field(self) -> bytes:
        return f"DPoP-Nonce: {self._nonces.current()}\r\n".encode("ascii")

    def _refuse(self, head: Head, error: str, reason: str, scheme: str = "DPoP") -> Refuse:
        tell = _TELL[error]
        told = metadata.challenge(
            self._public_url,
            metadata.endpoint_path(head.server or ""),
            error=error,
            description=tell,
            scheme=scheme,
            algs=_ALGS if scheme == "DPoP" else None,
        )
        return Refuse(reason=reason, tell=tell, status=401, help=_HELP, headers=(("WWW-Authenticate", told),))
