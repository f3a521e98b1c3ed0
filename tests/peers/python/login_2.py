"""The official Python SDK 2.x logging in by browser: says where the browser must go, then calls a tool, renews, and calls again."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken


class Kept:
    """What the client remembers."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def main(url: str, tool: str) -> dict[str, Any]:
    came: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        query = {name: values[0] for name, values in parse_qs(urlsplit(line).query).items()}
        if "code" in query or "error" in query:
            came.set_result(query)
        body = b"<h1>Connected</h1>"
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def send_to(target: str) -> None:
        print(json.dumps({"go": target}), flush=True)

    async def back() -> AuthorizationCodeResult:
        query = await came
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))

    kept = Kept()
    metadata = OAuthClientMetadata(
        client_name="Python peer",
        redirect_uris=[f"http://127.0.0.1:{port}/callback"],  # type: ignore[list-item]
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method=sys.argv[3],
    )
    provider = OAuthClientProvider(url, metadata, kept, redirect_handler=send_to, callback_handler=back)
    async with httpx2.AsyncClient(auth=provider, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            first = await client.call_tool(tool, {})
            before = kept.tokens
            assert before is not None
            provider.context.token_expiry_time = 1.0  # as if it had run out: the SDK renews it
            second = await client.call_tool(tool, {})
            assert kept.tokens is not None
    server.close()
    return {
        "first": first.content[0].text,  # type: ignore[union-attr]
        "second": second.content[0].text,  # type: ignore[union-attr]
        "renewed": kept.tokens.refresh_token != before.refresh_token,
    }


print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2]))), flush=True)
