// The official TypeScript SDK 2.x as a client, in the era of its first argument ("legacy" or "auto").
import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const mode = process.argv[2];
const modern = mode !== "legacy";
const sampled = { role: "assistant", content: { type: "text", text: "Paris" }, model: "none" };
const filled = {
  action: "accept",
  content: modern ? { name: "Alice" } : { username: "alice", email: "a@example.org" },
};

async function visit({ url, token, tool, uri }) {
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } },
  });
  const client = new Client(
    { name: "peer", version: "1" },
    { capabilities: { sampling: {}, elicitation: {} }, versionNegotiation: { mode } },
  );
  client.setRequestHandler("sampling/createMessage", async () => sampled);
  client.setRequestHandler("elicitation/create", async () => filled);
  await client.connect(transport);
  const call = (name, args = {}, options = {}) => client.callTool({ name: tool + name, arguments: args }, options);
  const steps = [];
  const onprogress = ({ progress, total, message }) => steps.push([progress, total, message]);
  const seen = { version: client.getNegotiatedProtocolVersion(), server: client.getServerVersion()?.name };
  seen.tools = (await client.listTools()).tools;
  seen.text = await call("greet", { name: "Zoë ✓" });
  seen.header = await call("test_header_mirror", { region: "Zürich" });
  seen.mixed = await call("test_multiple_content_types");
  seen.error = await call("test_error_handling");
  seen.steps = await call("test_tool_with_progress", {}, { onprogress });
  seen.progress = steps;
  if (modern) {
    seen.asked = await call("test_input_required_result_sampling");
    seen.form = await call("test_input_required_result_elicitation");
  } else {
    seen.asked = await call("test_sampling", { prompt: "Capital of France?" });
    seen.form = await call("test_elicitation", { message: "Who?" });
  }
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
  seen.session = transport.sessionId ?? "";
  if (transport.sessionId) await transport.terminateSession();
  await client.close();
  return seen;
}

const found = [];
for (const target of JSON.parse(readFileSync(0, "utf8"))) found.push(await visit(target));
process.stdout.write(JSON.stringify(found));
