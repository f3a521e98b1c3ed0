"""Vault, OpenBao and Azure Key Vault by their wire contracts, with every refusal and delay that they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.adapters.secret_stores import KeyVault, MachineRules, SecretStores, Vault
from doorward.base.addresses import NetworkRules
from doorward.base.errors import OperatorError, UpstreamError
from tests.stand_ins.secret_stores import FakeAzure, FakeVault
from tests.wire.tls_kit import Authority

CANARY = "canary-stored-88f1"
NAME = "team-1.vault.azure.net"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def vault(authority: Authority) -> Iterator[FakeVault]:
    made = FakeVault(authority.server("127.0.0.1"))
    made.data["secret/team/tickets"] = {"token": CANARY, "number": 7, "empty": ""}
    yield made
    made.close()


@pytest.fixture
def azure(authority: Authority) -> Iterator[FakeAzure]:
    made = FakeAzure(authority.server(NAME))
    made.secrets = {"tickets": CANARY, "tickets/" + "a" * 32: "older"}
    yield made
    made.close()


class Waits:
    """Delays that were asked for, none of them waited."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def vault_stores(
    vault: FakeVault, authority: Authority | None, *, proof: bytes = b"hvs.root", **more: Any
) -> SecretStores:
    rules = NetworkRules.of([f"127.0.0.1:{vault.port}"], plain_loopback=True)
    waits = more.pop("waits", Waits())
    given = Vault(
        f"https://127.0.0.1:{vault.port}",
        lambda: proof,
        ca_file=str(authority.file) if authority else None,
        **more,
    )
    return SecretStores(rules, given, None, wait=waits)


def azure_stores(azure: FakeAzure, authority: Authority, **more: Any) -> SecretStores:
    # The directory and the vault have the names that their certificates are for; only their addresses are here.
    allow = [f"{NAME}:{azure.port}", f"127.0.0.1:{azure.port}"]
    given: dict[str, Any] = {
        "tenant": azure.tenant, "client_id": azure.client, "proof": lambda: azure.secret.encode(),
        "authority": f"https://{NAME}:{azure.port}", "dns_suffix": f"vault.azure.net:{azure.port}",
        "ca_file": str(authority.file), **more,
    }  # fmt: skip

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    return SecretStores(
        NetworkRules.of(allow, plain_loopback=True), None, KeyVault(**given), resolve=here, wait=Waits()
    )


def refused(read: Callable[[], bytes], code: str) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        read()
    assert caught.value.code == code, caught.value
    for text in (caught.value.tell, caught.value.detail, str(caught.value)):
        assert CANARY not in text
    return caught.value


# -- Vault ------------------------------------------------------------------------------------------------------------


def test_a_field_is_read_with_a_token_and_a_changed_one_read_anew(
    vault: FakeVault, authority: Authority
) -> None:
    stores = vault_stores(vault, authority)
    assert stores.vault("secret/team/tickets#token") == CANARY.encode()
    vault.data["secret/team/tickets"] = {"token": "changed"}
    assert stores.vault("secret/team/tickets#token") == b"changed"
    assert [one[1] for one in vault.asked] == ["/v1/secret/data/team/tickets"] * 2


def test_a_namespace_is_named(vault: FakeVault, authority: Authority) -> None:
    vault.namespace = "admin/team"
    assert (
        vault_stores(vault, authority, namespace="admin/team").vault("secret/team/tickets#token")
        == CANARY.encode()
    )
    refused(lambda: vault_stores(vault, authority).vault("secret/team/tickets#token"), "secret-store")


def test_an_approle_signs_in_once_and_again_when_its_token_was_ended(
    vault: FakeVault, authority: Authority
) -> None:
    vault.roles["role-1"] = "sid"
    stores = vault_stores(vault, authority, proof=b"sid", role_id="role-1")
    for _ in range(3):
        assert stores.vault("secret/team/tickets#token") == CANARY.encode()
    logins = [one for one in vault.asked if one[1].endswith("/login")]
    assert len(logins) == 1
    assert "x-vault-token" not in logins[0][3]
    vault.tokens.clear()
    assert stores.vault("secret/team/tickets#token") == CANARY.encode()
    wrong = vault_stores(vault, authority, proof=b"wrong", role_id="role-1")
    refused(lambda: wrong.vault("secret/team/tickets#token"), "secret-denied")


def test_a_lease_that_is_over_signs_in_again(vault: FakeVault, authority: Authority) -> None:
    vault.roles["role-1"] = "sid"
    vault.lease = 0
    stores = vault_stores(vault, authority, proof=b"sid", role_id="role-1")
    stores.vault("secret/team/tickets#token")
    stores._login = (stores._login[0], 0.0)
    stores.vault("secret/team/tickets#token")
    assert len([one for one in vault.asked if one[1].endswith("/login")]) == 2


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("secret/nothing#token", "secret-missing"), ("secret/team/tickets#other", "secret-missing"),
        ("secret/gone#token", "secret-missing"), ("secret/team/tickets#number", "secret-invalid"),
        ("secret/team/tickets#empty", "secret-invalid"), ("secret/../sys/seal#x", "secret-invalid"),
        ("secret//x#y", "secret-invalid"), ("secret/team/tickets", "secret-invalid"), ("secret/a%2f..#y", "secret-invalid"),
        ("secret/a?version=1#y", "secret-invalid"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_no_text(vault: FakeVault, authority: Authority, place: str, code: str) -> None:
    vault.data["secret/gone"] = None
    refused(lambda: vault_stores(vault, authority).vault(place), code)


def test_a_token_that_may_not_read_is_denied(vault: FakeVault, authority: Authority) -> None:
    refused(
        lambda: vault_stores(vault, authority, proof=b"other").vault("secret/team/tickets#token"),
        "secret-denied",
    )
    refused(
        lambda: vault_stores(vault, authority, proof=b"a\r\nX: y").vault("secret/team/tickets#token"),
        "secret-invalid",
    )


@pytest.mark.parametrize("status", [412, 429, 473, 500, 503])
def test_a_vault_that_puts_off_is_asked_again_and_not_for_ever(
    vault: FakeVault, authority: Authority, status: int
) -> None:
    waits = Waits()
    vault.faults = [(status, {"errors": [CANARY]}, {"Retry_After": "1"})] * 2
    assert vault_stores(vault, authority, waits=waits).vault("secret/team/tickets#token") == CANARY.encode()
    assert waits.seconds == [1.0, 1.0]
    vault.faults = [(status, {"errors": [CANARY]}, {"Retry_After": "86400"})] * 9
    refused(
        lambda: vault_stores(vault, authority, waits=waits).vault("secret/team/tickets#token"), "secret-store"
    )
    assert max(waits.seconds) <= 2.0


@pytest.mark.parametrize(
    ("status", "body", "fields"),
    [
        (200, b"{", {}), (200, [], {}), (200, {"data": {"token": CANARY}}, {}), (200, {"data": {"data": [CANARY]}}, {}),
        (200, {"data": {"data": {"token": CANARY}}}, {"Content_Type": "text/html"}), (302, {}, {"Location": "https://evil.example/"}),
        (204, b"", {}), (307, {}, {"Location": "/v1/other"}),
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_not_believed(
    vault: FakeVault, authority: Authority, status: int, body: Any, fields: dict[str, str]
) -> None:
    vault.faults = [(status, body, fields)]
    with pytest.raises(OperatorError) as caught:
        vault_stores(vault, authority).vault("secret/team/tickets#token")
    assert caught.value.code in ("secret-store", "secret-missing")
    assert len(vault.asked) == 1, "no redirect is followed with a token"


def test_a_certificate_that_does_not_hold_gets_no_token(vault: FakeVault, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    refused(
        lambda: vault_stores(vault, Authority(tmp_path / "other")).vault("secret/team/tickets#token"),
        "secret-store",
    )
    refused(lambda: vault_stores(vault, None).vault("secret/team/tickets#token"), "secret-store")
    assert vault.asked == []


def test_a_vault_that_is_not_there_or_not_allowed(authority: Authority, vault: FakeVault) -> None:
    stores = vault_stores(vault, authority)
    closed = SecretStores(NetworkRules.of([], plain_loopback=True), stores._vault, None)
    refused(lambda: closed.vault("secret/team/tickets#token"), "secret-store")
    assert vault.asked == []
    refused(lambda: SecretStores(NetworkRules(), None, None).vault("secret/a#b"), "secret-store")


# -- Azure Key Vault --------------------------------------------------------------------------------------------------


def test_a_secret_is_read_as_an_application_with_one_token_for_all(
    azure: FakeAzure, authority: Authority
) -> None:
    stores = azure_stores(azure, authority)
    assert stores.keyvault("team-1/tickets") == CANARY.encode()
    assert stores.keyvault("team-1/tickets/" + "a" * 32) == b"older"
    azure.secrets["tickets"] = "rotated"
    assert stores.keyvault("team-1/tickets") == b"rotated"
    assert len([one for one in azure.asked if one[0] == "POST"]) == 1
    assert [one[1] for one in azure.asked if one[0] == "GET"] == [
        "/secrets/tickets",
        "/secrets/tickets/" + "a" * 32,
        "/secrets/tickets",
    ]


def test_a_token_that_was_ended_is_got_anew_once(azure: FakeAzure, authority: Authority) -> None:
    stores = azure_stores(azure, authority)
    stores.keyvault("team-1/tickets")
    azure.tokens.clear()
    assert stores.keyvault("team-1/tickets") == CANARY.encode()
    azure.faults = [(401, {}, {}), (200, {"access_token": "eyJ.x", "expires_in": 3599}, {}), (401, {}, {})]
    refused(lambda: stores.keyvault("team-1/tickets"), "secret-denied")


def test_the_machine_itself_can_be_who_asks(azure: FakeAzure, authority: Authority) -> None:
    endpoint = f"https://{NAME}:{azure.port}/metadata/identity/oauth2/token"
    # The machine's endpoint is asked without a file of authorities; here TLS stands in its way, which must not be skipped.
    stores = azure_stores(azure, authority, proof=None, identity_endpoint=endpoint)
    refused(lambda: stores.keyvault("team-1/tickets"), "secret-store")
    plain = FakeAzure()
    try:
        endpoint = f"http://127.0.0.1:{plain.port}/metadata/identity/oauth2/token"
        plain.make = lambda: next(iter(azure.tokens))
        azure.tokens.add("eyJ.machine")
        stores = azure_stores(azure, authority, proof=None, identity_endpoint=endpoint)
        stores._rules = MachineRules(stores._rules.allow | {f"127.0.0.1|{plain.port}"}, plain_loopback=True)
        assert stores.keyvault("team-1/tickets") == CANARY.encode()
        assert plain.asked[0][3]["metadata"] == "true"
    finally:
        plain.close()


def test_the_machines_fixed_address_is_open_for_this_and_nothing_else() -> None:
    from doorward.adapters import secret_stores

    rules = MachineRules(frozenset(), plain_loopback=False)
    url = secret_stores._IMDS + "?api-version=2018-02-01&resource=x"
    target = rules.admit(url)
    assert target.literal is not None
    rules.admit_address(target, target.literal)
    for other in (
        "http://169.254.169.254/latest/meta-data/", "http://169.254.169.254/metadata/instance?api-version=1",
        "http://169.254.169.254/metadata/identity/oauth2/token", "http://169.254.169.253/metadata/identity/oauth2/token?x",
        "https://169.254.169.254/metadata/identity/oauth2/token?x", "http://127.0.0.1/metadata/identity/oauth2/token?x",
    ):  # fmt: skip
        with pytest.raises(UpstreamError):
            rules.admit(other)
    for kind in (rules, NetworkRules()):
        with pytest.raises(UpstreamError):
            NetworkRules.admit(kind, url)


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("team-1/nothing", "secret-missing"), ("team-1/off", "secret-missing"), ("team-1/tickets/zzz", "secret-invalid"),
        ("team-1.evil.example/tickets", "secret-invalid"), ("team-1/a/b/c", "secret-invalid"), ("x", "secret-invalid"),
        ("team-1/..", "secret-invalid"), ("team-1/a?b", "secret-invalid"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_no_name(azure: FakeAzure, authority: Authority, place: str, code: str) -> None:
    azure.secrets["off"] = CANARY
    azure.disabled.add("off")
    refused(lambda: azure_stores(azure, authority).keyvault(place), code)


def test_a_wrong_application_is_denied_without_its_secret_in_words(
    azure: FakeAzure, authority: Authority
) -> None:
    error = refused(
        lambda: azure_stores(azure, authority, proof=lambda: b"wrong-secret-1").keyvault("team-1/tickets"),
        "secret-denied",
    )
    assert "wrong-secret-1" not in str(error) + error.detail


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_key_vault_that_puts_off_is_asked_again(
    azure: FakeAzure, authority: Authority, status: int
) -> None:
    stores = azure_stores(azure, authority)
    stores.keyvault("team-1/tickets")
    azure.faults = [(status, {"error": {}}, {"Retry_After": "2"})] * 2
    assert stores.keyvault("team-1/tickets") == CANARY.encode()
    azure.faults = [(status, {"error": {}}, {})] * 3
    refused(lambda: stores.keyvault("team-1/tickets"), "secret-store")


@pytest.mark.parametrize("body", [b"x", {}, {"value": 3}, {"value": ""}, {"value": "x" * 70_000}, []])
def test_an_answer_of_another_form_is_no_secret(azure: FakeAzure, authority: Authority, body: Any) -> None:
    stores = azure_stores(azure, authority)
    stores.keyvault("team-1/tickets")
    azure.faults = [(200, body, {})]
    with pytest.raises(OperatorError):
        stores.keyvault("team-1/tickets")


# -- the keyring ------------------------------------------------------------------------------------------------------


def test_a_machine_without_a_keyring_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    stores = SecretStores(NetworkRules(), None, None)
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "doorward[keyring]" in refused(lambda: stores.keyring("doorward/tickets"), "secret-store").tell
    refused(lambda: stores.keyring("tickets"), "secret-invalid")


def test_a_keyring_that_protects_is_read_and_one_that_does_not_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys
    from types import ModuleType, SimpleNamespace

    class KeyringError(Exception):
        pass

    kept = {("doorward", "tickets/api"): CANARY}
    backend = SimpleNamespace(priority=5, get_password=lambda service, name: kept.get((service, name)))
    module, errors = ModuleType("keyring"), ModuleType("keyring.errors")
    module.get_keyring = lambda: backend  # type: ignore[attr-defined]
    errors.KeyringError = KeyringError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    stores = SecretStores(NetworkRules(), None, None)
    assert stores.keyring("doorward/tickets/api") == CANARY.encode()
    refused(lambda: stores.keyring("doorward/other"), "secret-missing")
    backend.priority = 0.5
    refused(lambda: stores.keyring("doorward/tickets/api"), "secret-store")

    def locked(*_: str) -> str:
        raise KeyringError(CANARY)

    backend.priority, backend.get_password = 5, locked
    refused(lambda: stores.keyring("doorward/tickets/api"), "secret-store")
