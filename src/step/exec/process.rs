//! Runs one command from its start to its end: in a process group of its own, with its pipes served by one
//! poll loop and a time limit that ends the whole group. What its end means is decided in `outcome`, how the
//! process is started is in `spawn`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Resource, Signal, WaitOptions, getrlimit, kill_process_group, pidfd_open,
    waitpid,
};

use super::cancel::Cancel;
use super::capture::{Capture, Captured};
use super::feed::{Feed, Progress};
use super::groups::Groups;
use super::spawn::CommandLine;
use crate::config::limits::{KILL_GRACE, PIPE_REST_BYTES, SPARE_DESCRIPTORS};
use crate::model::batch::Record;
use crate::model::sync::Mutex;

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Who ended it, whatever its status says.
    pub by: By,
    pub output: Arc<Captured>,
}

/// Who ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Itself,
    /// Its time limit.
    Timeout,
    /// A person.
    Cancel,
}

impl Ended {
    pub fn timed_out(&self) -> bool {
        self.by == By::Timeout
    }
}

/// A command that was started. If it is dropped before it was watched, it is killed.
pub struct Started<'a, R> {
    group: Group<'a>,
    pipes: Pipes<R>,
    output: &'a Arc<Captured>,
    cancel: &'a Cancel,
    /// Readable once the command is cancelled.
    cancelled: Arc<OwnedFd>,
}

/// Starts the command with `feed` on its stdin; what it prints goes into `output`. Unless it is the `only` one, it
/// leaves some descriptors to the rest of mb.
///
/// # Errors
/// If the command could not be started, for lack of descriptors, processes or memory, for example; none of its
/// processes is left running.
pub fn start<'r, 'a, R: Iterator<Item = Record<'r>>>(
    command: &CommandLine,
    mut feed: Feed<R>,
    only: bool,
    (cancel, output): (&'a Cancel, &'a Arc<Captured>),
    groups: &'a Groups,
) -> io::Result<Started<'a, R>> {
    let cancelled = cancel.arm()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout, its_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, its_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    if !only {
        leave_some([&reader, &writer, &stdout, &its_stdout, &stderr, &its_stderr])?;
    }
    ioctl_fionbio(&writer, true)?;
    // Written before the start: a batch that fits into the pipe needs no poll, and the pipe is closed at once
    // so that the command reads its end.
    let stdin = (feed.write(&writer)? == Progress::Full).then_some(writer);
    let (stdout, stderr) = (Output::new(stdout)?, Output::new(stderr)?);
    let pid = command.spawn([reader.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()])?;
    // While the read end of stdin is open here, writing to a command that has closed its stdin does not fail with
    // EPIPE, and looks like writing to one that reads slowly. And one more descriptor is needed now: without it
    // the command that has just started would be killed.
    drop((reader, its_stdout, its_stderr));
    let group = Group::watch(pid, groups)?;
    Ok(Started { group, pipes: Pipes { feed, stdin, stdout, stderr }, output, cancel, cancelled })
}

/// Fails as if no descriptor were left, if only a few are. The system gives the lowest free number to each new
/// descriptor, so the highest of them shows how many are left.
fn leave_some<const N: usize>(new: [&OwnedFd; N]) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let spare = (limit / 8).min(SPARE_DESCRIPTORS);
    let highest = new.iter().map(|fd| fd.as_raw_fd()).max().unwrap_or_default();
    let is_free = |fd: RawFd| u64::try_from(fd).is_ok_and(|number| number < limit - spare);
    if is_free(highest) { Ok(()) } else { Err(Errno::MFILE.into()) }
}

impl<'r, R: Iterator<Item = Record<'r>>> Started<'_, R> {
    /// Serves the command until its process has ended, then kills the rest of its group.
    ///
    /// # Errors
    /// If the command could not be watched; none of its processes is left running.
    pub fn watch(mut self, timeout: Option<Duration>) -> io::Result<Ended> {
        let cancel = (self.cancel, &*self.cancelled);
        let watched = watch(&self.group, &mut self.pipes, self.output, timeout, cancel);
        // Before the process is reaped: until then no other process group can get its id. And while stdin is
        // still open: after an error the command must not take the end of its input for the end of the batch.
        self.group.signal(Signal::KILL);
        let by = watched?;
        self.pipes.stdout.drain(&self.output.stdout)?;
        self.pipes.stderr.drain(&self.output.stderr)?;
        Ok(Ended { status: self.group.reap()?, by, output: Arc::clone(self.output) })
    }
}

/// How far mb is in ending a command, with the time of the next stage.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Running { until: Option<Instant> },
    Terminated { by: By, until: Instant },
    Killed { by: By, warn_at: Option<Instant> },
}

impl Stage {
    fn until(self) -> Option<Instant> {
        match self {
            Stage::Running { until } => until,
            Stage::Terminated { until, .. } => Some(until),
            Stage::Killed { warn_at, .. } => warn_at,
        }
    }

    fn ended_by(self) -> By {
        match self {
            Stage::Running { .. } => By::Itself,
            Stage::Terminated { by, .. } | Stage::Killed { by, .. } => by,
        }
    }
}

/// Serves the pipes until the process has ended, and says who ended it.
///
/// Without a time limit this waits as long as the command takes, which is the user's choice; `Groups::abort`
/// ends such a command too.
fn watch<'a>(
    group: &Group<'_>,
    pipes: &mut Pipes<impl Iterator<Item = Record<'a>>>,
    output: &Captured,
    timeout: Option<Duration>,
    (cancel, cancelled): (&Cancel, &OwnedFd),
) -> io::Result<By> {
    // A limit beyond the range of the clock is no limit.
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut stage = Stage::Running { until };
    let mut ended = false;
    loop {
        let cancelled = matches!(stage, Stage::Running { .. }).then_some(cancelled);
        ended |= pipes.serve((!ended).then_some(&group.pidfd), cancelled, output, stage.until())?;
        // After SIGTERM the shell may end before the processes that it started. They get the grace time too,
        // as long as one of them holds a pipe open.
        if ended && (!matches!(stage, Stage::Terminated { .. }) || pipes.all_closed()) {
            return Ok(stage.ended_by());
        }
        let now = Instant::now();
        if matches!(stage, Stage::Running { .. }) && cancel.is_requested() {
            group.signal(Signal::TERM);
            stage = Stage::Terminated { by: By::Cancel, until: now + KILL_GRACE };
        }
        if stage.until().is_some_and(|until| until <= now) {
            stage = match stage {
                Stage::Running { .. } => {
                    group.signal(Signal::TERM);
                    Stage::Terminated { by: By::Timeout, until: now + KILL_GRACE }
                }
                Stage::Terminated { by, .. } if ended => return Ok(by),
                Stage::Terminated { by, .. } => {
                    group.signal(Signal::KILL);
                    Stage::Killed { by, warn_at: Some(now + KILL_GRACE) }
                }
                Stage::Killed { by, .. } => {
                    // Without this wait the next attempt would run beside this one (a process in
                    // uninterruptible sleep, on a dead NFS server for example, survives SIGKILL).
                    log::warn!(
                        target: "mb::step",
                        "command of process group {} does not end after SIGKILL; waiting for it",
                        group.id.as_raw_nonzero()
                    );
                    Stage::Killed { by, warn_at: None }
                }
            };
        }
    }
}

/// A started command's process group. If it is dropped before `reap`, it is killed and reaped.
struct Group<'a> {
    id: Pid,
    pidfd: OwnedFd,
    groups: &'a Groups,
    reaped: bool,
}

impl<'a> Group<'a> {
    /// `id` leads a group that nobody else has begun to watch.
    fn watch(id: Pid, groups: &'a Groups) -> io::Result<Group<'a>> {
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => {
                groups.add(id);
                Ok(Group { id, pidfd, groups, reaped: false })
            }
            Err(cause) => {
                // No descriptor left, or a kernel before 5.3.
                let _ = kill_process_group(id, Signal::KILL);
                wait_for(id)?;
                Err(cause.into())
            }
        }
    }

    fn signal(&self, signal: Signal) {
        match kill_process_group(self.id, signal) {
            // No process is left in the group.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(cause) => log::warn!(
                target: "mb::step",
                "cannot end process group {}: {cause}",
                self.id.as_raw_nonzero()
            ),
        }
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.forget_and_wait()
    }

    fn forget_and_wait(&mut self) -> io::Result<ExitStatus> {
        // In this order: once the process is reaped, its id may belong to another process group, which a
        // forced stop would kill.
        self.groups.remove(self.id);
        self.reaped = true;
        wait_for(self.id)
    }
}

/// The exit status of a child of this thread's process, which is gone then.
fn wait_for(id: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitpid(Some(id), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(None) | Err(Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.forget_and_wait();
        }
    }
}

/// mb's ends of the command's pipes; each is closed as soon as it is no longer needed.
struct Pipes<R> {
    feed: Feed<R>,
    stdin: Option<OwnedFd>,
    stdout: Output,
    stderr: Output,
}

impl<'a, R: Iterator<Item = Record<'a>>> Pipes<R> {
    /// Waits until a pipe is ready or the process has ended, at most until `until`, and serves each pipe once.
    /// True if the process has ended.
    fn serve(
        &mut self,
        process: Option<&OwnedFd>,
        cancelled: Option<&OwnedFd>,
        output: &Captured,
        until: Option<Instant>,
    ) -> io::Result<bool> {
        let [ended, _, stdin, stdout, stderr] = wait(
            [
                (process, PollFlags::IN),
                (cancelled, PollFlags::IN),
                (self.stdin.as_ref(), PollFlags::OUT),
                (self.stdout.pipe.as_ref(), PollFlags::IN),
                (self.stderr.pipe.as_ref(), PollFlags::IN),
            ],
            until,
        )?;
        if stdout {
            self.stdout.read(&output.stdout)?;
        }
        if stderr {
            self.stderr.read(&output.stderr)?;
        }
        if stdin
            && let Some(pipe) = &self.stdin
            && self.feed.write(pipe)? == Progress::Over
        {
            self.stdin = None;
        }
        Ok(ended)
    }

    fn all_closed(&self) -> bool {
        self.stdin.is_none() && self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }
}

/// Waits for one of the descriptors, at most until `until`; returns which are ready.
fn wait<const N: usize>(
    descriptors: [(Option<&OwnedFd>, PollFlags); N],
    until: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut fds = Vec::with_capacity(N);
    for (fd, flags) in descriptors {
        fds.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), flags)));
    }
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec::try_from(left).unwrap_or(LONGEST_WAIT));
    match poll(&mut fds, left.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; N]),
        Err(cause) => return Err(cause.into()),
    }
    let mut polled = fds.iter();
    Ok(descriptors.map(|(fd, _)| {
        fd.is_some() && polled.next().is_some_and(|polled| !polled.revents().is_empty())
    }))
}

/// The longest wait of one poll (34 years), for deadlines that do not fit into a timespec.
const LONGEST_WAIT: Timespec = Timespec { tv_sec: 1 << 30, tv_nsec: 0 };

/// One output stream.
struct Output {
    /// `None` once its end was read.
    pipe: Option<OwnedFd>,
}

impl Output {
    fn new(pipe: OwnedFd) -> io::Result<Output> {
        ioctl_fionbio(&pipe, true)?;
        Ok(Output { pipe: Some(pipe) })
    }

    /// Reads once, so that a command that prints without end does not keep stdin and the time limit waiting.
    /// Returns the number of bytes.
    fn read(&mut self, into: &Mutex<Capture>) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let mut buffer = [0; 16 * 1024];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => {
                self.pipe = None;
                Ok(0)
            }
            Ok(bytes) => {
                into.lock().push(&buffer[..bytes]);
                Ok(bytes)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(cause) => Err(cause.into()),
        }
    }

    /// Reads what is left in the pipe of a command that has ended. Bounded: a process that left the command's
    /// group may keep the pipe open and go on printing.
    fn drain(&mut self, into: &Mutex<Capture>) -> io::Result<()> {
        let mut drained = 0;
        while drained < PIPE_REST_BYTES {
            match self.read(into)? {
                0 => return Ok(()),
                bytes => drained += bytes,
            }
        }
        Ok(())
    }
}
