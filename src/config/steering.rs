//! What a person changes while mb runs: the settings that may change, whether the sensors are
//! paused, and ticks that are asked for. Written by who acts on a request, read by the threads that
//! it concerns, which are woken by it. It outlives a pipeline that begins anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::clock;

/// The settings that may change while mb runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Messages per second of mb's own producer, 0 as fast as it goes; `None` where it has none.
    pub rate: Option<f64>,
    pub max_batch: usize,
    pub max_concurrent_runs: usize,
    pub tick_interval: Duration,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        Settings {
            rate: config.produce.as_ref().map(|produce| produce.rate),
            max_batch: config.max_batch,
            max_concurrent_runs: config.max_concurrent_runs,
            tick_interval: config.tick_interval,
        }
    }
}

#[derive(Debug)]
pub struct Steering {
    at_start: Settings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: Settings,
    paused: bool,
    /// How often somebody asked for a pause, and for a tick.
    pauses: u64,
    ticks: u64,
    /// One message is in each whenever its owner should look again.
    listeners: Vec<Sender<()>>,
}

/// What waits for the next tick was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Tick,
    Stop,
    /// The waiting thread has something else to do first.
    Interrupted,
}

impl Steering {
    pub fn new(config: &Config) -> Steering {
        let at_start = Settings::of(config);
        let state = State {
            now: at_start.clone(),
            paused: false,
            pauses: 0,
            ticks: 0,
            listeners: Vec::new(),
        };
        Steering { at_start, state: Mutex::new(state) }
    }

    /// As mb was started.
    pub fn at_start(&self) -> &Settings {
        &self.at_start
    }

    /// As they are now.
    pub fn settings(&self) -> Settings {
        self.state().now.clone()
    }

    /// No tick begins by itself.
    pub fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// No tick begins by itself from now on, and those that go on end. False where it was so already:
    /// then only a tick that was asked for ends.
    pub fn pause(&self) -> bool {
        self.change(|state| {
            state.pauses += 1;
            !std::mem::replace(&mut state.paused, true)
        })
    }

    /// Ticks begin by themselves again. False where they did already.
    pub fn resume(&self) -> bool {
        self.change(|state| std::mem::replace(&mut state.paused, false))
    }

    /// Each sensor begins one tick at once, even where it is paused.
    pub fn tick(&self) {
        self.change(|state| state.ticks += 1);
    }

    /// Makes `change` of the settings, where it can be made; what they were, and what they are now.
    ///
    /// # Errors
    /// What `change` says; then nothing is changed.
    pub fn set<E>(
        &self,
        change: impl FnOnce(&mut Settings) -> Result<(), E>,
    ) -> Result<(Settings, Settings), E> {
        self.change(|state| {
            let before = state.now.clone();
            let mut after = before.clone();
            change(&mut after)?;
            state.now = after.clone();
            Ok((before, after))
        })
    }

    /// Wakes whoever has it at each change; for one thread.
    pub fn listen(self: &Arc<Steering>) -> Orders {
        let (listener, wake) = bounded(1);
        let mut state = self.state();
        state.listeners.push(listener.clone());
        Orders {
            wake,
            waker: listener,
            steering: Arc::clone(self),
            ticks_had: state.ticks,
            pauses_before: state.pauses,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        // Full: it will look anyhow. Without its receiver it has ended.
        state.listeners.retain(|listener| {
            !matches!(listener.try_send(()), Err(TrySendError::Disconnected(())))
        });
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's ear: it is woken at each change, and knows what it has obeyed already.
#[derive(Debug)]
pub struct Orders {
    wake: Receiver<()>,
    waker: Sender<()>,
    steering: Arc<Steering>,
    ticks_had: u64,
    /// Pauses that were asked for before the tick that goes on.
    pauses_before: u64,
}

impl Orders {
    /// Gets a message when there may be something new. Whoever takes it looks at all there is.
    pub fn wake(&self) -> &Receiver<()> {
        &self.wake
    }

    /// Wakes the thread as a change does: it has another reason to look.
    pub fn waker(&self) -> Sender<()> {
        self.waker.clone()
    }

    pub fn settings(&self) -> Settings {
        self.steering.settings()
    }

    /// The tick that goes on is to end: a pause was asked for since it began.
    pub fn ends_tick(&self) -> bool {
        let state = self.steering.state();
        state.paused && state.pauses > self.pauses_before
    }

    /// Waits until the next tick is to begin: `pause` after `since`, without one the tick interval as
    /// it is by then; at once if somebody asks for a tick; while paused only then. `interrupts` is asked
    /// whenever the thread is woken: if true, the wait ends early.
    pub fn next_tick(
        &mut self,
        stop: &Receiver<()>,
        since: Instant,
        pause: Option<Duration>,
        interrupts: &dyn Fn() -> bool,
    ) -> Next {
        loop {
            if interrupts() {
                return if is_closed(stop) { Next::Stop } else { Next::Interrupted };
            }
            let wait = {
                let state = self.steering.state();
                let asked = state.ticks > self.ticks_had;
                let interval = pause.unwrap_or(state.now.tick_interval);
                let wait = interval.saturating_sub(since.elapsed());
                if asked || (!state.paused && wait.is_zero()) {
                    self.ticks_had = state.ticks;
                    self.pauses_before = state.pauses;
                    drop(state);
                    return if is_closed(stop) { Next::Stop } else { Next::Tick };
                }
                (!state.paused).then_some(wait)
            };
            let due = wait.map_or_else(never, crossbeam_channel::after);
            select! {
                recv(stop) -> _ => return Next::Stop,
                recv(self.wake) -> _ => {}
                recv(due) -> _ => {}
            }
        }
    }

    /// Waits out a tick without anything to read, `limit` at most; a pause ends it, and `interrupts` as in
    /// `next_tick`.
    pub fn idle_tick(
        &self,
        stop: &Receiver<()>,
        limit: Duration,
        interrupts: &dyn Fn() -> bool,
    ) -> Next {
        if clock::wait_simulated(limit) {
            return if is_closed(stop) { Next::Stop } else { Next::Tick };
        }
        let due = crossbeam_channel::after(limit);
        while !self.ends_tick() && !interrupts() {
            select! {
                recv(stop) -> _ => return Next::Stop,
                recv(self.wake) -> _ => {}
                recv(due) -> _ => break,
            }
        }
        Next::Tick
    }
}

fn is_closed(stop: &Receiver<()>) -> bool {
    !matches!(stop.try_recv(), Err(crossbeam_channel::TryRecvError::Empty))
}

/// Each setting as it is now, and as mb was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Settings")]
pub struct SettingsView {
    /// Messages per second of mb's own producer, 0 as fast as it goes; null where it has none.
    pub rate: Option<Setting<f64>>,
    pub max_batch: Setting<u64>,
    pub max_concurrent_runs: Setting<u64>,
    pub tick_interval_s: Setting<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setting<T> {
    pub value: T,
    /// The value when mb was started.
    pub start_value: T,
}

/// Each setting as it is and as mb was started, for people.
pub fn settings_view(steering: &Steering) -> SettingsView {
    let (now, start) = (steering.settings(), steering.at_start());
    let whole = |value: usize, start_value: usize| Setting {
        value: value as u64,
        start_value: start_value as u64,
    };
    SettingsView {
        rate: now.rate.zip(start.rate).map(|(value, start_value)| Setting { value, start_value }),
        max_batch: whole(now.max_batch, start.max_batch),
        max_concurrent_runs: whole(now.max_concurrent_runs, start.max_concurrent_runs),
        tick_interval_s: Setting {
            value: now.tick_interval.as_secs_f64(),
            start_value: start.tick_interval.as_secs_f64(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::thread;

    const LONG: Duration = Duration::from_secs(3600);

    fn steering() -> Arc<Steering> {
        Arc::new(Steering::new(&Config::default()))
    }

    /// A thread that waits for its next tick, an hour from now.
    fn waits(
        steering: &Arc<Steering>,
        pause: Option<Duration>,
    ) -> (Sender<()>, thread::Thread<Next>) {
        let (running, stop) = bounded(0);
        let mut orders = steering.listen();
        let thread = thread::spawn("waits", move || {
            orders.next_tick(&stop, Instant::now(), pause, &|| false)
        });
        (running, thread.unwrap())
    }

    #[test]
    fn a_tick_that_is_asked_for_ends_every_wait_and_comes_once() {
        let steering = steering();
        let (_running, waiting) = waits(&steering, Some(LONG));
        steering.tick();
        assert_eq!(waiting.join(), Ok(Next::Tick));

        let (running, stop) = bounded(0);
        let mut orders = steering.listen();
        steering.pause();
        steering.tick();
        assert_eq!(orders.next_tick(&stop, Instant::now(), None, &|| false), Next::Tick);
        assert!(!orders.ends_tick(), "it was asked for after the pause");
        drop(running);
        assert_eq!(
            orders.next_tick(&stop, Instant::now(), Some(Duration::ZERO), &|| false),
            Next::Stop
        );
    }

    #[test]
    fn a_pause_ends_the_tick_that_goes_on_and_only_a_resume_lets_the_next_one_begin() {
        let steering = steering();
        let (_running, stop) = bounded(0);
        let mut orders = steering.listen();
        assert_eq!(
            orders.next_tick(&stop, Instant::now(), Some(Duration::ZERO), &|| false),
            Next::Tick
        );
        assert!(steering.pause() && orders.ends_tick());
        assert_eq!(orders.idle_tick(&stop, LONG, &|| false), Next::Tick, "at once");
        let (_running, waiting) = waits(&steering, Some(Duration::ZERO));
        assert!(!steering.pause(), "it was paused before");
        assert!(steering.resume() && !steering.resume());
        assert_eq!(waiting.join(), Ok(Next::Tick));
    }

    #[test]
    fn a_wait_is_interrupted_by_who_wakes_it_and_goes_on_after() {
        let steering = steering();
        let (_running, stop) = bounded(0);
        let mut orders = steering.listen();
        steering.pause();
        let (command, commands) = bounded::<()>(1);
        let waker = orders.waker();
        let waiting = {
            let commands = commands.clone();
            let wait =
                move || orders.next_tick(&stop, Instant::now(), None, &|| !commands.is_empty());
            thread::spawn("waits", wait).unwrap()
        };
        command.send(()).unwrap();
        waker.send(()).unwrap();
        assert_eq!(waiting.join(), Ok(Next::Interrupted), "even while paused");
    }

    #[test]
    fn a_shorter_interval_counts_for_the_wait_that_goes_on() {
        let steering = steering();
        let longer = |settings: &mut Settings| -> Result<(), ()> {
            settings.tick_interval = LONG;
            Ok(())
        };
        steering.set(longer).unwrap();
        let (_running, waiting) = waits(&steering, None);
        let shorter = |settings: &mut Settings| -> Result<(), ()> {
            settings.tick_interval = Duration::ZERO;
            Ok(())
        };
        let (before, after) = steering.set(shorter).unwrap();
        assert_eq!((before.tick_interval, after.tick_interval), (LONG, Duration::ZERO));
        assert_eq!(waiting.join(), Ok(Next::Tick));
        assert_eq!(settings_view(&steering).tick_interval_s.value, 0.0);
    }

    #[test]
    fn a_change_that_cannot_be_made_changes_nothing() {
        let steering = steering();
        let refused = steering.set(|settings| {
            settings.max_batch = 7;
            Err("no")
        });
        assert_eq!(refused, Err("no"));
        assert_eq!(&steering.settings(), steering.at_start());
    }

    #[test]
    fn who_listens_no_more_is_forgotten() {
        let steering = steering();
        drop(steering.listen());
        let _listening = steering.listen();
        steering.tick();
        assert_eq!(steering.state().listeners.len(), 1);
    }
}
