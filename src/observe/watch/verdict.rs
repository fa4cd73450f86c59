//! The verdict: whether mb keeps up, in one word and one sentence; if not, why, and what to change. Page, `mb status`,
//! `/readyz`, metrics and log all say what is decided here.
//!
//! Pure: what was measured is an argument.

use std::time::Duration;

use super::advice::{grouped, seconds};
use super::health::{Facts, reasons};
use super::trend::Course;
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
    flow(facts, lag, letters_open)
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
            let left = Duration::try_from_secs_f64(lag as f64 / by).unwrap_or(Duration::MAX);
            let headline =
                format!("Catching up: {} behind, done in about {}", records(lag), seconds(left));
            (VerdictState::CatchingUp, Words::new(headline, brief))
        }
        Pressure::Open => (VerdictState::Unknown, undecided(lag, brief)),
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
            let advice = facts.work.advice(&trend);
            (VerdictState::FallingBehind, Words { headline, brief, advice })
        }
        Pressure::Stands => {
            let headline = format!("Behind by {}, and not catching up", records(lag));
            let advice = facts.work.advice(&trend);
            (VerdictState::FallingBehind, Words { headline, brief, advice })
        }
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
    Open,
    /// By so many records per second.
    Falls(f64),
}

/// `None` while mb keeps up.
fn pressure(facts: &Facts) -> Option<Pressure> {
    let lag = facts.lag.filter(|lag| *lag > 0)?;
    let Some(trend) = facts.trend else {
        return (!is_usual(facts, lag)).then_some(Pressure::Open);
    };
    // So much is on its way at any time.
    let on_its_way = trend.arriving * facts.explained.way.as_secs_f64();
    let is_stale = facts.freshness.is_some_and(|freshness| !freshness.fresh);
    let is_on_its_way = !is_stale && (lag <= facts.explained.records || lag as f64 <= on_its_way);
    let is_overload = lag > facts.explained.records && facts.work.is_overload(&trend);
    let falls_by = match trend.course {
        Course::Falls(by) => Some(by),
        // Long steps end together: the lag falls in jumps.
        _ => Some(trend.done - trend.arriving).filter(|by| *by > 0.05 * trend.done),
    };
    match (trend.course, falls_by) {
        (Course::Falls(_) | Course::Steady, Some(_)) if is_on_its_way => None,
        (_, Some(by)) if !is_on_its_way => Some(Pressure::Falls(by)),
        (Course::Grows, _) => Some(Pressure::Grows),
        _ if is_overload => Some(Pressure::Grows),
        (Course::Rises, _) if !is_on_its_way => Some(Pressure::Open),
        _ if is_usual(facts, lag) => None,
        _ if facts.freshness.is_some_and(|freshness| freshness.fresh) => None,
        // The first runs have not ended yet.
        _ if facts.work.pace.attempts.is_none() && facts.work.pace.busy > 0.0 => {
            Some(Pressure::Open)
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

#[cfg(test)]
mod tests {
    use super::super::advice::Work;
    use super::super::samples::{Attempts, Pace};
    use super::super::trend::{Explained, Trend};
    use super::*;
    use crate::observe::overview::FreshnessView;

    fn flowing() -> Facts {
        let attempts = Some(Attempts { records: 50.0, in_step: Duration::from_millis(490) });
        Facts {
            records_in: 5000,
            lag: Some(500),
            age_s: Some(0.6),
            trend: Some(Trend { arriving: 1000.0, done: 1000.0, course: Course::Steady }),
            behind_for: Duration::from_secs(60),
            explained: Explained {
                way: Duration::from_secs(2),
                records: 50,
                ..Explained::default()
            },
            work: Work {
                workers: 5,
                pace: Pace { busy: 2.0, attempts, ..Pace::default() },
                max_batch: 50,
                ..Work::default()
            },
            ..Facts::default()
        }
    }

    fn with(course: Course, facts: Facts) -> Facts {
        let trend = facts.trend.map(|trend| Trend { course, ..trend });
        Facts { trend, ..facts }
    }

    fn overload() -> Facts {
        let trend = Some(Trend { arriving: 1000.0, done: 510.0, course: Course::Grows });
        let pace = Pace { busy: 5.0, queued: 100.0, ..flowing().work.pace };
        let work = Work { pace, ..flowing().work };
        Facts { lag: Some(93_138), age_s: Some(90.0), trend, work, ..flowing() }
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
        assert_eq!(said(&with(Course::Grows, flowing())).0, VerdictState::FallingBehind);
        let fresh = Some(FreshnessView { policy_s: 3600.0, age_s: Some(1.0), fresh: true });
        let fresh = Facts { freshness: fresh, ..with(Course::Grows, flowing()) };
        assert_eq!(said(&fresh).0, VerdictState::FallingBehind);
        // For the first seconds nobody is alarmed; nor does it count as keeping up.
        let brief = Facts { behind_for: Duration::from_secs(4), ..with(Course::Grows, flowing()) };
        assert_eq!(said(&brief).0, VerdictState::Unknown);
    }

    #[test]
    fn an_overload_is_known_before_the_lag_has_grown_much() {
        let busy = Facts { lag: Some(4_494), age_s: Some(4.0), ..overload() };
        let steady = with(Course::Steady, busy.clone());
        assert_eq!(said(&steady).0, VerdictState::FallingBehind);
        let first = Facts { behind_for: Duration::from_secs(1), ..steady };
        assert_eq!(said(&first).0, VerdictState::Unknown);
        let rises = Facts { work: flowing().work, ..with(Course::Rises, busy) };
        assert_eq!(said(&rises).0, VerdictState::Unknown, "the workers may not be to blame");
        let few = Facts { lag: Some(1_500), ..rises };
        assert_eq!(said(&few).0, VerdictState::KeepingUp, "so many are on their way");
    }

    #[test]
    fn long_steps_are_waited_for_and_what_they_end_counts() {
        let trend = Some(Trend::default());
        let pace = Pace { busy: 5.0, ..Pace::default() };
        let work = Work { pace, ..flowing().work };
        let first = Facts { lag: Some(2_000), age_s: Some(30.0), trend, work, ..flowing() };
        assert_eq!(said(&first).0, VerdictState::Unknown, "no run has ended");
        let trend = Some(Trend { done: 20.0, ..Trend::default() });
        let (state, words) = said(&Facts { trend, work: flowing().work, ..first });
        assert_eq!(
            (state, words.as_str()),
            (VerdictState::CatchingUp, "Catching up: 2,000 records behind, done in about 2 min")
        );
    }

    #[test]
    fn falling_behind_names_the_bottleneck_and_the_way_out() {
        let verdict = verdict(&overload(), "t", 0);
        assert_eq!(
            verdict.headline,
            "Falling behind: 93,138 records behind; 1,000/s arrive, 510/s are processed"
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
        // Nothing arrives: a few are in progress, unless they have been for long.
        facts = Facts { lag: Some(40), trend: Some(Trend::default()), ..facts };
        assert_eq!(said(&facts).0, VerdictState::KeepingUp);
        facts.age_s = Some(60.0);
        assert_eq!(said(&facts).0, VerdictState::FallingBehind);
        facts.explained.way = Duration::from_secs(121);
        assert_eq!(said(&facts).0, VerdictState::KeepingUp, "a step of a minute explains it");
    }

    #[test]
    fn only_a_lag_that_falls_has_an_end() {
        let facts = with(Course::Falls(388.0), overload());
        let falls = verdict(&facts, "t", 0);
        assert_eq!(falls.headline, "Catching up: 93,138 records behind, done in about 4 min");
        assert_eq!((falls.state, falls.ready), (VerdictState::CatchingUp, true));
        let unknown = said(&Facts { trend: None, ..facts });
        assert_eq!(unknown.0, VerdictState::Unknown, "{}", unknown.1);
    }

    #[test]
    fn freshness_says_how_old_a_record_may_be_and_stale_data_is_not_ready() {
        let freshness = |fresh| Some(FreshnessView { policy_s: 60.0, age_s: Some(90.0), fresh });
        let falls = || with(Course::Falls(100.0), overload());
        let stale = verdict(&Facts { freshness: freshness(false), ..falls() }, "t", 0);
        assert_eq!((stale.state, stale.ready), (VerdictState::CatchingUp, false));
        let backlog = said(&Facts { freshness: freshness(true), ..falls() });
        assert_eq!(backlog.0, VerdictState::CatchingUp, "{}", backlog.1);
        let idle = Facts { work: flowing().work, ..overload() };
        let stays = with(Course::Steady, Facts { freshness: freshness(true), ..idle });
        assert_eq!(said(&stays).0, VerdictState::KeepingUp, "the policy allows it");
        assert_eq!(said(&Facts { trend: None, ..stays }).0, VerdictState::Unknown);
    }

    #[test]
    fn nothing_that_is_not_ready_is_called_keeping_up() {
        let freshness = Some(FreshnessView { policy_s: 1.0, age_s: Some(1.2), fresh: false });
        for course in [Course::Steady, Course::Rises, Course::Grows, Course::Falls(5.0)] {
            for done in [900.0, 1000.0, 1200.0] {
                let trend = Some(Trend { arriving: 1000.0, done, course });
                let facts = Facts { freshness, trend, ..flowing() };
                let found = verdict(&facts, "t", 0);
                assert!(!found.ready && found.state != VerdictState::KeepingUp, "{found:?}");
            }
        }
    }

    #[test]
    fn open_letters_are_named_and_never_nothing_left_to_do() {
        let done = Facts { lag: Some(0), ..flowing() };
        let open = verdict(&done, "t", 116);
        assert_eq!(open.headline, "Keeping up, but 116 dead letters are open");
        assert_eq!(
            (open.state, open.level, open.ready),
            (VerdictState::DeadLettersOpen, Level::Warn, true)
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
