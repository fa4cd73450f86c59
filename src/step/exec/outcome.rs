//! What the end of a command means for its attempt: done, or an error; and whether the records that it named
//! count. `failed_file` reads those names.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;

use super::process::{By, Ended};
use crate::config::limits::ERROR_LINE_CHARS;
use crate::config::units::format_duration;
use crate::step::StepError;

/// `EX_DATAERR` of sysexits.h: the batch is bad, and another attempt cannot help.
const DEAD_LETTER: i32 = 65;
/// `EX_TEMPFAIL` of sysexits.h: not now.
const NOT_NOW: i32 = 75;
/// How a shell reports that it cannot execute the command, or cannot find it (POSIX, 2.8.2).
const NO_COMMAND: [i32; 2] = [126, 127];
/// `EX_CONFIG` of sysexits.h: no batch can be processed until a person has repaired something.
const STOP: i32 = 78;

/// The error of an attempt that a person has cancelled; the reason is kept with the run.
pub const CANCELLED: &str = "cancelled";

/// What the command's end means for its attempt.
///
/// # Errors
/// For everything but exit code 0 within the time limit: `StepError::DeadLetter` for 65, `NotNow` for 75, 126
/// and 127,
/// `Stop` for 78, `Retry` for anything else. The message says how the command ended, and its last line on
/// stderr.
pub fn judge(ended: &Ended, timeout: Option<Duration>) -> Result<(), StepError> {
    let how = match timeout {
        _ if ended.by == By::Cancel => CANCELLED.to_owned(),
        Some(limit) if ended.timed_out() => format!("timed out after {}", format_duration(limit)),
        _ if ended.status.success() => return Ok(()),
        _ => describe(ended.status),
    };
    let last_line = ended.output.stderr.lock().last_line();
    let message = match last_line {
        Some(line) => format!("{how}: {}", shown(&line)),
        None => how,
    };
    Err(match ended.status.code() {
        // mb ended the command: its exit code only says how it handled the signal.
        _ if ended.by != By::Itself => StepError::Retry(message),
        Some(DEAD_LETTER) => StepError::DeadLetter(message),
        Some(NOT_NOW) => StepError::NotNow(message),
        // A script that was moved away is no record's fault.
        Some(code) if NO_COMMAND.contains(&code) => StepError::NotNow(message),
        Some(STOP) => StepError::Stop(message),
        _ => StepError::Retry(message),
    })
}

/// Whether the records that the command named count as failed, and all others as done: only if the command
/// ended by itself with exit code 0, 65 or 75. A command that crashes in the middle has named some records and
/// not reached the others; if those counted as done, they would be lost.
pub fn names_count(ended: &Ended) -> bool {
    let code = ended.status.code();
    ended.by == By::Itself && code.is_some_and(|code| matches!(code, 0 | DEAD_LETTER | NOT_NOW))
}

fn describe(status: ExitStatus) -> String {
    if let Some(signal) = status.signal() {
        return format!("command was ended by {}", signal_name(signal));
    }
    match status.code() {
        Some(127) => "command not found (exit code 127)".to_owned(),
        Some(126) => "command not executable (exit code 126)".to_owned(),
        // A shell reports so that a signal ended the program that it ran.
        Some(code @ 129..=192) => {
            format!("command ended with exit code {code} (128 + {})", signal_name(code - 128))
        }
        Some(DEAD_LETTER) => format!("command ended with exit code {DEAD_LETTER} (dead letter)"),
        Some(NOT_NOW) => format!("command ended with exit code {NOT_NOW} (not now)"),
        Some(STOP) => format!("command ended with exit code {STOP} (stop mb)"),
        Some(code) => format!("command ended with exit code {code}"),
        None => format!("command ended with {status}"),
    }
}

fn signal_name(number: i32) -> String {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::IO, "SIGIO"),
        (Signal::SYS, "SIGSYS"),
    ];
    match names.iter().find(|(signal, _)| signal.as_raw() == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("signal {number}"),
    }
}

/// A line that is safe to show in a log or on the page: control characters are escaped, and a long line is cut.
pub fn shown(line: &str) -> String {
    let mut shown = String::new();
    for (count, c) in line.chars().enumerate() {
        if count == ERROR_LINE_CHARS {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::step::exec::capture::Captured;

    /// `wait_status` is the raw one: an exit code in the high byte, or a signal in the low one.
    fn ended(wait_status: i32, timed_out: bool, stderr: &str) -> Ended {
        let output = Arc::<Captured>::default();
        output.stderr.lock().push(stderr.as_bytes());
        Ended {
            status: ExitStatus::from_raw(wait_status),
            by: if timed_out { By::Timeout } else { By::Itself },
            output,
        }
    }

    fn message(ended: &Ended) -> String {
        match judge(ended, Some(Duration::from_millis(1500))) {
            Err(StepError::Retry(text) | StepError::NotNow(text)) => text,
            outcome => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn only_exit_code_0_is_success_whatever_stderr_says() {
        assert_eq!(judge(&ended(0, false, "warning"), None), Ok(()));
    }

    #[test]
    fn some_exit_codes_have_a_meaning_and_all_others_are_retried() {
        for code in 1..=255 {
            let text = match (code, judge(&ended(code << 8, false, ""), None)) {
                (65, Err(StepError::DeadLetter(text))) => text,
                (78, Err(StepError::Stop(text))) => text,
                (75 | 126 | 127, Err(StepError::NotNow(text))) => text,
                (code, Err(StepError::Retry(text))) if ![65, 75, 78, 126, 127].contains(&code) => {
                    text
                }
                (code, outcome) => panic!("{code}: {outcome:?}"),
            };
            assert!(text.contains(&format!("exit code {code}")), "{text}");
        }
        for signal in 1..=64 {
            assert!(message(&ended(signal, false, "")).contains("was ended by"));
        }
    }

    #[test]
    fn a_command_that_was_cut_off_names_nothing() {
        let counting: Vec<_> =
            (0..=255).filter(|code| names_count(&ended(code << 8, false, ""))).collect();
        assert_eq!(counting, [0, 65, 75]);
        assert!(!(1..=64).any(|signal| names_count(&ended(signal, false, ""))));
        assert!(![0, 65, 75].iter().any(|code| names_count(&ended(code << 8, true, ""))));
    }

    #[test]
    fn an_error_names_the_end_and_the_last_line_of_stderr() {
        assert_eq!(
            message(&ended(3 << 8, false, "one\ntwo\n")),
            "command ended with exit code 3: two"
        );
        assert_eq!(message(&ended(11, false, "")), "command was ended by SIGSEGV");
        assert_eq!(message(&ended(40, false, "")), "command was ended by signal 40");
        assert_eq!(
            message(&ended(137 << 8, false, "")),
            "command ended with exit code 137 (128 + SIGKILL)"
        );
        assert_eq!(
            message(&ended(127 << 8, false, "sh: 1: nosuch: not found\n")),
            "command not found (exit code 127): sh: 1: nosuch: not found"
        );
    }

    #[test]
    fn a_timeout_is_reported_even_if_the_command_then_exits_0() {
        assert_eq!(message(&ended(0, true, "")), "timed out after 1.5s");
        assert_eq!(message(&ended(9, true, "so\n")), "timed out after 1.5s: so");
        for code in [65, 75, 78] {
            assert_eq!(message(&ended(code << 8, true, "")), "timed out after 1.5s");
        }
    }

    #[test]
    fn a_commands_output_cannot_control_the_terminal() {
        assert_eq!(shown("a\u{1b}[31m\0\tü"), "a\\u{1b}[31m\\u{0}\\tü");
        let long = shown(&"x".repeat(10_000));
        assert_eq!(long.chars().count(), ERROR_LINE_CHARS + 1);
        assert!(long.ends_with("x…"));
    }
}
