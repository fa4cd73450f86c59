//! What commands and queries have in common.

use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::model::error::Result;

/// One thing that mb can be asked for or told to do. The type is the request.
pub trait Operation {
    type Answer: Serialize + DeserializeOwned;

    /// # Errors
    /// `Usage` for a request that cannot be right, `Other` if it does not fit how things are; what the history
    /// or the broker cannot do.
    fn perform(self, context: &Context, session: &mut Session) -> Result<Self::Answer>;

    /// How long a client waits for the answer: longer than the operation may take, so that the client learns how
    /// it ended.
    fn answer_limit(&self) -> Duration {
        2 * limits::CONTROL_LIMIT
    }
}

/// The answer of a command that has nothing to report: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Nothing")]
pub struct Done {}
