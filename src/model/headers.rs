//! A record's headers as borrowed bytes, which are not parsed before somebody reads them.
//!
//! A header is encoded as name length u32, value length u32 (little-endian; `u32::MAX` is a null value, which
//! is not an empty one), name, value; the next one follows at once. Names are bytes: Kafka prescribes UTF-8,
//! but no broker checks it.

use std::fmt;

/// Both lengths of one header.
const HEAD_BYTES: usize = 8;
const NULL: u32 = u32::MAX;

/// The headers of one record, in the order in which they were written; a name may occur several times.
///
/// ```
/// use mb::Headers;
///
/// let encoded = Headers::encode([("trace", Some("7")), ("flag", None)]);
/// let headers = Headers::decode(&encoded).unwrap();
/// let found: Vec<_> = headers.iter().collect();
/// assert_eq!(found, [(&b"trace"[..], Some(&b"7"[..])), (&b"flag"[..], None)]);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    pub const NONE: Headers<'static> = Headers(&[]);

    /// Headers in the form that `encode` makes; `None` if the bytes are something else.
    pub fn decode(encoded: &'a [u8]) -> Option<Headers<'a>> {
        let mut iter = Iter(encoded);
        while iter.next().is_some() {}
        iter.0.is_empty().then_some(Headers(encoded))
    }

    /// Like `decode`, for bytes that were checked before or never left mb.
    pub(crate) fn trusted(encoded: &'a [u8]) -> Headers<'a> {
        debug_assert!(Headers::decode(encoded).is_some(), "bytes that are no headers");
        Headers(encoded)
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The encoded form; its length counts as the headers' size.
    pub fn encoded(self) -> &'a [u8] {
        self.0
    }

    /// Each header's name, and its value (`None` is a null value).
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        Iter(self.0)
    }

    /// Encodes headers, for `decode`.
    pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        headers: impl IntoIterator<Item = (N, Option<V>)>,
    ) -> Vec<u8> {
        let mut encoded = Vec::new();
        for (name, value) in headers {
            append(&mut encoded, name.as_ref(), value.as_ref().map(AsRef::as_ref));
        }
        encoded
    }
}

/// Shows names and values as text, with replacement characters for what is not UTF-8.
impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        f.debug_list()
            .entries(self.iter().map(|(name, value)| (text(name), value.map(text))))
            .finish()
    }
}

/// Bytes that one header takes.
pub fn encoded_bytes(name: &[u8], value: Option<&[u8]>) -> usize {
    HEAD_BYTES + name.len() + value.map_or(0, <[u8]>::len)
}

/// Appends one header.
///
/// # Panics
/// If name or value has 4 GiB or more, which no record can have.
pub fn append(encoded: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    let length = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length != NULL);
        length.expect("a record is far smaller than 4 GiB")
    };
    encoded.extend_from_slice(&length(name).to_le_bytes());
    encoded.extend_from_slice(&value.map_or(NULL, length).to_le_bytes());
    encoded.extend_from_slice(name);
    encoded.extend_from_slice(value.unwrap_or_default());
}

/// Ends at the first incomplete header, and keeps what is left.
struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name_len, rest) = self.0.split_first_chunk::<4>()?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (name_len, value_len) = (u32::from_le_bytes(*name_len), u32::from_le_bytes(*value_len));
        let (name, rest) = rest.split_at_checked(name_len as usize)?;
        let (value, rest) = match value_len {
            NULL => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(length as usize)?;
                (Some(value), rest)
            }
        };
        self.0 = rest;
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (Vec<u8>, Option<Vec<u8>>);

    fn come_back(pairs: &[Pair]) {
        let encoded = Headers::encode(pairs.iter().cloned());
        let bytes: usize =
            pairs.iter().map(|(name, value)| encoded_bytes(name, value.as_deref())).sum();
        assert_eq!(encoded.len(), bytes);
        let headers = Headers::decode(&encoded).unwrap();
        let came: Vec<Pair> = headers
            .iter()
            .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(came, pairs);
        assert_eq!(headers.is_empty(), pairs.is_empty());
    }

    #[test]
    fn headers_come_back_as_they_went_in() {
        come_back(&[]);
        come_back(&[
            (b"trace".to_vec(), Some(b"1".to_vec())),
            (b"trace".to_vec(), Some(b"again".to_vec())),
            (b"null".to_vec(), None),
            (b"empty".to_vec(), Some(Vec::new())),
            (Vec::new(), Some((0..=255).collect())),
            (b"\xff\0".to_vec(), Some(b"not UTF-8".to_vec())),
        ]);
        assert!(Headers::NONE.is_empty() && Headers::NONE.iter().next().is_none());
    }

    #[test]
    fn ten_thousand_headers_come_back_too() {
        let pairs: Vec<Pair> = (0..10_000)
            .map(|at| (format!("name {at}").into_bytes(), (at % 3 > 0).then(|| vec![1; at % 50])))
            .collect();
        come_back(&pairs);
    }

    #[test]
    fn bytes_that_are_no_headers_are_refused() {
        let encoded = Headers::encode([("name", Some("value")), ("other", None)]);
        let first = encoded_bytes(b"name", Some(b"value"));
        for cut in (1..encoded.len()).filter(|cut| *cut != first) {
            assert_eq!(Headers::decode(&encoded[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Headers::decode(b"\xff\xff\xff\xff\0\0\0\0name"), None);
    }

    #[test]
    fn they_are_shown_as_text() {
        let encoded = Headers::encode([("name", Some(&b"\xfe"[..])), ("null", None)]);
        let shown = format!("{:?}", Headers::decode(&encoded).unwrap());
        assert_eq!(shown, "[(\"name\", Some(\"\u{fffd}\")), (\"null\", None)]");
    }
}
