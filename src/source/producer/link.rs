//! The connection to the topic: a client's producer, replaced by a fresh one after errors.

use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError};
use log::{info, warn};

use super::report::Reporter;
use crate::config::limits;
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Class, Error, Result};

/// Makes a new producer, after the one before has failed.
pub type Reconnect = Box<dyn FnMut() -> Result<Box<dyn Producer>> + Send>;

/// What became of a message that was posted.
pub(super) enum Post {
    /// The client has it, or it was refused for good.
    Done,
    /// The client's buffer is full: post it again.
    Full,
    /// Something failed: post it again at `until`.
    Failed { until: Instant },
}

/// How bad an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// Messages are late.
    Delay,
    /// Messages failed for good.
    Loss,
}

/// The client's producer, replaced after errors, and what became of the messages of all those producers.
pub(super) struct Link {
    producer: Option<Box<dyn Producer>>,
    reconnect: Reconnect,
    /// The counts of earlier producers.
    past: Delivery,
    /// At the last look: the counts of all producers, and the last error of this one.
    seen: Delivery,
    /// What the log says, until it says that messages are acknowledged again.
    trouble: Trouble,
    pub last_error: Option<String>,
    /// Errors in a row: each makes the next pause longer.
    errors: u32,
    /// How many fresh producers in a row refused the current message.
    refusals: u32,
}

impl Link {
    pub fn new(producer: Box<dyn Producer>, reconnect: Reconnect) -> Link {
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

    pub fn post(&mut self, message: Message<'_>) -> Post {
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
                // The broker is there, since it made a producer; so after some tries the message is to blame.
                self.refusals += 1;
                if error.class() == Class::Fatal || self.refusals >= limits::PRODUCER_TRIES {
                    self.note(Trouble::Loss, format!("a message is dropped: {error}"));
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

    /// Logs trouble once, until it is over or grows worse. A client reports one lost broker in many different
    /// texts, and each of them would be a line.
    fn note(&mut self, trouble: Trouble, text: String) {
        if trouble > self.trouble {
            warn!("producer: {text}; going on");
            self.trouble = trouble;
        }
        self.last_error = Some(text);
    }

    /// Drops the producer, and keeps its counts.
    fn retire(&mut self) {
        if let Some(mut producer) = self.producer.take() {
            // It has failed already: an error of its flush changes nothing.
            let _ = producer.flush(limits::PRODUCER_RETIRE_LIMIT);
            let delivery = producer.delivery();
            self.past.acknowledged += delivery.acknowledged;
            self.past.failed += delivery.failed;
        }
    }

    /// What became of all messages so far. Logs what is new in it.
    pub fn look(&mut self) -> Delivery {
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

    /// Waits for acknowledgements: if the messages have ended, until none came for
    /// `limits::PRODUCER_FLUSH_LIMIT`; after a stop, for at most `PRODUCER_STOP_FLUSH_LIMIT`.
    pub fn finish(&mut self, stop: &Receiver<()>, mut stopped: bool, reporter: &mut Reporter) {
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

/// Whether the stop has come: a message, or the end of its sender.
pub(super) fn is_stopped(stop: &Receiver<()>) -> bool {
    !matches!(stop.try_recv(), Err(TryRecvError::Empty))
}
