//! Writes that wait for the history thread: bounded, in the order in which they were sent, and taken in groups.
//! What they mean is not known here, only whether somebody waits for them.
//!
//! A channel would wake the history thread for each write. But nobody waits for most of them (outcomes of runs
//! that succeeded), so they stay here for a moment, and the thread is woken once for many.

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::limits;
use crate::model::clock;
use crate::model::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    /// There is something to take.
    filled: Condvar,
    /// There is room again.
    room: Condvar,
    most: usize,
}

#[derive(Debug)]
struct State<T> {
    writes: VecDeque<T>,
    /// Somebody waits for one of them.
    hurry: bool,
    /// The history thread sleeps, until something comes, or until what is there has waited long enough.
    sleeps: bool,
    /// How many senders wait for room.
    blocked: usize,
    /// Nothing more is accepted.
    closed: bool,
}

impl<T> Inbox<T> {
    /// Holds at most this many writes.
    pub fn new(most: usize) -> Inbox<T> {
        let state = State {
            writes: VecDeque::new(),
            hurry: false,
            sleeps: false,
            blocked: 0,
            closed: false,
        };
        Inbox { state: Mutex::new(state), filled: Condvar::new(), room: Condvar::new(), most }
    }

    /// Appends a write. Waits for room, until `deadline` if there is one. `hurry`: somebody waits for the
    /// write. False if it was not accepted.
    pub fn send(&self, write: T, hurry: bool, deadline: Option<Instant>) -> bool {
        let mut state = self.lock();
        while state.writes.len() >= self.most && !state.closed {
            let limit = deadline.map_or(limits::DURATION_MAX, |deadline| {
                deadline.saturating_duration_since(clock::now())
            });
            if limit.is_zero() {
                return false;
            }
            state.blocked += 1;
            self.room.wait_for(&mut state, limit);
            state.blocked -= 1;
        }
        if state.closed {
            return false;
        }
        let was_empty = state.writes.is_empty();
        state.writes.push_back(write);
        let hurry = hurry || state.writes.len() >= self.most / 2;
        let news = was_empty || (hurry && !state.hurry);
        state.hurry |= hurry;
        let wakes = news && state.sleeps;
        // The thread that is woken takes the lock at once.
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
        true
    }

    /// Waits for writes, and moves the first `most` of them into `group`, replacing what it held. Writes that
    /// nobody waits for stay a moment, so that others can go with them. False at the end: closed, and empty.
    pub fn take_group(&self, group: &mut Vec<T>, most: usize) -> bool {
        group.clear();
        let mut state = self.lock();
        let mut since = None;
        while !state.hurry && !state.closed {
            let limit = if state.writes.is_empty() {
                limits::DURATION_MAX
            } else {
                let now = clock::now();
                let since = *since.get_or_insert(now);
                limits::HISTORY_LINGER.saturating_sub(now.saturating_duration_since(since))
            };
            if limit.is_zero() {
                break;
            }
            state.sleeps = true;
            self.filled.wait_for(&mut state, limit);
            state.sleeps = false;
        }
        if state.writes.is_empty() {
            return false;
        }
        self.move_out(state, group, most);
        true
    }

    /// Moves what is there, `most` writes at most, behind what `group` has.
    #[cfg(any(test, feature = "testing"))]
    pub fn take_now(&self, group: &mut Vec<T>, most: usize) {
        self.move_out(self.lock(), group, most);
    }

    fn move_out(&self, mut state: MutexGuard<'_, State<T>>, group: &mut Vec<T>, most: usize) {
        let count = most.min(state.writes.len());
        group.extend(state.writes.drain(..count));
        // It is not known whether somebody waits for the rest.
        state.hurry = !state.writes.is_empty();
        let wakes = state.blocked > 0;
        drop(state);
        if wakes {
            self.room.notify_all();
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn len(&self) -> usize {
        self.lock().writes.len()
    }

    /// Accepts nothing any more; what is there can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.room.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The history thread has ended: closes, and drops what is there.
    pub fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut self.lock().writes);
        // Dropping them wakes their waiters, which must not need the lock.
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::thread;

    #[test]
    fn writes_come_out_in_order_and_in_groups() {
        let inbox = Inbox::new(10);
        for write in 0..5 {
            assert!(inbox.send(write, write == 4, None));
        }
        let mut group = vec![99];
        assert!(inbox.take_group(&mut group, 3));
        assert_eq!(group, [0, 1, 2]);
        inbox.close();
        assert!(!inbox.send(5, true, None), "closed");
        assert!(inbox.take_group(&mut group, 3));
        assert_eq!(group, [3, 4]);
        assert!(!inbox.take_group(&mut group, 3));
    }

    #[test]
    fn a_write_that_nobody_waits_for_is_taken_with_the_next_that_is_awaited_or_after_a_moment() {
        let inbox = Arc::new(Inbox::new(10));
        assert!(inbox.send(1, false, None));
        let mut group = Vec::new();
        assert!(inbox.take_group(&mut group, 10), "its moment is over");
        assert_eq!(group, [1]);
        let taker = {
            let inbox = Arc::clone(&inbox);
            thread::spawn("taker", move || {
                let mut group = Vec::new();
                let mut all = Vec::new();
                while inbox.take_group(&mut group, 10) {
                    all.append(&mut group);
                }
                all
            })
            .unwrap()
        };
        for write in 0..1000 {
            assert!(inbox.send(write, write % 7 == 0, None));
        }
        inbox.close();
        assert_eq!(taker.join().unwrap(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_inbox_accepts_nothing_until_there_is_room_or_the_deadline_passes() {
        let inbox = Arc::new(Inbox::new(2));
        assert!(inbox.send(1, false, None) && inbox.send(2, false, None));
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(!inbox.send(3, false, Some(soon)));
        let sender = {
            let inbox = Arc::clone(&inbox);
            thread::spawn("sender", move || inbox.send(3, false, None)).unwrap()
        };
        let mut group = Vec::new();
        assert!(inbox.take_group(&mut group, 1));
        assert!(sender.join().unwrap());
        assert!(inbox.take_group(&mut group, 10));
        assert_eq!(group, [2, 3]);
    }

    #[test]
    fn a_sender_that_waits_for_room_is_refused_when_the_history_thread_ends() {
        let inbox = Arc::new(Inbox::new(1));
        assert!(inbox.send(1, false, None));
        let sender = {
            let inbox = Arc::clone(&inbox);
            thread::spawn("sender", move || inbox.send(2, false, None)).unwrap()
        };
        inbox.abandon();
        assert!(!sender.join().unwrap());
        assert_eq!(inbox.len(), 0);
    }
}
