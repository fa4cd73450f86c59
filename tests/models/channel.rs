//! crossbeam's channels over shuttle: as much of their interface as the modelled files use.
//!
//! What a channel holds changes under a lock that shuttle does not know, so each operation is one step of the
//! schedule. A thread that waits parks, and is unparked at each change of a channel that it waits for.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread::{self, Thread};

use crate::model::clock;

/// A channel that holds `capacity` messages at most. One without room is only for learning that the other side
/// is gone.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State {
        messages: VecDeque::new(),
        capacity,
        senders: 1,
        receivers: 1,
        waiting: Vec::new(),
    };
    let channel = Arc::new(Channel { turn: AtomicUsize::new(0), state: Mutex::new(state) });
    (Sender(Arc::clone(&channel)), Receiver(Some(channel)))
}

/// A channel that never has a message, and never ends.
pub fn never<T>() -> Receiver<T> {
    Receiver(None)
}

/// A channel that has a message after `limit`, if time passes.
pub fn after(limit: Duration) -> Receiver<Instant> {
    if !clock::ends(limit) {
        return never();
    }
    let (sender, receiver) = bounded(1);
    sender.try_send(clock::now() + limit).expect("it has room");
    receiver
}

/// As in crossbeam, without `default`: waits until one of the channels has a message or ends.
#[macro_export]
macro_rules! select {
    (@arms [$($arms:tt)*]) => {{
        let ready = {
            let mut select = $crate::Select::new();
            $crate::select!(@add select $($arms)*);
            select.ready_timeout(std::time::Duration::MAX).expect("it waits for ever")
        };
        $crate::select!(@run ready 0; $($arms)*)
    }};
    (@arms [$($arms:tt)*] recv($from:expr) -> $message:pat => $body:block $($rest:tt)*) => {
        $crate::select!(@arms [$($arms)* ($from, $message, $body)] $($rest)*)
    };
    (@arms [$($arms:tt)*] recv($from:expr) -> $message:pat => $body:expr, $($rest:tt)*) => {
        $crate::select!(@arms [$($arms)* ($from, $message, $body)] $($rest)*)
    };
    (@add $select:ident $(($from:expr, $message:pat, $body:expr))*) => {
        $($select.recv(&$from);)*
    };
    (@run $ready:ident $at:expr;) => {
        unreachable!("one of them was ready")
    };
    (@run $ready:ident $at:expr; ($from:expr, $message:pat, $body:expr) $($rest:tt)*) => {
        if $ready == $at {
            let $message = $from.recv();
            $body
        } else {
            $crate::select!(@run $ready $at + 1; $($rest)*)
        }
    };
    (recv $($rest:tt)*) => {
        $crate::select!(@arms [] recv $($rest)*)
    };
}

pub struct Sender<T>(Arc<Channel<T>>);

/// `None` for `never`.
pub struct Receiver<T>(Option<Arc<Channel<T>>>);

struct Channel<T> {
    /// Gives other threads their turn before each operation.
    turn: AtomicUsize,
    state: Mutex<State<T>>,
}

struct State<T> {
    messages: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receivers: usize,
    /// Threads that wait for a change.
    waiting: Vec<Thread>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct SendError<T>(pub T);

#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    Full(T),
    Disconnected(T),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    Empty,
    Disconnected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvTimeoutError {
    Timeout,
    Disconnected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyTimeoutError;

impl<T> TrySendError<T> {
    pub fn into_inner(self) -> T {
        let (TrySendError::Full(message) | TrySendError::Disconnected(message)) = self;
        message
    }
}

impl From<RecvError> for RecvTimeoutError {
    fn from(_: RecvError) -> RecvTimeoutError {
        RecvTimeoutError::Disconnected
    }
}

impl<T> Sender<T> {
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.take_turn();
        let sent = self.0.with(|state| {
            if state.receivers == 0 {
                return Err(TrySendError::Disconnected(message));
            }
            if state.messages.len() >= state.capacity {
                return Err(TrySendError::Full(message));
            }
            state.messages.push_back(message);
            Ok(())
        });
        if sent.is_ok() {
            self.0.changed();
        }
        sent
    }

    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut message = message;
        loop {
            message = match self.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(message)) => return Err(SendError(message)),
                Err(TrySendError::Full(message)) => message,
            };
            self.0.wait_unless(State::can_send);
        }
    }

    pub fn capacity(&self) -> Option<usize> {
        Some(self.0.with(|state| state.capacity))
    }

    pub fn len(&self) -> usize {
        self.0.take_turn();
        self.0.with(|state| state.messages.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Receiver<T> {
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let Some(channel) = &self.0 else { return Err(TryRecvError::Empty) };
        channel.take_turn();
        let received = channel.with(|state| match state.messages.pop_front() {
            Some(message) => Ok(message),
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        });
        if received.is_ok() {
            channel.changed();
        }
        received
    }

    pub fn recv(&self) -> Result<T, RecvError> {
        self.recv_timeout(Duration::MAX).map_err(|_| RecvError)
    }

    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.recv_timeout(deadline.saturating_duration_since(clock::now()))
    }

    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        let mut is_over = limit.is_zero();
        loop {
            match self.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if is_over => return Err(RecvTimeoutError::Timeout),
                Err(TryRecvError::Empty) => {}
            }
            is_over = clock::ends(limit);
            match &self.0 {
                _ if is_over => clock::pass(limit),
                Some(channel) => channel.wait_unless(State::can_receive),
                None => thread::park(),
            }
        }
    }

    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    pub fn len(&self) -> usize {
        let Some(channel) = &self.0 else { return 0 };
        channel.take_turn();
        channel.with(|state| state.messages.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Says whether an operation can go on, and if not, remembers the thread for the next change.
type IsReady<'a> = dyn Fn(&Thread) -> bool + 'a;

/// Waits for the first of several operations that can go on.
#[derive(Default)]
pub struct Select<'a> {
    operations: Vec<Box<IsReady<'a>>>,
}

impl<'a> Select<'a> {
    pub fn new() -> Select<'a> {
        Select::default()
    }

    pub fn send<T>(&mut self, sender: &'a Sender<T>) -> usize {
        self.add(move |thread| sender.0.is_ready_for(thread, State::can_send))
    }

    pub fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
        self.add(move |thread| match &receiver.0 {
            Some(channel) => channel.is_ready_for(thread, State::can_receive),
            None => false,
        })
    }

    pub fn ready_timeout(&mut self, limit: Duration) -> Result<usize, ReadyTimeoutError> {
        let me = thread::current();
        let mut is_over = limit.is_zero();
        loop {
            if let Some(ready) = self.operations.iter().position(|is_ready| is_ready(&me)) {
                return Ok(ready);
            }
            if is_over {
                return Err(ReadyTimeoutError);
            }
            is_over = clock::ends(limit);
            if is_over {
                clock::pass(limit);
            } else {
                thread::park();
            }
        }
    }

    fn add(&mut self, is_ready: impl Fn(&Thread) -> bool + 'a) -> usize {
        self.operations.push(Box::new(is_ready));
        self.operations.len() - 1
    }
}

impl<T> Channel<T> {
    fn take_turn(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    fn with<R>(&self, body: impl FnOnce(&mut State<T>) -> R) -> R {
        body(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn changed(&self) {
        let waiting = self.with(|state| mem::take(&mut state.waiting));
        waiting.iter().for_each(Thread::unpark);
    }

    fn wait_unless(&self, is_ready: impl Fn(&State<T>) -> bool) {
        if !self.is_ready_for(&thread::current(), is_ready) {
            thread::park();
        }
    }

    fn is_ready_for(&self, waiter: &Thread, is_ready: impl Fn(&State<T>) -> bool) -> bool {
        self.with(|state| {
            let is_ready = is_ready(state);
            if !is_ready {
                state.waiting.push(waiter.clone());
            }
            is_ready
        })
    }

    /// One side of the channel is dropped, or a clone of it. What nobody can receive any more is dropped with
    /// the last receiver.
    fn leave(&self, leave: impl FnOnce(&mut State<T>)) {
        let lost = self.with(|state| {
            leave(state);
            if state.receivers == 0 { mem::take(&mut state.messages) } else { VecDeque::new() }
        });
        drop(lost);
        // The model has failed already: shuttle has no threads any more.
        if !std::thread::panicking() {
            self.changed();
        }
    }
}

impl<T> State<T> {
    fn can_send(&self) -> bool {
        self.receivers == 0 || self.messages.len() < self.capacity
    }

    fn can_receive(&self) -> bool {
        self.senders == 0 || !self.messages.is_empty()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.with(|state| state.senders += 1);
        Sender(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        if let Some(channel) = &self.0 {
            channel.with(|state| state.receivers += 1);
        }
        Receiver(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.leave(|state| state.senders -= 1);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if let Some(channel) = &self.0 {
            channel.leave(|state| state.receivers -= 1);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}
