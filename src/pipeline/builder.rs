//! The library's front door: a step of your own, a few settings, and a pipeline that runs.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::config::Config;
use crate::model::error::Result;
use crate::pipeline::signals;
use crate::pipeline::{Pipeline, Summary};
use crate::step::Step;

/// Makes a pipeline around a step. What is not set is as on the command line.
///
/// ```no_run
/// use mb::step::{Attempt, Step, StepError};
///
/// struct Count;
///
/// impl Step for Count {
///     fn name(&self) -> &str {
///         "count"
///     }
///
///     fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
///         println!("{}: {} records", attempt.key, attempt.batch.len());
///         Ok(())
///     }
/// }
///
/// let summary = mb::Builder::new(Count)
///     .bootstrap_server("localhost:9092")
///     .topic("orders")
///     .group("counter")
///     .run_until_signal()?;
/// println!("{} records", summary.records_done);
/// # Ok::<(), mb::Error>(())
/// ```
pub struct Builder {
    config: Config,
    step: Arc<dyn Step>,
}

impl Builder {
    pub fn new(step: impl Step + 'static) -> Builder {
        Builder { config: Config::default(), step: Arc::new(step) }
    }

    /// `HOST:PORT[,HOST:PORT…]`.
    pub fn bootstrap_server(mut self, servers: impl Into<String>) -> Builder {
        self.config.connection.bootstrap_server = Some(servers.into());
        self
    }

    pub fn topic(mut self, topic: impl Into<String>) -> Builder {
        self.config.connection.topic = topic.into();
        self
    }

    pub fn group(mut self, group: impl Into<String>) -> Builder {
        self.config.connection.group = group.into();
        self
    }

    /// Where the history is kept; one process at a time has it.
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Builder {
        self.config.connection.data_dir = folder.into();
        self
    }

    /// Records of a batch at most.
    pub fn max_batch(mut self, records: usize) -> Builder {
        self.config.max_batch = records;
        self
    }

    /// Worker threads.
    pub fn max_concurrent_runs(mut self, runs: usize) -> Builder {
        self.config.max_concurrent_runs = runs;
        self
    }

    /// Every other setting.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Builder {
        change(&mut self.config);
        self
    }

    /// The pipeline, for those who bring their own stop or broker.
    pub fn build(self) -> Pipeline {
        Pipeline::new(self.config, self.step)
    }

    /// Runs until `stop`, see `Pipeline::run`.
    ///
    /// # Errors
    /// As `Pipeline::run`.
    pub fn run(self, stop: &Receiver<()>) -> Result<Summary> {
        self.build().run(stop)
    }

    /// Runs until SIGINT, SIGTERM or SIGHUP. To be called once per process: it sets the handler.
    ///
    /// # Errors
    /// As `Pipeline::run`; `Other` where the handler cannot be set.
    pub fn run_until_signal(self) -> Result<Summary> {
        self.run(&signals::stop()?)
    }
}
