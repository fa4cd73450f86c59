//! Real Kafka brokers for tests, by scripts/kafka: each with its own folder and port, and gone when
//! its owner is, even where the test process was killed.
//!
//! A supervisor (a small shell loop in a process group of its own) starts the broker on request and
//! reads from a pipe that the test process holds. The pipe closes with the test process, however
//! that ends; then the supervisor kills the broker and removes its folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use mb::kafka::wire::Wire;
use rustix::process::{Pid, Signal, kill_process};

use super::proxy::Proxy;
use super::{eventually, free_port};

/// Oldest and newest that mb is tested with, and the one between.
pub const V3_4: &str = "3.4.1";
pub const V3_9: &str = "3.9.1";
pub const V4_4: &str = "4.4.0";

/// Proxies of a shared broker: as many tests may use one at the same time.
const PROXIES: u64 = 6;

const SUPERVISOR: &str = r#"
# The reader of the answer may have died meanwhile; that must not end this before its work is done.
trap : PIPE
while read -r _; do
    if "$SCRIPT" start >"$FOLDER/start.log" 2>&1 </dev/null; then echo ok; else echo failed; fi
done
if read -r pid <"$KAFKA_DIR/broker.pid" &&
    grep -qaF "$KAFKA_DIR/server.properties" "/proc/$pid/cmdline"; then
    kill -KILL "$pid"
fi
rm -rf "$FOLDER" || { sleep 1; rm -rf "$FOLDER"; }
"#;

/// A broker. Dropping it kills it and removes its folder.
pub struct Kafka {
    version: String,
    port: u16,
    folder: PathBuf,
    supervisor: Mutex<Supervisor>,
    /// Of a shared broker: the proxies that no test uses just now.
    proxies: Mutex<Vec<Proxy>>,
}

struct Supervisor {
    child: Child,
    /// `None` once it was told to end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Kafka {
    /// Starts a broker of the version, and returns when it answers.
    ///
    /// # Panics
    /// Where it cannot start, with what scripts/kafka said: without Java or Maven that is the line
    /// that tells how to get them.
    pub fn start(version: &str) -> Kafka {
        Kafka::start_with(version, &[])
    }

    /// The same, with broker properties to add or override.
    pub fn start_with(version: &str, properties: &[(&str, &str)]) -> Kafka {
        Kafka::start_behind(&[], version, properties)
    }

    /// The same behind proxies: who comes by one of them is sent to it for everything else too,
    /// while Kafka's own tools go to the broker itself.
    pub fn start_behind(proxies: &[Proxy], version: &str, properties: &[(&str, &str)]) -> Kafka {
        let port = free_port();
        let listener = |proxy: &Proxy| {
            let port = free_port();
            proxy.set_upstream(port);
            format!("{port}:{}", proxy.port())
        };
        let proxied: Vec<_> = proxies.iter().map(listener).collect();
        let folder = tempfile::Builder::new().prefix("mb-kafka-").tempdir().unwrap().keep();
        let properties: Vec<_> =
            properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut child = Command::new("bash")
            .args(["-c", SUPERVISOR, "kafka-supervisor"])
            .env("SCRIPT", script())
            .env("FOLDER", &folder)
            .env("KAFKA_VERSION", version)
            .env("KAFKA_PORT", port.to_string())
            .env("KAFKA_DIR", folder.join("kafka"))
            .env("KAFKA_PROPERTIES", properties.join("\n"))
            .env("KAFKA_PROXIED", proxied.join(" "))
            .env("KAFKA_QUICK_START", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // An interrupt at the terminal is for the tests; this ends after them.
            .process_group(0)
            .spawn()
            .expect("bash starts");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let kafka = Kafka {
            version: version.to_owned(),
            port,
            folder,
            supervisor: Mutex::new(Supervisor { child, requests, answers }),
            proxies: Mutex::default(),
        };
        kafka.restart();
        kafka
    }

    /// The broker of this version that all tests of this test binary share: for tests that leave it
    /// as it is and use topics and groups of their own (`support::unique`). Its cleaner looks for work
    /// more often than each 15 s, and it can be reached by a few proxies.
    pub fn shared(version: &str) -> &'static Kafka {
        static SHARED: Mutex<BTreeMap<String, &'static OnceLock<Kafka>>> =
            Mutex::new(BTreeMap::new());
        let of_version = *SHARED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(version.to_owned())
            .or_insert_with(|| Box::leak(Box::default()));
        of_version.get_or_init(|| {
            let proxies: Vec<_> = (0..PROXIES).map(Proxy::start_without_broker).collect();
            let cleaner = [("log.cleaner.backoff.ms", "100"), ("log.cleaner.threads", "1")];
            let mut kafka = Kafka::start_behind(&proxies, version, &cleaner);
            kafka.proxies = Mutex::new(proxies);
            kafka
        })
    }

    /// A proxy of a shared broker, for one test alone; `None` while others have all of them.
    pub fn take_proxy(&self) -> Option<Proxy> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// The proxy is healthy, and nobody uses it any more.
    pub fn give_back(&self, proxy: Proxy) {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).push(proxy);
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// `127.0.0.1:PORT`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where the broker has its data and its log; gone when this is dropped.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The broker's process.
    pub fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.dir().join("broker.pid")).expect("broker.pid is there");
        text.trim().parse().expect("broker.pid holds a number")
    }

    /// Ends the broker as a crash would, and returns when it is gone.
    pub fn kill9(&self) {
        let pid = self.pid();
        self.signal(Signal::KILL);
        eventually(Duration::from_secs(10), "the killed broker is gone", || !alive(pid));
    }

    /// Ends the broker in order, and returns when it is gone. On its way out it answers for a moment
    /// that the cluster has no brokers.
    pub fn term(&self) {
        let pid = self.pid();
        self.signal(Signal::TERM);
        eventually(Duration::from_secs(60), "the stopped broker is gone", || !alive(pid));
    }

    /// Starts the broker (again), on the same data and port, and returns when it answers.
    ///
    /// # Panics
    /// As `start`.
    pub fn restart(&self) {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = supervisor.requests.as_mut().expect("the supervisor runs");
        requests.write_all(b"start\n").expect("the supervisor reads");
        let mut answer = String::new();
        supervisor.answers.read_line(&mut answer).expect("the supervisor answers");
        if answer.trim() != "ok" {
            let said = fs::read_to_string(self.folder.join("start.log")).unwrap_or_default();
            panic!("Kafka {} did not start: {}", self.version, said.trim());
        }
    }

    /// Freezes the broker (true), or lets it go on (false).
    pub fn stop_cont(&self, stop: bool) {
        self.signal(if stop { Signal::STOP } else { Signal::CONT });
        if stop {
            // On a busy machine a thread of it may still answer for a while.
            let tasks = format!("/proc/{}/task", self.pid());
            super::eventually(Duration::from_secs(20), "every thread of the broker stands", || {
                let mut tasks = fs::read_dir(&tasks).expect("the broker's process is there");
                tasks.all(|task| {
                    let stat = fs::read_to_string(task.expect("an entry").path().join("stat"));
                    // Behind the name in brackets comes the state, T where it is stopped.
                    stat.map_or(true, |stat| {
                        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
                    })
                })
            });
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a pid is above 0");
        kill_process(pid, signal).expect("the broker's process is there");
    }

    /// Runs a tool of Kafka's (see `scripts/kafka help`) against this broker; returns its stdout.
    ///
    /// # Panics
    /// Where it fails, with what it said.
    pub fn tool(&self, name: &str, args: &[&str]) -> String {
        self.tool_with_input(name, args, b"")
    }

    /// The same, with `input` on its stdin.
    pub fn tool_with_input(&self, name: &str, args: &[&str], input: &[u8]) -> String {
        let mut child = Command::new(script())
            .args(["run", name])
            .args(args)
            .env("KAFKA_VERSION", &self.version)
            .env("KAFKA_PORT", self.port.to_string())
            .env("KAFKA_DIR", self.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scripts/kafka starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let output = thread::scope(|scope| {
            // A tool that does not read its input closes the pipe; its status tells what counts.
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().expect("scripts/kafka ends")
        });
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{name} {args:?} failed with {}:\n{stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        stdout
    }

    /// Creates a topic with topic properties (`max.message.bytes`, …), by Kafka's own tool.
    pub fn create_topic(&self, topic: &str, partitions: u32, properties: &[(&str, &str)]) {
        let count = partitions;
        let partitions = partitions.to_string();
        let properties: Vec<_> =
            properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut args = vec!["--create", "--topic", topic, "--partitions", &partitions];
        for property in &properties {
            args.extend(["--config", property]);
        }
        self.tool("topics", &args);
        self.wait_until_served(topic, count);
    }

    /// Creates a topic whose partition N is on the Nth of `brokers` alone.
    pub fn create_topic_on(&self, topic: &str, brokers: &[i32]) {
        let on: Vec<_> = brokers.iter().map(i32::to_string).collect();
        let args = ["--create", "--topic", topic, "--replica-assignment", &on.join(",")];
        self.tool("topics", &[&args[..], &["--config", "min.insync.replicas=1"]].concat());
    }

    /// Raises the topic's partitions to `partitions`.
    pub fn add_partitions(&self, topic: &str, partitions: u32) {
        let count = partitions.to_string();
        self.tool("topics", &["--alter", "--topic", topic, "--partitions", &count]);
        self.wait_until_served(topic, partitions);
    }

    /// The tool has its answer from the controller, before the broker itself knows the partitions.
    fn wait_until_served(&self, topic: &str, partitions: u32) {
        let wire = Wire::new(&self.bootstrap());
        let known = || wire.topic(topic).is_ok_and(|of| of.partitions.len() == partitions as usize);
        eventually(Duration::from_secs(60), "the broker knows the new partitions", known);
        // It is there: this waits until each leader serves its partitions, and changes nothing.
        wire.create_topic(topic, partitions).expect("every partition is served");
    }

    /// Removes the partition's records below `offset`.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let request = serde_json::json!({
            "version": 1,
            "partitions": [{"topic": topic, "partition": partition, "offset": offset}],
        });
        fs::write(file.path(), request.to_string()).unwrap();
        let path = file.path().to_str().expect("a path in UTF-8");
        let said = self.tool("delete-records", &["--offset-json-file", path]);
        assert!(said.contains("low_watermark"), "{said}");
    }

    /// What Kafka's own tool says of a group: partition, committed offset, end and lag, as text, in
    /// the order of partitions.
    pub fn describe_group(&self, group: &str) -> Vec<[String; 4]> {
        // By itself it gives up after 5 s, with exit code 0.
        let said =
            self.tool("consumer-groups", &["--describe", "--group", group, "--timeout", "60000"]);
        let rows = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut rows: Vec<[String; 4]> = rows
            .filter(|cells| cells.first() == Some(&group))
            .map(|cells| [cells[2], cells[3], cells[4], cells[5]].map(str::to_owned))
            .collect();
        rows.sort_by_key(|[partition, ..]| partition.parse::<i32>().expect("a partition"));
        rows
    }

    /// Moves a group's offsets in a topic by Kafka's own tool; `to` is like `--to-earliest`.
    pub fn reset_group(&self, group: &str, topic: &str, to: &[&str]) {
        let mut args = vec!["--reset-offsets", "--execute", "--group", group, "--topic", topic];
        args.extend(["--timeout", "60000"]);
        args.extend(to);
        let said = self.tool("consumer-groups", &args);
        assert!(said.contains(group), "{said}");
    }

    fn dir(&self) -> PathBuf {
        self.folder.join("kafka")
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(supervisor.requests.take());
        let _ = supervisor.child.wait();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka")
}

/// A process that ended but was not waited for by its parent has an empty command line.
pub fn alive(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
