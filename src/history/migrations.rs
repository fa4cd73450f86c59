//! The history's tables, as the steps that bring a file from one version to the next. Also the numbers that
//! stand for kinds in them.

use rusqlite::{Connection, TransactionBehavior};

use crate::model::clock;

/// The newest schema that this mb knows, in the file's `user_version`.
pub const VERSION: i64 = 6;

/// `runs.kind` and `requests.kind`.
pub const KIND_TOPIC: i64 = 0;
pub const KIND_REDRIVE: i64 = 1;
pub const KIND_REPLAY: i64 = 2;

/// `runs.lane_hash`: `model::lane`, which is murmur2, finalized once more. A run that was split by another
/// hash cannot be made again: its records would be found in other lanes.
pub const LANE_HASH: i64 = 1;

/// Step N brings a file from version N to N + 1.
pub(super) const MIGRATIONS: [&str; VERSION as usize] = [
    r#"
CREATE TABLE scopes(
    id INTEGER PRIMARY KEY,
    log TEXT NOT NULL,
    cluster_id TEXT NOT NULL,
    group_name TEXT NOT NULL,
    topic TEXT NOT NULL,
    topic_id TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE(log, cluster_id, group_name, topic, topic_id)
) STRICT;

CREATE TABLE partitions(
    scope INTEGER NOT NULL REFERENCES scopes(id),
    partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL,
    confirmed INTEGER,
    -- runs up to this number are void: somebody moved the offsets after them
    void_up_to INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(scope, partition)
) STRICT, WITHOUT ROWID;

CREATE TABLE intents(
    scope INTEGER NOT NULL REFERENCES scopes(id),
    partition INTEGER NOT NULL,
    committing INTEGER NOT NULL,
    PRIMARY KEY(scope, partition, committing)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs(
    id INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    client TEXT NOT NULL,
    partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    lane INTEGER NOT NULL DEFAULT 0,
    lanes INTEGER NOT NULL DEFAULT 1,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    state INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    queued_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    run_us INTEGER,
    worker INTEGER,
    error TEXT,
    output TEXT
) STRICT;

CREATE TABLE attempts(
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    run_us INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    error TEXT NOT NULL,
    output TEXT
) STRICT;
CREATE INDEX attempts_of_run ON attempts(run);

CREATE TABLE dead_letters(
    id INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    run INTEGER NOT NULL,
    run_key TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    record_offset INTEGER NOT NULL,
    timestamp_ms INTEGER,
    key BLOB,
    value BLOB,
    headers BLOB,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    resolved_ms INTEGER,
    note TEXT
) STRICT;

CREATE TABLE ticks(
    id INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    sensor INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    run_us INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    batches INTEGER NOT NULL,
    ended_by TEXT NOT NULL,
    error TEXT
) STRICT;
"#,
    r#"
-- the range of the batch that the run belongs to, if that is not its own range
ALTER TABLE runs ADD COLUMN batch_first INTEGER;
ALTER TABLE runs ADD COLUMN batch_last INTEGER;
-- the run that this one was split from
ALTER TABLE runs ADD COLUMN parent INTEGER;
-- how keys are hashed into lanes: LANE_HASH
ALTER TABLE runs ADD COLUMN lane_hash INTEGER NOT NULL DEFAULT 1;
-- 0 read from the topic, 1 redrive, 2 replay; request is the row in requests of the latter two
ALTER TABLE runs ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN request INTEGER;
CREATE INDEX runs_of_request ON runs(request) WHERE request IS NOT NULL;

-- records that the run gave up on
ALTER TABLE runs ADD COLUMN dead_letters INTEGER NOT NULL DEFAULT 0;

-- the request that redrives the record, while that is open
ALTER TABLE dead_letters ADD COLUMN request INTEGER;
-- the run that redrives the record, or did so last
ALTER TABLE dead_letters ADD COLUMN redrive_run INTEGER;
CREATE INDEX dead_letters_by_state ON dead_letters(state, id);
CREATE INDEX dead_letters_of_run ON dead_letters(run);
CREATE INDEX dead_letters_of_request ON dead_letters(request, partition, record_offset)
    WHERE request IS NOT NULL;
CREATE INDEX dead_letters_of_redrive ON dead_letters(redrive_run) WHERE redrive_run IS NOT NULL;

-- redrives and replays
CREATE TABLE requests(
    id INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    kind INTEGER NOT NULL,
    -- of a replay: both offsets are included
    partition INTEGER,
    first_offset INTEGER,
    last_offset INTEGER,
    -- 0 open, 1 done, 2 cancelled
    state INTEGER NOT NULL DEFAULT 0,
    asked_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    note TEXT
) STRICT;

-- offsets that were passed over without being processed (--on-missing-offsets skip)
CREATE TABLE gaps(
    id INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
"#,
    r#"
-- AUTOINCREMENT: a number is never given twice, even if its row is gone. People keep these numbers, and a
-- request's is part of the keys of its runs.
CREATE TABLE numbered_letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    run INTEGER NOT NULL,
    run_key TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    record_offset INTEGER NOT NULL,
    timestamp_ms INTEGER,
    key BLOB,
    value BLOB,
    headers BLOB,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    resolved_ms INTEGER,
    note TEXT,
    -- the request that redrives the record, while that is open
    request INTEGER,
    -- the run that redrives the record, or did so last
    redrive_run INTEGER
) STRICT;
INSERT INTO numbered_letters(id, scope, run, run_key, topic, partition, record_offset, timestamp_ms,
    key, value, headers, error, attempts, at_ms, state, resolved_ms, note, request, redrive_run)
    SELECT id, scope, run, run_key, topic, partition, record_offset, timestamp_ms,
    key, value, headers, error, attempts, at_ms, state, resolved_ms, note, request, redrive_run
    FROM dead_letters;
DROP TABLE dead_letters;
ALTER TABLE numbered_letters RENAME TO dead_letters;
CREATE INDEX dead_letters_by_state ON dead_letters(state, id);
CREATE INDEX dead_letters_of_run ON dead_letters(run);
CREATE INDEX dead_letters_of_request ON dead_letters(request, partition, record_offset)
    WHERE request IS NOT NULL;
CREATE INDEX dead_letters_of_redrive ON dead_letters(redrive_run) WHERE redrive_run IS NOT NULL;

CREATE TABLE numbered_requests(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    kind INTEGER NOT NULL,
    -- of a replay: both offsets are included
    partition INTEGER,
    first_offset INTEGER,
    last_offset INTEGER,
    -- 0 open, 1 done, 2 cancelled
    state INTEGER NOT NULL DEFAULT 0,
    asked_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    note TEXT
) STRICT;
INSERT INTO numbered_requests(id, scope, kind, partition, first_offset, last_offset, state, asked_ms,
    ended_ms, note)
    SELECT id, scope, kind, partition, first_offset, last_offset, state, asked_ms, ended_ms, note
    FROM requests;
DROP TABLE requests;
ALTER TABLE numbered_requests RENAME TO requests;
"#,
    r#"
-- no start needs to know the scope's runs up to this number: each is done and below the committed offset, or
-- void, and stays so
CREATE TABLE settled(
    scope INTEGER PRIMARY KEY REFERENCES scopes(id),
    up_to INTEGER NOT NULL
) STRICT;
"#,
    r#"
-- the leader epoch of the run's last record, or a later one
ALTER TABLE runs ADD COLUMN leader_epoch INTEGER;
-- of the last commit that the log confirmed: the leader epoch of the record below it, and its number
ALTER TABLE partitions ADD COLUMN leader_epoch INTEGER;
ALTER TABLE partitions ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
-- for the marks beside commits: whose they are, and the number of the newest one that was sent, or was about to be
CREATE TABLE instance(
    id TEXT NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO instance(id) VALUES (lower(hex(randomblob(8))));
"#,
    r#"
-- microseconds from the arrival of the batch's first record to the run's entry into the queue
ALTER TABLE runs ADD COLUMN read_us INTEGER;
-- when a person edited the record, and its key and value since then
ALTER TABLE dead_letters ADD COLUMN edited_ms INTEGER;
ALTER TABLE dead_letters ADD COLUMN edited_key BLOB;
ALTER TABLE dead_letters ADD COLUMN edited_value BLOB;
-- covers the counts by error: a dead letter's error lies behind its payload, so its row is slow to read
CREATE INDEX dead_letters_by_error ON dead_letters(state, error, topic, scope);
-- of a run that was split: how many of its records went on in runs of their own
ALTER TABLE runs ADD COLUMN passed_on INTEGER;
CREATE INDEX runs_of_parent ON runs(parent) WHERE parent IS NOT NULL;
-- what a run printed (a failed attempt's is in attempts): apart from the runs, since people's lists and counts go
-- through all of those. Runs of earlier versions have it in runs.output.
CREATE TABLE outputs(
    run INTEGER PRIMARY KEY,
    output TEXT NOT NULL
) STRICT;
"#,
];

/// Brings a file of version `from` to the newest one, in one transaction. `follows_damaged`: the file
/// replaces a damaged one, which was moved aside.
pub(super) fn migrate(
    db: &mut Connection,
    from: usize,
    follows_damaged: bool,
) -> rusqlite::Result<()> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &MIGRATIONS[from..] {
        change.execute_batch(step)?;
    }
    if follows_damaged {
        // Which numbers the damaged file has given out is not known any more. Microseconds since 1970 lie
        // above all of them: numbers are given from 1, or from such a moment on, and slower than one each
        // microsecond.
        let now_us = clock::now_ms().saturating_mul(1000);
        // Copying the tables has left rows of number 0 here.
        change.execute("DELETE FROM sqlite_sequence", [])?;
        change.execute(
            "INSERT INTO sqlite_sequence(name, seq) VALUES ('dead_letters', ?1), ('requests', ?1)",
            [now_us],
        )?;
    }
    change.pragma_update(None, "user_version", VERSION)?;
    change.commit()
}
