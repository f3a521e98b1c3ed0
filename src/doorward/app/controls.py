"""Make the controls of ``controls.order`` from settings: each gets exactly what it needs, in the order of the list."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from doorward.app.trust import keys_of, scopes_of, trusts_of, withdrawn_of
from doorward.base.clock import Clock
from doorward.controls.ask_policy import AskPolicy
from doorward.controls.bind_session import BindSession
from doorward.controls.bind_token import BindToken
from doorward.controls.check_head import CheckHead
from doorward.controls.check_origin import CheckOrigin, allowed_hosts, allowed_origins
from doorward.controls.check_shape import CheckShape
from doorward.controls.check_token import CheckToken
from doorward.controls.control import Control, Mode
from doorward.controls.gate_server_requests import GateServerRequests
from doorward.controls.limit_rate import Counters, Limit, LimitRate, Limits
from doorward.controls.match_pin import MatchPin, Pins
from doorward.controls.order import ORDER
from doorward.controls.present_credential import Credentials, PresentCredential
from doorward.controls.scope_cache import ScopeCache
from doorward.controls.seal_state import SealState
from doorward.gateway.pipeline import Placed
from doorward.identity.clients import OWN
from doorward.identity.foreign_judge import Ask, ForeignJudge, TokenMemory
from doorward.identity.grants import CLIENT_SUBJECT
from doorward.identity.metadata import issuer_of
from doorward.identity.proof import NonceSeal, ProofJudge
from doorward.identity.tokens import TokenJudge
from doorward.policy.engine import PolicyEngine
from doorward.settings import Allowance, Settings

_OPEN_PROFILES = ("local", "lab")


def build_policy(settings: Settings, policy_texts: dict[str, str]) -> PolicyEngine:
    """The policy engine of one snapshot. Raises: OperatorError ``policy-invalid``."""
    # SECURITY: where policy files are configured only they decide; files that matched nothing must not let roles in.
    roles = {} if settings.policy.files else settings.roles
    engine = PolicyEngine(roles, policy_texts, tuple(settings.servers))
    engine.warm()
    return engine


def mode_of(settings: Settings, slug: str) -> Mode:
    """In which mode a control runs."""
    found = settings.controls.get(slug)
    return found.mode if found is not None else "enforce"


def _judge(
    settings: Settings, payload: dict[str, Any], clock: Clock, memory: TokenMemory, ask: Ask | None
) -> TokenJudge | ForeignJudge | None:
    if settings.identity.mode == "off":
        return None
    if settings.identity.mode == "external":
        keys = keys_of(payload)
        return ForeignJudge(
            trusts_of(settings),
            keys,
            clock,
            payload["revoked"],
            withdrawn=withdrawn_of(payload),
            memory=memory,
            ask=ask,
        )
    return TokenJudge(
        payload["jwks"],
        issuer_of(settings.gateway.public_url),
        clock,
        payload["revoked"],
        users=accounts_of(settings),
        is_brokered=settings.identity.mode == "broker",
        accepts_created=settings.gateway.profile in _OPEN_PROFILES,
        budget=memory.budget,
    )


def _binding(settings: Settings, payload: dict[str, Any], clock: Clock) -> BindToken:
    nonces = NonceSeal(payload.get("session_key", b""), clock)
    since = float(((payload.get("papers") or {}).get("proofs") or {}).get("since", clock.now()))
    judge = ProofJudge(nonces, clock, requires_nonce=settings.identity.dpop_nonce == "required", since=since)
    return BindToken(judge, nonces, settings.gateway.public_url)


def accounts_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Who may be the subject of our tokens, with the roles that they have now: accounts, and clients for themselves."""
    identity = settings.identity
    users = {user.name: user.roles for user in identity.users} if identity.mode == "embedded" else {}
    clients = {CLIENT_SUBJECT + one.id: one.roles for one in identity.clients if OWN in one.grants}
    return {**users, **clients}


def limits_of(settings: Settings) -> Limits:
    """The limits as the control wants them."""
    given = settings.limits
    return Limits(
        default=Limit(given.calls, given.per_seconds, given.concurrent),
        principal={name: _limit(one) for name, one in given.principal.items()},
        server={name: _limit(one) for name, one in given.server.items()},
        tool={name: _limit(one) for name, one in given.tool.items()},
        address=None if given.address is None else _limit(given.address),
    )


def _limit(given: Allowance) -> Limit:
    return Limit(given.calls, given.per_seconds, given.concurrent)


def build_controls(
    settings: Settings,
    payload: dict[str, Any],
    policy: PolicyEngine,
    counters: Counters,
    clock: Clock,
    pins: Pins,
    *,
    memory: TokenMemory | None = None,
    ask: Ask | None = None,
    credentials: Credentials | None = None,
) -> tuple[list[Placed], LimitRate]:
    """All controls in order, with their modes; and the limits apart, for the check by peer address.

    ``memory`` is what the judge of tokens knows beyond a snapshot, ``ask`` how it asks the supervisor.
    """
    judge = _judge(settings, payload, clock, memory or TokenMemory(clock), ask)
    gateway = settings.gateway
    public = urlsplit(gateway.public_url)
    origin = f"{public.scheme}://{public.netloc}"
    limits = LimitRate(limits_of(settings), counters)
    made: dict[type[Control], Control] = {
        CheckOrigin: CheckOrigin(
            allowed_hosts(gateway.listen, public.netloc, gateway.hosts, public.scheme),
            allowed_origins(gateway.listen, origin, gateway.origins, "https" if gateway.tls else "http"),
        ),
        CheckToken: CheckToken(
            judge,
            gateway.public_url,
            " ".join(scopes_of(settings)),
            {one.sha256: one.name for one in settings.secrets.honeytokens},
        ),
        BindToken: _binding(settings, payload, clock),
        CheckHead: CheckHead(settings.limits.body_bytes),
        BindSession: BindSession(),
        CheckShape: CheckShape(),
        LimitRate: limits,
        AskPolicy: AskPolicy(policy),
        MatchPin: MatchPin(pins, {name: spec.trust for name, spec in settings.servers.items()}),
        SealState: SealState(),
        PresentCredential: PresentCredential(credentials),
        GateServerRequests: GateServerRequests(
            {name: spec.allow_requests for name, spec in settings.servers.items()}
        ),
        ScopeCache: ScopeCache(),
    }
    return [Placed(made[kind], mode_of(settings, kind.slug)) for kind in ORDER], limits
