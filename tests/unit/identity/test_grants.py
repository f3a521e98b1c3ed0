"""The machine behind the token endpoint, with a clock that is moved by hand: ends, races, and that no copy is ever worth anything."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from doorward.base.clock import FakeClock
from doorward.identity.browsers import Browsers, consent_key
from doorward.identity.clients import CODE, REFRESH, Client
from doorward.identity.grants import CODE_SECONDS, TOKENS_COUNT, Grants, Issued, Lifetimes, Who
from doorward.identity.keys import KeySet
from doorward.identity.oauth_forms import OAuthRefusal, read_form
from doorward.identity.requests import PAGE_SECONDS, Asked, Seal

KEYS = KeySet.generate()
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
RESOURCE = "https://gate.example/notes/mcp"
ASKED = Asked("desk", "1", "http://127.0.0.1/cb", RESOURCE, ("mcp",), CHALLENGE)
DESK = Client("desk", "Desk", "settings", redirect_uris=("http://127.0.0.1/cb",), version="1")


class Rows:
    """A store in memory with the same promises as the real one; ``before_replace`` lets somebody be faster."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], tuple[bytes, int, float]] = {}
        self.marks: dict[tuple[str, str], float] = {}
        self.before_replace: Any = None

    def _live(self, space: str, key: str, now: float) -> tuple[bytes, int, float] | None:
        found = self.rows.get((space, key))
        return found if found is not None and (found[2] == 0 or found[2] > now) else None

    def keep(self, space: str, key: str, value: bytes, *, expires_at: float = 0.0) -> None:
        before = self.rows.get((space, key))
        self.rows[space, key] = (value, before[1] + 1 if before else 1, expires_at)

    def replace(
        self, space: str, key: str, value: bytes, *, seen: int, now: float, expires_at: float = 0.0
    ) -> bool:
        hook, self.before_replace = self.before_replace, None
        if hook is not None:
            hook()
        found = self._live(space, key, now)
        if (found[1] if found else 0) != seen:
            return False
        self.rows[space, key] = (value, seen + 1, expires_at)
        return True

    def kept(self, space: str, key: str, now: float) -> tuple[bytes, int] | None:
        found = self._live(space, key, now)
        return None if found is None else found[:2]

    def take(self, space: str, key: str, now: float) -> bytes | None:
        found = self._live(space, key, now)
        self.rows.pop((space, key), None)
        return None if found is None else found[0]

    def all_kept(self, space: str, now: float) -> dict[str, bytes]:
        return {
            key: value
            for (one, key), (value, _, until) in self.rows.items()
            if one == space and (not until or until > now)
        }

    def drop(self, space: str, key: str) -> bool:
        return self.rows.pop((space, key), None) is not None

    def mark_once(self, space: str, key: str, expires_at: float, now: float) -> bool:
        if self.marks.get((space, key), 0) > now:
            return False
        self.marks[space, key] = expires_at
        return True


class Bench:
    """Grants over rows in memory."""

    def __init__(self) -> None:
        self.rows, self.clock = Rows(), FakeClock()
        self.accounts: dict[str, tuple[str, ...]] = {"alice": ("user",)}
        self.grants = Grants(
            self.rows,
            KEYS,
            self.clock,
            issuer="https://gate.example",
            resources={RESOURCE, "https://gate.example/mcp"},
            accounts=lambda who: self.accounts.get(who.subject),
            lifetimes=Lifetimes(access=900, refresh=86_400),
        )

    def code(self) -> str:
        return self.grants.grant(ASKED, Who("alice"))

    def redeem(self, code: str, **changes: str) -> Issued:
        given = {
            "code": code,
            "code_verifier": VERIFIER,
            "redirect_uri": ASKED.redirect_uri,
            "resource": RESOURCE,
        }
        return self.grants.redeem(DESK, read_form(urlencode({**given, **changes})))

    def refresh(self, token: str) -> Issued:
        return self.grants.refresh(DESK, read_form(urlencode({"refresh_token": token})))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def refusal(work: Any) -> OAuthRefusal:
    with pytest.raises(OAuthRefusal) as caught:
        work()
    return caught.value


def test_a_code_lives_for_a_minute_to_the_second(bench: Bench) -> None:
    early, late = bench.code(), bench.code()
    bench.clock.advance(CODE_SECONDS - 0.001)
    assert bench.redeem(early).subject == "alice"
    bench.clock.advance(0.001)
    assert refusal(lambda: bench.redeem(late)).reason == "code expired"


def test_a_refresh_token_ends_with_its_family_to_the_second(bench: Bench) -> None:
    one = bench.redeem(bench.code())
    bench.clock.advance(86_399.9)
    two = bench.refresh(one.refresh_token)
    bench.clock.advance(0.1)
    assert refusal(lambda: bench.refresh(two.refresh_token)).reason == "refresh token of no living family"


def test_who_has_no_account_any_more_gets_nothing_more(bench: Bench) -> None:
    code, one = bench.code(), bench.redeem(bench.code())
    bench.accounts.clear()
    assert refusal(lambda: bench.redeem(code)).reason == "no such account any more"
    assert refusal(lambda: bench.refresh(one.refresh_token)).reason == "no such account any more"


def test_roles_are_those_of_now(bench: Bench) -> None:
    one = bench.redeem(bench.code())
    bench.accounts["alice"] = ("reader",)
    two = bench.refresh(one.refresh_token)
    payload = two.access_token.split(".")[1]
    assert b'"roles":["reader"]' in base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))


def test_a_second_use_that_overtakes_the_first_leaves_nothing(bench: Bench) -> None:
    code = bench.code()
    seen: list[OAuthRefusal] = []

    def faster() -> None:  # after the code was marked and before the family begins
        bench.rows.before_replace = lambda: seen.append(refusal(lambda: bench.redeem(code)))

    bench.rows.before_replace = faster
    assert refusal(lambda: bench.redeem(code)).error == "invalid_grant"
    assert [one.error for one in seen] == ["invalid_grant"]


def test_of_two_who_refresh_at_once_nobody_keeps_anything(bench: Bench) -> None:
    one = bench.redeem(bench.code())
    won: list[Issued] = []
    bench.rows.before_replace = lambda: won.append(bench.refresh(one.refresh_token))
    lost = refusal(lambda: bench.refresh(one.refresh_token))
    assert lost.reason == "refresh token used twice at once"
    assert {token.token_id for token in lost.withdrawn} == {one.token_id, won[0].token_id}
    assert refusal(lambda: bench.refresh(won[0].refresh_token)).error == "invalid_grant"


def test_no_access_token_is_forgotten_before_it_runs_out(bench: Bench) -> None:
    token, ids = bench.redeem(bench.code()), []
    ids.append(token.token_id)
    for _ in range(TOKENS_COUNT - 1):
        token = bench.refresh(token.refresh_token)
        ids.append(token.token_id)
    slow = refusal(lambda: bench.refresh(token.refresh_token))
    assert (slow.error, slow.status) == ("slow_down", 429)
    assert {one.token_id for one in bench.grants.end(token.refresh_token.partition(".")[0])} == set(ids)
    bench.clock.advance(902)
    assert bench.grants.end(token.refresh_token.partition(".")[0]) == []


def test_ending_twice_names_the_same_tokens_until_they_run_out(bench: Bench) -> None:
    code = bench.code()
    one = bench.redeem(code)
    for _ in range(3):
        assert [token.token_id for token in refusal(lambda: bench.redeem(code)).withdrawn] == [one.token_id]


def test_a_client_without_refresh_gets_none(bench: Bench) -> None:
    plain = Client("desk", "Desk", "settings", grants=(CODE,), version="1")
    form = read_form(urlencode({"code": bench.code(), "code_verifier": VERIFIER}))
    assert bench.grants.redeem(plain, form).refresh_token == ""
    assert (
        refusal(lambda: bench.grants.redeem(Client("x", "X", "settings", grants=(REFRESH,)), form)).error
        == "unauthorized_client"
    )


class OneFamily(RuleBasedStateMachine):
    """Whatever a thief and a client do in whatever order: at most one refresh token is good, and after a copy none is."""

    @initialize()
    def begin(self) -> None:
        self.bench = Bench()
        self.code = self.bench.code()
        first = self.bench.redeem(self.code)
        self.old: list[str] = []
        self.current = first.refresh_token
        self.ended = False

    @precondition(lambda self: not self.ended)
    @rule(seconds=st.floats(0, 800))
    def renew(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)
        try:
            following = self.bench.refresh(self.current)
        except OAuthRefusal as error:
            assert error.error == "slow_down" or self.bench.clock.now() >= 86_400  # noqa: PT017
            return
        self.old.append(self.current)
        self.current = following.refresh_token

    @precondition(lambda self: bool(self.old))
    @rule(data=st.data())
    def copy(self, data: Any) -> None:
        token = data.draw(st.sampled_from(self.old))
        assert refusal(lambda: self.bench.refresh(token)).error == "invalid_grant"
        self.ended = True

    @rule()
    def code_again(self) -> None:
        assert refusal(lambda: self.bench.redeem(self.code)).error == "invalid_grant"
        self.ended = True

    @rule(text=st.text(max_size=80))
    def guess(self, text: str) -> None:
        if text not in self.old and text != self.current:
            assert (
                refusal(
                    lambda: self.bench.grants.refresh(DESK, read_form(urlencode({"refresh_token": text})))
                ).status
                == 400
            )

    @invariant()
    def at_most_one_is_good(self) -> None:
        good = [one for one in (*self.old, self.current) if self.bench.grants.living(one) is not None]
        assert good in ([], [self.current])
        if self.ended:
            assert good == []


OneFamily.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestOneFamily = OneFamily.TestCase


# -- seals, links, sessions ------------------------------------------------------------------------------------------

SEAL = Seal(b"k" * 32)


def test_a_seal_opens_for_ten_minutes_to_the_second() -> None:
    sealed = SEAL.close("consent", ASKED, browser="b", subject="alice", now=1_000.0)
    assert SEAL.open("consent", sealed, browser="b", now=1_000.0 + PAGE_SECONDS - 0.001).asked == ASKED
    assert (
        refusal(lambda: SEAL.open("consent", sealed, browser="b", now=1_000.0 + PAGE_SECONDS)).status == 403
    )
    assert refusal(lambda: Seal(b"x" * 32).open("consent", sealed, browser="b", now=1_000.0)).status == 403


@given(st.integers(min_value=0), st.integers(1, 63))
def test_a_seal_with_any_character_changed_opens_nothing(at: int, by: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sealed = SEAL.close("consent", ASKED, browser="b", subject="alice", now=1_000.0)
    at %= len(sealed) - 1  # the last character of a MAC has bits that say nothing
    if sealed[at] == ".":
        return
    other = alphabet[(alphabet.index(sealed[at]) + by) % 64]
    changed = sealed[:at] + other + sealed[at + 1 :]
    body, _, mac = changed.partition(".")
    was, _, before = sealed.partition(".")
    same = base64.urlsafe_b64decode(body + "==") == base64.urlsafe_b64decode(was + "==") and mac == before
    if not same:
        assert refusal(lambda: SEAL.open("consent", changed, browser="b", now=1_000.0)).status == 403


@given(st.text(max_size=200))
def test_no_text_opens_or_breaks_the_seal(text: str) -> None:
    assert refusal(lambda: SEAL.open("consent", text, browser="b", now=1_000.0)).status == 403


@given(st.text(max_size=200))
def test_no_text_breaks_the_form_reader(text: str) -> None:
    try:
        read_form(text)
    except OAuthRefusal as error:
        assert error.error == "invalid_request"  # noqa: PT017


def test_sessions_and_links_end_to_the_second() -> None:
    browsers = Browsers(Rows(), session_seconds=60)
    ticket = browsers.make_link(Who("alice"), 1_000.0)
    assert browsers.look_at_link(ticket, 1_599.9) == Who("alice")
    assert refusal(lambda: browsers.use_link(ticket, 1_600.0)).status == 403
    browser = browsers.sign_in(Who("alice"), 1_000.0)
    assert browsers.session(browser, 1_059.9) is not None
    assert browsers.session(browser, 1_060.0) is None


def test_consents_of_equal_names_at_two_providers_are_two() -> None:
    one, two = Who("carol", provider="https://a.example"), Who("carol", provider="https://b.example")
    assert len({consent_key(one, "desk"), consent_key(two, "desk"), consent_key(Who("carol"), "desk")}) == 3
    browsers = Browsers(Rows(), session_seconds=60)
    browsers.remember(one, DESK, ASKED, 1.0)
    assert browsers.has_agreed(one, ASKED, 2.0)
    assert not browsers.has_agreed(two, ASKED, 2.0)
    browsers.remember(
        one,
        DESK,
        Asked(
            **{
                **{f: getattr(ASKED, f) for f in ASKED.__struct_fields__},
                "redirect_uri": "https://x.example/cb",
            }
        ),
        3.0,
    )
    assert not browsers.has_agreed(
        one, ASKED, 4.0
    )  # another redirect URI does not inherit what was agreed before
