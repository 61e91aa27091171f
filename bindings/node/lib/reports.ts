import type { MessageRole } from './types.js';

/** How a service works. */
export interface StatePersistenceOptions {
  /** Milliseconds between periodic checkpoints; `null` makes none. {@link CHECKPOINT_INTERVAL_MS} by default. */
  checkpointIntervalMs?: number | null;
  /** How many messages of a conversation an update keeps: the newest. {@link MAX_PERSISTED_MESSAGES} by default. */
  messageLimit?: number;
  /**
   * How many milliseconds a write waits for other writers, such as a shell that leaves a transaction open; then it fails with `BUSY` and
   * has changed nothing. An update waits in the event loop. 5,000 by default.
   */
  writeTimeoutMs?: number;
  /**
   * Start with no conversations, tasks, agents, projects and self-improvement, as the TypeScript service did. Those of the
   * previous run are what `initialize` gives, and lie in a backup first. Off by default: the new run goes on from them.
   */
  startEmpty?: boolean;
}

/** Something that a check found. */
export interface CheckFinding {
  /**
   * What kind of thing it is: `integrity`, `foreign_key`, `unreadable`, `schema`, `dangling_reference`, `set_aside`, `export`,
   * `backup` or `permissions`.
   */
  kind: string;
  /** What it is, and on which file or record. */
  message: string;
}

/** What a check found. */
export interface CheckReport {
  /** Whether there is no problem. */
  ok: boolean;
  /** What is wrong and needs somebody. */
  problems: CheckFinding[];
  /** What is worth knowing and may well be meant. */
  notes: CheckFinding[];
  /** Sizes and numbers, to be compared with those of another time. */
  facts: CheckFacts;
}

/** Sizes and numbers of a state. */
export interface CheckFacts {
  /** Version of the database's schema. */
  schemaVersion: number;
  /** Size of `state.db`, in bytes. */
  databaseBytes: number;
  /** Of it, bytes that hold nothing. */
  unusedBytes: number;
  /** Size of `state.db-wal`, in bytes. */
  walBytes: number;
  /** Bytes that the file system has left; `null` where it does not tell. */
  diskFreeBytes: number | null;
  /** Conversations. */
  conversations: number;
  /** Messages of all conversations. */
  messages: number;
  /** Tasks. */
  tasks: number;
  /** Agents. */
  agents: number;
  /** Projects. */
  projects: number;
  /** Records that imports could not read. */
  setAside: number;
  /** Backups. */
  backups: number;
  /** The newest backup's id. */
  newestBackup: string | null;
  /** When the last checkpoint was made. */
  checkpointedAt: string | null;
}

/** A message that was found. */
export interface SearchHit {
  /** The conversation that it stands in. */
  conversationId: string;
  /** Its place among all messages that the conversation has had. */
  position: number;
  /** Who wrote it. */
  role: MessageRole;
  /** When. */
  timestamp: string;
  /** The agent, where one wrote it. */
  agentName?: string;
  /** What was said around the first words that match, on one line. */
  snippet: string;
}

/** Whether a backup can be trusted. */
export interface BackupVerdict {
  /** The backup. */
  id: string;
  /** Whether nothing is wrong with it. */
  ok: boolean;
  /** What is wrong with it. */
  problems: string[];
}

/** Which backups were removed, and which stay. */
export interface PruneReport {
  /** Ids of those that were removed. */
  removed: string[];
  /** Ids of those that stay, newest first. */
  kept: string[];
}
