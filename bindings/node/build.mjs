// Builds the native part, and says in one sentence what is missing for that. Usage: npm run build:native [-- --target TRIPLE]
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const napi = fileURLToPath(new URL('node_modules/.bin/napi', import.meta.url));

/** What a program prints; nothing where it cannot be started or fails. */
function output(program, ...args) {
  const { status, stdout } = spawnSync(program, args, { encoding: 'utf8' });
  return status === 0 ? stdout : undefined;
}

/** Whether a version, as `1.95.0`, is at least another one. */
function isAtLeast(version, least) {
  const [these, those] = [version, least].map((text) => text.split('.').map(Number));
  const differing = those.findIndex((number, index) => these[index] !== number);
  return differing < 0 || these[differing] > those[differing];
}

/** What is missing, as a sentence. */
function missing() {
  if (!['linux', 'darwin'].includes(process.platform)) {
    return `agentmux-state runs on Linux and macOS, and this is ${process.platform}`;
  }
  const [, least] = /^rust-version = "(.*)"$/m.exec(readFileSync(new URL('Cargo.toml', import.meta.url), 'utf8'));
  const [, rust] = /^rustc (\d+\.\d+\.\d+)/.exec(output('rustc', '--version') ?? '') ?? [];
  if (output('cargo', '--version') === undefined || rust === undefined) {
    return `building agentmux-state needs Rust ${least} or later, and there is no cargo or rustc in the PATH; https://rustup.rs installs both`;
  }
  if (!isAtLeast(rust, least)) {
    return `building agentmux-state needs Rust ${least} or later, and this is ${rust}; \`rustup update stable\` installs a newer one`;
  }
  const compiler = process.env.CC ?? 'cc';
  if (output(compiler, '--version') === undefined) {
    return `building agentmux-state needs a C compiler, and ${compiler} cannot be started; on Debian, \`apt-get install build-essential\` installs one`;
  }
  if (!existsSync(napi)) {
    return 'building agentmux-state needs its development dependencies; `npm install` in bindings/node installs them';
  }
  return undefined;
}

const sentence = missing();
if (sentence !== undefined) {
  console.error(sentence);
  process.exit(1);
}
const options = ['--platform', '--release', '--output-dir', 'dist', '--js', 'native.js', '--dts', 'native.d.ts'];
const { status } = spawnSync(napi, ['build', ...options, ...process.argv.slice(2), '--', '--locked'], { stdio: 'inherit' });
process.exit(status ?? 1);
