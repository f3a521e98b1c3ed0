"""The ideas that rules are made of, each a bit; the lexicon says which words of which language stand for them."""

from __future__ import annotations

IGNORE = 1 << 0  # ignore, forget, override
PRIOR = 1 << 1  # previous, above, your
RULES = 1 << 2  # instructions, rules, guidelines
REVEAL = 1 << 3  # reveal, print, repeat
PROMPT = 1 << 4  # system prompt, hidden instructions
NOT = 1 << 5  # not, never, without
TELL = 1 << 6  # tell, mention, inform
USER = 1 << 7  # the user, the human
QUIET = 1 << 8  # silently, secretly, unnoticed
SECRET = 1 << 9  # passwords, keys, tokens
PRIVATE = 1 << 10  # conversation, personal data
READ = 1 << 11  # read, collect, extract
SEND = 1 << 12  # send, upload, forward
FAR = 1 << 13  # attacker, external server
TOOL = 1 << 14  # tool, function, command
BEFORE = 1 << 15  # before, prior to, first
MUST = 1 << 16  # must, always, make sure
OTHER = 1 << 17  # any other, all other
CHANGE = 1 << 18  # replace, redirect, substitute
FIELD = 1 << 19  # recipient, amount, address
ROLE = 1 << 20  # you are now, act as
MODE = 1 << 21  # developer mode, unrestricted
SAFETY = 1 << 22  # safety filters, restrictions
RUN = 1 << 23  # run, execute
YOU = 1 << 24  # you, the assistant, the model
HARM = 1 << 25  # exfiltrate, steal, backdoor
EVERY = 1 << 26  # whenever, each time, regardless
HIDE = 1 << 27  # hide, keep secret, must not notice
INCLUDE = 1 << 28  # pass, include, append
DISABLE = 1 << 29  # disable, turn off, skip
CONFIRM = 1 << 30  # confirmation, approval
PARAM = 1 << 31  # parameter, argument, field
BETTER = 1 << 32  # instead of, prefer, only use
PATH = 1 << 33  # a file that holds secrets
URL = 1 << 34  # an address on the web
MAIL = 1 << 35  # a mail address or telephone number
SHELL = 1 << 36  # a command that destroys, fetches or opens a way in
OBEY = 1 << 37  # follow, obey, comply
NEW = 1 << 38  # new, following, these (instructions)
WHOLE = 1 << 39  # full, entire, complete, verbatim
BCC = 1 << 40  # blind copies
BAD = 1 << 41  # deprecated, unsafe, broken
PASTE = 1 << 42  # a file of settings that often holds secrets
DEED = 1 << 43  # about this, that you do it
KEEP = 1 << 44  # log, store, share on: what happens to data after
ACTION = 1 << 45  # operation, request, answer
REPLY = 1 << 46  # your answer, every summary
CALLS = 1 << 47  # call delete_file
LATER = 1 << 48  # memory, future conversations
FORGET = 1 << 49  # forget, drop (everything)

PLACE = FAR | URL | MAIL
URGE = MUST | BEFORE | EVERY | YOU
