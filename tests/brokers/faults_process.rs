//! The rows of FAULTS.md in which mb itself is killed, stopped or frozen, or its step fails: one test
//! per row, seeded (see `support::faults`). The broker is well in all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use crate::support::faults::{
    LIMIT, PARTITIONS, WORKERS, World, as_many_runs, as_strs, batch, by_form, each_seed, no_panic,
    status,
};
use crate::support::mb::Mb;
use crate::support::{eventually, faults, raw};
use rustix::process::Signal;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// How many runs were done more than once.
fn duplicates(world: &World) -> usize {
    let keys = world.kept_keys();
    keys.len() - keys.iter().collect::<BTreeSet<_>>().len()
}

#[test]
fn row_01_nothing_is_lost_when_mb_is_killed_at_any_instant() {
    each_seed("row_01", |row| {
        let mut world = World::new(row);
        world.fill(by_form(2000, 20_000), 20);
        world.watch();
        world.write(500);
        let command = world.keeping_keys("sleep 0.05");
        let kills = by_form(5, 200);
        // How often each run may be done: once, and once more for each kill that it was in flight at.
        let mut allowed = BTreeMap::<String, usize>::new();
        for kill in 1..=kills {
            let before = duplicates(&world);
            let step = ["--exec", &command];
            // Some before it works, most while it does.
            let early = row.random.u8(0..4) == 0;
            let mut mb = if early { world.start(&step) } else { world.start_working(&step) };
            std::thread::sleep(row.millis(if early { 0..500 } else { 0..2000 }));
            assert!(mb.try_wait().is_none(), "{}", mb.stderr().join("\n"));
            mb.kill9();
            no_panic(&mb);
            for key in unfinished(&world) {
                *allowed.entry(key).or_insert(1) += 1;
            }
            let again = duplicates(&world) - before;
            println!("kill {kill}: {} records done, {again} runs again", world.done());
        }
        assert!(world.done() > 0, "all kills came before any work");
        world.finish(None);
        let mut times = BTreeMap::<String, usize>::new();
        for key in world.kept_keys() {
            *times.entry(key).or_default() += 1;
        }
        for (key, times) in times {
            let allowed = allowed.get(&key).copied().unwrap_or(1);
            assert!(times <= allowed, "{key} was done {times} times, expected {allowed} at most");
        }
    });
}

/// Keys of the runs that the history has as planned and not done.
fn unfinished(world: &World) -> Vec<String> {
    let list = "SELECT partition, first_offset, last_offset FROM runs WHERE state NOT IN (2, 3, 6)";
    let history = world.history();
    // A process that was killed early has made no tables.
    let Ok(mut list) = history.prepare(list) else { return Vec::new() };
    let key = |row: &rusqlite::Row<'_>| -> rusqlite::Result<String> {
        let [partition, first, last]: [i64; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
        Ok(format!("{}/{partition}/{first}-{last}", world.topic))
    };
    list.query_map([], key).unwrap().map(Result::unwrap).collect()
}

#[test]
fn row_02_nothing_is_lost_when_mb_is_killed_between_two_steps_of_a_record() {
    // What the main job passes on a broker; all points: `crashes`.
    let points = ["cut", "planned", "half-written", "stepped", "recorded", "intended", "committed"];
    each_seed("row_02", |row| {
        let mut world = World::new(row);
        world.fill(300, 20);
        world.watch();
        world.write(1000);
        for _ in 0..by_form(1, 12) {
            let mut points = points;
            row.random.shuffle(&mut points);
            for point in points {
                let at = format!("{point}:{}", row.random.u8(1..5));
                let flags = world.flags(&world.files(&[]));
                let mut mb = Mb::start_to_crash(&at, world.data_dir(), &as_strs(&flags));
                mb.wait_for_crash(LIMIT);
            }
        }
        world.finish(None);
    });
}

/// Runs of the history for which a condition holds.
fn runs(world: &World, condition: &str) -> i64 {
    let count = format!("SELECT count(*) FROM runs WHERE {condition}");
    world.history().query_row(&count, [], |row| row.get(0)).unwrap_or(0)
}

#[test]
fn row_03_a_stop_under_load_does_nothing_twice() {
    each_seed("row_03", |row| {
        let mut world = World::new(row);
        world.fill(300, 20);
        world.watch();
        world.write(500);
        let command = world.keeping_keys("sleep 0.02");
        for _ in 0..by_form(2, 20) {
            let before = world.done();
            let mut mb = world.start_working(&["--exec", &command]);
            eventually(LIMIT, "work is done", || world.done() > before);
            std::thread::sleep(row.millis(0..500));
            mb.term();
            assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
            no_panic(&mb);
            let committed: i64 = world.committed().values().sum();
            assert_eq!(committed, world.done(), "committed is exactly what was done");
        }
        world.finish(None);
        assert_eq!(duplicates(&world), 0);
    });
}

#[test]
fn row_04_a_hung_step_holds_the_stop_up_no_longer_than_agreed_and_is_done_later() {
    each_seed("row_04", |row| {
        let mut world = World::new(row);
        world.fill(as_many_runs(200), 20);
        world.watch();
        let (hung, hangs) = (row.random.i32(0..PARTITIONS), world.data_dir.path().join("hangs"));
        let hang = format!(
            "if [ $MB_PARTITION-$MB_FIRST_OFFSET = {hung}-{} ]; then touch {}; exec sleep 600; fi",
            batch(),
            hangs.display()
        );
        let command = world.keeping_keys(&hang);
        let mut mb = world.start(&["--exec", &command, "--drain-timeout", "1"]);
        eventually(LIMIT, "a run hangs", || hangs.exists());
        std::thread::sleep(row.millis(0..500));
        let began = Instant::now();
        mb.term();
        assert_eq!(mb.wait(LIMIT).code(), Some(2), "{}", mb.stderr().join("\n"));
        // The drain, and the limits of what comes after it.
        assert!(began.elapsed() < seconds(12), "{:?}", began.elapsed());
        no_panic(&mb);
        assert!(world.committed()[&hung] <= batch() as i64);
        world.finish(None);
        assert_eq!(duplicates(&world), 0);
    });
}

#[test]
fn row_05_a_frozen_mb_goes_on_and_does_nothing_twice() {
    each_seed("row_05", |row| {
        let mut world = World::new(row);
        world.fill(300, 20);
        world.watch();
        world.write(500);
        let command = world.keeping_keys("");
        let mb = world.start_working(&["--exec", &command]);
        world.wait_for_done(200);
        for _ in 0..2 {
            std::thread::sleep(row.millis(0..700));
            mb.signal(Signal::STOP);
            std::thread::sleep(by_form(seconds(3), seconds(20)));
            mb.signal(Signal::CONT);
            world.assert_progress();
        }
        world.finish(Some(mb));
        assert_eq!(duplicates(&world), 0);
    });
}

#[test]
fn row_20_nothing_is_committed_while_a_slow_step_works() {
    each_seed("row_20", |row| {
        let mut world = World::new(row);
        // A run in each partition, which is fewer than there are workers: all of them begin.
        world.fill(batch(), 20);
        world.watch();
        let (begun, go) = (world.data_dir.path().join("begun"), world.data_dir.path().join("go"));
        let slow = format!(
            "echo >>{}; until [ -e {} ]; do sleep 0.05; done",
            begun.display(),
            go.display()
        );
        let command = world.keeping_keys(&slow);
        let mb = world.start_working(&["--exec", &command]);
        eventually(LIMIT, "all runs have begun", || {
            fs::read(&begun).is_ok_and(|lines| lines.len() == PARTITIONS as usize)
        });
        // Several times as long as mb waits before it commits.
        std::thread::sleep(by_form(seconds(2), seconds(20)));
        assert_eq!(world.committed().values().sum::<i64>(), 0);
        fs::write(&go, "").unwrap();
        world.finish(Some(mb));
        assert_eq!(duplicates(&world), 0);
    });
}

#[test]
fn row_21_the_commit_waits_for_the_first_run_while_others_are_done() {
    each_seed("row_21", |row| {
        let mut world = World::new(row);
        let each = as_many_runs(500);
        world.fill(each, 20);
        world.watch();
        let slow = row.random.i32(0..PARTITIONS);
        let go = world.data_dir.path().join("go");
        let wait = format!(
            "if [ $MB_PARTITION-$MB_FIRST_OFFSET = {slow}-0 ]; then until [ -e {} ]; do sleep 0.05; done; fi",
            go.display()
        );
        let command = world.keeping_keys(&wait);
        let mb = world.start_working(&["--exec", &command, "--queue", "10", "--max-wait", "5"]);
        let mut most = 0;
        eventually(LIMIT, "all others are done", || {
            most = most.max(runs(&world, "state NOT IN (2, 3, 6)"));
            world.done() >= each as i64 * i64::from(PARTITIONS) - batch() as i64
        });
        // Those on the queue, at work, and one cut that finds the queue full.
        assert!((1..=10 + WORKERS as i64 + 1).contains(&most), "{most} runs at a time");
        assert_eq!(world.committed()[&slow], 0);
        fs::write(&go, "").unwrap();
        world.finish(Some(mb));
        assert_eq!(duplicates(&world), 0);
    });
}

#[test]
fn row_22_a_poisoned_run_is_tried_and_kept_and_its_neighbours_flow() {
    each_seed("row_22", |row| {
        let mut world = World::new(row);
        world.fill(200, 20);
        let (partition, number) = (row.random.i32(0..PARTITIONS), row.random.u32(0..200));
        // The poison is found by content: whichever run has it fails.
        let value = format!("{partition}-{number:>20}");
        let out = world.out().display();
        let command = format!(
            "cat >{out}/.$$; if grep -q '\"{value}\"' {out}/.$$; then echo indigestible >&2; exit 3; fi; \
             rm {out}/.$$; echo $MB_RUN_KEY >>{out}/keys"
        );
        let retry = ["--max-attempts", "3", "--retry-backoff", "300ms"];
        let mb = world.start_working(&[&["--exec", &command], &retry[..]].concat());
        eventually(LIMIT, "all is committed", || world.committed() == world.ends());
        let history = world.history();
        let (attempts, first, last): (i64, i64, i64) = history
            .query_row(
                "SELECT attempts, first_offset, last_offset FROM runs WHERE state = 3",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .unwrap();
        assert_eq!(attempts, 3);
        assert!((first..=last).contains(&i64::from(number)));
        let kept = "SELECT count(*), count(DISTINCT record_offset), count(DISTINCT run_key) FROM dead_letters";
        let kept: [i64; 3] =
            history.query_row(kept, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?])).unwrap();
        assert_eq!(kept, [last - first + 1, last - first + 1, 1]);
        assert_eq!(world.done(), 200 * i64::from(PARTITIONS) - kept[0]);
        assert_eq!(duplicates(&world), 0);
        no_panic(&mb);
    });
}

#[test]
fn row_31_memory_stays_bounded_with_records_of_ten_megabytes() {
    const RECORD_BYTES: usize = 10_000_000;
    const MEMORY_KIB: u64 = 256 * 1024;
    each_seed("row_31", |row| {
        let mut world = World::new(row);
        let topic = crate::support::unique("large");
        world.kafka.create_topic(&topic, PARTITIONS as u32, &[("max.message.bytes", "20000000")]);
        world.topic = topic;
        world.watch();
        let value = vec![row.random.alphanumeric() as u8; RECORD_BYTES];
        for _ in 0..by_form(4, 10) {
            for partition in 0..PARTITIONS {
                raw::produce(
                    &world.direct,
                    "none",
                    &world.topic,
                    partition,
                    std::slice::from_ref(&value),
                );
            }
        }
        let command = world.keeping_keys("");
        let mb = world.start_working(&["--exec", &command]);
        let all = by_form(4, 10) * i64::from(PARTITIONS);
        eventually(LIMIT, "all is done", || world.done() >= all);
        let peak = status(mb.pid(), "VmHWM");
        println!("peak {peak} KiB");
        assert!(peak < MEMORY_KIB, "{peak} KiB");
        world.finish(Some(mb));
    });
}

#[test]
fn row_33_a_command_that_dies_of_a_signal_fails_its_attempt_and_nothing_else() {
    each_seed("row_33", |row| {
        let mut world = World::new(row);
        world.fill(200, 20);
        world.watch();
        let rest = row.random.u8(0..3);
        let die = format!(
            "if [ $MB_ATTEMPT = 1 ] && [ $((MB_FIRST_OFFSET / 20 % 3)) = {rest} ]; then kill -SEGV $$; fi"
        );
        let command = world.keeping_keys(&die);
        let mb = world.start_working(&["--exec", &command, "--retry-backoff", "50ms"]);
        let line = mb.wait_for_line("SIGSEGV", LIMIT);
        assert!(line.contains("attempt 1 of 3"), "{line}");
        world.finish(Some(mb));
        assert_eq!(duplicates(&world), 0);
        assert_eq!(runs(&world, "state = 3"), 0);
        assert!(runs(&world, "state = 2 AND attempts = 2") > 0);
    });
}

#[test]
fn row_34_many_ticks_leave_no_descriptor_no_thread_and_no_memory_behind() {
    each_seed("row_34", |row| {
        let mut world = World::new(row);
        world.watch();
        world.write(100);
        let ticks = ["--tick-runtime", "10ms", "--tick-interval", "0"];
        let mb = world.start_working(&world.files(&ticks));
        let count = || -> i64 {
            let newest = "SELECT ifnull(max(id), 0) FROM ticks";
            world.history().query_row(newest, [], |row| row.get(0)).unwrap_or(0)
        };
        // What is the most at any time, in a phase of so many ticks.
        let phase = |until: i64| {
            let mut most = (0, 0, 0);
            eventually(10 * LIMIT, &format!("{until} ticks"), || {
                let files = faults::open_files(mb.pid()) as u64;
                let now = (files, status(mb.pid(), "Threads"), status(mb.pid(), "VmRSS"));
                most = (most.0.max(now.0), most.1.max(now.1), most.2.max(now.2));
                count() >= until
            });
            most
        };
        let all = by_form(500, 10_000);
        phase(all / 10);
        let early = phase(all / 2);
        let late = phase(all);
        println!("descriptors, threads, KiB: {early:?}, then {late:?}");
        assert!(late.0 <= early.0 + 16, "descriptors: {early:?}, then {late:?}");
        assert!(late.1 <= early.1 + 12, "threads: {early:?}, then {late:?}");
        assert!(late.2 <= early.2 + early.2 / 4 + 8 * 1024, "KiB: {early:?}, then {late:?}");
        world.finish(Some(mb));
    });
}
