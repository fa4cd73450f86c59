//! One dead letter with its record: the original, and the one that a person made of it.

use rusqlite::{Connection, OptionalExtension, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::list::{COLUMN_COUNT, DeadLetterRow, columns, row};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::headers::Headers;
use crate::model::offset::Offset;
use crate::step::record_json::RecordJson;

/// A dead letter with its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterDetail")]
pub struct DeadLetterDetail {
    #[serde(flatten)]
    pub letter: DeadLetterRow,
    /// As it was in the log.
    #[schemars(with = "RecordJson<'static>")]
    pub record: serde_json::Value,
    /// As a person edited it, which is what a redrive processes; null if nobody did.
    #[serde(default)]
    #[schemars(with = "Option<RecordJson<'static>>")]
    pub edited: Option<serde_json::Value>,
}

/// One dead letter by its number.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn find(db: &Connection, id: i64) -> Result<Option<DeadLetterDetail>> {
    let select = format!(
        "SELECT {}, d.key, d.value, d.edited_key, d.edited_value, d.headers \
         FROM dead_letters d JOIN scopes s ON s.id = d.scope WHERE d.id = ?1",
        columns()
    );
    let found = db.query_row(&select, [id], detail).optional();
    found.map_err(|cause| Error::storage("use the dead letters in the history", cause))
}

fn detail(found: &Row<'_>) -> rusqlite::Result<DeadLetterDetail> {
    let letter = row(found)?;
    let bytes = |column| found.get::<_, Option<Vec<u8>>>(COLUMN_COUNT + column);
    let headers = bytes(4)?.unwrap_or_default();
    let json = |key: Option<Vec<u8>>, value: Option<Vec<u8>>, edited| {
        let record = Record {
            offset: Offset::new(letter.offset),
            timestamp: letter.timestamp_ms,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: Headers::decode(&headers).unwrap_or(Headers::NONE),
            edited,
        };
        let record = RecordJson { partition: letter.partition, record };
        serde_json::to_value(record).unwrap_or_default()
    };
    let record = json(bytes(0)?, bytes(1)?, false);
    let edited = match letter.edited_ms {
        Some(_) => Some(json(bytes(2)?, bytes(3)?, true)),
        None => None,
    };
    Ok(DeadLetterDetail { letter, record, edited })
}
