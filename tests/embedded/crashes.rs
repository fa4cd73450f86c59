//! The built binary, killed at each named point between two steps of a record's way (`mb::model::crash`):
//! nothing is lost, no run changes, and what was recorded is not done again. Kills at random moments and
//! on real brokers: `kafka_crashes` and `faults_process`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mb::history::schema;
use mb::kafka::Broker;
use mb::kafka::embedded::Embedded;
use mb::model::crash::POINTS;

use crate::bad_input::data::{Data, LIMIT, TOPIC};
use crate::support::files::{Files, assert_same};
use crate::support::mb::Mb;

/// The passings of a point at which the process is killed, one process after the other.
const PASSINGS: [u32; 3] = [1, 2, 3];
/// Those of a point that a process may pass once only, because many runs are planned together.
const FIRST: [u32; 3] = [1, 1, 1];
/// Ten batches, which one worker takes a second for: time for more commits than are awaited.
const RECORDS_FOR_EACH: usize = 100;

/// One test for each point that the main job passes.
macro_rules! killed_when {
    ($($name:ident: $point:literal $passings:ident;)+) => {
        $(
            #[test]
            fn $name() {
                killed_at($point, $passings);
            }
        )+

        #[test]
        fn every_point_is_tested() {
            let elsewhere = ["dead-letter-acked", "split", "move-intended", "move-committed"];
            let tested: BTreeSet<_> = [$($point),+].into_iter().chain(elsewhere).collect();
            assert_eq!(tested, POINTS.iter().copied().collect());
        }
    };
}

killed_when! {
    nothing_is_lost_if_mb_is_killed_before_a_range_is_in_the_history: "cut" FIRST;
    nothing_is_lost_if_mb_is_killed_before_a_planned_run_starts: "planned" FIRST;
    nothing_is_lost_if_mb_is_killed_while_a_file_is_not_at_its_place: "half-written" PASSINGS;
    nothing_is_lost_if_mb_is_killed_between_step_and_history: "stepped" PASSINGS;
    nothing_is_lost_if_mb_is_killed_within_the_transaction_of_an_outcome: "recording" PASSINGS;
    nothing_is_lost_if_mb_is_killed_between_history_and_ledger: "recorded" PASSINGS;
    nothing_is_lost_if_mb_is_killed_between_intent_and_commit: "intended" PASSINGS;
    nothing_is_lost_if_mb_is_killed_between_commit_and_confirmation: "committed" PASSINGS;
    nothing_is_lost_if_mb_is_killed_after_a_confirmation: "confirmed" PASSINGS;
}

fn killed_at(point: &str, passings: [u32; 3]) {
    let mut data = Data::empty();
    let out = data.beside("out");
    let flags =
        flags(&["--step", "files", "--out", out.to_str().unwrap(), "--step-delay", "100ms"]);
    let mut before = Files::default();
    for passing in passings {
        post(&mut data, RECORDS_FOR_EACH, |number| format!("value {number}"));
        let mut mb = Mb::start_to_crash(&format!("{point}:{passing}"), data.path(), &flags);
        mb.wait_for_crash(LIMIT);
        let files = Files::read(&out, TOPIC);
        for (key, records) in &before.runs {
            assert!(files.runs.get(key) == Some(records), "{key} is another one than before");
        }
        let done = files.records().iter().map(|record| record.offset).collect::<BTreeSet<_>>();
        let committed = data.committed().get(&0).map_or(0, |offset| offset.get());
        let first_open = (0..).find(|offset| !done.contains(offset)).unwrap();
        assert!(committed <= first_open, "{committed} is committed, and {first_open} is not done");
        before = files;
    }
    let recorded = recorded(data.path());
    let times = modified(&out);
    let flags: Vec<&str> = flags.into_iter().chain(["--until-caught-up"]).collect();
    let mut mb = Mb::start_in(data.path(), &flags);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert_same(&Files::read(&out, TOPIC).records(), data.posted());
    assert_eq!(data.committed()[&0].get() as usize, data.posted().len());
    // A file that is written again is another one at its place.
    let again = modified(&out);
    for key in recorded {
        assert_eq!(again[&key], times[&key], "{key} was recorded as done, and is done again");
    }
    assert_sound(data.path());
}

fn flags<'a>(step: &[&'a str]) -> Vec<&'a str> {
    let base = ["--client", "embedded", "--topic", TOPIC, "--listen", "off"];
    let work = ["--max-batch", "10", "--max-concurrent-runs", "1", "--tick-interval", "100ms"];
    [&base[..], &work, step].concat()
}

fn post(data: &mut Data, count: usize, value: impl Fn(usize) -> String) {
    let first = data.posted().len();
    for number in first..first + count {
        data.post(None, Some(value(number).as_bytes()), &[]);
    }
}

/// First offsets of the runs that the history has as done.
fn recorded(data_dir: &Path) -> Vec<String> {
    let db = schema::open(&data_dir.join("history.db")).unwrap();
    let mut done = db.prepare("SELECT first_offset FROM runs WHERE state = 2").unwrap();
    let done = done.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    done.map(|first| format!("{:020}", first.unwrap())).collect()
}

/// When each finished file was written, by the first offset in its name.
fn modified(out: &Path) -> BTreeMap<String, std::time::SystemTime> {
    let files = fs::read_dir(out.join(TOPIC).join("0")).into_iter().flatten();
    let files = files.map(|file| file.unwrap()).filter_map(|file| {
        let name = file.file_name().into_string().unwrap();
        let first = name.split_once('-').filter(|_| !name.starts_with('.'))?.0.to_owned();
        Some((first, file.metadata().unwrap().modified().unwrap()))
    });
    files.collect()
}

/// The history is whole, and no run is left undone.
fn assert_sound(data_dir: &Path) {
    let db = schema::open(&data_dir.join("history.db")).unwrap();
    let said: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
    let undone = "SELECT count(*) FROM runs WHERE state IN (0, 1)";
    let undone: i64 = db.query_row(undone, [], |row| row.get(0)).unwrap();
    assert_eq!(undone, 0);
}

#[test]
fn a_killed_split_leaves_its_run_or_its_pieces() {
    let mut data = Data::empty();
    post(&mut data, RECORDS_FOR_EACH, |number| match number % 20 {
        7 => format!("poison {number}"),
        _ => format!("value {number}"),
    });
    let out = data.beside("out");
    let command = format!("tee -a {} | grep -q poison && exit 1 || exit 0", out.display());
    let step =
        ["--exec", &command, "--bisect", "--max-attempts", "1", "--on-outage", "dead-letter"];
    let flags = flags(&step);
    for passing in [1, 2, 5] {
        let mut mb = Mb::start_to_crash(&format!("split:{passing}"), data.path(), &flags);
        mb.wait_for_crash(LIMIT);
    }
    let flags: Vec<&str> = flags.into_iter().chain(["--until-caught-up"]).collect();
    let mut mb = Mb::start_in(data.path(), &flags);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let db = schema::open(&data.path().join("history.db")).unwrap();
    let mut letters = db.prepare("SELECT record_offset FROM dead_letters ORDER BY 1").unwrap();
    let letters = letters.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    let letters: Vec<_> = letters.map(Result::unwrap).collect();
    assert_eq!(letters, [7, 27, 47, 67, 87], "the poison alone, each once");
    let seen = fs::read_to_string(&out).unwrap();
    for number in 0..RECORDS_FOR_EACH {
        assert!(seen.contains(&format!("\"offset\":{number},")), "{number} is lost");
    }
    assert_sound(data.path());
}

#[test]
fn dead_letters_on_a_topic_survive_a_kill_before_they_are_recorded() {
    let mut data = Data::empty();
    post(&mut data, RECORDS_FOR_EACH, |number| format!("value {number}"));
    let step = ["--exec", "exit 65", "--dead-letter", "topic:letters"];
    let flags = flags(&step);
    for passing in PASSINGS {
        let at = format!("dead-letter-acked:{passing}");
        Mb::start_to_crash(&at, data.path(), &flags).wait_for_crash(LIMIT);
        assert_eq!(data.committed().get(&0).map_or(0, |offset| offset.get()) % 10, 0);
    }
    let flags: Vec<&str> = flags.into_iter().chain(["--until-caught-up"]).collect();
    let mut mb = Mb::start_in(data.path(), &flags);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let topics = Embedded::open(data.path(), 1 << 30).unwrap();
    let partitions = topics.topic("letters").unwrap().partitions;
    let marks = topics.watermarks("letters", &partitions).unwrap();
    let there: i64 = marks.values().map(|marks| marks.as_ref().unwrap().end.get()).sum();
    // A run's dead letters are written again if mb is killed before they are recorded, and no later run than
    // that of the kill was given up on.
    let again = i64::from(PASSINGS.iter().sum::<u32>()) * 10;
    let all = RECORDS_FOR_EACH as i64;
    assert!((all..=all + again).contains(&there), "{there} dead letters on the topic");
    assert_sound(data.path());
}

#[test]
fn offsets_that_a_person_moves_count_from_their_commit_on_wherever_the_command_is_killed() {
    for (point, moved) in [("move-intended", false), ("move-committed", true)] {
        let mut data = Data::empty();
        post(&mut data, RECORDS_FOR_EACH, |number| format!("value {number}"));
        let mut mb = Mb::start_in(
            data.path(),
            &[&flags(&["--step", "discard"])[..], &["--until-caught-up"]].concat(),
        );
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        let command = ["offsets", "--client", "embedded", "--topic", TOPIC];
        let command = [&command[..], &["--to-offset", "20", "--execute"]].concat();
        Mb::start_to_crash(point, data.path(), &command).wait_for_crash(LIMIT);
        let out = data.beside("out");
        let step = ["--step", "files", "--out", out.to_str().unwrap(), "--until-caught-up"];
        let mut mb = Mb::start_in(data.path(), &flags(&step));
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        let expected = if moved { &data.posted()[20..] } else { &[] };
        assert_same(&Files::read(&out, TOPIC).records(), expected);
    }
}
