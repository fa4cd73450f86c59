//! Redrives and replays, which people request: a row each, which lives until its runs are done or somebody
//! cancels it.
//!
//! The thread that makes their runs is `source::reprocess`.

mod cancel;
mod list;
mod place;
mod reader;
mod replay;
mod state;

pub use self::cancel::{cancel, end_left_over, open};
pub(super) use self::cancel::{end_cancelled, end_cancelled_run, is_cancelled};
pub use self::list::{RequestRow, Selection, check_known, check_open, list};
pub use self::place::{Place, place};
pub use self::reader::{Chunk, Kind, Reader, Request, Unfinished};
pub use self::replay::{Replay, add_replay};
pub use self::state::{CANCELLED, DONE};
