//! The states of a dead letter.

/// What has become of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterState {
    /// Nothing yet.
    Open,
    /// An open request redrives it.
    Redriving,
    /// A run of a redrive has processed it.
    Redriven,
    /// A person decided that it is not needed.
    Discarded,
}

impl DeadLetterState {
    pub const ALL: [DeadLetterState; 4] = [
        DeadLetterState::Open,
        DeadLetterState::Redriving,
        DeadLetterState::Redriven,
        DeadLetterState::Discarded,
    ];

    pub fn name(self) -> &'static str {
        match self {
            DeadLetterState::Open => "open",
            DeadLetterState::Redriving => "redriving",
            DeadLetterState::Redriven => "redriven",
            DeadLetterState::Discarded => "discarded",
        }
    }

    pub fn from_name(name: &str) -> Option<DeadLetterState> {
        DeadLetterState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The number in the history file.
    pub fn code(self) -> i64 {
        match self {
            DeadLetterState::Open => 0,
            DeadLetterState::Redriving => 1,
            DeadLetterState::Redriven => 2,
            DeadLetterState::Discarded => 3,
        }
    }

    pub(super) fn from_code(code: i64) -> Option<DeadLetterState> {
        DeadLetterState::ALL.into_iter().find(|state| state.code() == code)
    }
}
