//! Listens, and owns the connections: how many there are, which one goes for another, and that all
//! of them end at the stop. What one of them does is in `connection`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use rustix::event::{PollFd, PollFlags, poll};

use super::auth::{self, Guard};
use super::connection::Connection;
use super::events::{self, Events};
use super::request::Request;
use super::response::Response;
use super::routes;
use crate::api::control::requests::{Context, Session};
use crate::config::Web;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread::{self, Thread, panic_message, stopped_within};

/// The HTTP server of a running mb; `stop` ends it and its connections.
pub struct Server {
    shared: Arc<Shared>,
    thread: Thread<Vec<Thread<()>>>,
    /// Dropped, it tells every thread to end.
    stop: Sender<()>,
    /// Dropped, it wakes the thread that accepts.
    wake: UnixStream,
}

/// What the connections share.
pub(super) struct Shared {
    pub(super) context: Arc<Context>,
    pub(super) guard: Guard,
    events: Events,
    /// Readers of the history, for whoever asks next.
    sessions: Mutex<Vec<Session>>,
    /// Requests under way that may take long.
    pub(super) long: AtomicUsize,
    stopping: Receiver<()>,
    connections: Mutex<Connections>,
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    open: Vec<Open>,
    /// Of these and of those that were closed for others and have not ended yet.
    threads: usize,
}

struct Open {
    number: u64,
    stream: Arc<TcpStream>,
    doing: Doing,
    since: Instant,
}

/// What a connection does, in the order in which one is given up for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// Its request is not whole; so it begins.
    Reading,
    Idle,
    Streaming,
    Writing,
    Answering,
}

impl Server {
    /// Listens and answers, from now on.
    ///
    /// # Errors
    /// `Config` where it cannot listen there, or must not without a token.
    pub fn start(web: &Web, context: Arc<Context>) -> Result<Server> {
        let addresses = auth::resolve(&web.host, web.port)?;
        let guard = Guard::new(web, &addresses)?;
        let (listeners, port) = listen(web, &addresses)?;
        let guard = guard.on_port(port);
        let url = guard.url();
        let (stop, stopping) = bounded(0);
        let shared = Arc::new(Shared {
            context,
            guard,
            events: Events::new(),
            sessions: Mutex::default(),
            long: AtomicUsize::new(0),
            stopping,
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let cannot = |cause: io::Error| Error::Other(format!("cannot start the page: {cause}"));
        let (wake, woken) = UnixStream::pair().map_err(cannot)?;
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn("http", move || accept(&shared, &listeners, &woken))?
        };
        log::info!("page: {url}");
        Ok(Server { shared, thread, stop, wake })
    }

    /// Ends the connections; answers under way get a moment.
    pub fn stop(self) {
        drop(self.stop);
        drop(self.wake);
        let threads = self.thread.join().unwrap_or_else(|panic| {
            log::warn!("{panic}");
            Vec::new()
        });
        self.shared.shut(|doing| match doing {
            Doing::Answering | Doing::Writing => Shutdown::Read,
            Doing::Reading | Doing::Idle | Doing::Streaming => Shutdown::Both,
        });
        if !self.shared.ended_within(limits::HTTP_STOP_GRACE) {
            self.shared.shut(|_| Shutdown::Both);
            self.shared.ended_within(limits::HTTP_STOP_LIMIT);
        }
        for thread in threads {
            // One that waits for the broker's answer, say: nothing is kept waiting for it.
            if !thread.is_finished() && self.shared.lock().threads > 0 {
                log::warn!("{} has not ended; it is left to itself", thread.name());
            } else if let Err(panic) = thread.join() {
                log::warn!("{panic}");
            }
        }
    }
}

/// Accepts until the stop; the threads that were started come back.
fn accept(shared: &Arc<Shared>, listeners: &[TcpListener], woken: &UnixStream) -> Vec<Thread<()>> {
    let mut threads: Vec<Thread<()>> = Vec::new();
    let mut numbers = 0..;
    loop {
        let mut ready: Vec<PollFd<'_>> = vec![PollFd::new(woken, PollFlags::IN)];
        ready.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        let waited = poll(&mut ready, None);
        if shared.is_stopping() {
            return threads;
        }
        let mut failed = waited.err().map(io::Error::from);
        for (listener, _) in
            listeners.iter().zip(&ready[1..]).filter(|(_, ready)| !ready.revents().is_empty())
        {
            match listener.accept() {
                Ok((stream, _)) => {
                    threads.retain(|thread| !thread.is_finished());
                    let Some(number) = numbers.next() else { continue };
                    threads.extend(admit(shared, stream, number));
                }
                // Another process took it, or it is gone already.
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => failed = Some(cause),
            }
        }
        if let Some(cause) = failed {
            // Out of file descriptors, for one: a connection that goes gives one back.
            log::debug!("cannot accept a connection: {cause}");
            shared.lock().give_one_up();
            if stopped_within(&shared.stopping, limits::STOP_LOOK_INTERVAL) {
                return threads;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, number: u64) -> Option<Thread<()>> {
    let stream = Arc::new(stream);
    {
        let mut connections = shared.lock();
        if connections.threads >= limits::HTTP_THREADS {
            return None;
        }
        while connections.open.len() >= limits::HTTP_CONNECTIONS {
            connections.give_one_up();
        }
        connections.threads += 1;
        let open = Open {
            number,
            stream: Arc::clone(&stream),
            doing: Doing::Reading,
            since: Instant::now(),
        };
        connections.open.push(open);
    }
    let place = Place { shared: Arc::clone(shared), number };
    let serve = thread::spawn(format!("http-{number}"), move || {
        let place = place;
        if let Err(cause) = Connection::new(Arc::clone(&place.shared), number, stream).serve() {
            log::debug!("http connection: {cause}");
        }
    });
    serve.map_err(|error| log::warn!("{error}")).ok()
}

/// A connection's place among the others, until it ends in whatever way.
struct Place {
    shared: Arc<Shared>,
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

impl Connections {
    /// Closes the one that is least use; its thread ends soon.
    fn give_one_up(&mut self) {
        let least = self.open.iter().enumerate().min_by_key(|(_, open)| (open.doing, open.since));
        let Some((index, _)) = least else { return };
        let open = self.open.remove(index);
        log::debug!("http-{} ({:?}) is closed for a new connection", open.number, open.doing);
        // One that has ended by itself meanwhile is as good.
        let _ = open.stream.shutdown(Shutdown::Both);
    }
}

impl Shared {
    pub(super) fn set(&self, number: u64, doing: Doing) {
        let mut connections = self.lock();
        let open = connections.open.iter_mut().find(|open| open.number == number);
        if let Some(open) = open.filter(|open| open.doing != doing) {
            open.doing = doing;
            open.since = Instant::now();
        }
    }

    /// Whatever happens within is an answer too.
    pub(super) fn answer(&self, request: &Request) -> Response {
        let mut session = self.sessions().pop().unwrap_or_default();
        let answer = || routes::answer(self, &mut session, request);
        match catch_unwind(AssertUnwindSafe(answer)) {
            Ok(response) => {
                let mut sessions = self.sessions();
                // One that failed may have a file that is gone.
                if response.status < 500 && sessions.len() < limits::HTTP_SPARE_SESSIONS {
                    sessions.push(session);
                }
                response
            }
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                let method = request.method.name();
                log::error!("{method} {} panicked: {message}", request.path);
                Response::error(500, "internal", "mb failed at this request; its log says more")
            }
        }
    }

    /// This second's event.
    pub(super) fn event(&self) -> Vec<u8> {
        events::event(&self.context)
    }

    pub(super) fn until_next_event(&self) -> Duration {
        self.events.until_next()
    }

    pub(super) fn stopping(&self) -> &Receiver<()> {
        &self.stopping
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// A place among the requests that may take long; `None` where all are taken.
    pub(super) fn begin_long(&self) -> Option<Long<'_>> {
        let more = |count: usize| (count < limits::HTTP_LONG_REQUESTS).then_some(count + 1);
        self.long.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Long(&self.long))
    }

    fn shut(&self, how: impl Fn(Doing) -> Shutdown) {
        for open in &self.lock().open {
            // One that has ended by itself meanwhile is as good.
            let _ = open.stream.shutdown(how(open.doing));
        }
    }

    /// Whether every connection has ended by then.
    fn ended_within(&self, limit: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(self.lock(), limit, |now| now.threads > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.threads == 0
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that may take long, until it is dropped.
pub(super) struct Long<'a>(&'a AtomicUsize);

impl Drop for Long<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Listens on all of them and, since that is what "localhost" may mean, on the other loopback
/// address too; the port, where any free one was asked for, is the first one's.
fn listen(web: &Web, addresses: &[SocketAddr]) -> Result<(Vec<TcpListener>, u16)> {
    let mut port = web.port;
    let mut listeners = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(address.ip(), port);
        let (listener, at) = bind(address).map_err(|cause| cannot_listen(address, &cause))?;
        port = at;
        listeners.push(listener);
    }
    let has = |ip: IpAddr| addresses.iter().any(|address| address.ip() == ip);
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let is_localhost = has(v4) || web.host == "localhost";
    for other in [v4, v6].into_iter().filter(|ip| is_localhost && !has(*ip)) {
        let address = SocketAddr::new(other, port);
        match bind(address) {
            Ok((listener, _)) => listeners.push(listener),
            Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => log::warn!(
                "page: {address} is taken by another program, which a browser may find under the name \
                 localhost; take another port (--listen), or open the page as 127.0.0.1"
            ),
            // A machine without it.
            Err(cause) => log::debug!("page: not on {address}: {cause}"),
        }
    }
    Ok((listeners, port))
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

fn cannot_listen(address: SocketAddr, cause: &io::Error) -> Error {
    let why = match cause.kind() {
        io::ErrorKind::AddrInUse => "another program has this port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges".to_owned(),
        _ => cause.to_string(),
    };
    Error::Config(format!(
        "--listen: cannot listen on {address}: {why}; name another one with --listen HOST:PORT, or \
         --listen off for no page"
    ))
}
