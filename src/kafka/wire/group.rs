//! A group's committed offsets, kept by its coordinator: asked for and committed without being a
//! member, with retries that end at a deadline.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, GroupId};
use kafka_protocol::protocol::StrBytes;

use super::metadata::name;
use super::reader::{Read, Reader};
use super::session::{Ask, Cause};
use super::{Wire, broken, error_name, retriable};
use crate::config::limits::{BROKER_CALL_LIMIT, PROBE_LIMIT};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

const ANSWER_BYTES: usize = 16 << 20;

/// The wait before a coordinator that is loading, or was moved, is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Each partition with its offset, or -1, and its error code.
type Answer = Vec<(Partition, i64, i16)>;

impl Wire {
    /// The group's committed offsets; a partition without one is absent. A coordinator that is
    /// still loading is asked again until the call's limit.
    ///
    /// # Errors
    /// `Broker`, with the broker's name for what is wrong.
    pub fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Offset>> {
        let asked = OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(partitions.to_vec());
        let body = OffsetFetchRequest::default()
            .with_group_id(group_id(group))
            .with_topics(Some(vec![asked]));
        let answer = self
            .coordinated(group, true, |address, deadline| {
                self.on(address, deadline, |session| {
                    // Version 6 is the first in the flexible form, 1 the first kept by Kafka.
                    let version = session.version(ApiKey::OffsetFetch, (1, 5))?;
                    let ask = Ask { api: ApiKey::OffsetFetch, version, body: &body };
                    let answer = session.exchange(&ask, ANSWER_BYTES, deadline)?;
                    read_committed(&answer, version).map_err(broken)
                })
            })
            .map_err(|cause| Error::broker(format!("read the offsets of group {group}"), cause))?;
        Ok(answer
            .into_iter()
            .filter_map(|(partition, offset, _)| Some((partition, Offset::checked(offset)?)))
            .collect())
    }

    /// Whether the group's coordinator answers that it is still loading: it will pass by itself.
    pub fn is_loading(&self, group: &str) -> bool {
        let deadline = Instant::now() + PROBE_LIMIT;
        // Version 2 is the first with a code for the group as a whole.
        let body = OffsetFetchRequest::default().with_group_id(group_id(group));
        let code = match self.coordinator(group, deadline) {
            Ok(Err(code)) => code,
            Ok(Ok(address)) => {
                let answer = self.on(&address, deadline, |session| {
                    let version = session.version(ApiKey::OffsetFetch, (2, 5))?;
                    let ask = Ask { api: ApiKey::OffsetFetch, version, body: &body };
                    let answer = session.exchange(&ask, ANSWER_BYTES, deadline)?;
                    read_committed(&answer, version).map_err(broken)
                });
                answer.ok().and_then(|answer| answer.first().map(|one| one.2)).unwrap_or(0)
            }
            Err(_) => 0,
        };
        code == ResponseError::CoordinatorLoadInProgress.code()
    }

    /// Commits for a group that has no members, and returns when the broker has confirmed every
    /// offset. After an error they may or may not have been committed.
    ///
    /// # Errors
    /// `Broker`, with the broker's name for what is wrong.
    pub fn commit(&self, group: &str, topic: &str, offsets: &[(Partition, Offset)]) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let partitions = offsets.iter().map(|&(partition, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset(offset.get())
        });
        let committed = OffsetCommitRequestTopic::default()
            .with_name(name(topic))
            .with_partitions(partitions.collect());
        let body = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_topics(vec![committed]);
        let doing = || format!("commit offsets of group {group} in topic {topic}");
        let answer = self
            .coordinated(group, false, |address, deadline| {
                self.on(address, deadline, |session| {
                    let version = session.version(ApiKey::OffsetCommit, (2, 7))?;
                    let ask = Ask { api: ApiKey::OffsetCommit, version, body: &body };
                    let answer = session.exchange(&ask, ANSWER_BYTES, deadline)?;
                    read_commit(&answer, version).map_err(broken)
                })
            })
            .map_err(|cause| Error::broker(doing(), cause))?;
        match offsets.iter().find(|(partition, _)| !answer.iter().any(|one| one.0 == *partition)) {
            None => Ok(()),
            Some((partition, _)) => {
                Err(Error::broker(doing(), format!("no answer for partition {partition}")))
            }
        }
    }

    /// Asks the group's coordinator, and again where it is loading or has moved, until the call's
    /// limit. An answer comes back without any error code in it. `harmless`: what is asked may be asked
    /// again where no answer came, since another broker may be the coordinator by then.
    fn coordinated(
        &self,
        group: &str,
        harmless: bool,
        mut ask: impl FnMut(&str, Instant) -> Result<Answer, Cause>,
    ) -> Result<Answer, Cause> {
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        loop {
            let code = match self.coordinator(group, deadline)? {
                Err(code) => code,
                Ok(address) => {
                    let answer = match ask(&address, deadline) {
                        Ok(answer) => answer,
                        Err(cause) => {
                            self.forget_coordinator(group);
                            if !harmless || Instant::now() + RETRY_INTERVAL >= deadline {
                                return Err(format!("{address}: {cause}"));
                            }
                            std::thread::sleep(RETRY_INTERVAL);
                            continue;
                        }
                    };
                    match answer.iter().find(|(_, _, code)| *code != 0) {
                        None => return Ok(answer),
                        Some(&(_, _, code)) => code,
                    }
                }
            };
            self.forget_coordinator(group);
            if !retriable(code) || Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(explain(code));
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// The coordinator's address; the inner error is the broker's code.
    fn coordinator(&self, group: &str, deadline: Instant) -> Result<Result<String, i16>, Cause> {
        if let Some(known) = self.coordinators().get(group) {
            return Ok(Ok(known.clone()));
        }
        let body =
            FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let (_, found) = self.anywhere(deadline, |session, deadline| {
            let version = session.version(ApiKey::FindCoordinator, (0, 2))?;
            let ask = Ask { api: ApiKey::FindCoordinator, version, body: &body };
            let answer = session.exchange(&ask, ANSWER_BYTES, deadline)?;
            read_coordinator(&answer, version).map_err(broken)
        })?;
        if let Ok(address) = &found {
            self.coordinators().insert(group.to_owned(), address.clone());
        }
        Ok(found)
    }

    fn forget_coordinator(&self, group: &str) {
        self.coordinators().remove(group);
    }

    fn coordinators(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.coordinators.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

fn explain(code: i16) -> String {
    // The broker takes offsets from outside a group only while nobody is in it.
    let in_use = [
        ResponseError::UnknownMemberId,
        ResponseError::IllegalGeneration,
        ResponseError::RebalanceInProgress,
        ResponseError::FencedInstanceId,
        ResponseError::StaleMemberEpoch,
        ResponseError::NonEmptyGroup,
    ];
    if in_use.iter().any(|refusal| refusal.code() == code) {
        return format!(
            "{}: the group has active members: another consumer uses this group; stop it, or name \
             another group with --group",
            error_name(code)
        );
    }
    error_name(code)
}

fn read_coordinator(answer: &[u8], version: i16) -> Read<Result<String, i16>> {
    let mut reader = Reader::new(answer, false);
    if version >= 1 {
        let _throttle_ms = reader.i32()?;
    }
    let code = reader.i16()?;
    if version >= 1 {
        let _message = reader.string()?;
    }
    let _node = reader.i32()?;
    let host = reader.string()?.unwrap_or_default();
    let port = reader.i32()?;
    Ok(match code {
        0 if host.contains(':') => Ok(format!("[{host}]:{port}")),
        0 => Ok(format!("{host}:{port}")),
        code => Err(code),
    })
}

fn read_committed(answer: &[u8], version: i16) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    if version >= 3 {
        let _throttle_ms = reader.i32()?;
    }
    let topics = reader.array(|topic| {
        let _name = topic.string()?;
        topic.array(|partition| {
            let index = partition.i32()?;
            let offset = partition.i64()?;
            if version >= 5 {
                let _leader_epoch = partition.i32()?;
            }
            let _metadata = partition.string()?;
            Ok((index, offset, partition.i16()?))
        })
    })?;
    let mut answer: Answer = topics.into_iter().flatten().collect();
    if version >= 2 {
        match reader.i16()? {
            0 => {}
            // The group's own error stands for each partition's.
            code => answer.push((-1, -1, code)),
        }
    }
    Ok(answer)
}

fn read_commit(answer: &[u8], version: i16) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    if version >= 3 {
        let _throttle_ms = reader.i32()?;
    }
    let topics = reader.array(|topic| {
        let _name = topic.string()?;
        topic.array(|partition| Ok((partition.i32()?, -1, partition.i16()?)))
    })?;
    Ok(topics.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_in_use_by_others_is_named() {
        let text = explain(ResponseError::UnknownMemberId.code());
        assert!(text.contains("the group has active members"), "{text}");
    }
}
