//! Opens a connection to a broker: resolves its name and tries its addresses in turn, all before a deadline. Also
//! the texts for the causes of a failed connection.
//!
//! `wire` opens sockets nowhere else. (librdkafka opens its own, by `librdkafka::settings`; so does crate kafka.)

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::model::error::Error;
use crate::model::thread::call_with_limit;

/// What went wrong on a connection, as one line. It does not name the server: the caller does.
pub(super) type Cause = String;

/// When an idle connection is first checked, how often it is checked again if no answer comes, and after how
/// many checks it counts as broken. Without keepalive a firewall or NAT in between may drop an idle connection
/// unnoticed, and the next request on it waits for its whole time limit.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Connects to `address` (`HOST:PORT`), each address of the name in turn.
pub(super) fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Cause> {
    let addresses = resolve(address, deadline)?;
    let mut causes = Vec::new();
    for (index, one) in addresses.iter().enumerate() {
        // A black-holed address leaves time for the others.
        let share = remaining(deadline)? / u32::try_from(addresses.len() - index).unwrap_or(1);
        match TcpStream::connect_timeout(one, share) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                keep_alive(&stream);
                return Ok(stream);
            }
            Err(cause) if cause.kind() == ErrorKind::TimedOut => {
                causes.push("no connection in time: nothing answers at this address".to_owned());
            }
            Err(cause) => causes.push(explain(&cause)),
        }
    }
    causes.dedup();
    Err(causes.join("; "))
}

/// Best effort: a connection works without it.
fn keep_alive(stream: &TcpStream) {
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES);
}

/// All addresses of a name. The system's resolver has no time limit, so it runs on a thread of its own.
fn resolve(address: &str, deadline: Instant) -> Result<Vec<SocketAddr>, Cause> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let asked = address.to_owned();
    let found = call_with_limit("resolve", remaining(deadline)?, move || {
        asked.to_socket_addrs().map(|found| found.collect::<Vec<_>>())
    });
    match found.map_err(|cause: Error| cause.to_string())? {
        Some(Ok(found)) if !found.is_empty() => Ok(found),
        Some(Ok(_)) => Err(format!("the name {host} has no address")),
        Some(Err(cause)) => {
            let cause = cause.to_string();
            let cause = cause.strip_prefix("failed to lookup address information: ");
            Err(format!(
                "the name {host} does not resolve{}",
                match cause {
                    Some(cause) => format!(" ({cause})"),
                    None => String::new(),
                }
            ))
        }
        None => Err(format!("no answer in time about the name {host}")),
    }
}

/// The time until the deadline; an error if it has passed.
pub(super) fn remaining(deadline: Instant) -> Result<Duration, Cause> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(silent()) } else { Ok(left) }
}

pub(super) fn explain(cause: &io::Error) -> Cause {
    match cause.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(),
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there".into(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            closed()
        }
        _ => cause.to_string(),
    }
}

pub(super) fn silent() -> Cause {
    "no answer in time".into()
}

pub(super) fn closed() -> Cause {
    "it closed the connection instead of answering: no Kafka, or a listener with TLS or SASL".into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn connections_are_kept_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = connect(&address, Instant::now() + Duration::from_secs(10)).unwrap();
        assert_eq!(sockopt::socket_keepalive(&stream), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&stream), Ok(KEEPALIVE_IDLE));
    }
}
