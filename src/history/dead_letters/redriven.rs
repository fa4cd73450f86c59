//! The record that a redrive of a dead letter processes: the one that a person made of it, or else the original.

use rusqlite::Row;

use crate::model::batch::Record;
use crate::model::headers::Headers;
use crate::model::offset::Offset;

/// Key or value (`column`) of that record, as an expression on `table`, which is `dead_letters` or stands for it.
pub(super) fn redriven(table: &str, column: &str) -> String {
    format!("iif({table}.edited_ms IS NULL, {table}.{column}, {table}.edited_{column})")
}

/// The columns of `dead_letters` that `redriven_record` reads.
pub fn redriven_columns() -> String {
    let [key, value] = ["key", "value"].map(|column| redriven("dead_letters", column));
    format!("record_offset, timestamp_ms, {key}, {value}, headers, edited_ms IS NOT NULL")
}

/// The record that the row has in these columns, from column `first` on.
///
/// # Errors
/// SQLite's, for a row that has others.
pub fn redriven_record<'r>(row: &'r Row<'_>, first: usize) -> rusqlite::Result<Record<'r>> {
    let bytes = |column: usize| -> rusqlite::Result<Option<&'r [u8]>> {
        Ok(row.get_ref(first + column)?.as_blob_or_null()?)
    };
    Ok(Record {
        offset: Offset::new(row.get(first)?),
        timestamp: row.get(first + 1)?,
        key: bytes(2)?,
        value: bytes(3)?,
        headers: Headers::decode(bytes(4)?.unwrap_or_default()).unwrap_or(Headers::NONE),
        edited: row.get(first + 5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    #[test]
    fn an_edit_stands_for_the_original_as_a_whole() {
        let (_folder, db) = history(2);
        db.execute(
            "UPDATE dead_letters SET edited_ms = 1, edited_key = NULL, edited_value = x'61' WHERE id = 2",
            [],
        )
        .unwrap();
        let select = format!("SELECT id, {} FROM dead_letters ORDER BY id", redriven_columns());
        let mut select = db.prepare(&select).unwrap();
        let mut rows = select.query([]).unwrap();
        let original = rows.next().unwrap().unwrap();
        let record = redriven_record(original, 1).unwrap();
        assert_eq!((record.offset.get(), record.timestamp), (1, Some(1001)));
        assert!(record.key == Some(b"key-1") && !record.edited, "{record:?}");
        let edited = rows.next().unwrap().unwrap();
        let record = redriven_record(edited, 1).unwrap();
        let expected = (2, None, Some(&b"a"[..]), true);
        assert_eq!((record.offset.get(), record.key, record.value, record.edited), expected);
    }
}
