/** What can go wrong, by kind: the library's error variants, and `INVALID_ARGUMENT` for what was called wrongly. */
export const STATE_ERROR_CODES = [
  'NO_DATABASE',
  'NOT_A_STATE_DATABASE',
  'SCHEMA_TOO_NEW',
  'NO_STATE',
  'SCHEMA_OUTDATED',
  'HISTORY_DAMAGED',
  'UPGRADE_BACKUP_FAILED',
  'MIGRATION_FAILED',
  'CORRUPT',
  'UNRECOVERABLE',
  'SCHEMA_CHANGED',
  'OWN_OBJECT',
  'NOT_DAMAGED',
  'INVALID_ROW',
  'INVALID_VALUE',
  'BUSY',
  'TOO_MANY_READERS',
  'INTERRUPTED',
  'NESTED_WRITE',
  'OWN_FILE',
  'WOULD_OVERWRITE_DATABASE',
  'HARD_LINKED',
  'MOUNTED_FILE',
  'DATABASE_MOVED',
  'LOCK_LOST',
  'SHARED_MOUNT',
  'DISK_FULL',
  'READ_ONLY',
  'NOT_FOUND',
  'DOCUMENT',
  'DOCUMENT_TOO_LARGE',
  'DOCUMENT_TOO_NEW',
  'DOCUMENT_PROBLEMS',
  'NOT_EMPTY',
  'WOULD_SHRINK',
  'PRUNE_INCOMPLETE',
  'BACKUP_DAMAGED',
  'IN_USE',
  'TAKEN_OVER',
  'SHUT_DOWN',
  'NOT_INITIALIZED',
  'NO_HOME',
  'IO',
  'STREAM',
  'SQLITE',
  'INVALID_ARGUMENT',
] as const;

/**
 * The kind of a {@link StatePersistenceError}. The usual ones:
 *
 * - `IN_USE`: another live process holds the state directory; its `pid` is in the error.
 * - `TAKEN_OVER`: a second service of this process has taken the directory over. `SHUT_DOWN`: after
 *   `prepareForShutdown`, of what cannot simply be ignored.
 * - `NOT_INITIALIZED`: before `initialize`, of what cannot simply do nothing.
 * - `INVALID_VALUE`: an entity lacks a required text, holds a value of a wrong type, or cannot be written as JSON.
 * - `NOT_FOUND`: no such conversation or backup.
 * - `DOCUMENT`, `DOCUMENT_TOO_NEW`: the TypeScript service's file cannot be read. It never counts as a fresh start.
 * - `CORRUPT`, `NOT_A_STATE_DATABASE`, `SCHEMA_TOO_NEW`, `HISTORY_DAMAGED`, `SCHEMA_CHANGED`: `state.db` is not one that this
 *   release can use.
 * - `DATABASE_MOVED`, `LOCK_LOST`: while the service ran, its files were deleted, moved or replaced, or their locks were lost.
 * - `DISK_FULL`, `READ_ONLY`, `BUSY`, `IO`, `SQLITE`: the disk, the permissions, another program.
 */
export type StateErrorCode = (typeof STATE_ERROR_CODES)[number];

/** What failed, on which file or record, and what to do about it. */
export class StatePersistenceError extends Error {
  /** The kind of failure. Stays the same between releases, unlike the message. */
  readonly code: StateErrorCode;
  /** With `IN_USE`: the process that holds the directory. */
  readonly pid?: number;

  constructor(code: StateErrorCode, message: string, options?: { cause?: unknown; pid?: number }) {
    super(message, options);
    this.code = code;
    if (options?.pid !== undefined) {
      this.pid = options.pid;
    }
  }
}

Object.defineProperty(StatePersistenceError.prototype, 'name', { value: 'StatePersistenceError', configurable: true });

/** What the native part threw, as the caller gets it. Test runners give modules another `Error` than that of native code. */
function translated(error: unknown): unknown {
  const text = (error as Partial<Error> | undefined)?.message;
  return text?.startsWith('{') ? parsedError(text) : error;
}

/** A failure as the native part writes it. */
export function parsedError(text: string): StatePersistenceError {
  const { code, message, pid } = JSON.parse(text) as { code: StateErrorCode; message: string; pid?: number };
  return new StatePersistenceError(code, message, pid === undefined ? {} : { pid });
}

/** Calls the native part. */
export function call<T>(native: () => T): T {
  try {
    return native();
  } catch (error) {
    throw translated(error);
  }
}

/** Waits for the native part. */
export async function settle<T>(native: Promise<T>): Promise<T> {
  try {
    return await native;
  } catch (error) {
    throw translated(error);
  }
}
