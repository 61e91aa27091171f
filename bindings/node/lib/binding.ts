import type * as Native from './native.js';

/** Platforms that the native part is built for. */
const PLATFORMS = ['linux', 'darwin'];
const PROCESSORS = ['x64', 'arm64'];

/** The native part. Fails in one sentence where there is none for this machine. */
function load(): typeof Native {
  try {
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    return require('./native.js') as typeof Native;
  } catch (cause) {
    throw Object.assign(new Error(missing(), { cause }), { code: 'ERR_NO_NATIVE_MODULE' });
  }
}

function missing(): string {
  const { platform, arch } = process;
  if (!PLATFORMS.includes(platform) || !PROCESSORS.includes(arch)) {
    return `agentmux-state runs on Linux and macOS with an x64 or arm64 processor, and this is ${platform} with ${arch}`;
  }
  return (
    `agentmux-state has no native module for ${platform} with ${arch} here: install it without --omit=optional and --no-optional, ` +
    'or build it in a checkout with `npm run build` in bindings/node'
  );
}

export const { NativeService } = load();
