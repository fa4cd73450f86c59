//! What a person changes while mb runs: the settings that may change, and whether the sensors are
//! paused. Written by who acts on a request, read by the threads that it concerns.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::Config;
use crate::overview::{Setting, SettingsView};

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
}

impl Steering {
    pub fn new(config: &Config) -> Steering {
        let at_start = Settings::of(config);
        let state = Mutex::new(State { now: at_start.clone(), paused: false });
        Steering { at_start, state }
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings for people: as they are, and as mb was started.
pub fn settings_view(steering: &Steering) -> SettingsView {
    fn setting<T>(value: T, start_value: T) -> Setting<T> {
        Setting { value, start_value }
    }
    let (now, start) = (steering.settings(), steering.at_start());
    SettingsView {
        rate: now.rate.zip(start.rate).map(|(now, start)| setting(now, start)),
        max_batch: setting(now.max_batch as u64, start.max_batch as u64),
        max_concurrent_runs: setting(
            now.max_concurrent_runs as u64,
            start.max_concurrent_runs as u64,
        ),
        tick_interval_s: setting(
            now.tick_interval.as_secs_f64(),
            start.tick_interval.as_secs_f64(),
        ),
    }
}
