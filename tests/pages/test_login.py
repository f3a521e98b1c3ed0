"""MCP clients log in by browser: the official SDKs, a real Chromium, a real Doorward, and a tool call at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.oauth.kit import authorize_url, link
from tests.peers.places import HERE, NODE_FOLDER, node, node_package
from tests.stack.kit import Stack, running
from tests.stand_ins.http_server import HttpUpstream, tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=document.title='owned'>\u202ekcatta"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own sandbox does not start as root
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=[*root, "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    identity = {
        "users": [{"name": "alice", "roles": ["user"]}],
        "clients": [{"id": "desk", "name": "Desk", "redirect_uris": ["http://127.0.0.1/callback"]}],
    }
    servers: dict[str, Any] = {"notes": HttpUpstream(tools=[tool("list")])}
    with running(servers, tables={"identity": identity}) as started:
        yield started


@contextmanager
def visiting(browser: Browser) -> Iterator[tuple[BrowserContext, Page, list[str]]]:
    """A fresh browser that keeps what it complains of."""
    context = browser.new_context()
    context.set_default_timeout(15_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield context, page, complaints
    finally:
        context.close()


def peer(language: str) -> list[str]:
    """The command of a peer."""
    if language == "python":
        return [sys.executable, str(HERE / "python" / "login_2.py")]
    node_package("@modelcontextprotocol/client")
    return [str(node()), str(NODE_FOLDER / "login_2.mjs")]


@pytest.mark.parametrize("method", ["none", "client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("language", ["python", pytest.param("typescript", marks=pytest.mark.node)])
def test_an_sdk_client_logs_in_by_browser_and_calls_a_tool(
    browser: Browser, stack: Stack, language: str, method: str
) -> None:
    process = subprocess.Popen(
        [*peer(language), f"{stack.url}/notes/mcp", "list", method], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        with visiting(browser) as (_, page, complaints):
            page.goto(json.loads(line)["go"])
            assert "peer wants to connect" in page.inner_text("main")
            page.get_by_label("Link or code").fill(link(stack))
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Allow").wait_for()
            shown = page.inner_text("main")
            for word in (
                "peer",
                "registered itself",
                "http://127.0.0.1:",
                f"{stack.url}/notes/mcp",
                "mcp",
                "alice",
            ):
                assert word in shown
            assert "any program on this computer can claim to be it" in shown
            assert complaints == []  # the page that follows is not ours but the client's
            page.get_by_role("button", name="Allow").click()
            page.get_by_role("heading", name="Connected").wait_for()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found = json.loads(out)
        assert found["renewed"] is True
        assert found["first"] == found["second"] != ""
    finally:
        process.kill()
        process.communicate()


def test_a_link_opened_in_the_browser_signs_in_and_only_then(browser: Browser, stack: Stack) -> None:
    with visiting(browser) as (context, page, complaints):
        ticket = link(stack)
        page.goto(ticket)
        assert page.get_by_role("button", name="Sign in as alice").is_visible()
        page.goto(ticket)  # looking twice uses nothing up
        page.get_by_role("button", name="Sign in as alice").click()
        page.get_by_role("heading", name="Signed in").wait_for()
        cookie = next(one for one in context.cookies() if one["name"] == "doorward-browser")
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"
        assert complaints == []
        page.goto(ticket)
        assert "does not sign anybody in any more" in page.inner_text("main")
        page.goto(stack.url + authorize_url(stack))
        page.get_by_role("heading", name="Allow Desk?").wait_for()
        page.get_by_role("button", name="Another account").click()
        page.get_by_role("heading", name="Sign in").wait_for()


def test_what_a_client_calls_itself_is_only_text(browser: Browser, stack: Stack) -> None:
    body = json.dumps(
        {
            "client_name": HOSTILE,
            "redirect_uris": ["http://127.0.0.1/callback"],
            "token_endpoint_auth_method": "none",
        }
    )
    from tests.oauth.kit import Browser as Plain

    made = Plain(stack).ask("POST", "/oauth/register", body, Content_Type="application/json")
    with visiting(browser) as (_, page, complaints):
        page.goto(link(stack))
        page.get_by_role("button", name="Sign in as alice").click()
        page.get_by_role("heading", name="Signed in").wait_for()
        page.goto(stack.url + authorize_url(stack, client_id=made.json["client_id"]))
        shown = page.inner_text("main")
        assert "<img src=x onerror" in shown
        assert "\u202e" not in shown
        assert page.locator("main img, main script").count() == 0
        assert page.title().startswith("Allow <img src=x onerror")  # as text: nothing ran that changed it
        assert complaints == []


def test_no_page_can_be_framed(browser: Browser, stack: Stack) -> None:
    with visiting(browser) as (_, page, complaints):
        page.set_content(f"<iframe src='{stack.url}{authorize_url(stack)}'></iframe>")
        frame = page.frames[-1]
        frame.wait_for_load_state()
        assert "Sign in" not in frame.content()
    assert any("frame" in one.lower() for one in complaints), complaints
