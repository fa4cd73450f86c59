//! What all connections share: the guard, sessions, the clock of events, and which connections are open.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::auth::Guard;
use super::events::EventClock;
use super::wrong_tokens::{Consequence, WrongTokens};
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::model::sync::{Condvar, Mutex, MutexGuard};

pub(super) struct Shared {
    pub context: Arc<Context>,
    pub guard: Guard,
    pub events: EventClock,
    /// Closed when the server stops.
    pub stopping: Receiver<()>,
    /// Sessions that no request uses now.
    sessions: Mutex<Vec<Session>>,
    /// Requests under way that may take long.
    long_requests: AtomicUsize,
    wrong_tokens: Mutex<WrongTokens>,
    connections: Mutex<Connections>,
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    open: Vec<Open>,
    /// Threads of these, and of connections that were closed for others and have not ended yet.
    threads: usize,
}

struct Open {
    number: u64,
    stream: Arc<TcpStream>,
    phase: Phase,
    since: Instant,
}

/// What a connection is doing, in the order in which one is closed for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It had a wrong token, and waits for its answer.
    Delayed,
    /// Its request is not whole yet. Every connection begins so.
    Reading,
    Idle,
    Streaming,
    Writing,
    Answering,
}

impl Shared {
    pub fn new(context: Arc<Context>, guard: Guard, stopping: Receiver<()>) -> Shared {
        Shared {
            context,
            guard,
            events: EventClock::new(),
            stopping,
            sessions: Mutex::default(),
            long_requests: AtomicUsize::new(0),
            wrong_tokens: Mutex::default(),
            connections: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.try_recv() == Err(TryRecvError::Disconnected)
    }

    pub fn take_session(&self) -> Session {
        self.lock_sessions().pop().unwrap_or_default()
    }

    pub fn return_session(&self, session: Session) {
        let mut sessions = self.lock_sessions();
        if sessions.len() < limits::HTTP_SPARE_SESSIONS {
            sessions.push(session);
        }
    }

    /// Counts a wrong token.
    pub fn wrong_token(&self) -> Consequence {
        self.wrong_tokens.lock().add(Instant::now())
    }

    /// A place among the requests that may take long; `None` if all are taken.
    pub fn begin_long(&self) -> Option<LongRequest<'_>> {
        let more = |count: usize| (count < limits::HTTP_LONG_REQUESTS).then_some(count + 1);
        self.long_requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(LongRequest(&self.long_requests))
    }

    /// Makes room for a connection and adds it; `None` if there is no room, because too many that were closed
    /// for others have not ended yet.
    pub fn admit(self: &Arc<Shared>, number: u64, stream: &Arc<TcpStream>) -> Option<Place> {
        let mut connections = self.lock();
        if connections.threads >= limits::HTTP_THREADS {
            return None;
        }
        while connections.open.len() >= limits::HTTP_CONNECTIONS {
            connections.close_one();
        }
        connections.threads += 1;
        connections.open.push(Open {
            number,
            stream: Arc::clone(stream),
            phase: Phase::Reading,
            since: Instant::now(),
        });
        Some(Place { shared: Arc::clone(self), number })
    }

    /// Closes the connection that is of least use.
    pub fn close_one(&self) {
        self.lock().close_one();
    }

    pub fn set_phase(&self, number: u64, phase: Phase) {
        let mut connections = self.lock();
        let open = connections.open.iter_mut().find(|open| open.number == number);
        if let Some(open) = open.filter(|open| open.phase != phase) {
            open.phase = phase;
            open.since = Instant::now();
        }
    }

    /// Shuts every connection, each as `how` says.
    pub fn shut(&self, how: impl Fn(Phase) -> Shutdown) {
        for open in &self.lock().open {
            // An error means that the client has closed it: just as good.
            let _ = open.stream.shutdown(how(open.phase));
        }
    }

    /// Whether all connections have ended within `limit`.
    pub fn ended_within(&self, limit: Duration) -> bool {
        let mut connections = self.lock();
        self.ended.wait_while_for(&mut connections, |now| now.threads > 0, limit);
        connections.threads == 0
    }

    pub fn has_ended(&self) -> bool {
        self.lock().threads == 0
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }

    fn lock_sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock()
    }
}

impl Connections {
    fn close_one(&mut self) {
        let least = self.open.iter().enumerate().min_by_key(|(_, open)| (open.phase, open.since));
        let Some((index, _)) = least else { return };
        let open = self.open.remove(index);
        log::debug!("http-{} ({:?}) is closed for a new connection", open.number, open.phase);
        // An error means that the client has closed it: just as good.
        let _ = open.stream.shutdown(Shutdown::Both);
    }
}

/// A connection's place among the others; dropped, the connection has ended.
pub(super) struct Place {
    pub shared: Arc<Shared>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.shared.lock();
        connections.open.retain(|open| open.number != self.number);
        connections.threads -= 1;
        self.shared.ended.notify_all();
    }
}

/// A request that may take long; dropped, it has its answer.
pub(super) struct LongRequest<'a>(&'a AtomicUsize);

impl Drop for LongRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
