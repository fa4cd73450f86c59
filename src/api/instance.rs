//! The mb of a data directory, for commands: an operation goes to the process that is running there, or is
//! performed in this process on the files of one that is not.

use std::path::Path;

use super::context::{Context, Status};
use super::operations::Operation;
use super::operations::overview::GetStatus;
use super::request::Request;
use super::session::Session;
use super::socket::Client;
use crate::config::data_dir::DataDir;
use crate::history::{self, schema};
use crate::model::error::Result;

/// Where operations on a data directory are performed.
pub enum Instance {
    /// By the mb that is running there.
    Running(Client),
    /// Here.
    Stopped(Box<Stopped>),
}

/// The data directory of an mb that is not running.
pub struct Stopped {
    context: Context,
    session: Session,
    /// Held if something may be changed: no mb starts meanwhile.
    _lock: Option<DataDir>,
}

impl Instance {
    /// For operations that only read.
    ///
    /// # Errors
    /// `Other` if an mb is running but cannot be reached.
    pub fn of(data_dir: &Path) -> Result<Instance> {
        Ok(match Client::connect(data_dir)? {
            Some(client) => Instance::Running(client),
            None => Instance::stopped(data_dir, None),
        })
    }

    /// For operations that change the history. If no mb is running, none starts until this is dropped.
    ///
    /// # Errors
    /// As `of`; `Config` if there is no history.
    pub fn to_change(data_dir: &Path) -> Result<Instance> {
        loop {
            if let Some(client) = Client::connect(data_dir)? {
                return Ok(Instance::Running(client));
            }
            schema::check_exists(&data_dir.join(history::FILE))?;
            // If an mb is just starting, the lock is taken, and its socket answers soon.
            if let Some(lock) = DataDir::try_lock(data_dir)? {
                return Ok(Instance::stopped(data_dir, Some(lock)));
            }
        }
    }

    /// For a command that knows that no mb is running: `lock` is what it holds, or it needs none.
    pub fn stopped(data_dir: &Path, lock: Option<DataDir>) -> Instance {
        Instance::Stopped(Box::new(Stopped {
            context: Context::stopped(data_dir),
            session: Session::default(),
            _lock: lock,
        }))
    }

    /// What the running mb says of itself; `None` if none is running.
    ///
    /// # Errors
    /// As `perform`.
    pub fn status(&mut self) -> Result<Option<Status>> {
        match self {
            Instance::Running(client) => client.perform(GetStatus {}).map(Some),
            Instance::Stopped(_) => Ok(None),
        }
    }

    /// # Errors
    /// Those of the operation, whichever process performs it; `Other` if the running mb does not answer.
    pub fn perform<O: Operation + Into<Request>>(&mut self, operation: O) -> Result<O::Answer> {
        match self {
            Instance::Running(client) => client.perform(operation),
            Instance::Stopped(stopped) => operation.perform(&stopped.context, &mut stopped.session),
        }
    }
}
