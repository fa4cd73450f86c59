//! The main job on three brokers that are lost one after another under load: the leader of
//! partitions, the only broker that mb was told of, a group's coordinator; then all, in turn.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::cluster::{Cluster, Load, OFFSETS_TOPIC, offsets_partition};
use crate::support::faults::{RECOVERY, Row, each_seed};
use crate::support::files::{Files, assert_same};
use crate::support::kafka::{V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, raw, unique};

const LIMIT: Duration = Duration::from_secs(90);
/// Above the drain limit of 25 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PARTITIONS: i32 = 4;
const PER_SECOND: u32 = 1_000;
/// Between two looks at what mb has done.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Between two questions for what a group has committed.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// A fault comes by the seed within so much time, whatever mb is at.
const ANY_MOMENT_MS: std::ops::Range<u64> = 0..2_000;

/// Two clusters at once are too much for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How an mb is started.
struct Way {
    name: &'static str,
    /// It is told of the first victim alone, not of all three brokers.
    one_server: bool,
    more: &'static [&'static str],
}

const RDKAFKA: Way = Way { name: "rdkafka", one_server: false, more: &["--client", "rdkafka"] };
const RDKAFKA_ONE: Way = Way {
    name: "rdkafka, told of one broker",
    one_server: true,
    more: &["--client", "rdkafka", "--tick-runtime", "2", "--tick-interval", "100ms"],
};
const PURE_ONE: Way = Way {
    name: "kafka, told of one broker",
    one_server: true,
    more: &["--client", "kafka", "--tick-runtime", "2", "--tick-interval", "100ms"],
};

#[test]
fn row_11_a_3_9_cluster_loses_leader_and_coordinator_and_nothing_is_lost() {
    each_seed("row 11 on 3.9.1", |row| {
        brokers_lost(row, V3_9, &[RDKAFKA_ONE, PURE_ONE], &mut []);
    });
}

#[test]
fn row_11_a_4_4_cluster_loses_leader_coordinator_and_each_broker_and_nothing_is_lost() {
    each_seed("row 11 on 4.4.0", |row| {
        let mut in_turn = row.some_of(&[1, 2, 3]);
        brokers_lost(row, V4_4, &[RDKAFKA, RDKAFKA_ONE], &mut in_turn);
    });
}

/// Partition N of the topic is on broker N + 1 alone, and broker 3 is down when mb starts.
#[test]
fn a_partition_without_a_leader_stops_neither_the_start_nor_the_lag_of_the_others() {
    const VALUES: usize = 100;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start(V3_9);
    let topic = unique("spread");
    cluster.node(1).create_topic_on(&topic, &[1, 2, 3]);
    eventually(LIMIT, "there are coordinators", || cluster.committed("any", &topic, 3).is_some());
    cluster.wait_until_in_sync(&[OFFSETS_TOPIC]);
    let values: Vec<_> = (0..VALUES).map(|n| n.to_string().into_bytes()).collect();
    for partition in 0..3 {
        raw::produce(&cluster.bootstrap(), "none", &topic, partition, &values);
    }
    cluster.node(3).kill9();
    eventually(LIMIT, "partition 2 has no leader", || cluster.leaders(&topic)[&2] < 0);

    let servers = cluster.bootstrap();
    let mut jobs = Vec::new();
    for client in ["rdkafka", "kafka"] {
        let group = unique("group");
        let args = ["--bootstrap-server", &servers, "--topic", &topic, "--client", client];
        let job = ["--group", &group, "--listen", "off", "--step", "discard"];
        let mb = Mb::start(&[&args[..], &job, &["--tick-runtime", "2"]].concat());
        let has = |offsets: [i64; 3]| {
            let committed = cluster.committed(&group, &topic, 3);
            committed == Some((0..3).zip(offsets).collect())
        };
        eventually(LIMIT, &format!("{client}: the others are read"), || has([100, 100, 0]));

        let lag =
            Mb::run_in(mb.data_dir(), &[&["lag", "--json", "--group", &group], &args[..]].concat());
        let rows: serde_json::Value = serde_json::from_slice(&lag.stdout).unwrap();
        let lags: Vec<_> = (0..3).map(|row| rows[row]["lag"].as_i64()).collect();
        assert_eq!(lags, [Some(0), Some(0), None], "{rows}");
        let stderr = String::from_utf8_lossy(&lag.stderr);
        assert!(stderr.contains(&format!("{topic}/2 has no leader")), "{stderr}");
        assert_eq!(lag.status.code(), Some(1));
        jobs.push((client, group, mb));
    }
    cluster.node(3).restart();
    for (client, group, mut mb) in jobs {
        eventually(LIMIT, &format!("{client}: partition 2 follows"), || {
            let committed = cluster.committed(&group, &topic, 3);
            committed.is_some_and(|offsets| offsets.values().all(|offset| *offset == 100))
        });
        mb.term();
        assert_eq!(mb.wait(STOP_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    }
}

/// `in_turn`: those that are stopped by SIGTERM, one after another, and started again in the end.
fn brokers_lost(row: &mut Row, version: &str, ways: &[Way], in_turn: &mut [i32]) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start(version);
    let topic = unique("replicated");
    cluster.node(1).create_topic(&topic, PARTITIONS as u32, &[]);
    // The first question for a group makes the topic of offsets.
    eventually(LIMIT, "there are coordinators", || {
        cluster.committed("any", &topic, PARTITIONS).is_some()
    });
    let topics = [topic.as_str(), OFFSETS_TOPIC];
    cluster.wait_until_in_sync(&topics);
    let leader = cluster.leaders(&topic)[&row.random.i32(0..PARTITIONS)];
    row.random.shuffle(in_turn);

    let load = Load::start(&cluster, &topic, PER_SECOND);
    let jobs: Vec<_> = ways.iter().map(|way| Job::start(way, &cluster, &topic, leader)).collect();
    watched(&cluster, &jobs, || {
        let since = Instant::now();
        progress(&jobs, since, LIMIT, &format!("{version}: before the load and at its beginning"));
        check_commits(&cluster, &jobs);

        // It leads partitions, and is the only one that some were told of.
        thread::sleep(row.millis(ANY_MOMENT_MS));
        let lost = Instant::now();
        cluster.node(leader).kill9();
        progress(&jobs, lost, RECOVERY, &format!("{version}: a leader killed"));
        check_commits(&cluster, &jobs);
        cluster.node(leader).restart();
        cluster.wait_until_in_sync(&topics);

        let coordinator = cluster.coordinator(&jobs[0].group);
        thread::sleep(row.millis(ANY_MOMENT_MS));
        let lost = Instant::now();
        cluster.node(coordinator).kill9();
        progress(&jobs, lost, RECOVERY, &format!("{version}: the coordinator killed"));
        check_commits(&cluster, &jobs);
        cluster.node(coordinator).restart();
        cluster.wait_until_in_sync(&topics);

        for &node in &*in_turn {
            thread::sleep(row.millis(ANY_MOMENT_MS));
            let lost = Instant::now();
            cluster.node(node).term();
            cluster.node(node).restart();
            cluster.wait_until_in_sync(&topics);
            // Pauses count from the last call on, so the time of the restart is in it.
            let what = format!("{version}: broker {node} stopped in order and started again");
            progress(&jobs, lost, RECOVERY, &what);
        }
        check_commits(&cluster, &jobs);
    });
    let said = load.stop();
    assert!(said.acknowledged.len() > 10_000, "{} acknowledged", said.acknowledged.len());

    let servers = cluster.bootstrap();
    let in_log = raw::read_all(&servers, &topic);
    let by_place: BTreeMap<_, _> =
        in_log.iter().map(|record| ((record.partition, record.offset), &record.value)).collect();
    for (place, value) in &said.acknowledged {
        assert_eq!(by_place.get(place), Some(&&Some(value.clone())), "{place:?} in the log");
    }
    let ends: BTreeMap<_, _> =
        raw::watermarks(&servers, &topic).into_iter().map(|(p, (_, end))| (p, end)).collect();
    println!(
        "{version}: {} messages acknowledged, {} given up by the producer, {} in the log",
        said.acknowledged.len(),
        said.failed,
        in_log.len()
    );
    for mut job in jobs {
        eventually(LIMIT, &format!("{}: all is committed", job.name), || {
            cluster.committed(&job.group, &topic, PARTITIONS).as_ref() == Some(&ends)
        });
        job.mb.term();
        assert_eq!(job.mb.wait(STOP_LIMIT).code(), Some(0), "{}", job.mb.stderr().join("\n"));
        assert_same(&Files::read(job.out.path(), &topic).records(), &in_log);
        assert_eq!(raw::committed(&servers, &job.group, &topic), ends, "{}", job.name);
        let history = Connection::open(job.mb.data_dir().join("history.db")).unwrap();
        let sound = history.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(sound.unwrap(), "ok");
    }
}

/// A running mb, and what was seen of its progress.
struct Job {
    name: &'static str,
    topic: String,
    group: String,
    out: TempDir,
    mb: Mb,
    files: Mutex<Seen>,
    commits: Mutex<Seen>,
}

/// How far each partition has come, when that was seen first, and the longest pause before it.
#[derive(Default)]
struct Seen {
    reached: BTreeMap<i32, (i64, Instant)>,
    /// Of all partitions, since somebody took it last.
    longest: Duration,
}

impl Seen {
    fn update(&mut self, partition: i32, reached: i64) {
        let now = Instant::now();
        match self.reached.get(&partition) {
            Some((before, _)) if *before >= reached => return,
            Some((_, at)) => self.longest = self.longest.max(now - *at),
            None => {}
        }
        self.reached.insert(partition, (reached, now));
    }

    /// Whether every partition has come further after `moment`.
    fn moved_since(&self, moment: Instant) -> bool {
        let moved = self.reached.values().filter(|(_, at)| *at > moment);
        moved.count() == PARTITIONS as usize
    }
}

impl Job {
    fn start(way: &Way, cluster: &Cluster, topic: &str, only: i32) -> Job {
        let out = tempfile::tempdir().unwrap();
        let servers =
            if way.one_server { cluster.node(only).bootstrap() } else { cluster.bootstrap() };
        // All groups have one coordinator, and at first it is not the first victim.
        let leaders = cluster.leaders(OFFSETS_TOPIC);
        let group = loop {
            let group = unique("group");
            let other = leaders.iter().find(|(_, leader)| **leader != only);
            if other.is_none_or(|(partition, _)| *partition == offsets_partition(&group)) {
                break group;
            }
        };
        let path = out.path().to_str().unwrap();
        let mut args = vec!["--bootstrap-server", &servers, "--topic", topic, "--group", &group];
        args.extend(["--listen", "off", "--step", "files", "--out", path]);
        args.extend(way.more);
        let mb = Mb::start(&args);
        let (files, commits) = (Mutex::default(), Mutex::default());
        Job { name: way.name, topic: topic.to_owned(), group, out, mb, files, commits }
    }

    /// The ranges of all finished files, by partition.
    fn ranges(&self) -> BTreeMap<i32, Vec<(i64, i64)>> {
        let mut ranges = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let folder = self.out.path().join(&self.topic).join(partition.to_string());
            let mut found = file_ranges(&folder);
            found.sort_unstable();
            ranges.insert(partition, found);
        }
        ranges
    }

    fn look_at_files(&self) {
        for (partition, ranges) in self.ranges() {
            lock(&self.files).update(partition, ranges.last().map_or(0, |(_, last)| last + 1));
        }
    }

    fn look_at_commits(&self, cluster: &Cluster) {
        if let Some(committed) = cluster.committed(&self.group, &self.topic, PARTITIONS) {
            let mut commits = lock(&self.commits);
            for (partition, offset) in committed {
                commits.update(partition, offset);
            }
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `FIRST-LAST` of the files in a folder; those whose name begins with a dot are still written.
fn file_ranges(folder: &Path) -> Vec<(i64, i64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let range = |name: String| {
        let (first, last) = name.strip_suffix(".ndjson")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    names.filter_map(range).collect()
}

/// Runs `test` while threads look at all jobs.
fn watched(cluster: &Cluster, jobs: &[Job], test: impl FnOnce()) {
    let over = AtomicBool::new(false);
    // Set by a panic too, or the scope would wait for ever.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let _end = Over(&over);
        for job in jobs {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    job.look_at_files();
                    thread::sleep(LOOK_INTERVAL);
                }
            });
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    job.look_at_commits(cluster);
                    thread::sleep(ASK_INTERVAL);
                }
            });
        }
        test();
    });
}

/// Waits, at most for `limit`, until every job has written files and committed in every partition
/// after `since`; says how long each paused, which may not be longer either. Pauses since the last
/// call count too.
fn progress(jobs: &[Job], since: Instant, limit: Duration, what: &str) {
    // What was on its way at that moment is no progress.
    let settled = since + Duration::from_secs(2);
    let began = Instant::now();
    let mut pauses = BTreeMap::new();
    for job in jobs {
        for (kind, seen) in [("files", &job.files), ("commits", &job.commits)] {
            let left = limit.saturating_sub(began.elapsed());
            let waited_for = format!("{what}: {kind} of {} go on in each partition", job.name);
            eventually(left, &waited_for, || lock(seen).moved_since(settled));
            let pause = std::mem::take(&mut lock(seen).longest);
            assert!(pause <= limit, "{waited_for}: paused {pause:?}");
            pauses.insert((job.name, kind), pause.as_secs_f64());
        }
    }
    let longest = pauses.values().copied().fold(0.0, f64::max);
    let each: Vec<_> =
        pauses.iter().map(|((job, kind), pause)| format!("{job} {kind} {pause:.1}")).collect();
    println!("{what}: no progress for {longest:.1} s at most ({})", each.join(", "));
}

/// With mb frozen, nothing is committed that is not in a finished file.
fn check_commits(cluster: &Cluster, jobs: &[Job]) {
    for job in jobs {
        job.mb.signal(Signal::STOP);
        let mut committed = None;
        eventually(LIMIT, "the coordinator answers", || {
            committed = cluster.committed(&job.group, &job.topic, PARTITIONS);
            committed.is_some()
        });
        let ranges = job.ranges();
        job.mb.signal(Signal::CONT);
        for (partition, offset) in committed.unwrap_or_default() {
            let first_open = ranges[&partition]
                .iter()
                .fold(0, |next, (first, last)| if *first == next { last + 1 } else { next });
            assert!(
                offset <= first_open,
                "{}: {offset} is committed in {partition}, done up to {first_open}",
                job.name
            );
        }
    }
}
