//! The verdict: whether mb keeps up, in one word and one sentence; if not, why, and what to change. Page, `mb status`,
//! `/readyz`, metrics and log all say what is decided here.
//!
//! Pure: what was measured is an argument.

use std::time::Duration;

use super::advice::{grouped, seconds};
use super::health::{Facts, reasons};
use crate::config::limits;
use crate::observe::overview::{Level, Reason, Verdict, VerdictState};

impl VerdictState {
    /// From the best to the worst, as the documentation lists them.
    pub const ALL: [VerdictState; 10] = [
        VerdictState::KeepingUp,
        VerdictState::LettersOpen,
        VerdictState::CatchingUp,
        VerdictState::Paused,
        VerdictState::Unknown,
        VerdictState::Starting,
        VerdictState::FallingBehind,
        VerdictState::Held,
        VerdictState::Blocked,
        VerdictState::StepFails,
    ];

    pub fn level(self) -> Level {
        match self {
            VerdictState::KeepingUp => Level::Good,
            VerdictState::LettersOpen | VerdictState::CatchingUp | VerdictState::Paused => {
                Level::Warn
            }
            VerdictState::Unknown | VerdictState::Starting => Level::Wait,
            VerdictState::FallingBehind
            | VerdictState::Held
            | VerdictState::Blocked
            | VerdictState::StepFails => Level::Bad,
        }
    }

    /// Whether `/readyz` answers 200 and `mb status` exits 0, as far as the state decides it.
    pub fn is_ready(self) -> bool {
        match self {
            VerdictState::KeepingUp
            | VerdictState::LettersOpen
            | VerdictState::CatchingUp
            | VerdictState::Paused
            | VerdictState::Unknown => true,
            VerdictState::Starting
            | VerdictState::FallingBehind
            | VerdictState::Held
            | VerdictState::Blocked
            | VerdictState::StepFails => false,
        }
    }

    /// As in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            VerdictState::KeepingUp => "keeping-up",
            VerdictState::LettersOpen => "letters-open",
            VerdictState::CatchingUp => "catching-up",
            VerdictState::Paused => "paused",
            VerdictState::Unknown => "unknown",
            VerdictState::Starting => "starting",
            VerdictState::FallingBehind => "falling-behind",
            VerdictState::Held => "held",
            VerdictState::Blocked => "blocked",
            VerdictState::StepFails => "step-fails",
        }
    }
}

/// A sentence, the few words of a browser's tab, and advice.
struct Words(String, String, Option<String>);

impl Words {
    fn new(headline: impl Into<String>, brief: impl Into<String>) -> Words {
        Words(headline.into(), brief.into(), None)
    }
}

/// mb does not read its topic yet.
pub fn starting(waiting_for: Option<&str>) -> Verdict {
    let (words, detail) = match waiting_for {
        Some(what) => (
            Words::new(format!("Waiting for {what}"), "waiting"),
            format!("mb is waiting for {what}"),
        ),
        None => {
            let detail = "mb has only just begun to read its topic".to_owned();
            (Words::new(format!("Starting: {detail}"), "starting"), detail)
        }
    };
    made(VerdictState::Starting, words, vec![Reason { reason: "starting".to_owned(), detail }])
}

/// What `facts` amount to. `letters_open`: dead letters that are neither redriven nor discarded.
pub fn verdict(facts: &Facts, topic: &str, letters_open: u64) -> Verdict {
    let mut reasons = reasons(facts, topic);
    let (state, words) = decide(facts, &reasons, letters_open);
    if letters_open > 0 && state != VerdictState::LettersOpen {
        let detail = open_letters(letters_open);
        reasons.push(Reason { reason: "dead-letters".to_owned(), detail });
    }
    made(state, words, reasons)
}

fn made(state: VerdictState, words: Words, reasons: Vec<Reason>) -> Verdict {
    let Words(headline, brief, advice) = words;
    // Data that is too old is not ready, even if it becomes younger.
    let is_stale = reasons.iter().any(|reason| reason.reason == "freshness");
    Verdict {
        state,
        level: state.level(),
        ready: state.is_ready() && !is_stale,
        headline,
        brief,
        advice,
        reasons,
    }
}

fn decide(facts: &Facts, reasons: &[Reason], letters_open: u64) -> (VerdictState, Words) {
    const BLOCKED: [(&str, &str, &str); 5] = [
        ("stalled", "Stalled", "stalled"),
        ("broker", "The broker does not answer", "no broker"),
        ("disk", "Cannot write", "disk"),
        ("partition", "A partition cannot be read", "partition"),
        ("offsets", "Offsets were moved", "offsets moved"),
    ];
    let because = |name: &str| reasons.iter().find(|reason| reason.reason == name);
    if let Some(held) = because("held") {
        return (VerdictState::Held, Words::new(format!("Holding: {}", held.detail), "holding"));
    }
    for (name, words, brief) in BLOCKED {
        if let Some(reason) = because(name) {
            return (
                VerdictState::Blocked,
                Words::new(format!("{words}: {}", reason.detail), brief),
            );
        }
    }
    if let Some(step) = because("step") {
        let words = Words::new(format!("The step fails: {}", step.detail), "step fails");
        return (VerdictState::StepFails, words);
    }
    if facts.is_paused {
        let behind = match facts.lag {
            None | Some(0) => String::new(),
            Some(lag) => format!(", {} behind", records(lag)),
        };
        let words = Words::new(format!("Paused{behind}: no tick begins by itself"), "paused");
        return (VerdictState::Paused, words);
    }
    let Some(lag) = facts.lag else {
        let cause =
            facts.lag_error.as_ref().map_or(" yet".to_owned(), |cause| format!(": {cause}"));
        let words = Words::new(format!("The lag is not known{cause}"), "lag not known");
        return (VerdictState::Unknown, words);
    };
    flow(facts, lag, letters_open)
}

/// Nothing is in the way; whether what arrives is processed as fast.
fn flow(facts: &Facts, lag: u64, letters_open: u64) -> (VerdictState, Words) {
    let trend = facts.trend;
    let is_growing = lag > 0 && trend.is_some_and(|trend| trend.is_growing);
    if !is_growing && is_usual(facts, lag) {
        let advice = trend.filter(|trend| lag > 0 && facts.work.is_scarce(trend));
        let advice = advice.and_then(|trend| facts.work.advice(&trend));
        let (state, headline, brief) = match (letters_open, lag) {
            (0, 0) if facts.records_in == 0 => {
                (VerdictState::KeepingUp, "Ready: no records yet".to_owned(), "ready")
            }
            (0, 0) => (
                VerdictState::KeepingUp,
                "Keeping up: everything is processed".to_owned(),
                "keeping up",
            ),
            (0, lag) => {
                let headline = format!("Keeping up: {} in progress", records(lag));
                (VerdictState::KeepingUp, headline, "keeping up")
            }
            (open, _) => {
                let headline = format!("Keeping up, but {}", open_letters(open));
                (VerdictState::LettersOpen, headline, "dead letters")
            }
        };
        return (state, Words(headline, brief.to_owned(), advice));
    }
    let brief = format!("behind {}", grouped(lag));
    let Some(trend) = trend else {
        let headline =
            format!("Behind by {}: whether that falls is known in a few seconds", records(lag));
        return (VerdictState::Starting, Words::new(headline, brief));
    };
    if let Some(falls_by) = trend.falls_by {
        let left = Duration::try_from_secs_f64(lag as f64 / falls_by).unwrap_or(Duration::MAX);
        let headline =
            format!("Catching up: {} behind, done in about {}", records(lag), seconds(left));
        return (VerdictState::CatchingUp, Words(headline, brief, None));
    }
    let headline = match is_growing {
        true => format!(
            "Falling behind: {} behind, {}/s arrive and {}/s are processed",
            records(lag),
            grouped(trend.arriving.round() as u64),
            grouped(trend.done.round() as u64)
        ),
        false => format!("Behind by {}, and not catching up", records(lag)),
    };
    (VerdictState::FallingBehind, Words(headline, brief, facts.work.advice(&trend)))
}

/// Whether no record waits for longer than `--freshness`, or without it for longer than 10 s and what ticks, batches and
/// the step explain.
fn is_usual(facts: &Facts, lag: u64) -> bool {
    if let Some(freshness) = facts.freshness {
        return freshness.fresh;
    }
    if lag == 0 {
        return true;
    }
    let step = facts.work.step.unwrap_or_default();
    let allowed = (limits::KEEPING_UP_FOR + facts.work.cycle() + 2 * step).as_secs_f64();
    let pace = facts.trend.map_or(0.0, |trend| trend.arriving.max(trend.done));
    facts.age_s.is_none_or(|age| age <= allowed)
        && (lag <= facts.work.usual_lag() || lag as f64 <= allowed * pace)
}

/// "1 record", "1,234 records".
fn records(count: u64) -> String {
    format!("{} record{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn open_letters(count: u64) -> String {
    match count {
        1 => "1 dead letter is open".to_owned(),
        _ => format!("{} dead letters are open", grouped(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::advice::Work;
    use super::super::trend::Trend;
    use super::*;
    use crate::observe::overview::FreshnessView;

    fn flowing() -> Facts {
        Facts {
            records_in: 5000,
            lag: Some(500),
            age_s: Some(0.6),
            trend: Some(Trend { arriving: 1000.0, done: 1000.0, ..Trend::default() }),
            work: Work {
                workers: 5,
                busy: 2.0,
                records_per_run: Some(50.0),
                step: Some(Duration::from_millis(490)),
                max_batch: 50,
                ..Work::default()
            },
            ..Facts::default()
        }
    }

    fn overload() -> Facts {
        let trend = Trend { arriving: 1000.0, done: 510.0, is_growing: true, falls_by: None };
        let work = Work { busy: 5.0, queued: 100, ..flowing().work };
        Facts { lag: Some(93_138), age_s: Some(90.0), trend: Some(trend), work, ..flowing() }
    }

    fn said(facts: &Facts) -> (VerdictState, String) {
        let verdict = verdict(facts, "t", 0);
        (verdict.state, verdict.headline)
    }

    #[test]
    fn what_is_in_progress_is_no_lag_to_speak_of() {
        let (state, words) = said(&flowing());
        assert_eq!(
            (state, words.as_str()),
            (VerdictState::KeepingUp, "Keeping up: 500 records in progress")
        );
        let done = Facts { lag: Some(0), ..flowing() };
        assert_eq!(said(&done).1, "Keeping up: everything is processed");
        let new = Facts { lag: Some(0), records_in: 0, ..flowing() };
        assert_eq!(said(&new).1, "Ready: no records yet");
    }

    #[test]
    fn a_lag_that_grows_is_never_keeping_up_however_small_it_is() {
        let mut facts = flowing();
        facts.trend.as_mut().unwrap().is_growing = true;
        assert_eq!(said(&facts).0, VerdictState::FallingBehind);
    }

    #[test]
    fn falling_behind_names_the_bottleneck_and_the_way_out() {
        let verdict = verdict(&overload(), "t", 0);
        assert_eq!(
            verdict.headline,
            "Falling behind: 93,138 records behind, 1,000/s arrive and 510/s are processed"
        );
        let advice = verdict.advice.unwrap();
        assert!(advice.contains("= 510/s: set max-concurrent-runs to 12 or more"), "{advice}");
        assert_eq!((verdict.level, verdict.ready), (Level::Bad, false));
    }

    #[test]
    fn more_than_ten_seconds_of_arrivals_are_behind_even_if_they_stay() {
        let mut facts = Facts { lag: Some(20_000), age_s: Some(9.0), ..flowing() };
        assert_eq!(said(&facts).1, "Behind by 20,000 records, and not catching up");
        facts.lag = Some(9_000);
        assert_eq!(said(&facts).0, VerdictState::KeepingUp);
        // The first records of a burst are old before the pace is known; a few are in progress.
        facts.lag = Some(40);
        facts.trend = Some(Trend::default());
        assert_eq!(said(&facts).0, VerdictState::KeepingUp);
        facts.age_s = Some(60.0);
        assert_eq!(said(&facts).0, VerdictState::FallingBehind);
        // A step of a minute explains it.
        facts.work.step = Some(Duration::from_secs(60));
        assert_eq!(said(&facts).0, VerdictState::KeepingUp);
    }

    #[test]
    fn only_a_lag_that_falls_has_an_end() {
        let mut facts = overload();
        facts.trend = Some(Trend { falls_by: Some(388.0), ..Trend::default() });
        let verdict = verdict(&facts, "t", 0);
        assert_eq!(verdict.headline, "Catching up: 93,138 records behind, done in about 4 min");
        assert_eq!((verdict.state, verdict.ready), (VerdictState::CatchingUp, true));
        facts.trend = None;
        assert_eq!(said(&facts).0, VerdictState::Starting, "after a moment it is known");
    }

    #[test]
    fn stale_data_is_not_ready_even_while_mb_catches_up() {
        let freshness = |fresh| Some(FreshnessView { policy_s: 60.0, age_s: Some(90.0), fresh });
        let mut facts = overload();
        facts.trend = Some(Trend { falls_by: Some(100.0), ..Trend::default() });
        facts.freshness = freshness(false);
        let stale = verdict(&facts, "t", 0);
        assert_eq!((stale.state, stale.ready), (VerdictState::CatchingUp, false));
        facts.freshness = freshness(true);
        assert_eq!(said(&facts).0, VerdictState::KeepingUp, "the policy says what is too old");
    }

    #[test]
    fn open_letters_are_named_and_never_nothing_left_to_do() {
        let done = Facts { lag: Some(0), ..flowing() };
        let open = verdict(&done, "t", 116);
        assert_eq!(open.headline, "Keeping up, but 116 dead letters are open");
        assert_eq!(
            (open.state, open.level, open.ready),
            (VerdictState::LettersOpen, Level::Warn, true)
        );
        let behind = verdict(&overload(), "t", 1);
        let last = behind.reasons.last().unwrap();
        assert_eq!(
            (last.reason.as_str(), last.detail.as_str()),
            ("dead-letters", "1 dead letter is open")
        );
    }

    #[test]
    fn what_stands_in_the_way_comes_before_the_flow() {
        let broker =
            |what: &str| vec![(what.to_owned(), Duration::from_secs(11), "refused".to_owned())];
        let cases = [
            (
                Facts { held: Some((Duration::from_secs(3), "exit code 1".into())), ..overload() },
                VerdictState::Held,
                "Holding: ",
            ),
            (
                Facts { broker: broker("reading the topic"), ..overload() },
                VerdictState::Blocked,
                "The broker does not answer: reading the topic has failed for 11 s: refused",
            ),
            (
                Facts { broker: broker(crate::model::live::READING_A_PARTITION), ..overload() },
                VerdictState::Blocked,
                "A partition cannot be read: refused",
            ),
            (Facts { disk: true, ..overload() }, VerdictState::Blocked, "Cannot write: "),
            (
                Facts { other: Some("another mb".into()), ..overload() },
                VerdictState::Blocked,
                "Offsets were moved: another mb",
            ),
            (
                Facts { failures: (10, Some(("e".into(), Duration::ZERO))), ..overload() },
                VerdictState::StepFails,
                "The step fails: ",
            ),
            (
                Facts { is_paused: true, ..overload() },
                VerdictState::Paused,
                "Paused, 93,138 records behind: ",
            ),
            (
                Facts { lag: None, lag_error: Some("no answer".into()), ..overload() },
                VerdictState::Unknown,
                "The lag is not known: no answer",
            ),
        ];
        for (facts, state, words) in cases {
            let (found, headline) = said(&facts);
            assert_eq!(found, state, "{headline}");
            assert!(headline.starts_with(words), "{headline}");
        }
    }

    #[test]
    fn the_table_in_the_documentation_has_every_state() {
        let table = include_str!("../../../docs/page-and-api.md");
        for state in VerdictState::ALL {
            let name = serde_json::to_string(&state).unwrap();
            assert_eq!(name, format!("\"{}\"", state.name()));
            let level = serde_json::to_string(&state.level()).unwrap();
            let (code, exit) = if state.is_ready() { (200, 0) } else { (503, 75) };
            let row =
                table.lines().find(|line| line.starts_with(&format!("| `{}` |", state.name())));
            let row = row.unwrap_or_else(|| panic!("no row for {name}"));
            let rest = format!("| {} | {code} | {exit} |", level.trim_matches('"'));
            assert!(row.contains(&rest), "{row}: expected {rest}");
        }
    }
}
