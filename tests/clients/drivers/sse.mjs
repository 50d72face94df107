// The npm package `eventsource`, as a judge of event streams: a line for each case.
import { createRequire } from "node:module";

const { EventSource } = createRequire(process.env.part_node + "/package.json")("eventsource");
const INTERVAL_MS = 400;

function events(query, count) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${process.env.BASE}?${query}`);
    const seen = [];
    source.onmessage = (event) => {
      seen.push({ id: event.lastEventId, data: event.data, at: performance.now() });
      if (seen.length === count) {
        source.close();
        resolve(seen);
      }
    };
    source.onerror = (event) => {
      source.close();
      reject(new Error(`${event.code} ${event.message}`));
    };
  });
}

async function judge(name, run) {
  try {
    await run();
    console.log("PASS", name);
  } catch (error) {
    console.log("FAIL", `${name}: ${error.message}`);
  }
}

function claim(holds, message) {
  if (!holds) throw new Error(message);
}

await judge("every event in order, with its id", async () => {
  const seen = await events("events=50&interval_ms=1", 50);
  claim(seen.every(({ id, data }, at) => id === String(at) && JSON.parse(data).event === at), JSON.stringify(seen));
});
await judge("an event arrives before the next is sent", async () => {
  const seen = await events(`events=4&interval_ms=${INTERVAL_MS}`, 4);
  const gaps = seen.slice(1).map((event, at) => event.at - seen[at].at);
  // Buffered events would arrive together.
  claim(gaps.every((gap) => gap > INTERVAL_MS / 2), gaps.join(" "));
});
await judge("a long stream", async () => {
  const seen = await events("events=5000&interval_ms=0", 5000);
  claim(seen.at(-1).id === "4999", seen.at(-1).id);
});
