//! The producer task: posts messages at a pace, whatever the broker does meanwhile, and counts
//! what was acknowledged.
//!
//! What is posted comes from `messages`, when from `pacing`, to which partition from
//! `partitioner`. The task runs on a thread named `producer`; whoever starts it owns the stop.

pub mod messages;
pub mod pacing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, TryRecvError, never};
use log::{info, warn};

use crate::config::Produce;
use crate::config::limits;
use crate::config::steering::Subscription;
use crate::kafka::partitioner::{RoundRobin, partition_of_key};
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Class, Error, Result};
use crate::model::live::Live;
use crate::model::offset::Partition;
use crate::source::producer::messages::{Messages, Next, Sequence};
use crate::source::producer::pacing::Pace;

/// Makes a new producer, after the one before has failed.
pub type Reconnect = Box<dyn FnMut() -> Result<Box<dyn Producer>> + Send>;

/// Who is told of the messages acknowledged so far, once per `limits::PRODUCER_REPORT_INTERVAL`.
pub enum Progress {
    /// "posted N messages in S seconds" in the log.
    Log,
    /// A function, which is told once more at the end.
    Tell(Box<dyn FnMut(u64) + Send>),
}

/// All that the task needs; `run` does it.
pub struct ProducerTask {
    pub messages: Box<dyn Messages>,
    /// Messages per second; 0 is as fast as it goes.
    pub rate: f64,
    /// Where the rate changes while it posts.
    pub orders: Option<Subscription>,
    /// Partitions of the topic, from 0.
    pub partitions: u32,
    pub producer: Box<dyn Producer>,
    pub reconnect: Reconnect,
    /// A message, or the sender's end, is the stop.
    pub stop: Receiver<()>,
    pub progress: Progress,
    /// Counts what was posted as it is.
    pub live: Option<Arc<Live>>,
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
    /// Numbered messages as `settings` says, from number `first` on; progress goes to the log.
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
            orders: None,
            messages: Box::new(Sequence::from(first, settings)),
            partitions,
            producer,
            reconnect,
            stop,
            progress: Progress::Log,
            live: None,
        }
    }

    /// Posts until the messages end or the stop comes; then waits for the last acknowledgements.
    /// A broker that fails is never the end of it.
    pub fn run(self) -> Report {
        let start = Instant::now();
        let (mut pace, mut rate) = (Pace::new(self.rate, start), self.rate);
        let never = never();
        let wake = self.orders.as_ref().map_or(&never, Subscription::wake);
        let mut messages = self.messages;
        let mut link = Link::new(self.producer, self.reconnect);
        let mut target = Target { partitions: self.partitions, turn: RoundRobin::default() };
        let mut reporter = Reporter {
            progress: self.progress,
            start,
            next: start + limits::PRODUCER_REPORT_INTERVAL,
        };
        let mut posted = 0;
        // The partition of a message that is ready but not yet taken by the client.
        let mut held: Option<Partition> = None;
        let mut error = None;
        // Messages posted on end since the clock was read: without a pace that is not done for each.
        let mut on_end = 0;
        let mut now = start;

        let stopped = loop {
            let posted_on_end = std::mem::take(&mut on_end);
            if posted_on_end == 0 {
                now = Instant::now();
                if reporter.is_due(now) {
                    reporter.report(now, link.look().acknowledged);
                }
            }
            if is_stopped(&self.stop) {
                break true;
            }
            if let Some(orders) = &self.orders
                && wake.try_recv().is_ok()
                && let Some(asked) = orders.settings().rate
                && asked != rate
            {
                rate = asked;
                pace = Pace::changed(rate, now, posted);
            }
            let partition = match held {
                Some(partition) => partition,
                None if posted >= pace.due(now) => {
                    let until = pace.next_wake(posted).min(reporter.next);
                    if wait_or_look(&self.stop, wake, until) {
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
                    if let Some(live) = &self.live {
                        live.messages_posted.add(1);
                    }
                    held = None;
                    if !pace.is_paced() {
                        on_end = (posted_on_end + 1) % READ_CLOCK_EVERY;
                    }
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
        let failed = posted.saturating_sub(delivery.acknowledged);
        let cause = link.last_error.filter(|_| failed > 0).map(Error::Other);
        let report = Report {
            posted,
            acknowledged: delivery.acknowledged,
            failed,
            elapsed,
            stopped,
            error: error.or(cause),
        };
        reporter.finish(&report);
        report
    }
}

/// Reading the clock takes as long as a tenth of posting a message.
const READ_CLOCK_EVERY: u32 = 64;

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
    start: Instant,
    next: Instant,
}

impl Reporter {
    fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    fn report(&mut self, now: Instant, acknowledged: u64) {
        match &mut self.progress {
            Progress::Log => {
                let seconds = now.duration_since(self.start).as_secs_f64();
                info!("posted {acknowledged} messages in {seconds:.1} seconds");
            }
            Progress::Tell(tell) => tell(acknowledged),
        }
        while self.next <= now {
            self.next += limits::PRODUCER_REPORT_INTERVAL;
        }
    }

    /// What is told goes first, and is let go of, so that a progress bar is out of the way.
    fn finish(self, report: &Report) {
        if let Progress::Tell(mut tell) = self.progress {
            tell(report.acknowledged);
        }
        info!(
            "posted {} messages in {:.1} seconds ({:.0} per second){}",
            report.acknowledged,
            report.elapsed.as_secs_f64(),
            report.rate(),
            if report.stopped { ", stopped before the end" } else { "" }
        );
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

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// Nothing is lost so far.
    Delay,
    /// Messages were given up on.
    Loss,
}

/// The client's producer, made anew after errors; sums up what became of the messages of all.
struct Link {
    producer: Option<Box<dyn Producer>>,
    reconnect: Reconnect,
    /// Of producers before this one.
    past: Delivery,
    /// As last looked at: of all producers, but for the error, which is this one's.
    seen: Delivery,
    /// What the log has said, and not yet taken back.
    trouble: Trouble,
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
            trouble: Trouble::None,
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
                    self.note(Trouble::Loss, format!("a message is given up on: {error}"));
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
        self.note(Trouble::Delay, error.to_string());
        let wait = limits::PRODUCER_BACKOFF.pause(self.errors, fastrand::f64());
        self.errors += 1;
        Post::Failed { until: Instant::now() + wait }
    }

    /// Logs trouble, once until it is over or grows worse: clients have many words for one broker
    /// that is away.
    fn note(&mut self, trouble: Trouble, text: String) {
        if trouble > self.trouble {
            warn!("producer: {text}; going on");
            self.trouble = trouble;
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
                let trouble = if more_failed { Trouble::Loss } else { Trouble::Delay };
                self.note(trouble, text.clone());
            }
            _ => {
                let going = now.acknowledged > self.seen.acknowledged && !more_failed;
                if going && self.trouble > Trouble::None {
                    info!("producer: messages are acknowledged again");
                    self.trouble = Trouble::None;
                }
            }
        }
        self.seen = now.clone();
        now
    }

    /// Waits for the acknowledgements of what is under way: where the messages have ended, until
    /// none came for `limits::PRODUCER_FLUSH_LIMIT`; after a stop, `PRODUCER_STOP_FLUSH_LIMIT` at
    /// most.
    fn finish(&mut self, stop: &Receiver<()>, mut stopped: bool, reporter: &mut Reporter) {
        let limit = match stopped {
            true => limits::PRODUCER_STOP_FLUSH_LIMIT,
            false => limits::PRODUCER_FLUSH_LIMIT,
        };
        let mut deadline = Instant::now() + limit;
        let mut acknowledged = self.look().acknowledged;
        loop {
            let Some(producer) = &mut self.producer else { return };
            match producer.flush(limits::PRODUCER_ROOM_WAIT) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    self.note(Trouble::Delay, error.to_string());
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
                deadline = now + limits::PRODUCER_STOP_FLUSH_LIMIT;
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

/// As `wait`, and ends where there may be a new rate, which is left to be looked at.
fn wait_or_look(stop: &Receiver<()>, wake: &Receiver<()>, until: Instant) -> bool {
    let mut select = Select::new();
    let stopped = select.recv(stop);
    select.recv(wake);
    select.ready_deadline(until).is_ok_and(|ready| ready == stopped)
}

#[cfg(test)]
mod tests;
