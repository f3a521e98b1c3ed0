// The official TypeScript SDK 2.x as a client of the matrix, in the era that it negotiates; else as matrix_1.py.
import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { attempt, features } from "./matrix_features.mjs";

async function visit({ url, token }) {
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } },
  });
  const client = new Client(
    { name: "matrix", version: "1" },
    { capabilities: { sampling: {}, elicitation: {} }, versionNegotiation: { mode: "auto" } },
  );
  const changed = { heard: false };
  client.setRequestHandler("sampling/createMessage", async () => ({
    role: "assistant",
    content: { type: "text", text: "Paris" },
    model: "none",
  }));
  client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: { name: "Alice" } }));
  client.setNotificationHandler("notifications/tools/list_changed", async () => {
    changed.heard = true;
  });
  await client.connect(transport);
  const watch = async () => {
    if (client.getNegotiatedProtocolVersion() >= "2026") await client.listen({ toolsListChanged: true });
  };
  const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, options);
  const steps = features(client, call, changed, watch);
  const seen = {};
  for (const name of process.argv[2].split(",")) seen[name] = await attempt(steps[name]);
  await client.close();
  return seen;
}

const found = [];
for (const target of JSON.parse(readFileSync(0, "utf8"))) found.push(await visit(target));
process.stdout.write(JSON.stringify(found), () => process.exit(0));
