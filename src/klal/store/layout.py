"""The tables klal keeps beside the user's, and the views that everybody may read.

Nothing is added to the user's own tables: no hidden columns, no triggers, no clocks.

Source:
    Protocol spec section 15 (file format), rules FIL-1 to FIL-4.
"""

from __future__ import annotations

APPLICATION_ID = 0x6B6C616C  # "klal"
FILE_FORMAT = 1

TABLES = """
CREATE TABLE klal_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- One line per log. For the log this file writes, the counters may lag behind
-- klal_change: they are written when it is sealed, not at every commit.
CREATE TABLE klal_log(
  log INTEGER PRIMARY KEY, log_id BLOB NOT NULL UNIQUE, member_id BLOB NOT NULL, incarnation BLOB NOT NULL,
  length INTEGER NOT NULL, head_hash BLOB NOT NULL, payload_length INTEGER NOT NULL,
  applied_length INTEGER NOT NULL, order_stamp INTEGER NOT NULL,
  -- A log that forked has a line for each branch that came later: origin is the log its headers were
  -- signed for, and they go on from number start - 1 of the line below.
  origin BLOB NOT NULL, below INTEGER, start INTEGER NOT NULL);

-- Of logs that forked, and only of those: what a line's changes are called from number seq on.
CREATE TABLE klal_branch(log INTEGER, seq INTEGER, log_id BLOB NOT NULL, PRIMARY KEY(log, seq)) WITHOUT ROWID;

-- Changes in order of arrival. payload: all parts one after another when they are small
-- and here; otherwise their slices are in klal_slice. state: 0 held without payload,
-- 1 held, 2 applied, 3 applied without effect because it broke a rule, 4 and 5 the same
-- with the payload put down by compaction, all but the acts.
CREATE TABLE klal_change(
  lsn INTEGER PRIMARY KEY, state INTEGER NOT NULL, order_stamp INTEGER NOT NULL, header BLOB NOT NULL, payload BLOB);

-- From lsn on, up to the next span, changes of one log lie one after another.
CREATE TABLE klal_span(lsn INTEGER PRIMARY KEY, log INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE INDEX klal_span_by_log ON klal_span(log, seq);

CREATE TABLE klal_slice(lsn INTEGER, part INTEGER, slice INTEGER, data BLOB NOT NULL, PRIMARY KEY(lsn, part, slice))
  WITHOUT ROWID;
CREATE TABLE klal_leaves(lsn INTEGER, part INTEGER, leaves BLOB NOT NULL, PRIMARY KEY(lsn, part)) WITHOUT ROWID;
CREATE TABLE klal_hash(prefix INTEGER, lsn INTEGER, PRIMARY KEY(prefix, lsn)) WITHOUT ROWID;

-- What a change had newly seen: from seq on, its log's past holds this prefix of another.
CREATE TABLE klal_past(log INTEGER, past_log INTEGER, seq INTEGER, length INTEGER NOT NULL,
  PRIMARY KEY(log, past_log, seq)) WITHOUT ROWID;
CREATE TABLE klal_seal(log INTEGER, length INTEGER, signature BLOB NOT NULL, PRIMARY KEY(log, length)) WITHOUT ROWID;
CREATE TABLE klal_receipt(log_id BLOB PRIMARY KEY, number INTEGER NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL)
  WITHOUT ROWID;
-- Of each log the greatest length that a receipt here names: what klal_missing reads of receipts.
CREATE TABLE klal_named(log_id BLOB PRIMARY KEY, length INTEGER NOT NULL) WITHOUT ROWID;
-- When word came from elsewhere, and how many changes were here then; of the last day and a little more.
CREATE TABLE klal_contact(lsn INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL);

CREATE TABLE klal_member(member_id BLOB PRIMARY KEY, name TEXT NOT NULL, log_id BLOB NOT NULL, seq INTEGER NOT NULL,
  ticket_id BLOB, use_count_max INTEGER) WITHOUT ROWID;
CREATE TABLE klal_close(epoch INTEGER, log INTEGER, seq INTEGER, member_id BLOB NOT NULL, PRIMARY KEY(epoch, log, seq))
  WITHOUT ROWID;
-- What members said about membership and stewardship. fault: why it has no effect; rank: 1 of a steward.
CREATE TABLE klal_word(log INTEGER, seq INTEGER, number INTEGER, epoch INTEGER NOT NULL, member_id BLOB NOT NULL,
  body BLOB NOT NULL, fault TEXT, rank INTEGER NOT NULL, PRIMARY KEY(log, seq, number)) WITHOUT ROWID;
CREATE TABLE klal_moment(log INTEGER, seq INTEGER, name TEXT, PRIMARY KEY(log, seq, name)) WITHOUT ROWID;
CREATE TABLE klal_epoch(epoch INTEGER PRIMARY KEY, hash BLOB NOT NULL, certificate BLOB NOT NULL);

-- Of a compacted file, headers below the cut whose payloads were put down, where their lines say x'': blocks of
-- consecutive ones of a log, from number seq on. marks: three bytes of the hash of each, which is not in klal_hash.
CREATE TABLE klal_pack(log INTEGER, seq INTEGER, marks BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY(log, seq));
-- Of such a file, the state as of the epoch of that cut: an image, compressed. In such an image: which changes
-- wrote each key's life last, by column.
CREATE TABLE klal_base(piece INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE klal_written(table_id BLOB, key BLOB, life INTEGER NOT NULL, writes BLOB NOT NULL,
  PRIMARY KEY(table_id, key)) WITHOUT ROWID;

-- Slices of the snapshot that was made here, or of one that is arriving.
CREATE TABLE klal_snapshot(slice INTEGER PRIMARY KEY, data BLOB NOT NULL);

-- Schema acts that are applied, each once, with the smallest order key of the changes that state it.
-- What they come to is in the four tables below, and in the file's own schema.
CREATE TABLE klal_schema(act BLOB PRIMARY KEY, order_key BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE klal_table(tab INTEGER PRIMARY KEY, table_id BLOB NOT NULL UNIQUE, name TEXT NOT NULL,
  definition BLOB NOT NULL, foreign_keys BLOB NOT NULL);
CREATE TABLE klal_column(tab INTEGER, column_id BLOB, name TEXT NOT NULL, definition BLOB NOT NULL,
  PRIMARY KEY(tab, column_id)) WITHOUT ROWID;
CREATE TABLE klal_object(object_id BLOB PRIMARY KEY, kind TEXT NOT NULL, tab INTEGER, name TEXT NOT NULL,
  definition BLOB NOT NULL, is_built INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE klal_policy(tab INTEGER, name TEXT, value TEXT NOT NULL, PRIMARY KEY(tab, name)) WITHOUT ROWID;

-- What the merge must remember of a key, for the few keys where there is anything.
CREATE TABLE klal_life(tab INTEGER, key BLOB, life INTEGER NOT NULL, births INTEGER NOT NULL,
  was_deleted INTEGER NOT NULL, PRIMARY KEY(tab, key)) WITHOUT ROWID;
CREATE TABLE klal_dead(tab INTEGER, key BLOB, life INTEGER NOT NULL, births INTEGER NOT NULL,
  was_deleted INTEGER NOT NULL, is_ended INTEGER NOT NULL, image BLOB NOT NULL, PRIMARY KEY(tab, key)) WITHOUT ROWID;
CREATE TABLE klal_text(tab INTEGER, key BLOB, column_id BLOB, document BLOB NOT NULL,
  PRIMARY KEY(tab, key, column_id)) WITHOUT ROWID;
-- Rows that are alive and not shown, since another row shows a value that must be UNIQUE.
CREATE TABLE klal_hidden(tab INTEGER, key BLOB, key_text TEXT NOT NULL, image BLOB NOT NULL, PRIMARY KEY(tab, key))
  WITHOUT ROWID;
-- Writes to what was dropped by somebody who had not seen them: in history, and nowhere else.
CREATE TABLE klal_lost(table_id BLOB, column_id BLOB, log INTEGER, seq INTEGER, name TEXT NOT NULL,
  row_count INTEGER NOT NULL, PRIMARY KEY(table_id, column_id, log, seq)) WITHOUT ROWID;
-- The changes that dropped something: of a table, view or index, with an empty column_id, or of a column.
CREATE TABLE klal_drop(table_id BLOB, column_id BLOB, log INTEGER, seq INTEGER,
  PRIMARY KEY(table_id, column_id, log, seq)) WITHOUT ROWID;
CREATE TABLE klal_conflict(tab INTEGER, key BLOB, column_id BLOB, log INTEGER, seq INTEGER, life INTEGER NOT NULL,
  key_text TEXT NOT NULL, value, winner_log INTEGER, winner_seq INTEGER, winner_value,
  PRIMARY KEY(tab, key, column_id, log, seq)) WITHOUT ROWID;
"""

VIEWS = """
CREATE VIEW klal_members AS SELECT hex(member_id) AS member_id, name FROM klal_member ORDER BY name;
CREATE VIEW klal_conflicts AS
SELECT t.name AS "table", c.key_text AS "key", k.name AS "column",
  c.winner_value AS winner_value,
  (SELECT m.name FROM klal_log l JOIN klal_member m USING (member_id) WHERE l.log = c.winner_log) AS winner_member,
  (SELECT lower(hex(coalesce((SELECT b.log_id FROM klal_branch b WHERE b.log = l.log AND b.seq <= c.winner_seq
    ORDER BY b.seq DESC LIMIT 1), l.log_id)))
    || ':' || c.winner_seq FROM klal_log l WHERE l.log = c.winner_log) AS winner_change,
  c.value AS loser_value,
  (SELECT m.name FROM klal_log l JOIN klal_member m USING (member_id) WHERE l.log = c.log) AS loser_member,
  (SELECT lower(hex(coalesce((SELECT b.log_id FROM klal_branch b WHERE b.log = l.log AND b.seq <= c.seq
    ORDER BY b.seq DESC LIMIT 1), l.log_id)))
    || ':' || c.seq FROM klal_log l WHERE l.log = c.log) AS loser_change
FROM klal_conflict c JOIN klal_table t USING (tab)
LEFT JOIN klal_column k ON k.tab = c.tab AND k.column_id = c.column_id;
CREATE VIEW klal_policies AS
SELECT t.name AS "table",
  coalesce((SELECT value FROM klal_policy p WHERE p.tab = t.tab AND p.name = 'merge'), 'cell') AS "merge",
  coalesce((SELECT value FROM klal_policy p WHERE p.tab = t.tab AND p.name = 'on_delete'), 'revive') AS on_delete
FROM klal_table t;
CREATE VIEW klal_changes AS
SELECT lower(hex(coalesce((SELECT b.log_id FROM klal_branch b WHERE b.log = l.log AND b.seq <= s.seq + c.lsn - s.lsn
    ORDER BY b.seq DESC LIMIT 1), l.log_id)))
    || ':' || (s.seq + c.lsn - s.lsn) AS "change", m.name AS member,
  CASE c.state WHEN 0 THEN 'payload missing' WHEN 1 THEN 'parked' WHEN 2 THEN 'applied' WHEN 4 THEN 'compacted'
    ELSE 'without effect' END AS state,
  nullif(length(c.header), 0) AS header_size, c.lsn AS arrival
FROM klal_change c
JOIN klal_span s ON s.lsn = (SELECT max(lsn) FROM klal_span WHERE lsn <= c.lsn)
JOIN klal_log l ON l.log = s.log LEFT JOIN klal_member m USING (member_id);
-- The branches of logs that forked, each from its first header on: that they are two under one number is the proof.
CREATE VIEW klal_forks AS
SELECT m.name AS member, lower(hex(l.origin)) AS log, b.seq AS number, lower(hex(b.log_id)) AS branch,
  (SELECT c.header FROM klal_span s JOIN klal_change c ON c.lsn = s.lsn + b.seq - s.seq
    WHERE s.log = b.log AND s.seq <= b.seq ORDER BY s.seq DESC LIMIT 1) AS header
FROM klal_branch b JOIN klal_log l USING (log) LEFT JOIN klal_member m USING (member_id)
WHERE b.log_id <> l.origin ORDER BY l.origin, b.seq, b.log_id;
CREATE VIEW klal_parked AS SELECT * FROM klal_changes WHERE state IN ('payload missing', 'parked');
CREATE VIEW klal_missing AS
SELECT m.name AS member, lower(hex(n.log_id)) AS "log", coalesce(max(l.length), 0) AS "from", n.length AS "to",
  'headers' AS what
FROM klal_named n LEFT JOIN klal_log l ON l.origin = n.log_id LEFT JOIN klal_member m USING (member_id)
GROUP BY n.log_id HAVING n.length > coalesce(max(l.length), 0)
UNION ALL
SELECT m.name, lower(hex(coalesce((SELECT b.log_id FROM klal_branch b WHERE b.log = g.log AND b.seq <= g.start
    ORDER BY b.seq DESC LIMIT 1), l.log_id))), g.start, g.stop, 'payloads'
FROM (SELECT log, min(seq) AS start, max(seq) + 1 AS stop FROM (
  SELECT log, seq, seq - row_number() OVER (PARTITION BY log ORDER BY seq) AS stretch
  FROM (SELECT s.log, s.seq + c.lsn - s.lsn AS seq FROM klal_change c
    JOIN klal_span s ON s.lsn = (SELECT max(lsn) FROM klal_span WHERE lsn <= c.lsn) WHERE c.state = 0))
  GROUP BY log, stretch) g
JOIN klal_log l ON l.log = g.log LEFT JOIN klal_member m USING (member_id);
-- One line. Whether all is stable or closed is not among it: that takes signed receipts, which SQL cannot read.
-- Nor are violations: that view is dropped and made anew, and SQLite asks that what a view names is there.
CREATE VIEW klal_status AS
SELECT (SELECT m.name FROM klal_meta a JOIN klal_member m ON m.member_id = a.value WHERE a.name = 'member_id')
  AS member,
  h.held AS headers_held, h.held + n.lacking AS headers_known,
  h.held - h.bare AS payloads_held, h.held + n.lacking AS payloads_known, h.applied AS applied,
  n.lacking = 0 AND h.bare = 0 AND h.applied = h.held AS is_whole,
  -- A receipt's body begins with three bytes of msgpack and the 32 of its member.
  NOT EXISTS (SELECT 1 FROM klal_receipt
    WHERE substr(body, 4, 32) IS NOT (SELECT value FROM klal_meta WHERE name = 'member_id')) AS is_alone,
  (SELECT count(*) FROM klal_epoch) AS epoch,
  (SELECT count(*) FROM klal_conflict) AS conflicts,
  (SELECT value FROM klal_meta WHERE name = 'contact_unix_ms') AS as_of_unix_ms
FROM (SELECT count(*) AS held, coalesce(sum(state IN (0, 4, 5)), 0) AS bare, coalesce(sum(state > 1), 0) AS applied
    FROM klal_change) h,
  (SELECT coalesce(sum("to" - "from"), 0) AS lacking FROM klal_missing WHERE what = 'headers') n;
-- Made anew with every change of the schema, to ask each constraint of each row.
CREATE VIEW klal_violations(kind, "table", "key", detail) AS SELECT NULL, NULL, NULL, NULL WHERE 0;
CREATE VIEW klal_epochs AS SELECT epoch, lower(hex(hash)) AS certificate FROM klal_epoch;
"""

# Tables are numbered in each file as they came, so lines are compared by the table's id.
TABLE_OF = "(SELECT table_id FROM klal_table t WHERE t.tab = klal_{0}.tab)"
DERIVED = (
    ("klal_life", f"{TABLE_OF.format('life')}, key, life, births, was_deleted"),
    ("klal_dead", f"{TABLE_OF.format('dead')}, key, life, births, was_deleted, is_ended, image"),
    (
        "klal_conflict",
        (
            f"{TABLE_OF.format('conflict')}, key, column_id, log, seq, life, key_text, value,"
            " winner_log, winner_seq, winner_value"
        ),
    ),
    ("klal_past", "log, past_log, seq, length"),
    ("klal_hidden", f"{TABLE_OF.format('hidden')}, key, key_text, image"),
    ("klal_lost", "table_id, column_id, log, seq, name, row_count"),
    ("klal_drop", "table_id, column_id, log, seq"),
    ("klal_column", f"{TABLE_OF.format('column')}, column_id, name, definition"),
    ("klal_table", "table_id, name, definition, foreign_keys"),
    ("klal_object", "object_id, kind, name, definition, is_built"),
    ("klal_policy", f"{TABLE_OF.format('policy')}, name, value"),
    ("klal_schema", "act, order_key"),
)
"""What follows from history, and must come out of it again: table, and what to compare of it."""


def quote(name: str) -> str:
    """Return an SQL identifier. The one place where a name becomes SQL text."""
    if "\0" in name:
        raise ValueError("an SQL name cannot hold a NUL")
    return '"' + name.replace('"', '""') + '"'
