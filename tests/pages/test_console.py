"""The console page in a real browser, before a real Doorward with real traffic behind it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack.kit import Stack, running
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream, tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
PICTURE = os.environ.get("DOORWARD_PICTURE", "")  # write the README's picture there


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
    servers: dict[str, Any] = {
        "tickets": HttpUpstream(tools=[tool("list"), tool("close", read_only=False)]),
        "wiki": HttpUpstream(tools=[tool("search"), tool("delete-page", read_only=False)]),
        "notes": {"command": ["/bin/cat"]},
    }
    tables = {
        "roles.reader": {"servers": ["tickets", "wiki"], "tools": ["list", "search"]},
        "limits": {"calls": 600, "per_seconds": 60},
        "limits.tool": {"wiki/search": {"calls": 6, "per_seconds": 60}},
    }
    with running(servers, workers=2, tables=tables) as started:
        traffic(started)
        until(lambda: listens(started.admin_port), "the admin plane")
        yield started


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def traffic(stack: Stack) -> None:
    """Good calls, and refusals by token, policy, origin, limits and shape."""
    for number in range(6):
        good = stack.modern("tickets", "tools/call", {"name": "list", "arguments": {"page": number}})
        assert good.status == 200, good
    stack.modern("tickets", "tools/list")
    reader = {"Authorization": f"Bearer {stack.token('tickets', 'bob', ('reader',))}"}
    stack.modern("tickets", "tools/call", {"name": "close", "arguments": {}}, **reader)
    stack.modern("tickets", "tools/call", {"name": "list"}, Authorization=None)
    stack.modern("wiki", "tools/call", {"name": "search"}, Origin="https://evil.example")
    for number in range(8):
        stack.modern("wiki", "tools/call", {"name": "search", "arguments": {"q": str(number)}})
    stack.ask("wiki", b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}')


class Watched:
    """A page that keeps what the browser complains of."""

    def __init__(self, browser: Browser, stack: Stack, scheme: Any = "light") -> None:
        self.complaints: list[str] = []
        context = browser.new_context(viewport={"width": 1440, "height": 1120}, color_scheme=scheme)
        self.context = context
        context.set_default_timeout(10_000)
        self.page: Page = context.new_page()
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (e) => console.error('CSP ' + e.violatedDirective + ' ' + e.blockedURI))"
        )
        self.url = f"http://127.0.0.1:{stack.admin_port}/"
        self.token = (stack.data_dir / "admin-token").read_text().strip()
        self.page.goto(self.url)

    def log_in(self) -> Page:
        self.page.get_by_label("Admin token").fill(self.token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.locator("#calls tbody tr").nth(5).wait_for()
        return self.page


def test_a_wrong_token_shows_nothing_and_the_right_one_shows_what_is_protected(
    browser: Browser, stack: Stack
) -> None:
    watched = Watched(browser, stack)
    page = watched.page
    page.get_by_label("Admin token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    assert "not the admin token" in page.inner_text("main")
    assert page.locator("table").count() == 0
    watched.complaints.clear()  # the browser counts the 401 as an error
    page = watched.log_in()
    cookie = next(one for one in watched.context.cookies() if one["name"] == "doorward_admin")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert "tickets" in page.inner_text("#servers")
    if PICTURE:
        page.locator("#controls", has_text="a caged program starts").wait_for()
        page.screenshot(path=PICTURE)
    assert "check-origin" in page.inner_text("#controls")
    assert len(page.locator("#workers tbody tr").all()) == 2
    for name in ("calls", "controls", "servers", "workers", "limits"):
        heads = page.locator(f"#{name} thead th")
        assert heads.count() >= 5
        assert all(one.get_attribute("scope") == "col" for one in heads.all())
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Admin token").wait_for()
    assert watched.complaints == []
    watched.context.close()


def test_a_refused_call_appears_by_itself_with_its_event_and_comes_first(
    browser: Browser, stack: Stack
) -> None:
    watched = Watched(browser, stack)
    page = watched.log_in()
    reader = {"Authorization": f"Bearer {stack.token('wiki', 'carol', ('reader',))}"}
    refused = stack.modern("wiki", "tools/call", {"name": "delete-page", "arguments": {}}, **reader)
    assert "error" in refused.json
    event = stack.rows(principal="carol", verdict="refuse")[0]["event"]
    row = page.locator("#calls tr.refused", has_text=event)
    row.wait_for(timeout=10_000)
    assert "ask-policy" in row.inner_text()
    verdicts = [one.inner_text() for one in page.locator("#calls tbody tr td:nth-child(2)").all()]
    assert verdicts == sorted(verdicts, key=lambda word: word != "refuse")
    assert watched.complaints == []
    watched.context.close()


def test_the_name_of_a_hostile_tool_is_only_text(browser: Browser, stack: Stack) -> None:
    stack.modern("tickets", "tools/call", {"name": HOSTILE, "arguments": {}}, Mcp_Name=None)
    answer = stack.call("legacy", "tickets", HOSTILE)
    assert answer.status == 200, answer
    watched = Watched(browser, stack)
    page = watched.log_in()
    page.locator("#calls td", has_text="onerror").first.wait_for(timeout=10_000)
    assert HOSTILE in page.locator("#calls td", has_text="onerror").first.inner_text()
    assert page.locator("#calls img, #calls script").count() == 0
    assert page.title() == "Doorward"
    assert watched.complaints == []
    watched.context.close()


def test_nothing_comes_from_elsewhere_and_nothing_inline_would_run(browser: Browser, stack: Stack) -> None:
    watched = Watched(browser, stack)
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url))
    page = watched.log_in()
    assert asked
    assert all(one.startswith(watched.url) for one in asked)
    inline = page.evaluate(
        "() => { try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); return 'ran'; }"
        " catch { return 'refused'; } }"
    )
    assert inline == "refused"
    watched.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_against_what_is_behind_it(
    browser: Browser, stack: Stack, scheme: str
) -> None:
    watched = Watched(browser, stack, scheme)
    page = watched.log_in()
    pairs = page.evaluate(CONTRAST)
    assert len(pairs) > 50
    weak = [one for one in pairs if one[0] < 4.5]  # WCAG 2.2, 1.4.3
    assert weak == []
    watched.context.close()


CONTRAST = """() => {
  const parse = (text) => {
    const srgb = text.startsWith('color(srgb');
    const found = (text.match(/[\\d.]+(e-?\\d+)?/g) || []).map(Number);
    const [r, g, b, a = 1] = found;
    return srgb ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || one.closest('noscript, script, [hidden]')) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walk.currentNode.data.slice(0, 40)]);
  }
  return found;
}"""
