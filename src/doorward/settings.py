"""Every setting: its type, its default and one sentence; frozen structs that travel to the workers as msgpack.

Reading a file into them is settings_load.py, what a profile allows settings_rules.py. Values here are checked ones:
paths are absolute, the built-in role stands in ``roles``, and every secret is a reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

import msgspec

from doorward.base.errors import OperatorError
from doorward.catalogue.server import Credentials, FileGrant, SecretReference, ServerSpec, ServerTls
from doorward.policy.roles import Role
from doorward.settings_alerts import AlertSettings, WebhookSettings
from doorward.settings_identity import IdentitySettings, IntrospectionSettings, IssuerSettings, UserSettings
from doorward.settings_meta import says as _says
from doorward.settings_oauth import ClientSettings
from doorward.settings_secrets import HoneytokenSettings, SecretsSettings
from doorward.settings_transport import ListenerTls
from doorward.settings_words import FOREIGN_SENTENCES

if TYPE_CHECKING:
    from doorward.controls.limit_rate import Limits

Profile = Literal["local", "team", "production", "regulated", "lab"]
Mode = Literal["enforce", "report", "off"]


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[gateway]``: where Doorward listens and how it runs."""

    listen: Annotated[str, _says("Address and port that MCP clients connect to.")] = "127.0.0.1:8808"
    public_url: Annotated[
        str,
        _says(
            "The URL by which clients know Doorward; tokens are issued for it. Default: http and `listen`."
        ),
    ] = "http://127.0.0.1:8808"
    hosts: Annotated[
        tuple[str, ...],
        _says(
            "Host names, with or without port, that are accepted beyond `listen`, `public_url` and loopback names."
        ),
    ] = ()
    origins: Annotated[
        tuple[str, ...],
        _says(
            "Web origins (scheme, host, port) that may call beyond those of `public_url` and, on loopback, of `listen`."
        ),
    ] = ()
    profile: Annotated[
        Profile, _says("How strict everything else is. Only `local` and, for the range, `lab` exist yet.")
    ] = "local"
    state: Annotated[
        str, _says('Where revisions of settings and revocations are kept: "sqlite" is a file in `data_dir`.')
    ] = "sqlite"
    cache: Annotated[
        str, _says('Where counters are shared: "memory" is shared by the workers of this machine.')
    ] = "memory"
    data_dir: Annotated[str, _says("Folder for keys, ledger and state; nobody else may read it.")] = (
        "./doorward-data"
    )
    workers: Annotated[int, _says("Processes that serve requests.", ge=1, le=64)] = 1
    deny_as: Annotated[
        Literal["error", "tool-result"],
        _says("Whether a refused `tools/call` is a JSON-RPC error or a tool result with `isError`."),
    ] = "error"
    tls: Annotated[ListenerTls | None, _says(FOREIGN_SENTENCES["gateway.tls"])] = None
    terminator: Annotated[
        str,
        _says(
            "What speaks TLS before Doorward, in words for reviewers; without it plain HTTP is for loopback only. For team and above."
        ),
    ] = ""


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[admin]``: the console and the admin API."""

    listen: Annotated[str, _says("Address and port of the admin plane.")] = "127.0.0.1:8809"
    tls: Annotated[ListenerTls | None, _says(FOREIGN_SENTENCES["admin.tls"])] = None


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[policy]``: what is allowed beyond roles."""

    files: Annotated[
        tuple[str, ...],
        _says("Cedar policy files, globs allowed; when empty only roles decide, closed by default."),
    ] = ()


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """One narrower limit: ``[limits.principal."x"]``, ``[limits.server.x]``, ``[limits.tool."x/y"]`` or
    ``[limits.address]``.
    """

    calls: Annotated[
        int, _says("Calls that succeed in any window; absent is as in [limits].", ge=1, le=100_000)
    ] = 600
    per_seconds: Annotated[
        float, _says("Length of the window in seconds; absent is as in [limits].", gt=0, le=2_592_000)
    ] = 60.0
    concurrent: Annotated[
        int,
        _says(
            "Calls under way at once, 0 for any number; absent is as in [limits] for a principal, else 0.",
            ge=0,
            le=65_534,
        ),
    ] = 0


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[limits]``: how much, for each principal."""

    calls: Annotated[
        int,
        _says("Requests of one principal that succeed in any window, over all workers.", ge=1, le=100_000),
    ] = 600
    per_seconds: Annotated[float, _says("Length of the window in seconds.", gt=0, le=2_592_000)] = 60.0
    concurrent: Annotated[int, _says("Requests of one principal under way at once.", ge=1, le=65_534)] = 32
    body_bytes: Annotated[int, _says("The largest request body in bytes.", ge=1_024, le=67_108_864)] = (
        4_194_304
    )
    principal: Annotated[dict[str, Allowance], _says("Limits of single principals, by subject.")] = {}
    server: Annotated[dict[str, Allowance], _says("Further limits for each principal on one server.")] = {}
    tool: Annotated[
        dict[str, Allowance], _says('Further limits for each principal on one tool, "server/tool".')
    ] = {}
    address: Annotated[
        Allowance | None, _says("Limit for each peer address, before authentication; absent is none.")
    ] = None

    def as_limits(self) -> Limits:
        """The same as the control that limits wants it."""
        from doorward.controls.limit_rate import Limit, Limits

        def plain(one: Allowance) -> Limit:
            return Limit(calls=one.calls, per_seconds=one.per_seconds, concurrent=one.concurrent)

        return Limits(
            default=Limit(calls=self.calls, per_seconds=self.per_seconds, concurrent=self.concurrent),
            principal={name: plain(one) for name, one in self.principal.items()},
            server={name: plain(one) for name, one in self.server.items()},
            tool={name: plain(one) for name, one in self.tool.items()},
            address=plain(self.address) if self.address else None,
        )


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[network]``: where Doorward itself may connect."""

    allow: Annotated[
        tuple[str, ...],
        _says(
            "Exceptions, host:port as the URL writes it, to the rules against requests into inner networks; they also open plain http to loopback in `local` and `lab`."
        ),
    ] = ()


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[audit]``: the ledger."""

    durability: Annotated[
        Literal["before-upstream", "before-answer"],
        _says(
            "When a call's record must be on disk; production and regulated always wait before the upstream."
        ),
    ] = "before-answer"
    sync_ms: Annotated[
        int, _says("Milliseconds after which the ledger is forced to disk.", ge=1, le=1_000)
    ] = 10


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[controls.SLUG]``: one control."""

    mode: Annotated[Mode, _says("`report` lets pass and records what would have been refused.")] = "enforce"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked."""

    gateway: Annotated[GatewaySettings, _says("Where Doorward listens and how it runs.")] = GatewaySettings()
    admin: Annotated[AdminSettings, _says("The console and the admin API.")] = AdminSettings()
    identity: Annotated[IdentitySettings, _says("Who is asking.")] = IdentitySettings()
    roles: Annotated[dict[str, Role], _says("Roles and the servers and tools that each grants.")] = {}
    servers: Annotated[dict[str, ServerSpec], _says("The protected MCP servers.")] = {}
    policy: Annotated[PolicySettings, _says("What is allowed beyond roles.")] = PolicySettings()
    limits: Annotated[LimitSettings, _says("How much, for each principal.")] = LimitSettings()
    network: Annotated[NetworkSettings, _says("Where Doorward itself may connect.")] = NetworkSettings()
    audit: Annotated[AuditSettings, _says("The ledger.")] = AuditSettings()
    alerts: Annotated[AlertSettings, _says("What must not wait.")] = AlertSettings()
    secrets: Annotated[SecretsSettings, _says("The stores that secret references lead to.")] = (
        SecretsSettings()
    )
    controls: Annotated[dict[str, ControlSettings], _says("Modes of single controls, by slug.")] = {}


# The controls and postures that a settings file may name, and whether they belong to the floor. A test compares
# with controls/order.py, which is not imported here to keep commands light.
SLUGS: dict[str, bool] = {
    "check-origin": True,
    "check-token": True,
    "bind-token": True,
    "check-head": True,
    "bind-session": True,
    "check-shape": True,
    "limit-rate": False,
    "ask-policy": False,
    "match-pin": False,
    "seal-state": True,
    "present-credential": True,
    "gate-server-requests": False,
    "scope-cache": True,
    "keep-ledger": True,
    "ask-consent": True,
    "keep-secrets": True,
    "keep-cage": True,
    "keep-tls": True,
}

# Read once when the supervisor starts; a running gateway cannot take another value.
RESTART_KEYS = (
    "gateway.listen",
    "gateway.tls",  # whether there is any; what it holds is taken anew while Doorward runs
    "gateway.workers",
    "gateway.data_dir",
    "gateway.profile",
    "gateway.state",
    "gateway.cache",
    "admin.listen",
    "admin.tls",
    "audit.sync_ms",
)


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from; ``line`` is 0 unless it stands in the file."""

    source: Literal["default", "profile", "file"]
    line: int = 0


class Loaded(msgspec.Struct, frozen=True):
    """A settings file that was read: ``origins`` maps keys such as ``servers.time.env.TZ`` to where they stand."""

    settings: Settings
    origins: dict[str, Origin]
    path: Path
    digest: str  # "sha256:..." of the file's bytes


class Revision(msgspec.Struct, frozen=True):
    """One immutable state of the settings; ``generation`` only grows, ``at`` is Unix seconds."""

    generation: int
    digest: str
    settings: Settings
    at: float


class Row(msgspec.Struct, frozen=True):
    """One line of ``doorward check --explain``."""

    key: str
    value: object
    source: str
    sentence: str


def load(path: Path | None = None) -> Loaded:
    """Read and check a settings file; None looks in ./doorward.toml, then in the user's configuration folder.

    Raises:
        OperatorError: with a ``settings-...`` code; ``tell`` names the key and its line.
    """
    from doorward.settings_load import load_file

    return load_file(path)


def change_of(old: Settings, new: Settings) -> list[str]:
    """The keys that differ, in the file's order."""
    before, after = flatten(old), flatten(new)
    return [key for key in {**before, **after} if before.get(key, _ABSENT) != after.get(key, _ABSENT)]


def check_hot_change(old: Settings, new: Settings) -> list[str]:
    """Return the changed keys of a change that a running gateway can take.

    Raises:
        OperatorError: ``settings-restart`` when one of them is read only at the start.
    """
    changed = change_of(old, new)
    fixed = [key for key in changed if key in RESTART_KEYS]
    if fixed:
        raise OperatorError(
            "settings-restart",
            f"{', '.join(fixed)} cannot change while Doorward runs: restart it, or take the change back. "
            "Nothing of the new file is in force.",
        )
    return changed


def explain(settings: Settings, origins: dict[str, Origin]) -> list[Row]:
    """Every value with where it came from and what it does."""
    sentences = {**FOREIGN_SENTENCES, **{key: sentence for key, _kind, _default, sentence in catalogue()}}
    rows = []
    for key, value in flatten(settings).items():
        origin = origins.get(key, Origin("default"))
        source = f"line {origin.line}" if origin.source == "file" and origin.line else origin.source
        rows.append(
            Row(
                key,
                value,
                source,
                sentences.get(general_key(key), ""),
            )
        )
    return rows


def flatten(settings: Settings) -> dict[str, object]:
    """Dotted key -> plain value, for every value that is not a table."""
    found: dict[str, object] = {}
    for field in Settings.__struct_fields__:
        _flatten(getattr(settings, field), field, found)
    return found


_ABSENT = object()


def join_key(parent: str, name: str) -> str:
    """A dotted TOML key; a name that is no bare key is quoted."""
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    part = name if bare else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{parent}.{part}" if parent else part


def _flatten(value: object, key: str, found: dict[str, object]) -> None:
    if isinstance(value, SecretReference):
        found[key] = msgspec.to_builtins(value)  # where the secret lies, which is no secret
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            if not (isinstance(value, ServerSpec) and field == "name"):
                _flatten(getattr(value, field), f"{key}.{field}", found)
    elif isinstance(value, dict):
        for name, part in value.items():
            _flatten(part, join_key(key, name), found)
    elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        for index, part in enumerate(value):
            _flatten(part, f"{key}[{index}]", found)
    else:
        found[key] = list(value) if isinstance(value, tuple) else value


# Tables whose names are the operator's own: gateway.listen is itself, servers.time.url is servers.*.url.
_NAMED = (
    "servers",
    "roles",
    "controls",
    "limits.principal",
    "limits.server",
    "limits.tool",
    "identity.broker.roles",
)


def general_key(key: str) -> str:
    """The key as the reference lists it: ``servers.time.url`` -> ``servers.*.url``, ``users[0]`` -> ``users[]``."""
    for table in _NAMED:
        if key.startswith(table + "."):
            rest = key[len(table) + 1 :]
            name_ends = rest.find('"', 1) + 1 if rest.startswith('"') else 0
            _, dot, tail = rest[name_ends:].partition(".")
            key = f"{table}.*{dot}{tail}"
            break
    if key.startswith("servers.*.env."):
        key = "servers.*.env"
    elif key.startswith("identity.issuers[") and ".audiences." in key:
        key = key.partition(".audiences.")[0] + ".audiences"
    head, bracket, tail = key.partition("[")
    return f"{head}[]{tail.partition(']')[2]}" if bracket else key


def catalogue() -> list[tuple[str, object, object, str]]:
    """(key, type, default, sentence) of every setting; ``*`` stands for a name of the operator's own."""
    rows: list[tuple[str, object, object, str]] = []
    _describe(Settings, "", rows)
    return rows


def _describe(kind: type[msgspec.Struct], key: str, rows: list[tuple[str, object, object, str]]) -> None:
    hints = get_type_hints(kind)
    inner: dict[object, tuple[type[msgspec.Struct], str]] = {
        dict[str, Role]: (Role, ".*"),
        dict[str, ServerSpec]: (ServerSpec, ".*"),
        dict[str, ControlSettings]: (ControlSettings, ".*"),
        dict[str, Allowance]: (Allowance, ".*"),
        Allowance | None: (Allowance, ""),
        ListenerTls | None: (ListenerTls, ""),
        ServerTls | None: (ServerTls, ""),
        tuple[UserSettings, ...]: (UserSettings, "[]"),
        tuple[ClientSettings, ...]: (ClientSettings, "[]"),
        tuple[IssuerSettings, ...]: (IssuerSettings, "[]"),
        IntrospectionSettings | None: (IntrospectionSettings, ""),
        tuple[FileGrant, ...]: (FileGrant, "[]"),
        tuple[HoneytokenSettings, ...]: (HoneytokenSettings, "[]"),
        tuple[WebhookSettings, ...]: (WebhookSettings, "[]"),
        Credentials: (Credentials, ""),
    }
    for field in msgspec.structs.fields(kind):
        if kind is ServerSpec and field.name == "name":
            continue
        name, hint = (f"{key}.{field.name}" if key else field.name), hints[field.name]
        if hint in inner:
            _describe(inner[hint][0], name + inner[hint][1], rows)
        elif isinstance(hint, type) and issubclass(hint, msgspec.Struct) and hint is not SecretReference:
            _describe(hint, name, rows)
        else:
            meta = getattr(get_type_hints(kind, include_extras=True)[field.name], "__metadata__", ())
            sentence = meta[0].description if meta else FOREIGN_SENTENCES.get(name, "")
            default = field.default if field.default is not msgspec.NODEFAULT else None
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            rows.append((name, hint, default, str(sentence)))
