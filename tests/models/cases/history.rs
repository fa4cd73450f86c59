//! The way to the history's file and back: whoever waits learns what is in the file, also if the file refuses
//! writes, or the history thread ends.

use std::sync::Arc;
use std::time::Duration;

use models::Connection;
use models::file::Written;
use models::history::reset::Reset;
use models::history::{AttemptRecord, History, Outcome, Planned, ScopeId, Settled, TickRecord};
use models::model::clock;
use models::model::offset::{Offset, OffsetRange, Partition, RunKey};
use models::model::run::{RunId, RunState};
use models::model::sync::Mutex;
use models::model::thread::Thread;
use shuttle::thread;

use crate::explore;

/// What the ledgers were told.
type Ledgers = Arc<Mutex<Vec<Settled>>>;

struct Started {
    history: Arc<History>,
    thread: Thread<()>,
    ledgers: Ledgers,
}

fn start(file: &Connection) -> Started {
    let ledgers = Ledgers::default();
    let settled = {
        let ledgers = Arc::clone(&ledgers);
        move |runs: &[Settled]| ledgers.lock().extend(runs)
    };
    let (history, thread) = History::start(file.clone(), ScopeId(1), "model", 0, settled).unwrap();
    Started { history, thread, ledgers }
}

fn range(offset: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(offset), Offset::new(offset))
}

fn key(partition: Partition, offset: i64) -> RunKey {
    RunKey::new("t", partition, range(offset))
}

fn planned(partition: Partition, offset: i64) -> Vec<Planned> {
    vec![Planned::whole(key(partition, offset), 1, 1)]
}

pub fn succeeded(run: RunId, key: RunKey, output: Option<String>) -> Outcome {
    let attempt =
        AttemptRecord { number: 1, started_ms: 0, run_us: 1, worker: 0, error: None, output };
    let whole = key.range;
    let state = RunState::Succeeded;
    Outcome { id: run, key, state, records: 1, attempt, whole, dead_letters: None }
}

fn tick(sensor: usize) -> TickRecord {
    TickRecord {
        sensor,
        started_ms: 0,
        run_us: 0,
        records: 0,
        bytes: 0,
        batches: 0,
        ended_by: "runtime",
        error: None,
    }
}

/// The numbers of all runs, in the order in which they came into the file.
fn runs(file: &Connection) -> Vec<i64> {
    let runs = |write| match write {
        Written::Planned(runs) => runs,
        _ => Vec::new(),
    };
    file.written().into_iter().flat_map(runs).collect()
}

/// Fails if a run may start before its range is in the file; if numbers are given in another order than that of
/// the file; if a worker counts itself as waiting only after it has looked; or if progress is announced without
/// the lock.
#[test]
fn a_run_starts_once_it_is_in_the_file_and_numbers_ascend_there() {
    explore(|| {
        let file = Connection::default();
        let Started { history, thread, ledgers } = start(&file);
        file.refuse(1);
        let workers: Vec<_> = [0, 1]
            .map(|partition| {
                let (history, file) = (Arc::clone(&history), file.clone());
                thread::spawn(move || {
                    for offset in 0..2 {
                        let run = history.plan(planned(partition, offset)).unwrap();
                        assert!(history.wait_planned(run));
                        assert!(file.is_planned(run.0), "{run} has started too early");
                        assert!(history.outcome(succeeded(run, key(partition, offset), None)));
                    }
                })
            })
            .into();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        history.close();
        thread.join().unwrap();
        assert_eq!(runs(&file), [1, 2, 3, 4]);
        for partition in [0, 1] {
            let settled =
                ledgers.lock().clone().into_iter().filter(|run| run.partition == partition);
            assert!(settled.map(|run| run.batch).eq([range(0), range(1)]), "in order, and once");
        }
    });
}

/// Fails if a commit may be sent before the ledgers know what was sent to the history before it, or before that is
/// on the disk; or if the history thread is not woken for it while outcomes that nobody waits for lie there.
#[test]
fn a_commit_is_sent_after_everything_before_it_was_written_and_announced() {
    explore(|| {
        let file = Connection::default();
        let Started { history, thread, ledgers } = start(&file);
        let committers: Vec<_> = [0, 1]
            .map(|partition| {
                let (history, file, ledgers) =
                    (Arc::clone(&history), file.clone(), Arc::clone(&ledgers));
                thread::spawn(move || {
                    let run = RunId(10 + i64::from(partition));
                    let output = Some("output".to_owned());
                    assert!(history.outcome(succeeded(run, key(partition, 0), output)));
                    assert_eq!(history.intend(&[(partition, Offset::new(1))]), Ok(Some(1)));
                    let written = file.written();
                    let at = written.iter().position(|write| *write == Written::Outcome(run.0));
                    assert!(at.is_some_and(|at| at < file.synced()), "{written:?}");
                    let settled = ledgers.lock();
                    assert_eq!(settled.iter().filter(|run| run.partition == partition).count(), 1);
                })
            })
            .into();
        committers.into_iter().for_each(|committer| committer.join().unwrap());
        history.close();
        thread.join().unwrap();
    });
}

/// Fails if the end of the history thread wakes nobody who waits for a run or an answer, or if it leaves the writes
/// in the inbox.
#[test]
fn nobody_waits_for_a_history_whose_thread_has_ended() {
    explore(|| {
        let file = Connection::default();
        file.damage_after(1);
        let Started { history, thread, ledgers } = start(&file);
        let worker = {
            let (history, file) = (Arc::clone(&history), file.clone());
            thread::spawn(move || {
                for offset in 0..3 {
                    let Some(run) = history.plan(planned(0, offset)) else { return };
                    if !history.wait_planned(run) {
                        return;
                    }
                    assert!(file.is_planned(run.0));
                    history.outcome(succeeded(run, key(0, offset), Some("output".to_owned())));
                }
                panic!("the file was damaged after one transaction");
            })
        };
        let committer = {
            let (history, file) = (Arc::clone(&history), file.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    let before = file.written().len();
                    if history.intend(&[(0, Offset::new(1))]).unwrap().is_none() {
                        return;
                    }
                    assert!(file.written().len() > before, "it is in the file");
                }
                panic!("the file was damaged after one transaction");
            })
        };
        worker.join().unwrap();
        committer.join().unwrap();
        thread.join().unwrap();
        assert!(ledgers.lock().len() <= 1);
        assert!(!history.tick(tick(0)) && history.plan(planned(0, 9)).is_none());
    });
}

/// Fails if a close loses what was accepted before it, or if somebody waits on after it.
#[test]
fn what_is_sent_before_the_history_is_closed_is_written_once_and_in_order() {
    explore(|| {
        let file = Connection::default();
        let Started { history, thread, .. } = start(&file);
        file.refuse(1);
        let senders: Vec<_> = [0, 1]
            .map(|sensor| {
                let history = Arc::clone(&history);
                thread::spawn(move || {
                    let is_accepted = history.tick(tick(sensor));
                    let flushed = history.flush(Duration::from_secs(3600));
                    assert!(is_accepted || !flushed);
                    let last = history.tick(tick(sensor + 10));
                    assert!(is_accepted || !last, "closed once and for all");
                    [is_accepted.then_some(sensor), last.then_some(sensor + 10)]
                })
            })
            .into();
        history.close();
        let mut accepted = Vec::new();
        for sender in senders {
            accepted.push(sender.join().unwrap());
        }
        thread.join().unwrap();
        for of_sender in accepted {
            let written = file.written().into_iter().filter_map(|write| match write {
                Written::Tick(tick) if of_sender.contains(&Some(tick)) => Some(tick),
                _ => None,
            });
            assert!(written.eq(of_sender.into_iter().flatten()), "{:?}", file.written());
        }
    });
}

/// Fails if mb's stop wakes nobody who waits for a run to be planned.
#[test]
fn a_stop_ends_the_waits_for_a_file_that_cannot_be_written() {
    explore(|| {
        let file = Connection::default();
        file.refuse(usize::MAX);
        let Started { history, thread, .. } = start(&file);
        let workers: Vec<_> = [0, 1]
            .map(|partition| {
                let history = Arc::clone(&history);
                thread::spawn(move || {
                    let run = history.plan(planned(partition, 0)).unwrap();
                    assert!(!history.wait_planned(run));
                })
            })
            .into();
        history.stop_waiting();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        file.refuse(0);
        history.close();
        thread.join().unwrap();
        assert_eq!(runs(&file), [1, 2], "what was accepted is written even so");
    });
}

/// Fails if the caller of a move and the history thread may both decide what becomes of it, or if a move that was
/// refused once cannot be called off any more.
#[test]
fn a_move_that_was_reported_as_failed_is_never_made() {
    const LIMIT: Duration = Duration::from_secs(1);
    explore(|| {
        clock::let_pass();
        let file = Connection::default();
        let Started { history, thread, .. } = start(&file);
        file.refuse(2);
        let movers: Vec<_> = [0, 1]
            .map(|partition| {
                let (history, file) = (Arc::clone(&history), file.clone());
                thread::spawn(move || {
                    let reset = Reset { partition, from: None, to: Offset::ZERO, epoch: None };
                    let is_moved = history.reset(vec![reset], LIMIT).is_ok();
                    assert!(!is_moved || file.written().contains(&Written::Reset(partition)));
                    is_moved
                })
            })
            .into();
        let moved: Vec<bool> = movers.into_iter().map(|mover| mover.join().unwrap()).collect();
        history.close();
        thread.join().unwrap();
        for (partition, is_moved) in (0..).zip(moved) {
            let resets = file.written().iter().filter(|w| **w == Written::Reset(partition)).count();
            assert_eq!(resets, usize::from(is_moved));
        }
    });
}
