//! Dead letters: lists, one of them whole, edits, and what is decided about them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Done, Operation};
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::history::dead_letters::{
    self, DeadLetterDetail, DeadLetterRow, Edit, ErrorCount, Found, Pick, RedriveRequest, Selection,
};
use crate::model::error::{Error, Result};

/// The first dead letters in the order that is asked for, at most `limits::LIST_ROWS`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListDeadLetters(pub Selection);

impl Operation for ListDeadLetters {
    type Answer = Vec<DeadLetterRow>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<DeadLetterRow>> {
        dead_letters::list(context.history(session)?, &at_most_a_page(self.0))
    }
}

/// Those of these dead letters that have a text in their error, key or value; an answer may end before the list does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SearchDeadLetters {
    #[serde(flatten)]
    pub selection: Selection,
    pub text: String,
}

impl Operation for SearchDeadLetters {
    type Answer = Found;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Found> {
        let selection = at_most_a_page(self.selection);
        dead_letters::search(context.history(session)?, &selection, &self.text)
    }
}

/// How many dead letters have the same error, the most frequent error first; at most `limits::LIST_ROWS`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CountDeadLetterErrors(pub Selection);

impl Operation for CountDeadLetterErrors {
    type Answer = Vec<ErrorCount>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<ErrorCount>> {
        dead_letters::errors(context.history(session)?, &at_most_a_page(self.0))
    }
}

fn at_most_a_page(selection: Selection) -> Selection {
    Selection { limit: selection.limit.min(limits::LIST_ROWS), ..selection }
}

/// One dead letter with its payload; null if the history does not have it (any more).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetDeadLetter {
    pub id: i64,
}

impl Operation for GetDeadLetter {
    type Answer = Option<DeadLetterDetail>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Option<DeadLetterDetail>> {
        dead_letters::find(context.history(session)?, self.id)
    }
}

/// Edits the record of an open dead letter, and may redrive it with that. The original stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EditDeadLetter {
    pub id: i64,
    #[serde(flatten)]
    pub fields: EditedFields,
    #[serde(default)]
    pub redrive: bool,
}

/// Key and value of an edit as text, or in base64. What is not given stays as it is; null is no key, or Kafka's null
/// value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EditedFields {
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub key: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

/// Reads a field that is there: null is a value of it.
///
/// # Errors
/// If it is neither text nor null.
pub fn given<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// What an edit has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterEdited")]
pub struct EditDone {
    /// The number of the dead letter.
    pub id: i64,
    /// The redrive that was requested; null if none was.
    pub redrive: Option<RedriveRequest>,
}

impl EditedFields {
    /// # Errors
    /// `Usage` if a field is given twice, or its base64 is none.
    fn edit(self) -> Result<Edit> {
        Ok(Edit {
            key: field("key", self.key, self.key_base64)?,
            value: field("value", self.value, self.value_base64)?,
        })
    }
}

fn field(
    name: &str,
    text: Option<Option<String>>,
    base64: Option<String>,
) -> Result<Option<dead_letters::Field>> {
    match (text, base64) {
        (Some(_), Some(_)) => {
            Err(Error::Usage(format!("{name}: got {name} and {name}_base64, expected one of them")))
        }
        (text, None) => Ok(text.map(|text| text.map(String::into_bytes))),
        (None, Some(base64)) => match STANDARD.decode(base64.trim()) {
            Ok(bytes) => Ok(Some(Some(bytes))),
            Err(cause) => Err(Error::Usage(format!("{name}_base64: no base64: {cause}"))),
        },
    }
}

impl Operation for EditDeadLetter {
    type Answer = EditDone;

    fn perform(self, context: &Context, _: &mut Session) -> Result<EditDone> {
        let EditDeadLetter { id, fields, redrive } = self;
        let edit = fields.edit()?;
        let db = &mut context.history_to_change()?;
        let redrive = dead_letters::edit(db, id, &edit, redrive)?;
        if redrive.is_some() {
            context.signal_new_request();
        }
        Ok(EditDone { id, redrive })
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Takes the edit of an open dead letter back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevertDeadLetter {
    pub id: i64,
}

impl Operation for RevertDeadLetter {
    type Answer = Done;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Done> {
        dead_letters::revert(&mut context.history_to_change()?, self.id)?;
        Ok(Done {})
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Makes new runs of dead letters: a request for each topic and group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Redrive(pub Pick);

impl Operation for Redrive {
    type Answer = Vec<RedriveRequest>;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Vec<RedriveRequest>> {
        let requests = dead_letters::redrive(&mut context.history_to_change()?, &self.0)?;
        context.signal_new_request();
        Ok(requests)
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Discards dead letters; how many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Discard {
    pub pick: Pick,
    /// Why they are not needed.
    pub note: String,
}

impl Operation for Discard {
    type Answer = u64;

    fn perform(self, context: &Context, _: &mut Session) -> Result<u64> {
        dead_letters::discard(&mut context.history_to_change()?, &self.pick, &self.note)
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(json: &str) -> Result<Edit> {
        serde_json::from_str::<EditDeadLetter>(json).unwrap().fields.edit()
    }

    #[test]
    fn what_an_edit_does_not_name_stays_and_null_is_a_value() {
        let bytes = |text: &str| Some(Some(text.as_bytes().to_vec()));
        assert_eq!(edit(r#"{"id":1}"#), Ok(Edit::default()));
        let both = Edit { key: Some(None), value: bytes("v") };
        assert_eq!(edit(r#"{"id":1,"key":null,"value":"v"}"#), Ok(both));
        let base64 = Edit { key: None, value: Some(Some(vec![0xff, 0])) };
        assert_eq!(edit(r#"{"id":1,"value_base64":"/wA="}"#), Ok(base64));
        for json in [r#"{"id":1,"key":"a","key_base64":"YQ=="}"#, r#"{"id":1,"value_base64":"?"}"#]
        {
            assert!(matches!(edit(json), Err(Error::Usage(_))), "{json}");
        }
        let fields = EditedFields { value: Some(None), ..EditedFields::default() };
        let sent =
            serde_json::to_string(&EditDeadLetter { id: 1, fields, redrive: false }).unwrap();
        assert_eq!(sent, r#"{"id":1,"value":null,"redrive":false}"#);
    }
}
