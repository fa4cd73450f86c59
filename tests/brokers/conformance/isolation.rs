//! A case of the conformance suite: which records of transactions are read, by each level of
//! isolation and by default.

use mb::config::Isolation;
use mb::kafka::FetchSettings;
use mb::model::error::Error;

use super::subject::*;

/// Offsets that each level shows, and where the log ends.
struct Log {
    topic: String,
    committed: Vec<i64>,
    uncommitted: Vec<i64>,
    end: i64,
}

pub fn aborted_records_are_seen_only_where_they_are_asked_for(subject: &dyn Subject) {
    let broker = subject.broker();
    let log = write(subject);
    let able = broker.capabilities().read_committed;
    for asked in [None, Some(Isolation::ReadCommitted), Some(Isolation::ReadUncommitted)] {
        let settings = FetchSettings { isolation: asked, ..fetch() };
        if asked == Some(Isolation::ReadCommitted) && !able {
            let refused = broker.consumer(&log.topic, &offsets(&[(0, 0)]), &settings).err();
            assert!(matches!(refused, Some(Error::Unsupported { .. })), "{refused:?}");
            let text = refused.unwrap().to_string();
            assert!(text.contains("--isolation read_committed"), "{text}");
            assert!(text.contains("--client rdkafka"), "{text}");
            continue;
        }
        let hides = asked.unwrap_or(Isolation::ReadCommitted) == Isolation::ReadCommitted && able;
        let expected = if hides { &log.committed } else { &log.uncommitted };
        let taker = read_to_end_with(broker.as_ref(), &log.topic, &[(0, 0)], &settings).unwrap();
        let came: Vec<_> = taker.read.iter().map(|read| read.offset).collect();
        assert!(came == *expected, "{asked:?}: {came:?}");
        assert_eq!(taker.cursor(), [(0, log.end)], "{asked:?}: the lag is 0");
    }
}

/// Committed, aborted, plain and aborted records, each transaction with a marker behind it.
fn write(subject: &dyn Subject) -> Log {
    use crate::support::{eventually, raw};
    use mb::model::offset::Offset;

    let Some(kafka) = subject.kafka() else { return write_plainly(subject) };
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "isolation", 1);
    let bootstrap = kafka.bootstrap();
    let part = values("v", 10, 30);
    // A transaction has ended before its marker is in the log: what is written next could come first.
    let ends_at = |end| {
        eventually(LIMIT, "the marker is in the log", || {
            broker.watermarks_of(&topic, 0).is_ok_and(|marks| marks.end == Offset::new(end))
        });
    };
    raw::transaction(&bootstrap, &topic, 0, &part, true);
    ends_at(11);
    raw::transaction(&bootstrap, &topic, 0, &part, false);
    ends_at(22);
    raw::produce(&bootstrap, "none", &topic, 0, &part);
    raw::transaction(&bootstrap, &topic, 0, &part, false);
    ends_at(43);
    let committed = (0..10).chain(22..32).collect();
    let uncommitted = (0..10).chain(11..21).chain(22..42).collect();
    Log { topic, committed, uncommitted, end: 43 }
}

/// Without transactions both levels show the same.
fn write_plainly(subject: &dyn Subject) -> Log {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "isolation", 1);
    produce_values(broker.as_ref(), &topic, 0, &values("v", 10, 30));
    let all: Vec<_> = (0..10).collect();
    Log { topic, committed: all.clone(), uncommitted: all, end: 10 }
}
