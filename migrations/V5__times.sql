DROP VIEW resumable;
DROP VIEW agent_activity;
DROP VIEW task_overview;
DROP VIEW stuck_tasks;
DROP VIEW conversation_overview;

CREATE VIEW resumable AS
  -- What a restart now would take up, and why: tasks, then conversations, each in the order of the document, then the
  -- orchestrator's work on its own code. A conversation whose last activity is no readable time is not among them.
  -- A time is readable where it is an ISO 8601 date that exists, alone or with a time from 00:00 to 23:59:59 and Z or an offset.
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
    AND date(substr(last_activity_at, 1, 10), '+0 days') = substr(last_activity_at, 1, 10) AND substr(last_activity_at, 12, 2) < '24'
    AND (length(last_activity_at) = 10 OR last_activity_at GLOB '??????????T[0-9]*[Zz]' OR last_activity_at GLOB '??????????T[0-9]*[-+]??:??')
    AND last_activity_at NOT GLOB '*[^-0-9T:.Zz+]*' AND instr(last_activity_at, char(0)) = 0
  UNION ALL
  SELECT 'self_improvement', task_id, task_description, 'it is ' || task_status || ': to be verified', 0, NULL, NULL
  FROM self_improvement WHERE task_status IN ('implementing', 'testing');

CREATE VIEW agent_activity AS
  -- What every agent is doing.
  -- A time is readable where it is an ISO 8601 date that exists, alone or with a time from 00:00 to 23:59:59 and Z or an offset.
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
    unixepoch('now') - (
      SELECT unixepoch(at) FROM (SELECT agents.last_activity_timestamp AS at)
      WHERE date(substr(at, 1, 10), '+0 days') = substr(at, 1, 10) AND substr(at, 12, 2) < '24'
        AND (length(at) = 10 OR at GLOB '??????????T[0-9]*[Zz]' OR at GLOB '??????????T[0-9]*[-+]??:??')
        AND at NOT GLOB '*[^-0-9T:.Zz+]*' AND instr(at, char(0)) = 0
    ) AS idle_seconds -- since its last activity; NULL where that is not readable
  FROM agents LEFT JOIN tasks ON tasks.id = agents.current_task_id;

CREATE VIEW task_overview AS
  -- Every task with its progress, what holds it up, and whether what it waits for is done.
  -- A time is readable where it is an ISO 8601 date that exists, alone or with a time from 00:00 to 23:59:59 and Z or an offset.
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
    unixepoch('now') - (
      SELECT unixepoch(at) FROM (
        SELECT 1 AS place, tasks.last_activity_at AS at UNION ALL SELECT 2, tasks.started_at UNION ALL SELECT 3, tasks.created_at
      )
      WHERE date(substr(at, 1, 10), '+0 days') = substr(at, 1, 10) AND substr(at, 12, 2) < '24'
        AND (length(at) = 10 OR at GLOB '??????????T[0-9]*[Zz]' OR at GLOB '??????????T[0-9]*[-+]??:??')
        AND at NOT GLOB '*[^-0-9T:.Zz+]*' AND instr(at, char(0)) = 0
        AND unixepoch(at) IS NOT NULL
      ORDER BY place LIMIT 1
    ) AS idle_seconds -- since its last activity, start or creation, whichever is readable first
  FROM tasks;

CREATE VIEW stuck_tasks AS
  -- Tasks that do not move, and why: a row for each reason.
  -- A time is readable where it is an ISO 8601 date that exists, alone or with a time from 00:00 to 23:59:59 and Z or an offset.
  SELECT
    tasks.id,
    tasks.title,
    tasks.status,
    tasks.assigned_to,                  -- agents.session_name
    'in progress, without any activity for over an hour' AS why,
    tasks.last_activity_at
  FROM tasks
  WHERE status = 'in_progress'
    AND (
      SELECT unixepoch(at) FROM (
        SELECT 1 AS place, tasks.last_activity_at AS at UNION ALL SELECT 2, tasks.started_at UNION ALL SELECT 3, tasks.created_at
      )
      WHERE date(substr(at, 1, 10), '+0 days') = substr(at, 1, 10) AND substr(at, 12, 2) < '24'
        AND (length(at) = 10 OR at GLOB '??????????T[0-9]*[Zz]' OR at GLOB '??????????T[0-9]*[-+]??:??')
        AND at NOT GLOB '*[^-0-9T:.Zz+]*' AND instr(at, char(0)) = 0
        AND unixepoch(at) IS NOT NULL
      ORDER BY place LIMIT 1
    ) < unixepoch('now') - 3600
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
  -- A time is readable where it is an ISO 8601 date that exists, alone or with a time from 00:00 to 23:59:59 and Z or an offset.
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
    unixepoch('now') - (
      SELECT unixepoch(at) FROM (SELECT conversations.last_activity_at AS at)
      WHERE date(substr(at, 1, 10), '+0 days') = substr(at, 1, 10) AND substr(at, 12, 2) < '24'
        AND (length(at) = 10 OR at GLOB '??????????T[0-9]*[Zz]' OR at GLOB '??????????T[0-9]*[-+]??:??')
        AND at NOT GLOB '*[^-0-9T:.Zz+]*' AND instr(at, char(0)) = 0
    ) AS idle_seconds -- since the last activity; NULL where that is not readable
  FROM conversations LEFT JOIN messages AS last
    ON last.conversation_id = conversations.id
    AND last.position = (SELECT max(position) FROM messages WHERE conversation_id = conversations.id);
