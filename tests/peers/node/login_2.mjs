// The official TypeScript SDK 2.x logging in by browser: says where the browser must go, then calls a tool, renews, and calls again.
import { createServer } from "node:http";
import { once } from "node:events";
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from "@modelcontextprotocol/client";

const [url, tool, method] = process.argv.slice(2);
const came = Promise.withResolvers();
const server = createServer((request, response) => {
  const query = new URL(request.url, "http://localhost").searchParams;
  response.writeHead(200, { "Content-Type": "text/html", Connection: "close" }).end("<h1>Connected</h1>");
  if (query.has("code") || query.has("error")) came.resolve(query);
}).listen(0, "127.0.0.1");
await once(server, "listening");

const kept = {};
const provider = {
  redirectUrl: `http://127.0.0.1:${server.address().port}/callback`,
  get clientMetadata() {
    return {
      client_name: "TypeScript peer",
      redirect_uris: [this.redirectUrl],
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: method,
    };
  },
  state: () => "a state of the peer",
  clientInformation: () => kept.client,
  saveClientInformation: (client) => void (kept.client = client),
  tokens: () => kept.tokens,
  saveTokens: (tokens) => void (kept.tokens = tokens),
  redirectToAuthorization: (target) => console.log(JSON.stringify({ go: target.href })),
  saveCodeVerifier: (verifier) => void (kept.verifier = verifier),
  codeVerifier: () => kept.verifier,
};
const made = () => new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
const client = () => new Client({ name: "peer", version: "1" }, { versionNegotiation: { mode: "auto" } });

const transport = made();
await client().connect(transport).then(
  () => process.exit(3),
  (error) => error instanceof UnauthorizedError || process.exit(4),
);
const query = await came.promise;
if (query.get("state") !== "a state of the peer") process.exit(5);
await transport.finishAuth(query);
const again = client();
await again.connect(made());
const first = await again.callTool({ name: tool, arguments: {} });
const before = kept.tokens.refresh_token;
kept.tokens = { ...kept.tokens, access_token: "nothing" }; // as if it had run out: the SDK renews it
const second = await again.callTool({ name: tool, arguments: {} });
await again.close();
server.close();
console.log(
  JSON.stringify({
    first: first.content[0].text,
    second: second.content[0].text,
    renewed: before !== kept.tokens.refresh_token,
  }),
);
