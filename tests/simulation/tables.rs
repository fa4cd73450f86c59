//! The history's tables: in memory, and shared by three connections as a running mb's file is. They are kept
//! from seed to seed and emptied.

use std::sync::atomic::{AtomicU64, Ordering};

use mb::history::schema;
use rusqlite::Connection;

/// The connections to one history.
pub struct Files {
    /// The history thread's.
    pub history: Connection,
    /// Of the thread that works on redrives and replays.
    pub requests: Connection,
    /// Of commands and the page.
    pub people: Connection,
}

/// Empty before the first seed, and after one that has panicked.
#[derive(Default)]
pub struct Tables(Option<Files>);

impl Tables {
    pub fn take(&mut self) -> Files {
        let files = self.0.take().unwrap_or_else(Files::open);
        files.empty();
        files
    }

    pub fn put_back(&mut self, files: Files) {
        self.0 = Some(files);
    }
}

impl Files {
    fn open() -> Files {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("simulated-{number}");
        let open = || {
            let db = schema::open_in_memory(&name).unwrap();
            db.pragma_update(None, "synchronous", "OFF").unwrap();
            db.set_prepared_statement_cache_capacity(100);
            db
        };
        Files { history: open(), requests: open(), people: open() }
    }

    fn empty(&self) {
        let db = &self.history;
        // A table refers to earlier ones, so they are emptied from the end.
        let tables: Vec<String> = db
            .prepare_cached(
                "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid DESC",
            )
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        // SQLite's own table has the highest numbers given so far: a seed's begin at 1 again.
        let is_emptied = |table: &&String| {
            let is_sqlites = table.starts_with("sqlite_") && *table != "sqlite_sequence";
            !is_sqlites && *table != "instance"
        };
        for table in tables.iter().filter(is_emptied) {
            db.prepare_cached(&format!("DELETE FROM {table}")).unwrap().execute([]).unwrap();
        }
        db.execute("UPDATE instance SET sequence = 0", []).unwrap();
    }
}
