//! Listens, admits connections and starts their threads; at the stop, ends all of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};

use super::auth::{self, Guard};
use super::connection::Connection;
use super::shared::{Phase, Shared};
use crate::api::context::Context;
use crate::config::Web;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread::{self, Thread, stopped_within};

/// The HTTP server of a running mb; `stop` ends it and its connections.
pub struct Server {
    shared: Arc<Shared>,
    thread: Thread<Vec<Thread<()>>>,
    /// Dropped, it tells every thread to end.
    stop: Sender<()>,
    /// Dropped, it wakes the accepting thread.
    wake: UnixStream,
}

impl Server {
    /// Listens and answers, from now on.
    ///
    /// # Errors
    /// `Config` if it cannot listen there, or must not without a token.
    pub fn start(web: &Web, context: Arc<Context>) -> Result<Server> {
        let addresses = auth::resolve(&web.host, web.port)?;
        let guard = Guard::new(web, &addresses)?;
        let (listeners, port) = listen(web, &addresses)?;
        let guard = guard.on_port(port);
        let url = guard.url();
        let (stop, stopping) = bounded(0);
        let shared = Arc::new(Shared::new(context, guard, stopping));
        let cannot = |cause: io::Error| Error::Other(format!("cannot start the page: {cause}"));
        let (wake, woken) = UnixStream::pair().map_err(cannot)?;
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn("http", move || accept(&shared, &listeners, &woken))?
        };
        log::info!("page: {url}");
        if let Some(public) = shared.guard.public_url() {
            log::info!("page: behind the proxy at {public}");
        }
        Ok(Server { shared, thread, stop, wake })
    }

    /// Ends the connections. Answers under way get a moment to be written.
    pub fn stop(self) {
        drop(self.stop);
        drop(self.wake);
        let threads = self.thread.join().unwrap_or_else(|panic| {
            log::warn!("{panic}");
            Vec::new()
        });
        self.shared.shut(|phase| match phase {
            Phase::Answering | Phase::Writing => Shutdown::Read,
            Phase::Delayed | Phase::Reading | Phase::Idle | Phase::Streaming => Shutdown::Both,
        });
        if !self.shared.ended_within(limits::HTTP_STOP_GRACE) {
            self.shared.shut(|_| Shutdown::Both);
            self.shared.ended_within(limits::HTTP_STOP_LIMIT);
        }
        for thread in threads {
            // A thread may be waiting for a broker that does not answer, which must not delay the stop.
            if !thread.is_finished() && !self.shared.has_ended() {
                log::warn!("thread {} did not end in time, and is abandoned", thread.name());
            } else if let Err(panic) = thread.join() {
                log::warn!("{panic}");
            }
        }
    }
}

/// Accepts connections until the stop; returns the threads that it started.
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
                // The client has gone already.
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                Err(cause) => failed = Some(cause),
            }
        }
        if let Some(cause) = failed {
            // Too many open files, for one: a connection that is closed gives one back.
            log::debug!("cannot accept a connection: {cause}");
            shared.close_one();
            if stopped_within(&shared.stopping, limits::STOP_LOOK_INTERVAL) {
                return threads;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, number: u64) -> Option<Thread<()>> {
    let stream = Arc::new(stream);
    let place = shared.admit(number, &stream)?;
    let serve = thread::spawn(format!("http-{number}"), move || {
        let place = place;
        if let Err(cause) = Connection::new(Arc::clone(&place.shared), number, stream).serve() {
            log::debug!("http connection: {cause}");
        }
    });
    serve.map_err(|error| log::warn!("{error}")).ok()
}

/// Listens on all addresses. "localhost" may mean either loopback address to a browser, so for it mb listens on
/// the other one too. If any free port was asked for, all take the first address' port.
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
                "page: another program listens on {address}, which a browser may take for localhost; use \
                 another port (--listen), or open the page as 127.0.0.1"
            ),
            // This machine does not have the address.
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
