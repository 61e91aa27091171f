/** A state of 34 MB: nothing that is `async` holds the event loop. Memory stays flat. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { expect, it } from 'vitest';

import { STATE_PATHS, StatePersistenceService } from '../dist/index.mjs';
import { generated } from './generate.js';
import { PACKAGE, base, task } from './helpers.js';

/** How long this thread has waited for a processor that others had, in milliseconds; 0 where the system does not tell. */
function waited(): number {
  try {
    return Number(readFileSync('/proc/self/schedstat', 'utf8').split(' ')[1]) / 1e6;
  } catch {
    return 0;
  }
}

/** A clock that stands still while this thread waits for a processor, in milliseconds. */
function own(): number {
  for (let before = waited(); ; ) {
    const now = performance.now();
    const after = waited();
    if (after === before) {
      return now - after;
    }
    before = after;
  }
}

/** How long the event loop was held while something was done, at most, in milliseconds. */
async function held(work: () => Promise<unknown>): Promise<number> {
  let most = 0;
  let done = false;
  let last = own();
  const look = () => {
    const now = own();
    most = Math.max(most, now - last);
    last = now;
    if (!done) {
      setImmediate(look);
    }
  };
  setImmediate(look);
  await work();
  done = true;
  look();
  return most;
}

/** The least of several tries: what holds the event loop by itself does so each time, and a busy machine does not. */
async function least(limit: number, work: () => Promise<unknown>): Promise<number> {
  const found: number[] = [];
  while (found.length < 20 && Math.min(...found, Infinity) > limit) {
    found.push(await held(work));
  }
  return Math.min(...found);
}

it('backups, checkpoints and restores of 34 MB never hold the event loop for longer than 5 ms', async () => {
  const directory = base();
  const file = join(directory, STATE_PATHS.STATE_DIR, STATE_PATHS.CURRENT_STATE);
  await mkdir(join(file, '..'), { recursive: true });
  const document = JSON.stringify(generated(1000, 5000), null, 2);
  await writeFile(file, document);
  expect((await stat(file)).size).toBeGreaterThan(33e6);

  const service = new StatePersistenceService(directory, { checkpointIntervalMs: null });
  await service.initialize();
  let id = '';
  const times = {
    backup: await least(5, async () => (id = await service.createBackup('x'))),
    checkpoint: await least(5, () => {
      service.updateTask(task('task-1'));
      return service.saveState('user_request');
    }),
    restore: await least(5, () => service.restoreBackup(id)),
    verification: await least(5, () => service.verifyBackup(id)),
    shutdown: await least(5, () => service.prepareForShutdown()),
  };
  const start = await held(async () => {
    const next = new StatePersistenceService(directory);
    expect((await next.initialize())?.conversations).toHaveLength(1000);
    await next.prepareForShutdown();
  });
  console.log('held for at most, in ms:', JSON.stringify({ ...times, start }));
  for (const [what, time] of Object.entries(times)) {
    expect(time, what).toBeLessThanOrEqual(5);
  }
});

it('looking at 34 MB of objects never holds the event loop for longer than 10 ms', async () => {
  const service = new StatePersistenceService(base(), { checkpointIntervalMs: null });
  await service.initialize();
  const { conversations, tasks } = generated(1000, 5000);
  for (const conversation of conversations) {
    service.updateConversation(conversation);
  }
  for (const task of tasks) {
    service.updateTask(task);
  }
  // Nothing has changed; one thing; a hundred; and all that there is in the state that was given out, which is other objects.
  const times: Record<string, number> = {};
  times['none'] = await least(10, () => service.saveState());
  let number = 0;
  times['one'] = await least(10, () => {
    tasks[4000]!.title = `Changed ${(number += 1)}`;
    return service.saveState();
  });
  times['a hundred'] = await least(10, () => {
    for (let index = 0; index < 5000; index += 50) {
      tasks[index]!.title = `Changed ${(number += 1)}`;
    }
    return service.saveState();
  });
  service.getState();
  times['none, after getState'] = await least(10, () => service.saveState());
  console.log('held for at most, in ms:', JSON.stringify(times));
  expect(service.getState()?.tasks[4000]!.title).toBe(tasks[4000]!.title);
  for (const [what, time] of Object.entries(times)) {
    expect(time, what).toBeLessThanOrEqual(10);
  }
  await service.prepareForShutdown();
});

it('memory stays flat', () => {
  const flags = ['--expose-gc', '--max-semi-space-size=2'];
  const printed = execFileSync(process.execPath, [...flags, join(PACKAGE, 'test/soak.mjs'), '8000', '800'], { encoding: 'utf8' });
  expect(printed).toContain('flat');
});
