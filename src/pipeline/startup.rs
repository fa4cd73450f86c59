//! From a chosen broker and an open history to the place where each partition goes on.
//!
//! Rules only: whose offsets they are is decided in `history::recovery`, threads are started in
//! `pipeline`.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection as Database;

use crate::config::{Config, OnMissingOffsets, StartFrom};
use crate::history::clean_shutdown::InUse;
use crate::history::mark::Mark;
use crate::history::recovery::{self, Decision, Mover, Recorded, Resume};
use crate::history::scope::{self, ScopeKey};
use crate::history::{self, ScopeId, schema};
use crate::kafka::{Backend, Broker, Committed, TopicInfo, Watermarks, require_all};
use crate::model::error::{Error, Result};
use crate::model::offset::{LastRead, Offset, Partition};
use crate::model::run::RunState;
use crate::source::sensor::LateStart;

use super::cut_off::{self, Known};

/// What the pipeline starts with.
pub struct Start {
    pub db: Database,
    pub topic: TopicInfo,
    pub recovered: Recovered,
    /// A commit of an earlier process may still be on its way.
    pub in_doubt: bool,
}

/// Looks the topic up; creates it if this mb produces to it.
///
/// # Errors
/// `UnknownTopic` if mb only consumes; `Config` for an internal topic without `--force`; `Broker`.
pub fn topic(broker: &dyn Broker, config: &Config) -> Result<TopicInfo> {
    let connection = &config.connection;
    let found = match broker.topic(&connection.topic) {
        Err(Error::UnknownTopic { topic }) if config.produce.is_some() => {
            broker.create_topic(&topic, connection.partitions)?;
            log::info!("created topic {topic} with {} partitions", connection.partitions);
            broker.topic(&topic)?
        }
        answer => answer?,
    };
    if config.produce.is_some() {
        found.check_written()?;
    }
    if found.is_internal && !config.force {
        return Err(Error::Config(format!(
            "--topic: got {}, an internal topic of the cluster, expected another one: each of mb's commits may \
             write to it, and mb would read that in turn, without end; to read it all the same, add --force",
            found.name
        )));
    }
    Ok(found)
}

/// Opens the history and finds where each partition goes on.
///
/// # Errors
/// As `recover_from`.
pub fn recover(
    broker: &dyn Broker,
    config: &Config,
    data_dir: &Path,
    topic: TopicInfo,
) -> Result<(Start, InUse)> {
    let (db, in_use) = schema::open_or_set_aside(&data_dir.join(history::FILE))?;
    history::requests::end_left_over(&db)?;
    let recovered = recover_from(&db, broker, config, &topic)?;
    let in_doubt = recovery::has_intents(&db, recovered.scope)?;
    Ok((Start { db, topic, recovered, in_doubt }, in_use))
}

/// Where each partition goes on.
pub struct Recovered {
    pub scope: ScopeId,
    pub resumes: BTreeMap<Partition, Resume>,
    /// Partitions that have neither a leader nor an offset of the group. A sensor adopts them when they have
    /// a leader.
    pub late_starts: BTreeMap<Partition, LateStart>,
    /// Partitions that must not be read, and why.
    pub unread: BTreeMap<Partition, String>,
    /// Where the log is, asked for after the committed offsets; without the partitions that have no leader.
    pub marks: BTreeMap<Partition, Watermarks>,
}

/// Finds in an open history where each partition goes on.
///
/// # Errors
/// `Config` for a history that cannot be used, unfinished runs that this client cannot read, or
/// `--from committed` without offsets; `Broker`, `Storage`.
pub fn recover_from(
    db: &Database,
    broker: &dyn Broker,
    config: &Config,
    topic: &TopicInfo,
) -> Result<Recovered> {
    let connection = &config.connection;
    let key = ScopeKey::of(broker.backend(), &connection.group, topic);
    let scope = scope::find_or_add(db, &key)?;
    let (recorded, settled) = recovery::recorded_and_settled(db, scope)?;
    check_clients(broker.backend(), &recorded)?;
    let instance = scope::instance(db)?.id;
    let committed = broker.group_offsets(&connection.group, &topic.name, &topic.partitions)?;
    let mut committed: BTreeMap<_, _> = require_all(committed)?
        .into_iter()
        .filter_map(|(partition, committed)| Some((partition, committed?)))
        .collect();
    let marks = marks_of_led(broker, topic)?;
    let gone = scope::committed_to_predecessors(db, &key)?;
    committed.retain(|partition, committed| {
        !is_of_predecessor(topic, &recorded, &gone, *partition, committed.offset)
    });
    // Partitions that came while mb was away start at their beginning, whatever --from says.
    let known_group = !committed.is_empty() || !recorded.is_empty();
    let mut resumes = BTreeMap::new();
    let (mut fresh, mut unread) = (Vec::new(), BTreeMap::new());
    for partition in topic.partitions.iter().copied() {
        let committed = committed.get(&partition);
        match recovery::decide(recorded.get(&partition), committed, &instance) {
            Decision::Ours(resume) => {
                resumes.insert(partition, resume);
            }
            Decision::Forgotten(resume) => {
                log::warn!(
                    "the log has no offset of group {} in {}/{partition} any more: continuing from offset \
                     {} of the history; to start over, use another --group, or set offsets with \
                     mb offsets",
                    connection.group,
                    topic.name,
                    resume.position
                );
                resumes.insert(partition, resume);
            }
            Decision::New => fresh.push((partition, false)),
            Decision::LostTail { resume, found } => {
                tell_lost_tail(config, topic, partition, found, resume.position);
                resumes.insert(partition, resume);
            }
            Decision::Unread { version } => {
                unread.insert(partition, newer_mark(config, topic, partition, version)?);
            }
            Decision::Moved { expected, by } => {
                tell_moved(config, topic, partition, (expected, committed), &by);
                match committed {
                    Some(committed) => {
                        recovery::void(db, scope, partition, committed.offset)?;
                        resumes.insert(partition, resume_at(committed));
                    }
                    None => fresh.push((partition, true)),
                }
            }
        }
    }
    // The whole topic is another one than this mb has read so far, and nobody has said since where
    // to begin in it.
    let replaced = recorded.is_empty() && !gone.is_empty() && !fresh.is_empty();
    if replaced {
        check_replaced(config, topic)?;
    }
    let start = if replaced || known_group { Begin::AtItsBeginning } else { Begin::AsConfigured };
    let Starts { now, late: late_starts } = starts(config, topic, &marks, &fresh, start)?;
    for (partition, position) in now {
        if recorded.contains_key(&partition) {
            recovery::void(db, scope, partition, position)?;
        }
        let resume = Resume { position, committed: None, read: None, stored: vec![] };
        resumes.insert(partition, resume);
    }
    let known = Known { broker, config, topic, marks: &marks, instance: &instance };
    let mut read = cut_off::pass_over(&known, (db, scope), &recorded, &mut resumes)?;
    recovery::void_skipped(db, &recorded, &resumes)?;
    recovery::begin_all(db, scope, &resumes, settled)?;
    recovery::note_sequences(db, scope, &own_sequences(&committed, &instance))?;
    for (partition, resume) in &mut resumes {
        resume.read = read.remove(partition);
    }
    tell(&resumes);
    Ok(Recovered { scope, resumes, late_starts, unread, marks })
}

/// The numbers of this mb's own commits among those in the log.
fn own_sequences(
    committed: &BTreeMap<Partition, Committed>,
    instance: &str,
) -> Vec<(Partition, i64)> {
    let own = |(partition, committed): (&Partition, &Committed)| match Mark::of(&committed.metadata)
    {
        Mark::Instance(stamp) if stamp.instance == instance => Some((*partition, stamp.sequence)),
        _ => None,
    };
    committed.iter().filter_map(own).collect()
}

/// A topic that was deleted and created again may have offsets of the old one: a commit that arrived late.
fn is_of_predecessor(
    topic: &TopicInfo,
    recorded: &BTreeMap<Partition, Recorded>,
    gone: &BTreeMap<Partition, Vec<Offset>>,
    partition: Partition,
    offset: Offset,
) -> bool {
    let began = recorded.get(&partition).is_some_and(|recorded| recorded.confirmed.is_some());
    let late = !began && gone.get(&partition).is_some_and(|gone| gone.contains(&offset));
    if late {
        log::warn!(
            "topic {} was created again, and offset {offset} in partition {partition} was committed \
             for the old topic: it is ignored",
            topic.name
        );
    }
    late
}

/// Where the log is, but for partitions that have no leader: those with an offset of the group start all the
/// same and wait for their leader, the others are started late.
fn marks_of_led(broker: &dyn Broker, topic: &TopicInfo) -> Result<BTreeMap<Partition, Watermarks>> {
    let mut marks = BTreeMap::new();
    for (partition, answer) in broker.watermarks(&topic.name, &topic.partitions)? {
        match answer {
            Ok(known) => {
                marks.insert(partition, known);
            }
            Err(error @ Error::NoLeader { .. }) => {
                log::warn!("{error}; the topic's other partitions are read meanwhile");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(marks)
}

/// A partition goes on where somebody has moved it to.
fn resume_at(committed: &Committed) -> Resume {
    let position = committed.offset;
    let read = committed.epoch.map(|epoch| LastRead { end: position, epoch });
    Resume { position, committed: Some(position), read, stored: vec![] }
}

/// The log has an older commit of this mb's than the history.
fn tell_lost_tail(
    config: &Config,
    topic: &TopicInfo,
    partition: Partition,
    found: Offset,
    position: Offset,
) {
    log::warn!(
        "the log has offset {found} of group {} in {}/{partition}, an older commit of this mb than the one that it had \
         confirmed: the log of the group's offsets has lost its end (offsets topic __consumer_offsets), or that commit \
         came late; continuing from {position}, as the history says",
        config.connection.group,
        topic.name
    );
}

/// Somebody moved the offsets of a partition, from the one that this mb committed last to another.
fn tell_moved(
    config: &Config,
    topic: &TopicInfo,
    partition: Partition,
    (expected, committed): (Option<Offset>, Option<&Committed>),
    by: &Mover,
) {
    log::warn!(
        "{by} moved the offsets of group {} in {}/{partition} (from {} to {}): continuing from there; ranges \
         planned before are void",
        config.connection.group,
        topic.name,
        shown(expected),
        shown(committed.map(|committed| committed.offset))
    );
}

/// Why a partition is not read whose offset a newer mb has committed.
///
/// # Errors
/// `Config` if mb is to end once it has caught up: with that partition it never would.
fn newer_mark(
    config: &Config,
    topic: &TopicInfo,
    partition: Partition,
    version: u32,
) -> Result<String> {
    let text = format!(
        "{}/{partition} is not read: its offset of group {} was committed by a newer mb (mark mb{version}; this mb \
         knows up to mb1), which may have written there what this one does not know; use that mb, or set the offset \
         anew with mb offsets",
        topic.name, config.connection.group
    );
    if config.until_caught_up {
        return Err(Error::Config(text));
    }
    log::error!("{text}");
    Ok(text)
}

/// The topic was deleted and created again since this mb read it last.
///
/// # Errors
/// `LogReplaced`, unless `--on-missing-offsets` is `skip`.
fn check_replaced(config: &Config, topic: &TopicInfo) -> Result<()> {
    let group = &config.connection.group;
    match config.on_missing_offsets {
        OnMissingOffsets::Halt => Err(Error::LogReplaced(format!(
            "topic {0} was deleted and created again since group {group} read it last (its id is {1} \
             now): its offsets belong to other records now",
            topic.name,
            topic.id.as_deref().unwrap_or_default()
        ))),
        OnMissingOffsets::Skip => {
            log::warn!(
                "topic {} was deleted and created again since group {group} read it last: starting \
                 with the new one (--on-missing-offsets skip)",
                topic.name
            );
            Ok(())
        }
    }
}

/// How partitions without offsets begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// The group is known: partitions came since, or the whole topic is new.
    AtItsBeginning,
    AsConfigured,
}

/// Where partitions without offsets start.
struct Starts {
    now: Vec<(Partition, Offset)>,
    /// Those that have no leader.
    late: BTreeMap<Partition, LateStart>,
}

/// Where partitions without offsets start. `moved`: their offsets were deleted by somebody, so
/// `--from` holds for them as for a new group.
fn starts(
    config: &Config,
    topic: &TopicInfo,
    marks: &BTreeMap<Partition, Watermarks>,
    fresh: &[(Partition, bool)],
    begin: Begin,
) -> Result<Starts> {
    let mut starts = Starts { now: Vec::new(), late: BTreeMap::new() };
    for (partition, moved) in fresh {
        let at = match config.from {
            _ if begin == Begin::AtItsBeginning && !moved => LateStart::Beginning,
            StartFrom::Earliest => LateStart::Beginning,
            StartFrom::Latest => LateStart::End,
            StartFrom::Committed => {
                return Err(Error::Config(format!(
                    "--from committed: group {} has no committed offset for {}/{partition}; use \
                     --from earliest or --from latest, or set one with mb offsets",
                    config.connection.group, topic.name
                )));
            }
        };
        match (marks.get(partition), at) {
            (Some(marks), LateStart::Beginning) => starts.now.push((*partition, marks.beginning)),
            (Some(marks), LateStart::End) => starts.now.push((*partition, marks.end)),
            // Its stored ranges are void from the offset on that it starts at, which nobody knows.
            (None, _) if *moved => {
                let (topic, partition) = (topic.name.clone(), *partition);
                return Err(Error::NoLeader { topic, partition });
            }
            (None, at) => {
                starts.late.insert(*partition, at);
            }
        }
    }
    Ok(starts)
}

/// An unfinished run is read again by the same client or a richer one: its content must not
/// differ between its tries.
fn check_clients(backend: Backend, recorded: &BTreeMap<Partition, Recorded>) -> Result<()> {
    let runs = recorded.values().flat_map(|recorded| &recorded.runs);
    for run in runs.filter(|run| !run.state.is_done() && run.state != RunState::Voided) {
        if let Some(client) = run.client
            && !backend.reads_all_of(client)
        {
            return Err(Error::Config(format!(
                "--client {backend}: unfinished runs in the history were read by client {client}, \
                 which {backend} cannot stand in for; start mb with --client {client} until they \
                 are done"
            )));
        }
    }
    Ok(())
}

fn tell(resumes: &BTreeMap<Partition, Resume>) {
    let stored = || resumes.values().flat_map(|resume| &resume.stored);
    let finished = stored().filter(|stored| stored.is_finished()).count();
    let unfinished: usize = stored().map(|stored| stored.parts.len()).sum();
    if unfinished + finished > 0 {
        log::info!(
            "continuing after an earlier mb: {unfinished} unfinished run(s) are repeated with the same \
             ranges, {finished} batch(es) finished above the committed offsets are skipped"
        );
    }
}

fn shown(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "none".to_owned(), |offset| offset.to_string())
}
