//! Names the implementations that speak to the log, and declares what a backend can do (`Capabilities`).

use std::fmt;

use crate::config::Isolation;
use crate::model::error::{Error, Result};

/// Which implementation speaks to the log. The history records it with each range: an unfinished run is
/// read again by the same backend or by one that reads everything the first one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// librdkafka, the C client.
    Rdkafka,
    /// Crate kafka, the pure-Rust client.
    Kafka,
    /// A topic in a SQLite file of the data directory.
    Embedded,
}

impl Backend {
    /// The name in `--client`, in the history and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Rdkafka => "rdkafka",
            Backend::Kafka => "kafka",
            Backend::Embedded => "embedded",
        }
    }

    pub fn from_name(name: &str) -> Option<Backend> {
        [Backend::Rdkafka, Backend::Kafka, Backend::Embedded]
            .into_iter()
            .find(|backend| backend.name() == name)
    }

    /// Whether this backend reads every record that `other` read, with the same content.
    pub fn reads_all_of(self, other: Backend) -> bool {
        self == other || (self == Backend::Rdkafka && other == Backend::Kafka)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a backend can do. The conformance suite (`tests/brokers/conformance/`) checks each capability that a
/// backend declares, and that it refuses the others by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// A null value is distinguished from an empty one when reading and when producing.
    pub null_values: bool,
    /// Records carry their timestamp.
    pub timestamps: bool,
    /// Records carry their headers, and messages with headers can be produced.
    pub headers: bool,
    /// Records of aborted transactions can be left out.
    pub read_committed: bool,
    /// Compression codecs that it reads, by Kafka's names.
    pub codecs: &'static [&'static str],
    /// Membership in a consumer group.
    pub membership: bool,
    /// Records come with the leader epoch of their batch (`Sink::epoch`).
    pub leader_epochs: bool,
}

impl Capabilities {
    /// The isolation level to read with: the requested one, or read_committed if the backend has it.
    ///
    /// # Errors
    /// `Unsupported` if read_committed is requested of a backend that does not have it.
    pub fn isolation(&self, requested: Option<Isolation>) -> Result<Isolation> {
        match (requested, self.read_committed) {
            (Some(Isolation::ReadCommitted), false) => Err(Error::Unsupported {
                what: "--isolation read_committed: this client cannot distinguish the records of \
                       aborted transactions, and reads them too"
                    .to_owned(),
                hint: "use --client rdkafka, or --isolation read_uncommitted".to_owned(),
            }),
            (Some(requested), _) => Ok(requested),
            (None, true) => Ok(Isolation::ReadCommitted),
            (None, false) => Ok(Isolation::ReadUncommitted),
        }
    }
}
