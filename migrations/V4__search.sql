CREATE VIRTUAL TABLE message_index /* Which words stand in which message; rowid is messages.message_id. Made for
  `agentmux-state search`: words are in small letters, without accents, each ideograph by itself. It follows "messages" within
  a minute of an orchestrator that runs, or when something is searched and more than a little is missing: "message_index_state"
  says how much is. Entries
  of messages that are gone stay until it is made anew, so look at the message, too:
  SELECT speaker, content FROM message_index JOIN message_log ON message_id = message_index.rowid WHERE message_index MATCH 'deploy' */
USING fts5(words, content='', detail='none', tokenize='ascii');

CREATE TABLE message_index_progress (
  -- How far "message_index" has come: one row.
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  indexed_to INTEGER NOT NULL,        -- messages.message_id: messages up to here are in it, but for those in "messages_to_index"
  entries INTEGER NOT NULL            -- entries that were made since it was last made anew
) STRICT;

INSERT INTO message_index_progress (singleton, indexed_to, entries) VALUES (1, 0, 0);

CREATE TABLE messages_to_index (
  -- Messages that are to be indexed again, as they were changed, or took the number of one that is gone.
  message_id INTEGER PRIMARY KEY      -- messages.message_id; the message may be gone
) STRICT;

CREATE TRIGGER messages_renumbered AFTER INSERT ON messages
WHEN NEW.message_id <= (SELECT indexed_to FROM message_index_progress) BEGIN
  INSERT INTO messages_to_index VALUES (NEW.message_id) ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER messages_reworded AFTER UPDATE OF message_id, content ON messages
WHEN (NEW.content IS NOT OLD.content OR NEW.message_id <> OLD.message_id)
  AND NEW.message_id <= (SELECT indexed_to FROM message_index_progress) BEGIN
  INSERT INTO messages_to_index VALUES (NEW.message_id) ON CONFLICT DO NOTHING;
END;

CREATE VIEW message_index_state AS
  -- Whether "message_index" can be relied on: one row.
  SELECT
    indexed_to,                         -- messages.message_id: how far it has come
    coalesce((SELECT max(message_id) FROM messages), 0) AS newest_message, -- messages.message_id
    max(0, coalesce((SELECT max(message_id) FROM messages), 0) - indexed_to) + (SELECT count(*) FROM messages_to_index) AS missing -- about how many messages are not in it
  FROM message_index_progress;
