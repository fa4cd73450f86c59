//! `mb lag`: how far a group is behind, partition by partition, as Kafka's own consumer-groups tool
//! shows it.

use serde::Serialize;

use log::info;

use crate::cli::args::LagArgs;
use crate::cli::{connect, output};
use crate::config::Connection;
use crate::kafka::Broker;
use crate::model::error::Result;
use crate::model::offset::Partition;

/// The columns of `kafka-consumer-groups --describe`, without those of the group's members.
const HEADING: [&str; 6] =
    ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"];

/// One partition's line. A group that has committed nothing there has no offset and no lag; Kafka's
/// tool shows such a partition with dashes while a member reads it, and else not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub group: String,
    pub topic: String,
    pub partition: Partition,
    pub current_offset: Option<i64>,
    pub log_end_offset: i64,
    /// Negative where the committed offset is beyond the end: the topic is another than it was.
    pub lag: Option<i64>,
}

/// Runs the command.
///
/// # Errors
/// `UnknownTopic`, or whatever the broker cannot answer.
pub fn run(args: &LagArgs) -> Result<()> {
    let connected = connect::broker(&args.connection, args.given, connect::Embedded::IfPresent)?;
    info!(
        "lag of group {} in topic {}: {}",
        connected.connection.group,
        connected.connection.topic,
        connected.broker.describe()
    );
    let rows = rows(connected.broker.as_ref(), &connected.connection)?;
    if args.json {
        return output::print_json(&rows);
    }
    let dash = || "-".to_owned();
    let cells: Vec<_> = rows
        .into_iter()
        .map(|row| {
            [
                row.group,
                row.topic,
                row.partition.to_string(),
                row.current_offset.map_or_else(dash, |offset| offset.to_string()),
                row.log_end_offset.to_string(),
                row.lag.map_or_else(dash, |lag| lag.to_string()),
            ]
        })
        .collect();
    output::print_table(HEADING, &cells)
}

/// A row per partition of the topic, in their order.
///
/// # Errors
/// `UnknownTopic`, or whatever the broker cannot answer.
pub fn rows(broker: &dyn Broker, connection: &Connection) -> Result<Vec<Row>> {
    let (topic, group) = (&connection.topic, &connection.group);
    let partitions = broker.topic(topic)?.partitions;
    // The offsets first: the end moves on meanwhile, so that a lag is never too small.
    let committed = broker.committed(group, topic, &partitions)?;
    let watermarks = broker.watermarks(topic, &partitions)?;
    let row = |(partition, marks): (Partition, crate::kafka::Watermarks)| {
        let current_offset = committed.get(&partition).map(|offset| offset.get());
        let log_end_offset = marks.end.get();
        Row {
            group: group.clone(),
            topic: topic.clone(),
            partition,
            current_offset,
            log_end_offset,
            lag: current_offset.map(|offset| log_end_offset - offset),
        }
    };
    Ok(watermarks.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kafka::{
        Backend, Capabilities, Consumer, FetchSettings, Producer, TopicInfo, Watermarks,
    };
    use crate::model::error::Error;
    use crate::model::offset::Offset;

    /// A topic `t` with three partitions, of which a group has committed in two.
    struct Fake;

    impl Broker for Fake {
        fn backend(&self) -> Backend {
            Backend::Embedded
        }

        fn capabilities(&self) -> Capabilities {
            unreachable!()
        }

        fn describe(&self) -> String {
            "a fake".into()
        }

        fn topic(&self, topic: &str) -> Result<TopicInfo> {
            if topic != "t" {
                return Err(Error::UnknownTopic { topic: topic.into() });
            }
            Ok(TopicInfo {
                name: topic.into(),
                id: None,
                cluster_id: None,
                partitions: vec![0, 1, 2],
            })
        }

        fn create_topic(&self, _: &str, _: u32) -> Result<()> {
            unreachable!("lag creates nothing")
        }

        fn watermarks(
            &self,
            _: &str,
            all: &[Partition],
        ) -> Result<BTreeMap<Partition, Watermarks>> {
            let marks = |end| Watermarks { beginning: Offset::ZERO, end: Offset::new(end) };
            Ok(all.iter().map(|partition| (*partition, marks(100))).collect())
        }

        fn offsets_at(
            &self,
            _: &str,
            _: &[Partition],
            _: i64,
        ) -> Result<BTreeMap<Partition, Offset>> {
            unreachable!("lag asks for no times")
        }

        fn committed(
            &self,
            _: &str,
            _: &str,
            _: &[Partition],
        ) -> Result<BTreeMap<Partition, Offset>> {
            Ok(BTreeMap::from([(0, Offset::new(20)), (2, Offset::new(107))]))
        }

        fn commit(&self, _: &str, _: &str, _: &[(Partition, Offset)]) -> Result<()> {
            unreachable!("lag commits nothing")
        }

        fn consumer(
            &self,
            _: &str,
            _: &[(Partition, Offset)],
            _: &FetchSettings,
        ) -> Result<Box<dyn Consumer>> {
            unreachable!("lag consumes nothing")
        }

        fn producer(&self, _: &str) -> Result<Box<dyn Producer>> {
            unreachable!("lag produces nothing")
        }
    }

    #[test]
    fn a_partition_without_an_offset_has_no_lag() {
        let connection =
            Connection { topic: "t".into(), group: "g".into(), ..Connection::default() };
        let rows = rows(&Fake, &connection).unwrap();
        let numbers: Vec<_> = rows
            .iter()
            .map(|row| (row.partition, row.current_offset, row.log_end_offset, row.lag))
            .collect();
        assert_eq!(
            numbers,
            [(0, Some(20), 100, Some(80)), (1, None, 100, None), (2, Some(107), 100, Some(-7))]
        );
        assert_eq!(
            serde_json::to_string(&rows[1]).unwrap(),
            r#"{"group":"g","topic":"t","partition":1,"current_offset":null,"log_end_offset":100,"lag":null}"#
        );
    }

    #[test]
    fn an_unknown_topic_is_an_error_that_names_it() {
        let error = rows(&Fake, &Connection::default()).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("First_Topic"), "{error}");
    }
}
