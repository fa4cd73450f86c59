//! Opens the history's file: at the newest version, checked, or moved aside if it is damaged. Files of other
//! programs and of a newer mb are refused and left alone.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::io::Errno;

use super::clean_shutdown::{self, CheckedAt, InUse};
pub use super::migrations::VERSION;
use super::migrations::migrate;
use crate::config::data_dir::DataDir;
use crate::config::own_files::{check_file, to_open, with_ending};
use crate::config::rights;
use crate::model::clock;
use crate::model::error::{Error, Result};

/// How it is opened: a path is a path, not a URI, and no link is followed.
const WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

/// The history's file in the data directory.
pub const FILE: &str = "history.db";

/// Opens (or creates) a history for writing, and brings it to the newest version.
///
/// # Errors
/// `Config` if the file is no history, or that of a newer mb; it is left as it is. `Storage` if it cannot be
/// read or written.
pub fn open(path: &Path) -> Result<Connection> {
    let resolved = to_open(path, "mb's history", true)?;
    let doing = || format!("open the history {}", path.display());
    let db = Connection::open_with_flags(resolved, WRITE | OpenFlags::SQLITE_OPEN_CREATE)
        .map_err(|cause| Error::storage(doing(), in_full(&cause)))?;
    configure(&db, path)?;
    update(db, path)
}

/// Opens a history in memory: all connections of this process that name it share it. For the simulation, which
/// would write a file for each process that it simulates.
///
/// # Errors
/// As `open`.
#[cfg(feature = "testing")]
pub fn open_in_memory(name: &str) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(format!("file:{name}?mode=memory&cache=shared"), flags)
        .map_err(|cause| Error::storage(format!("open the history {name}"), in_full(&cause)))?;
    configure(&db, Path::new(name))?;
    update(db, Path::new(name))
}

/// Opens a history as `open` does, but moves a damaged file aside first, with its journal, and creates a new
/// one: mb can go on from the committed offsets without it. A file that has not changed since mb's last clean
/// shutdown is not checked (see `clean_shutdown`). A file of another program or of a newer mb is refused, as
/// by `open`.
///
/// # Errors
/// As `open`; `Storage` if the file cannot be moved.
pub fn open_or_set_aside(path: &Path) -> Result<(Connection, InUse)> {
    check_file(path, "mb's history")?;
    clean_shutdown::check_place(path)?;
    // If it cannot be opened, the check finds out why.
    if let Some(checked) = clean_shutdown::unchanged_since(path)
        && let Ok(db) = open(path)
    {
        return Ok((db, InUse::begin(path, Some(checked))?));
    }
    let checked = match check(path) {
        Checked::Whole => Some(CheckedAt::now()),
        Checked::NotFinished => None,
        Checked::Damaged(damage) => {
            set_aside(path, &damage)?;
            Some(CheckedAt::now())
        }
    };
    if fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        log::warn!(
            "the history {} is empty: mb goes on from the committed offsets",
            path.display()
        );
    }
    let db = open(path)?;
    Ok((db, InUse::begin(path, checked)?))
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
        "the history {} is damaged ({damage}): it was moved to {}, and mb continues from the committed \
         offsets; what was finished above them is repeated under new run keys, and its dead \
         letters are in the moved file only",
        path.display(),
        aside.display()
    );
    Ok(())
}

/// Ends the name of a file that was moved aside, followed by the time in milliseconds since 1970.
const ASIDE: &str = ".damaged-";

/// Whether a damaged history lies beside `path`.
fn was_set_aside(path: &Path) -> bool {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
    let start = format!("{}{ASIDE}", name.to_string_lossy());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&start))
}

/// What reading the whole file has shown.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    /// Nothing is wrong, or there is no file.
    Whole,
    Damaged(String),
    /// The file could not be read to its end, so nothing is known.
    NotFinished,
}

fn check(path: &Path) -> Checked {
    if !path.exists() {
        return Checked::Whole;
    }
    let Ok(resolved) = to_open(path, "mb's history", false) else { return Checked::NotFinished };
    let check = || -> rusqlite::Result<String> {
        let db = Connection::open_with_flags(resolved, WRITE)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    };
    match check() {
        Ok(answer) if answer == "ok" => Checked::Whole,
        // The answer has several lines.
        Ok(answer) => Checked::Damaged(answer.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(cause) if is_damage(&cause) => Checked::Damaged(cause.to_string()),
        Err(_) => Checked::NotFinished,
    }
}

/// Whether SQLite says that the file itself is damaged, which no waiting mends.
pub fn is_damage(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// Opens an existing history to read it only, while another process may be writing.
///
/// # Errors
/// As `open`; also `Config` if there is no such file.
pub fn open_read_only(path: &Path) -> Result<Connection> {
    check_exists(path)?;
    let resolved = to_open(path, "mb's history", false)?;
    let doing = || format!("open the history {}", path.display());
    let db = Connection::open_with_flags(resolved, WRITE)
        .map_err(|cause| Error::storage(doing(), in_full(&cause)))?;
    db.busy_timeout(Duration::from_secs(5))
        .map_err(|cause| Error::storage(doing(), in_full(&cause)))?;
    db.pragma_update(None, "query_only", true).map_err(|cause| refuse(path, &cause))?;
    match version(&db, path)? {
        VERSION => Ok(db),
        found @ 1..VERSION => {
            drop(db);
            bring_up_to_date(path, found)?;
            open_read_only(path)
        }
        found => Err(other_version(path, found)),
    }
}

/// Brings a history of an earlier version to the newest one, for commands that only read it.
///
/// # Errors
/// As `open`; `Config` if another process has it, which is an mb of that earlier version.
fn bring_up_to_date(path: &Path, found: i64) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let Some(_lock) = DataDir::try_lock(folder)? else { return Err(other_version(path, found)) };
    open(path).map(drop)
}

/// Whether there is a history, for commands that must not create one.
///
/// # Errors
/// `Config` if there is no such file, or it is another user's.
pub fn check_exists(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), rights::check)?;
    Err(Error::Config(format!(
        "--data-dir: there is no history at {}; name the folder that mb runs with",
        path.display()
    )))
}

/// The journal is written back into the file each time it reaches this size. That waits for the disk, and runs
/// that are planned meanwhile wait with it, so it should not be done too often.
const JOURNAL_BYTES: i64 = 16 << 20;
/// SQLite's default, which no history changes.
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

fn update(mut db: Connection, path: &Path) -> Result<Connection> {
    let from = version(&db, path)?;
    if from == VERSION {
        return Ok(db);
    }
    let follows_damaged = from == 0 && was_set_aside(path);
    let from = usize::try_from(from).expect("a version is not negative here");
    migrate(&mut db, from, follows_damaged).map_err(|cause| refuse(path, &cause))?;
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
            // The next start is to check the file, and to find the same. If the marker cannot be removed,
            // that start ends with the same error as this one.
            let _ = clean_shutdown::invalidate(path);
            Error::Config(format!(
                "--data-dir: {} is damaged or no history of mb ({cause}); the next start of mb moves \
                 it away and goes on from the committed offsets",
                path.display()
            ))
        }
        false => Error::storage(format!("use the history {}", path.display()), in_full(cause)),
    }
}

/// SQLite does not say why it cannot open a file, but the system has just said so.
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
    use crate::history::migrations::MIGRATIONS;
    use crate::history::recovery;
    use crate::history::scope::ScopeId;

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
    fn a_file_of_each_earlier_version_is_updated_and_keeps_its_rows() {
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
            let scope = ScopeId(1);
            db.execute("INSERT INTO partitions VALUES (1, 0, 0, NULL, 0, NULL, 0)", []).unwrap();
            let recorded = recovery::recorded(&db, scope).unwrap();
            assert_eq!(recorded[&0].runs.len(), 2000);
            let dead_letters: i64 =
                db.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0)).unwrap();
            assert_eq!(dead_letters, 1);
        }
    }

    #[test]
    fn a_damaged_file_is_moved_aside_unchanged_and_replaced() {
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
            InUse::begin(&path, Some(CheckedAt::now())).unwrap().end_from(1);
            assert!(clean_shutdown::unchanged_since(&path).is_some());
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
    fn a_sound_file_stays_and_a_foreign_one_is_refused_but_not_moved() {
        let folder = folder();
        let path = folder.path().join("history.db");
        history(&path, VERSION as usize);
        InUse::begin(&path, Some(CheckedAt::now())).unwrap().end_from(1);
        assert!(clean_shutdown::unchanged_since(&path).is_some());
        let (db, _) = open_or_set_aside(&path).unwrap();
        let runs: i64 = db.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
        drop(db);
        assert_eq!(
            clean_shutdown::unchanged_since(&path),
            None,
            "what became of it since is not known"
        );
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
