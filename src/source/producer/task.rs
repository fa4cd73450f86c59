//! The producer task: the loop that posts each message when it is due.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, never};

use super::link::{Link, Post, Reconnect, is_stopped};
use super::messages::{Messages, Next, Sequence};
use super::pacing::Pace;
use super::report::{Progress, Report, Reporter};
use crate::config::Produce;
use crate::config::steering::Subscription;
use crate::kafka::partitioner::{RoundRobin, partition_of_key};
use crate::kafka::{Message, Producer};
use crate::model::error::Error;
use crate::model::live::Live;
use crate::model::offset::Partition;

/// Everything that the task needs; `run` is the body of its thread.
pub struct ProducerTask {
    pub messages: Box<dyn Messages>,
    /// Messages per second; 0 is as fast as possible.
    pub rate: f64,
    /// Changes of the rate while it posts.
    pub subscription: Option<Subscription>,
    /// The topic has this many partitions, numbered from 0.
    pub partitions: u32,
    pub producer: Box<dyn Producer>,
    pub reconnect: Reconnect,
    /// A message, or the end of the sender, is the stop.
    pub stop: Receiver<()>,
    pub progress: Progress,
    /// Counts what was posted, as it goes.
    pub live: Option<Arc<Live>>,
}

impl ProducerTask {
    /// Posts numbered messages as `settings` says, from number `first` on; progress goes to the log.
    pub fn sequence(
        settings: Produce,
        first: u64,
        partitions: u32,
        producer: Box<dyn Producer>,
        reconnect: Reconnect,
        stop: Receiver<()>,
    ) -> ProducerTask {
        ProducerTask {
            rate: settings.rate,
            subscription: None,
            messages: Box::new(Sequence::from(first, settings)),
            partitions,
            producer,
            reconnect,
            stop,
            progress: Progress::Log,
            live: None,
        }
    }

    /// Posts until the messages end or the stop comes; then waits for the last acknowledgements. A broker that
    /// fails does not end it.
    pub fn run(self) -> Report {
        let start = Instant::now();
        let posting = Posting {
            start,
            now: start,
            pace: Pace::new(self.rate, start),
            rate: self.rate,
            link: Link::new(self.producer, self.reconnect),
            target: Target { partitions: self.partitions, turn: RoundRobin::default() },
            reporter: Reporter::new(self.progress, start),
            messages: self.messages,
            subscription: self.subscription,
            stop: self.stop,
            live: self.live,
            posted: 0,
            ready: None,
            in_a_row: 0,
        };
        posting.run()
    }
}

/// How many messages are posted in a row before the clock is read again, if there is no pace: reading it takes
/// a tenth of the time of posting a message.
const READ_CLOCK_EVERY: u32 = 64;

/// The task at work.
struct Posting {
    start: Instant,
    /// The time when the clock was read last.
    now: Instant,
    pace: Pace,
    rate: f64,
    link: Link,
    target: Target,
    reporter: Reporter,
    messages: Box<dyn Messages>,
    subscription: Option<Subscription>,
    stop: Receiver<()>,
    live: Option<Arc<Live>>,
    posted: u64,
    /// The partition of the current message, if the client has not taken it yet.
    ready: Option<Partition>,
    /// How many messages were posted since the clock was read.
    in_a_row: u32,
}

/// Why the posting ended.
enum Ended {
    Stopped,
    NoMoreMessages(Option<Error>),
}

impl Posting {
    fn run(mut self) -> Report {
        let ended = loop {
            if let Some(ended) = self.turn() {
                break ended;
            }
        };
        let (stopped, error) = match ended {
            Ended::Stopped => (true, None),
            Ended::NoMoreMessages(error) => (false, error),
        };
        self.link.finish(&self.stop, stopped, &mut self.reporter);
        let acknowledged = self.link.look().acknowledged;
        let failed = self.posted.saturating_sub(acknowledged);
        let cause = self.link.last_error.filter(|_| failed > 0).map(Error::Other);
        let report = Report {
            posted: self.posted,
            acknowledged,
            failed,
            elapsed: self.start.elapsed(),
            stopped,
            error: error.or(cause),
        };
        self.reporter.finish(&report);
        report
    }

    /// Posts the next message, or waits for it.
    fn turn(&mut self) -> Option<Ended> {
        let in_a_row = std::mem::take(&mut self.in_a_row);
        if in_a_row == 0 {
            self.read_clock();
        }
        if is_stopped(&self.stop) {
            return Some(Ended::Stopped);
        }
        self.apply_rate();
        let partition = match self.ready {
            Some(partition) => partition,
            None if self.posted >= self.pace.due(self.now) => return self.wait_until_due(),
            None => match self.messages.next(&self.stop, self.reporter.next()) {
                Next::Ready => self.target.partition(self.messages.current().0),
                Next::Pending => return None,
                Next::Stopped => return Some(Ended::Stopped),
                Next::End => return Some(Ended::NoMoreMessages(None)),
                Next::Failed(cause) => return Some(Ended::NoMoreMessages(Some(cause))),
            },
        };
        let (key, value) = self.messages.current();
        self.ready = Some(partition);
        match self.link.post(Message { partition, key, value: Some(value), headers: &[] }) {
            Post::Done => self.done(in_a_row),
            Post::Full => {}
            Post::Failed { until } => {
                if wait(&self.stop, until.min(self.reporter.next())) {
                    return Some(Ended::Stopped);
                }
            }
        }
        None
    }

    fn read_clock(&mut self) {
        self.now = Instant::now();
        if self.reporter.is_due(self.now) {
            self.reporter.report(self.now, self.link.look().acknowledged);
        }
    }

    /// Applies a rate that a person has changed.
    fn apply_rate(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        if subscription.wake().try_recv().is_ok()
            && let Some(rate) = subscription.settings().rate
            && rate != self.rate
        {
            self.rate = rate;
            self.pace = Pace::changed(rate, self.now, self.posted);
        }
    }

    fn wait_until_due(&mut self) -> Option<Ended> {
        let never = never();
        let wake = self.subscription.as_ref().map_or(&never, Subscription::wake);
        let until = self.pace.next_wake(self.posted).min(self.reporter.next());
        wait_or_wake(&self.stop, wake, until).then_some(Ended::Stopped)
    }

    fn done(&mut self, in_a_row: u32) {
        self.posted += 1;
        self.ready = None;
        if let Some(live) = &self.live {
            live.messages_posted.add(1);
        }
        if !self.pace.is_paced() {
            self.in_a_row = (in_a_row + 1) % READ_CLOCK_EVERY;
        }
    }
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

/// Waits until `until`; true if the stop came first.
fn wait(stop: &Receiver<()>, until: Instant) -> bool {
    !matches!(stop.recv_deadline(until), Err(RecvTimeoutError::Timeout))
}

/// As `wait`, and returns early if there may be a new rate. The message that says so is left in `wake`.
fn wait_or_wake(stop: &Receiver<()>, wake: &Receiver<()>, until: Instant) -> bool {
    let mut select = Select::new();
    let stopped = select.recv(stop);
    select.recv(wake);
    select.ready_deadline(until).is_ok_and(|ready| ready == stopped)
}
