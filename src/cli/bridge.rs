//! Between the command line as people write it and argh, which knows no `--flag=value`, takes `-`
//! for an option, and has errors of several lines.
//!
//! `Line::read` tells flags, values, positionals and the subcommand apart, by the flags that the
//! argh structs declare; `Line::build` hands argh a form that it cannot misread. What the flags are
//! and mean is in `flags`.

use std::ffi::OsString;

use argh::{
    ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs, Optionality, PositionalInfo,
};

use crate::cli::output::escape;
use crate::cli::values::either;
use crate::model::error::{Error, Result};

/// A command as the bridge sees it.
pub struct Spec {
    /// `""` is the main job.
    pub name: &'static str,
    pub info: CommandInfoWithArgs,
}

impl Spec {
    /// The command whose flags are declared by `T`.
    pub fn of<T: ArgsInfo>(name: &'static str) -> Spec {
        Spec { name, info: T::get_args_info() }
    }

    /// What a user types: `mb`, `mb lag`.
    fn typed(&self) -> String {
        format!("mb {}", self.name).trim_end().to_owned()
    }

    fn flag(&self, name: &str) -> Option<&FlagInfo<'static>> {
        self.info.flags.iter().find(|flag| flag.long == name)
    }
}

/// What is printed instead of doing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    Version,
}

/// A command line, taken apart.
#[derive(Debug)]
pub struct Line {
    /// The command's name, of one of the `Spec`s.
    pub command: &'static str,
    pub request: Option<Request>,
    /// Flags in their order, each at most once; switches have no value.
    flags: Vec<(String, Option<String>)>,
    positionals: Vec<String>,
}

impl Line {
    /// Takes `args` (without the program's name) apart. Flags in front of a subcommand belong to
    /// it. A request for help or the version wins over any error.
    ///
    /// # Errors
    /// `Usage`: an argument that is not UTF-8, an unknown flag or command, a flag given twice, a
    /// missing value, a positional too many.
    pub fn read(args: &[OsString], specs: &[Spec]) -> Result<Line> {
        let mut reader =
            Reader { specs, command: None, help_command: false, request: None, line: vec![] };
        // The first error is kept until it is clear that no help was asked for.
        let outcome = reader.walk(args);
        let spec = reader.command.unwrap_or(&specs[0]);
        let (mut flags, mut positionals) = (Vec::new(), Vec::new());
        if reader.request.is_none() {
            outcome.map_err(|text| usage(text, spec))?;
            for word in reader.line {
                match word {
                    Word::Positional(text) => positionals.push(text),
                    Word::Flag(name, value) => {
                        check_flag(&name, spec, specs).map_err(|text| usage(text, spec))?;
                        if flags.iter().any(|(other, _)| *other == name) {
                            return Err(usage(
                                format!("{name}: got it twice, expected it once"),
                                spec,
                            ));
                        }
                        flags.push((name, value));
                    }
                }
            }
            check_positionals(&positionals, spec, specs).map_err(|text| usage(text, spec))?;
        }
        Ok(Line { command: spec.name, request: reader.request, flags, positionals })
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
        let typed = format!("mb {}", self.command);
        T::from_args(&["mb"], &words).map_err(|exit| {
            Error::Usage(format!("{} (try {} --help)", self.reword(&exit.output), typed.trim_end()))
        })
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
        // Nothing that `read` lets through comes here, but an update of argh may bring more.
        let words: Vec<&str> = output.split_whitespace().collect();
        format!("command line: {}", words.join(" "))
    }
}

/// The help text of argh for `T`, its options beneath the headings that `headings` has for the
/// first flag of each group.
pub fn help<T: FromArgs>(command: &str, headings: &[(&str, &str)]) -> String {
    let typed: Vec<&str> = ["mb", command].into_iter().filter(|word| !word.is_empty()).collect();
    let text = match T::from_args(&typed, &["--help"]) {
        Err(exit) => exit.output,
        Ok(_) => unreachable!("argh answers --help with an early exit"),
    };
    let mut out = String::with_capacity(text.len() + 512);
    for line in text.lines() {
        // A flag's line is indented by two blanks, the text beneath it by more.
        let flag = line.strip_prefix("  ").and_then(|line| line.split(' ').next());
        if let Some((_, heading)) = headings.iter().find(|(first, _)| Some(*first) == flag) {
            out.push_str(&format!("\n{heading}:\n"));
        }
        // Every option is beneath a heading of ours.
        if line != "Options:" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.replace("\n\n\n", "\n\n")
}

/// A value as errors show it: as it is where it is one plain word, else quoted, never longer than
/// a line, never with control characters.
pub fn shown(value: &str) -> String {
    const MAX_CHARS: usize = 60;
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
    let cut: String = value.chars().take(MAX_CHARS).collect();
    let dots = if cut.len() < value.len() { "…" } else { "" };
    if plain { format!("{cut}{dots}") } else { format!("\"{}{dots}\"", escape(&cut)) }
}

enum Word {
    Flag(String, Option<String>),
    Positional(String),
}

struct Reader<'a> {
    specs: &'a [Spec],
    command: Option<&'a Spec>,
    /// `mb help`, after which a command's name may come.
    help_command: bool,
    request: Option<Request>,
    line: Vec<Word>,
}

impl Reader<'_> {
    /// Walks to the end, whatever comes; the first error is the one that counts.
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
        // One flag is of one kind in all commands, so it need not be known yet which one this is.
        let Some(info) = self.specs.iter().find_map(|spec| spec.flag(name)) else {
            return Err(unknown_flag(name, self.command.unwrap_or(&self.specs[0])));
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
                let next = rest.next().expect("it was there a moment ago");
                Some(next.to_str().ok_or_else(|| not_utf8(next))?.to_owned())
            }
        };
        self.line.push(Word::Flag(name.to_owned(), value));
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
            self.command = Some(found.ok_or_else(|| unknown_command(text, self.specs))?);
        } else {
            self.line.push(Word::Positional(text.to_owned()));
        }
        Ok(())
    }
}

/// Whether an argument is surely no value: `--topic --rate 5` has forgotten one. A value that does
/// begin with two dashes is given as `--flag=--value`.
fn is_flag_like(arg: &OsString) -> bool {
    arg.to_str().is_some_and(|text| text.starts_with("--") || text == "-h" || text == "-V")
}

fn check_flag(name: &str, spec: &Spec, specs: &[Spec]) -> Result<(), String> {
    if spec.flag(name).is_some() {
        return Ok(());
    }
    let owners: Vec<String> =
        specs.iter().filter(|spec| spec.flag(name).is_some()).map(Spec::typed).collect();
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    Err(format!(
        "flag: got {name}, expected a flag of {} ({name} is one of {})",
        spec.typed(),
        either(&owners)
    ))
}

fn check_positionals(given: &[String], spec: &Spec, specs: &[Spec]) -> Result<(), String> {
    let taken = spec.info.positionals.len();
    let repeats = |info: &PositionalInfo<'_>| matches!(info.optionality, Optionality::Repeating);
    if spec.info.positionals.last().is_some_and(repeats) {
        return Ok(());
    }
    match given.get(taken) {
        None => Ok(()),
        // Behind `--`, where no command was named.
        Some(extra) if spec.name.is_empty() => Err(unknown_command(extra, specs)),
        Some(extra) if taken == 0 => Err(format!(
            "argument: got {}, expected flags only after {}",
            shown(extra),
            spec.typed()
        )),
        Some(extra) => Err(format!(
            "argument: got {} too, expected {taken} at most after {}",
            shown(extra),
            spec.typed()
        )),
    }
}

fn unknown_flag(name: &str, spec: &Spec) -> String {
    let names = spec.info.flags.iter().map(|flag| flag.long).chain(["--version"]);
    let nearest = nearest(name, names);
    let advice = nearest.map_or(String::new(), |nearest| format!(", as {nearest}"));
    format!("flag: got {}, expected a flag of {}{advice}", shown(name), spec.typed())
}

fn unknown_command(name: &str, specs: &[Spec]) -> String {
    let names: Vec<&str> =
        specs.iter().map(|spec| spec.name).filter(|name| !name.is_empty()).collect();
    let advice = nearest(name, names.iter().copied())
        .map_or(String::new(), |nearest| format!("; the nearest is {nearest}"));
    format!(
        "command: got {}, expected {}, or flags only for the main job{advice}",
        shown(name),
        names.join(", ")
    )
}

/// The name that was probably meant.
fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |name: &str| {
        strsim::jaro_winkler(given.trim_start_matches('-'), name.trim_start_matches('-'))
    };
    names
        .map(|name| (alike(name), name))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

fn not_utf8(arg: &OsString) -> String {
    format!("argument: got {}, expected UTF-8", shown(&arg.to_string_lossy()))
}

fn usage(text: String, spec: &Spec) -> Error {
    Error::Usage(format!("{text} (try {} --help)", spec.typed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_errors_are_short_and_harmless() {
        assert_eq!(shown("abc"), "abc");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a b"), "\"a b\"");
        assert_eq!(shown("\u{1b}[31m\n"), "\"\\u{1b}[31m\\n\"");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 61);
    }

    #[test]
    fn the_nearest_name_is_one_that_is_near() {
        let names = ["--max-batch", "--max-wait", "--topic"];
        assert_eq!(nearest("--max-bacth", names.into_iter()), Some("--max-batch"));
        assert_eq!(nearest("--tpoic", names.into_iter()), Some("--topic"));
        assert_eq!(nearest("--zzz", names.into_iter()), None);
    }
}
