//! Makes the help text of a command from the declarations of its flags.

use argh::FlagInfoKind;

use crate::cli::flags::Spec;

/// Columns of a line.
const WIDTH: usize = 100;
/// The column in which descriptions begin; a longer name gets a line of its own.
const DESCRIPTION_COLUMN: usize = 29;

const EXIT_CODES: [(&str, &str); 7] = [
    ("0", "finished, or shut down cleanly"),
    ("1", "runtime error, for example the broker does not answer"),
    ("2", "forced stop: a second signal, or --drain-timeout was exceeded"),
    ("64", "wrong usage"),
    ("65", "deliberate halt, for example a failed run with --on-failure halt"),
    ("75", "the step failed for longer than --hold-limit; from mb status: mb is not ready"),
    ("78", "unusable configuration, for example the data directory is in use"),
];

/// The help text of `spec`; the main job's lists the commands among `all`.
pub fn text(spec: &Spec, all: &[&Spec]) -> String {
    let mut out = String::with_capacity(8192);
    for (index, form) in spec.usage.iter().enumerate() {
        let heading = if index == 0 { "Usage:" } else { "      " };
        out.push_str(&format!("{heading} {} {form}\n", spec.typed()));
    }
    out.push('\n');
    for paragraph in spec.info.description.lines() {
        out.push_str(&wrapped(paragraph, 0));
    }
    if spec.name.is_empty() {
        let commands = all.iter().filter(|other| !other.name.is_empty());
        let rows: Vec<_> = commands.map(|other| (other.name, other.summary)).collect();
        section(&mut out, "Commands (each has its own --help)", &rows);
    }
    let arguments: Vec<_> =
        spec.info.positionals.iter().map(|of| (of.name, of.description)).collect();
    section(&mut out, "Arguments", &arguments);
    for (heading, fields) in spec.groups {
        let flags = spec.info.flags.iter().filter(|flag| is_of(flag.long, fields));
        let rows: Vec<_> = flags
            .map(|flag| match flag.kind {
                FlagInfoKind::Switch => (flag.long.to_owned(), flag.description),
                FlagInfoKind::Option { arg_name } => {
                    (format!("{} {arg_name}", flag.long), flag.description)
                }
            })
            .collect();
        section(&mut out, heading, &rows);
    }
    section(
        &mut out,
        "Help",
        &[("-h, --help", "print this help"), ("-V, --version", "print the version")],
    );
    out.push_str("\nExamples:\n");
    for example in spec.info.examples {
        example.lines().for_each(|line| out.push_str(&format!("  {line}\n")));
    }
    section(&mut out, "Exit codes", &EXIT_CODES);
    out
}

/// Whether the flag is one of these fields.
fn is_of(long: &str, fields: &[&str]) -> bool {
    let name = long.trim_start_matches('-');
    fields.iter().any(|field| field.replace('_', "-") == name)
}

/// A heading and its rows; nothing if there are none.
fn section<Name: AsRef<str>>(out: &mut String, heading: &str, rows: &[(Name, &str)]) {
    if rows.is_empty() {
        return;
    }
    out.push_str(&format!("\n{heading}:\n"));
    for (name, description) in rows {
        let label = format!("  {}", name.as_ref());
        let description = wrapped(description, DESCRIPTION_COLUMN);
        if label.chars().count() < DESCRIPTION_COLUMN {
            out.push_str(&format!("{label:<DESCRIPTION_COLUMN$}{}", description.trim_start()));
        } else {
            out.push_str(&format!("{label}\n{description}"));
        }
    }
}

/// The words of `text` in lines of up to `WIDTH` columns, each indented and ended.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut line = " ".repeat(indent);
    // A default stays on one line.
    let text = text.replace("(default ", "(default\u{a0}");
    for word in text.split([' ', '\n']).filter(|word| !word.is_empty()) {
        let is_empty = line.len() == indent;
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(indent);
        } else if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out.replace('\u{a0}', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_descriptions_are_wrapped_and_indented() {
        let text = wrapped(&"word ".repeat(40), 10);
        assert!(text.lines().all(|line| line.starts_with("          word") && line.len() <= WIDTH));
        assert_eq!(text.split_whitespace().count(), 40);
        assert_eq!(wrapped("", 0), "\n", "an empty line separates paragraphs");
    }

    #[test]
    fn a_long_name_has_a_line_of_its_own() {
        let mut out = String::new();
        section(&mut out, "Flags", &[("--a", "short"), (&"x".repeat(40), "long")]);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[1], "Flags:");
        assert_eq!(lines[2], "  --a                        short");
        assert_eq!(lines[4], "                             long");
    }
}
