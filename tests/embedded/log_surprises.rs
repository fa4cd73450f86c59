//! What a log, or somebody at it, does behind mb's back: offsets that expire, offsets that somebody moves or
//! deletes while mb is idle, timestamps out of order; and a producer that goes on while cursors move. Over the
//! embedded topic; on real brokers: `tests/brokers/log_surprises.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mb::api::operations::Operation;
use mb::api::operations::cursor::MoveCursor;
use mb::api::operations::overview::{GetLag, GetOverview};
use mb::api::request::Request;
use mb::api::socket::Client;
use mb::config::limits;
use mb::kafka::embedded::Faults;
use mb::kafka::{Broker, Commit};
use mb::model::offset::Offset;
use mb::{Config, Pipeline, Produce, Stopper};

use crate::support::mb::Mb;
use crate::support::world::{Recorder, TOPIC, World, all};
use crate::support::{eventually, eventually_some};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipeline that runs until this is dropped.
struct Running {
    dir: std::path::PathBuf,
    stopper: Stopper,
    thread: Option<JoinHandle<mb::Result<mb::Summary>>>,
}

impl Running {
    fn start(world: &World, broker: impl Broker + 'static, config: Config) -> Running {
        Running::start_with(world, broker, config, Recorder::new(|_| Ok(())))
    }

    fn start_with(
        world: &World,
        broker: impl Broker + 'static,
        config: Config,
        step: Arc<Recorder>,
    ) -> Running {
        let config = Config { until_caught_up: false, ..config };
        let (stopper, stop) = Stopper::new();
        let pipeline = Pipeline::new(config, step).with_broker(Arc::new(broker));
        let thread = Some(thread::spawn(move || pipeline.run(&stop)));
        let running = Running { dir: world.dir.path().to_owned(), stopper, thread };
        let begun = || running.try_perform(GetOverview {});
        eventually(LIMIT, "mb runs", || begun().is_some_and(|seen| seen.waiting_for.is_none()));
        running
    }

    fn try_perform<O: Operation + Into<Request>>(&self, operation: O) -> Option<O::Answer> {
        Client::connect(&self.dir).ok()??.perform(operation).ok()
    }

    fn perform<O: Operation + Into<Request>>(&self, operation: O) -> O::Answer {
        Client::connect(&self.dir).unwrap().expect("mb runs").perform(operation).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        let ended = self.thread.take().unwrap().join().unwrap();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

#[test]
fn the_offset_of_a_quiet_partition_does_not_expire() {
    let kept = Duration::from_secs(4);
    let world = World::with_records(10);
    let faults = Faults::new(1);
    faults.keep_offsets_for(kept);
    let topics = world.topics.with_faults(faults);
    let committed = || -> BTreeMap<_, _> {
        let answers = topics.committed("mb", TOPIC, &[0, 1, 2]).unwrap().into_iter();
        answers.filter_map(|(one, offset)| Some((one, offset.unwrap()?))).collect()
    };
    let mb = Running::start(&world, topics.clone(), world.config());
    eventually(LIMIT, "all is committed", || committed() == all(10));
    // Nothing is posted any more, and nothing else is to be committed.
    let quiet = Instant::now();
    while quiet.elapsed() < 2 * kept {
        assert_eq!(committed(), all(10), "{:?} after the last message", quiet.elapsed());
        thread::sleep(limits::COMMIT_INTERVAL);
    }
    drop(mb);
}

/// Commits an offset of partition 1, with this beside it.
fn commit_beside_mb(world: &World, offset: i64, metadata: &str) {
    let (offset, metadata) = (Offset::new(offset), metadata.to_owned());
    let commit = Commit { partition: 1, offset, epoch: None, metadata };
    world.topics.commit_all("mb", TOPIC, &[commit]).unwrap();
}

/// How often each of the first ten records of partition 1 was processed.
fn times_of_1(step: &Recorder) -> Vec<usize> {
    let attempts = step.attempts.lock().unwrap();
    let of_1 = attempts.iter().filter(|(key, ..)| key.starts_with("orders/1/"));
    let mut times = vec![0; 10];
    for (offset, _) in of_1.flat_map(|(.., content)| content) {
        if let Some(times) = usize::try_from(*offset).ok().and_then(|at| times.get_mut(at)) {
            *times += 1;
        }
    }
    times
}

#[test]
fn offsets_that_somebody_moves_while_mb_runs_are_followed() {
    let three = |times: usize| [vec![1; 3], vec![times; 7]].concat();
    for is_busy in [false, true] {
        let world = World::with_records(10);
        let step = Recorder::new(|_| Ok(()));
        let produce = Produce { rate: 200.0, ..Produce::default() };
        let config = Config { produce: is_busy.then_some(produce), ..world.config() };
        let mb = Running::start_with(&world, world.topics.clone(), config, Arc::clone(&step));
        eventually(LIMIT, "all is committed", || {
            let committed = world.committed("mb");
            (0..3).all(|one| committed.get(&one).is_some_and(|at| at.get() >= 10))
        });
        assert_eq!(times_of_1(&step), three(1));
        // As Kafka's tool does it; then as `mb offsets` of another data directory does.
        for (round, metadata) in ["", "mb1 offsets 3"].into_iter().enumerate() {
            commit_beside_mb(&world, 3, metadata);
            let moved = Instant::now();
            eventually(LIMIT, "it is read again", || times_of_1(&step) == three(round + 2));
            assert!(moved.elapsed() < Duration::from_secs(30), "within a minute");
            eventually(LIMIT, "mb commits there", || world.committed("mb")[&1].get() >= 10);
            eventually(LIMIT, "mb is ready", || mb.perform(GetOverview {}).verdict.ready);
        }
        drop(mb);
    }
}

#[test]
fn the_offset_of_another_mb_is_said_and_not_followed() {
    let world = World::with_records(10);
    let step = Recorder::new(|_| Ok(()));
    let mb = Running::start_with(&world, world.topics.clone(), world.config(), Arc::clone(&step));
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(10));
    eventually(LIMIT, "mb is ready", || mb.perform(GetOverview {}).verdict.ready);
    for (offset, metadata, who) in [
        (3, "mb1 another 7", "another mb (instance another)"),
        (4, "mb2 whatever", "a newer mb (mark mb2; this one knows up to mb1)"),
    ] {
        commit_beside_mb(&world, offset, metadata);
        let detail = eventually_some(LIMIT, "mb says so", || {
            let reasons = mb.perform(GetOverview {}).verdict.reasons.into_iter();
            let named = |detail: &String| detail.contains(&format!("orders/1 to {offset}"));
            reasons.map(|reason| reason.detail).find(named)
        });
        assert!(detail.starts_with(who) && detail.contains("10"), "{detail}");
        let lag = mb.perform(GetLag {});
        let seen: Vec<_> = lag.top.iter().map(|row| (row.committed, row.lag)).collect();
        assert_eq!(seen[1], (Some(offset), 10 - u64::try_from(offset).unwrap()), "as the log says");
        assert_eq!(world.committed("mb")[&1], Offset::new(offset), "it is left while mb is idle");
    }
    // What a newer mb may have written there is never replaced.
    world.post(1, b"new");
    world.post(0, b"new");
    eventually(LIMIT, "the others go on", || world.committed("mb")[&0] == Offset::new(11));
    assert_eq!(world.committed("mb")[&1], Offset::new(4));
    assert_eq!(times_of_1(&step), [1; 10]);
    commit_beside_mb(&world, 3, "mb1 another 8");
    eventually(LIMIT, "mb goes on at its own", || world.committed("mb")[&1] == Offset::new(11));
    drop(mb);
}

#[test]
fn an_offset_that_the_log_has_lost_is_committed_again() {
    let world = World::with_records(10);
    let mb = Running::start(&world, world.topics.clone(), world.config());
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(10));
    let file = world.dir.path().join(mb::kafka::embedded::FILE);
    let db = rusqlite::Connection::open(file).unwrap();
    db.busy_timeout(LIMIT).unwrap();
    assert_eq!(db.execute("DELETE FROM commits", []).unwrap(), 3);
    drop(db);
    eventually(LIMIT, "it is there again", || world.committed("mb") == all(10));
    drop(mb);
}

/// Records in partition 0 with these timestamps, in ms since 1970.
fn with_timestamps(timestamps: &[i64]) -> World {
    let world = World::new();
    for n in 0..timestamps.len() {
        world.post(0, n.to_string().as_bytes());
    }
    let db = rusqlite::Connection::open(world.dir.path().join(mb::kafka::embedded::FILE)).unwrap();
    for (offset, timestamp) in (0_i64..).zip(timestamps) {
        // Each record is a chunk of its own, and begins with its timestamp.
        let chunk: Vec<u8> = db
            .query_row("SELECT records FROM chunks WHERE first_offset = ?1", [offset], |row| {
                row.get(0)
            })
            .unwrap();
        let changed = [&timestamp.to_le_bytes()[..], &chunk[8..]].concat();
        let update = "UPDATE chunks SET records = ?2 WHERE first_offset = ?1";
        assert_eq!(db.execute(update, rusqlite::params![offset, changed]).unwrap(), 1);
    }
    world
}

#[test]
fn a_replay_by_time_covers_records_whose_timestamps_are_out_of_order() {
    // 2026-01-01T00:00:00Z, a second per record; the fourth comes from the future, by a clock in microseconds, and
    // two lie before the window.
    const BEGIN: i64 = 1_767_225_600_000;
    let mut timestamps: Vec<i64> = (0..20).map(|n| BEGIN + 1000 * n).collect();
    timestamps[3] = BEGIN * 1000;
    timestamps[9] = BEGIN - 1;
    timestamps[10] = BEGIN - 1;
    let world = with_timestamps(&timestamps);
    let first = Recorder::new(|_| Ok(()));
    world.run(world.config(), &first).unwrap();
    assert_eq!(first.done_records().len(), 20);
    let window = ["--since", "2026-01-01", "--until", "2026-01-02"];
    let flags = ["--client", "embedded", "--topic", TOPIC, "--partition", "0"];
    let output = Mb::run_in(world.dir.path(), &[&["replay"], &window[..], &flags].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("timestamps out of order"), "{said}");
    let again = Recorder::new(|_| Ok(()));
    world.run(world.config(), &again).unwrap();
    let mut offsets: Vec<_> = again.done_records().into_iter().map(|(_, offset)| offset).collect();
    offsets.sort_unstable();
    let expected: Vec<i64> = (0..20).filter(|n| ![3, 9, 10].contains(n)).collect();
    assert_eq!(offsets, expected, "each record of the window, and no other");
}

#[test]
fn a_cursor_move_leaves_the_producer_alone() {
    let world = World::with_records(10);
    let faults = Faults::new(1);
    let topics = world.topics.with_faults(faults.clone());
    // It posts until mb stops: however slow the moves are, they meet it at work.
    let produce = Produce { rate: 50.0, ..Produce::default() };
    faults.delay(Duration::from_millis(100));
    let config = Config { produce: Some(produce), ..world.config() };
    let mb = Running::start(&world, topics, config);
    let posted = || -> i64 {
        let marks = world.topics.watermarks(TOPIC, &[0, 1, 2]).unwrap();
        marks.values().map(|marks| marks.as_ref().unwrap().end.get()).sum::<i64>() - 30
    };
    for partition in 0..3 {
        eventually(LIMIT, "there is an offset to move back", || {
            world.committed("mb").get(&partition).is_some_and(|offset| offset.get() > 5)
        });
        let before = posted();
        // A commit whose answer is outstanding refuses the move.
        eventually(LIMIT, "the cursor is moved", || {
            let request =
                MoveCursor { offsets: vec![(partition, 5)], dry_run: false, wait_s: Some(60.0) };
            mb.try_perform(request).is_some()
        });
        eventually(LIMIT, "it posts on", || posted() > before);
    }
    faults.heal();
    drop(mb);
    let reader = Recorder::new(|_| Ok(()));
    let mut config = world.config();
    config.connection.group = "reader".into();
    world.run(config, &reader).unwrap();
    let mut messages = BTreeSet::new();
    let done = reader.done.lock().unwrap();
    for value in done.values().flatten().filter_map(|(_, value)| value.as_ref()) {
        if let Ok(message) = serde_json::from_slice::<serde_json::Value>(value) {
            let seq = message["seq"].as_i64().expect("a message of the producer");
            assert!(messages.insert(seq), "message {seq} is there twice");
        }
    }
    let expected: BTreeSet<i64> = (0..posted()).collect();
    assert_eq!(messages, expected, "none is missing");
}
