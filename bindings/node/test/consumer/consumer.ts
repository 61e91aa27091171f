// A small program that imports everything, under `strict`, as an ES module and as CommonJS.
import {
  CHECKPOINT_INTERVAL_MS,
  CHECKPOINT_REASONS,
  DEFAULT_ORCHESTRATOR_MODE,
  MAX_PERSISTED_MESSAGES,
  ORCHESTRATOR_MODES,
  STATE_ERROR_CODES,
  STATE_PATHS,
  STATE_VERSION,
  StatePersistenceError,
  StatePersistenceService,
  getStatePersistenceService,
  isValidCheckpointReason,
  isValidConversationSource,
  isValidOrchestratorMode,
  isValidTaskPriority,
  isValidTaskStatus,
  resetStatePersistenceService,
  type AgentLastActivity,
  type AgentState,
  type AgentStateStatus,
  type BackupVerdict,
  type BuildState,
  type BuildStatus,
  type ChangeRisk,
  type CheckFacts,
  type CheckFinding,
  type CheckReport,
  type CheckpointReason,
  type ConversationResumeInfo,
  type ConversationSource,
  type ConversationState,
  type FileBackup,
  type FileChangeType,
  type GitState,
  type MessageRole,
  type OrchestratorMetadata,
  type OrchestratorMode,
  type OrchestratorState,
  type PersistedMessage,
  type PlannedChange,
  type ProjectState,
  type ProjectStateStatus,
  type PruneReport,
  type ResumeInstructions,
  type ResumeNotification,
  type RollbackPlan,
  type SearchHit,
  type SelfImprovementBackup,
  type SelfImprovementState,
  type SelfImprovementStatus,
  type SelfImprovementTask,
  type SlackContext,
  type StateChange,
  type StateChangeOperation,
  type StateChangeType,
  type StateDiff,
  type StateErrorCode,
  type StatePersistenceOptions,
  type TaskCheckpoint,
  type TaskPriority,
  type TaskProgress,
  type TaskResumeInfo,
  type TaskState,
  type TaskStatus,
  type ValidationCheck,
  type ValidationCheckType,
} from 'agentmux-state';

const role: MessageRole = 'agent';
const message: PersistedMessage = { role, content: 'Hello', timestamp: '2026-11-22T10:00:00.000Z', agentName: 'dev-1' };
const slackContext: SlackContext = { channelId: 'C1', threadTs: '1761955201.000001' };
const source: ConversationSource = 'slack';
const conversation: ConversationState = {
  id: 'C-1',
  source,
  recentMessages: [message],
  slackContext,
  lastActivityAt: message.timestamp,
};

const status: TaskStatus = 'in_progress';
const priority: TaskPriority = 'high';
const progress: TaskProgress = { percentComplete: 50, completedSteps: ['read'] };
const checkpoint: TaskCheckpoint = { stepIndex: 1, workData: { any: ['thing'] } };
const task: TaskState = { id: 'T-1', title: 't', description: 'd', status, priority, progress, createdAt: '', checkpoint };

const agentStatus: AgentStateStatus = 'busy';
const lastActivity: AgentLastActivity = { type: 'code_edit', timestamp: message.timestamp };
const agent: AgentState = { sessionName: 'dev-1', agentId: 'a', role: 'developer', status: agentStatus, lastActivity };

const projectStatus: ProjectStateStatus = 'active';
const gitState: GitState = { branch: 'main', lastCommit: 'a1b2c3d', hasUncommittedChanges: false };
const lastBuildStatus: BuildStatus = 'success';
const buildState: BuildState = { lastBuildStatus, testsPass: true };
const project: ProjectState = {
  id: 'P-1',
  name: 'n',
  path: '/srv/p',
  status: projectStatus,
  activeTasks: [],
  activeAgents: [],
  gitState,
  buildState,
};

const type: FileChangeType = 'modify';
const risk: ChangeRisk = 'low';
const plannedChange: PlannedChange = { file: 'a.ts', type, description: 'd', risk };
const improvementStatus: SelfImprovementStatus = 'testing';
const currentTask: SelfImprovementTask = {
  id: 'si-1',
  description: 'Faster',
  targetFiles: ['a.ts'],
  plannedChanges: [plannedChange],
  status: improvementStatus,
};
const file: FileBackup = { path: 'a.ts', originalContent: '', backupPath: 'b/a.ts', checksum: '' };
const backup: SelfImprovementBackup = { id: 'b-1', createdAt: message.timestamp, files: [file] };
const checkType: ValidationCheckType = 'build';
const check: ValidationCheck = { name: 'Build', type: checkType, required: true };
const rollbackPlan: RollbackPlan = { steps: ['git reset'] };
const improvement: SelfImprovementState = { currentTask, backup, validationChecks: [check], rollbackPlan };

const changeType: StateChangeType = 'task';
const operation: StateChangeOperation = 'update';
const change: StateChange = { type: changeType, operation, id: task.id, data: task };
const diff: StateDiff = { timestamp: message.timestamp, changes: [change] };

async function main(baseDir: string): Promise<string> {
  const options: StatePersistenceOptions = { checkpointIntervalMs: 1000, messageLimit: 10, startEmpty: false };
  const service = new StatePersistenceService(baseDir, options);
  const previous: OrchestratorState | null = await service.initialize();
  if (!service.isInitialized() || previous !== null || service.getStateDir() !== `${baseDir}/${STATE_PATHS.STATE_DIR}`) {
    throw new Error('it did not start');
  }
  service.updateConversation(conversation);
  service.appendMessage(conversation.id, message);
  service.updateTask(task);
  service.updateAgent(agent);
  service.updateProject(project);
  service.updateSelfImprovement(improvement);
  const mode: OrchestratorMode = 'onboarding';
  service.setMode(mode);
  const reason: CheckpointReason = 'user_request';
  await service.saveState(reason);

  const id: string = await service.createBackup('consumer');
  const verdict: BackupVerdict = await service.verifyBackup(id);
  const restored: boolean = await service.restoreFromBackup(id);
  await service.restoreBackup(id);
  await service.cleanupOldBackups(5);
  const pruned: PruneReport = await service.pruneBackups(5);
  const backups: string[] = await service.listBackups();
  const report: CheckReport = await service.check();
  const findings: CheckFinding[] = [...report.problems, ...report.notes];
  const facts: CheckFacts = report.facts;
  const hits: SearchHit[] = await service.search('hello', 5);

  const state = service.getState();
  const metadata: OrchestratorMetadata | undefined = state?.metadata;
  const instructions: ResumeInstructions = service.generateResumeInstructions(state!);
  const conversations: ConversationResumeInfo[] = instructions.conversationsToResume;
  const tasks: TaskResumeInfo[] = instructions.tasksToResume;
  const notifications: ResumeNotification[] = instructions.notifications;

  let code: StateErrorCode | undefined;
  try {
    service.appendMessage('none', message);
  } catch (error) {
    code = error instanceof StatePersistenceError && error.pid === undefined ? error.code : undefined;
  }
  const removed: boolean[] = [
    service.removeConversation(conversation.id),
    service.removeTask(task.id),
    service.removeAgent(agent.sessionName),
    service.removeProject(project.id),
    service.clearSelfImprovement(),
  ];
  service.stopPeriodicCheckpoint();
  const failed: string | null = service.lastCheckpointError();
  await service.prepareForShutdown();

  const one: StatePersistenceService = getStatePersistenceService();
  const same = one === getStatePersistenceService() && one instanceof StatePersistenceService;
  resetStatePersistenceService();
  const given: string = 'paused';
  const guarded: TaskStatus | undefined = isValidTaskStatus(given) ? given : undefined;
  const guards = [isValidCheckpointReason, isValidConversationSource, isValidOrchestratorMode, isValidTaskPriority];
  return JSON.stringify({
    verdict: verdict.ok,
    restored,
    pruned: pruned.removed.length,
    backups: backups.length > 0,
    problems: findings.filter((finding) => report.problems.includes(finding)),
    hits: hits.length,
    conversations: facts.conversations,
    pid: metadata?.pid === process.pid,
    resumed: [conversations.length, tasks.length, notifications.length],
    code,
    known: code !== undefined && STATE_ERROR_CODES.includes(code),
    removed: removed.every(Boolean),
    failed,
    mode: service.getMode(),
    same,
    guarded,
    guards: guards.map((guard) => guard('high')),
    constants: [STATE_VERSION, MAX_PERSISTED_MESSAGES, CHECKPOINT_INTERVAL_MS, CHECKPOINT_REASONS.length],
    modes: ORCHESTRATOR_MODES.indexOf(DEFAULT_ORCHESTRATOR_MODE),
    changes: diff.changes.length,
  });
}

main(process.argv[2]!).then(
  (printed) => console.log(printed),
  (error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  },
);
