import { homedir } from 'node:os';
import { join } from 'node:path';

import { CHECKPOINT_INTERVAL_MS, MAX_PERSISTED_MESSAGES, STATE_PATHS } from './constants.js';
import { StatePersistenceError, call, settle } from './error.js';
import { NativeService, type NativeOptions, type StatePieces } from './native.js';
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

/** Services with a run that goes on: they live until it ends, also where nobody refers to them any more. */
const running = new Set<StatePersistenceService>();

/**
 * The state of a running orchestrator, from its start to its end.
 *
 * What is `async` works beside the event loop. Everything else happens at once: an update is on the disk when it returns.
 * Before {@link initialize} updates do nothing. Failures are {@link StatePersistenceError}s with a `code`.
 *
 * @example
 * ```ts
 * const service = getStatePersistenceService();
 * const previous = await service.initialize();
 * if (previous) {
 *   const { tasksToResume } = service.generateResumeInstructions(previous);
 * }
 * service.updateTask(task); // on the disk
 * await service.prepareForShutdown();
 * ```
 */
export class StatePersistenceService {
  readonly #native: NativeService;
  readonly #stateDir: string;

  /**
   * A service on the state below a base directory. Touches nothing on disk.
   *
   * @param baseDir The state lies in `.agentmux/state` below it; the home directory by default.
   * @param options How the service works.
   */
  constructor(baseDir?: string, options: StatePersistenceOptions = {}) {
    const base = baseDir || homedir();
    this.#stateDir = join(base, STATE_PATHS.STATE_DIR);
    this.#native = new NativeService(base, checked(options));
  }

  /**
   * Takes the state directory for this process, starts a run and the periodic checkpoint, and gives the state as the previous
   * run left it; `null` where there was none. The new run goes on from that state, unless `startEmpty` says otherwise.
   *
   * Where there is no database yet, takes over the TypeScript service's file, which stays as it is; a copy of it goes to
   * `backups/` before the first export replaces it. A previous run without {@link prepareForShutdown} counts as a crash.
   * Another service of this process on the same directory is taken over: its updates fail from then on.
   *
   * @throws `IN_USE` with the `pid` where another live process holds the directory; `DOCUMENT` and others where the file or the
   * database cannot be read.
   */
  async initialize(): Promise<OrchestratorState | null> {
    try {
      const pieces = await settle(this.#native.initialize());
      return pieces === null ? null : await assembled(pieces);
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
    return this.#native.isInitialized();
  }

  /**
   * Records a checkpoint and refreshes `current-state.json`. Updates are on the disk without it. Does nothing before
   * {@link initialize}.
   */
  async saveState(reason: CheckpointReason = 'scheduled'): Promise<void> {
    await settle(this.#native.saveState(reason));
  }

  /**
   * The whole state as it is now, equal to what an export would hold; `null` before {@link initialize}.
   *
   * It is a copy: changing it changes nothing, which is what the updates are for. Reading a large state takes as long as
   * parsing it, and holds the event loop for that time.
   */
  getState(): OrchestratorState | null {
    const document = call(() => this.#native.state());
    return document === null ? null : (JSON.parse(document) as OrchestratorState);
  }

  /** The state directory. */
  getStateDir(): string {
    return this.#stateDir;
  }

  /** Adds a conversation or updates it by its `id`. Keeps its newest {@link MAX_PERSISTED_MESSAGES} messages. */
  updateConversation(conversation: ConversationState): void {
    call(() => this.#native.updateConversation(text(conversation)));
  }

  /**
   * Adds a message at the end of a conversation, without reading or writing the others. The oldest go as in
   * {@link updateConversation}, and the conversation's `lastActivityAt` moves on to the message's time where that is later.
   *
   * @throws `NOT_FOUND` where there is no such conversation.
   */
  appendMessage(conversationId: string, message: PersistedMessage): void {
    call(() => this.#native.appendMessage(conversationId, text(message)));
  }

  /** Removes a conversation; whether there was one. */
  removeConversation(conversationId: string): boolean {
    return call(() => this.#native.removeConversation(conversationId));
  }

  /** Adds a task or updates it by its `id`. */
  updateTask(task: TaskState): void {
    call(() => this.#native.updateTask(text(task)));
  }

  /** Removes a task; whether there was one. Whatever names it elsewhere stays as it is. */
  removeTask(taskId: string): boolean {
    return call(() => this.#native.removeTask(taskId));
  }

  /** Adds an agent or updates it by its `sessionName`. */
  updateAgent(agent: AgentState): void {
    call(() => this.#native.updateAgent(text(agent)));
  }

  /** Removes an agent; whether there was one. Whatever names it elsewhere stays as it is. */
  removeAgent(sessionName: string): boolean {
    return call(() => this.#native.removeAgent(sessionName));
  }

  /** Adds a project or updates it by its `id`. */
  updateProject(project: ProjectState): void {
    call(() => this.#native.updateProject(text(project)));
  }

  /** Removes a project; whether there was one. Whatever names it elsewhere stays as it is. */
  removeProject(projectId: string): boolean {
    return call(() => this.#native.removeProject(projectId));
  }

  /** Sets the state of the orchestrator's work on its own code. */
  updateSelfImprovement(state: SelfImprovementState): void {
    call(() => this.#native.updateSelfImprovement(text(state)));
  }

  /** Clears the state of the orchestrator's work on its own code; whether there was any. */
  clearSelfImprovement(): boolean {
    return call(() => this.#native.clearSelfImprovement());
  }

  /** Sets what the orchestrator is doing as a whole. */
  setMode(mode: OrchestratorMode): void {
    call(() => this.#native.setMode(mode));
  }

  /** What the orchestrator is doing as a whole; `normal` where nobody said, and before {@link initialize}. */
  getMode(): OrchestratorMode {
    return (call(() => this.#native.mode()) ?? 'normal') as OrchestratorMode;
  }

  /** What to do after a restart, from a state as the previous run left it. */
  generateResumeInstructions(previousState: OrchestratorState): ResumeInstructions {
    const { conversations, tasks, metadata, selfImprovement } = previousState;
    const { description = '', status = '' } = selfImprovement?.currentTask ?? {};
    const needed = {
      conversations: conversations.map(({ id, lastActivityAt }) => ({ id, lastActivityAt: String(lastActivityAt) })),
      tasks: tasks.map(({ id, status, checkpoint }) => ({ id, status, hasCheckpoint: Boolean(checkpoint) })),
      restartCount: Math.trunc(Number(metadata?.restartCount)) || 0,
      selfImprovement: { description, status },
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
    return settle(this.#native.createBackup(label));
  }

  /**
   * Goes back to a backup, after a safety backup; the run goes on. A backup that cannot be trusted is not used, and the state
   * then stays as it is.
   *
   * @returns Whether that was done. {@link restoreBackup} tells why not.
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
    await settle(this.#native.restoreBackup(backupId));
  }

  /** The ids of the backups, newest first, those that the TypeScript service made among them. */
  async listBackups(): Promise<string[]> {
    return settle(this.#native.listBackups());
  }

  /**
   * Whether a backup can be trusted: its checksum, SQLite's integrity, and that it holds a state of a known release.
   *
   * @throws `NOT_FOUND` where there is no such backup. What is wrong with one is no error.
   */
  async verifyBackup(backupId: string): Promise<BackupVerdict> {
    return JSON.parse(await settle(this.#native.verifyBackup(backupId))) as BackupVerdict;
  }

  /**
   * Removes all but the newest backups. The newest one that can be trusted always stays. Never throws, and does nothing before
   * {@link initialize}; {@link pruneBackups} tells what was done or why not.
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
   * Finds messages by what was said in them, the best first. Any text is taken as words, never as syntax; capital letters and
   * accents make no difference, and a word of three or more letters may also begin a longer one.
   *
   * @param limit How many at most.
   */
  async search(words: string, limit = 20): Promise<SearchHit[]> {
    return JSON.parse(await settle(this.#native.search(words, within('limit', limit, 0, 0xffffffff)))) as SearchHit[];
  }

  /** Why the last periodic checkpoint failed; `null` where it succeeded. It is tried again at the next one. */
  lastCheckpointError(): string | null {
    return this.#native.lastCheckpointError();
  }

  /** Stops the periodic checkpoint; one that is being made ends by itself. Again does nothing. */
  stopPeriodicCheckpoint(): void {
    this.#native.stopPeriodicCheckpoint();
  }

  /**
   * Ends the run: stops the periodic checkpoint, records the checkpoint `before_restart`, refreshes the export with every update
   * that returned, and frees the directory. Later updates fail with `SHUT_DOWN`; reading goes on. Again does nothing.
   */
  async prepareForShutdown(): Promise<void> {
    await settle(this.#native.prepareForShutdown());
    running.delete(this);
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

/** The options as the native part takes them. */
function checked(options: StatePersistenceOptions): NativeOptions {
  const {
    checkpointIntervalMs = CHECKPOINT_INTERVAL_MS,
    messageLimit = MAX_PERSISTED_MESSAGES,
    startEmpty = false,
  } = options;
  return {
    ...(checkpointIntervalMs !== null && {
      checkpointIntervalMs: within('checkpointIntervalMs', checkpointIntervalMs, 1, Number.MAX_SAFE_INTEGER),
    }),
    messageLimit: within('messageLimit', messageLimit, 1, 0xffffffff),
    startEmpty: Boolean(startEmpty),
  };
}

function within(name: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new StatePersistenceError('INVALID_ARGUMENT', `${name}: expected an integer from ${least}, found ${value}`);
  }
  return value;
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
