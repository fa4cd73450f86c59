//! Whether runs start in the order that was promised: per partition, or per key within one.

use std::collections::{BTreeMap, BTreeSet};

use mb::config::Order;
use mb::model::batch::Batch;
use mb::model::offset::{Lane, Partition, RunKey};

/// A partition, or one key in it.
type Line = (Partition, Option<Vec<u8>>);

#[derive(Default)]
pub struct Orders {
    order: Order,
    /// First and last offset, in each line, of the attempt that began last in this process.
    newest: BTreeMap<Line, (i64, i64)>,
    /// Lines that have an attempt going on.
    busy: BTreeSet<Line>,
}

impl Orders {
    pub fn begin_life(&mut self, order: Order) {
        *self = Orders { order, ..Orders::default() };
    }

    /// The partition's cursor was moved: what came before says nothing about what comes now.
    pub fn forget(&mut self, partition: Partition) {
        self.newest.retain(|(of, _), _| *of != partition);
    }

    /// An attempt begins: it comes after the one before, or is of the same records or fewer (tried
    /// again, or split), and nothing else of its line goes on.
    pub fn begin(&mut self, key: &RunKey, batch: &Batch) -> Result<(), String> {
        for (line, (first, last)) in self.lines(key, batch) {
            // A batch that an earlier process split by key stays so, whatever the order is now: its
            // lanes come one after another.
            let is_split = self.order == Order::Partition && key.lane != Lane::WHOLE;
            if let Some((first_before, last_before)) = self.newest.get(&line)
                && !is_split
                && first <= *last_before
                && (first < *first_before || last > *last_before)
            {
                return Err(format!(
                    "out of order: {first}-{last} of {line:?} after {first_before}-{last_before}"
                ));
            }
            self.newest.insert(line.clone(), (first, last));
            if !self.busy.insert(line.clone()) {
                return Err(format!("out of order: another run of {line:?} goes on"));
            }
        }
        Ok(())
    }

    pub fn end(&mut self, key: &RunKey, batch: &Batch) {
        for line in self.lines(key, batch).keys() {
            self.busy.remove(line);
        }
    }

    /// What of the batch has to keep an order, with its first and last offset; nothing of a request's.
    fn lines(&self, key: &RunKey, batch: &Batch) -> BTreeMap<Line, (i64, i64)> {
        let mut lines = BTreeMap::new();
        if key.reprocess.is_some() {
            return lines;
        }
        for record in batch.records() {
            let line = match (self.order, record.key) {
                (Order::None, _) | (Order::Key, None) => continue,
                (Order::Partition, _) => (key.partition, None),
                (Order::Key, Some(of)) => (key.partition, Some(of.to_vec())),
            };
            let offset = record.offset.get();
            lines.entry(line).or_insert((offset, offset)).1 = offset;
        }
        lines
    }
}
