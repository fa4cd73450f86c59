//! Runs of the exec step leave nothing behind in the process of mb. The test counts what its whole
//! process has, so it runs in a process of its own.

use std::fs;
use std::time::Duration;

use mb::model::batch::{Batch, Record};
use mb::model::offset::{Offset, OffsetRange, RunKey};
use mb::step::{Attempt, ExecStep, Step};

use crate::support::in_own_process;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// This process' children, zombies included, as `/proc/PID/stat` tells them.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        // A process may end while the folder is read.
        fs::read_to_string(entry.unwrap().path().join("stat")).ok()
    });
    // The name is in parentheses, and may hold anything: state and parent come after the last.
    let is_child =
        |stat: &String| stat.rsplit(')').next().unwrap().split_whitespace().nth(1) == Some(&own);
    stats.filter(is_child).collect()
}

#[test]
fn two_hundred_runs_leave_no_descriptor_no_thread_and_no_zombie() {
    in_own_process(
        "exec_leaks::two_hundred_runs_leave_no_descriptor_no_thread_and_no_zombie",
        two_hundred_runs_leave_nothing,
    );
}

fn two_hundred_runs_leave_nothing() {
    let value = vec![b'v'; 100_000];
    let mut large = Batch::default();
    for offset in 0..3 {
        let offset = Offset::new(offset);
        large.push(Record { offset, value: Some(&value), ..Record::default() });
    }
    let empty = Batch::default();
    let key = RunKey::new("t", 0, OffsetRange::new(Offset::new(0), Offset::new(2)));
    let short = Duration::from_millis(5);
    let names = "echo 1 >> $MB_FAILED_FILE; mkdir $MB_FAILED_FILE.more";
    let dir = tempfile::tempdir().unwrap();
    let steps = [
        (ExecStep::new("cat", None), &large, 40),
        (ExecStep::new(names, None).scratch_dir(dir.path()), &large, 20),
        (ExecStep::new("exit 1", None), &large, 20),
        (ExecStep::new("sleep 1000 & exit 0", None), &empty, 40),
        (ExecStep::new("cat >&2; kill -9 $$", None), &large, 40),
        (ExecStep::new("sleep 1000", Some(short)), &large, 35),
        // The system has no room for such a command line: it is not even started.
        (ExecStep::new(format!(": {}", "x".repeat(1 << 18)), None), &large, 5),
    ];
    let before_any = descriptors();
    let run = |step: &ExecStep, number, batch| {
        let failed = Vec::new();
        let mut attempt = Attempt { key: &key, number, batch, output: None, failed };
        // Failing is part of it; what each failure says is tested elsewhere.
        let _ = step.run(&mut attempt);
    };
    // Each step holds the folder of its MB_FAILED_FILEs from its first run on.
    for (step, ..) in &steps {
        run(step, 1, &empty);
    }
    let before = (descriptors(), threads());
    for (step, batch, runs) in &steps {
        for number in 1..=*runs {
            run(step, number, batch);
        }
    }
    assert_eq!((descriptors(), threads()), before);
    assert_eq!(children(), [] as [&str; 0]);
    drop(steps);
    assert_eq!(descriptors(), before_any);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nor anything in the scratch folder");
}
