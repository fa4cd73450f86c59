//! The verdict: whether mb keeps up, in one word and one sentence; if not, why, and what to change. Page, `mb status`,
//! `/readyz`, metrics and log all say what is decided here.
//!
//! Pure: what was measured is an argument.

use std::time::Duration;

use super::advice::{grouped, seconds};
use super::health::{Facts, reasons};
use super::trend::{Course, Trend};
use crate::config::limits;
use crate::observe::overview::{Level, Reason, Verdict, VerdictState};

impl VerdictState {
    /// From the best to the worst, as the documentation lists them.
    pub const ALL: [VerdictState; 10] = [
        VerdictState::KeepingUp,
        VerdictState::DeadLettersOpen,
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
            VerdictState::DeadLettersOpen | VerdictState::CatchingUp | VerdictState::Paused => {
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
            | VerdictState::DeadLettersOpen
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
            VerdictState::DeadLettersOpen => "dead-letters-open",
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

/// How a verdict is put.
struct Words {
    headline: String,
    /// For a browser's tab.
    brief: String,
    advice: Option<String>,
}

impl Words {
    fn new(headline: impl Into<String>, brief: impl Into<String>) -> Words {
        Words { headline: headline.into(), brief: brief.into(), advice: None }
    }
}

/// mb does not read its topic yet.
pub fn starting(waiting_for: Option<&str>) -> Verdict {
    let (detail, brief) = match waiting_for {
        Some(what) => (format!("mb is waiting for {what}"), "waiting"),
        None => ("mb has only just begun to read its topic".to_owned(), "starting"),
    };
    let words = Words::new(detail.clone(), brief);
    let reason = Reason { reason: "starting".to_owned(), detail };
    build(VerdictState::Starting, words, vec![reason])
}

/// What `facts` amount to. `letters_open`: dead letters that are neither redriven nor discarded.
pub fn verdict(facts: &Facts, topic: &str, letters_open: u64) -> Verdict {
    let mut reasons = reasons(facts, topic);
    let (state, words) = decide(facts, &reasons, letters_open);
    if letters_open > 0 {
        let detail = open_letters(letters_open);
        reasons.push(Reason { reason: "dead-letters".to_owned(), detail });
    }
    build(state, words, reasons)
}

fn build(state: VerdictState, words: Words, reasons: Vec<Reason>) -> Verdict {
    let Words { headline, brief, advice } = words;
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
    match (flow(facts, lag, letters_open), because("transaction")) {
        // Whether mb would keep up shows only once it may read on.
        ((VerdictState::FallingBehind | VerdictState::Unknown, _), Some(wait)) => {
            let headline = format!("Waits for a transaction: {}", wait.detail);
            (VerdictState::Unknown, Words::new(headline, "transaction"))
        }
        (found, _) => found,
    }
}

/// Whether what arrives is processed as fast.
fn flow(facts: &Facts, lag: u64, letters_open: u64) -> (VerdictState, Words) {
    let Some(pressure) = pressure(facts) else {
        return keeping_up(facts, lag, letters_open);
    };
    let brief = format!("behind {}", grouped(lag));
    let Some(trend) = facts.trend else {
        return (VerdictState::Unknown, undecided(lag, brief));
    };
    match pressure {
        Pressure::Falls(by) => {
            let left = seconds(time_left(lag, by));
            let headline = format!("Catching up: {} behind, done in about {left}", records(lag));
            (VerdictState::CatchingUp, Words::new(headline, brief))
        }
        Pressure::Undecided => (VerdictState::Unknown, undecided(lag, brief)),
        _ if facts.behind_for < limits::FALLING_BEHIND_AFTER => {
            (VerdictState::Unknown, undecided(lag, brief))
        }
        Pressure::Grows => {
            let headline = format!(
                "Falling behind: {} behind; {}/s arrive, {}/s are processed",
                records(lag),
                grouped(trend.arriving.round() as u64),
                grouped(trend.done.round() as u64)
            );
            falling_behind(facts, &trend, headline, brief)
        }
        Pressure::Stands => {
            let headline = format!("Behind by {}, and not catching up", records(lag));
            falling_behind(facts, &trend, headline, brief)
        }
    }
}

fn falling_behind(
    facts: &Facts,
    trend: &Trend,
    headline: String,
    brief: String,
) -> (VerdictState, Words) {
    let advice = facts.work.advice(trend);
    (VerdictState::FallingBehind, Words { headline, brief, advice })
}

/// How long it takes until the lag is 0, if it falls by so many records per second.
fn time_left(lag: u64, by: f64) -> Duration {
    Duration::try_from_secs_f64(lag as f64 / by).unwrap_or(Duration::MAX)
}

/// How long it takes until the lag is 0, as the headline says; `None` if the lag is normal or does not fall.
pub fn catch_up(facts: &Facts) -> Option<Duration> {
    match pressure(facts)? {
        Pressure::Falls(by) => Some(time_left(facts.lag?, by)),
        Pressure::Grows | Pressure::Stands | Pressure::Undecided => None,
    }
}

fn undecided(lag: u64, brief: String) -> Words {
    let headline =
        format!("Behind by {}; whether mb catches up is known in a few seconds", records(lag));
    Words::new(headline, brief)
}

fn keeping_up(facts: &Facts, lag: u64, letters_open: u64) -> (VerdictState, Words) {
    let trend = facts.trend.filter(|trend| lag > 0 && facts.work.is_scarce(trend));
    let advice = trend.and_then(|trend| facts.work.more_work_at_once(&trend));
    let (state, headline, brief) = match (letters_open, lag) {
        (0, 0) if facts.records_in == 0 => {
            (VerdictState::KeepingUp, "Ready: no records yet".to_owned(), "ready")
        }
        (0, 0) => {
            let headline = "Keeping up: everything is processed".to_owned();
            (VerdictState::KeepingUp, headline, "keeping up")
        }
        (0, lag) => {
            let headline = format!("Keeping up: {} in progress", records(lag));
            (VerdictState::KeepingUp, headline, "keeping up")
        }
        (open, _) => {
            let headline = format!("Keeping up, but {}", open_letters(open));
            (VerdictState::DeadLettersOpen, headline, "dead letters")
        }
    };
    (state, Words { headline, brief: brief.to_owned(), advice })
}

/// What the lag does if it is more than usual.
enum Pressure {
    Grows,
    Stands,
    /// It is too early to tell.
    Undecided,
    /// By so many records per second.
    Falls(f64),
}

/// `None` while mb keeps up.
fn pressure(facts: &Facts) -> Option<Pressure> {
    let lag = facts.lag.filter(|lag| *lag > 0)?;
    let Some(trend) = facts.trend else {
        return (!is_usual(facts, lag)).then_some(Pressure::Undecided);
    };
    // While mb keeps up, as many records as this wait for a tick, a batch, the step or a commit.
    let on_its_way = trend.arriving * facts.explained.way.as_secs_f64();
    let is_stale = facts.freshness.is_some_and(|freshness| !freshness.fresh);
    let is_on_its_way = !is_stale && (lag <= facts.explained.records || lag as f64 <= on_its_way);
    let is_overload = lag > facts.explained.records && facts.work.is_overload(&trend);
    let falls_by = match trend.course {
        Course::Falls(by) => Some(by),
        // With long steps the lag stands still for minutes and falls when they end, so the rates tell more.
        _ => Some(trend.done - trend.arriving).filter(|by| *by > 0.05 * trend.done),
    };
    match (trend.course, falls_by) {
        (Course::Falls(_) | Course::Steady, Some(_)) if is_on_its_way => None,
        (_, Some(by)) if !is_on_its_way => Some(Pressure::Falls(by)),
        (Course::Grows, _) => Some(Pressure::Grows),
        // The lag is still small, but what the workers can do leaves no doubt.
        _ if is_overload => Some(Pressure::Grows),
        (Course::Rises, _) if !is_on_its_way => Some(Pressure::Undecided),
        _ if is_usual(facts, lag) => None,
        // `--freshness` allows a lag of any size that stays.
        _ if facts.freshness.is_some_and(|freshness| freshness.fresh) => None,
        // The first runs have not ended yet.
        _ if facts.work.pace.attempts.is_none() && facts.work.pace.busy > 0.0 => {
            Some(Pressure::Undecided)
        }
        _ => Some(Pressure::Stands),
    }
}

/// Whether the lag is more than usual and does not fall, though nothing is in the way.
pub fn is_behind(facts: &Facts) -> bool {
    let is_in_the_way = |reason: &Reason| reason.reason != "freshness";
    !facts.is_paused
        && !reasons(facts, "").iter().any(is_in_the_way)
        && matches!(pressure(facts), Some(Pressure::Grows | Pressure::Stands))
}

/// Whether no record waits for longer than `--freshness`, or without it for longer than 10 s and what ticks, batches and
/// the step explain; and whether no more records wait than arrive or are done in that time.
fn is_usual(facts: &Facts, lag: u64) -> bool {
    if facts.freshness.is_some_and(|freshness| !freshness.fresh) {
        return false;
    }
    let allowed = (limits::KEEPING_UP_FOR + facts.explained.way).as_secs_f64();
    let pace = facts.trend.map_or(0.0, |trend| trend.arriving.max(trend.done));
    let is_young = facts.freshness.is_some() || facts.age_s.is_none_or(|age| age <= allowed);
    is_young && (lag <= facts.explained.records || lag as f64 <= allowed * pace)
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
