//! The history file's tables and their version. Only SQL that makes or checks the file is here.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::io::Errno;

use super::left::{self, InUse, ReadAt};
use crate::config::data_dir::{check_file, with_ending};
use crate::model::clock;
use crate::model::error::{Error, Result};

/// The newest schema that this mb knows, in the file's `user_version`.
pub const VERSION: i64 = 4;

/// Step N brings a file from version N to N + 1.
const MIGRATIONS: [&str; VERSION as usize] = [
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
    -- runs up to this number say nothing any more: somebody moved the offsets since
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
-- the range of the batch that it is a run of, where that is another one than its own
ALTER TABLE runs ADD COLUMN batch_first INTEGER;
ALTER TABLE runs ADD COLUMN batch_last INTEGER;
-- the run that it was split from
ALTER TABLE runs ADD COLUMN parent INTEGER;
-- how keys are hashed into lanes; 1 is murmur2, finalized once more
ALTER TABLE runs ADD COLUMN lane_hash INTEGER NOT NULL DEFAULT 1;
-- 0 the topic's own way, 1 redrive, 2 replay; of the latter the row in requests
ALTER TABLE runs ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN request INTEGER;
CREATE INDEX runs_of_request ON runs(request) WHERE request IS NOT NULL;

-- records that it gave up on
ALTER TABLE runs ADD COLUMN dead_letters INTEGER NOT NULL DEFAULT 0;

-- the request that redrives it, while that is under way
ALTER TABLE dead_letters ADD COLUMN request INTEGER;
-- the run that redrives it, or did last
ALTER TABLE dead_letters ADD COLUMN redrive_run INTEGER;
CREATE INDEX dead_letters_by_state ON dead_letters(state, id);
CREATE INDEX dead_letters_of_run ON dead_letters(run);
CREATE INDEX dead_letters_of_request ON dead_letters(request, partition, record_offset)
    WHERE request IS NOT NULL;
CREATE INDEX dead_letters_of_redrive ON dead_letters(redrive_run) WHERE redrive_run IS NOT NULL;

-- redrives and replays that were asked for
CREATE TABLE requests(
    id INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL REFERENCES scopes(id),
    kind INTEGER NOT NULL,
    -- of a replay: offsets, both included
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
-- AUTOINCREMENT: a number is never given twice, though the row that had it is gone. People keep
-- them, and a request's is in the keys of its runs.
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
    -- the request that redrives it, while that is under way
    request INTEGER,
    -- the run that redrives it, or did last
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
    -- of a replay: offsets, both included
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
-- of the scope's runs up to this number no start needs to know any more: each is done and below what was
-- committed, or void, and stays so
CREATE TABLE settled(
    scope INTEGER PRIMARY KEY REFERENCES scopes(id),
    up_to INTEGER NOT NULL
) STRICT;
"#,
];

/// `runs.kind` and `requests.kind`.
pub const KIND_TOPIC: i64 = 0;
pub const KIND_REDRIVE: i64 = 1;
pub const KIND_REPLAY: i64 = 2;

/// Opens (or makes) a history file for writing, brought to the newest version.
///
/// # Errors
/// `Config` where the file is no history, or one of a newer mb; `Storage` where it cannot be read
/// or written. A refused file is left as it is.
pub fn open(path: &Path) -> Result<Connection> {
    check_file(path, "mb's history")?;
    let doing = || format!("open the history {}", path.display());
    let db = Connection::open(path).map_err(|cause| Error::storage(doing(), in_full(&cause)))?;
    configure(&db, path)?;
    migrate(db, path)
}

/// `open`, but a damaged file is moved aside first, with its journal, and a new one made: mb can go
/// on from the committed offsets without it. One that is as mb left it is not looked at (see `left`). A
/// file that is another program's, or a newer mb's, is refused as by `open`.
///
/// # Errors
/// As `open`; `Storage` where it cannot be moved.
pub fn open_or_set_aside(path: &Path) -> Result<(Connection, InUse)> {
    check_file(path, "mb's history")?;
    left::check_place(path)?;
    // What is wrong with one that cannot be opened, the check says.
    if let Some(read) = left::as_noted(path)
        && let Ok(db) = open(path)
    {
        return Ok((db, InUse::begin(path, Some(read))?));
    }
    let read = match check(path) {
        Checked::Whole => Some(ReadAt::now()),
        Checked::NotFinished => None,
        Checked::Damaged(damage) => {
            set_aside(path, &damage)?;
            Some(ReadAt::now())
        }
    };
    if fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        log::warn!(
            "the history {} is empty: mb goes on from the committed offsets",
            path.display()
        );
    }
    let db = open(path)?;
    Ok((db, InUse::begin(path, read)?))
}

/// Moves a damaged file away, with its journal.
fn set_aside(path: &Path, damage: &str) -> Result<()> {
    let aside = with_ending(path, &format!("{ASIDE}{}", clock::now_ms()));
    for ending in ["-wal", "-shm", ""] {
        match fs::rename(with_ending(path, ending), with_ending(&aside, ending)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(Error::storage(
                    format!("move the damaged history {} aside", path.display()),
                    cause,
                ));
            }
            _ => {}
        }
    }
    log::error!(
        "the history {} is damaged ({damage}): it was moved to {}, and mb goes on from the committed \
         offsets; what was finished above them is done again under new run keys, and its dead \
         letters are in the moved file only",
        path.display(),
        aside.display()
    );
    Ok(())
}

/// What stands behind the name of a file that was moved aside, in front of the time.
const ASIDE: &str = ".damaged-";

/// Whether a damaged history lies beside `path`.
fn was_set_aside(path: &Path) -> bool {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
    let start = format!("{}{ASIDE}", name.to_string_lossy());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&start))
}

/// What a look at all of a file that should be a database has shown.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    /// Nothing is wrong, or nothing is there.
    Whole,
    Damaged(String),
    /// It could not be read to its end, which says nothing.
    NotFinished,
}

fn check(path: &Path) -> Checked {
    if !path.exists() {
        return Checked::Whole;
    }
    let check = || -> rusqlite::Result<String> {
        let db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    match check() {
        Ok(answer) if answer == "ok" => Checked::Whole,
        // It has several lines.
        Ok(answer) => Checked::Damaged(answer.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(cause) if is_damage(&cause) => Checked::Damaged(cause.to_string()),
        Err(_) => Checked::NotFinished,
    }
}

/// Whether SQLite says that the file itself is broken, which no waiting mends.
pub fn is_damage(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Opens an existing history to read it only, while another process may be writing.
///
/// # Errors
/// As `open`; also `Config` where there is no such file.
pub fn open_read_only(path: &Path) -> Result<Connection> {
    check_exists(path)?;
    check_file(path, "mb's history")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let doing = || format!("open the history {}", path.display());
    let db = Connection::open_with_flags(path, flags)
        .map_err(|cause| Error::storage(doing(), in_full(&cause)))?;
    db.busy_timeout(Duration::from_secs(5))
        .map_err(|cause| Error::storage(doing(), in_full(&cause)))?;
    db.pragma_update(None, "query_only", true).map_err(|cause| refuse(path, &cause))?;
    let found = version(&db, path)?;
    if found == VERSION { Ok(db) } else { Err(other_version(path, found)) }
}

/// # Errors
/// `Config` where there is no such file.
pub fn check_exists(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "--data-dir: there is no history at {}; name the folder that mb runs with",
        path.display()
    )))
}

/// The journal is written back into the file each time it has this size. That waits for the disk, and
/// runs that are planned meanwhile with it, so it is not done too often.
const JOURNAL_BYTES: i64 = 16 << 20;
/// SQLite's own, which no history changes.
const PAGE_BYTES: i64 = 4096;

fn configure(db: &Connection, path: &Path) -> Result<()> {
    // The first statement that touches the file shows whether it is a database at all.
    let settings = || -> rusqlite::Result<()> {
        db.busy_timeout(Duration::from_secs(5))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "cache_size", -2048)?;
        db.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
        db.pragma_update(None, "wal_autocheckpoint", JOURNAL_BYTES / PAGE_BYTES)?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(())
    };
    // Neither a newer file nor another program's may even be switched to another journal mode.
    let found = version(db, path)?;
    if found > VERSION {
        return Err(other_version(path, found));
    }
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|cause| refuse(path, &cause))?;
    if found == 0 && tables > 0 {
        return Err(Error::Config(format!(
            "--data-dir: {} is a database, but no history of mb; name another folder",
            path.display()
        )));
    }
    settings().map_err(|cause| refuse(path, &cause))
}

fn migrate(mut db: Connection, path: &Path) -> Result<Connection> {
    let from = version(&db, path)?;
    if from == VERSION {
        return Ok(db);
    }
    let steps = usize::try_from(from).expect("a version is not negative here");
    let migrate = |db: &mut Connection| -> rusqlite::Result<()> {
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for step in &MIGRATIONS[steps..] {
            change.execute_batch(step)?;
        }
        if from == 0 && was_set_aside(path) {
            // What the damaged file has given out is not known any more. Microseconds since 1970 are
            // above it: numbers are given from 1, or from such a moment on, and not one each
            // microsecond.
            let now_us = clock::now_ms().saturating_mul(1000);
            // The tables have their rows there, of number 0, from having been copied.
            change.execute("DELETE FROM sqlite_sequence", [])?;
            change.execute(
                "INSERT INTO sqlite_sequence(name, seq) VALUES ('dead_letters', ?1), ('requests', ?1)",
                [now_us],
            )?;
        }
        change.pragma_update(None, "user_version", VERSION)?;
        change.commit()
    };
    migrate(&mut db).map_err(|cause| refuse(path, &cause))?;
    Ok(db)
}

fn version(db: &Connection, path: &Path) -> Result<i64> {
    let found: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|cause| refuse(path, &cause))?;
    if found < 0 { Err(other_version(path, found)) } else { Ok(found) }
}

fn other_version(path: &Path, found: i64) -> Error {
    Error::Config(format!(
        "--data-dir: {} has history version {found}, and this mb knows {VERSION}; use the mb that \
         wrote it, or another folder",
        path.display()
    ))
}

fn refuse(path: &Path, cause: &rusqlite::Error) -> Error {
    match is_damage(cause) {
        true => {
            // So that the next start looks, and finds the same. Where it stays, that start says what
            // this one does.
            let _ = left::forget(path);
            Error::Config(format!(
                "--data-dir: {} is damaged or no history of mb ({cause}); the next start of mb moves \
                 it away and goes on from the committed offsets",
                path.display()
            ))
        }
        false => Error::storage(format!("use the history {}", path.display()), in_full(cause)),
    }
}

/// SQLite does not say why it cannot open a file, and the system has said so just before.
fn in_full(cause: &rusqlite::Error) -> String {
    let system = io::Error::last_os_error();
    let lacking = [Errno::MFILE, Errno::NFILE];
    match Errno::from_io_error(&system) {
        Some(errno)
            if lacking.contains(&errno)
                && cause.sqlite_error_code() == Some(ErrorCode::CannotOpen) =>
        {
            format!("{cause}: {system}")
        }
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_new_file_gets_the_newest_version_and_opens_again() {
        let folder = folder();
        let path = folder.path().join("history.db");
        drop(open(&path).unwrap());
        assert_eq!(version(&open(&path).unwrap(), &path), Ok(VERSION));
        assert_eq!(version(&open_read_only(&path).unwrap(), &path), Ok(VERSION));
    }

    #[test]
    fn a_newer_file_is_refused_with_both_versions_and_left_alone() {
        let folder = folder();
        let path = folder.path().join("history.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        let text = error.to_string();
        assert!(text.contains("version 7") && text.contains(&format!("knows {VERSION}")), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    /// A history with some pages, as version `version` of mb made it.
    fn history(path: &Path, version: usize) {
        let db = Connection::open(path).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        for step in &MIGRATIONS[..version] {
            db.execute_batch(step).unwrap();
        }
        db.pragma_update(None, "user_version", version as i64).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', 'c', 'g', 't', 'i', 0)", []).unwrap();
        for id in 1..=2000 {
            db.execute(
                "INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, records, \
                 bytes, state, queued_ms) VALUES (?1, 1, 'rdkafka', 0, ?1 * 10, ?1 * 10 + 9, 10, 99, \
                 2, 5)",
                [id],
            )
            .unwrap();
        }
        db.execute(
            "INSERT INTO dead_letters(scope, run, run_key, topic, partition, record_offset, error, \
             attempts, at_ms) VALUES (1, 7, 't/0/70-79', 't', 0, 71, 'bad', 3, 6)",
            [],
        )
        .unwrap();
    }

    #[test]
    fn a_file_of_each_earlier_version_is_brought_to_the_newest_and_keeps_its_rows() {
        for version in 1..VERSION as usize {
            let folder = folder();
            let path = folder.path().join("history.db");
            history(&path, version);
            let db = open(&path).unwrap();
            assert_eq!(super::version(&db, &path), Ok(VERSION));
            let fresh = open(&folder.path().join("fresh.db")).unwrap();
            let columns = |db: &Connection| -> Vec<(String, String)> {
                let mut rows = db
                    .prepare(
                        "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c \
                         WHERE m.type = 'table' ORDER BY 1, 2",
                    )
                    .unwrap();
                let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                rows.query_map([], row).unwrap().map(Result::unwrap).collect()
            };
            assert_eq!(columns(&db), columns(&fresh), "from version {version}");
            let scope = super::super::ScopeId(1);
            db.execute("INSERT INTO partitions VALUES (1, 0, 0, NULL, 0)", []).unwrap();
            let recorded = super::super::recovery::recorded(&db, scope).unwrap();
            assert_eq!(recorded[&0].runs.len(), 2000);
            let letters: i64 =
                db.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0)).unwrap();
            assert_eq!(letters, 1);
        }
    }

    #[test]
    fn a_damaged_file_is_moved_aside_as_it_is_and_a_new_one_made() {
        type Damage = fn(&mut Vec<u8>);
        let damages: [(&str, Damage); 4] = [
            ("garbage", |bytes| bytes.fill(b'g')),
            ("truncated", |bytes| bytes.truncate(9000)),
            ("pages overwritten", |bytes| bytes[4096..20000].fill(0x5a)),
            ("its header gone", |bytes| bytes[..100].fill(0)),
        ];
        for (what, damage) in damages {
            let folder = folder();
            let path = folder.path().join("history.db");
            history(&path, VERSION as usize);
            InUse::begin(&path, Some(ReadAt::now())).unwrap().end_from(1);
            assert!(left::as_noted(&path).is_some());
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            let (db, _) = open_or_set_aside(&path).unwrap();
            let runs: i64 =
                db.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
            assert_eq!(runs, 0, "{what}");
            let aside: Vec<PathBuf> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.display().to_string().contains(".damaged-"))
                .collect();
            assert_eq!(aside.len(), 1, "{what}: {aside:?}");
            assert!(std::fs::read(&aside[0]).unwrap() == bytes, "{what}: the file is as it was");
        }
    }

    #[test]
    fn a_sound_file_stays_and_a_foreign_one_is_refused_rather_than_moved() {
        let folder = folder();
        let path = folder.path().join("history.db");
        history(&path, VERSION as usize);
        InUse::begin(&path, Some(ReadAt::now())).unwrap().end_from(1);
        assert!(left::as_noted(&path).is_some());
        let (db, _) = open_or_set_aside(&path).unwrap();
        let runs: i64 = db.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
        drop(db);
        assert_eq!(left::as_noted(&path), None, "what became of it since is not known");
        assert_eq!(runs, 2000);
        let foreign = folder.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE pets(name)").unwrap();
        assert_eq!(open_or_set_aside(&foreign).unwrap_err().exit_code(), 78);
        assert!(foreign.exists());
        assert!(!with_ending(&foreign, "-left").exists(), "nothing of mb's is put beside it");
    }

    #[test]
    fn garbage_and_foreign_files_are_refused_and_left_alone() {
        let folder = folder();
        let garbage = folder.path().join("garbage.db");
        std::fs::write(&garbage, b"this is no database, whatever its name says".repeat(50))
            .unwrap();
        let before = std::fs::read(&garbage).unwrap();
        assert_eq!(open(&garbage).unwrap_err().exit_code(), 78);
        assert_eq!(std::fs::read(&garbage).unwrap(), before);

        let foreign = folder.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE pets(name)").unwrap();
        let before = std::fs::read(&foreign).unwrap();
        let error = open(&foreign).unwrap_err();
        assert!(error.to_string().contains("no history of mb"), "{error}");
        assert!(std::fs::read(&foreign).unwrap() == before, "its journal mode is its own");
    }
}
