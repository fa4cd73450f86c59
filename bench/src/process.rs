//! Runs a process and measures it: wall time from its start to its exit, CPU time and peak memory
//! as the kernel counted them (wait4).
//!
//! Each has a process group of its own, which is killed where it is dropped before its end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use mb_bench::Result;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::interrupt;

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What is shown of stderr where a process failed.
const TAIL_BYTES: usize = 600;

/// What one process took.
#[derive(Clone, Debug)]
pub struct Usage {
    pub wall: Duration,
    /// User and system time, that of the children it waited for included.
    pub cpu: Duration,
    /// Of its largest process; of the whole tree where that was asked for. Where the kernel's figure
    /// is not above this process' own peak, with which a child begins, it is sampled instead.
    pub peak_rss: u64,
    /// The last line on stdout.
    pub last_line: String,
}

struct Ended {
    status: ExitStatus,
    at: Instant,
    cpu: Duration,
    peak_rss: u64,
}

pub struct Running {
    name: String,
    pid: Pid,
    start: Instant,
    ended: Receiver<io::Result<Ended>>,
    over: bool,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    /// Peak of the tree, where it is sampled.
    tree_rss: Option<u64>,
    /// Peak of the process alone, sampled.
    own_rss: u64,
    /// This process' peak when it started.
    floor: u64,
}

impl Running {
    /// # Errors
    /// Where it cannot be started.
    pub fn start(mut command: Command) -> Result<Running> {
        let program = command.get_program().to_string_lossy().into_owned();
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let floor = memory("self", "VmHWM:").unwrap_or_default();
        let start = Instant::now();
        let mut child =
            command.spawn().map_err(|cause| format!("cannot run {program}: {cause}"))?;
        let id = child.id() as i32;
        let pid = Pid::from_raw(id).ok_or("a process without a number")?;
        let (sender, ended) = channel();
        thread::spawn(move || sender.send(wait(id)));
        let (sender, lines) = channel();
        let stdout = child.stdout.take().ok_or("no stdout")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if line.is_err() || sender.send(line.unwrap_or_default()).is_err() {
                    break;
                }
            }
        });
        let mut pipe = child.stderr.take().ok_or("no stderr")?;
        let stderr = thread::spawn(move || tail(&mut pipe));
        Ok(Running {
            name,
            pid,
            start,
            ended,
            over: false,
            lines,
            stderr: Some(stderr),
            tree_rss: None,
            own_rss: 0,
            floor,
        })
    }

    /// The peak memory of the process and all its children together, sampled.
    pub fn with_tree(mut self) -> Running {
        self.tree_rss = Some(0);
        self
    }

    /// # Errors
    /// Where the process ends, or `limit` passes, without the line.
    pub fn wait_for_line(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(LOOK_INTERVAL) {
                Ok(line) if line == wanted => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    let said = self.stderr.take().map(JoinHandle::join);
                    let said = said.and_then(std::result::Result::ok).unwrap_or_default();
                    return Err(format!("{} ended before it began: {said}", self.name).into());
                }
                _ if Instant::now() > end => {
                    return Err(format!("{} did not begin within {limit:?}", self.name).into());
                }
                _ => {}
            }
        }
    }

    /// Memory now, in bytes; `None` once it has ended.
    pub fn rss(&self) -> Option<u64> {
        memory(&self.pid.as_raw_nonzero().to_string(), "VmRSS:")
    }

    /// # Errors
    /// Where the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it takes longer than `limit`, or its exit code is not 0.
    pub fn wait(mut self, limit: Duration) -> Result<Usage> {
        let ended = loop {
            interrupt::check()?;
            match self.ended.recv_timeout(LOOK_INTERVAL) {
                Ok(ended) => break ended,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{}: nobody waits for it", self.name).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let own = memory(&self.pid.as_raw_nonzero().to_string(), "VmHWM:");
            self.own_rss = self.own_rss.max(own.unwrap_or_default());
            if let Some(peak) = &mut self.tree_rss {
                *peak = (*peak).max(tree_rss(self.pid.as_raw_nonzero().get()));
            }
            if self.start.elapsed() > limit {
                return Err(format!("{} took longer than {limit:?}: killed", self.name).into());
            }
        };
        self.over = true;
        let ended = ended.map_err(|cause| format!("cannot wait for {}: {cause}", self.name))?;
        let last_line = self.lines.iter().filter(|line| !line.is_empty()).last();
        if !ended.status.success() {
            let said = self.stderr.take().map(JoinHandle::join);
            let mut said = said.and_then(std::result::Result::ok).unwrap_or_default();
            // Some (Spark's) have all on stdout.
            if said.is_empty() {
                said = last_line.unwrap_or_else(|| "it said nothing".into());
            }
            return Err(format!("{}: {}: {said}", self.name, ended.status).into());
        }
        let own = if ended.peak_rss > self.floor { ended.peak_rss } else { self.own_rss };
        Ok(Usage {
            wall: ended.at - self.start,
            cpu: ended.cpu,
            peak_rss: self.tree_rss.unwrap_or_default().max(own),
            last_line: last_line.unwrap_or_default(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.ended.recv_timeout(Duration::from_secs(5));
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// As `Running::wait`.
pub fn run(command: Command, limit: Duration) -> Result<Usage> {
    Running::start(command)?.wait(limit)
}

/// A process, waited for and counted. (std's own `wait` has no usage.)
fn wait(pid: i32) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both point at values of the right types, which live through the call.
        let got = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if got == pid {
            break;
        }
        let cause = io::Error::last_os_error();
        if cause.kind() != io::ErrorKind::Interrupted {
            return Err(cause);
        }
    }
    let time = |time: libc::timeval| {
        Duration::new(time.tv_sec as u64, 0) + Duration::from_micros(time.tv_usec as u64)
    };
    Ok(Ended {
        status: ExitStatus::from_raw(status),
        at: Instant::now(),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak_rss: usage.ru_maxrss as u64 * 1024,
    })
}

/// The end of what a pipe brings, in one line.
fn tail(pipe: &mut impl Read) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(TAIL_BYTES));
    }
    let text = String::from_utf8_lossy(&kept);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// A process' memory now (`VmRSS:`) or its peak since it began its program (`VmHWM:`), in bytes.
fn memory(pid: &str, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Memory of a process and of all that descend from it.
fn tree_rss(pid: i32) -> u64 {
    let mut sum = memory(&pid.to_string(), "VmRSS:").unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        sum += children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(tree_rss)
            .sum::<u64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_process_is_timed_and_its_last_line_kept() {
        let usage = run(shell("echo one; echo two; sleep 0.2"), LIMIT).unwrap();
        assert_eq!(usage.last_line, "two");
        assert!(usage.wall >= Duration::from_millis(200) && usage.wall < LIMIT, "{usage:?}");
        assert!(
            usage.cpu < usage.wall && usage.peak_rss > 100_000 && usage.peak_rss < 8 << 20,
            "{usage:?}"
        );
    }

    #[test]
    fn cpu_time_is_that_of_the_children_too() {
        let loops = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let usage = run(shell(&format!("(sh -c '{loops}'); true")), LIMIT).unwrap();
        assert!(usage.cpu >= Duration::from_millis(20), "{usage:?}");
    }

    #[test]
    fn a_failure_says_what_stderr_said_last() {
        let error = run(shell("echo first >&2; echo why >&2; exit 3"), LIMIT).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("first | why"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let error = run(shell("sleep 60 & sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
