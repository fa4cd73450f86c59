//! Prints on stdout: text and tables for people, JSON for programs. If the reader closes the pipe
//! (`mb lag | head -1`), printing ends without an error.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

use crate::config;
use crate::config::limits;
use crate::model::error::{Error, Result};

/// Prints `text` unchanged.
///
/// # Errors
/// `Other` if stdout cannot be written, as on a full disk; a closed pipe is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The flag that a command suggested in a message needs to find this data directory; empty if it is the
/// default one.
pub fn data_dir_flag(data_dir: &Path) -> String {
    if data_dir == config::Connection::default().data_dir {
        return String::new();
    }
    format!(" --data-dir {}", data_dir.display())
}

/// Prints one JSON array with one element per line.
///
/// # Errors
/// As `print`.
pub fn print_json<T: Serialize>(elements: &[T]) -> Result<()> {
    print(&json(elements)?)
}

/// Prints rows below a heading, each column as wide as its widest cell.
///
/// # Errors
/// As `print`.
pub fn print_table<const COLUMNS: usize>(
    heading: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> Result<()> {
    print(&table(heading, rows))
}

/// Prints a list that is read page by page, in the form of `print_table` or `print_json`. Columns are at least
/// as wide as on the first page.
///
/// `next` is given the last row so far (`None` at first) and a number; it returns that many of the rows that
/// follow, or fewer if no more exist.
///
/// # Errors
/// As `print`, and those of `next`.
pub fn print_pages<T: Serialize, const COLUMNS: usize>(
    json: bool,
    heading: [&str; COLUMNS],
    limit: u32,
    cells: impl Fn(&T) -> [String; COLUMNS],
    mut next: impl FnMut(Option<&T>, u32) -> Result<Vec<T>>,
) -> Result<()> {
    let mut widths = [0; COLUMNS];
    let mut page: Vec<T> = Vec::new();
    let mut printed = 0;
    loop {
        let wanted = limits::LIST_ROWS.min(limit - printed);
        let first = printed == 0;
        page = if wanted == 0 { Vec::new() } else { next(page.last(), wanted)? };
        if json {
            print(&elements(&page, first)?)?;
        } else {
            let rows: Vec<_> = page.iter().map(&cells).collect();
            print(&table_under(first.then_some(heading), &rows, &mut widths))?;
        }
        let returned = u32::try_from(page.len()).unwrap_or(wanted);
        printed += returned;
        if returned < wanted || printed >= limit {
            break;
        }
    }
    if json { print(if printed == 0 { "]\n" } else { "\n]\n" }) } else { Ok(()) }
}

fn json<T: Serialize>(all: &[T]) -> Result<String> {
    Ok(elements(all, true)? + if all.is_empty() { "]\n" } else { "\n]\n" })
}

/// The elements of an array, after the opening bracket or after earlier elements.
fn elements<T: Serialize>(elements: &[T], first: bool) -> Result<String> {
    let mut text = String::from(if first { "[" } else { "" });
    for (place, element) in elements.iter().enumerate() {
        text.push_str(if first && place == 0 { "\n" } else { ",\n" });
        let element = serde_json::to_string(element)
            .map_err(|cause| Error::Other(format!("cannot write JSON: {cause}")))?;
        // JSON does not escape these control characters, and a terminal may act on them. They can only be
        // within strings.
        for c in element.chars() {
            match c {
                '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => text.push(c),
            }
        }
    }
    Ok(text)
}

fn table<const COLUMNS: usize>(heading: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    table_under(Some(heading), rows, &mut [0; COLUMNS])
}

/// Rows below a heading, or below earlier rows of these widths.
fn table_under<const COLUMNS: usize>(
    heading: Option<[&str; COLUMNS]>,
    rows: &[[String; COLUMNS]],
    widths: &mut [usize; COLUMNS],
) -> String {
    let heading = heading.map(|heading| heading.map(str::to_owned));
    let lines: Vec<[Cow<'_, str>; COLUMNS]> =
        heading.iter().chain(rows).map(|row| row.each_ref().map(|cell| escape(cell))).collect();
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let start = text.len();
        for (width, cell) in widths.iter().zip(line) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
    text
}

/// Makes text from outside harmless for a terminal: control characters (including newlines and escape
/// sequences) and characters that change the writing direction are written as escapes.
pub fn escape(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

fn written(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Other(format!("cannot write to stdout: {cause}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_blanks() {
        let rows = [["a", "b", "-"], ["topic", "ü", "12"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["T", "NAME", "N"], &rows),
            "T      NAME  N\na      b     -\ntopic  ü     12\n"
        );
        assert_eq!(table(["A", "B"], &[]), "A  B\n");
    }

    #[test]
    fn a_list_ends_at_its_limit_or_with_a_page_that_is_not_full() {
        let size = limits::LIST_ROWS;
        for (limit, existing, expected) in [
            (0, 9, vec![]),
            (7, 9, vec![7]),
            (20, 9, vec![20]),
            (2 * size + 5, 9 * size, vec![size, size, 5]),
            (9 * size, size + 1, vec![size, size]),
            (9 * size, size, vec![size, size]),
        ] {
            let mut seen = Vec::new();
            let next = |last: Option<&u32>, rows: u32| {
                seen.push(rows);
                let from = last.map_or(0, |last| last + 1);
                Ok((from..existing.min(from + rows)).collect())
            };
            // The cells are empty, to print nothing between the lines of the test run.
            print_pages(false, [""], limit, |_| [String::new()], next).unwrap();
            assert_eq!(seen, expected, "limit {limit} of {existing} rows");
        }
    }

    #[test]
    fn pages_together_are_one_array_and_one_table() {
        let all = elements(&[1, 2], true).unwrap() + &elements(&[3], false).unwrap();
        assert_eq!(all + "\n]\n", json(&[1, 2, 3]).unwrap());
        let rows = [["aaa".to_owned(), "b".to_owned()]];
        let mut widths = [0; 2];
        let first = table_under(Some(["T", "N"]), &rows, &mut widths);
        let rows = [["c".to_owned(), "d".to_owned()]];
        assert_eq!(first + &table_under(None, &rows, &mut widths), "T    N\naaa  b\nc    d\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("plain ü 漢"), "plain ü 漢");
        assert_eq!(
            escape("a\n\u{1b}[31mb\u{9b}\u{202e}\0"),
            "a\\n\\u{1b}[31mb\\u{9b}\\u{202e}\\u{0}"
        );
    }

    #[test]
    fn json_is_one_array() {
        assert_eq!(json(&[1, 2]).unwrap(), "[\n1,\n2\n]\n");
        assert_eq!(json::<u8>(&[]).unwrap(), "[]\n");
        assert_eq!(json(&["\u{9b}2J\u{7f}ü"]).unwrap(), "[\n\"\\u009b2J\\u007fü\"\n]\n");
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        assert_eq!(written(Err(ErrorKind::BrokenPipe.into())), Ok(()));
        let error = written(Err(ErrorKind::StorageFull.into())).unwrap_err();
        assert!(error.to_string().starts_with("cannot write to stdout: "), "{error}");
    }
}
