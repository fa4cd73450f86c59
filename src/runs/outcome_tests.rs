//! What follows from each kind of turn: the exact effects in their order, and what holds for all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::effect::{Count, Effect};
use super::outcome::{Situation, Turn, decide, settle};
use super::queue::Evidence;
use super::retry::RetryPolicy;
use crate::config::{OnFailure, OnOutage, limits};
use crate::history::DeadLetters;
use crate::model::batch::{Batch, Record};
use crate::model::offset::{Offset, OffsetRange, Reprocess, RunKey};
use crate::model::run::{Run, RunState};
use crate::step::{FailedRecord, StepError};

/// Four records of one byte each, at the offsets 10, 11, 12 and 14.
const OFFSETS: [i64; 4] = [10, 11, 12, 14];

fn run_of(offsets: &[i64]) -> Run {
    let mut batch = Batch::default();
    for offset in offsets {
        let offset = Offset::new(*offset);
        batch.push(Record { offset, value: Some(b"v"), ..Record::default() });
    }
    let whole = OffsetRange::new(Offset::new(10), Offset::new(14));
    Run::for_tests(1, RunKey::new("t", 0, whole), batch)
}

fn situation() -> Situation {
    Situation {
        attempt: 1,
        policy: RetryPolicy {
            max_attempts: 3,
            backoff: Duration::from_secs(8),
            on_failure: OnFailure::DeadLetter,
            on_outage: OnOutage::Hold,
            patience: Duration::from_secs(120),
            bisect: false,
        },
        keeps_dead_letters: true,
        has_dead_letter_topic: false,
        is_forced: false,
        is_stopping: false,
        began: Instant::now(),
        now: Instant::now(),
        worked_meanwhile: true,
        evidence: Evidence::default(),
        jitter: 1.0,
    }
}

fn named(offsets: &[i64]) -> Vec<FailedRecord> {
    let name = |offset: &i64| FailedRecord {
        offset: Offset::new(*offset),
        reason: format!("bad\n{offset}"),
    };
    offsets.iter().map(name).collect()
}

fn attempted(result: Result<(), StepError>, failed: &[i64]) -> Turn {
    Turn::Attempted { result, failed: named(failed), cancelled: None }
}

fn cancelled(result: Result<(), StepError>, failed: &[i64]) -> Turn {
    Turn::Attempted { result, failed: named(failed), cancelled: Some("cancelled: no".into()) }
}

fn retry() -> Result<(), StepError> {
    Err(StepError::Retry("exit\x1b 1".into()))
}

fn retry_failed() -> Result<(), StepError> {
    Err(StepError::RetryFailed("some".into()))
}

fn no_room() -> Result<(), StepError> {
    Err(StepError::NotDone("no room".into()))
}

/// An effect as a line.
fn show(effect: &Effect, now: Instant) -> String {
    let seconds = |due: &Instant| (*due - now).as_secs();
    let error_text = |error: &Option<String>| match error {
        None => String::new(),
        Some(error) => format!(" ({error})"),
    };
    match effect {
        Effect::Log(level, text) => format!("log {}: {text}", level.to_string().to_lowercase()),
        Effect::Count(Count::Processed { records, bytes }) => {
            format!("count {records} records, {bytes} bytes processed")
        }
        Effect::Count(what) => format!("count {what:?}"),
        Effect::StepWorks => "step works".into(),
        Effect::StepFails(error) => format!("step fails: {error}"),
        Effect::StepProved { .. } => "the step works for others".into(),
        Effect::StepDisproved { .. } => "the step may fail for others".into(),
        Effect::GiveUpUnproved => "give up unproved".into(),
        Effect::Hold { cause, failed_attempts, failing } => {
            format!("hold ({cause}) after {failed_attempts} attempts, {} count", failing.counted)
        }
        Effect::Record { state, error, dead_letters } => {
            let dead_letters = dead_letters.as_deref().map(show_dead_letters).unwrap_or_default();
            format!("record {state}{}{dead_letters}", error_text(error))
        }
        Effect::RecordSplit { error, pieces, failed_attempts, extra_bytes } => {
            let pieces: Vec<_> =
                pieces.iter().map(|(range, batch)| format!("{range}:{}", batch.len())).collect();
            let runs = extra_bytes / limits::SPLIT_RECORD_BYTES;
            format!(
                "record split ({error}) into {} after {failed_attempts} attempts, {runs} overdrawn",
                pieces.join(" ")
            )
        }
        Effect::RecordWithdrawal => "record withdrawal".into(),
        Effect::Report { is_over: true } => "report the end".into(),
        Effect::Report { is_over: false } => "report".into(),
        Effect::SplitInLedger { pieces } => format!("ledger waits for {pieces}"),
        Effect::EndInQueue => "end".into(),
        Effect::Retry { due, failed_attempts, .. } => {
            format!("retry after {failed_attempts} attempts, in {} s", seconds(due))
        }
        Effect::StartPieces { due } => format!("start pieces in {} s", seconds(due)),
        Effect::HandOver { error, dead_letters } => {
            format!("hand over ({error}){}", show_dead_letters(dead_letters))
        }
        Effect::Halt(error) => format!("halt {}: {error}", error.exit_code()),
    }
}

fn show_dead_letters(dead_letters: &DeadLetters) -> String {
    let offsets: Vec<_> =
        dead_letters.batch.records().map(|record| record.offset.to_string()).collect();
    let reasons: Vec<_> = dead_letters.reasons.values().map(String::as_str).collect();
    format!(
        ", dead letters {} {} {reasons:?}{}",
        offsets.join(" "),
        dead_letters.why,
        if dead_letters.stored { "" } else { " not stored" }
    )
}

struct Case {
    name: &'static str,
    run: Run,
    now: Situation,
}

impl Case {
    fn new(name: &'static str) -> Case {
        Case { name, run: run_of(&OFFSETS), now: situation() }
    }

    fn with(mut self, change: impl FnOnce(&mut Run, &mut Situation)) -> Case {
        change(&mut self.run, &mut self.now);
        self
    }

    fn gives(self, turn: Turn, expected: &[&str]) {
        let effects = decide(&self.run, turn, &self.now);
        // What others learn of the step has a test of its own.
        let own = |effect: &&Effect| {
            !matches!(effect, Effect::StepProved { .. } | Effect::StepDisproved { .. })
        };
        let shown: Vec<_> =
            effects.iter().filter(own).map(|effect| show(effect, self.now.now)).collect();
        assert_eq!(shown, expected, "{}", self.name);
    }
}

fn last_attempt(run: &mut Run, now: &mut Situation) {
    (run.failed_attempts, now.attempt) = (2, 3);
}

#[test]
fn a_run_that_succeeds_is_recorded_before_it_ends() {
    Case::new("success").gives(
        attempted(Ok(()), &[]),
        &[
            "count RunSucceeded",
            "step works",
            "count 4 records, 4 bytes processed",
            "record succeeded",
            "report the end",
            "end",
        ],
    );
    let success_of_nothing = [
        "count RunSucceeded",
        "step works",
        "count 0 records, 0 bytes processed",
        "record succeeded",
        "report the end",
        "end",
    ];
    Case::new("an empty batch")
        .with(|run, _| *run = run_of(&[]))
        .gives(attempted(Ok(()), &[]), &success_of_nothing);
    Case::new(
        "success while mb ends by force, though cancelled, with names that are not the run's",
    )
    .with(|run, now| {
        *run = run_of(&[]);
        now.is_forced = true;
    })
    .gives(cancelled(Ok(()), &[13, 99]), &success_of_nothing);
}

#[test]
fn a_failed_attempt_is_recorded_before_it_is_retried() {
    Case::new("the first of three").gives(
        attempted(retry(), &[11]),
        &[
            "count AttemptFailed",
            "step fails: exit\\u{1b} 1",
            "log warn: run t/0/10-14: attempt 1 of 3 failed: exit\\u{1b} 1; retrying in 8.0s",
            "record queued (exit\\u{1b} 1)",
            "report",
            "retry after 1 attempts, in 8 s",
        ],
    );
    Case::new("the second of three, all records named")
        .with(|run, now| (run.failed_attempts, now.attempt) = (1, 2))
        .gives(
            attempted(retry_failed(), &OFFSETS),
            &[
                "count AttemptFailed",
                "step fails: some (4 of 4 records named, first 10: bad; 10)",
                "log warn: run t/0/10-14: attempt 2 of 3 failed: some (4 of 4 records named, first \
                 10: bad; 10); retrying in 16.0s",
                "record queued (some (4 of 4 records named, first 10: bad; 10))",
                "report",
                "retry after 2 attempts, in 16 s",
            ],
        );
    Case::new("nothing named").with(|_, now| now.jitter = 0.0).gives(
        attempted(retry_failed(), &[]),
        &[
            "count AttemptFailed",
            "step fails: some",
            "log warn: run t/0/10-14: attempt 1 of 3 failed: some; retrying in 4.0s",
            "record queued (some)",
            "report",
            "retry after 1 attempts, in 4 s",
        ],
    );
}

#[test]
fn named_records_become_runs_of_their_own_and_the_others_are_processed() {
    let expected = |overdrawn, after: &[&str]| {
        let mut expected = vec![
            "count AttemptFailed".to_owned(),
            "step fails: some (3 of 4 records named, first 10: bad; 10)".to_owned(),
            "log warn: run t/0/10-14: attempt 1 of 3 failed: some (3 of 4 records named, first 10: \
             bad; 10); retrying in 8.0s"
                .to_owned(),
            format!(
                "record split (some (3 of 4 records named, first 10: bad; 10)) into 10-11:2 14-14:1 \
                 after 1 attempts, {overdrawn} overdrawn"
            ),
            "report the end".to_owned(),
            "count RunSplit".to_owned(),
            "count 1 records, 1 bytes processed".to_owned(),
        ];
        expected.extend(after.iter().map(ToString::to_string));
        expected
    };
    let names = [10, 11, 14];
    let rest = ["ledger waits for 2", "start pieces in 8 s"];
    let check = |case: Case, expected: Vec<String>| {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        case.gives(attempted(retry_failed(), &names), &expected);
    };
    check(Case::new("memory is overdrawn"), expected(2, &rest));
    let bisecting = Case::new("memory was acquired").with(|_, now| now.policy.bisect = true);
    check(bisecting, expected(0, &rest));
    let replayed = Case::new("the ledger knows nothing of a replay").with(|run, _| {
        run.key.reprocess = Some(Reprocess::Replay(7));
    });
    let expected: Vec<_> = expected(2, &rest[1..])
        .into_iter()
        .map(|line| line.replace("t/0/10-14:", "t/0/10-14.replay-7:"))
        .collect();
    check(replayed, expected);
}

#[test]
fn a_batch_is_halved_after_its_last_attempt() {
    Case::new("--bisect")
        .with(|run, now| {
            last_attempt(run, now);
            now.policy.bisect = true;
            now.policy.on_failure = OnFailure::Halt;
        })
        .gives(
            attempted(retry(), &[]),
            &[
                "count AttemptFailed",
                "step fails: exit\\u{1b} 1",
                "log warn: run t/0/10-14 failed after 3 attempt(s): exit\\u{1b} 1; its 4 records are \
                 halved (--bisect)",
                "record split (exit\\u{1b} 1) into 10-11:2 12-14:2 after 0 attempts, 0 overdrawn",
                "report the end",
                "count RunSplit",
                "count 0 records, 0 bytes processed",
                "ledger waits for 2",
                "start pieces in 0 s",
            ],
        );
}

#[test]
fn a_run_that_is_given_up_on_is_recorded_with_its_dead_letters() {
    let all = [
        "count AttemptFailed",
        "step fails: exit\\u{1b} 1",
        "log error: run t/0/10-14 failed after 3 attempt(s): exit\\u{1b} 1; 4 record(s) are kept as \
         dead letters and the offsets advance",
        "count RunFailed",
        "count 0 records, 0 bytes processed",
        "count DeadLetters(4)",
        "record failed (exit\\u{1b} 1), dead letters 10 11 12 14 retry []",
        "report the end",
        "end",
    ];
    Case::new("the last attempt").with(last_attempt).gives(attempted(retry(), &[11]), &all);
    let some = [
        "count AttemptFailed",
        "step fails: records failed (1 of 4 records named, first 11: bad; 11)",
        "log error: run t/0/10-14 failed after 1 attempt(s): records failed (1 of 4 records named, \
         first 11: bad; 11); 1 record(s) are kept as dead letters and the offsets advance",
        "count RunFailed",
        "count 3 records, 3 bytes processed",
        "count DeadLetters(1)",
        "record failed (records failed (1 of 4 records named, first 11: bad; 11)), dead letters 11 \
         dead-letter [\"bad; 11\"]",
        "report the end",
        "end",
    ];
    Case::new("some named").gives(attempted(Ok(()), &[11, 13]), &some);
    Case::new("some named while mb ends by force")
        .with(|_, now| now.is_forced = true)
        .gives(attempted(Ok(()), &[11]), &some);
    Case::new("the step gives up, of a redrive")
        .with(|run, _| run.key.reprocess = Some(Reprocess::Redrive(2)))
        .gives(
            attempted(Err(StepError::DeadLetter("no".into())), &[]),
            &[
                "count AttemptFailed",
                "step fails: no",
                "log error: run t/0/10-14.redrive-2 failed after 1 attempt(s): no; 4 record(s) are \
                 kept as dead letters",
                "count RunFailed",
                "count 0 records, 0 bytes processed",
                "count DeadLetters(4)",
                "record failed (no), dead letters 10 11 12 14 dead-letter []",
                "report the end",
                "end",
            ],
        );
}

#[test]
fn with_a_dead_letter_topic_nothing_is_recorded_before_the_topic_has_the_records() {
    let to_topic = |run: &mut Run, now: &mut Situation| {
        last_attempt(run, now);
        (now.has_dead_letter_topic, now.keeps_dead_letters) = (true, false);
    };
    Case::new("the last attempt, one record named").with(to_topic).gives(
        attempted(retry_failed(), &[12]),
        &[
            "count AttemptFailed",
            "step fails: some (1 of 4 records named, first 12: bad; 12)",
            "hand over (some (1 of 4 records named, first 12: bad; 12)), dead letters 12 retry-failed \
             [\"bad; 12\"] not stored",
        ],
    );
    Case::new("cancelled before its turn").with(to_topic).gives(
        Turn::CancelledBefore("cancelled: no".into()),
        &["hand over (cancelled: no), dead letters 10 11 12 14 cancelled [] not stored"],
    );
    let run = run_of(&OFFSETS);
    let dead_letters = DeadLetters {
        batch: run.batch.select(|record| record.offset.get() == 12),
        permit: Arc::clone(&run.permit),
        reasons: [(Offset::new(12), "bad".to_owned())].into(),
        why: "retry-failed",
        stored: true,
    };
    let now = Instant::now();
    let effects = settle(&run, 3, "some".into(), Box::new(dead_letters));
    let shown: Vec<_> = effects.iter().map(|effect| show(effect, now)).collect();
    let expected = [
        "log error: run t/0/10-14 failed after 3 attempt(s): some; 1 record(s) are kept as dead letters \
         and the offsets advance",
        "count RunFailed",
        "count 3 records, 3 bytes processed",
        "count DeadLetters(1)",
        "record failed (some), dead letters 12 retry-failed [\"bad\"]",
        "report the end",
        "end",
    ];
    assert_eq!(shown, expected, "delivered");
}

#[test]
fn a_halt_is_recorded_before_mb_stops() {
    let expected = |attempt, error: &str| {
        let text = format!(
            "halt 65: run t/0/10-14 failed after {attempt} attempt(s): {error}; halting: \
             nothing is committed past it"
        );
        let record = format!("record halted ({error})");
        let fails = format!("step fails: {error}");
        [
            "count AttemptFailed".into(),
            fails,
            "count RunHalted".into(),
            record,
            "report".into(),
            text,
        ]
    };
    let check = |case: Case, turn, expected: [String; 6]| {
        case.gives(turn, &expected.each_ref().map(String::as_str));
    };
    let stop = Err(StepError::Stop("broken\nquery".into()));
    check(Case::new("the step"), attempted(stop, &[11]), expected(1, "broken; query"));
    let halting = Case::new("--on-failure halt").with(|run, now| {
        last_attempt(run, now);
        now.policy.on_failure = OnFailure::Halt;
        now.has_dead_letter_topic = true;
    });
    check(halting, attempted(retry(), &[]), expected(3, "exit\\u{1b} 1"));
}

#[test]
fn a_cancelled_run_ends_whatever_its_attempt_came_to() {
    let ends_as = |of: &'static [&'static str]| {
        let before = &["count AttemptFailed"][..];
        [before, of].concat()
    };
    let all = ends_as(&[
        "log error: run t/0/10-14 was cancelled after 1 attempt(s): cancelled: no; 4 record(s) are kept \
         as dead letters and the offsets advance",
        "count RunFailed",
        "count 0 records, 0 bytes processed",
        "count DeadLetters(4)",
        "record failed (cancelled: no), dead letters 10 11 12 14 cancelled []",
        "report the end",
        "end",
    ]);
    let halting = |_: &mut Run, now: &mut Situation| {
        now.policy.on_failure = OnFailure::Halt;
        now.is_stopping = true;
    };
    Case::new("it could be retried").with(halting).gives(cancelled(retry(), &[11]), &all);
    Case::new("not done").with(halting).gives(cancelled(no_room(), &[11]), &all);
    let stop = Err(StepError::Stop("stop".into()));
    Case::new("mb would stop").with(halting).gives(cancelled(stop, &[]), &all);
    Case::new("one record failed").gives(
        cancelled(retry_failed(), &[12]),
        &ends_as(&[
            "log error: run t/0/10-14 was cancelled after 1 attempt(s): cancelled: no; 1 record(s) are \
             kept as dead letters and the offsets advance",
            "count RunFailed",
            "count 3 records, 3 bytes processed",
            "count DeadLetters(1)",
            "record failed (cancelled: no), dead letters 12 cancelled [\"bad; 12\"]",
            "report the end",
            "end",
        ]),
    );
    Case::new("before its turn").gives(
        Turn::CancelledBefore("cancelled: no".into()),
        &[
            "log error: run t/0/10-14 was cancelled after 0 attempt(s): cancelled: no; 4 record(s) are \
             kept as dead letters and the offsets advance",
            "count RunFailed",
            "count 0 records, 0 bytes processed",
            "count DeadLetters(4)",
            "record failed (cancelled: no), dead letters 10 11 12 14 cancelled []",
            "report the end",
            "end",
        ],
    );
    Case::new("its request")
        .gives(Turn::RequestCancelled, &["record withdrawal", "report the end"]);
}

#[test]
fn an_attempt_that_says_nothing_of_its_records_is_neither_counted_nor_recorded() {
    Case::new("no room").with(|run, now| (run.failed_attempts, now.attempt) = (2, 3)).gives(
        attempted(no_room(), &[11]),
        &[
            "log warn: run t/0/10-14 is not done: no room; retrying in 1.0s",
            "report",
            "retry after 2 attempts, in 1 s",
        ],
    );
    Case::new("no room, and mb stops").with(|_, now| now.is_stopping = true).gives(
        attempted(no_room(), &[]),
        &["log info: run t/0/10-14 is not done: no room; the next start repeats it", "report"],
    );
    let interrupted =
        ["log info: run t/0/10-14 was interrupted: the next start repeats it", "report"];
    for turn in
        [attempted(retry(), &[]), cancelled(retry_failed(), &[11]), attempted(no_room(), &[])]
    {
        Case::new("interrupted by force")
            .with(|_, now| now.is_forced = true)
            .gives(turn, &interrupted);
    }
}

#[test]
fn an_error_becomes_one_harmless_bounded_line() {
    let now = situation();
    let error = Err(StepError::DeadLetter("x".repeat(1 << 20)));
    let effects = decide(&run_of(&OFFSETS), attempted(error, &[]), &now);
    let Some(Effect::StepFails(text)) = effects.get(1) else { panic!("{effects:?}") };
    assert!(text.chars().count() <= limits::ERROR_CHARS + 1);
}

#[test]
fn others_learn_from_an_attempt_whether_the_step_works() {
    let learned = |run: &Run, turn: Turn| {
        let effects = decide(run, turn, &situation());
        let of = |effect: &Effect| match effect {
            Effect::StepProved { .. } => Some(true),
            Effect::StepDisproved { .. } => Some(false),
            _ => None,
        };
        effects.iter().filter_map(of).collect::<Vec<_>>()
    };
    let run = run_of(&OFFSETS);
    let not_now = || Err(StepError::NotNow("away".into()));
    let no = || Err(StepError::DeadLetter("no".into()));
    for works in [attempted(Ok(()), &[]), attempted(Ok(()), &[11]), attempted(not_now(), &[11])] {
        assert_eq!(learned(&run, works), [true]);
    }
    for fails in [retry(), not_now(), retry_failed(), Err(StepError::Stop("stop".into()))] {
        assert_eq!(learned(&run, attempted(fails, &[])), [false]);
    }
    // It has judged the records, which tells nothing of what it needs; or it has said nothing at all.
    for unknown in [attempted(no(), &[]), attempted(no_room(), &[]), cancelled(retry(), &[])] {
        assert!(learned(&run, unknown).is_empty());
    }
    assert!(learned(&run_of(&[]), attempted(Ok(()), &[])).is_empty(), "of nothing");
}

#[test]
fn a_run_that_fails_like_all_others_is_held() {
    let others_fail = |run: &mut Run, now: &mut Situation| {
        (run.failed_attempts, now.attempt, now.worked_meanwhile) = (1, 2, false);
        now.evidence.others_fail = true;
    };
    Case::new("held").with(others_fail).gives(
        attempted(retry(), &[]),
        &[
            "count AttemptFailed",
            "step fails: exit\\u{1b} 1",
            "record queued (exit\\u{1b} 1)",
            "report",
            "hold (exit\\u{1b} 1) after 2 attempts, 1 count",
        ],
    );
    Case::new("alone, when patience is over")
        .with(|run, now| {
            last_attempt(run, now);
            now.worked_meanwhile = false;
            now.policy.patience = Duration::ZERO;
            now.has_dead_letter_topic = true;
        })
        .gives(
            attempted(retry(), &[]),
            &[
                "count AttemptFailed",
                "step fails: exit\\u{1b} 1",
                "give up unproved",
                "hand over (exit\\u{1b} 1), dead letters 10 11 12 14 retry []",
            ],
        );
    Case::new("not now, of some records").with(others_fail).gives(
        attempted(Err(StepError::NotNow("away".into())), &[11]),
        &[
            "count AttemptFailed",
            "step fails: away (1 of 4 records named, first 11: bad; 11)",
            "log debug: run t/0/10-14: attempt 2 of 3 failed: away (1 of 4 records named, first 11: bad; \
             11); retrying in 16.0s",
            "record split (away (1 of 4 records named, first 11: bad; 11)) into 11-11:1 after 2 attempts, 1 \
             overdrawn",
            "report the end",
            "count RunSplit",
            "count 3 records, 3 bytes processed",
            "ledger waits for 1",
            "start pieces in 16 s",
        ],
    );
}

#[test]
fn attempts_in_which_the_step_cannot_work_use_up_none_of_a_runs_attempts() {
    let mut run = run_of(&OFFSETS);
    let mut now = situation();
    now.evidence.worked_since = true;
    let not_now = || Err(StepError::NotNow("away".into()));
    for result in [not_now(), not_now(), retry(), not_now(), retry()] {
        let effects = decide(&run, attempted(result, &[]), &now);
        let retried = effects.iter().find_map(|effect| match effect {
            Effect::Retry { failed_attempts, failing, .. } => Some((*failed_attempts, *failing)),
            _ => None,
        });
        (run.failed_attempts, run.failing) = retried.unwrap_or_else(|| panic!("{effects:?}"));
        now.attempt += 1;
    }
    assert_eq!((run.failed_attempts, run.failing.unwrap().not_now), (5, 3));
    let effects = decide(&run, attempted(retry(), &[]), &now);
    let given_up = |effect: &Effect| matches!(effect, Effect::Count(Count::DeadLetters(4)));
    assert!(effects.iter().any(given_up), "the third failure is the last: {effects:?}");
}

/// Every combination of what `decide` looks at.
fn every_case(mut check: impl FnMut(&Run, Turn, &Situation)) {
    let results = [
        Ok(()),
        retry(),
        retry_failed(),
        Err(StepError::DeadLetter("no".into())),
        Err(StepError::Stop("stop".into())),
        no_room(),
        Err(StepError::NotNow("away".into())),
    ];
    let names: [&[i64]; 4] = [&[], &[11], &OFFSETS, &[13]];
    for case in 0..(1 << 11) {
        let flag = |bit: u32| case >> bit & 1 == 1;
        let mut run = run_of(&OFFSETS);
        run.key.reprocess = flag(0).then_some(Reprocess::Replay(1));
        let mut now = situation();
        if flag(1) {
            last_attempt(&mut run, &mut now);
        }
        now.policy.bisect = flag(2);
        if flag(3) {
            now.policy.on_failure = OnFailure::Halt;
        }
        (now.is_forced, now.is_stopping) = (flag(4), flag(5));
        (now.worked_meanwhile, now.evidence.others_fail) = (flag(9), flag(10));
        (now.has_dead_letter_topic, now.keeps_dead_letters) = (flag(6), flag(7));
        for result in &results {
            for failed in names {
                let turn = if flag(8) { cancelled } else { attempted };
                check(&run, turn(result.clone(), failed), &now);
            }
        }
        check(&run, Turn::CancelledBefore("cancelled: no".into()), &now);
        check(&run, Turn::RequestCancelled, &now);
    }
}

#[test]
fn whatever_happened_what_is_recorded_comes_first_and_no_record_is_lost() {
    let mut cases = 0;
    every_case(|run, turn, now| {
        cases += 1;
        let shown = format!("{turn:?} {now:?}");
        let effects = decide(run, turn, now);
        let place = |is: fn(&Effect) -> bool| effects.iter().position(is);
        let recorded = place(|effect| {
            matches!(
                effect,
                Effect::Record { .. } | Effect::RecordSplit { .. } | Effect::RecordWithdrawal
            )
        });
        let reported = place(|effect| matches!(effect, Effect::Report { .. }));
        let handed_over = place(|effect| matches!(effect, Effect::HandOver { .. }));
        let ledger = place(|effect| matches!(effect, Effect::SplitInLedger { .. }));
        let goes_on = place(|effect| {
            matches!(
                effect,
                Effect::EndInQueue
                    | Effect::Retry { .. }
                    | Effect::Hold { .. }
                    | Effect::StartPieces { .. }
                    | Effect::Halt(_)
            )
        });
        // Either the run is handed over, of which nothing is recorded, or it is reported, once.
        assert!(handed_over.is_some() != reported.is_some(), "{shown}");
        assert_eq!(handed_over.is_some(), handed_over == Some(effects.len() - 1), "{shown}");
        assert!(handed_over.is_none() || now.has_dead_letter_topic, "{shown}");
        assert!(handed_over.is_none() || recorded.is_none(), "{shown}");
        // History, then whoever cancels, then the ledger, then the queue or the end of mb.
        let order: Vec<_> = [recorded, reported, ledger, goes_on].into_iter().flatten().collect();
        assert!(order.is_sorted(), "{shown}: {effects:?}");
        assert!(goes_on.is_none_or(|place| place == effects.len() - 1), "{shown}");
        check_records(run, &effects, &shown);
    });
    assert_eq!(cases, 2048 * 30);
}

/// Every record of a run that is over was processed, is a dead letter, or is in a piece; none is counted
/// if the run is to have another attempt.
fn check_records(run: &Run, effects: &[Effect], shown: &str) {
    let (mut counted, mut in_pieces, mut is_over) = (0, 0, false);
    for effect in effects {
        match effect {
            Effect::Count(Count::Processed { records, .. } | Count::DeadLetters(records)) => {
                counted += records;
            }
            Effect::RecordSplit { pieces, .. } => {
                in_pieces += pieces.iter().map(|(_, batch)| batch.len()).sum::<usize>();
            }
            Effect::Record { state, dead_letters, .. } => {
                is_over |= state.is_done();
                assert_eq!(*state == RunState::Failed, dead_letters.is_some(), "{shown}");
            }
            _ => {}
        }
    }
    is_over |= in_pieces > 0;
    assert_eq!(counted + in_pieces, if is_over { run.batch.len() } else { 0 }, "{shown}");
}
