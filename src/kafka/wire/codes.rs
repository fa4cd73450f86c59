//! Kafka's error codes: their names, which of them pass by themselves, and what they mean for a commit.

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

/// Whether a broker that answers a commit with this code has stored nothing, and never will.
///
/// Every other code leaves doubt. A coordinator writes offsets to its log and waits for the replicas; if
/// there are too few of them, or it loses the leadership meanwhile, it answers CoordinatorNotAvailable,
/// NotCoordinator or RequestTimedOut, although the write may survive (`appendForGroup` in Kafka's
/// GroupMetadataManager and `handleOperationException` in its newer CoordinatorRuntime translate the log's
/// errors to these).
pub(super) fn is_refusal(code: i16) -> bool {
    use ResponseError::{
        CoordinatorLoadInProgress, FencedInstanceId, FencedMemberEpoch, GroupAuthorizationFailed,
        GroupIdNotFound, IllegalGeneration, InvalidCommitOffsetSize, InvalidGroupId,
        InvalidRequest, NonEmptyGroup, OffsetMetadataTooLarge, RebalanceInProgress,
        StaleMemberEpoch, TopicAuthorizationFailed, UnknownMemberId, UnknownTopicOrPartition,
        UnsupportedVersion,
    };
    matches!(
        ResponseError::try_from_code(code),
        Some(
            CoordinatorLoadInProgress
                | FencedInstanceId
                | FencedMemberEpoch
                | GroupAuthorizationFailed
                | GroupIdNotFound
                | IllegalGeneration
                | InvalidCommitOffsetSize
                | InvalidGroupId
                | InvalidRequest
                | NonEmptyGroup
                | OffsetMetadataTooLarge
                | RebalanceInProgress
                | StaleMemberEpoch
                | TopicAuthorizationFailed
                | UnknownMemberId
                | UnknownTopicOrPartition
                | UnsupportedVersion
        )
    )
}

/// The name of a code from a group's coordinator, with what to do about it.
pub(super) fn explain(code: i16) -> String {
    // The broker takes offsets from a client outside the group only while the group has no members.
    let in_use = [
        ResponseError::UnknownMemberId,
        ResponseError::IllegalGeneration,
        ResponseError::RebalanceInProgress,
        ResponseError::FencedInstanceId,
        ResponseError::StaleMemberEpoch,
        ResponseError::NonEmptyGroup,
    ];
    if in_use.iter().any(|refusal| refusal.code() == code) {
        return format!(
            "{}: the group has active members: another consumer uses this group; stop it, or use another \
             group with --group",
            error_name(code)
        );
    }
    if code == ResponseError::GroupIdNotFound.code() {
        return format!(
            "{}: the cluster has a group of another kind under this name, such as a share group; use another \
             --group",
            error_name(code)
        );
    }
    error_name(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_a_broker_gives_after_writing_is_no_refusal() {
        use ResponseError::{
            CoordinatorNotAvailable, GroupAuthorizationFailed, NotCoordinator, RequestTimedOut,
            UnknownServerError,
        };
        for error in [CoordinatorNotAvailable, NotCoordinator, RequestTimedOut, UnknownServerError]
        {
            assert!(!is_refusal(error.code()), "{error:?}");
        }
        assert!(is_refusal(GroupAuthorizationFailed.code()));
    }

    #[test]
    fn the_error_says_if_other_consumers_use_the_group() {
        let text = explain(ResponseError::UnknownMemberId.code());
        assert!(text.contains("the group has active members"), "{text}");
    }
}
