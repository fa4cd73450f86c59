//! The trait `Operation`, which every command and query implements.

use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::model::error::Result;

/// A command or a query. The type that implements it is the request.
pub trait Operation {
    type Answer: Serialize + DeserializeOwned;

    /// # Errors
    /// `Usage` for an invalid request, `Other` if mb's present state does not allow it; errors of the history and
    /// of the broker.
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
