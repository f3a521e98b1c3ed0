"""Regular expressions over folded texts, for what is no word: paths, addresses, commands and markers.

Every repeat has an upper bound, none stands inside another, and there is no back-reference and no look-around with a repeat
in it, so that a text costs its length times a constant (a test reads the parsed patterns).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from doorward.detect import concepts as c


class Sign(NamedTuple):
    """A pattern that marks a place with an idea. ``gates`` are texts of which one must occur at all."""

    mask: int
    gates: tuple[str, ...]
    pattern: re.Pattern[str]
    kinds: tuple[str, ...] = ("tool", "prompt", "argument", "result")


class Form(NamedTuple):
    """A pattern that is a finding by itself."""

    rule: str
    gates: tuple[str, ...]
    pattern: re.Pattern[str]
    severity: str
    kinds: tuple[str, ...] = ("tool", "prompt", "argument", "result")


_SECRET_FILES = (
    r"\.ssh\b|\bid_(?:rsa|dsa|ecdsa|ed25519)\b|\bauthorized_keys\b|/etc/(?:passwd|shadow|sudoers)\b|\.aws/(?:credentials|config)\b"
    r"|\.cursor/mcp\.json|\bmcp\.json\b|claude_desktop_config|\.kube/config|\.netrc\b|\.npmrc\b|\.pypirc\b|\.git-credentials\b"
    r"|\.docker/config\.json|\.gnupg\b|\bwallet\.dat\b|\.config/gcloud|application_default_credentials|\.bash_history\b|\.zsh_history\b"
    r"|\blogin data\b|\bcookies\.sqlite\b|\bkey4\.db\b|\blogins\.json\b|\.pgpass\b|\.vault-token\b|/proc/self/environ|\.mysql_history\b"
    r"|\bntds\.dit\b|\\system32\\config\\sam\b|\bid_rsa\.pub\b|\bservice[-_]account\.json\b|\.azure/|\.config/gh/hosts|\.terraformrc\b"
    r"|\bterraform\.tfstate\b|\bsecrets?\.ya?ml\b"
    r"|\b(?:system|company|internal|secret|secrets|vault|admin)://[a-z0-9_/.-]{1,80}"
)
_SECRET_READS = r"\*\.pem\b|\*\.key\b|\*\.env\b|\bprintenv\b|`env`|\bdocument\.cookie\b|\blocalstorage\b|\bos\.environ\b|\bprocess\.env\b"  # ordinary in code, odd in a description
SIGNS: tuple[Sign, ...] = (
    Sign(c.PATH, ("*.", "env", "document.", "localstorage"), re.compile(_SECRET_READS), ("tool",)),
    Sign(
        c.PATH,
        (
            "ssh",
            "id_",
            "/etc/",
            "aws",
            "mcp",
            "claude_desktop",
            "kube",
            "rc",
            "credentials",
            "docker",
            "gnupg",
            "wallet",
            "gcloud",
            "history",
            "login",
            "cookies",
            "key4",
            "pgpass",
            "token",
            "environ",
            "ntds",
            "system32",
            "account",
            "azure",
            "gh/",
            "tfstate",
            "secret",
            "*.",
            "printenv",
            "`env`",
            "document.",
            "localstorage",
            "process.env",
            "://",
            "authorized",
        ),
        re.compile(_SECRET_FILES),
    ),
    Sign(c.PASTE, (".env",), re.compile(r"(?<![\w.])\.env(?:\.(?:local|production|prod))?\b")),
    Sign(
        c.URL,
        ("://", "www.", "hxxp"),
        re.compile(
            r"\b(?:https?|hxxps?|ftp|wss?)://[^\s\"'<>)\]}]{1,300}|\bwww\.[a-z0-9-]{1,63}\.[a-z.]{2,30}"
        ),
    ),
    Sign(
        c.URL,
        ("attacker.", "evil.", ".onion", "webhook.", "exfil", ".attacker"),
        re.compile(
            r"\b(?:[a-z0-9-]{1,63}\.)?(?:attacker|evil|exfil|webhook|hacker|malicious)[a-z0-9-]{0,40}\.(?:com|net|org|io|site|example|dev|co|xyz|test|onion)\b"
        ),
    ),
    Sign(
        c.MAIL,
        ("@",),
        re.compile(
            r"(?!\b(?:user|name|john|jane|your|email|someone|customer|alice|bob|example|foo|me|you|test)(?:[.]?doe)?@(?:example|domain|company|test|acme)\b)\b[a-z0-9._%+-]{1,64}@[a-z0-9-]{1,63}\.[a-z0-9.-]{2,63}"
        ),
    ),
    Sign(c.MAIL, ("+",), re.compile(r"\+[0-9][0-9 ().-]{8,18}[0-9]\b")),
    Sign(
        c.MAIL,
        ("",),
        re.compile(
            r"\b0x[0-9a-f]{40}\b|\bbc1[a-z0-9]{25,60}\b|\b[a-z]{2}[0-9]{2}[a-z0-9]{11,30}\b|\b[a-z]{2}[0-9]{2} [a-z0-9]{4} [a-z0-9]{4} [a-z0-9]{4} "
        ),
    ),
    Sign(
        c.URL,
        ("/",),
        re.compile(
            r"\b[a-z0-9-]{2,40}\.(?:com|net|org|io|ru|cn|info|site|xyz|dev|app|cc|co|me|top|nl|de|fr|es|it|pl|jp|br|pt)/[a-z0-9]"
        ),
    ),
    Sign(
        c.URL,
        (" to ", " an ", " naar ", " vers ", " para ", " a ", " na ", " на "),
        re.compile(
            r"\b(?:to|naar|an|vers|para|a|na|на) [a-z0-9-]{1,40}\.(?:[a-z0-9-]{1,40}\.)?(?:com|net|org|io|ru|cn|info|site|xyz|dev|app|cc|top)\b"
        ),
    ),
    Sign(c.NUMBER, ("",), re.compile(r"\b[0-9]{7,20}\b|\b[0-9]{3,5}-[0-9]{2,6}-[0-9]{2,6}\b")),
    Sign(
        c.DESTROY,
        ("_",),
        re.compile(
            r"\b(?:call|calling|use|using|invoke|run|execute|trigger) (?:the |tool |function ){0,2}[\"'`]{0,3}(?:delete|remove|drop|wipe|destroy|transfer|exec|shell|kill)_[a-z_]{2,40}"
        ),
    ),
    Sign(
        c.CALLS,
        ("_",),
        re.compile(
            r"\b(?:call|calls|calling|use|using|invoke|run|execute|trigger) (?:the |tool |function ){0,2}[\"'`]{0,3}(?:delete|remove|drop|wipe|send|post|http|upload|transfer|exec|execute|run|fetch|write|create|update|forward|email|share|grant|pay|shell|bash)"
            r"_[a-z_]{2,40}"
        ),
    ),
    Sign(
        c.SHELL,
        (
            "rm ",
            "curl",
            "wget",
            "chmod",
            "nc ",
            "ncat",
            "bash",
            "base64",
            "/dev/tcp",
            "powershell",
            "eval(",
            "exec(",
            "os.system",
            "system(",
            "mkfifo",
            "dd if",
            "crontab",
            "invoke-",
            "iex",
            "certutil",
            "netcat",
            "scp ",
            "nohup",
            "sh -c",
            "drop table",
            "mkfs",
        ),
        re.compile(
            r"\brm -{1,2}[a-z-]{1,20} |\bcurl [^\n]{0,160}https?:|\bcurl -|\bwget [^\n]{0,80}https?:|\bchmod (?:-r |\+s |\+x )?[0-7]{3,4}\b|\bchmod \+[xs]"
            r"|\bnc (?:-[a-z]{1,6} )?[a-z0-9.-]{1,80} [0-9]{2,5}\b|\bncat |\bnetcat |\bbash -[ci]|\bsh -c\b|\|\s{0,4}(?:ba|z|)sh\b|\bbase64 -{1,2}d|/dev/tcp/"
            r"|\bpowershell(?:\.exe)? -|\beval\(|\bexec\(|\bos\.system\b|\bsystem\(|\bmkfifo\b|\bdd if=|\bcrontab -|\binvoke-(?:webrequest|expression)|\biex\b"
            r"|\bcertutil -|\bscp -?[^\n]{0,80}@|\bdrop table\b|\bmkfs\b"
        ),
    ),
)

FORMS: tuple[Form, ...] = (
    Form(
        "fake-marker",
        (
            "<|",
            "[inst]",
            "[/inst]",
            "<<sys",
            "<start_of",
            "<end_of",
            "[system]",
            "<system",
            "</system",
            "### ",
            "[[system",
            "|||",
            "<sys>",
            "<assistant",
            "<developer",
        ),
        re.compile(
            r"<\|(?:im_start|im_end|system|user|assistant|begin_of_text|eot_id|start_header_id|end_header_id|endofprompt)\|>|(?:^|\n|[.>:] )\[inst\]|\[/inst\]|<</?sys>>"
            r"|<(?:start|end)_of_turn>|\[/?system(?: message| prompt| override)?\]|</?(?:system|sys|assistant|developer)(?:[-_ ]?(?:prompt|message|instruction|instructions|override|note|reminder))?>"
            r"|### ?(?:system|new instructions?|instruction override)\b|\|\|\|[a-z_ ]{0,30}(?:override|admin|system)[a-z_ ]{0,30}\|\|\|"
        ),
        "high",
    ),
    Form(
        "fake-marker",
        ("system", "admin", "developer", "override", "root"),
        re.compile(
            r"\b(?:system|admin(?:istrator)?|developer|root|security)[ _-](?:override|directive|instruction|command|order|note to (?:the )?(?:ai|model|assistant|llm))s?\b ?[:\]|>-]"
            r"|(?:^|\n|[.>-] )\s{0,8}\[?(?:system|assistant|human)(?: message| note| alert| notice)?\]?:\s{1,4}(?:you|ignore|new|overrid|the user|from now|all |your|please|always|never|do |disregard|forget|this is)"
            r"|\bend of (?:system )?(?:prompt|instructions|context)\b|\bbegin (?:new )?(?:system )?(?:prompt|instructions)\b"
        ),
        "medium",
    ),
    Form(
        "address-model",
        (
            "bot",
            "ai ",
            "assistant",
            "model",
            "llm",
            "agent",
            "assistent",
            "assistente",
            "asistente",
            "ki ",
            "ia ",
            "ии",
            "助手",
            "アシスタント",
            "模型",
        ),
        re.compile(
            r"\b(?:note|message|instructions?|attention|hint|reminder|important|dear|notice|hey|hello) ?(?:to|for)?:? ?(?:the |any |all )?(?:ai|llm|language model|bot|chatbot|assistant|agent)s?(?: (?:agent|assistant|model|reading|processing|reviewing)s?)?\b ?[:,(-]"
            r"|\bif you are an? (?:ai|llm|language model)\b|\b(?:ai|llm) (?:assistant|agent|model)s? (?:reading|processing|reviewing|integrating|that reads?)\b|\bfor ai (?:coding )?agents\b"
            r"|\b(?:opmerking|hinweis|nachricht|note|nota|mensaje|avviso|uwaga|wiadomosc|примечание|сообщение) (?:aan|voor|an|fur|pour|a|para|al|per|do|dla|для) (?:de |het |die |den |das |l'|le |la |el |o |il )?(?:ai|ki|ia|si|ии|assistent\w{0,3}|assistant|asistente|assistente|asystent\w{0,3}|ассистент\w{0,3}|model\w{0,3})\b"
            r"|(?:致|给)(?:ai|助手|模型)|(?:ai|アシスタント|モデル)への(?:注意|指示|メモ)"
        ),
        "medium",
    ),
    Form(
        "new-orders",
        (
            "instruction",
            "task",
            "order",
            "rules",
            "anweisung",
            "aufgabe",
            "instruct",
            "istruzion",
            "instruc",
            "polecen",
            "instrukcj",
            "инструкц",
            "задани",
            "指令",
            "任务",
            "指示",
            "タスク",
            "opdracht",
            "instructie",
            "consigne",
        ),
        re.compile(
            r"\b(?:new|updated|real|actual|revised) (?:system )?(?:instructions?|task|orders|directives?|rules)\b ?:|\byour (?:real|actual|true|new) (?:task|goal|job|instructions?|purpose)\b|\b(?:rules|instructions|task) (?:have|has|is|are) (?:changed|cancelled|updated|void)\b"
            r"|\b(?:nieuwe (?:instructies?|opdracht|taak)|neue (?:anweisung(?:en)?|aufgabe|instruktionen)|nouvelles? (?:instructions?|consignes?|tache)|nuevas? (?:instruccion(?:es)?|tarea|ordenes)|novas? (?:instrucoes|tarefa|ordens)"
            r"|nuov[ei] (?:istruzioni|compito|ordini)|now[ea] (?:instrukcje|polecenia|zadanie)|новы[ей] (?:инструкции|задани[ея]|указания)|новое задание) ?:|(?:新的?(?:指令|任务|指示)|新しい(?:指示|タスク|命令)) ?[::]"
        ),
        "medium",
    ),
    Form(
        "new-orders",
        ("system", "contradict", "precedence", "priority", "overrule", "immediately", "at once", "obey"),
        re.compile(
            r"\bcoming from the system\b|\bcontains? system[- ]level (?:commands?|instructions?|orders?)\b|\beven (?:if|when) (?:they|it|this|that) (?:contradicts?|conflicts?)\b|\b(?:overrules?|overrides?) (?:the )?user\b"
            r"|\btakes? precedence over (?:the |any |all )?(?:user|system|other|previous)\b|\b(?:have|has|takes?) (?:priority|precedence) over (?:the |any |all )?(?:user|system|other|previous|wishes)\b|\bhigher priority than (?:the |any )?(?:user|system|other|previous)\b|\bact on (?:it|them) (?:immediately|at once)\b|\bobeyed (?:immediately|at once)\b"
        ),
        "high",
    ),
    Form("fake-marker", ("<|endoftext",), re.compile(r"<\|endoftext\|>"), "medium"),
    Form(
        "urgent-block",
        ("<",),
        re.compile(
            r"</?(?:important|hidden|secret|admin|override|critical|urgent|internal|private|confidential|instruction|instructions|mandatory|sudo|root|directive|priority)"
            r"(?:[-_ ](?:instruction|instructions|note|notice|message|directive|rule|rules|context))?(?: [^<>]{0,80})?>"
        ),
        "medium",
    ),
    Form("hidden-markup", ("<!--",), re.compile(r"<!--"), "medium"),
    Form(
        "hidden-markup",
        (
            "display:",
            "visibility:",
            "font-size:",
            "opacity:",
            "color:",
            "[//]:",
            "[comment]:",
            "hidden>",
            "aria-hidden",
        ),
        re.compile(
            r"\bdisplay:\s{0,4}none\b|\bvisibility:\s{0,4}hidden\b|\bfont-size:\s{0,4}0|\bopacity:\s{0,4}0(?:\.0{1,4})?\s{0,4}[;\"']|<[a-z]{1,12} [^<>]{0,80}color:\s{0,4}(?:white|#fff|transparent)"
            r"|\[(?://|comment)\]: ?[#<(]|<[a-z]{1,12} hidden>"
        ),
        "medium",
    ),
    Form(
        "hidden-markup",
        ("<script", "javascript:", "onerror", "<iframe", "data:text/html"),
        re.compile(r"<script\b[^<>]{0,80}>[^<\s]|\bjavascript:[a-z(]|\bonerror ?=|<iframe\b|data:text/html"),
        "medium",
    ),
    Form(
        "exfiltration-url",
        (
            "webhook",
            "requestbin",
            "ngrok",
            "pipedream",
            "burp",
            "interact",
            "oast",
            "pastebin",
            "api.telegram",
            "hookbin",
            "beeceptor",
            "transfer.sh",
            "canarytokens",
            "dnslog",
            "0x0.st",
            "file.io",
            "trycloudflare",
            "discord.com/api/webhooks",
        ),
        re.compile(
            r"\bwebhook\.site\b|\brequestbin\.|\bngrok(?:-free)?\.(?:io|app|dev)\b|\bpipedream\.net\b|\bburpcollaborator\.net\b|\binteract\.sh\b|\boast(?:ify)?\.(?:com|fun|pro|live|site|me|online)\b"
            r"|\bpastebin\.com/api\b|\bapi\.telegram\.org/bot|\bhookbin\.com\b|\bbeeceptor\.com\b|\btransfer\.sh\b|\bcanarytokens\.com\b|\bdnslog\.cn\b|\b0x0\.st\b|\bfile\.io\b|\btrycloudflare\.com\b"
            r"|discord(?:app)?\.com/api/webhooks"
        ),
        "medium",
    ),
    Form(
        "exfiltration-url",
        ("![",),
        re.compile(r"!\[[^\]\n]{0,120}\]\(https?://[^)\s]{1,100}[?&/][^)\s]{0,20}(?:=|/)[{\[<$%(]"),
        "high",
    ),
    Form(
        "exfiltration-url",
        ("://",),
        re.compile(
            r"https?://[^\s\"'<>)]{1,120}[?&](?:data|d|q|payload|secret|token|key|leak|exfil|content|msg|log|dump|c|x)=(?:\{|\[|<|\$|%7b|…|\.\.\.|encoded|base64|secret|conversation|password|token|history)"
        ),
        "medium",
    ),
    Form(
        "exfiltration-url",
        ("://",),
        re.compile(
            r"https?://(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?/[a-z]{0,20}(?:collect|exfil|upload|log|steal|drop|leak|capture)"
        ),
        "medium",
    ),
    Form(
        "collect-data",
        ("social security", "cvv", "seed phrase", "recovery phrase", "card on file", "card number"),
        re.compile(
            r"\bsocial security (?:number|no)|\bcvv2?\b|\b(?:seed|recovery) phrase\b|\bcredit card (?:number|on file|details)"
        ),
        "medium",
    ),
    Form(
        "direct-agent",
        ("delete_", "remove_", "drop_", "wipe_", "destroy_", "transfer_", "exec_", "kill_"),
        re.compile(
            r"\b(?:call|invoke|run|use) (?:the )?[`'\"]?(?:delete|remove|drop|wipe|destroy|transfer|exec|kill)_[a-z_]{2,40}[`'\"]? (?:on|with|for|to) [a-z`'\"=:]{0,12} ?[`'\"]?[~.]?/"
        ),
        "medium",
        ("result", "argument"),
    ),
    Form(
        "declares-harm",
        ("shadow]", "pwned", "hacked"),
        re.compile(r"\[shadow\]|\bpwned\b|\bhacked by\b"),
        "medium",
    ),
)
