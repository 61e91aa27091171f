CREATE INDEX tasks_by_agent ON tasks (assigned_to, status);

CREATE INDEX tasks_by_project ON tasks (project_id, status);

CREATE INDEX task_dependencies_by_other ON task_dependencies (other_task_id, relation);

CREATE INDEX checkpoints_by_run ON checkpoints (run_id);

CREATE VIEW resumable AS
  -- What a restart now would take up, and why: tasks first, then conversations, each in the order of the document.
  SELECT
    'task' AS kind,                     -- task | conversation
    id,                                 -- tasks.id or conversations.id
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
  WHERE last_activity_at GLOB '[0-9][0-9][0-9][0-9]-*' AND unixepoch(last_activity_at) > unixepoch('now') - 3600;

CREATE VIEW agent_activity AS
  -- What every agent is doing.
  SELECT
    agents.session_name,
    agents.role,
    agents.status,                      -- of the agent: active | inactive | busy | error
    agents.current_task_id,             -- tasks.id
    tasks.title AS task_title,          -- NULL where there is no current task, or it is gone
    tasks.status AS task_status,
    tasks.percent_complete,             -- 0 to 100
    tasks.current_step,
    (SELECT count(*) FROM tasks AS assigned
     WHERE assigned.assigned_to = agents.session_name AND assigned.status <> 'completed') AS open_tasks, -- assigned to it, not completed
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
    unixepoch('now') - unixepoch(coalesce(tasks.last_activity_at, tasks.started_at, tasks.created_at)) AS idle_seconds -- since its last activity, start or creation
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
    AND unixepoch(coalesce(last_activity_at, started_at, created_at)) < unixepoch('now') - 3600
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to, 'in progress, but nobody is assigned to it', tasks.last_activity_at
  FROM tasks WHERE status = 'in_progress' AND assigned_to IS NULL
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to,
    'in progress, but its agent is ' || coalesce(agents.status, 'gone'), tasks.last_activity_at
  FROM tasks LEFT JOIN agents ON agents.session_name = tasks.assigned_to
  WHERE tasks.status = 'in_progress' AND tasks.assigned_to IS NOT NULL
    AND (agents.status IS NULL OR agents.status IN ('inactive', 'error'))
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to, 'blocked, though all that it waits for is done', tasks.last_activity_at
  FROM tasks
  WHERE status = 'blocked'
    AND EXISTS (SELECT 1 FROM task_waits WHERE task_id = tasks.id)
    AND NOT EXISTS (SELECT 1 FROM task_waits WHERE task_id = tasks.id AND NOT is_done)
    AND NOT EXISTS (SELECT 1 FROM task_blockers WHERE task_id = tasks.id)
  UNION ALL
  SELECT tasks.id, tasks.title, tasks.status, tasks.assigned_to, 'waits for ' || dependency.other_task_id || ', which is gone', tasks.last_activity_at
  FROM tasks JOIN task_dependencies AS dependency ON dependency.task_id = tasks.id AND dependency.relation = 'blocked_by'
  WHERE tasks.status IN ('pending', 'in_progress', 'blocked', 'paused')
    AND NOT EXISTS (SELECT 1 FROM tasks AS other WHERE other.id = dependency.other_task_id);

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
    substr(last.content, 1, 200) AS last_message, -- its first 200 characters
    last.timestamp AS last_message_at,
    conversations.last_activity_at,
    unixepoch('now') - unixepoch(conversations.last_activity_at) AS idle_seconds -- since the last activity
  FROM conversations LEFT JOIN messages AS last
    ON last.conversation_id = conversations.id
    AND last.position = (SELECT max(position) FROM messages WHERE conversation_id = conversations.id);

CREATE VIEW message_log AS
  -- Messages with who said them; ORDER BY conversation_id, position for the order in which they were said.
  SELECT
    conversation_id,
    position,                           -- order in the conversation
    timestamp,
    coalesce(agent_name, role) AS speaker, -- user | orchestrator | the name of an agent
    content
  FROM messages;

CREATE VIEW dangling_references AS
  -- References to what is gone. The document format allows them; nothing follows from one.
  SELECT
    'task' AS kind,                     -- what refers: task | agent | project
    tasks.id,                           -- its id, or session name
    'assigned_to' AS refers_by,         -- the column or relation by which it does
    'agent' AS missing_kind,            -- what is gone: task | agent | project
    tasks.assigned_to AS missing_id     -- its id, or session name
  FROM tasks
  WHERE assigned_to IS NOT NULL AND NOT EXISTS (SELECT 1 FROM agents WHERE session_name = tasks.assigned_to)
  UNION ALL
  SELECT 'task', id, 'project_id', 'project', project_id FROM tasks
  WHERE project_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM projects WHERE projects.id = tasks.project_id)
  UNION ALL
  SELECT 'task', task_id, relation, 'task', other_task_id FROM task_dependencies
  WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = other_task_id)
  UNION ALL
  SELECT 'agent', session_name, 'current_task_id', 'task', current_task_id FROM agents
  WHERE current_task_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = agents.current_task_id)
  UNION ALL
  SELECT 'project', project_id, 'active_tasks', 'task', task_id FROM project_tasks
  WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = project_tasks.task_id)
  UNION ALL
  SELECT 'project', project_id, 'active_agents', 'agent', session_name FROM project_agents
  WHERE NOT EXISTS (SELECT 1 FROM agents WHERE agents.session_name = project_agents.session_name);

CREATE VIEW run_history AS
  -- Every start of the orchestrator on this state, how it ended, and how far its checkpoints reach; ORDER BY run_id.
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
    substr(content, 1, 80) AS begins    -- its first 80 characters
  FROM set_aside;
