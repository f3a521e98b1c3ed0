"""Identity assertions of the enterprise's own provider instead of a browser (ID-JAG; MCP enterprise-managed authorization, AS-37).

The provider has decided already that this client may act for this user at this server, so nobody is asked again; which
clients may come this way, the operator says. An assertion counts once, for one client, one resource and us alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from doorward.identity.assertions import ALGORITHMS, BadAssertion, audiences, check_times, verified
from doorward.identity.clients import ID_JAG, Client
from doorward.identity.oauth_forms import Form, OAuthRefusal
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.requests import plain_resource

TYPE = "oauth-id-jag+jwt"
LONGEST_SECONDS = 3_600.0


def check_client(client: Client) -> None:
    """See that a client may come with assertions. Raises: OAuthRefusal ``unauthorized_client``."""
    if ID_JAG not in client.grants or client.is_public:
        raise OAuthRefusal("unauthorized_client", "This client may not come with assertions.")


def read_id_jag(
    form: Form,
    jwks: Mapping[str, Any],
    client: Client,
    *,
    provider: str,
    issuer: str,
    algorithms: tuple[str, ...],
    resources: Collection[str],
    store: Store,
    now: float,
) -> tuple[dict[str, Any], str]:
    """The claims and the resource of the assertion in a token request. Raises: OAuthRefusal, StoreError."""
    if not form.get("assertion"):
        raise OAuthRefusal("invalid_request", "assertion is missing.")
    try:
        claims = verified(form.get("assertion"), jwks, types=(TYPE,), algorithms=algorithms or ALGORITHMS)
        expires_at = check_times(claims, now, longest=LONGEST_SECONDS)
    except BadAssertion as error:
        raise _bad(str(error)) from None
    if claims.get("iss") != provider:
        raise _bad("another issuer")
    if audiences(claims) != (issuer,):
        raise _bad("for another authorization server")
    if claims.get("client_id") != client.id:
        raise _bad("for another client")
    resource = _resource(claims.get("resource"), form, resources)
    token_id = claims.get("jti")
    if not isinstance(token_id, str) or not 0 < len(token_id) <= 256:
        raise _bad("jti is missing")
    if not store.mark_once("oauth-id-jag", hashed(f"{provider} {token_id}"), expires_at + 60.0, now):
        raise _bad("used before")
    return claims, resource


def _resource(claimed: object, form: Form, resources: Collection[str]) -> str:
    named = [claimed] if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
    allowed = {plain_resource(one) for one in named if isinstance(one, str)}
    asked = {plain_resource(one) for one in form.resources} or allowed
    if len(asked) != 1 or not asked <= allowed or not asked <= set(resources):
        raise OAuthRefusal("invalid_target", "The assertion is not for this resource.")
    return asked.pop()


def _bad(reason: str) -> OAuthRefusal:
    tell = "The assertion does not hold for this client and this gateway, or was used before."
    return OAuthRefusal("invalid_grant", tell, reason=f"ID-JAG: {reason}")
