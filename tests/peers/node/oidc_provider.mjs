// A certified OpenID provider as an upstream's authorization server: PORT RESOURCE; prints one line when it listens.
import { createServer } from "node:http";
import Provider from "oidc-provider";

const [port, resource] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const configuration = {
  clients: [
    {
      client_id: "doorward", client_secret: "s3cret: with/odd+signs-0123456789", grant_types: ["client_credentials"],
      redirect_uris: [], response_types: [], token_endpoint_auth_method: "client_secret_basic",
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, wanted) => {
        if (wanted !== resource) throw new Error("unknown resource");
        return { scope: "tickets.read tickets.write", audience: resource, accessTokenFormat: "jwt", accessTokenTTL: 4 };
      },
      useGrantedResource: () => true,
    },
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  scopes: ["openid", "offline_access", "tickets.read", "tickets.write"],
  issueRefreshToken: async () => true,
  clientBasedCORS: () => false,
  findAccount: async (_, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  jwks: undefined,
};
const provider = new Provider(issuer, configuration);
provider.on("server_error", (_, error) => console.error(error));
createServer(provider.callback()).listen(Number(port), "127.0.0.1", () => console.log("listening"));
