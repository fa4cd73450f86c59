//! What the integration tests share: real Kafka brokers, the built binary, readers of its output,
//! and waiting for what another process does. Each test file has `mod support;`.

// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod browser;
#[cfg(feature = "rdkafka")]
pub mod cluster;
pub mod disk;
#[cfg(feature = "rdkafka")]
pub mod faults;
pub mod files;
pub mod http;
pub mod kafka;
pub mod mb;
pub mod proxy;
#[cfg(feature = "rdkafka")]
pub mod raw;
pub mod world;

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
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
    let folder = std::env::temp_dir().join("mb-test-ports");
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
