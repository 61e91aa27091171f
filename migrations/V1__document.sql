CREATE TABLE state (
  -- The head of the state document and its metadata: one row, absent until something is written.
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  id TEXT NOT NULL,                   -- 'state-<unix ms>'
  version TEXT NOT NULL,              -- version of the document's layout, semver
  checkpointed_at TEXT NOT NULL,      -- last checkpoint, ISO 8601 in UTC; all checkpoints are in "checkpoints"
  checkpoint_reason TEXT NOT NULL,    -- scheduled | before_restart | task_completed | user_request | self_improvement | error_recovery
  metadata_version TEXT NOT NULL,     -- version that the orchestrator gave itself
  hostname TEXT NOT NULL,             -- machine of the present or last run; all runs are in "runs"
  pid INTEGER NOT NULL,               -- its process
  started_at TEXT NOT NULL,           -- its start, ISO 8601
  uptime_seconds INTEGER NOT NULL,    -- from its start to the last checkpoint
  restart_count INTEGER NOT NULL,     -- restarts since the state began; 0 in the first run
  metadata_extra TEXT,                -- JSON object: keys of "metadata" that this release does not know
  extra TEXT                          -- JSON object: keys of the document that this release does not know
) STRICT;

CREATE TABLE conversations (
  -- A conversation with a person or a program. What was said is in "messages".
  position INTEGER PRIMARY KEY,       -- place in the document; a new conversation goes to the end
  id TEXT NOT NULL UNIQUE,
  source TEXT NOT NULL,               -- chat | slack | api, or what a newer release writes
  summary TEXT,
  user_id TEXT,
  slack_channel_id TEXT,              -- with slack_thread_ts: the Slack thread; NULL where it is none
  slack_thread_ts TEXT,
  slack_extra TEXT,                   -- JSON object: unknown keys of "slackContext"
  current_topic TEXT,
  last_activity_at TEXT NOT NULL,     -- ISO 8601 where the writer kept to the format; may be any text
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE INDEX conversations_by_activity ON conversations (unixepoch(last_activity_at))
  -- The condition keeps out texts such as 'now', whose value would not be constant.
  WHERE last_activity_at GLOB '[0-9][0-9][0-9][0-9]-*';

CREATE TABLE messages (
  -- What was said, in order. The newest 50 of a conversation are kept when the orchestrator updates it.
  message_id INTEGER PRIMARY KEY,
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL,          -- order in the conversation; rises, and may start above 0 once old messages are dropped
  role TEXT NOT NULL,                 -- user | orchestrator | agent
  content TEXT NOT NULL,
  timestamp TEXT NOT NULL,            -- ISO 8601 where the writer kept to the format; may be any text
  agent_name TEXT,                    -- who spoke, where role is 'agent'
  extra TEXT,                         -- JSON object: keys that this release does not know
  UNIQUE (conversation_id, position)
) STRICT;

CREATE TABLE tasks (
  -- A piece of work. Lists are in "task_steps", "task_blockers", "task_dependencies"; how to go on in "task_checkpoints".
  position INTEGER PRIMARY KEY,       -- place in the document; a new task goes to the end
  id TEXT NOT NULL UNIQUE,
  title TEXT NOT NULL,
  description TEXT NOT NULL,
  status TEXT NOT NULL,               -- pending | in_progress | blocked | paused | completed, or what a newer release writes
  priority TEXT NOT NULL,             -- low | medium | high | critical
  assigned_to TEXT,                   -- agents.session_name; the agent may be gone
  team_id TEXT,
  project_id TEXT,                    -- projects.id; the project may be gone
  percent_complete REAL NOT NULL,     -- 0 to 100
  current_step TEXT,
  created_at TEXT NOT NULL,           -- ISO 8601 where the writer kept to the format, as all times here
  started_at TEXT,
  last_activity_at TEXT,
  completed_at TEXT,
  progress_extra TEXT,                -- JSON object: unknown keys of "progress"
  empty_lists TEXT,                   -- optional lists that are there but empty, for instance 'blockedBy,progress.blockers'
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE INDEX tasks_by_status ON tasks (status);

CREATE TABLE task_steps (
  -- The steps of a task, done and to be done.
  task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
  kind TEXT NOT NULL,                 -- completed | remaining
  position INTEGER NOT NULL,          -- order among those of its kind, from 0
  step TEXT NOT NULL,
  PRIMARY KEY (task_id, kind, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_blockers (
  -- What holds a task up, in words.
  task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL,          -- order, from 0
  blocker TEXT NOT NULL,
  PRIMARY KEY (task_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_dependencies (
  -- Which tasks wait for which. The document says it from both sides, and so does this table.
  task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
  relation TEXT NOT NULL,             -- blocked_by: task_id waits for other_task_id | blocks: other_task_id waits for task_id
  position INTEGER NOT NULL,          -- order among those of its relation, from 0
  other_task_id TEXT NOT NULL,        -- tasks.id; that task may be gone
  PRIMARY KEY (task_id, relation, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_checkpoints (
  -- Where to go on with a task after a restart; at most one for each task.
  task_id TEXT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
  step_index INTEGER NOT NULL,        -- the step to go on with, from 0
  work_data TEXT,                     -- JSON object: whatever the agent needs to go on
  agent_context TEXT,
  empty_lists TEXT,                   -- optional lists that are there but empty: 'modifiedFiles', 'pendingActions'
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT, WITHOUT ROWID;

CREATE TABLE task_checkpoint_files (
  -- Files that the agent had changed when the task's checkpoint was made.
  task_id TEXT NOT NULL REFERENCES task_checkpoints (task_id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL,          -- order, from 0
  path TEXT NOT NULL,
  PRIMARY KEY (task_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_checkpoint_actions (
  -- What was still to be done when the task's checkpoint was made.
  task_id TEXT NOT NULL REFERENCES task_checkpoints (task_id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL,          -- order, from 0
  action TEXT NOT NULL,
  PRIMARY KEY (task_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
  -- An agent that the orchestrator runs, by the name of its session.
  position INTEGER PRIMARY KEY,       -- place in the document; a new agent goes to the end
  session_name TEXT NOT NULL UNIQUE,
  agent_id TEXT NOT NULL,
  role TEXT NOT NULL,
  status TEXT NOT NULL,               -- active | inactive | busy | error, or what a newer release writes
  current_task_id TEXT,               -- tasks.id; the task may be gone
  current_project_path TEXT,
  context_summary TEXT,
  last_activity_type TEXT,            -- with last_activity_timestamp: the last thing it did; NULL where none is known
  last_activity_timestamp TEXT,
  last_activity_description TEXT,
  last_activity_extra TEXT,           -- JSON object: unknown keys of "lastActivity"
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE TABLE projects (
  -- A project that agents work on. Its tasks and agents are in "project_tasks" and "project_agents".
  position INTEGER PRIMARY KEY,       -- place in the document; a new project goes to the end
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  path TEXT NOT NULL,
  status TEXT NOT NULL,               -- active | paused | completed, or what a newer release writes
  git_branch TEXT,                    -- with the two that follow: the working copy as last seen; NULL where it was not looked at
  git_last_commit TEXT,
  git_has_uncommitted_changes INTEGER, -- 0 | 1
  git_extra TEXT,                     -- JSON object: unknown keys of "gitState"
  build_last_status TEXT,             -- success | failed | unknown; NULL where nothing is known of a build
  build_last_at TEXT,
  build_tests_pass INTEGER,           -- 0 | 1
  build_extra TEXT,                   -- JSON object: unknown keys of "buildState"
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE TABLE project_tasks (
  -- The active tasks of a project.
  project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL,          -- order, from 0
  task_id TEXT NOT NULL,              -- tasks.id; the task may be gone
  PRIMARY KEY (project_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE project_agents (
  -- The active agents of a project.
  project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE ON UPDATE CASCADE,
  position INTEGER NOT NULL,          -- order, from 0
  session_name TEXT NOT NULL,         -- agents.session_name; the agent may be gone
  PRIMARY KEY (project_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE self_improvement (
  -- The orchestrator's work on its own code: one row while there is any. Lists are in the tables "self_improvement_...".
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  task_id TEXT,                       -- with task_description and task_status: the change at hand; NULL where there is none
  task_description TEXT,
  task_status TEXT,                   -- planning | implementing | testing | validating | completed | rolled_back
  task_extra TEXT,                    -- JSON object: unknown keys of "currentTask"
  backup_id TEXT,                     -- with backup_created_at: the files as they were before; NULL where there is no backup
  backup_created_at TEXT,
  backup_git_commit TEXT,
  backup_extra TEXT,                  -- JSON object: unknown keys of "backup"
  has_rollback_plan INTEGER NOT NULL DEFAULT 0, -- 0 | 1
  rollback_git_commit TEXT,
  rollback_extra TEXT,                -- JSON object: unknown keys of "rollbackPlan"
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE TABLE self_improvement_target_files (
  -- Files that the change at hand is about.
  position INTEGER PRIMARY KEY,       -- order, from 0
  path TEXT NOT NULL
) STRICT;

CREATE TABLE self_improvement_planned_changes (
  -- What the change at hand will do to which file.
  position INTEGER PRIMARY KEY,       -- order, from 0
  file TEXT NOT NULL,
  type TEXT NOT NULL,                 -- create | modify | delete
  description TEXT NOT NULL,
  risk TEXT NOT NULL,                 -- low | medium | high
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE TABLE self_improvement_backup_files (
  -- The files as they were before the change at hand.
  position INTEGER PRIMARY KEY,       -- order, from 0
  path TEXT NOT NULL,
  original_content TEXT NOT NULL,
  backup_path TEXT NOT NULL,
  checksum TEXT NOT NULL,             -- of original_content; '' for a file that did not exist
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE TABLE self_improvement_checks (
  -- What must hold before the change at hand counts as good.
  position INTEGER PRIMARY KEY,       -- order, from 0
  name TEXT NOT NULL,
  type TEXT NOT NULL,                 -- build | test | lint | custom
  command TEXT,
  required INTEGER NOT NULL,          -- 0 | 1
  passed INTEGER,                     -- 0 | 1; NULL: not run yet
  output TEXT,
  extra TEXT                          -- JSON object: keys that this release does not know
) STRICT;

CREATE TABLE self_improvement_rollback_steps (
  -- How to undo the change at hand.
  position INTEGER PRIMARY KEY,       -- order, from 0
  step TEXT NOT NULL
) STRICT;

CREATE TABLE runs (
  -- Every start of the orchestrator on this state, and how it ended.
  run_id INTEGER PRIMARY KEY,         -- rises with each start
  hostname TEXT NOT NULL,
  pid INTEGER NOT NULL,
  started_at TEXT NOT NULL,           -- ISO 8601 in UTC
  restart_count INTEGER NOT NULL,     -- as in the document: 0 in the first run
  ended_at TEXT,                      -- NULL while it runs, and after a crash, whose moment nobody saw
  outcome TEXT                        -- shutdown | crashed | taken_over (by a second service in its process); NULL while it runs
) STRICT;

CREATE TABLE checkpoints (
  -- Every checkpoint: a marker only, as each update is on the disk by itself.
  checkpoint_id INTEGER PRIMARY KEY,  -- rises with each checkpoint
  run_id INTEGER,                     -- runs.run_id; NULL where no orchestrator was running
  checkpointed_at TEXT NOT NULL,      -- ISO 8601 in UTC
  reason TEXT NOT NULL,               -- as state.checkpoint_reason
  hostname TEXT NOT NULL,
  pid INTEGER NOT NULL,
  uptime_seconds INTEGER NOT NULL     -- from the start of the run
) STRICT;

CREATE TABLE export (
  -- The JSON export beside this database: one row, absent until it was first written.
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  fingerprint TEXT NOT NULL,          -- size and time of the file as written; a file that differs is another program's and is kept before it is replaced
  checkpoint_id INTEGER NOT NULL      -- the newest checkpoint that it holds; 0 where there was none
) STRICT;

CREATE TABLE backup (
  -- Inside a backup: what it is, one row. Empty in a live database.
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  backup_id TEXT NOT NULL,            -- 'backup-<unix ms>-<label as a file name>'
  label TEXT NOT NULL,                -- word for word
  created_at TEXT NOT NULL            -- ISO 8601 in UTC
) STRICT;

CREATE TABLE set_aside (
  -- What an import could not read, word for word. Nothing here is used; it is kept so that nothing is lost.
  set_aside_id INTEGER PRIMARY KEY,
  set_aside_at TEXT NOT NULL,         -- ISO 8601 in UTC
  source TEXT NOT NULL,               -- the file it came from
  path TEXT NOT NULL,                 -- where it stood in the document, for instance '$.tasks[3]'
  reason TEXT NOT NULL,
  content TEXT NOT NULL               -- its JSON text as it stood in the file
) STRICT;

CREATE TABLE changes_since_checkpoint (
  -- What was added, changed or deleted since the last checkpoint, by anyone; kept by the triggers below.
  entity TEXT NOT NULL,               -- conversation | task | agent | project | self_improvement | mode | state (all of it)
  id TEXT NOT NULL,                   -- id of the entity; session_name of an agent; '' for the last three
  operation TEXT NOT NULL,            -- add | update | delete | replace (by an earlier state: who follows the changes starts over)
  PRIMARY KEY (entity, id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER conversations_inserted AFTER INSERT ON conversations BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('conversation', NEW.id, 'add') ON CONFLICT DO UPDATE SET operation = 'update';
END;

CREATE TRIGGER conversations_updated AFTER UPDATE ON conversations BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('conversation', NEW.id, 'update') ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER conversations_renamed AFTER UPDATE OF id ON conversations WHEN NEW.id <> OLD.id BEGIN
  -- Its rows elsewhere follow, also where foreign keys are off, as in the sqlite3 shell.
  UPDATE messages SET conversation_id = NEW.id WHERE conversation_id = OLD.id;
  INSERT INTO changes_since_checkpoint VALUES ('conversation', OLD.id, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'conversation' AND id = OLD.id AND operation = 'undone';
  INSERT INTO changes_since_checkpoint VALUES ('conversation', NEW.id, 'add') ON CONFLICT DO UPDATE SET operation = 'add';
END;

CREATE TRIGGER conversations_deleted AFTER DELETE ON conversations BEGIN
  -- Nothing is left behind, also where foreign keys are off, as in the sqlite3 shell.
  DELETE FROM messages WHERE conversation_id = OLD.id;
  INSERT INTO changes_since_checkpoint VALUES ('conversation', OLD.id, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'conversation' AND id = OLD.id AND operation = 'undone';
END;

CREATE TRIGGER messages_inserted AFTER INSERT ON messages BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'conversation', id, 'update' FROM conversations WHERE id = NEW.conversation_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER messages_updated AFTER UPDATE ON messages BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'conversation', id, 'update' FROM conversations WHERE id = NEW.conversation_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'conversation', id, 'update' FROM conversations WHERE id = OLD.conversation_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('task', NEW.id, 'add') ON CONFLICT DO UPDATE SET operation = 'update';
END;

CREATE TRIGGER tasks_updated AFTER UPDATE ON tasks BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('task', NEW.id, 'update') ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER tasks_renamed AFTER UPDATE OF id ON tasks WHEN NEW.id <> OLD.id BEGIN
  -- Its rows elsewhere follow, also where foreign keys are off, as in the sqlite3 shell.
  UPDATE task_steps SET task_id = NEW.id WHERE task_id = OLD.id;
  UPDATE task_blockers SET task_id = NEW.id WHERE task_id = OLD.id;
  UPDATE task_dependencies SET task_id = NEW.id WHERE task_id = OLD.id;
  UPDATE task_checkpoints SET task_id = NEW.id WHERE task_id = OLD.id;
  UPDATE task_checkpoint_files SET task_id = NEW.id WHERE task_id = OLD.id;
  UPDATE task_checkpoint_actions SET task_id = NEW.id WHERE task_id = OLD.id;
  INSERT INTO changes_since_checkpoint VALUES ('task', OLD.id, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'task' AND id = OLD.id AND operation = 'undone';
  INSERT INTO changes_since_checkpoint VALUES ('task', NEW.id, 'add') ON CONFLICT DO UPDATE SET operation = 'add';
END;

CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN
  -- Nothing is left behind, also where foreign keys are off, as in the sqlite3 shell.
  DELETE FROM task_steps WHERE task_id = OLD.id;
  DELETE FROM task_blockers WHERE task_id = OLD.id;
  DELETE FROM task_dependencies WHERE task_id = OLD.id;
  DELETE FROM task_checkpoints WHERE task_id = OLD.id;
  INSERT INTO changes_since_checkpoint VALUES ('task', OLD.id, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'task' AND id = OLD.id AND operation = 'undone';
END;

CREATE TRIGGER task_steps_inserted AFTER INSERT ON task_steps BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_steps_updated AFTER UPDATE ON task_steps BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_steps_deleted AFTER DELETE ON task_steps BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = OLD.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_blockers_inserted AFTER INSERT ON task_blockers BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_blockers_updated AFTER UPDATE ON task_blockers BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_blockers_deleted AFTER DELETE ON task_blockers BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = OLD.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_dependencies_inserted AFTER INSERT ON task_dependencies BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_dependencies_updated AFTER UPDATE ON task_dependencies BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_dependencies_deleted AFTER DELETE ON task_dependencies BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = OLD.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoints_inserted AFTER INSERT ON task_checkpoints BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoints_updated AFTER UPDATE ON task_checkpoints BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoints_deleted AFTER DELETE ON task_checkpoints BEGIN
  DELETE FROM task_checkpoint_files WHERE task_id = OLD.task_id;
  DELETE FROM task_checkpoint_actions WHERE task_id = OLD.task_id;
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = OLD.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoint_files_inserted AFTER INSERT ON task_checkpoint_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoint_files_updated AFTER UPDATE ON task_checkpoint_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoint_files_deleted AFTER DELETE ON task_checkpoint_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = OLD.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoint_actions_inserted AFTER INSERT ON task_checkpoint_actions BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoint_actions_updated AFTER UPDATE ON task_checkpoint_actions BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = NEW.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER task_checkpoint_actions_deleted AFTER DELETE ON task_checkpoint_actions BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'task', id, 'update' FROM tasks WHERE id = OLD.task_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER agents_inserted AFTER INSERT ON agents BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('agent', NEW.session_name, 'add') ON CONFLICT DO UPDATE SET operation = 'update';
END;

CREATE TRIGGER agents_updated AFTER UPDATE ON agents BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('agent', NEW.session_name, 'update') ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER agents_renamed AFTER UPDATE OF session_name ON agents WHEN NEW.session_name <> OLD.session_name BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('agent', OLD.session_name, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'agent' AND id = OLD.session_name AND operation = 'undone';
  INSERT INTO changes_since_checkpoint VALUES ('agent', NEW.session_name, 'add') ON CONFLICT DO UPDATE SET operation = 'add';
END;

CREATE TRIGGER agents_deleted AFTER DELETE ON agents BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('agent', OLD.session_name, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'agent' AND id = OLD.session_name AND operation = 'undone';
END;

CREATE TRIGGER projects_inserted AFTER INSERT ON projects BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('project', NEW.id, 'add') ON CONFLICT DO UPDATE SET operation = 'update';
END;

CREATE TRIGGER projects_updated AFTER UPDATE ON projects BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('project', NEW.id, 'update') ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER projects_renamed AFTER UPDATE OF id ON projects WHEN NEW.id <> OLD.id BEGIN
  -- Its rows elsewhere follow, also where foreign keys are off, as in the sqlite3 shell.
  UPDATE project_tasks SET project_id = NEW.id WHERE project_id = OLD.id;
  UPDATE project_agents SET project_id = NEW.id WHERE project_id = OLD.id;
  INSERT INTO changes_since_checkpoint VALUES ('project', OLD.id, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'project' AND id = OLD.id AND operation = 'undone';
  INSERT INTO changes_since_checkpoint VALUES ('project', NEW.id, 'add') ON CONFLICT DO UPDATE SET operation = 'add';
END;

CREATE TRIGGER projects_deleted AFTER DELETE ON projects BEGIN
  -- Nothing is left behind, also where foreign keys are off, as in the sqlite3 shell.
  DELETE FROM project_tasks WHERE project_id = OLD.id;
  DELETE FROM project_agents WHERE project_id = OLD.id;
  INSERT INTO changes_since_checkpoint VALUES ('project', OLD.id, 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'project' AND id = OLD.id AND operation = 'undone';
END;

CREATE TRIGGER project_tasks_inserted AFTER INSERT ON project_tasks BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'project', id, 'update' FROM projects WHERE id = NEW.project_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER project_tasks_updated AFTER UPDATE ON project_tasks BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'project', id, 'update' FROM projects WHERE id = NEW.project_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER project_tasks_deleted AFTER DELETE ON project_tasks BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'project', id, 'update' FROM projects WHERE id = OLD.project_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER project_agents_inserted AFTER INSERT ON project_agents BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'project', id, 'update' FROM projects WHERE id = NEW.project_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER project_agents_updated AFTER UPDATE ON project_agents BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'project', id, 'update' FROM projects WHERE id = NEW.project_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER project_agents_deleted AFTER DELETE ON project_agents BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'project', id, 'update' FROM projects WHERE id = OLD.project_id ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_inserted AFTER INSERT ON self_improvement BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('self_improvement', '', 'add') ON CONFLICT DO UPDATE SET operation = 'update';
END;

CREATE TRIGGER self_improvement_updated AFTER UPDATE ON self_improvement BEGIN
  INSERT INTO changes_since_checkpoint VALUES ('self_improvement', '', 'update') ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_deleted AFTER DELETE ON self_improvement BEGIN
  -- Nothing is left behind, also where foreign keys are off, as in the sqlite3 shell.
  DELETE FROM self_improvement_target_files;
  DELETE FROM self_improvement_planned_changes;
  DELETE FROM self_improvement_backup_files;
  DELETE FROM self_improvement_checks;
  DELETE FROM self_improvement_rollback_steps;
  INSERT INTO changes_since_checkpoint VALUES ('self_improvement', '', 'delete')
    ON CONFLICT DO UPDATE SET operation = CASE operation WHEN 'add' THEN 'undone' ELSE 'delete' END;
  DELETE FROM changes_since_checkpoint WHERE entity = 'self_improvement' AND id = '' AND operation = 'undone';
END;

CREATE TRIGGER self_improvement_target_files_inserted AFTER INSERT ON self_improvement_target_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_target_files_updated AFTER UPDATE ON self_improvement_target_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_target_files_deleted AFTER DELETE ON self_improvement_target_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_planned_changes_inserted AFTER INSERT ON self_improvement_planned_changes BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_planned_changes_updated AFTER UPDATE ON self_improvement_planned_changes BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_planned_changes_deleted AFTER DELETE ON self_improvement_planned_changes BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_backup_files_inserted AFTER INSERT ON self_improvement_backup_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_backup_files_updated AFTER UPDATE ON self_improvement_backup_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_backup_files_deleted AFTER DELETE ON self_improvement_backup_files BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_checks_inserted AFTER INSERT ON self_improvement_checks BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_checks_updated AFTER UPDATE ON self_improvement_checks BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_checks_deleted AFTER DELETE ON self_improvement_checks BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_rollback_steps_inserted AFTER INSERT ON self_improvement_rollback_steps BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_rollback_steps_updated AFTER UPDATE ON self_improvement_rollback_steps BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER self_improvement_rollback_steps_deleted AFTER DELETE ON self_improvement_rollback_steps BEGIN
  INSERT INTO changes_since_checkpoint SELECT 'self_improvement', '', 'update' FROM self_improvement WHERE true ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER messages_need_their_owner BEFORE INSERT ON messages
  WHEN NOT EXISTS (SELECT 1 FROM conversations WHERE id = NEW.conversation_id) BEGIN
  SELECT RAISE(ABORT, 'messages.conversation_id names no row of conversations');
END;

CREATE TRIGGER task_steps_need_their_owner BEFORE INSERT ON task_steps
  WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE id = NEW.task_id) BEGIN
  SELECT RAISE(ABORT, 'task_steps.task_id names no row of tasks');
END;

CREATE TRIGGER task_blockers_need_their_owner BEFORE INSERT ON task_blockers
  WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE id = NEW.task_id) BEGIN
  SELECT RAISE(ABORT, 'task_blockers.task_id names no row of tasks');
END;

CREATE TRIGGER task_dependencies_need_their_owner BEFORE INSERT ON task_dependencies
  WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE id = NEW.task_id) BEGIN
  SELECT RAISE(ABORT, 'task_dependencies.task_id names no row of tasks');
END;

CREATE TRIGGER task_checkpoints_need_their_owner BEFORE INSERT ON task_checkpoints
  WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE id = NEW.task_id) BEGIN
  SELECT RAISE(ABORT, 'task_checkpoints.task_id names no row of tasks');
END;

CREATE TRIGGER task_checkpoint_files_need_their_owner BEFORE INSERT ON task_checkpoint_files
  WHEN NOT EXISTS (SELECT 1 FROM task_checkpoints WHERE task_id = NEW.task_id) BEGIN
  SELECT RAISE(ABORT, 'task_checkpoint_files.task_id names no row of task_checkpoints');
END;

CREATE TRIGGER task_checkpoint_actions_need_their_owner BEFORE INSERT ON task_checkpoint_actions
  WHEN NOT EXISTS (SELECT 1 FROM task_checkpoints WHERE task_id = NEW.task_id) BEGIN
  SELECT RAISE(ABORT, 'task_checkpoint_actions.task_id names no row of task_checkpoints');
END;

CREATE TRIGGER project_tasks_need_their_owner BEFORE INSERT ON project_tasks
  WHEN NOT EXISTS (SELECT 1 FROM projects WHERE id = NEW.project_id) BEGIN
  SELECT RAISE(ABORT, 'project_tasks.project_id names no row of projects');
END;

CREATE TRIGGER project_agents_need_their_owner BEFORE INSERT ON project_agents
  WHEN NOT EXISTS (SELECT 1 FROM projects WHERE id = NEW.project_id) BEGIN
  SELECT RAISE(ABORT, 'project_agents.project_id names no row of projects');
END;
