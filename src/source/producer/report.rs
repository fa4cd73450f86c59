//! How a producer's progress and its result are reported.

use std::time::{Duration, Instant};

use log::info;

use crate::config::limits;
use crate::model::error::Error;

/// Who learns how many messages are acknowledged so far, once per `limits::PRODUCER_REPORT_INTERVAL`.
pub enum Progress {
    /// The log: "posted N messages in S seconds".
    Log,
    /// A function. It is called once more at the end, before the last line goes to the log, and then dropped,
    /// so that a progress bar is out of the way.
    Call(Box<dyn FnMut(u64) + Send>),
}

/// What became of all messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Messages that the client took, and those that it refused for good.
    pub posted: u64,
    /// Messages that the broker has acknowledged.
    pub acknowledged: u64,
    /// Messages posted that were not acknowledged. Those that a client held when it failed are among them, and
    /// may be in the log all the same.
    pub failed: u64,
    /// From the start to the last acknowledgement waited for.
    pub elapsed: Duration,
    /// The stop came before the messages ended.
    pub stopped: bool,
    /// Why messages failed, or why the source of messages broke off.
    pub error: Option<Error>,
}

impl Report {
    /// Acknowledged messages per second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

pub(super) struct Reporter {
    progress: Progress,
    start: Instant,
    next: Instant,
}

impl Reporter {
    pub fn new(progress: Progress, start: Instant) -> Reporter {
        Reporter { progress, start, next: start + limits::PRODUCER_REPORT_INTERVAL }
    }

    /// When the next report is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    pub fn report(&mut self, now: Instant, acknowledged: u64) {
        match &mut self.progress {
            Progress::Log => {
                let seconds = now.duration_since(self.start).as_secs_f64();
                info!("posted {acknowledged} messages in {seconds:.1} seconds");
            }
            Progress::Call(report) => report(acknowledged),
        }
        while self.next <= now {
            self.next += limits::PRODUCER_REPORT_INTERVAL;
        }
    }

    pub fn finish(self, report: &Report) {
        if let Progress::Call(mut call) = self.progress {
            call(report.acknowledged);
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
