//! How many commands run at the same time while the machine lacks what one per worker would need: descriptors,
//! processes, memory.
//!
//! As many as there is room for go on; the others wait in the order in which they came. Without an order, 40
//! workers with room for 7 commands each take one of the three pipes that they need, wait a second in step with
//! all others, and no command ever starts again. `Gate` decides, with the time as an argument; `Slots` waits.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::model::sync::{Condvar, Mutex};

/// The commands that run, and the attempts that wait for room.
#[derive(Debug, Default)]
pub struct Slots(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    gate: Gate,
    /// In the order in which they came. Only the first is woken when there may be room.
    waiting: VecDeque<Arc<Condvar>>,
    is_stopping: bool,
}

/// Why an attempt got no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSlot {
    /// mb stops.
    Stopping,
    Cancelled,
}

/// The place of a command that starts or runs, until it is dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    slots: &'a Slots,
    /// No other command had a slot: it may take what is left for the rest of mb.
    pub is_only: bool,
    is_trial: bool,
}

impl Slots {
    /// Waits for a slot: no time at all, unless something is lacking.
    ///
    /// # Errors
    /// Why it got none. `is_cancelled` is asked at least each second.
    pub fn enter(&self, is_cancelled: impl Fn() -> bool) -> Result<Slot<'_>, NoSlot> {
        let mut state = self.0.lock();
        let mut turn: Option<Arc<Condvar>> = None;
        let outcome = loop {
            let now = Instant::now();
            let is_next = state
                .waiting
                .front()
                .is_none_or(|first| turn.as_ref().is_some_and(|own| Arc::ptr_eq(own, first)));
            let wait = state.gate.wait(now);
            if is_next && wait.is_zero() {
                let is_trial = state.gate.enter(now);
                break Ok(Slot { slots: self, is_only: state.gate.running == 1, is_trial });
            }
            if state.is_stopping {
                break Err(NoSlot::Stopping);
            }
            if is_cancelled() {
                break Err(NoSlot::Cancelled);
            }
            let own = match &turn {
                Some(own) => Arc::clone(own),
                None => {
                    let own = Arc::<Condvar>::default();
                    state.waiting.push_back(Arc::clone(&own));
                    turn = Some(Arc::clone(&own));
                    own
                }
            };
            let wait = if is_next { wait } else { limits::ROOM_RETRY_INTERVAL };
            own.wait_for(&mut state, wait.min(limits::ROOM_RETRY_INTERVAL));
        };
        if let Some(own) = turn {
            state.waiting.retain(|other| !Arc::ptr_eq(&own, other));
        }
        state.wake_first();
        outcome
    }

    /// mb stops: nothing waits any more.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.is_stopping = true;
        for one in &state.waiting {
            one.notify_one();
        }
    }
}

impl State {
    fn wake_first(&self) {
        if let Some(first) = self.waiting.front() {
            first.notify_one();
        }
    }
}

impl Slot<'_> {
    /// The command has started.
    pub fn started(&self) {
        let mut state = self.slots.0.lock();
        state.gate.started(Instant::now(), fastrand::f64());
        state.wake_first();
    }

    /// It could not be started, or watched, for want of something.
    pub fn lacked(self, cause: &io::Error) {
        let mut state = self.slots.0.lock();
        if state.gate.lacked(Instant::now(), fastrand::f64(), self.is_trial) {
            log::error!(
                target: "mb::step",
                "cannot run the command: {cause}; as many as there is room for go on, the others wait their turn"
            );
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        let is_waited_for = !state.waiting.is_empty();
        if let Some(after) = state.gate.leave(Instant::now(), is_waited_for) {
            log::info!(target: "mb::step", "can run commands again, after {} s", after.as_secs());
        }
        state.wake_first();
    }
}

/// Who may start.
///
/// Invariant: without a lack, everybody; with one, at most as many as are known to have room, and one more from
/// time to time to see whether there is more.
#[derive(Debug, Default)]
struct Gate {
    /// Commands that start or run.
    running: usize,
    lack: Option<Lack>,
}

#[derive(Debug)]
struct Lack {
    since: Instant,
    last: Instant,
    /// So many ran when one more could not be started.
    room: usize,
    /// When one more is tried.
    try_at: Instant,
    failed_trials: u32,
}

impl Gate {
    /// How long the next one waits, if no command ends meanwhile.
    fn wait(&self, now: Instant) -> Duration {
        let full = self.lack.as_ref().filter(|lack| self.running >= lack.room);
        full.map_or(Duration::ZERO, |lack| lack.try_at.saturating_duration_since(now))
    }

    /// True if it is one more than there is known to be room for.
    fn enter(&mut self, now: Instant) -> bool {
        self.running += 1;
        let Some(lack) = self.lack.as_mut().filter(|lack| self.running > lack.room) else {
            return false;
        };
        // One at a time.
        lack.try_at = now + limits::ROOM_RETRY_INTERVAL;
        true
    }

    /// `jitter` from 0 to 1, as in `lacked`.
    fn started(&mut self, now: Instant, jitter: f64) {
        if let Some(lack) = self.lack.as_mut().filter(|lack| self.running > lack.room) {
            lack.room = self.running;
            lack.failed_trials = 0;
            lack.try_at = now + limits::ROOM_BACKOFF.pause(0, jitter);
        }
    }

    /// The command did not start; its slot is still to be left. True if nothing was lacking before.
    fn lacked(&mut self, now: Instant, jitter: f64, is_trial: bool) -> bool {
        let is_first = self.lack.is_none();
        let nothing = Lack { since: now, last: now, room: 0, try_at: now, failed_trials: 0 };
        let lack = self.lack.get_or_insert(nothing);
        lack.last = now;
        lack.room = self.running - 1;
        lack.try_at = now + limits::ROOM_BACKOFF.pause(lack.failed_trials, jitter);
        lack.failed_trials = lack.failed_trials.saturating_add(u32::from(is_trial));
        is_first
    }

    /// A slot is free. Returns how long something was lacking, if that is over: nobody waits, and nothing was
    /// lacking for a while, or it would begin again with the next few runs.
    fn leave(&mut self, now: Instant, is_waited_for: bool) -> Option<Duration> {
        self.running -= 1;
        let is_over = |lack: &mut Lack| now >= lack.last + limits::ROOM_QUIET;
        let lack = if is_waited_for { None } else { self.lack.take_if(is_over) }?;
        Some(now - lack.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// `demand` attempts that each want a slot at every moment, on a machine with room for `room` commands that
    /// take 50 ms each. Returns how many were done, and how many starts failed.
    fn crowd(gate: &mut Gate, clock: &mut Instant, demand: usize, room: usize) -> (usize, usize) {
        let mut ends: VecDeque<Instant> = VecDeque::new();
        let (mut done, mut failed) = (0, 0);
        for _ in 0..3000 {
            *clock += STEP;
            while ends.front().is_some_and(|end| end <= clock) {
                ends.pop_front();
                done += 1;
                gate.leave(*clock, demand > ends.len() + 1);
            }
            // Those that come at the same moment all try before the first of them learns that it cannot.
            let mut entered = Vec::new();
            while ends.len() + entered.len() < demand && gate.wait(*clock).is_zero() {
                entered.push(gate.enter(*clock));
            }
            for is_trial in entered {
                if ends.len() < room {
                    gate.started(*clock, 0.5);
                    ends.push_back(*clock + 5 * STEP);
                } else {
                    gate.lacked(*clock, 0.5, is_trial);
                    gate.leave(*clock, true);
                    failed += 1;
                }
            }
            assert_eq!(gate.running, ends.len());
        }
        while ends.pop_front().is_some() {
            gate.leave(*clock, true);
        }
        (done, failed)
    }

    #[test]
    fn with_room_for_seven_seven_go_on_and_few_starts_fail() {
        let (mut gate, mut clock) = (Gate::default(), Instant::now());
        let (done, failed) = crowd(&mut gate, &mut clock, 40, 7);
        // In 30 s, 7 at a time, 50 ms each.
        assert!(done > 7 * 600 * 9 / 10, "{done} done");
        assert!(failed < 33 + 60, "{failed} failed");
        assert!(gate.lack.is_some(), "it is said once: somebody waits all the time");
    }

    #[test]
    fn room_that_comes_back_is_used_again_and_the_lack_is_over_once_it_is_quiet() {
        let (mut gate, mut clock) = (Gate::default(), Instant::now());
        crowd(&mut gate, &mut clock, 40, 3);
        let (done, failed) = crowd(&mut gate, &mut clock, 40, 100);
        assert!(done > 40 * 600 * 8 / 10 && failed == 0, "{done} done, {failed} failed");
        assert!(gate.lack.is_none(), "nobody has waited for ten seconds");
    }

    #[test]
    fn without_any_room_one_is_tried_from_time_to_time() {
        let (mut gate, mut clock) = (Gate::default(), Instant::now());
        let (done, failed) = crowd(&mut gate, &mut clock, 5, 0);
        assert_eq!(done, 0);
        assert!((10..60).contains(&failed), "{failed} tries in 30 s");
    }

    #[test]
    fn without_a_lack_nobody_waits() {
        let (mut gate, mut clock) = (Gate::default(), Instant::now());
        assert_eq!(crowd(&mut gate, &mut clock, 40, 40), (40 * 599, 0));
    }

    #[test]
    fn a_stop_or_a_cancel_ends_the_wait_for_a_slot() {
        let slots = Slots::default();
        slots.enter(|| false).unwrap().lacked(&io::ErrorKind::StorageFull.into());
        assert_eq!(slots.enter(|| true).err(), Some(NoSlot::Cancelled));
        slots.stop();
        assert_eq!(slots.enter(|| false).err(), Some(NoSlot::Stopping));
        let slot = slots.0.lock().gate.lack.take();
        assert!(slot.is_some() && slots.enter(|| true).is_ok(), "with room, each taken run starts");
    }
}
