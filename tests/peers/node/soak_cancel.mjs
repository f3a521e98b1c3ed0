// The official TypeScript SDK 2.x as a client that breaks off; else as tests/peers/python/soak_cancel.py.
import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const SILENT_MS = 60_000;
const CALLS = 24;
const job = JSON.parse(readFileSync(0, "utf8"));
const counts = { cancelled: 0, answered: 0, connects: 0, broken_connects: 0, questions: 0 };
const faults = [];
const isDone = () => counts.cancelled >= job.cancels || faults.length > 20;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// mulberry32: the same seed gives the same choices.
function generator(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  const choose = (list) => list[Math.floor(next() * list.length)];
  return { next, choose };
}

async function call(client, nonce, mine, random) {
  const tool = random.choose(["echo", "steps", "ask"]);
  const ms = random.choose([0, 5, 20]);
  const stop = new AbortController();
  mine.add(nonce);
  const onprogress = ({ message }) => {
    // The SDK itself tells of rounds of questions in these words.
    if (message !== nonce && !message.startsWith("Fulfilling input required")) faults.push(`${nonce} was told of ${message}`);
  };
  const options = { signal: stop.signal, onprogress, timeout: SILENT_MS };
  const timer = random.next() < 0.85 ? setTimeout(() => stop.abort(), random.next() * (10 + ms * 1.7)) : undefined;
  try {
    const result = await client.callTool({ name: tool, arguments: { nonce, ms } }, options);
    const said = result.content?.[0]?.text;
    const due = tool === "ask" ? `${nonce}, about ${nonce}` : nonce;
    if (said !== due) faults.push(`${tool} ${nonce} was answered ${said}`);
    counts.answered += 1;
  } catch (error) {
    if (stop.signal.aborted) counts.cancelled += 1;
    else faults.push(`${tool} ${nonce}: ${error.name}: ${error.message}`);
  } finally {
    clearTimeout(timer);
  }
}

async function visit({ url, token }, name, random) {
  const mine = new Set();
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } },
  });
  const client = new Client(
    { name: "soak", version: "1" },
    { capabilities: { elicitation: {} }, versionNegotiation: { mode: job.mode } },
  );
  client.setRequestHandler("elicitation/create", async ({ params }) => {
    counts.questions += 1;
    if (!mine.has(params.message)) faults.push(`asked about ${params.message}, which is not this connection's`);
    await pause(random.next() * 10);
    return { action: "accept", content: { about: `about ${params.message}` } };
  });
  if (random.next() < 0.1) {
    counts.broken_connects += 1;
    const connecting = client.connect(transport).catch(() => undefined);
    await pause(random.next() * 40);
    await client.close().catch(() => undefined);
    await connecting;
    return;
  }
  await client.connect(transport);
  for (let first = 0; first < CALLS && !isDone(); first += 4) {
    const size = 1 + Math.floor(random.next() * 4);
    await Promise.all(Array.from({ length: size }, (_, n) => call(client, `${name}-${first + n}`, mine, random)));
  }
  if (transport.sessionId) await transport.terminateSession();
  await client.close();
}

async function lane(number) {
  const random = generator(job.seed * 1_000 + number);
  while (!isDone()) {
    counts.connects += 1;
    try {
      await visit(random.choose(job.targets), `${job.name}-${job.seed}-${number}-${counts.connects}`, random);
    } catch (error) {
      faults.push(`${error.name}: ${error.message}`);
    }
  }
}

await Promise.all(Array.from({ length: job.lanes }, (_, number) => lane(number)));
process.stdout.write(JSON.stringify({ ...counts, faults }), () => process.exit(0));
