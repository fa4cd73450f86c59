//! What the thread `watch-lag` asks the log: where the partitions end, and which open transactions hold them back.

use std::collections::BTreeMap;
use std::time::Instant;

use super::findings::LogEnds;
use super::watcher::Watcher;
use crate::config::Isolation;
use crate::kafka::OpenTransaction;
use crate::model::offset::Partition;
use crate::runs::engine::Engine;

impl Watcher {
    /// Asks the log where it ends.
    pub(super) fn ask_for_ends(&self, partitions: &[Partition]) {
        let began = Instant::now();
        let answer = match partitions.is_empty() {
            true => Ok(BTreeMap::new()),
            false => self.engine.broker.watermarks(&self.engine.topic_name, partitions),
        };
        let answers = match answer {
            Ok(answers) => answers,
            Err(error) => {
                // The sensors have the same trouble, and log it as a warning.
                log::debug!("asking the log for its ends: {error}");
                let mut memory = self.watch.lock();
                let since = memory.log.failing.as_ref().map_or(began, |(since, _)| *since);
                memory.log.failing = Some((since, error.to_string()));
                return;
            }
        };
        let transactions = self.open_transactions();
        let mut memory = self.watch.lock();
        let (mut marks, mut unknown) = (BTreeMap::new(), BTreeMap::new());
        for (partition, answer) in answers {
            match answer {
                Ok(answer) => {
                    marks.insert(partition, answer);
                }
                Err(cause) => {
                    log::debug!("asking the log for its ends: {cause}");
                    let before = memory.log.unknown.get(&partition);
                    let since = before.map_or(began, |(since, _)| *since);
                    unknown.insert(partition, (since, cause.to_string()));
                    // Nobody can write to a partition without a leader, so its end is still the same.
                    let known = memory.log.marks.get(&partition);
                    marks.extend(known.map(|known| (partition, *known)));
                }
            }
        }
        memory.log = LogEnds { unknown, transactions, ..LogEnds::reported_now(marks) };
    }

    /// The open transactions that hold partitions back. They only explain, so a broker that does not answer has none.
    fn open_transactions(&self) -> BTreeMap<Partition, OpenTransaction> {
        let Engine { broker, config, topic_name, .. } = &*self.engine;
        let partitions = match broker.capabilities().isolation(config.isolation) {
            Ok(Isolation::ReadCommitted) => self.watch.held_back(),
            _ => Vec::new(),
        };
        if partitions.is_empty() {
            return BTreeMap::new();
        }
        let found = broker.open_transactions(topic_name, &partitions).unwrap_or_else(|cause| {
            log::debug!("asking for open transactions: {cause}");
            BTreeMap::new()
        });
        found.into_iter().filter_map(|(one, found)| Some((one, found.ok()??))).collect()
    }
}
