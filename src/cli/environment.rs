//! Flags from the environment: `MB_OPT_MAX_BATCH=100` is `--max-batch 100` for each command that has the flag, unless
//! the command line has it. Pure: the variables are an argument.
//!
//! `OPT` keeps these names apart from those by which `step::exec` describes a run to its command (`MB_TOPIC`).

use std::ffi::{OsStr, OsString};

use argh::{FlagInfo, FlagInfoKind};

use crate::cli::errors::shown;
use crate::cli::flags::Spec;
use crate::cli::line::{Line, nearest};
use crate::model::error::{Error, Result};
use crate::step::{OPTION_PREFIX, RUN_KEY_VARIABLE};

/// The environment of a process: names and values.
pub type Variables = [(OsString, OsString)];

/// What `MB_OPT_BOOTSTRAP_SERVER` was called in the environment file of the systemd unit before the other variables
/// existed. It still counts if the new name is not set.
const OLD_BOOTSTRAP_SERVER: &str = "MB_BOOTSTRAP_SERVER";

/// Adds the flags that the environment sets to the line of the command `spec`, unless the line has them.
///
/// # Errors
/// `Usage`: a variable with the prefix that no command has a flag for, a value that no switch takes, a value that is
/// not UTF-8. Other values are checked with those of the command line.
pub fn apply(line: &mut Line, variables: &Variables, spec: &Spec, specs: &[&Spec]) -> Result<()> {
    check_names(variables, specs)
        .and_then(|()| set_flags(line, variables, spec, specs))
        .map_err(|text| Error::Usage(format!("{text} (try {} --help)", spec.typed())))
}

/// A line for each variable that looks as if it set a flag and does not, because its name lacks `OPT`. None if mb
/// runs in a step: there the outer mb has set such variables.
pub fn mistaken(line: &Line, variables: &Variables, spec: &Spec, specs: &[&Spec]) -> Vec<String> {
    if value_of(variables, RUN_KEY_VARIABLE).is_some() {
        return vec![];
    }
    let flags = settable(spec, specs).filter(|flag| !line.has(flag.long));
    flags
        .filter_map(|flag| {
            let meant = variable_of(flag.long);
            let name = meant.replacen("OPT_", "", 1);
            value_of(variables, &name)?;
            Some(format!("{name} is ignored: the variable for {} is {meant}", flag.long))
        })
        .collect()
}

fn check_names(variables: &Variables, specs: &[&Spec]) -> Result<(), String> {
    let flags = || specs.iter().flat_map(|spec| flags(spec)).map(|flag| flag.long);
    let unknown = |name: &String| {
        name.starts_with(OPTION_PREFIX) && !flags().any(|flag| variable_of(flag) == *name)
    };
    let names = variables.iter().map(|(name, _)| name.to_string_lossy().into_owned());
    let Some(name) = names.filter(unknown).min() else { return Ok(()) };
    let typed = name[OPTION_PREFIX.len()..].to_lowercase().replace('_', "-");
    let advice = nearest(&typed, flags())
        .map_or(String::new(), |flag| format!("; did you mean {}?", variable_of(flag)));
    Err(format!(
        "environment: got {}, expected {OPTION_PREFIX} and the name of a flag, as in {}{advice}",
        shown(&name),
        variable_of("--topic")
    ))
}

fn set_flags(
    line: &mut Line,
    variables: &Variables,
    spec: &Spec,
    specs: &[&Spec],
) -> Result<(), String> {
    for flag in settable(spec, specs) {
        if line.has(flag.long) {
            continue;
        }
        let old = (flag.long == "--bootstrap-server").then(|| OLD_BOOTSTRAP_SERVER.to_owned());
        let mut names = [variable_of(flag.long)].into_iter().chain(old);
        let found = names.find_map(|name| value_of(variables, &name).map(|value| (name, value)));
        let Some((name, value)) = found else { continue };
        let got = |rule: &str| {
            format!("{name}: got {}, expected {rule}", shown(&value.to_string_lossy()))
        };
        let value = value.to_str().ok_or_else(|| got("UTF-8"))?;
        match (&flag.kind, value) {
            (FlagInfoKind::Option { .. }, _) => line.set(flag.long, Some(value.to_owned()), name),
            (FlagInfoKind::Switch, "true" | "1") => line.set(flag.long, None, name),
            (FlagInfoKind::Switch, "false" | "0") => {}
            (FlagInfoKind::Switch, _) => return Err(got("true, false, 1 or 0")),
        }
    }
    Ok(())
}

/// The flags of `spec` that a variable can set. If a flag of the same name takes a value of another kind in a command
/// before it, the variable is of that one: `MB_OPT_FROM` says where a group starts, not which offsets to replay.
fn settable<'a>(spec: &'a Spec, specs: &'a [&Spec]) -> impl Iterator<Item = &'a FlagInfo<'static>> {
    flags(spec).filter(move |flag| {
        let mut all = specs.iter().flat_map(|spec| flags(spec));
        all.find(|first| first.long == flag.long).is_none_or(|first| first.kind == flag.kind)
    })
}

/// All flags but `--help`, which argh adds.
fn flags(spec: &Spec) -> impl Iterator<Item = &FlagInfo<'static>> {
    spec.info.flags.iter().filter(|flag| flag.long != "--help")
}

/// `MB_OPT_MAX_BATCH` for `--max-batch`.
fn variable_of(flag: &str) -> String {
    let name = flag.trim_start_matches('-').replace('-', "_").to_uppercase();
    format!("{OPTION_PREFIX}{name}")
}

/// The variable's value, unless it is empty: an empty variable sets nothing, so it undoes what a unit or a container
/// image sets.
fn value_of<'a>(variables: &'a Variables, name: &str) -> Option<&'a OsStr> {
    let found = variables.iter().find(|(other, _)| other == name);
    found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::{self, Parsed, parse};
    use crate::cli::main_job::{MainArgs, MainFlags, StepChoice};

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn with_line<T>(
        line: &[&str],
        pairs: &[(&str, &str)],
        then: impl FnOnce(Line, &Variables, &Spec, &[&Spec]) -> T,
    ) -> T {
        let entries = commands::all();
        let specs = entries.each_ref().map(|entry| &entry.spec);
        let line = Line::read(&words(line), &specs).unwrap();
        let spec = specs.iter().find(|spec| spec.name == line.command).unwrap();
        then(line, &variables(pairs), spec, &specs)
    }

    fn main_job(line: &[&str], pairs: &[(&str, &str)]) -> MainArgs {
        with_line(line, pairs, |mut line, variables, spec, specs| {
            apply(&mut line, variables, spec, specs).unwrap();
            commands::read::<MainFlags>(&line).unwrap()
        })
    }

    fn warnings(line: &[&str], pairs: &[(&str, &str)]) -> Vec<String> {
        with_line(line, pairs, |mut line, variables, spec, specs| {
            apply(&mut line, variables, spec, specs).unwrap();
            mistaken(&line, variables, spec, specs)
        })
    }

    /// `None` if the command is accepted.
    fn error(line: &[&str], pairs: &[(&str, &str)]) -> Option<String> {
        match parse(&words(line), &variables(pairs)) {
            Ok(Parsed::Job(_)) => None,
            Ok(Parsed::Print(text)) => panic!("{line:?} prints {text}"),
            Err(error) => {
                assert_eq!(error.exit_code(), 64);
                Some(error.to_string())
            }
        }
    }

    #[test]
    fn each_flag_of_each_command_is_set_by_its_variable_as_on_the_command_line() {
        let entries = commands::all();
        let specs = entries.each_ref().map(|entry| &entry.spec);
        let mut apart = vec![];
        for spec in specs {
            for flag in flags(spec) {
                if !settable(spec, &specs).any(|other| other == flag) {
                    apart.push((spec.name, flag.long));
                    continue;
                }
                let command: Vec<&str> =
                    [spec.name].into_iter().filter(|name| !name.is_empty()).collect();
                let variable = variable_of(flag.long);
                let (value, typed) = match flag.kind {
                    FlagInfoKind::Switch => ("true", vec![flag.long]),
                    // Some flags take it, the others name their rule.
                    FlagInfoKind::Option { .. } => ("!", vec![flag.long, "!"]),
                };
                let typed = error(&[command.clone(), typed].concat(), &[]);
                let set = error(&command, &[(variable.as_str(), value)]);
                match (&typed, &set) {
                    (None, None) => {}
                    (Some(typed), Some(set)) => match typed.strip_prefix(flag.long) {
                        Some(rest) => assert_eq!(*set, format!("{variable}{rest}")),
                        None if typed.contains(flag.long) => assert!(set.contains(&variable)),
                        None => assert_eq!(set, typed),
                    },
                    _ => panic!("{} {}: {typed:?}, {set:?}", spec.name, flag.long),
                }
            }
        }
        assert_eq!(apart, [("replay", "--from")]);
        assert_eq!(error(&["replay", "--since", "2026-01-01"], &[("MB_OPT_FROM", "latest")]), None);
    }

    #[test]
    fn a_flag_on_the_command_line_stands_above_the_environment() {
        let pairs = [("MB_OPT_TOPIC", "theirs"), ("MB_OPT_GROUP", "g"), ("MB_OPT_LISTEN", "off")];
        let args = main_job(&["--topic", "mine", "--listen=3001"], &pairs);
        assert_eq!((&*args.config.connection.topic, &*args.config.connection.group), ("mine", "g"));
        assert_eq!(args.config.web.unwrap().port, 3001);
    }

    #[test]
    fn a_switch_takes_true_and_false() {
        for (value, on) in
            [("true", true), ("1", true), ("false", false), ("0", false), ("", false)]
        {
            let args = main_job(&[], &[("MB_OPT_BISECT", value)]);
            assert_eq!(args.config.bisect, on, "{value}");
        }
        let text = error(&[], &[("MB_OPT_BISECT", "yes")]).unwrap();
        assert_eq!(text, "MB_OPT_BISECT: got yes, expected true, false, 1 or 0 (try mb --help)");
    }

    #[test]
    fn an_empty_variable_sets_nothing() {
        let args = main_job(&["--exec", "cat"], &[("MB_OPT_STEP", ""), ("MB_OPT_MAX_BATCH", "")]);
        assert_eq!(args.step, StepChoice::Exec { command: "cat".into() });
        assert_eq!(args.config.max_batch, 50);
    }

    #[test]
    fn an_unknown_variable_is_refused_by_every_command_with_the_nearest_name() {
        let expected = "expected MB_OPT_ and the name of a flag, as in MB_OPT_TOPIC";
        for (name, hint) in [
            ("MB_OPT_MAX_BACTH", "; did you mean MB_OPT_MAX_BATCH?"),
            ("MB_OPT_topic", "; did you mean MB_OPT_TOPIC?"),
            ("MB_OPT_MAX-BATCH", "; did you mean MB_OPT_MAX_BATCH?"),
            ("MB_OPT_HELP", ""),
            ("MB_OPT_", ""),
        ] {
            let text = error(&["lag"], &[("MB_OPT_TOPIC", "t"), (name, "")]).unwrap();
            let line = format!("environment: got {name}, {expected}{hint} (try mb lag --help)");
            assert_eq!(text, line);
        }
        assert_eq!(error(&["lag"], &[("MB_OPT_SENSORS", "not a number")]), None, "not for mb lag");
        assert_eq!(error(&["lag"], &[("MB_OPTION", "x"), ("XMB_OPT_Y", "x")]), None);
    }

    #[test]
    fn an_error_says_which_variable_set_a_flag() {
        let contradiction = error(&["--exec", "cat"], &[("MB_OPT_STEP", "log")]).unwrap();
        let noted = "expected only one of them (--step is set by MB_OPT_STEP) (try mb --help)";
        assert!(contradiction.ends_with(noted), "{contradiction}");
        let alone = error(&[], &[("MB_OPT_QUEUE", "0"), ("MB_OPT_QUEUE_BYTES", "1MiB")]).unwrap();
        assert!(alone.starts_with("MB_OPT_QUEUE: got 0, expected a whole number"), "{alone}");
        assert!(!alone.contains("QUEUE_BYTES"), "{alone}");
        let typed = error(&["--topic", ".."], &[("MB_OPT_TOPIC", "t")]).unwrap();
        assert!(typed.starts_with("--topic: got ") && !typed.contains("MB_OPT"), "{typed}");
    }

    #[test]
    fn the_old_name_of_the_bootstrap_server_counts_if_the_new_one_is_not_set() {
        let server = |line: &[&str], pairs: &[(&str, &str)]| {
            main_job(line, pairs).config.connection.bootstrap_server.unwrap()
        };
        let old = (OLD_BOOTSTRAP_SERVER, "old:1");
        assert_eq!(server(&[], &[old]), "old:1");
        assert_eq!(server(&[], &[old, ("MB_OPT_BOOTSTRAP_SERVER", "new:1")]), "new:1");
        assert_eq!(server(&["--bootstrap-server", "line:1"], &[old]), "line:1");
        let text = error(&["lag"], &[(OLD_BOOTSTRAP_SERVER, "nowhere")]).unwrap();
        assert!(text.starts_with("MB_BOOTSTRAP_SERVER: got nowhere, expected HOST:PORT"), "{text}");
    }

    #[test]
    fn a_variable_without_opt_is_named_unless_mb_itself_has_set_it() {
        let topic = ("MB_TOPIC", "orders");
        let warning = "MB_TOPIC is ignored: the variable for --topic is MB_OPT_TOPIC";
        assert_eq!(warnings(&["lag"], &[topic]), [warning]);
        assert_eq!(warnings(&["lag"], &[topic, ("MB_RUN_KEY", "t/0/0-9")]), [""; 0]);
        assert_eq!(warnings(&["lag", "--topic", "orders"], &[topic]), [""; 0]);
        assert_eq!(warnings(&["lag"], &[topic, ("MB_OPT_TOPIC", "orders")]), [""; 0]);
        let others = [("MB_SENSORS", "2"), ("MB_ARGS", "x"), (OLD_BOOTSTRAP_SERVER, "a:1")];
        assert_eq!(warnings(&["lag"], &others), [""; 0], "--sensors is no flag of mb lag");
        assert_eq!(warnings(&[], &others).len(), 1);
    }
}
