//! The kinds of faults, and in which order a lane has them. What one does is in `phase`.

use crate::support::proxy::Mode;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Delay,
    Reset,
    Refuse,
    HalfOpen,
    HalfClose,
    Cut,
    BlackHole,
    Drip,
    Hold,
    Flip,
    CommitsDenied,
    BrokerFrozen,
    BrokerKilled,
    BrokerStopped,
    MbFrozen,
    MbKilled,
    MbStopped,
    DiskFull,
}

pub const ALL: [Fault; 18] = [
    Fault::Delay,
    Fault::Reset,
    Fault::Refuse,
    Fault::HalfOpen,
    Fault::HalfClose,
    Fault::Cut,
    Fault::BlackHole,
    Fault::Drip,
    Fault::Hold,
    Fault::Flip,
    Fault::CommitsDenied,
    Fault::BrokerFrozen,
    Fault::BrokerKilled,
    Fault::BrokerStopped,
    Fault::MbFrozen,
    Fault::MbKilled,
    Fault::MbStopped,
    Fault::DiskFull,
];

/// API key of OffsetCommit.
const COMMITS: &[i16] = &[8];

impl Fault {
    /// What the proxy does, where it is the proxy's.
    pub fn mode(self, random: &mut fastrand::Rng) -> Option<Mode> {
        let mut millis = |range| Duration::from_millis(random.u64(range));
        Some(match self {
            Fault::Delay => Mode::Delay(millis(50..500)),
            Fault::Reset => Mode::Reset(millis(50..500)..millis(500..1500)),
            Fault::Refuse => Mode::Refuse,
            Fault::HalfOpen => Mode::HalfOpen,
            Fault::HalfClose => Mode::HalfClose,
            Fault::Cut => Mode::Cut(random.u64(0..3000)),
            Fault::BlackHole => Mode::BlackHole,
            Fault::Drip => Mode::Drip(random.u64(200..5000)),
            Fault::Hold => Mode::Hold(millis(200..5000)),
            Fault::Flip => Mode::Flip(random.u64(2000..30_000)),
            Fault::CommitsDenied => Mode::Deny(COMMITS),
            _ => return None,
        })
    }
}

/// All kinds in a seeded order, again and again in another one. Each lane begins at another place of
/// the first round, so that together they have had each kind early.
pub struct Deck {
    random: fastrand::Rng,
    left: Vec<Fault>,
}

impl Deck {
    pub fn new(seed: u64, lane: usize, lanes: usize) -> Deck {
        let mut left = ALL.to_vec();
        fastrand::Rng::with_seed(seed).shuffle(&mut left);
        left.rotate_left(lane * ALL.len() / lanes);
        left.reverse();
        Deck { random: fastrand::Rng::with_seed(seed ^ (lane as u64 + 1)), left }
    }

    pub fn next(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left = ALL.to_vec();
            self.random.shuffle(&mut self.left);
        }
        self.left.pop().expect("just filled")
    }
}
