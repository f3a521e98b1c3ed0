"""What settings mean whose structs live in inner rooms: those know nothing of settings, so the sentences stand here."""

from __future__ import annotations

FOREIGN_SENTENCES: dict[str, str] = {
    "identity.users": "The embedded accounts.",
    "identity.clients": "OAuth clients that the operator knows.",
    "identity.broker.roles.*": "Roles here, by a value of the roles claim.",
    "identity.issuers": "With `external`: whose access tokens are taken.",
    "identity.issuers[].introspection": "How its tokens that are no JWTs are asked about; at most one issuer has it.",
    "limits.address": "Limit for each peer address, before authentication; absent is none.",
    "servers.*.package": '"pypi:NAME==VERSION" or "npm:NAME@VERSION", installed by `doorward servers add`.',
    "servers.*.command": "The program and its arguments; Doorward starts it in a cage. Either this or `url`.",
    "servers.*.env": "All environment variables that the program gets; a value is text or a secret reference.",
    "servers.*.files": "Paths that the caged program may see.",
    "servers.*.files[].path": "A file or folder.",
    "servers.*.files[].write": "Whether the program may change it.",
    "servers.*.egress": "Hosts with port that the program may reach. Does not exist yet: must be empty, there is no network.",
    "servers.*.url": "The server's Streamable HTTP endpoint, reached at exactly this host and port.",
    "servers.*.credentials": "What Doorward presents to the server; never what a caller sent.",
    "servers.*.credentials.type": "`none` or `header`; the others do not exist yet.",
    "servers.*.credentials.name": "The header's name.",
    "servers.*.credentials.value": "A reference to the secret in the header.",
    "servers.*.credentials.prefix": 'Text before the secret, such as "Bearer ".',
    "servers.*.trust": "When a new or changed definition becomes callable: `first-use` after a clean scan at first sight, `review` when a person approves; `off` compares nothing.",
    "servers.*.on_change": "What happens to an item whose definition changed: `withdraw` it until somebody approves, or `keep` serving the approved definition.",
    "servers.*.sandbox": "`none` starts the program without a cage, on record.",
    "servers.*.allow_requests": "What the server may ask of a client: sampling, elicitation, roots.",
    "servers.*.per_principal": "One process or upstream session for each principal.",
    "servers.*.start_timeout_seconds": "Seconds that the first call waits for the server.",
    "roles.*.servers": "Globs of servers that the role grants, with their prompts, resources and templates.",
    "roles.*.tools": 'Globs of tools on these servers, "tool" or "server/tool".',
}
