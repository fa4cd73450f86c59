//! Cases of the conformance suite: offsets outside the log, on either side of it.

use mb::kafka::require_all;
use mb::model::error::Error;
use mb::model::offset::Offset;

use super::pausing::error_after_resuming;
use super::subject::*;

/// One partition among others, below its beginning and beyond its end, at the start and after a
/// pause.
pub fn an_offset_outside_the_log_is_named_with_its_partition(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "edges", 3);
    for partition in 0..3 {
        produce_values(broker.as_ref(), &topic, partition, &values("v", 200, 10_000));
    }
    let beginning = subject.trim(&topic, 1, 150);
    let ends = require_all(broker.watermarks(&topic, &[0, 1, 2]).unwrap()).unwrap();
    let good = [(0, 0), (1, beginning), (2, 0)];
    let end = |partition| ends[&partition].end.get();
    let outside =
        [(1, beginning - 1), (1, 0), (1, end(1) + 1), (2, end(2) + 1), (2, end(2) + 1_000_000)];
    for (partition, offset) in outside {
        let mut from = good;
        from[partition as usize].1 = offset;
        let (read, at_start) = read_to_error(broker.as_ref(), &topic, &from, &fetch());
        assert!(read.iter().all(|read| read.partition != partition), "{partition} at {offset}");
        let after_pause = error_after_resuming(subject, &topic, &good, (partition, offset));
        let expected = Error::OffsetOutOfRange {
            topic: topic.clone(),
            partition,
            offset: Offset::new(offset),
        };
        assert_eq!(at_start, expected);
        assert_eq!(after_pause, expected);
        let text = expected.to_string();
        assert!(text.contains(&format!("{topic}/{partition}")), "{text}");
        assert!(text.contains(&offset.to_string()), "{text}");
    }
}
