// The official TypeScript SDK 2.x as a client of the matrix, in the era that it negotiates; else as matrix_1.py.
import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const STEP_MS = 15_000;
const said = (result) => result.content?.[0]?.text ?? "";
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function features(client, changed, watch) {
  const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, options);
  return {
    tools: async () => {
      const names = (await client.listTools()).tools.map((tool) => tool.name);
      return names.includes("echo") && said(await call("echo", { text: "Zoë ✓" })) === "Zoë ✓";
    },
    resources: async () => {
      const { uri } = (await client.listResources()).resources[0];
      return (await client.readResource({ uri })).contents[0].text === "content of test://one";
    },
    prompts: async () => {
      const { name } = (await client.listPrompts()).prompts[0];
      return (await client.getPrompt({ name })).messages.length > 0;
    },
    elicitation: async () => said(await call("ask_user")) === "Alice",
    sampling: async () => said(await call("ask_model")) === "Paris",
    progress: async () => {
      const steps = [];
      await call("count", {}, { onprogress: ({ progress }) => steps.push(progress) });
      return JSON.stringify(steps) === "[1,2,3]";
    },
    subscriptions: async () => {
      await watch();
      while (!changed.heard) {
        await call("touch");
        await pause(200);
      }
      return true;
    },
    cancellation: async () => {
      const before = said(await call("cancelled"));
      const stop = new AbortController();
      const waiting = call("wait", {}, { signal: stop.signal }).catch(() => undefined);
      await pause(500);
      stop.abort();
      await waiting;
      while (said(await call("cancelled")) === before) await pause(20);
      return true;
    },
  };
}

async function attempt(step) {
  let timer;
  const late = new Promise((done) => (timer = setTimeout(done, STEP_MS, "silent")));
  const tried = step().then(
    (fine) => (fine ? "works" : "differs"),
    (error) => `${error.name}: ${error.message}`,
  );
  const found = await Promise.race([tried, late]);
  clearTimeout(timer);
  return found;
}

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
  const steps = features(client, changed, watch);
  const seen = {};
  for (const name of process.argv[2].split(",")) seen[name] = await attempt(steps[name]);
  await client.close();
  return seen;
}

const found = [];
for (const target of JSON.parse(readFileSync(0, "utf8"))) found.push(await visit(target));
process.stdout.write(JSON.stringify(found), () => process.exit(0));
