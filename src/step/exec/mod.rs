//! The step that runs a command for each batch, through `sh -c`, as `xargs` would for lines.
//!
//! This file has the command's environment and its check at the start. `slots` limits how many commands run
//! while descriptors or processes are short. `process` runs one command: `spawn` starts it, `feed` writes its
//! stdin, `capture` keeps its output, `groups` lists the process groups that are alive, `cancel` ends a single
//! command. `outcome` decides what its end means. `failed_file` reads the records that it named as failed, from
//! a file in the `folder` of this process.

mod cancel;
mod capture;
mod failed_file;
mod feed;
mod folder;
mod groups;
mod outcome;
mod process;
mod slots;
mod spawn;

#[cfg(feature = "testing")]
pub use self::failed_file::parse as parse_failed_file;

use std::env;
use std::fs;
use std::io;
use std::iter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Access, access};

use self::cancel::{Attempts, Cancel, Entered};
use self::failed_file::FailedFile;
use self::feed::Feed;
use self::folder::Folder;
use self::groups::Groups;
use self::process::Ended;
use self::slots::{NoSlot, Slots};
use self::spawn::CommandLine;
use super::shortage::{Shortage, is_shortage};
use super::{Attempt, Step, StepError};
use crate::config::limits::SHELL_CHECK_LIMIT;
use crate::model::error::{Error, Result};
use crate::model::offset::RunKey;
use crate::model::sync::Mutex;

/// POSIX prescribes no path for sh, but every system has it here, and an absolute path saves a search
/// through PATH for each run.
const SHELL: &str = "/bin/sh";

/// Variables by which systemd addresses mb itself. A command that inherited them could report mb as ready or
/// stopped, or feed its watchdog.
const SERVICE_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// What the variables that set mb's own flags begin with (see `cli::environment`). A command does not inherit them, so
/// an mb that it starts has the flags that it is given, and no others.
pub const OPTION_PREFIX: &str = "MB_OPT_";

/// The variable that has the run's key. An mb that finds it runs in a step.
pub const RUN_KEY_VARIABLE: &str = "MB_RUN_KEY";

/// Runs `sh -c COMMAND` for each batch, in a process group of its own.
///
/// - **stdin**: one record a line, as JSON (`record_json`). A command may read all, some or none.
/// - **environment**: mb's own without `MB_OPT_…`, and `MB_RUN_KEY`, `MB_TOPIC`, `MB_PARTITION`, `MB_FIRST_OFFSET` and
///   `MB_LAST_OFFSET` (the ends of the run's range, even if the log or this lane has no record at these
///   offsets), `MB_RECORDS` (lines on stdin), `MB_ATTEMPT` and `MB_FAILED_FILE`.
/// - **stdout, stderr**: kept in the attempt's output, `limits::CAPTURE_BYTES` of each.
/// - **exit code**: 0 is success, 65 makes dead letters at once (`StepError::DeadLetter`), 75 means
///   "not now" (`StepError::NotNow`, retried without limit), and so do 126 and 127, with which a shell reports that
///   it cannot run the command; 78 stops mb, which exits 65 (`StepError::Stop`). Every other end is retried too: other codes, signals and
///   the time limit. The run ends when the shell ends; the rest of its process group is killed then.
/// - **failed records**: `MB_FAILED_FILE` is a path for this attempt alone, and no file exists there yet. A
///   command names failed records by writing their offsets to it, one a line; text after a blank is the
///   reason. With exit code 0 or 65 the named records become dead letters at once, with 75 only they are
///   retried, and **all the others are done**. After any other end the file is not read: the command may
///   have crashed after naming some records and before it reached the others, which would be lost if they
///   counted as done. A file that names anything but a record of the batch, is larger than
///   `limits::FAILED_FILE_BYTES` allow, or is not a regular file fails the attempt (retried), and nothing
///   counts as done. The file is removed when the command has ended.
/// - **time limit, cancel**: SIGTERM to the whole process group, SIGKILL `limits::KILL_GRACE` later.
///
/// After a crash or a failed attempt the batch comes again under the same `MB_RUN_KEY`; a command that uses
/// the key to overwrite its earlier result is idempotent. If mb itself is killed (kill -9), a running
/// command reads the end of its input, perhaps in the middle of a line, and goes on running.
#[derive(Debug)]
pub struct ExecStep {
    command: String,
    timeout: Option<Duration>,
    groups: Groups,
    running: Attempts,
    /// File descriptors, processes, memory.
    slots: Slots,
    /// The data directory was removed, or cannot be written to.
    shortage: Shortage,
    /// The folder for the `MB_FAILED_FILE`s is created in this one.
    scratch_dir: PathBuf,
    folder: Mutex<Option<Arc<Folder>>>,
    /// Attempts so far; the number names the next attempt's file.
    attempts: AtomicU64,
}

impl ExecStep {
    /// `timeout` limits one attempt; `None` is no limit.
    pub fn new(command: impl Into<String>, timeout: Option<Duration>) -> ExecStep {
        ExecStep {
            command: command.into(),
            timeout,
            groups: Groups::default(),
            running: Attempts::default(),
            slots: Slots::default(),
            shortage: Shortage::default(),
            scratch_dir: env::temp_dir(),
            folder: Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// The folder in which mb creates the private folder for `MB_FAILED_FILE`s. It must exist; the default is
    /// the system's folder for temporary files.
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
            // This is the first attempt, or the folder was removed while mb runs.
            None => folder.insert(Arc::new(Folder::make(&self.scratch_dir)?)),
        };
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        Ok(FailedFile::new(Arc::clone(folder), number))
    }

    /// Runs the shell for a check at the start.
    fn run_shell(&self, arguments: &[&str]) -> Result<Ended> {
        let nothing = Feed::new(0, iter::empty());
        let (never, output) = (Cancel::default(), Arc::default());
        CommandLine::new(SHELL, arguments)
            .and_then(|command| {
                process::start(&command, nothing, true, (&never, &output), &self.groups)
            })
            .and_then(|started| started.watch(Some(SHELL_CHECK_LIMIT)))
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
        // Only the shell knows its keywords and builtins.
        let lookup = self.run_shell(&["-c", "command -v -- \"$1\"", "sh", word])?;
        if lookup.timed_out() || lookup.status.success() {
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
        let syntax = self.run_shell(&["-n", "-c", &self.command])?;
        if !syntax.timed_out() && !syntax.status.success() {
            let line = syntax.output.stderr.lock().last_line();
            let cause = line.unwrap_or_else(|| syntax.status.to_string());
            return Err(self.unusable(&cause));
        }
        if let Some(word) = plain_first_word(&self.command) {
            self.check_word(word)?;
        }
        folder::remove_leftovers(&self.scratch_dir).and_then(|()| self.failed_file()).map_err(
            |cause| {
                Error::Config(format!(
                    "--exec: got {} as the folder for MB_FAILED_FILE, expected a folder that mb can \
                     write to: {cause}",
                    self.scratch_dir.display()
                ))
            },
        )?;
        Ok(())
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let entered = self.running.enter(attempt.key);
        loop {
            match self.start_and_watch(attempt, &entered) {
                Ok((ended, failed_file)) => return self.outcome(ended, &failed_file, attempt),
                Err(Some(error)) => return Err(error),
                // The machine lacked something, and the records are not to blame: start the command again.
                Err(None) => {}
            }
        }
    }

    fn cancel(&self, key: &RunKey) -> bool {
        self.running.cancel(key);
        true
    }

    fn output(&self, key: &RunKey) -> Option<String> {
        self.running.output(key)?.text()
    }

    fn stopping(&self) {
        self.slots.stop();
        self.shortage.stop();
    }

    fn abort(&self) {
        self.stopping();
        self.groups.abort();
    }
}

impl ExecStep {
    /// Waits for the data directory, which was removed or cannot be written to. If that failed the attempt,
    /// a wrong chmod would turn the whole backlog into dead letters. Returns the error that ends the attempt;
    /// `None` if the attempt goes on.
    fn wait_for_scratch_dir(&self, cause: &io::Error) -> Option<StepError> {
        let doing = format!("make a folder in {} for MB_FAILED_FILE", self.scratch_dir.display());
        self.shortage.wait_out(&doing, cause).error(&doing, cause)
    }

    /// The command of an attempt, with its environment.
    fn command_line(&self, attempt: &Attempt<'_>, failed: &FailedFile) -> io::Result<CommandLine> {
        let key = attempt.key;
        let mut command = CommandLine::new(SHELL, &["-c", &self.command])?;
        command
            .env_remove_all(OPTION_PREFIX)
            .env(RUN_KEY_VARIABLE, key.to_string())
            .env("MB_TOPIC", &*key.topic)
            .env("MB_PARTITION", key.partition.to_string())
            .env("MB_FIRST_OFFSET", key.range.first.to_string())
            .env("MB_LAST_OFFSET", key.range.last.to_string())
            .env("MB_RECORDS", attempt.batch.len().to_string())
            .env("MB_ATTEMPT", attempt.number.to_string())
            .env(failed_file::VARIABLE, failed.path());
        for name in SERVICE_VARIABLES {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Runs one command from its start to its end.
    ///
    /// # Errors
    /// The error that ends the attempt; `None` if the command is to be started again.
    fn start_and_watch(
        &self,
        attempt: &Attempt<'_>,
        Entered { cancel, output, .. }: &Entered<'_>,
    ) -> std::result::Result<(Ended, FailedFile), Option<StepError>> {
        if cancel.is_requested() {
            return Err(Some(StepError::Retry(outcome::CANCELLED.to_owned())));
        }
        let slot = self.slots.enter(|| cancel.is_requested()).map_err(|why| match why {
            NoSlot::Cancelled => None,
            NoSlot::Stopping => {
                Some(StepError::NotDone("no room to run the command until mb stopped".to_owned()))
            }
        })?;
        let failed_file = self.failed_file().map_err(|cause| self.wait_for_scratch_dir(&cause))?;
        let feed = Feed::new(attempt.key.partition, attempt.batch.records());
        output.clear();
        let ended = self
            .command_line(attempt, &failed_file)
            .and_then(|command| {
                process::start(&command, feed, slot.is_only, (cancel, output), &self.groups)
            })
            .inspect(|_| slot.started())
            .and_then(|started| started.watch(self.timeout));
        let ended = match ended {
            Ok(ended) => ended,
            Err(cause) if is_shortage(&cause) => {
                slot.lacked(&cause);
                return Err(None);
            }
            // No record's fault either, and nothing that passes by itself.
            Err(cause) => {
                return Err(Some(StepError::NotNow(format!("cannot run the command: {cause}"))));
            }
        };
        self.shortage.over("make a folder for MB_FAILED_FILE");
        // The data directory itself was removed under the command, so the records that it named as failed are
        // unknown, and it runs again. If only the file's folder is gone, the command may have removed it, and
        // reading the file reports that.
        let was_ended = self.groups.aborted() || cancel.is_requested();
        if !was_ended && !failed_file.is_parent_in_place() {
            return Err(self.wait_for_scratch_dir(&io::ErrorKind::NotFound.into()));
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
        attempt.output = ended.output.take_text();
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

/// The command's first word, if it is a plain name or path: without quotes, variables, assignments, patterns,
/// operators and `~`, which only the shell can resolve.
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
    fn only_a_plain_name_or_path_is_looked_up() {
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
}
