// What the TypeScript service does with its file, timed in its own process: reads it whole, and for each durable update
// writes it whole under another name, syncs it and renames it. One command a line: `load FILE` or `save FILE`; answers with
// milliseconds.
import fs from 'node:fs/promises';
import readline from 'node:readline';

let state;
let round = 0;
const commands = {
  async load(file) {
    state = undefined;
    const start = performance.now();
    state = JSON.parse(await fs.readFile(file, 'utf8'));
    return performance.now() - start;
  },
  async save(file) {
    state.tasks[round++ % state.tasks.length].progress.percentComplete = round % 101;
    const start = performance.now();
    const handle = await fs.open(`${file}.tmp`, 'w');
    await handle.writeFile(JSON.stringify(state, null, 2));
    await handle.sync();
    await handle.close();
    await fs.rename(`${file}.tmp`, file);
    return performance.now() - start;
  },
};
for await (const line of readline.createInterface({ input: process.stdin })) {
  const space = line.indexOf(' ');
  console.log(await commands[line.slice(0, space)](line.slice(space + 1)));
}
