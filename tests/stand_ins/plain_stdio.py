"""A stdio server without any SDK, whose manners can be chosen: plain_stdio.py ERA [leave] [dead]."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

ERA = sys.argv[1]
LEAVES = "leave" in sys.argv  # exits at the sight of an unknown request
LOCK = threading.Lock()
STATE = {"initializes": 0, "confirmed": 0}
CANCELLED: list[Any] = []
ANSWERS: list[Any] = []


def say(message: dict[str, Any]) -> None:
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def serve(message: dict[str, Any]) -> None:
    method, params = message.get("method"), message.get("params") or {}
    if "id" not in message:
        if method == "notifications/initialized":
            STATE["confirmed"] += 1
        elif method == "notifications/cancelled":
            CANCELLED.append(params["requestId"])
        return
    answer: Any = {}
    if method is None:
        ANSWERS.append(message)
        return
    if method == "initialize" and ERA == "legacy":
        STATE["initializes"] += 1
        answer = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {},
            "serverInfo": {"name": "p", "version": "1"},
        }
    elif method == "server/discover" and ERA == "modern":
        answer = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
    elif method == "state":
        answer = {"pid": os.getpid(), **STATE, "cancelled": CANCELLED, "answers": ANSWERS, "saw": message}
    elif method == "exit":
        os._exit(1)
    elif method == "hold":
        threading.Thread(
            target=lambda: (
                time.sleep(params["seconds"]),
                say({"id": message["id"], "result": {"saw": params}}),
            )
        ).start()
        return
    elif method == "progress":
        token = params["_meta"]["progressToken"]
        say({"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
        say({"method": "notifications/progress", "params": {"progressToken": "forged", "progress": 2}})
    elif method == "ask-client":
        say({"id": 77, "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}})
    elif method == "change":
        say({"method": "notifications/tools/list_changed"})
    elif method == "forge":
        say({"id": 424242, "result": {"to": "nobody"}})
    elif LEAVES:
        os._exit(0)
    else:
        return say({"id": message["id"], "error": {"code": -32601, "message": "unknown"}})
    say({"id": message["id"], "result": answer})


if "dead" in sys.argv:
    sys.exit(1)
for line in sys.stdin:
    serve(json.loads(line))
