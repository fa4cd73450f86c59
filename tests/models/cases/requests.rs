//! Redrives and replays: how their thread learns of work, and what a cancel leaves.

use std::sync::Arc;

use models::Connection;
use models::config::Order;
use models::file::Written;
use models::history::{History, ScopeId};
use models::model::offset::Reprocess;
use models::model::run::RunId;
use models::model::sync::Mutex;
use models::runs::queue::RunQueue;
use models::source::{self, WorkSignal};
use shuttle::thread;

use crate::explore;
use crate::history::succeeded;
use crate::queue::run;

/// Fails if a cancel looks at the runs that have started outside of the lock, or tells the history before that; or
/// if a run is reported before its outcome is on its way.
#[test]
fn a_run_of_a_cancelled_request_is_named_by_the_cancel_or_reported_before_it_or_never_starts() {
    const RUNS: i64 = 2;
    explore(|| {
        let file = Connection::default();
        let (history, thread) =
            History::start(file.clone(), ScopeId(1), "model", 0, |_| {}).unwrap();
        let queue = Arc::new(RunQueue::new(1, Order::None, 1 << 20));
        let (signal, _woken, _rest) = WorkSignal::new(&queue, &history);
        let workers: Vec<_> = (0..RUNS)
            .map(|offset| {
                let (queue, history) = (Arc::clone(&queue), Arc::clone(&history));
                thread::spawn(move || {
                    let mut key = run(0, offset).key;
                    key.reprocess = Some(Reprocess::Redrive(7));
                    let id = RunId(offset);
                    if queue.requested.begin(id, &key) {
                        assert!(history.outcome(succeeded(id, key.clone(), None)));
                        queue.requested.reported(id, &key);
                    }
                })
            })
            .collect();
        signal.cancel(&[7], "no").unwrap();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        history.close();
        thread.join().unwrap();
        let written = file.written();
        let cancel = written.iter().position(|write| matches!(write, Written::Cancelled(_)));
        let cancel = cancel.expect("it is in the file");
        for (at, write) in written.iter().enumerate() {
            let Written::Outcome(run) = write else { continue };
            let is_named =
                matches!(&written[cancel], Written::Cancelled(runs) if runs.contains(run));
            assert!(at < cancel || is_named, "{written:?}");
        }
    });
}

/// Fails if the thread notes how often there was news only after it has looked, or if a request that comes
/// meanwhile counts as seen.
#[test]
fn every_request_is_seen_and_whoever_waits_for_rest_learns_of_it() {
    const REQUESTS: usize = 2;
    explore(|| {
        let file = Connection::default();
        let (history, thread) = History::start(file, ScopeId(1), "model", 0, |_| {}).unwrap();
        let queue = Arc::new(RunQueue::new(1, Order::None, 1 << 20));
        let (signal, woken, rest) = WorkSignal::new(&queue, &history);
        let open = Arc::new(Mutex::new(0));
        let seen = Arc::new(Mutex::new(0));
        let is_over = Arc::new(Mutex::new(false));
        let requests = {
            let (signal, open, seen) = (Arc::clone(&signal), Arc::clone(&open), Arc::clone(&seen));
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                while !*is_over.lock() {
                    source::look(&signal, || {
                        *seen.lock() += std::mem::take(&mut *open.lock());
                        true
                    });
                    woken.recv().unwrap();
                }
            })
        };
        let makers: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let (signal, open) = (Arc::clone(&signal), Arc::clone(&open));
                thread::spawn(move || {
                    *open.lock() += 1;
                    signal.raise();
                })
            })
            .collect();
        makers.into_iter().for_each(|maker| maker.join().unwrap());
        // As the supervisor does once mb has caught up.
        while !signal.is_idle() {
            rest.recv().unwrap();
        }
        assert_eq!((*open.lock(), *seen.lock()), (0, REQUESTS));
        *is_over.lock() = true;
        signal.raise();
        requests.join().unwrap();
        history.close();
        thread.join().unwrap();
    });
}
