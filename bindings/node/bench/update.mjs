// What updating one task costs through Node, beside the same update by the library itself, by turns in one run.
// Fails where it is more than 1.5 times as much. Usage: npm run bench [ROUNDS=40] [UPDATES=250]
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

import { StatePersistenceService } from '../dist/index.mjs';

const [rounds = 40, updates = 250] = process.argv.slice(2).map(Number);
const LIMIT = 1.5;
const task = {
  id: 'task-1',
  title: 'Refactor the login of the parser',
  description: 'token parser queue retry branch commit merge review schema index vector cache '.repeat(4),
  status: 'in_progress',
  priority: 'high',
  assignedTo: 'dev-1',
  projectId: 'proj-1',
  progress: { percentComplete: 0, completedSteps: ['read', 'plan'], remainingSteps: ['write', 'test'] },
  createdAt: '2026-11-22T09:00:00.000Z',
  checkpoint: { stepIndex: 2, workData: { attempt: 1, list: [1, 2.5, null] }, modifiedFiles: ['src/a.ts'] },
};

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

const directory = mkdtempSync(join(tmpdir(), 'agentmux-state-bench-'));
try {
  const rust = spawn('cargo', ['bench', '--quiet', '--locked', '--bench', 'update_task', '--', join(directory, 'rust'), JSON.stringify(task)], {
    cwd: resolve(import.meta.dirname, '..'),
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const answers = createInterface(rust.stdout)[Symbol.asyncIterator]();
  const service = new StatePersistenceService(join(directory, 'node'));
  await service.initialize();

  const library = async () => {
    rust.stdin.write(`${updates}\n`);
    return Number((await answers.next()).value) / 1000;
  };
  const node = () => {
    const start = process.hrtime.bigint();
    for (let step = 0; step < updates; step += 1) {
      task.progress.percentComplete = step % 100;
      service.updateTask(task);
    }
    return Number(process.hrtime.bigint() - start) / 1000 / updates;
  };

  const times = { library: [], node: [] };
  for (let round = -2; round < rounds; round += 1) {
    const pair = round % 2 ? { library: await library(), node: node() } : { node: node(), library: await library() };
    // The first two warm up.
    if (round >= 0) {
      times.library.push(pair.library);
      times.node.push(pair.node);
    }
  }
  rust.stdin.end();
  await service.prepareForShutdown();

  const ratio = median(times.node.map((time, round) => time / times.library[round]));
  console.log(`the library itself: ${median(times.library).toFixed(1)} µs an update, median of ${rounds} rounds of ${updates}`);
  console.log(`through Node:       ${median(times.node).toFixed(1)} µs`);
  console.log(`ratio:              ${ratio.toFixed(2)}, median of the rounds; at most ${LIMIT} is allowed`);
  process.exitCode = ratio <= LIMIT ? 0 : 1;
} finally {
  rmSync(directory, { recursive: true, force: true });
}
