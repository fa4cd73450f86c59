//! The rows of FAULTS.md in which mb's own files, limits or clock fail: one test per row, seeded (see
//! `support::faults`).

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::disk::SmallDisk;
use crate::support::faults::{
    LIMIT, PARTITIONS, RECOVERY, World, as_many_runs, as_strs, by_form, each_seed, no_panic, sound,
};
use crate::support::mb::Mb;
use crate::support::{eventually, in_own_process};
use rusqlite::Connection;

const DISK_MEGABYTES: u64 = 8;
const CANNOT_WRITE: &str = "cannot write the history";
const CAN_WRITE_AGAIN: &str = "the history can be written again";

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Nothing starts and nothing is committed for a while.
fn assert_stands_still(world: &World) {
    // What was begun before the fault may still end.
    let mut seen = (world.done(), world.committed());
    let mut since = Instant::now();
    eventually(LIMIT, "mb stands still", || {
        let now = (world.done(), world.committed());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(1500)
    });
    assert!(seen.1 != world.ends(), "there is work left");
}

#[test]
fn row_28_a_full_disk_holds_everything_up_and_room_lets_it_go_on() {
    each_seed("row_28", |row| {
        let disk = SmallDisk::new(DISK_MEGABYTES);
        let mut world = World::new(row);
        world.fill(2000, 20);
        world.watch();
        world.write(200);
        world.set_data_dir(&disk.path().join("data"));
        let mb = world.start(&world.files(&["--step-delay", "20ms"]));
        world.wait_for_done(100);
        let ballast = disk.fill_up(row.random.usize(0..40_000));
        mb.wait_for_line(CANNOT_WRITE, LIMIT);
        assert_stands_still(&world);
        std::thread::sleep(by_form(seconds(1), seconds(60)));
        fs::remove_file(ballast).unwrap();
        mb.wait_for_line(CAN_WRITE_AGAIN, RECOVERY);
        world.assert_progress();
        world.finish(Some(mb));
    });
}

#[test]
fn row_28_without_room_for_files_runs_wait_and_none_of_them_fails() {
    each_seed("row_28_files", |row| {
        let disk = SmallDisk::new(DISK_MEGABYTES);
        let mut world = World::new(row);
        world.fill(1000, 20);
        world.set_out(&disk.path().join("out"));
        world.watch();
        world.write(50);
        // Fewer attempts than a run would make while the disk is full.
        let tries = ["--step-delay", "20ms", "--max-attempts", "2", "--retry-backoff", "100ms"];
        let mb = world.start(&world.files(&tries));
        world.wait_for_done(100);
        let ballast = disk.fill_up(row.random.usize(0..40_000));
        mb.wait_for_line("runs wait until that is over", LIMIT);
        assert_stands_still(&world);
        std::thread::sleep(by_form(seconds(1), seconds(60)));
        fs::remove_file(ballast).unwrap();
        mb.wait_for_line("can write files again", RECOVERY);
        world.assert_progress();
        let failed = "SELECT count(*) FROM runs WHERE state = 3 OR attempts > 1";
        let failed: i64 = world.history().query_row(failed, [], |row| row.get(0)).unwrap();
        assert_eq!(failed, 0, "runs that failed for want of room");
        world.finish(Some(mb));
    });
}

#[test]
fn row_28_a_stop_while_there_is_no_room_for_files_ends_in_time() {
    each_seed("row_28_stop", |row| {
        let disk = SmallDisk::new(DISK_MEGABYTES);
        let mut world = World::new(row);
        world.fill(as_many_runs(500), 20);
        world.set_out(&disk.path().join("out"));
        world.watch();
        let mut mb = world.start(&world.files(&["--step-delay", "20ms", "--drain-timeout", "60"]));
        world.wait_for_done(100);
        let ballast = disk.fill_up(0);
        mb.wait_for_line("runs wait until that is over", LIMIT);
        std::thread::sleep(row.millis(0..1000));
        mb.term();
        let began = Instant::now();
        // What waits for room is given up as not done, like a run that is queued: an orderly stop.
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        assert!(began.elapsed() < seconds(30), "{:?}", began.elapsed());
        no_panic(&mb);
        let failed = "SELECT count(*) FROM runs WHERE state = 3 OR attempts > 1";
        let failed: i64 = world.history().query_row(failed, [], |row| row.get(0)).unwrap();
        assert_eq!(failed, 0, "runs that failed for want of room");
        fs::remove_file(ballast).unwrap();
        world.finish(None);
    });
}

#[test]
fn row_28_a_disk_that_is_full_at_a_kill_loses_nothing_either() {
    each_seed("row_28_killed", |row| {
        let disk = SmallDisk::new(DISK_MEGABYTES);
        let mut world = World::new(row);
        world.fill(2000, 20);
        world.watch();
        world.set_data_dir(&disk.path().join("data"));
        let mut mb = world.start(&world.files(&["--step-delay", "20ms"]));
        world.wait_for_done(100);
        let ballast = disk.fill_up(row.random.usize(0..40_000));
        mb.wait_for_line(CANNOT_WRITE, LIMIT);
        mb.kill9();
        no_panic(&mb);
        fs::remove_file(ballast).unwrap();
        world.finish(None);
    });
}

#[test]
fn row_29_a_limit_on_the_size_of_files_is_an_error_and_not_the_end() {
    each_seed("row_29_size", |row| {
        let mut world = World::new(row);
        world.fill(as_many_runs(3000), 20);
        world.watch();
        let step = world.files(&["--step-delay", "5ms"]);
        let flags = world.flags(&step);
        // In KiB: the history's log outgrows it.
        let before = format!("ulimit -f {}", row.random.u32(200..400));
        let mut mb = Mb::start_under(&before, world.data_dir.path(), &as_strs(&flags));
        mb.wait_for_line(CANNOT_WRITE, LIMIT);
        assert_stands_still(&world);
        assert!(mb.try_wait().is_none(), "{}", mb.stderr().join("\n"));
        mb.term();
        assert_eq!(mb.wait(LIMIT).code(), Some(1));
        let said = mb.stderr();
        let last = said.last().unwrap();
        assert!(
            last.contains("cannot write the last outcomes") && last.contains("nothing is lost"),
            "{last}"
        );
        no_panic(&mb);
        world.finish(None);
    });
}

#[test]
fn row_29_too_few_descriptors_are_an_error_that_says_so() {
    each_seed("row_29_files", |row| {
        let mut world = World::new(row);
        world.fill(200, 20);
        let command = world.keeping_keys("");
        let flags = world.flags(&["--exec", &command, "--until-caught-up"]);
        let start = |world: &World, limit: u32| {
            let before = format!("ulimit -n {limit}");
            Mb::start_under(&before, world.data_dir.path(), &as_strs(&flags))
        };
        // The manual's rule of thumb: 10 for each of the 5 workers, and 200 more.
        let mut mb = start(&world, 250);
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        let said = mb.stderr().join("\n");
        assert!(!said.contains("Too many open files"), "250 are enough: {said}");
        assert_eq!(world.done(), 200 * i64::from(PARTITIONS));

        // Now there are too few for connections (below 22) or for the pipes of commands.
        world.fill(200, 20);
        let mut mb = start(&world, row.random.u32(19..26));
        mb.wait_for_line("Too many open files", LIMIT);
        std::thread::sleep(row.millis(0..1000));
        if mb.try_wait().is_none() {
            mb.term();
            mb.wait(LIMIT);
        }
        no_panic(&mb);
        let mut mb = world.start(&["--exec", &command, "--until-caught-up"]);
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        // A command that cannot be started waits until it can be: no record is given up on for it.
        let count = "SELECT count(*) FROM dead_letters";
        let kept: i64 = world.history().query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!((world.done(), kept), (400 * i64::from(PARTITIONS), 0));
        assert_eq!(world.committed(), world.ends());
        sound(world.data_dir());
    });
}

#[test]
fn row_30_a_history_that_somebody_else_holds_loses_nothing() {
    each_seed("row_30", |row| {
        let mut world = World::new(row);
        world.fill(1000, 20);
        world.watch();
        world.write(200);
        let mb = world.start_working(&world.files(&["--step-delay", "20ms"]));
        world.wait_for_done(200);
        std::thread::sleep(row.millis(0..500));
        let other: Connection = world.history();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let began = Instant::now();
        // SQLite waits for 5 s before it is an error.
        mb.wait_for_line(CANNOT_WRITE, LIMIT);
        assert_stands_still(&world);
        std::thread::sleep(by_form(seconds(1), seconds(60).saturating_sub(began.elapsed())));
        other.execute_batch("COMMIT").unwrap();
        mb.wait_for_line(CAN_WRITE_AGAIN, RECOVERY);
        world.assert_progress();
        world.finish(Some(mb));
    });
}

#[test]
fn row_32_a_clock_that_jumps_changes_no_timer() {
    // All threads of a process have one clock.
    in_own_process("faults_disk::row_32_a_clock_that_jumps_changes_no_timer", a_clock_that_jumps);
}

fn a_clock_that_jumps() {
    use crate::support::world::{Recorder, World, every_record_once};
    const HOUR_MS: i64 = 3_600_000;
    each_seed("row_32", |row| {
        let ahead = row.random.bool();
        let world = World::with_records(100);
        // The clock jumps back and forth while runs are done, fail, wait and are tried again.
        let step = Recorder::new(move |attempt| {
            let jump =
                if ahead == (attempt.key.range.first.get() % 2 == 0) { HOUR_MS } else { -HOUR_MS };
            mb::model::clock::JUMP_MS.store(jump, Ordering::Relaxed);
            match attempt.number {
                1 if attempt.key.range.first.get() % 3 == 0 => {
                    Err(mb::step::StepError::Retry("again".into()))
                }
                _ => Ok(()),
            }
        });
        let began = Instant::now();
        let outcome = world.run(world.config(), &step);
        mb::model::clock::JUMP_MS.store(0, Ordering::Relaxed);
        outcome.unwrap();
        assert!(began.elapsed() < seconds(60), "{:?}", began.elapsed());
        assert_eq!(step.done_records(), every_record_once(100));
        assert_eq!(world.committed("mb"), crate::support::world::all(100));
        // Durations are measured, not subtracted.
        let longest = "SELECT max(run_us), min(run_us) FROM runs UNION ALL SELECT max(run_us), min(run_us) FROM ticks";
        let history = world.history();
        let mut statement = history.prepare(longest).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        for row in rows {
            let (longest, shortest): (i64, i64) = row.unwrap();
            assert!(shortest >= 0 && longest < 60_000_000, "{shortest} to {longest} us");
        }
    });
}
