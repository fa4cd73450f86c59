//! Processes that commands leave behind: the binary adopts them, so that none stays a zombie when it ends.
//!
//! As PID 1 of a container mb is the parent of every such process anyway; elsewhere it asks to be. The system
//! gives them to the main thread, while a command is the child of the worker thread that started it: so the main
//! thread can reap its own children, and never takes the end of a command from the worker that waits for it.
//! Only the binary does this: the children of a program that uses the library are no business of mb's.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

use crate::config::limits;

/// Makes this process the parent of what its descendants leave behind.
pub fn adopt() {
    // The number is only a yes.
    if let Err(cause) = set_child_subreaper(Some(getpid())) {
        log::debug!("processes that commands leave behind are not adopted: {cause}");
    }
}

/// Reaps what has ended of the adopted processes; for the main thread. Returns when to look again.
pub fn reap() -> Duration {
    let of_this_thread = WaitOptions::from_bits_retain(libc::__WNOTHREAD.cast_unsigned());
    let mut reaped = 0;
    while reaped < limits::ORPHANS_AT_ONCE {
        match wait(WaitOptions::NOHANG | of_this_thread) {
            Ok(Some(_)) => reaped += 1,
            Err(Errno::INTR) => {}
            // All others live, or there are none.
            Ok(None) | Err(_) => break,
        }
    }
    // Where some end, more are about to: a zombie counts against the limits on processes.
    if reaped > 0 { limits::ORPHANS_INTERVAL } else { limits::SUPERVISE_INTERVAL }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::thread;

    use super::*;

    fn is_zombie(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
    }

    #[test]
    fn children_of_this_thread_are_reaped_and_those_of_others_are_left_to_them() {
        let own = Command::new("true").spawn().unwrap().id();
        let (tell, told) = crossbeam_channel::bounded::<()>(0);
        let worker = thread::spawn(move || {
            let mut child = Command::new("false").spawn().unwrap();
            let pid = child.id();
            while !is_zombie(pid) {
                thread::yield_now();
            }
            tell.send(()).unwrap();
            tell.send(()).unwrap();
            child.wait().unwrap().code()
        });
        while !is_zombie(own) {
            thread::yield_now();
        }
        told.recv().unwrap();
        assert_eq!(reap(), limits::ORPHANS_INTERVAL);
        assert!(!fs::exists(format!("/proc/{own}")).unwrap());
        assert_eq!(reap(), limits::SUPERVISE_INTERVAL);
        told.recv().unwrap();
        assert_eq!(worker.join().unwrap(), Some(1));
    }
}
