import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

import { NativeService as Native } from './binding.js';
import {
  CHECKPOINT_INTERVAL_MS,
  DEFAULT_ORCHESTRATOR_MODE,
  MAX_PERSISTED_MESSAGES,
  STATE_PATHS,
  isValidOrchestratorMode,
} from './constants.js';
import { StatePersistenceError, call, settle } from './error.js';
import { LiveObjects, update, wellFormed, type Kind } from './live.js';
import type { NativeOptions, NativeService, StatePieces } from './native.js';
import type { BackupVerdict, CheckReport, PruneReport, SearchHit, StatePersistenceOptions } from './reports.js';
import type {
  AgentState,
  CheckpointReason,
  ConversationState,
  OrchestratorMode,
  OrchestratorState,
  PersistedMessage,
  ProjectState,
  ResumeInstructions,
  SelfImprovementState,
  TaskState,
} from './types.js';

/** Conversations with activity in so many milliseconds before a restart are resumed. */
const RESUME_WINDOW = 3_600_000;

/** The longest time that a timer of Node can wait. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** Services with a run that goes on: they live until it ends, also where nobody refers to them any more. */
const running = new Set<StatePersistenceService>();

/**
 * The state of a running orchestrator, from its start to its end.
 *
 * What is `async` works beside the event loop. Everything else happens at once: an update is durable when it returns. Objects
 * that are handed over, and those of {@link getState}, are the state, as with the TypeScript service: what is changed in them
 * later is found at {@link saveState}, at backups, periodic checkpoints and the shutdown, and by {@link getState}, and written
 * then.
 *
 * Before {@link initialize} updates do nothing, and after {@link prepareForShutdown} they are ignored with one warning. Other
 * failures are {@link StatePersistenceError}s with a `code`.
 *
 * @example
 * ```ts
 * const service = getStatePersistenceService();
 * const previous = await service.initialize();
 * if (previous) {
 *   const { tasksToResume } = service.generateResumeInstructions(previous);
 * }
 * service.updateTask(task); // durable
 * await service.prepareForShutdown();
 * ```
 */
export class StatePersistenceService {
  readonly #service: NativeService;
  readonly #stateDir: string;
  readonly #interval: number | undefined;
  readonly #messageLimit: number;
  readonly #live = new LiveObjects();
  #phase: 'new' | 'running' | 'shut down' = 'new';
  #timer: ReturnType<typeof setInterval> | undefined;
  #lookError: string | null = null;
  #hasWarned = false;

  /**
   * A service on the state below a base directory. Touches nothing on disk.
   *
   * @param baseDir The state lies in `.agentmux/state` below it; the home directory by default. A relative path counts from where
   *   the process is now.
   * @param options How the service works.
   */
  constructor(baseDir?: string, options: StatePersistenceOptions = {}) {
    const base = baseDir || homedir();
    const native = checked(options ?? {});
    this.#stateDir = join(base, STATE_PATHS.STATE_DIR);
    this.#interval = native.checkpointIntervalMs;
    this.#messageLimit = native.messageLimit;
    // The process may change its directory later.
    this.#service = new Native(resolve(base), native);
  }

  /** The native part, at the present time of `Date`. */
  get #native(): NativeService {
    this.#service.at(Number(Date.now()));
    return this.#service;
  }

  /**
   * Takes the state directory for this process, starts a run and the periodic checkpoint, and returns the state as the previous
   * run left it; `null` where there was none, or where it saved nothing. The new run continues from that state, unless
   * `startEmpty` says otherwise.
   *
   * Where there is no database yet, imports the TypeScript service's file, which stays as it is; a copy of it goes to
   * `backups/` before the first export replaces it. A previous run without {@link prepareForShutdown} counts as a crash.
   * Another service of this process on the same directory is taken over: its updates fail from then on.
   *
   * @throws `IN_USE` with the `pid` where another live process holds the directory; `DOCUMENT` and others where the file or the
   * database cannot be read.
   */
  async initialize(): Promise<OrchestratorState | null> {
    try {
      if (this.isInitialized()) {
        await this.#live.lookInTurns(this.#native);
      } else {
        this.#live.take();
      }
      const pieces = await settle(this.#native.initialize());
      this.#phase = 'running';
      this.#hasWarned = false;
      this.#startTimer();
      return pieces === null ? null : withMode(await assembled(pieces));
    } finally {
      for (const service of [...running, this]) {
        if (service.isInitialized()) {
          running.add(service);
        } else {
          running.delete(service);
        }
      }
    }
  }

  /** Whether it was initialized, and neither shut down nor taken over since. */
  isInitialized(): boolean {
    return this.#service.isInitialized();
  }

  /**
   * Records a checkpoint and refreshes `current-state.json`. Updates are durable without it; changes in objects that were handed
   * over are written by it. Does nothing before {@link initialize}, and is ignored after a shutdown.
   */
  async saveState(reason: CheckpointReason = 'scheduled'): Promise<void> {
    if (!this.#isOpen('saveState')) {
      return;
    }
    if (typeof reason !== 'string') {
      throw new StatePersistenceError('INVALID_ARGUMENT', `saveState: expected a reason, found ${described(reason)}`);
    }
    try {
      await this.#look();
      await settle(this.#native.saveState(reason));
    } catch (error) {
      this.#ignoreLate('saveState', error);
    }
  }

  /**
   * The whole state as it is now; `null` before {@link initialize}.
   *
   * It is the same object each time, and the entities in it are the objects that were handed over, where the database has
   * nothing newer. Changes in them are saved as those of objects that were handed over, and so are entities that are put into
   * its lists; what is taken out of a list stays in the state, as that is what removing is for.
   *
   * Reading a large state takes as long as parsing it, and holds the event loop for that time.
   */
  getState(): OrchestratorState | null {
    const native = this.#native;
    if (native.isInitialized()) {
      try {
        this.#live.look(native);
      } catch (error) {
        // They are still there, and so found again at the next checkpoint, which reports what fails.
        this.#lookError = messageOf(error);
      }
    }
    const texts = call(() => native.state());
    return texts === null ? null : this.#live.show(texts, withMode(JSON.parse(texts.head) as OrchestratorState));
  }

  /** The state directory. */
  getStateDir(): string {
    return this.#stateDir;
  }

  /**
   * Adds a conversation or updates it by its `id`. Keeps its newest {@link MAX_PERSISTED_MESSAGES} messages, in the object that
   * is handed over as well.
   */
  updateConversation(conversation: ConversationState): void {
    this.#update('updateConversation', 'conversation', conversation, () => {
      if (conversation.recentMessages.length > this.#messageLimit) {
        conversation.recentMessages = conversation.recentMessages.slice(-this.#messageLimit);
      }
    });
  }

  /**
   * Adds a message at the end of a conversation, without reading or writing the others. The oldest are dropped as in
   * {@link updateConversation}, and the conversation's `lastActivityAt` moves on to the message's time where that is later.
   *
   * @throws `NOT_FOUND` where there is no such conversation.
   */
  appendMessage(conversationId: string, message: PersistedMessage): void {
    this.#whileOpen('appendMessage', undefined, () => {
      const [id, content] = [asText('conversationId', conversationId), text(message)];
      call(() => this.#native.appendMessage(id, content));
    });
  }

  /** Removes a conversation; whether there was one. */
  removeConversation(conversationId: string): boolean {
    return this.#remove('removeConversation', 'conversation', conversationId, (native, id) => native.removeConversation(id));
  }

  /** Adds a task or updates it by its `id`. */
  updateTask(task: TaskState): void {
    this.#update('updateTask', 'task', task);
  }

  /** Removes a task; whether there was one. References to it elsewhere stay as they are. */
  removeTask(taskId: string): boolean {
    return this.#remove('removeTask', 'task', taskId, (native, id) => native.removeTask(id));
  }

  /** Adds an agent or updates it by its `sessionName`. */
  updateAgent(agent: AgentState): void {
    this.#update('updateAgent', 'agent', agent);
  }

  /** Removes an agent; whether there was one. References to it elsewhere stay as they are. */
  removeAgent(sessionName: string): boolean {
    return this.#remove('removeAgent', 'agent', sessionName, (native, name) => native.removeAgent(name));
  }

  /** Adds a project or updates it by its `id`. */
  updateProject(project: ProjectState): void {
    this.#update('updateProject', 'project', project);
  }

  /** Removes a project; whether there was one. References to it elsewhere stay as they are. */
  removeProject(projectId: string): boolean {
    return this.#remove('removeProject', 'project', projectId, (native, id) => native.removeProject(id));
  }

  /** Sets the state of the orchestrator's work on its own code. */
  updateSelfImprovement(state: SelfImprovementState): void {
    this.#update('updateSelfImprovement', 'selfImprovement', state);
  }

  /** Clears the state of the orchestrator's work on its own code; whether there was any. */
  clearSelfImprovement(): boolean {
    return this.#remove('clearSelfImprovement', 'selfImprovement', '', (native) => native.clearSelfImprovement());
  }

  /** Sets what the orchestrator is doing as a whole. */
  setMode(mode: OrchestratorMode): void {
    this.#whileOpen('setMode', undefined, () => {
      const given = asText('mode', mode);
      call(() => this.#native.setMode(given));
      this.#live.showMode(knownMode(given));
    });
  }

  /**
   * What the orchestrator is doing as a whole; {@link DEFAULT_ORCHESTRATOR_MODE} where nobody said, where this release does not
   * know what was said, and before {@link initialize}.
   */
  getMode(): OrchestratorMode {
    const native = this.#native;
    if (native.isInitialized()) {
      this.#live.lookAtMode(native);
    }
    return knownMode(call(() => native.mode()));
  }

  /**
   * What to do after a restart, from a state as the previous run left it. A conversation is resumed where its `lastActivityAt`, in
   * any form that `Date` takes, lies less than an hour before now.
   */
  generateResumeInstructions(previousState: OrchestratorState): ResumeInstructions {
    if (typeof previousState !== 'object' || previousState === null) {
      const found = described(previousState);
      throw new StatePersistenceError('INVALID_ARGUMENT', `generateResumeInstructions: expected a state, found ${found}`);
    }
    const { conversations, tasks, metadata, selfImprovement } = previousState;
    const { description = '', status = '' } = selfImprovement?.currentTask ?? {};
    const since = Date.now() - RESUME_WINDOW;
    const needed = {
      recentConversations: listed(conversations)
        .filter(({ lastActivityAt }) => new Date(lastActivityAt).getTime() > since)
        .map(({ id }) => String(id)),
      tasks: listed(tasks).map(({ id, status, checkpoint }) => ({
        id: String(id),
        status: String(status),
        hasCheckpoint: Boolean(checkpoint),
      })),
      restartCount: Math.trunc(Number(metadata?.restartCount)) || 0,
      selfImprovement: { description: String(description), status: String(status) },
    };
    return JSON.parse(call(() => this.#native.resumeInstructions(text(needed)))) as ResumeInstructions;
  }

  /**
   * Makes a verified backup, one file in `backups/` with its checksum beside it.
   *
   * @param label What it is for; becomes part of its id.
   * @returns Its id, `backup-<unix ms>-<label>`.
   * @throws `NOT_INITIALIZED` before {@link initialize}; `DISK_FULL`, `IO` and others where it fails. Then there is no backup.
   */
  async createBackup(label: string): Promise<string> {
    const name = asText('label', label);
    if (this.isInitialized()) {
      await this.#look();
    }
    return settle(this.#native.createBackup(name));
  }

  /**
   * Goes back to a backup, after a safety backup; the run continues, and a checkpoint `error_recovery` is recorded. A backup that
   * cannot be trusted is not used, and the state then stays as it is. Objects that were handed over before are not looked at any
   * more.
   *
   * @returns Whether that was done. {@link restoreBackup} reports why not.
   */
  async restoreFromBackup(backupId: string): Promise<boolean> {
    return this.restoreBackup(backupId).then(
      () => true,
      () => false,
    );
  }

  /**
   * As {@link restoreFromBackup}, with the reason where it fails.
   *
   * @throws `NOT_FOUND`, `BACKUP_DAMAGED`, `NOT_INITIALIZED` and others.
   */
  async restoreBackup(backupId: string): Promise<void> {
    const id = asText('backupId', backupId);
    if (this.isInitialized()) {
      // The safety backup is to have them.
      await this.#look();
    }
    const taken = this.#live.take();
    try {
      await settle(this.#native.restoreBackup(id));
    } catch (error) {
      this.#live.takeBack(taken);
      throw error;
    }
  }

  /** The ids of the backups, newest first, those that the TypeScript service made among them. None where the folder cannot be read. */
  async listBackups(): Promise<string[]> {
    return settle(this.#native.listBackups()).catch(() => []);
  }

  /**
   * Whether a backup can be trusted: its checksum, SQLite's integrity, and that it holds a state of a known release.
   *
   * @throws `NOT_FOUND` where there is no such backup. What is wrong with one is no error.
   */
  async verifyBackup(backupId: string): Promise<BackupVerdict> {
    const id = asText('backupId', backupId);
    return JSON.parse(await settle(this.#native.verifyBackup(id))) as BackupVerdict;
  }

  /**
   * Removes all but the newest backups. The newest one that can be trusted always stays. Never throws, and does nothing before
   * {@link initialize}; {@link pruneBackups} reports what was done or why not.
   */
  async cleanupOldBackups(keepCount = 10): Promise<void> {
    await this.pruneBackups(keepCount).catch(() => undefined);
  }

  /** As {@link cleanupOldBackups}, with a report, and the reason where it fails. */
  async pruneBackups(keepCount = 10): Promise<PruneReport> {
    const keep = within('keepCount', keepCount, 0, 0xffffffff);
    return JSON.parse(await settle(this.#native.pruneBackups(keep))) as PruneReport;
  }

  /** Checks the database, its references, the export, the newest backup and the permissions. Changes nothing. */
  async check(): Promise<CheckReport> {
    return JSON.parse(await settle(this.#native.check())) as CheckReport;
  }

  /**
   * Finds messages by what was said in them, best match first. Any text is taken as words, never as syntax; case and accents make
   * no difference, and a word of three or more letters also matches the beginning of a longer one.
   *
   * @param limit Maximum number of messages.
   */
  async search(words: string, limit = 20): Promise<SearchHit[]> {
    const most = within('limit', limit, 0, 0xffffffff);
    const sought = asText('words', words);
    return JSON.parse(await settle(this.#native.search(sought, most))) as SearchHit[];
  }

  /** Why the last periodic checkpoint failed; `null` where it succeeded. It is tried again at the next one. */
  lastCheckpointError(): string | null {
    return this.#service.lastCheckpointError() ?? this.#lookError;
  }

  /** Stops the periodic checkpoint; one in progress ends by itself. Idempotent. */
  stopPeriodicCheckpoint(): void {
    this.#stopTimer();
    this.#service.stopPeriodicCheckpoint();
  }

  /**
   * Ends the run: stops the periodic checkpoint, records the checkpoint `before_restart`, refreshes the export with every update
   * that returned, and frees the directory. Later updates are ignored, with one warning; reading goes on. Idempotent.
   */
  async prepareForShutdown(): Promise<void> {
    if (this.isInitialized()) {
      await this.#look();
    }
    await settle(this.#native.prepareForShutdown());
    this.#stopTimer();
    this.#live.take();
    if (this.#phase === 'running') {
      this.#phase = 'shut down';
    }
    running.delete(this);
  }

  /** Looks at the objects that were handed over, some in each turn of the event loop. */
  async #look(): Promise<void> {
    await this.#live.lookInTurns(this.#native);
    this.#lookError = null;
  }

  #startTimer(): void {
    this.#stopTimer();
    if (this.#interval === undefined) {
      return;
    }
    const look = async () => {
      if (!this.isInitialized()) {
        this.#stopTimer();
        return;
      }
      try {
        await this.#look();
      } catch (error) {
        this.#lookError = messageOf(error);
      }
    };
    // Twice in the time between checkpoints, which a thread makes: what is found comes into the next export but one at the latest.
    this.#timer = setInterval(() => void look(), Math.min(Math.max(this.#interval / 2, 1), LONGEST_TIMER));
    this.#timer.unref?.();
  }

  #stopTimer(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Whether a call may change something. Before `initialize` it does nothing, and after a shutdown it is ignored. */
  #isOpen(name: string): boolean {
    if (this.#phase === 'shut down') {
      this.#warnOfLate(name);
    }
    return this.#phase === 'running';
  }

  #whileOpen<T>(name: string, otherwise: T, work: () => T): T {
    if (!this.#isOpen(name)) {
      return otherwise;
    }
    try {
      return work();
    } catch (error) {
      this.#ignoreLate(name, error);
      return otherwise;
    }
  }

  #update(name: string, kind: Kind, entity: object, prepare?: () => void): void {
    this.#whileOpen(name, undefined, () => {
      try {
        prepare?.();
      } catch {
        // Frozen, or not what it should be: the native part says so.
      }
      const content = text(entity);
      update(this.#native, kind, content);
      this.#live.give(kind, entity, content);
    });
  }

  #remove(name: string, kind: Kind, key: unknown, remove: (native: NativeService, id: string) => boolean): boolean {
    return this.#whileOpen(name, false, () => {
      // Nothing has another kind of key.
      if (typeof key !== 'string' && typeof key !== 'number') {
        return false;
      }
      const id = wellFormed(String(key));
      const removed = call(() => remove(this.#native, id));
      this.#live.forget(kind, id);
      return removed;
    });
  }

  /** Ignores what comes during or after a shutdown; throws what else there is. */
  #ignoreLate(name: string, error: unknown): void {
    if (!(error instanceof StatePersistenceError && error.code === 'SHUT_DOWN')) {
      throw error;
    }
    this.#warnOfLate(name);
  }

  #warnOfLate(name: string): void {
    if (!this.#hasWarned) {
      this.#hasWarned = true;
      console.warn(
        `agentmux-state: ${name} came after prepareForShutdown and is ignored, as are all later changes; ` +
          'initialize starts a new run',
      );
    }
  }
}

let service: StatePersistenceService | undefined;

/** The service of this process on the state below the home directory. */
export function getStatePersistenceService(): StatePersistenceService {
  return (service ??= new StatePersistenceService());
}

/** Stops that service's periodic checkpoint and forgets it: the next call makes a new one. */
export function resetStatePersistenceService(): void {
  service?.stopPeriodicCheckpoint();
  service = undefined;
}

/** How long a write waits for other writers: an update waits in the event loop. */
const WRITE_TIMEOUT_MS = 5_000;

/** The options as the native part takes them. */
function checked(options: StatePersistenceOptions): NativeOptions {
  const {
    checkpointIntervalMs = CHECKPOINT_INTERVAL_MS,
    messageLimit = MAX_PERSISTED_MESSAGES,
    writeTimeoutMs = WRITE_TIMEOUT_MS,
    startEmpty = false,
  } = options;
  return {
    ...(checkpointIntervalMs !== null && {
      checkpointIntervalMs: within('checkpointIntervalMs', checkpointIntervalMs, 1, Number.MAX_SAFE_INTEGER),
    }),
    messageLimit: within('messageLimit', messageLimit, 1, 0xffffffff),
    writeTimeoutMs: within('writeTimeoutMs', writeTimeoutMs, 0, 0xffffffff),
    startEmpty: Boolean(startEmpty),
  };
}

function within(name: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new StatePersistenceError('INVALID_ARGUMENT', `${name}: expected an integer from ${least}, found ${String(value)}`);
  }
  return value;
}

/** A text that was given. Numbers and the like count as what `String` makes of them. */
function asText(name: string, value: unknown): string {
  if (typeof value === 'object' || typeof value === 'function' || typeof value === 'symbol' || value === undefined) {
    throw new StatePersistenceError('INVALID_ARGUMENT', `${name}: expected a string, found ${described(value)}`);
  }
  return String(value);
}

/** What a value is, for messages. */
function described(value: unknown): string {
  return value === null ? 'null' : typeof value;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The objects of a list, where it is one. */
function listed<T>(list: T[] | undefined): T[] {
  return Array.isArray(list) ? list.filter((each) => typeof each === 'object' && each !== null) : [];
}

function knownMode(mode: unknown): OrchestratorMode {
  return isValidOrchestratorMode(mode) ? mode : DEFAULT_ORCHESTRATOR_MODE;
}

/** A state with a mode, in its place among the members. */
function withMode(state: OrchestratorState): OrchestratorState {
  const { id, version, checkpointedAt, checkpointReason, mode, ...rest } = state;
  return { id, version, checkpointedAt, checkpointReason, mode: knownMode(mode), ...rest };
}

/** A value as JSON text. */
function text(value: unknown): string {
  try {
    return JSON.stringify(value) ?? 'null';
  } catch (cause) {
    const message = `what was given cannot be written as JSON: ${cause instanceof Error ? cause.message : cause}`;
    throw new StatePersistenceError('INVALID_VALUE', message, { cause });
  }
}

/** A state from its pieces. Each is fetched beside the event loop, which so is never held for longer than one takes. */
async function assembled(pieces: StatePieces): Promise<OrchestratorState> {
  const state = JSON.parse((await settle(pieces.next())) ?? 'null') as OrchestratorState;
  for (let piece = await settle(pieces.next()); piece !== null; piece = await settle(pieces.next())) {
    const [list, entities] = JSON.parse(piece) as ['tasks', TaskState[]];
    state[list].push(...entities);
  }
  return state;
}
