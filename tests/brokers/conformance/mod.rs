//! One and the same suite for every backend, each by the capabilities that it declares: what is
//! there must work, what is not must be refused by name. Kafka's own tools and librdkafka write
//! what the seam does not.

mod edges;
mod failing;
mod isolation;
mod pausing;
mod subject;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mb::config::limits;
use mb::kafka::wire::Wire;
use mb::kafka::{
    Backend, Broker, Commit, Committed, EpochEnd, FetchSettings, Message, require_all,
};
use mb::model::error::Error;
use mb::model::offset::{Epoch, Offset};

use self::edges::*;
use self::failing::*;
use self::isolation::*;
use self::pausing::*;
use self::subject::*;
use crate::support::kafka::V4_4;
use crate::support::kafka::{Kafka, V3_4, V3_9};
use crate::support::{eventually, unique};

/// A module per backend, with one test per case.
macro_rules! suite {
    ($backend:ident, $make:expr) => {
        suite!($backend, $make,
            every_kind_of_key_and_value_comes_back
            null_values_and_headers_work_or_are_refused
            headers_come_back_as_they_were_written
            reading_starts_at_the_offset_asked_for
            beginning_and_end_are_known
            trimmed_logs_begin_above_zero
            an_offset_outside_the_log_is_an_error
            an_offset_outside_the_log_is_named_with_its_partition
            an_offset_outside_the_log_stops_its_partition_alone
            an_oversize_record_stops_its_partition_alone
            a_refused_commit_says_what_it_has_not_stored
            transactions_leave_gaps
            aborted_records_are_seen_only_where_they_are_asked_for
            commits_are_kept_per_group
            leader_epochs_are_reported_and_found
            a_message_of_900_kb_comes_back
            a_message_above_the_fetch_size_comes_back
            a_record_too_large_to_hold_is_an_error
            an_unknown_topic_is_an_error_that_names_it
            creating_a_topic_twice_changes_nothing
            partitions_may_be_added
            stopping_in_mid_batch_loses_nothing
            a_paused_partition_is_silent_and_the_others_go_on
            a_partition_resumes_exactly_where_it_is_told
            pausing_again_and_again_loses_and_repeats_nothing
            pauses_in_a_long_log_lose_and_repeat_nothing
            an_empty_topic_is_polled_for_the_wait
            waiting_ends_with_a_record
            every_codec_is_read_or_refused
            plain_and_compressed_batches_mix
            what_can_never_be_sent_is_said
        );
    };
    ($backend:ident, $make:expr, $($case:ident)+) => {
        mod $backend {
            use super::*;
            $(
                #[test]
                fn $case() {
                    super::$case(&$make);
                }
            )+
        }
    };
}

/// The cases about what the broker's version can change: requests of other versions, stored formats.
macro_rules! version_suite {
    ($backend:ident, $make:expr) => {
        suite!($backend, $make,
            every_kind_of_key_and_value_comes_back
            headers_come_back_as_they_were_written
            beginning_and_end_are_known
            trimmed_logs_begin_above_zero
            an_offset_outside_the_log_is_named_with_its_partition
            transactions_leave_gaps
            commits_are_kept_per_group
            leader_epochs_are_reported_and_found
            an_unknown_topic_is_an_error_that_names_it
            creating_a_topic_twice_changes_nothing
            partitions_may_be_added
            every_codec_is_read_or_refused
        );
    };
}

suite!(embedded, EmbeddedSubject::new());
suite!(rdkafka_on_4_4, KafkaSubject { kafka: Kafka::shared(V4_4), connect: connect_rdkafka });

// On the version before the newest that each client reaches, and on the oldest, what a version can change.
version_suite!(
    rdkafka_on_3_9,
    KafkaSubject { kafka: Kafka::shared(V3_9), connect: connect_rdkafka }
);
version_suite!(
    rdkafka_on_3_4,
    KafkaSubject { kafka: Kafka::shared(V3_4), connect: connect_rdkafka }
);
version_suite!(pure_on_3_4, KafkaSubject { kafka: Kafka::shared(V3_4), connect: connect_pure });

suite!(pure_on_3_9, KafkaSubject { kafka: Kafka::shared(V3_9), connect: connect_pure });
// With so little in an answer the next one is under way more often.
suite!(
    pure_by_small_fetches,
    KafkaSubject { kafka: Kafka::shared(V3_9), connect: connect_pure_by_small_fetches },
    stopping_in_mid_batch_loses_nothing
    a_paused_partition_is_silent_and_the_others_go_on
    a_partition_resumes_exactly_where_it_is_told
    pausing_again_and_again_loses_and_repeats_nothing
    pauses_in_a_long_log_lose_and_repeat_nothing
    plain_and_compressed_batches_mix
);

fn connect_pure(servers: &str) -> Box<dyn Broker> {
    let wire = Arc::new(Wire::new(servers));
    Box::new(mb::kafka::crate_kafka::CrateKafka::connect(servers, wire).unwrap())
}

fn connect_pure_by_small_fetches(servers: &str) -> Box<dyn Broker> {
    let wire = Arc::new(Wire::new(servers));
    let pure = mb::kafka::crate_kafka::CrateKafka::connect(servers, wire).unwrap();
    Box::new(pure.with_fetch_bytes(200_000))
}

fn connect_rdkafka(servers: &str) -> Box<dyn Broker> {
    let wire = Arc::new(Wire::new(servers));
    Box::new(mb::kafka::librdkafka::Librdkafka::connect(servers, wire).unwrap())
}

fn every_kind_of_key_and_value_comes_back(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "kinds", 2);
    let every_byte: Vec<u8> = (0..=255).collect();
    let line_ends = b"\r\n\n\"quoted\\".as_slice();
    let kinds = [
        None,
        Some(b"".as_slice()),
        Some(b"\0"),
        Some("grüße 🦀".as_bytes()),
        Some(&every_byte),
        Some(line_ends),
    ];
    let tells_null = broker.capabilities().null_values;
    let mut messages = Vec::new();
    for key in kinds {
        for value in kinds.iter().skip(1) {
            messages.push(message((messages.len() % 2) as i32, key, *value));
        }
    }
    let before = now();
    produce(broker.as_ref(), &topic, &messages);
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 0), (1, 0)]).unwrap().read;
    assert_eq!(read.len(), messages.len());
    for partition in 0..2 {
        let sent = messages.iter().filter(|message| message.partition == partition);
        let came = read.iter().filter(|read| read.partition == partition);
        for (at, (sent, came)) in sent.zip(came).enumerate() {
            assert_eq!(came.offset, at as i64);
            assert_eq!(came.value.as_deref(), sent.value);
            // A client that does not tell null from empty may do so for keys too.
            if tells_null || !sent.key.is_none_or(<[u8]>::is_empty) {
                assert_eq!(came.key.as_deref(), sent.key);
            } else {
                assert!(came.key.as_deref().is_none_or(<[u8]>::is_empty));
            }
            match came.timestamp {
                Some(timestamp) => assert!((before - 1000..=now() + 1000).contains(&timestamp)),
                None => assert!(!broker.capabilities().timestamps),
            }
        }
    }
}

fn null_values_and_headers_work_or_are_refused(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "refused", 1);
    let null = message(0, Some(b"key"), None);
    let with_headers = Message {
        headers: &[("trace", Some(b"1")), ("empty", Some(b""))],
        ..message(0, Some(b"key"), Some(b"value"))
    };
    let capabilities = broker.capabilities();
    let mut expected = Vec::new();
    for (message, able) in [(null, capabilities.null_values), (with_headers, capabilities.headers)]
    {
        if able {
            produce(broker.as_ref(), &topic, &[message]);
            expected.push(message.value.map(<[u8]>::to_vec));
        } else {
            let refusal = broker.producer(&topic).unwrap().send(message, LIMIT).unwrap_err();
            assert!(matches!(refusal, Error::Unsupported { .. }), "{refusal:?}");
        }
    }
    produce(broker.as_ref(), &topic, &[message(0, None, Some(b"last"))]);
    expected.push(Some(b"last".to_vec()));
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap().read;
    assert_eq!(read.into_iter().map(|read| read.value).collect::<Vec<_>>(), expected);
}

fn headers_come_back_as_they_were_written(subject: &dyn Subject) {
    let broker = subject.broker();
    if !broker.capabilities().headers {
        return headers_are_passed_over(subject);
    }
    let every_byte: Vec<u8> = (0..=255).collect();
    let kinds: &[(&str, Option<&[u8]>)] = &[
        ("trace", Some(b"1")),
        ("trace", Some(b"again")),
        ("null", None),
        ("empty", Some(b"")),
        ("", Some(b"no name")),
        ("grüße 🦀", Some(&every_byte)),
    ];
    let names: Vec<_> = (0..10_000).map(|at| format!("name {at}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), Some(name.as_bytes()))).collect();
    let written = [&[], kinds, &[], &many, &kinds[2..3], &[]];
    let topic = new_topic(broker.as_ref(), "headers", 1);
    let messages: Vec<_> = written
        .iter()
        .map(|headers| Message { headers, ..message(0, Some(b"key"), Some(b"value")) })
        .collect();
    produce(broker.as_ref(), &topic, &messages);
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap().read;
    assert_eq!(read.len(), written.len());
    for (at, (read, written)) in read.iter().zip(written).enumerate() {
        let came = read.headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref()));
        assert!(came.eq(written.iter().map(|(name, value)| (name.as_bytes(), *value))), "{at}");
        assert_eq!(
            (read.key.as_deref(), read.value.as_deref()),
            (Some(&b"key"[..]), Some(&b"value"[..]))
        );
    }
}

/// A client without headers reads records that have some, and shows none.
fn headers_are_passed_over(subject: &dyn Subject) {
    let topic = new_topic(subject.broker().as_ref(), "headers", 1);
    let kafka = subject.kafka().expect("the embedded topic has headers");
    let with_headers = connect_rdkafka(&kafka.bootstrap());
    let headers: &[(&str, Option<&[u8]>)] = &[("trace", Some(b"1")), ("null", None)];
    let messages =
        [message(0, None, Some(b"v")), Message { headers, ..message(0, None, Some(b"w")) }];
    produce(with_headers.as_ref(), &topic, &messages);
    let read = read_to_end(subject.broker().as_ref(), &topic, &[(0, 0)]).unwrap().read;
    assert_eq!(values_of(&read), [b"v", b"w"]);
    assert!(read.iter().all(|read| read.headers.is_empty()));
}

fn reading_starts_at_the_offset_asked_for(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "middle", 3);
    let written: Vec<_> = (0..3).map(|p| values(&format!("partition {p}"), 1000, 50)).collect();
    for (partition, values) in written.iter().enumerate() {
        produce_values(broker.as_ref(), &topic, partition as i32, values);
    }
    let from = [(0, 0), (1, 517), (2, 999)];
    let read = read_to_end(broker.as_ref(), &topic, &from).unwrap().read;
    for (partition, first) in from {
        let came: Vec<_> = read.iter().filter(|read| read.partition == partition).collect();
        let expected = &written[partition as usize][first as usize..];
        assert_eq!(came.len(), expected.len());
        for (at, (came, value)) in came.iter().zip(expected).enumerate() {
            assert_eq!(came.offset, first + at as i64);
            assert_eq!(came.value.as_ref(), Some(value));
        }
    }
    // At the end there is nothing, and that is no error.
    let mut taker = Taker::from(&[(0, 1000)]);
    let mut consumer = broker.consumer(&topic, &offsets(&[(0, 1000)]), &fetch()).unwrap();
    consumer.poll(POLL, &mut taker).unwrap();
    consumer.close();
    assert_eq!(taker.read, []);
}

fn beginning_and_end_are_known(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "marks", 3);
    produce_values(broker.as_ref(), &topic, 1, &values("v", 7, 20));
    let marks = require_all(broker.watermarks(&topic, &[0, 1, 2]).unwrap()).unwrap();
    let ends: Vec<_> = marks.values().map(|marks| marks.end.get()).collect();
    assert_eq!(ends, [0, 7, 0]);
    assert!(marks.values().all(|marks| marks.beginning == Offset::ZERO));
    assert_eq!(broker.watermarks(&topic, &[1]).unwrap().len(), 1);
    let asked = Instant::now();
    let some = broker.watermarks(&topic, &[1, 9]).unwrap();
    assert_eq!(some[&1], Ok(marks[&1]), "whatever is wrong with another partition");
    assert!(some[&9].is_err(), "partition 9 does not exist");
    let since_1970 = broker.offsets_at(&topic, &[1, 9], 0).unwrap();
    // A client without timestamps writes records that no time finds.
    assert!(matches!(since_1970[&1], Ok(at) if at == marks[&1].beginning || at == marks[&1].end));
    assert!(since_1970[&9].is_err(), "partition 9 does not exist");
    assert!(asked.elapsed() < limits::BROKER_CALL_LIMIT / 2, "and is not waited for");
}

fn trimmed_logs_begin_above_zero(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "trimmed", 1);
    let written = values("v", 200, 10_000);
    produce_values(broker.as_ref(), &topic, 0, &written);
    let beginning = subject.trim(&topic, 0, 150);
    let marks = broker.watermarks_of(&topic, 0).unwrap();
    assert_eq!(marks.beginning.get(), beginning);
    assert!((1..=150).contains(&beginning));
    let read = read_to_end(broker.as_ref(), &topic, &[(0, beginning)]).unwrap().read;
    let came: Vec<_> = read.iter().map(|read| read.offset).collect();
    assert_eq!(came, (beginning..marks.end.get()).collect::<Vec<_>>());
    for read in &read[..200 - beginning as usize] {
        assert_eq!(read.value.as_ref(), Some(&written[read.offset as usize]));
    }
    expect_out_of_range(subject, &topic, beginning - 1);
}

fn an_offset_outside_the_log_is_an_error(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "range", 1);
    produce_values(broker.as_ref(), &topic, 0, &values("v", 10, 20));
    expect_out_of_range(subject, &topic, 11);
    expect_out_of_range(subject, &topic, 1_000_000);
}

fn expect_out_of_range(subject: &dyn Subject, topic: &str, offset: i64) {
    let broker = subject.broker();
    let (read, error) = read_to_error(broker.as_ref(), topic, &[(0, offset)], &fetch());
    assert_eq!(read, []);
    let expected = Error::OffsetOutOfRange {
        topic: topic.to_owned(),
        partition: 0,
        offset: Offset::new(offset),
    };
    assert_eq!(error, expected);
}

/// Markers take offsets, and aborted records are hidden where the backend says so.
fn transactions_leave_gaps(subject: &dyn Subject) {
    let Some(kafka) = subject.kafka() else { return no_transactions(subject) };
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "transactions", 1);
    let parts: Vec<_> = ["first", "committed", "aborted", "last", "gone"]
        .iter()
        .map(|name| values(name, 10, 30))
        .collect();
    let bootstrap = kafka.bootstrap();
    crate::support::raw::produce(&bootstrap, "none", &topic, 0, &parts[0]);
    crate::support::raw::transaction(&bootstrap, &topic, 0, &parts[1], true);
    crate::support::raw::transaction(&bootstrap, &topic, 0, &parts[2], false);
    crate::support::raw::produce(&bootstrap, "none", &topic, 0, &parts[3]);
    // The log ends with what is never seen: the position must pass it all the same.
    crate::support::raw::transaction(&bootstrap, &topic, 0, &parts[4], false);
    eventually(LIMIT, "the last marker is in the log", || {
        broker.watermarks_of(&topic, 0).is_ok_and(|marks| marks.end == Offset::new(53))
    });
    let hides = broker.capabilities().read_committed;
    let firsts = [0, 10, 21, 32, 42];
    let mut expected = Vec::new();
    for (at, (first, part)) in firsts.iter().zip(&parts).enumerate() {
        if !hides || (at != 2 && at != 4) {
            expected.extend(part.iter().enumerate().map(|(i, v)| (first + i as i64, v.clone())));
        }
    }
    let taker = read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap();
    let came: Vec<_> =
        taker.read.iter().map(|read| (read.offset, read.value.clone().unwrap())).collect();
    assert_eq!(came, expected);
    assert_eq!(taker.cursor(), [(0, 53)]);
    // Reading may begin at a marker.
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 20)]).unwrap().read;
    assert_eq!(read.first().map(|read| read.offset), Some(if hides { 32 } else { 21 }));
}

/// Without transactions, nothing that was written is ever hidden.
fn no_transactions(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "dense", 1);
    produce_values(broker.as_ref(), &topic, 0, &values("v", 50, 20));
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap().read;
    let came: Vec<_> = read.iter().map(|read| read.offset).collect();
    assert_eq!(came, (0..50).collect::<Vec<_>>());
}

fn commits_are_kept_per_group(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "commits", 3);
    produce_values(broker.as_ref(), &topic, 0, &values("v", 20, 20));
    let (one, other) = (unique("one"), unique("other"));
    let committed = |group: &str| -> Vec<(i32, i64)> {
        // As another process would ask, later.
        let offsets = subject.broker().committed(group, &topic, &[0, 1, 2]).unwrap();
        assert_eq!(offsets.len(), 3, "an entry for each partition");
        let offsets = require_all(offsets).unwrap().into_iter();
        offsets.filter_map(|(partition, offset)| Some((partition, offset?.get()))).collect()
    };
    assert_eq!(committed(&one), []);
    broker.commit(&one, &topic, &offsets(&[(0, 5), (2, 0)])).unwrap();
    assert_eq!(committed(&one), [(0, 5), (2, 0)]);
    assert_eq!(committed(&other), []);
    broker.commit(&other, &topic, &offsets(&[(1, 0)])).unwrap();
    broker.commit(&one, &topic, &offsets(&[(0, 20), (1, 0)])).unwrap();
    assert_eq!(committed(&one), [(0, 20), (1, 0), (2, 0)]);
    // Setting back is the user's right.
    broker.commit(&one, &topic, &offsets(&[(0, 7)])).unwrap();
    assert_eq!(committed(&one), [(0, 7), (1, 0), (2, 0)]);
    assert_eq!(committed(&other), [(1, 0)]);
    let one_partition = broker.committed(&one, &topic, &[0]).unwrap();
    assert_eq!(one_partition, [(0, Ok(Some(Offset::new(7))))].into());
    let marked = Committed {
        offset: Offset::new(8),
        epoch: Some(Epoch::FIRST),
        metadata: "mb1 me 3".into(),
    };
    let Committed { offset, epoch, metadata } = marked.clone();
    broker.commit_all(&one, &topic, &[Commit { partition: 0, offset, epoch, metadata }]).unwrap();
    let found = subject.broker().group_offsets(&one, &topic, &[0, 2]).unwrap();
    let plain = Committed::plain(Offset::ZERO);
    assert_eq!(found, [(0, Ok(Some(marked))), (2, Ok(Some(plain)))].into());
}

fn leader_epochs_are_reported_and_found(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "epochs", 2);
    produce_values(broker.as_ref(), &topic, 1, &values("v", 20, 20));
    let first = Epoch::FIRST;
    assert_eq!(broker.topic(&topic).unwrap().leader_epochs, [(0, first), (1, first)].into());
    let reported = read_to_end(broker.as_ref(), &topic, &[(1, 0)]).unwrap().epochs;
    match broker.capabilities().leader_epochs {
        true => {
            assert!(
                !reported.is_empty() && reported.iter().all(|reported| *reported == (1, first)),
                "{reported:?}"
            )
        }
        false => assert_eq!(reported, []),
    }
    let ends = broker.epoch_ends(&topic, &[(0, first), (1, first)]).unwrap();
    let end = |end| Ok(Some(EpochEnd { epoch: first, end: Offset::new(end) }));
    assert_eq!(ends, [(0, end(0)), (1, end(20))].into());
    let places = [(0, Offset::ZERO), (1, Offset::new(19))];
    let found = broker.epochs_at(&topic, &places);
    assert_eq!(found, [(0, Ok(None)), (1, Ok(Some(first)))].into());
}

fn a_message_of_900_kb_comes_back(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "900kb", 1);
    let mut written = values("small", 3, 100);
    written.extend(values("large", 1, 900_000));
    written.extend(values("small again", 3, 100));
    produce_values(broker.as_ref(), &topic, 0, &written);
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap().read;
    assert!(values_of(&read) == written, "{} records, not as written", read.len());
}

/// Five megabytes between small ones, in a topic that takes them.
fn write_large(subject: &dyn Subject) -> (String, Vec<Vec<u8>>) {
    let topic = subject.topic_for_messages_of(6_000_000);
    let mut written = values("small", 3, 100);
    written.extend(values("large", 1, 5_000_000));
    written.extend(values("small again", 3, 100));
    match subject.kafka() {
        Some(kafka) => write_with(kafka, "none", &topic, &written),
        None => produce_values(subject.broker().as_ref(), &topic, 0, &written),
    }
    (topic, written)
}

fn a_message_above_the_fetch_size_comes_back(subject: &dyn Subject) {
    let (topic, written) = write_large(subject);
    let read = read_to_end(subject.broker().as_ref(), &topic, &[(0, 0)]).unwrap().read;
    assert!(values_of(&read) == written, "{} records, not as written", read.len());
}

fn a_record_too_large_to_hold_is_an_error(subject: &dyn Subject) {
    let (topic, written) = write_large(subject);
    let settings = FetchSettings { max_record_bytes: 1 << 20, ..fetch() };
    let (read, error) = read_to_error(subject.broker().as_ref(), &topic, &[(0, 0)], &settings);
    assert!(read.len() <= 3, "{} records, the large one or what is behind it too", read.len());
    assert_eq!(values_of(&read), written[..read.len()]);
    assert!(
        matches!(&error, Error::Unreadable { partition: 0, offset, .. } if offset.get() == 3),
        "{error:?}"
    );
}

fn an_unknown_topic_is_an_error_that_names_it(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = unique("unknown");
    let expected = Error::UnknownTopic { topic: topic.clone() };
    assert_eq!(broker.topic(&topic), Err(expected.clone()));
    assert!(broker.watermarks(&topic, &[0]).is_err());
    // A consumer may say so, or find nothing for as long as the topic may still come.
    let mut taker = Taker::from(&[(0, 0)]);
    if let Ok(mut consumer) = broker.consumer(&topic, &offsets(&[(0, 0)]), &fetch()) {
        if let Err(error) = consumer.poll(POLL, &mut taker) {
            assert_eq!(error, expected);
        }
        consumer.close();
    }
    assert_eq!(taker.read, []);
    assert_eq!(broker.topic(&topic), Err(expected), "nothing of this has created it");
}

fn creating_a_topic_twice_changes_nothing(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "twice", 2);
    let info = broker.topic(&topic).unwrap();
    assert_eq!((info.name.as_str(), info.partitions.as_slice()), (topic.as_str(), &[0, 1][..]));
    assert!(info.id.is_some() && info.cluster_id.is_some(), "{info:?}");
    broker.create_topic(&topic, 5).unwrap();
    assert_eq!(subject.broker().topic(&topic).unwrap(), info);
    let other = new_topic(broker.as_ref(), "other", 1);
    let other = broker.topic(&other).unwrap();
    assert_ne!(other.id, info.id);
    assert_eq!(other.cluster_id, info.cluster_id);
}

fn partitions_may_be_added(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "grows", 1);
    produce_values(broker.as_ref(), &topic, 0, &values("old", 3, 20));
    assert_eq!(read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap().read.len(), 3);
    subject.add_partitions(&topic, 3);
    eventually(LIMIT, "the same handle shows the new partitions", || {
        broker.topic(&topic).unwrap().partitions == [0, 1, 2]
    });
    let written = values("new", 5, 20);
    produce_values(broker.as_ref(), &topic, 2, &written);
    let read = read_to_end(broker.as_ref(), &topic, &[(0, 3), (1, 0), (2, 0)]).unwrap().read;
    assert!(read.iter().all(|read| read.partition == 2));
    assert_eq!(values_of(&read), written);
}

fn stopping_in_mid_batch_loses_nothing(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "stops", 2);
    let written: Vec<_> = (0..2).map(|p| values(&format!("partition {p}"), 500, 100)).collect();
    for (partition, values) in written.iter().enumerate() {
        produce_values(broker.as_ref(), &topic, partition as i32, values);
    }
    let mut cursor = vec![(0, 0), (1, 0)];
    let mut came = [Vec::new(), Vec::new()];
    for room in [1, 2, 3, 97, 200, 1, 300, 1000] {
        let mut taker = Taker { room: Some(room), ..Taker::from(&cursor) };
        let mut consumer = broker.consumer(&topic, &offsets(&cursor), &fetch()).unwrap();
        let left = 1000 - came.iter().map(Vec::len).sum::<usize>();
        let deadline = Instant::now() + LIMIT;
        while taker.read.len() < room.min(left) {
            assert!(
                Instant::now() < deadline,
                "{} of {} records",
                taker.read.len(),
                room.min(left)
            );
            consumer.poll(POLL, &mut taker).unwrap();
        }
        consumer.close();
        cursor = taker.cursor();
        for read in taker.read {
            let of_partition: &mut Vec<Vec<u8>> = &mut came[read.partition as usize];
            assert_eq!(read.offset, of_partition.len() as i64);
            of_partition.push(read.value.unwrap());
        }
    }
    assert!(came.as_slice() == written, "{} and {} of 500", came[0].len(), came[1].len());
}

fn an_empty_topic_is_polled_for_the_wait(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "empty", 2);
    let from = [(0, 0), (1, 0)];
    let mut consumer = broker.consumer(&topic, &offsets(&from), &fetch()).unwrap();
    let mut taker = Taker::from(&from);
    for wait in [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(300)] {
        let began = Instant::now();
        consumer.poll(wait, &mut taker).unwrap();
        // It may come early. The margin is for a machine with much to do, not for the client.
        let took = began.elapsed();
        assert!(took < wait + Duration::from_secs(2), "{took:?} for a wait of {wait:?}");
    }
    consumer.close();
    assert_eq!(taker.read, []);
}

fn waiting_ends_with_a_record(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "waits", 1);
    let mut consumer = broker.consumer(&topic, &offsets(&[(0, 0)]), &fetch()).unwrap();
    let mut taker = Taker::from(&[(0, 0)]);
    consumer.poll(POLL, &mut taker).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| produce_values(broker.as_ref(), &topic, 0, &values("v", 1, 20)));
        while taker.read.is_empty() && began.elapsed() < LIMIT {
            consumer.poll(LIMIT, &mut taker).unwrap();
        }
    });
    consumer.close();
    assert_eq!(taker.read.len(), 1);
    assert!(began.elapsed() < LIMIT, "the poll waited for all of its wait");
}

/// Writes batches in a codec by librdkafka, or where it is not built in, by Kafka's own tool.
fn write_with(kafka: &Kafka, codec: &str, topic: &str, values: &[Vec<u8>]) {
    crate::support::raw::produce(&kafka.bootstrap(), codec, topic, 0, values);
}

fn every_codec_is_read_or_refused(subject: &dyn Subject) {
    let broker = subject.broker();
    let declared = broker.capabilities().codecs;
    let Some(kafka) = subject.kafka() else {
        assert_eq!(declared, ["none"], "nothing compresses here");
        return;
    };
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = new_topic(broker.as_ref(), codec, 1);
        let written = values(codec, 200, 500);
        write_with(kafka, codec, &topic, &written);
        if declared.contains(&codec) {
            let read = read_to_end(broker.as_ref(), &topic, &[(0, 0)]).unwrap().read;
            assert!(values_of(&read) == written, "{codec}: {} records", read.len());
        } else {
            let (read, error) = read_to_error(broker.as_ref(), &topic, &[(0, 0)], &fetch());
            assert_eq!(read, [], "{codec}");
            let text = error.to_string();
            assert!(text.contains(codec) || text.contains("compress"), "{codec}: {text}");
        }
    }
}

/// 100 plain, 100 gzip, 100 plain, 100 snappy: all 400 arrive in order, or there is an error, and
/// no record is ever passed over.
fn plain_and_compressed_batches_mix(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "mixed", 1);
    let mut written = Vec::new();
    for codec in ["none", "gzip", "none", "snappy"] {
        let part = values(&format!("{codec} at {}", written.len()), 100, 2000);
        match subject.kafka() {
            Some(kafka) => write_with(kafka, codec, &topic, &part),
            None => produce_values(broker.as_ref(), &topic, 0, &part),
        }
        written.extend(part);
    }
    for from in [0, 50, 99, 100, 150, 250, 399] {
        let taker = read_to_end(broker.as_ref(), &topic, &[(0, from)])
            .unwrap_or_else(|error| panic!("from {from}: {error}"));
        let came: Vec<_> = taker.read.iter().map(|read| read.offset).collect();
        assert_eq!(came, (from..400).collect::<Vec<_>>(), "from {from}");
        assert!(values_of(&taker.read) == written[from as usize..], "from {from}");
    }
}

fn what_can_never_be_sent_is_said(subject: &dyn Subject) {
    let broker = subject.broker();
    let topic = new_topic(broker.as_ref(), "never", 1);
    let too_large = vec![b'x'; 20 << 20];
    for message in [message(9, None, Some(b"nowhere")), message(0, None, Some(&too_large))] {
        let mut producer = broker.producer(&topic).unwrap();
        let refused = producer.send(message, LIMIT).is_err();
        assert_eq!(producer.flush(LIMIT), Ok(0));
        let delivery = producer.delivery();
        assert_eq!(delivery.acknowledged, 0);
        assert!(
            refused || (delivery.failed == 1 && delivery.last_error.is_some()),
            "neither refused nor failed: {delivery:?}"
        );
    }
    let end = broker.watermarks_of(&topic, 0).unwrap().end;
    assert_eq!(end, Offset::ZERO);
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

#[test]
fn a_backend_reads_again_what_it_read_itself() {
    for backend in [Backend::Embedded, Backend::Kafka, Backend::Rdkafka] {
        assert!(backend.reads_all_of(backend));
    }
    assert!(!Backend::Kafka.reads_all_of(Backend::Rdkafka));
}
