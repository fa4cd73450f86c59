//! Cases of the conformance suite: what concerns one partition stops that partition alone.

use std::time::Instant;

use mb::kafka::{CommitError, Consumer, FetchSettings};
use mb::model::error::Error;
use mb::model::offset::{Offset, Partition};

use super::subject::*;
use crate::support::unique;

/// Polls until the positions are there, and fails if they are not within the limit.
fn poll_until(consumer: &mut dyn Consumer, taker: &mut Taker, positions: &[(Partition, i64)]) {
    let began = Instant::now();
    let is_there = |taker: &Taker| {
        positions.iter().all(|(partition, position)| taker.positions[partition] >= *position)
    };
    while !is_there(taker) {
        assert!(began.elapsed() < LIMIT, "stuck at {:?}, {:?}", taker.positions, taker.failed);
        consumer.poll(POLL, taker).unwrap();
    }
}

fn poll_until_failed(consumer: &mut dyn Consumer, taker: &mut Taker) -> (Partition, Error) {
    let began = Instant::now();
    while taker.failed.is_empty() {
        assert!(began.elapsed() < LIMIT, "no partition failed; at {:?}", taker.positions);
        consumer.poll(POLL, taker).unwrap();
    }
    assert_eq!(taker.failed.len(), 1, "{:?}", taker.failed);
    taker.failed.remove(0)
}

pub fn an_oversize_record_stops_its_partition_alone(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "oversize", 3);
    for partition in [0, 2] {
        produce_values(broker.as_ref(), &topic, partition, &values("v", 200, 100));
    }
    for (bytes, count) in [(100, 3), (50_000, 1), (100, 3)] {
        produce_values(broker.as_ref(), &topic, 1, &values("v", count, bytes));
    }
    let from = [(0, 0), (1, 0), (2, 0)];
    let settings = FetchSettings { max_record_bytes: 10_000, ..fetch() };
    let mut consumer = broker.consumer(&topic, &offsets(&from), &settings).unwrap();
    let mut taker = Taker::from(&from);
    for round in 0..2 {
        let (partition, error) = poll_until_failed(consumer.as_mut(), &mut taker);
        assert_eq!(partition, 1);
        let at_3 = |offset: &Offset| offset.get() == 3;
        let Error::Unreadable { partition: 1, offset, .. } = &error else { panic!("{error:?}") };
        assert!(at_3(offset), "{error:?}");
        assert_eq!(taker.positions[&1], 3, "what comes before it was handed over");
        // The others go on in the same consumer, with what comes later too.
        for partition in [0, 2] {
            produce_values(broker.as_ref(), &topic, partition, &values("later", 200, 100));
        }
        let end = 400 + 200 * round;
        poll_until(consumer.as_mut(), &mut taker, &[(0, end), (2, end)]);
        assert_eq!(taker.failed, [], "one report is enough");
        assert_eq!(taker.positions[&1], 3);
        // A second try meets the same record.
        consumer.resume(1, Offset::new(3)).unwrap();
    }
    assert_eq!(poll_until_failed(consumer.as_mut(), &mut taker).0, 1);
    consumer.resume(1, Offset::new(4)).unwrap();
    poll_until(consumer.as_mut(), &mut taker, &[(1, 7)]);
    assert_eq!(taker.failed, []);
    consumer.close();
    let of_1: Vec<_> = taker.read.iter().filter(|read| read.partition == 1).collect();
    assert_eq!(of_1.iter().map(|read| read.offset).collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
}

pub fn an_offset_outside_the_log_stops_its_partition_alone(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "outside", 3);
    for partition in 0..3 {
        produce_values(broker.as_ref(), &topic, partition, &values("v", 200, 100));
    }
    let from = [(0, 0), (1, 205), (2, 0)];
    let mut consumer = broker.consumer(&topic, &offsets(&from), &fetch()).unwrap();
    let mut taker = Taker::from(&from);
    let expected = Error::OffsetOutOfRange { topic, partition: 1, offset: Offset::new(205) };
    assert_eq!(poll_until_failed(consumer.as_mut(), &mut taker), (1, expected));
    poll_until(consumer.as_mut(), &mut taker, &[(0, 200), (2, 200)]);
    assert_eq!(taker.failed, [], "one report is enough");
    taker.positions.insert(1, 0);
    consumer.resume(1, Offset::ZERO).unwrap();
    poll_until(consumer.as_mut(), &mut taker, &[(1, 200)]);
    assert_eq!(taker.failed, []);
    assert_eq!(taker.read.len(), 600);
    consumer.close();
}

pub fn a_refused_commit_says_what_it_has_not_stored(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "refused", 2);
    let group = unique("refused");
    broker.commit(&group, &topic, &offsets(&[(0, 1), (1, 1)])).unwrap();
    let refused = broker.commit(&group, &topic, &offsets(&[(0, 5), (9, 5)]));
    let Err(CommitError::Refused { partitions, .. }) = refused else { panic!("{refused:?}") };
    assert!(partitions.contains(&9), "there is no partition 9: {partitions:?}");
    let committed = broker.committed(&group, &topic, &[0, 1]).unwrap();
    let stored = if partitions.contains(&0) { 1 } else { 5 };
    assert_eq!(committed[&0], Ok(Some(Offset::new(stored))));
    assert_eq!(committed[&1], Ok(Some(Offset::new(1))));
}
