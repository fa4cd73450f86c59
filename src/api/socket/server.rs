//! The server of the control socket: owns the socket, its connections and their threads.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::path::{FILE, connect, listen};
use super::protocol;
use crate::api::context::{Context, RunningPipeline, Status};
use crate::api::session::Session;
use crate::config::Config;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::sync::{Mutex, MutexGuard};
use crate::model::thread::{self, Thread};

/// The socket of a running mb; `stop` ends it and its connections.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Thread<()>,
}

struct Shared {
    context: Arc<Context>,
    stopping: AtomicBool,
    connections: Mutex<Vec<Connection>>,
}

/// An open connection, as the other threads see it.
struct Connection {
    number: u64,
    stream: UnixStream,
    /// A request is being performed.
    is_busy: bool,
    /// Since when it is busy, or is not.
    since: Instant,
}

impl Server {
    /// Opens the socket. Until a pipeline is attached, it answers what needs no broker; `status` says what mb
    /// is waiting for.
    ///
    /// # Errors
    /// `Config` if the socket cannot be made.
    pub fn start(data_dir: &Path, status: Status, config: &Config, step: &str) -> Result<Server> {
        let path = data_dir.join(FILE);
        let listener = listen(data_dir, &path).map_err(|cause| {
            Error::Config(format!(
                "--data-dir: cannot open the control socket {}: {cause}",
                path.display()
            ))
        })?;
        let context = Arc::new(Context::starting(data_dir.to_owned(), status, config, step));
        let shared = Arc::new(Shared {
            context,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn("control", move || shared.accept(&listener))?
        };
        Ok(Server { path, shared, thread })
    }

    /// As `Context::attach`.
    pub fn attach(&self, status: Status, pipeline: RunningPipeline) {
        self.shared.context.attach(status, pipeline);
    }

    /// What operations work on, for other servers of the same process.
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.shared.context)
    }

    /// Ends the connections and the socket.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A connection from here wakes the accepting thread.
        let woken = connect(&self.path).is_ok();
        for connection in self.shared.lock().iter() {
            // An error means that the client has closed it: just as good.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        if woken && let Err(panic) = self.thread.join() {
            log::warn!("{panic}");
        }
        // If this fails, a socket file without a process behind it stays; the next start replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &UnixListener) {
        let mut threads: Vec<Thread<()>> = Vec::new();
        for (number, stream) in (0u64..).zip(listener.incoming()) {
            if self.stopping.load(Ordering::Acquire) {
                break;
            }
            let Ok(stream) = stream else {
                // Too many open files, for one: connections that end give some back.
                std::thread::sleep(limits::STOP_LOOK_INTERVAL);
                continue;
            };
            threads.retain(|thread| !thread.is_finished());
            // Threads of connections that were closed for new ones may need a moment to end.
            let has_room = threads.len() < 2 * limits::CONTROL_CONNECTIONS;
            let Ok(handle) = stream.try_clone() else { continue };
            if !has_room || !self.register(number, handle) {
                continue;
            }
            let shared = Arc::clone(&self);
            let serve = thread::spawn(format!("control-{number}"), move || {
                if let Err(cause) = shared.serve(number, stream) {
                    log::debug!("control connection: {cause}");
                }
                shared.remove(number);
            });
            match serve {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    log::warn!("{error}");
                    self.remove(number);
                }
            }
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                log::warn!("{panic}");
            }
        }
    }

    /// Adds a connection. If there are as many as there may be, the one that has been idle for longest is
    /// closed: a few programs that keep their connections open would otherwise shut out every command. False if
    /// all of them are busy.
    fn register(&self, number: u64, stream: UnixStream) -> bool {
        let mut connections = self.lock();
        if connections.len() >= limits::CONTROL_CONNECTIONS {
            let idle = connections.iter().enumerate().filter(|(_, open)| !open.is_busy);
            let Some((index, _)) = idle.min_by_key(|(_, open)| open.since) else { return false };
            let closed = connections.remove(index);
            log::debug!("control-{} is idle and closed for a new connection", closed.number);
            // An error means that the client has closed it: just as good.
            let _ = closed.stream.shutdown(Shutdown::Both);
        }
        connections.push(Connection { number, stream, is_busy: false, since: Instant::now() });
        true
    }

    fn remove(&self, number: u64) {
        self.lock().retain(|open| open.number != number);
    }

    /// False if the connection was closed for another one: then its request is not performed, which is what
    /// its client must think.
    fn set_busy(&self, number: u64, is_busy: bool) -> bool {
        let mut connections = self.lock();
        let open = connections.iter_mut().find(|open| open.number == number);
        open.map(|open| (open.is_busy, open.since) = (is_busy, Instant::now())).is_some()
    }

    fn serve(&self, number: u64, stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(limits::CONTROL_LIMIT))?;
        let mut answers = stream.try_clone()?;
        let mut lines = BufReader::new(stream);
        let mut session = Session::default();
        loop {
            let mut line = Vec::new();
            let limit = limits::CONTROL_REQUEST_BYTES as u64;
            lines.by_ref().take(limit).read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') || !self.set_busy(number, true) {
                return Ok(());
            }
            answers.write_all(&protocol::answer(&self.context, &mut session, &line))?;
            self.set_busy(number, false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::*;
    use crate::api::operations::overview::GetStatus;

    fn server(data_dir: &Path) -> Server {
        let status = Status {
            pid: 1,
            version: "1".into(),
            bootstrap_server: None,
            topic: "t".into(),
            group: "g".into(),
            client: "none".into(),
            waiting_for: Some("its broker".into()),
        };
        Server::start(data_dir, status, &Config::default(), "log").unwrap()
    }

    #[test]
    fn idle_connections_give_way_to_a_command() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        // Each has had an answer, so all of them are registered and idle.
        let mut idle: Vec<Client> = (0..limits::CONTROL_CONNECTIONS)
            .map(|_| {
                let mut client = Client::connect(folder.path()).unwrap().unwrap();
                client.perform(GetStatus {}).unwrap();
                client
            })
            .collect();
        let mut command = Client::connect(folder.path()).unwrap().unwrap();
        assert_eq!(command.perform(GetStatus {}).map(|status| status.topic), Ok("t".into()));
        let closed = idle.iter_mut().filter_map(|client| client.perform(GetStatus {}).err());
        assert_eq!(closed.count(), 1, "one idle connection was closed for the command");
        server.stop();
    }
}
