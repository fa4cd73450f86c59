//! Questions that only a partition's leader can answer, asked of the leaders of all partitions of a topic: where a
//! partition begins and ends, and where a leader epoch ends. Errors that pass by themselves are retried.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;

use super::client::Wire;
use super::codes::{error_name, retriable};
use super::connect::Cause;
use super::metadata::Metadata;
use crate::config::limits::{BROKER_CALL_LIMIT, LEADER_LIMIT};
use crate::kafka::PerPartition;
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

/// The wait before the leaders of partitions without an answer are looked up again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A leader's answer: each partition with its error code, and what was found if that is 0.
pub(super) type Answer<T> = Vec<(Partition, i16, T)>;

/// What is known of each partition so far.
type Found<T> = BTreeMap<Partition, Result<T, Trouble>>;

/// Why a partition has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    NoPartition,
    NoLeader,
    /// The leader cannot be reached, or its answer is broken.
    Leader(Cause),
    Code(i16),
    Unanswered,
}

impl Trouble {
    /// An error code that the topic's metadata or a leader gives.
    fn of_code(code: i16) -> Trouble {
        if code == ResponseError::LeaderNotAvailable.code() {
            Trouble::NoLeader
        } else {
            Trouble::Code(code)
        }
    }

    /// Whether it passes by itself. A partition that the metadata lists and that its leader does not know
    /// is new: brokers learn of it one after another.
    fn passes(&self) -> bool {
        match self {
            Trouble::NoLeader | Trouble::Unanswered => true,
            Trouble::Code(code) => {
                retriable(*code) || *code == ResponseError::UnknownTopicOrPartition.code()
            }
            // The metadata would name the same leader again until the controller notices its loss, which
            // takes 9 s (broker.session.timeout.ms).
            Trouble::NoPartition | Trouble::Leader(_) => false,
        }
    }

    fn into_error(self, topic: &str, partition: Partition, doing: &str) -> Error {
        let cause = match self {
            Trouble::NoLeader => return Error::NoLeader { topic: topic.to_owned(), partition },
            Trouble::NoPartition => format!("the topic has no partition {partition}"),
            Trouble::Leader(cause) => format!("the leader of partition {partition}: {cause}"),
            Trouble::Code(code) => format!("partition {partition}: {}", error_name(code)),
            Trouble::Unanswered => format!("the answer does not mention partition {partition}"),
        };
        Error::broker(doing, cause)
    }
}

impl Wire {
    /// Asks the leaders `QUESTIONS` questions about each of `partitions`. Each of the maps that it returns, one for
    /// each question, has exactly these partitions as keys. `ask` gets the number of the question, a leader's address,
    /// its partitions (ascending), and the time by which the leader must have answered.
    ///
    /// Partitions whose trouble passes by itself are retried: until the call's limit, or for
    /// `LEADER_LIMIT` if they have no leader. A partition that had none at the end of the last call is not
    /// waited for again, or every look at the topic's lag would take that long while one broker is down.
    ///
    /// # Errors
    /// `UnknownTopic`; `Broker` if no broker answers. A partition's own error is in its entry.
    pub(super) fn ask_leaders<T: Clone, const QUESTIONS: usize>(
        &self,
        topic: &str,
        partitions: &[Partition],
        doing: &str,
        ask: impl Fn(usize, &str, &[Partition], Instant) -> Result<Answer<T>, Cause>,
    ) -> Result<[PerPartition<T>; QUESTIONS]> {
        let fail = |cause: Cause| Error::broker(doing, cause);
        let began = Instant::now();
        let deadline = began + BROKER_CALL_LIMIT;
        let mut all = [const { Found::new() }; QUESTIONS];
        while !partitions.is_empty() {
            let metadata = self.metadata(topic, deadline).map_err(fail)?;
            if metadata.error == ResponseError::UnknownTopicOrPartition.code() {
                return Err(Error::UnknownTopic { topic: topic.to_owned() });
            }
            for at in 0..QUESTIONS {
                // A leader that did not answer the first question is not asked the second.
                let given_up: Found<T> = all[..at]
                    .iter()
                    .flatten()
                    .filter(|(_, f)| is_final(f))
                    .map(|(p, f)| (*p, f.clone()))
                    .collect();
                all[at].extend(given_up);
                let ask = |address: &str, requested: &[Partition], deadline: Instant| {
                    ask(at, address, requested, deadline)
                };
                ask_missing(&metadata, partitions, &mut all[at], deadline, ask);
            }
            let waits_for = |(partition, found): (&Partition, &Result<_, Trouble>)| match found {
                Err(Trouble::NoLeader) => {
                    began.elapsed() < LEADER_LIMIT && !self.is_leaderless(topic, *partition)
                }
                Err(trouble) => trouble.passes(),
                Ok(_) => false,
            };
            let goes_on = all.iter().flatten().any(waits_for);
            if !goes_on || Instant::now() + RETRY_INTERVAL >= deadline {
                break;
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        for (partition, found) in all.iter().flatten() {
            let is_leaderless = matches!(found, Err(Trouble::NoLeader));
            self.note_leaderless(topic, *partition, is_leaderless);
        }
        let errors = |found: Found<T>| {
            let entry = |(partition, found): (Partition, Result<_, Trouble>)| {
                (partition, found.map_err(|trouble| trouble.into_error(topic, partition, doing)))
            };
            found.into_iter().map(entry).collect()
        };
        Ok(all.map(errors))
    }

    fn is_leaderless(&self, topic: &str, partition: Partition) -> bool {
        self.leaderless.lock().get(topic).is_some_and(|known| known.contains(&partition))
    }

    fn note_leaderless(&self, topic: &str, partition: Partition, is_leaderless: bool) {
        let mut leaderless = self.leaderless.lock();
        if is_leaderless {
            leaderless.entry(topic.to_owned()).or_default().insert(partition);
        } else if let Some(known) = leaderless.get_mut(topic) {
            known.remove(&partition);
        }
    }
}

/// Asks the leaders of those of `partitions` that have no answer in `found` yet.
fn ask_missing<T>(
    metadata: &Metadata,
    partitions: &[Partition],
    found: &mut Found<T>,
    deadline: Instant,
    ask: impl Fn(&str, &[Partition], Instant) -> Result<Answer<T>, Cause>,
) {
    let is_settled = |known: &Result<_, Trouble>| known.is_ok() || is_final(known);
    let missing: BTreeSet<Partition> = partitions
        .iter()
        .copied()
        .filter(|partition| !found.get(partition).is_some_and(is_settled))
        .collect();
    let (leaders, troubles) = by_leader(metadata, &missing);
    found.extend(troubles.into_iter().map(|(partition, trouble)| (partition, Err(trouble))));
    let count = leaders.len();
    for (index, (address, requested)) in leaders.into_iter().enumerate() {
        // A leader that does not answer leaves time for the others.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = Instant::now() + left / u32::try_from(count - index).unwrap_or(u32::MAX);
        // An answer without a partition that was asked for is no better than an error.
        found.extend(requested.iter().map(|partition| (*partition, Err(Trouble::Unanswered))));
        match ask(&address, &requested, share) {
            Ok(answer) => {
                for (partition, code, what) in answer {
                    if requested.binary_search(&partition).is_ok() {
                        let what = if code == 0 { Ok(what) } else { Err(Trouble::of_code(code)) };
                        found.insert(partition, what);
                    }
                }
            }
            Err(cause) => {
                let trouble = Trouble::Leader(format!("{address}: {cause}"));
                found.extend(requested.iter().map(|one| (*one, Err(trouble.clone()))));
            }
        }
    }
}

fn is_final<T>(found: &Result<T, Trouble>) -> bool {
    found.as_ref().is_err_and(|trouble| !trouble.passes())
}

/// Partitions, ascending, by their leaders' addresses; and what is wrong with those that have none.
pub(super) fn by_leader(
    metadata: &Metadata,
    partitions: &BTreeSet<Partition>,
) -> (BTreeMap<String, Vec<Partition>>, BTreeMap<Partition, Trouble>) {
    let leaders: BTreeMap<Partition, i32> =
        metadata.partitions.iter().map(|one| (one.index, one.leader)).collect();
    let (mut by_leader, mut troubles) =
        (BTreeMap::<String, Vec<Partition>>::new(), BTreeMap::new());
    for &partition in partitions {
        let leader = leaders.get(&partition);
        if let Some(address) = leader.and_then(|leader| metadata.brokers.get(leader)) {
            by_leader.entry(address.clone()).or_default().push(partition);
            continue;
        }
        let trouble = match leader {
            _ if metadata.error != 0 => Trouble::of_code(metadata.error),
            Some(_) => Trouble::NoLeader,
            None => Trouble::NoPartition,
        };
        troubles.insert(partition, trouble);
    }
    (by_leader, troubles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::wire::metadata::PartitionMetadata;

    #[test]
    fn a_partition_without_a_leader_is_trouble_of_its_own() {
        let partition = |index, leader| PartitionMetadata { error: 0, index, leader, epoch: None };
        let metadata = Metadata {
            brokers: BTreeMap::from([(1, "one:9092".to_owned())]),
            partitions: vec![partition(0, 1), partition(1, -1), partition(2, 7), partition(3, 1)],
            ..Metadata::default()
        };
        let (leaders, troubles) = by_leader(&metadata, &BTreeSet::from([0, 1, 2, 3, 4]));
        assert_eq!(leaders, BTreeMap::from([("one:9092".to_owned(), vec![0, 3])]));
        let expected = [(1, Trouble::NoLeader), (2, Trouble::NoLeader), (4, Trouble::NoPartition)];
        assert_eq!(troubles, BTreeMap::from(expected));
    }
}
