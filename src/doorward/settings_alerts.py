"""Settings of alerts: ``[alerts]``, who is told when something must not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec

from doorward.catalogue.server import SecretReference
from doorward.identity.oauth_metadata import is_url
from doorward.settings_common import OPEN_PROFILES, is_loopback
from doorward.settings_meta import says as _says

if TYPE_CHECKING:
    from doorward.settings import Settings
    from doorward.settings_load import Reader


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[alerts.webhooks]]``: one receiver."""

    url: Annotated[str, _says("Where alerts are posted as JSON; https.")]
    secret: Annotated[
        SecretReference | None,
        _says(
            "Reference to a key; posts are then signed: X-Doorward-Signature is t=TIME,v1=HMAC-SHA256 of TIME.BODY."
        ),
    ] = None
    ca_file: Annotated[
        str, _says("Authorities (PEM) that alone are trusted; empty is those of the system.")
    ] = ""


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[alerts]``: what must not wait until somebody looks."""

    repeat_seconds: Annotated[
        float, _says("The same alert is counted, not sent again, for this long.", ge=1, le=86_400)
    ] = 300.0
    webhooks: Annotated[tuple[WebhookSettings, ...], _says("Receivers of alerts.")] = ()


def check_alerts(settings: Settings, reader: Reader) -> None:
    """Receivers have URLs that can be reached safely."""
    for index, hook in enumerate(settings.alerts.webhooks):
        loopback = (
            is_loopback(urlsplit(hook.url).hostname or "") and settings.gateway.profile in OPEN_PROFILES
        )
        if not is_url(hook.url) or (hook.url.startswith("http:") and not loopback):
            reader.fail(
                "settings-invalid", ("alerts", "webhooks", index, "url"), "expected an absolute https URL."
            )
    names = [one.name for one in settings.secrets.honeytokens]
    for index, one in enumerate(settings.secrets.honeytokens):
        if len(one.sha256) != 64 or not set(one.sha256) <= set("0123456789abcdef"):
            reader.fail(
                "settings-invalid",
                ("secrets", "honeytokens", index, "sha256"),
                "expected 64 hexadecimal digits, as `doorward secrets honeytoken` prints them; the token itself never stands here.",
            )
        if names.count(one.name) > 1:
            reader.fail("settings-invalid", ("secrets", "honeytokens", index, "name"), "stands there twice.")
