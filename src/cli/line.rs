//! Splits a command line into flags, values, positionals and the command before argh reads it, because argh does
//! not know `--flag=value`, takes `-` for an option, and reports errors on several lines.
//!
//! `Line::read` splits by the flags that the argh structs declare; `Line::build` passes the result to argh in a form
//! that argh reads correctly.

use std::ffi::OsString;

use argh::{FlagInfo, FlagInfoKind, FromArgs, Optionality, PositionalInfo};

use crate::cli::errors::{either, shown};
use crate::cli::flags::Spec;
use crate::model::error::{Error, Result};

/// What is printed instead of running a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    Version,
}

/// A command line, taken apart.
#[derive(Debug)]
pub struct Line {
    /// The name of one of the `Spec`s.
    pub command: &'static str,
    pub request: Option<Request>,
    /// Flags in the order in which they were typed, each at most once; switches have no value.
    flags: Vec<(String, Option<String>)>,
    /// Those of the flags that variables of the environment set, each with its variable.
    variables: Vec<(String, String)>,
    positionals: Vec<String>,
}

impl Line {
    /// Splits `args` (without the program's name). Flags in front of a command belong to it. `--help` and
    /// `--version` win over any error.
    ///
    /// # Errors
    /// `Usage`: an argument that is not UTF-8, an unknown flag or command, a flag given twice, a
    /// missing value, a positional too many.
    pub fn read(args: &[OsString], specs: &[&Spec]) -> Result<Line> {
        let mut reader =
            Reader { specs, command: None, help_command: false, request: None, words: vec![] };
        // The first error is kept until it is clear that no help was requested.
        let outcome = reader.walk(args);
        let spec = reader.command.unwrap_or(specs[0]);
        let mut line = Line {
            command: spec.name,
            request: reader.request,
            flags: vec![],
            variables: vec![],
            positionals: vec![],
        };
        if line.request.is_none() {
            outcome
                .and_then(|()| line.take(reader.words, spec, specs))
                .map_err(|text| Error::Usage(format!("{text} (try {} --help)", spec.typed())))?;
        }
        Ok(line)
    }

    /// A line of these flags alone, as if they had been typed.
    pub fn of_flags(flags: Vec<(String, Option<String>)>) -> Line {
        Line { command: "", request: None, flags, variables: vec![], positionals: vec![] }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(other, _)| other == flag)
    }

    /// Sets a flag that the line does not have, as if it had been typed; errors name the variable that sets it.
    pub fn set(&mut self, flag: &str, value: Option<String>, variable: String) {
        self.flags.push((flag.to_owned(), value));
        self.variables.push((flag.to_owned(), variable));
    }

    /// An error about flags of this line, which also says which variables set them.
    pub fn with_variables(&self, mut text: String) -> String {
        for (flag, variable) in &self.variables {
            if let Some(rest) = text.strip_prefix(&format!("{flag}: ")) {
                text = format!("{variable}: {rest}");
            } else if names_flag(&text, flag) {
                text.push_str(&format!(" ({flag} is set by {variable})"));
            }
        }
        text
    }

    /// Sorts the words into flags and positionals of the command.
    fn take(&mut self, words: Vec<Word>, spec: &Spec, specs: &[&Spec]) -> Result<(), String> {
        for word in words {
            match word {
                Word::Positional(text) => self.positionals.push(text),
                Word::Flag(name, value) => {
                    check_flag(&name, spec, specs)?;
                    if self.has(&name) {
                        return Err(format!("{name}: got this flag twice, expected it once"));
                    }
                    self.flags.push((name, value));
                }
            }
        }
        check_positionals(&self.positionals, spec, specs)
    }

    /// The argh struct of the command.
    ///
    /// # Errors
    /// `Usage` for a value that its flag does not take.
    pub fn build<T: FromArgs>(&self) -> Result<T> {
        let mut words: Vec<&str> = Vec::new();
        for (name, value) in &self.flags {
            words.push(name);
            words.extend(value.as_deref());
        }
        // Behind `--` argh takes everything as a positional, `-` too.
        words.push("--");
        words.extend(self.positionals.iter().map(String::as_str));
        T::from_args(&["mb"], &words).map_err(|exit| Error::Usage(self.reword(&exit.output)))
    }

    /// argh's error about a value in mb's form. argh puts a fixed sentence in front of the rule
    /// that the flag's function returned.
    fn reword(&self, output: &str) -> String {
        for (name, value) in &self.flags {
            let Some(value) = value else { continue };
            let sentence = format!("Error parsing option '{name}' with value '{value}': ");
            if let Some(rule) = output.strip_prefix(&sentence) {
                return format!("{name}: got {}, expected {}", shown(value), rule.trim_end());
            }
        }
        // `read` accepts nothing today that leads here, but an update of argh may add errors.
        let words: Vec<&str> = output.split_whitespace().collect();
        format!("command line: {}", words.join(" "))
    }
}

enum Word {
    Flag(String, Option<String>),
    Positional(String),
}

struct Reader<'a> {
    specs: &'a [&'a Spec],
    command: Option<&'a Spec>,
    /// `mb help` was read, which a command's name may follow.
    help_command: bool,
    request: Option<Request>,
    words: Vec<Word>,
}

impl Reader<'_> {
    /// Reads all arguments, even after an error, because `--help` may follow; returns the first error.
    fn walk(&mut self, args: &[OsString]) -> Result<(), String> {
        let mut first_error = Ok(());
        let mut rest = args.iter();
        let mut flags_ended = false;
        while let Some(arg) = rest.next() {
            let outcome = match arg.to_str() {
                None => Err(not_utf8(arg)),
                Some("--") if !flags_ended => {
                    flags_ended = true;
                    Ok(())
                }
                Some("--help" | "-h") if !flags_ended => {
                    self.request.get_or_insert(Request::Help);
                    Ok(())
                }
                Some("--version" | "-V") if !flags_ended => {
                    self.request.get_or_insert(Request::Version);
                    Ok(())
                }
                Some(text) if !flags_ended && text.len() > 1 && text.starts_with('-') => {
                    self.flag(text, &mut rest)
                }
                Some(text) => self.positional(text),
            };
            first_error = first_error.and(outcome);
        }
        first_error
    }

    fn flag(
        &mut self,
        text: &str,
        rest: &mut std::slice::Iter<'_, OsString>,
    ) -> Result<(), String> {
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        // A flag is of the same kind in every command that has it, so the command need not be known yet.
        let Some(info) = self.specs.iter().find_map(|spec| flag(spec, name)) else {
            return Err(unknown_flag(name, self.command.unwrap_or(self.specs[0])));
        };
        let value = match (&info.kind, inline) {
            (FlagInfoKind::Switch, None) => None,
            (FlagInfoKind::Switch, Some(value)) => {
                return Err(format!("{name}: got {}, expected no value", shown(&value)));
            }
            (FlagInfoKind::Option { .. }, Some(value)) => Some(value),
            (FlagInfoKind::Option { arg_name }, None) => {
                let next = rest.as_slice().first();
                if next.is_none_or(is_flag_like) {
                    return Err(format!("{name}: got no value, expected {name} {arg_name}"));
                }
                let next = rest.next().expect("the slice has a first element");
                Some(next.to_str().ok_or_else(|| not_utf8(next))?.to_owned())
            }
        };
        self.words.push(Word::Flag(name.to_owned(), value));
        Ok(())
    }

    fn positional(&mut self, text: &str) -> Result<(), String> {
        if self.command.is_none() {
            if text == "help" && !self.help_command {
                self.help_command = true;
                self.request.get_or_insert(Request::Help);
                return Ok(());
            }
            let found = self.specs.iter().find(|spec| spec.name == text && !text.is_empty());
            self.command = Some(*found.ok_or_else(|| unknown_command(text, self.specs))?);
        } else {
            self.words.push(Word::Positional(text.to_owned()));
        }
        Ok(())
    }
}

/// Whether an argument cannot be a value: in `--topic --rate 5` a value was forgotten. A value that does
/// begin with two dashes is given as `--flag=--value`.
fn is_flag_like(arg: &OsString) -> bool {
    arg.to_str().is_some_and(|text| text.starts_with("--") || text == "-h" || text == "-V")
}

fn flag<'a>(spec: &'a Spec, name: &str) -> Option<&'a FlagInfo<'static>> {
    spec.info.flags.iter().find(|flag| flag.long == name)
}

fn check_flag(name: &str, spec: &Spec, specs: &[&Spec]) -> Result<(), String> {
    if flag(spec, name).is_some() {
        return Ok(());
    }
    let owners: Vec<String> =
        specs.iter().filter(|spec| flag(spec, name).is_some()).map(|spec| spec.typed()).collect();
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    Err(format!(
        "flag: got {name}, expected a flag of {} ({name} is a flag of {})",
        spec.typed(),
        either(&owners)
    ))
}

fn check_positionals(given: &[String], spec: &Spec, specs: &[&Spec]) -> Result<(), String> {
    let taken = spec.info.positionals.len();
    let repeats = |info: &PositionalInfo<'_>| matches!(info.optionality, Optionality::Repeating);
    if spec.info.positionals.last().is_some_and(repeats) {
        return Ok(());
    }
    match given.get(taken) {
        None => Ok(()),
        // Behind `--`, without the name of a command.
        Some(extra) if spec.name.is_empty() => Err(unknown_command(extra, specs)),
        Some(extra) if taken == 0 => Err(format!(
            "argument: got {}, expected only flags after {}",
            shown(extra),
            spec.typed()
        )),
        Some(extra) => Err(format!(
            "argument: got {} as well, expected at most {taken} after {}",
            shown(extra),
            spec.typed()
        )),
    }
}

fn unknown_flag(name: &str, spec: &Spec) -> String {
    let names = spec.info.flags.iter().map(|flag| flag.long).chain(["--version", "--help"]);
    let nearest = nearest(name, names);
    let advice = nearest.map_or(String::new(), |nearest| format!("; did you mean {nearest}?"));
    format!("flag: got {}, expected a flag of {}{advice}", shown(name), spec.typed())
}

fn unknown_command(name: &str, specs: &[&Spec]) -> String {
    let names: Vec<&str> =
        specs.iter().map(|spec| spec.name).filter(|name| !name.is_empty()).collect();
    let advice = nearest(name, names.iter().copied())
        .map_or(String::new(), |nearest| format!("; did you mean {nearest}?"));
    format!(
        "command: got {}, expected {}, or only flags for the main job{advice}",
        shown(name),
        names.join(", ")
    )
}

/// Whether the flag is in the text, and not as the beginning of a longer one.
fn names_flag(text: &str, flag: &str) -> bool {
    let part = |c: char| c == '-' || c.is_ascii_alphanumeric();
    text.match_indices(flag).any(|(at, _)| !text[at + flag.len()..].starts_with(part))
}

/// The name that was probably meant: one with a letter or two wrong, or one that was not typed to its end.
pub fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.trim_start_matches('-');
    let most = (given.chars().count() / 3).min(3);
    let wrong = |name: &str| {
        let name = name.trim_start_matches('-');
        let is_begun = given.len() >= 4 && name.starts_with(given);
        if is_begun { 1 } else { strsim::damerau_levenshtein(given, name) }
    };
    names
        .map(|name| (wrong(name), name))
        .filter(|(wrong, _)| *wrong <= most)
        .min_by_key(|(wrong, _)| *wrong)
        .map(|(_, name)| name)
}

fn not_utf8(arg: &OsString) -> String {
    format!("argument: got {}, expected UTF-8", shown(&arg.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_name_is_suggested() {
        let names = ["--max-batch", "--max-wait", "--topic"];
        assert_eq!(nearest("--max-bacth", names.into_iter()), Some("--max-batch"));
        assert_eq!(nearest("--tpoic", names.into_iter()), Some("--topic"));
        assert_eq!(nearest("--max-b", names.into_iter()), Some("--max-batch"));
        assert_eq!(nearest("--zzz", names.into_iter()), None);
        let all = ["--bisect", "--count", "--isolation", "--bootstrap-server"];
        for far in ["-b", "--config", "--ssl-ca-location"] {
            assert_eq!(nearest(far, all.into_iter()), None, "{far}");
        }
    }
}
