//! A group's committed offsets, kept by its coordinator: read and committed without being a member of the
//! group, with retries that end at a deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, GroupId};
use kafka_protocol::protocol::StrBytes;

use super::client::Wire;
use super::codes::{explain, is_refusal, retriable};
use super::connect::{Cause, silent};
use super::metadata::name;
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use crate::config::limits::{BROKER_CALL_LIMIT, PROBE_LIMIT};
use crate::kafka::{Commit, CommitError, Committed, PerPartition};
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

const ANSWER_BYTES: usize = 16 << 20;

/// The code of brokers that do not take a group that never committed for one without offsets, as Kafka does.
const NO_GROUP: i16 = ResponseError::GroupIdNotFound.code();

/// The wait before a coordinator that is loading, or has moved, is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// What a coordinator answered, error codes included.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The error code of the group as a whole.
    group: i16,
    /// Each partition with what is committed there, if anything, and its error code.
    partitions: Vec<(Partition, Option<Committed>, i16)>,
}

impl Answer {
    fn codes(&self) -> impl Iterator<Item = i16> {
        let partitions = self.partitions.iter().map(|(_, _, code)| *code);
        std::iter::once(self.group).chain(partitions).filter(|code| *code != 0)
    }
}

impl Wire {
    /// What the group has committed in each of `partitions`. A coordinator that is still loading is asked
    /// again until the call's limit.
    ///
    /// # Errors
    /// `Broker`, with the broker's name for what is wrong; `Config` if the name is a share group's.
    pub fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        let requested = OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(partitions.to_vec());
        let body = OffsetFetchRequest::default()
            .with_group_id(group_id(group))
            .with_topics(Some(vec![requested]));
        let fail =
            |cause: Cause| Error::broker(format!("read the offsets of group {group}"), cause);
        let answer = self
            .coordinated(group, true, |address, deadline| {
                self.on(address, deadline, |session| {
                    // Version 6 is the first in the flexible form, 5 the first with leader epochs (KIP-320), 1 the
                    // first kept by Kafka.
                    let version = session.version(ApiKey::OffsetFetch, (1, 5))?;
                    let request = Request { api: ApiKey::OffsetFetch, version, body: &body };
                    let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
                    read_committed(&answer, version).map_err(broken)
                })
            })
            .map_err(fail)?;
        if answer.group != 0 && answer.group != NO_GROUP {
            return Err(fail(explain(answer.group)));
        }
        let found = answer.partitions.into_iter();
        let mut found: BTreeMap<_, _> =
            found.map(|(partition, found, code)| (partition, (found, code))).collect();
        let is_set = |(found, code): &(Option<Committed>, i16)| {
            found.is_some() || !matches!(*code, 0 | NO_GROUP)
        };
        if !found.values().any(is_set)
            && self.is_share_group(group, Instant::now() + BROKER_CALL_LIMIT)
        {
            return Err(share_group(group));
        }
        let mut of = |partition: &Partition| match found.remove(partition) {
            Some((found, 0)) => Ok(found),
            Some((_, NO_GROUP)) => Ok(None),
            None if answer.group == NO_GROUP => Ok(None),
            Some((_, code)) => Err(fail(format!("partition {partition}: {}", explain(code)))),
            None => Err(fail(format!("the answer does not mention partition {partition}"))),
        };
        Ok(partitions.iter().map(|partition| (*partition, of(partition))).collect())
    }

    /// Whether the group's coordinator answers that it is still loading, which passes by itself.
    pub fn is_loading(&self, group: &str) -> bool {
        let deadline = Instant::now() + PROBE_LIMIT;
        // Version 2 is the first with a code for the group as a whole.
        let body = OffsetFetchRequest::default().with_group_id(group_id(group));
        let code = match self.coordinator(group, deadline) {
            Ok(Err(code)) => code,
            Ok(Ok(address)) => {
                let answer = self.on(&address, deadline, |session| {
                    let version = session.version(ApiKey::OffsetFetch, (2, 5))?;
                    let request = Request { api: ApiKey::OffsetFetch, version, body: &body };
                    let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
                    read_committed(&answer, version).map_err(broken)
                });
                answer.ok().and_then(|answer| answer.codes().next()).unwrap_or(0)
            }
            Err(_) => 0,
        };
        code == ResponseError::CoordinatorLoadInProgress.code()
    }

    /// Commits for a group that has no members, and returns when the broker has confirmed every offset.
    ///
    /// # Errors
    /// `CommitError`, with the broker's name for what is wrong.
    pub fn commit(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError> {
        if commits.is_empty() {
            return Ok(());
        }
        // Below version 6 the epoch is left out.
        let partitions = commits.iter().map(|commit| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(commit.partition)
                .with_committed_offset(commit.offset.get())
                .with_committed_leader_epoch(Epoch::or_unknown(commit.epoch))
                .with_committed_metadata(Some(StrBytes::from_string(commit.metadata.clone())))
        });
        let committed = OffsetCommitRequestTopic::default()
            .with_name(name(topic))
            .with_partitions(partitions.collect());
        let body = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_topics(vec![committed]);
        // Whether a request was written, and whether the answer to one leaves its fate open.
        let (mut sent, mut in_doubt) = (false, false);
        let answer = self.coordinated(group, false, |address, deadline| {
            let answer = self.once(address, deadline, |session| {
                let version = session.version(ApiKey::OffsetCommit, (2, 7))?;
                let request = Request { api: ApiKey::OffsetCommit, version, body: &body };
                sent = true;
                let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
                read_commit(&answer, version).map_err(broken)
            });
            in_doubt |= answer.as_ref().is_ok_and(|answer| !answer.codes().all(is_refusal));
            answer
        });
        let fail = |cause: Cause| {
            Error::broker(format!("commit offsets of group {group} in topic {topic}"), cause)
        };
        match answer {
            Ok(answer) => judge_commit(&answer, commits, in_doubt, &fail),
            Err(cause) if !sent => Err(CommitError::all_refused(commits, fail(cause))),
            Err(cause) => Err(CommitError::Unknown(fail(cause))),
        }
    }

    /// Asks the group's coordinator, and retries until the call's limit while it is loading or has moved.
    /// `harmless`: the request may also be sent again if no answer came, since another broker may be the
    /// coordinator by then.
    fn coordinated(
        &self,
        group: &str,
        harmless: bool,
        mut ask: impl FnMut(&str, Instant) -> Result<Answer, Cause>,
    ) -> Result<Answer, Cause> {
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        let is_last_try = || Instant::now() + RETRY_INTERVAL >= deadline;
        // The newest cause of a try that had time: the last try may end with "no answer in time", which hides an
        // address that cannot be reached.
        let mut known: Option<Cause> = None;
        loop {
            let found = self.coordinator(group, deadline);
            match found.map_err(|cause| known.clone().unwrap_or(cause))? {
                Err(code) if !retriable(code) || is_last_try() => return Err(explain(code)),
                Err(_) => {}
                Ok(address) => {
                    let answer = ask(&address, deadline);
                    if answer.as_ref().is_ok_and(|answer| answer.codes().next().is_none()) {
                        return answer;
                    }
                    self.forget_coordinator(group);
                    match answer {
                        Ok(answer) if !answer.codes().any(retriable) || is_last_try() => {
                            return Ok(answer);
                        }
                        Err(cause) => {
                            let is_silence = cause.contains(&silent());
                            let cause = known.take().filter(|_| is_silence).unwrap_or(cause);
                            if !harmless || is_last_try() {
                                return Err(format!("{address}: {cause}"));
                            }
                            known = Some(cause);
                        }
                        Ok(_) => {}
                    }
                }
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// The coordinator's address; the inner error is the broker's code.
    pub(super) fn coordinator(
        &self,
        group: &str,
        deadline: Instant,
    ) -> Result<Result<String, i16>, Cause> {
        if let Some(known) = self.coordinators.lock().get(group) {
            return Ok(Ok(known.clone()));
        }
        let body =
            FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let (_, found) = self.anywhere(deadline, |session, deadline| {
            let version = session.version(ApiKey::FindCoordinator, (0, 2))?;
            let request = Request { api: ApiKey::FindCoordinator, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_coordinator(&answer, version).map_err(broken)
        })?;
        if let Ok(address) = &found {
            self.coordinators.lock().insert(group.to_owned(), address.clone());
        }
        Ok(found)
    }

    fn forget_coordinator(&self, group: &str) {
        self.coordinators.lock().remove(group);
    }
}

fn share_group(group: &str) -> Error {
    Error::Config(format!(
        "--group: got {group}, which is a share group in this cluster, expected the name of a consumer group: \
         share groups have no committed offsets, and the broker would refuse each commit; use another --group"
    ))
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}

/// What a coordinator's answer means for the offsets that were to be committed.
fn judge_commit(
    answer: &Answer,
    commits: &[Commit],
    in_doubt: bool,
    fail: &dyn Fn(Cause) -> Error,
) -> Result<(), CommitError> {
    let codes: BTreeMap<_, _> =
        answer.partitions.iter().map(|(partition, _, code)| (*partition, *code)).collect();
    let mut refused = Vec::new();
    let mut first = 0;
    for Commit { partition, .. } in commits {
        match codes.get(partition) {
            Some(0) => {}
            Some(code) => {
                refused.push(*partition);
                first = if first == 0 { *code } else { first };
            }
            None => {
                let cause = format!("the answer does not mention partition {partition}");
                return Err(CommitError::Unknown(fail(cause)));
            }
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    let error = fail(explain(first));
    Err(match in_doubt {
        true => CommitError::Unknown(error),
        false => CommitError::Refused { partitions: refused, error },
    })
}

pub(super) fn read_coordinator(answer: &[u8], version: i16) -> Read<Result<String, i16>> {
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

pub(super) fn read_committed(answer: &[u8], version: i16) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    if version >= 3 {
        let _throttle_ms = reader.i32()?;
    }
    let partitions = reader.partitions(|partition| {
        let index = partition.i32()?;
        let offset = partition.i64()?;
        let epoch = if version >= 5 { Epoch::checked(partition.i32()?) } else { None };
        let metadata = partition.string()?.unwrap_or_default();
        let found = Offset::checked(offset).map(|offset| Committed {
            offset,
            epoch,
            metadata: metadata.to_owned(),
        });
        Ok((index, found, partition.i16()?))
    })?;
    let group = if version >= 2 { reader.i16()? } else { 0 };
    Ok(Answer { group, partitions })
}

pub(super) fn read_commit(answer: &[u8], version: i16) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    if version >= 3 {
        let _throttle_ms = reader.i32()?;
    }
    let partitions =
        reader.partitions(|partition| Ok((partition.i32()?, None, partition.i16()?)))?;
    Ok(Answer { group: 0, partitions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(codes: &[(Partition, i16)], in_doubt: bool) -> Result<(), CommitError> {
        let commits = [(0, Offset::new(5)), (1, Offset::new(6))].map(Commit::plain);
        let partition = |(partition, code): &(Partition, i16)| (*partition, None, *code);
        let answer = Answer { group: 0, partitions: codes.iter().map(partition).collect() };
        judge_commit(&answer, &commits, in_doubt, &|cause| Error::broker("commit", cause))
    }

    #[test]
    fn a_refusal_names_its_partitions_and_the_others_are_stored() {
        let too_large = ResponseError::OffsetMetadataTooLarge.code();
        assert_eq!(judged(&[(0, 0), (1, 0)], false), Ok(()));
        let refused = judged(&[(0, 0), (1, too_large)], false);
        let error = Error::broker("commit", "OffsetMetadataTooLarge");
        assert_eq!(refused, Err(CommitError::Refused { partitions: vec![1], error }));
    }

    #[test]
    fn what_an_earlier_request_may_have_stored_is_unknown_whatever_the_last_answer_says() {
        let refusal = ResponseError::UnknownMemberId.code();
        let refused_now = judged(&[(0, refusal), (1, refusal)], true);
        assert!(matches!(refused_now, Err(CommitError::Unknown(_))), "{refused_now:?}");
        let silent = judged(&[(0, 0)], false);
        assert!(matches!(silent, Err(CommitError::Unknown(_))), "partition 1: {silent:?}");
    }
}
