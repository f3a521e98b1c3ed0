"""``doorward doctor oauth``: walk from a server or an issuer to its metadata and keys, and say what does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from doorward.adapters.guarded_http import GuardedHttp
from doorward.adapters.issuer_client import IssuerClient
from doorward.adapters.key_files import load_or_create_keys
from doorward.app.trust import trusts_of
from doorward.base.clock import SystemClock
from doorward.base.errors import DoorwardError, OperatorError
from doorward.cli.doctor import print_lines
from doorward.cli.doctor_lines import Line
from doorward.cli.doctor_published import published
from doorward.cli.main import FINDING, FINE
from doorward.identity import metadata
from doorward.identity.bearer import Pending, TokenRefusal
from doorward.identity.foreign_judge import ForeignJudge, KnownKeys, Lease
from doorward.identity.foreign_keys import foreign_keys
from doorward.identity.principal import Principal
from doorward.identity.token_advice import read_unverified, scope_advice, token_advice
from doorward.identity.tokens import TokenJudge
from doorward.identity.trust import TrustedIssuer, trusted
from doorward.settings_common import OPEN_PROFILES
from doorward.settings_identity import IssuerSettings
from doorward.settings_issuers import rules_of

if TYPE_CHECKING:
    from doorward.identity.discovery import IssuerMetadata
    from doorward.settings import Settings

_TOKEN_BYTES = 65_536


def oauth(
    target: Annotated[
        str, Parameter(help="A server's name, mcp for all of them as one, or an issuer's URL.")
    ],
    *,
    token_file: Annotated[
        Path | None, Parameter(name="--token-file", help="A file with an access token that should fit.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Say in one sentence each what does not fit between a server, its issuers and a token."""
    from doorward.settings import load

    settings = load(config).settings
    token = _read_token(token_file) if token_file is not None else ""
    lines = asyncio.run(_walk(settings, target, token))
    print_lines(lines, as_json=as_json)
    return FINDING if any(line.state == "fail" for line in lines) else FINE


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_TOKEN_BYTES).decode("ascii").strip().removeprefix("Bearer ")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError("doctor-token", f"The token file {path} cannot be read.") from error


async def _walk(settings: Settings, target: str, token: str) -> list[Line]:
    is_issuer = "://" in target
    server = metadata.FEDERATED if is_issuer else target
    if not is_issuer and server != metadata.FEDERATED and server not in settings.servers:
        known = ", ".join((metadata.FEDERATED, *settings.servers))
        raise OperatorError(
            "doctor-target", f"There is no server {target!r}; known: {known}, or an issuer's URL."
        )
    resource = metadata.resource_of(settings.gateway.public_url, server)
    lines = [Line("resource", "ok", f"tokens for {server} are for {resource}", "settings")]
    if not is_issuer and settings.identity.mode != "off":
        lines.append(await published(settings, server))
    given = [one for one in settings.identity.issuers if not is_issuer or one.issuer == target]
    if is_issuer and not given:
        near = next(
            (one.issuer for one in settings.identity.issuers if one.issuer.rstrip("/") == target.rstrip("/")),
            "",
        )
        why = (
            f"the settings have it as {near}: the trailing slash counts"
            if near
            else "the settings do not trust it"
        )
        lines.append(Line("settings", "fail", f"{why}; its tokens are refused.", "settings"))
        given = [IssuerSettings(issuer=target)]
    if not given:
        mode = settings.identity.mode
        lines.append(
            Line("settings", "ok", f"identity.mode is {mode}: no other issuer is trusted", "settings")
        )
        if token and mode != "off":
            lines.append(_judge_own(settings, token, resource))
        elif token:
            lines.append(
                Line(
                    "token",
                    "fail",
                    'no issuer is configured that could vouch for it; set mode = "external".',
                    "settings",
                )
            )
        return lines
    http = GuardedHttp(rules_of(settings))
    trusts = {one.issuer: one for one in trusts_of(settings)}
    try:
        for one in given:
            trust = trusts.get(one.issuer) or trusted(msgspec.structs.asdict(one), [])
            lines += await _look_at(
                http, one, trust, resource, token if len(given) == 1 or _is_from(token, one) else ""
            )
    finally:
        http.close()
    if token and len(given) > 1 and not any(_is_from(token, one) for one in given):
        lines.append(Line("token", "fail", f"{_stranger(token)}.", "settings"))
    return lines


def _judge_own(settings: Settings, token: str, resource: str) -> Line:
    """A token of Doorward itself, by the keys in the data folder."""
    clock = SystemClock()
    read = read_unverified(token)
    if isinstance(read, str):
        return Line("token", "fail", f"{read}.", "settings")
    folder = Path(settings.gateway.data_dir)
    if not (folder / "keys").is_dir():
        return Line(
            "token", "fail", "there are no keys in the data folder yet: no token is good.", "settings"
        )
    issuer = metadata.issuer_of(settings.gateway.public_url)
    judge = TokenJudge(
        load_or_create_keys(folder).jwks(),
        issuer,
        clock,
        users={user.name: user.roles for user in settings.identity.users},
        accepts_created=settings.gateway.profile in OPEN_PROFILES,
    )
    found = judge.judge(f"Bearer {token}", resource)
    if isinstance(found, TokenRefusal):
        trust = TrustedIssuer(issuer, algorithms=("ES256",))
        return Line(
            "token", "fail", token_advice(found, *read, trust, resource, clock.now()) + ".", "settings"
        )
    return _fits(found, clock.now())


def _is_from(token: str, issuer: IssuerSettings) -> bool:
    read = read_unverified(token) if token else ""
    return not isinstance(read, str) and read[1].get("iss") == issuer.issuer


def _stranger(token: str) -> str:
    read = read_unverified(token)
    return (
        read
        if isinstance(read, str)
        else f"its issuer {str(read[1].get('iss'))[:200]} is none of the settings"
    )


async def _look_at(
    http: GuardedHttp, settings: IssuerSettings, trust: TrustedIssuer, resource: str, token: str
) -> list[Line]:
    """One issuer: metadata, what MCP clients need of it, keys, and a token if there is one."""
    client = IssuerClient(http, settings.issuer, settings.ca_file)
    lines: list[Line] = []
    jwks_uri = settings.jwks_uri
    try:
        found = await client.metadata()
        lines.append(Line("metadata", "ok", f"{settings.issuer} publishes its metadata", "settings"))
        lines += _for_clients(found, trust)
        jwks_uri = jwks_uri or found.jwks_uri
        if settings.introspection is not None and not (
            settings.introspection.url or found.introspection_endpoint
        ):
            lines.append(
                Line(
                    "introspection",
                    "fail",
                    "its metadata names no endpoint; set introspection.url.",
                    "settings",
                )
            )
    except DoorwardError as error:
        # Where jwks_uri is set, tokens can be judged without metadata; clients still need it.
        lines.append(Line("metadata", "warn" if jwks_uri else "fail", _why(error, settings), "settings"))
    if not jwks_uri:
        return lines
    try:
        keys = await client.key_set(jwks_uri)
    except DoorwardError as error:
        return [*lines, Line("keys", "fail", _why(error, settings), "settings")]
    usable = sorted(
        {f"{kid} ({algorithm})" for kid, algorithm in foreign_keys({"keys": keys}, trust.algorithms)}
    )
    if usable:
        lines.append(Line("keys", "ok", f"{len(keys)} keys, usable: {', '.join(usable)}", "settings"))
    else:
        wanted = ", ".join(trust.algorithms)
        lines.append(
            Line(
                "keys",
                "fail",
                f"none of its {len(keys)} keys can verify with {wanted}; see algorithms.",
                "settings",
            )
        )
    if token:
        known = {settings.issuer: KnownKeys({"keys": keys}, float("inf"))}
        lines.append(_judge(token, trust, known, resource))
    return lines


def _for_clients(found: IssuerMetadata, trust: TrustedIssuer) -> Iterator[Line]:
    """What an MCP client needs to get a token there (MCP authorization; a client refuses without S256)."""
    if not found.authorization_endpoint or not found.token_endpoint:
        yield Line(
            "clients",
            "warn",
            "it names no authorization or token endpoint: people cannot sign in there.",
            "settings",
        )
    elif found.challenge_methods is None or "S256" not in found.challenge_methods:
        yield Line(
            "clients",
            "warn",
            "its metadata does not say that it takes PKCE with S256, so MCP clients will refuse it.",
            "settings",
        )
    elif not found.registration_endpoint:
        yield Line(
            "clients",
            "ok",
            "PKCE with S256; no dynamic registration, so register each MCP client there by hand",
            "settings",
        )
    else:
        yield Line("clients", "ok", "PKCE with S256, clients can register themselves", "settings")
    if trust.ask_scope and found.scopes and not set(trust.ask_scope.split()) <= set(found.scopes):
        yield Line(
            "scope",
            "warn",
            f"its metadata does not list the scope {trust.ask_scope}, which clients must ask for.",
            "settings",
        )


def _judge(token: str, trust: TrustedIssuer, keys: dict[str, KnownKeys], resource: str) -> Line:
    clock = SystemClock()
    read = read_unverified(token)
    if isinstance(read, str):
        return Line("token", "fail", f"{read}.", "settings")
    judge = ForeignJudge([trust], keys, clock, ask=_nobody)
    found = judge.judge(f"Bearer {token}", resource)
    if isinstance(found, Pending):
        found.begin(lambda: None)
        found = judge.judge(f"Bearer {token}", resource)
    if isinstance(found, TokenRefusal):
        return Line(
            "token", "fail", token_advice(found, *read, trust, resource, clock.now()) + ".", "settings"
        )
    if isinstance(found, Pending):
        return Line("token", "fail", "it cannot be judged without its issuer.", "settings")
    principal = found.principal if isinstance(found, Lease) else found
    if metadata.SCOPE not in principal.scopes:
        return Line("token", "fail", scope_advice(principal.scopes, trust) + ".", "settings")
    return _fits(principal, clock.now())


def _fits(principal: Principal, now: float) -> Line:
    roles = ", ".join(principal.roles) or "none: no server is open to it by roles"
    what = f"fits: {principal.subject} through {principal.client}, roles {roles}, {int(principal.expires_at - now)} seconds left"
    return Line("token", "ok" if principal.roles else "warn", what, "settings")


def _nobody(topic: str, payload: dict[str, Any], then: Callable[[Any], None]) -> None:  # noqa: ARG001 - as the supervisor is asked
    """There is nobody to ask: a key that is not in the set just fetched is unknown."""
    then("unknown")


def _why(error: DoorwardError, settings: IssuerSettings) -> str:
    hints = {
        "fetch-untrusted": "" if settings.ca_file else " If it has an authority of its own, set ca_file.",
        "fetch-refused": f" Its address, as the URL writes it: {settings.issuer}.",
        "fetch-failed": " Is the name right, and can this machine reach it?",
    }
    detail = f" ({error.detail})" if error.detail and error.code.startswith("fetch-") else ""
    return f"{error.tell}{hints.get(error.code, '')}{detail}"
