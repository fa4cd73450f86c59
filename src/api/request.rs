//! Every operation as one JSON value, `{"request":NAME,…}`: what the control socket carries.
//!
//! The names are an interface between a running mb and commands of other versions, so they stay.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::Context;
use super::metrics::GetMetrics;
use super::operations::Operation;
use super::operations::cancel_run::CancelRun;
use super::operations::cursor::{CallOffCursorMove, GetCursorMove, MoveCursor};
use super::operations::dead_letters::{
    CountDeadLetterErrors, Discard, EditDeadLetter, GetDeadLetter, ListDeadLetters, Redrive,
    RevertDeadLetter, SearchDeadLetters,
};
use super::operations::embedded_topic::{
    CreateTopic, DescribeTopic, FindOffsets, Flush, GetCommitted, GetWatermarks, Produce,
};
use super::operations::hold::{GiveUp, RetryNow};
use super::operations::overview::{GetLag, GetOverview, GetSeries, GetStatus, ListTicks};
use super::operations::preview::PreviewTick;
use super::operations::records::ReadRecords;
use super::operations::requests::{CancelRequests, ListRequests, ReplayOffsets, ReplayRanges};
use super::operations::runs::{CountRuns, GetRun, ListRuns, ReplayRun, RunAgain};
use super::operations::sensor::{Pause, Resume, Tick};
use super::operations::settings::ChangeSettings;
use super::session::Session;
use crate::model::error::{Error, Result};

/// Makes the enum of all operations, each under its name on the socket.
macro_rules! requests {
    ($($name:literal $operation:ident,)*) => {
        /// One operation, whichever it is.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(tag = "request")]
        pub enum Request {
            $(
                #[serde(rename = $name)]
                $operation($operation),
            )*
        }

        impl Request {
            /// Performs the operation; its answer as JSON.
            ///
            /// # Errors
            /// Those of the operation.
            pub fn perform(self, context: &Context, session: &mut Session) -> Result<Value> {
                match self {
                    $(Request::$operation(operation) => {
                        json(&operation.perform(context, session)?)
                    })*
                }
            }
        }

        $(
            impl From<$operation> for Request {
                fn from(operation: $operation) -> Request {
                    Request::$operation(operation)
                }
            }
        )*
    };
}

requests! {
    "status" GetStatus,
    "overview" GetOverview,
    "series" GetSeries,
    "lag" GetLag,
    "ticks" ListTicks,
    "metrics" GetMetrics,
    "runs" ListRuns,
    "run" GetRun,
    "run_counts" CountRuns,
    "records" ReadRecords,
    "cancel_run" CancelRun,
    "run_again" RunAgain,
    "replay_run" ReplayRun,
    "pause" Pause,
    "resume" Resume,
    "tick" Tick,
    "retry_now" RetryNow,
    "give_up" GiveUp,
    "preview" PreviewTick,
    "move_cursor" MoveCursor,
    "cursor_move" GetCursorMove,
    "call_off_cursor_move" CallOffCursorMove,
    "set" ChangeSettings,
    "dead_letters" ListDeadLetters,
    "dead_letter_errors" CountDeadLetterErrors,
    "dead_letter" GetDeadLetter,
    "search_dead_letters" SearchDeadLetters,
    "edit_dead_letter" EditDeadLetter,
    "revert_dead_letter" RevertDeadLetter,
    "redrive" Redrive,
    "discard" Discard,
    "requests" ListRequests,
    "cancel_requests" CancelRequests,
    "replay" ReplayRanges,
    "replay_offsets" ReplayOffsets,
    "topic" DescribeTopic,
    "create_topic" CreateTopic,
    "watermarks" GetWatermarks,
    "offsets_at" FindOffsets,
    "committed" GetCommitted,
    "produce" Produce,
    "flush" Flush,
}

fn json<T: Serialize>(answer: &T) -> Result<Value> {
    serde_json::to_value(answer)
        .map_err(|cause| Error::Other(format!("an answer that cannot be written as JSON: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::query;

    /// Lines as mb 0.1 sends them.
    #[test]
    fn requests_keep_their_form_on_the_socket() {
        for (request, line) in [
            (Request::from(GetStatus {}), r#"{"request":"status"}"#),
            (
                CancelRun { id: 7, note: "no".into() }.into(),
                r#"{"request":"cancel_run","id":7,"note":"no"}"#,
            ),
            (RunAgain { id: 7 }.into(), r#"{"request":"run_again","id":7}"#),
            (
                MoveCursor { offsets: vec![(0, 5)], dry_run: true, wait_s: None }.into(),
                r#"{"request":"move_cursor","offsets":[[0,5]],"dry_run":true}"#,
            ),
            (
                ChangeSettings { max_batch: Some(5), ..ChangeSettings::default() }.into(),
                r#"{"request":"set","rate":null,"max_batch":5,"max_concurrent_runs":null,"max_wait_s":null,"tick_interval_s":null}"#,
            ),
            (
                ListRuns(query::Selection { limit: 3, ..query::Selection::default() }).into(),
                r#"{"request":"runs","state":null,"topic":null,"group":null,"of_request":null,"partition":null,"error":null,"since":null,"until":null,"sort":null,"order":null,"before":null,"skip":0,"limit":3}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            let read: Request = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), line);
        }
        let extra =
            serde_json::from_str::<Request>(r#"{"request":"pause","of":"a later version"}"#);
        assert!(extra.is_ok(), "fields may be added");
        assert!(serde_json::from_str::<Request>(r#"{"request":"sleep"}"#).is_err());
    }
}
