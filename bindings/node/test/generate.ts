import type { OrchestratorState } from '../dist/index.mjs';
import { agent, project, state, task } from './helpers.js';

const WORDS = 'deploy build test agent slack thread refactor login token parser queue 模型 résumé naïve 🚀'.split(' ');

/** A state of any size: 1000 conversations with 50 messages each and 5000 tasks are some 34 MB of JSON. */
export function generated(conversations: number, tasks: number): OrchestratorState {
  let seed = 7;
  const random = () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const words = (number: number) =>
    Array.from({ length: number }, () => WORDS[Math.floor(random() * WORDS.length)]).join(' ');
  const list = <T>(length: number, make: (index: number) => T) => Array.from({ length }, (_, index) => make(index));
  const time = (second: number) => new Date(Date.UTC(2026, 10, 1) + second * 1000).toISOString();
  return state({
    conversations: list(conversations, (c) => ({
      id: `conv-${c}`,
      source: 'slack',
      recentMessages: list(50, (m) => ({
        role: 'agent',
        content: words(20 + Math.floor(random() * 100)),
        timestamp: time(c * 50 + m),
        agentName: `dev-${m % 7}`,
      })),
      summary: words(40),
      lastActivityAt: time(c * 50 + 49),
    })),
    tasks: list(tasks, (t) =>
      task(`task-${t}`, {
        description: words(60),
        status: t % 2 ? 'in_progress' : 'completed',
        progress: { percentComplete: t % 101, completedSteps: list(t % 6, () => words(5)), remainingSteps: [words(5)] },
        blockedBy: [`task-${t + 1}`],
        checkpoint: { stepIndex: t % 6, workData: { ratio: random(), list: [1, 2.5, null] }, agentContext: words(40) },
      }),
    ),
    agents: list(20, (a) => agent(`dev-${a}`)),
    projects: list(10, (p) => project(`proj-${p}`)),
  });
}
