//! SIGINT, SIGTERM and SIGHUP as messages of a channel, with their names, and what a second one means; SIGXFSZ,
//! which must not be the end; SIGCHLD, without which no command's end would be known.
//!
//! Crate ctrlc has the handler and the thread that it wakes. It tells no number, and would catch signals that
//! whoever started mb wants ignored: nohup for SIGHUP, a shell for the SIGINT of a command behind `&`. So a
//! handler of mb's notes the number and calls ctrlc's, and what was ignored is ignored again.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use libc::{SIG_DFL, SIG_IGN, SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ, c_int, sighandler_t};

use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread;
use crate::pipeline::Stopper;

/// Signals that stop mb.
const STOPS: [(c_int, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// A bit for each signal of `STOPS` that has come and was not looked at yet. A handler can reach nothing but
/// what is static.
static CAME: AtomicU32 = AtomicU32::new(0);

/// ctrlc's handler.
static CTRLC: AtomicUsize = AtomicUsize::new(SIG_DFL);

/// A message per signal, which names it: the first asks for an orderly stop, a later one for one at once. To be
/// called once per process.
///
/// # Errors
/// If the handler cannot be set.
pub fn listen() -> Result<Receiver<String>> {
    let (sender, receiver) = bounded(2);
    let mut repeats = Repeats::default();
    let cannot =
        |cause: &dyn std::fmt::Display| Error::Other(format!("cannot handle signals: {cause}"));
    // None is lost or misnamed between ctrlc's handler and mb's. One that comes meanwhile and was ignored is
    // dropped by the system when it is ignored again.
    let blocked = Blocked::new();
    let ignored = STOPS.map(|(number, _)| disposition(number) == SIG_IGN);
    ctrlc::set_handler(move || {
        let name = names(CAME.swap(0, Ordering::SeqCst));
        if repeats.counts(Instant::now()) {
            log::info!("got {name}");
            // A third signal says nothing new.
            let _ = sender.try_send(name);
        } else {
            log::info!("got {name} as well");
        }
    })
    .map_err(|cause| cannot(&cause))?;
    for ((number, _), ignored) in STOPS.into_iter().zip(ignored) {
        if ignored {
            set(number, SIG_IGN);
        } else {
            CTRLC.store(disposition(number), Ordering::SeqCst);
            set(number, note as *const () as sighandler_t);
        }
    }
    drop(blocked);
    Ok(receiver)
}

/// A pipeline's stop, requested by signals. A second signal ends the process with exit code 2, even if the pipeline
/// waits for a broker.
///
/// # Errors
/// As `listen`.
pub fn stop() -> Result<Receiver<()>> {
    outlive_file_limits();
    let signals = listen()?;
    let (stopper, stop) = Stopper::new();
    thread::spawn("signals", move || {
        let mut first = true;
        while let Ok(name) = signals.recv() {
            stopper.stop();
            if !first {
                // A pipeline that does not wait for a broker ends by itself in this time.
                std::thread::sleep(limits::SECOND_SIGNAL_GRACE);
                log::error!("forced stop: {name} came before mb had stopped");
                std::process::exit(2);
            }
            first = false;
        }
    })?;
    Ok(stop)
}

/// Which signals are another stop. `timeout`, for one, sends SIGTERM to its command and to its process group,
/// which the command is in: two signals that are meant as one.
#[derive(Debug, Default)]
struct Repeats {
    /// When the last one that counts came.
    last: Option<Instant>,
}

impl Repeats {
    fn counts(&mut self, now: Instant) -> bool {
        let since = |last: Instant| now.saturating_duration_since(last);
        let counts = self.last.is_none_or(|last| since(last) >= limits::SAME_STOP);
        if counts {
            self.last = Some(now);
        }
        counts
    }
}

/// The names of the signals whose bits are set.
fn names(came: u32) -> String {
    let came = |number: c_int| came & bit(number) != 0;
    let named: Vec<&str> =
        STOPS.into_iter().filter_map(|(number, name)| came(number).then_some(name)).collect();
    // None: an earlier look has seen it already.
    if named.is_empty() { "a signal".to_owned() } else { named.join(" and ") }
}

fn bit(number: c_int) -> u32 {
    1 << number
}

/// The handler: may do nothing but what is safe in the midst of anything, which are atomics and what ctrlc does
/// (`sem_post`).
extern "C" fn note(number: c_int) {
    CAME.fetch_or(bit(number), Ordering::SeqCst);
    let ctrlc = CTRLC.load(Ordering::SeqCst);
    if ctrlc != SIG_DFL && ctrlc != SIG_IGN {
        // SAFETY: it is the address of ctrlc's handler, which takes the number, and was set as a handler.
        let ctrlc: extern "C" fn(c_int) = unsafe { std::mem::transmute(ctrlc) };
        ctrlc(number);
    }
}

extern "C" fn nothing(_: c_int) {}

/// A file that outgrows `ulimit -f` would kill mb by SIGXFSZ; with a handler the write fails instead, and is
/// retried as on a full disk. Not "ignore", which commands would inherit, unless they had it so anyway.
fn outlive_file_limits() {
    if disposition(SIGXFSZ) == SIG_DFL {
        set(SIGXFSZ, nothing as *const () as sighandler_t);
    }
}

/// If SIGCHLD is ignored, the system takes the exit codes of commands away before mb can look at them. This one
/// signal does not stay ignored.
pub fn learn_of_children() {
    if disposition(SIGCHLD) == SIG_IGN {
        set(SIGCHLD, SIG_DFL);
    }
}

/// What happens at the signal: `SIG_DFL`, `SIG_IGN`, or a handler's address.
fn disposition(number: c_int) -> sighandler_t {
    let mut found = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set; what is found is written, or stays zero, which is `SIG_DFL`.
    unsafe {
        libc::sigaction(number, ptr::null(), found.as_mut_ptr());
        found.assume_init().sa_sigaction
    }
}

fn set(number: c_int, to: sighandler_t) {
    // SAFETY: zeros are an action without flags and with an empty mask; what is set is `SIG_DFL`, `SIG_IGN`, or a
    // handler of this file that does nothing that is unsafe in a handler.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = to;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(number, &raw const action, ptr::null_mut());
    }
}

/// The signals of `STOPS` wait, for this thread and those that it starts, until this is dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn new() -> Blocked {
        let mut set = MaybeUninit::zeroed();
        let mut before = MaybeUninit::zeroed();
        // SAFETY: the set is made empty before it is used; `before` is written, or stays the empty set.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for (number, _) in STOPS {
                libc::sigaddset(set.as_mut_ptr(), number);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            Blocked(before.assume_init())
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the mask is the one that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn signals_within_a_second_are_one_stop_and_a_later_one_is_another() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let counted = [0, 1, 999, 1000, 1500, 2000].map(|ms| repeats.counts(at(ms)));
        assert_eq!(counted, [true, false, false, true, false, true]);
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(names(bit(SIGTERM)), "SIGTERM");
        assert_eq!(names(bit(SIGHUP) | bit(SIGINT)), "SIGINT and SIGHUP");
        assert_eq!(names(0), "a signal");
    }

    #[test]
    fn dispositions_are_read_and_set() {
        // A signal that nothing in this process uses.
        let unused = libc::SIGWINCH;
        assert_eq!(disposition(unused), SIG_DFL);
        set(unused, SIG_IGN);
        assert_eq!(disposition(unused), SIG_IGN);
        set(unused, SIG_DFL);
        assert_eq!(disposition(unused), SIG_DFL);
    }
}
