//! From the flags of the commands that act on a running mb to checked values.

use crate::api::operations::settings::ChangeSettings;
use crate::cli::bridge::shown;
use crate::cli::flags::{SetFlags, TickFlags};
use crate::cli::values;
use crate::config::Connection;
use crate::config::limits;
use crate::model::error::{Error, Result};

use super::{numbers, usage};

/// What a command does with the mb that runs on a data directory.
#[derive(Debug)]
pub struct SteerArgs {
    pub connection: Connection,
    pub action: Action,
    pub json: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Status,
    Pause,
    Resume,
    Tick,
    Preview,
    /// A change of nothing shows the settings.
    Set(ChangeSettings),
    Top,
}

/// What `mb runs` does: `RUN-ID…` behind a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunsAction {
    List,
    /// The text that was typed for a run's number.
    Show(String),
    Cancel {
        ids: Vec<i64>,
        note: String,
    },
    Again {
        ids: Vec<i64>,
    },
}

impl SteerArgs {
    /// # Errors
    /// As `Connection::check`.
    pub fn new(connection: Connection, action: Action, json: bool) -> Result<SteerArgs> {
        connection.check()?;
        Ok(SteerArgs { connection, action, json })
    }
}

/// # Errors
/// `Usage` for flags that do not fit together.
pub fn tick(flags: TickFlags) -> Result<SteerArgs> {
    let action = match (flags.preview, flags.json) {
        (true, _) => Action::Preview,
        (false, false) => Action::Tick,
        (false, true) => {
            return usage("--json: got it without --preview, expected --preview too");
        }
    };
    SteerArgs::new(flags.connection(), action, flags.json)
}

/// # Errors
/// `Usage` for a setting that there is not, one given twice, or a value that it does not take.
pub fn set(flags: SetFlags) -> Result<SteerArgs> {
    let mut change = ChangeSettings::default();
    for word in &flags.words {
        setting(&mut change, word)?;
    }
    SteerArgs::new(flags.connection(), Action::Set(change), flags.json)
}

fn setting(change: &mut ChangeSettings, word: &str) -> Result<()> {
    const NAMES: &str = "rate, max-batch, max-concurrent-runs or tick-interval";
    let Some((name, value)) = word.split_once('=') else {
        return usage(format!(
            "NAME=VALUE: got {}, expected a setting and its value, as in max-batch=200",
            shown(word)
        ));
    };
    let fits = |rule: String| {
        Error::Usage(format!("{}: got {}, expected {rule}", shown(name), shown(value)))
    };
    let before = match name {
        "rate" => change.rate.replace(values::rate(value).map_err(fits)?).is_some(),
        "max-batch" => {
            let value = values::whole::<1, { limits::MAX_BATCH_RECORDS }, u64>(value);
            change.max_batch.replace(value.map_err(fits)?).is_some()
        }
        "max-concurrent-runs" => {
            let value = values::whole::<1, { limits::WORKERS_MAX }, u64>(value);
            change.max_concurrent_runs.replace(value.map_err(fits)?).is_some()
        }
        "tick-interval" => {
            let value = values::duration(value).map_err(fits)?.as_secs_f64();
            change.tick_interval_s.replace(value).is_some()
        }
        _ => return usage(format!("NAME: got {}, expected {NAMES}", shown(name))),
    };
    if before { usage(format!("{name}: got it twice, expected it once")) } else { Ok(()) }
}

/// What `mb runs WORDS` does; `note` is what was typed for it.
///
/// # Errors
/// `Usage` for words that say nothing.
pub fn runs_action(words: &[String], note: Option<&str>) -> Result<RunsAction> {
    let action = match words {
        [] => RunsAction::List,
        [action, ids @ ..] if action == "cancel" || action == "again" => {
            let ids = numbers("RUN-ID", ids, "mb runs")?;
            if ids.is_empty() || ids.len() > limits::REQUEST_IDS {
                return usage(format!(
                    "RUN-ID: got {} of them, expected 1 to {} after {action}",
                    ids.len(),
                    limits::REQUEST_IDS
                ));
            }
            if action == "again" {
                RunsAction::Again { ids }
            } else {
                return Ok(RunsAction::Cancel { ids, note: note.unwrap_or_default().to_owned() });
            }
        }
        [id] => RunsAction::Show(id.clone()),
        [_, extra, ..] => {
            return usage(format!(
                "argument: got {} too, expected one RUN-ID, or cancel or again in front of several",
                shown(extra)
            ));
        }
    };
    match note {
        Some(_) => {
            usage("--note: got it without cancel, expected mb runs cancel RUN-ID… --note TEXT")
        }
        None => Ok(action),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_take_what_their_flags_take() {
        let read = |words: &[&str]| -> Result<ChangeSettings> {
            let mut change = ChangeSettings::default();
            words.iter().try_for_each(|word| setting(&mut change, word))?;
            Ok(change)
        };
        let change = read(&["rate=max", "max-batch=200", "tick-interval=250ms"]).unwrap();
        assert_eq!(change.rate, Some(0.0));
        assert_eq!(change.max_batch, Some(200));
        assert_eq!(change.max_concurrent_runs, None);
        assert_eq!(change.tick_interval_s, Some(0.25));
        for (words, error) in [
            (&["max-batch"][..], "NAME=VALUE: got max-batch, "),
            (&["max-batch=0"], "max-batch: got 0, expected a whole number from 1 to"),
            (&["max-batch=1", "max-batch=2"], "max-batch: got it twice"),
            (&["queue=5"], "NAME: got queue, expected rate, "),
            (&["tick-interval=soon"], "tick-interval: got soon, expected "),
        ] {
            let text = read(words).unwrap_err().to_string();
            assert!(text.starts_with(error), "{text}");
        }
    }

    #[test]
    fn a_word_in_front_of_run_ids_says_what_is_done_to_them() {
        let read = |words: &[&str], note| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            runs_action(&words, note)
        };
        assert_eq!(read(&[], None), Ok(RunsAction::List));
        assert_eq!(read(&["17"], None), Ok(RunsAction::Show("17".into())));
        let cancel = RunsAction::Cancel { ids: vec![1, 2], note: "why".into() };
        assert_eq!(read(&["cancel", "1", "2"], Some("why")), Ok(cancel));
        assert_eq!(read(&["again", "3"], None), Ok(RunsAction::Again { ids: vec![3] }));
        for (words, note) in
            [(&["cancel"][..], None), (&["1", "2"], None), (&["again", "1"], Some("why"))]
        {
            assert!(read(words, note).is_err(), "{words:?}");
        }
    }
}
