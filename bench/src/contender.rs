//! Who takes part in a drain, and each one's command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use mb_bench::Result;

use crate::broker::own_program;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// A bare loop over a client: rdkafka-poll, rdkafka-queue (which may ask for each record's headers
    /// too) or kafka.
    Bare(&'static str),
    /// The least that tracked batches take over librdkafka's batch queue.
    Least,
    Franz,
    /// mb over a client: rdkafka or kafka.
    Mb(&'static str),
    /// Another build of mb, over librdkafka, to compare this one with.
    Before,
    /// Parallel Consumer by its order: unordered or partition.
    Parallel(&'static str),
    Spark,
}

pub const POLL: &str = "bare-rdkafka-poll";
pub const QUEUE: &str = "bare-rdkafka-queue";
pub const HEADERS: &str = "bare-rdkafka-queue-headers";
pub const LEAST: &str = "least-rdkafka-queue";
pub const KAFKA: &str = "bare-kafka";
pub const FRANZ: &str = "franz";
pub const MB_RDKAFKA: &str = "mb-rdkafka";
pub const MB_KAFKA: &str = "mb-kafka";
pub const BEFORE: &str = "before-mb-rdkafka";
pub const UNORDERED: &str = "parallel-consumer-unordered";
pub const BY_PARTITION: &str = "parallel-consumer-partition";
pub const SPARK: &str = "spark";

/// All that `--without` may name, by the beginning of their names.
pub const NAMES: [&str; 16] = [
    POLL,
    QUEUE,
    HEADERS,
    LEAST,
    KAFKA,
    FRANZ,
    MB_RDKAFKA,
    MB_KAFKA,
    BEFORE,
    UNORDERED,
    BY_PARTITION,
    SPARK,
    "kcat",
    "xargs",
    "bare-latency",
    "bare-producer",
];

/// What a drain is: the topic, how much is in it, and how it is cut.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    pub address: &'a str,
    pub topic: &'a str,
    pub count: u64,
    pub batch: u64,
    pub concurrency: u64,
    /// A fresh one each time.
    pub group: &'a str,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    pub mb: PathBuf,
    /// The folder of another build: its `mb`, and its `latency` from mb-bench.
    pub before: Option<PathBuf>,
    /// The folder that bench/setup fills.
    pub contenders: PathBuf,
}

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Contender::Bare("rdkafka-poll") => POLL,
            Contender::Bare("rdkafka-queue") => QUEUE,
            Contender::Bare("rdkafka-queue-headers") => HEADERS,
            Contender::Bare(_) => KAFKA,
            Contender::Least => LEAST,
            Contender::Franz => FRANZ,
            Contender::Mb("rdkafka") => MB_RDKAFKA,
            Contender::Mb(_) => MB_KAFKA,
            Contender::Before => BEFORE,
            Contender::Parallel("unordered") => UNORDERED,
            Contender::Parallel(_) => BY_PARTITION,
            Contender::Spark => SPARK,
        }
    }

    pub fn commits(self) -> bool {
        self.keeps_a_history() || matches!(self, Contender::Parallel(_))
    }

    /// Whether its runs are in a history file like mb's.
    pub fn keeps_a_history(self) -> bool {
        matches!(self, Contender::Least | Contender::Mb(_) | Contender::Before)
    }

    /// Whether its last line says what it read.
    pub fn says_what_it_read(self) -> bool {
        !matches!(self, Contender::Mb(_) | Contender::Before)
    }

    /// Whether its memory is that of several processes.
    pub fn is_a_tree(self) -> bool {
        matches!(self, Contender::Spark)
    }

    /// # Errors
    /// Where the program is not there.
    pub fn command(self, programs: &Programs, task: &Task<'_>, data_dir: &Path) -> Result<Command> {
        let mut command = match self {
            Contender::Mb(client) => return Ok(drained(&programs.mb, client, task, data_dir)),
            Contender::Before => {
                let before = programs.before.as_ref().ok_or("no --before")?;
                return Ok(drained(&before.join("mb"), "rdkafka", task, data_dir));
            }
            Contender::Bare(client) => {
                let mut command = Command::new(own_program("bare")?);
                command.arg(client);
                command
            }
            Contender::Least => {
                let mut command = Command::new(own_program("least")?);
                command.args(["--group", task.group, "--batch", &task.batch.to_string()]);
                command.arg("--data-dir").arg(data_dir);
                command
            }
            Contender::Franz => from_setup(programs, "franz")?,
            Contender::Parallel(order) => {
                let mut command = from_setup(programs, "parallel-consumer")?;
                command.args(["--order", order, "--group", task.group]);
                command
            }
            Contender::Spark => from_setup(programs, "spark")?,
        };
        command.args(["--bootstrap-server", task.address, "--topic", task.topic]);
        command.args(["--count", &task.count.to_string()]);
        // Spark takes all that is there as one batch, which is its fastest.
        if matches!(self, Contender::Parallel(_)) {
            command.args(["--batch", &task.batch.to_string()]);
            command.args(["--concurrency", &task.concurrency.to_string()]);
        }
        Ok(command)
    }
}

fn drained(program: &Path, client: &str, task: &Task<'_>, data_dir: &Path) -> Command {
    let mut command = mb(program, task, data_dir);
    command.args(["--client", client, "--step", "discard"]);
    command
}

/// A drain by mb, with nothing that a drain does not need. The caller adds the step.
pub fn mb(program: &Path, task: &Task<'_>, data_dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("RUST_LOG", "warn").env("NO_COLOR", "1");
    command.args(["--bootstrap-server", task.address, "--topic", task.topic]);
    command.args(["--group", task.group, "--from", "earliest"]).arg("--data-dir").arg(data_dir);
    command.args(["--max-batch", &task.batch.to_string()]);
    command.args(["--max-concurrent-runs", &task.concurrency.to_string()]);
    // The history keeps all: what is in it is counted afterwards.
    command.args(["--history-keep", "100000000", "--listen", "off", "--until-caught-up"]);
    command
}

fn from_setup(programs: &Programs, name: &str) -> Result<Command> {
    let path = programs.contenders.join(name);
    if path.exists() {
        return Ok(Command::new(path));
    }
    Err("not there: run bench/setup".into())
}
