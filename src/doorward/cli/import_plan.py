"""What becomes of one server of a client: the wrapped command, the secrets that move, or why it stays as it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from doorward.adapters.client_files import ClientFile
from doorward.catalogue.client_configs import KEPT, Entry
from doorward.catalogue.client_risks import is_secret, runner_of
from doorward.cli.wrap import Wanted, name_of

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NPM = re.compile(r"((?:@[a-z0-9][a-z0-9._~-]*/)?[a-z0-9][a-z0-9._~-]*)(?:@(.+))?")
_PYPI = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:==|@)?(.*)")
_EXACT = re.compile(r"[0-9][0-9A-Za-z.+!_-]*")
# Variables that act on Doorward itself, which runs outside of the cage: its loader, its interpreter, its folders, its programs.
_OWN = re.compile(
    r"(?i)(?:LD|DYLD|XDG|DOORWARD|PIP|UV|NPM_CONFIG|SSL|OPENSSL|REQUESTS|CURL|GIT|GLIBC|MALLOC)_.*|PYTHON.*"
    r"|PATH|HOME|TMPDIR|TEMP|TMP|GCONV_PATH|LOCPATH|OPENSSL_CONF|(?:HTTPS?|ALL|NO)_PROXY"
)
_HARMLESS = frozenset({"PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE"})
_QUIET = frozenset({"-y", "--yes", "-q", "--quiet"})


class Plan(msgspec.Struct, frozen=True):
    """``wanted`` is None where the entry stays as it is, for the reason in ``why_not``."""

    wanted: Wanted | None = None
    secrets: dict[str, str] = {}
    why_not: str = ""

    def arguments(self, wanted: Wanted, scope: str) -> list[str]:
        """The words after ``doorward``."""
        words = ["wrap", "--name", wanted.server]
        words += ["--reviewed"] if scope == "project" else []
        for option, values in (("--env", wanted.env), ("--secret", wanted.secrets)):
            for value in values:
                words += [option, value]
        if wanted.package:
            words += ["--package", wanted.package]
        if wanted.url:
            words += ["--url", wanted.url]
            return words + (["--header", wanted.header] if wanted.header else [])
        return [*words, "--", *wanted.words]


Newest = Callable[[str, str], str]  # (registry, name) -> the newest version. Raises: OperatorError


def plan_of(file: ClientFile, entry: Entry, newest: Newest | None = None) -> Plan:
    """What importing this entry would do; with ``newest``, a package without a version is pinned to that."""
    if entry.is_wrapped:
        return Plan(why_not="it goes through Doorward already.")
    if entry.is_ambiguous:
        return Plan(
            why_not="it names both a command and a URL; which of them is used, only its client knows."
        )
    own = [name for name in entry.env if _OWN.fullmatch(name) and name.upper() not in _HARMLESS]
    if own and file.scope == "project":
        return Plan(why_not="it sets a variable that would act on Doorward itself, outside of the cage.")
    server = _server_of(file, entry)
    if entry.url:
        return _plan_url(entry, server)
    if not entry.command or not entry.command[0]:
        return Plan(why_not="it names neither a command nor a URL.")
    odd = [name for name in entry.env if not _VARIABLE.fullmatch(name)]
    if odd:
        return Plan(why_not="it sets a variable whose name no system takes.")
    secrets = {name: value for name, value in entry.env.items() if is_secret(name, value)}
    plain = tuple(name for name, value in entry.env.items() if name not in secrets and value != KEPT)
    wanted = Wanted(server=server, words=entry.command, env=plain, secrets=tuple(secrets))
    runner = runner_of(entry.command)
    if not runner:
        return Plan(wanted, secrets)
    return _plan_runner(wanted, secrets, runner, newest)


def _server_of(file: ClientFile, entry: Entry) -> str:
    """A name that no other entry of this machine has: two clients may call different servers the same."""
    mark = hashlib.sha256("\0".join((str(file.path), *entry.path)).encode()).hexdigest()[:6]
    return f"{name_of([entry.name])[:17].rstrip('-')}-{mark}"


def _plan_url(entry: Entry, server: str) -> Plan:
    if entry.bearer_env:
        return Plan(why_not="its token comes from a variable, which an entry with a URL cannot hand on yet.")
    if len(entry.headers) > 1:
        return Plan(why_not="it sends more than one header of its own; Doorward presents one credential.")
    for name, value in entry.headers.items():
        if not is_secret(name, value):
            return Plan(why_not="its header refers to a variable of the client, which Doorward cannot read.")
        return Plan(Wanted(server=server, url=entry.url, header=name), {"header": value})
    return Plan(Wanted(server=server, url=entry.url))


def _plan_runner(wanted: Wanted, secrets: dict[str, str], runner: str, newest: Newest | None) -> Plan:
    """A package that is fetched at each start is installed once instead; there is no network in the cage."""
    words = [word for word in wanted.words[1:] if word not in _QUIET]
    if runner in ("uv", "pipx"):
        words = [word for word in words if word not in ("tool", "run")]
    if not words or words[0].startswith("-") or "/" in words[0].lstrip("@").partition("/")[2]:
        return Plan(why_not=f"what {runner} runs cannot be told from its options; name the package first.")
    pattern = _NPM if runner in ("npx", "bunx", "pnpx") else _PYPI
    found = pattern.fullmatch(words[0])
    if found is None:
        return Plan(why_not=f"{runner} fetches something that is no package of a registry.")
    name, version = found[1], found[2] or ""
    if newest is not None and version in ("", "latest"):
        version = newest("npm" if pattern is _NPM else "pypi", name)
    if not _EXACT.fullmatch(version):
        return Plan(
            why_not=f"{runner} fetches the newest {name} at each start: name the version that you trust, or let --pin choose it now."
        )
    package = f"npm:{name}@{version}" if pattern is _NPM else f"pypi:{name}=={version}"
    return Plan(
        msgspec.structs.replace(wanted, words=(Path(name).name, *words[1:]), package=package), secrets
    )
