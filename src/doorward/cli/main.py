"""The command ``doorward``: finds the sub-command, prints errors in one form and chooses the exit code.

Exit codes: 0 fine, 1 a finding or a refused action, 2 wrong usage or configuration, 3 the environment.
Sub-commands are imported only when they run, so that every one of them starts fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import doorward
from doorward.base.errors import DoorwardError, OperatorError, StoreError

FINE, FINDING, USAGE, ENVIRONMENT = 0, 1, 2, 3

# noun -> where its function or App is, and what it does
COMMANDS: dict[str, tuple[str, str]] = {
    "alerts": ("doorward.cli.alerts:alerts", "List what must not wait."),
    "audit": ("doorward.cli.audit:audit", "Watch, ask and prove what is on record."),
    "check": ("doorward.cli.check:check", "Check a settings file, and explain every value."),
    "completion": ("doorward.cli.completion:completion", "Print the completion script of a shell."),
    "consents": ("doorward.cli.consents:consents", "List and take back what users agreed to."),
    "controls": (
        "doorward.cli.controls:controls",
        "List what protects, or what of the catalogue is covered.",
    ),
    "demo": (
        "doorward.cli.demo:demo",
        "Run Doorward before two real MCP servers, with proof and how to connect.",
    ),
    "doctor": (
        "doorward.cli.doctor:doctor_app",
        "Say in plain words what is wrong with this machine or the settings.",
    ),
    "import": (
        "doorward.cli.import_:import_",
        "Show the MCP servers of this machine's clients, and put Doorward before them.",
    ),
    "inspect": (
        "doorward.cli.inspect:inspect",
        "Look for injected instructions in texts from standard input.",
    ),
    "keys": ("doorward.cli.keys:keys", "List Doorward's own keys, and rotate one with an overlap."),
    "login-link": (
        "doorward.cli.login_link:login_link",
        "Print a link that signs a browser in once, without a password.",
    ),
    "range": (
        "doorward.cli.range:range_app",
        "Attack a Doorward of one's own, and see what each control stops.",
    ),
    "routes": ("doorward.cli.routes:routes", "List every path and what answers there."),
    "scan": ("doorward.cli.scan:scan", "Look for poisoned definitions in saved lists of tools."),
    "secrets": ("doorward.cli.secrets:secrets", "List and check the secrets that the settings refer to."),
    "serve": ("doorward.cli.serve:serve", "Run the gateway until it is told to stop."),
    "servers": ("doorward.cli.servers:servers", "List, add and remove protected servers."),
    "tools": ("doorward.cli.tools:tools", "Look at what servers offer, and approve or reject it."),
    "wrap": ("doorward.cli.wrap:wrap", "Put Doorward before one stdio server of a desktop client."),
    "token": ("doorward.cli.token:token", "Print one access token for one protected server."),
}

# Codes of OperatorError that are about the machine and not about what was written.
_MACHINE_PREFIXES = (
    "demo-",
    "node-",
    "admin-",
    "cage-",
    "key-file-",
    "bus-",
    "port-",
    "ledger-",
    "local-authority-",
    "package-install",
    "package-missing",
    "package-changed",
    "data-dir-",
    "worker-",
    "wrap-folder",
    "range-machine-",
)


def build_app() -> App:
    """The command line with its sub-commands still unread."""
    app = App(
        name="doorward",
        help="A zero-trust security gateway for the Model Context Protocol.",
        version=doorward.__version__,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    for noun, (place, sentence) in COMMANDS.items():
        app.command(place, name=noun, help=sentence)
    return app


def exit_code_of(error: DoorwardError) -> int:
    """What a script sees of an error."""
    if isinstance(error, StoreError):
        return ENVIRONMENT
    if isinstance(error, OperatorError):
        return ENVIRONMENT if error.code.startswith(_MACHINE_PREFIXES) else USAGE
    return FINDING


def _config_last(words: list[str]) -> list[str]:
    """Let ``--config FILE`` stand before the noun as well."""
    moved: list[str] = []
    while words and (words[0] == "--config" or words[0].startswith("--config=")):
        count = 1 if "=" in words[0] else 2
        moved += words[:count]
        words = words[count:]
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *moved, *words[end:]]


def _fail(code: str, tell: str, words: Sequence[str]) -> None:
    from doorward.cli.output import paint, print_json

    own = words[: words.index("--")] if "--" in words else words
    if "--json" in own:
        print_json({"error": {"code": code, "tell": tell}})
    sys.stderr.write(f"{paint('error', 'red', sys.stderr)} [{code}]: {tell}\n")


def run(words: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    arguments = _config_last(list(words))
    try:
        result = build_app()(arguments)
    except CycloptsError as error:
        _fail("usage", f"{error} Try `doorward --help`.", arguments)
        return USAGE
    except DoorwardError as error:
        _fail(error.code, error.tell, arguments)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    return result if isinstance(result, int) else FINE


def main() -> None:
    """Entry point of the ``doorward`` program."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
