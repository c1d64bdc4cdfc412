// node bullmq.mjs REDIS_URL SINGLES JOBS: prints {"p50", "p99", "drained"}.
import { Queue, Worker } from "bullmq";

const [url, singles, jobs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const { hostname: host, port } = new URL(url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

const queue = new Queue("single", { connection });
let begin = () => {};
const worker = new Worker("single", async () => begin(performance.now()), { connection, concurrency: 1 });
await worker.waitUntilReady();
const waits = [];
for (let i = 0; i < singles; i++) {
  const begun = new Promise((resolve) => { begin = resolve; });
  const asked = performance.now();
  await queue.add("single", {});
  waits.push((await begun) - asked);
}
await worker.close();
waits.splice(0, Math.floor(singles / 10));
waits.sort((a, b) => a - b);
const at = (part) => waits[Math.ceil((waits.length - 1) * part)];

const many = new Queue("nothing", { connection });
for (let left = jobs; left > 0; left -= 1000) {
  await many.addBulk(Array.from({ length: Math.min(left, 1000) }, () => ({ name: "nothing", data: {} })));
}
let done = 0;
const begun = performance.now();
await new Promise((resolve) => {
  new Worker("nothing", async () => { if (++done === jobs) resolve(); }, { connection, concurrency: 100 });
});
const drained = jobs / ((performance.now() - begun) / 1000);
console.log(JSON.stringify({ p50: at(0.5), p99: at(0.99), drained }));
process.exit(0);
