//! The history's inbox by itself, with little room: what is accepted comes out once and in order, and nobody waits
//! for ever.

use std::sync::Arc;

use models::history::Inbox;
use models::model::clock;
use models::model::sync::{Condvar, Mutex};
use models::{RecvError, Sender, bounded};
use shuttle::thread;

use crate::explore;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// Sender and number of a write.
type Write = (usize, usize);

fn take_all<T>(inbox: &Inbox<T>, most: usize) -> Vec<T> {
    let (mut all, mut group) = (Vec::new(), Vec::new());
    while inbox.take_group(&mut group, most) {
        assert!(!group.is_empty() && group.len() <= most);
        all.append(&mut group);
    }
    all
}

/// Fails if a write that somebody waits for does not wake the thread that leaves others lying for a moment; if
/// what is left after a full group is left lying too; if room is announced to nobody; or if a sender counts itself
/// as waiting only after it has let go of the lock.
#[test]
fn every_write_that_is_accepted_comes_out_once_and_in_the_order_of_its_sender() {
    const SENDERS: usize = 2;
    const WRITES: usize = 3;
    explore(|| {
        let inbox = Arc::new(Inbox::<Write>::new(4));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let changed = Arc::new(Condvar::new());
        let taker = {
            let (inbox, taken, changed) =
                (Arc::clone(&inbox), Arc::clone(&taken), Arc::clone(&changed));
            thread::spawn(move || {
                let mut group = Vec::new();
                while inbox.take_group(&mut group, 2) {
                    taken.lock().append(&mut group);
                    changed.notify_all();
                }
            })
        };
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (inbox, taken, changed) =
                    (Arc::clone(&inbox), Arc::clone(&taken), Arc::clone(&changed));
                thread::spawn(move || {
                    for write in 0..WRITES {
                        let is_last = write == WRITES - 1;
                        assert!(inbox.send((sender, write), is_last, None));
                    }
                    // It waits for the last one.
                    let mut taken = taken.lock();
                    while !taken.contains(&(sender, WRITES - 1)) {
                        changed.wait(&mut taken);
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        inbox.close();
        taker.join().unwrap();
        let taken = taken.lock();
        for sender in 0..SENDERS {
            let of_sender = taken.iter().filter(|(of, _)| *of == sender);
            assert!(of_sender.map(|(_, write)| *write).eq(0..WRITES), "{:?}", *taken);
        }
    });
}

/// Fails if a full inbox does not wake the thread, or room nobody.
#[test]
fn a_full_inbox_is_emptied_even_if_nobody_waits_for_a_write() {
    explore(|| {
        let inbox = Arc::new(Inbox::<Write>::new(2));
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || (0..3).all(|write| inbox.send((sender, write), false, None)))
            })
            .collect();
        let closer = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                for sender in senders {
                    assert!(sender.join().unwrap());
                }
                inbox.close();
            })
        };
        assert_eq!(take_all(&inbox, 1).len(), 6);
        closer.join().unwrap();
    });
}

/// Fails if the first write does not wake the thread, which counts the moment from then on.
#[test]
fn a_write_that_nobody_waits_for_is_taken_after_a_moment() {
    explore(|| {
        clock::let_pass();
        let inbox = Arc::new(Inbox::<Write>::new(4));
        let (first, came) = bounded(1);
        let taker = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                let mut group = Vec::new();
                assert!(inbox.take_group(&mut group, 4));
                first.send(group.clone()).unwrap();
                take_all(&inbox, 4)
            })
        };
        assert!(inbox.send((0, 0), false, None));
        assert_eq!(came.recv().unwrap(), [(0, 0)]);
        inbox.close();
        assert!(taker.join().unwrap().is_empty());
    });
}

/// Fails if `close` wakes no sender. The thread cannot do it: it may be trying to write what it has taken.
#[test]
fn a_close_ends_the_waits_for_room_although_nothing_is_taken() {
    explore(|| {
        let inbox = Arc::new(Inbox::<Write>::new(1));
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || usize::from(inbox.send((sender, 0), true, None)))
            })
            .collect();
        inbox.close();
        let accepted: usize = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        assert_eq!(take_all(&inbox, 4).len(), accepted);
    });
}

/// Fails if `close` does not wake the thread, or if what was accepted before it is not taken.
#[test]
fn a_close_ends_every_wait_and_loses_no_write_that_was_accepted() {
    explore(|| {
        let inbox = Arc::new(Inbox::<Write>::new(2));
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    (0..3).take_while(|write| inbox.send((sender, *write), false, None)).count()
                })
            })
            .collect();
        let taker = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || take_all(&inbox, 4))
        };
        inbox.close();
        assert!(!inbox.send((9, 9), true, None));
        let accepted: usize = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        assert_eq!(taker.join().unwrap().len(), accepted);
    });
}

/// Fails if the thread's end leaves the writes lying, or a sender waiting for room.
#[test]
fn every_waiter_is_answered_once_even_if_the_history_thread_ends() {
    const SENDERS: usize = 3;
    explore(|| {
        let inbox = Arc::new(Inbox::<Sender<()>>::new(1));
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    let (done, wait) = bounded(2);
                    if !inbox.send(done, true, None) {
                        return false;
                    }
                    let is_done = wait.recv().is_ok();
                    assert_eq!(wait.recv(), Err(RecvError), "no second answer");
                    is_done
                })
            })
            .collect();
        let mut group = Vec::new();
        assert!(inbox.take_group(&mut group, 1));
        let mut answered = 0;
        for done in group.drain(..) {
            done.send(()).unwrap();
            answered += 1;
        }
        inbox.abandon();
        let done = senders.into_iter().map(|sender| sender.join().unwrap());
        assert_eq!(done.filter(|is_done| *is_done).count(), answered);
    });
}

/// Fails if a sender whose time is over leaves its write behind.
#[test]
fn a_write_that_was_refused_for_lack_of_time_never_comes_out() {
    explore(|| {
        clock::let_pass();
        let inbox = Arc::new(Inbox::<Write>::new(1));
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || {
                    let send =
                        |write| inbox.send((sender, write), true, Some(clock::now() + SECOND));
                    (0..2).filter(|write| send(*write)).map(|write| (sender, write)).collect()
                })
            })
            .collect();
        let taker = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || take_all(&inbox, 1))
        };
        let mut accepted: Vec<Write> = Vec::new();
        for sender in senders {
            let of_sender: Vec<Write> = sender.join().unwrap();
            accepted.extend(of_sender);
        }
        inbox.close();
        let mut taken = taker.join().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, accepted);
    });
}
