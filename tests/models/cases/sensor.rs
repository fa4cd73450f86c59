//! What reaches a sensor from outside, between its ticks and in one that has nothing to read.

use std::sync::Arc;
use std::time::Duration;

use models::bounded;
use models::config::Config;
use models::config::steering::{Next, Steering};
use models::model::clock;
use models::model::offset::Offset;
use models::model::sync::{Condvar, Mutex};
use models::source::{Released, SensorCommand, SensorHandle, Signals};
use shuttle::thread::{self, JoinHandle};

use crate::{HOUR, explore};

/// A sensor that has nothing to read.
struct Sensor {
    steering: Arc<Steering>,
    handle: SensorHandle,
    ticks: Arc<(Mutex<usize>, Condvar)>,
    stop: models::Sender<()>,
    thread: JoinHandle<()>,
}

fn start() -> Sensor {
    let config = Config {
        produce: None,
        max_batch: 1,
        max_concurrent_runs: 1,
        max_wait: HOUR,
        tick_interval: HOUR,
    };
    let steering = Arc::new(Steering::new(&config));
    let (stop, stopped) = bounded(0);
    let (mut signals, handle) = Signals::new(stopped, steering.subscribe());
    let ticks = Arc::<(Mutex<usize>, Condvar)>::default();
    let thread = {
        let ticks = Arc::clone(&ticks);
        thread::spawn(move || {
            let (since, mut pause) = (clock::now(), Some(Duration::ZERO));
            loop {
                match signals.next_tick(since, pause) {
                    Next::Stop => return,
                    Next::Interrupted => {
                        while let Some(command) = signals.command() {
                            if let SensorCommand::Release { partition, done } = command {
                                let position = Some(Offset::ZERO);
                                done.send(Released { partition, position }).unwrap();
                            }
                        }
                    }
                    Next::Tick => {
                        *ticks.0.lock() += 1;
                        ticks.1.notify_all();
                        signals.idle_tick(HOUR);
                        pause = Some(HOUR);
                    }
                }
            }
        })
    };
    Sensor { steering, handle, ticks, stop, thread }
}

/// Fails if a command wakes the sensor before it can be seen, or not at all; or if a sensor that is about to wait
/// does not look for commands once more.
#[test]
fn every_release_is_answered_whatever_the_sensor_does_and_a_stop_ends_it() {
    explore(|| {
        let sensor = start();
        let movers: Vec<_> = [0, 1]
            .map(|partition| {
                let handle = sensor.handle.clone();
                thread::spawn(move || {
                    let released = handle.release(partition).recv().expect("the sensor goes on");
                    assert_eq!(released.partition, partition);
                    handle.restore(partition);
                })
            })
            .into();
        movers.into_iter().for_each(|mover| mover.join().unwrap());
        drop(sensor.stop);
        sensor.thread.join().unwrap();
    });
}

/// Fails if a pause does not end the tick, or a tick that is asked for does not begin.
#[test]
fn a_pause_ends_the_tick_and_a_tick_that_is_asked_for_begins() {
    explore(|| {
        let sensor = start();
        let (ticks, changed) = &*sensor.ticks;
        let until = |least: usize| {
            let mut ticks = ticks.lock();
            while *ticks < least {
                changed.wait(&mut ticks);
            }
        };
        until(1);
        assert!(sensor.steering.pause());
        sensor.steering.tick();
        until(2);
        assert!(!sensor.steering.pause(), "a second pause ends the requested tick");
        drop(sensor.stop);
        sensor.thread.join().unwrap();
        assert_eq!(*ticks.lock(), 2);
    });
}
