//! What holds mb up when records arrive faster than they are processed, and which setting helps, with the numbers.
//!
//! Pure.

use std::time::Duration;

use super::samples::Pace;
use super::trend::{Explained, Trend};
use crate::config::{Order, limits};

/// What mb works with, and how much of it is in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    pub workers: usize,
    pub pace: Pace,
    /// Runs that wait for another attempt.
    pub waiting_retries: usize,
    pub bytes: usize,
    pub bytes_limit: usize,
    pub max_batch: usize,
    pub max_batch_bytes: usize,
    pub max_wait: Duration,
    pub tick_interval: Duration,
    pub sensors: usize,
    pub partitions: usize,
    pub order: Order,
    /// Of each partition; 1 unless the order is by key.
    pub lanes: usize,
}

/// Headroom: advise 20 % more than is needed.
const SPARE: f64 = 1.2;
/// Workers that are busy for this part of the time can do little more.
const BUSY: f64 = 0.85;

impl Work {
    /// How a record's way moves the lag while mb keeps up: it waits for a tick, for its batch to fill, for a worker, in
    /// the step, for its commit and for the next look at the log, which is asked every `look`. `in_step`: how long the
    /// longest running run has been in the step, which counts if no attempt has ended.
    pub fn explained(
        &self,
        in_step: Duration,
        tick_runtime: Duration,
        look: Duration,
    ) -> Explained {
        let step = self.pace.attempts.map_or(in_step, |attempts| attempts.in_step);
        let tick = match self.tick_interval {
            Duration::ZERO => Duration::ZERO,
            interval => interval + tick_runtime,
        };
        let looks = if look > limits::LAG_INTERVAL { 2 * look } else { Duration::ZERO };
        Explained {
            tooth: tick.max(2 * step).max(looks),
            way: self.tick_interval + self.max_wait + 2 * step + limits::COMMIT_INTERVAL + 2 * look,
            records: self.max_batch.min(limits::USUAL_LAG) as u64,
        }
    }

    /// Whether the workers are near their limit, and that limit is near what arrives.
    pub fn is_scarce(&self, trend: &Trend) -> bool {
        self.is_full() && self.capacity().is_some_and(|most| most < SPARE * trend.arriving)
    }

    /// Whether the workers cannot do what arrives.
    pub fn is_overload(&self, trend: &Trend) -> bool {
        self.is_full() && self.capacity().is_some_and(|most| most < 0.95 * trend.arriving)
    }

    fn is_full(&self) -> bool {
        self.workers > 0 && self.pace.busy >= BUSY * self.workers as f64
    }

    /// How many records the step takes per second if all workers are busy.
    fn capacity(&self) -> Option<f64> {
        let attempts = self.pace.attempts?;
        let records = self.workers as f64 * attempts.records;
        let seconds = attempts.in_step.as_secs_f64();
        (seconds > 0.0 && records > 0.0).then(|| records / seconds)
    }

    /// What to change so that as many records are processed as arrive.
    pub fn advice(&self, trend: &Trend) -> Option<String> {
        if trend.done >= 0.95 * trend.arriving {
            // As many are processed: what is behind has another cause.
            return (self.waiting_retries > 0).then(|| {
                let (runs, wait) = several(self.waiting_retries, "run", "waits", "wait");
                format!(
                    "{runs} {wait} for another attempt, and the partition is committed only up to there: \
                     mb runs --state queued shows the errors"
                )
            });
        }
        if self.is_full() {
            return self.more_work_at_once(trend);
        }
        if self.pace.parked >= 1.0 {
            let (runs, wait) = several(self.pace.parked as usize, "run", "waits", "wait");
            return Some(format!(
                "{:.1} of {} workers are busy on average, and {runs} {wait} behind others of the same {}: {}",
                self.pace.busy,
                grouped(self.workers as u64),
                if self.order == Order::Key { "lane" } else { "partition" },
                self.within_order(trend)
            ));
        }
        if self.bytes + self.max_batch_bytes > self.bytes_limit {
            return Some(
                "the memory for batches is used up: restart with a larger --queue-bytes".to_owned(),
            );
        }
        if self.pace.queued >= 1.0 {
            return None;
        }
        if self.tick_interval > Duration::ZERO {
            return Some(format!(
                "no run waits for a worker, and mb reads nothing for {} between two ticks: set tick-interval to 0",
                seconds(self.tick_interval)
            ));
        }
        (self.sensors < self.partitions).then(|| {
            let more = self.partitions.min(2 * self.sensors);
            format!(
                "no run waits for a worker, so reading is the bottleneck: restart with --sensors {}",
                grouped(more as u64)
            )
        })
    }

    /// The workers are busy: how they can do more.
    pub fn more_work_at_once(&self, trend: &Trend) -> Option<String> {
        let (Some(capacity), Some(attempts)) = (self.capacity(), self.pace.attempts) else {
            let workers = match self.workers {
                1 => "the only worker is busy".to_owned(),
                several => format!("all {} workers are busy", grouped(several as u64)),
            };
            return Some(format!("{workers}: raise max-concurrent-runs, or make the step faster"));
        };
        if SPARE * trend.arriving <= capacity {
            // They can do what arrives; redrives and replays take them too.
            return None;
        }
        let calm = self.calm_records(trend).filter(|calm| *calm < attempts.records);
        let records = calm.unwrap_or(attempts.records);
        let needed =
            (SPARE * trend.arriving * attempts.in_step.as_secs_f64() / records).ceil() as usize;
        let what = match needed > self.most_at_once() {
            true => self.within_order(trend),
            false => format!(
                "set max-concurrent-runs to {} or more{}, or {}",
                grouped(needed as u64),
                calm.map_or_else(String::new, |calm| format!(
                    " (batches will have about {} records, for max-wait is {})",
                    tenths(calm),
                    seconds(self.max_wait)
                )),
                self.larger_batches(trend)
            ),
        };
        let (workers, _) = several(self.workers, "worker", "", "");
        Some(format!(
            "arriving {}/s; {workers} × {} records ÷ {} = {}/s: {what}",
            grouped(trend.arriving.round() as u64),
            tenths(attempts.records),
            seconds(attempts.in_step),
            grouped(capacity.round() as u64)
        ))
    }

    /// More workers than this would have nothing to do.
    fn most_at_once(&self) -> usize {
        match self.order {
            Order::None => limits::WORKERS_MAX as usize,
            Order::Partition | Order::Key => self.partitions * self.lanes.max(1),
        }
    }

    /// Records that arrive per second for each of the batches that are filled at a time.
    fn per_batch(&self, trend: &Trend) -> f64 {
        trend.arriving / (self.partitions * self.lanes).max(1) as f64
    }

    /// How many records a batch will have once the workers can do what arrives: those that come while it waits. While
    /// runs queue, batches are larger. `None` if batches are full, or if none waits.
    fn calm_records(&self, trend: &Trend) -> Option<f64> {
        let waits = !self.max_wait.is_zero() && !self.are_batches_full();
        waits.then(|| 1.0 + self.per_batch(trend) * self.max_wait.as_secs_f64())
    }

    fn are_batches_full(&self) -> bool {
        let full = 0.8 * self.max_batch as f64 / self.lanes.max(1) as f64;
        self.pace.attempts.is_none_or(|attempts| attempts.records >= full)
    }

    /// With which setting batches become so large that the workers can do what arrives.
    fn larger_batches(&self, trend: &Trend) -> String {
        let raise_limit = || format!("raise max-batch above {}", grouped(self.max_batch as u64));
        let Some(attempts) = self.pace.attempts else { return raise_limit() };
        if self.are_batches_full() {
            return raise_limit();
        }
        let at_once = self.workers.min(self.most_at_once());
        let records = SPARE * trend.arriving * attempts.in_step.as_secs_f64() / at_once as f64;
        let wait = Duration::try_from_secs_f64((records - 1.0) / self.per_batch(trend));
        match wait {
            Ok(wait) if wait > self.max_wait && records <= self.max_batch as f64 => {
                let tens = wait.as_millis().div_ceil(10) as u64;
                format!("set max-wait to {} or more", seconds(Duration::from_millis(10 * tens)))
            }
            _ => format!(
                "let batches grow beyond {} records (max-wait is {})",
                tenths(attempts.records),
                seconds(self.max_wait)
            ),
        }
    }

    /// More workers would have nothing to do.
    fn within_order(&self, trend: &Trend) -> String {
        let partitions = grouped(self.partitions as u64);
        let larger = self.larger_batches(trend);
        match self.order {
            Order::None => format!("{larger}, or make the step faster"),
            Order::Partition => format!(
                "with order partition each of the {partitions} partitions has one run at a time: {larger}, or \
                 restart with --order key or none"
            ),
            Order::Key => format!(
                "with order key each of {partitions} × {} lanes has one run at a time: {larger}, or restart with \
                 more --lanes",
                grouped(self.lanes as u64)
            ),
        }
    }
}

/// "1 run", "1,234 runs", and the verb that follows.
fn several<'a>(count: usize, name: &str, one: &'a str, many: &'a str) -> (String, &'a str) {
    match count {
        1 => (format!("1 {name}"), one),
        _ => (format!("{} {name}s", grouped(count as u64)), many),
    }
}

/// With one decimal if it is small.
fn tenths(number: f64) -> String {
    let whole = number >= 9.95 || (number - number.round()).abs() < 0.05;
    if whole { grouped(number.round() as u64) } else { format!("{number:.1}") }
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
    use super::super::samples::Attempts;
    use super::super::trend::Course;
    use super::*;

    const ARRIVING: Trend = Trend { arriving: 1000.0, done: 510.0, course: Course::Grows };

    fn attempts(records: f64, ms: u64) -> Option<Attempts> {
        Some(Attempts { records, in_step: Duration::from_millis(ms) })
    }

    fn busy() -> Work {
        Work {
            workers: 5,
            pace: Pace { busy: 5.0, queued: 100.0, parked: 0.0, attempts: attempts(50.0, 490) },
            max_batch: 50,
            max_wait: Duration::from_millis(100),
            bytes_limit: 1000,
            sensors: 1,
            partitions: 4,
            lanes: 1,
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
        let of = |attempts| Work { pace: Pace { attempts, ..busy().pace }, ..busy() };
        let small = said(of(attempts(8.04, 50)));
        assert!(
            small.contains("5 workers × 8 records ÷ 50 ms = 804/s: set max-concurrent-runs to 8")
        );
        assert!(
            small.ends_with("or let batches grow beyond 8 records (max-wait is 0.10 s)"),
            "{small}"
        );
        let quick = Work { max_wait: Duration::from_millis(10), ..of(attempts(10.0, 50)) };
        assert_eq!(
            quick.more_work_at_once(&ARRIVING).unwrap(),
            "arriving 1,000/s; 5 workers × 10 records ÷ 50 ms = 1,000/s: set max-concurrent-runs to 18 or more (batches \
             will have about 3.5 records, for max-wait is 10 ms), or set max-wait to 50 ms or more"
        );
        assert!(said(of(None)).starts_with("all 5 workers are busy: raise max-concurrent-runs"));
        let only = said(Work { workers: 1, ..of(None) });
        assert!(only.starts_with("the only worker is busy"), "{only}");
        assert_eq!(said(of(attempts(500.0, 490))), "", "they can do what arrives");
    }

    #[test]
    fn workers_are_scarce_if_what_arrives_comes_near_what_they_can_do() {
        assert!(busy().is_scarce(&ARRIVING));
        assert!(!busy().is_scarce(&Trend { arriving: 400.0, ..ARRIVING }), "they catch up");
        let idle = Work { pace: Pace { busy: 2.0, ..busy().pace }, ..busy() };
        assert!(!idle.is_scarce(&ARRIVING));
    }

    #[test]
    fn more_workers_do_not_help_beyond_what_the_order_allows() {
        let ordered = said(Work { order: Order::Partition, ..busy() });
        assert!(ordered.contains("each of the 4 partitions has one run at a time"), "{ordered}");
        let keyed = said(Work { order: Order::Key, lanes: 2, ..busy() });
        assert!(keyed.contains("each of 4 × 2 lanes has one run at a time"), "{keyed}");
        let enough = said(Work { order: Order::Key, lanes: 8, ..busy() });
        assert!(
            enough.contains("set max-concurrent-runs to 12 or more, or raise max-batch"),
            "{enough}"
        );
        let pace = Pace { busy: 2.0, parked: 40.0, ..busy().pace };
        let parked = said(Work { pace, order: Order::Key, lanes: 2, ..busy() });
        let expected = "2.0 of 5 workers are busy on average, and 40 runs wait behind others of the same lane: with order";
        assert!(parked.starts_with(expected), "{parked}");
        let none = said(Work {
            workers: 900,
            pace: Pace { busy: 900.0, attempts: attempts(50.0, 100_000), queued: 9.0, parked: 0.0 },
            ..busy()
        });
        assert!(none.ends_with("raise max-batch above 50, or make the step faster"), "{none}");
    }

    #[test]
    fn idle_workers_wait_for_memory_or_for_reading() {
        let idle = || Work { pace: Pace { busy: 1.0, queued: 0.0, ..busy().pace }, ..busy() };
        let full = Work { bytes: 950, max_batch_bytes: 60, ..idle() };
        assert!(said(full).ends_with("restart with a larger --queue-bytes"));
        assert!(
            said(Work { tick_interval: Duration::from_secs(3), ..idle() })
                .contains("for 3.0 s between")
        );
        assert!(said(idle()).ends_with("restart with --sensors 2"));
        assert_eq!(said(Work { sensors: 4, ..idle() }), "", "nothing is known that helps");
    }

    #[test]
    fn what_a_records_way_explains_grows_with_ticks_steps_and_looks() {
        let second = Duration::from_secs(1);
        let quick = busy().explained(60 * second, 10 * second, second);
        assert_eq!((quick.tooth, quick.records), (Duration::from_millis(980), 50));
        assert_eq!(quick.way, Duration::from_millis(100 + 980 + 250 + 2000));
        let pace = Pace { attempts: None, ..busy().pace };
        let slow = Work { pace, ..busy() }.explained(60 * second, 10 * second, second);
        assert_eq!(slow.tooth, 120 * second, "no attempt has ended");
        let ticks = Work { tick_interval: 60 * second, ..busy() };
        assert_eq!(ticks.explained(second, 10 * second, 10 * second).tooth, 70 * second);
        assert_eq!(busy().explained(second, second, 10 * second).tooth, 20 * second);
    }

    #[test]
    fn if_as_much_is_done_as_arrives_no_setting_is_to_blame() {
        let even = Trend { arriving: 1000.0, done: 1000.0, course: Course::Grows };
        assert_eq!(busy().advice(&even), None);
        let retried = Work { waiting_retries: 1, ..busy() }.advice(&even).unwrap();
        assert!(retried.starts_with("1 run waits for another attempt"), "{retried}");
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
