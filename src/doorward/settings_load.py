"""Read a settings file: TOML to frozen structs, every complaint with its key and line; nothing unknown is ignored.

Rules that need more than one value, and what profiles allow, are in settings_rules.py.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
import types
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

from doorward.base.errors import OperatorError
from doorward.base.secret import Secret
from doorward.catalogue.server import PLACES, SecretReference, ServerSpec, parts_of
from doorward.settings import Loaded, Origin, Settings, join_key
from doorward.settings_lines import Path as KeyPath
from doorward.settings_lines import line_numbers

FILE_BYTES = 1_048_576  # no settings file of a person is near this size
DEFAULT_NAME = "doorward.toml"

# Keys of the contract whose machinery is missing: known, so that they get the right answer. `*` is any name.
_NOT_YET: dict[tuple[str, ...], str] = {}
_PLAIN_WORDS = {str: "text in quotes", bool: "true or false", int: "a whole number", float: "a number"}
_PLACE_WORDS = {
    "keyring": '"service/name"',
    "vault": '"mount/path#field"',
    "keyvault": '"vault-name/secret" or "vault-name/secret/version"',
}
_SECRET_BYTES = 65_536


def find_file(path: Path | None) -> Path:
    """The settings file to use: ``path``, else ./doorward.toml, else the one in the user's configuration folder.

    Raises:
        OperatorError: ``settings-missing`` when there is none.
    """
    if path is not None:
        return path.expanduser()
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    places = (Path(DEFAULT_NAME), Path(folder) / "doorward" / DEFAULT_NAME)
    for place in places:
        if place.is_file():
            return place
    raise OperatorError(
        "settings-missing",
        f"There is no settings file: looked for ./{DEFAULT_NAME} and {places[1]}. Name one with --config FILE.",
    )


def load_file(path: Path | None = None) -> Loaded:
    """Read, check and complete a settings file. Raises: OperatorError ``settings-...``."""
    file = find_file(path).absolute()
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_BYTES + 1)
    except FileNotFoundError:
        raise OperatorError("settings-missing", f"The settings file {file} does not exist.") from None
    except OSError as error:
        raise OperatorError("settings-unreadable", f"{file} cannot be read: {error.strerror}.") from error
    return load_bytes(content, file)


def load_bytes(content: bytes, file: Path) -> Loaded:
    """As ``load_file`` for a file's content; relative paths are relative to ``file``."""
    from doorward.settings_rules import complete

    if len(content) > FILE_BYTES:
        raise OperatorError("settings-invalid", f"{file.name} is larger than {FILE_BYTES} bytes.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise OperatorError("settings-invalid", f"{file.name} line {line}: the file is not UTF-8.") from error
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError, OverflowError) as error:
        what = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a value cannot be read"
        raise OperatorError("settings-invalid", f"{file.name} is not TOML: {what}.") from error
    reader = Reader(file, raw, line_numbers(text))
    _inherit_limits(raw)
    settings = reader.table(raw, Settings, ())
    settings = complete(settings, reader)
    return Loaded(settings, reader.origins, file, "sha256:" + hashlib.sha256(content).hexdigest())


def _inherit_limits(raw: dict[str, Any]) -> None:
    """A narrower limit takes what it leaves out from [limits]."""
    limits = raw.get("limits")
    if not isinstance(limits, dict):
        return
    narrower = [limits.get("address")]
    for name in ("principal", "server", "tool"):
        group = limits.get(name)
        narrower += group.values() if isinstance(group, dict) else []
    wide = limits.get("principal")
    persons = list(wide.values()) if isinstance(wide, dict) else []
    for one in narrower:
        if isinstance(one, dict):
            for key in ("calls", "per_seconds"):
                if key in limits:
                    one.setdefault(key, limits[key])
            if any(one is person for person in persons):
                one.setdefault("concurrent", limits.get("concurrent", 32))


def dotted(path: KeyPath) -> str:
    """A key path as text: servers.time.env, identity.users[0].name."""
    key = ""
    for part in path:
        key = f"{key}[{part}]" if isinstance(part, int) else join_key(key, part)
    return key


class Reader:
    """Turns tables into structs, and knows where everything stands."""

    def __init__(self, file: Path, raw: dict[str, Any], lines: dict[KeyPath, int]) -> None:
        self._raw = raw
        self.file = file
        self.folder = file.parent
        self.origins: dict[str, Origin] = {}
        self._lines = lines

    def is_written(self, *path: str) -> bool:
        """True when the file itself holds this key."""
        here: Any = self._raw
        for part in path:
            if isinstance(here, dict) and part in here:
                here = here[part]
            else:
                return False
        return True

    def fail(self, code: str, path: KeyPath, what: str) -> NoReturn:
        """Refuse, naming key and line (of the nearest table where the key itself is absent)."""
        line, shown = 0, path
        while not line and shown:
            line, shown = self._lines.get(shown, 0), shown[:-1]
        place = f"{self.file.name} line {line}" if line else self.file.name
        raise OperatorError(code, f"{place}: {dotted(path)}: {what}")

    def table(self, raw: Any, kind: type[Any], path: KeyPath) -> Any:
        """A TOML table as a struct of ``kind``."""
        if not isinstance(raw, dict):
            self.fail("settings-invalid", path, "expected a table.")
        hints = get_type_hints(kind, include_extras=True)
        given: dict[str, Any] = {}
        if kind is ServerSpec:
            del hints["name"]
            given["name"] = str(path[-1])
        for name, value in raw.items():
            here = (*path, name)
            if name not in hints:
                self._unknown(here, list(hints))
            given[name] = self._value(value, hints[name], here)
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in given:
                self.fail("settings-invalid", (*path, field.name), "is required.")
        return kind(**given)

    def _unknown(self, path: KeyPath, known: list[str]) -> NoReturn:
        for pattern, what in _NOT_YET.items():
            if len(path) == len(pattern) and all(
                want in ("*", part) for part, want in zip(path, pattern, strict=True)
            ):
                self.fail("settings-not-available", path, f"{what} does not exist yet; remove it.")
        self.unknown(path, known)

    def unknown(self, path: KeyPath, known: list[str]) -> NoReturn:
        """Refuse a key that does not exist, with the nearest that does."""
        near = get_close_matches(str(path[-1]).lower(), known, n=1, cutoff=0.4)
        if near:
            hint = f"did you mean {dotted((*path[:-1], near[0]))}?"
        else:
            hint = f"known here: {', '.join(known)}."
        self.fail("settings-unknown-key", path, f"there is no such setting; {hint}")

    def _value(self, value: Any, hint: Any, path: KeyPath) -> Any:
        """One value by its type."""
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        options = get_args(plain) if get_origin(plain) in (Union, types.UnionType) else ()
        if plain is SecretReference or SecretReference in options:
            return self._secret(value, path, allows_text=str in options)
        structs = [one for one in options if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        if structs:
            plain = structs[0]
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            return self.table(value, plain, path)
        parts = get_args(plain)
        if get_origin(plain) is dict:
            if not isinstance(value, dict):
                self.fail("settings-invalid", path, "expected a table.")
            return {name: self._value(part, parts[1], (*path, name)) for name, part in value.items()}
        if get_origin(plain) is tuple:
            if not isinstance(value, list):
                self.fail("settings-invalid", path, "expected a list: [...].")
            found = tuple(self._value(part, parts[0], (*path, index)) for index, part in enumerate(value))
            self._stands(path)
            return found
        return self._leaf(value, hint, plain, path)

    def _leaf(self, value: Any, hint: Any, plain: Any, path: KeyPath) -> Any:
        if path[:1] == ("gateway",) and path[1:] in (("state",), ("cache",)) and isinstance(value, dict):
            self._secret(value, path, allows_text=False)
            self.fail(
                "settings-not-available", path, "databases and caches on other machines do not exist yet."
            )
        if get_origin(plain) is Literal:
            choices = [str(choice) for choice in get_args(plain)]
            if not isinstance(value, str) or value not in choices:
                self.fail("settings-invalid", path, f"expected one of {', '.join(choices)}.")
        else:
            try:
                value = msgspec.convert(value, type=hint, strict=True)
            except (msgspec.ValidationError, OverflowError, ValueError) as error:
                self.fail("settings-invalid", path, _expected(value, plain, str(error)))
            # An argument of a command may well hold lines; nothing may hold what ends a string of the kernel's.
            free = path[:1] == ("servers",) and path[2:3] == ("command",)
            if isinstance(value, str) and any(
                char == "\0" or (not free and (char < " " or char == "\x7f")) for char in value
            ):
                self.fail("settings-invalid", path, "holds a control character.")
        self._stands(path)
        return value

    def _secret(self, value: Any, path: KeyPath, *, allows_text: bool) -> Any:
        if isinstance(value, str) and allows_text:
            if "\x00" in value:
                self.fail("settings-invalid", path, "holds a NUL character.")
            self._stands(path)
            return value
        if not isinstance(value, dict):
            what = "text in quotes or a secret reference" if allows_text else "a secret reference"
            self.fail(
                "settings-invalid",
                path,
                f'expected {what} such as {{ env = "NAME" }} or {{ file = "PATH" }}; a secret itself never stands here.',
            )
        reference: SecretReference = self.table(value, SecretReference, path)
        if len(value) != 1:
            self.fail(
                "settings-invalid",
                path,
                "a secret reference has exactly one of env, file, keyring, vault and keyvault.",
            )
        for kind in PLACES:
            if kind in value and parts_of(kind, value[kind]) is None:
                self.fail("settings-invalid", (*path, kind), f"expected {_PLACE_WORDS[kind]}.")
        self._stands(path)
        if reference.file is not None:
            return SecretReference(file=self.resolve_path(reference.file))
        return reference

    def resolve_path(self, text: str) -> str:
        """A path of the file, absolute; ``~`` is the home folder."""
        home = text == "~" or text.startswith("~/")
        path = Path.home() / text[2:] if home else self.folder / text
        return os.path.normpath(path)

    def _stands(self, path: KeyPath) -> None:
        if path in self._lines:
            self.origins[dotted(path)] = Origin("file", self._lines[path])


def _expected(value: Any, plain: Any, reason: str) -> str:
    """What is wrong with a value, without repeating it: it may be a secret in the wrong place."""
    words = _PLAIN_WORDS.get(plain, "another type")
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "Expected" not in reason:
        return f"expected {words}."
    _, bound, rest = reason.partition(" >")
    if not bound:
        _, bound, rest = reason.partition(" <")
    if bound:
        return f"expected {words}{bound}{rest.partition(' - at')[0]}."
    if "length" in reason:
        return f"expected {words}, neither empty nor long."
    return f"expected {words}."


def policy_texts(settings: Settings) -> dict[str, str]:
    """File name -> Cedar text of all policy files.

    Raises:
        OperatorError: ``policy-missing`` or ``policy-unreadable``.
    """
    from glob import glob

    found: dict[str, str] = {}
    for pattern in settings.policy.files:
        names = sorted(glob(pattern, recursive=True))
        if not names:
            raise OperatorError("policy-missing", f"policy.files: nothing matches {pattern}.")
        for name in names:
            try:
                found[name] = Path(name).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise OperatorError("policy-unreadable", f"The policy file {name} cannot be read.") from error
    return found


def resolve(reference: SecretReference, base_dir: Path | None = None) -> Secret:
    """Fetch a secret by its reference; one line end at a file's end does not belong to it.

    Raises:
        OperatorError: ``secret-missing``, ``secret-open`` (others may read the file) or ``secret-invalid``.
    """
    if reference.env is not None:
        value = os.environ.get(reference.env)
        if not value:
            raise OperatorError(
                "secret-missing", f"The environment variable {reference.env} is not set or empty."
            )
        return Secret(value)
    if reference.file is None:
        raise OperatorError(
            "secret-store", "This secret lies in a store, which only a running Doorward asks."
        )
    path = (base_dir or Path()) / reference.file
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read(_SECRET_BYTES + 1)
    except OSError as error:
        raise OperatorError(
            "secret-missing", f"The secret file {path} cannot be read: {error.strerror}."
        ) from error
    if mode & 0o077:
        raise OperatorError(
            "secret-open",
            f"Others on this machine may read or change the secret file {path}: run chmod 600 {path}.",
        )
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content or len(content) > _SECRET_BYTES:
        raise OperatorError("secret-invalid", f"The secret file {path} is empty or too large.")
    return Secret(content)
