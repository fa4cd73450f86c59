//! From produced to processed: a bare loop, or mb as a library with a step of its own, reads what
//! `load paced` writes, and measures how old each record is once it is done.
//!
//! Says `ready` on stdout when it reads, and at the end one line of JSON.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use argh::FromArgs;
use hdrhistogram::Histogram;
use mb::step::{Attempt, Step, StepError};
use mb_bench::{LONGEST, Result, consumer, monotonic_ns, partitions};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Measures how old records are when they are done.
#[derive(FromArgs)]
struct Args {
    /// bare, mb-rdkafka or mb-kafka
    #[argh(positional)]
    reader: String,
    /// host:port
    #[argh(option)]
    bootstrap_server: String,
    /// topic to read from its beginning
    #[argh(option)]
    topic: String,
    /// end after so many records
    #[argh(option)]
    count: u64,
    /// the first so many are not measured
    #[argh(option)]
    skip: u64,
    /// a group of its own, mb only
    #[argh(option, default = "String::from(\"latency\")")]
    group: String,
    /// a fresh folder, mb only
    #[argh(option)]
    data_dir: Option<String>,
}

/// A tick's change is told apart from the rest by so much time before and after.
const AROUND_A_CHANGE: Duration = Duration::from_millis(100);
const TICK_RUNTIME: Duration = Duration::from_secs(5);

/// When a record was made and how old it was when done, in nanoseconds.
struct Ages {
    seen: u64,
    skip: u64,
    ages: Vec<(u64, u64)>,
}

impl Ages {
    fn new(args: &Args) -> Ages {
        Ages { seen: 0, skip: args.skip, ages: Vec::with_capacity(args.count as usize) }
    }

    fn add(&mut self, value: &[u8], now: u64) {
        let number = |at: usize| {
            value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
        };
        self.seen += 1;
        if let (Some(made), Some(number)) = (number(0), number(8))
            && number >= self.skip
        {
            self.ages.push((made, now.saturating_sub(made)));
        }
    }
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    let (ages, changes) = match args.reader.as_str() {
        "bare" => (bare(&args)?, Vec::new()),
        "mb-rdkafka" => with_mb(&args, mb::Client::Rdkafka)?,
        "mb-kafka" => with_mb(&args, mb::Client::Kafka)?,
        other => return Err(format!("no reader is called {other}").into()),
    };
    if ages.ages.len() as u64 != args.count - args.skip {
        return Err(format!("{} of {} records were measured", ages.ages.len(), args.count).into());
    }
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    for (_, age) in &ages.ages {
        all.saturating_record(age / 1000);
    }
    let near = |made: u64| {
        let around = AROUND_A_CHANGE.as_nanos() as u64;
        changes.iter().any(|(from, to)| (from.saturating_sub(around)..=to + around).contains(&made))
    };
    let at_changes = ages.ages.iter().filter(|(made, _)| near(*made)).map(|(_, age)| age / 1000);
    let at_changes = at_changes.max().map_or("null".into(), |longest| longest.to_string());
    println!(
        r#"{{"records":{},"p50_us":{},"p99_us":{},"max_us":{},"tick_changes":{},"max_at_changes_us":{at_changes}}}"#,
        ages.seen,
        all.value_at_quantile(0.5),
        all.value_at_quantile(0.99),
        all.max(),
        changes.len(),
    );
    Ok(())
}

fn ready() {
    println!("ready");
    let _ = std::io::stdout().flush();
}

fn bare(args: &Args) -> Result<Ages> {
    let consumer = consumer(&args.bootstrap_server, &args.group)?;
    let mut from = TopicPartitionList::new();
    for partition in partitions(&consumer, &args.topic)? {
        from.add_partition_offset(&args.topic, partition, Offset::Offset(0))?;
    }
    consumer.assign(&from)?;
    ready();
    let mut ages = Ages::new(args);
    while ages.seen < args.count {
        let message = consumer.poll(LONGEST).ok_or("no record for 10 s")??;
        ages.add(message.payload().unwrap_or_default(), monotonic_ns());
    }
    Ok(ages)
}

/// The step: each record's age once its batch is done.
struct Measure {
    ages: Arc<Mutex<Ages>>,
    count: u64,
    stop: Mutex<Option<crossbeam_channel::Sender<()>>>,
}

impl Step for Measure {
    fn name(&self) -> &str {
        "measure"
    }

    fn prepare(&self, _topic: &str) -> mb::Result<()> {
        ready();
        Ok(())
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> std::result::Result<(), StepError> {
        let now = monotonic_ns();
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        for record in attempt.batch.records() {
            ages.add(record.value.unwrap_or_default(), now);
        }
        if ages.seen >= self.count {
            // The sender's end is the stop.
            self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }
}

/// The times, on the monotonic clock, between a tick's end and the next one's beginning.
type Changes = Vec<(u64, u64)>;

fn with_mb(args: &Args, client: mb::Client) -> Result<(Ages, Changes)> {
    let folder = args.data_dir.as_ref().ok_or("mb needs --data-dir")?;
    let ages = Arc::new(Mutex::new(Ages::new(args)));
    let (sender, stop) = crossbeam_channel::bounded(0);
    let step =
        Measure { ages: Arc::clone(&ages), count: args.count, stop: Mutex::new(Some(sender)) };
    mb::Builder::new(step)
        .bootstrap_server(&args.bootstrap_server)
        .topic(&args.topic)
        .group(&args.group)
        .data_dir(folder)
        .configure(|config| {
            config.connection.client = client;
            config.max_wait = Duration::ZERO;
            config.tick_runtime = TICK_RUNTIME;
            config.tick_interval = Duration::ZERO;
        })
        .run(&stop)?;
    let changes = changes(Path::new(folder))?;
    let ages = Arc::into_inner(ages).ok_or("the step is still in use")?;
    Ok((ages.into_inner().unwrap_or_else(PoisonError::into_inner), changes))
}

fn changes(folder: &Path) -> Result<Changes> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let ahead = wall - monotonic_ns();
    let history = rusqlite::Connection::open(folder.join("history.db"))?;
    let mut ticks = history.prepare("SELECT started_ms, run_us FROM ticks ORDER BY id")?;
    let ticks = ticks.query_map([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?)))?;
    let mut changes = Vec::new();
    let mut last_end = None;
    for tick in ticks {
        let (started_ms, run_us) = tick?;
        let start = (started_ms * 1_000_000).saturating_sub(ahead);
        if let Some(end) = last_end {
            // Starts are known to the millisecond only.
            changes.push((start.min(end), start.max(end) + 1_000_000));
        }
        last_end = Some(start + run_us * 1000);
    }
    Ok(changes)
}
