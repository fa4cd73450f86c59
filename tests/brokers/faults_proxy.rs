//! The fault proxy itself: what each of its modes does to a connection that exists, and to a new one.
//! What mb makes of that is in the other `faults` files.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::proxy::{Mode, Proxy};

const LIMIT: Duration = Duration::from_secs(20);
/// Nothing comes for so long: then nothing comes.
const SILENCE: Duration = Duration::from_millis(300);
const SEED: u64 = 7;

/// A server that sends back what it gets; its thread lives as long as the test process.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn assert_echo(stream: &mut TcpStream) {
    assert_eq!(ask(stream, b"there and back").unwrap(), b"there and back");
}

/// All that comes until the end, and whether that was in order.
fn rest(stream: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
    (bytes, end)
}

fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let _ = stream.write_all(b"anybody there?");
    let end = stream.read(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::WouldBlock));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
}

fn faults(proxy: &Proxy, name: &str) -> u64 {
    proxy.counts().faults.get(name).copied().unwrap_or(0)
}

fn wait_for_fault(proxy: &Proxy, name: &str, count: u64) {
    eventually(LIMIT, name, || faults(proxy, name) >= count);
}

#[test]
fn everything_passes_and_is_counted() {
    let proxy = Proxy::start(echo(), SEED);
    let mut stream = client(&proxy);
    let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_be_bytes).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = large.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut answer = vec![0; large.len()];
    stream.read_exact(&mut answer).unwrap();
    writing.join().unwrap();
    assert!(answer == large);
    eventually(LIMIT, "all bytes are counted", || {
        let counts = proxy.counts();
        (counts.to_broker, counts.to_client) == (12_000_000, 12_000_000)
    });
    assert_eq!(proxy.counts().connections, 1);
    assert_eq!(proxy.counts().faults.len(), 0);
}

#[test]
fn an_end_is_passed_on_with_all_that_came_before_it() {
    let proxy = Proxy::start(echo(), SEED);
    let mut stream = client(&proxy);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), (b"last words".to_vec(), Ok(())));
}

#[test]
fn a_broker_that_is_not_there_is_a_closed_connection_until_it_is() {
    let proxy = Proxy::start_without_broker(SEED);
    assert!(rest(&mut client(&proxy)).0.is_empty());
    proxy.set_upstream(echo());
    assert_echo(&mut client(&proxy));
}

#[test]
fn delayed_chunks_arrive_in_order() {
    let proxy = Proxy::start(echo(), SEED);
    let mut stream = client(&proxy);
    assert_echo(&mut stream);
    proxy.set(Mode::Delay(Duration::from_millis(50)));
    for number in 0..20u32 {
        assert_eq!(ask(&mut stream, &number.to_be_bytes()).unwrap(), number.to_be_bytes());
    }
    wait_for_fault(&proxy, "delay", 20);
}

#[test]
fn connections_are_reset_after_their_time_old_and_new_ones() {
    let proxy = Proxy::start(echo(), SEED);
    let mut old = client(&proxy);
    assert_echo(&mut old);
    let life = Duration::from_millis(50)..Duration::from_millis(150);
    proxy.set(Mode::Reset(life.clone()));
    let began = Instant::now();
    assert_eq!(rest(&mut old).1, Err(ErrorKind::ConnectionReset));
    assert!(began.elapsed() >= life.start);
    let mut new = client(&proxy);
    assert_echo(&mut new);
    assert_eq!(rest(&mut new).1, Err(ErrorKind::ConnectionReset));
    assert_eq!(faults(&proxy, "reset"), 2);
    proxy.heal();
    assert_echo(&mut client(&proxy));
}

#[test]
fn refused_connections_are_closed_old_and_new_ones() {
    let proxy = Proxy::start(echo(), SEED);
    let mut old = client(&proxy);
    assert_echo(&mut old);
    proxy.set(Mode::Refuse);
    assert!(rest(&mut old).0.is_empty());
    assert!(rest(&mut client(&proxy)).0.is_empty());
    assert_eq!(faults(&proxy, "refuse"), 2);
    proxy.heal();
    assert_echo(&mut client(&proxy));
}

#[test]
fn a_half_open_or_swallowed_connection_stays_silent_when_others_are_well_again() {
    for mode in [Mode::HalfOpen, Mode::BlackHole] {
        let proxy = Proxy::start(echo(), SEED);
        let mut old = client(&proxy);
        assert_echo(&mut old);
        proxy.set(mode.clone());
        wait_for_fault(&proxy, mode.name(), 1);
        let mut new = client(&proxy);
        assert_silent(&mut old);
        assert_silent(&mut new);
        proxy.heal();
        assert_silent(&mut old);
        assert_silent(&mut new);
        assert_echo(&mut client(&proxy));
        assert_eq!(faults(&proxy, mode.name()), 2);
    }
}

#[test]
fn an_answer_is_cut_after_so_many_bytes() {
    let proxy = Proxy::start(echo(), SEED);
    let mut old = client(&proxy);
    assert_echo(&mut old);
    proxy.set(Mode::Cut(5));
    for stream in [&mut old, &mut client(&proxy)] {
        stream.write_all(b"there and back").unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"there");
        assert_eq!(rest(stream), (vec![], Err(ErrorKind::ConnectionReset)));
    }
    assert_eq!(faults(&proxy, "cut"), 2);
}

#[test]
fn bytes_drip_and_what_waits_comes_at_once_afterwards() {
    let proxy = Proxy::start(echo(), SEED);
    let mut stream = client(&proxy);
    assert_echo(&mut stream);
    proxy.set(Mode::Drip(1000));
    let began = Instant::now();
    ask(&mut stream, &[1; 500]).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    stream.write_all(&[1; 1_000_000]).unwrap();
    proxy.heal();
    stream.read_exact(&mut vec![0; 1_000_000]).unwrap();
    assert_echo(&mut stream);
}

#[test]
fn answers_are_held_for_their_time_or_until_the_proxy_is_healed() {
    let proxy = Proxy::start(echo(), SEED);
    let mut stream = client(&proxy);
    assert_echo(&mut stream);
    let time = Duration::from_millis(200);
    proxy.set(Mode::Hold(time));
    let began = Instant::now();
    assert_echo(&mut stream);
    assert!(began.elapsed() >= time);
    proxy.set(Mode::Hold(10 * LIMIT));
    stream.write_all(b"late").unwrap();
    wait_for_fault(&proxy, "hold", 2);
    proxy.heal();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"late");
}

#[test]
fn as_many_bytes_of_large_answers_are_flipped_as_are_counted() {
    let flipped = |seed| {
        let proxy = Proxy::start(echo(), seed);
        proxy.set(Mode::Flip(1000));
        let mut stream = client(&proxy);
        // Small answers stay whole.
        assert_echo(&mut stream);
        let answer = ask(&mut stream, &[0; 500_000]).unwrap();
        let places: Vec<_> = (0..answer.len()).filter(|place| answer[*place] != 0).collect();
        assert_eq!(places.len() as u64, faults(&proxy, "flip"));
        places.len()
    };
    let count = flipped(SEED);
    assert!((1..1000).contains(&count), "{count}");
}

#[test]
fn a_half_closed_client_sees_the_end_while_its_requests_still_arrive() {
    let proxy = Proxy::start(echo(), SEED);
    let mut stream = client(&proxy);
    assert_echo(&mut stream);
    proxy.set(Mode::HalfClose);
    assert_eq!(rest(&mut stream), (vec![], Ok(())));
    eventually(LIMIT, "the first request is counted", || proxy.counts().to_broker == 14);
    stream.write_all(b"still here").unwrap();
    eventually(LIMIT, "the request arrives", || proxy.counts().to_broker == 24);
    assert_eq!(rest(&mut client(&proxy)), (vec![], Ok(())));
    assert_eq!(faults(&proxy, "half-close"), 2);
}

#[test]
fn only_denied_requests_reset_their_connection_however_they_are_cut_up() {
    let request = |key: i16, body: usize| {
        let size = u32::try_from(body + 2).unwrap();
        [&size.to_be_bytes()[..], &key.to_be_bytes(), &vec![9; body]].concat()
    };
    let proxy = Proxy::start(echo(), SEED);
    proxy.set(Mode::Deny(&[8]));
    let mut stream = client(&proxy);
    let fine = [request(3, 100), request(1, 5000), request(18, 0)].concat();
    for piece in fine.chunks(7) {
        assert_eq!(ask(&mut stream, piece).unwrap(), piece);
    }
    for byte in request(8, 10) {
        let _ = stream.write_all(&[byte]);
    }
    assert_eq!(rest(&mut stream).1, Err(ErrorKind::ConnectionReset));
    assert_eq!(faults(&proxy, "deny"), 1);
}

#[test]
fn dropping_the_proxy_closes_its_connections() {
    let proxy = Proxy::start(echo(), SEED);
    let (mut silent, mut healthy) = (client(&proxy), client(&proxy));
    assert_echo(&mut healthy);
    assert_echo(&mut silent);
    proxy.set(Mode::BlackHole);
    wait_for_fault(&proxy, "black-hole", 2);
    assert_silent(&mut silent);
    let port = proxy.port();
    drop(proxy);
    assert!(rest(&mut silent).0.is_empty() && rest(&mut healthy).0.is_empty());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_broker_behind_a_proxy_is_reached_through_it_alone_also_after_a_restart() {
    use crate::support::kafka::{Kafka, V3_9};
    use crate::support::raw;
    let proxies = [Proxy::start_without_broker(SEED), Proxy::start_without_broker(SEED)];
    let kafka = Kafka::start_behind(&proxies, V3_9, &[]);
    let [proxy, other] = &proxies;
    kafka.create_topic("t", 2, &[]);
    assert_eq!(proxy.counts().connections, 0, "tools go to the broker itself");
    let values = vec![vec![b'x'; 10_000]; 100];
    for round in 1..=2 {
        raw::produce(&proxy.address(), "none", "t", 1, &values);
        assert_eq!(raw::read_all(&proxy.address(), "t").len(), 100 * round);
        // All of the records, there and back.
        assert!(proxy.counts().to_broker > 1_000_000 * round as u64, "{:?}", proxy.counts());
        assert!(proxy.counts().to_client > 1_000_000 * round as u64, "{:?}", proxy.counts());
        kafka.kill9();
        kafka.restart();
    }
    assert_eq!(other.counts().connections, 0);
    assert_eq!(raw::read_all(&other.address(), "t").len(), 200);
    assert!(other.counts().to_client > 2_000_000);
}
