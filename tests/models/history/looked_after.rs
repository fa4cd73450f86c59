//! Stand-ins for the parts of the history that look after its file: nothing of them waits for another thread.

pub mod clean_shutdown {
    use std::path::Path;

    pub fn invalidate(_path: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

pub mod journal {
    use rusqlite::Connection;

    use crate::model::error::Result;

    #[derive(Debug)]
    pub struct Journal(Connection);

    impl Journal {
        pub fn of(db: &Connection) -> std::io::Result<Option<Journal>> {
            Ok(Some(Journal(db.clone())))
        }

        pub fn sync(&self) -> Result<()> {
            self.0.sync();
            Ok(())
        }
    }
}

pub mod place {
    use std::path::Path;

    pub struct Place;

    impl Place {
        pub fn of(_path: &Path) -> Option<Place> {
            None
        }

        pub fn check(&mut self) -> Result<(), String> {
            Ok(())
        }
    }
}

pub mod pruning {
    use rusqlite::Connection;

    use super::scope::ScopeId;

    pub struct Pruner;

    impl Pruner {
        pub fn new(_scope: ScopeId, _keep_runs: u64) -> Pruner {
            Pruner
        }

        pub fn count(&mut self, _planned: usize) {}

        pub fn is_due(&self, _moved: bool) -> bool {
            false
        }

        pub fn prune(&mut self, _db: &mut Connection) -> rusqlite::Result<bool> {
            Ok(false)
        }
    }
}

pub mod recovery {
    #[derive(Debug)]
    pub struct Resume;
}

pub mod reset {
    use crate::model::offset::{Epoch, Offset, Partition};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Reset {
        pub partition: Partition,
        pub from: Option<Offset>,
        pub to: Offset,
        pub epoch: Option<Epoch>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intended {
        pub void_runs: usize,
        pub sequence: i64,
    }
}

pub mod schema {
    pub fn is_damage(cause: &rusqlite::Error) -> bool {
        *cause == rusqlite::Error::Damaged
    }
}

pub mod scope {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ScopeId(pub i64);

    pub struct Instance {
        pub id: String,
        pub newest: i64,
    }

    pub fn instance(_db: &rusqlite::Connection) -> crate::model::error::Result<Instance> {
        Ok(Instance { id: "me".to_owned(), newest: 0 })
    }
}
