// Whether memory stays flat over many updates and reads. Usage: npm run soak, or
// node --expose-gc --max-semi-space-size=2 test/soak.mjs UPDATES READS, which keeps V8 from taking room for its own sake.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { StatePersistenceService } from '../dist/index.mjs';

const [updates, reads] = process.argv.slice(2).map(Number);
/** What the allocators and SQLite's caches keep for themselves; a leak of 200 bytes an update is more in the long form. */
const ALLOWED = 16 * 1024 * 1024;

const directory = mkdtempSync(join(tmpdir(), 'agentmux-state-soak-'));
const service = new StatePersistenceService(directory, { checkpointIntervalMs: 200 });
await service.initialize();

const text = 'what was said, é 🚀 '.repeat(20);
const message = (number) => ({ role: 'user', content: `${number} ${text}`, timestamp: new Date(number).toISOString() });
const recentMessages = Array.from({ length: 50 }, (_, number) => message(number));

function update(number) {
  switch (number % 4) {
    case 0:
      service.updateConversation({ id: `C-${number % 10}`, source: 'api', recentMessages, lastActivityAt: '' });
      break;
    case 1:
      service.appendMessage(`C-${(number - 1) % 10}`, message(number));
      break;
    case 2:
      service.updateAgent({ sessionName: `dev-${number % 7}`, agentId: 'a', role: text, status: 'active' });
      break;
    default:
      service.updateTask({
        id: `T-${number % 50}`,
        title: text,
        description: String(number),
        status: 'in_progress',
        priority: 'low',
        progress: { percentComplete: number % 100, completedSteps: [text, String(number)] },
        createdAt: '',
      });
  }
}

async function work(fraction) {
  const each = Math.max(1, Math.round(updates / reads));
  for (let number = 0; number < updates * fraction; number += 1) {
    update(number);
    if (number % each === 0) {
      service.getState();
    }
    if (number % 100 === 0) {
      // Errors, and a turn of the event loop for what is freed there.
      try {
        service.appendMessage('none', message(number));
      } catch {}
      await service.listBackups();
    }
  }
}

function memory() {
  for (let turn = 0; turn < 4; turn += 1) {
    globalThis.gc();
  }
  return process.memoryUsage();
}

const megabytes = (bytes) => `${(bytes / 1024 / 1024).toFixed(1)} MB`;

await work(0.25);
const before = memory();
await work(1);
const after = memory();
for (const kind of ['rss', 'heapUsed', 'external']) {
  console.log(`${kind}: ${megabytes(before[kind])} after warming up, ${megabytes(after[kind])} at the end`);
}
const grown = Math.max(after.rss - before.rss, after.heapUsed - before.heapUsed, after.external - before.external);
console.log(`${updates} updates and ${reads} reads: ${grown < ALLOWED ? 'flat' : 'GROWN'}`);
process.exitCode = grown < ALLOWED ? 0 : 1;
await service.prepareForShutdown();
rmSync(directory, { recursive: true });
