//! The control socket: how commands reach a running mb (`control.sock` in the data directory,
//! mode 0600). One JSON request a line, one JSON answer a line.
//!
//! This file owns the socket, its connections and their ends; what the requests are is in
//! `requests`.

mod look;
pub mod remote;
pub mod requests;
pub mod steer;
pub mod watch;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread as std_thread};

use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::config::data_dir::DataDir;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread::{self, Thread};

use requests::{Attached, Context, Status};

const FILE: &str = "control.sock";

/// The socket of a running mb; `stop` ends it and its connections.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Thread<()>,
}

struct Shared {
    context: Arc<Context>,
    stopping: AtomicBool,
    /// Open connections, by a number of their own.
    connections: Mutex<Vec<(u64, UnixStream)>>,
}

impl Server {
    /// Opens the socket, for what needs no broker: `status` says what mb waits for.
    ///
    /// # Errors
    /// `Config` where the socket cannot be made.
    pub fn start(data_dir: &Path, status: Status, config: &Config, step: &str) -> Result<Server> {
        let path = data_dir.join(FILE);
        let listener = listen(data_dir, &path).map_err(|cause| {
            Error::Config(format!(
                "--data-dir: cannot open the control socket {}: {cause}",
                path.display()
            ))
        })?;
        let context = Arc::new(Context::new(data_dir.to_owned(), status, config, step));
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

    /// From now on a pipeline runs: what needs its broker is answered too.
    pub fn attach(&self, status: Status, pipeline: Attached) {
        self.shared.context.attach(status, pipeline);
    }

    /// What answers need, for others who answer the same requests.
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.shared.context)
    }

    /// Ends the connections and the socket.
    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A connection of our own wakes the accepting thread.
        let woken = connect(&self.path).is_ok();
        for (_, stream) in self.shared.lock().iter() {
            // One that has ended by itself meanwhile is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if woken && let Err(panic) = self.thread.join() {
            log::warn!("{panic}");
        }
        // A socket file without a process behind it is no harm: the next start replaces it.
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
                // Out of file descriptors, for one: give it a moment.
                std_thread::sleep(limits::STOP_LOOK_INTERVAL);
                continue;
            };
            threads.retain(|thread| !thread.is_finished());
            if threads.len() >= limits::CONTROL_CONNECTIONS {
                drop(stream);
                continue;
            }
            let Ok(handle) = stream.try_clone() else { continue };
            self.lock().push((number, handle));
            let shared = Arc::clone(&self);
            let serve = thread::spawn(format!("control-{number}"), move || {
                if let Err(cause) = shared.serve(stream) {
                    log::debug!("control connection: {cause}");
                }
                shared.lock().retain(|(known, _)| *known != number);
            });
            match serve {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    log::warn!("{error}");
                    self.lock().retain(|(known, _)| *known != number);
                }
            }
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                log::warn!("{panic}");
            }
        }
    }

    fn serve(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(limits::CONTROL_LIMIT))?;
        let mut answers = stream.try_clone()?;
        let mut lines = BufReader::new(stream);
        let mut session = requests::Session::default();
        loop {
            let mut line = Vec::new();
            let limit = limits::CONTROL_REQUEST_BYTES as u64;
            lines.by_ref().take(limit).read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            let mut answer = requests::answer(&self.context, &mut session, &line);
            answer.push(b'\n');
            answers.write_all(&answer)?;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, UnixStream)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket appears under its name with its mode set: it is made in a folder that nobody else
/// can enter, then moved.
fn listen(data_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    let private = data_dir.join(".control");
    let _ = fs::remove_dir_all(&private);
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = private.join(FILE);
    let listener = short(&made, |short| UnixListener::bind(short))?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
    fs::rename(&made, path)?;
    fs::remove_dir(&private)?;
    Ok(listener)
}

/// Connects to a running mb's socket.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    short(path, |short| UnixStream::connect(short))
}

/// A socket's path may have 107 bytes only: the folder is named by a descriptor instead.
fn short<T>(path: &Path, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let folder = fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    open(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

/// A connection to a running mb.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// The mb that runs on this data directory; `None` where none does. One that has only just
    /// locked it, and a command that has it for a moment, are waited for.
    ///
    /// # Errors
    /// `Other` where one does, but its socket cannot be reached.
    pub fn connect(data_dir: &Path) -> Result<Option<Client>> {
        let path = data_dir.join(FILE);
        let open = || -> io::Result<Client> {
            let stream = connect(&path)?;
            stream.set_read_timeout(Some(2 * limits::CONTROL_LIMIT))?;
            stream.set_write_timeout(Some(limits::CONTROL_LIMIT))?;
            Ok(Client { stream: BufReader::new(stream) })
        };
        let deadline = Instant::now() + limits::LOCK_LIMIT;
        loop {
            // The socket first: whoever only asks need not touch the lock.
            let cause = match open() {
                Ok(client) => return Ok(Some(client)),
                Err(cause) => cause,
            };
            let Some(holder) = DataDir::holder(data_dir) else { return Ok(None) };
            if Instant::now() >= deadline {
                return Err(Error::Other(format!(
                    "{holder} runs on {}, but its control socket does not answer: {cause}; it may \
                     be stopping: try again",
                    data_dir.display()
                )));
            }
            std_thread::sleep(limits::LOCK_LOOK_INTERVAL);
        }
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// What the running mb answered, or `Other` where it did not.
    pub fn ask(&mut self, request: &requests::Request) -> Result<serde_json::Value> {
        let mut exchange = || -> io::Result<Vec<u8>> {
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            self.stream.get_mut().write_all(&line)?;
            let mut answer = Vec::new();
            self.stream.read_until(b'\n', &mut answer)?;
            if answer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(answer)
        };
        let answer = exchange()
            .map_err(|cause| Error::Other(format!("the running mb did not answer: {cause}")))?;
        requests::read_answer(&answer)
    }

    /// Answers are waited for so long.
    ///
    /// # Errors
    /// `Other` where the connection cannot be set so.
    pub fn wait_up_to(&mut self, limit: Duration) -> Result<()> {
        let set = self.stream.get_ref().set_read_timeout(Some(limit));
        set.map_err(|cause| Error::Other(format!("cannot use the control socket: {cause}")))
    }

    /// `ask`, with the answer as a value of the type that the request names.
    ///
    /// # Errors
    /// As `ask`; `Other` where the answer is of another shape.
    pub fn ask_for<T: DeserializeOwned>(&mut self, request: &requests::Request) -> Result<T> {
        serde_json::from_value(self.ask(request)?).map_err(|cause| {
            Error::Other(format!("the running mb gave an answer that cannot be read: {cause}"))
        })
    }
}
