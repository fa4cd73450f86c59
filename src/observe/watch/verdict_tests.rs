//! Which verdict follows from what was measured, and how it is put.

use std::time::Duration;

use super::advice::Work;
use super::health::Facts;
use super::samples::{Attempts, Pace};
use super::trend::{Course, Explained, Trend};
use super::verdict::{catch_up, verdict};
use crate::observe::overview::{FreshnessView, Level, VerdictState};

fn flowing() -> Facts {
    let attempts = Some(Attempts { records: 50.0, in_step: Duration::from_millis(490) });
    Facts {
        records_in: 5000,
        lag: Some(500),
        age_s: Some(0.6),
        trend: Some(Trend { arriving: 1000.0, done: 1000.0, course: Course::Steady }),
        behind_for: Duration::from_secs(60),
        explained: Explained { way: Duration::from_secs(2), records: 50, ..Explained::default() },
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
    let ended = Facts { trend, work: flowing().work, ..first };
    assert_eq!(catch_up(&ended), Some(Duration::from_secs(100)), "the page shows the same");
    let (state, words) = said(&ended);
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
    assert_eq!(catch_up(&facts).map(|left| left.as_secs()), Some(240));
    assert_eq!(catch_up(&overload()), None);
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
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}` |", state.name())));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let rest = format!("| {} | {code} | {exit} |", level.trim_matches('"'));
        assert!(row.contains(&rest), "{row}: expected {rest}");
    }
}
