//! Searches dead letters for a text: in their errors, and in the keys and values of their records. There is no index
//! for that, so one answer looks at a bounded part of the list, and says where it stopped.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::list::{DeadLetterRow, Selection, ids, rows};
use crate::config::limits;
use crate::model::error::{Error, Result};

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub dead_letters: Vec<DeadLetterRow>,
    /// How many dead letters were looked at.
    pub looked_at: u64,
    /// The last dead letter that was looked at, if the search stopped there because it had looked at so many: it
    /// goes on behind it.
    pub stopped_at: Option<i64>,
}

/// Those of the selected dead letters that have the text in their error, or in the key or value of their record, the
/// original or the edited one. The case of ASCII letters is ignored.
///
/// # Errors
/// As `list`.
pub fn search(db: &Connection, selection: &Selection, text: &str) -> Result<Found> {
    search_within(db, selection, text, limits::SEARCH_LETTERS, limits::SEARCH_BYTES)
}

fn search_within(
    db: &Connection,
    selection: &Selection,
    text: &str,
    most_letters: u32,
    most_bytes: usize,
) -> Result<Found> {
    let candidates = ids(db, selection, most_letters + 1)?;
    let lower = text.to_ascii_lowercase();
    let read = || -> rusqlite::Result<Found> {
        let mut select = db.prepare_cached(
            "SELECT error, key, value, edited_key, edited_value FROM dead_letters WHERE id = ?1",
        )?;
        let (mut found, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        let mut last = None;
        for id in candidates {
            if found.len() == selection.limit as usize {
                break;
            }
            if let Some(last) = last
                && (looked_at == u64::from(most_letters) || bytes >= most_bytes)
            {
                let dead_letters = rows(db, &found)?;
                return Ok(Found { dead_letters, looked_at, stopped_at: Some(last) });
            }
            let mut letter = select.query(params![id])?;
            // One that was removed meanwhile has no row.
            let Some(row) = letter.next()? else { continue };
            let mut has_it = false;
            for column in 0..5 {
                let field = row.get_ref(column)?.as_bytes_or_null()?.unwrap_or_default();
                bytes += field.len();
                has_it = has_it || contains(field, lower.as_bytes());
            }
            if has_it {
                found.push(id);
            }
            looked_at += 1;
            last = Some(id);
        }
        Ok(Found { dead_letters: rows(db, &found)?, looked_at, stopped_at: None })
    };
    read().map_err(|cause| Error::storage("search the dead letters in the history", cause))
}

/// Whether `text` contains `lower`, which has no capital ASCII letters, in any case.
fn contains(text: &[u8], lower: &[u8]) -> bool {
    let Some((first, others)) = lower.split_first() else { return true };
    let capital = first.to_ascii_uppercase();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| byte == first || *byte == capital) {
        rest = &rest[at + 1..];
        if rest.get(..others.len()).is_some_and(|next| next.eq_ignore_ascii_case(others)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::tests::{all, history, ids};
    use super::*;

    #[test]
    fn a_text_is_found_in_any_case_wherever_it_stands() {
        let found = |text: &str, lower: &str| contains(text.as_bytes(), lower.as_bytes());
        for text in ["Poison", "a POISON pill", "popoison", "xpoison", "poisonpoison"] {
            assert!(found(text, "poison"), "{text}");
        }
        for text in ["", "poiso", "poi son", "p"] {
            assert!(!found(text, "poison"), "{text}");
        }
        assert!(found("Größe", "größe") && !found("GRÖSSE", "größe"));
        assert!(contains(b"\xff\x00Z", b"\x00z") && found("anything", ""));
    }

    #[test]
    fn a_search_looks_into_errors_keys_and_values_and_into_edited_ones() {
        let (_folder, db) = history(1000);
        let found = |text: &str| search(&db, &all(), text).unwrap();
        let poison = found("pOiSoN");
        assert_eq!(ids(&poison.dead_letters), [777]);
        assert_eq!((poison.looked_at, poison.stopped_at), (1000, None));
        assert_eq!(ids(&found("key-31\"").dead_letters), [0i64; 0], "a text, no pattern");
        assert_eq!(ids(&found("KEY-31").dead_letters)[..2], [319, 318]);
        assert_eq!(ids(&found("code 3").dead_letters).len(), 50);
        db.execute(
            "UPDATE dead_letters SET edited_ms = 1, edited_key = x'00', edited_value = x'616263FF' \
             WHERE id = 5",
            [],
        )
        .unwrap();
        assert_eq!(ids(&found("ABC").dead_letters), [5]);
        assert_eq!(ids(&found("\"order\":5,").dead_letters), [5], "the original too");
        let selected = Selection { error: Some("code 3".into()), ..all() };
        assert_eq!(search(&db, &selected, "poison").unwrap().dead_letters, []);
    }

    #[test]
    fn a_long_search_says_where_it_stopped_and_goes_on_from_there() {
        let (_folder, db) = history(1000);
        for (sort, most_letters, most_bytes) in [("newest", 100, 1 << 30), ("oldest", 5000, 2000)] {
            let mut selection = Selection { sort: Some(sort.into()), ..all() };
            let (mut found, mut looked_at, mut answers) = (Vec::new(), 0, 0);
            loop {
                let part =
                    search_within(&db, &selection, "poison", most_letters, most_bytes).unwrap();
                found.extend(ids(&part.dead_letters));
                looked_at += part.looked_at;
                answers += 1;
                let Some(stopped_at) = part.stopped_at else { break };
                selection.go_on_after(stopped_at);
            }
            assert_eq!((found, looked_at), (vec![777], 1000), "{sort}");
            assert!(answers >= 10, "{sort}: {answers}");
        }
        // A page that is full has not stopped early.
        let page = search(&db, &Selection { limit: 3, ..all() }, "order").unwrap();
        assert_eq!((ids(&page.dead_letters), page.stopped_at), (vec![1000, 999, 998], None));
    }
}
