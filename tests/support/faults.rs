//! What the tests of FAULTS.md's rows share: seeds, brokers behind proxies, a topic that is being
//! written, a running mb under watch, and the oracle at the end. The faults are in the rows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mb::kafka::Broker;
use mb::kafka::librdkafka::Librdkafka;
use mb::kafka::wire::Wire;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rusqlite::Connection;
use tempfile::TempDir;

use super::files::{Files, assert_same};
use super::kafka::{Kafka, V3_9, V4_4};
use super::mb::Mb;
use super::proxy::{Mode, Proxy};
use super::{eventually, eventually_some, free_port, raw, unique};

pub const LIMIT: Duration = Duration::from_secs(90);
/// After a fault has ended, there is progress within this time.
pub const RECOVERY: Duration = Duration::from_secs(15);
pub const PARTITIONS: i32 = 4;
pub const WORKERS: usize = 5;
/// A writer without an answer for so long has lost its broker.
const WRITER_LIMIT: Duration = Duration::from_secs(30);
/// How often the committed offsets are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// How long one of a test's own questions to the broker may take; without an answer it is skipped.
const SAMPLE_LIMIT: Duration = Duration::from_secs(1);
/// How long what a row left open may take to end before the next row has its proxy.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One try of a row: its seed, and chance that follows from it.
pub struct Row {
    pub seed: u64,
    pub random: fastrand::Rng,
}

impl Row {
    /// The broker's version: by the seed.
    pub fn version(&self) -> &'static str {
        if self.seed.is_multiple_of(2) { V3_9 } else { V4_4 }
    }

    /// One of them in the short form, by the seed; all in the long one.
    pub fn some_of<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        if is_long() { all.to_vec() } else { vec![all[self.random.usize(0..all.len())].clone()] }
    }

    pub fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }
}

/// True for the long form: more repetitions, and freezes as long as FAULTS.md has them.
pub fn is_long() -> bool {
    std::env::var_os("MB_FAULT_LONG").is_some_and(|value| value == "1")
}

/// The one for CI, or the one for `make faults`.
pub fn by_form<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Records of a batch where nothing else is said: so few that there are many runs.
const BATCH: usize = 20;

/// Records of a batch: `MB_FAULT_BATCH`, or `BATCH`.
pub fn batch() -> usize {
    let asked = std::env::var("MB_FAULT_BATCH").ok();
    asked.map_or(BATCH, |batch| batch.parse().expect("MB_FAULT_BATCH is a number of records"))
}

/// As many records for the batches asked for as `records` are for those of `BATCH`.
pub fn as_many_runs(records: usize) -> usize {
    records * batch().div_ceil(BATCH)
}

/// Runs a row with each seed: `MB_FAULT_SEED`, or `MB_FAULT_SEEDS` of them by chance, or the row's own.
///
/// # Panics
/// As the row does, having said which seed it was.
pub fn each_seed(name: &str, row: impl Fn(&mut Row)) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name}: got {value}, not a number")))
    };
    let seeds = match (number("MB_FAULT_SEED"), number("MB_FAULT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => {
            let first = fastrand::u64(..1_000_000);
            first..first + seeds
        }
        // The same each time, so that a change of mb is all that can make a row fail; half of the rows
        // have an even one, and with it the older broker.
        (None, None) => {
            let own = name.bytes().map(u64::from).sum::<u64>();
            own..own + 1
        }
    };
    for seed in seeds {
        let began = Instant::now();
        println!("{name}: MB_FAULT_SEED={seed}");
        let mut this = Row { seed, random: fastrand::Rng::with_seed(seed) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| row(&mut this))) {
            eprintln!("{name} failed; to run it again: MB_FAULT_SEED={seed}");
            resume_unwind(panic);
        }
        println!("{name}: seed {seed} took {:.1?}", began.elapsed());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The broker of a row: the shared one, or one of its own that may be killed.
pub enum Brokers {
    Shared(&'static Kafka),
    Own(Box<Kafka>),
}

impl std::ops::Deref for Brokers {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        match self {
            Brokers::Shared(kafka) => kafka,
            Brokers::Own(kafka) => kafka,
        }
    }
}

/// A topic, its group, and where mb keeps and writes what it has.
pub struct World {
    pub kafka: Brokers,
    /// Taken from the shared broker's, and given back.
    proxy: Option<(Proxy, &'static Kafka)>,
    /// What mb is given, and what the test itself uses.
    pub server: String,
    pub direct: String,
    pub topic: String,
    pub group: String,
    /// The client that mb reads with.
    client: &'static str,
    pub data_dir: TempDir,
    /// Where the data directory is, if not there.
    elsewhere: Option<PathBuf>,
    out: TempDir,
    out_elsewhere: Option<PathBuf>,
    /// The step keeps keys rather than files.
    keeps_keys: Cell<bool>,
    watch: Option<Watch>,
    writer: Option<Writer>,
    written: u64,
}

impl World {
    /// On the shared broker, which the row leaves as it is.
    pub fn new(row: &Row) -> World {
        World::on(Brokers::Shared(Kafka::shared(row.version())), None)
    }

    /// On the shared broker, mb coming by a proxy that the row steers.
    pub fn behind_proxy(row: &Row) -> World {
        let kafka = Kafka::shared(row.version());
        let proxy = eventually_some(10 * LIMIT, "a proxy is free", || kafka.take_proxy());
        // What other rows have done to it is no fault of this one.
        proxy.begin_anew(row.seed);
        World::on(Brokers::Shared(kafka), Some((proxy, kafka)))
    }

    /// On a broker of its own.
    pub fn with_broker(row: &Row) -> World {
        World::on(Brokers::Own(Box::new(Kafka::start(row.version()))), None)
    }

    fn on(kafka: Brokers, proxy: Option<(Proxy, &'static Kafka)>) -> World {
        let direct = kafka.bootstrap();
        let server = proxy.as_ref().map_or(direct.clone(), |(proxy, _)| proxy.address());
        let topic = unique("faults");
        create_topic(&direct, &topic, PARTITIONS);
        World {
            kafka,
            proxy,
            server,
            direct,
            topic,
            group: unique("group"),
            client: "auto",
            data_dir: tempfile::tempdir().unwrap(),
            elsewhere: None,
            out: tempfile::tempdir().unwrap(),
            out_elsewhere: None,
            keeps_keys: Cell::new(false),
            watch: None,
            writer: None,
            written: 0,
        }
    }

    /// mb reads with the pure-Rust client, which brokers up to 3.9 serve, and which has no lz4.
    pub fn read_by_crate_kafka(&mut self) {
        assert_eq!(self.kafka.version(), V3_9);
        self.client = "kafka";
    }

    pub fn proxy(&self) -> &Proxy {
        &self.proxy.as_ref().expect("a world behind a proxy").0
    }

    /// Writes so many records to each partition, and returns when they are acknowledged.
    pub fn fill(&mut self, per_partition: usize, value_bytes: usize) {
        for partition in 0..PARTITIONS {
            let value = |n: usize| format!("{partition}-{n:>value_bytes$}").into_bytes();
            let values: Vec<_> = (0..per_partition).map(value).collect();
            let second = if self.client == "kafka" { "snappy" } else { "lz4" };
            let codec = ["none", second, "gzip", "none"][partition as usize % 4];
            raw::produce(&self.direct, codec, &self.topic, partition, &values);
        }
        self.written += per_partition as u64 * PARTITIONS as u64;
    }

    /// Writes about so many records a second from now on, by the broker itself; each group is
    /// acknowledged before the next.
    pub fn write(&mut self, per_second: u64) {
        self.writer = Some(Writer::start(&self.direct, &self.topic, per_second));
    }

    pub fn stop_writing(&mut self) {
        if let Some(writer) = self.writer.take() {
            self.written += writer.stop();
        }
    }

    /// mb's flags: whom to read, and small batches.
    pub fn flags(&self, more: &[&str]) -> Vec<String> {
        let common = ["--bootstrap-server", &self.server, "--topic", &self.topic];
        let common = [&common[..], &["--client", self.client]].concat();
        let group = ["--group", &self.group, "--listen", "off"];
        let (workers, batch) = (WORKERS.to_string(), batch().to_string());
        let work = ["--max-concurrent-runs", &workers, "--max-batch", &batch];
        let ticks = ["--tick-runtime", "1", "--tick-interval", "100ms"];
        let ticks = if more.contains(&ticks[0]) { &[][..] } else { &ticks[..] };
        let all = [&common[..], &group, &work, ticks, more].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// Flags of `--step files`.
    pub fn files<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let out = self.out().to_str().expect("a path in UTF-8");
        [&["--step", "files", "--out", out][..], more].concat()
    }

    /// A command that keeps the run's key, one a line and all at once, when it is done.
    pub fn keeping_keys(&self, before: &str) -> String {
        self.keeps_keys.set(true);
        self.command_keeping_keys(before)
    }

    fn command_keeping_keys(&self, before: &str) -> String {
        let out = self.out().display();
        format!("{before}\ncat >{out}/.$$ && rm {out}/.$$ && echo $MB_RUN_KEY >>{out}/keys")
    }

    /// The keys that the command above has kept, as often as it was done.
    pub fn kept_keys(&self) -> Vec<String> {
        let keys = fs::read_to_string(self.out().join("keys")).unwrap_or_default();
        keys.lines().map(str::to_owned).collect()
    }

    pub fn start(&self, more: &[&str]) -> Mb {
        let flags = self.flags(more);
        Mb::start_in(self.data_dir(), &as_strs(&flags))
    }

    /// Starts mb and waits until its threads run.
    pub fn start_working(&self, more: &[&str]) -> Mb {
        let mb = self.start(more);
        mb.wait_for_line("worker(s), batches", LIMIT);
        mb
    }

    /// From now on the committed offsets are looked at: never backwards, never past what is done.
    pub fn watch(&mut self) {
        let (topic, out) = (self.topic.clone(), self.out().to_owned());
        let watch =
            Watch::start(&self.direct, &self.group, &self.topic, move || done_up_to(&out, &topic));
        self.watch = Some(watch);
    }

    /// What the group has committed, from the broker itself.
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        raw::committed(&self.direct, &self.group, &self.topic)
    }

    pub fn ends(&self) -> BTreeMap<i32, i64> {
        let marks = raw::watermarks(&self.direct, &self.topic);
        marks.into_iter().map(|(partition, (_, end))| (partition, end)).collect()
    }

    /// Records that are done, by the step's own word.
    pub fn done(&self) -> i64 {
        ranges(self.out(), &self.topic).values().flatten().map(|(f, l)| l - f + 1).sum()
    }

    pub fn wait_for_done(&self, count: i64) {
        eventually(LIMIT, &format!("{count} records are done"), || self.done() >= count);
    }

    /// Something is done within the time that a recovery may take, counted from now.
    pub fn assert_progress(&self) {
        let before = self.done();
        let began = Instant::now();
        eventually(RECOVERY, "progress after the fault has ended", || self.done() > before);
        println!("progress {:.1?} after the fault's end", began.elapsed());
    }

    /// All that was acknowledged is done and committed, each record in one run, and nothing is
    /// broken: mb is let come to the end where it runs, or started again for it.
    ///
    /// # Panics
    /// Where the oracle says otherwise.
    pub fn finish(&mut self, mb: Option<Mb>) {
        self.stop_writing();
        let by_files = !self.keeps_keys.get();
        if let Some(mut mb) = mb {
            let ends = self.ends();
            eventually(LIMIT, "all is committed", || {
                let said = mb.try_wait().map(|status| (status, mb.stderr().join("\n")));
                assert!(said.is_none(), "mb ended by itself: {said:?}");
                self.committed() == ends
            });
            mb.term();
            assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
            no_panic(&mb);
        } else {
            let command = self.command_keeping_keys("");
            let keys = ["--exec", &command];
            let step = if by_files { self.files(&[]) } else { keys.to_vec() };
            let mut mb = self.start(&[&step[..], &["--until-caught-up"]].concat());
            assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
            no_panic(&mb);
            assert_eq!(self.committed(), self.ends());
        }
        self.assert_sound();
        let done = ranges(self.out(), &self.topic);
        for (partition, end) in self.ends() {
            let mut next = 0;
            for (first, last) in done.get(&partition).into_iter().flatten() {
                assert_eq!(*first, next, "in {partition}: lost, or in two runs: {done:?}");
                next = last + 1;
            }
            assert_eq!(next, end, "in {partition} all is done");
        }
        if by_files {
            let in_log = raw::read_all(&self.direct, &self.topic);
            assert_same(&Files::read(self.out(), &self.topic).records(), &in_log);
            let (there, written) = (in_log.len() as u64, self.written);
            assert!(there >= written, "{written} were acknowledged, and {there} are in the log");
        }
    }

    /// The watch saw nothing wrong, and the history is whole.
    pub fn assert_sound(&mut self) {
        if let Some(watch) = self.watch.take() {
            let samples = watch.stop();
            println!("{samples} looks at the committed offsets");
            assert!(samples > 0, "the committed offsets were never seen");
        }
        sound(self.data_dir());
    }

    /// mb's data directory is this one, not the world's own.
    pub fn set_data_dir(&mut self, dir: &Path) {
        self.elsewhere = Some(dir.to_owned());
    }

    pub fn data_dir(&self) -> &Path {
        self.elsewhere.as_deref().unwrap_or_else(|| self.data_dir.path())
    }

    /// The step's files go to this folder, not to the world's own.
    pub fn set_out(&mut self, dir: &Path) {
        self.out_elsewhere = Some(dir.to_owned());
    }

    pub fn out(&self) -> &Path {
        self.out_elsewhere.as_deref().unwrap_or_else(|| self.out.path())
    }

    pub fn history(&self) -> Connection {
        Connection::open(self.data_dir().join("history.db")).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.watch.take());
        drop(self.writer.take());
        if let Some((proxy, kafka)) = self.proxy.take() {
            proxy.set(Mode::Refuse);
            // Whatever a row left open ends before the next row has it.
            let began = Instant::now();
            while proxy.open() > 0 && began.elapsed() < CLOSE_LIMIT {
                thread::sleep(Duration::from_millis(5));
            }
            proxy.heal();
            kafka.give_back(proxy);
        }
    }
}

pub fn as_strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Not by Kafka's own tool, which takes seconds to start.
pub fn create_topic(server: &str, topic: &str, partitions: i32) {
    let broker = Librdkafka::connect(server, Arc::new(Wire::new(server))).expect("a client");
    broker.create_topic(topic, partitions as u32).expect("the topic is created");
}

pub fn sound(data_dir: &Path) {
    let db = Connection::open(data_dir.join("history.db")).unwrap();
    let said: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
}

pub fn no_panic(mb: &Mb) {
    let said = mb.stderr();
    assert!(!said.iter().any(|line| line.contains("panicked")), "{}", said.join("\n"));
}

/// Ranges that are done, by partition, ascending: the names of finished files and kept keys, each
/// key once.
fn ranges(out: &Path, topic: &str) -> BTreeMap<i32, Vec<(i64, i64)>> {
    let mut ranges = BTreeMap::<i32, Vec<(i64, i64)>>::new();
    let mut add = |partition: &str, range: &str| {
        let (first, last) = range.split_once('-').expect("FIRST-LAST");
        let range = (first.parse().expect("a number"), last.parse().expect("a number"));
        ranges.entry(partition.parse().expect("a partition")).or_default().push(range);
    };
    for folder in fs::read_dir(out.join(topic)).into_iter().flatten() {
        let folder = folder.expect("an entry").path();
        let partition =
            folder.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        for file in fs::read_dir(&folder).into_iter().flatten() {
            let name = file.expect("an entry").file_name().into_string().expect("a name");
            if let Some(range) = name.strip_suffix(".ndjson").filter(|_| !name.starts_with('.')) {
                add(&partition, range);
            }
        }
    }
    let keys = fs::read_to_string(out.join("keys")).unwrap_or_default();
    for key in keys.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut parts = key.rsplit('/');
        let (range, partition) =
            (parts.next().expect("a range"), parts.next().expect("a partition"));
        add(partition, range);
    }
    for ranges in ranges.values_mut() {
        ranges.sort_unstable();
        ranges.dedup();
    }
    ranges
}

/// The first offset that is not done, by partition.
fn done_up_to(out: &Path, topic: &str) -> BTreeMap<i32, i64> {
    let up_to = |ranges: &Vec<(i64, i64)>| {
        ranges
            .iter()
            .fold(0, |next, (first, last)| if *first <= next { next.max(last + 1) } else { next })
    };
    ranges(out, topic).iter().map(|(partition, ranges)| (*partition, up_to(ranges))).collect()
}

/// A thread of the test's that does its work again and again until it is stopped.
struct Repeated<T> {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Repeated<T> {
    fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Repeated<T> {
        let ended = Arc::new(AtomicBool::new(false));
        let its = Arc::clone(&ended);
        Repeated { ended, thread: Some(thread::spawn(move || work(&its))) }
    }
}

impl<T> Repeated<T> {
    fn stop(mut self) -> T {
        self.ended.store(true, Ordering::Release);
        let thread = self.thread.take().expect("stopped once");
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<T> Drop for Repeated<T> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks at the committed offsets: never backwards, never past what is done.
pub struct Watch(Repeated<u64>);

impl Watch {
    pub fn start(
        server: &str,
        group: &str,
        topic: &str,
        done: impl Fn() -> BTreeMap<i32, i64> + Send + 'static,
    ) -> Watch {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", server).set("group.id", group);
        config.set("reconnect.backoff.max.ms", "500");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let topic = topic.to_owned();
        Watch(Repeated::start(move |ended| {
            let mut samples = 0;
            let mut before = BTreeMap::new();
            let begun = Instant::now();
            // One answer at least: the broker may have been away all the time.
            while !ended.load(Ordering::Acquire) || samples == 0 && begun.elapsed() < LIMIT {
                let mut asked = TopicPartitionList::new();
                for partition in 0..PARTITIONS {
                    asked.add_partition(&topic, partition);
                }
                if let Ok(answer) = consumer.committed_offsets(asked, SAMPLE_LIMIT) {
                    // Afterwards: what was committed was done before.
                    let done = done();
                    samples += 1;
                    for at in answer.elements() {
                        let Offset::Offset(offset) = at.offset() else { continue };
                        let partition = at.partition();
                        let open = done.get(&partition).copied().unwrap_or(0);
                        assert!(
                            offset <= open,
                            "{offset} is committed in {partition}, {open} is not done"
                        );
                        let last = before.insert(partition, offset).unwrap_or(0);
                        assert!(
                            offset >= last,
                            "committed backwards in {partition}: {offset} after {last}"
                        );
                    }
                }
                thread::sleep(SAMPLE_INTERVAL);
            }
            samples
        }))
    }

    /// True where it saw something wrong, which `stop` then tells.
    pub fn has_ended(&self) -> bool {
        self.0.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How often it had an answer.
    pub fn stop(self) -> u64 {
        self.0.stop()
    }
}

/// Writes numbered records, to each partition in turn.
struct Writer {
    thread: Repeated<()>,
    written: Arc<AtomicU64>,
}

impl Writer {
    fn start(server: &str, topic: &str, per_second: u64) -> Writer {
        let new = |server: &str| raw::producer(server, &[("message.timeout.ms", "300000")]);
        let mut producer = new(server);
        let (server, topic) = (server.to_owned(), topic.to_owned());
        let written = Arc::<AtomicU64>::default();
        let its = Arc::clone(&written);
        let thread = Repeated::start(move |ended| {
            let group = (per_second / 10).max(1);
            while !ended.load(Ordering::Acquire) {
                for number in 0..group {
                    let value = format!("written {}", its.load(Ordering::Relaxed) + number);
                    let partition = (number % PARTITIONS as u64) as i32;
                    let record = BaseRecord::<(), [u8]>::to(&topic).partition(partition);
                    let record = record.payload(value.as_bytes());
                    producer.send(record).map_err(|(error, _)| error).expect("room in its queue");
                }
                // librdkafka can lose a broker that was frozen, for good: another one goes on. What is
                // in the log counts, not what this one knows of it.
                match producer.flush(WRITER_LIMIT) {
                    Ok(()) => drop(its.fetch_add(group, Ordering::Relaxed)),
                    Err(error) => {
                        println!("the writer begins anew: {error}");
                        producer = new(&server);
                    }
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        Writer { thread, written }
    }

    /// How many were acknowledged.
    fn stop(self) -> u64 {
        self.thread.stop();
        self.written.load(Ordering::Relaxed)
    }
}

/// What a process has used of the CPU by now.
pub fn cpu_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, after_name) = stat.rsplit_once(") ").expect("a name in parentheses");
    let fields: Vec<&str> = after_name.split(' ').collect();
    // utime and stime, fields 14 and 15 of the file, in hundredths of a second.
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// A figure of `/proc/PID/status` in KiB or as a plain number, such as `VmHWM` or `Threads`.
pub fn status(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next()).expect("a figure");
    word.parse().expect("a number")
}

pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// An address of this machine where nobody listens.
pub fn closed_port() -> String {
    format!("127.0.0.1:{}", free_port())
}
