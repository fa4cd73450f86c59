//! What the integration tests share: real Kafka brokers, the built binary, readers of its output,
//! and waiting for what another process does. Each test file has `mod support;`.

// Each test file uses its own part of this.
#![allow(dead_code)]

#[cfg(feature = "rdkafka")]
pub mod cluster;
pub mod disk;
#[cfg(feature = "rdkafka")]
pub mod faults;
pub mod files;
pub mod kafka;
pub mod mb;
pub mod proxy;
#[cfg(feature = "rdkafka")]
pub mod raw;
pub mod world;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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

/// A port of 127.0.0.1 that nobody listens on. It lies below the range that the system takes for
/// outgoing connections, so none of those takes it meanwhile, and is given out once per process.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 11_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        // Test binaries that run at the same time begin at different places.
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() * 101);
        let port = u16::try_from(FIRST + number % PORTS).expect("below 65,536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
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
