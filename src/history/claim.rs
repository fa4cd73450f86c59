//! Settles a race: a reset that waits in the inbox is either written by the history thread, or called off by its
//! caller when the time limit is over.

use crate::model::sync::atomic::{AtomicU8, Ordering};

/// Whether a reset is written or called off, which exactly one side decides.
///
/// Without it, a caller whose time limit is over would report "not moved" while the reset still waits in the
/// inbox. Written later, the reset would void ranges that a sensor goes on reading.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const CALLED_OFF: u8 = 2;

impl Claim {
    /// The history thread begins to write the reset. False if it was called off.
    pub fn take(&self) -> bool {
        self.change(WAITING, TAKEN).is_ok() || self.0.load(Ordering::SeqCst) == TAKEN
    }

    /// The transaction failed, and the history thread will retry it.
    pub fn give_back(&self) {
        let _ = self.change(TAKEN, WAITING);
    }

    /// The caller stops waiting. False if the history thread is writing the reset, or has written it.
    pub fn call_off(&self) -> bool {
        self.change(WAITING, CALLED_OFF).is_ok()
    }

    fn change(&self, from: u8, to: u8) -> Result<(), u8> {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_the_writer_or_the_caller_has_the_claim() {
        let claim = Claim::default();
        assert!(claim.take() && claim.take(), "the same transaction, tried once more");
        assert!(!claim.call_off(), "it is being written");
        claim.give_back();
        assert!(claim.call_off());
        assert!(!claim.take());
        claim.give_back();
        assert!(!claim.take(), "what was called off stays so");
    }
}
