// A real OpenID provider that wants PKCE, gives refresh tokens for one use, and whose development pages log anybody in and ask for consent.
// The port to listen on and the address to come back to are arguments; what it says once it listens is its address.
import { Provider } from "oidc-provider";

const [port, redirectUri] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const client = {
  client_id: "elt-dagster-test",
  client_secret: "canary-oidc-secret-41d7",
  redirect_uris: [redirectUri],
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
  token_endpoint_auth_method: "client_secret_basic",
};
const provider = new Provider(issuer, {
  clients: [client],
  cookies: { keys: ["only for tests"] },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (ctx, known) => known.grantTypeAllowed("refresh_token"),
  features: { devInteractions: { enabled: true } },
  scopes: ["openid", "offline_access"],
  ttl: { AccessToken: 600, RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600, AuthorizationCode: 60, IdToken: 600 },
  findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
});
provider.on("server_error", (ctx, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.log(issuer));
