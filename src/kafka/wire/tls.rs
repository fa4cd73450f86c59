//! Whether a listener expects TLS. Such a listener closes the connection after the first plaintext bytes, and gives no
//! reason; without a name for it, somebody who waits for the broker (`--wait-for-broker`) would look for a broker that
//! is down.

use std::io::{Read as _, Write as _};
use std::time::Instant;

use super::connect::{Cause, connect, remaining};

/// The cause if the listener at `address` expects TLS: one TLS hello over a connection of its own.
pub(super) fn is_expected(address: &str, deadline: Instant) -> Option<Cause> {
    let mut stream = connect(address, deadline).ok()?;
    let _ = stream.set_write_timeout(remaining(deadline).ok());
    stream.write_all(&hello()).ok()?;
    let _ = stream.set_read_timeout(remaining(deadline).ok());
    let mut head = [0; 3];
    stream.read_exact(&mut head).ok()?;
    is_record(head).then(cause)
}

pub(super) fn cause() -> Cause {
    "the listener expects TLS (SSL or SASL_SSL), which mb does not support yet: use a PLAINTEXT listener"
        .into()
}

/// Whether these bytes begin a TLS record: an alert (21) or a handshake (22), version 3.x.
pub(super) fn is_record(head: [u8; 3]) -> bool {
    matches!(head, [21 | 22, 3, 0..=4])
}

/// A TLS 1.2 ClientHello that every server answers, if only with an alert.
fn hello() -> Vec<u8> {
    // TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_128_CBC_SHA.
    const CIPHERS: [u8; 6] = [0, 4, 0xc0, 0x2f, 0, 0x2f];
    // supported_groups: secp256r1; signature_algorithms: RSA and ECDSA with SHA-256.
    const EXTENSIONS: [u8; 20] = [0, 18, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 6, 0, 4, 4, 1, 4, 3];
    let mut body = vec![3, 3];
    body.extend([0x6d; 32]);
    body.push(0);
    body.extend(CIPHERS);
    body.extend([1, 0]);
    body.extend(EXTENSIONS);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hello_states_its_lengths() {
        let hello = hello();
        let (record, message) = (&hello[..5], &hello[5..]);
        assert_eq!(record[..3], [22, 3, 1]);
        assert_eq!(usize::from(u16::from_be_bytes([record[3], record[4]])), message.len());
        let stated = u32::from_be_bytes([0, message[1], message[2], message[3]]) as usize;
        assert_eq!(stated, message.len() - 4);
    }
}
