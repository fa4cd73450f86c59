//! The embedded topic compared with a naive model, by random sequences of operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::store::immediate;
use super::tests::{NOW, Read, Taker, marks, message, open, read_all, settings};
use super::{Embedded, retention};
use crate::kafka::{Broker, Sent};
use crate::model::offset::{Offset, Partition};

#[derive(Clone, Debug)]
enum Op {
    Produce { partition: usize, records: usize, bytes: usize },
    Commit { group: u8, partition: usize, share: f64 },
    Fetch { partition: usize, share: f64, room: usize },
    AddPartition,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..4, 1usize..40, 0usize..700)
            .prop_map(|(partition, records, bytes)| Op::Produce { partition, records, bytes }),
        5 => (0u8..3, 0usize..4, 0.0..=1.0)
            .prop_map(|(group, partition, share)| Op::Commit { group, partition, share }),
        4 => (0usize..4, 0.0..=1.0, 1usize..60)
            .prop_map(|(partition, share, room)| Op::Fetch { partition, share, room }),
        1 => Just(Op::AddPartition),
        1 => Just(Op::Reopen),
    ]
}

/// Every value that was accepted, by partition, and every commit: nothing is ever removed here.
#[derive(Default)]
struct Model {
    logs: Vec<Vec<Vec<u8>>>,
    commits: BTreeMap<u8, BTreeMap<usize, i64>>,
    /// Per partition, what the log's beginning may be by now.
    may_begin: Vec<i64>,
    serial: u32,
}

impl Model {
    /// Below it, every group that has committed anything is done with the partition.
    fn floor(&self, partition: usize) -> i64 {
        let offsets =
            self.commits.values().map(|of| of.get(&partition).copied().unwrap_or_default());
        offsets.min().unwrap_or_default()
    }

    /// A beginning never moves back, not even if a new group has read nothing yet.
    fn note_floors(&mut self) {
        self.may_begin.resize(self.logs.len(), 0);
        for partition in 0..self.logs.len() {
            self.may_begin[partition] = self.may_begin[partition].max(self.floor(partition));
        }
    }

    fn value(&mut self, bytes: usize) -> Vec<u8> {
        self.serial += 1;
        let mut value = self.serial.to_le_bytes().to_vec();
        value.resize(bytes.max(4), 0xab);
        value
    }
}

const MODEL_RETENTION: u64 = 24 << 10;

fn compare(ops: &[Op]) -> std::result::Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut embedded = open(dir.path(), MODEL_RETENTION);
    embedded.create_topic("t", 2).unwrap();
    let mut producer = embedded.producer("t").unwrap();
    let mut model = Model { logs: vec![Vec::new(); 2], ..Model::default() };
    for op in ops {
        let partitions = model.logs.len();
        match *op {
            Op::Produce { partition, records, bytes } => {
                let partition = partition % partitions;
                for _ in 0..records {
                    let value = model.value(bytes);
                    let message = message(partition as Partition, &value);
                    match producer.send(message, NOW).unwrap() {
                        Sent::Accepted => model.logs[partition].push(value),
                        Sent::Full => {
                            prop_assert!(producer.flush(NOW).unwrap() > 0, "full, yet all written")
                        }
                    }
                }
            }
            Op::Commit { group, partition, share } => {
                let partition = partition % partitions;
                let (_, end) = marks(&embedded, partition as Partition);
                let offset = (end as f64 * share) as i64;
                let offsets = [(partition as Partition, Offset::new(offset))];
                embedded.commit(&group.to_string(), "t", &offsets).unwrap();
                model.commits.entry(group).or_default().insert(partition, offset);
            }
            Op::Fetch { partition, share, room } => {
                let partition = partition % partitions;
                let (beginning, end) = marks(&embedded, partition as Partition);
                let from = beginning + ((end - beginning) as f64 * share) as i64;
                let mut taker = Taker::new(room);
                let cursor = [(partition as Partition, Offset::new(from))];
                let mut consumer = embedded.consumer("t", &cursor, &settings()).unwrap();
                consumer.poll(NOW, &mut taker).unwrap();
                let until = (from + room as i64).min(end);
                let expected: Vec<Read> = (from..until)
                    .map(|at| (partition as i32, at, model.logs[partition][at as usize].clone()))
                    .collect();
                prop_assert_eq!(taker.read, expected);
            }
            Op::AddPartition => {
                if partitions < 4 {
                    embedded.add_partitions("t", partitions as u32 + 1).unwrap();
                    model.logs.push(Vec::new());
                }
            }
            Op::Reopen => {
                drop(producer);
                embedded = open(dir.path(), MODEL_RETENTION);
                producer = embedded.producer("t").unwrap();
                // What the producer still held was not acknowledged: it is lost with it.
                for (partition, log) in model.logs.iter_mut().enumerate() {
                    log.truncate(marks(&embedded, partition as Partition).1 as usize);
                }
            }
        }
        model.note_floors();
        check(&embedded, producer.flush(NOW).unwrap(), &model)?;
    }
    Ok(())
}

fn check(embedded: &Embedded, held: u64, model: &Model) -> std::result::Result<(), TestCaseError> {
    let mut unwritten = 0;
    for (partition, log) in model.logs.iter().enumerate() {
        let (beginning, end) = marks(embedded, partition as Partition);
        prop_assert!(beginning <= end && end <= log.len() as i64);
        prop_assert!(beginning <= model.may_begin[partition], "an unread record was removed");
        unwritten += log.len() as u64 - end as u64;
        let read = read_all(embedded, &[(partition as Partition, beginning)]).unwrap();
        prop_assert_eq!(read.len() as i64, end - beginning);
        for (at, (_, offset, value)) in (beginning..end).zip(&read) {
            prop_assert_eq!(at, *offset);
            prop_assert_eq!(value, &log[at as usize]);
        }
    }
    prop_assert_eq!(unwritten, held, "accepted is written or held");
    for (group, of) in &model.commits {
        let partitions: Vec<_> = (0..model.logs.len() as Partition).collect();
        let stored = embedded.committed(&group.to_string(), "t", &partitions).unwrap();
        let expected = partitions.iter().map(|partition| {
            (*partition, Ok(of.get(&(*partition as usize)).copied().map(Offset::new)))
        });
        prop_assert_eq!(stored, expected.collect::<BTreeMap<_, _>>());
    }
    let mut writer = embedded.shared.writer.lock();
    let tx = immediate(&mut writer).unwrap();
    prop_assert!(retention::used(&tx).unwrap() <= MODEL_RETENTION);
    // Messages are held back only if nothing more may be removed.
    if held > 0 {
        let removable: i64 =
            tx.query_row("SELECT count(*) FROM chunks", [], |row| row.get::<_, i64>(0)).unwrap();
        prop_assert!(removable > 0);
        let freed = retention::remove(&tx, 1).unwrap();
        prop_assert_eq!(freed, 0, "there was room to be made");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_a_naive_model_does(ops in prop::collection::vec(op(), 1..60)) {
        compare(&ops)?;
    }
}
