//! The entry point of the library: a step of the user's own, a few settings, and a pipeline that runs.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::config::Config;
use crate::model::error::Result;
use crate::pipeline::signals;
use crate::pipeline::{Pipeline, Summary};
use crate::step::Step;

/// Builds a pipeline around a step. Settings that are not set have the defaults of the command line, but
/// there is no HTTP server.
///
/// This example needs no Kafka: it produces ten messages to an embedded topic in a temporary directory and
/// ends when they are processed. With Kafka, set `bootstrap_server` and `topic`, and let `run_until_signal`
/// end the pipeline.
///
/// ```
/// use mb::{Attempt, Builder, Client, Produce, Step, StepError, Stopper};
///
/// /// Prints each batch. A step may get a batch again under the same key, after a failure or a crash.
/// struct Print;
///
/// impl Step for Print {
///     fn name(&self) -> &str {
///         "print"
///     }
///
///     fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
///         println!("{}: {} records", attempt.key, attempt.batch.len());
///         Ok(())
///     }
/// }
///
/// let folder = tempfile::tempdir().unwrap();
/// let (_stopper, stop) = Stopper::new();
/// let summary = Builder::new(Print)
///     .topic("orders")
///     .group("printer")
///     .data_dir(folder.path())
///     .max_batch(100)
///     .configure(|config| {
///         config.connection.client = Client::Embedded;
///         config.produce = Some(Produce { rate: 0.0, count: Some(10), ..Produce::default() });
///         config.until_caught_up = true;
///     })
///     .run(&stop)?;
/// assert_eq!(summary.records_processed, 10);
/// # Ok::<(), mb::Error>(())
/// ```
pub struct Builder {
    config: Config,
    step: Arc<dyn Step>,
}

impl Builder {
    /// A pipeline with default settings that runs this step.
    pub fn new(step: impl Step + 'static) -> Builder {
        Builder { config: Config::default(), step: Arc::new(step) }
    }

    /// The Kafka brokers, `HOST:PORT[,HOST:PORT…]`.
    pub fn bootstrap_server(mut self, servers: impl Into<String>) -> Builder {
        self.config.connection.bootstrap_server = Some(servers.into());
        self
    }

    /// The topic to read. Default `First_Topic`.
    pub fn topic(mut self, topic: impl Into<String>) -> Builder {
        self.config.connection.topic = topic.into();
        self
    }

    /// The consumer group whose committed offsets are used. Default `mb`.
    pub fn group(mut self, group: impl Into<String>) -> Builder {
        self.config.connection.group = group.into();
        self
    }

    /// The directory of the history, which one process at a time uses. Default `mb-data`.
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Builder {
        self.config.connection.data_dir = folder.into();
        self
    }

    /// Maximum number of records in a batch. Default 50.
    pub fn max_batch(mut self, records: usize) -> Builder {
        self.config.max_batch = records;
        self
    }

    /// Number of workers: how many runs are processed at the same time. Default 5.
    pub fn max_concurrent_runs(mut self, runs: usize) -> Builder {
        self.config.max_concurrent_runs = runs;
        self
    }

    /// Changes any other setting.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Builder {
        change(&mut self.config);
        self
    }

    /// The pipeline, to run it with a stop or a broker of your own.
    pub fn build(self) -> Pipeline {
        Pipeline::new(self.config, self.step)
    }

    /// Runs until `stop` is used (see [`Stopper`](crate::Stopper)), or until caught up.
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub fn run(self, stop: &Receiver<()>) -> Result<Summary> {
        self.build().run(stop)
    }

    /// Runs until SIGINT, SIGTERM or SIGHUP. Sets the process' signal handler, so call it once per process.
    ///
    /// # Errors
    /// As [`Pipeline::run`]; `Other` if the signal handler cannot be set.
    pub fn run_until_signal(self) -> Result<Summary> {
        self.run(&signals::stop()?)
    }
}
