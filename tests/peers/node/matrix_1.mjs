// The official TypeScript SDK 1.x as a client of the matrix; else as tests/peers/python/matrix_1.py.
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { attempt, features } from "./matrix_features.mjs";

async function visit({ url, token }) {
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } },
  });
  const client = new Client(
    { name: "matrix", version: "1" },
    { capabilities: { sampling: {}, elicitation: {} } },
  );
  const changed = { heard: false };
  client.setRequestHandler(CreateMessageRequestSchema, async () => ({
    role: "assistant",
    content: { type: "text", text: "Paris" },
    model: "none",
  }));
  client.setRequestHandler(ElicitRequestSchema, async () => ({ action: "accept", content: { name: "Alice" } }));
  client.setNotificationHandler(ToolListChangedNotificationSchema, async () => {
    changed.heard = true;
  });
  await client.connect(transport);
  const watch = async () => {};
  const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, undefined, options);
  const steps = features(client, call, changed, watch);
  const seen = {};
  for (const name of process.argv[2].split(",")) seen[name] = await attempt(steps[name]);
  await client.close();
  return seen;
}

const found = [];
for (const target of JSON.parse(readFileSync(0, "utf8"))) found.push(await visit(target));
process.stdout.write(JSON.stringify(found), () => process.exit(0));
