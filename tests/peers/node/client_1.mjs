// The official TypeScript SDK 1.x as a client; else as tests/peers/python/client_1.py.
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CreateMessageRequestSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const sampled = { role: "assistant", content: { type: "text", text: "Paris" }, model: "none" };
const filled = { action: "accept", content: { username: "alice", email: "a@example.org" } };

async function visit({ url, token, tool, uri }) {
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } },
  });
  const client = new Client({ name: "peer", version: "1" }, { capabilities: { sampling: {}, elicitation: {} } });
  client.setRequestHandler(CreateMessageRequestSchema, async () => sampled);
  client.setRequestHandler(ElicitRequestSchema, async () => filled);
  await client.connect(transport);
  const call = (name, args = {}, options = {}) =>
    client.callTool({ name: tool + name, arguments: args }, undefined, options);
  const steps = [];
  const onprogress = ({ progress, total, message }) => steps.push([progress, total, message]);
  const seen = { version: transport.protocolVersion, server: client.getServerVersion()?.name };
  seen.tools = (await client.listTools()).tools;
  seen.text = await call("greet", { name: "Zoë ✓" });
  seen.mixed = await call("test_multiple_content_types");
  seen.error = await call("test_error_handling");
  seen.steps = await call("test_tool_with_progress", {}, { onprogress });
  seen.progress = steps;
  seen.asked = await call("test_sampling", { prompt: "Capital of France?" });
  seen.form = await call("test_elicitation", { message: "Who?" });
  seen.resources = (await client.listResources()).resources;
  seen.templates = (await client.listResourceTemplates()).resourceTemplates;
  seen.read = await client.readResource({ uri: `${uri}test://static-text` });
  seen.filled = await client.readResource({ uri: `${uri}test://template/7/data` });
  seen.listed = await client.readResource({ uri: seen.resources[1].uri });
  seen.prompts = (await client.listPrompts()).prompts;
  seen.prompt = await client.getPrompt({
    name: `${tool}test_prompt_with_arguments`,
    arguments: { arg1: "a", arg2: "b" },
  });
  await call("no_such_tool").catch((error) => (seen.unknown = error.code ?? error.name));
  seen.session = transport.sessionId;
  await transport.terminateSession();
  await client.close();
  return seen;
}

const found = [];
for (const target of JSON.parse(readFileSync(0, "utf8"))) found.push(await visit(target));
process.stdout.write(JSON.stringify(found));
