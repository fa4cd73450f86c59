//! The newest overview, which all clients share: it is made at most once per `limits::OVERVIEW_INTERVAL`,
//! however many of them look. What is in an overview is decided in `operations::overview`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::session::Session;
use crate::config::limits;
use crate::history::query::{self, RunRow, TickRow, TickSelection};
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::sync::Mutex;
use crate::observe::overview::Overview;

/// The newest overview, as a value and as JSON.
#[derive(Clone)]
pub(super) struct SharedOverview {
    made: Instant,
    pub overview: Arc<Overview>,
    pub json: Arc<[u8]>,
}

#[derive(Default)]
pub(super) struct OverviewCache(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    shared: Option<SharedOverview>,
    from_history: FromHistory,
}

/// What the overview shows of the history, and the connection that reads it.
#[derive(Default)]
pub(super) struct FromHistory {
    session: Session,
    pub newest_runs: Vec<RunRow>,
    pub ticks: Vec<TickRow>,
    pub dead_letters_open: u64,
}

impl OverviewCache {
    /// Drops the newest overview, and the connection to the history with it: the start of a pipeline may move a
    /// damaged history aside.
    pub fn forget(&self) {
        *self.0.lock() = Cached::default();
    }

    /// The newest overview; if it is too old, what `make` returns. A client that comes while another one makes
    /// it waits for that one.
    ///
    /// # Errors
    /// `Other` if it cannot be written as JSON.
    pub fn get(
        &self,
        data_dir: &Path,
        running: &[Running],
        make: impl FnOnce(&FromHistory) -> Overview,
    ) -> Result<SharedOverview> {
        let mut cached = self.0.lock();
        if let Some(shared) = &cached.shared
            && shared.made.elapsed() < limits::OVERVIEW_INTERVAL
        {
            return Ok(shared.clone());
        }
        cached.from_history.refresh(data_dir, running);
        let overview = make(&cached.from_history);
        let json = serde_json::to_vec(&overview).map_err(|cause| {
            Error::Other(format!("the overview cannot be written as JSON: {cause}"))
        })?;
        let shared = SharedOverview {
            made: Instant::now(),
            overview: Arc::new(overview),
            json: json.into(),
        };
        cached.shared = Some(shared.clone());
        Ok(shared)
    }
}

impl FromHistory {
    /// Reads the history again. If it cannot be read, the rest of the overview is still wanted, so this part
    /// stays as it was. An mb that is waiting for its broker may not have a history yet.
    fn refresh(&mut self, data_dir: &Path, running: &[Running]) {
        let read = |session: &mut Session| -> Result<_> {
            let history = session.history(data_dir)?;
            let newest =
                query::Selection { limit: limits::OVERVIEW_RUNS, ..query::Selection::default() };
            let ticks = TickSelection { limit: limits::OVERVIEW_TICKS, ..TickSelection::default() };
            Ok((
                query::runs_now(history, &newest, running)?,
                query::ticks(history, &ticks)?,
                query::open_dead_letters(history)?,
            ))
        };
        match read(&mut self.session) {
            Ok((runs, ticks, open)) => {
                (self.newest_runs, self.ticks, self.dead_letters_open) = (runs, ticks, open);
            }
            Err(error) => log::debug!("the overview keeps what it had of the history: {error}"),
        }
    }
}
