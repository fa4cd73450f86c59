//! For the fuzz tests: everything of the wire client that reads a broker's bytes, as one function.

use super::{
    epochs, group, metadata, record_batch, retention, sasl, session, share_group, times,
    transactions,
};

/// Versions of every API that the wire client speaks, and one more on either side.
const VERSIONS: std::ops::RangeInclusive<i16> = 0..=14;

/// Reads `answer`, the bytes behind an answer's correlation id, as each answer in each version. What comes
/// of it is not of interest: reading must end, and must not panic.
pub fn read_answers(answer: &[u8]) {
    let _ = session::read_versions(answer);
    let _ = metadata::read_created(answer);
    let _ = record_batch::read_batch(answer);
    let _ = sasl::read_handshake(answer);
    let _ = retention::read_minutes(answer);
    let _ = share_group::read_code(answer);
    let _ = epochs::read_epochs(answer);
    let _ = transactions::read_producers(answer);
    for version in VERSIONS {
        let _ = metadata::read_metadata(answer, version, "orders");
        let _ = metadata::read_brokers(answer, version);
        let _ = group::read_coordinator(answer, version);
        let _ = group::read_committed(answer, version);
        let _ = group::read_commit(answer, version);
        let _ = times::read_times(answer, version);
        let _ = record_batch::read_fetch(answer, version);
    }
}
