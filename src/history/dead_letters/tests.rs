//! Lists of dead letters, of a history made for it.

use std::time::Instant;

use rusqlite::Connection;

use super::*;
use crate::history::schema;

/// A history of open dead letters at offsets 1 to `letters` of partition 0, each with an error of seven kinds; number
/// 777 is poison.
pub(super) fn history(letters: i64) -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let db = schema::open(&folder.path().join(crate::history::FILE)).unwrap();
    db.execute_batch(&format!(
        "BEGIN;
         INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 'orders', '', 0);
         INSERT INTO scopes VALUES (2, 'kafka', '', 'g', 'orders', 'made again', 0);
         WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {letters})
         INSERT INTO dead_letters(scope, run, run_key, topic, partition, record_offset, timestamp_ms, key,
             value, error, attempts, at_ms)
         SELECT 1 + (id > {letters} / 2), 1, 'orders/0/1-{letters}', 'orders', 0, id, 1000 + id,
             CAST('key-' || id AS BLOB),
             CAST('{{\"order\":' || id || ',\"text\":\"' || iif(id = 777, 'POISON', 'tea') || '\"}}' AS BLOB),
             'exit code ' || (id % 7), 3, 2000 + id
         FROM n;
         COMMIT;"
    ))
    .unwrap();
    (folder, db)
}

pub(super) fn ids(rows: &[DeadLetterRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

pub(super) fn all() -> Selection {
    Selection { limit: 50, ..Selection::default() }
}

#[test]
fn dead_letters_are_sorted_and_pages_have_each_once() {
    let (_folder, db) = history(1000);
    for sort in SORTS {
        for error in [None, Some("exit".to_owned()), Some("code 3".to_owned())] {
            let mut selection = Selection { sort: Some(sort.into()), error, limit: 70, ..all() };
            let mut rows = Vec::new();
            loop {
                let page = list(&db, &selection).unwrap();
                let Some(last) = page.last().map(|last| last.id) else { break };
                selection.go_on_after(last);
                rows.extend(page);
            }
            let expected: i64 = db
                .query_row(
                    "SELECT count(*) FROM dead_letters WHERE ifnull(instr(error, ?1) > 0, true)",
                    [&selection.error],
                    |row| row.get(0),
                )
                .unwrap();
            let mut sorted = rows.clone();
            match sort {
                "newest" => sorted.sort_by_key(|row| -row.id),
                "oldest" => sorted.sort_by_key(|row| row.id),
                _ => sorted.sort_by(|a, b| a.error.cmp(&b.error).then(b.id.cmp(&a.id))),
            }
            assert_eq!(ids(&rows), ids(&sorted), "{sort}");
            sorted.dedup_by_key(|row| row.id);
            assert_eq!(sorted.len() as i64, expected, "{sort}");
        }
    }
}

#[test]
fn places_and_orders_that_there_are_not_are_errors_that_say_what_there_is() {
    let (_folder, db) = history(1);
    let refused = |selection: Selection| list(&db, &selection).unwrap_err().to_string();
    let sort = |sort: &str| Selection { sort: Some(sort.into()), ..all() };
    assert!(refused(sort("size")).contains("one of newest, oldest, error"));
    assert!(
        refused(Selection { after: Some(1), ..all() }).contains("before: goes with the newest")
    );
    assert!(refused(Selection { before: Some(1), ..sort("oldest") }).contains("any other order"));
    assert!(refused(Selection { after: Some(9), ..sort("error") }).contains("dead letter 9"));
    assert!(refused(Selection { state: Some("lost".into()), ..all() }).contains("open, redriving"));
}

#[test]
fn a_list_shows_the_beginnings_of_key_and_value() {
    let (_folder, db) = history(2);
    db.execute(
        "UPDATE dead_letters SET key = NULL, value = CAST(printf('%.*c', 500, 'x') AS BLOB) WHERE id = 2",
        [],
    )
    .unwrap();
    let rows = list(&db, &all()).unwrap();
    let shown = serde_json::to_value(&rows[0].preview).unwrap();
    let expected = serde_json::json!({ "key": null, "value": "x".repeat(120), "cut_bytes": 380 });
    assert_eq!(shown, expected);
    let shown = serde_json::to_value(&rows[1].preview).unwrap();
    assert_eq!((&shown["key"], shown.get("cut_bytes")), (&"key-1".into(), None));
}

#[test]
fn errors_are_counted_over_all_scopes_of_a_topic() {
    let (_folder, db) = history(700);
    db.execute("UPDATE dead_letters SET state = 3 WHERE id <= 7", []).unwrap();
    let open = Selection { state: Some("open".into()), ..all() };
    let counts: Vec<_> = errors(&db, &open).unwrap();
    assert_eq!(counts.len(), 7);
    assert!(counts.iter().all(|count| count.letters == 99 && count.topic == "orders"));
    let selected = Selection { error: Some("code 3".into()), state: Some("all".into()), ..all() };
    let counts: Vec<_> = errors(&db, &selected).unwrap();
    assert_eq!((counts.len(), counts[0].letters), (1, 100));
    let other = Selection { group: Some("other".into()), ..all() };
    assert_eq!(errors(&db, &other).unwrap(), []);
    let page = Selection { skip: 6, ..open };
    assert_eq!(errors(&db, &page).unwrap().len(), 1);
}

/// Not a test of speed, but a report of it: `cargo test --release --lib -- --ignored --nocapture
/// pages_of_many_dead_letters`.
#[test]
#[ignore = "a measurement"]
fn pages_of_many_dead_letters() {
    for value_bytes in [0, 1000, 20_000] {
        let (folder, db) = history(10_000);
        db.execute(
            "UPDATE dead_letters SET value = CAST(value || printf('%.*c', ?1, 'y') AS BLOB)",
            [value_bytes],
        )
        .unwrap();
        drop(db);
        let db = schema::open_read_only(&folder.path().join(crate::history::FILE)).unwrap();
        let measure = |what: &str, read: &dyn Fn() -> usize| {
            let mut times: Vec<_> = (0..5)
                .map(|_| {
                    let began = Instant::now();
                    read();
                    began.elapsed()
                })
                .collect();
            times.sort();
            let rows = read();
            eprintln!(
                "{value_bytes}, {what}: {:.1?}, longest {:.1?}, {rows} rows",
                times[2], times[4]
            );
        };
        let open = || Selection { state: Some("open".into()), ..all() };
        let by_error = || Selection { error: Some("code 3".into()), ..open() };
        measure("errors", &|| errors(&db, &open()).unwrap().len());
        for sort in SORTS {
            let sorted = |selection| Selection { sort: Some(sort.into()), ..selection };
            measure(sort, &|| list(&db, &sorted(open())).unwrap().len());
            measure(&format!("{sort}, an error"), &|| {
                list(&db, &sorted(by_error())).unwrap().len()
            });
            for text in ["poison", "nowhere"] {
                measure(&format!("{sort}, {text}"), &|| {
                    search(&db, &sorted(open()), text).unwrap().looked_at as usize
                });
            }
        }
    }
}
