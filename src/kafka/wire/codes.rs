//! Kafka's error codes: their names, and which of them pass by themselves.

use kafka_protocol::ResponseError;

/// Kafka's name for an error code, for example `NotEnoughReplicas`.
pub(super) fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(ResponseError::Unknown(code)) => format!("error {code}"),
        Some(error) => error.to_string(),
        None => "no error".to_owned(),
    }
}

/// Whether the error passes by itself. Kafka counts an unknown topic among those; mb does not, because a
/// deleted topic does not come back.
pub(super) fn retriable(code: i16) -> bool {
    ResponseError::try_from_code(code).is_some_and(|error| {
        error.is_retriable() && error != ResponseError::UnknownTopicOrPartition
    })
}
