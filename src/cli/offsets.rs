//! `mb offsets`: moves the committed offsets of a group, as `kafka-consumer-groups --reset-offsets` does, and
//! voids what the history had planned for the old ones. Without `--execute` it only shows the new offsets.
//!
//! The offsets are planned in `commit::move_plan` and committed in `commit::reset`.

use std::path::Path;

use log::{info, warn};
use serde::Serialize;

use crate::cli::errors::{either, usage};
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{connect, output, values};
use crate::commit::move_plan::{self, Move, Target};
use crate::config::data_dir::DataDir;
use crate::config::rights;
use crate::config::{Client, Connection};
use crate::history;
use crate::history::reset::Reset;
use crate::kafka::{Broker, TopicInfo};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

flags! {
    #[argh(
        description = "Moves the committed offsets of the group, as Kafka's consumer-groups tool does with --reset-offsets: \
            processing continues at the new offsets, and records behind them that were processed before are \
            processed again. Without --execute it only shows the new offsets. No mb may run on the data \
            directory; move the cursor of a running mb on its page.\n\
            \n\
            TIME is 2026-11-24T06:10:30Z, or has an offset such as +01:00. Without either it is UTC, and a date \
            alone is its midnight.",
        example = "mb offsets --topic orders --group mb --to-earliest --execute\n\
            mb offsets --to-datetime 2026-11-24T06:00:00Z\n\
            mb offsets --shift-by -10 --partition 3 --execute"
    )]
    struct OffsetsFlags {
        "Target (one of them)": {
            /// to the first record in the log
            #[argh(switch)]
            to_earliest: bool,

            /// to the log's end, after all records
            #[argh(switch)]
            to_latest: bool,

            /// to the first record with this timestamp or a later one, or to the log's end if there is none
            #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
            to_datetime: Option<i64>,

            /// to this offset, which must lie in the log
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, { i64::MAX as u64 }, _>))]
            to_offset: Option<i64>,

            /// by N from the committed offset: forward, or backward if N is negative; at most to the log's end or
            /// beginning
            #[argh(option, arg_name = "N", from_str_fn(values::signed))]
            shift_by: Option<i64>,
        }
        "What to do": {
            /// only this partition (if not set: all partitions)
            #[argh(option, arg_name = "P", from_str_fn(values::whole::<0, { i32::MAX as u64 }, _>))]
            partition: Option<i32>,

            /// commit the new offsets (if not set, nothing is changed)
            #[argh(switch)]
            execute: bool,

            /// print one JSON array
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct OffsetsArgs {
    pub common: Common,
    pub target: Target,
    /// One partition rather than all.
    pub partition: Option<Partition>,
    /// Commit the new offsets rather than only show them.
    pub execute: bool,
    pub json: bool,
}

impl Command for OffsetsFlags {
    const NAME: &'static str = "offsets";
    const SUMMARY: &'static str = "move the committed offsets of the group";
    const USAGE: &'static [&'static str] = &["[FLAGS] TARGET"];
    type Args = OffsetsArgs;

    fn check(self) -> Result<OffsetsArgs> {
        Ok(OffsetsArgs {
            common: self.common()?,
            target: self.target()?,
            partition: self.partition,
            execute: self.execute,
            json: self.json,
        })
    }

    fn run(args: OffsetsArgs, _: &Terminal) -> Result<()> {
        run(&args)
    }
}

impl OffsetsFlags {
    fn target(&self) -> Result<Target> {
        let targets = [
            ("--to-earliest", self.to_earliest.then_some(Target::Earliest)),
            ("--to-latest", self.to_latest.then_some(Target::Latest)),
            ("--to-datetime", self.to_datetime.map(Target::Time)),
            ("--to-offset", self.to_offset.map(|offset| Target::Offset(Offset::new(offset)))),
            ("--shift-by", self.shift_by.map(Target::Shift)),
        ];
        let names = || either(&targets.map(|(name, _)| name));
        let mut given = targets.iter().filter_map(|(name, target)| Some((name, (*target)?)));
        match (given.next(), given.next()) {
            (Some((_, target)), None) => Ok(target),
            (None, _) => usage(format!("target: got none, expected {}", names())),
            (Some((first, _)), Some((second, _))) => {
                usage(format!("{second}: got {first} as well, expected one of {}", names()))
            }
        }
    }
}

const HEADING: [&str; 6] =
    ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "NEW-OFFSET", "LAG-AFTER"];

/// One partition's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    group: String,
    topic: String,
    partition: Partition,
    current_offset: Option<i64>,
    new_offset: i64,
    lag_after: i64,
}

fn run(args: &OffsetsArgs) -> Result<()> {
    let data_dir = &args.common.connection.data_dir;
    let held = if args.execute { hold(data_dir)? } else { None };
    let connected = connect::broker_under(held, &args.common, connect::Embedded::IfPresent)?;
    let (broker, connection) = (connected.broker.as_ref(), &connected.connection);
    info!(
        "offsets of group {} in topic {}: {}",
        connection.group,
        connection.topic,
        broker.describe()
    );
    let topic = broker.topic(&connection.topic)?;
    let partitions = connect::partitions(&topic, args.partition)?;
    let targets: Vec<_> =
        partitions.into_iter().map(|partition| (partition, args.target)).collect();
    let moves = move_plan::plan(broker, &connection.group, &topic, &targets)?;
    for note in moves.iter().filter_map(|planned| planned.note(&topic.name)) {
        warn!("{note}");
    }
    if args.execute {
        execute(broker, connection, &topic, &moves)?;
    }
    print(connection, &moves, args.json)?;
    if args.execute {
        info!("committed the new offsets of group {}", connection.group);
    } else {
        info!("dry run: nothing was changed; run it with --execute to commit the new offsets");
    }
    Ok(())
}

/// The lock on the data directory, so that no mb starts there during the move; `None` if the directory does not
/// exist, because then no mb uses it.
fn hold(data_dir: &Path) -> Result<Option<DataDir>> {
    rights::check(data_dir)?;
    if !data_dir.exists() {
        return Ok(None);
    }
    if let Some(holder) = DataDir::holder(data_dir) {
        return Err(Error::Config(format!(
            "--execute: {holder} runs on {} and would commit over the new offsets; stop it first",
            data_dir.display()
        )));
    }
    DataDir::lock(data_dir).map(Some)
}

/// Commits the new offsets, and voids in the history what was planned for the old ones.
fn execute(
    broker: &dyn Broker,
    connection: &Connection,
    topic: &TopicInfo,
    moves: &[Move],
) -> Result<()> {
    let path = connection.data_dir.join(history::FILE);
    let resets: Vec<_> = moves.iter().map(reset).collect();
    crate::commit::reset::execute(broker, &connection.group, topic, &path, &resets)
}

fn reset(planned: &Move) -> Reset {
    let Move { partition, from, to, .. } = *planned;
    Reset { partition, from, to, epoch: None }
}

fn print(connection: &Connection, moves: &[Move], json: bool) -> Result<()> {
    let row = |planned: &Move| Row {
        group: connection.group.clone(),
        topic: connection.topic.clone(),
        partition: planned.partition,
        current_offset: planned.from.map(Offset::get),
        new_offset: planned.to.get(),
        lag_after: (planned.marks.end.get() - planned.to.get()).max(0),
    };
    let rows: Vec<Row> = moves.iter().map(row).collect();
    if json {
        return output::print_json(&rows);
    }
    let cells: Vec<_> = rows
        .into_iter()
        .map(|row| {
            [
                row.group,
                row.topic,
                row.partition.to_string(),
                row.current_offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
                row.new_offset.to_string(),
                row.lag_after.to_string(),
            ]
        })
        .collect();
    output::print_table(HEADING, &cells)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::history::recovery::{self, Decision, Resume};
    use crate::history::scope::ScopeKey;
    use crate::history::{ScopeId, schema, scope};
    use crate::kafka::embedded::Embedded;
    use crate::kafka::{Committed, Message};
    use crate::model::offset::{Epoch, LastRead};

    /// A topic `t` of two partitions with ten records each, where group `mb` is at 4 in the first.
    struct World {
        topics: Embedded,
        connection: Connection,
        _folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let topics = Embedded::open(folder.path(), 1 << 20).unwrap();
            topics.create_topic("t", 2).unwrap();
            let mut producer = topics.producer("t").unwrap();
            for partition in [0, 1] {
                for _ in 0..10 {
                    let message = Message { partition, key: None, value: Some(b"v"), headers: &[] };
                    producer.send(message, Duration::from_secs(10)).unwrap();
                }
            }
            assert_eq!(producer.flush(Duration::from_secs(10)), Ok(0));
            topics.commit("mb", "t", &[(0, Offset::new(4))]).unwrap();
            let connection = Connection {
                topic: "t".into(),
                data_dir: folder.path().to_owned(),
                ..Connection::default()
            };
            World { topics, connection, _folder: folder }
        }

        /// In the first partition 4 is confirmed, and a commit of 8 was sent; behind it is a run that
        /// is done and one that is not.
        fn history_as_mb_left_it(&self) -> (rusqlite::Connection, ScopeId) {
            let db = schema::open(&self.connection.data_dir.join(history::FILE)).unwrap();
            let info = self.topics.topic("t").unwrap();
            let key = ScopeKey::of(self.topics.backend(), "mb", &info);
            let scope = scope::find_or_add(&db, &key).unwrap();
            let at = Offset::new(4);
            let began = Resume { position: at, committed: Some(at), read: None, stored: vec![] };
            recovery::begin(&db, scope, 0, &began).unwrap();
            let planned = format!(
                "INSERT INTO intents(scope, partition, committing) VALUES ({0}, 0, 8); \
                 INSERT INTO runs(scope, client, partition, first_offset, last_offset, state, \
                 attempts, records, bytes, queued_ms) VALUES \
                 ({0}, 'embedded', 0, 4, 7, {1}, 0, 4, 4, 0), \
                 ({0}, 'embedded', 0, 8, 9, {2}, 1, 2, 2, 0)",
                scope.0,
                crate::model::run::RunState::Queued.code(),
                crate::model::run::RunState::Succeeded.code()
            );
            db.execute_batch(&planned).unwrap();
            let recorded = recovery::recorded(&db, scope).unwrap();
            assert_eq!((recorded[&0].runs.len(), recorded[&0].intents.len()), (2, 1));
            (db, scope)
        }

        fn plan(&self, target: Target, only: Option<Partition>) -> Result<Vec<Move>> {
            let info = self.topics.topic("t").unwrap();
            let partitions = connect::partitions(&info, only)?;
            let targets: Vec<_> = partitions.iter().map(|partition| (*partition, target)).collect();
            move_plan::plan(&self.topics, &self.connection.group, &info, &targets)
        }

        fn news(&self, target: Target, only: Option<Partition>) -> Vec<(Partition, i64)> {
            let moves = self.plan(target, only).unwrap();
            moves.iter().map(|planned| (planned.partition, planned.to.get())).collect()
        }
    }

    #[test]
    fn each_target_leads_to_an_offset_in_the_log() {
        let world = World::new();
        assert_eq!(world.news(Target::Earliest, None), [(0, 0), (1, 0)]);
        assert_eq!(world.news(Target::Latest, None), [(0, 10), (1, 10)]);
        assert_eq!(world.news(Target::Time(0), None), [(0, 0), (1, 0)]);
        assert_eq!(world.news(Target::Time(i64::MAX), Some(1)), [(1, 10)]);
        assert_eq!(world.news(Target::Offset(Offset::new(3)), None), [(0, 3), (1, 3)]);
        assert_eq!(world.news(Target::Shift(-3), Some(0)), [(0, 1)]);
        assert_eq!(world.news(Target::Shift(0), Some(0)), [(0, 4)]);
    }

    #[test]
    fn a_shift_ends_at_the_log_s_beginning_or_end() {
        let world = World::new();
        for (by, new) in [(i64::MAX, 10), (7, 10), (-5, 0), (i64::MIN, 0)] {
            let moves = world.plan(Target::Shift(by), Some(0)).unwrap();
            assert_eq!(moves[0].to.get(), new, "{by}");
            assert!(moves[0].note("t").is_some(), "{by}");
        }
        assert!(world.plan(Target::Shift(6), Some(0)).unwrap()[0].note("t").is_none());
    }

    #[test]
    fn a_named_offset_outside_the_log_is_refused_as_over_the_api() {
        let world = World::new();
        let offset = Offset::new(11);
        let error = world.plan(Target::Offset(offset), Some(0)).unwrap_err();
        let info = world.topics.topic("t").unwrap();
        let api = crate::commit::reset::plan(&world.topics, "mb", &info, &[(0, offset)]);
        assert_eq!(api.unwrap_err(), error);
        assert_eq!(
            error,
            Error::Usage(
                "offset: got 11 for t/0, expected one in its log, from 0 to its end 10".into()
            )
        );
        assert_eq!(
            world.news(Target::Offset(Offset::new(10)), Some(0)),
            [(0, 10)],
            "its end is in it"
        );
    }

    #[test]
    fn a_shift_of_a_partition_without_a_committed_offset_is_refused() {
        let error = World::new().plan(Target::Shift(-1), None).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("no committed offset in t/1"), "{error}");
    }

    #[test]
    fn an_unknown_partition_is_refused() {
        let error = World::new().plan(Target::Earliest, Some(2)).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        let text = error.to_string();
        assert_eq!(text, "--partition: got 2, expected one of topic t, 0 to 1");
    }

    #[test]
    fn the_history_accepts_the_new_offset_as_its_own_and_voids_its_ranges() {
        let world = World::new();
        let path = world.connection.data_dir.join(history::FILE);
        let info = world.topics.topic("t").unwrap();
        let (_, scope) = world.history_as_mb_left_it();
        let at = |offset| Some(Offset::new(offset));
        for new in [4, 8, 0] {
            let moves = world.plan(Target::Offset(Offset::new(new)), Some(0)).unwrap();
            execute(&world.topics, &world.connection, &info, &moves).unwrap();
            let committed = world.topics.committed("mb", "t", &[0]).unwrap();
            assert_eq!(committed[&0], Ok(at(new)));
            let recorded = recovery::recorded(&schema::open(&path).unwrap(), scope).unwrap();
            let found = at(new).map(Committed::plain);
            let standing = recovery::decide(recorded.get(&0), found.as_ref(), "me");
            // The leader epoch of the record below it was looked up.
            let read = (new > 0).then(|| LastRead { end: Offset::new(new), epoch: Epoch::FIRST });
            let (position, committed) = (Offset::new(new), at(new));
            let resume = Resume { position, committed, read, stored: vec![] };
            assert_eq!(standing, Decision::Ours(resume), "moved to {new}");
        }
    }

    #[test]
    fn wherever_it_is_killed_the_next_start_goes_on_from_what_is_committed() {
        for (new, killed_before_the_commit) in
            [(4, true), (4, false), (8, true), (8, false), (0, true), (0, false)]
        {
            let world = World::new();
            let (db, scope) = world.history_as_mb_left_it();
            let moves = world.plan(Target::Offset(Offset::new(new)), None).unwrap();
            let resets: Vec<_> = moves.iter().map(reset).collect();
            assert_eq!(history::reset::intend(&db, scope, &resets).unwrap().void_runs, 1);
            if !killed_before_the_commit {
                world.topics.commit("mb", "t", &[(0, Offset::new(new))]).unwrap();
            }
            // What `startup` asks the broker and the history.
            let committed =
                world.topics.group_offsets("mb", "t", &[0]).unwrap()[&0].clone().unwrap();
            let recorded = recovery::recorded(&db, scope).unwrap();
            let position = Offset::new(if killed_before_the_commit { 4 } else { new });
            // No stored ranges: a finished one would be skipped, although its offsets were requested again.
            let resume = Resume { position, committed: Some(position), read: None, stored: vec![] };
            assert_eq!(
                recovery::decide(recorded.get(&0), committed.as_ref(), "me"),
                Decision::Ours(resume),
                "to {new}, killed before the commit: {killed_before_the_commit}"
            );
            // The history knows nothing of partition 1, which starts with whatever is committed there.
            assert_eq!(recorded.get(&1), None);
        }
    }

    #[test]
    fn an_unusable_history_is_reported_before_anything_is_changed() {
        let world = World::new();
        std::fs::write(world.connection.data_dir.join(history::FILE), "garbage".repeat(999))
            .unwrap();
        let info = world.topics.topic("t").unwrap();
        let moves = world.plan(Target::Latest, None).unwrap();
        let error = execute(&world.topics, &world.connection, &info, &moves).unwrap_err();
        assert_eq!(error.exit_code(), 78, "{error}");
        let committed = world.topics.committed("mb", "t", &[0, 1]).unwrap();
        assert_eq!(committed, BTreeMap::from([(0, Ok(Some(Offset::new(4)))), (1, Ok(None))]));
    }

    #[test]
    fn a_missing_data_directory_needs_no_lock_and_is_not_created() {
        let world = World::new();
        let missing = world.connection.data_dir.join("none");
        assert!(hold(&missing).unwrap().is_none());
        assert!(!missing.exists());
    }
}
