//! What a person may change while mb runs: some settings, whether the sensors are paused, and ticks that
//! begin at once. The threads that serve requests write it and wake the threads that read it. It outlives a
//! restart of the pipeline within the process, as after a replaced log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::clock;
use crate::model::sync::{Mutex, MutexGuard};

/// The settings that may change while mb runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Messages per second of mb's own producer, 0 for no limit; `None` without a producer.
    pub rate: Option<f64>,
    pub max_batch: usize,
    pub max_concurrent_runs: usize,
    /// How long a batch may wait for more records.
    pub max_wait: Duration,
    pub tick_interval: Duration,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        Settings {
            rate: config.produce.as_ref().map(|produce| produce.rate),
            max_batch: config.max_batch,
            max_concurrent_runs: config.max_concurrent_runs,
            max_wait: config.max_wait,
            tick_interval: config.tick_interval,
        }
    }
}

#[derive(Debug)]
pub struct Steering {
    at_start: Settings,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    settings: Settings,
    paused: bool,
    /// How many pauses, and how many ticks, were requested so far.
    pauses: u64,
    ticks: u64,
    /// One per subscription: its channel holds a message while there may be a change to look at.
    subscribers: Vec<Sender<()>>,
}

/// What a sensor does after a wait.
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
        let current = Current {
            settings: at_start.clone(),
            paused: false,
            pauses: 0,
            ticks: 0,
            subscribers: Vec::new(),
        };
        Steering { at_start, current: Mutex::new(current) }
    }

    /// The settings that mb was started with.
    pub fn at_start(&self) -> &Settings {
        &self.at_start
    }

    /// The current settings.
    pub fn settings(&self) -> Settings {
        self.current().settings.clone()
    }

    /// Whether ticks begin only on request.
    pub fn is_paused(&self) -> bool {
        self.current().paused
    }

    /// From now on ticks begin only on request, and current ticks end. Returns false if the sensors were
    /// paused already; then this pause only ends ticks that were requested since.
    pub fn pause(&self) -> bool {
        self.change(|current| {
            current.pauses += 1;
            !std::mem::replace(&mut current.paused, true)
        })
    }

    /// Ticks begin by themselves again. Returns false if the sensors were not paused.
    pub fn resume(&self) -> bool {
        self.change(|current| std::mem::replace(&mut current.paused, false))
    }

    /// Each sensor begins one tick at once, even if it is paused.
    pub fn tick(&self) {
        self.change(|current| current.ticks += 1);
    }

    /// Applies `change` to the settings and returns them as they were before and are now.
    ///
    /// # Errors
    /// Those of `change`, after which the settings are unchanged.
    pub fn set<E>(
        &self,
        change: impl FnOnce(&mut Settings) -> Result<(), E>,
    ) -> Result<(Settings, Settings), E> {
        self.change(|current| {
            let before = current.settings.clone();
            let mut after = before.clone();
            change(&mut after)?;
            current.settings = after.clone();
            Ok((before, after))
        })
    }

    /// A subscription for one thread, which is woken at each change.
    pub fn subscribe(self: &Arc<Steering>) -> Subscription {
        let (waker, wake) = bounded(1);
        let mut current = self.current();
        current.subscribers.push(waker.clone());
        Subscription {
            wake,
            waker,
            steering: Arc::clone(self),
            ticks_begun: current.ticks,
            pauses_before: current.pauses,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Current) -> T) -> T {
        let mut current = self.current();
        let result = change(&mut current);
        // A full channel wakes its subscriber anyway; a disconnected one belongs to a thread that has ended.
        current.subscribers.retain(|subscriber| {
            !matches!(subscriber.try_send(()), Err(TrySendError::Disconnected(())))
        });
        result
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock()
    }
}

/// One thread's view of the steering: it is woken at each change, and remembers which requests it has
/// carried out.
#[derive(Debug)]
pub struct Subscription {
    wake: Receiver<()>,
    waker: Sender<()>,
    steering: Arc<Steering>,
    /// Requested ticks that this thread has begun.
    ticks_begun: u64,
    /// Pauses that were requested before the current tick began.
    pauses_before: u64,
}

impl Subscription {
    /// Receives a message when something may have changed. One message may stand for several changes, so
    /// whoever takes it looks at everything.
    pub fn wake(&self) -> &Receiver<()> {
        &self.wake
    }

    /// A sender that wakes the thread as a change does, for other reasons to look.
    pub fn waker(&self) -> Sender<()> {
        self.waker.clone()
    }

    pub fn settings(&self) -> Settings {
        self.steering.settings()
    }

    /// Whether the current tick must end because a pause was requested since it began.
    pub fn ends_tick(&self) -> bool {
        let current = self.steering.current();
        current.paused && current.pauses > self.pauses_before
    }

    /// Waits until the next tick begins: `pause` after `since`, or without `pause` the tick interval, as it
    /// is set at that time. A requested tick begins at once; while paused, only requested ticks begin.
    /// Whenever the thread is woken, `interrupts` is called: if it returns true, the wait ends early.
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
                let current = self.steering.current();
                let is_requested = current.ticks > self.ticks_begun;
                let interval = pause.unwrap_or(current.settings.tick_interval);
                let wait = interval.saturating_sub(since.elapsed());
                if is_requested || (!current.paused && wait.is_zero()) {
                    self.ticks_begun = current.ticks;
                    self.pauses_before = current.pauses;
                    drop(current);
                    return if is_closed(stop) { Next::Stop } else { Next::Tick };
                }
                (!current.paused).then_some(wait)
            };
            let due = wait.map_or_else(never, crossbeam_channel::after);
            select! {
                recv(stop) -> _ => return Next::Stop,
                recv(self.wake) -> _ => {}
                recv(due) -> _ => {}
            }
        }
    }

    /// Spends a tick that has nothing to read: waits for `limit`, or until a pause ends the tick, or
    /// `interrupts` does, as in `next_tick`.
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

/// The settings of a running mb, as the API shows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Settings")]
pub struct SettingsView {
    /// Messages per second of mb's own producer, 0 for no limit; null without a producer.
    pub rate: Option<Setting<f64>>,
    pub max_batch: Setting<u64>,
    pub max_concurrent_runs: Setting<u64>,
    pub max_wait_s: Setting<f64>,
    pub tick_interval_s: Setting<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setting<T> {
    pub value: T,
    /// The value when mb was started.
    pub start_value: T,
}

/// The current settings beside those that mb was started with.
pub fn settings_view(steering: &Steering) -> SettingsView {
    let (now, start) = (steering.settings(), steering.at_start());
    let whole = |value: usize, start_value: usize| Setting {
        value: value as u64,
        start_value: start_value as u64,
    };
    let seconds = |value: Duration, start: Duration| Setting {
        value: value.as_secs_f64(),
        start_value: start.as_secs_f64(),
    };
    SettingsView {
        rate: now.rate.zip(start.rate).map(|(value, start_value)| Setting { value, start_value }),
        max_batch: whole(now.max_batch, start.max_batch),
        max_concurrent_runs: whole(now.max_concurrent_runs, start.max_concurrent_runs),
        max_wait_s: seconds(now.max_wait, start.max_wait),
        tick_interval_s: seconds(now.tick_interval, start.tick_interval),
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

    /// A thread that waits for its next tick, which is due in an hour.
    fn waits(
        steering: &Arc<Steering>,
        pause: Option<Duration>,
    ) -> (Sender<()>, thread::Thread<Next>) {
        let (running, stop) = bounded(0);
        let mut orders = steering.subscribe();
        let thread = thread::spawn("waits", move || {
            orders.next_tick(&stop, Instant::now(), pause, &|| false)
        });
        (running, thread.unwrap())
    }

    #[test]
    fn a_requested_tick_ends_every_wait_and_comes_once() {
        let steering = steering();
        let (_running, waiting) = waits(&steering, Some(LONG));
        steering.tick();
        assert_eq!(waiting.join(), Ok(Next::Tick));

        let (running, stop) = bounded(0);
        let mut orders = steering.subscribe();
        steering.pause();
        steering.tick();
        assert_eq!(orders.next_tick(&stop, Instant::now(), None, &|| false), Next::Tick);
        assert!(!orders.ends_tick(), "the tick was requested after the pause");
        drop(running);
        assert_eq!(
            orders.next_tick(&stop, Instant::now(), Some(Duration::ZERO), &|| false),
            Next::Stop
        );
    }

    #[test]
    fn a_pause_ends_the_current_tick_and_the_next_one_begins_after_a_resume() {
        let steering = steering();
        let (_running, stop) = bounded(0);
        let mut orders = steering.subscribe();
        assert_eq!(
            orders.next_tick(&stop, Instant::now(), Some(Duration::ZERO), &|| false),
            Next::Tick
        );
        assert!(steering.pause() && orders.ends_tick());
        assert_eq!(orders.idle_tick(&stop, LONG, &|| false), Next::Tick, "at once");
        let (_running, waiting) = waits(&steering, Some(Duration::ZERO));
        assert!(!steering.pause(), "the sensors were paused before");
        assert!(steering.resume() && !steering.resume());
        assert_eq!(waiting.join(), Ok(Next::Tick));
    }

    #[test]
    fn a_waker_interrupts_the_wait_even_while_paused() {
        let steering = steering();
        let (_running, stop) = bounded(0);
        let mut orders = steering.subscribe();
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
        // If the wait begins only now, it sees the command without being woken, and may have ended before this.
        let _ = waker.send(());
        assert_eq!(waiting.join(), Ok(Next::Interrupted), "even while paused");
    }

    #[test]
    fn a_shorter_interval_applies_to_the_current_wait() {
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
    fn a_refused_change_changes_nothing() {
        let steering = steering();
        let refused = steering.set(|settings| {
            settings.max_batch = 7;
            Err("no")
        });
        assert_eq!(refused, Err("no"));
        assert_eq!(&steering.settings(), steering.at_start());
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let steering = steering();
        drop(steering.subscribe());
        let _subscription = steering.subscribe();
        steering.tick();
        assert_eq!(steering.current().subscribers.len(), 1);
    }
}
