CREATE INDEX tasks_by_agent ON tasks (assigned_to, status);

CREATE INDEX tasks_by_project ON tasks (project_id, status);

CREATE INDEX task_dependencies_by_other ON task_dependencies (other_task_id, relation);

CREATE INDEX checkpoints_by_run ON checkpoints (run_id);

CREATE VIEW guide AS
  -- Where to begin: questions, and a query that answers each. Rows may be changed by hand, also while the orchestrator runs:
  -- it reads them anew each time, and goes on from what it finds. A change of tasks.status changes nothing else: set
  -- completed_at, percent_complete and last_activity_at as you mean them. Times are ISO 8601, mostly in UTC: compare them by
  -- unixepoch(…), not as texts.
  SELECT column1 AS question, column2 AS query FROM (VALUES
    ('What would a restart take up again, and why?', 'SELECT kind, id, title, why FROM resumable'),
    ('What is every agent doing?', 'SELECT session_name, status, task_title, task_status, idle_seconds FROM agent_activity'),
    ('How far are the tasks of a project?', 'SELECT id, status, percent_complete, steps_done, steps_remaining FROM task_overview WHERE project_id = ''…'' '),
    ('Which tasks do not move, and why?', 'SELECT id, title, why FROM stuck_tasks'),
    ('Who waits for whom?', 'SELECT task_id, waits_for, other_status FROM task_waits WHERE NOT is_done'),
    ('What was said last in each conversation?', 'SELECT id, last_speaker, last_message, idle_seconds FROM conversation_overview'),
    ('What was said in a conversation?', 'SELECT timestamp, speaker, content FROM message_log WHERE conversation_id = ''…'' ORDER BY position'),
    ('What refers to something that is gone?', 'SELECT kind, id, refers_by, missing_id FROM dangling_references'),
    ('Where do two places say different things?', 'SELECT kind, id, what FROM contradictions'),
    ('How did the runs of the orchestrator end?', 'SELECT run_id, started_at, ended, seconds FROM run_history ORDER BY run_id DESC'),
    ('When was a checkpoint made, and why?', 'SELECT checkpointed_at, reason, seconds_since_previous FROM checkpoint_history ORDER BY checkpoint_id DESC'),
    ('What has changed since the last checkpoint?', 'SELECT entity, id, operation FROM changes_since_checkpoint'),
    ('What could imports not read?', 'SELECT path, reason, begins FROM set_aside_overview'),
    ('Where was something said?', 'run `agentmux-state search TEXT`, or SELECT conversation_id, content FROM messages WHERE content LIKE ''%…%'' ')
  );

CREATE VIEW resumable AS
  -- What a restart now would take up, and why: tasks, then conversations, each in the order of the document, then the
  -- orchestrator's work on its own code. A conversation whose last activity is no readable time is not among them.
  SELECT
    'task' AS kind,                     -- task | conversation | self_improvement
    id,                                 -- tasks.id, conversations.id or self_improvement.task_id
    title,                              -- title of the task, topic of the conversation
    'it is ' || status AS why,
    EXISTS (SELECT 1 FROM task_checkpoints WHERE task_id = tasks.id) AS has_checkpoint, -- 0 | 1: whether it goes on from a checkpoint
    last_activity_at,
    position
  FROM tasks WHERE status IN ('in_progress', 'paused')
  UNION ALL
  SELECT
    'conversation',
    id,
    current_topic,
    'something happened in it within the last hour',
    0,
    last_activity_at,
    position
  FROM conversations
  WHERE last_activity_at GLOB '[0-9][0-9][0-9][0-9]-*' AND unixepoch(last_activity_at) > unixepoch('now') - 3600
  UNION ALL
  SELECT 'self_improvement', task_id, task_description, 'it is ' || task_status || ': to be verified', 0, NULL, NULL
  FROM self_improvement WHERE task_status IN ('implementing', 'testing');

CREATE VIEW agent_activity AS
  -- What every agent is doing.
  SELECT
    agents.session_name,
    agents.role,
    agents.status,                      -- of the agent: active | inactive | busy | error, or what a newer release writes
    agents.current_task_id,             -- tasks.id: what the agent says that it does
    tasks.title AS task_title,          -- NULL where there is no current task, or it is gone
    tasks.status AS task_status,
    tasks.percent_complete,             -- 0 to 100
    tasks.current_step,
    (SELECT count(*) FROM tasks AS assigned
     WHERE assigned.assigned_to = agents.session_name AND assigned.status <> 'completed') AS open_tasks, -- those that are assigned to it and not completed, whatever it says
    agents.last_activity_type,
    agents.last_activity_description,
    agents.last_activity_timestamp AS last_activity_at,
    unixepoch('now') - unixepoch(agents.last_activity_timestamp) AS idle_seconds -- since its last activity
  FROM agents LEFT JOIN tasks ON tasks.id = agents.current_task_id;

CREATE VIEW task_waits AS
  -- Which task waits for which. Either of them may say it; said by both, it is one row.
  SELECT
    said.task_id,                       -- the task that waits
    said.other_task_id AS waits_for,    -- the task that it waits for
    other.status AS other_status,       -- of that task; NULL where it is gone
    other.title AS other_title,
    coalesce(other.status = 'completed', 0) AS is_done -- 0 | 1: whether that task is completed
  FROM task_dependencies AS said LEFT JOIN tasks AS other ON other.id = said.other_task_id
  WHERE said.relation = 'blocked_by'
  UNION ALL
  SELECT said.other_task_id, said.task_id, other.status, other.title, coalesce(other.status = 'completed', 0)
  FROM task_dependencies AS said LEFT JOIN tasks AS other ON other.id = said.task_id
  WHERE said.relation = 'blocks' AND NOT EXISTS (
    SELECT 1 FROM task_dependencies AS same
    WHERE same.task_id = said.other_task_id AND same.relation = 'blocked_by' AND same.other_task_id = said.task_id
  );

CREATE VIEW task_overview AS
  -- Every task with its progress, what holds it up, and whether what it waits for is done.
  SELECT
    tasks.id,
    tasks.title,
    tasks.status,                       -- pending | in_progress | blocked | paused | completed
    tasks.priority,                     -- low | medium | high | critical
    tasks.assigned_to,                  -- agents.session_name
    tasks.project_id,
    tasks.percent_complete,             -- 0 to 100
    tasks.current_step,
    (SELECT count(*) FROM task_steps WHERE task_id = tasks.id AND kind = 'completed') AS steps_done,
    (SELECT count(*) FROM task_steps WHERE task_id = tasks.id AND kind = 'remaining') AS steps_remaining,
    (SELECT group_concat(blocker, '; ') FROM task_blockers WHERE task_id = tasks.id) AS blockers, -- in words
    (
      SELECT group_concat(DISTINCT iif(said.relation = 'blocked_by', said.other_task_id, said.task_id))
      FROM task_dependencies AS said
      WHERE (said.task_id = tasks.id AND said.relation = 'blocked_by' OR said.other_task_id = tasks.id AND said.relation = 'blocks')
        AND NOT EXISTS (
          SELECT 1 FROM tasks AS other
          WHERE other.id = iif(said.relation = 'blocked_by', said.other_task_id, said.task_id) AND other.status = 'completed'
        )
    ) AS waits_for, -- ids of tasks that are not completed
    NOT EXISTS (SELECT 1 FROM task_waits WHERE task_id = tasks.id AND NOT is_done) AS dependencies_done, -- 0 | 1; 1 also where there are none
    tasks.created_at,
    tasks.last_activity_at,
    unixepoch('now') - coalesce(unixepoch(tasks.last_activity_at), unixepoch(tasks.started_at), unixepoch(tasks.created_at)) AS idle_seconds -- since its last activity, start or creation
  FROM tasks;

CREATE VIEW stuck_tasks AS
  -- Tasks that do not move, and why: a row for each reason.
  SELECT
    tasks.id,
    tasks.title,
    tasks.status,
    tasks.assigned_to,                  -- agents.session_name
    'in progress, without any activity for over an hour' AS why,
    tasks.last_activity_at
  FROM tasks
  WHERE status = 'in_progress'
    AND coalesce(unixepoch(last_activity_at), unixepoch(started_at), unixepoch(created_at)) < unixepoch('now') - 3600
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to, 'in progress, but nobody is assigned to it', tasks.last_activity_at
  FROM tasks WHERE status = 'in_progress' AND assigned_to IS NULL
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to,
    'in progress, but its agent is ' || coalesce(agents.status, 'gone'), tasks.last_activity_at
  FROM tasks LEFT JOIN agents ON agents.session_name = tasks.assigned_to
  WHERE tasks.status = 'in_progress' AND tasks.assigned_to IS NOT NULL AND coalesce(agents.status, '') NOT IN ('active', 'busy')
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to,
    tasks.status || ', though all that it waited for is done', tasks.last_activity_at
  FROM tasks
  WHERE status IN ('pending', 'blocked', 'paused')
    AND EXISTS (SELECT 1 FROM task_waits WHERE task_id = tasks.id)
    AND NOT EXISTS (SELECT 1 FROM task_waits WHERE task_id = tasks.id AND NOT is_done)
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to, 'waits for ' || waits.other_task_id || ', which is gone', tasks.last_activity_at
  FROM task_dependencies AS waits JOIN tasks ON tasks.id = waits.task_id
  WHERE waits.relation = 'blocked_by' AND tasks.status <> 'completed'
    AND NOT EXISTS (SELECT 1 FROM tasks AS other WHERE other.id = waits.other_task_id)
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to,
    iif(waits.other_task_id = waits.task_id, 'waits for itself', 'waits for ' || waits.other_task_id || ', which waits for it'),
    tasks.last_activity_at
  FROM task_dependencies AS waits
  JOIN task_dependencies AS back
    ON back.task_id = waits.other_task_id AND back.relation = 'blocked_by' AND back.other_task_id = waits.task_id
  JOIN tasks ON tasks.id = waits.task_id
  WHERE waits.relation = 'blocked_by' AND tasks.status <> 'completed';

CREATE VIEW conversation_overview AS
  -- Every conversation with what was said last.
  SELECT
    conversations.id,
    conversations.source,               -- chat | slack | api
    conversations.current_topic,
    conversations.user_id,
    conversations.slack_channel_id,
    conversations.slack_thread_ts,
    (SELECT count(*) FROM messages WHERE conversation_id = conversations.id) AS messages, -- how many are kept
    coalesce(last.agent_name, last.role) AS last_speaker, -- user | orchestrator | the name of an agent
    replace(substr(last.content, 1, 200), char(10), ' ') AS last_message, -- its first 200 characters, on one line
    last.timestamp AS last_message_at,
    conversations.last_activity_at,     -- as the orchestrator says it; may be later than the last message
    unixepoch('now') - unixepoch(conversations.last_activity_at) AS idle_seconds -- since the last activity
  FROM conversations LEFT JOIN messages AS last
    ON last.conversation_id = conversations.id
    AND last.position = (SELECT max(position) FROM messages WHERE conversation_id = conversations.id);

CREATE VIEW message_log AS
  -- Messages with who said them, as far as they are kept; ORDER BY conversation_id, position for the order in which they
  -- were said.
  SELECT
    messages.message_id,
    messages.conversation_id,
    messages.position,                  -- order in the conversation
    messages.timestamp,
    coalesce(messages.agent_name, iif(messages.role = 'user', conversations.user_id, NULL), messages.role) AS speaker, -- an agent's name, a user's id, or the role
    messages.content
  FROM messages JOIN conversations ON conversations.id = messages.conversation_id;

CREATE VIEW dangling_references AS
  -- References to what is gone. The document format allows them; nothing follows from one. Names of agents in messages are
  -- not among them.
  SELECT
    'task' AS kind,                     -- what refers: task | agent | project
    tasks.id,                           -- its id, or session name
    'tasks.assigned_to' AS refers_by,   -- the column, or the table, in which it does
    'agent' AS missing_kind,            -- what is gone: task | agent | project
    tasks.assigned_to AS missing_id     -- its id, or session name
  FROM tasks
  WHERE assigned_to IS NOT NULL AND NOT EXISTS (SELECT 1 FROM agents WHERE session_name = tasks.assigned_to)
  UNION ALL
  SELECT 'task', id, 'tasks.project_id', 'project', project_id FROM tasks
  WHERE project_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM projects WHERE projects.id = tasks.project_id)
  UNION ALL
  SELECT 'task', task_id, 'task_dependencies (' || relation || ')', 'task', other_task_id FROM task_dependencies
  WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = other_task_id)
  UNION ALL
  SELECT 'agent', session_name, 'agents.current_task_id', 'task', current_task_id FROM agents
  WHERE current_task_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = agents.current_task_id)
  UNION ALL
  SELECT 'project', project_id, 'project_tasks', 'task', task_id FROM project_tasks
  WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = project_tasks.task_id)
  UNION ALL
  SELECT 'project', project_id, 'project_agents', 'agent', session_name FROM project_agents
  WHERE NOT EXISTS (SELECT 1 FROM agents WHERE agents.session_name = project_agents.session_name);

CREATE VIEW contradictions AS
  -- Where two places say different things. The orchestrator keeps both as they are; in doubt the task is right.
  SELECT
    'agent' AS kind,                    -- agent | task | project
    agents.session_name AS id,
    'works on ' || tasks.id || ', which is ' || iif(tasks.status = 'completed', 'completed', 'assigned to ' || tasks.assigned_to) AS what
  FROM agents JOIN tasks ON tasks.id = agents.current_task_id
  WHERE tasks.status = 'completed' OR tasks.assigned_to <> agents.session_name
  UNION ALL
  SELECT 'task', task_waits.task_id, 'is completed, and waits for ' || task_waits.waits_for || ', which is not'
  FROM tasks JOIN task_waits ON task_waits.task_id = tasks.id
  WHERE tasks.status = 'completed' AND NOT task_waits.is_done AND task_waits.other_status IS NOT NULL
  UNION ALL
  SELECT 'project', project_tasks.project_id, 'lists ' || tasks.id || ', which ' || iif(tasks.status = 'completed', 'is completed', 'is of project ' || tasks.project_id)
  FROM project_tasks JOIN tasks ON tasks.id = project_tasks.task_id
  WHERE tasks.status = 'completed' OR tasks.project_id <> project_tasks.project_id
  UNION ALL
  SELECT 'project', tasks.project_id, 'does not list ' || tasks.id || ', which is in progress'
  FROM tasks JOIN projects ON projects.id = tasks.project_id
  WHERE tasks.status = 'in_progress' AND NOT EXISTS (
    SELECT 1 FROM project_tasks WHERE project_tasks.project_id = tasks.project_id AND project_tasks.task_id = tasks.id
  );

CREATE VIEW run_history AS
  -- Every start of the orchestrator on this state, how it ended, and how far its checkpoints reach; ORDER BY run_id. What
  -- "state" says of the run is that of the document, which may have been imported.
  SELECT
    runs.run_id,
    runs.hostname,
    runs.pid,
    runs.started_at,
    runs.ended_at,                      -- NULL while it runs, and after a crash, whose moment nobody saw
    coalesce(runs.outcome, CASE
      WHEN runs.run_id = (SELECT max(run_id) FROM runs) THEN 'running or crashed'
      ELSE 'crashed'
    END) AS ended,                      -- shutdown | crashed | taken_over | running or crashed: `agentmux-state status` tells which
    (SELECT max(checkpointed_at) FROM checkpoints WHERE checkpoints.run_id = runs.run_id) AS last_checkpoint_at,
    (SELECT count(*) FROM checkpoints WHERE checkpoints.run_id = runs.run_id) AS checkpoints,
    unixepoch(coalesce(runs.ended_at,
      (SELECT max(checkpointed_at) FROM checkpoints WHERE checkpoints.run_id = runs.run_id))) - unixepoch(runs.started_at)
      AS seconds                        -- how long it ran; until its last checkpoint where nobody saw it end
  FROM runs;

CREATE VIEW checkpoint_history AS
  -- Every checkpoint with the time since the one before; ORDER BY checkpoint_id.
  SELECT
    checkpoint_id,
    run_id,                             -- runs.run_id; NULL where no orchestrator was running
    checkpointed_at,
    reason,                             -- scheduled | before_restart | task_completed | user_request | self_improvement | error_recovery
    unixepoch(checkpointed_at) - unixepoch((
      SELECT before.checkpointed_at FROM checkpoints AS before
      WHERE before.checkpoint_id < checkpoints.checkpoint_id ORDER BY before.checkpoint_id DESC LIMIT 1
    )) AS seconds_since_previous,
    uptime_seconds                      -- of the run, when it was made
  FROM checkpoints;

CREATE VIEW set_aside_overview AS
  -- What imports could not read, in short; all of it is in "set_aside".
  SELECT
    set_aside_id,
    set_aside_at,
    source,                             -- the file it came from
    path,                               -- where it stood in it
    reason,
    length(content) AS characters,
    replace(substr(content, 1, 80), char(10), ' ') AS begins -- its first 80 characters, on one line
  FROM set_aside;
