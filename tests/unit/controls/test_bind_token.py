from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.stand_ins.proofs import Holder

from doorward.base.clock import FakeClock
from doorward.controls.bind_token import BindToken
from doorward.controls.control import Certificate, Head, Refuse
from doorward.identity.binding import Confirmation
from doorward.identity.principal import LOCAL, Principal
from doorward.identity.proof import NonceSeal, ProofJudge

PUBLIC = "https://gate.example"
URL = f"{PUBLIC}/time/mcp"
CLOCK = FakeClock()
NONCES = NonceSeal(b"k" * 32, CLOCK)
CONTROL = BindToken(ProofJudge(NONCES, CLOCK, since=0.0), NONCES, PUBLIC)
HOLDER = Holder()
ALICE = Principal("default", PUBLIC, "alice", "cli")
KEYED = msgspec.structs.replace(ALICE, bound=Confirmation(key=HOLDER.jkt))
CERTIFIED = msgspec.structs.replace(ALICE, bound=Confirmation(certificate="c" * 43))
SHOWN = Certificate("c" * 43, CLOCK.now() + 100)


def head(
    principal: Principal | None,
    authorization: str = "Bearer t",
    proof: str | None = None,
    *,
    certificate: Certificate | None = None,
    verb: str = "POST",
    repeated: tuple[str, ...] = (),
) -> Head:
    fields = {"authorization": authorization} | ({} if proof is None else {"dpop": proof})
    made = Head(verb=verb, path="/time/mcp", query="", fields=fields, repeated=frozenset(repeated))
    made.server, made.resource, made.principal, made.certificate = "time", URL, principal, certificate
    return made


def proof(**changes: Any) -> str:
    return HOLDER.proof(URL, "t", **{"iat": int(CLOCK.now()), "nonce": NONCES.current(), **changes})


def test_free_tokens_and_paths_that_are_no_endpoints_pass() -> None:
    for one in (head(ALICE), head(LOCAL), head(None), head(ALICE, certificate=SHOWN)):
        assert CONTROL.head(one) is None
        assert one.proof is None and one.answer_fields == b""


def test_a_proven_key_passes_and_the_front_is_told_to_use_the_proof_up() -> None:
    one = head(KEYED, "DPoP t", proof())
    assert CONTROL.head(one) is None
    assert one.proof is not None
    assert one.proof.key == HOLDER.jkt
    assert 0 < one.expires_at <= CLOCK.now() + 60
    assert one.proof.used.status == 401 and one.proof.unknown.status == 503


@pytest.mark.parametrize(
    ("one", "error", "scheme"),
    [
        (lambda: head(KEYED, "Bearer t"), "invalid_token", "DPoP"),
        (lambda: head(KEYED, "Bearer t", proof()), "invalid_token", "DPoP"),
        (lambda: head(KEYED, "DPoP t"), "invalid_dpop_proof", "DPoP"),
        (lambda: head(KEYED, "DPoP t", proof() + ", " + proof(), repeated=("dpop",)), "invalid_dpop_proof", "DPoP"),
        (lambda: head(KEYED, "DPoP t", proof(), verb="GET"), "invalid_dpop_proof", "DPoP"),
        (lambda: head(KEYED, "DPoP other", proof()), "invalid_dpop_proof", "DPoP"),
        (lambda: head(KEYED, "DPoP t", proof(nonce=None)), "use_dpop_nonce", "DPoP"),
        (lambda: head(ALICE, "DPoP t", proof()), "invalid_token", "DPoP"),
        (lambda: head(CERTIFIED), "invalid_token", "Bearer"),
        (lambda: head(CERTIFIED, certificate=Certificate("d" * 43, 9e9)), "invalid_token", "Bearer"),
    ],
)  # fmt: skip
def test_what_is_not_shown_is_401_with_the_right_challenge(one: Any, error: str, scheme: str) -> None:
    asked = one()
    verdict = CONTROL.head(asked)
    assert isinstance(verdict, Refuse)
    assert verdict.status == 401
    name, value = verdict.headers[0]
    assert name == "WWW-Authenticate" and value.startswith(f'{scheme} error="{error}"')
    assert ('algs="ES256 ES384 EdDSA Ed25519"' in value) is (scheme == "DPoP")
    assert "resource_metadata=" in value
    assert (b"DPoP-Nonce: " in asked.answer_fields) is (error == "use_dpop_nonce" or asked.fields.get("dpop") is None
                                                        and error == "invalid_dpop_proof")  # fmt: skip
    assert asked.proof is None


def test_a_certificate_passes_until_it_runs_out() -> None:
    one = head(CERTIFIED, certificate=SHOWN)
    assert CONTROL.head(one) is None
    assert one.expires_at == SHOWN.expires_at


def test_who_is_bound_to_both_shows_both() -> None:
    both = msgspec.structs.replace(ALICE, bound=Confirmation(HOLDER.jkt, "c" * 43))
    assert CONTROL.head(head(both, "DPoP t", proof(), certificate=SHOWN)) is None
    assert isinstance(CONTROL.head(head(both, "DPoP t", proof())), Refuse)
    assert isinstance(CONTROL.head(head(both, certificate=SHOWN)), Refuse)


def test_a_nonce_that_ages_is_replaced_in_a_good_answer() -> None:
    nonce = NONCES.current()
    CLOCK.advance(90)
    one = head(KEYED, "DPoP t", proof(nonce=nonce))
    assert CONTROL.head(one) is None
    assert one.answer_fields.startswith(b"DPoP-Nonce: ") and nonce.encode() not in one.answer_fields
