//! The modelled file of mb's `kafka`: what the readers and producers of an embedded topic share. And what a commit is.

#[path = "../../../src/kafka/embedded/shared.rs"]
mod shared;
#[path = "../../../src/kafka/topic.rs"]
mod topic;

use std::path::Path;
use std::time::Instant;

use shared::Shared;
pub use topic::Commit;

/// The file itself, which no model reads.
mod store {
    use std::path::Path;

    use rusqlite::Connection;

    use crate::model::error::Error;

    pub fn open_writer(_path: &Path) -> Result<Connection, Error> {
        Ok(Connection::default())
    }

    pub fn open_reader(_path: &Path) -> rusqlite::Result<Connection> {
        Ok(Connection::default())
    }

    pub fn failed(doing: &str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |cause| Error::storage(doing, cause)
    }
}

pub struct Topic(Shared);

impl Topic {
    pub fn open() -> Topic {
        Topic(Shared::open(Path::new("topic.db"), 0).expect("the stand-in opens"))
    }

    pub fn version(&self) -> u64 {
        self.0.version()
    }

    pub fn notify(&self) {
        self.0.notify();
    }

    pub fn wait(&self, seen: u64, until: Instant) {
        self.0.wait(seen, until);
    }
}
