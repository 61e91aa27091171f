/** What callers of the TypeScript service count on: references that stay, late calls, `Date`, and values of any kind. */
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import {
  DEFAULT_ORCHESTRATOR_MODE,
  ORCHESTRATOR_MODES,
  STATE_PATHS,
  StatePersistenceError,
  StatePersistenceService,
  type AgentState,
  type ConversationState,
  type OrchestratorState,
  type SelfImprovementState,
  type StatePersistenceOptions,
  type TaskState,
} from '../dist/index.mjs';
import { agent, base, conversation, failure, message, node, program, project, state, task } from './helpers.js';

async function started(directory = base(), options: StatePersistenceOptions = {}): Promise<StatePersistenceService> {
  const service = new StatePersistenceService(directory, { checkpointIntervalMs: null, ...options });
  await service.initialize();
  onTestFinished(() => service.prepareForShutdown().catch(() => undefined));
  return service;
}

/** What the database holds, as another process reads it. */
function stored(service: StatePersistenceService): OrchestratorState {
  return JSON.parse(program(service.getStateDir(), 'export', '-')) as OrchestratorState;
}

function storedTask(service: StatePersistenceService, id: string): TaskState | undefined {
  return stored(service).tasks.find((it) => it.id === id);
}

let warn: ReturnType<typeof vi.spyOn>;

beforeEach(() => {
  warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
});

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

describe('after prepareForShutdown', () => {
  it('every change is ignored with one warning', async () => {
    const service = await started();
    service.updateTask(task('T-1'));
    service.updateConversation(conversation('C-1', 1));
    await service.prepareForShutdown();
    const before = stored(service);
    expect(warn).not.toHaveBeenCalled();
    service.updateTask(task('T-2'));
    service.updateConversation(conversation('C-2'));
    service.updateAgent(agent('dev-1'));
    service.updateProject(project('P-1'));
    service.updateSelfImprovement({ validationChecks: [] });
    service.appendMessage('C-1', message(7));
    service.setMode('onboarding');
    await service.saveState('error_recovery');
    expect([service.removeTask('T-1'), service.removeConversation('C-1')]).toEqual([false, false]);
    expect([service.removeAgent('dev-1'), service.removeProject('P-1'), service.clearSelfImprovement()]).toEqual([false, false, false]);
    expect(await service.restoreFromBackup('none')).toBe(false);
    service.stopPeriodicCheckpoint();
    await service.cleanupOldBackups();
    await service.prepareForShutdown();
    expect(warn).toHaveBeenCalledOnce();
    expect(warn.mock.calls[0]![0]).toContain('updateTask came after prepareForShutdown');
    expect(stored(service)).toEqual(before);
    expect(service.getState()?.tasks).toHaveLength(1);
    expect(service.getMode()).toBe('normal');
    // A new run takes changes again, and has a warning of its own.
    await service.initialize();
    service.updateTask(task('T-2'));
    await service.prepareForShutdown();
    service.removeTask('T-2');
    expect(service.getState()?.tasks).toHaveLength(2);
    expect(warn).toHaveBeenCalledTimes(2);
  });

  it('changes while it is being done are ignored, too', async () => {
    const service = await started();
    const done = service.prepareForShutdown();
    let number = 0;
    for (let ended = false; !ended; number += 1) {
      service.updateTask(task(`T-${number}`));
      void service.saveState('task_completed');
      ended = await Promise.race([done.then(() => true), pause(0, false)]);
    }
    service.updateTask(task('late'));
    expect(storedTask(service, 'late')).toBeUndefined();
    expect(warn).toHaveBeenCalledOnce();
  });

  it('a restart as the restart service makes it spawns its successor', async () => {
    const directory = base();
    const script = `
      import { spawn } from 'node:child_process';
      import { writeSync } from 'node:fs';
      import { StatePersistenceService } from 'agentmux-state';
      const [directory, generation] = process.argv.slice(1);
      const service = new StatePersistenceService(directory);
      process.on('uncaughtException', async (error) => {
        writeSync(1, 'uncaught ' + error.message + '\\n');
        await service.saveState('error_recovery');
        process.exit(1);
      });
      const previous = await service.initialize();
      writeSync(1, generation + ' found ' + (previous?.tasks[0]?.progress.percentComplete ?? 'nothing') + '\\n');
      const task = { id: 'T-1', title: '', description: '', status: 'in_progress', priority: 'low', createdAt: '',
        progress: { percentComplete: Number(generation), completedSteps: [] } };
      // An agent that works on all the time, also while the orchestrator restarts.
      const timer = setInterval(() => service.updateTask(task), 1);
      await new Promise((done) => setTimeout(done, 20));
      await service.prepareForShutdown();
      await new Promise((done) => setTimeout(done, 50));
      if (generation === '3') {
        clearInterval(timer);
      } else {
        const args = ['--input-type=module', '--eval', process.env.SCRIPT, '--', directory, String(Number(generation) + 1)];
        spawn(process.execPath, args, { stdio: 'inherit' }).on('exit', (code) => process.exit(code));
      }`;
    process.env['SCRIPT'] = script;
    const { lines, exit } = node(script, directory, '1');
    const printed: string[] = [];
    for await (const line of { [Symbol.asyncIterator]: () => lines }) {
      printed.push(line);
    }
    expect(printed).toEqual(['1 found nothing', '2 found 1', '3 found 2']);
    expect(await exit).toBe(0);
  });
});

describe('objects that were handed over', () => {
  /** All ways in which changes are found. */
  const looks: [string, (service: StatePersistenceService) => unknown][] = [
    ['saveState', (service) => service.saveState('task_completed')],
    ['createBackup', (service) => service.createBackup('x')],
    ['prepareForShutdown', (service) => service.prepareForShutdown()],
    ['getState', (service) => service.getState()],
    ['a failed restore', (service) => service.restoreFromBackup('none')],
    ['another start', (service) => service.initialize()],
  ];

  it.each(looks)('are looked at again by %s', async (_, look) => {
    const service = await started();
    const objects = {
      conversation: conversation('C-1', 2),
      task: task('T-1'),
      agent: agent('dev-1'),
      project: project('P-1'),
      improvement: {
        currentTask: { id: 'si-1', description: 'Faster', targetFiles: [], plannedChanges: [], status: 'implementing' },
        validationChecks: [{ name: 'Build', type: 'build', required: true }],
      } as SelfImprovementState,
    };
    service.updateConversation(objects.conversation);
    service.updateTask(objects.task);
    service.updateAgent(objects.agent);
    service.updateProject(objects.project);
    service.updateSelfImprovement(objects.improvement);

    objects.conversation.recentMessages.push(message(9));
    objects.conversation.currentTopic = 'news';
    objects.task.status = 'in_progress';
    objects.task.progress.completedSteps.push('read');
    objects.task.checkpoint = { stepIndex: 3 };
    objects.agent.currentTaskId = 'T-1';
    objects.project.activeTasks.push('T-1');
    objects.improvement.currentTask!.status = 'completed';
    objects.improvement.validationChecks[0]!.passed = true;
    expect(storedTask(service, 'T-1')?.status).toBe('pending');
    await look(service);

    const there = stored(service);
    expect(there.conversations).toEqual([objects.conversation]);
    expect(there.tasks).toEqual([objects.task]);
    expect(there.agents).toEqual([objects.agent]);
    expect(there.projects).toEqual([objects.project]);
    expect(there.selfImprovement).toEqual(objects.improvement);
    expect(service.generateResumeInstructions(there).notifications).toHaveLength(1);
    expect(warn).not.toHaveBeenCalled();
  });

  it('are looked at by the periodic checkpoint', async () => {
    const service = await started(base(), { checkpointIntervalMs: 50 });
    const given = task('T-1');
    service.updateTask(given);
    given.title = 'Changed';
    await vi.waitFor(() => expect(storedTask(service, 'T-1')?.title).toBe('Changed'), 10_000);
    const file = join(service.getStateDir(), STATE_PATHS.CURRENT_STATE);
    await vi.waitFor(async () => expect(await readFile(file, 'utf8')).toContain('Changed'), 10_000);
    service.stopPeriodicCheckpoint();
    await pause(100);
    given.title = 'Again';
    await pause(200);
    expect(storedTask(service, 'T-1')?.title).toBe('Changed');
  });

  it('are what getState gives, and so is the state', async () => {
    const service = await started();
    const [given, talk] = [task('T-1'), conversation('C-1', 1)];
    service.updateTask(given);
    service.updateConversation(talk);
    const now = service.getState()!;
    expect(now.tasks[0]).toBe(given);
    expect(now.conversations[0]).toBe(talk);
    const other = task('T-2');
    service.updateTask(other);
    expect(now.tasks).toEqual([given, other]);
    service.removeTask('T-1');
    expect(now.tasks).toEqual([other]);
    service.setMode('onboarding');
    expect(now.mode).toBe('onboarding');
    expect(service.getState()).toBe(now);
  });

  it('count as changed through getState', async () => {
    const directory = base();
    const first = await started(directory);
    first.updateTask(task('T-1'));
    first.updateAgent(agent('dev-1'));
    await first.prepareForShutdown();
    const service = await started(directory);
    const now = service.getState()!;
    now.tasks[0]!.status = 'completed';
    now.tasks.push(task('T-2'));
    now.agents[0]!.status = 'busy';
    now.projects.push(project('P-1'));
    now.mode = 'onboarding';
    now.selfImprovement = { validationChecks: [] };
    expect(service.getMode()).toBe('onboarding');
    await service.saveState();
    expect(stored(service)).toMatchObject({
      mode: 'onboarding',
      tasks: [{ id: 'T-1', status: 'completed' }, { id: 'T-2' }],
      agents: [{ status: 'busy' }],
      projects: [{ id: 'P-1' }],
      selfImprovement: { validationChecks: [] },
    });
    // What came into a list is an object that was handed over.
    now.tasks[1]!.title = 'Changed';
    await service.saveState();
    expect(storedTask(service, 'T-2')?.title).toBe('Changed');
  });

  it('are replaced by those that are handed over later, and forgotten with their entity', async () => {
    const service = await started();
    const [first, second] = [task('T-1'), task('T-1')];
    service.updateTask(first);
    service.updateTask(second);
    first.title = 'of the first';
    second.description = 'of the second';
    await service.saveState();
    expect(storedTask(service, 'T-1')).toEqual(second);

    service.getState();
    service.removeTask('T-1');
    second.title = 'too late';
    service.updateSelfImprovement({ validationChecks: [] });
    const { selfImprovement } = service.getState()!;
    service.clearSelfImprovement();
    selfImprovement!.validationChecks.push({ name: 'Build', type: 'build', required: true });
    await service.saveState();
    expect(service.getState()).toMatchObject({ tasks: [] });
    expect(stored(service)).toMatchObject({ tasks: [] });
    expect(stored(service).selfImprovement).toBeUndefined();
  });

  it('are not what the state is after a restore', async () => {
    const service = await started();
    const given = task('T-1');
    service.updateTask(given);
    const id = await service.createBackup('x');
    given.title = 'in the safety backup';
    expect(await service.restoreFromBackup(id)).toBe(true);
    expect(storedTask(service, 'T-1')).toEqual(task('T-1'));
    given.description = 'of an object that is nothing any more';
    await service.saveState();
    expect(storedTask(service, 'T-1')).toEqual(task('T-1'));
    const [safety] = (await service.listBackups()).filter((it) => it.endsWith('before-restore'));
    await service.restoreBackup(safety!);
    expect(storedTask(service, 'T-1')?.title).toBe('in the safety backup');
  });

  it('leave alone what others have changed meanwhile', async () => {
    const directory = base();
    const service = await started(directory);
    const [given, talk, gone] = [task('T-1'), conversation('C-1', 2), task('T-2')];
    service.updateTask(given);
    service.updateConversation(talk);
    service.updateTask(gone);
    // As somebody would with a shell.
    const sql = `UPDATE tasks SET status = 'completed', title = 'By hand' WHERE id = 'T-1'; DELETE FROM tasks WHERE id = 'T-2'`;
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), sql]);
    service.appendMessage('C-1', message(5));

    // Objects that did not change are not written.
    await service.saveState();
    expect(storedTask(service, 'T-1')).toMatchObject({ status: 'completed', title: 'By hand' });
    expect(service.getState()?.tasks).toEqual([{ ...given, status: 'completed', title: 'By hand' }]);
    // Of those that did, only what is different.
    given.description = 'Changed';
    given.title = 'By the orchestrator';
    talk.recentMessages.push(message(6));
    talk.currentTopic = 'news';
    gone.title = 'not any more';
    await service.saveState();
    expect(stored(service).tasks).toEqual([
      { ...task('T-1'), status: 'completed', title: 'By the orchestrator', description: 'Changed' },
    ]);
    expect(stored(service).conversations[0]).toMatchObject({
      currentTopic: 'news',
      recentMessages: [message(0), message(1), message(5), message(6)],
    });
  });

  it('take a message once that is both appended and put into the object', async () => {
    const service = await started();
    const talk = conversation('C-1', 50);
    service.updateConversation(talk);
    for (const number of [60, 61]) {
      talk.recentMessages.push(message(number));
      service.appendMessage('C-1', message(number));
    }
    await service.saveState();
    const numbers = stored(service).conversations[0]!.recentMessages.map(({ content }) => Number(content.split(' ')[1]));
    expect(numbers).toEqual([...Array.from({ length: 48 }, (_, index) => index + 2), 60, 61]);
  });

  it('keep messages that others add, whatever the caller does to the rest', async () => {
    const service = await started();
    const changes: Record<string, [(talk: ConversationState) => void, (number | string)[]]> = {
      'adds one': [(talk) => talk.recentMessages.push(message(9)), [0, 1, 2, 3, 'other', 9]],
      'drops the oldest': [(talk) => void (talk.recentMessages = talk.recentMessages.slice(-2)), [2, 3, 'other']],
      'drops and adds': [(talk) => void (talk.recentMessages = [...talk.recentMessages.slice(2), message(9)]), [2, 3, 'other', 9]],
      'clears': [(talk) => void (talk.recentMessages = []), ['other']],
      'drops the newest': [(talk) => void talk.recentMessages.pop(), [0, 1, 2, 'other']],
      'edits one': [(talk) => void (talk.recentMessages[1] = message(7)), [0, 7, 2, 3, 'other']],
      'edits one and adds the same': [(talk) => talk.recentMessages.splice(1, 3, message(7), { ...message(1), content: 'message other' }), [0, 7, 'other']],
    };
    for (const [name, [change, expected]] of Object.entries(changes)) {
      const talk = conversation(name, 4);
      service.updateConversation(talk);
      service.appendMessage(name, { ...message(1), content: 'message other' });
      change(talk);
      await service.saveState();
      const there = stored(service).conversations.find(({ id }) => id === name)!;
      expect(there.recentMessages.map(({ content }) => content), name).toEqual(expected.map((it) => `message ${it}`));
    }
  });

  it('keep messages of which others added so many that none of those before is left', async () => {
    const service = await started();
    const changes: Record<string, [(talk: ConversationState) => void, string[]]> = {
      'adds one': [(talk) => talk.recentMessages.push(message(99)), ['message 99']],
      'adds one that is there': [(talk) => talk.recentMessages.push(message(69)), []],
      'edits one': [(talk) => void (talk.recentMessages[1] = message(99)), []],
      'clears': [(talk) => void (talk.recentMessages = []), []],
    };
    for (const [name, [change, added]] of Object.entries(changes)) {
      const talk = conversation(name, 3);
      service.updateConversation(talk);
      for (let number = 10; number < 70; number += 1) {
        service.appendMessage(name, message(number));
      }
      change(talk);
      await service.saveState();
      const there = stored(service).conversations.find(({ id }) => id === name)!;
      const all = [...Array.from({ length: 60 }, (_, index) => `message ${index + 10}`), ...added];
      expect(there.recentMessages.map(({ content }) => content), name).toEqual(all.slice(-50));
    }
  });

  it('leave alone messages that others have edited or removed where the caller only adds some', async () => {
    const service = await started();
    const talk = conversation('C-1', 3);
    service.updateConversation(talk);
    const sql = `UPDATE messages SET content = 'edited' WHERE content = 'message 1'; DELETE FROM messages WHERE content = 'message 2'`;
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), sql]);
    talk.recentMessages.push(message(9));
    await service.saveState();
    expect(stored(service).conversations[0]!.recentMessages.map(({ content }) => content)).toEqual(['message 0', 'edited', 'message 9']);
  });

  it('keep messages of others also where they stand between those of the caller', async () => {
    const service = await started();
    const changes: Record<string, [(talk: ConversationState) => void, (number | string)[]]> = {
      'adds one': [(talk) => talk.recentMessages.push(message(10)), [0, 1, 2, 'other', 9, 10]],
      'edits one': [(talk) => void (talk.recentMessages[1] = message(7)), [0, 7, 2, 'other', 9]],
      'edits the last': [(talk) => void (talk.recentMessages[3] = message(7)), [0, 1, 2, 'other', 7]],
      'drops the newest': [(talk) => void talk.recentMessages.pop(), [0, 1, 2, 'other']],
      'drops the oldest': [(talk) => void talk.recentMessages.splice(0, 3), ['other', 9]],
      'reverses': [(talk) => void talk.recentMessages.reverse(), [9, 2, 1, 0, 'other']],
      'clears': [(talk) => void (talk.recentMessages = []), ['other']],
    };
    for (const [name, [change, expected]] of Object.entries(changes)) {
      const talk = conversation(name, 3);
      service.updateConversation(talk);
      service.appendMessage(name, { ...message(1), content: 'message other' });
      talk.recentMessages.push(message(9));
      await service.saveState();
      change(talk);
      await service.saveState();
      const there = stored(service).conversations.find(({ id }) => id === name)!.recentMessages.map(({ content }) => content.slice(8));
      expect(there.includes('other'), name).toBe(true);
      expect(name === 'reverses' ? there.filter((it) => it !== 'other') : there, name).toEqual(
        expected.filter((it) => name !== 'reverses' || it !== 'other').map(String),
      );
    }
  });

  it('of the state keep numbers that JavaScript cannot say, but where the caller has changed what they are in', async () => {
    const directory = base();
    const file = join(directory, STATE_PATHS.STATE_DIR, STATE_PATHS.CURRENT_STATE);
    await mkdir(join(file, '..'), { recursive: true });
    const document = JSON.stringify(state({ tasks: [task('T-1')] })).replace('"percentComplete":0', '"percentComplete":0,"size":12345678901234567890');
    await writeFile(file, document);
    const service = await started(directory);
    const given = service.getState()!.tasks[0]!;
    await service.saveState();
    const there = () => program(service.getStateDir(), 'show', 'task', 'T-1', '--json');
    expect(there()).toContain('12345678901234567890');
    given.title = 'Changed';
    await service.saveState();
    expect(there()).toContain('Changed');
    expect(there()).toContain('12345678901234567890');
    given.progress.percentComplete = 50;
    await service.saveState();
    expect(there()).toMatch(/"percentComplete": ?50/);
  });

  it('may be put into a list of the state that was taken before it was given out again', async () => {
    const service = await started();
    service.updateTask(task('T-1'));
    const { tasks } = service.getState()!;
    expect(service.getState()!.tasks).toBe(tasks);
    const incomplete = task('T-3', { title: undefined as never });
    tasks.push(task('T-2'), incomplete);
    expect(service.getState()!.tasks.map(({ id }) => id)).toEqual(['T-1', 'T-2', 'T-3']);
    expect(service.getState()!.tasks).toBe(tasks);
    // One that could not be added counts once it can.
    incomplete.title = 'Late';
    await service.saveState();
    expect(stored(service).tasks.map(({ id }) => id)).toEqual(['T-1', 'T-2', 'T-3']);
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), `PRAGMA foreign_keys = on; DELETE FROM tasks WHERE id = 'T-1'`]);
    expect(service.getState()!.tasks.map(({ id }) => id)).toEqual(['T-2', 'T-3']);
  });

  it('of the state stay the state with what is in them', async () => {
    const directory = base();
    const before = await started(directory);
    before.updateConversation(conversation('C-1', 3));
    before.updateTask(task('T-1'));
    await before.prepareForShutdown();

    const service = await started(directory);
    const { conversations, tasks } = service.getState()!;
    const [progress, messages] = [tasks[0]!.progress, conversations[0]!.recentMessages];
    const [first, last] = [messages[0]!, messages[2]!];
    const sql = `UPDATE tasks SET title = 'By hand' WHERE id = 'T-1'; DELETE FROM messages WHERE content = 'message 1'`;
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), sql]);
    service.appendMessage('C-1', message(5));
    service.getState();
    expect(messages).toEqual([message(0), message(2), message(5)]);
    progress.percentComplete = 77;
    first.content = 'first';
    last.content = 'last';
    messages.push(message(6));
    await service.saveState();
    expect(stored(service)).toMatchObject({ tasks: [{ title: 'By hand', progress: { percentComplete: 77 } }] });
    const contents = stored(service).conversations[0]!.recentMessages.map(({ content }) => content);
    expect(contents).toEqual(['first', 'last', 'message 5', 'message 6']);
  });

  it('of the state stay the state where a restore fails while it is given out again', async () => {
    const directory = base();
    const before = await started(directory);
    before.updateTask(task('T-1'));
    await before.prepareForShutdown();

    const service = await started(directory);
    const given = service.getState()!.tasks[0]!;
    const restoring = service.restoreFromBackup('backup-1-none');
    while (service.getState()!.tasks[0] === given) {
      await new Promise((done) => setImmediate(done));
    }
    expect(await restoring).toBe(false);
    given.status = 'completed';
    await service.saveState();
    expect(storedTask(service, 'T-1')?.status).toBe('completed');
  });

  it('do not bring back messages that others have removed where the caller only moves them', async () => {
    const service = await started();
    const talk = conversation('C-1', 3);
    service.updateConversation(talk);
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), `DELETE FROM messages WHERE content IN ('message 0', 'message 2')`]);
    talk.recentMessages.reverse();
    await service.saveState();
    expect(stored(service).conversations[0]!.recentMessages).toEqual([message(1)]);
  });

  it('of the state go on to count once the object that was handed over is up to date again', async () => {
    const service = await started();
    const talk = conversation('C-1', 1);
    service.updateConversation(talk);
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), `UPDATE conversations SET current_topic = 'news'`]);
    const copy = service.getState()!.conversations[0]!;
    talk.currentTopic = 'news';
    expect(service.getState()!.conversations[0]).toBe(talk);
    copy.summary = 'Changed';
    await service.saveState();
    expect(stored(service).conversations[0]!.summary).toBe('Changed');
  });

  it('that were replaced while objects were looked at do not overwrite what replaced them', async () => {
    const service = await started();
    const given = Array.from({ length: 700 }, (_, number) => task(`T-${number}`));
    given.forEach((each) => service.updateTask(each));
    const replaced = given[650]!;
    const saving = service.saveState();
    service.getState();
    replaced.status = 'blocked';
    service.updateTask({ ...replaced, status: 'completed' });
    await saving;
    expect(storedTask(service, 'T-650')?.status).toBe('completed');
  });

  it('that have lost their id for a while are saved again once they have it', async () => {
    const service = await started();
    const [given, worker] = [task('T-1') as Partial<TaskState>, agent('dev-1') as Partial<AgentState>];
    service.updateTask(given as TaskState);
    service.updateAgent(worker as AgentState);
    delete given.id;
    delete worker.sessionName;
    await service.saveState();
    expect(warn.mock.calls).toEqual([
      ['agentmux-state: a change is not saved, and the last good version stays: the task T-1 has lost its id'],
      ['agentmux-state: a change is not saved, and the last good version stays: the agent dev-1 has lost its sessionName'],
    ]);
    Object.assign(given, { id: 'T-1', status: 'completed' });
    Object.assign(worker, { sessionName: 'dev-1', status: 'busy' });
    await service.saveState();
    expect(stored(service)).toMatchObject({ tasks: [{ id: 'T-1', status: 'completed' }], agents: [{ sessionName: 'dev-1', status: 'busy' }] });
  });

  it('of the state stay the state where others have changed them meanwhile', async () => {
    const directory = base();
    const before = await started(directory);
    before.updateConversation(conversation('C-1', 2));
    before.updateTask(task('T-1'));
    await before.prepareForShutdown();

    const service = await started(directory);
    const { conversations, tasks } = service.getState()!;
    const [talk, work] = [conversations[0]!, tasks[0]!];
    service.appendMessage('C-1', message(5));
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), `UPDATE tasks SET title = 'By hand' WHERE id = 'T-1'`]);
    expect(service.getState()?.conversations[0]?.recentMessages).toHaveLength(3);
    expect(service.getState()?.tasks[0]?.title).toBe('By hand');
    talk.currentTopic = 'news';
    work.status = 'completed';
    await service.saveState();
    expect(stored(service)).toMatchObject({
      conversations: [{ currentTopic: 'news', recentMessages: [message(0), message(1), message(5)] }],
      tasks: [{ status: 'completed', title: 'By hand' }],
    });
  });

  it('that an index of somebody else refuses do not keep the others from being saved, nor a shutdown', async () => {
    const service = await started();
    const given = ['T-1', 'T-2', 'T-3'].map((id) => task(id));
    given.forEach((each) => service.updateTask(each));
    execFileSync('sqlite3', [join(service.getStateDir(), 'state.db'), 'CREATE UNIQUE INDEX titles ON tasks(title)']);
    given[1]!.title = given[0]!.title;
    given[2]!.status = 'completed';
    service.getState()!.tasks.push(task('T-4', { title: given[0]!.title }));
    await service.saveState();
    await service.createBackup('x');
    expect(stored(service).tasks).toEqual([task('T-1'), task('T-2'), task('T-3', { status: 'completed' })]);
    expect(warn.mock.calls.flat()).toEqual([
      expect.stringMatching(/^agentmux-state: a change is not saved, and the last good version stays: the index "titles" on tasks/),
      expect.stringMatching(/^agentmux-state: an object in the state is not saved: the index "titles" on tasks does not allow this/),
    ]);
    given[1]!.title = 'Another one';
    await service.prepareForShutdown();
    expect(storedTask(service, 'T-2')?.title).toBe('Another one');
  });

  it('may be anything', async () => {
    const service = await started();
    const good = task('good');
    service.updateTask(good);
    const objects: Record<string, TaskState> = {
      frozen: Object.freeze(task('frozen')),
      cyclic: task('cyclic'),
      bigint: task('bigint'),
      getter: task('getter'),
      incomplete: task('incomplete'),
      renamed: task('renamed'),
      proxy: new Proxy(task('proxy'), {}),
      dead: task('dead'),
      made: { toJSON: () => ({ ...task('made'), title: `made ${(made += 1)}` }) } as unknown as TaskState,
    };
    let made = 0;
    const { proxy: dead, revoke } = Proxy.revocable(objects['dead']!, {});
    objects['dead'] = dead;
    for (const object of Object.values(objects)) {
      service.updateTask(object);
    }
    Object.assign(objects['cyclic']!, { self: objects['cyclic'] });
    Object.assign(objects['bigint']!, { big: 1n });
    Object.defineProperty(objects['getter'], 'boom', {
      enumerable: true,
      get: () => {
        throw new Error('boom');
      },
    });
    delete (objects['incomplete'] as Partial<TaskState>).title;
    objects['renamed']!.id = 'new name';
    objects['proxy']!.title = 'by the proxy';
    revoke();
    good.title = 'not in the way';
    for (let look = 0; look < 3; look += 1) {
      await service.saveState();
      service.getState();
    }
    const there = Object.fromEntries(stored(service).tasks.map((it) => [it.id, it]));
    expect(there['good']).toEqual(good);
    for (const name of ['frozen', 'cyclic', 'bigint', 'getter', 'incomplete', 'renamed', 'dead']) {
      expect(there[name]).toEqual(task(name));
    }
    expect(there['new name']).toEqual({ ...task('renamed'), id: 'new name' });
    expect(there['proxy']!.title).toBe('by the proxy');
    expect(there['made']!.title).toBe(`made ${made}`);
    // One for each that cannot be saved.
    expect(warn).toHaveBeenCalledTimes(5);
    Object.assign(objects['incomplete']!, { title: 'complete again', description: 'x' });
    await service.saveState();
    expect(storedTask(service, 'incomplete')).toMatchObject({ title: 'complete again', description: 'x' });
    await service.prepareForShutdown();
  });

  it('that cannot be written because the disk fails are written later', async () => {
    const service = await started();
    const given = task('T-1');
    service.updateTask(given);
    given.title = 'Changed';
    const other = new StatePersistenceService(resolve(service.getStateDir(), '../..'));
    await other.initialize();
    expect((await failure(() => service.saveState())).code).toBe('TAKEN_OVER');
    await service.initialize();
    service.updateTask(given);
    await service.saveState();
    expect(storedTask(service, 'T-1')?.title).toBe('Changed');
    await other.prepareForShutdown();
  });
});

describe('the mode', () => {
  it('is one of those that are known', async () => {
    expect(ORCHESTRATOR_MODES).toEqual(['normal', 'onboarding', 'onboarding-provisioning']);
    expect(DEFAULT_ORCHESTRATOR_MODE).toBe('normal');
    const directory = base();
    const file = join(directory, STATE_PATHS.STATE_DIR, STATE_PATHS.CURRENT_STATE);
    await mkdir(join(file, '..'), { recursive: true });
    await writeFile(file, JSON.stringify({ ...state(), mode: 'totally-new' }));
    const service = new StatePersistenceService(directory);
    onTestFinished(() => service.prepareForShutdown());
    expect((await service.initialize())?.mode).toBe('normal');
    expect([service.getMode(), service.getState()?.mode]).toEqual(['normal', 'normal']);
    // What is stored stays, until another one is set.
    expect(stored(service).mode).toBe('totally-new');
    service.setMode('onboarding');
    expect([service.getMode(), service.getState()?.mode, stored(service).mode]).toEqual(['onboarding', 'onboarding', 'onboarding']);
    for (const mode of [undefined, null, {}]) {
      expect((await failure(() => service.setMode(mode as never))).code).toBe('INVALID_ARGUMENT');
    }
  });

  it('is normal where none was stored', async () => {
    const service = await started();
    expect([service.getMode(), service.getState()?.mode]).toEqual(['normal', 'normal']);
    expect(Object.keys(service.getState()!).slice(0, 6)).toEqual([
      'id',
      'version',
      'checkpointedAt',
      'checkpointReason',
      'mode',
      'conversations',
    ]);
  });
});

describe('a start', () => {
  it('gives null after runs that saved nothing', async () => {
    const directory = base();
    for (let run = 0; run < 3; run += 1) {
      const service = new StatePersistenceService(directory, { checkpointIntervalMs: null });
      expect(await service.initialize(), `run ${run}`).toBeNull();
    }
    const service = new StatePersistenceService(directory);
    await service.initialize();
    await service.saveState('user_request');
    const next = new StatePersistenceService(directory);
    expect(await next.initialize()).toMatchObject({ checkpointReason: 'user_request', tasks: [] });
    await next.prepareForShutdown();
  });

  it.each([
    ['an update', (service: StatePersistenceService) => service.updateAgent(agent('dev-1'))],
    ['the mode', (service: StatePersistenceService) => service.setMode('onboarding')],
    ['a shutdown', (service: StatePersistenceService) => service.prepareForShutdown()],
  ])('gives the state after %s', async (_, work) => {
    const directory = base();
    const service = new StatePersistenceService(directory, { checkpointIntervalMs: null });
    await service.initialize();
    await work(service);
    const next = new StatePersistenceService(directory);
    expect(await next.initialize()).not.toBeNull();
    await next.prepareForShutdown();
  });
});

it('a restore is recorded as error_recovery', async () => {
  const service = await started();
  service.updateTask(task('T-1'));
  const id = await service.createBackup('x');
  await service.saveState('user_request');
  expect(await service.restoreFromBackup(id)).toBe(true);
  expect(service.getState()?.checkpointReason).toBe('error_recovery');
  const file = join(service.getStateDir(), STATE_PATHS.CURRENT_STATE);
  expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ checkpointReason: 'error_recovery', tasks: [{ id: 'T-1' }] });
});

describe('Date', () => {
  it('decides what is recent, in every form that it takes', () => {
    const service = new StatePersistenceService(base());
    const at = (ms: number) => new Date(Date.now() - ms);
    const [minute, hour] = [60_000, 3_600_000];
    const forms: ((date: Date) => unknown)[] = [
      (date) => date.toISOString(),
      (date) => String(date),
      (date) => date.toUTCString(),
      (date) => date.getTime(),
      (date) => date,
      (date) => date.toLocaleString('en-US'),
      (date) => date.toISOString().replace('Z', '+00:00'),
    ];
    for (const form of forms) {
      const conversations = [minute, 2 * hour].map((ms, index) => conversation(`C-${index}`, 0, { lastActivityAt: form(at(ms)) as never }));
      const { conversationsToResume } = service.generateResumeInstructions(state({ conversations }));
      expect(conversationsToResume.map(({ id }) => id), String(form)).toEqual(['C-0']);
    }
  });

  it('counts where it is mocked', async () => {
    vi.useFakeTimers({ now: Date.UTC(2031, 4, 6, 7, 8, 9, 123) });
    const now = () => new Date().toISOString();
    const service = await started(base(), { checkpointIntervalMs: 60_000 });
    expect(service.getState()).toMatchObject({ id: `state-${Date.now()}`, checkpointedAt: now(), metadata: { startedAt: now() } });
    const talk = conversation('C-1');
    service.updateConversation(talk);
    vi.advanceTimersByTime(59 * 60_000);
    await service.saveState('user_request');
    const saved = service.getState()!;
    expect(saved).toMatchObject({ checkpointedAt: now(), metadata: { uptimeSeconds: 59 * 60 } });
    expect(service.generateResumeInstructions(saved).conversationsToResume).toHaveLength(1);
    vi.advanceTimersByTime(60_000);
    expect(service.generateResumeInstructions(saved).conversationsToResume).toHaveLength(0);
    expect(await service.createBackup('mocked')).toBe(`backup-${Date.now()}-mocked`);
    expect(await service.createBackup('mocked')).toBe(`backup-${Date.now() + 1}-mocked`);
    await service.prepareForShutdown();
    expect(service.getState()).toMatchObject({ checkpointReason: 'before_restart', checkpointedAt: now() });
  });

  it('counts where only Date.now is mocked, even to nonsense', async () => {
    const spy = vi.spyOn(Date, 'now').mockReturnValue(1_000_000_000_000);
    const service = await started();
    await service.saveState();
    expect(service.getState()?.checkpointedAt).toBe('2001-09-09T01:46:40.000Z');
    for (const nonsense of [NaN, -1e300, 1e17, undefined, 'x', -1]) {
      spy.mockReturnValue(nonsense as number);
      await service.saveState();
      service.updateTask(task('T-1'));
      expect(service.getState()?.checkpointedAt).toMatch(/^\d{4}-/);
    }
  });

  it('looks at objects when mocked timers say so, and waits for none of them', async () => {
    vi.useFakeTimers();
    const service = await started(base(), { checkpointIntervalMs: 60_000 });
    const tasks = Array.from({ length: 2000 }, (_, number) => task(`T-${number}`));
    for (const each of tasks) {
      service.updateTask(each);
    }
    tasks[1999]!.title = 'Changed';
    await vi.advanceTimersByTimeAsync(60_000);
    // Neither of them waits for a timer.
    await service.saveState();
    expect(storedTask(service, 'T-1999')?.title).toBe('Changed');
  });
});

describe('values of the wrong kind', () => {
  it('remove nothing, and never fail', async () => {
    const service = await started();
    service.updateTask(task('T-1'));
    service.updateTask(task('7'));
    const calls = ['removeConversation', 'removeTask', 'removeAgent', 'removeProject'] as const;
    for (const call of calls) {
      for (const key of [undefined, null, {}, [], Symbol('x'), () => 'T-1', NaN, true, 8, new String('T-1')]) {
        expect(service[call](key as never), `${call}(${String(key)})`).toBe(false);
      }
    }
    expect(service.getState()?.tasks).toHaveLength(2);
    expect(service.removeTask(7 as never)).toBe(true);
  });

  it('of entities and arguments are StatePersistenceErrors', async () => {
    const service = await started();
    const odd = [undefined, null, 1, 'text', true, Symbol('x'), () => 1, [], {}];
    const updates = ['updateConversation', 'updateTask', 'updateAgent', 'updateProject', 'updateSelfImprovement'] as const;
    for (const value of odd as never[]) {
      for (const call of updates) {
        const works = call === 'updateSelfImprovement' && JSON.stringify(value) === '{}';
        if (!works) {
          expect((await failure(() => service[call](value))).code).toBe('INVALID_VALUE');
        }
      }
      const calls: (() => unknown)[] = [
        () => service.saveState(value),
        () => service.createBackup(value),
        () => service.restoreBackup(value),
        () => service.verifyBackup(value),
        () => service.pruneBackups(value),
        () => service.appendMessage(value, value),
        () => service.appendMessage('C-1', value),
        () => service.search(value, value),
        () => service.setMode(value),
        () => service.generateResumeInstructions(value),
      ];
      for (const call of calls) {
        try {
          await call();
        } catch (error) {
          expect(error, `${String(call)} ${String(value)}`).toBeInstanceOf(StatePersistenceError);
        }
      }
      expect(await service.restoreFromBackup(value)).toBe(false);
      await service.cleanupOldBackups(value);
    }
  });

  it('do not keep a conversation or a task from being saved', async () => {
    const service = await started();
    const at = Date.UTC(2026, 10, 22, 10);
    service.updateConversation({
      ...conversation('C-1'),
      lastActivityAt: at as never,
      userId: 42 as never,
      currentTopic: true as never,
      recentMessages: [{ ...message(1), timestamp: new Date(at) as never, content: 7 as never }],
    });
    service.updateConversation(conversation('C-2', 0, { lastActivityAt: new Date(NaN) as never }));
    service.updateTask({
      ...task('T-1', { id: 5 as never, title: 12 as never, startedAt: at as never, completedAt: new Date(NaN) as never }),
      progress: { percentComplete: '50' as never, completedSteps: ['a', undefined as never, 3 as never] },
      blockedBy: [1 as never],
    });
    const iso = new Date(at).toISOString();
    const there = stored(service);
    expect(there.conversations[0]).toEqual({
      ...conversation('C-1'),
      lastActivityAt: iso,
      userId: '42',
      currentTopic: 'true',
      recentMessages: [{ ...message(1), timestamp: iso, content: '7' }],
    } as ConversationState);
    expect(there.conversations[1]!.lastActivityAt).toBe('');
    expect(there.tasks[0]).toEqual({
      ...task('5', { title: '12', startedAt: iso, blockedBy: ['1'] }),
      progress: { percentComplete: 50, completedSteps: ['a', '3'] },
    });
    expect(service.removeTask(5 as never)).toBe(true);
  });

  it('in a file of the TypeScript service do not quarantine a conversation', async () => {
    const directory = base();
    const file = join(directory, STATE_PATHS.STATE_DIR, STATE_PATHS.CURRENT_STATE);
    await mkdir(join(file, '..'), { recursive: true });
    const at = Date.now() - 60_000;
    const conversations = [conversation('C-1', 2, { lastActivityAt: at as never })];
    await writeFile(file, JSON.stringify(state({ conversations })));
    const service = new StatePersistenceService(directory);
    onTestFinished(() => service.prepareForShutdown());
    const previous = (await service.initialize())!;
    expect(previous.conversations).toEqual([conversation('C-1', 2, { lastActivityAt: new Date(at).toISOString() })]);
    expect(service.generateResumeInstructions(previous).conversationsToResume).toHaveLength(1);
    expect((await service.check()).facts.setAside).toBe(0);
  });
});
