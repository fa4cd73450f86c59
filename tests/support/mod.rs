//! What the integration tests share: real Kafka brokers, the built binary, readers of its output,
//! and waiting for what another process does. The `main.rs` of each test binary declares this module.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod browser;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod files;
pub mod fuzz;
pub mod http;
pub mod http_proxy;
pub mod kafka;
pub mod mb;
pub mod partly;
pub mod proxy;
pub mod raw;
pub mod world;

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Between two looks at another process' state, which tells nobody when it changes.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `done` says so.
///
/// # Panics
/// With `what` when `limit` is over.
pub fn eventually(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    eventually_some(limit, what, || done().then_some(()));
}

/// Looks until `look` finds something.
///
/// # Panics
/// With `what` when `limit` is over.
pub fn eventually_some<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// A port of 127.0.0.1 that nobody listens on, this process' until it ends. It lies below the range
/// that the system takes for outgoing connections, so none of those takes it; and a locked file keeps
/// it from the tests of other processes, which bind theirs at their own time.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 11_000;
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = env::temp_dir().join("mb-test-ports");
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    let first = fastrand::u16(..PORTS);
    for number in 0..PORTS {
        let port = FIRST + (first + number) % PORTS;
        let file = File::create(folder.join(port.to_string())).expect("a file for the port");
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + PORTS);
}

/// A name that no other test has, for topics and groups.
pub fn unique(name: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}", &id[..8])
}

/// Runs `body` in a process that runs this one test only, for a test that counts or changes what all
/// threads of a process share (descriptors, child processes, the clock of the library). `test` is the
/// full name of the calling test, such as `exec_leaks::two_runs_leave_nothing`.
///
/// # Panics
/// If `body` panics, with the output of its process.
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    const OWN_PROCESS: &str = "MB_TEST_OWN_PROCESS";
    if env::var_os(OWN_PROCESS).is_some() {
        return body();
    }
    let mut alone = Command::new(env::current_exe().expect("the path of this test binary"));
    alone.args(["--exact", test, "--nocapture"]).env(OWN_PROCESS, "1");
    let output = alone.output().expect("this test binary starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "{test}:\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The seed of a test that chooses by chance: `MB_TEST_SEED`; without it the same each time, or one by
/// chance in the long form (`MB_FAULT_LONG`). The test prints it.
pub fn test_seed() -> u64 {
    match env::var("MB_TEST_SEED") {
        Ok(seed) => seed.parse().expect("MB_TEST_SEED is a number"),
        Err(_) if faults::is_long() => fastrand::u64(..),
        Err(_) => 7,
    }
}
