//! A broker for tests that answers some calls by itself and passes all others on.

use mb::kafka::{
    Backend, Broker, Capabilities, CommitError, Consumer, FetchSettings, PerPartition, Producer,
    TopicInfo, Watermarks,
};
use mb::model::offset::{Offset, Partition};

/// What a test answers; by default that of `broker`.
pub trait Answers: Send + Sync {
    /// Answers everything else.
    fn broker(&self) -> &dyn Broker;

    fn commit(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), CommitError> {
        self.broker().commit(group, topic, offsets)
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

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> mb::Result<PerPartition<Option<Offset>>> {
        self.0.broker().committed(group, topic, partitions)
    }

    fn commit(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), CommitError> {
        self.0.commit(group, topic, offsets)
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
