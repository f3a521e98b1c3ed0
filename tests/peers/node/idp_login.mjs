// An identity provider that we did not write (oidc-provider) with a user who is signed in there already and consented long ago:
// the worst case for a broker. Settings come as JSON in argv: { port, client: {id, secret, redirect}, users: {name: [roles]}, user, extra }.
// Prints "ready" when it listens, and one line a request.
import { createServer } from "node:http";
import Provider from "oidc-provider";

const settings = JSON.parse(process.argv[2]);
const issuer = `http://127.0.0.1:${settings.port}`;
const provider = new Provider(issuer, {
  ...(settings.keys ? { jwks: { keys: settings.keys } } : {}),
  clients: [
    {
      client_id: settings.client.id,
      client_secret: settings.client.secret,
      redirect_uris: [settings.client.redirect],
      grant_types: ["authorization_code"],
      response_types: ["code"],
      id_token_signed_response_alg: settings.alg ?? "RS256",
    },
  ],
  claims: { openid: ["sub", "roles"], profile: ["name"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["a key for tests"] },
  features: { devInteractions: { enabled: false } },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: id, roles: settings.users[id] }),
  }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  loadExistingGrant: async (ctx) => {
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope("openid profile");
    await grant.save();
    return grant;
  },
});

const serve = provider.callback();
const server = createServer((request, response) => {
  console.log(`${request.method} ${request.url}`);
  if (!request.url.startsWith("/interaction/")) return serve(request, response);
  return provider.interactionFinished(request, response, { login: { accountId: settings.user } });
});
server.listen(settings.port, "127.0.0.1", () => console.log("ready"));
