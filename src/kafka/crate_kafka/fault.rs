//! Crate kafka's errors as texts for people, and the check that a broker is one that the crate can be used with.

use crate::kafka::wire::Probe;
use crate::model::error::{Error, Result};

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The crate's own error.
    Client(::kafka::Error),
    /// An error of mb's.
    Own(Error),
    /// The stop channel was closed.
    Stopped,
}

/// A fault as an error of mb's; `fail` makes one of the crate's error in words.
pub(super) fn explain(fault: Fault, fail: impl FnOnce(String) -> Error) -> Error {
    match fault {
        Fault::Own(error) => error,
        Fault::Client(cause) => fail(words(&cause)),
        Fault::Stopped => fail("stopped".to_owned()),
    }
}

/// The crate's error in words.
pub(super) fn words(cause: &::kafka::Error) -> String {
    use std::io::ErrorKind;
    match cause {
        ::kafka::Error::Io(cause) => match cause.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "the broker closed the connection".to_owned()
            }
            _ => cause.to_string(),
        },
        ::kafka::Error::Kafka(code) => format!("the broker says {code:?}"),
        ::kafka::Error::TopicPartitionError { partition_id, error_code, .. } => {
            format!("the broker says {error_code:?} about partition {partition_id}")
        }
        ::kafka::Error::NoHostReachable => "no server can be reached".to_owned(),
        other => other.to_string(),
    }
}

/// Whether the crate can speak to this broker at all.
///
/// # Errors
/// `Config`, with what to use instead.
pub(super) fn check_served(probe: &Probe) -> Result<()> {
    let unfit = |age: &str| {
        let hint = if cfg!(feature = "rdkafka") {
            "use --client rdkafka"
        } else {
            "use an mb that was built with its rdkafka feature"
        };
        Err(Error::Config(format!(
            "--client kafka: the broker at {} is {age}, expected Kafka 0.11 to 3.9 (crate kafka \
             speaks the oldest version of the protocol only): {hint}",
            probe.address
        )))
    };
    if !probe.serves_version_0() {
        return unfit("Kafka 4.0 or later");
    }
    // Without the headers of record batches, gaps in the crate's answers cannot be distinguished from records
    // that it has lost.
    if !probe.shows_record_batches() {
        return unfit("older than Kafka 0.11");
    }
    Ok(())
}
