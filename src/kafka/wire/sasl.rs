//! Whether a listener expects a login by SASL. Such a listener answers ApiVersions like any other, and closes the
//! connection at everything else, without a reason.

use std::time::Instant;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiKey, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;

use super::connect::Cause;
use super::reader::{Read, Reader};
use super::session::{Request, Session};

/// Bytes of the answer to a handshake; each mechanism takes some 15.
const ANSWER_BYTES: usize = 4096;

/// The cause if the listener at `address` expects a login by SASL, with the mechanisms that it names.
pub(super) fn is_expected(address: &str, deadline: Instant) -> Option<Cause> {
    let mut session = Session::open(address, deadline).ok()?;
    // No broker has this mechanism: nothing is begun, and a SASL listener answers with those that it has. Another
    // listener answers that it expects no handshake.
    let body = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("none"));
    let version = session.version(ApiKey::SaslHandshake, (0, 1)).ok()?;
    let request = Request { api: ApiKey::SaslHandshake, version, body: &body };
    let answer = session.exchange(&request, ANSWER_BYTES, deadline).ok()?;
    let (code, mechanisms) = read_handshake(&answer).ok()?;
    (code == ResponseError::UnsupportedSaslMechanism.code()).then(|| {
        format!(
            "the listener expects SASL ({}), which mb does not support yet: use a PLAINTEXT listener",
            mechanisms.join(", ")
        )
    })
}

pub(super) fn read_handshake(answer: &[u8]) -> Read<(i16, Vec<String>)> {
    let mut reader = Reader::new(answer, false);
    let code = reader.i16()?;
    let mechanisms = reader.array(|name| Ok(name.string()?.unwrap_or_default().to_owned()))?;
    Ok((code, mechanisms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_names_its_mechanisms() {
        let answer = b"\0\x21\0\0\0\x02\0\x05PLAIN\0\x0dSCRAM-SHA-512";
        let (code, mechanisms) = read_handshake(answer).unwrap();
        assert_eq!(code, ResponseError::UnsupportedSaslMechanism.code());
        assert_eq!(mechanisms, ["PLAIN", "SCRAM-SHA-512"]);
        assert!(read_handshake(&answer[..9]).is_err());
    }
}
