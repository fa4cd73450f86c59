//! Whether a name belongs to a share group (KIP-932, Kafka 4): such a group has no committed offsets. The broker
//! answers a question about them with "none", as for a group that is new, and refuses each commit for ever.

use std::time::Instant;

use kafka_protocol::messages::{ApiKey, GroupId, ShareGroupDescribeRequest};
use kafka_protocol::protocol::StrBytes;

use super::client::Wire;
use super::reader::{Read, Reader};
use super::session::{Request, broken};

const ANSWER_BYTES: usize = 16 << 20;

impl Wire {
    /// Whether the cluster knows a share group of this name. False if it cannot tell: older brokers have none, and
    /// without the permission to describe groups a refused commit says what is wrong.
    pub(super) fn is_share_group(&self, group: &str, deadline: Instant) -> bool {
        let id = GroupId(StrBytes::from_string(group.to_owned()));
        let body = ShareGroupDescribeRequest::default().with_group_ids(vec![id]);
        let Ok(Ok(address)) = self.coordinator(group, deadline) else { return false };
        let code = self.on(&address, deadline, |session| {
            // An error would end this connection, which the next request can use.
            let Ok(version) = session.version(ApiKey::ShareGroupDescribe, (1, 1)) else {
                return Ok(None);
            };
            let request = Request { api: ApiKey::ShareGroupDescribe, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_code(&answer).map_err(broken)
        });
        code == Ok(Some(0))
    }
}

/// The error code of the one group in the answer.
pub(super) fn read_code(answer: &[u8]) -> Read<Option<i16>> {
    let mut reader = Reader::new(answer, true);
    reader.tags()?;
    let _throttle_ms = reader.i32()?;
    // The rest of the group is of no interest, so nothing behind its code is read.
    let codes = reader.array(Reader::i16)?;
    Ok(codes.into_iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_code_is_read() {
        let answer = |code: i16| {
            [&[0][..], &[0; 4], &[2], &code.to_be_bytes(), b"\0\x02g\x07Stable"].concat()
        };
        assert_eq!(read_code(&answer(0)), Ok(Some(0)));
        assert_eq!(read_code(&answer(69)), Ok(Some(69)));
        assert_eq!(read_code(&[0, 0, 0, 0, 0, 1]), Ok(None));
        assert!(read_code(&[0, 0]).is_err());
    }
}
