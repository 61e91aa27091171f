/**
 * The state document, `current-state.json`, as types.
 *
 * Timestamps are ISO 8601 in UTC with milliseconds, as `toISOString` prints them. Keys and values that this release does not
 * know, such as a newer orchestrator's status, are kept and come out again: what TypeScript calls a `TaskStatus` may at run
 * time be another string, and the guards (`isValidTaskStatus` …) tell.
 */

/** Why a checkpoint was made. */
export type CheckpointReason =
  | 'scheduled'
  | 'before_restart'
  | 'task_completed'
  | 'user_request'
  | 'self_improvement'
  | 'error_recovery';

/** What the orchestrator is doing as a whole. */
export type OrchestratorMode = 'normal' | 'onboarding' | 'onboarding-provisioning';

/** Where a conversation is held. */
export type ConversationSource = 'chat' | 'slack' | 'api';

/** Who wrote a message. */
export type MessageRole = 'user' | 'orchestrator' | 'agent';

/** A message of a conversation. Messages have no id: their order is their identity. */
export interface PersistedMessage {
  /** Who wrote it. */
  role: MessageRole;
  /** What it says, of any length and with any characters. */
  content: string;
  /** When it was written. */
  timestamp: string;
  /** The agent's session name, where an agent wrote it. */
  agentName?: string;
}

/** A thread in Slack. */
export interface SlackContext {
  /** The channel's id. */
  channelId: string;
  /** The timestamp that names the thread, as Slack writes it: seconds with a fraction. */
  threadTs: string;
}

/** A conversation with its recent messages. */
export interface ConversationState {
  /** Its key. */
  id: string;
  /** Where it is held. */
  source: ConversationSource;
  /** Its newest messages, oldest first. An update keeps the newest {@link MAX_PERSISTED_MESSAGES}. */
  recentMessages: PersistedMessage[];
  /** What was said before the recent messages. */
  summary?: string;
  /** The person, as the source names them. */
  userId?: string;
  /** The Slack thread, where it is one. */
  slackContext?: SlackContext;
  /** What it is about at the moment. */
  currentTopic?: string;
  /** When something last happened in it. Within the hour before a restart, it is resumed. */
  lastActivityAt: string;
}

/** How a task stands. */
export type TaskStatus = 'pending' | 'in_progress' | 'blocked' | 'paused' | 'completed';

/** How urgent a task is. */
export type TaskPriority = 'low' | 'medium' | 'high' | 'critical';

/** How far a task is. */
export interface TaskProgress {
  /** 0 to 100, may have a fraction. */
  percentComplete: number;
  /** What is being done. */
  currentStep?: string;
  /** What has been done, in order. */
  completedSteps: string[];
  /** What is still to be done, in order. */
  remainingSteps?: string[];
  /** What holds it up, in words. */
  blockers?: string[];
}

/** Where to go on with a task after a restart. */
export interface TaskCheckpoint {
  /** The step to go on with, from 0. */
  stepIndex: number;
  /** Whatever the agent needs to go on: any JSON object. */
  workData?: Record<string, unknown>;
  /** Files that had been changed. */
  modifiedFiles?: string[];
  /** What the agent knew. */
  agentContext?: string;
  /** What was still to be done. */
  pendingActions?: string[];
}

/** A piece of work that an agent does. */
export interface TaskState {
  /** Its key. */
  id: string;
  /** What it is, in a line. */
  title: string;
  /** What is to be done. */
  description: string;
  /** How it stands. */
  status: TaskStatus;
  /** How urgent it is. */
  priority: TaskPriority;
  /** Session name of the agent that does it. The agent may be gone. */
  assignedTo?: string;
  /** The team that it belongs to. */
  teamId?: string;
  /** The project that it belongs to. The project may be gone. */
  projectId?: string;
  /** How far it is. */
  progress: TaskProgress;
  /** Ids of the tasks that it waits for. They may be gone. */
  blockedBy?: string[];
  /** Ids of the tasks that wait for it. They may be gone. */
  blocks?: string[];
  /** When it was given. */
  createdAt: string;
  /** When work on it began. */
  startedAt?: string;
  /** When something last happened to it. */
  lastActivityAt?: string;
  /** When it was completed. */
  completedAt?: string;
  /** Where to go on after a restart. */
  checkpoint?: TaskCheckpoint;
}

/** What an agent is at. */
export type AgentStateStatus = 'active' | 'inactive' | 'busy' | 'error';

/** Something that an agent did. */
export interface AgentLastActivity {
  /** Its kind, for instance `code_edit`. */
  type: string;
  /** When it was done. */
  timestamp: string;
  /** What it was. */
  description?: string;
}

/** An agent that the orchestrator runs. */
export interface AgentState {
  /** Its key: the name of its session. */
  sessionName: string;
  /** The agent's own id. */
  agentId: string;
  /** What it is for, for instance `developer`. */
  role: string;
  /** What it is at. */
  status: AgentStateStatus;
  /** The task that it works on. The task may be gone. */
  currentTaskId?: string;
  /** Where it works. */
  currentProjectPath?: string;
  /** What it knows, in short. */
  contextSummary?: string;
  /** The last thing that it did. */
  lastActivity?: AgentLastActivity;
}

/** How a project stands. */
export type ProjectStateStatus = 'active' | 'paused' | 'completed';

/** A git working copy as last seen. */
export interface GitState {
  /** The branch that is checked out. */
  branch: string;
  /** The commit that is checked out. */
  lastCommit: string;
  /** Whether something is not committed. */
  hasUncommittedChanges: boolean;
}

/** How a build ended. */
export type BuildStatus = 'success' | 'failed' | 'unknown';

/** The last build of a project. */
export interface BuildState {
  /** How it ended. */
  lastBuildStatus: BuildStatus;
  /** When it ended. */
  lastBuildAt?: string;
  /** Whether the tests passed. */
  testsPass: boolean;
}

/** A project that agents work on. */
export interface ProjectState {
  /** Its key. */
  id: string;
  /** What people call it. */
  name: string;
  /** Where it lies. */
  path: string;
  /** How it stands. */
  status: ProjectStateStatus;
  /** Ids of the tasks in work. They may be gone. */
  activeTasks: string[];
  /** Session names of the agents at work. They may be gone. */
  activeAgents: string[];
  /** The working copy as last seen. */
  gitState?: GitState;
  /** The last build. */
  buildState?: BuildState;
}

/** How far a change of the orchestrator's own code is. */
export type SelfImprovementStatus =
  | 'planning'
  | 'implementing'
  | 'testing'
  | 'validating'
  | 'completed'
  | 'rolled_back';

/** What a planned change does to a file. */
export type FileChangeType = 'create' | 'modify' | 'delete';

/** How risky a planned change is. */
export type ChangeRisk = 'low' | 'medium' | 'high';

/** What a change will do to a file. */
export interface PlannedChange {
  /** The file. */
  file: string;
  /** What is done to it. */
  type: FileChangeType;
  /** What for. */
  description: string;
  /** How risky it is. */
  risk: ChangeRisk;
}

/** A change of the orchestrator's own code. */
export interface SelfImprovementTask {
  /** Its key. */
  id: string;
  /** What it is for. */
  description: string;
  /** The files that it is about. */
  targetFiles: string[];
  /** What it will do to which file. */
  plannedChanges: PlannedChange[];
  /** How far it is. */
  status: SelfImprovementStatus;
}

/** A file as it was before a change. */
export interface FileBackup {
  /** The file. */
  path: string;
  /** What it held. */
  originalContent: string;
  /** Where the copy lies. */
  backupPath: string;
  /** Checksum of the content, as the orchestrator computed it; empty for a file that did not exist. */
  checksum: string;
}

/** The files as they were before a change. */
export interface SelfImprovementBackup {
  /** Its key. */
  id: string;
  /** When it was made. */
  createdAt: string;
  /** The files. */
  files: FileBackup[];
  /** The commit that was checked out. */
  gitCommit?: string;
}

/** What a check runs. */
export type ValidationCheckType = 'build' | 'test' | 'lint' | 'custom';

/** Something that must hold before a change counts as good. */
export interface ValidationCheck {
  /** What people call it. */
  name: string;
  /** What it runs. */
  type: ValidationCheckType;
  /** The command. */
  command?: string;
  /** Whether the change fails without it. */
  required: boolean;
  /** How it ended; absent where it has not run. */
  passed?: boolean;
  /** What it printed. */
  output?: string;
}

/** How to undo a change. */
export interface RollbackPlan {
  /** What to do, in order. */
  steps: string[];
  /** The commit to go back to. */
  gitCommit?: string;
}

/** The orchestrator's work on its own code. */
export interface SelfImprovementState {
  /** The change at hand. */
  currentTask?: SelfImprovementTask;
  /** The files as they were before it. */
  backup?: SelfImprovementBackup;
  /** What must hold before it counts as good. */
  validationChecks: ValidationCheck[];
  /** How to undo it. */
  rollbackPlan?: RollbackPlan;
}

/** The run of the orchestrator that wrote a state. */
export interface OrchestratorMetadata {
  /** Version that the orchestrator gave itself. */
  version: string;
  /** Its machine. */
  hostname: string;
  /** Its process. */
  pid: number;
  /** When it started. */
  startedAt: string;
  /** Seconds from its start to the last checkpoint. */
  uptimeSeconds: number;
  /** How often the orchestrator was restarted on this state; 0 in its first run. */
  restartCount: number;
}

/** The whole state: what `current-state.json` holds. */
export interface OrchestratorState {
  /** `state-<unix ms>`. */
  id: string;
  /** Version of the document's layout, semver. */
  version: string;
  /** When the last checkpoint was made. */
  checkpointedAt: string;
  /** Why it was made. */
  checkpointReason: CheckpointReason;
  /** What the orchestrator is doing; absent, as in documents from before it existed, is `normal`. */
  mode?: OrchestratorMode;
  /** Conversations. */
  conversations: ConversationState[];
  /** Tasks. */
  tasks: TaskState[];
  /** Agents. */
  agents: AgentState[];
  /** Projects. */
  projects: ProjectState[];
  /** The orchestrator's work on its own code. */
  selfImprovement?: SelfImprovementState;
  /** The run that wrote the state. */
  metadata: OrchestratorMetadata;
}

/** What kind of thing changed. */
export type StateChangeType = 'conversation' | 'task' | 'agent' | 'project' | 'self_improvement';

/** What was done to it. */
export type StateChangeOperation = 'add' | 'update' | 'delete';

/** One thing that was added, changed or deleted. */
export interface StateChange {
  /** What kind of thing it is. */
  type: StateChangeType;
  /** What was done to it. */
  operation: StateChangeOperation;
  /** Its key; empty for self-improvement. */
  id: string;
  /** The thing as it is now; absent once it is deleted. */
  data?: unknown;
}

/** What changed up to a moment. */
export interface StateDiff {
  /** The moment. */
  timestamp: string;
  /** The changes. */
  changes: StateChange[];
}

/** A conversation to take up again. */
export interface ConversationResumeInfo {
  /** The conversation. */
  id: string;
  /** What to say in it. */
  resumeMessage?: string;
}

/** A task to take up again. */
export interface TaskResumeInfo {
  /** The task. */
  id: string;
  /** Whether it has a checkpoint to go on from. */
  resumeFromCheckpoint: boolean;
}

/** A message about the restart. */
export interface ResumeNotification {
  /** Where it goes. */
  type: 'slack' | 'log';
  /** What it says. */
  message: string;
}

/** What to do after a restart. */
export interface ResumeInstructions {
  /** What to take up, in order: `task:<id>`. */
  resumeOrder: string[];
  /** Conversations in which something happened within the last hour. */
  conversationsToResume: ConversationResumeInfo[];
  /** Tasks that were in progress or paused. */
  tasksToResume: TaskResumeInfo[];
  /** Whom to tell. */
  notifications: ResumeNotification[];
}
