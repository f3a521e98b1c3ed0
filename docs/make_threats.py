"""Write docs/threat-model.md: threats, and for each the controls whose `covers` and `partly` name its catalogue ids.

`python docs/make_threats.py` writes it, `--check` only says whether it is current (exit 1 if not).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

HOME = Path(__file__).resolve().parent.parent
PAGE = HOME / "docs" / "threat-model.md"
sys.path.insert(0, str(HOME / "src"))


class Threat(NamedTuple):
    """What somebody may try, what then happens, and which ids of the catalogue it is about.

    ``also`` names controls that stand against it although the catalogue has no id for what they do.
    """

    title: str
    what: str
    then: str
    ids: tuple[str, ...]
    also: tuple[str, ...] = ()


OPENING = """# Threat model

Written by `docs/make_threats.py`; the tables of controls come from what each control claims. Run `make format` after a change.

## What is protected

* The tools, prompts and resources of the MCP servers behind Doorward, and what they can reach.
* The credentials that Doorward holds: signing keys, secrets for upstreams, access tokens on their way.
* The machine on which local servers run: home folder, network, other processes.
* The record of who did what.

## Who is trusted with what

```
   not trusted                  │  trusted with its own calls  │  trusted                       │  not trusted
 web pages, other machines,     │  a client with a token       │  operator, settings, policies, │  MCP servers: what they say,
 programs without a token       │                              │  data_dir, the supervisor      │  list, return and ask for
 ───────────────────────────────┼──▶ data plane ───────────────┼──▶ pipeline, ledger ───────────┼──▶ HTTP or caged stdio
                        boundary 1                      boundary 2                       boundary 3
```

1. **Network to data plane.** Everything that arrives is hostile until framing, Host, Origin and token are in order.
2. **Caller to policy.** A token names a principal; what it may do is decided for each message. Sessions prove nothing.
3. **Gateway to servers.** A server is not believed either: sizes, times, framing and message shapes are checked, lists are
   filtered, and what it asks of the client is gated. What goes to it is written anew.
4. **Workers to supervisor.** Workers parse what peers send. They hold neither the ledger's signing key nor the key that signs
   tokens; they reach the supervisor over a socket pair that has no name. They run as the same user, so this is a wall
   against mistakes and leaks, not against a worker that was taken over.
5. **Operators to admin plane.** A separate listener with a token, and a socket that only Doorward's own user and root can use.

## Threats
"""

THREATS = (
    Threat(
        "A call without a good token",
        "Somebody calls without a token, with one that ran out, was revoked, was forged, or was issued for another server.",
        "401 or 403 with a challenge, before the body is read. Wrong tokens are remembered, and an address that sends many gets 429.",
        ("M1", "M2", "S1.3", "S1.4"),
    ),
    Threat(
        "Another issuer's tokens are mistaken",
        "An ID token, a token of another tenant or of a withdrawn key, or one signed with a public key as a secret, is taken for good; or an "
        "issuer that cannot be asked lets everybody in.",
        "Each issuer has its own trust: algorithms, audience, clients, tenants, roles. Without its keys or its answer the door is closed (503).",
        ("M1", "S1.2"),
        ("check-token",),
    ),
    Threat(
        "A URL leads Doorward into an inner network",
        "Metadata, keys or a redirect name loopback, metadata services or inner hosts, or a name that resolves otherwise the second time.",
        "One client fetches what others name: https, one spelling, every address of the answer judged, connected to the judged address, no "
        "redirects, bounded. Exceptions are named in `network.allow`.",
        ("S1.2",),
        ("check-token",),
    ),
    Threat(
        "A token is stolen",
        "Somebody reads a good token from a log, a disk or a proxy, and presents it.",
        "Tokens live shortly and can be revoked. One that is bound to a key (DPoP) needs a fresh proof that counts once; one that is "
        "bound to a certificate is good over its connections only; neither is taken as a bearer token. Which tokens are bound is for "
        "their issuer to say.",
        ("S1.4",),
        ("bind-token",),
    ),
    Threat(
        "What Doorward holds is stolen from where it lies",
        "Somebody reads a backup, a file, a log or a crash's memory, or copies a stored row to another owner.",
        "Secrets come from references and are written nowhere; what is stored is sealed row by row for its owner; keys change with an overlap; a honeytoken that is presented raises an alert.",
        ("S1.5", "S1.6", "S1.7"),
        ("keep-secrets",),
    ),
    Threat(
        "A caller's token goes on to a server",
        "A server, or whoever owns it, gets tokens that were meant for Doorward and uses them elsewhere; or one caller acts with another's rights.",
        "Servers get credentials of their own: for Doorward, or for each caller by exchange or by a link that exactly this user made in their own browser. Without one the call is refused with -31007.",
        ("S7.5",),
        ("present-credential",),
    ),
    Threat(
        "A web page talks to a gateway on this machine",
        "A page in a browser sends requests to loopback, or points its own name there (DNS rebinding).",
        "403 for every Host and Origin that is not configured, before anything else is looked at.",
        ("S12.1",),
        ("check-origin",),
    ),
    Threat(
        "Two readers, two meanings",
        "A message is framed or written so that Doorward judges one thing and the server acts on another.",
        "What readers disagree about is refused; what passes is encoded anew from the value that was judged.",
        ("S3.2", "S12.1"),
    ),
    Threat(
        "A caller does more than they may",
        "A caller guesses names of tools, prompts or resources, or uses another method to reach them.",
        "Every message is asked about, every list is filtered, and a hidden item answers exactly like one that does not exist.",
        ("S1.1", "S4.1", "S4.2"),
        ("ask-policy",),
    ),
    Threat(
        "A stolen or guessed session",
        "Somebody uses a session id of another caller, or one that has ended.",
        "Ids are sealed, belong to one principal, end when idle, and prove nothing: each request needs its own token. 404 otherwise, "
        "as for a session that does not exist; another caller's is an alert on record.",
        ("M3", "S2.1", "S2.2", "S2.3"),
        ("check-token",),
    ),
    Threat(
        "A state that somebody else was given, or that was changed",
        "Between two rounds of a call the client carries its server's state, and changes it, uses it twice, for another call or as another caller.",
        "It leaves Doorward sealed, bound to caller, server and request, and opens once within fifteen minutes, in every cell. Task ids are "
        "sealed to their caller as well. Handles that a tool puts into its results are not known as such yet.",
        ("N2.1", "N2.2", "N2.3", "N2.4"),
    ),
    Threat(
        "A cache hands one caller's view to another",
        "A server lets any cache share a list or a resource, and Doorward has filtered it for one caller.",
        'Results say `cacheScope: "private"` whatever the server says, on every page, and `Cache-Control: no-store`.',
        ("S2.2",),
        ("scope-cache",),
    ),
    Threat(
        "Floods, slow requests and bombs",
        "A caller, an address or a server sends too much, too slowly, too deep or without end.",
        "Exact windows for principals, servers, tools and addresses; caps and deadlines on heads, bodies, lines, events and answers.",
        ("S4.4",),
        ("check-head",),
    ),
    Threat(
        "A server asks the client for too much",
        "A server uses sampling, elicitation or roots to reach the client's model, its user or its files.",
        "Refused unless `allow_requests` names it for that server and the client declared it in this session or request, also where a task asks.",
        (),
        ("gate-server-requests",),
    ),
    Threat(
        "A local server attacks its machine",
        "A stdio server reads keys and files, opens connections, or leaves processes behind.",
        "It runs in a cage: own namespaces, no network, an empty environment, few files, limits; the whole tree ends with it.",
        ("S4.5", "S10.2", "N2.6"),
    ),
    Threat(
        "A package is not what it was",
        "A package runs scripts when it is installed, or its files change afterwards.",
        "Wheels and `--ignore-scripts` only; hashes of distributions and files on record, compared before each start.",
        ("S6.1", "S6.2", "S6.3", "S6.6"),
        ("keep-cage",),
    ),
    Threat(
        "Somebody denies or rewrites what happened",
        "A record is changed, removed or invented, by whoever gets at the files.",
        "`doorward audit verify` names the entry and the file. Whoever holds the signing key can write a new history; a "
        "checkpoint that is kept elsewhere shows it.",
        ("S5.3", "S8.3"),
    ),
    Threat(
        "Secrets leak through answers, logs or the record",
        "An error echoes a token, a log line holds an argument, the record holds what was said.",
        "Answers hold constant text, logs strike out what looks like a secret, records hold keyed digests instead of values.",
        ("S1.5", "S1.6"),
        ("keep-ledger",),
    ),
    Threat(
        "A tool is not what was approved",
        "A server lists a harmless tool and changes it later, for everybody or for one caller, or lists two under one name.",
        "Every definition is compared with its pin before it gets anywhere; what differs is held until somebody approves it.",
        ("S3.4", "S3.6"),
        ("match-pin",),
    ),
    Threat(
        "A result carries instructions",
        "A server hides instructions in what a tool, a prompt or a resource returns.",
        "Nothing stops this yet: contents are not inspected by the gateway.",
        ("S3.1", "S3.3", "S5.1"),
    ),
    Threat(
        "Somebody listens or sits in between",
        "A network, a proxy or a false server reads or changes what clients, Doorward and servers say to one another.",
        "TLS 1.3 on every listener beyond loopback, or Doorward does not start; servers are checked by name and authority, and "
        "by pinned keys where the settings name them. There is no CRL or OCSP check of certificates.",
        ("S1.6", "S2.4", "S2.5", "S2.6", "S2.7", "N2.5", "N2.7"),
    ),
    Threat(
        "A confused deputy at the login",
        "An attacker registers a client and gets a token through somebody else's consent.",
        "There is no browser sign-in, no registration of clients and no OAuth towards upstreams yet, so nothing to trick.",
        ("M4", "S7.1", "S7.2", "S7.3", "S7.4", "N-M4"),
    ),
)

ENDING = """
## Out of scope

* An attacker who is root, or runs as Doorward's own user outside of the cage: they can read keys and change what runs.
* A client that was given a token and misuses what policy allows it.
* What a server does with a call that was allowed, inside its cage or on its own machine.
* Holes of the kernel that break namespaces, of Python, of OpenSSL, and of the libraries in `requirements/`.
* What a TLS proxy before Doorward does (`gateway.terminator`), and who listens between the two.
* Timing differences finer than a cache hit against a miss.
* Profile `lab`, `sandbox = "none"` and `identity.mode = "off"`: their operator chose so; the first marks every record, the others
  show in `doorward check`.
"""


def render() -> str:
    """The text of the page. Raises: KeyError for an id or a slug that does not exist."""
    from doorward.controls.catalogue import CATALOGUE, coverage
    from doorward.controls.order import ORDER, POSTURES

    by_id = {row.id: row for row in coverage((*ORDER, *POSTURES))}
    slugs = {kind.slug for kind in (*ORDER, *POSTURES)}
    lines = [OPENING]
    for number, threat in enumerate(THREATS, start=1):
        lines += [
            f"### {number}. {threat.title}",
            "",
            threat.what,
            "",
            f"**What happens.** {threat.then}",
            "",
        ]
        if threat.ids:
            lines += ["| catalogue | | controls |", "|---|---|---|"]
            lines += [
                f"| {one}: {CATALOGUE[one]} | {by_id[one].status} | {', '.join(f'`{slug}`' for slug in by_id[one].by)} |"
                for one in threat.ids
            ]
            lines.append("")
        claimed = {slug for one in threat.ids for slug in by_id[one].by}
        also = [slug for slug in threat.also if slug not in claimed]
        if set(also) - slugs:
            raise KeyError(*sorted(set(also) - slugs))
        if also:
            lines += [
                f"Stands against it without an id of its own: {', '.join(f'`{slug}`' for slug in also)}.",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n" + ENDING


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not current:
            print("docs/threat-model.md is not current: run `make format`")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
