// One call with an official TypeScript SDK, as its documentation shows it: defaults, a key in its own variable, and a base URL.
import { createRequire } from "node:module";

const modules = createRequire(process.env.part_node + "/package.json");
const base = process.env.BASE;
const options = {};
const proxy = process.env.ALL_PROXY ?? "";
if (proxy.startsWith("socks")) {
  const { hostname, port } = new URL(proxy);
  const dispatcher = modules("fetch-socks").socksDispatcher({ type: 5, host: hostname, port: Number(port) });
  options.fetchOptions = { dispatcher };
}

if (process.argv[2] === "anthropic") {
  const Anthropic = modules("@anthropic-ai/sdk").default;
  const client = new Anthropic({ baseURL: base, ...options });
  const messages = [{ role: "user", content: "hello" }];
  const answer = await client.messages.create({ model: "claude", max_tokens: 10, messages });
  console.log(answer.content[0].text);
} else {
  const OpenAI = modules("openai").default;
  const client = new OpenAI({ baseURL: base + "/v1", ...options });
  const answer = await client.responses.create({ model: "gpt", input: "hello" });
  console.log(answer.output_text);
}
