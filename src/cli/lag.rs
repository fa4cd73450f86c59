//! `mb lag`: shows how far the group is behind in each partition, with the columns of Kafka's consumer-groups tool.

use log::info;
use serde::Serialize;

use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{connect, output};
use crate::config::{Client, Connection};
use crate::kafka::{Broker, Watermarks, require_all};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

flags! {
    #[argh(
        description = "Shows how far the group is behind in each partition, with the columns of Kafka's consumer-groups \
            tool. A - means that the group has committed no offset in that partition.",
        example = "mb lag --topic orders --group mb\nmb lag --json"
    )]
    struct LagFlags {
        "Output": {
            /// print one JSON array
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct LagArgs {
    pub common: Common,
    pub json: bool,
}

/// The columns of `kafka-consumer-groups --describe`, without those of the group's members.
const HEADING: [&str; 6] =
    ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"];

/// One partition's line. If the group has committed nothing there, the partition has no offset and no
/// lag; Kafka's tool shows such a partition with dashes while a member reads it, and otherwise not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub group: String,
    pub topic: String,
    pub partition: Partition,
    pub current_offset: Option<i64>,
    /// `None` for a partition without a leader.
    pub log_end_offset: Option<i64>,
    /// Negative if the committed offset is beyond the log's end: the topic was deleted and created anew.
    pub lag: Option<i64>,
}

impl Command for LagFlags {
    const NAME: &'static str = "lag";
    const SUMMARY: &'static str = "show how far the group is behind, per partition";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = LagArgs;

    fn check(self) -> Result<LagArgs> {
        Ok(LagArgs { common: self.common()?, json: self.json })
    }

    /// If the broker does not answer for some partitions, their error is returned after all rows are printed.
    fn run(args: LagArgs, _: &Terminal) -> Result<()> {
        let connected = connect::broker(&args.common, connect::Embedded::IfPresent)?;
        info!(
            "lag of group {} in topic {}: {}",
            connected.connection.group,
            connected.connection.topic,
            connected.broker.describe()
        );
        let (rows, unanswered) = rows(connected.broker.as_ref(), &connected.connection)?;
        if args.json {
            output::print_json(&rows)?;
            return unanswered.map_or(Ok(()), Err);
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
                    row.log_end_offset.map_or_else(dash, |offset| offset.to_string()),
                    row.lag.map_or_else(dash, |lag| lag.to_string()),
                ]
            })
            .collect();
        output::print_table(HEADING, &cells)?;
        unanswered.map_or(Ok(()), Err)
    }
}

/// One row per partition of the topic, in ascending order, and the first error of a partition that the
/// broker did not answer for.
///
/// # Errors
/// `UnknownTopic`, or whatever the broker cannot answer.
pub fn rows(broker: &dyn Broker, connection: &Connection) -> Result<(Vec<Row>, Option<Error>)> {
    let (topic, group) = (&connection.topic, &connection.group);
    let partitions = broker.topic(topic)?.partitions;
    // The committed offsets first. Read after the log's ends they could be beyond them, and the lag negative.
    let committed = require_all(broker.committed(group, topic, &partitions)?)?;
    let watermarks = broker.watermarks(topic, &partitions)?;
    let mut unanswered = None;
    let row = |(partition, marks): (Partition, Result<Watermarks>)| {
        let current_offset = committed[&partition].map(Offset::get);
        let log_end_offset = match marks {
            Ok(marks) => Some(marks.end.get()),
            Err(error) => {
                unanswered.get_or_insert(error);
                None
            }
        };
        Row {
            group: group.clone(),
            topic: topic.clone(),
            partition,
            current_offset,
            log_end_offset,
            lag: log_end_offset.zip(current_offset).map(|(end, offset)| end - offset),
        }
    };
    let rows = watermarks.into_iter().map(row).collect();
    Ok((rows, unanswered))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kafka::{
        Backend, Capabilities, Commit, CommitError, Committed, Consumer, FetchSettings,
        PerPartition, Producer, TopicInfo,
    };

    /// A topic `t` with four partitions, of which a group has committed in three, and the last has no leader.
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
                is_internal: false,
                partitions: vec![0, 1, 2, 3],
                leader_epochs: BTreeMap::new(),
            })
        }

        fn create_topic(&self, _: &str, _: u32) -> Result<()> {
            unreachable!("lag creates nothing")
        }

        fn watermarks(&self, topic: &str, all: &[Partition]) -> Result<PerPartition<Watermarks>> {
            let marks = |partition| match partition {
                3 => Err(Error::NoLeader { topic: topic.into(), partition }),
                _ => Ok(Watermarks { beginning: Offset::ZERO, end: Offset::new(100) }),
            };
            Ok(all.iter().map(|partition| (*partition, marks(*partition))).collect())
        }

        fn offsets_at(&self, _: &str, _: &[Partition], _: i64) -> Result<PerPartition<Offset>> {
            unreachable!("lag asks for no times")
        }

        fn group_offsets(
            &self,
            _: &str,
            _: &str,
            all: &[Partition],
        ) -> Result<PerPartition<Option<Committed>>> {
            let offsets = [Some(20), None, Some(107), Some(5)];
            let of = |partition: Partition| {
                offsets[partition as usize].map(|at| Committed::plain(Offset::new(at)))
            };
            Ok(all.iter().map(|partition| (*partition, Ok(of(*partition)))).collect())
        }

        fn commit_all(&self, _: &str, _: &str, _: &[Commit]) -> Result<(), CommitError> {
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
    fn a_partition_without_an_offset_or_a_leader_has_no_lag_and_hides_no_other() {
        let connection =
            Connection { topic: "t".into(), group: "g".into(), ..Connection::default() };
        let (rows, unanswered) = rows(&Fake, &connection).unwrap();
        let numbers: Vec<_> = rows
            .iter()
            .map(|row| (row.partition, row.current_offset, row.log_end_offset, row.lag))
            .collect();
        assert_eq!(
            numbers,
            [
                (0, Some(20), Some(100), Some(80)),
                (1, None, Some(100), None),
                (2, Some(107), Some(100), Some(-7)),
                (3, Some(5), None, None),
            ]
        );
        assert_eq!(unanswered, Some(Error::NoLeader { topic: "t".into(), partition: 3 }));
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
