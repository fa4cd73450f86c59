//! The step that runs a command for each batch, through `sh -c`, as `xargs` would for lines.
//!
//! Here is what a command gets and how it is checked at the start; `process` runs it, `feed`
//! writes its stdin, `capture` keeps its output, `groups` knows what runs, `cancel` ends one,
//! `outcome` judges, `failed_file` reads which records it named, in a `folder` of this process.

mod cancel;
mod capture;
mod failed_file;
mod feed;
mod folder;
mod groups;
mod outcome;
mod process;

#[cfg(feature = "testing")]
pub use self::failed_file::parse as parse_failed_file;

use std::env;
use std::fs;
use std::io;
use std::iter;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Access, access};

use self::cancel::{Attempts, Cancel};
use self::capture::Capture;
use self::failed_file::FailedFile;
use self::feed::Feed;
use self::folder::Folder;
use self::groups::Groups;
use self::process::Ended;
use super::shortage::Shortage;
use super::{Attempt, Step, StepError};
use crate::config::limits::SHELL_CHECK_LIMIT;
use crate::model::error::{Error, Result};
use crate::model::offset::RunKey;
use crate::model::sync::Mutex;

/// POSIX names no path for sh, but there is none elsewhere in practice, and an absolute path needs
/// no search for each run.
const SHELL: &str = "/bin/sh";

/// What a service manager tells mb, and is not meant for a command of mb's.
const SERVICE_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Runs `sh -c COMMAND` for each batch, in a process group of its own.
///
/// - **stdin**: one record a line, as JSON (`record_json`). A command may read all, some or none.
/// - **environment**: mb's own, with `MB_RUN_KEY`, `MB_TOPIC`, `MB_PARTITION`, `MB_FIRST_OFFSET`
///   and `MB_LAST_OFFSET` (of the batch that the run is of: there may be no such records, or not in
///   this lane), `MB_RECORDS` (lines on stdin), `MB_ATTEMPT` and `MB_FAILED_FILE`.
/// - **stdout, stderr**: kept in the attempt's output, `limits::CAPTURE_BYTES` of each.
/// - **its end**: exit code 0 is done, 65 makes dead letters at once (`StepError::DeadLetter`), 75
///   is tried again, 78 stops mb, which exits 65 (`StepError::Stop`). Anything else is tried again
///   too, a signal and the time limit included. The run ends when the shell ends; what is left of
///   its process group then is killed.
/// - **failed records**: `MB_FAILED_FILE` is a path of this attempt's own, with no file yet. A
///   command that writes offsets of its records there, one a line, names those that failed; what
///   follows a blank is the reason. With exit code 0 or 65 the named records become dead letters at
///   once, with 75 they alone are tried again, and **all the others are done**. After any other end
///   the file is not read: it may be that of an error in between, before it came to the others. A file
///   that names anything but a record of the batch, is larger than `limits::FAILED_FILE_BYTES`
///   allow, or is no regular file, fails the attempt (tried again), and nothing counts as done.
///   The file is removed when the command has ended.
/// - **time limit, cancel**: SIGTERM to the whole group, SIGKILL `limits::KILL_GRACE` later.
///
/// The command is idempotent where it uses `MB_RUN_KEY` so: after a crash or a failed attempt the
/// batch comes again under the same key. When mb itself is killed (kill -9), a command that is
/// running sees the end of its input, perhaps within a line, and lives on.
#[derive(Debug)]
pub struct ExecStep {
    command: String,
    timeout: Option<Duration>,
    groups: Groups,
    running: Attempts,
    /// Descriptors, processes, memory, room.
    means: Shortage,
    /// Where the folder for the `MB_FAILED_FILE`s is made.
    scratch_dir: PathBuf,
    folder: Mutex<Option<Arc<Folder>>>,
    /// Attempts so far: the name of the next one's file.
    attempts: AtomicU64,
}

impl ExecStep {
    /// `timeout` is one attempt's; `None` lets a command take as long as it likes.
    pub fn new(command: impl Into<String>, timeout: Option<Duration>) -> ExecStep {
        ExecStep {
            command: command.into(),
            timeout,
            groups: Groups::default(),
            running: Attempts::default(),
            means: Shortage::default(),
            scratch_dir: env::temp_dir(),
            folder: Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// Where to make the private folder in which commands write their `MB_FAILED_FILE`; the
    /// system's folder for temporary files unless said here. It must exist.
    #[must_use]
    pub fn scratch_dir(mut self, dir: impl Into<PathBuf>) -> ExecStep {
        self.scratch_dir = dir.into();
        self
    }

    /// The file of an attempt that is about to start.
    fn failed_file(&self) -> io::Result<FailedFile> {
        let mut folder = self.folder.lock();
        let folder = match folder.as_ref().filter(|folder| folder.is_in_place()) {
            Some(folder) => folder,
            // The first attempt, or somebody removed the folder while mb runs.
            None => folder.insert(Arc::new(Folder::make(&self.scratch_dir)?)),
        };
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        Ok(FailedFile::new(Arc::clone(folder), number))
    }

    /// Asks the shell something at the start.
    fn ask_shell(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = Command::new(SHELL);
        command.args(arguments);
        let nothing = Feed::new(0, iter::empty());
        Cancel::new()
            .and_then(|never| {
                process::run(command, nothing, Some(SHELL_CHECK_LIMIT), &never, &self.groups)
            })
            .map_err(|cause| self.unusable(&format!("cannot run {SHELL}: {cause}")))
    }

    fn unusable(&self, cause: &str) -> Error {
        let command = &self.command;
        Error::Config(format!("--exec: got {command:?}, expected a command for sh: {cause}"))
    }

    fn check_word(&self, word: &str) -> Result<()> {
        if word.contains('/') {
            let found = fs::metadata(word).map_err(|cause| {
                self.unusable(&format!("{word}: {cause}; give a path that exists"))
            })?;
            if !found.is_file() || access(word, Access::EXEC_OK).is_err() {
                return Err(self.unusable(&format!("{word} is not executable; try chmod +x")));
            }
            return Ok(());
        }
        // The shell knows its own words, its builtins and PATH.
        let asked = self.ask_shell(&["-c", "command -v -- \"$1\"", "sh", word])?;
        if asked.timed_out() || asked.status.success() {
            return Ok(());
        }
        Err(self.unusable(&format!("{word} is not in PATH; install it or give its path")))
    }
}

impl Step for ExecStep {
    fn name(&self) -> &str {
        "exec"
    }

    fn prepare(&self, _topic: &str) -> Result<()> {
        if self.command.trim().is_empty() {
            return Err(self.unusable("it is empty"));
        }
        let syntax = self.ask_shell(&["-n", "-c", &self.command])?;
        if !syntax.timed_out() && !syntax.status.success() {
            let cause = syntax.stderr.last_line().unwrap_or_else(|| syntax.status.to_string());
            return Err(self.unusable(&cause));
        }
        if let Some(word) = plain_first_word(&self.command) {
            self.check_word(word)?;
        }
        folder::remove_leftovers(&self.scratch_dir).and_then(|()| self.failed_file()).map_err(
            |cause| {
                Error::Config(format!(
                    "--exec: got {} as the place for MB_FAILED_FILE, expected a folder that mb can \
                     write: {cause}",
                    self.scratch_dir.display()
                ))
            },
        )?;
        Ok(())
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        const DOING: &str = "run the command";
        let key = attempt.key;
        let entered = loop {
            match self.running.enter(key) {
                Ok(entered) => break entered,
                Err(cause) => {
                    if let Some(error) = self.means.wait(DOING, &cause).error(DOING, &cause) {
                        return Err(error);
                    }
                }
            }
        };
        loop {
            if entered.cancel.is_requested() {
                return Err(StepError::Retry(outcome::CANCELLED.to_owned()));
            }
            match self.start_and_watch(attempt, &entered.cancel) {
                Ok((ended, failed_file)) => {
                    self.means.over("run commands");
                    return self.outcome(ended, &failed_file, attempt);
                }
                Err(Some(error)) => return Err(error),
                // No fault of the records: it is started again when the machine has the means.
                Err(None) => {}
            }
        }
    }

    fn cancel(&self, key: &RunKey) -> bool {
        self.running.cancel(key);
        true
    }

    fn stopping(&self) {
        self.means.stop();
    }

    fn abort(&self) {
        self.means.stop();
        self.groups.abort();
    }
}

impl ExecStep {
    /// The data directory is gone, or closed to mb, and no record has to do with that: what ends the
    /// attempt, if anything does.
    fn without_place(&self, cause: &io::Error) -> Option<StepError> {
        let doing = format!("make a folder in {} for MB_FAILED_FILE", self.scratch_dir.display());
        self.means.wait_out(&doing, cause).error(&doing, cause)
    }

    /// One command from its start to its end.
    ///
    /// # Errors
    /// What ends the attempt; `None` where a moment has passed and it is worth another try.
    fn start_and_watch(
        &self,
        attempt: &Attempt<'_>,
        cancel: &Cancel,
    ) -> std::result::Result<(Ended, FailedFile), Option<StepError>> {
        let failed_file = self.failed_file().map_err(|cause| self.without_place(&cause))?;
        let key = attempt.key;
        let mut command = Command::new(SHELL);
        command
            .args(["-c", &self.command])
            .env("MB_RUN_KEY", key.to_string())
            .env("MB_TOPIC", &*key.topic)
            .env("MB_PARTITION", key.partition.to_string())
            .env("MB_FIRST_OFFSET", key.range.first.to_string())
            .env("MB_LAST_OFFSET", key.range.last.to_string())
            .env("MB_RECORDS", attempt.batch.len().to_string())
            .env("MB_ATTEMPT", attempt.number.to_string())
            .env(failed_file::VARIABLE, failed_file.path());
        for name in SERVICE_VARIABLES {
            command.env_remove(name);
        }
        let feed = Feed::new(key.partition, attempt.batch.records());
        let ended = process::run(command, feed, self.timeout, cancel, &self.groups);
        let ended = ended.map_err(|cause| {
            const DOING: &str = "run the command";
            self.means.wait(DOING, &cause).error(DOING, &cause)
        })?;
        // Not only the file's folder is gone, which may be the command's own doing: which records it
        // named, nobody can say, and it runs again.
        let was_ended = self.groups.aborted() || cancel.is_requested();
        if !was_ended && !failed_file.is_parent_in_place() {
            return Err(self.without_place(&io::ErrorKind::NotFound.into()));
        }
        Ok((ended, failed_file))
    }

    fn outcome(
        &self,
        ended: Ended,
        failed_file: &FailedFile,
        attempt: &mut Attempt<'_>,
    ) -> Result<(), StepError> {
        let outcome = outcome::judge(&ended, self.timeout);
        let names_count = outcome::names_count(&ended);
        attempt.output = output(ended.stdout, ended.stderr);
        if outcome.is_err() && self.groups.aborted() {
            return Err(StepError::Retry("ended by mb's forced stop".to_owned()));
        }
        if names_count {
            attempt.failed = failed_file.read(attempt.batch).map_err(|problem| {
                StepError::Retry(match &outcome {
                    Ok(()) => problem,
                    Err(error) => format!("{problem}; {error}"),
                })
            })?;
        }
        outcome
    }
}

/// Both streams as one text: stdout first, then stderr under a line of its own.
fn output(stdout: Capture, stderr: Capture) -> Option<String> {
    if stdout.is_empty() && stderr.is_empty() {
        return None;
    }
    let mut text = stdout.into_text();
    if !stderr.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("[stderr]\n");
        text.push_str(&stderr.into_text());
    }
    Some(text)
}

/// The command's first word where it stands for itself: nothing in it that the shell would read
/// as more than a name or a path (quotes, variables, assignments, patterns, operators, `~`).
fn plain_first_word(command: &str) -> Option<&str> {
    let word = command.split_ascii_whitespace().next()?;
    let plain = |c: char| c.is_alphanumeric() || "_-./+,:@%".contains(c);
    word.chars().all(plain).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(command: &str) -> Result<()> {
        ExecStep::new(command, None).prepare("t")
    }

    fn refusal(command: &str) -> String {
        let error = prepared(command).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        error.to_string()
    }

    #[test]
    fn only_a_word_that_stands_for_itself_is_looked_up() {
        assert_eq!(plain_first_word("  cat -n | wc"), Some("cat"));
        assert_eq!(plain_first_word("./a-b_c.sh\n"), Some("./a-b_c.sh"));
        for more in ["A=1 cat", "\"cat\" x", "$CAT", "(cat)", "~/x", "cat;ls", "cat|wc", "c*t", ""]
        {
            assert_eq!(plain_first_word(more), None, "{more}");
        }
    }

    #[test]
    fn commands_that_can_run_are_taken() {
        for command in [
            "cat",
            "/bin/sh -c true",
            "if true; then cat; fi",
            ": > /dev/null",
            "while read line; do echo $line; done",
            "X=1 nosuchcommand",
            "\"$MB_TOPIC\"",
            "exit 3",
            "sleep 1000",
        ] {
            assert_eq!(prepared(command), Ok(()), "{command}");
        }
    }

    #[test]
    fn a_command_that_does_not_exist_is_a_startup_error() {
        let text = refusal("nosuchcommand --flag");
        assert!(text.contains("nosuchcommand is not in PATH"), "{text}");
        let text = refusal("/no/such/file x");
        assert!(text.contains("/no/such/file: No such file or directory"), "{text}");
        for path in ["/etc/passwd", "/etc"] {
            let text = refusal(path);
            assert!(text.contains(&format!("{path} is not executable")), "{text}");
        }
    }

    #[test]
    fn a_command_that_the_shell_cannot_read_is_a_startup_error() {
        for command in ["if true", "cat 'x", "cat |", "", "  \n", "cat\0"] {
            let text = refusal(command);
            assert!(text.contains("--exec") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn both_streams_come_as_one_text() {
        let capture = |text: &str| {
            let mut capture = Capture::new(100);
            capture.push(text.as_bytes());
            capture
        };
        assert_eq!(output(capture(""), capture("")), None);
        assert_eq!(output(capture("a"), capture("")), Some("a".into()));
        assert_eq!(output(capture("a"), capture("b\n")), Some("a\n[stderr]\nb\n".into()));
        assert_eq!(output(capture(""), capture("b")), Some("[stderr]\nb".into()));
    }
}
