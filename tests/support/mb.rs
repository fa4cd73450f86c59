//! The built binary as a process of its own: its log line by line, its signals, its end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually_some;

/// A running `mb`. Dropping it kills it.
pub struct Mb {
    child: Child,
    data_dir: PathBuf,
    /// Held for as long as the process may need it.
    _own_dir: Option<TempDir>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

/// What came out of a pipe by now.
#[derive(Default)]
struct Lines {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Mb {
    /// Starts `mb ARGS` with a data directory of its own, which goes when this is dropped.
    pub fn start(args: &[&str]) -> Mb {
        let dir = tempfile::Builder::new().prefix("mb-data-").tempdir().unwrap();
        let path = dir.path().to_owned();
        Mb::spawn(&path, Some(dir), args)
    }

    /// Starts `mb ARGS` on a data directory that outlives it.
    pub fn start_in(data_dir: &Path, args: &[&str]) -> Mb {
        Mb::spawn(data_dir, None, args)
    }

    /// Runs `mb ARGS` to its end on a data directory: for commands that print and end.
    pub fn run_in(data_dir: &Path, args: &[&str]) -> Output {
        command(data_dir, args).stdin(Stdio::null()).output().expect("mb starts")
    }

    /// The same after a shell has run `before`, such as `ulimit -n 64`.
    pub fn start_under(before: &str, data_dir: &Path, args: &[&str]) -> Mb {
        let plain = command(data_dir, args);
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("{before}; exec \"$0\" \"$@\"")]).arg(plain.get_program());
        shell.args(plain.get_args()).env_remove("RUST_LOG");
        Mb::spawn_command(shell, data_dir, None)
    }

    /// The same by another program that runs it, such as `nohup` or `timeout 60`; this value is that program.
    pub fn start_by(by: &[&str], data_dir: &Path, args: &[&str]) -> Mb {
        let plain = command(data_dir, args);
        let mut wrapped = Command::new(by[0]);
        wrapped.args(&by[1..]).arg(plain.get_program()).args(plain.get_args());
        wrapped.env_remove("RUST_LOG");
        Mb::spawn_command(wrapped, data_dir, None)
    }

    /// The same, killed at a named point of its work (see `mb::model::crash`): `recorded`, or `recorded:3`
    /// for the third time that it comes there.
    pub fn start_to_crash(at: &str, data_dir: &Path, args: &[&str]) -> Mb {
        let mut command = command(data_dir, args);
        command.env("MB_CRASH_AT", at);
        Mb::spawn_command(command, data_dir, None)
    }

    /// Waits until it was killed at its point.
    ///
    /// # Panics
    /// With its log if it ended in another way, or `limit` is over.
    pub fn wait_for_crash(&mut self, limit: Duration) {
        let status = self.wait(limit);
        let log = self.stderr().join("\n");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}, not killed: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }

    fn spawn(data_dir: &Path, own_dir: Option<TempDir>, args: &[&str]) -> Mb {
        Mb::spawn_command(command(data_dir, args), data_dir, own_dir)
    }

    fn spawn_command(mut command: Command, data_dir: &Path, own_dir: Option<TempDir>) -> Mb {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mb starts");
        let (stdout, stderr) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        let readers = vec![
            gather(child.stdout.take().expect("stdout is a pipe"), Arc::clone(&stdout)),
            gather(child.stderr.take().expect("stderr is a pipe"), Arc::clone(&stderr)),
        ];
        let data_dir = data_dir.to_owned();
        Mb { child, data_dir, _own_dir: own_dir, stdout, stderr, readers }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits 32 bits")
    }

    /// The process that has the data directory's lock, which another program may have started.
    pub fn lock_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.data_dir.join("mb.lock")).expect("mb has a lock");
        text.trim().parse().expect("a process id")
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The first line on stderr that contains `text`, once it is there.
    ///
    /// # Panics
    /// With all lines so far when `limit` is over or mb has ended without it.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> String {
        self.wait_for_line_from(0, text, limit).1
    }

    /// The same among the lines from number `from` (0 is the first) on; returns the line's number
    /// too, so that a test can wait for the next of its kind.
    pub fn wait_for_line_from(&self, from: usize, text: &str, limit: Duration) -> (usize, String) {
        let deadline = Instant::now() + limit;
        let mut state = self.stderr.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (lines, ended) = &*state;
            let found = lines.iter().enumerate().skip(from).find(|(_, line)| line.contains(text));
            if let Some((number, line)) = found {
                return (number, line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !ended && !left.is_zero(),
                "mb {} without a line {text:?}; it said:\n{}",
                if *ended { "ended".to_owned() } else { format!("ran {limit:?}") },
                lines.join("\n")
            );
            let waited = self.stderr.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All lines on stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// All lines on stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Ends it as a crash would, and returns when it is gone.
    pub fn kill9(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        self.child.wait().expect("mb can be waited for");
        self.join_readers();
    }

    /// SIGTERM: an orderly stop.
    pub fn term(&self) {
        self.signal(Signal::TERM);
    }

    /// # Panics
    /// Where the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a pid is above 0");
        kill_process(pid, signal).expect("mb runs");
    }

    /// Waits for its end; its output is whole afterwards.
    ///
    /// # Panics
    /// With its log when `limit` is over.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("mb {} ends", self.pid());
        let status =
            eventually_some(limit, &what, || self.child.try_wait().expect("mb can be waited for"));
        self.join_readers();
        status
    }

    /// Its exit status where it has ended; its output is whole then.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("mb can be waited for")?;
        self.join_readers();
        Some(status)
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader of mb's output");
        }
    }
}

impl Drop for Mb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.stderr();
            let from = lines.len().saturating_sub(40);
            eprintln!("the last that mb {} said:\n{}", self.pid(), lines[from..].join("\n"));
        }
    }
}

/// Flags of connection and data come after a subcommand, so `--data-dir` goes last.
fn command(data_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mb"));
    command.args(args);
    // The main job has a page, which no two of them can have at one address.
    let is_main = args.first().is_none_or(|first| first.starts_with('-'));
    if is_main && !args.iter().any(|arg| arg.starts_with("--listen")) {
        command.args(["--listen", "off"]);
    }
    command.arg("--data-dir").arg(data_dir).env_remove("RUST_LOG");
    command
}

fn gather(pipe: impl Read + Send + 'static, into: Arc<Lines>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        // A broken pipe is its end, as the end is.
        while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            into.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(text);
            into.changed.notify_all();
            line.clear();
        }
        into.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        into.changed.notify_all();
    })
}
