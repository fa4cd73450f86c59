//! The producer task: posts messages at a pace, whatever the broker does meanwhile, and counts
//! what was acknowledged.
//!
//! What is posted comes from `messages`, when from `pacing`, to which partition from
//! `partitioner`. The task runs on a thread named `producer`; whoever starts it owns the stop.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use log::{info, warn};

use crate::broker::{Delivery, Message, Producer, Sent};
use crate::config::Produce;
use crate::error::{Class, Error, Result};
use crate::limits;
use crate::messages::{Messages, Next, Sequence};
use crate::offset::Partition;
use crate::pacing::Pace;
use crate::partitioner::{RoundRobin, partition_of_key};

/// Makes a new producer, after the one before has failed.
pub type Reconnect = Box<dyn FnMut() -> Result<Box<dyn Producer>> + Send>;

/// Told of the messages acknowledged so far, once per `limits::PRODUCER_REPORT_INTERVAL` and at
/// the end.
pub type Progress = Box<dyn FnMut(u64) + Send>;

/// All that the task needs; `run` does it.
pub struct ProducerTask {
    pub messages: Box<dyn Messages>,
    /// Messages per second; 0 is as fast as it goes.
    pub rate: f64,
    /// Partitions of the topic, from 0.
    pub partitions: u32,
    pub producer: Box<dyn Producer>,
    pub reconnect: Reconnect,
    /// A message, or the sender's end, is the stop.
    pub stop: Receiver<()>,
    pub progress: Progress,
}

/// What became of it all.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Messages that were handed to the client, or that it would not take at all.
    pub posted: u64,
    /// Messages that the broker has acknowledged.
    pub acknowledged: u64,
    /// Messages posted that were not acknowledged. Those that a client held when it failed are
    /// among them, and may be in the log all the same.
    pub failed: u64,
    /// From the start to the last acknowledgement waited for.
    pub elapsed: Duration,
    /// The stop came before the messages ended.
    pub stopped: bool,
    /// Why messages failed, or why no more came.
    pub error: Option<Error>,
}

impl Report {
    /// Acknowledged messages per second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

impl ProducerTask {
    /// Numbered messages as `settings` says, progress going to the log.
    pub fn sequence(
        settings: Produce,
        partitions: u32,
        producer: Box<dyn Producer>,
        reconnect: Reconnect,
        stop: Receiver<()>,
    ) -> ProducerTask {
        ProducerTask {
            rate: settings.rate,
            messages: Box::new(Sequence::new(settings)),
            partitions,
            producer,
            reconnect,
            stop,
            progress: log_progress(),
        }
    }

    /// Posts until the messages end or the stop comes; then waits for the last acknowledgements.
    /// A broker that fails is never the end of it.
    pub fn run(self) -> Report {
        let start = Instant::now();
        let pace = Pace::new(self.rate, start);
        let mut messages = self.messages;
        let mut link = Link::new(self.producer, self.reconnect);
        let mut target = Target { partitions: self.partitions, turn: RoundRobin::default() };
        let mut reporter =
            Reporter { progress: self.progress, next: start + limits::PRODUCER_REPORT_INTERVAL };
        let mut posted = 0;
        // The partition of a message that is ready but not yet taken by the client.
        let mut held: Option<Partition> = None;
        let mut error = None;

        let stopped = loop {
            let now = Instant::now();
            if reporter.is_due(now) {
                reporter.report(now, link.look().acknowledged);
            }
            if is_stopped(&self.stop) {
                break true;
            }
            let partition = match held {
                Some(partition) => partition,
                None if posted >= pace.due(now) => {
                    if wait(&self.stop, pace.next_wake(posted).min(reporter.next)) {
                        break true;
                    }
                    continue;
                }
                None => match messages.next(&self.stop, reporter.next) {
                    Next::Ready => target.partition(messages.current().0),
                    Next::Pending => continue,
                    Next::Stopped => break true,
                    Next::End => break false,
                    Next::Failed(cause) => {
                        error = Some(cause);
                        break false;
                    }
                },
            };
            let (key, value) = messages.current();
            match link.post(Message { partition, key, value: Some(value), headers: &[] }) {
                Post::Done => {
                    posted += 1;
                    held = None;
                }
                Post::Full => held = Some(partition),
                Post::Failed { until } => {
                    held = Some(partition);
                    if wait(&self.stop, until.min(reporter.next)) {
                        break true;
                    }
                }
            }
        };

        link.finish(&self.stop, stopped, &mut reporter);
        let delivery = link.look();
        let elapsed = start.elapsed();
        reporter.finish(delivery.acknowledged);
        let failed = posted.saturating_sub(delivery.acknowledged);
        let cause = link.last_error.filter(|_| failed > 0).map(Error::Other);
        Report {
            posted,
            acknowledged: delivery.acknowledged,
            failed,
            elapsed,
            stopped,
            error: error.or(cause),
        }
    }
}

/// Writes "posted N messages in S seconds" to the log.
pub fn log_progress() -> Progress {
    let start = Instant::now();
    Box::new(move |acknowledged| {
        let seconds = start.elapsed().as_secs_f64();
        info!("posted {acknowledged} messages in {seconds:.1} seconds");
    })
}

struct Target {
    partitions: u32,
    turn: RoundRobin,
}

impl Target {
    fn partition(&mut self, key: Option<&[u8]>) -> Partition {
        match key {
            Some(key) => partition_of_key(key, self.partitions),
            None => self.turn.next(self.partitions),
        }
    }
}

struct Reporter {
    progress: Progress,
    next: Instant,
}

impl Reporter {
    fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    fn report(&mut self, now: Instant, acknowledged: u64) {
        (self.progress)(acknowledged);
        while self.next <= now {
            self.next += limits::PRODUCER_REPORT_INTERVAL;
        }
    }

    fn finish(&mut self, acknowledged: u64) {
        (self.progress)(acknowledged);
    }
}

enum Post {
    /// The message is the client's, or given up on.
    Done,
    /// The client's buffer is full: try again.
    Full,
    /// Something failed: try again from `until` on.
    Failed { until: Instant },
}

/// The client's producer, made anew after errors; sums up what became of the messages of all.
struct Link {
    producer: Option<Box<dyn Producer>>,
    reconnect: Reconnect,
    /// Of producers before this one.
    past: Delivery,
    /// As last looked at: of all producers, but for the error, which is this one's.
    seen: Delivery,
    /// What the log has said to be wrong, and not yet taken back.
    trouble: Option<String>,
    last_error: Option<String>,
    /// Errors on end, which make the waits longer.
    errors: u32,
    /// How often fresh producers refused the message at hand.
    refusals: u32,
}

impl Link {
    fn new(producer: Box<dyn Producer>, reconnect: Reconnect) -> Link {
        Link {
            producer: Some(producer),
            reconnect,
            past: Delivery::default(),
            seen: Delivery::default(),
            trouble: None,
            last_error: None,
            errors: 0,
            refusals: 0,
        }
    }

    fn post(&mut self, message: Message<'_>) -> Post {
        let producer = match &mut self.producer {
            Some(producer) => producer,
            None => match (self.reconnect)() {
                Ok(producer) => self.producer.insert(producer),
                Err(error) => return self.failed(&error),
            },
        };
        match producer.send(message, limits::PRODUCER_ROOM_WAIT) {
            Ok(Sent::Accepted) => {
                (self.errors, self.refusals) = (0, 0);
                Post::Done
            }
            Ok(Sent::Full) => Post::Full,
            Err(error) => {
                // The broker is there, since a producer could be made; so after some tries the
                // fault is the message's.
                self.refusals += 1;
                if error.class() == Class::Fatal || self.refusals >= limits::PRODUCER_TRIES {
                    self.note(format!("a message is given up on: {error}"));
                    (self.errors, self.refusals) = (0, 0);
                    return Post::Done;
                }
                let post = self.failed(&error);
                self.retire();
                post
            }
        }
    }

    fn failed(&mut self, error: &Error) -> Post {
        self.note(error.to_string());
        let wait = limits::PRODUCER_BACKOFF_MIN * 2_u32.pow(self.errors.min(16));
        self.errors += 1;
        Post::Failed { until: Instant::now() + wait.min(limits::PRODUCER_BACKOFF_MAX) }
    }

    /// Logs trouble, once until it is over.
    fn note(&mut self, text: String) {
        if self.trouble.as_ref() != Some(&text) {
            warn!("producer: {text}; going on");
            self.trouble = Some(text.clone());
        }
        self.last_error = Some(text);
    }

    /// Lets go of the producer, and keeps its counts.
    fn retire(&mut self) {
        if let Some(mut producer) = self.producer.take() {
            // It has failed already; what its flush says changes nothing.
            let _ = producer.flush(limits::PRODUCER_RETIRE_LIMIT);
            let delivery = producer.delivery();
            self.past.acknowledged += delivery.acknowledged;
            self.past.failed += delivery.failed;
        }
    }

    /// What became of all messages so far; what is news in it is logged.
    fn look(&mut self) -> Delivery {
        let mut now =
            self.producer.as_mut().map(|producer| producer.delivery()).unwrap_or_default();
        now.acknowledged += self.past.acknowledged;
        now.failed += self.past.failed;
        let more_failed = now.failed > self.seen.failed;
        match &now.last_error {
            Some(text) if more_failed || now.last_error != self.seen.last_error => {
                self.note(text.clone());
            }
            _ => {
                let going = now.acknowledged > self.seen.acknowledged && !more_failed;
                if going && self.trouble.take().is_some() {
                    info!("producer: messages are acknowledged again");
                }
            }
        }
        self.seen = now.clone();
        now
    }

    /// Waits for the acknowledgements of what is under way: as long as some come in where the
    /// messages have ended, `limits::PRODUCER_FLUSH_LIMIT` at most after a stop.
    fn finish(&mut self, stop: &Receiver<()>, mut stopped: bool, reporter: &mut Reporter) {
        let mut deadline = Instant::now() + limits::PRODUCER_FLUSH_LIMIT;
        let mut acknowledged = self.look().acknowledged;
        loop {
            let Some(producer) = &mut self.producer else { return };
            match producer.flush(limits::PRODUCER_ROOM_WAIT) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    self.note(error.to_string());
                    return;
                }
            }
            let now = Instant::now();
            let delivery = self.look();
            if reporter.is_due(now) {
                reporter.report(now, delivery.acknowledged);
            }
            if !stopped && is_stopped(stop) {
                stopped = true;
                deadline = now + limits::PRODUCER_FLUSH_LIMIT;
            } else if !stopped && delivery.acknowledged > acknowledged {
                deadline = now + limits::PRODUCER_FLUSH_LIMIT;
            }
            acknowledged = delivery.acknowledged;
            if now >= deadline {
                return;
            }
        }
    }
}

fn is_stopped(stop: &Receiver<()>) -> bool {
    !matches!(stop.try_recv(), Err(TryRecvError::Empty))
}

/// Waits until `until`; true where the stop came first.
fn wait(stop: &Receiver<()>, until: Instant) -> bool {
    !matches!(stop.recv_deadline(until), Err(RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use crossbeam_channel::{Sender, bounded};
    use proptest::prelude::*;

    use super::*;

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
        /// Producers that cannot be made before one can.
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
            (sender, ProducerTask::sequence(settings, 3, first, reconnect, stop))
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
    fn a_client_that_fails_is_replaced_and_its_message_is_tried_again() {
        let fake = Fake::with(&[Act::Take, Act::Refuse, Act::Take]);
        fake.log.lock().unwrap().away = 2;
        let report = fake.task(unpaced(4)).1.run();
        assert_eq!((report.posted, report.acknowledged, report.failed), (4, 4, 0));
        assert_eq!(fake.sequence_numbers(), [0, 1, 2, 3]);
        assert_eq!(fake.log.lock().unwrap().producers, 1);
    }

    #[test]
    fn a_message_that_no_client_takes_is_given_up_on_and_counted() {
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
    fn a_flush_without_progress_ends() {
        let fake = Fake::default();
        fake.log.lock().unwrap().flushes_never_end = true;
        let (stop, task) = fake.task(unpaced(1));
        let (sender, outcome) = bounded(1);
        std::thread::spawn(move || sender.send(task.run()));
        let report = outcome.recv_timeout(limits::PRODUCER_FLUSH_LIMIT * 4).unwrap();
        assert_eq!(report.posted, 1);
        drop(stop);
    }

    #[test]
    fn progress_is_told_each_second_and_at_the_end() {
        let fake = Fake::default();
        let (_stop, mut task) =
            fake.task(Produce { rate: 20.0, count: Some(22), ..Produce::default() });
        let (sender, told) = bounded(100);
        task.progress = Box::new(move |acknowledged| sender.send(acknowledged).unwrap());
        let report = task.run();
        let told: Vec<u64> = told.iter().collect();
        assert_eq!(told.last(), Some(&22));
        assert!(told.len() >= 2 && told.is_sorted(), "{told:?}");
        assert!(report.elapsed >= Duration::from_millis(1100), "{report:?}");
        assert!(report.rate() <= 20.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Whatever the client does, the counts add up and the order stays.
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
}
