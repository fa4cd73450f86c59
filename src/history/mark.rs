//! The mark that mb writes beside each offset that it commits, as the commit's metadata: who committed, and which of
//! its commits it is. What follows from a mark is decided in `resume` (at the start) and `commit::in_log` (later).

use std::fmt;

use crate::model::offset::{Epoch, LastRead, Offset};

/// The newest form of the mark that this mb knows: `mb1 INSTANCE SEQUENCE [END@EPOCH]`. What follows, separated by
/// spaces, is passed over.
pub const VERSION: u32 = 1;

/// The instance of marks that `mb offsets` writes.
const PERSON: &str = "offsets";

/// Who committed an offset, as its metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Kafka's tools, another program, or an mb that wrote no marks yet.
    None,
    /// A person, by `mb offsets`.
    Person,
    Instance(Stamp),
    /// An mb that is newer than this one: what else it wrote there is not known here.
    Newer(u32),
}

/// A commit of an instance of mb. An instance is a data directory's history; commits of one scope ascend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub instance: String,
    pub sequence: i64,
    /// The newest record below the offset whose leader epoch is known, if that of the offset itself is not: in front of
    /// the offset is a gap, or the log could not be asked.
    pub read: Option<LastRead>,
}

/// Whose commits are this mb's own.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    pub instance: &'a str,
    /// The number of the newest one that was sent, or is about to be.
    pub newest: i64,
}

impl Mark {
    /// Whoever wrote this metadata.
    pub fn of(metadata: &str) -> Mark {
        let mut words = metadata.split_ascii_whitespace();
        let version = words.next().and_then(|word| word.strip_prefix("mb")?.parse::<u32>().ok());
        match version {
            Some(version) if version > VERSION => return Mark::Newer(version),
            Some(VERSION) => {}
            _ => return Mark::None,
        }
        match (words.next(), words.next().and_then(|word| word.parse().ok())) {
            (Some(PERSON), Some(_)) => Mark::Person,
            (Some(instance), Some(sequence)) => Mark::Instance(Stamp {
                instance: instance.to_owned(),
                sequence,
                read: words.next().and_then(last_read),
            }),
            _ => Mark::None,
        }
    }
}

/// `END@EPOCH`.
fn last_read(word: &str) -> Option<LastRead> {
    let (end, epoch) = word.split_once('@')?;
    let end = Offset::checked(end.parse().ok()?)?;
    Some(LastRead { end, epoch: Epoch::checked(epoch.parse().ok()?)? })
}

impl Stamp {
    /// The mark of `mb offsets`.
    pub fn of_person(sequence: i64) -> Stamp {
        Stamp { instance: PERSON.to_owned(), sequence, read: None }
    }
}

/// As metadata of a commit.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mb{VERSION} {} {}", self.instance, self.sequence)?;
        match self.read {
            Some(LastRead { end, epoch }) => write!(f, " {end}@{epoch}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let stamp = Stamp { instance: "1f0c".into(), sequence: 17, read: None };
        assert_eq!(stamp.to_string(), "mb1 1f0c 17");
        assert_eq!(Mark::of(&stamp.to_string()), Mark::Instance(stamp));
        assert_eq!(Mark::of(&Stamp::of_person(3).to_string()), Mark::Person);
        let read = LastRead { end: Offset::new(40), epoch: Epoch::checked(2).unwrap() };
        let stamp = Stamp { instance: "1f0c".into(), sequence: 17, read: Some(read) };
        assert_eq!(stamp.to_string(), "mb1 1f0c 17 40@2");
        assert_eq!(Mark::of(&stamp.to_string()), Mark::Instance(stamp));
    }

    #[test]
    fn what_follows_the_mark_is_passed_over_and_a_newer_version_is_told() {
        let stamp = Stamp { instance: "1f0c".into(), sequence: 17, read: None };
        assert_eq!(Mark::of("mb1 1f0c 17 and=more"), Mark::Instance(stamp));
        assert_eq!(Mark::of("mb2 anything else"), Mark::Newer(2));
    }

    #[test]
    fn anything_else_is_no_mark() {
        for metadata in
            ["", "mb", "mb1", "mb1 x", "mb1 x y", "mbx 1 2", "committed by me", "mb0 x 1"]
        {
            assert_eq!(Mark::of(metadata), Mark::None, "{metadata:?}");
        }
    }
}
