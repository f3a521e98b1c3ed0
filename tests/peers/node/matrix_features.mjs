// What the TypeScript clients of the matrix try; `call` is how each of them calls a tool.
const STEP_MS = 15_000;
const said = (result) => result.content?.[0]?.text ?? "";
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export function features(client, call, changed, watch) {
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

export async function attempt(step) {
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
