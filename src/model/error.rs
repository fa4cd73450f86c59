//! What can go wrong: the meaning, the context, and the decision that follows.
//!
//! The `class()` of an error decides what the pipeline does, its `exit_code()` how the process ends. Errors
//! of a user's step are `step::StepError`.

use std::fmt;

use crate::model::offset::{LastRead, Offset, OffsetRange, Partition};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What mb does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself: mb drops the client, waits, and tries again.
    Retry,
    /// To go on would skip records or break a promise: mb halts on purpose.
    Halt,
    /// Another try cannot help.
    Fatal,
}

/// Why mb, or one of its commands, could not do what it was asked to do.
///
/// ```
/// let error = mb::Error::Config("max_batch: got 0, expected 1 or more".to_owned());
/// assert_eq!(error.exit_code(), 78);
/// assert_eq!(error.to_string(), "max_batch: got 0, expected 1 or more");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The command line is wrong.
    Usage(String),
    /// The settings, or a folder, file or command that they name, cannot be used.
    Config(String),
    /// The broker did not do what it was asked: it is unreachable or too slow, or it answered with an error
    /// code or something malformed. `doing` follows "cannot", as in "read the offsets of topic t".
    Broker { doing: String, cause: String },
    /// The topic does not exist.
    UnknownTopic { topic: String },
    /// No broker leads the partition at the moment: every broker that holds an in-sync replica is down,
    /// or an election is under way.
    NoLeader { topic: String, partition: Partition },
    /// The requested offset is not in the log (no longer, or not yet).
    OffsetOutOfRange { topic: String, partition: Partition, offset: Offset },
    /// Another log has the name of the one that was read: the topic was deleted and created again, or its
    /// end was cut off. The same offsets stand for other records now.
    LogReplaced(String),
    /// A record cannot be read or held: it is larger than a limit, the client lacks the codec, or its
    /// checksum is wrong.
    Unreadable { topic: String, partition: Partition, offset: Offset, cause: String },
    /// The client in use cannot do this, and refuses it rather than do half of it.
    Unsupported { what: String, hint: String },
    /// The history, the dead letters or the embedded topic could not be read or written.
    Storage { doing: String, cause: String },
    /// mb halts on purpose: a run failed with `--on-failure halt`, offsets are missing, or a step asked for
    /// it.
    Halt(String),
    /// It may work later: the step failed for every run for longer than `--hold-limit` (`--until-caught-up`), or the mb
    /// that `mb status` asked is not ready.
    NotNow(String),
    /// A thread of mb's own panicked.
    Panic { thread: String, message: String },
    /// mb was forced to end before its running runs were done; the next start makes them again.
    Forced(String),
    /// Anything else that ends the command.
    Other(String),
}

impl Error {
    pub fn broker(doing: impl Into<String>, cause: impl fmt::Display) -> Error {
        Error::Broker { doing: doing.into(), cause: cause.to_string() }
    }

    pub fn storage(doing: impl Into<String>, cause: impl fmt::Display) -> Error {
        Error::Storage { doing: doing.into(), cause: cause.to_string() }
    }

    /// The partition and offset of an unreadable record.
    pub fn unreadable(&self) -> Option<(Partition, Offset)> {
        match self {
            Error::Unreadable { partition, offset, .. } => Some((*partition, *offset)),
            _ => None,
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::Broker { .. }
            | Error::UnknownTopic { .. }
            | Error::NoLeader { .. }
            | Error::Storage { .. } => Class::Retry,
            Error::Halt(_)
            | Error::NotNow(_)
            | Error::OffsetOutOfRange { .. }
            | Error::LogReplaced(_) => Class::Halt,
            // An unreadable record blocks its partition. mb shows it and tries again: after a restart
            // with a larger limit or another client, or once the broker is repaired, it is readable.
            Error::Unreadable { .. } => Class::Retry,
            Error::Usage(_)
            | Error::Config(_)
            | Error::Unsupported { .. }
            | Error::Panic { .. }
            | Error::Forced(_)
            | Error::Other(_) => Class::Fatal,
        }
    }

    /// The process' exit code: 2 forced, 64 usage, 65 a deliberate halt, 75 a hold that took too
    /// long or an mb that is not ready, 78 configuration, 1 anything else. 64, 65, 75 and 78 are `EX_USAGE`, `EX_DATAERR`, `EX_TEMPFAIL` and
    /// `EX_CONFIG` of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 64,
            Error::Halt(_) | Error::OffsetOutOfRange { .. } | Error::LogReplaced(_) => 65,
            Error::NotNow(_) => 75,
            Error::Config(_) | Error::Unsupported { .. } => 78,
            Error::Forced(_) => 2,
            Error::Broker { .. }
            | Error::UnknownTopic { .. }
            | Error::NoLeader { .. }
            | Error::Unreadable { .. }
            | Error::Storage { .. }
            | Error::Panic { .. }
            | Error::Other(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text)
            | Error::Config(text)
            | Error::Halt(text)
            | Error::NotNow(text)
            | Error::Forced(text)
            | Error::Other(text) => f.write_str(text),
            Error::LogReplaced(text) => write!(
                f,
                "{text}; to go on with what is there now, start mb with --on-missing-offsets skip, or say \
                 where to begin with mb offsets --execute"
            ),
            Error::Broker { doing, cause } => write!(f, "cannot {doing}: {cause}"),
            Error::UnknownTopic { topic } => write!(
                f,
                "topic {topic} does not exist; create it, name another with --topic, or let mb \
                 create it by producing (--rate, or mb produce)"
            ),
            Error::NoLeader { topic, partition } => write!(
                f,
                "partition {topic}/{partition} has no leader: no broker with an in-sync replica of it \
                 is up"
            ),
            Error::OffsetOutOfRange { topic, partition, offset } => {
                write!(f, "offset {offset} of {topic}/{partition} is not in the log")
            }
            Error::Unreadable { topic, partition, offset, cause } => {
                write!(f, "cannot read {topic}/{partition} at offset {offset}: {cause}")
            }
            Error::Unsupported { what, hint } => write!(f, "{what}; {hint}"),
            Error::Storage { doing, cause } => write!(f, "cannot {doing}: {cause}"),
            Error::Panic { thread, message } => write!(f, "thread {thread} panicked: {message}"),
        }
    }
}

impl std::error::Error for Error {}

/// The message for a position that lies beyond the end of its log.
pub fn beyond_text(topic: &str, partition: Partition, position: Offset, end: Offset) -> String {
    format!(
        "records {topic}/{partition} {} are not in the log, which ends at {end}: the topic was made \
         again, or its end was cut off",
        OffsetRange::below(position, end)
    )
}

/// The message for a log that was cut off at `end`, below what was read, and may have grown since.
pub fn cut_text(topic: &str, partition: Partition, read: LastRead, end: Offset) -> String {
    format!(
        "records {topic}/{partition} {} were read and are not in the log any more: its end was cut off at {end} (by \
         an election of a replica that was behind, or a restored copy), and what stands there now are other records, \
         of later leaders than epoch {}",
        OffsetRange::below(read.end, end),
        read.epoch
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_meaning() {
        assert_eq!(Error::Usage("x".into()).exit_code(), 64);
        assert_eq!(Error::Config("x".into()).exit_code(), 78);
        assert_eq!(Error::Halt("x".into()).exit_code(), 65);
        assert_eq!(Error::broker("reach it", "refused").exit_code(), 1);
    }

    #[test]
    fn a_broker_that_fails_is_tried_again_and_missing_offsets_halt() {
        assert_eq!(Error::broker("reach it", "refused").class(), Class::Retry);
        let missing =
            Error::OffsetOutOfRange { topic: "t".into(), partition: 0, offset: Offset::new(5) };
        assert_eq!(missing.class(), Class::Halt);
        assert_eq!(missing.to_string(), "offset 5 of t/0 is not in the log");
    }
}
