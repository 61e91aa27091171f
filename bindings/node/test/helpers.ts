import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

import { inject, onTestFinished } from 'vitest';

import {
  StatePersistenceError,
  type AgentState,
  type ConversationState,
  type OrchestratorState,
  type PersistedMessage,
  type ProjectState,
  type TaskState,
} from '../dist/index.mjs';

/** The folder of the package. */
export const PACKAGE = resolve(import.meta.dirname, '..');

/** A document of the TypeScript service. */
export const FIXTURE = resolve(PACKAGE, '../../tests/fixtures/current-state.json');

/** A base directory of its own, removed at the end of the test. */
export function base(): string {
  const directory = mkdtempSync(join(tmpdir(), 'agentmux-state-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export function task(id: string, more: Partial<TaskState> = {}): TaskState {
  return {
    id,
    title: `Title of ${id}`,
    description: 'What is to be done',
    status: 'pending',
    priority: 'medium',
    progress: { percentComplete: 0, completedSteps: [] },
    createdAt: '2026-11-22T09:00:00.000Z',
    ...more,
  };
}

export function message(number: number): PersistedMessage {
  return { role: 'user', content: `message ${number}`, timestamp: new Date(Date.UTC(2026, 10, 22) + number * 1000).toISOString() };
}

export function conversation(id: string, messages = 0, more: Partial<ConversationState> = {}): ConversationState {
  const recentMessages = Array.from({ length: messages }, (_, number) => message(number));
  return { id, source: 'chat', recentMessages, lastActivityAt: new Date().toISOString(), ...more };
}

export function agent(sessionName: string): AgentState {
  return { sessionName, agentId: 'agent-1', role: 'developer', status: 'active' };
}

export function project(id: string): ProjectState {
  return { id, name: 'Test project', path: '/srv/p', status: 'active', activeTasks: [], activeAgents: [] };
}

export function state(more: Partial<OrchestratorState> = {}): OrchestratorState {
  return {
    id: 'state-1',
    version: '1.0.0',
    checkpointedAt: '2026-11-22T10:00:00.000Z',
    checkpointReason: 'before_restart',
    conversations: [],
    tasks: [],
    agents: [],
    projects: [],
    metadata: {
      version: '1.0.0',
      hostname: 'test',
      pid: 1234,
      startedAt: '2026-11-22T09:00:00.000Z',
      uptimeSeconds: 100,
      restartCount: 0,
    },
    ...more,
  };
}

/** What a call fails with. */
export async function failure(work: () => unknown): Promise<StatePersistenceError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof StatePersistenceError) {
      return error;
    }
    throw error;
  }
  throw new Error('it did not fail');
}

/** Runs the program `agentmux-state` on a state. */
export function program(stateDir: string, ...args: string[]): string {
  return execFileSync(inject('program'), ['--state-dir', stateDir, ...args], { encoding: 'utf8' });
}

/** A Node process that runs a script with the package at hand, and the lines that it prints. */
export function node(script: string, ...args: string[]): { child: ChildProcess; lines: AsyncIterator<string>; exit: Promise<number | null> } {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script, '--', ...args], {
    cwd: PACKAGE,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exit = new Promise<number | null>((done) => child.on('close', (code) => done(code)));
  return { child, lines: createInterface(child.stdout!)[Symbol.asyncIterator](), exit };
}
