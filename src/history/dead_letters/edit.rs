//! Edits: what a person makes of a dead letter's record before it is redriven. The original stays, and an edit can be
//! taken back. Headers, timestamp and offset are not edited.

use rusqlite::{Connection, params};

use super::redriven::redriven;
use super::resolve::{Pick, RedriveRequest, begin, end, redrive_in, why_not_open};
use crate::config::limits;
use crate::model::clock;
use crate::model::error::{Error, Result};

/// A key or value: bytes, or null.
pub type Field = Option<Vec<u8>>;

/// What is edited of a record. A key or value that is not given stays as it is: as an earlier edit made it, or as in the
/// original.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    pub key: Option<Field>,
    pub value: Option<Field>,
}

/// Edits the record of an open dead letter and, if asked to, requests that it is redriven: both or nothing. What is
/// edited back to the original is as if it had never been edited.
///
/// # Errors
/// `Usage` if the edit has no field, or a record of that size cannot be kept; `Other` if the dead letter does not exist
/// or is not open; `Storage`.
pub fn edit(
    db: &mut Connection,
    id: i64,
    edit: &Edit,
    and_redrive: bool,
) -> Result<Option<RedriveRequest>> {
    if edit.key.is_none() && edit.value.is_none() {
        return Err(Error::Usage("got no key and no value, expected one of them".to_owned()));
    }
    let change = begin(db)?;
    check_open(&change, id)?;
    let (original, now) = fields(&change, id)?;
    let edited = (edit.key.clone().unwrap_or(now.0), edit.value.clone().unwrap_or(now.1));
    let bytes = [&edited.0, &edited.1].into_iter().flatten().map(Vec::len).sum::<usize>();
    if bytes > limits::EDITED_RECORD_BYTES {
        return Err(Error::Usage(format!(
            "got key and value of {bytes} bytes, expected {} at most",
            limits::EDITED_RECORD_BYTES
        )));
    }
    if edited == original {
        take_back(&change, id)?;
    } else {
        change
            .execute(
                "UPDATE dead_letters SET edited_ms = ?2, edited_key = ?3, edited_value = ?4 \
                 WHERE id = ?1",
                params![id, clock::now_ms(), edited.0, edited.1],
            )
            .map_err(storage)?;
    }
    let request = if and_redrive {
        redrive_in(&change, &Pick { ids: vec![id], ..Pick::default() })?.pop()
    } else {
        None
    };
    end(change)?;
    Ok(request)
}

/// Takes the edit of an open dead letter back.
///
/// # Errors
/// `Other` if the dead letter does not exist, is not open or not edited; `Storage`.
pub fn revert(db: &mut Connection, id: i64) -> Result<()> {
    let change = begin(db)?;
    check_open(&change, id)?;
    if take_back(&change, id)? == 0 {
        return Err(Error::Other(format!("dead letter {id} is not edited")));
    }
    end(change)
}

fn check_open(db: &Connection, id: i64) -> Result<()> {
    match why_not_open(db, id)? {
        None => Ok(()),
        Some(cause) => Err(Error::Other(format!("nothing is edited: dead letter {id} {cause}"))),
    }
}

fn take_back(db: &Connection, id: i64) -> Result<usize> {
    db.execute(
        "UPDATE dead_letters SET edited_ms = NULL, edited_key = NULL, edited_value = NULL \
         WHERE id = ?1 AND edited_ms IS NOT NULL",
        [id],
    )
    .map_err(storage)
}

/// Key and value of the original, and as they are now.
fn fields(db: &Connection, id: i64) -> Result<((Field, Field), (Field, Field))> {
    let [key, value] = ["key", "value"].map(|column| redriven("dead_letters", column));
    db.query_row(
        &format!("SELECT key, value, {key}, {value} FROM dead_letters WHERE id = ?1"),
        [id],
        |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))),
    )
    .map_err(storage)
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("edit a dead letter in the history", cause)
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::super::{DeadLetterState, find};
    use super::*;

    fn value(text: &str) -> Edit {
        Edit { value: Some(Some(text.into())), ..Edit::default() }
    }

    #[test]
    fn edits_add_up_keep_the_original_and_can_be_taken_back() {
        let (_folder, mut db) = history(9);
        let found = |db: &Connection| find(db, 7).unwrap().unwrap();
        let original = found(&db);
        assert_eq!((original.letter.edited_ms, &original.edited), (None, &None));
        edit(&mut db, 7, &value("mended"), false).unwrap();
        let key = Edit { key: Some(Some(vec![0xff])), ..Edit::default() };
        edit(&mut db, 7, &key, false).unwrap();
        let both = found(&db);
        assert_eq!(both.record, original.record);
        assert!(both.letter.edited_ms.is_some());
        let edited = both.edited.unwrap();
        assert_eq!((&edited["key_base64"], &edited["value"]), (&"/w==".into(), &"mended".into()));
        assert_eq!(edited["edited"], true);
        let shown = serde_json::to_value(&both.letter.preview).unwrap();
        assert_eq!(shown, serde_json::json!({ "key_base64": "/w==", "value": "mended" }));
        revert(&mut db, 7).unwrap();
        assert_eq!(found(&db), original);
        let error = revert(&mut db, 7).unwrap_err().to_string();
        assert!(error.contains("dead letter 7 is not edited"), "{error}");
    }

    #[test]
    fn an_edit_back_to_the_original_is_none_and_null_is_not_empty() {
        let (_folder, mut db) = history(1);
        let original = find(&db, 1).unwrap().unwrap();
        let nothing = Edit { value: Some(None), ..Edit::default() };
        edit(&mut db, 1, &nothing, false).unwrap();
        assert!(find(&db, 1).unwrap().unwrap().edited.unwrap()["value"].is_null());
        edit(&mut db, 1, &value(""), false).unwrap();
        assert_eq!(find(&db, 1).unwrap().unwrap().edited.unwrap()["value"], "");
        let text = original.record["value"].as_str().unwrap();
        edit(&mut db, 1, &value(text), false).unwrap();
        assert_eq!(find(&db, 1).unwrap().unwrap(), original);
    }

    #[test]
    fn an_edit_and_its_redrive_are_one_change() {
        let (_folder, mut db) = history(3);
        let request = edit(&mut db, 2, &value("mended"), true).unwrap().unwrap();
        assert_eq!((request.letters, request.left), (1, 0));
        let letter = find(&db, 2).unwrap().unwrap().letter;
        assert_eq!(letter.request, Some(request.request));
        for change in [edit(&mut db, 2, &value("x"), true).map(drop), revert(&mut db, 2)] {
            let error = change.unwrap_err().to_string();
            assert!(error.contains("dead letter 2 is being redriven, by request"), "{error}");
        }
        let discarded = DeadLetterState::Discarded.code();
        db.execute("UPDATE dead_letters SET state = ?1 WHERE id = 3", [discarded]).unwrap();
        for (id, says) in [(3, "is discarded already"), (9, "is not in the history")] {
            let error = edit(&mut db, id, &value("x"), false).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(matches!(edit(&mut db, 1, &Edit::default(), false), Err(Error::Usage(_))));
        let large = value(&"x".repeat(limits::EDITED_RECORD_BYTES + 1));
        let error = edit(&mut db, 1, &large, true).unwrap_err();
        assert!(error.to_string().contains("bytes, expected"), "{error}");
        assert_eq!(find(&db, 1).unwrap().unwrap().letter.state, "open");
    }
}
