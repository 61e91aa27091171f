/** Processes that die, meet, end, and speak other languages. */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';

import { expect, it } from 'vitest';

import { StatePersistenceService, type OrchestratorState } from '../dist/index.mjs';
import { FIXTURE, base, conversation, failure, node, program, task } from './helpers.js';

const IMPORTS = `
  import { writeSync } from 'node:fs';
  import { StatePersistenceService } from 'agentmux-state';
  const [directory, ...more] = process.argv.slice(1);
  const say = (line) => writeSync(1, line + '\\n');
  const task = (id, title) => ({ id, title, description: '', status: 'in_progress', priority: 'low',
    progress: { percentComplete: 0, completedSteps: [] }, createdAt: '' });
`;

it('nothing that returned is lost when the process is killed, 50 times', async () => {
  const directory = base();
  const script = `${IMPORTS}
    const service = new StatePersistenceService(directory);
    const previous = await service.initialize();
    const titles = (previous?.tasks ?? []).map(({ title }) => Number(title));
    const messages = (previous?.conversations[0]?.recentMessages ?? []).map(({ content }) => Number(content));
    const found = Math.max(0, ...titles, ...messages);
    say('found ' + found + ' ' + (previous?.metadata.restartCount ?? -1));
    if (!previous) {
      service.updateConversation({ id: 'C-1', source: 'api', recentMessages: [], lastActivityAt: '' });
    }
    for (let number = found + 1; ; number += 1) {
      if (number % 7) {
        service.updateTask(task('T-' + (number % 5), String(number)));
      } else {
        service.appendMessage('C-1', { role: 'agent', content: String(number), timestamp: '' });
      }
      say('done ' + number);
    }`;
  let acknowledged = 0;
  for (let kill = 0; kill <= 50; kill += 1) {
    const { child, lines, exit } = node(script, directory);
    const [, found, restarts] = String((await lines.next()).value).split(' ').map(Number);
    // Runs that were killed before they saved anything are no previous state.
    expect(found === 0 ? [-1, kill - 1] : [kill - 1]).toContain(restarts);
    // One update more than was told may have been made.
    expect([acknowledged, acknowledged + 1]).toContain(found);
    acknowledged = found!;
    // Killed at the start, in the middle, and between.
    setTimeout(() => child.kill('SIGKILL'), (kill * 7) % 60);
    for await (const line of { [Symbol.asyncIterator]: () => lines }) {
      acknowledged = Number(line.split(' ')[1]);
    }
    expect(await exit).toBeNull();
  }
  expect(acknowledged).toBeGreaterThan(50);
});

it('another process is refused, and told who holds the directory', async () => {
  const directory = base();
  const service = new StatePersistenceService(directory);
  await service.initialize();
  const script = `${IMPORTS}
    const service = new StatePersistenceService(directory);
    try {
      await service.initialize();
    } catch ({ name, code, pid, message }) {
      say(JSON.stringify({ name, code, pid, message, running: service.isInitialized(), state: service.getState() }));
    }`;
  const { lines, exit } = node(script, directory);
  const error = JSON.parse((await lines.next()).value!) as Record<string, unknown>;
  expect(error).toMatchObject({ name: 'StatePersistenceError', code: 'IN_USE', pid: process.pid, running: false, state: null });
  expect(error['message']).toContain(`is in use by process ${process.pid}`);
  expect(await exit).toBe(0);
  await service.prepareForShutdown();
  expect(await node(script, directory).exit).toBe(0);
});

it.each([
  ['that ends by itself, with a checkpoint pending', '', 0],
  ['that ends by itself, with checkpoints all the time', 'checkpointIntervalMs: 1', 0],
  ['that exits', '', 3],
  ['that exits in the middle of a backup', 'messageLimit: 9', 4],
])('a process %s is not kept alive and does not crash', async (_, options, code) => {
  const directory = base();
  const script = `${IMPORTS}
    const service = new StatePersistenceService(directory, { ${options} });
    await service.initialize();
    service.updateTask(task('T-1', 'kept'));
    const code = ${code};
    if (code === 4) {
      void service.createBackup('x');
    }
    setTimeout(() => { if (code) process.exit(code); }, 20);`;
  const start = Date.now();
  expect(await node(script, directory).exit).toBe(code);
  // Far less than the interval of 60 s.
  expect(Date.now() - start).toBeLessThan(30_000);
  const next = new StatePersistenceService(directory);
  expect((await next.initialize())?.tasks).toMatchObject([{ id: 'T-1', title: 'kept' }]);
  await next.prepareForShutdown();
  const status = JSON.parse(program(next.getStateDir(), 'status', '--json')) as { run: { endedCleanly: boolean } };
  expect(status.run.endedCleanly).toBe(true);
});

it('a service lives as long as its run, though nobody refers to it', async () => {
  const directory = base();
  const script = `${IMPORTS}
    import { setFlagsFromString } from 'node:v8';
    import { runInNewContext } from 'node:vm';
    import { existsSync } from 'node:fs';
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc');
    const exported = directory + '/.agentmux/state/current-state.json';
    await (async () => {
      const service = new StatePersistenceService(directory, { checkpointIntervalMs: 300 });
      await service.initialize();
      service.updateTask(task('T-1', 'x'));
    })();
    for (let turn = 0; turn < 1000 && !existsSync(exported); turn += 1) {
      gc();
      await new Promise((done) => setTimeout(done, 10));
    }
    say(existsSync(exported));`;
  const { lines, exit } = node(script, directory);
  expect((await lines.next()).value).toBe('true');
  expect(await exit).toBe(0);
});

it('a service in a worker thread takes over, and its end leaves the process whole', async () => {
  const directory = base();
  const service = new StatePersistenceService(directory);
  await service.initialize();
  service.updateTask(task('T-1'));
  const script = `
    const { parentPort, workerData } = require('node:worker_threads');
    const { StatePersistenceService } = require('agentmux-state');
    const service = new StatePersistenceService(workerData, { checkpointIntervalMs: 1 });
    service.initialize().then((previous) => parentPort.postMessage(previous.tasks.length));`;
  const worker = new Worker(script, { eval: true, workerData: directory });
  expect(await new Promise((done, fail) => worker.on('message', done).on('error', fail))).toBe(1);
  expect((await failure(() => service.updateTask(task('T-2')))).code).toBe('TAKEN_OVER');
  await worker.terminate();
  expect((await service.initialize())?.tasks).toHaveLength(1);
  service.updateTask(task('T-2'));
  await service.prepareForShutdown();
});

it('a relative base directory stays where it was though the process goes elsewhere', async () => {
  const [directory, elsewhere] = [base(), base()];
  const script = `${IMPORTS}
    process.chdir(directory);
    const service = new StatePersistenceService('relative');
    process.chdir(more[0]);
    await service.initialize();
    service.updateTask(task('T-1', 'here'));
    const id = await service.createBackup('x');
    const listed = await service.listBackups();
    const { ok } = await service.verifyBackup(id);
    await service.prepareForShutdown();
    say(JSON.stringify([listed.includes(id), ok, (await service.initialize()).tasks.length]));`;
  const { lines, exit } = node(script, directory, elsewhere);
  expect(JSON.parse(String((await lines.next()).value))).toEqual([true, true, 1]);
  expect(await exit).toBe(0);
  expect(await readdir(elsewhere)).toEqual([]);
});

it('a state written by the program is read by Node', async () => {
  const directory = base();
  const service = new StatePersistenceService(directory);
  program(service.getStateDir(), 'import', FIXTURE);
  const { mode, ...previous } = (await service.initialize())!;
  expect(mode).toBe('normal');
  expect(JSON.stringify(previous, null, 2)).toBe(await readFile(FIXTURE, 'utf8'));
  expect(service.getState()).toEqual({ ...(JSON.parse(program(service.getStateDir(), 'export', '-')) as OrchestratorState), mode });
  await service.prepareForShutdown();
});

it('a state written by Node is read by the program, also while it runs', async () => {
  const service = new StatePersistenceService(base());
  await service.initialize();
  service.updateTask(task('T-1', { status: 'in_progress', title: 'ünïcode 🚀' }));
  service.updateConversation(conversation('C-1', 3));
  const state = service.getState() as OrchestratorState;
  const directory = service.getStateDir();
  expect({ ...(JSON.parse(program(directory, 'export', '-')) as OrchestratorState), mode: 'normal' }).toEqual(state);
  expect(JSON.parse(program(directory, 'list', 'tasks', '--json'))).toEqual(state.tasks);
  program(directory, 'checkpoint', '--reason', 'user_request');
  expect(service.getState()?.checkpointReason).toBe('user_request');
  const backup = JSON.parse(program(directory, 'backup', 'create', 'by the program', '--json')) as { id: string };
  expect(await service.listBackups()).toEqual([backup.id]);
  await service.prepareForShutdown();
  expect(JSON.parse(program(directory, 'check', '--json'))).toMatchObject({ ok: true });
  const exported = JSON.parse(await readFile(join(directory, 'current-state.json'), 'utf8')) as OrchestratorState;
  expect({ ...exported, mode: 'normal' }).toEqual(service.getState());
});
