//! The main job, `mb` without a command: its flags, and the pipeline and step that are made from them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::errors::{shown, usage};
use crate::cli::flags::{Command, Flags, flags};
use crate::cli::orphans;
use crate::cli::terminal::Terminal;
use crate::cli::values::{self, Listen, StepName};
use crate::config::limits;
use crate::config::{
    Client, Config, DeadLetterTo, Isolation, OnFailure, OnMissingOffsets, OnOutage, Order, Produce,
    PublicUrl, StartFrom, Web,
};
use crate::model::error::Result;
use crate::pipeline::Pipeline;
use crate::pipeline::signals;
use crate::step::{Delayed, Discard, ExecStep, FilesStep, LogStep, Step};

flags! {
    #[argh(
        description = "Reads a Kafka topic, cuts it into micro-batches and processes each batch as a tracked run.\n\
            \n\
            Without a command, mb does its main job: sensors read the topic in ticks and cut it into batches, \
            a bounded queue holds the batches, and workers run the step on each. Offsets are committed only \
            after success.\n\
            \n\
            Durations are seconds (10, 0.25) or have a unit (250ms, 10s, 5m, 1h). Sizes are bytes or have a \
            unit (KiB, MiB, GiB). --flag=VALUE is the same as --flag VALUE.\n\
            \n\
            The environment can set every flag of every command: MB_OPT_MAX_BATCH=100 is --max-batch 100, and \
            MB_OPT_BISECT=true is --bisect. A flag on the command line stands above the environment.",
        example = "mb --rate 1000 --max-batch 100\n\
            mb --bootstrap-server localhost:9092 --topic orders --exec 'wc -l' --max-concurrent-runs 8\n\
            mb --topic orders --step files --out batches --until-caught-up"
    )]
    struct MainFlags {
        "Producer": {
            /// also produce this many messages per second, 0.001 to 10000000, or max for no limit (if not
            /// set, mb produces nothing)
            #[argh(option, arg_name = "RATE", from_str_fn(values::rate))]
            rate: Option<f64>,

            /// with --rate: stop producing after N messages (if not set, there is no limit)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000_000_000_000, _>))]
            count: Option<u64>,

            /// with --rate: minimum size of a message's value, 1 to 64MiB (default 100)
            #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 67_108_864, _>))]
            message_bytes: Option<usize>,

            /// with --rate: number of distinct keys, up to 1000000000; all messages with the same key go to
            /// the same partition; 0 produces without keys, to one partition after another (default 0)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, 1_000_000_000, _>))]
            keys: Option<u64>,
        }
        "Reading and batches": {
            /// maximum number of records in a batch, 1 to 1000000 (default 50)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, { limits::MAX_BATCH_RECORDS }, _>))]
            max_batch: Option<usize> => max_batch,

            /// maximum size of a batch, 1 to 1GiB; a larger record gets a batch of its own (default 1MiB)
            #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 1_073_741_824, _>))]
            max_batch_bytes: Option<usize> => max_batch_bytes,

            /// process a batch that is not full after this time (default 100ms)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
            max_wait: Option<Duration> => max_wait,

            /// how long each tick reads before it closes its consumer (default 10s)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
            tick_runtime: Option<Duration> => tick_runtime,

            /// pause between two ticks (default 0)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
            tick_interval: Option<Duration> => tick_interval,

            /// minimum size that the broker collects before it answers a fetch, 1 to 64MiB (default 1)
            #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 67_108_864, _>))]
            fetch_min_bytes: Option<usize> => fetch_min_bytes,

            /// which records of transactions to read: read_committed, or read_uncommitted, which includes
            /// those of aborted transactions (if not set: read_committed if the client supports it)
            #[argh(option, arg_name = "LEVEL", from_str_fn(values::isolation))]
            isolation: Option<Isolation> => isolation,

            /// number of sensor threads, which share the partitions, 1 to 100 (default 1)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 100, _>))]
            sensors: Option<usize> => sensors,

            /// where a group without committed offsets starts: earliest, latest, or committed, which makes
            /// missing offsets an error (default earliest)
            #[argh(option, arg_name = "WHERE", from_str_fn(values::start_from))]
            from: Option<StartFrom> => from,

            /// what to do if records to be read are no longer in the log, because retention removed them, its
            /// end was cut off or the topic was created anew: halt (exit code 65), or skip them and record the gap
            /// (default halt)
            #[argh(option, arg_name = "ACTION", from_str_fn(values::on_missing_offsets))]
            on_missing_offsets: Option<OnMissingOffsets> => on_missing_offsets,

            /// read an internal topic such as __consumer_offsets, which mb itself writes to by committing
            #[argh(switch)]
            force: Option<bool> => force,
        }
        "Queue and workers": {
            /// maximum number of runs that wait for a worker, 1 to 100000 (default 100)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 100_000, _>))]
            queue: Option<usize> => queue,

            /// maximum size of all batches in memory (filling, queued and running), 1KiB to 1024GiB
            /// (default 32MiB)
            #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1024, 1_099_511_627_776, _>))]
            queue_bytes: Option<usize> => queue_bytes,

            /// number of workers: how many runs are processed at the same time, 1 to 1000 (default 5)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, { limits::WORKERS_MAX }, _>))]
            max_concurrent_runs: Option<usize> => max_concurrent_runs,

            /// order of processing: none, partition (the runs of a partition one after another), or key
            /// (records with the same key one after another) (default none)
            #[argh(option, arg_name = "ORDER", from_str_fn(values::order))]
            order: Option<Order> => order,

            /// with --order key: number of lanes that the keys of a partition are split into, 1 to 64 (if
            /// not set: --max-concurrent-runs, up to 64)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 64, _>))]
            lanes: Option<u32> => lanes,
        }
        "Step": {
            /// what to do with each batch: log it, discard it (only count it), or write it to files, one
            /// NDJSON file per run (default log)
            #[argh(option, arg_name = "STEP", from_str_fn(values::step))]
            step: Option<StepName>,

            /// with --step files: directory to write to
            #[argh(option, arg_name = "DIR", from_str_fn(values::text))]
            out: Option<String>,

            /// instead of --step: run this shell command for each batch; it reads one JSON record per line
            /// from stdin, finds MB_RUN_KEY and more in its environment, and exits with 0 for success
            #[argh(option, arg_name = "COMMAND", from_str_fn(values::text))]
            exec: Option<String>,

            /// pause before the step of each attempt, to simulate slow work (default 0)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
            step_delay: Option<Duration>,

            /// time limit of an attempt; a command that exceeds it is killed with all its processes (if not
            /// set, there is no limit)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
            step_timeout: Option<Duration> => step_timeout,
        }
        "Failures and history": {
            /// number of attempts after which mb gives up on a run, 1 to 1000 (default 3)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1000, _>))]
            max_attempts: Option<u32> => max_attempts,

            /// pause before the second attempt; it doubles with each further attempt (default 1s)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
            retry_backoff: Option<Duration> => retry_backoff,

            /// what to do when mb gives up on a run: dead-letter (keep its records as dead letters and go
            /// on), or halt (exit code 65) (default dead-letter)
            #[argh(option, arg_name = "ACTION", from_str_fn(values::on_failure))]
            on_failure: Option<OnFailure> => on_failure,

            /// what to do while the step fails for every run: hold (give up on none, and try one at a time
            /// until the step works again), dead-letter (give up on each after its last attempt), or halt
            /// (exit code 65) (default hold)
            #[argh(option, arg_name = "ACTION", from_str_fn(values::on_outage))]
            on_outage: Option<OnOutage> => on_outage,

            /// how long to hold a run that fails when there is no other run to compare it with (default
            /// 2m)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
            outage_patience: Option<Duration> => outage_patience,

            /// with --until-caught-up: end with exit code 75 when a hold takes longer (default 10m)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
            hold_limit: Option<Duration> => hold_limit,

            /// where to keep dead letters: store (in the history), topic:NAME (in that topic, which is
            /// created if it does not exist), both:NAME, or both, which takes TOPIC-dead-letters
            /// (default store)
            #[argh(option, arg_name = "WHERE", from_str_fn(values::dead_letter))]
            dead_letter: Option<DeadLetterTo> => dead_letter,

            /// split a batch whose last attempt failed into halves with attempts of their own, and split
            /// those in turn, until the bad records are isolated
            #[argh(switch)]
            bisect: Option<bool> => bisect,

            /// number of runs to keep in the history, 1 to 1000000000 (default 100000)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000_000, _>))]
            history_keep: Option<u64> => history_keep,
        }
        "Process": {
            /// how long running runs may take to finish when mb stops (default 25s)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
            drain_timeout: Option<Duration> => drain_timeout,

            /// at the start, wait for the broker without a time limit, not only 10s
            #[argh(switch)]
            wait_for_broker: Option<bool> => wait_for_broker,

            /// exit when everything that was in the topic at the start, and everything that --rate and
            /// --count produced, is processed
            #[argh(switch)]
            until_caught_up: Option<bool> => until_caught_up,

            /// warn and report not ready when a partition with lag makes no progress for this long
            /// (default 1m)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
            stall_after: Option<Duration> => stall_after,

            /// report not ready when the oldest unprocessed record is older than this (if not set, when mb falls
            /// behind)
            #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
            freshness: Option<Duration> => freshness,

            /// address of the page, the API and the metrics: HOST:PORT, PORT (on 127.0.0.1), or off
            /// (default 127.0.0.1:3000)
            #[argh(option, arg_name = "ADDRESS", from_str_fn(values::listen))]
            listen: Option<Listen>,

            /// address under which a proxy serves the page, as https://mb.example.com or
            /// https://example.com/mb; with https, the cookie of a signed-in browser goes over TLS only (if
            /// not set, there is no proxy)
            #[argh(option, arg_name = "URL", from_str_fn(values::public_url))]
            public_url: Option<PublicUrl>,

            /// file with the token that the page and the API require; needed if other machines can reach
            /// --listen
            #[argh(option, arg_name = "FILE", from_str_fn(values::text))]
            token_file: Option<String>,

            /// let nobody change anything through the page and the API
            #[argh(switch)]
            read_only: bool,
        }
    }
}

#[derive(Debug)]
pub struct MainArgs {
    pub config: Config,
    pub step: StepChoice,
    /// The pause before each attempt's step; 0 for none.
    pub step_delay: Duration,
}

/// The step of the main job; its time limit is `Config::step_timeout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepChoice {
    Discard,
    Log,
    Files { dir: PathBuf },
    Exec { command: String },
}

impl Command for MainFlags {
    const NAME: &'static str = "";
    const SUMMARY: &'static str = "";
    const USAGE: &'static [&'static str] = &["[FLAGS]", "COMMAND [FLAGS] [ARGUMENTS]"];
    type Args = MainArgs;

    fn check(self) -> Result<MainArgs> {
        let step = self.step()?;
        let mut config = self.config();
        config.produce = self.produce()?;
        config.web = match self.listen.unwrap_or_default() {
            Listen::Off => None,
            Listen::At { host, port } => Some(Web {
                host,
                port,
                public_url: self.public_url,
                token_file: self.token_file.map(PathBuf::from),
                read_only: self.read_only,
            }),
        };
        config.check()?;
        Ok(MainArgs { config, step, step_delay: self.step_delay.unwrap_or_default() })
    }

    /// Runs until a signal, or until caught up.
    fn run(args: MainArgs, terminal: &Terminal) -> Result<()> {
        let step = make_step(&args);
        let stop = signals::stop()?;
        signals::learn_of_children();
        orphans::adopt();
        let until_caught_up = args.config.until_caught_up;
        let mut pipeline = Pipeline::new(args.config, step).with_chore(Box::new(orphans::reap));
        if until_caught_up && terminal.is_watched() {
            let terminal = terminal.clone();
            let mut bar = None;
            pipeline = pipeline.with_progress(Box::new(move |done, to_do| {
                bar.get_or_insert_with(|| terminal.bar(to_do, "done")).set(done);
            }));
        }
        pipeline.run(&stop)?;
        Ok(())
    }
}

impl MainFlags {
    fn step(&self) -> Result<StepChoice> {
        let out = self.out.as_deref().map(shown);
        match (self.step, &self.exec) {
            (Some(_), Some(command)) => {
                let command = shown(command);
                usage(format!(
                    "--exec: got {command} and --step as well, expected only one of them"
                ))
            }
            (step, _) if step != Some(StepName::Files) && out.is_some() => {
                let dir = out.unwrap_or_default();
                usage(format!("--out: got {dir} without --step files, expected both or neither"))
            }
            (None, Some(command)) => Ok(StepChoice::Exec { command: command.clone() }),
            (Some(StepName::Discard), None) => Ok(StepChoice::Discard),
            (None | Some(StepName::Log), None) => Ok(StepChoice::Log),
            (Some(StepName::Files), None) => match &self.out {
                Some(dir) => Ok(StepChoice::Files { dir: PathBuf::from(dir) }),
                None => usage("--step: got files without a directory, expected --out DIR as well"),
            },
        }
    }

    /// The producer inside the main job, which runs only with `--rate`.
    fn produce(&self) -> Result<Option<Produce>> {
        let Some(rate) = self.rate else {
            let needs_rate = [
                ("--count", self.count.is_some()),
                ("--message-bytes", self.message_bytes.is_some()),
                ("--keys", self.keys.is_some()),
            ];
            return match needs_rate.iter().find(|(_, given)| *given) {
                Some((flag, _)) => usage(format!(
                    "{flag}: got this flag without --rate, expected --rate RATE as well, because mb \
                     produces nothing without it"
                )),
                None => Ok(None),
            };
        };
        let default = Produce::default();
        Ok(Some(Produce {
            rate,
            count: self.count,
            message_bytes: self.message_bytes.unwrap_or(default.message_bytes),
            keys: self.keys.unwrap_or(default.keys),
        }))
    }
}

fn make_step(args: &MainArgs) -> Arc<dyn Step> {
    let step: Box<dyn Step> = match &args.step {
        StepChoice::Discard => Box::new(Discard),
        StepChoice::Log => Box::new(LogStep::new()),
        StepChoice::Files { dir } => Box::new(FilesStep::new(dir)),
        StepChoice::Exec { command } => {
            let data_dir = &args.config.connection.data_dir;
            Box::new(ExecStep::new(command.clone(), args.config.step_timeout).scratch_dir(data_dir))
        }
    };
    if args.step_delay.is_zero() {
        Arc::new(step)
    } else {
        Arc::new(Delayed::new(args.step_delay, step))
    }
}
