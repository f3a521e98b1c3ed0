"""Every rule by its id: how bad, which family, which entry of the OWASP MCP Top 10, and what it means in plain words.

Ids are stable: they stand in saved results, and a rule that goes leaves its id unused.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Rule(NamedTuple):
    """One rule. Findings of one family are one doubt, however many there are.

    One that ``supports`` says nothing alone, but turns the doubt of another family into a block.
    """

    severity: Literal["low", "medium", "high", "critical"]
    family: str
    owasp: str
    message: str
    supports: bool = False


RULES: dict[str, Rule] = {
    # -- instructions to the model
    "override-instructions": Rule(
        "high", "instruction", "MCP06", "Tells the model to disregard its instructions or rules."
    ),
    "reveal-prompt": Rule(
        "high", "instruction", "MCP10", "Asks for the system prompt or other instructions of the model."
    ),
    "change-role": Rule("high", "instruction", "MCP06", "Gives the model another role, without its rules."),
    "address-model": Rule("medium", "addressing", "MCP06", "Speaks to the model instead of about the thing."),
    "new-orders": Rule("medium", "instruction", "MCP06", "Announces new instructions or another task."),
    "direct-agent": Rule(
        "medium", "steering", "MCP06", "Tells the model which tool to call, or what to add to its answers."
    ),
    "plant-memory": Rule("medium", "memory", "MCP10", "Wants to be remembered or obeyed from now on."),
    "disable-safety": Rule("medium", "safety", "MCP06", "Asks to get around safety rules or checks."),
    "skip-approval": Rule("medium", "safety", "MCP02", "Asks to act without the user's approval."),
    "hide-from-user": Rule("medium", "conceal", "MCP03", "Asks to keep something from the user."),
    "act-unseen": Rule("medium", "conceal", "MCP03", "Describes or asks for work that nobody notices."),
    # -- data that leaves
    "read-secrets": Rule(
        "high", "exfiltration", "MCP03", "Asks the model to read a file or value that holds secrets."
    ),
    "send-data-out": Rule(
        "high", "exfiltration", "MCP10", "Asks to send private data or secrets somewhere else."
    ),
    "collect-data": Rule(
        "medium", "collecting", "MCP10", "Says that it collects private data or secrets beyond its purpose."
    ),
    "pretext": Rule(
        "low",
        "pretext",
        "MCP03",
        "Gives compliance, security or the like as a reason to hand over data.",
        supports=True,
    ),
    "threat": Rule("low", "pressure", "MCP03", "Threatens with failure or loss.", supports=True),
    "declares-harm": Rule("medium", "harm", "MCP03", "Describes theft, malware or another attack."),
    "exfiltration-url": Rule(
        "medium", "sink", "MCP10", "Names an address of a kind that is used to carry data away."
    ),
    "secret-path": Rule("medium", "path", "MCP01", "Names a file that holds keys, passwords or accounts."),
    "asks-for-context": Rule(
        "medium", "context", "MCP10", "A parameter asks for the conversation, the prompt or other context."
    ),
    "asks-for-secret": Rule("low", "secret", "MCP01", "Asks for a password, key or the like."),
    # -- other tools
    "redirect-call": Rule(
        "high", "hijack", "MCP03", "Asks to change what another tool is called with, such as the recipient."
    ),
    "demand-first": Rule("low", "order", "MCP03", "Demands to be called before or with other tools."),
    "disparage-others": Rule("medium", "hijack", "MCP03", "Argues against the use of other tools."),
    "blind-copy": Rule("medium", "hijack", "MCP03", "Asks for blind copies of messages."),
    # -- commands
    "run-command": Rule("high", "execution", "MCP05", "Asks the model to run a dangerous command."),
    "dangerous-command": Rule(
        "medium", "execution", "MCP05", "Holds a command that destroys data or runs what it fetches."
    ),
    # -- form
    "fake-marker": Rule(
        "high", "marker", "MCP06", "Imitates the markers with which a model is given its instructions."
    ),
    "urgent-block": Rule("medium", "marker", "MCP03", "Has a block that is marked as important or hidden."),
    "hidden-markup": Rule("medium", "markup", "MCP03", "Has text that a page or a reader would not show."),
    "low-visible": Rule("medium", "layout", "MCP03", "Pushes text out of sight with long empty runs."),
    "over-long": Rule("medium", "layout", "MCP10", "Is far longer than such texts are."),
    "hidden-text": Rule(
        "critical", "smuggling", "MCP03", "Holds a text written in characters that nobody sees."
    ),
    "invisible-characters": Rule(
        "medium", "smuggling", "MCP03", "Has invisible characters that its script does not need."
    ),
    "bidi-control": Rule(
        "medium", "smuggling", "MCP03", "Has characters that change the order in which text is shown."
    ),
    "terminal-escape": Rule(
        "medium", "terminal", "MCP03", "Has control characters that a terminal would obey."
    ),
    "mixed-script": Rule(
        "medium", "look-alike", "MCP03", "Has words with letters of another script that look alike."
    ),
    "encoded-instructions": Rule("high", "encoding", "MCP03", "Hides one of the above behind an encoding."),
    "encoded-text": Rule("medium", "encoding", "MCP03", "Has readable text behind an encoding."),
    # -- shape of definitions, and sets of them
    "invalid-definition": Rule("high", "shape", "MCP03", "Is no valid definition:"),
    "external-reference": Rule(
        "medium", "shape", "MCP04", "A schema refers to a document elsewhere, which can change unseen."
    ),
    "odd-header": Rule(
        "medium", "shape", "MCP07", "A parameter is to travel in a header that is not its own."
    ),
    "odd-name": Rule("high", "shape", "MCP03", "Has a name with characters that names do not have."),
    "name-taken": Rule("low", "set", "MCP03", "Another server lists the same name."),
    "name-look-alike": Rule("high", "set", "MCP03", "Has a name that looks like that of another tool."),
    "names-other-tool": Rule("low", "set", "MCP03", "Speaks about a tool of another server."),
    "steers-other-tool": Rule(
        "high", "set", "MCP03", "Says how a tool of another server is to be used or replaced."
    ),
    "lethal-trifecta": Rule(
        "medium",
        "set",
        "MCP10",
        "Together these tools read private data, take in foreign text and send data out.",
    ),
}
