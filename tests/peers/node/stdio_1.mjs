// A client on the official TypeScript SDK 1.x over stdio: stdio_1.mjs COMMAND ARGUMENTS; prints what it saw as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const [command, ...args] = process.argv.slice(2);
const client = new Client({ name: "test", version: "1" });
await client.connect(new StdioClientTransport({ command, args, env: { ...process.env } }));
const { tools } = await client.listTools();
const added = await client.callTool({ name: "add", arguments: { a: 1, b: 2 } });
const steps = [];
const counted = await client.callTool({ name: "count", arguments: { steps: 3 } }, undefined, {
  onprogress: ({ progress }) => steps.push(progress),
});
console.log(
  JSON.stringify({
    server: client.getServerVersion().name,
    tools,
    added: added.content[0].text,
    counted: counted.content[0].text,
    steps,
  }),
);
await client.close();
