//! What a user can set (`settings`), what may change while mb runs (`steering`), what nobody can set
//! (`limits`), how durations and sizes (`units`), lists of servers (`servers`) and the page's public address
//! (`public_url`) are written, and the data directory with its lock (`data_dir`), mb's files in it (`own_files`) and
//! who may use it (`rights`).
//!
//! Flags are read in `cli`; every other module sees the checked [`Config`].

pub mod data_dir;
pub mod limits;
pub mod own_files;
mod public_url;
pub mod rights;
pub mod servers;
mod settings;
pub mod steering;
pub mod units;

pub use public_url::PublicUrl;
pub use settings::*;
