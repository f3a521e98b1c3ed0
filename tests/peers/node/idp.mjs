// An identity provider that we did not write (oidc-provider), for one test at a time. Settings come as JSON in argv:
// { port, keys: [private JWKs], format: "jwt" | "opaque", alg, ttl, delayMs }. Prints "ready" when it listens, and one line a request.
import { createServer } from "node:http";
import Provider from "oidc-provider";

const settings = JSON.parse(process.argv[2]);
const issuer = settings.issuer ?? `http://127.0.0.1:${settings.port}`;

const provider = new Provider(issuer, {
  jwks: { keys: settings.keys },
  clients: [
    {
      client_id: "agent",
      client_secret: "agent-secret",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: settings.alg ?? "RS256",
    },
    {
      client_id: "gateway",
      client_secret: "gateway secret+%",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: settings.alg ?? "RS256",
    },
  ],
  scopes: ["mcp"],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: "mcp",
        audience: resource,
        accessTokenTTL: settings.ttl ?? 600,
        accessTokenFormat: settings.format ?? "jwt",
        jwt: { sign: { alg: settings.alg ?? "RS256" } },
      }),
      useGrantedResource: () => true,
    },
  },
  extraTokenClaims: () => ({ roles: ["user"] }),
  enabledJWA: {
    idTokenSigningAlgValues: ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"],
  },
});

const serve = provider.callback();
const server = createServer((request, response) => {
  console.log(`${request.method} ${request.url}`);
  serve(request, response);
});
server.listen(settings.port, "127.0.0.1", () => console.log("ready"));
