import type {
  CheckpointReason,
  ConversationSource,
  OrchestratorMode,
  TaskPriority,
  TaskStatus,
} from './types.js';

/** Where the state lies. */
export const STATE_PATHS = {
  /** The state directory, below the base directory. */
  STATE_DIR: '.agentmux/state',
  /** Backups, in the state directory. */
  BACKUP_DIR: 'backups',
  /** The orchestrator's own files for its work on its own code, in the state directory. */
  SELF_IMPROVEMENT_DIR: 'self-improvement',
  /** The JSON export, in the state directory. The state itself is `state.db` beside it. */
  CURRENT_STATE: 'current-state.json',
} as const;

/** Version of the document's layout that this release writes. */
export const STATE_VERSION = '1.0.0';

/** How many messages of a conversation an update keeps, unless an option says otherwise: the newest. */
export const MAX_PERSISTED_MESSAGES = 50;

/** Time between periodic checkpoints, unless an option says otherwise. */
export const CHECKPOINT_INTERVAL_MS = 60000;

/** Every {@link CheckpointReason}. */
export const CHECKPOINT_REASONS: CheckpointReason[] = [
  'scheduled',
  'before_restart',
  'task_completed',
  'user_request',
  'self_improvement',
  'error_recovery',
];

const TASK_STATUSES: readonly TaskStatus[] = ['pending', 'in_progress', 'blocked', 'paused', 'completed'];
const TASK_PRIORITIES: readonly TaskPriority[] = ['low', 'medium', 'high', 'critical'];
const CONVERSATION_SOURCES: readonly ConversationSource[] = ['chat', 'slack', 'api'];

/** Every {@link OrchestratorMode}. */
export const ORCHESTRATOR_MODES: readonly OrchestratorMode[] = ['normal', 'onboarding', 'onboarding-provisioning'];

/** The mode where none was set, and where the one that is stored is not known to this release. */
export const DEFAULT_ORCHESTRATOR_MODE: OrchestratorMode = 'normal';

/** Whether a value is a {@link CheckpointReason} that this release knows. */
export function isValidCheckpointReason(value: unknown): value is CheckpointReason {
  return (CHECKPOINT_REASONS as unknown[]).includes(value);
}

/** Whether a value is a {@link TaskStatus} that this release knows. */
export function isValidTaskStatus(value: unknown): value is TaskStatus {
  return (TASK_STATUSES as readonly unknown[]).includes(value);
}

/** Whether a value is a {@link TaskPriority} that this release knows. */
export function isValidTaskPriority(value: unknown): value is TaskPriority {
  return (TASK_PRIORITIES as readonly unknown[]).includes(value);
}

/** Whether a value is a {@link ConversationSource} that this release knows. */
export function isValidConversationSource(value: unknown): value is ConversationSource {
  return (CONVERSATION_SOURCES as readonly unknown[]).includes(value);
}

/** Whether a value is an {@link OrchestratorMode} that this release knows. */
export function isValidOrchestratorMode(value: unknown): value is OrchestratorMode {
  return (ORCHESTRATOR_MODES as readonly unknown[]).includes(value);
}
