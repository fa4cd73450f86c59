//! Dead letters in the history, with all that the records had: listed, shown, discarded, and redriven
//! in any process state. Those on a topic: `dead_letter_topic.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::support::eventually;
use crate::support::mb::Mb;
use crate::support::world::{
    Recorder, TOPIC, World, all, every_record_once, halt_after, history_file,
};
use mb::history::dead_letters::{self, DeadLetterRow, Pick, RedriveRequest, Selection};
use mb::history::schema;
use mb::kafka::{Broker, Message};
use mb::model::batch::Record;
use mb::step::{Attempt, FailedRecord, StepError};
use mb::{Config, Pipeline, Stopper};

const LIMIT: Duration = Duration::from_secs(60);

fn post(world: &World, message: Message<'_>) {
    let mut producer = world.topics.producer(TOPIC).unwrap();
    producer.send(message, LIMIT).unwrap();
    assert_eq!(producer.flush(LIMIT).unwrap(), 0);
}

fn mb(world: &World, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Mb::run_in(world.dir.path(), args);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What a command prints that succeeds, as JSON.
fn done(world: &World, args: &[&str]) -> Vec<serde_json::Value> {
    let (code, stdout, stderr) = mb(world, &[&["dead-letters", "--json"], args].concat());
    assert_eq!(code, Some(0), "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// The last line on stderr of a command that fails with `code`.
fn refused(world: &World, code: i32, args: &[&str]) -> String {
    let (got, stdout, stderr) = mb(world, &[&["dead-letters"], args].concat());
    assert_eq!((got, stdout.as_str()), (Some(code), ""), "{args:?}: {stderr}");
    stderr.lines().last().unwrap_or_default().to_owned()
}

/// Number, partition, offset, state, error and attempts of each letter.
fn letters(world: &World) -> Vec<(i64, i64, i64, String, String, i64)> {
    let selection = Selection { limit: 10_000, ..Selection::default() };
    let rows = dead_letters::list(&world.history(), &selection).unwrap();
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let DeadLetterRow { id, partition, offset, state, error, attempts, .. } = row;
            (id, i64::from(partition), offset, state, error, i64::from(attempts))
        })
        .collect();
    rows.sort();
    rows
}

fn states(world: &World) -> BTreeMap<(i64, i64), String> {
    letters(world)
        .into_iter()
        .map(|(_, partition, offset, state, ..)| ((partition, offset), state))
        .collect()
}

fn redrive_all(world: &World) -> Vec<RedriveRequest> {
    let mut db = schema::open(&history_file(world.dir.path())).unwrap();
    dead_letters::redrive(&mut db, &Pick::default()).unwrap()
}

/// Six letters: offsets 3 and 4 of each partition.
fn with_letters() -> World {
    let world = World::with_records(7);
    let name = |attempt: &mut Attempt<'_>| {
        let bad = attempt.batch.records().filter(|record| [3, 4].contains(&record.offset.get()));
        attempt.failed = bad
            .map(|record| FailedRecord { offset: record.offset, reason: "bad".into() })
            .collect();
    };
    world.run(world.config(), &Recorder::naming(name, |_| Ok(()))).unwrap();
    assert_eq!(letters(&world).len(), 6);
    world
}

#[test]
fn a_record_that_is_named_without_a_reason_has_a_text_all_the_same() {
    let world = World::with_records(7);
    let name = |attempt: &mut Attempt<'_>| {
        for (offset, reason) in [(2, ""), (3, " \t"), (4, "bad customer")] {
            attempt.fail(mb::model::offset::Offset::new(offset), reason);
        }
    };
    world.run(world.config(), &Recorder::naming(name, |_| Ok(()))).unwrap();
    let errors: BTreeSet<_> =
        letters(&world).into_iter().map(|(_, _, offset, _, error, _)| (offset, error)).collect();
    let none = "the step named this record as failed, without a reason";
    let expected = [(2, none), (3, none), (4, "bad customer")];
    assert_eq!(errors, expected.map(|(offset, text)| (offset, text.to_owned())).into());
}

#[test]
fn a_redrive_that_is_asked_for_while_mb_is_away_is_made_at_the_next_start() {
    let world = with_letters();
    let asked = done(&world, &["redrive", "--all"]);
    assert_eq!((asked[0]["request"].as_i64(), asked[0]["letters"].as_i64()), (Some(1), Some(6)));
    assert!(states(&world).values().all(|state| state == "redriving"));
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    let keys: Vec<String> = step.done.lock().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        ["orders/0/3-4.redrive-1", "orders/1/3-4.redrive-1", "orders/2/3-4.redrive-1"]
    );
    let content = &step.done.lock().unwrap()["orders/1/3-4.redrive-1"];
    assert_eq!(content[0], (3, Some(b"1-3".to_vec())), "from the stored payload");
    assert!(states(&world).values().all(|state| state == "redriven"));
    assert_eq!(world.committed("mb"), all(7));
    let runs = done_runs(&world, 1);
    assert_eq!(runs, 3, "mb runs --request shows them");
    // And never again.
    let later = Recorder::new(|_| Ok(()));
    world.run(world.config(), &later).unwrap();
    assert!(later.attempts.lock().unwrap().is_empty());
}

fn done_runs(world: &World, request: i64) -> usize {
    let (code, stdout, stderr) =
        mb(world, &["runs", "--json", "--state", "succeeded", "--request", &request.to_string()]);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str::<Vec<serde_json::Value>>(&stdout).unwrap().len()
}

#[test]
fn a_redrive_that_fails_again_leaves_one_open_letter_with_the_new_error_and_all_attempts() {
    let world = with_letters();
    redrive_all(&world);
    let step = Recorder::new(|attempt| {
        assert!(attempt.key.reprocess.is_some(), "{}", attempt.key);
        Err(StepError::Retry("worse".into()))
    });
    world.run(Config { max_attempts: 2, ..world.config() }, &step).unwrap();
    for (_, _, _, state, error, attempts) in letters(&world) {
        assert_eq!((state.as_str(), error.as_str(), attempts), ("open", "worse", 3));
    }
    assert_eq!(letters(&world).len(), 6);
    redrive_all(&world);
    let mended = Recorder::new(|_| Ok(()));
    world.run(world.config(), &mended).unwrap();
    assert!(mended.done.lock().unwrap().keys().all(|key| key.ends_with(".redrive-2")));
    assert!(states(&world).values().all(|state| state == "redriven"));
}

#[test]
fn of_a_redrive_only_the_records_that_fail_again_are_open_again() {
    for bisect in [true, false] {
        let world = with_letters();
        redrive_all(&world);
        let is_bad = |record: &Record<'_>| record.value == Some(b"1-4");
        let config = Config { bisect, max_attempts: 1, ..world.config() };
        if bisect {
            let step = Recorder::new(move |attempt| {
                let bad = attempt.batch.records().any(|record| is_bad(&record));
                if bad { Err(StepError::Retry("still bad".into())) } else { Ok(()) }
            });
            world.run(config, &step).unwrap();
        } else {
            let name = move |attempt: &mut Attempt<'_>| {
                let bad = attempt.batch.records().filter(is_bad);
                attempt.failed = bad
                    .map(|record| FailedRecord {
                        offset: record.offset,
                        reason: "still bad".into(),
                    })
                    .collect();
            };
            let retry_named = |attempt: &Attempt<'_>| {
                if attempt.failed.is_empty() {
                    Ok(())
                } else {
                    Err(StepError::RetryFailed("some".into()))
                }
            };
            let config = Config { max_attempts: 2, ..config };
            world.run(config, &Recorder::naming(name, retry_named)).unwrap();
        }
        for ((partition, offset), state) in states(&world) {
            let expected = if (partition, offset) == (1, 4) { "open" } else { "redriven" };
            assert_eq!(state, expected, "{partition}/{offset}, bisect {bisect}");
        }
        let open = letters(&world).into_iter().find(|letter| letter.3 == "open").unwrap();
        assert_eq!(open.4, "still bad");
        let requests: i64 = world
            .history()
            .query_row("SELECT count(*) FROM requests WHERE state = 0", [], |row| row.get(0))
            .unwrap();
        assert_eq!(requests, 0, "the request is done");
    }
}

#[test]
fn a_redrive_that_was_cut_short_comes_again_under_its_keys() {
    let world = with_letters();
    redrive_all(&world);
    let step = halt_after("orders/1/3-4.redrive-1", 2);
    let config = Config { max_attempts: 1000, ..world.config() };
    let error = world.run(config, &step).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    let second = Recorder::new(|_| Ok(()));
    // Other limits: the run is as it was.
    world.run(Config { max_batch: 1, ..world.config() }, &second).unwrap();
    assert_eq!(
        second.done.lock().unwrap().keys().collect::<Vec<_>>(),
        ["orders/1/3-4.redrive-1"],
        "only what was not done"
    );
    assert!(states(&world).values().all(|state| state == "redriven"));
}

#[test]
fn a_running_mb_redrives_and_discards_at_once_and_the_commands_say_what_cannot_be() {
    let world = with_letters();
    let ids: Vec<String> = letters(&world).iter().map(|letter| letter.0.to_string()).collect();
    let step = Recorder::new(|_| Ok(()));
    let (stopper, stop) = Stopper::new();
    let pipeline = {
        let step: Arc<dyn mb::step::Step> = Arc::<Recorder>::clone(&step);
        let config = Config { until_caught_up: false, ..world.config() };
        let pipeline = Pipeline::new(config, step).with_broker(Arc::new(world.topics.clone()));
        std::thread::spawn(move || pipeline.run(&stop))
    };
    let socket = world.dir.path().join("control.sock");
    eventually(LIMIT, "mb listens", || socket.exists());
    let asked = done(&world, &["redrive", &ids[0]]);
    assert_eq!(asked[0]["letters"], 1);
    eventually(LIMIT, "the letter is redriven", || letters(&world)[0].3 == "redriven");
    let discarded = done(&world, &["discard", &ids[1], &ids[2], "--note", "test data"]);
    assert_eq!(discarded[0]["discarded"], 2);
    for (args, says) in [
        (vec!["redrive", &ids[0]], "is redriven already"),
        (vec!["redrive", &ids[1]], "is discarded already"),
        (vec!["redrive", &ids[3], "999"], "dead letter 999 is not in the history"),
        (vec!["discard", "--all", "--error", "nothing like it", "--note", "x"], "no open one fits"),
        (vec!["redrive", &ids[3], "--topic", "other"], "is of another topic"),
        (vec!["show", "999"], "never existed"),
    ] {
        let line = refused(&world, 1, &args);
        assert!(line.contains(says), "{args:?}: {line}");
    }
    let usage = [
        (vec!["redrive"], "expected ID… or --all after redrive"),
        (vec!["redrive", "--all", "7"], "expected only one of them"),
        (vec!["discard", &ids[3]], "expected --note TEXT"),
        (vec!["show"], "expected one"),
        (vec!["list", "--state", "gone"], "expected open, redriving"),
        (vec!["lift"], "expected list, show, edit, revert, redrive or discard"),
        (vec![], "expected list, show, edit, revert, redrive or discard"),
        (vec!["list", "--note", "x"], "expected it only with discard"),
        (vec!["redrive", "one"], "expected a number"),
    ];
    for (args, says) in usage {
        let line = refused(&world, 64, &args);
        assert!(line.contains(says), "{args:?}: {line}");
    }
    let (_, partition, offset, ..) = letters(&world)[1].clone();
    let shown = &done(&world, &["show", &ids[1]])[0];
    assert_eq!((&shown["state"], &shown["note"]), (&"discarded".into(), &"test data".into()));
    let value = format!("{partition}-{offset}");
    assert_eq!((&shown["record"]["value"], &shown["error"]), (&value.into(), &"bad".into()));
    let counts = &done(&world, &["list", "--by-error"])[0];
    assert_eq!((&counts["letters"], &counts["error"]), (&3.into(), &"bad".into()));
    assert_eq!(done(&world, &["list", "--limit", "2"]).len(), 2, "open ones");
    assert_eq!(done(&world, &["list", "--state", "all"]).len(), 6);
    stopper.stop();
    pipeline.join().unwrap().unwrap();
    // The same without an mb.
    let line = refused(&world, 1, &["redrive", &ids[0]]);
    assert!(line.contains("is redriven already"), "{line}");
    assert_eq!(done(&world, &["list", "--state", "all"]).len(), 6);
}

#[test]
fn without_a_history_every_action_says_so_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    for args in
        [&["list"][..], &["show", "1"], &["redrive", "--all"], &["discard", "1", "--note", "x"]]
    {
        let output = Mb::run_in(dir.path(), &[&["dead-letters"], args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert!(stderr.contains("there is no history at"), "{stderr}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_redriven_record_has_its_headers_and_timestamp() {
    let world = World::new();
    let headers: [(&str, Option<&[u8]>); 2] = [("trace", Some(b"7")), ("empty", None)];
    post(&world, Message { partition: 0, key: Some(b"k"), value: None, headers: &headers });
    world.run(world.config(), &Recorder::new(|_| Err(StepError::DeadLetter("no".into())))).unwrap();
    redrive_all(&world);
    let step = Recorder::new(move |attempt| {
        let record = attempt.batch.records().next().unwrap();
        let encoded = mb::model::headers::Headers::encode([("trace", Some("7")), ("empty", None)]);
        assert_eq!(record.headers.encoded(), encoded);
        assert_eq!((record.key, record.value), (Some(&b"k"[..]), None));
        assert!(record.timestamp.is_some_and(|at| at > 0));
        Ok(())
    });
    let summary = world.run(world.config(), &step).unwrap();
    assert_eq!((summary.runs_succeeded, summary.runs_failed), (1, 0));
}

#[test]
fn header_bytes_that_are_no_text_are_shown_whole() {
    let world = World::new();
    let headers: [(&str, Option<&[u8]>); 3] =
        [("trace", Some(b"\xff\x00")), ("trace", None), ("text", Some(b"7"))];
    post(&world, Message { partition: 0, key: None, value: Some(b"v"), headers: &headers });
    world.run(world.config(), &Recorder::new(|_| Err(StepError::DeadLetter("no".into())))).unwrap();
    let shown = serde_json::json!([
        {"key": "trace", "value_base64": "/wA="},
        {"key": "trace", "value": null},
        {"key": "text", "value": "7"},
    ]);
    assert_eq!(done(&world, &["show", "1"])[0]["record"]["headers"], shown);
    let (_, text, _) = mb(&world, &["dead-letters", "show", "1"]);
    assert!(text.contains("trace: (base64) /wA=") && text.contains("trace: (null)"), "{text}");
}

#[test]
fn resolved_letters_go_with_the_history_and_open_ones_stay() {
    let world = with_letters();
    let ids: Vec<i64> = letters(&world).iter().map(|letter| letter.0).collect();
    let mut db = schema::open(&history_file(world.dir.path())).unwrap();
    let pick = |ids: &[i64]| Pick { ids: ids.to_vec(), ..Pick::default() };
    dead_letters::discard(&mut db, &pick(&ids[..1]), "not needed").unwrap();
    dead_letters::redrive(&mut db, &pick(&ids[1..2])).unwrap();
    drop(db);
    for partition in 0..3 {
        (0..7).for_each(|_| world.post(partition, b"more"));
    }
    world
        .run(Config { history_keep: 1, max_batch: 1, ..world.config() }, &Recorder::new(|_| Ok(())))
        .unwrap();
    // The redrive may have had the newest run of all, which is kept.
    world.post(0, b"more");
    world.run(Config { history_keep: 1, ..world.config() }, &Recorder::new(|_| Ok(()))).unwrap();
    let left: Vec<(i64, String)> =
        letters(&world).into_iter().map(|letter| (letter.0, letter.3)).collect();
    let open: Vec<_> = ids[2..].iter().map(|id| (*id, "open".to_owned())).collect();
    assert_eq!(left, open);
}

#[test]
fn letters_of_one_offset_are_one_record_or_wait_for_another_redrive() {
    let world = with_letters();
    let db = schema::open(&history_file(world.dir.path())).unwrap();
    let copy = |value: &str| {
        db.execute(
            &format!(
                "INSERT INTO dead_letters(scope, run, run_key, topic, partition, record_offset, \
                 timestamp_ms, key, value, error, attempts, at_ms) SELECT scope, run, run_key, topic, \
                 partition, record_offset, timestamp_ms, key, {value}, error, attempts, at_ms \
                 FROM dead_letters WHERE id = 1"
            ),
            [],
        )
        .unwrap();
    };
    copy("value");
    copy("X'00'");
    drop(db);
    let asked = redrive_all(&world);
    assert_eq!((asked[0].letters, asked[0].left), (7, 1));
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    assert_eq!(step.attempts.lock().unwrap().len(), 3);
    let open: Vec<i64> =
        letters(&world).into_iter().filter(|letter| letter.3 == "open").map(|l| l.0).collect();
    assert_eq!(open, [8], "the one with other bytes");
}

/// Whatever fails, halts and is redriven in whatever order: each record is done or an open letter.
#[test]
fn after_any_sequence_each_record_is_done_or_an_open_letter() {
    for seed in 0..8 {
        let world = World::with_records(20);
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut done = BTreeSet::new();
        for round in 0..8 {
            let last = round == 7;
            let seed = chance.u64(..);
            let step = Recorder::new(move |attempt| {
                let mut chance = fastrand::Rng::with_seed(
                    seed ^ attempt.key.range.first.get() as u64 ^ u64::from(attempt.number) << 20,
                );
                match chance.u8(0..20) {
                    0 if !last => Err(StepError::Stop("halt".into())),
                    1..=6 => Err(StepError::Retry("again".into())),
                    7 | 8 => Err(StepError::DeadLetter("never".into())),
                    _ => Ok(()),
                }
            });
            let config = Config {
                bisect: chance.bool(),
                max_batch: chance.usize(1..9),
                max_attempts: chance.u32(1..3),
                ..world.config()
            };
            let outcome = world.run(config, &step);
            assert!(outcome.is_ok() || !last, "seed {seed}: {outcome:?}");
            done.extend(step.done_records());
            if !last && chance.bool() {
                let mut db = schema::open(&history_file(world.dir.path())).unwrap();
                // Nothing may be open.
                let _ = dead_letters::redrive(&mut db, &Pick::default());
            }
        }
        let found = states(&world);
        for (partition, offset) in every_record_once(20) {
            let place = (partition.parse().unwrap(), offset);
            let open = found.get(&place).is_some_and(|state| state == "open");
            let is_done = done.contains(&(partition, offset));
            assert!(is_done || open, "seed {seed}: {place:?} is lost; {:?}", found.get(&place));
            let state = found.get(&place).map(String::as_str);
            assert!(state != Some("redriving"), "seed {seed}: {place:?} is stuck");
        }
        assert_eq!(world.committed("mb"), all(20), "seed {seed}");
    }
}

/// Runs the command until it is caught up, with so much memory; its log.
fn caught_up(world: &World, queue_bytes: &str) -> String {
    let flags = ["--client", "embedded", "--topic", TOPIC, "--until-caught-up", "--listen", "off"];
    let memory = ["--step", "discard", "--max-batch-bytes", "16KiB", "--queue-bytes", queue_bytes];
    let mut mb = Mb::start_in(world.dir.path(), &[&flags[..], &memory].concat());
    let code = mb.wait(LIMIT).code();
    let log = mb.stderr().join("\n");
    assert_eq!(code, Some(0), "{log}");
    log
}

#[test]
fn a_redrive_that_needs_more_memory_is_named_at_the_end_and_waits_for_another_mb() {
    let world = World::new();
    world.post(0, &[b'x'; 200_000]);
    world.post(1, b"small");
    world.run(world.config(), &Recorder::new(|_| Err(StepError::DeadLetter("no".into())))).unwrap();
    redrive_all(&world);
    let log = caught_up(&world, "64KiB");
    let end = log.lines().find(|line| line.contains("request 1 stays open: run orders/0/0-0"));
    assert!(end.is_some_and(|line| line.contains("larger --queue-bytes")), "{log}");
    let state = |partition| states(&world)[&(partition, 0)].clone();
    assert_eq!((state(0).as_str(), state(1).as_str()), ("redriving", "redriven"));
    let log = caught_up(&world, "32MiB");
    assert!(!log.contains("stays open"), "{log}");
    assert_eq!(state(0), "redriven");
}

/// What `mb requests list` prints, the newest first.
fn requests(world: &World) -> Vec<serde_json::Value> {
    let (code, stdout, stderr) = mb(world, &["requests", "list", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_redrive_that_halts_every_start_can_be_cancelled_and_its_letters_are_open_again() {
    let world = with_letters();
    redrive_all(&world);
    for _ in 0..2 {
        let halts = Recorder::new(|_| Err(StepError::Stop("stop".into())));
        assert_eq!(world.run(world.config(), &halts).unwrap_err().exit_code(), 65);
    }
    let open = &requests(&world)[0];
    assert_eq!(
        (&open["id"], &open["kind"], &open["state"]),
        (&1.into(), &"redrive".into(), &"open".into())
    );
    assert_eq!((&open["letters_left"], &open["note"]), (&6.into(), &serde_json::Value::Null));
    let (code, _, stderr) = mb(&world, &["requests", "cancel", "1", "--note", "of no use"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(states(&world).values().all(|state| state == "open"));
    let over = &requests(&world)[0];
    assert_eq!((&over["state"], &over["note"]), (&"cancelled".into(), &"of no use".into()));
    assert_eq!((&over["runs_left"], &over["letters_left"]), (&0.into(), &0.into()));
    assert!(over["ended_ms"].is_i64(), "{over}");
    let none = Recorder::new(|_| Err(StepError::Stop("stop".into())));
    world.run(world.config(), &none).unwrap();
    assert!(none.attempts.lock().unwrap().is_empty());
    // What was cancelled can be discarded, and redriven.
    let ids: Vec<String> = letters(&world).iter().map(|letter| letter.0.to_string()).collect();
    assert_eq!(done(&world, &["discard", &ids[0], "--note", "x"])[0]["discarded"], 1);
    assert_eq!(done(&world, &["redrive", "--all"])[0]["request"], 2);
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    assert_eq!(step.done_records().len(), 5);
    for (args, expected, says) in [
        (&["requests", "cancel", "1"][..], 1, "request 1 is cancelled already"),
        (&["requests", "cancel", "2"], 1, "request 2 is done already"),
        (&["requests", "cancel", "9"], 1, "request 9 is not in the history"),
        (&["runs", "--request", "9"], 1, "request 9 is not in the history"),
        (&["requests", "cancel"], 64, "REQUEST: got 0 of them"),
        (&["requests", "cancel", "x"], 64, "REQUEST: got x"),
        (&["requests", "list", "1"], 64, "expected none"),
        (&["requests", "list", "--note", "x"], 64, "expected it only with cancel"),
        (&["requests", "list", "--state", "x"], 64, "expected open, done, cancelled or all"),
        (&["requests", "drop"], 64, "expected list or cancel"),
        (&["requests"], 64, "ACTION: got none"),
    ] {
        let (code, stdout, stderr) = mb(&world, args);
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{args:?}: {stderr}");
        let line = stderr.lines().last().unwrap_or_default();
        assert!(line.contains(says), "{args:?}: {line}");
    }
}

#[test]
fn a_running_mb_cancels_what_has_not_started_and_the_rest_ends_as_it_ends() {
    for fails in [false, true] {
        let world = with_letters();
        let (started, is_started) = std::sync::mpsc::sync_channel(9);
        let (go_on, may_go_on) = std::sync::mpsc::sync_channel::<()>(0);
        let may_go_on = std::sync::Mutex::new(may_go_on);
        let step = Recorder::new(move |_| {
            started.send(()).unwrap();
            let _ = may_go_on.lock().unwrap().recv();
            if fails { Err(StepError::Retry("again".into())) } else { Ok(()) }
        });
        let (stopper, stop) = Stopper::new();
        let pipeline = {
            let step: Arc<dyn mb::step::Step> = Arc::<Recorder>::clone(&step);
            let config =
                Config { until_caught_up: false, max_concurrent_runs: 1, ..world.config() };
            let pipeline = Pipeline::new(config, step).with_broker(Arc::new(world.topics.clone()));
            std::thread::spawn(move || pipeline.run(&stop))
        };
        let socket = world.dir.path().join("control.sock");
        eventually(LIMIT, "mb listens", || socket.exists());
        done(&world, &["redrive", "--all"]);
        is_started.recv_timeout(LIMIT).unwrap();
        let (code, _, stderr) = mb(&world, &["requests", "cancel", "1"]);
        assert_eq!(code, Some(0), "{stderr}");
        let open = || states(&world).values().filter(|state| *state == "open").count();
        assert_eq!(open(), 4, "those of the runs that have not started");
        assert_eq!(requests(&world)[0]["state"], "cancelled");
        drop(go_on);
        let redriven = if fails { 0 } else { 2 };
        eventually(LIMIT, "the run that had started ends", || open() == 6 - redriven);
        let over = || requests(&world)[0]["runs_left"] == 0;
        eventually(LIMIT, "none of its runs is left", over);
        stopper.stop();
        pipeline.join().unwrap().unwrap();
        assert_eq!(step.attempts.lock().unwrap().len(), 1, "no other run has started");
        assert_eq!(states(&world).values().filter(|state| *state == "redriven").count(), redriven);
    }
}

#[test]
fn a_killed_run_of_a_cancelled_redrive_leaves_its_letters_open() {
    let world = with_letters();
    let asked = redrive_all(&world);
    let halts = Recorder::new(|_| Err(StepError::Stop("stop".into())));
    world.run(world.config(), &halts).unwrap_err();
    // As a kill leaves it that comes after the cancellation, before the end of the run.
    let db = schema::open(&history_file(world.dir.path())).unwrap();
    db.execute("UPDATE requests SET state = 2 WHERE id = ?1", [asked[0].request]).unwrap();
    drop(db);
    assert!(states(&world).values().all(|state| state == "redriving"));
    assert_eq!(done(&world, &["discard", "--all", "--note", "x"])[0]["discarded"], 6);
}

#[test]
fn numbers_of_letters_and_requests_are_never_given_twice() {
    let world = with_letters();
    redrive_all(&world);
    let step = Recorder::new(|_| Err(StepError::DeadLetter("no".into())));
    world.run(world.config(), &step).unwrap();
    // As pruning does it.
    let db = schema::open(&history_file(world.dir.path())).unwrap();
    db.execute("DELETE FROM dead_letters WHERE id > 3", []).unwrap();
    drop(db);
    world.post(0, b"bad");
    world.run(world.config(), &step).unwrap();
    assert_eq!(letters(&world).last().unwrap().0, 7);

    // A history that is set aside takes its numbers with it.
    let path = history_file(world.dir.path());
    std::fs::write(&path, vec![b'x'; 50_000]).unwrap();
    for journal in ["history.db-wal", "history.db-shm"] {
        let _ = std::fs::remove_file(world.dir.path().join(journal));
    }
    let year_2020_us = 1_577_836_800_000_000;
    world.post(0, b"bad");
    world.run(world.config(), &step).unwrap();
    let first = letters(&world)[0].0;
    assert!(first > year_2020_us, "{first}");
    let asked = redrive_all(&world);
    assert!(asked[0].request > year_2020_us, "{asked:?}");
    world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
    assert!(states(&world).values().all(|state| state == "redriven"));
}
