//! A reader of Kafka's wire types that trusts no length before the bytes are there. What the fields of an answer
//! mean is decided by its caller.
//!
//! Crate kafka-protocol can decode too, but it allocates whatever length the peer states: one flipped byte
//! makes it ask for gigabytes, which ends the process. So mb encodes with that crate and decodes here.

/// The answer ended early or contains an impossible value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

pub(super) type Read<T> = Result<T, Broken>;

/// Reads from the front of an answer. `flexible` is the protocol's word for versions with compact lengths and
/// tagged fields (KIP-482).
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    pub(super) flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], flexible: bool) -> Reader<'a> {
        Reader { rest: bytes, flexible }
    }

    pub(super) fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Broken)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Broken)
    }

    pub(super) fn i8(&mut self) -> Read<i8> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Read<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Read<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Read<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub(super) fn u128(&mut self) -> Read<u128> {
        self.fixed().map(u128::from_be_bytes)
    }

    /// An unsigned varint of 32 bits: seven bits per byte, the lowest first.
    fn uvarint(&mut self) -> Read<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).ok_or(Broken)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken)
    }

    /// A length, `None` for null; never more than the bytes that are left, since every element takes at least
    /// one.
    fn length(&mut self, fixed_width: fn(&mut Self) -> Read<i64>) -> Read<Option<usize>> {
        let length =
            if self.flexible { i64::from(self.uvarint()?) - 1 } else { fixed_width(self)? };
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(Some(length)),
            Ok(_) => Err(Broken),
            Err(_) => (length == -1).then_some(None).ok_or(Broken),
        }
    }

    pub(super) fn string(&mut self) -> Read<Option<&'a str>> {
        match self.length(|reader| reader.i16().map(i64::from))? {
            None => Ok(None),
            Some(length) => std::str::from_utf8(self.take(length)?).map(Some).map_err(|_| Broken),
        }
    }

    /// A byte string that may be cut off by the answer's end: the part that is there.
    pub(super) fn cut_bytes(&mut self) -> Read<&'a [u8]> {
        let length =
            if self.flexible { i64::from(self.uvarint()?) - 1 } else { self.i32()?.into() };
        let length = usize::try_from(length).unwrap_or(0).min(self.rest.len());
        self.take(length)
    }

    /// Each element of an array; a null array has none.
    pub(super) fn array<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let length = self.length(|reader| reader.i32().map(i64::from))?.unwrap_or(0);
        (0..length).map(|_| element(self)).collect()
    }

    /// Each partition of each topic: an array of topics, each with its name and an array of partitions.
    pub(super) fn partitions<T>(
        &mut self,
        mut partition: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let topics = self.array(|topic| {
            let _name = topic.string()?;
            topic.array(&mut partition)
        })?;
        Ok(topics.into_iter().flatten().collect())
    }

    /// Skips the tagged fields that end every structure of a flexible version.
    pub(super) fn tags(&mut self) -> Read<()> {
        if self.flexible {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let size = self.uvarint()?;
                self.take(size as usize)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_bytes_is_refused_before_anything_is_allocated() {
        let mut reader = Reader::new(&[0x7f, 0xff, 0xff, 0xff, 1, 2], false);
        assert_eq!(reader.array(Reader::i8), Err(Broken));
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1], true);
        assert_eq!(reader.array(Reader::i8), Err(Broken));
        let mut reader = Reader::new(&[0xff; 12], true);
        assert_eq!(reader.tags(), Err(Broken));
    }

    #[test]
    fn null_differs_from_empty_and_other_negative_lengths_are_broken() {
        assert_eq!(Reader::new(&[0xff, 0xff], false).string(), Ok(None));
        assert_eq!(Reader::new(&[0, 0], false).string(), Ok(Some("")));
        assert_eq!(Reader::new(&[0xff, 0xfe], false).string(), Err(Broken));
        assert_eq!(Reader::new(&[0], true).string(), Ok(None));
        assert_eq!(Reader::new(&[3, b'm', b'b'], true).string(), Ok(Some("mb")));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| random.u8(..)).collect();
            let mut reader = Reader::new(&bytes, round % 2 == 0);
            let _ = reader.array(|element| {
                element.string()?;
                element.array(|inner| inner.i32())?;
                element.cut_bytes()?;
                element.tags()
            });
        }
    }
}
