"""Secrets from stores: HashiCorp Vault or OpenBao (KV version 2), Azure Key Vault, and the system's keyring.

Whoever asks blocks: the stores are asked on an event loop of their own, in the caller's thread. Answers are believed only in
the form that the store's contract has; what a store says in words is never repeated, for it may hold what was asked for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from doorward.adapters.guarded_http import Fetched, GuardedHttp
from doorward.base.addresses import Address, NetworkRules, Target, parse_target
from doorward.base.errors import OperatorError, UpstreamError
from doorward.catalogue.server import parts_of

KEYVAULT_API = "7.5"
SECRET_BYTES = 65_536
_ANSWER_BYTES = 262_144
_TRIES = 3  # of a read that the store put off
_WAIT_SECONDS = 2.0  # at most before the next of them
_SKEW_SECONDS = 30.0
_IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"
Found = TypeVar("Found")
Reveal = Callable[[], bytes]  # reads the store's own credential, from a file or variable


class MachineRules(NetworkRules, frozen=True):
    """The usual rules, and beside them the one fixed address where a machine in Azure asks who it is."""

    def admit(self, url: str) -> Target:
        """See ``NetworkRules``."""
        return parse_target(url) if url.startswith(_IMDS + "?") else super().admit(url)

    def admit_address(self, target: Target, address: Address) -> None:
        """See ``NetworkRules``."""
        if not target.url.startswith(_IMDS + "?"):
            super().admit_address(target, address)


class Vault(msgspec.Struct, frozen=True):
    """How a Vault is reached; ``proof`` reads the token, or the AppRole's secret id where there is a ``role_id``."""

    url: str
    proof: Reveal
    namespace: str = ""
    role_id: str = ""
    approle_mount: str = "approle"
    ca_file: str | None = None


class KeyVault(msgspec.Struct, frozen=True):
    """How Key Vaults are reached; without ``proof`` as the machine that Doorward runs on."""

    tenant: str
    client_id: str
    proof: Reveal | None
    authority: str
    dns_suffix: str
    identity_endpoint: str = ""
    ca_file: str | None = None


class SecretStores:
    """Every store of the settings. Raises everywhere: OperatorError ``secret-missing``, ``-denied`` or ``-store``."""

    def __init__(
        self,
        rules: NetworkRules,
        vault: Vault | None,
        keyvault: KeyVault | None,
        *,
        resolve: Any = None,
        wait: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        self._rules = MachineRules(rules.allow, rules.plain_loopback)
        self._vault = vault
        self._keyvault = keyvault
        self._resolve = resolve
        self._wait = wait
        self._turn = threading.Lock()
        self._login: tuple[str, float] = ("", 0.0)  # Vault: token, and when it is over by our monotonic clock
        self._tokens: dict[str, tuple[str, float]] = {}  # Azure: by resource

    def vault(self, place: str) -> bytes:
        """The field of ``mount/path#field``."""
        parts = parts_of("vault", place)
        if parts is None:
            raise OperatorError("secret-invalid", 'A vault reference is "mount/path#field".')
        if self._vault is None:
            raise _unset("secrets.vault.url")
        vault, (mount, path, field) = self._vault, parts
        return self._on_own_loop(lambda http: self._read_vault(http, vault, mount, path, field))

    def keyvault(self, place: str) -> bytes:
        """The secret of ``vault-name/secret`` or ``vault-name/secret/version``."""
        parts = parts_of("keyvault", place)
        if parts is None:
            raise OperatorError(
                "secret-invalid",
                'A keyvault reference is "vault-name/secret" or "vault-name/secret/version".',
            )
        if self._keyvault is None:
            raise _unset("secrets.keyvault")
        store, (name, secret, version) = self._keyvault, parts
        return self._on_own_loop(lambda http: self._read_keyvault(http, store, name, secret, version))

    def keyring(self, place: str) -> bytes:
        """The password of ``service/name`` in the system's keyring."""
        parts = parts_of("keyring", place)
        if parts is None:
            raise OperatorError("secret-invalid", 'A keyring reference is "service/name".')
        try:
            keyring: Any = import_module("keyring")
            broken: Any = import_module("keyring.errors").KeyringError
        except ImportError as error:
            raise OperatorError(
                "secret-store", 'The keyring needs the optional part: pip install "doorward[keyring]".'
            ) from error
        try:
            backend = keyring.get_keyring()
            # SECURITY: what keeps text in a file for anybody, or fails whatever it is asked, is no keyring.
            if backend.priority < 1:
                raise OperatorError(
                    "secret-store", "This machine has no keyring that protects what it keeps; use file."
                )
            found = backend.get_password(parts[0], parts[1])
        except (broken, RuntimeError, NotImplementedError) as error:
            raise OperatorError(
                "secret-store", "The system's keyring cannot be used.", type(error).__name__
            ) from error
        return _value(found, "the keyring")

    # -- Vault and OpenBao --------------------------------------------------------------------------------------

    async def _read_vault(self, http: GuardedHttp, vault: Vault, mount: str, path: str, field: str) -> bytes:
        url = f"{vault.url.rstrip('/')}/v1/{quote(mount)}/data/{quote(path)}"
        got = await self._get(http, url, await self._vault_fields(http, vault), vault.ca_file)
        if got.status == 403 and vault.role_id:  # the token of the last sign-in was ended
            self._login = ("", 0.0)
            got = await self._get(http, url, await self._vault_fields(http, vault), vault.ca_file)
        _check(got, "the vault")
        data = _member(_member(_json(got), "data"), "data")
        if not isinstance(data, dict) or field not in data:  # KV 2 says null for a deleted version
            raise OperatorError("secret-missing", "The vault has no such field.")
        return _value(data[field], "the vault")

    async def _vault_fields(self, http: GuardedHttp, vault: Vault) -> list[tuple[str, str]]:
        fields = [("Accept", "application/json"), ("X-Vault-Request", "true")]
        if vault.namespace:
            fields.append(("X-Vault-Namespace", vault.namespace))
        if not vault.role_id:
            return [*fields, ("X-Vault-Token", _line(vault.proof()))]
        token, until = self._login
        if not token or time.monotonic() >= until:
            body = msgspec.json.encode({"role_id": vault.role_id, "secret_id": _line(vault.proof())})
            url = f"{vault.url.rstrip('/')}/v1/auth/{quote(vault.approle_mount)}/login"
            got = await self._again(
                lambda: http.post(
                    url,
                    [*fields, ("Content-Type", "application/json")],
                    body,
                    ca_file=vault.ca_file,
                    limit_bytes=_ANSWER_BYTES,
                )
            )
            if got.status == 400:  # Vault says so of a wrong role or secret id
                raise _denied("the vault")
            _check(got, "the vault")
            auth = _member(_json(got), "auth")
            token, lease = _member(auth, "client_token"), _member(auth, "lease_duration")
            if not isinstance(token, str) or not isinstance(lease, int) or isinstance(lease, bool):
                raise _broken("the vault")
            # A lease of 0 does not end.
            self._login = (token, time.monotonic() + (lease * 0.8 if lease > 0 else 3_600.0))
        return [*fields, ("X-Vault-Token", _line(token.encode()))]

    # -- Azure Key Vault ----------------------------------------------------------------------------------------

    async def _read_keyvault(
        self, http: GuardedHttp, store: KeyVault, name: str, secret: str, version: str
    ) -> bytes:
        place = f"{secret}/{version}" if version else secret
        url = f"https://{name.lower()}.{store.dns_suffix}/secrets/{place}?api-version={KEYVAULT_API}"
        resource = f"https://{store.dns_suffix.partition(':')[0]}"

        async def read() -> Fetched:
            token = await self._azure_token(http, store, resource)
            fields = [("Accept", "application/json"), ("Authorization", f"Bearer {token}")]
            return await self._get(http, url, fields, store.ca_file)

        got = await read()
        if got.status == 401:  # the token was ended before its time
            self._tokens.clear()
            got = await read()
        _check(got, "the key vault")
        told = _json(got)
        attributes = told.get("attributes") if isinstance(told, dict) else None
        if isinstance(attributes, dict) and attributes.get("enabled") is False:
            raise OperatorError("secret-missing", "The key vault has this secret switched off.")
        return _value(_member(told, "value"), "the key vault")

    async def _azure_token(self, http: GuardedHttp, store: KeyVault, resource: str) -> str:
        token, until = self._tokens.get(resource, ("", 0.0))
        if token and time.monotonic() < until:
            return token
        if store.proof is None:
            got = await self._machine_token(http, store, resource)
        else:
            form = {
                "grant_type": "client_credentials",
                "client_id": store.client_id,
                "client_secret": _line(store.proof()),
                "scope": f"{resource}/.default",
            }
            url = f"{store.authority.rstrip('/')}/{quote(store.tenant)}/oauth2/v2.0/token"
            fields = [("Accept", "application/json"), ("Content-Type", "application/x-www-form-urlencoded")]
            body = urlencode(form).encode()
            got = await self._again(
                lambda: http.post(url, fields, body, ca_file=store.ca_file, limit_bytes=_ANSWER_BYTES)
            )
        if got.status in (400, 401):
            raise _denied("the directory")
        _check(got, "the directory")
        told = _json(got)
        token, lifetime = _member(told, "access_token"), _member(told, "expires_in")
        if (
            isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdigit()
        ):  # managed identities say it as text
            lifetime = int(lifetime[:9])
        if not isinstance(token, str) or isinstance(lifetime, bool) or not isinstance(lifetime, int):
            raise _broken("the directory")
        self._tokens[resource] = (
            _line(token.encode()),
            time.monotonic() + max(0.0, lifetime - _SKEW_SECONDS),
        )
        return token

    async def _machine_token(self, http: GuardedHttp, store: KeyVault, resource: str) -> Fetched:
        """From the machine's own endpoint, which is opened for nothing else."""
        query = {"api-version": "2018-02-01", "resource": resource}
        if store.client_id:
            query["client_id"] = store.client_id
        url = f"{store.identity_endpoint or _IMDS}?{urlencode(query)}"
        return await self._again(
            lambda: http.get(
                url, fields=[("Metadata", "true"), ("Accept", "application/json")], limit_bytes=_ANSWER_BYTES
            )
        )

    # -- asking -------------------------------------------------------------------------------------------------

    async def _get(
        self, http: GuardedHttp, url: str, fields: list[tuple[str, str]], ca_file: str | None
    ) -> Fetched:
        return await self._again(
            lambda: http.get(url, fields=fields, ca_file=ca_file, limit_bytes=_ANSWER_BYTES)
        )

    async def _again(self, ask: Callable[[], Coroutine[Any, Any, Fetched]]) -> Fetched:
        """Ask, and again where the store puts off (429, 5xx, Vault's 412 and 473)."""
        for number in range(1, _TRIES + 1):
            got = await ask()
            if got.status not in (412, 429, 473) and got.status < 500 or number == _TRIES:
                return got
            after = got.fields.get("retry-after", "")
            seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.2 * number
            await self._wait(min(seconds, _WAIT_SECONDS))
        raise AssertionError  # the loop always returns

    def _on_own_loop(self, work: Callable[[GuardedHttp], Coroutine[Any, Any, Found]]) -> Found:
        async def run() -> Found:
            http = GuardedHttp(self._rules, resolve=self._resolve)
            try:
                return await work(http)
            except UpstreamError as error:
                raise OperatorError(
                    "secret-store", f"The secret store cannot be reached: {error.tell}", error.detail
                ) from error
            finally:
                http.close()

        found: list[Found] = []
        failed: list[BaseException] = []

        def own() -> None:
            try:
                found.append(asyncio.run(run()))
            except BaseException as error:  # noqa: BLE001 - raised where it was asked for
                failed.append(error)

        with self._turn:  # one sign-in serves all that wait
            thread = threading.Thread(target=own, name="secret-store")
            thread.start()
            thread.join()
        if failed:
            raise failed[0]
        return found[0]


def _check(got: Fetched, who: str) -> None:
    match got.status:
        case 200:
            return
        case 401 | 403:
            raise _denied(who)
        case 404:
            raise OperatorError("secret-missing", f"There is no such secret in {who}.")
        case _:
            raise OperatorError("secret-store", f"The answer of {who} was {got.status}.")


def _json(got: Fetched) -> Any:
    if got.media_type != "application/json":
        raise _broken("the secret store")
    try:
        return msgspec.json.decode(got.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _broken("the secret store") from None


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise _broken("the secret store")
    return value[name]


def _value(value: Any, who: str) -> bytes:
    if value is None:
        raise OperatorError("secret-missing", f"There is no such secret in {who}.")
    if not isinstance(value, str) or not value or len(value.encode()) > SECRET_BYTES:
        raise OperatorError("secret-invalid", f"The secret in {who} is no text, empty or too large.")
    return value.encode()


def _line(value: bytes) -> str:
    text = value.decode("latin-1")
    if not text or not all("!" <= char <= "~" for char in text):
        raise OperatorError("secret-invalid", "The store's own credential is no plain word.")
    return text


def _denied(who: str) -> OperatorError:
    return OperatorError("secret-denied", f"Doorward may not read this secret: {who} refused it.")


def _broken(who: str) -> OperatorError:
    return OperatorError("secret-store", f"The answer of {who} is not what its contract says.")


def _unset(key: str) -> OperatorError:
    return OperatorError("secret-store", f"{key} is not set.")
