//! Cases of the conformance suite: one partition of a consumer is paused and resumed while the
//! others go on.

use std::time::{Duration, Instant};

use mb::kafka::{Consumer, Flow, Sink};
use mb::model::batch::Record;
use mb::model::error::Error;
use mb::model::offset::{Offset, Partition};

use super::subject::*;

/// A sink whose owner holds one partition back, as a sensor does whose batches are stuck.
#[derive(Default)]
struct Holder {
    taker: Taker,
    /// Its records are thrown away: they came before the consumer was told.
    refused: Option<Partition>,
    /// Nothing of it may come.
    paused: Option<Partition>,
}

impl Holder {
    fn from(cursor: &[(Partition, i64)]) -> Holder {
        Holder { taker: Taker::from(cursor), ..Holder::default() }
    }

    fn offsets(&self, partition: Partition) -> Vec<i64> {
        let of_partition = self.taker.read.iter().filter(|read| read.partition == partition);
        of_partition.map(|read| read.offset).collect()
    }

    fn next(&self, partition: Partition) -> Offset {
        Offset::new(self.taker.positions[&partition])
    }

    fn poll_until(&mut self, consumer: &mut dyn Consumer, done: impl Fn(&Holder) -> bool) {
        let began = Instant::now();
        while !done(self) {
            let at = &self.taker.positions;
            assert!(began.elapsed() < LIMIT, "stuck at {at:?}, paused {:?}", self.paused);
            consumer.poll(POLL, self).unwrap();
            assert_eq!(self.taker.failed, []);
        }
    }
}

impl Sink for Holder {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        assert_ne!(self.paused, Some(partition), "a record of a paused partition");
        if self.refused == Some(partition) {
            return Flow::Continue;
        }
        self.taker.record(partition, record)
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        assert_ne!(self.paused, Some(partition), "a position of a paused partition");
        if self.refused != Some(partition) {
            self.taker.position(partition, next);
        }
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        self.taker.failed(partition, error)
    }
}

pub fn a_paused_partition_is_silent_and_the_others_go_on(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "paused", 3);
    let from = [(0, 0), (1, 0), (2, 0)];
    for partition in 0..3 {
        produce_values(broker.as_ref(), &topic, partition, &values("before", 200, 50));
    }
    let mut consumer = broker.consumer(&topic, &offsets(&from), &fetch()).unwrap();
    let mut holder = Holder::from(&from);
    holder.poll_until(consumer.as_mut(), |holder| holder.next(1).get() == 200);

    holder.paused = Some(1);
    // Again is fine.
    consumer.pause(1).unwrap();
    consumer.pause(1).unwrap();
    for partition in 0..3 {
        produce_values(broker.as_ref(), &topic, partition, &values("after", 200, 50));
    }
    holder.poll_until(consumer.as_mut(), |holder| {
        holder.next(0).get() == 400 && holder.next(2).get() == 400
    });
    for _ in 0..3 {
        consumer.poll(POLL, &mut holder).unwrap();
    }

    // With all of them paused a poll ends after its wait.
    consumer.pause(0).unwrap();
    consumer.pause(2).unwrap();
    let began = Instant::now();
    let count = holder.taker.read.len();
    consumer.poll(POLL, &mut holder).unwrap();
    assert!(began.elapsed() < POLL + Duration::from_secs(2));
    assert_eq!(holder.taker.read.len(), count);

    holder.paused = None;
    for partition in [1, 0, 2] {
        consumer.resume(partition, holder.next(partition)).unwrap();
    }
    holder.poll_until(consumer.as_mut(), |holder| holder.next(1).get() == 400);
    // One that is not paused is not moved.
    consumer.resume(1, Offset::ZERO).unwrap();
    produce_values(broker.as_ref(), &topic, 1, &values("last", 1, 50));
    holder.poll_until(consumer.as_mut(), |holder| holder.next(1).get() == 401);
    assert_eq!(holder.offsets(0), (0..400).collect::<Vec<_>>());
    assert_eq!(holder.offsets(1), (0..401).collect::<Vec<_>>());
    assert_eq!(holder.offsets(2), (0..400).collect::<Vec<_>>());

    for refused in [consumer.pause(9), consumer.resume(9, Offset::ZERO)] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(&format!("{topic}/9")), "{text}");
    }
    consumer.close();
}

pub fn a_partition_resumes_exactly_where_it_is_told(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "resumed", 2);
    let written = values("v", 3000, 100);
    produce_values(broker.as_ref(), &topic, 0, &written);
    produce_values(broker.as_ref(), &topic, 1, &values("other", 10, 100));
    let mut consumer = broker.consumer(&topic, &offsets(&[(0, 0), (1, 0)]), &fetch()).unwrap();
    let mut holder = Holder::from(&[(0, 0), (1, 0)]);
    // Some of it is here, and the client likely holds more.
    holder.poll_until(consumer.as_mut(), |holder| holder.next(0).get() > 0);
    // Back, ahead, to the last record, to the end.
    for from in [1, 0, 1500, 2999, 3000, 17] {
        consumer.pause(0).unwrap();
        consumer.resume(0, Offset::new(from)).unwrap();
        holder.taker.read.clear();
        holder.taker.positions.insert(0, from);
        holder.poll_until(consumer.as_mut(), |holder| holder.next(0).get() == 3000);
        assert_eq!(holder.offsets(0), (from..3000).collect::<Vec<_>>(), "from {from}");
        let read = holder.taker.read.iter().filter(|read| read.partition == 0);
        for read in read {
            assert_eq!(read.value.as_ref(), Some(&written[read.offset as usize]));
        }
    }
    consumer.close();
}

pub fn pausing_again_and_again_loses_and_repeats_nothing(subject: &dyn Subject) {
    const RECORDS: i64 = 4000;
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "again", 3);
    let from = [(0, 0), (1, 0), (2, 0)];
    let write = |partition| {
        let part = values(&format!("partition {partition}"), RECORDS as usize / 8, 200);
        produce_values(broker.as_ref(), &topic, partition, &part);
    };
    // A partition that takes records has a leader that can be read from.
    (0..3).for_each(write);
    let mut consumer = broker.consumer(&topic, &offsets(&from), &fetch()).unwrap();
    let mut holder = Holder::from(&from);
    let began = Instant::now();
    let mut pauses = 0;
    std::thread::scope(|scope| {
        for partition in 0..3 {
            scope.spawn(move || (1..8).for_each(|_| write(partition)));
        }
        let wait = Duration::from_millis(20);
        while (0..3).any(|partition| holder.next(partition).get() < RECORDS) || pauses < 60 {
            assert!(began.elapsed() < LIMIT, "stuck at {:?}", holder.taker.positions);
            let held = pauses % 3;
            // What came before the pause may have been refused.
            holder.refused = (pauses % 2 == 0).then_some(held);
            consumer.poll(wait, &mut holder).unwrap();
            consumer.pause(held).unwrap();
            holder.refused = None;
            holder.paused = Some(held);
            consumer.poll(wait, &mut holder).unwrap();
            consumer.resume(held, holder.next(held)).unwrap();
            holder.paused = None;
            consumer.poll(wait, &mut holder).unwrap();
            pauses += 1;
        }
    });
    consumer.close();
    for partition in 0..3 {
        assert!(holder.offsets(partition) == (0..RECORDS).collect::<Vec<_>>(), "{partition}");
    }
}

pub fn pauses_in_a_long_log_lose_and_repeat_nothing(subject: &dyn Subject) {
    const RECORDS: i64 = 7500;
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "long", 3);
    let from = [(0, 0), (1, 0), (2, 0)];
    for partition in 0..3 {
        for _ in 0..25 {
            let part = values(&format!("partition {partition}"), RECORDS as usize / 25, 200);
            produce_values(broker.as_ref(), &topic, partition, &part);
        }
    }
    let mut random = fastrand::Rng::with_seed(7);
    let mut holder = Holder::from(&from);
    let began = Instant::now();
    // A consumer does not see its end, and the next one goes on.
    while (0..3).any(|partition| holder.next(partition).get() < RECORDS) {
        let cursor = offsets(&holder.taker.cursor());
        let mut consumer = broker.consumer(&topic, &cursor, &fetch()).unwrap();
        let room = random.usize(1000..8000);
        let end = holder.taker.read.len() + room;
        (holder.taker.room, holder.taker.stopped) = (Some(room), false);
        while !holder.taker.stopped
            && (0..3).any(|partition| holder.next(partition).get() < RECORDS)
        {
            assert!(began.elapsed() < LIMIT, "stuck at {:?}", holder.taker.positions);
            let held = random.i32(0..3);
            holder.refused = random.bool().then_some(held);
            consumer.poll(Duration::from_millis(20), &mut holder).unwrap();
            if holder.taker.stopped || (holder.refused.is_none() && random.bool()) {
                continue;
            }
            consumer.pause(held).unwrap();
            holder.refused = None;
            if random.bool() {
                holder.paused = Some(held);
                consumer.poll(Duration::ZERO, &mut holder).unwrap();
                holder.paused = None;
            }
            consumer.resume(held, holder.next(held)).unwrap();
        }
        assert!(holder.taker.read.len() <= end);
        consumer.close();
    }
    for partition in 0..3 {
        assert!(holder.offsets(partition) == (0..RECORDS).collect::<Vec<_>>(), "{partition}");
    }
}

/// What a poll says of a consumer that was resumed where the log is not.
pub fn error_after_resuming(
    subject: &dyn Subject,
    topic: &str,
    good: &[(Partition, i64)],
    (partition, offset): (Partition, i64),
) -> Error {
    let broker = subject.broker();
    let mut consumer = broker.consumer(topic, &offsets(good), &fetch()).unwrap();
    let mut holder = Holder::from(good);
    consumer.pause(partition).unwrap();
    consumer.poll(POLL, &mut holder).unwrap();
    consumer.resume(partition, Offset::new(offset)).unwrap();
    let began = Instant::now();
    loop {
        consumer.poll(POLL, &mut holder).unwrap();
        if let Some((_, error)) = holder.taker.failed.pop() {
            consumer.close();
            return error;
        }
        assert!(began.elapsed() < LIMIT, "no error");
    }
}
