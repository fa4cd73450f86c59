//! `model::sync` over shuttle: the same interface as parking_lot's.
//!
//! A lost wake-up is a deadlock, which shuttle reports: time limits do not make up for it, see `clock`. Atomics are
//! sequentially consistent, whatever ordering the code asks for: weaker orderings are not modelled.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

pub use shuttle::sync::atomic;

use super::clock;

#[derive(Debug)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// `None` only while a condition variable has it.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.hold()) }
    }

    fn hold(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().expect("a model does not panic under a lock")
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("no condition variable has it")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("no condition variable has it")
    }
}

impl Condvar {
    pub fn new() -> Condvar {
        Condvar(shuttle::sync::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("no condition variable has it");
        guard.held = Some(self.0.wait(held).expect("a model does not panic under a lock"));
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) {
        if !clock::ends(limit) {
            return self.wait(guard);
        }
        drop(guard.held.take());
        clock::pass(limit);
        guard.held = Some(guard.mutex.hold());
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) {
        self.wait_for(guard, deadline.saturating_duration_since(clock::now()));
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
