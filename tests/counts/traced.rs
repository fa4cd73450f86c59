//! The built binary under strace: it drains an embedded topic, and its system calls are counted by
//! kind and by file. On one processor: so its threads take turns in much the same way each time,
//! whatever else the machine does (on two the transactions of one drain were three times another's).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mb::kafka::embedded::Embedded;
use mb::kafka::{Broker, Message, Sent};

const TOPIC: &str = "orders";

/// Calls that depend on who runs before whom, and so on the machine's load: threads that wait for one
/// another. They are not even traced: each stop would change what it counts.
const NOT_COUNTED: &str = "!futex,sched_yield";

/// What one run of mb asked of the system.
pub struct Calls {
    /// Kind of call and name of its file ("" without one), and how often.
    by_kind: BTreeMap<(String, String), u64>,
    /// Transactions in history.db.
    pub transactions: u64,
    pub took: Duration,
}

impl Calls {
    /// Calls of these kinds, on whatever file.
    pub fn of(&self, kinds: &[&str]) -> u64 {
        self.sum(|kind, _| kinds.contains(&kind))
    }

    /// Those whose file's name begins so.
    pub fn on(&self, kinds: &[&str], file: &str) -> u64 {
        self.sum(|kind, of| kinds.contains(&kind) && of.starts_with(file))
    }

    pub fn all(&self) -> u64 {
        self.sum(|_, _| true)
    }

    fn sum(&self, counts: impl Fn(&str, &str) -> bool) -> u64 {
        self.by_kind.iter().filter(|((k, file), _)| counts(k, file)).map(|(_, calls)| calls).sum()
    }

    /// The most frequent ones, for who reads a failure.
    pub fn most(&self) -> String {
        let mut calls: Vec<_> = self.by_kind.iter().collect();
        calls.sort_by_key(|(_, calls)| std::cmp::Reverse(**calls));
        let lines = calls.iter().take(12).map(|((kind, file), n)| format!("{n:>8} {kind} {file}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Fills a topic with `records` records of 100 bytes, and drains it in batches of `batch`.
///
/// # Panics
/// Where strace is not there or not allowed to trace, and where mb does not drain the topic.
pub fn drain(records: u64, batch: u64) -> Calls {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    fill(dir.path(), records);
    let trace = dir.path().join("trace");
    let mut strace = Command::new("taskset");
    strace.args(["--cpu-list", &a_processor(), "strace"]);
    strace.args(["-f", "--seccomp-bpf", "-y", "-xx", "-s", "24", "-e", NOT_COUNTED, "-o"]);
    strace.arg(&trace).arg(env!("CARGO_BIN_EXE_mb"));
    strace.args(["--client", "embedded", "--topic", TOPIC, "--until-caught-up", "--listen", "off"]);
    strace.args(["--step", "discard", "--embedded-retention-bytes", "1GiB", "--data-dir"]);
    strace.arg(dir.path()).args(["--max-batch", &batch.to_string()]).env_remove("RUST_LOG");
    let began = Instant::now();
    let output = strace.stdin(Stdio::null()).output().unwrap_or_else(|cause| {
        panic!("cannot start taskset ({cause}): run scripts/setup test, which installs it")
    });
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    // As env(1) and shells, taskset says so where there is no such program.
    assert_ne!(
        output.status.code(),
        Some(127),
        "cannot start strace: run scripts/setup test, which installs it\n{said}"
    );
    assert!(
        output.status.success(),
        "mb under strace failed (where strace may not trace, a container lacks SYS_PTRACE):\n{said}"
    );
    let lines = fs::read_to_string(&trace).expect("strace has written it");
    let calls = read(&lines, took);
    let history = mb::history::schema::open_read_only(&dir.path().join(mb::history::FILE));
    let done = "SELECT sum(records) FROM runs WHERE state = 2";
    let done: u64 = history
        .expect("mb has made it")
        .query_row(done, [], |row| row.get(0))
        .expect("it can be read");
    assert_eq!(done, records, "{said}");
    calls
}

/// The first processor that this process may run on.
fn a_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = allowed.expect("a list of processors").trim();
    allowed.split([',', '-']).next().unwrap_or_default().to_owned()
}

fn fill(dir: &Path, records: u64) {
    const WAIT: Duration = Duration::from_secs(60);
    let topics = Embedded::open(dir, 1 << 30).expect("a fresh topic file");
    topics.create_topic(TOPIC, 1).expect("a fresh topic");
    let mut producer = topics.producer(TOPIC).expect("it has just been made");
    let message = Message { partition: 0, key: None, value: Some(&[b'x'; 100]), headers: &[] };
    for _ in 0..records {
        assert_eq!(producer.send(message, WAIT), Ok(Sent::Accepted));
    }
    assert_eq!(producer.flush(WAIT), Ok(0));
}

fn read(trace: &str, took: Duration) -> Calls {
    let mut calls = Calls { by_kind: BTreeMap::new(), transactions: 0, took };
    for line in trace.lines() {
        // "123 pwrite64(7<\x2f\x74>, "\x00", 24, 32) = 24"; what another thread interrupted has its end in
        // a line of its own, "123 <... pwrite64 resumed>) = 24", and signals and exits have no call.
        let Some((_, call)) = line.split_once(' ') else { continue };
        let Some((kind, arguments)) = call.trim_start().split_once('(') else { continue };
        if !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let path = arguments
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'));
        let (file, rest) = path.map_or((String::new(), arguments), |(path, rest)| {
            let path = text(path);
            (path.rsplit('/').next().unwrap_or_default().to_owned(), rest)
        });
        if kind == "pwrite64" && file == "history.db-wal" && ends_transaction(rest) {
            calls.transactions += 1;
        }
        *calls.by_kind.entry((kind.to_owned(), file)).or_default() += 1;
    }
    calls
}

/// Of a write to a write-ahead log, whether it is the head of a frame that ends a transaction: one of
/// 24 bytes whose second number, the size of the file after it, is not 0 (SQLite's file format,
/// "WAL frame header").
fn ends_transaction(arguments: &str) -> bool {
    let mut parts = arguments.trim_start_matches([',', ' ']).split(", ");
    let (Some(bytes), Some(length)) = (parts.next(), parts.next()) else { return false };
    let bytes = bytes.trim_matches('"');
    length == "24" && bytes.get(16..32).is_some_and(|size| size != r"\x00".repeat(4))
}

/// What strace has written as `\x2f\x74`.
fn text(hex: &str) -> String {
    let bytes = hex.split("\\x").skip(1).filter_map(|byte| u8::from_str_radix(byte, 16).ok());
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

#[test]
fn a_trace_is_read_by_kind_file_and_transaction() {
    let trace = r#"12 openat(AT_FDCWD, "\x61", O_RDONLY) = 3
12 pwrite64(13<\x2f\x61>, "\x00\x00", 24, 0 <unfinished ...>
13 pwrite64(7<\x2f\x68\x69\x73\x74\x6f\x72\x79\x2e\x64\x62\x2d\x77\x61\x6c>, "\x00\x00\x00\x10\x00\x00\x00\x00\xe4\xd8\xda\x17\x59\xde\x2a\x36\x1c\x8e\x4c\x97\x2a\x6e\x2f\x46", 24, 156592) = 24
13 pwrite64(7<\x2f\x68\x69\x73\x74\x6f\x72\x79\x2e\x64\x62\x2d\x77\x61\x6c>, "\x05\x00\x00\x00\x05\x0f\xe4\x00"..., 4096, 152496) = 4096
12 <... pwrite64 resumed>) = 24
13 pwrite64(7<\x2f\x68\x69\x73\x74\x6f\x72\x79\x2e\x64\x62\x2d\x77\x61\x6c>, "\x00\x00\x00\x10\x00\x00\x00\x17\xe4\xd8\xda\x17\x59\xde\x2a\x36\x1c\x8e\x4c\x97\x2a\x6e\x2f\x46", 24, 160712) = 24
13 --- SIGCHLD {si_signo=SIGCHLD} ---
13 +++ exited with 0 +++
"#;
    let calls = read(trace, Duration::ZERO);
    assert_eq!(calls.all(), 5);
    assert_eq!(calls.of(&["pwrite64"]), 4);
    assert_eq!(calls.on(&["pwrite64"], "history.db"), 3);
    assert_eq!(calls.on(&["pwrite64"], "a"), 1);
    assert_eq!(calls.transactions, 1);
}
