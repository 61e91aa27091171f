import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';

import type { TestProject } from 'vitest/node';

/** Builds the program `agentmux-state`, with which states are exchanged. */
export default function setup(project: TestProject): void {
  const messages = execFileSync('cargo', ['build', '--locked', '--quiet', '--bin', 'agentmux-state', '--message-format', 'json'], {
    cwd: resolve(import.meta.dirname, '../../..'),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const artifacts = messages.trim().split('\n').map((line) => JSON.parse(line) as { executable?: string | null });
  const program = artifacts.find(({ executable }) => executable)?.executable;
  if (!program) {
    throw new Error('cargo built no program');
  }
  project.provide('program', program);
}

declare module 'vitest' {
  interface ProvidedContext {
    /** Path of the program `agentmux-state`. */
    program: string;
  }
}
