//! What holds mb up when records arrive faster than they are processed, and which setting helps, with the numbers.
//!
//! Pure.

use std::time::Duration;

use super::trend::Trend;
use crate::config::{Order, limits};

/// What mb works with, and how much of it is in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    pub workers: usize,
    /// How many of them had a run, on average over the last seconds.
    pub busy: f64,
    /// Records of a run, on average; `None` if none has ended.
    pub records_per_run: Option<f64>,
    /// How long an attempt was in the step, on average; `None` if none has ended.
    pub step: Option<Duration>,
    pub queued: usize,
    /// Runs that wait behind others of their lane or partition.
    pub parked: usize,
    pub bytes: usize,
    pub bytes_limit: usize,
    pub max_batch: usize,
    pub max_wait: Duration,
    pub tick_interval: Duration,
    pub sensors: usize,
    pub partitions: usize,
    pub order: Order,
}

/// More than would just suffice.
const SPARE: f64 = 1.2;
/// Workers that are busy for this part of the time can do little more.
const BUSY: f64 = 0.85;

impl Work {
    /// How long a record may wait by design: for a tick to begin, and for its batch to fill.
    pub fn cycle(&self) -> Duration {
        self.tick_interval + self.max_wait
    }

    /// A lag that means nothing, in records.
    pub fn usual_lag(&self) -> u64 {
        self.max_batch.min(limits::USUAL_LAG) as u64
    }

    /// Whether the workers can do little more than they do.
    fn is_full(&self) -> bool {
        self.workers > 0 && self.busy >= BUSY * self.workers as f64
    }

    /// Whether the workers can hardly do what arrives.
    pub fn is_scarce(&self, trend: &Trend) -> bool {
        self.is_full() && self.capacity().is_none_or(|most| most < SPARE * trend.arriving)
    }

    /// How many records the step takes per second if all workers are busy.
    fn capacity(&self) -> Option<f64> {
        let seconds = self.step?.as_secs_f64();
        let records = self.workers as f64 * self.records_per_run?;
        (seconds > 0.0 && records > 0.0).then(|| records / seconds)
    }

    /// What to change so that as many records are processed as arrive.
    pub fn advice(&self, trend: &Trend) -> Option<String> {
        if self.is_full() {
            return Some(self.more_work_at_once(trend));
        }
        if self.parked > 0 {
            return Some(format!(
                "{:.1} of {} workers are busy on average, and {} runs wait behind others of their {}: {}",
                self.busy,
                grouped(self.workers as u64),
                grouped(self.parked as u64),
                if self.order == Order::Key { "lane" } else { "partition" },
                self.beside_order()
            ));
        }
        if self.bytes >= self.bytes_limit / 10 * 9 {
            return Some("the memory for batches is used up: raise queue-bytes".to_owned());
        }
        if self.queued > 0 {
            return None;
        }
        if self.tick_interval > Duration::ZERO {
            return Some(format!(
                "no run waits, and mb reads nothing for {} between two ticks: set tick-interval to 0",
                seconds(self.tick_interval)
            ));
        }
        (self.sensors < self.partitions).then(|| {
            format!(
                "no run waits for a worker, so reading is what takes long: set sensors to {} or more",
                grouped(self.partitions.min(2 * self.sensors) as u64)
            )
        })
    }

    /// The workers are busy.
    fn more_work_at_once(&self, trend: &Trend) -> String {
        let (Some(capacity), Some(records), Some(step)) =
            (self.capacity(), self.records_per_run, self.step)
        else {
            return format!(
                "all {} workers are busy: raise max-concurrent-runs, or make the step faster",
                grouped(self.workers as u64)
            );
        };
        let needed = (SPARE * trend.arriving / capacity * self.workers as f64).ceil() as usize;
        let needed = needed.max(self.workers + 1);
        let is_limited = self.order == Order::Partition && needed > self.partitions;
        let what = match is_limited {
            true => self.beside_order(),
            false => format!(
                "set max-concurrent-runs to {} or more, or {}",
                grouped(needed as u64),
                self.larger_batches(records)
            ),
        };
        format!(
            "arriving {}/s; {} workers × {} records ÷ {} = {}/s: {what}",
            grouped(trend.arriving.round() as u64),
            grouped(self.workers as u64),
            grouped(records.round() as u64),
            seconds(step),
            grouped(capacity.round() as u64)
        )
    }

    fn larger_batches(&self, records: f64) -> String {
        if records < 0.8 * self.max_batch as f64 {
            return format!(
                "let batches grow beyond {} records (max-wait is {})",
                grouped(records.round() as u64),
                seconds(self.max_wait)
            );
        }
        format!("raise max-batch above {}", grouped(self.max_batch as u64))
    }

    fn beside_order(&self) -> String {
        match self.order {
            Order::Key => "raise lanes, or max-batch".to_owned(),
            Order::Partition => format!(
                "order partition lets one run of each of the {} partitions run at a time: raise max-batch, or choose \
                 order key or none",
                grouped(self.partitions as u64)
            ),
            Order::None => "raise max-batch".to_owned(),
        }
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `<1 ms`, `50 ms`, `0.49 s`, `3.2 s`, `45 s`, `4 min`, `2 h 5 min`, `3 d 4 h`.
pub fn seconds(duration: Duration) -> String {
    let s = duration.as_secs_f64();
    let of = |whole: u64, part: u64, names: [&str; 2]| match part {
        0 => format!("{whole} {}", names[0]),
        part => format!("{whole} {} {part} {}", names[0], names[1]),
    };
    if duration.is_zero() {
        "0 s".to_owned()
    } else if s < 0.0005 {
        "<1 ms".to_owned()
    } else if s < 0.0995 {
        format!("{:.0} ms", s * 1000.0)
    } else if s < 0.995 {
        format!("{s:.2} s")
    } else if s < 9.95 {
        format!("{s:.1} s")
    } else if s < 99.5 {
        format!("{s:.0} s")
    } else {
        let minutes = (s / 60.0).round() as u64;
        match minutes {
            0..100 => format!("{minutes} min"),
            100..2880 => of(minutes / 60, minutes % 60, ["h", "min"]),
            _ => of(minutes / 1440, minutes % 1440 / 60, ["d", "h"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVING: Trend =
        Trend { arriving: 1000.0, done: 510.0, is_growing: true, falls_by: None };

    fn busy() -> Work {
        Work {
            workers: 5,
            busy: 5.0,
            records_per_run: Some(50.0),
            step: Some(Duration::from_millis(490)),
            queued: 100,
            max_batch: 50,
            max_wait: Duration::from_millis(100),
            bytes_limit: 1000,
            sensors: 1,
            partitions: 4,
            ..Work::default()
        }
    }

    fn said(work: Work) -> String {
        work.advice(&ARRIVING).unwrap_or_default()
    }

    #[test]
    fn busy_workers_are_to_be_more_or_to_get_larger_batches() {
        assert_eq!(
            said(busy()),
            "arriving 1,000/s; 5 workers × 50 records ÷ 0.49 s = 510/s: set max-concurrent-runs to 12 or more, or raise \
             max-batch above 50"
        );
        let small =
            Work { records_per_run: Some(10.0), step: Some(Duration::from_millis(50)), ..busy() };
        assert!(
            said(small).ends_with("or let batches grow beyond 10 records (max-wait is 0.10 s)")
        );
        let unknown = Work { step: None, ..busy() };
        assert_eq!(
            said(unknown),
            "all 5 workers are busy: raise max-concurrent-runs, or make the step faster"
        );
    }

    #[test]
    fn workers_that_are_busy_for_a_while_are_not_scarce_yet() {
        assert!(busy().is_scarce(&ARRIVING));
        assert!(!busy().is_scarce(&Trend { arriving: 400.0, ..ARRIVING }), "they catch up");
        assert!(!Work { busy: 2.0, ..busy() }.is_scarce(&ARRIVING));
    }

    #[test]
    fn more_workers_do_not_help_beyond_what_the_order_allows() {
        let ordered = Work { order: Order::Partition, ..busy() };
        assert!(said(ordered).contains("one run of each of the 4 partitions"));
        let parked = Work { busy: 2.0, parked: 40, order: Order::Key, ..busy() };
        assert_eq!(
            said(parked),
            "2.0 of 5 workers are busy on average, and 40 runs wait behind others of their lane: raise lanes, or max-batch"
        );
    }

    #[test]
    fn idle_workers_wait_for_memory_or_for_reading() {
        let idle = || Work { busy: 1.0, queued: 0, ..busy() };
        assert!(said(Work { bytes: 950, ..idle() }).ends_with("raise queue-bytes"));
        assert!(
            said(Work { tick_interval: Duration::from_secs(3), ..idle() })
                .contains("for 3.0 s between")
        );
        assert!(said(idle()).ends_with("set sensors to 2 or more"));
        assert_eq!(said(Work { sensors: 4, ..idle() }), "", "nothing is known that helps");
    }

    #[test]
    fn numbers_have_their_units() {
        assert_eq!(
            [0, 999, 1000, 93_138, 1_234_567].map(grouped),
            ["0", "999", "1,000", "93,138", "1,234,567"]
        );
        let shown = [0, 200, 3_000, 490_000, 3_210_000, 45_000_000, 240_000_000]
            .map(|us| seconds(Duration::from_micros(us)));
        assert_eq!(shown, ["0 s", "<1 ms", "3 ms", "0.49 s", "3.2 s", "45 s", "4 min"]);
        let long = [7500, 273_600].map(|s| seconds(Duration::from_secs(s)));
        assert_eq!(long, ["2 h 5 min", "3 d 4 h"]);
    }
}
