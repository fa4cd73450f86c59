//! Records of a replay's window that lie behind the window's end in the log. Timestamps need not ascend: after one
//! record from the future, a log's search by time finds it as the end of every window before that future, and all
//! records behind it would be left out.
//!
//! Only reading them tells; so the log is read on from the end, for a limited time, and the rest is named.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::config::limits;
use crate::kafka::{Broker, Consumer, FetchSettings, Flow, Sink, Watermarks};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange, Partition};

/// What was found in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Late {
    /// Records of the window, as ranges that hold no record outside of it; ascending.
    pub ranges: Vec<OffsetRange>,
    /// The first record that was not looked at; `None` if the whole log was.
    pub unchecked: Option<Offset>,
}

/// Reads each partition from its offset in `from` (where the window ends by the log's search) to its end, and
/// collects the records from `since` (included) to `until` (not included), in ms since 1970.
///
/// # Errors
/// `Broker` if the topic cannot be read at all. What keeps a single partition from being read leaves the rest of it
/// unchecked.
pub(super) fn find(
    broker: &dyn Broker,
    topic: &str,
    (since, until): (i64, i64),
    from: &BTreeMap<Partition, Offset>,
    marks: &BTreeMap<Partition, Watermarks>,
) -> Result<BTreeMap<Partition, Late>> {
    let mut search = Search { since, until, partitions: BTreeMap::new() };
    for (partition, Watermarks { beginning, end }) in marks {
        let from = from.get(partition).copied().unwrap_or(*end).max(*beginning);
        if from < *end {
            search.partitions.insert(*partition, Reading::new(from, *end));
        }
    }
    if !search.partitions.is_empty() && broker.capabilities().timestamps {
        search.run(broker, topic)?;
    }
    Ok(search.partitions.into_iter().map(|(one, reading)| (one, reading.into_late())).collect())
}

struct Search {
    since: i64,
    until: i64,
    partitions: BTreeMap<Partition, Reading>,
}

/// How far one partition was read.
struct Reading {
    next: Offset,
    end: Offset,
    found: Vec<OffsetRange>,
    /// The last record belonged to the window, so that the next one may continue its range.
    is_open: bool,
    /// It cannot be read on, or has too many ranges.
    given_up: bool,
}

impl Reading {
    fn new(from: Offset, end: Offset) -> Reading {
        Reading { next: from, end, found: Vec::new(), is_open: false, given_up: false }
    }

    fn is_over(&self) -> bool {
        self.given_up || self.next >= self.end
    }

    fn take(&mut self, offset: Offset, is_late: bool) {
        if self.is_over() || offset < self.next || offset >= self.end {
            return;
        }
        let has_room = self.found.len() < limits::LATE_RANGES;
        match self.found.last_mut() {
            Some(range) if is_late && self.is_open => range.last = offset,
            _ if is_late && has_room => self.found.push(OffsetRange::new(offset, offset)),
            _ if is_late => {
                self.given_up = true;
                return;
            }
            _ => {}
        }
        self.is_open = is_late;
        self.next = offset.next();
    }

    fn into_late(self) -> Late {
        let unchecked = (self.next < self.end).then_some(self.next);
        Late { ranges: self.found, unchecked }
    }
}

impl Search {
    fn run(&mut self, broker: &dyn Broker, topic: &str) -> Result<()> {
        let starts: Vec<_> = self.partitions.iter().map(|(one, at)| (*one, at.next)).collect();
        let settings = FetchSettings {
            min_bytes: 1,
            max_record_bytes: limits::EMBEDDED_RECORD_BYTES,
            isolation: None,
            turn_bytes: None,
        };
        let deadline = Instant::now() + limits::LATE_RECORDS_LIMIT;
        let mut consumer = match broker.consumer(topic, &starts, &settings) {
            Ok(consumer) => consumer,
            // The embedded topic of a running mb cannot be read from here.
            Err(Error::Unsupported { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let read = self.read(consumer.as_mut(), deadline);
        consumer.close();
        read
    }

    fn read(&mut self, consumer: &mut dyn Consumer, deadline: Instant) -> Result<()> {
        while !self.is_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            consumer.poll(left.min(limits::STOP_LOOK_INTERVAL), self)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.partitions.values().all(Reading::is_over)
    }

    fn flow(&self) -> Flow {
        if self.is_over() { Flow::Stop } else { Flow::Continue }
    }
}

impl Sink for Search {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let is_late = record.timestamp.is_some_and(|at| self.since <= at && at < self.until);
        let Some(reading) = self.partitions.get_mut(&partition) else { return Flow::Continue };
        reading.take(record.offset, is_late);
        // All partitions are looked at only when one has come to its end.
        if reading.is_over() { self.flow() } else { Flow::Continue }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        if let Some(reading) = self.partitions.get_mut(&partition).filter(|one| !one.given_up) {
            reading.next = reading.next.max(next);
        }
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        log::debug!("looking for late records: {error}");
        if let Some(reading) = self.partitions.get_mut(&partition) {
            reading.given_up = true;
        }
        self.flow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    /// Reads from 3 to 20 records that are late or not.
    fn read(records: &[(i64, bool)]) -> Late {
        let mut reading = Reading::new(at(3), at(20));
        for (offset, is_late) in records {
            reading.take(at(*offset), *is_late);
        }
        reading.into_late()
    }

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(at(first), at(last))
    }

    #[test]
    fn late_records_are_ranges_without_others_between_them() {
        let late = read(&[(3, false), (4, true), (5, true), (9, true), (10, false), (11, true)]);
        assert_eq!(late.ranges, [range(4, 9), range(11, 11)], "6 to 8 are no records");
        assert_eq!(late.unchecked, Some(at(12)));
        let whole = read(&[(2, true), (3, false), (19, true), (20, true)]);
        assert_eq!(whole, Late { ranges: vec![range(19, 19)], unchecked: None });
    }

    #[test]
    fn more_ranges_than_a_request_should_have_are_left_unchecked() {
        let mut reading = Reading::new(at(0), at(10_000));
        for offset in 0..10_000 {
            reading.take(at(offset), offset % 2 == 0);
        }
        let late = reading.into_late();
        assert_eq!(late.ranges.len(), limits::LATE_RANGES);
        assert_eq!(late.unchecked, Some(at(2 * limits::LATE_RANGES as i64)));
    }
}
