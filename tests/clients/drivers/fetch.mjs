// One GET with the Node library that is named; ends with 0 only for a 200. Modules are found below $part_node.
import { createRequire } from "node:module";

const library = process.argv[2];
const url = process.env.BASE + "/thing";
const from = () => createRequire(process.env.part_node + "/package.json");

const libraries = {
  async fetch() {
    const answer = await fetch(url);
    return [answer.status, await answer.text()];
  },
  async undici() {
    const { request, EnvHttpProxyAgent } = from()("undici");
    const answer = await request(url, { dispatcher: new EnvHttpProxyAgent() });
    return [answer.statusCode, await answer.body.text()];
  },
  async axios() {
    const answer = await from()("axios").get(url, { responseType: "text", validateStatus: () => true });
    return [answer.status, answer.data];
  },
  async socks() {
    const { hostname, port } = new URL(process.env.ALL_PROXY);
    const dispatcher = from()("fetch-socks").socksDispatcher({ type: 5, host: hostname, port: Number(port) });
    const answer = await fetch(url, { dispatcher });
    return [answer.status, await answer.text()];
  },
  async axiosSocks() {
    const { SocksProxyAgent } = from()("socks-proxy-agent");
    const agent = new SocksProxyAgent(process.env.ALL_PROXY);
    const options = { proxy: false, httpAgent: agent, httpsAgent: agent, responseType: "text", validateStatus: () => true };
    const answer = await from()("axios").get(url, options);
    return [answer.status, answer.data];
  },
  async axios1() {
    const answer = await from()("axios1").get(url, { responseType: "text", validateStatus: () => true });
    return [answer.status, answer.data];
  },
};

const [status, text] = await libraries[library]();
console.log(status, text);
process.exit(status === 200 ? 0 : 1);
