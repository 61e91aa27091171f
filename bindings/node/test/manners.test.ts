/** How the service behaves: what the TypeScript service did as it did it, and what that one lacked. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';

import { describe, expect, it, onTestFinished } from 'vitest';

import {
  CHECKPOINT_INTERVAL_MS,
  CHECKPOINT_REASONS,
  MAX_PERSISTED_MESSAGES,
  STATE_ERROR_CODES,
  STATE_PATHS,
  StatePersistenceService,
  isValidCheckpointReason,
  isValidConversationSource,
  isValidOrchestratorMode,
  isValidTaskPriority,
  isValidTaskStatus,
  type OrchestratorState,
  type StatePersistenceOptions,
  type TaskState,
} from '../dist/index.mjs';
import { FIXTURE, PACKAGE, agent, base, conversation, failure, message, program, project, state, task } from './helpers.js';

async function started(directory = base(), options: StatePersistenceOptions = {}): Promise<StatePersistenceService> {
  const service = new StatePersistenceService(directory, options);
  await service.initialize();
  onTestFinished(() => service.prepareForShutdown().catch(() => undefined));
  return service;
}

/** A base directory with the file that the TypeScript service left. */
async function left(name: string = STATE_PATHS.CURRENT_STATE, content?: string): Promise<string> {
  const directory = base();
  const file = join(directory, STATE_PATHS.STATE_DIR, name);
  await mkdir(join(file, '..'), { recursive: true });
  await (content === undefined ? copyFile(FIXTURE, file) : writeFile(file, content));
  return directory;
}

async function exported(service: StatePersistenceService): Promise<string> {
  return readFile(join(service.getStateDir(), STATE_PATHS.CURRENT_STATE), 'utf8');
}

/** A document without a mode, with the one that it counts as. */
function withMode(document: string): string {
  expect(document).not.toContain('"mode"');
  return document.replace(/^ {2}"checkpointReason": .*$/m, '$&\n  "mode": "normal",');
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; !(await holds()); ) {
    expect(Date.now(), `waited in vain until ${what}`).toBeLessThan(deadline);
    await new Promise((done) => setTimeout(done, 10));
  }
}

describe('before initialize', () => {
  it('updates do nothing, and nothing is there', async () => {
    const directory = base();
    const service = new StatePersistenceService(directory);
    service.updateConversation(conversation('C-1'));
    service.updateTask(task('T-1'));
    service.updateAgent(agent('dev-1'));
    service.updateProject(project('P-1'));
    service.updateSelfImprovement({ validationChecks: [] });
    service.appendMessage('C-1', message(1));
    service.setMode('onboarding');
    // @ts-expect-error Not even looked at.
    service.updateTask({});
    expect(service.removeConversation('C-1') || service.removeTask('T-1') || service.removeAgent('dev-1')).toBe(false);
    expect(service.removeProject('P-1') || service.clearSelfImprovement()).toBe(false);
    expect(service.getState()).toBeNull();
    expect(service.getMode()).toBe('normal');
    expect(service.lastCheckpointError()).toBeNull();
    await service.saveState('user_request');
    service.stopPeriodicCheckpoint();
    await service.cleanupOldBackups();
    await service.prepareForShutdown();
    expect(await service.listBackups()).toEqual([]);
    expect(await service.restoreFromBackup('any')).toBe(false);
    expect(existsSync(join(directory, '.agentmux'))).toBe(false);
  });

  it('what cannot do nothing says so', async () => {
    const service = new StatePersistenceService(base());
    const calls = [() => service.createBackup('x'), () => service.restoreBackup('x'), () => service.pruneBackups()];
    for (const call of [...calls, () => service.check(), () => service.search('x')]) {
      expect((await failure(call)).code).toBe('NOT_INITIALIZED');
    }
  });
});

describe('updates', () => {
  it('are on the disk when they return', async () => {
    const service = await started();
    service.updateTask(task('T-1', { status: 'in_progress' }));
    expect(JSON.parse(program(service.getStateDir(), 'show', 'task', 'T-1', '--json'))).toEqual(service.getState()?.tasks[0]);
  });

  it('keep unknown keys at every level, and unknown values', async () => {
    const service = await started();
    const newer = {
      ...task('T-1', { progress: { percentComplete: 12.5, completedSteps: [], velocity: [1, { a: null }] } as TaskState['progress'] }),
      status: 'awaiting_review' as TaskState['status'],
      urgency: { level: 3, '7': true },
    };
    service.updateTask(newer);
    expect(service.getState()?.tasks).toEqual([newer]);
    const again = service.getState()!.tasks[0]!;
    service.updateTask({ ...again, title: 'Changed' });
    expect(service.getState()?.tasks).toEqual([{ ...newer, title: 'Changed' }]);
    expect(program(service.getStateDir(), 'show', 'task', 'T-1', '--json')).toContain('"velocity"');
  });

  it('read what JavaScript leaves out or cannot say as documents are read', async () => {
    const service = await started();
    service.updateTask({
      ...task('T-1', { title: 'half 🚀\ud83d of a pair, but not \\ud83d', assignedTo: undefined as never }),
      teamId: null as never,
      progress: { percentComplete: NaN, completedSteps: undefined as never },
      createdAt: new Date(0) as never,
    });
    expect(service.getState()?.tasks).toEqual([
      task('T-1', { title: 'half 🚀\ufffd of a pair, but not \\ud83d', createdAt: '1970-01-01T00:00:00.000Z' }),
    ]);
    // The id of a thing is read alike wherever it stands.
    service.updateTask(task('half\ud83d'));
    expect(service.removeTask('half\ud83d')).toBe(true);
    service.updateTask(task('nul\0 esc\u001b', { description: '' }));
    expect(service.getState()?.tasks[1]?.id).toBe('nul\0 esc\u001b');
  });

  it('drop the oldest messages of what they are given, and what is taken out of a list of the state stays', async () => {
    const service = await started();
    const given = conversation('C-1', 60);
    service.updateConversation(given);
    expect(given.recentMessages).toEqual(conversation('C-1', 60).recentMessages.slice(-50));
    service.getState()!.conversations.pop();
    expect(service.getState()!.conversations).toHaveLength(1);
    const frozen = Object.freeze(conversation('C-2', 60));
    service.updateConversation(frozen);
    expect(service.getState()!.conversations[1]!.recentMessages).toHaveLength(50);
  });
});

describe('the state', () => {
  it('equals the export, key for key', async () => {
    const service = await started(await left());
    service.updateTask(task('T-1'));
    await service.saveState('task_completed');
    const state = service.getState()!;
    const document = await exported(service);
    expect(JSON.stringify(state, null, 2)).toBe(withMode(document));
    expect(state).toStrictEqual({ ...(JSON.parse(document) as OrchestratorState), mode: 'normal' });
    expect(Object.getPrototypeOf(state)).toBe(Object.prototype);
    expect(state.checkpointReason).toBe('task_completed');
  });

  it('is what the next start gives', async () => {
    const service = await started(await left());
    const state = JSON.stringify(service.getState());
    const next = new StatePersistenceService(resolve(service.getStateDir(), '../..'));
    expect(JSON.stringify(await next.initialize())).toBe(state);
    await next.prepareForShutdown();
  });

  it.each([STATE_PATHS.CURRENT_STATE, 'orchestrator-state.json', '../../.crewly/state/orchestrator-state.json'])(
    'of the TypeScript service is taken over from %s, and can go back to it',
    async (name) => {
      const directory = await left(name);
      const document = await readFile(FIXTURE, 'utf8');
      const service = new StatePersistenceService(directory);
      expect(JSON.stringify(await service.initialize(), null, 2)).toBe(withMode(document));
      const now = service.getState()!;
      expect(now.tasks).toHaveLength(24);
      expect(now.metadata.restartCount).toBe((JSON.parse(document) as OrchestratorState).metadata.restartCount + 1);
      await service.prepareForShutdown();
      // What the TypeScript service would read.
      const back = JSON.parse(await exported(service)) as OrchestratorState;
      expect(back.tasks).toEqual((JSON.parse(document) as OrchestratorState).tasks);
      expect(back.version).toBe('1.0.0');
    },
  );

  it('goes on over restarts, or starts empty where that is asked for', async () => {
    const directory = base();
    const first = await started(directory);
    first.updateTask(task('T-1', { status: 'paused' }));
    for (const restart of [1, 2]) {
      const next = await started(directory);
      expect(next.getState()).toMatchObject({ tasks: [{ id: 'T-1' }], metadata: { restartCount: restart } });
    }
    const empty = new StatePersistenceService(directory, { startEmpty: true });
    const previous = await empty.initialize();
    expect(previous?.tasks).toHaveLength(1);
    expect(empty.generateResumeInstructions(previous!).resumeOrder).toEqual(['task:T-1']);
    expect(empty.getState()?.tasks).toEqual([]);
    const [backup] = await empty.listBackups();
    expect(backup).toMatch(/-before-start-empty$/);
    expect(await empty.restoreFromBackup(backup!)).toBe(true);
    expect(empty.getState()?.tasks).toHaveLength(1);
    await empty.prepareForShutdown();
  });

  it('can be read after a shutdown, and goes on with another start', async () => {
    const service = await started();
    service.updateTask(task('T-1'));
    await service.prepareForShutdown();
    await service.prepareForShutdown();
    expect(service.isInitialized()).toBe(false);
    expect(service.getState()?.tasks).toHaveLength(1);
    expect((await service.initialize())?.tasks).toHaveLength(1);
    service.updateTask(task('T-2'));
  });

  it('goes on with another start though this process has copied the database in between', async () => {
    const service = await started();
    service.updateTask(task('T-1'));
    expect(service.getState()?.tasks).toHaveLength(1);
    await service.prepareForShutdown();
    const database = join(service.getStateDir(), 'state.db');
    await copyFile(database, `${database}.copy`);
    expect(service.getState()?.tasks).toHaveLength(1);
    await copyFile(database, `${database}.copy`);
    expect((await service.initialize())?.tasks).toHaveLength(1);
    service.updateTask(task('T-2'));
    expect(service.getState()?.tasks).toHaveLength(2);
  });
});

describe('resume instructions', () => {
  it('are those of the program', async () => {
    const service = await started(await left());
    const state = service.getState()!;
    state.conversations[0]!.lastActivityAt = new Date().toISOString();
    service.updateConversation(state.conversations[0]!);
    const instructions = service.generateResumeInstructions(service.getState()!);
    expect(instructions).toEqual(JSON.parse(program(service.getStateDir(), 'resume', '--json')));
    expect(instructions.conversationsToResume).toHaveLength(1);
    expect(instructions.notifications).toHaveLength(2);
    expect(instructions.tasksToResume.some(({ resumeFromCheckpoint }) => resumeFromCheckpoint)).toBe(true);
  });

  it('take a state that was made up, also before initialize', () => {
    const service = new StatePersistenceService(base());
    const conversations = [conversation('C-1', 0, { lastActivityAt: undefined as never })];
    const made = state({ conversations, metadata: undefined as never });
    expect(service.generateResumeInstructions(made)).toEqual({
      resumeOrder: [],
      conversationsToResume: [],
      tasksToResume: [],
      notifications: [
        { type: 'slack', message: 'AgentMux has restarted (restart #1). Resuming 0 tasks and 0 conversations.' },
      ],
    });
  });
});

describe('backups', () => {
  it('have an id with the time and the label, and are listed newest first', async () => {
    const service = await started();
    const ids = [await service.createBackup('one'), await service.createBackup('two'), await service.createBackup('three')];
    expect(ids[0]).toMatch(/^backup-\d{13}-one$/);
    expect(await service.listBackups()).toEqual(ids.toReversed());
    await service.cleanupOldBackups(2);
    expect(await service.listBackups()).toEqual([ids[2], ids[1]]);
    expect(await service.pruneBackups(1)).toEqual({ removed: [ids[1]], kept: [ids[2]] });
    await service.cleanupOldBackups();
    expect(await service.listBackups()).toEqual([ids[2]]);
  });

  it('of the TypeScript service are listed and restored', async () => {
    const service = await started();
    await copyFile(FIXTURE, join(service.getStateDir(), 'backups', 'backup-1761955200000-old.json'));
    expect(await service.listBackups()).toEqual(['backup-1761955200000-old']);
    expect(await service.restoreFromBackup('backup-1761955200000-old')).toBe(true);
    expect(service.getState()?.tasks).toHaveLength(24);
  });

  it('that are damaged are not restored, and verifying tells', async () => {
    const service = await started();
    service.updateTask(task('T-1'));
    const id = await service.createBackup('x');
    expect(await service.verifyBackup(id)).toEqual({ id, ok: true, problems: [] });
    const file = join(service.getStateDir(), 'backups', `${id}.db`);
    const bytes = await readFile(file);
    bytes[5000]! ^= 1;
    await writeFile(file, bytes);
    expect(await service.verifyBackup(id)).toMatchObject({ id, ok: false, problems: [expect.stringContaining('checksum')] });
    service.updateTask(task('T-2'));
    expect(await service.restoreFromBackup(id)).toBe(false);
    expect((await failure(() => service.restoreBackup(id))).code).toBe('BACKUP_DAMAGED');
    expect(service.getState()?.tasks).toHaveLength(2);
    expect((await failure(() => service.verifyBackup('none'))).code).toBe('NOT_FOUND');
    expect((await failure(() => service.restoreBackup('../../etc/passwd'))).code).toBe('NOT_FOUND');
  });

  it('that cannot be made fail with a code, and cleaning up never throws', async () => {
    const service = await started();
    const folder = join(service.getStateDir(), 'backups');
    await rm(folder, { recursive: true });
    await writeFile(folder, 'no directory');
    expect((await failure(() => service.createBackup('x'))).code).toBe('IO');
    await service.cleanupOldBackups();
    for (const keep of [-1, 0.5, NaN, 2 ** 40]) {
      await service.cleanupOldBackups(keep);
      expect((await failure(() => service.pruneBackups(keep))).code).toBe('INVALID_ARGUMENT');
    }
  });
});

describe('errors', () => {
  it('are errors with a code that the library knows', async () => {
    const library = await readFile(resolve(PACKAGE, '../../src/error/mod.rs'), 'utf8');
    const codes = [...library.matchAll(/Self::\w+(?: \{ \.\. \})? => "([A-Z_]+)",/g)].map(([, code]) => code);
    expect(codes.length).toBeGreaterThan(20);
    expect(STATE_ERROR_CODES).toEqual([...codes, 'INVALID_ARGUMENT']);
    const service = await started();
    const error = await failure(() => service.appendMessage('none', message(1)));
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: 'StatePersistenceError', code: 'NOT_FOUND', pid: undefined });
    expect(error.message).toBe('there is no conversation "none"');
    expect(error.stack).toContain('manners.test.ts');
  });

  it('name what cannot be written', async () => {
    const service = await started();
    const { title: _, ...untitled } = task('T-1');
    const circular = { ...task('T-1'), self: {} };
    circular.self = circular;
    for (const [value, text] of [
      [untitled, 'task T-1: title: a required string is missing or null'],
      [{ ...task('T-1'), blockedBy: [{}] }, 'task T-1: $.blockedBy[0]: expected a string, found an object'],
      [{ ...task('T-1'), big: 1n }, 'BigInt'],
      [circular, 'circular'],
      [undefined, 'task: expected an object, found null'],
    ] as [TaskState, string][]) {
      const error = await failure(() => service.updateTask(value));
      expect(error.code).toBe('INVALID_VALUE');
      expect(error.message).toContain(text);
    }
    expect(service.getState()?.tasks).toEqual([]);
  });

  it.each(['', 'null', '{"id": "state-1", "conv', '{"version": "2.0.0"}'])(
    'come where the file of the TypeScript service cannot be read: %j',
    async (content) => {
      const directory = await left(STATE_PATHS.CURRENT_STATE, content);
      const service = new StatePersistenceService(directory);
      const error = await failure(() => service.initialize());
      expect(['DOCUMENT', 'DOCUMENT_TOO_NEW']).toContain(error.code);
      expect(error.message).toContain(STATE_PATHS.CURRENT_STATE);
      expect(service.isInitialized()).toBe(false);
      expect(service.getState()).toBeNull();
      expect(await exported(service)).toBe(content);
    },
  );

  it('come for options that mean nothing', async () => {
    for (const options of [{ messageLimit: 0 }, { messageLimit: NaN }, { checkpointIntervalMs: -1 }, { checkpointIntervalMs: Infinity }]) {
      expect((await failure(() => new StatePersistenceService(base(), options))).code).toBe('INVALID_ARGUMENT');
    }
    const service = await started();
    expect((await failure(() => service.search('x', -1))).code).toBe('INVALID_ARGUMENT');
  });
});

describe('a second instance', () => {
  it('on the directory takes over from the first', async () => {
    const directory = base();
    const first = await started(directory, { checkpointIntervalMs: 20 });
    first.updateTask(task('T-1'));
    const second = new StatePersistenceService(directory);
    expect((await second.initialize())?.tasks).toHaveLength(1);
    expect([first.isInitialized(), second.isInitialized()]).toEqual([false, true]);
    expect((await failure(() => first.updateTask(task('T-2')))).code).toBe('TAKEN_OVER');
    await first.prepareForShutdown();
    second.updateTask(task('T-2'));
    expect(second.getState()?.tasks).toHaveLength(2);
    await second.prepareForShutdown();
  });

  it('at the same moment leaves one of them running', async () => {
    const directory = base();
    const services = Array.from({ length: 4 }, () => new StatePersistenceService(directory));
    await Promise.all(services.map((service) => service.initialize()));
    const running = services.filter((service) => service.isInitialized());
    expect(running).toHaveLength(1);
    running[0]!.updateTask(task('T-1'));
    await running[0]!.prepareForShutdown();
  });
});

describe('periodic checkpoints', () => {
  it('are made at the interval, refresh the export, and stop', async () => {
    const service = await started(base(), { checkpointIntervalMs: 20 });
    service.updateTask(task('T-1'));
    await until('the export is there', () => existsSync(join(service.getStateDir(), STATE_PATHS.CURRENT_STATE)));
    expect(JSON.parse(await exported(service))).toMatchObject({ checkpointReason: 'scheduled', tasks: [{ id: 'T-1' }] });
    service.stopPeriodicCheckpoint();
    service.stopPeriodicCheckpoint();
    expect(service.isInitialized()).toBe(true);
    // One that was being made may still end.
    await new Promise((done) => setTimeout(done, 100));
    const before = await exported(service);
    service.updateTask(task('T-2'));
    await new Promise((done) => setTimeout(done, 200));
    expect(await exported(service)).toBe(before);
    await service.saveState();
    expect(JSON.parse(await exported(service))).toMatchObject({ checkpointReason: 'scheduled', tasks: [{}, { id: 'T-2' }] });
  });

  it('tell why they fail, and are tried again', async () => {
    const service = await started(base(), { checkpointIntervalMs: 20 });
    const file = join(service.getStateDir(), STATE_PATHS.CURRENT_STATE);
    await mkdir(join(file, 'in the way'), { recursive: true });
    service.updateTask(task('T-1'));
    await until('the failure is told', () => service.lastCheckpointError() !== null);
    expect(service.lastCheckpointError()).toContain(STATE_PATHS.CURRENT_STATE);
    await rm(file, { recursive: true });
    await until('it succeeds', () => service.lastCheckpointError() === null);
  });

  it('are not made where there is no interval', async () => {
    const service = await started(base(), { checkpointIntervalMs: null });
    service.updateTask(task('T-1'));
    await new Promise((done) => setTimeout(done, 100));
    expect(existsSync(join(service.getStateDir(), STATE_PATHS.CURRENT_STATE))).toBe(false);
  });
});

describe('beyond the TypeScript service', () => {
  it('a message is added by itself, within the limit', async () => {
    const service = await started(base(), { messageLimit: 3 });
    service.updateConversation(conversation('C-1', 5, { lastActivityAt: '2026-01-01T00:00:00.000Z' }));
    service.appendMessage('C-1', { ...message(5), channel: 'new' } as never);
    expect(service.getState()?.conversations[0]).toMatchObject({
      recentMessages: [message(3), message(4), { ...message(5), channel: 'new' }],
      lastActivityAt: message(5).timestamp,
    });
  });

  it('messages are found', async () => {
    const service = await started();
    service.updateConversation(conversation('C-1', 3));
    service.appendMessage('C-1', { role: 'agent', content: 'The résumé is ready.', timestamp: '2026-11-22T10:00:00.000Z', agentName: 'dev-1' });
    const hit = { conversationId: 'C-1', position: expect.any(Number), role: 'agent', timestamp: '2026-11-22T10:00:00.000Z' };
    expect(await service.search('RESUME')).toEqual([{ ...hit, agentName: 'dev-1', snippet: 'The résumé is ready.' }]);
    expect(await service.search('message', 2)).toHaveLength(2);
    expect(await service.search('nothing OR "')).toEqual([]);
  });

  it('everything is checked', async () => {
    const service = await started();
    service.updateTask(task('T-1', { assignedTo: 'gone' }));
    const report = await service.check();
    expect(report.ok).toBe(true);
    expect(report.notes.map(({ kind }) => kind)).toContain('dangling_reference');
    await chmod(service.getStateDir(), 0o755);
    expect(await service.check()).toMatchObject({ ok: false, problems: [{ kind: 'permissions' }] });
  });
});

it('the constants are those of the TypeScript service', () => {
  expect(STATE_PATHS).toEqual({
    STATE_DIR: '.agentmux/state',
    BACKUP_DIR: 'backups',
    SELF_IMPROVEMENT_DIR: 'self-improvement',
    CURRENT_STATE: 'current-state.json',
  });
  expect([MAX_PERSISTED_MESSAGES, CHECKPOINT_INTERVAL_MS]).toEqual([50, 60000]);
  expect(CHECKPOINT_REASONS).toHaveLength(6);
});

it('the guards know the values', () => {
  for (const [guard, values] of [
    [isValidCheckpointReason, CHECKPOINT_REASONS],
    [isValidTaskStatus, ['pending', 'in_progress', 'blocked', 'paused', 'completed']],
    [isValidTaskPriority, ['low', 'medium', 'high', 'critical']],
    [isValidConversationSource, ['chat', 'slack', 'api']],
    [isValidOrchestratorMode, ['normal', 'onboarding', 'onboarding-provisioning']],
  ] as [(value: unknown) => boolean, string[]][]) {
    expect(values.every(guard)).toBe(true);
    expect(['', 'PENDING', 'other', 'toString', undefined, 1].some(guard)).toBe(false);
  }
});

it('waits no longer than its option says for the transaction of another program', async () => {
  const service = new StatePersistenceService(base(), { checkpointIntervalMs: null, writeTimeoutMs: 300 });
  onTestFinished(() => service.prepareForShutdown());
  await service.initialize();
  service.updateTask(task('T-1'));
  // A shell that leaves a transaction open.
  const shell = spawn('sqlite3', [join(service.getStateDir(), 'state.db')], { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => void shell.kill());
  shell.stdin.write("BEGIN IMMEDIATE; SELECT 'locked';\n");
  await once(shell.stdout, 'data');
  const began = performance.now();
  expect(await failure(() => service.updateTask(task('T-2')))).toMatchObject({ code: 'BUSY' });
  expect(performance.now() - began).toBeLessThan(3_000);
  shell.kill();
  await once(shell, 'exit');
  service.updateTask(task('T-2'));
  expect(service.getState()?.tasks).toHaveLength(2);
});
