// node graphile.mjs DATABASE_URL SINGLES JOBS: prints {"p50", "p99", "drained"}.
// With the settings that graphile-worker's own documentation gives for speed.
import { run, makeWorkerUtils, Logger } from "graphile-worker";

const [url, singles, jobs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString: url, logger });
await utils.migrate();

let begin = () => {};
let done = 0;
let finished = () => {};
const taskList = {
  single: () => begin(performance.now()),
  nothing: () => { if (++done === jobs) finished(); },
};
const start = () => run({
  connectionString: url,
  concurrency: 24,
  maxPoolSize: 24,
  noHandleSignals: true,
  logger,
  taskList,
  preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
});

// Without the local queue, which adds to the latency of single jobs: one runner for each measurement.
let runner = await run({
  connectionString: url, concurrency: 1, pollInterval: 2000, noHandleSignals: true, logger, taskList,
});
const waits = [];
for (let i = 0; i < singles; i++) {
  const begun = new Promise((resolve) => { begin = resolve; });
  const asked = performance.now();
  await utils.addJob("single", {});
  waits.push((await begun) - asked);
}
await runner.stop();
waits.splice(0, Math.floor(singles / 10));
waits.sort((a, b) => a - b);
const at = (part) => waits[Math.ceil((waits.length - 1) * part)];

for (let left = jobs; left > 0; left -= 1000) {
  await utils.addJobs(Array.from({ length: Math.min(left, 1000) }, () => ({ identifier: "nothing", payload: {} })));
}
const all = new Promise((resolve) => { finished = resolve; });
const begun = performance.now();
runner = await start();
await all;
const drained = jobs / ((performance.now() - begun) / 1000);
await runner.stop();
await utils.release();
console.log(JSON.stringify({ p50: at(0.5), p99: at(0.99), drained }));
process.exit(0);
