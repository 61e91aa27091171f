/** What the TypeScript service's own tests ask for, one by one. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import {
  STATE_PATHS,
  STATE_VERSION,
  StatePersistenceService,
  getStatePersistenceService,
  resetStatePersistenceService,
} from '../dist/index.mjs';
import { agent, base, conversation, message, project, state, task } from './helpers.js';

let directory: string;
let service: StatePersistenceService;

/** What the next start finds. */
async function loaded() {
  const next = new StatePersistenceService(directory);
  const previous = await next.initialize();
  next.stopPeriodicCheckpoint();
  return previous;
}

beforeEach(() => {
  directory = base();
  service = new StatePersistenceService(directory);
  resetStatePersistenceService();
});

afterEach(() => {
  service.stopPeriodicCheckpoint();
  resetStatePersistenceService();
});

describe('the service of the process', () => {
  it('is one', () => {
    expect(getStatePersistenceService()).toBe(getStatePersistenceService());
  });

  it('is another one after a reset', () => {
    const before = getStatePersistenceService();
    resetStatePersistenceService();
    expect(getStatePersistenceService()).not.toBe(before);
  });
});

describe('initialize', () => {
  it.each(['.', STATE_PATHS.BACKUP_DIR, STATE_PATHS.SELF_IMPROVEMENT_DIR])('makes the directory %s', async (name) => {
    await service.initialize();
    expect((await stat(join(directory, STATE_PATHS.STATE_DIR, name))).isDirectory()).toBe(true);
  });

  it('gives null where there was no state', async () => {
    expect(await service.initialize()).toBeNull();
  });

  it('makes it initialized', async () => {
    expect(service.isInitialized()).toBe(false);
    await service.initialize();
    expect(service.isInitialized()).toBe(true);
  });
});

describe('with a run', () => {
  beforeEach(async () => {
    await service.initialize();
  });

  it('saves and loads a state', async () => {
    service.updateConversation(conversation('conv-1', 1));
    await service.saveState('user_request');
    const previous = await loaded();
    expect(previous?.conversations).toHaveLength(1);
    expect(previous?.conversations[0]?.id).toBe('conv-1');
  });

  it('saves the reason of a checkpoint', async () => {
    await service.saveState('before_restart');
    expect((await loaded())?.checkpointReason).toBe('before_restart');
  });

  it('gives the state', () => {
    expect(service.getState()?.version).toBe(STATE_VERSION);
  });

  it('adds a conversation', () => {
    service.updateConversation(conversation('conv-1'));
    expect(service.getState()?.conversations).toHaveLength(1);
  });

  it('updates a conversation', () => {
    service.updateConversation(conversation('conv-1'));
    service.updateConversation(conversation('conv-1', 1));
    expect(service.getState()?.conversations).toHaveLength(1);
    expect(service.getState()?.conversations[0]?.recentMessages).toHaveLength(1);
  });

  it('keeps the newest 50 messages', () => {
    service.updateConversation(conversation('conv-1', 100));
    const messages = service.getState()?.conversations[0]?.recentMessages;
    expect(messages).toEqual(Array.from({ length: 50 }, (_, index) => message(50 + index)));
  });

  it('removes a conversation', () => {
    service.updateConversation(conversation('conv-1'));
    service.removeConversation('conv-1');
    expect(service.getState()?.conversations).toHaveLength(0);
  });

  it('adds a task', () => {
    service.updateTask(task('task-1'));
    expect(service.getState()?.tasks).toEqual([task('task-1')]);
  });

  it('updates a task', () => {
    service.updateTask(task('task-1'));
    const changed = task('task-1', {
      status: 'in_progress',
      priority: 'high',
      progress: { percentComplete: 50, completedSteps: ['Step 1'] },
    });
    service.updateTask(changed);
    expect(service.getState()?.tasks).toEqual([changed]);
  });

  it('removes a task', () => {
    service.updateTask(task('task-1'));
    service.removeTask('task-1');
    expect(service.getState()?.tasks).toHaveLength(0);
  });

  it('adds, updates and removes an agent', () => {
    service.updateAgent(agent('dev-1'));
    service.updateAgent({ ...agent('dev-1'), status: 'busy' });
    expect(service.getState()?.agents).toEqual([{ ...agent('dev-1'), status: 'busy' }]);
    service.removeAgent('dev-1');
    expect(service.getState()?.agents).toHaveLength(0);
  });

  it('adds, updates and removes a project', () => {
    service.updateProject(project('project-1'));
    service.updateProject({ ...project('project-1'), activeTasks: ['task-1'] });
    expect(service.getState()?.projects).toEqual([{ ...project('project-1'), activeTasks: ['task-1'] }]);
    service.removeProject('project-1');
    expect(service.getState()?.projects).toHaveLength(0);
  });

  it('updates self-improvement', () => {
    service.updateSelfImprovement({ validationChecks: [{ name: 'Build', type: 'build', required: true }] });
    expect(service.getState()?.selfImprovement?.validationChecks).toHaveLength(1);
  });

  it('clears self-improvement', () => {
    service.updateSelfImprovement({ validationChecks: [] });
    service.clearSelfImprovement();
    expect(service.getState()?.selfImprovement).toBeUndefined();
  });

  it('sets the mode, and keeps it over a restart', async () => {
    expect(service.getMode()).toBe('normal');
    service.setMode('onboarding');
    service.setMode('onboarding');
    expect(service.getMode()).toBe('onboarding');
    expect((await loaded())?.mode).toBe('onboarding');
  });

  it('makes a backup and goes back to it', async () => {
    service.updateConversation(conversation('conv-1'));
    const id = await service.createBackup('test');
    service.updateConversation(conversation('conv-2', 0, { source: 'slack' }));
    expect(service.getState()?.conversations).toHaveLength(2);
    expect(await service.restoreFromBackup(id)).toBe(true);
    expect(service.getState()?.conversations).toHaveLength(1);
  });

  it('answers false where there is no such backup', async () => {
    expect(await service.restoreFromBackup('non-existent')).toBe(false);
  });

  it('lists backups', async () => {
    await service.createBackup('test1');
    await service.createBackup('test2');
    expect(await service.listBackups()).toHaveLength(2);
  });

  it('lists nothing where there is no backup', async () => {
    expect(await service.listBackups()).toEqual([]);
  });

  it.each(['in_progress', 'paused'] as const)('resumes a task that is %s', (status) => {
    const { tasksToResume } = service.generateResumeInstructions(state({ tasks: [task('task-1', { status })] }));
    expect(tasksToResume).toEqual([{ id: 'task-1', resumeFromCheckpoint: false }]);
  });

  it('resumes conversations of the last hour', () => {
    const twoHoursAgo = new Date(Date.now() - 7200000).toISOString();
    const conversations = [conversation('conv-1'), conversation('conv-2', 0, { lastActivityAt: twoHoursAgo })];
    const { conversationsToResume } = service.generateResumeInstructions(state({ conversations }));
    expect(conversationsToResume.map(({ id }) => id)).toEqual(['conv-1']);
  });

  it('tells of self-improvement that was in progress', () => {
    const currentTask = {
      id: 'si-1',
      description: 'Optimize search',
      targetFiles: ['search.ts'],
      plannedChanges: [],
      status: 'implementing' as const,
    };
    const previous = state({ selfImprovement: { currentTask, validationChecks: [] } });
    const { notifications } = service.generateResumeInstructions(previous);
    expect(notifications.find(({ message }) => message.includes('Self-improvement'))).toBeDefined();
  });

  it('saves the state before a shutdown', async () => {
    service.updateConversation(conversation('conv-1'));
    await service.prepareForShutdown();
    expect((await loaded())?.checkpointReason).toBe('before_restart');
  });
});

it('gives null for the state before it is initialized', () => {
  expect(service.getState()).toBeNull();
});

it('names the state directory', () => {
  expect(service.getStateDir()).toBe(join(directory, STATE_PATHS.STATE_DIR));
});
