from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward.identity.principal import Principal, subject_of

NAMES = st.text(alphabet='a|%7C\x00\x01,"', max_size=4)
PRINCIPALS = st.builds(
    Principal,
    tenant=NAMES,
    issuer=NAMES,
    subject=NAMES,
    client=NAMES,
    roles=st.lists(NAMES, max_size=3).map(tuple),
    scopes=st.lists(NAMES, max_size=3).map(tuple),
)


def identity(one: Principal) -> tuple[str, ...]:
    return (one.tenant, one.issuer, one.subject, one.client)


@given(PRINCIPALS, PRINCIPALS)
def test_the_key_is_injective(one: Principal, other: Principal) -> None:
    assert (one.key == other.key) == (identity(one) == identity(other))


@given(PRINCIPALS, PRINCIPALS)
def test_the_digest_tells_apart_whatever_policy_may_read(one: Principal, other: Principal) -> None:
    same = (identity(one), one.roles, one.scopes) == (identity(other), other.roles, other.scopes)
    assert (one.attributes_digest() == other.attributes_digest()) == same


def test_the_digest_ignores_the_token_and_its_expiry() -> None:
    first = Principal("t", "i", "s", "c", ("a", "b"), ("x",), "j1", 1.0)
    again = Principal("t", "i", "s", "c", ("a", "b"), ("x",), "j2", 2.0)
    glued = Principal("t", "i", "s", "c", ("a\x00b",), ("x",))
    assert first.attributes_digest() == again.attributes_digest() != glued.attributes_digest()


@given(st.text(), st.text(), st.text(), st.text())
def test_the_subject_is_found_in_the_key(tenant: str, issuer: str, subject: str, client: str) -> None:
    assert subject_of(Principal(tenant, issuer, subject, client).key) == subject


def test_what_is_no_key_stands_for_itself() -> None:
    assert subject_of("os:0") == "os:0"
