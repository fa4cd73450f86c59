//! Reading the crate's answers to a fetch.

use ::kafka::client::KafkaClient;
use ::kafka::client::fetch::{Data, Response};
use ::kafka::error::KafkaCode;

use crate::model::offset::Partition;

/// Codecs that the crate reads, by Kafka's names.
pub(super) const CODECS: &[&str] = &["none", "gzip", "snappy"];

/// What one answer has for one partition.
pub(super) enum Part<'a> {
    Data(&'a Data<'a>),
    Error(KafkaCode),
    /// The partition has no leader that the client knows.
    Missing,
}

/// How many brokers lead partitions of the topic, at least 1.
pub(super) fn leaders(client: &KafkaClient, topic: &str) -> u32 {
    let topics = client.topics();
    let mut hosts: Vec<&str> = topics
        .partitions(topic)
        .into_iter()
        .flatten()
        .filter_map(|partition| partition.leader().map(|leader| leader.host()))
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    u32::try_from(hosts.len()).unwrap_or(1).max(1)
}

/// The part of an answer for one partition.
pub(super) fn part(answer: &[Response], wanted: Partition) -> Part<'_> {
    let partitions = answer.iter().flat_map(Response::topics).flat_map(|topic| topic.partitions());
    for partition in partitions {
        if partition.partition() == wanted {
            return match partition.data() {
                Ok(data) => Part::Data(data),
                Err(cause) => match *cause {
                    ::kafka::Error::Kafka(code) => Part::Error(code),
                    _ => Part::Error(KafkaCode::Unknown),
                },
            };
        }
    }
    Part::Missing
}

/// Whether an answer came that could not be decoded.
pub(super) fn is_decoding(cause: &::kafka::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other};
    match cause {
        ::kafka::Error::UnsupportedCompression
        | ::kafka::Error::UnsupportedProtocol
        | ::kafka::Error::UnexpectedEOF
        | ::kafka::Error::CodecError
        | ::kafka::Error::StringDecodeError
        | ::kafka::Error::InvalidSnappy(_)
        | ::kafka::Error::Kafka(KafkaCode::CorruptMessage) => true,
        ::kafka::Error::Io(cause) => matches!(cause.kind(), InvalidData | InvalidInput | Other),
        _ => false,
    }
}
