//! The exec step against real shells, well-meaning and hostile ones. What it leaves behind in this
//! process (descriptors, zombies) is tested in exec_leaks.rs.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mb::batch::{Batch, Record};
use mb::headers::Headers;
use mb::limits::{CAPTURE_BYTES, KILL_GRACE};
use mb::offset::{Offset, OffsetRange, RunKey};
use mb::step::record_json::write_lines;
use mb::step::{Attempt, ExecStep, Step, StepError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Far above what anything here takes, far below what a hang would.
const NO_HANG: Duration = Duration::from_secs(20);

struct Done {
    outcome: Result<(), StepError>,
    output: String,
    took: Duration,
}

impl Done {
    fn error(&self) -> &str {
        match &self.outcome {
            Err(StepError::Retry(text)) => text,
            outcome => panic!("expected an error to retry, got {outcome:?}"),
        }
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
    Done { outcome, output: attempt.output.unwrap_or_default(), took: began.elapsed() }
}

fn exec(command: &str, batch: &Batch) -> Done {
    run(&ExecStep::new(command, Some(NO_HANG)), batch)
}

fn exec_for(command: &str, limit: Duration) -> Done {
    run(&ExecStep::new(command, Some(limit)), &small())
}

fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
    Record { offset: Offset::ZERO, timestamp: None, key, value, headers: Headers::NONE }
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
    let done = exec("env | grep ^MB_ | sort", &small());
    assert_eq!(
        done.output,
        "MB_ATTEMPT=2\nMB_FIRST_OFFSET=100\nMB_LAST_OFFSET=149\nMB_PARTITION=3\n\
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
        ("exit 65", "command ended with exit code 65"),
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
