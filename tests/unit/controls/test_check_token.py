from __future__ import annotations

from typing import Any

import pytest

from doorward.base.clock import FakeClock
from doorward.controls.check_token import CheckToken
from doorward.controls.control import Head, Refuse
from doorward.identity.keys import KeySet
from doorward.identity.principal import LOCAL
from doorward.identity.tokens import TokenJudge, issue

PUBLIC = "http://127.0.0.1:8808"
KEYS = KeySet.generate()
CLOCK = FakeClock()
METADATA = f'resource_metadata="{PUBLIC}/.well-known/oauth-protected-resource/time/mcp", scope="mcp"'


def head(
    authorization: str | None = None, *, server: str | None = "time", repeated: bool = False, query: str = ""
) -> Head:
    fields = {} if authorization is None else {"authorization": authorization}
    found = Head(
        verb="POST",
        path="/time/mcp",
        query=query,
        fields=fields,
        repeated=frozenset(["authorization"] if repeated else []),
    )
    found.server = server
    found.resource = f"{PUBLIC}/time/mcp"
    return found


def token(**changes: Any) -> str:
    options: dict[str, Any] = {"resource": f"{PUBLIC}/time/mcp", "roles": ("user",)} | changes
    return "Bearer " + issue(KEYS, issuer=PUBLIC, subject="alice", client="cli", clock=CLOCK, **options)


JUDGE = TokenJudge(KEYS.jwks(), PUBLIC, CLOCK, users={"alice": ("user",)})
CONTROL = CheckToken(JUDGE, PUBLIC)


def refused(one: Head) -> Refuse:
    verdict = CONTROL.head(one)
    assert isinstance(verdict, Refuse)
    assert one.principal is None
    return verdict


def test_a_good_token_names_the_principal_and_when_the_verdict_ends() -> None:
    one = head(token())
    assert CONTROL.head(one) is None
    assert one.principal is not None
    assert one.principal.subject == "alice"
    assert one.expires_at == one.principal.expires_at


def test_an_earlier_end_of_the_verdict_stays() -> None:
    one = head(token())
    one.expires_at = 5.0
    assert CONTROL.head(one) is None
    assert one.expires_at == 5.0


def test_no_token_is_401_with_a_challenge_that_names_no_error() -> None:
    verdict = refused(head())
    assert verdict.status == 401
    assert verdict.headers == (("WWW-Authenticate", f"Bearer {METADATA}"),)


def test_a_token_for_another_server_is_401_invalid_token() -> None:
    verdict = refused(head(token(resource=f"{PUBLIC}/tickets/mcp")))
    assert verdict.status == 401
    assert verdict.headers[0][1].startswith('Bearer error="invalid_token", error_description="')
    assert verdict.headers[0][1].endswith(METADATA)


@pytest.mark.parametrize("scopes", [(), ("mcp:read",), ("MCP",), ("mcpx", "x")])
def test_a_token_without_the_scope_is_403_with_all_scopes(scopes: tuple[str, ...]) -> None:
    verdict = refused(head(token(scopes=scopes)))
    assert verdict.status == 403
    assert 'error="insufficient_scope"' in verdict.headers[0][1]
    assert verdict.headers[0][1].endswith(METADATA)


def test_further_scopes_do_no_harm() -> None:
    assert CONTROL.head(head(token(scopes=("other", "mcp")))) is None


def test_two_authorization_headers_are_400_even_when_both_are_good() -> None:
    good = token()
    verdict = refused(head(f"{good}, {good}", repeated=True))
    assert verdict.status == 400
    assert 'error="invalid_request"' in verdict.headers[0][1]


def test_a_malformed_header_is_400() -> None:
    assert refused(head("Bearer a b")).status == 400


def test_a_token_in_the_query_is_not_looked_at() -> None:
    assert refused(head(query="access_token=" + token()[7:])).status == 401


def test_a_refused_head_loses_the_principal_that_it_had() -> None:
    one = head(token())
    assert CONTROL.head(one) is None
    JUDGE.renew(revoked={one.principal.token_id if one.principal else ""}, users={"alice": ("user",)})
    try:
        refused(one)
    finally:
        JUDGE.renew(revoked=(), users={"alice": ("user",)})


def test_a_token_that_is_early_is_judged_again_later() -> None:
    early = FakeClock(CLOCK.at + 100)
    text = "Bearer " + issue(
        KEYS, issuer=PUBLIC, subject="alice", client="cli", clock=early, resource=f"{PUBLIC}/time/mcp"
    )
    one = head(text)
    refused(one)
    assert one.expires_at == CLOCK.at + 95


def test_paths_that_are_no_mcp_endpoint_need_no_token() -> None:
    assert CONTROL.head(head(server=None)) is None


def test_with_identity_off_every_caller_is_local() -> None:
    one = head()
    assert CheckToken(None, PUBLIC).head(one) is None
    assert one.principal is LOCAL


def test_a_refusal_never_repeats_the_token() -> None:
    text = token(resource=f"{PUBLIC}/tickets/mcp")
    verdict = refused(head(text))
    assert text[7:] not in repr(verdict)


def test_a_caller_is_found_again_without_being_judged_anew_and_only_while_the_token_holds() -> None:
    clock = FakeClock(CLOCK.at)
    judge = TokenJudge(KEYS.jwks(), PUBLIC, clock, users={"alice": ("user",)})
    control = CheckToken(judge, PUBLIC)
    value = token()
    first, second, elsewhere, later, earlier = (head(value) for _ in range(5))
    assert control.head(first) is None
    assert control.head(second) is None
    assert second.principal is first.principal
    elsewhere.resource = f"{PUBLIC}/other/mcp"
    assert isinstance(control.head(elsewhere), Refuse)
    judge.renew(revoked=(), users={"alice": ("reader",)})
    assert control.head(second) is None
    assert second.principal is not None
    assert second.principal.roles == ()
    clock.advance(-100_000)
    assert isinstance(control.head(earlier), Refuse)
    clock.advance(200_000)
    assert isinstance(control.head(later), Refuse)
    assert first.principal is not None
    judge.renew(revoked=(first.principal.token_id,), users={"alice": ("user",)})
    clock.advance(-100_000)
    assert isinstance(control.head(second), Refuse)
