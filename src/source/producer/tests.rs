//! The producer task with a client in memory that fails on cue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use proptest::prelude::*;

use super::*;
use crate::config::{Produce, limits};
use crate::kafka::partitioner::partition_of_key;
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

/// What a fake client does with the next message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Take,
    /// Take it, and report later that it failed.
    Lose,
    Full,
    Refuse,
    RefuseForGood,
}

/// A log in memory, shared by a fake client and those made after it.
#[derive(Default)]
struct Log {
    script: VecDeque<Act>,
    written: Vec<(Partition, Option<Vec<u8>>, Vec<u8>)>,
    producers: u32,
    /// How many attempts to make a producer fail, before one succeeds.
    away: u32,
    flushes_never_end: bool,
}

#[derive(Clone, Default)]
struct Fake {
    log: Arc<Mutex<Log>>,
    delivery: Delivery,
}

impl Fake {
    fn with(script: &[Act]) -> Fake {
        let fake = Fake::default();
        fake.log.lock().unwrap().script = script.iter().copied().collect();
        fake
    }

    /// The stop's sender and the task.
    fn task(&self, settings: Produce) -> (Sender<()>, ProducerTask) {
        let (sender, stop) = bounded(1);
        let log = Arc::clone(&self.log);
        let reconnect: Reconnect = Box::new(move || {
            let mut state = log.lock().unwrap();
            if state.away > 0 {
                state.away -= 1;
                return Err(Error::broker("reach it", "refused"));
            }
            state.producers += 1;
            Ok(Box::new(Fake { log: Arc::clone(&log), delivery: Delivery::default() }))
        });
        let first = Box::new(self.clone());
        (sender, ProducerTask::sequence(settings, 0, 3, first, reconnect, stop))
    }

    fn sequence_numbers(&self) -> Vec<u64> {
        let log = self.log.lock().unwrap();
        let number = |value: &Vec<u8>| {
            let json: serde_json::Value = serde_json::from_slice(value).unwrap();
            json["seq"].as_u64().unwrap()
        };
        log.written.iter().map(|(_, _, value)| number(value)).collect()
    }
}

impl Producer for Fake {
    fn send(&mut self, message: Message<'_>, _wait: Duration) -> Result<Sent> {
        let mut log = self.log.lock().unwrap();
        match log.script.pop_front().unwrap_or(Act::Take) {
            Act::Take => {
                let key = message.key.map(<[u8]>::to_vec);
                log.written.push((message.partition, key, message.value.unwrap().to_vec()));
                self.delivery.acknowledged += 1;
                Ok(Sent::Accepted)
            }
            Act::Lose => {
                self.delivery.failed += 1;
                self.delivery.last_error = Some("timed out".into());
                Ok(Sent::Accepted)
            }
            Act::Full => Ok(Sent::Full),
            Act::Refuse => Err(Error::broker("send", "no such leader")),
            Act::RefuseForGood => {
                Err(Error::Unsupported { what: "no".into(), hint: "never".into() })
            }
        }
    }

    fn delivery(&mut self) -> Delivery {
        self.delivery.clone()
    }

    fn flush(&mut self, _limit: Duration) -> Result<u64> {
        Ok(u64::from(self.log.lock().unwrap().flushes_never_end))
    }
}

fn unpaced(count: u64) -> Produce {
    Produce { rate: 0.0, count: Some(count), ..Produce::default() }
}

#[test]
fn messages_go_to_each_partition_in_turn_or_follow_their_key() {
    let fake = Fake::default();
    let report = fake.task(unpaced(9)).1.run();
    assert_eq!((report.posted, report.acknowledged, report.failed), (9, 9, 0));
    assert!(!report.stopped && report.error.is_none());
    let partitions: Vec<_> = fake.log.lock().unwrap().written.iter().map(|w| w.0).collect();
    assert_eq!(partitions, [0, 1, 2, 0, 1, 2, 0, 1, 2]);

    let fake = Fake::default();
    fake.task(Produce { keys: 4, ..unpaced(20) }).1.run();
    for (partition, key, _) in &fake.log.lock().unwrap().written {
        assert_eq!(*partition, partition_of_key(key.as_ref().unwrap(), 3));
    }
}

#[test]
fn a_full_buffer_only_delays() {
    let fake = Fake::with(&[Act::Take, Act::Full, Act::Full, Act::Take, Act::Full]);
    assert_eq!(fake.task(unpaced(5)).1.run().acknowledged, 5);
    assert_eq!(fake.sequence_numbers(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_client_that_fails_is_replaced_and_its_message_is_posted_again() {
    let fake = Fake::with(&[Act::Take, Act::Refuse, Act::Take]);
    fake.log.lock().unwrap().away = 2;
    let report = fake.task(unpaced(4)).1.run();
    assert_eq!((report.posted, report.acknowledged, report.failed), (4, 4, 0));
    assert_eq!(fake.sequence_numbers(), [0, 1, 2, 3]);
    assert_eq!(fake.log.lock().unwrap().producers, 1);
}

#[test]
fn a_message_that_no_client_takes_is_dropped_and_counted() {
    let tries = [Act::Refuse; limits::PRODUCER_TRIES as usize];
    let fake = Fake::with(&[&[Act::Take], &tries[..]].concat());
    let report = fake.task(unpaced(3)).1.run();
    assert_eq!((report.posted, report.acknowledged, report.failed), (3, 2, 1));
    assert_eq!(fake.sequence_numbers(), [0, 2]);
    let text = report.error.unwrap().to_string();
    assert!(text.contains("no such leader"), "{text}");

    let fake = Fake::with(&[Act::RefuseForGood]);
    let report = fake.task(unpaced(2)).1.run();
    assert_eq!((report.acknowledged, report.failed), (1, 1));
    assert_eq!(fake.log.lock().unwrap().producers, 0, "the client was not to blame");
}

#[test]
fn messages_that_the_broker_never_acknowledged_are_failures() {
    let fake = Fake::with(&[Act::Take, Act::Lose, Act::Lose]);
    let report = fake.task(unpaced(4)).1.run();
    assert_eq!((report.posted, report.acknowledged, report.failed), (4, 2, 2));
    assert_eq!(report.error, Some(Error::Other("timed out".into())));
}

#[test]
fn the_stop_is_seen_while_waiting_while_full_and_while_the_broker_is_away() {
    let slow = Produce { rate: 0.001, count: None, ..Produce::default() };
    let full = Fake::with(&[Act::Full; 100_000]);
    let away = Fake::with(&[Act::Refuse]);
    away.log.lock().unwrap().away = u32::MAX;
    for (fake, settings) in [(Fake::default(), slow), (full, unpaced(5)), (away, unpaced(5))] {
        let (stop, task) = fake.task(settings);
        let (sender, outcome) = bounded(1);
        std::thread::spawn(move || sender.send(task.run()));
        drop(stop);
        let report = outcome.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(report.stopped);
        assert_eq!(report.posted, 0);
    }
}

#[test]
fn a_flush_without_progress_ends_soon_after_a_stop() {
    let fake = Fake::default();
    fake.log.lock().unwrap().flushes_never_end = true;
    let (stop, task) = fake.task(unpaced(1));
    let (sender, outcome) = bounded(1);
    std::thread::spawn(move || sender.send(task.run()));
    while fake.sequence_numbers().is_empty() {
        std::thread::yield_now();
    }
    drop(stop);
    let report = outcome.recv_timeout(limits::PRODUCER_STOP_FLUSH_LIMIT * 4).unwrap();
    assert_eq!(report.posted, 1);
}

#[test]
fn progress_is_reported_each_second_and_at_the_end() {
    let fake = Fake::default();
    let (_stop, mut task) =
        fake.task(Produce { rate: 20.0, count: Some(22), ..Produce::default() });
    let (sender, reported) = bounded(100);
    task.progress =
        Progress::Call(Box::new(move |acknowledged| sender.send(acknowledged).unwrap()));
    let report = task.run();
    let reported: Vec<u64> = reported.iter().collect();
    assert_eq!(reported.last(), Some(&22));
    assert!(reported.len() >= 2 && reported.is_sorted(), "{reported:?}");
    // The last of 22 messages is due in the middle of its interval of 50 ms.
    assert!(report.elapsed >= Duration::from_millis(1075), "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Whatever the client does, the counts add up and the order is kept.
    #[test]
    fn the_counts_add_up(
        script in proptest::collection::vec(
            prop_oneof![
                8 => Just(Act::Take),
                2 => Just(Act::Full),
                1 => Just(Act::Lose),
                1 => Just(Act::RefuseForGood),
            ],
            0..60,
        ),
        count in 0..60_u64,
    ) {
        let fake = Fake::with(&script);
        let report = fake.task(unpaced(count)).1.run();
        prop_assert_eq!(report.posted, count);
        prop_assert_eq!(report.acknowledged + report.failed, count);
        let numbers = fake.sequence_numbers();
        prop_assert_eq!(numbers.len() as u64, report.acknowledged);
        prop_assert!(numbers.is_sorted());
    }
}
