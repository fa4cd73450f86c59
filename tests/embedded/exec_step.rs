//! The exec step against real shells, well-meaning and hostile ones. What it leaves behind in this
//! process (descriptors, zombies) is tested in exec_leaks.rs.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::eventually;
use mb::config::limits::{CAPTURE_BYTES, KILL_GRACE};
use mb::model::batch::{Batch, Record};
use mb::model::offset::{Offset, OffsetRange, RunKey};
use mb::step::record_json::write_lines;
use mb::step::{Attempt, ExecStep, FailedRecord, Step, StepError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Far above what anything here takes, far below what a hang would.
const NO_HANG: Duration = Duration::from_secs(20);

struct Done {
    outcome: Result<(), StepError>,
    output: String,
    failed: Vec<FailedRecord>,
    took: Duration,
}

impl Done {
    fn error(&self) -> &str {
        match &self.outcome {
            Err(StepError::Retry(text) | StepError::NotNow(text)) => text,
            outcome => panic!("expected an error to retry, got {outcome:?}"),
        }
    }

    /// The records that were named, as `OFFSET REASON`.
    fn named(&self) -> Vec<String> {
        let named = self.failed.iter();
        named.map(|record| format!("{} {}", record.offset, record.reason)).collect()
    }
}

fn key() -> RunKey {
    RunKey::new("First_Topic", 3, OffsetRange::new(Offset::new(100), Offset::new(149)))
}

fn run(step: &ExecStep, batch: &Batch) -> Done {
    let key = key();
    let mut attempt = Attempt { key: &key, number: 2, batch, output: None, failed: Vec::new() };
    let began = Instant::now();
    let outcome = step.run(&mut attempt);
    let took = began.elapsed();
    let Attempt { output, failed, .. } = attempt;
    Done { outcome, output: output.unwrap_or_default(), failed, took }
}

fn exec(command: &str, batch: &Batch) -> Done {
    run(&ExecStep::new(command, Some(NO_HANG)), batch)
}

fn exec_for(command: &str, limit: Duration) -> Done {
    run(&ExecStep::new(command, Some(limit)), &small())
}

fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
    Record { key, value, ..Record::default() }
}

fn batch(records: usize, value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    for offset in 0..records {
        let offset = Offset::new(100 + offset as i64);
        batch.push(Record { offset, timestamp: Some(7), ..record(Some(b"k"), Some(value)) });
    }
    batch
}

fn small() -> Batch {
    batch(3, b"v")
}

fn five_mib() -> Batch {
    batch(5 * 1024, &[b'v'; 1024])
}

fn lines(batch: &Batch) -> Vec<u8> {
    let mut lines = Vec::new();
    write_lines(&mut lines, 3, batch.records()).unwrap();
    lines
}

/// A path in the folder, quoted for the shell.
fn quoted(dir: &Path, name: &str) -> (PathBuf, String) {
    let path = dir.join(name);
    let quoted = format!("'{}'", path.display());
    (path, quoted)
}

/// Waits for the end of a process that is not this one's child.
fn assert_dies(pid: &str) {
    let pid = Pid::from_raw(pid.trim().parse().expect("a process id")).unwrap();
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => {}
        Err(cause) => panic!("{cause}"),
        Ok(process) => {
            let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
            let limit = Timespec::try_from(NO_HANG).unwrap();
            assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "process {pid:?} lives on");
        }
    }
}

#[test]
fn a_command_reads_each_record_as_a_line_of_json() {
    let done = exec("cat", &small());
    assert_eq!(done.outcome, Ok(()));
    assert_eq!(done.output.as_bytes(), lines(&small()));
    assert!(
        done.output.starts_with(
            "{\"partition\":3,\"offset\":100,\"timestamp\":7,\"key\":\"k\",\"value\":\"v\"}\n"
        ),
        "{}",
        done.output
    );
}

#[test]
fn the_environment_names_the_run() {
    let done = exec("env | grep ^MB_ | grep -v ^MB_FAILED_FILE= | sort", &small());
    assert_eq!(
        done.output,
        "MB_ATTEMPT=2\nMB_FIRST_OFFSET=100\nMB_LAST_OFFSET=149\nMB_PARTITION=3\nMB_RECORDS=3\n\
         MB_RUN_KEY=First_Topic/3/100-149\nMB_TOPIC=First_Topic\n"
    );
}

#[test]
fn hostile_bytes_arrive_exact() {
    let mut batch = Batch::default();
    let hostile: [&[u8]; 7] = [
        b"a\0b",
        b"\x1b[31mred\x1b[0m",
        b"two\nlines\r\n",
        b"\xff\xfe\x00",
        b"'; exit 3; $(kill $$) `x`",
        "\u{2028}ü\u{202e}".as_bytes(),
        b"",
    ];
    for (offset, bytes) in hostile.iter().enumerate() {
        let offset = Offset::new(offset as i64);
        batch.push(Record { offset, ..record(Some(bytes), Some(bytes)) });
    }
    batch.push(Record { offset: Offset::new(99), ..record(None, None) });
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = quoted(dir.path(), "stdin");
    assert_eq!(exec(&format!("cat > {file}"), &batch).outcome, Ok(()));
    let stdin = fs::read_to_string(path).unwrap();
    assert_eq!(stdin.as_bytes(), lines(&batch));
    let records: Vec<serde_json::Value> =
        stdin.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), hostile.len() + 1, "one line each");
    assert_eq!(records[2]["value"], "two\nlines\r\n");
    assert_eq!(records[3]["key_base64"], "//4A");
    assert!(records[7]["value"].is_null());
}

#[test]
fn no_records_are_an_empty_stdin() {
    let done = exec("wc -c", &Batch::default());
    assert_eq!((done.outcome, done.output.trim()), (Ok(()), "0"));
}

#[test]
fn a_command_that_never_reads_a_large_stdin_is_done_when_it_ends() {
    assert_eq!(exec("exit 0", &five_mib()).outcome, Ok(()));
    assert_eq!(exec("exec <&-; echo said", &five_mib()).output, "said\n");
    let done = run(&ExecStep::new("sleep 1000", Some(Duration::from_millis(100))), &five_mib());
    assert_eq!(done.error(), "timed out after 100ms");
}

#[test]
fn a_command_may_read_the_first_line_only() {
    let done = exec("head -n 1", &five_mib());
    assert_eq!(done.outcome, Ok(()));
    assert_eq!(done.output.lines().count(), 1);
}

#[test]
fn a_large_batch_goes_through_while_output_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = quoted(dir.path(), "copy");
    // Both pipes are full most of the time, in both directions.
    let done = exec(&format!("tee {file} | tee /dev/stderr"), &five_mib());
    assert_eq!(done.outcome, Ok(()));
    let expected = lines(&five_mib());
    assert!(fs::read(path).unwrap() == expected, "the copy differs");
    let note = format!("[… {} bytes left out …]", expected.len() - CAPTURE_BYTES);
    assert_eq!(done.output.matches(&note).count(), 2, "of stdout and of stderr");
}

#[test]
fn one_record_larger_than_every_buffer_arrives() {
    let batch = batch(1, &vec![b'x'; 3 << 20]);
    let done = exec("wc -c", &batch);
    assert_eq!(done.output.trim(), lines(&batch).len().to_string());
}

#[test]
fn output_without_newline_is_cut_in_the_middle() {
    let done = exec("head -c 10000000 /dev/zero | tr '\\0' x; printf end", &small());
    assert_eq!(done.outcome, Ok(()));
    let half = "x".repeat(CAPTURE_BYTES / 2);
    let expected =
        format!("{half}\n[… {} bytes left out …]\n{}end", 10_000_003 - CAPTURE_BYTES, &half[3..]);
    assert!(done.output == expected, "{} bytes", done.output.len());
}

#[test]
fn binary_output_becomes_text() {
    let done = exec(r"printf 'a\377\376b\000c'; printf 'e\377' >&2", &small());
    assert_eq!(done.output, "a\u{fffd}\u{fffd}b\0c\n[stderr]\ne\u{fffd}");
}

#[test]
fn a_command_that_prints_without_end_is_timed_out_within_bounds() {
    for command in ["yes", "yes >&2", "yes & yes >&2"] {
        let done = exec_for(command, Duration::from_millis(200));
        assert!(done.error().starts_with("timed out after 200ms"), "{}", done.error());
        assert!(done.output.contains("bytes left out"), "{command}");
        assert!(done.output.len() < 2 * CAPTURE_BYTES + 200, "{}", done.output.len());
    }
}

#[test]
fn a_child_that_holds_the_pipes_does_not_hold_the_run_and_is_killed() {
    let done = exec("sleep 1000 & echo $!", &five_mib());
    assert_eq!(done.outcome, Ok(()));
    assert_dies(&done.output);
    // Nor does one that prints on and on.
    let done = exec("(echo $$; exec yes) & exit 0", &small());
    assert_eq!(done.outcome, Ok(()));
}

#[test]
fn a_child_in_a_session_of_its_own_does_not_hold_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = quoted(dir.path(), "stop");
    // It has left the group, so it is not killed; it prints until the file is there.
    let started = format!(
        "setsid sh -c 'echo on; while [ ! -e \"$1\" ]; do echo on; done' sh {file} & echo $!"
    );
    let done = exec(&started, &small());
    fs::write(path, "").unwrap();
    assert_eq!(done.outcome, Ok(()));
}

/// Long enough for a shell to have started and set its trap, on a busy machine too.
const TRAP_IS_SET: Duration = Duration::from_secs(2);

#[test]
fn a_command_that_ignores_sigterm_is_killed_with_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = quoted(dir.path(), "pid");
    let command = format!("trap '' TERM; sleep 1000 & echo $! > {file}; while :; do wait; done");
    let done = exec_for(&command, TRAP_IS_SET);
    assert_eq!(done.error(), "timed out after 2s");
    assert!(done.took >= TRAP_IS_SET + KILL_GRACE, "{:?}: it had its grace", done.took);
    assert_dies(&fs::read_to_string(path).unwrap());
}

#[test]
fn a_child_has_time_to_end_well_though_the_shell_is_gone_at_once() {
    // The shell in front dies of SIGTERM; the one behind it catches it and has something to say.
    let child = "trap \"sleep 0.2; echo tidy; exit\" TERM; echo up; while :; do sleep 0.01; done";
    let done = exec_for(&format!("sh -c '{child}'; true"), TRAP_IS_SET);
    assert!(done.error().starts_with("timed out after 2s"), "{}", done.error());
    assert!(done.output.starts_with("up\ntidy\n"), "{}", done.output);
    assert!(done.took < TRAP_IS_SET + KILL_GRACE, "{:?}: nobody waits for nobody", done.took);
}

#[test]
fn a_timeout_is_a_failure_even_where_the_command_then_exits_with_0() {
    let done = exec_for("trap 'exit 0' TERM; while :; do sleep 0.01; done", TRAP_IS_SET);
    assert!(done.error().starts_with("timed out after 2s"), "{}", done.error());
}

#[test]
fn a_time_limit_that_is_not_reached_changes_nothing() {
    assert_eq!(exec_for("cat > /dev/null", Duration::MAX).outcome, Ok(()));
    assert_eq!(exec_for("cat > /dev/null", Duration::from_secs(1000)).outcome, Ok(()));
}

#[test]
fn how_it_ended_is_in_the_error() {
    for (command, error) in [
        ("exit 3", "command ended with exit code 3"),
        ("exit 75", "command ended with exit code 75 (not now)"),
        ("kill -SEGV $$", "command was ended by SIGSEGV"),
        ("sh -c 'kill -9 $$'; exit $?", "command ended with exit code 137 (128 + SIGKILL)"),
        ("echo one >&2; echo 'two\u{1b}[1m' >&2; exit 1", "exit code 1: two\\u{1b}[1m"),
        ("nosuchcommand", "command not found (exit code 127): "),
        ("/etc/passwd", "command not executable (exit code 126): "),
    ] {
        let done = exec(command, &small());
        assert!(done.error().contains(error), "{command}: {}", done.error());
        assert!(!done.error().contains('\n'), "{}", done.error());
    }
}

#[test]
fn an_abort_kills_what_runs_and_what_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = quoted(dir.path(), "pid");
    // In place at once, so that nobody reads half of it.
    let command =
        format!("trap '' TERM; sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait");
    let step = ExecStep::new(command, None);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&step, &small()));
        let began = Instant::now();
        while !path.exists() {
            assert!(began.elapsed() < NO_HANG && !running.is_finished());
            std::thread::yield_now();
        }
        step.abort();
        let done = running.join().unwrap();
        assert_eq!(done.error(), "ended by mb's forced stop");
    });
    assert_dies(&fs::read_to_string(path).unwrap());
    assert_eq!(run(&step, &small()).error(), "ended by mb's forced stop");
}

#[test]
fn an_exit_code_says_what_follows() {
    for code in 0..=255 {
        let done = exec(&format!("echo why >&2; exit {code}"), &small());
        let text = match (code, done.outcome) {
            (0, Ok(())) => continue,
            (65, Err(StepError::DeadLetter(text))) => text,
            (78, Err(StepError::Stop(text))) => text,
            (75 | 126 | 127, Err(StepError::NotNow(text))) => text,
            (code, Err(StepError::Retry(text))) if ![65, 75, 78, 126, 127].contains(&code) => text,
            (code, outcome) => panic!("{code}: {outcome:?}"),
        };
        assert!(text.contains(&format!("exit code {code}")) && text.ends_with(": why"), "{text}");
    }
}

/// What a batch of three records leaves: a name, and its reason.
const NAME_TWO: &str = "echo 102 bad customer >> \"$MB_FAILED_FILE\"; echo 100 >> $MB_FAILED_FILE";

#[test]
fn a_command_names_the_records_that_failed() {
    let named = ["100 ".to_owned(), "102 bad customer".to_owned()];
    for code in [0, 65, 75] {
        let done = exec(&format!("{NAME_TWO}; exit {code}"), &small());
        assert_eq!(done.named(), named, "exit code {code}: {:?}", done.outcome);
    }
    let none = exec("cat", &small());
    assert_eq!((none.outcome, none.failed), (Ok(()), Vec::new()));
}

#[test]
fn names_of_a_command_that_did_not_come_to_its_end_do_not_count() {
    for end in
        ["exit 1", "exit 78", "exit 126", "nosuchcommand", "kill -KILL $$", "sh -c 'kill $$'"]
    {
        let done = exec(&format!("{NAME_TWO}; {end}"), &small());
        assert!(done.outcome.is_err(), "{end}");
        assert_eq!(done.named(), [] as [&str; 0], "{end}: {:?}", done.outcome);
    }
    let done = exec_for(
        &format!("trap 'exit 65' TERM; {NAME_TWO}; while :; do sleep 0.01; done"),
        TRAP_IS_SET,
    );
    assert!(done.error().starts_with("timed out"), "{}", done.error());
    assert_eq!(done.named(), [] as [&str; 0]);
}

#[test]
fn the_failed_file_is_private_absent_at_first_and_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let step = ExecStep::new(
        "test ! -e \"$MB_FAILED_FILE\" || exit 9
         cd / && umask 000 && echo 101 > \"$MB_FAILED_FILE\" || exit 8
         stat -c %a \"$(dirname \"$MB_FAILED_FILE\")\" && echo \"$MB_FAILED_FILE\"",
        Some(NO_HANG),
    )
    .scratch_dir(dir.path());
    assert_eq!(step.prepare("t"), Ok(()));
    let mut paths = Vec::new();
    for _ in 0..3 {
        let done = run(&step, &small());
        assert_eq!((&done.outcome, done.named()), (&Ok(()), vec!["101 ".to_owned()]));
        let path = done.output.strip_prefix("700\n").expect("a private folder").trim().to_owned();
        assert!(path.starts_with(dir.path().to_str().unwrap()), "{path}");
        assert!(!Path::new(&path).exists());
        paths.push(path);
    }
    paths.dedup();
    assert_eq!(paths.len(), 3, "each attempt has a file of its own");
    drop(step);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_names_anything_else_fails_the_attempt_and_nothing_counts() {
    let of_batch = "expected the offset of a record of this batch (of 100-102)";
    for (written, line) in [
        (r"garbage", "line 1: got \"garbage\""),
        (r"100\n99", "line 2: got \"99\""),
        (r"103", "line 1: got \"103\""),
        (r"-1", "line 1: got \"-1\""),
        (r"18446744073709551616", "line 1: got \"18446744073709551616\""),
        (r"100\n\n10\0001\n", "line 3: got \"10\\u{0}1\""),
        (r"\377\376", "line 1: got \"\u{fffd}\u{fffd}\""),
    ] {
        for code in [0, 65, 75] {
            let done =
                exec(&format!("printf -- '{written}' > $MB_FAILED_FILE; exit {code}"), &small());
            let expected = format!("MB_FAILED_FILE, {line}, {of_batch}");
            assert!(done.error().starts_with(&expected), "{written}: {}", done.error());
            assert_eq!(done.named(), [] as [&str; 0]);
            assert_eq!(
                done.error().contains(&format!("; command ended with exit code {code}")),
                code != 0
            );
        }
    }
}

#[test]
fn line_ends_of_every_kind_are_read() {
    for written in [r"100\n102\n", r"100\n102", r"\r\n102\r\n100\r\n\r\n", r"102\n100\n100\n102\n"]
    {
        let done = exec(&format!("printf '{written}' > $MB_FAILED_FILE"), &small());
        assert_eq!((&done.outcome, done.named()), (&Ok(()), vec!["100 ".into(), "102 ".into()]));
    }
}

#[test]
fn what_lies_in_the_failed_files_place_is_neither_followed_nor_waited_for() {
    let outside = tempfile::tempdir().unwrap();
    let (kept, file) = quoted(outside.path(), "kept");
    fs::write(&kept, "100\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (command, expected) in [
        ("ln -s /etc/passwd $MB_FAILED_FILE".to_owned(), "got a symlink"),
        (format!("ln -s {file} $MB_FAILED_FILE"), "got a symlink"),
        ("ln -s nowhere $MB_FAILED_FILE".to_owned(), "got a symlink"),
        ("mkfifo $MB_FAILED_FILE".to_owned(), "got a FIFO"),
        (format!("mkdir -p $MB_FAILED_FILE/deep; ln -s {file} $MB_FAILED_FILE/deep/link"), "got a directory"),
        ("truncate -s 1G $MB_FAILED_FILE".to_owned(), "got more than 66304 bytes"),
        ("head -c 66305 /dev/zero | tr '\\0' '\\n' > $MB_FAILED_FILE".to_owned(), "got more than"),
        ("rm -r \"$(dirname $MB_FAILED_FILE)\"".to_owned(), "its folder was removed"),
        ("rm -r \"$(dirname $MB_FAILED_FILE)\"; mkdir \"$(dirname $MB_FAILED_FILE)\"; echo 100 > $MB_FAILED_FILE".to_owned(), "its folder was removed"),
    ] {
        let step = ExecStep::new(command.clone(), Some(NO_HANG)).scratch_dir(dir.path());
        let done = run(&step, &small());
        assert!(
            done.error().starts_with(&format!("MB_FAILED_FILE: {expected}")),
            "{command}: {}",
            done.error()
        );
        assert_eq!(done.named(), [] as [&str; 0]);
        let folders = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        for folder in folders.filter(|_| !command.contains("dirname")) {
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "{command}");
        }
        assert!(kept.exists());
        // The next attempt has a folder again.
        let next = ExecStep::new(NAME_TWO, Some(NO_HANG)).scratch_dir(dir.path());
        assert_eq!(run(&next, &small()).named().len(), 2);
    }
}

#[test]
fn a_failed_file_as_large_as_allowed_is_read() {
    let fill = "head -c 66300 /dev/zero | tr '\\0' '\\n' > $MB_FAILED_FILE";
    let done = exec(&format!("{fill}; printf 101 >> $MB_FAILED_FILE"), &small());
    assert_eq!((&done.outcome, done.named()), (&Ok(()), vec!["101 ".to_owned()]));
}

#[test]
fn every_record_of_a_large_batch_can_be_named_with_a_reason() {
    let batch = batch(20_000, b"v");
    let done = exec(
        "seq 100 20099 | sed 's/$/ customer is not known here/' | sort -r > $MB_FAILED_FILE",
        &batch,
    );
    assert_eq!(done.outcome, Ok(()));
    assert_eq!(done.failed.len(), 20_000);
    let offsets = batch.records().map(|record| record.offset);
    assert!(done.failed.iter().map(|record| record.offset).eq(offsets));
    assert!(done.failed.iter().all(|record| record.reason == "customer is not known here"));
}

#[test]
fn a_failed_file_that_mb_may_not_read_fails_the_attempt() {
    let done = exec(&format!("{NAME_TWO}; chmod 000 $MB_FAILED_FILE"), &small());
    if rustix::process::geteuid().is_root() {
        // Nothing is closed to root.
        assert_eq!((&done.outcome, done.named().len()), (&Ok(()), 2));
    } else {
        let expected = "MB_FAILED_FILE: cannot read it: Permission denied";
        assert!(done.error().starts_with(expected), "{}", done.error());
    }
}

#[test]
fn a_folder_removed_between_two_runs_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let step = ExecStep::new(NAME_TWO, Some(NO_HANG)).scratch_dir(dir.path());
    assert_eq!(run(&step, &small()).named().len(), 2);
    for entry in fs::read_dir(dir.path()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    assert_eq!(run(&step, &small()).named().len(), 2);
}

#[test]
fn without_a_place_for_the_failed_file_no_command_starts() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = quoted(dir.path(), "ran");
    let step = ExecStep::new(format!("echo > {file}"), None).scratch_dir("/dev/null/no");
    let error = step.prepare("t").unwrap_err();
    assert_eq!(error.exit_code(), 78);
    let place = "--exec: got /dev/null/no as the folder for MB_FAILED_FILE, expected a folder";
    assert!(error.to_string().starts_with(place), "{error}");
    // No record has to do with that: it would be waited for.
    step.stopping();
    match run(&step, &small()).outcome {
        Err(StepError::NotDone(text)) => {
            assert!(text.starts_with("cannot make a folder in /dev/null/no"), "{text}");
        }
        outcome => panic!("expected an attempt that is not done, got {outcome:?}"),
    }
    assert!(!path.exists());
}

#[test]
fn while_the_place_for_the_failed_file_is_gone_no_attempt_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (place, quoted_place) = quoted(dir.path(), "data");
    let (_, first) = quoted(dir.path(), "first");
    fs::create_dir(&place).unwrap();
    // The data directory goes while the command runs, and comes back later.
    let command = format!(
        "[ -e {first} ] && exec echo 101 > $MB_FAILED_FILE; touch {first}; rm -r {quoted_place}; exit 1"
    );
    let step = ExecStep::new(command, Some(NO_HANG)).scratch_dir(&place);
    let done = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&step, &small()));
        eventually(NO_HANG, "the place is gone", || !place.exists());
        fs::create_dir(&place).unwrap();
        running.join().unwrap()
    });
    assert_eq!((&done.outcome, done.named()), (&Ok(()), vec!["101 ".to_owned()]));
}

#[test]
fn a_start_removes_what_a_killed_process_left() {
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("mb-exec-1-0123456789abcdef");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("7"), "100\n").unwrap();
    let step = || ExecStep::new(NAME_TWO, Some(NO_HANG)).scratch_dir(dir.path());
    let (first, second) = (step(), step());
    first.prepare("t").unwrap();
    assert!(!dead.exists());
    // One that is alive keeps its folder.
    second.prepare("t").unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert_eq!(run(&first, &small()).named().len(), 2);
    assert_eq!(run(&second, &small()).named().len(), 2);
}

/// The other way to name records: a step of one's own.
struct NamesOdd;

impl Step for NamesOdd {
    fn name(&self) -> &str {
        "names-odd"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let batch = attempt.batch;
        for record in batch.records().filter(|record| record.offset.get() % 2 == 1) {
            attempt.fail(record.offset, format!("{} is odd", record.offset));
        }
        Err(StepError::RetryFailed("some are odd".to_owned()))
    }
}

#[test]
fn a_rust_step_names_records_and_says_what_becomes_of_them() {
    let key = key();
    let batch = small();
    let mut attempt =
        Attempt { key: &key, number: 1, batch: &batch, output: None, failed: Vec::new() };
    assert_eq!(NamesOdd.run(&mut attempt), Err(StepError::RetryFailed("some are odd".to_owned())));
    let odd = FailedRecord { offset: Offset::new(101), reason: "101 is odd".to_owned() };
    assert_eq!(attempt.failed, [odd]);
}
