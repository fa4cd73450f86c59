//! A TCP fault proxy between mb and a broker: plain threads, seeded, its mode switched at any time.
//! A broker of `Kafka::start_behind` names the proxy's port to its clients, so that none goes by it.
//! What Kafka speaks is known here only as far as the head of a request, to refuse some by name.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// A connection's threads look this often whether the mode changed.
const LOOK: Duration = Duration::from_millis(5);
/// How long a connection to the broker may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a connection's threads may take to see another mode, on a busy machine.
const SET_LIMIT: Duration = Duration::from_secs(10);
const CHUNK_BYTES: usize = 64 * 1024;
/// Pieces smaller than this are left whole by `Flip`.
const FLIP_BYTES: usize = 8 * 1024;
/// How many equal bytes on both sides show that a byte belongs to a large value.
const VALUE_BYTES: usize = 32;
/// Of one direction, between its reader and its writer; past it nothing is read.
const WAITING_BYTES: usize = 16 << 20;

/// What becomes of connections, those that exist and new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Each chunk, in both directions, arrives later by a seeded time below this one.
    Delay(Duration),
    /// Each connection is reset after a seeded time: of its life, or of this mode.
    Reset(Range<Duration>),
    /// Connections are closed, new ones as soon as they are accepted.
    Refuse,
    /// The broker's side is closed; the client's stays open, and nothing comes.
    HalfOpen,
    /// So many bytes of each connection's answers still come, and then a reset.
    Cut(u64),
    /// Connections are accepted; what is sent is swallowed, and nothing comes.
    BlackHole,
    /// So many bytes of each direction pass in a second.
    Drip(u64),
    /// Each chunk of the answers comes that much later.
    Hold(Duration),
    /// One byte in about so many is another one, in answers that come in large pieces and where the
    /// same byte stands again and again: in a large value, which has a checksum. The answers about
    /// topics and offsets have none, nor has the offset at the head of a batch.
    Flip(u64),
    /// The client is told that no more comes, while what it sends still reaches the broker.
    HalfClose,
    /// A request of one of these API keys (8 is OffsetCommit) resets its connection.
    Deny(&'static [i16]),
}

impl Mode {
    /// The name under which its faults are counted.
    pub fn name(&self) -> &'static str {
        match self {
            Mode::Pass => "pass",
            Mode::Delay(_) => "delay",
            Mode::Reset(_) => "reset",
            Mode::Refuse => "refuse",
            Mode::HalfOpen => "half-open",
            Mode::Cut(_) => "cut",
            Mode::BlackHole => "black-hole",
            Mode::Drip(_) => "drip",
            Mode::Hold(_) => "hold",
            Mode::Flip(_) => "flip",
            Mode::HalfClose => "half-close",
            Mode::Deny(_) => "deny",
        }
    }
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// Bytes handed to the broker, and to clients.
    pub to_broker: u64,
    pub to_client: u64,
    /// By the mode's name: chunks delayed or held, bytes flipped, connections harmed otherwise.
    pub faults: BTreeMap<&'static str, u64>,
}

/// A proxy on a port of its own. Dropping it closes every connection and ends its threads.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    /// 0: none yet, connections are closed.
    upstream: AtomicU16,
    /// The mode, and how many there were before it.
    mode: Mutex<(Mode, u64)>,
    /// The newest mode that each direction of a connection knows of, by the direction's number.
    seen: Mutex<BTreeMap<u64, u64>>,
    directions: AtomicU64,
    random: Mutex<fastrand::Rng>,
    ended: AtomicBool,
    connections: AtomicU64,
    open: AtomicU64,
    to_broker: AtomicU64,
    to_client: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

impl Proxy {
    /// A proxy to a port of 127.0.0.1.
    pub fn start(upstream: u16, seed: u64) -> Proxy {
        let proxy = Proxy::start_without_broker(seed);
        proxy.set_upstream(upstream);
        proxy
    }

    /// A proxy whose broker comes later; until then connections are closed.
    pub fn start_without_broker(seed: u64) -> Proxy {
        // Not one of the system's choice: a restart of the broker must not find it taken.
        let port = super::free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        let shared = Arc::new(Shared {
            upstream: AtomicU16::new(0),
            mode: Mutex::new((Mode::Pass, 0)),
            seen: Mutex::default(),
            directions: AtomicU64::new(0),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            ended: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            to_broker: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            faults: Mutex::default(),
        });
        let its = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &its));
        Proxy { port, shared, acceptor: Some(acceptor) }
    }

    pub fn set_upstream(&self, port: u16) {
        self.shared.upstream.store(port, Ordering::Relaxed);
    }

    pub fn upstream(&self) -> u16 {
        self.shared.upstream.load(Ordering::Relaxed)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As a new proxy with this seed: chance follows from it, and nothing is counted yet.
    pub fn begin_anew(&self, seed: u64) {
        let Shared { random, connections, to_broker, to_client, faults, .. } = &*self.shared;
        *lock(random) = fastrand::Rng::with_seed(seed);
        for count in [connections, to_broker, to_client] {
            count.store(0, Ordering::Relaxed);
        }
        lock(faults).clear();
    }

    /// How many connections there are now.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Acquire)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// For new connections, and for those that exist, which know of it when this returns.
    ///
    /// # Panics
    /// If one of them does not come to it in time.
    pub fn set(&self, mode: Mode) {
        let generation = {
            let mut current = lock(&self.shared.mode);
            *current = (mode, current.1 + 1);
            current.1
        };
        // A test that has failed is not to panic once more, which would end the process.
        if thread::panicking() {
            return;
        }
        super::eventually(SET_LIMIT, "every connection knows of the mode", || {
            lock(&self.shared.seen).values().all(|seen| *seen >= generation)
        });
    }

    /// Lets everything pass again. What was held back comes at once. A connection that has lost
    /// bytes (half-open, black hole) stays silent until its client closes it, as one does whose
    /// other end went away without a word.
    pub fn heal(&self) {
        self.set(Mode::Pass);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.shared.connections.load(Ordering::Relaxed),
            to_broker: self.shared.to_broker.load(Ordering::Relaxed),
            to_client: self.shared.to_client.load(Ordering::Relaxed),
            faults: lock(&self.shared.faults).clone(),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the acceptor, which then ends its connections.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
            && !thread::panicking()
        {
            panic!("the proxy's acceptor panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn mode(&self) -> (Mode, u64) {
        lock(&self.mode).clone()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn fault(&self, name: &'static str) {
        *lock(&self.faults).entry(name).or_default() += 1;
    }

    fn random_seed(&self) -> u64 {
        lock(&self.random).u64(..)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        if shared.has_ended() {
            break;
        }
        let Ok(client) = client else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let seed = shared.random_seed();
        let its = Arc::clone(shared);
        threads.retain(|thread| !thread.is_finished());
        shared.open.fetch_add(1, Ordering::AcqRel);
        threads.push(thread::spawn(move || {
            serve(client, Arc::clone(&its), seed);
            its.open.fetch_sub(1, Ordering::AcqRel);
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// One connection, both of its directions.
struct Connection {
    shared: Arc<Shared>,
    client: TcpStream,
    broker: TcpStream,
    began: Instant,
    /// Bytes were lost: it stays silent from now on.
    silent: AtomicBool,
    ended: AtomicBool,
}

fn serve(client: TcpStream, shared: Arc<Shared>, seed: u64) {
    let (mode, _) = shared.mode();
    match mode {
        Mode::Refuse => {
            shared.fault(mode.name());
            return;
        }
        Mode::BlackHole | Mode::HalfOpen => {
            shared.fault(mode.name());
            swallow(&client, || shared.has_ended());
            return;
        }
        _ => {}
    }
    let upstream = shared.upstream.load(Ordering::Relaxed);
    let address = (Ipv4Addr::LOCALHOST, upstream).into();
    let Ok(broker) = TcpStream::connect_timeout(&address, CONNECT_LIMIT) else { return };
    for stream in [&client, &broker] {
        let _ = stream.set_nodelay(true);
        stream.set_read_timeout(Some(LOOK)).expect("a time limit above 0");
        stream.set_write_timeout(Some(LOOK)).expect("a time limit above 0");
    }
    let connection = Connection {
        shared,
        client,
        broker,
        began: Instant::now(),
        silent: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| Direction::new(&connection, seed, true).run());
        Direction::new(&connection, seed ^ 1, false).run();
    });
}

/// Reads and forgets, until the client closes or `ended` says so.
fn swallow(client: &TcpStream, ended: impl Fn() -> bool) {
    let mut bytes = [0; 4096];
    client.set_read_timeout(Some(LOOK)).expect("a time limit above 0");
    while !ended() {
        match (&*client).read(&mut bytes) {
            Ok(0) => return,
            Err(error) if !is_wait(&error) => return,
            _ => {}
        }
    }
}

fn is_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Connection {
    /// Both ends see a reset rather than an orderly end.
    fn reset(&self) {
        for stream in [&self.client, &self.broker] {
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
        self.ended.store(true, Ordering::Release);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.shared.has_ended()
    }
}

/// One direction of a connection: requests go to the broker, answers to the client.
struct Direction<'a> {
    connection: &'a Connection,
    number: u64,
    requests: bool,
    from: &'a TcpStream,
    to: &'a TcpStream,
    random: fastrand::Rng,
    mode: Mode,
    generation: Option<u64>,
    /// When a mode of its own time reaches this connection.
    due: Instant,
    /// Bytes that `Cut` still lets pass, or that are left until `Flip` flips one.
    left: u64,
    /// Until when `Drip` has used up what may pass.
    drip: Instant,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    waiting_bytes: usize,
    /// The sender has said that no more comes.
    finished: bool,
    /// The receiver was told so.
    told: bool,
    heads: Heads,
}

impl<'a> Direction<'a> {
    fn new(connection: &'a Connection, seed: u64, requests: bool) -> Direction<'a> {
        let (from, to) = if requests {
            (&connection.client, &connection.broker)
        } else {
            (&connection.broker, &connection.client)
        };
        let number = connection.shared.directions.fetch_add(1, Ordering::Relaxed);
        Direction {
            connection,
            number,
            requests,
            from,
            to,
            random: fastrand::Rng::with_seed(seed),
            mode: Mode::Pass,
            generation: None,
            due: connection.began,
            left: 0,
            drip: connection.began,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            finished: false,
            told: false,
            heads: Heads::default(),
        }
    }

    fn run(mut self) {
        let mut bytes = vec![0; CHUNK_BYTES];
        while !(self.connection.has_ended() || self.told && self.requests) {
            self.look();
            if self.connection.silent.load(Ordering::Acquire) {
                // The requests' side watches for the client's end; the answers' side ends here.
                self.has_seen(u64::MAX);
                if self.requests {
                    swallow(self.from, || self.connection.has_ended());
                    self.connection.ended.store(true, Ordering::Release);
                }
                return;
            }
            if !self.finished && self.waiting_bytes < WAITING_BYTES {
                let read = self.from.read(&mut bytes);
                // Where this proxy has closed the broker's side, its end is not passed on.
                if self.connection.silent.load(Ordering::Acquire) {
                    continue;
                }
                match read {
                    Ok(0) => self.finished = true,
                    Ok(count) => self.take(&bytes[..count]),
                    Err(error) if is_wait(&error) => {}
                    Err(_) => return self.connection.reset(),
                }
            } else {
                thread::sleep(LOOK);
            }
            if !self.hand_over() {
                return self.connection.reset();
            }
        }
    }

    /// It does what the mode of this generation says from now on.
    fn has_seen(&self, generation: u64) {
        lock(&self.connection.shared.seen).insert(self.number, generation);
    }

    /// Sees a new mode, and does what a mode does at a time rather than to bytes.
    fn look(&mut self) {
        let (mode, generation) = self.connection.shared.mode();
        let now = Instant::now();
        if self.generation != Some(generation) {
            let first = self.generation.is_none();
            self.generation = Some(generation);
            // What was held back for the mode before comes at once.
            for (at, _) in &mut self.waiting {
                *at = now;
            }
            self.drip = now;
            match &mode {
                Mode::Reset(life) => {
                    let from = if first { self.connection.began } else { now };
                    self.due = from + self.between(life);
                }
                Mode::Cut(bytes) => self.left = *bytes,
                Mode::Flip(every) => self.left = self.random.u64(1..=2 * every),
                _ => {}
            }
            self.mode = mode;
            self.has_seen(generation);
        }
        let connection = self.connection;
        match &self.mode {
            Mode::Refuse if self.requests => {
                connection.shared.fault("refuse");
                connection.ended.store(true, Ordering::Release);
            }
            Mode::Reset(_) if self.requests && now >= self.due => {
                connection.shared.fault("reset");
                connection.reset();
            }
            mode @ (Mode::HalfOpen | Mode::BlackHole)
                if !connection.silent.swap(true, Ordering::AcqRel) =>
            {
                connection.shared.fault(mode.name());
                if matches!(mode, Mode::HalfOpen) {
                    let _ = connection.broker.shutdown(Shutdown::Both);
                }
            }
            Mode::HalfClose if !self.requests && !self.told => {
                self.told = true;
                connection.shared.fault("half-close");
                let _ = connection.client.shutdown(Shutdown::Write);
            }
            _ => {}
        }
    }

    fn between(&mut self, range: &Range<Duration>) -> Duration {
        let (low, high) = (range.start.as_micros() as u64, range.end.as_micros() as u64);
        Duration::from_micros(self.random.u64(low..high.max(low + 1)))
    }

    /// A chunk that was read: what the mode makes of it, and when it is due.
    fn take(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let now = Instant::now();
        if self.requests {
            let asked = self.heads.of(&bytes);
            if let Mode::Deny(keys) = self.mode
                && asked.iter().any(|key| keys.contains(key))
            {
                self.connection.shared.fault("deny");
                return self.connection.reset();
            }
        }
        let mut at = now;
        match &self.mode {
            Mode::Delay(limit) => {
                let limit = *limit;
                at = now + self.between(&(Duration::ZERO..limit));
                self.connection.shared.fault("delay");
            }
            Mode::Hold(time) if !self.requests => {
                at = now + *time;
                self.connection.shared.fault("hold");
            }
            Mode::Flip(every) if !self.requests && bytes.len() >= FLIP_BYTES => {
                let every = *every;
                let mut position = 0;
                while self.left < bytes.len() as u64 - position {
                    position += self.left;
                    if is_checked(&bytes, position as usize) {
                        bytes[position as usize] ^= 1 << self.random.u8(0..8);
                        self.connection.shared.fault("flip");
                    }
                    self.left = self.random.u64(1..=2 * every);
                }
                self.left -= bytes.len() as u64 - position;
            }
            _ => {}
        }
        // Order is kept, whatever the times say.
        if let Some((last, _)) = self.waiting.back() {
            at = at.max(*last);
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push_back((at, bytes));
    }

    /// Writes what is due; false where the receiver is gone.
    fn hand_over(&mut self) -> bool {
        while !self.connection.has_ended() {
            let now = Instant::now();
            let Some((at, bytes)) = self.waiting.front_mut() else { break };
            if *at > now {
                return true;
            }
            if self.told {
                // A half-closed client gets nothing more.
                self.waiting_bytes -= bytes.len();
                self.waiting.pop_front();
                continue;
            }
            let mut count = bytes.len();
            match &self.mode {
                Mode::Drip(rate) => {
                    // A tenth of a second's worth at a time.
                    if self.drip > now {
                        return true;
                    }
                    count = count.min(usize::try_from(rate / 10).unwrap_or(count).max(1));
                    self.drip = now + Duration::from_secs_f64(count as f64 / *rate as f64);
                    self.connection.shared.fault("drip");
                }
                Mode::Cut(_) if !self.requests => {
                    count = count.min(usize::try_from(self.left).unwrap_or(count));
                    if count == 0 {
                        self.connection.shared.fault("cut");
                        return false;
                    }
                }
                _ => {}
            }
            match self.to.write(&bytes[..count]) {
                Ok(written) => {
                    bytes.drain(..written);
                    let is_whole = bytes.is_empty();
                    self.waiting_bytes -= written;
                    if is_whole {
                        self.waiting.pop_front();
                    }
                    if matches!(self.mode, Mode::Cut(_)) && !self.requests {
                        self.left -= written as u64;
                    }
                    let shared = &self.connection.shared;
                    let total = if self.requests { &shared.to_broker } else { &shared.to_client };
                    total.fetch_add(written as u64, Ordering::Relaxed);
                }
                Err(error) if is_wait(&error) => return true,
                Err(_) => return false,
            }
        }
        if self.finished {
            if !self.told {
                self.told = true;
                let _ = self.to.shutdown(Shutdown::Write);
            }
            // Where the broker ends, so does the connection.
            if !self.requests {
                self.connection.ended.store(true, Ordering::Release);
            }
        }
        true
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        lock(&self.connection.shared.seen).remove(&self.number);
    }
}

/// Whether the byte is well within a large value of one and the same byte, as tests write them.
fn is_checked(bytes: &[u8], position: usize) -> bool {
    let around = position.saturating_sub(VALUE_BYTES)..position + VALUE_BYTES + 1;
    let around = bytes.get(around).filter(|around| around.len() > 2 * VALUE_BYTES);
    around.is_some_and(|around| around.iter().all(|byte| *byte == around[0]))
}

/// Follows a stream of requests from its beginning: a length of 4 bytes, then the API key in 2.
#[derive(Default)]
struct Heads {
    head: Vec<u8>,
    /// Bytes of the present request that come after its head.
    rest: u64,
}

impl Heads {
    /// The API keys of the requests whose heads end within these bytes.
    fn of(&mut self, mut bytes: &[u8]) -> Vec<i16> {
        let mut keys = Vec::new();
        while !bytes.is_empty() {
            if self.rest > 0 {
                let count = bytes.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
                bytes = &bytes[count..];
                self.rest -= count as u64;
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if let [a, b, c, d, high, low] = self.head[..] {
                self.rest = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_sub(2);
                keys.push(i16::from_be_bytes([high, low]));
                self.head.clear();
            }
        }
        keys
    }
}
