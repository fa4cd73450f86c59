//! The embedded topic's file: its schema, how it is opened and recognised, and its connections.
//!
//! Queries are in the other files of `embedded`; what may be removed is decided in `retention`.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use uuid::Uuid;

use crate::config::limits;
use crate::config::own_files::{resolved, to_open};
use crate::model::error::{Error, Result};

/// The schema's version (SQLite's `user_version`); raise it with every change of `SCHEMA`.
pub const VERSION: i64 = 2;

/// SQLite's `application_id` of an embedded topic: "mbto" in ASCII.
const APPLICATION_ID: i64 = 0x6d62_746f;

/// Offsets of a partition are dense, so a chunk's records need no index: `last_offset` finds the chunk. `bytes` is
/// what counts for retention, per chunk and summed per partition.
const SCHEMA: &str = "
CREATE TABLE cluster (id TEXT NOT NULL);
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, uuid TEXT NOT NULL);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL REFERENCES topics,
    partition INTEGER NOT NULL,
    beginning INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition)
);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL REFERENCES partitions,
    first_offset INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    records BLOB NOT NULL,
    UNIQUE (partition, last_offset)
);
CREATE TABLE commits (
    partition INTEGER NOT NULL REFERENCES partitions,
    group_name TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (partition, group_name)
) WITHOUT ROWID;
";

/// What version 2 has beyond version 1. `epochs` is what Kafka keeps in leader-epoch-checkpoint: from which offset on a
/// partition's records have an epoch. Without a row, all have epoch 0.
const SCHEMA_2: &str = "
ALTER TABLE commits ADD COLUMN epoch INTEGER;
ALTER TABLE commits ADD COLUMN metadata TEXT;
CREATE TABLE epochs (
    partition INTEGER NOT NULL REFERENCES partitions,
    epoch INTEGER NOT NULL,
    start_offset INTEGER NOT NULL,
    PRIMARY KEY (partition, epoch)
) WITHOUT ROWID;
";

/// The name of the topic file in the data directory.
pub const FILE: &str = "topic.db";

/// The topic file of a data directory.
pub(super) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Opens the file for writing, and creates it if it is missing or empty.
///
/// # Errors
/// `Config` if the file belongs to another program or a newer mb, is broken, or cannot be written.
pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    let file = to_open(path, "the embedded topic", true)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut connection = open(&file, flags).map_err(|cause| refuse(path, cause))?;
    match recognise(path, &connection)? {
        0 => create(&mut connection).map_err(|cause| refuse(path, cause))?,
        1 => update(&mut connection).map_err(|cause| refuse(path, cause))?,
        _ => {}
    }
    tune(&connection).map_err(|cause| refuse(path, cause))?;
    Ok(connection)
}

/// Opens a read-only connection to a file that `open_writer` has opened.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    open(&resolved(path), OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// A path is a path, not a URI, and no link is followed.
fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(limits::EMBEDDED_BUSY_LIMIT)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The version of an embedded topic's file; 0 for a blank one. Only reads, so that another program's file stays
/// unchanged.
fn recognise(path: &Path, connection: &Connection) -> Result<i64> {
    let number = |sql| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(|cause| refuse(path, cause))
    };
    let version = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    let shown = path.display();
    if application != APPLICATION_ID {
        return Err(Error::Config(format!(
            "{shown} is another program's database, not an embedded topic; name another \
             --data-dir or move the file away"
        )));
    }
    if !(1..=VERSION).contains(&version) {
        return Err(Error::Config(format!(
            "{shown} has data version {version} and this mb reads version {VERSION}; use \
             the mb that wrote it, or name another --data-dir"
        )));
    }
    Ok(version)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let tx = immediate(connection)?;
    tx.execute_batch(SCHEMA)?;
    tx.execute_batch(SCHEMA_2)?;
    tx.execute("INSERT INTO cluster (id) VALUES (?1)", [Uuid::new_v4().to_string()])?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

fn update(connection: &mut Connection) -> rusqlite::Result<()> {
    let tx = immediate(connection)?;
    tx.execute_batch(SCHEMA_2)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

/// With synchronous = NORMAL a write survives a kill of the process at once, and a power failure from the next
/// checkpoint on. SQLite reuses free pages before the file grows, which bounds its size.
fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row("PRAGMA journal_size_limit = 16777216", [], |_| Ok(()))
}

/// BEGIN IMMEDIATE, because a transaction that begins as a reader cannot wait for the write lock later: SQLite
/// answers SQLITE_BUSY at once.
pub(super) fn immediate(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// For `map_err`: SQLite's error, with what was being done.
pub(super) fn failed(doing: &str) -> impl Fn(rusqlite::Error) -> Error + '_ {
    move |cause| match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            Error::storage(doing, "the disk is full; free some space, mb goes on by itself then")
        }
        _ => Error::storage(doing, cause),
    }
}

/// The error for a file that cannot be opened; most causes are permanent.
fn refuse(path: &Path, cause: rusqlite::Error) -> Error {
    let shown = path.display();
    match cause.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Config(format!(
            "{shown} is not a database; it was left untouched: move it away, or name another \
             --data-dir"
        )),
        Some(ErrorCode::DatabaseCorrupt) => Error::Config(format!(
            "{shown} is damaged ({cause}); it was left untouched: restore it from a copy, move it \
             away to start with an empty topic, or name another --data-dir"
        )),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            Error::Config(format!(
                "cannot open {shown} for writing ({cause}); name a --data-dir that can be written"
            ))
        }
        _ => failed(&format!("open {shown}"))(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refused(path: &Path) -> String {
        let before = fs::read(path).unwrap();
        let error = open_writer(path).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert_eq!(fs::read(path).unwrap(), before, "the file was touched");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        text
    }

    #[test]
    fn a_file_of_a_newer_mb_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        open_writer(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let text = refused(&path);
        assert!(text.contains("version 7") && text.contains("version 2"), "{text}");
    }

    #[test]
    fn a_fifo_or_a_folder_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        let fifo = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(fifo.success());
        let text = open_writer(&path).unwrap_err().to_string();
        let expected = format!("--data-dir: got a FIFO at {}, expected", path.display());
        assert!(text.starts_with(&expected), "{text}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = open_writer(&path).unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains("a directory at"));
    }

    #[test]
    fn garbage_is_refused_and_left_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        fs::write(&path, "this is no database, by any measure. ".repeat(200)).unwrap();
        refused(&path);
    }

    #[test]
    fn another_programs_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        assert!(refused(&path).contains("another program's"));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        drop(open_writer(&path).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes[60..].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        refused(&path);
    }

    #[test]
    fn a_blank_file_becomes_a_topic_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path());
        fs::write(&path, "").unwrap();
        let first = open_writer(&path).unwrap();
        let id = |connection: &Connection| -> String {
            connection.query_row("SELECT id FROM cluster", [], |row| row.get(0)).unwrap()
        };
        let cluster = id(&first);
        drop(first);
        assert_eq!(id(&open_writer(&path).unwrap()), cluster);
    }

    #[test]
    fn a_folder_that_is_missing_is_a_configuration_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = open_writer(&file(&dir.path().join("none"))).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
    }
}
