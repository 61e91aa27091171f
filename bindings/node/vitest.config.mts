import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/*.test.ts'],
    globalSetup: 'test/setup.ts',
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Some tests measure, others start processes.
    fileParallelism: false,
    // The tests use the package as it is published, not its sources.
    server: { deps: { external: [/\/dist\//] } },
  },
});
