//! `mb replay`: a range of the log is processed again in runs of its own, in any process state, and
//! nothing is committed for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::dead_letter_topic::Switched;
use crate::support::mb::Mb;
use crate::support::partly::Partly;
use crate::support::world::{Content, Recorder, TOPIC, World, all, halt_after, history_file};
use crate::support::{eventually, eventually_some};
use mb::api::operations::overview::GetOverview;
use mb::api::operations::requests::CancelRequests;
use mb::api::socket::Client;
use mb::history::requests::{self, Replay};
use mb::history::schema;
use mb::kafka::Broker;
use mb::step::StepError;
use mb::{Config, Pipeline, Produce, Stopper};

const LIMIT: Duration = Duration::from_secs(60);

/// A world of thirty records in each partition, all of them done.
fn done_world() -> World {
    let world = World::with_records(30);
    world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
    assert_eq!(world.committed("mb"), all(30));
    world
}

/// Asks for ranges while no mb runs.
fn ask(world: &World, ranges: &[(i32, i64, i64)]) -> Vec<i64> {
    let info = world.topics.topic(TOPIC).unwrap();
    let replay = Replay {
        embedded: true,
        cluster_id: info.cluster_id.unwrap_or_default(),
        group: "mb".into(),
        topic: TOPIC.into(),
        topic_id: info.id.unwrap_or_default(),
        ranges: ranges.to_vec(),
    };
    requests::add_replay(&mut schema::open(&history_file(world.dir.path())).unwrap(), &replay)
        .unwrap()
}

fn command(world: &World, args: &[&str]) -> (Option<i32>, String, String) {
    let flags = ["--client", "embedded", "--topic", TOPIC];
    let output = Mb::run_in(world.dir.path(), &[&["replay"], args, &flags].concat());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Each record that was done, by partition: its offsets in order.
fn offsets(step: &Recorder) -> BTreeMap<String, Vec<i64>> {
    let mut offsets: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (partition, offset) in step.done_records() {
        offsets.entry(partition).or_default().push(offset);
    }
    offsets
}

fn open_requests(world: &World) -> i64 {
    let count = "SELECT count(*) FROM requests WHERE state = 0";
    world.history().query_row(count, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_replay_that_is_asked_for_while_mb_is_away_is_made_at_the_next_start() {
    let world = done_world();
    let (code, stdout, stderr) =
        command(&world, &["--partition", "1", "--from", "5", "--to", "21", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("the next time mb runs"), "{stderr}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    assert_eq!(rows[0]["request"], 1);
    assert_eq!((&rows[0]["first_offset"], &rows[0]["last_offset"]), (&5.into(), &21.into()));
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    assert_eq!(offsets(&step), [("1".to_owned(), (5..=21).collect())].into());
    let keys: Vec<String> = step.done.lock().unwrap().keys().cloned().collect();
    let expected = ["12-18", "19-21", "5-11"].map(|range| format!("orders/1/{range}.replay-1"));
    assert_eq!(keys, expected, "in batches of --max-batch");
    let content: &Content = &step.done.lock().unwrap()["orders/1/19-21.replay-1"];
    assert_eq!(content[0], (19, Some(b"1-19".to_vec())));
    assert_eq!(world.committed("mb"), all(30), "offsets stay where they are");
    assert_eq!(open_requests(&world), 0);
    let later = Recorder::new(|_| Ok(()));
    world.run(world.config(), &later).unwrap();
    assert!(later.attempts.lock().unwrap().is_empty(), "once");
}

#[test]
fn a_running_mb_replays_at_once_whatever_it_has_to_do_otherwise() {
    let world = done_world();
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
    let output = Mb::run_in(world.dir.path(), &["replay", "--since", "2020-01-01"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("is replayed now"), "{stderr}");
    eventually(LIMIT, "all of it is done again", || step.done_records().len() == 90);
    eventually(LIMIT, "the requests are over", || open_requests(&world) == 0);
    let records = offsets(&step);
    assert!(records.values().all(|offsets| *offsets == (0..30).collect::<Vec<_>>()), "{records:?}");
    world.post(0, b"new");
    eventually(LIMIT, "the topic's own way goes on", || step.done_records().len() == 91);
    stopper.stop();
    pipeline.join().unwrap().unwrap();
    assert_eq!(world.committed("mb")[&0].get(), 31);
}

#[test]
fn a_replay_that_was_cut_short_goes_on_with_the_same_ranges_and_what_is_done_is_not_done_again() {
    let world = done_world();
    ask(&world, &[(2, 3, 28)]);
    let first = halt_after("orders/2/17-23.replay-1", 2);
    let config = Config { max_attempts: 1000, ..world.config() };
    let error = world.run(config, &first).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    let second = Recorder::new(|_| Ok(()));
    world.run(Config { max_batch: 3, ..world.config() }, &second).unwrap();
    assert!(second.done.lock().unwrap().contains_key("orders/2/17-23.replay-1"));
    let mut all_done = first.done_records();
    all_done.extend(second.done_records());
    all_done.sort();
    let expected: Vec<_> = (3..=28).map(|offset| ("2".to_owned(), offset)).collect();
    assert_eq!(all_done, expected, "each record once, over both");
    assert_eq!(open_requests(&world), 0);
}

#[test]
fn what_a_replay_gives_up_on_is_a_dead_letter_of_its_run() {
    let world = done_world();
    ask(&world, &[(0, 0, 29)]);
    let step = Recorder::new(|attempt| {
        let bad = attempt.batch.records().any(|record| record.value == Some(b"0-9"));
        if bad { Err(StepError::Retry("bad".into())) } else { Ok(()) }
    });
    let config = Config { bisect: true, max_batch: 16, max_attempts: 1, ..world.config() };
    world.run(config, &step).unwrap();
    let letter: (String, i64) = world
        .history()
        .query_row("SELECT run_key, record_offset FROM dead_letters", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(letter, ("orders/0/9-9.replay-1".to_owned(), 9));
    assert_eq!(open_requests(&world), 0);
}

#[test]
fn two_replays_of_one_range_are_two_runs_and_both_are_waited_for() {
    let world = done_world();
    assert_eq!(ask(&world, &[(0, 0, 6), (0, 0, 6)]), [1, 2]);
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    let keys: Vec<String> = step.done.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["orders/0/0-6.replay-1", "orders/0/0-6.replay-2"]);
}

#[test]
fn what_lies_behind_the_logs_end_is_said_and_the_rest_is_replayed() {
    let world = done_world();
    let (code, _, stderr) = command(&world, &["--partition", "0", "--from", "25", "--to", "1000"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("orders/0 ends at 30: what comes later is not replayed"), "{stderr}");
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    assert_eq!(offsets(&step), [("0".to_owned(), (25..30).collect())].into());
}

#[test]
fn what_cannot_be_replayed_is_refused_in_one_line() {
    let world = done_world();
    for (args, expected, says) in [
        (&["--from", "3", "--to", "4"][..], 64, "expected --partition P as well"),
        (&["--partition", "0", "--from", "3", "--to", "2"], 64, "expected --from (3) or more"),
        (&["--partition", "0", "--to", "2"], 64, "expected --from N as well"),
        (&["--partition", "0"], 64, "range: got none"),
        (&["--partition", "0", "--from", "3", "--since", "2026-01-01"], 64, "offsets and times"),
        (&["--since", "2026-01-02", "--until", "2026-01-01"], 64, "a time after --since"),
        (&["--partition", "9", "--from", "3"], 78, "expected one of topic orders, 0 to 2"),
        (&["--partition", "0", "--from", "30"], 78, "nothing of topic orders lies in it"),
        (&["--since", "2100-01-01"], 78, "nothing of topic orders lies in it"),
    ] {
        let (code, stdout, stderr) = command(&world, args);
        assert_eq!((code, stdout.as_str()), (Some(expected), ""), "{args:?}: {stderr}");
        let line = stderr.lines().last().unwrap_or_default();
        assert!(line.contains(says), "{args:?}: {line}");
    }
    assert_eq!(open_requests(&world), 0);
    let empty = tempfile::tempdir().unwrap();
    let output = Mb::run_in(empty.path(), &["replay", "--partition", "0", "--from", "1"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "no history is made");
}

#[test]
fn a_replay_that_needs_more_memory_is_named_at_the_end_and_waits_for_another_mb() {
    // Larger than all the memory, and only with what a batch takes beside it.
    for (bytes, says) in [(200_000, "cannot read orders/0"), (65_300, "the record at 1 needs")] {
        let world = World::new();
        for value in [&b"small"[..], &vec![b'x'; bytes], b"small"] {
            world.post(0, value);
        }
        world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
        ask(&world, &[(0, 0, 2)]);
        let caught_up = |queue_bytes: &str| {
            let flags = ["--client", "embedded", "--topic", TOPIC, "--until-caught-up"];
            let more = ["--listen", "off", "--step", "discard", "--max-batch-bytes", "16KiB"];
            let memory = ["--queue-bytes", queue_bytes];
            let mut mb = Mb::start_in(world.dir.path(), &[&flags[..], &more, &memory].concat());
            let code = mb.wait(LIMIT).code();
            let log = mb.stderr().join("\n");
            assert_eq!(code, Some(0), "{log}");
            log
        };
        for _ in 0..2 {
            let log = caught_up("64KiB");
            let named = format!("request 1 stays open: {says}");
            let end = log.lines().find(|line| line.contains(&named));
            assert!(end.is_some_and(|line| line.contains("larger --queue-bytes")), "{log}");
            assert_eq!(open_requests(&world), 1);
        }
        let log = caught_up("32MiB");
        assert!(!log.contains("stays open"), "{log}");
        assert_eq!(open_requests(&world), 0);
    }
}

#[test]
fn a_replay_that_halts_every_start_can_be_cancelled() {
    let world = done_world();
    ask(&world, &[(0, 0, 29), (1, 3, 9)]);
    let halts = || Recorder::new(|_| Err(StepError::Stop("stop".into())));
    assert_eq!(world.run(world.config(), &halts()).unwrap_err().exit_code(), 65);
    let output = Mb::run_in(world.dir.path(), &["requests", "cancel", "1", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let step = halts();
    world.run(world.config(), &step).unwrap();
    assert!(step.attempts.lock().unwrap().is_empty());
    let output = Mb::run_in(world.dir.path(), &["requests", "list", "--state", "cancelled"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let row = table.lines().nth(1).unwrap_or_default();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..6], ["2", "replay", "cancelled", "mb", TOPIC, "1/3-9"], "{table}");
}

#[test]
fn a_request_that_is_cancelled_while_mb_starts_has_no_run_that_starts_later() {
    let world = done_world();
    assert_eq!(ask(&world, &[(0, 0, 29)]), [1]);
    let (entered, enters) = bounded(10);
    let (go, goes) = bounded::<()>(0);
    let step = Recorder::new(move |attempt| {
        entered.send(attempt.key.to_string()).unwrap();
        let _ = goes.recv_timeout(LIMIT);
        Ok(())
    });
    // mb's own producer is the last thing that it starts: held up, mb is starting while its threads run.
    let (start, hold) = bounded::<()>(0);
    let broker = Partly(Switched {
        topics: world.topics.clone(),
        faulty: world.topics.clone(),
        name: TOPIC,
        hold: Some(hold),
    });
    let config = Config {
        max_concurrent_runs: 1,
        produce: Some(Produce { rate: 0.001, ..Produce::default() }),
        until_caught_up: false,
        ..world.config()
    };
    let (stopper, stop) = Stopper::new();
    let pipeline =
        Pipeline::new(config, Arc::<Recorder>::clone(&step)).with_broker(Arc::new(broker));
    let mb = std::thread::spawn(move || pipeline.run(&stop));
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/0/0-6.replay-1");
    eventually(LIMIT, "the others are queued", || {
        let queued = "SELECT count(*) FROM runs WHERE request = 1";
        world.history().query_row(queued, [], |row| row.get::<_, i64>(0)).unwrap() == 5
    });
    let mut client = Client::connect(world.dir.path()).unwrap().unwrap();
    client.perform(CancelRequests { ids: vec![1], note: "no".into() }).unwrap();
    drop(start);
    drop(go);
    eventually_some(LIMIT, "the queue is empty", || {
        let seen = client.perform(GetOverview {}).ok()?;
        let is_idle = seen.workers.iter().all(|worker| worker.run.is_none());
        (seen.waiting_for.is_none() && seen.queue.runs == 0 && is_idle).then_some(())
    });
    stopper.stop();
    mb.join().unwrap().unwrap();
    let started: Vec<String> = enters.try_iter().collect();
    assert_eq!(started, [""; 0], "the cancelled request's other runs");
    assert_eq!(open_requests(&world), 0);
}
