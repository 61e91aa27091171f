/** The package as it is published: what is in it, that its types compile, and that its README is true. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFile, mkdir, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';

import { expect, inject, it } from 'vitest';

import { StatePersistenceService, type OrchestratorState } from '../dist/index.mjs';
import { FIXTURE, PACKAGE, base, task } from './helpers.js';

function npm(...args: string[]): string {
  return execFileSync('npm', args, { cwd: PACKAGE, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

/** A fresh project with the tarball of `npm pack` installed. */
async function installed(type: 'module' | 'commonjs'): Promise<string> {
  const directory = base();
  const [{ filename }] = JSON.parse(npm('pack', '--json', '--pack-destination', directory)) as [{ filename: string }];
  await writeFile(join(directory, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type }));
  execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', `./${filename}`], { cwd: directory, stdio: 'ignore' });
  const modules = join(directory, 'node_modules');
  await mkdir(join(modules, '@types'));
  await symlink(join(PACKAGE, 'node_modules/@types/node'), join(modules, '@types/node'));
  await symlink(join(PACKAGE, 'node_modules/undici-types'), join(modules, 'undici-types'));
  return directory;
}

/** Compiles a program of a project under `strict`; prints what the compiler says. */
function compile(directory: string, more = ['--target', 'es2022', '--module', 'nodenext', '--types', 'node']): string {
  const options = ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--verbatimModuleSyntax', 'false'];
  const compiler = join(PACKAGE, 'node_modules/.bin/tsc');
  const all = [...options, ...more, '--skipLibCheck', 'false', 'consumer.ts'];
  try {
    return execFileSync(compiler, all, { cwd: directory, encoding: 'utf8' });
  } catch (error) {
    return (error as { stdout: string }).stdout;
  }
}

it.each(['module', 'commonjs'] as const)('a project under `strict` compiles and runs, as %s', async (type) => {
  const directory = await installed(type);
  await copyFile(join(PACKAGE, 'test/consumer/consumer.ts'), join(directory, 'consumer.ts'));
  expect(compile(directory)).toBe('');
  expect((await readFile(join(directory, 'consumer.js'), 'utf8')).includes('require(')).toBe(type === 'commonjs');
  const printed = execFileSync(process.execPath, ['consumer.js', join(directory, 'base')], { cwd: directory, encoding: 'utf8' });
  expect(JSON.parse(printed)).toEqual({
    verdict: true,
    restored: true,
    pruned: 0,
    backups: true,
    problems: [],
    hits: 2,
    conversations: 1,
    pid: true,
    resumed: [0, 1, 2],
    code: 'NOT_FOUND',
    known: true,
    removed: true,
    failed: null,
    mode: 'onboarding',
    same: true,
    guarded: 'paused',
    guards: [false, false, false, true],
    constants: ['1.0.0', 50, 60000, 6],
    modes: 0,
    changes: 1,
  });
  await writeFile(join(directory, 'consumer.ts'), "import { STATE_VERSION } from 'agentmux-state';\nconst wrong: 2 = STATE_VERSION;\n");
  expect(compile(directory)).toContain('TS2322');
});

it.each(['module', 'commonjs'] as const)('the tarball works where it was built, as %s', async (type) => {
  const directory = await installed(type);
  const load =
    type === 'module' ? "import { StatePersistenceService } from 'agentmux-state';" : "const { StatePersistenceService } = require('agentmux-state');";
  const program = `${load}
    const service = new StatePersistenceService(process.argv[2]);
    service.initialize().then(async () => {
      service.updateAgent({ sessionName: 'dev-1', agentId: 'a', role: 'r', status: 'active' });
      await service.prepareForShutdown();
      console.log(service.getState().agents[0].sessionName);
    });`;
  await writeFile(join(directory, 'program.js'), program);
  const printed = execFileSync(process.execPath, ['program.js', join(directory, 'base')], { cwd: directory, encoding: 'utf8' });
  expect(printed).toBe('dev-1\n');
});

it.each([
  ['for ES2020', ['--target', 'es2020', '--lib', 'es2020', '--module', 'nodenext']],
  ['for ES2020 and Node 16', ['--target', 'es2020', '--lib', 'es2020', '--module', 'node16']],
  ['for ES2020 and a bundler', ['--target', 'es2020', '--lib', 'es2020', '--module', 'esnext', '--moduleResolution', 'bundler']],
])('the types compile %s, with nothing of Node and no library unchecked', async (_, options) => {
  const directory = await installed('module');
  const program = `import { StatePersistenceError, getStatePersistenceService, type TaskState } from 'agentmux-state';
    export const task = (id: string): TaskState | undefined => getStatePersistenceService().getState()?.tasks.find((it) => it.id === id);
    export const pid = (error: unknown): number | undefined => (error instanceof StatePersistenceError ? error.pid : undefined);`;
  await writeFile(join(directory, 'consumer.ts'), program);
  expect(compile(directory, [...options, '--types', ''])).toBe('');
});

/** What a script prints to stderr when it fails. */
function complaint(directory: string, env: NodeJS.ProcessEnv, ...args: string[]): string {
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: directory, env, encoding: 'utf8' });
  expect(status).toBe(1);
  return stderr;
}

it('what is missing is said in one sentence where the package is loaded', async () => {
  const directory = await installed('commonjs');
  const script = "try { require('agentmux-state') } catch ({ message, code }) { console.error(message); process.exit(1) }";
  const other = "Object.defineProperty(process, 'platform', { value: 'win32' });";
  const unsupported = `agentmux-state runs on Linux and macOS with an x64 or arm64 processor, and this is win32 with ${process.arch}\n`;
  expect(complaint(directory, process.env, '--eval', other + script)).toBe(unsupported);
  const dist = join(directory, 'node_modules/agentmux-state/dist');
  for (const name of (await readdir(dist)).filter((it) => it.endsWith('.node'))) {
    await rm(join(dist, name));
  }
  const lines = complaint(directory, process.env, '--eval', script).split('\n');
  expect(lines).toEqual([expect.stringMatching(/^agentmux-state has no native module for .* `npm run build` in bindings\/node$/), '']);
});

it('what is missing is said in one sentence where the package is built', async () => {
  const directory = base();
  const tools = async (name: string, programs: Record<string, string>) => {
    const path = join(directory, name);
    await mkdir(path);
    for (const [program, prints] of Object.entries(programs)) {
      await writeFile(join(path, program), `#!/bin/sh\necho '${prints}'\n`, { mode: 0o755 });
    }
    return complaint(PACKAGE, { PATH: path }, 'build.mjs');
  };
  const [cargo, rustc] = ['cargo 1.95.0 (x)', 'rustc 1.95.0 (x)'];
  for (const [name, programs, sentence] of [
    ['nothing', {}, /^building agentmux-state needs Rust 1\.95 or later, and there is no cargo or rustc in the PATH; .*\n$/],
    ['no-cargo', { rustc, cc: '' }, /^building agentmux-state needs Rust 1\.95 or later, and there is no cargo or rustc in the PATH; .*\n$/],
    ['old', { cargo, rustc: 'rustc 1.94.1 (x)', cc: '' }, /^building agentmux-state needs Rust 1\.95 or later, and this is 1\.94\.1; .*\n$/],
    ['no-cc', { cargo, rustc }, /^building agentmux-state needs a C compiler, and cc cannot be started; .*\n$/],
  ] as [string, Record<string, string>, RegExp][]) {
    expect(await tools(name, programs), name).toMatch(sentence);
  }
});

it('npm is told where it runs', async () => {
  const manifest = JSON.parse(await readFile(join(PACKAGE, 'package.json'), 'utf8')) as Record<string, unknown>;
  expect(manifest).toMatchObject({ engines: { node: '>=20' }, os: ['linux', 'darwin'], cpu: ['x64', 'arm64'] });
  const { napi, os, cpu } = manifest as { napi: { targets: string[] }; os: string[]; cpu: string[] };
  const names: Record<string, string> = { x86_64: 'x64', aarch64: 'arm64' };
  expect(new Set(napi.targets.map((triple) => names[triple.split('-')[0]!]))).toEqual(new Set(cpu));
  expect(new Set(napi.targets.map((triple) => (triple.includes('linux') ? 'linux' : 'darwin')))).toEqual(new Set(os));
});

it('that project imports everything', async () => {
  const declared: string[] = [];
  for (const name of ['constants', 'error', 'reports', 'service', 'types']) {
    const declarations = await readFile(join(PACKAGE, `dist/${name}.d.ts`), 'utf8');
    const found = [...declarations.matchAll(/^export (?:declare )?(?:const|function|class|interface|type) (\w+)/gm)];
    declared.push(...found.map(([, name]) => name!));
  }
  const internal = ['call', 'parsedError', 'settle'];
  const consumer = await readFile(join(PACKAGE, 'test/consumer/consumer.ts'), 'utf8');
  const imported = [...consumer.slice(0, consumer.indexOf('} from')).matchAll(/^ {2}(?:type )?(\w+),$/gm)].map(([, name]) => name);
  expect(imported.toSorted()).toEqual(declared.filter((name) => !internal.includes(name)).toSorted());
});

it('everything that is exported documents itself', async () => {
  for (const name of ['constants', 'error', 'reports', 'service', 'types']) {
    const lines = (await readFile(join(PACKAGE, `dist/${name}.d.ts`), 'utf8')).split('\n');
    const members = lines.filter((line) => /^ {4}(readonly )?\w+\??[:(]/.test(line) && !line.includes('constructor('));
    const exports = lines.filter((line) => /^export /.test(line) && !/^export (\{|\*)/.test(line));
    for (const line of [...members, ...exports]) {
      expect(lines[lines.indexOf(line) - 1], `${name}: ${line}`).toMatch(/\*\/$/);
    }
  }
});

/** The blocks of the README in a language. */
async function blocks(language: string): Promise<string[]> {
  const readme = await readFile(join(PACKAGE, 'README.md'), 'utf8');
  return [...readme.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].filter(([, of]) => of === language).map(([, , text]) => text!);
}

it('the programs of the README compile', async () => {
  const directory = await installed('module');
  for (const program of await blocks('ts')) {
    await writeFile(join(directory, 'consumer.ts'), program);
    expect(compile(directory)).toBe('');
  }
  expect(await blocks('ts')).toHaveLength(2);
});

it('the README tells how to install it', async () => {
  const [build, install] = await blocks('sh');
  expect(build).toBe('cd bindings/node\nnpm install && npm test\n');
  const directory = base();
  await writeFile(join(directory, 'package.json'), '{"name": "orchestrator", "private": true}');
  const command = install!.replace('/path/to/agentmux-state/bindings/node', `--offline '${PACKAGE}'`);
  expect(command).not.toBe(install);
  execFileSync('bash', ['-c', command], { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] });
  const script = "console.log(require('agentmux-state').STATE_VERSION)";
  expect(execFileSync(process.execPath, ['--eval', script], { cwd: directory, encoding: 'utf8' })).toBe('1.0.0\n');
});

it('the commands of the README lead back to the TypeScript service, and here again', async () => {
  const home = base();
  const state = join(home, '.agentmux/state');
  await mkdir(state, { recursive: true });
  await copyFile(FIXTURE, join(state, 'orchestrator-state.json'));
  const service = new StatePersistenceService(home);
  await service.initialize();
  service.updateTask(task('T-new'));
  await service.prepareForShutdown();

  const run = (commands: string | undefined) => {
    const script = commands!.replaceAll(/^\$ /gm, '');
    const PATH = [dirname(inject('program')), process.env['PATH']].join(delimiter);
    execFileSync('bash', ['-e', '-c', script], { env: { HOME: home, PATH }, stdio: ['ignore', 'ignore', 'pipe'] });
  };
  const [back, again] = await blocks('console');
  run(back);
  // What the TypeScript service does: reads the file, and writes it.
  const file = join(state, 'orchestrator-state.json');
  const document = JSON.parse(await readFile(file, 'utf8')) as OrchestratorState;
  expect({ ...document, mode: 'normal' }).toEqual(service.getState());
  document.tasks.push(task('T-newer'));
  await writeFile(file, JSON.stringify(document, null, 2));
  run(again);
  expect((await service.initialize())?.tasks.slice(-2)).toEqual([task('T-new'), task('T-newer')]);
  await service.prepareForShutdown();
});

it('both kinds of module share one service', () => {
  const script = `
    import { createRequire } from 'node:module';
    import * as imported from 'agentmux-state';
    const required = createRequire(process.cwd() + '/x.js')('agentmux-state');
    const names = Object.keys(imported).filter((name) => name !== '__esModule').sort();
    console.log(JSON.stringify([
      imported.getStatePersistenceService() === required.getStatePersistenceService(),
      names.join() === Object.keys(required).sort().join(),
    ]));`;
  const printed = execFileSync(process.execPath, ['--input-type=module', '--eval', script], { cwd: PACKAGE, encoding: 'utf8' });
  expect(JSON.parse(printed)).toEqual([true, true]);
});

it('holds what is needed to run here, and the binaries of a release come by packages of their own', async () => {
  const [{ files }] = JSON.parse(npm('pack', '--dry-run', '--json')) as [{ files: { path: string }[] }];
  const modules = ['binding', 'constants', 'error', 'index', 'live', 'native', 'reports', 'service', 'types'];
  const built = (await readdir(join(PACKAGE, 'dist'))).filter((name) => name.endsWith('.node')).map((name) => `dist/${name}`);
  expect(built).toHaveLength(1);
  expect(files.map(({ path }) => path).toSorted()).toEqual(
    [
      ...built,
      'LICENSE',
      'README.md',
      'package.json',
      'dist/index.mjs',
      'dist/index.d.mts',
      ...modules.flatMap((name) => [`dist/${name}.js`, `dist/${name}.d.ts`]),
    ].toSorted(),
  );
  // What a release does, but for publishing; any file stands for the binaries of other platforms.
  const directory = base();
  for (const name of ['package.json', 'README.md', 'LICENSE']) {
    await copyFile(join(PACKAGE, name), join(directory, name));
  }
  await mkdir(join(directory, 'dist'));
  for (const name of built) {
    await copyFile(join(PACKAGE, name), join(directory, name));
  }
  const platforms = ['darwin-arm64', 'darwin-x64', 'linux-arm64-gnu', 'linux-arm64-musl', 'linux-x64-gnu', 'linux-x64-musl'];
  await mkdir(join(directory, 'artifacts'));
  for (const platform of platforms) {
    await writeFile(join(directory, `artifacts/agentmux-state.${platform}.node`), platform);
  }
  const napi = (...args: string[]) =>
    execFileSync(join(PACKAGE, 'node_modules/.bin/napi'), args, { cwd: directory, stdio: 'ignore' });
  napi('create-npm-dirs');
  napi('artifacts');
  const { scripts } = JSON.parse(await readFile(join(PACKAGE, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  const [publish, clean] = scripts['prepublishOnly']!.split(' && ');
  napi(...publish!.split(' ').slice(1), '--skip-optional-publish');
  execFileSync('sh', ['-c', clean!], { cwd: directory });
  expect(await readdir(join(directory, 'dist'))).toEqual([]);
  expect((await readdir(join(directory, 'npm'))).toSorted()).toEqual(platforms);
  const binary = 'agentmux-state.linux-x64-gnu.node';
  expect(await readFile(join(directory, 'npm/linux-x64-gnu', binary), 'utf8')).toBe('linux-x64-gnu');
  const read = async (path: string) => JSON.parse(await readFile(join(directory, path), 'utf8')) as Record<string, unknown>;
  const platform = await read('npm/linux-x64-gnu/package.json');
  expect(platform).toMatchObject({ name: 'agentmux-state-linux-x64-gnu', main: binary, files: [binary], os: ['linux'], cpu: ['x64'] });
  const { version, optionalDependencies } = await read('package.json');
  expect(optionalDependencies).toEqual(Object.fromEntries(platforms.map((name) => [`agentmux-state-${name}`, version])));
  const loader = await readFile(join(PACKAGE, 'dist/native.js'), 'utf8');
  expect(loader).toContain("require('agentmux-state-linux-x64-gnu')");
});

it('the binary can come from its own package', async () => {
  const directory = await installed('commonjs');
  const modules = join(directory, 'node_modules');
  const name = 'agentmux-state.linux-x64-gnu.node';
  const local = join(modules, 'agentmux-state/dist', name);
  if (!(await readdir(join(PACKAGE, 'dist'))).includes(name)) {
    return;
  }
  const platform = join(modules, 'agentmux-state-linux-x64-gnu');
  await mkdir(platform);
  await copyFile(local, join(platform, name));
  const { version } = JSON.parse(await readFile(join(PACKAGE, 'package.json'), 'utf8')) as { version: string };
  await writeFile(join(platform, 'package.json'), JSON.stringify({ name: 'agentmux-state-linux-x64-gnu', version, main: name }));
  await rm(local);
  const script = "console.log(new (require('agentmux-state').StatePersistenceService)('/x').getStateDir())";
  expect(execFileSync(process.execPath, ['--eval', script], { cwd: directory, encoding: 'utf8' })).toBe('/x/.agentmux/state\n');
});

it('the versions agree, and nothing comes from elsewhere than the public registry', async () => {
  const { version } = JSON.parse(await readFile(join(PACKAGE, 'package.json'), 'utf8')) as { version: string };
  for (const manifest of ['Cargo.toml', '../../Cargo.toml']) {
    expect(await readFile(join(PACKAGE, manifest), 'utf8')).toContain(`\nversion = "${version}"\n`);
  }
  const lock = await readFile(join(PACKAGE, 'package-lock.json'), 'utf8');
  const hosts = [...lock.matchAll(/"resolved": "(https?:\/\/[^/]*)/g)].map(([, host]) => host);
  expect(new Set(hosts).size).toBeLessThanOrEqual(1);
  expect(hosts.every((host) => host === 'https://registry.npmjs.org')).toBe(true);
});
