//! What the two Kafka backends share: a client library reads and writes records, mb's own `wire` does the rest.
//!
//! Topics, offsets and commits go through `wire` with both, because neither library tells topic ids, and because
//! their commits are unsafe here: crate kafka's can retry for ever; librdkafka's plain commit has no time limit
//! and may be sent again, and its admin interface aborts the process if the coordinator is lost (2.12.1:
//! assertion `eonce->refcnt > 0` in rdkafka_queue.h).

use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, Capabilities};
use super::seam::{Broker, CommitError, Consumer, FetchSettings, Producer};
use super::topic::{
    Commit, Committed, EpochEnd, OpenTransaction, PerPartition, TopicInfo, Watermarks,
};
use super::wire::Wire;
use crate::model::error::Result;
use crate::model::offset::{Epoch, Offset, Partition};

/// A client library of Kafka's, as far as it is used. Whoever implements this is a `Broker`.
pub trait RecordClient: Send + Sync {
    const BACKEND: Backend;
    const CAPABILITIES: Capabilities;

    /// See `Broker::describe`.
    fn description(&self) -> String;

    fn wire(&self) -> &Arc<Wire>;

    /// See `Broker::consumer`; the isolation level was checked.
    fn read(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>>;

    /// See `Broker::producer`.
    fn write(&self, topic: &str) -> Result<Box<dyn Producer>>;
}

impl<C: RecordClient> Broker for C {
    fn backend(&self) -> Backend {
        C::BACKEND
    }

    fn capabilities(&self) -> Capabilities {
        C::CAPABILITIES
    }

    fn describe(&self) -> String {
        self.description()
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        self.wire().topic(topic)
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.wire().create_topic(topic, partitions)
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        self.wire().watermarks(topic, partitions)
    }

    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        self.wire().offsets_at(topic, partitions, timestamp_ms)
    }

    fn epoch_ends(
        &self,
        topic: &str,
        epochs: &[(Partition, Epoch)],
    ) -> Result<PerPartition<Option<EpochEnd>>> {
        self.wire().epoch_ends(topic, epochs)
    }

    fn epochs_at(
        &self,
        topic: &str,
        places: &[(Partition, Offset)],
    ) -> PerPartition<Option<Epoch>> {
        self.wire().epochs_at(topic, places)
    }

    fn open_transactions(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<OpenTransaction>>> {
        self.wire().open_transactions(topic, partitions)
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        self.wire().committed(group, topic, partitions)
    }

    fn offsets_retention(&self, group: &str) -> Result<Option<Duration>> {
        self.wire().offsets_retention(group)
    }

    fn commit_all(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError> {
        self.wire().commit(group, topic, commits)
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        C::CAPABILITIES.isolation(settings.isolation)?;
        self.read(topic, from, settings)
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        self.write(topic)
    }
}
