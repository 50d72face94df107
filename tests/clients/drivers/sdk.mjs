// One call with an official TypeScript SDK, as its documentation shows it: defaults, and no more than a key and a base URL.
import { createRequire } from "node:module";

const modules = createRequire(process.env.part_node + "/package.json");
const base = process.env.BASE;

if (process.argv[2] === "anthropic") {
  const Anthropic = modules("@anthropic-ai/sdk").default;
  const client = new Anthropic({ apiKey: "placeholder", baseURL: base });
  const messages = [{ role: "user", content: "hello" }];
  const answer = await client.messages.create({ model: "claude", max_tokens: 10, messages });
  console.log(answer.content[0].text);
} else {
  const OpenAI = modules("openai").default;
  const client = new OpenAI({ apiKey: "placeholder", baseURL: base + "/v1" });
  const answer = await client.responses.create({ model: "gpt", input: "hello" });
  console.log(answer.output_text);
}
