"""Rules of ``[servers.NAME] credentials``: what each kind needs, and what would be overlooked."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from doorward.catalogue.server import Credentials, ServerSpec
from doorward.identity.oauth_metadata import is_url, scopes_of
from doorward.settings_common import OPEN_PROFILES, is_loopback

if TYPE_CHECKING:
    from doorward.settings import Settings
    from doorward.settings_load import Reader

_CLIENT = frozenset({"client_id", "client_secret", "private_key", "key_id", "client_auth", "ca_file"})
_WHERE = frozenset({"issuer", "token_url"})
_FITS = {
    "none": frozenset[str](),
    "header": frozenset({"name", "value", "prefix"}),
    "client-credentials": _CLIENT | _WHERE | {"scopes", "resource"},
    "token-exchange": _CLIENT | _WHERE | {"scopes", "resource", "audience", "act"},
    "on-behalf-of": _CLIENT | _WHERE | {"scopes"},
    "oauth": _CLIENT | _WHERE | {"authorize_url", "scopes", "resource"},
}


def check_credentials(spec: ServerSpec, settings: Settings, reader: Reader) -> None:
    """Refuse what cannot work, naming the key."""
    given, here = spec.credentials, ("servers", spec.name, "credentials")
    for name in Credentials.__struct_fields__:
        if name != "type" and name not in _FITS[given.type] and reader.is_written(*here, name):
            fitting = next(kind for kind, names in _FITS.items() if name in names)
            reader.fail("settings-invalid", (*here, name), f'needs type = "{fitting}".')
    if given.type == "header" and given.value is None:
        reader.fail("settings-invalid", here, 'type "header" needs value, a secret reference.')
    if given.is_granted:
        _check_urls(given, settings, here, reader)
        _check_client(given, settings, here, reader)


def _check_urls(given: Credentials, settings: Settings, here: tuple[str, ...], reader: Reader) -> None:
    for name in ("issuer", "token_url", "authorize_url", "resource"):
        url = getattr(given, name)
        if not url:
            continue
        plain = url.startswith("http:") and not (
            is_loopback(urlsplit(url).hostname or "") and settings.gateway.profile in OPEN_PROFILES
        )
        if not is_url(url) or (plain and name != "resource"):
            reader.fail(
                "settings-invalid", (*here, name), "expected an absolute https URL, without user or fragment."
            )
    if given.issuer and given.token_url:
        reader.fail("settings-invalid", (*here, "token_url"), "stands beside issuer; keep one.")
    if given.type != "oauth" and not (given.issuer or given.token_url):
        reader.fail("settings-invalid", here, f'type "{given.type}" needs issuer or token_url.')
    if bool(given.authorize_url) != bool(given.type == "oauth" and given.token_url):
        reader.fail("settings-invalid", here, "authorize_url and token_url belong together.")
    if scopes_of(list(given.scopes)) != given.scopes:
        reader.fail("settings-invalid", (*here, "scopes"), "expected different scopes, each without spaces.")


def _check_client(given: Credentials, settings: Settings, here: tuple[str, ...], reader: Reader) -> None:
    proofs = [name for name in ("client_secret", "private_key") if getattr(given, name) is not None]
    if len(proofs) > 1:
        reader.fail("settings-invalid", (*here, proofs[1]), "stands beside client_secret; keep one.")
    if not given.client_id and (given.type != "oauth" or proofs or given.token_url):
        reader.fail("settings-invalid", here, "needs client_id.")
    if not proofs and given.type in ("client-credentials", "on-behalf-of"):
        reader.fail("settings-invalid", here, "needs client_secret or private_key, a secret reference.")
    wanted = {"private_key_jwt": ["private_key"], "none": []}.get(given.client_auth, ["client_secret"])
    if given.client_auth != "auto" and proofs != wanted:
        reader.fail(
            "settings-invalid", (*here, "client_auth"), f"needs {wanted[0] if wanted else 'no secret'}."
        )
    if given.type in ("token-exchange", "on-behalf-of") and settings.identity.mode == "off":
        reader.fail("settings-invalid", (*here, "type"), "needs callers with a token; identity.mode is off.")
    if given.type == "on-behalf-of" and not given.scopes:
        reader.fail("settings-invalid", here, "needs scopes, such as api://APPLICATION/.default.")
