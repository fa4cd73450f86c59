//! A broker for tests that answers some calls by itself and passes all others on.

use mb::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, EpochEnd,
    FetchSettings, PerPartition, Producer, TopicInfo, Watermarks,
};
use mb::model::offset::{Epoch, Offset, Partition};

/// What a test answers; by default that of `broker`.
pub trait Answers: Send + Sync {
    /// Answers everything else.
    fn broker(&self) -> &dyn Broker;

    fn commit_all(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError> {
        self.broker().commit_all(group, topic, commits)
    }

    fn producer(&self, topic: &str) -> mb::Result<Box<dyn Producer>> {
        self.broker().producer(topic)
    }
}

/// The broker that gives these answers.
pub struct Partly<A>(pub A);

impl<A: Answers> Broker for Partly<A> {
    fn backend(&self) -> Backend {
        self.0.broker().backend()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.broker().capabilities()
    }

    fn describe(&self) -> String {
        self.0.broker().describe()
    }

    fn topic(&self, topic: &str) -> mb::Result<TopicInfo> {
        self.0.broker().topic(topic)
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> mb::Result<()> {
        self.0.broker().create_topic(topic, partitions)
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> mb::Result<PerPartition<Watermarks>> {
        self.0.broker().watermarks(topic, partitions)
    }

    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> mb::Result<PerPartition<Offset>> {
        self.0.broker().offsets_at(topic, partitions, timestamp_ms)
    }

    fn epoch_ends(
        &self,
        topic: &str,
        epochs: &[(Partition, Epoch)],
    ) -> mb::Result<PerPartition<Option<EpochEnd>>> {
        self.0.broker().epoch_ends(topic, epochs)
    }

    fn epochs_at(
        &self,
        topic: &str,
        places: &[(Partition, Offset)],
    ) -> PerPartition<Option<Epoch>> {
        self.0.broker().epochs_at(topic, places)
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> mb::Result<PerPartition<Option<Committed>>> {
        self.0.broker().group_offsets(group, topic, partitions)
    }

    fn commit_all(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError> {
        self.0.commit_all(group, topic, commits)
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> mb::Result<Box<dyn Consumer>> {
        self.0.broker().consumer(topic, from, settings)
    }

    fn producer(&self, topic: &str) -> mb::Result<Box<dyn Producer>> {
        self.0.producer(topic)
    }
}
