//! The form of errors about the command line: `WHAT: got VALUE, expected RULE`, on one line.

use crate::cli::output::escape;
use crate::model::error::{Error, Result};

/// A usage error, which ends mb with exit code 64.
///
/// # Errors
/// Always.
pub fn usage<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Usage(text.into()))
}

/// A value as errors show it: unchanged if it is one plain word, otherwise quoted; cut if it is long, with control
/// characters escaped.
pub fn shown(value: &str) -> String {
    const MAX_CHARS: usize = 60;
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
    let cut: String = value.chars().take(MAX_CHARS).collect();
    let dots = if cut.len() < value.len() { "…" } else { "" };
    if plain { format!("{cut}{dots}") } else { format!("\"{}{dots}\"", escape(&cut)) }
}

/// `a`, `a or b`, `a, b or c`.
pub fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
    }
}

/// Checks that the action takes every flag that was given. Each entry has the flag's name, whether it
/// was given, and the actions that take it.
///
/// # Errors
/// `Usage`, which names the first flag that the action does not take.
pub fn check_taken(action: &str, takes: &[(&str, bool, &[&str])]) -> Result<()> {
    match takes.iter().find(|(_, given, takers)| *given && !takers.contains(&action)) {
        None => Ok(()),
        Some((flag, _, takers)) => usage(format!(
            "{flag}: got this flag with {action}, expected it only with {}",
            either(takers)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_errors_are_short_and_have_no_control_characters() {
        assert_eq!(shown("abc"), "abc");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a b"), "\"a b\"");
        assert_eq!(shown("\u{1b}[31m\n"), "\"\\u{1b}[31m\\n\"");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 61);
    }
}
