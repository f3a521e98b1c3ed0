"""The official SDK 2.x listens to what changes, at one server and at all of them at once (2026-07-28 subscriptions)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged

from tests.peers.suite import everything_over_http
from tests.stack.kit import Stack, running
from tests.stack.wire import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with everything_over_http() as one, everything_over_http() as two:
        servers = {
            name: {"url": f"http://127.0.0.1:{port}/mcp"} for name, port in (("one", one), ("two", two))
        }
        with running(servers) as started:
            yield started


async def client(stack: Stack, endpoint: str, own: AsyncExitStack) -> Client:
    headers = {"Authorization": f"Bearer {stack.token(endpoint or 'mcp')}"}
    http = await own.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=30))
    transport = streamable_http_client(stack.url + stack.path(endpoint), http_client=http)
    return await own.enter_async_context(Client(transport, mode="auto"))


async def next_event(subscription: Any) -> Any:
    async with asyncio.timeout(10):
        return await anext(subscription)


async def test_a_subscription_to_one_server_hears_its_changes_and_ends(stack: Stack) -> None:
    async with AsyncExitStack() as own:
        one = await client(stack, "one", own)
        assert one.protocol_version == "2026-07-28"
        async with one.listen(tools_list_changed=True) as subscription:
            assert subscription.honored.tools_list_changed is True
            await one.call_tool("test_trigger_prompt_change", {})  # not asked for
            await one.call_tool("test_trigger_tool_change", {})
            assert isinstance(await next_event(subscription), ToolsListChanged)
    await asyncio.to_thread(until, lambda: streams(stack) == 0, "the end of the stream")


async def test_a_subscription_to_all_servers_hears_the_changes_of_each(stack: Stack) -> None:
    async with AsyncExitStack() as own:
        everyone = await client(stack, "", own)
        async with everyone.listen(tools_list_changed=True, prompts_list_changed=True) as subscription:
            assert subscription.honored.tools_list_changed and subscription.honored.prompts_list_changed
            await everyone.call_tool("one__test_trigger_tool_change", {})
            assert isinstance(await next_event(subscription), ToolsListChanged)
            await everyone.call_tool("two__test_trigger_prompt_change", {})
            assert isinstance(await next_event(subscription), PromptsListChanged)
    await asyncio.to_thread(until, lambda: streams(stack) == 0, "the end of the stream")


def streams(stack: Stack) -> int:
    lines = stack.admin("/metrics").body.decode().splitlines()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("doorward_streams{"))
