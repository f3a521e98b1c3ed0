"""The pages that people see at the authorization server: plain HTML without script, every foreign word as text.

Nothing may frame them, load into them or be run by them. A form may lead to the client's redirect URI, because browsers
apply ``form-action`` to the redirects that follow a form as well. The referrer stays within our own origin: with none at
all a browser would send our own forms with the origin "null".
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from doorward.identity.devices import shown_code
from doorward.identity.redirects import Parts

if TYPE_CHECKING:
    from starlette.responses import Response

    from doorward.identity.clients import Client
    from doorward.identity.requests import Asked

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; background: Canvas; color: CanvasText; }
main { max-width: 36rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; line-height: 1.3; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.warning { border-left: .3rem solid #b35900; padding-left: .8rem; }
form { margin: 1.5rem 0; display: flex; gap: .8rem; flex-wrap: wrap; align-items: center; }
button, input { font: inherit; padding: .5rem 1rem; }
input { flex: 1 1 16rem; }
code { overflow-wrap: anywhere; }
"""
FIELDS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Cache-Control": "no-store",
}


def policy(leads_to: str = "") -> str:
    """The content security policy of a page whose form may lead to ``leads_to`` in the end."""
    return (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self'{leads_to and ' ' + leads_to}"
    )


def leads_to(parts: Parts) -> str:
    """What ``form-action`` must allow for this redirect URI; hops that a client's own page makes are https."""
    if parts.scheme == "http":
        # a source list cannot name an IPv6 address (CSP 3 §2.3.1)
        return "http: https:" if parts.host.startswith("[") else f"http://{parts.authority} https:"
    return "https:" if parts.scheme == "https" else f"{parts.scheme}: https:"


def page(title: str, body: str, *, status: int = 200, form_to: str = "") -> Response:
    """A whole page; ``body`` is HTML of ours with foreign words escaped."""
    from starlette.responses import Response

    text = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/oauth/style.css"></head>\n'
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main></body>\n</html>\n"
    )
    fields = {**FIELDS, "Content-Security-Policy": policy(form_to)}
    return Response(text, status, fields, media_type="text/html")


def refusal(tell: str, *, status: int) -> Response:
    """What went wrong, in words of ours; nothing of the request is shown."""
    return page("This cannot go on", f"<p>{escape(tell)}</p>", status=status)


def sign_in(client: Client, sealed: str, command: str, *, failed: str = "") -> Response:
    """Ask who is there. The one way in is a link that the command line made."""
    why = f'<p class="warning" role="alert">{escape(failed)}</p>' if failed else ""
    body = f"""<p><strong>{escape(client.name)}</strong> wants to connect. Sign in first: run</p>
<p><code>{escape(command)}</code></p>
<p>and open the link that it prints in this browser, or paste it here.</p>
{why}
<form method="post" action="/oauth/login">
<input type="hidden" name="transaction" value="{escape(sealed)}">
<label for="ticket">Link or code</label>
<input id="ticket" name="ticket" autocomplete="off" spellcheck="false" required>
<button type="submit">Sign in</button>
</form>"""
    return page("Sign in", body, status=403 if failed else 200)


def confirm_link(user: str, ticket: str, sealed: str) -> Response:
    """Ask before a link signs anybody in: what only looks at links must not use them up."""
    body = f"""<p>This link signs this browser in as <strong>{escape(user)}</strong>. Go on only if you made it yourself.</p>
<form method="post" action="/oauth/login">
<input type="hidden" name="transaction" value="{escape(sealed)}">
<input type="hidden" name="ticket" value="{escape(ticket)}">
<button type="submit">Sign in as {escape(user)}</button>
</form>"""
    return page("Sign in", body)


def signed_in(user: str) -> Response:
    """After a link without a client that waits."""
    body = f"<p>You are signed in as <strong>{escape(user)}</strong>. Now connect from your MCP client.</p>"
    return page("Signed in", body)


def consent(
    client: Client, asked: Asked, parts: Parts | None, sealed: str, *, user: str, provider: str, form_to: str
) -> Response:
    """Ask whether this client may act for this user."""
    rows: list[tuple[str, str]] = [
        ("Program", f"{client.name}"),
        ("Identified by", _identified(client)),
        ("Sends you back to", f"{parts.scheme}://{parts.authority}")
        if parts
        else ("Waits on a device with the code", shown_code(asked.device)),
        ("May use", asked.resource),
        ("Scopes", " ".join(asked.scopes)),
        ("You are", user or f"not signed in yet; you sign in at {provider}"),
    ]
    table = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in rows)
    warnings = "".join(f'<p class="warning">{escape(line)}</p>\n' for line in _warnings(client, parts))
    other = '<button name="decision" value="switch">Another account</button>' if user else ""
    body = f"""<dl>
{table}</dl>
{warnings}<p>It can then do in your name whatever your roles allow there, until you or an operator take it back.</p>
<form method="post" action="/oauth/consent">
<input type="hidden" name="transaction" value="{escape(sealed)}">
<button name="decision" value="approve">Allow</button>
<button name="decision" value="deny">Deny</button>
{other}
</form>"""
    return page(f"Allow {client.name}?", body, form_to=form_to)


def device(code: str) -> Response:
    """Ask for the code that a device shows."""
    body = f"""<p>Type the code that your device shows.</p>
<form method="post" action="/oauth/device">
<label for="user_code">Code</label>
<input id="user_code" name="user_code" value="{escape(code and shown_code(code))}" autocomplete="off" spellcheck="false" required>
<button type="submit">Go on</button>
</form>"""
    return page("Connect a device", body)


def device_done(*, agreed: bool) -> Response:
    """After a decision: the rest happens at the device."""
    told = "Your device is connected. You can close this page." if agreed else "Your device was refused."
    return page("Connected" if agreed else "Refused", f"<p>{told}</p>")


def _identified(client: Client) -> str:
    if client.kind == "document":
        return f"{client.host} ({client.id})"
    return (
        "the operator of this gateway"
        if client.kind == "settings"
        else f"nobody: it registered itself ({client.id})"
    )


def _warnings(client: Client, parts: Parts | None) -> Sequence[str]:
    found = []
    if parts is None:
        found.append(
            "Allow only if this code is on a device before you that you have just started yourself. Nobody honest sends you a code."
        )
    elif parts.is_loopback:
        found.append(
            "It runs on this computer, and any program on this computer can claim to be it. Allow only what you have just started yourself."
        )
    elif parts.scheme != "https":
        found.append(
            f"It is opened by links that begin with {parts.scheme}:, and any program on this computer can claim those."
        )
    if client.kind == "registered":
        found.append("It chose its own name, and nobody has checked it.")
    return found
