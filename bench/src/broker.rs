//! A broker of the bench's own, its topics, and what it says of them.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use mb_bench::{LONGEST, Result};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::{interrupt, process};

/// Enough that the broker never waits for its garbage, whatever the workload.
const HEAP: &str = "1g";
const FILL_LIMIT: Duration = Duration::from_secs(180);
const TOPIC_LIMIT: Duration = Duration::from_secs(60);
/// Where the broker's port is looked for: below what the system takes for outgoing connections.
const PORTS: std::ops::Range<u16> = 16_000..32_000;

pub struct Broker {
    pub version: String,
    /// HOST:PORT.
    pub address: String,
    script: PathBuf,
    port: u16,
    folder: PathBuf,
    consumer: BaseConsumer,
    admin: AdminClient<DefaultClientContext>,
}

impl Broker {
    /// Starts a fresh one in a folder of its own beneath `bench`; one that an earlier bench left
    /// there is ended first.
    ///
    /// # Errors
    /// Where it does not start; with what its script said.
    pub fn start(root: &Path, bench: &Path, version: &str) -> Result<Broker> {
        let folder = bench.join(format!("kafka-{version}"));
        let script = root.join("scripts/kafka");
        let port = free_port()?;
        if folder.exists() {
            kafka(&script, &folder, version, port, &["stop", "--delete"])?;
        }
        let started = kafka(&script, &folder, version, port, &["start"]);
        let address = format!("127.0.0.1:{port}");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &address).set("group.id", "bench");
        config.set("enable.metrics.push", "false");
        let (consumer, admin) = (config.create()?, config.create()?);
        let version = version.to_owned();
        let broker = Broker { version, address, script, port, folder, consumer, admin };
        started.map(|()| broker)
    }

    /// Makes a topic, and waits until all its partitions can be used.
    ///
    /// # Errors
    /// Where the broker refuses it.
    pub fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let made = self.admin.create_topics([&new], &AdminOptions::new());
        for made in block_on(made)? {
            made.map_err(|(topic, cause)| format!("topic {topic} cannot be made: {cause}"))?;
        }
        let end = Instant::now() + TOPIC_LIMIT;
        loop {
            interrupt::sleep(Duration::from_millis(50))?;
            // The metadata name a leader a moment before that one knows of it.
            match self.ends(topic) {
                Ok(ends) if ends.len() == partitions as usize => return Ok(()),
                _ if Instant::now() < end => {}
                Ok(_) => return Err(format!("topic {topic} has too few partitions").into()),
                Err(cause) => return Err(format!("topic {topic} is not ready: {cause}").into()),
            }
        }
    }

    /// Makes a topic of `count` records with values of `bytes` that do not compress.
    ///
    /// # Errors
    /// Where not exactly these are in it at the end.
    pub fn fill(&self, topic: &str, partitions: i32, count: u64, bytes: usize) -> Result<()> {
        self.create(topic, partitions, &[])?;
        self.add(topic, count, bytes)
    }

    /// # Errors
    /// As `fill`.
    pub fn add(&self, topic: &str, count: u64, bytes: usize) -> Result<()> {
        let before = self.count(topic)?;
        let mut load = Command::new(own_program("load")?);
        load.arg("fill").args(["--bootstrap-server", &self.address, "--topic", topic]);
        load.args(["--count", &count.to_string(), "--bytes", &bytes.to_string()]);
        process::run(load, FILL_LIMIT)?;
        let there = self.count(topic)?;
        if there != before + count {
            return Err(format!("topic {topic} has {there} records, not {}", before + count).into());
        }
        Ok(())
    }

    /// # Errors
    /// Where the broker refuses it.
    pub fn delete(&self, topic: &str) -> Result<()> {
        block_on(self.admin.delete_topics(&[topic], &AdminOptions::new()))?;
        Ok(())
    }

    /// Each partition's end.
    ///
    /// # Errors
    /// Where the broker does not answer.
    pub fn ends(&self, topic: &str) -> Result<Vec<(i32, i64)>> {
        self.first_from(topic, Offset::End)
    }

    /// # Errors
    /// As `ends`.
    pub fn count(&self, topic: &str) -> Result<u64> {
        Ok(self.ends(topic)?.iter().map(|(_, end)| *end as u64).sum())
    }

    /// Whether the group's committed offsets are the topic's ends.
    ///
    /// # Errors
    /// Where they are not, or the broker does not answer.
    pub fn check_committed(&self, topic: &str, group: &str) -> Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("group.id", group);
        let consumer: BaseConsumer = config.create()?;
        let ends = self.ends(topic)?;
        let mut asked = TopicPartitionList::new();
        for (partition, _) in &ends {
            asked.add_partition(topic, *partition);
        }
        let committed = consumer.committed_offsets(asked, LONGEST)?;
        for (partition, end) in ends {
            let found = committed.find_partition(topic, partition).map(|found| found.offset());
            if found != Some(Offset::Offset(end)) {
                return Err(format!(
                    "partition {partition} is committed at {found:?}, its end is {end}"
                )
                .into());
            }
        }
        Ok(())
    }

    /// In each partition the first record from a time (or `Offset::End`) on. One question for all
    /// partitions: 1000 watermarks take seconds.
    fn first_from(&self, topic: &str, time: Offset) -> Result<Vec<(i32, i64)>> {
        let mut asked = TopicPartitionList::new();
        for partition in mb_bench::partitions(&self.consumer, topic)? {
            asked.add_partition_offset(topic, partition, time)?;
        }
        let answer = self.consumer.offsets_for_times(asked, LONGEST)?;
        let mut offsets = Vec::new();
        for element in answer.elements() {
            element.error()?;
            match (element.partition(), element.offset()) {
                (partition, Offset::Offset(offset)) => offsets.push((partition, offset)),
                // No record is as young as that.
                (partition, Offset::End) if time != Offset::End => offsets.push((partition, -1)),
                (partition, other) => {
                    return Err(format!("{topic}/{partition} has no offset: {other:?}").into());
                }
            }
        }
        Ok(offsets)
    }

    /// Records a second from `skipped_s` after the first record on, by the times at which the broker
    /// appended them.
    ///
    /// # Errors
    /// Where they cannot be read, or there are fewer than two.
    pub fn appended_per_s(&self, topic: &str, skipped_s: u64) -> Result<f64> {
        let ends = self.ends(topic)?;
        let starts: Vec<_> = ends.iter().map(|(partition, _)| (*partition, 0)).collect();
        let lasts: Vec<_> = ends.iter().map(|(partition, end)| (*partition, end - 1)).collect();
        let began = self.times(topic, &starts)?.into_iter().min().ok_or("the topic is empty")?;
        let from = Offset::Offset(began + skipped_s as i64 * 1000);
        let firsts = self.first_from(topic, from)?;
        let first = self.times(topic, &firsts)?.into_iter().min().ok_or("no record is so young")?;
        let last = self.times(topic, &lasts)?.into_iter().max().ok_or("the topic is empty")?;
        let mut count = 0;
        for (partition, first) in firsts.iter().filter(|(_, first)| *first >= 0) {
            let end = ends.iter().find(|(other, _)| other == partition).map_or(0, |(_, end)| *end);
            count += end - first;
        }
        if count < 2 || last <= first {
            return Err(format!("{count} records are too few for a rate").into());
        }
        Ok((count - 1) as f64 * 1000.0 / (last - first) as f64)
    }

    /// The timestamps of single records, in milliseconds; those below 0 are none.
    fn times(&self, topic: &str, records: &[(i32, i64)]) -> Result<Vec<i64>> {
        let consumer = mb_bench::consumer(&self.address, "bench")?;
        let mut times = Vec::new();
        for (partition, offset) in records.iter().filter(|(_, offset)| *offset >= 0) {
            let mut from = TopicPartitionList::new();
            from.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
            consumer.assign(&from)?;
            let record = consumer.poll(LONGEST).ok_or("no record for 10 s")??;
            times.push(record.timestamp().to_millis().ok_or("a record without a timestamp")?);
        }
        Ok(times)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let stopped =
            kafka(&self.script, &self.folder, &self.version, self.port, &["stop", "--delete"]);
        if let Err(cause) = stopped {
            eprintln!("bench: {cause}");
        }
    }
}

/// Runs scripts/kafka for one folder, in a process group of its own: a Ctrl-C is for the bench.
fn kafka(script: &Path, folder: &Path, version: &str, port: u16, args: &[&str]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let output = Command::new(script)
        .args(args)
        .env("KAFKA_VERSION", version)
        .env("KAFKA_PORT", port.to_string())
        .env("KAFKA_DIR", folder)
        .env("KAFKA_HEAP", HEAP)
        .env_remove("KAFKA_PROPERTIES")
        .env_remove("KAFKA_PROXIED")
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .map_err(|cause| format!("cannot run {}: {cause}", script.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("scripts/kafka {}: {}", args.join(" "), said.trim()).into())
}

fn free_port() -> Result<u16> {
    let mut noise = mb_bench::Noise(u64::from(std::process::id()));
    for _ in 0..100 {
        let port = PORTS.start + (noise.draw() % PORTS.len() as u64) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!("no free port between {} and {}", PORTS.start, PORTS.end).into())
}

/// Another program of the bench's: they lie beside each other.
///
/// # Errors
/// Where it is not there.
pub fn own_program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("{} is not there: cargo build --release -p mb-bench", path.display()).into())
}

/// rdkafka's admin calls are futures that its own thread completes.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
