//! Lists of runs and ticks, of histories made for it.

use std::time::Instant;

use rusqlite::Connection;

use super::*;
use crate::history::schema;
use crate::model::live::Running;
use crate::model::offset::{Offset, OffsetRange, RunKey};
use crate::model::run::RunId;

/// A history of `runs` runs: every 100th failed with an error, the last 20 queued, each 1 ms after
/// the one before.
fn history(runs: i64) -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let db = schema::open(&folder.path().join(crate::history::FILE)).unwrap();
    db.execute_batch(&format!(
        "BEGIN;
         INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 'orders', '', 0);
         WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {runs})
         INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, records, bytes,
             state, attempts, queued_ms, started_ms, ended_ms, run_us, worker, error, output)
         SELECT id, 1, 'rdkafka', id % 8, id * 50, id * 50 + 49, 50, 1000 + id * 7919 % 1000,
             CASE WHEN id > {runs} - 20 THEN 0 WHEN id % 100 = 0 THEN 3 ELSE 2 END, 1, 1000 + id,
             iif(id > {runs} - 20, NULL, 1000 + id + id * 7919 % 500), 9000 + id,
             id * 104729 % 5000, id % 5,
             iif(id % 100 = 0, 'exit code ' || (id / 100 % 7) || ': No route to Host', NULL),
             'done with batch ' || id || char(10) || printf('%.*c', 200, '.')
         FROM n;
         COMMIT;"
    ))
    .unwrap();
    (folder, db)
}

fn ids(rows: &[RunRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

fn all() -> Selection {
    Selection { limit: 50, ..Selection::default() }
}

fn of_state(state: &str) -> Selection {
    Selection { state: Some(state.into()), ..all() }
}

fn running(id: i64) -> Running {
    let range = OffsetRange::new(Offset::new(id * 50), Offset::new(id * 50 + 49));
    Running {
        worker: 3,
        id: RunId(id),
        key: RunKey::new("orders", 0, range),
        attempt: 1,
        since: Instant::now(),
        stalled: false,
    }
}

#[test]
fn what_a_run_printed_is_found_wherever_it_is_kept() {
    let (_folder, db) = history(4);
    db.execute_batch(
        "UPDATE runs SET output = NULL, error = NULL;
         UPDATE runs SET output = 'kept by an earlier version' WHERE id = 1;
         INSERT INTO attempts VALUES (2, 1, 0, 0, 0, 'bad', 'of an attempt before');
         INSERT INTO outputs VALUES (2, 'all good');
         UPDATE runs SET error = 'bad' WHERE id = 3;
         INSERT INTO attempts VALUES (3, 1, 0, 0, 0, 'bad', 'first'), (3, 2, 0, 0, 0, 'bad', 'last');
         INSERT INTO attempts VALUES (4, 1, 0, 0, 0, 'bad', 'of an attempt before');",
    )
    .unwrap();
    let outputs = [1, 2, 3, 4].map(|id| run(&db, id).unwrap().unwrap().output);
    let expected = [Some("kept by an earlier version"), Some("all good"), Some("last"), None];
    assert_eq!(outputs, expected.map(|text| text.map(str::to_owned)));
}

#[test]
fn what_runs_is_not_among_the_queued_ones() {
    let (_folder, db) = history(1000);
    let now = [running(985), running(990), running(5000)];
    let queued = runs_now(&db, &of_state("queued"), &now).unwrap();
    assert_eq!(queued.len(), 18);
    assert!(!ids(&queued).contains(&985) && queued.iter().all(|row| row.state == "queued"));
    let runs = runs_now(&db, &of_state("running"), &now).unwrap();
    assert_eq!(ids(&runs), [990, 985]);
    assert!(runs.iter().all(|row| row.state == "running" && row.worker == Some(3)));
    assert!(runs.iter().all(|row| row.started_ms.is_some() && row.wait_ms.is_some()));
    let newest = runs_now(&db, &all(), &now).unwrap();
    assert_eq!(newest.iter().filter(|row| row.state == "running").count(), 2);
    let counts = counts(&db, &now).unwrap();
    let expected = RunCounts { queued: 18, running: 2, succeeded: 971, failed: 9, split: 0 };
    assert_eq!(counts, expected);
    assert_eq!(runs_now(&db, &of_state("running"), &[]).unwrap(), []);
}

#[test]
fn runs_are_chosen_by_error_partition_and_time() {
    let (_folder, db) = history(2000);
    let chosen = |selection: Selection| ids(&runs(&db, &selection).unwrap());
    let error = |text: &str| Selection { error: Some(text.into()), ..all() };
    assert_eq!(chosen(error("CODE 3: no ROUTE")), [1700, 1000, 300]);
    assert_eq!(chosen(error("100%")), [0i64; 0], "no pattern: text");
    let eighth = Selection { partition: Some(4), error: Some("code".into()), ..all() };
    assert_eq!(chosen(eighth), [1900, 1700, 1500, 1300, 1100, 900, 700, 500, 300, 100]);
    let between = Selection { since: Some(1500), until: Some(1503), ..all() };
    assert_eq!(chosen(between), [502, 501, 500]);
    let other = Selection { topic: Some("payments".into()), ..all() };
    assert_eq!(chosen(other), [0i64; 0]);
    let mine = Selection { topic: Some("orders".into()), group: Some("g".into()), ..all() };
    assert_eq!(chosen(mine).len(), 50);
}

#[test]
fn runs_are_sorted_by_each_column_and_paged() {
    let (_folder, db) = history(2000);
    for (sort, _) in SORTS {
        for order in ["asc", "desc"] {
            let page = |skip| {
                let (sort, order) = (Some(sort.into()), Some(order.into()));
                runs(&db, &Selection { sort, order, skip, limit: 700, ..Selection::default() })
            };
            let mut rows = Vec::new();
            for skip in [0, 700, 1400] {
                rows.extend(page(skip).unwrap());
            }
            let figure = |row: &RunRow| match sort {
                "records" => Some(row.records as f64),
                "bytes" => Some(row.bytes as f64),
                "attempts" => Some(f64::from(row.attempts)),
                "queued" => Some(row.queued_ms as f64),
                "wait" => row.wait_ms,
                "run_time" => row.run_ms,
                _ => Some(row.id as f64),
            };
            let figures: Vec<f64> = rows.iter().filter_map(figure).collect();
            let sorted = |pair: &[f64]| match order {
                "asc" => pair[0] <= pair[1],
                _ => pair[0] >= pair[1],
            };
            assert!(figures.windows(2).all(sorted), "{sort} {order}");
            let distinct: std::collections::BTreeSet<i64> = ids(&rows).into_iter().collect();
            assert_eq!((rows.len(), distinct.len()), (2000, 2000), "{sort} {order}");
            let last = rows.last().unwrap();
            assert!(sort != "wait" || last.started_ms.is_none(), "without a figure: at the end");
        }
    }
}

#[test]
fn what_cannot_be_sorted_by_is_an_error_that_says_what_can() {
    let (_folder, db) = history(1);
    let sort = |sort: &str, order: &str| {
        let (sort, order) = (Some(sort.into()), Some(order.into()));
        runs(&db, &Selection { sort, order, ..all() }).unwrap_err().to_string()
    };
    assert!(sort("error; DROP TABLE runs", "asc").contains("one of id, records, bytes"));
    assert!(sort("id", "up").contains("asc or desc"));
}

#[test]
fn ticks_are_chosen_by_how_they_ended_and_whether_they_found_something() {
    let (_folder, db) = history(1);
    db.execute_batch(
        "INSERT INTO ticks VALUES
             (1, 1, 0, 10, 1500, 5, 100, 1, 'runtime', NULL),
             (2, 1, 0, 20, 1500, 0, 0, 0, 'runtime', NULL),
             (3, 1, 0, 30, 1500, 0, 0, 0, 'error', 'refused'),
             (4, 1, 0, 40, 1500, 9, 100, 2, 'queue-full', NULL);",
    )
    .unwrap();
    let chosen = |selection: TickSelection| {
        let rows = ticks(&db, &selection).unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = || TickSelection { limit: 10, ..TickSelection::default() };
    assert_eq!(chosen(all()), [4, 3, 2, 1]);
    assert_eq!(chosen(TickSelection { busy: true, ..all() }), [4, 3, 1]);
    assert_eq!(chosen(TickSelection { ended_by: Some("runtime".into()), ..all() }), [2, 1]);
    assert_eq!(chosen(TickSelection { before: Some(4), limit: 1, ..all() }), [3]);
    assert_eq!(ticks(&db, &all()).unwrap()[1].error.as_deref(), Some("refused"));
}

/// Not a test of speed, but a report of it: `cargo test --release --lib -- --ignored --nocapture
/// pages_of_a_long_history`.
#[test]
#[ignore = "a measurement"]
fn pages_of_a_long_history() {
    let (folder, db) = history(100_000);
    drop(db);
    let db = schema::open_read_only(&folder.path().join(crate::history::FILE)).unwrap();
    let measure = |what: &str, read: &dyn Fn() -> usize| {
        let mut times: Vec<_> = (0..5)
            .map(|_| {
                let began = Instant::now();
                (read(), began.elapsed())
            })
            .map(|(_, time)| time)
            .collect();
        times.sort();
        eprintln!("{what}: {:.1?} (longest {:.1?}), {} rows", times[2], times[4], read());
    };
    let page = |selection: &Selection| runs(&db, selection).unwrap().len();
    measure("newest", &|| page(&all()));
    for state in ["queued", "succeeded", "failed", "halted", "split"] {
        measure(state, &|| page(&of_state(state)));
    }
    for error in ["code 3", "nowhere"] {
        measure(error, &|| page(&Selection { error: Some(error.into()), ..all() }));
    }
    let failed = Selection { error: Some("nowhere".into()), ..of_state("failed") };
    measure("nowhere, failed", &|| page(&failed));
    measure("a partition", &|| page(&Selection { partition: Some(3), ..all() }));
    measure("no partition", &|| page(&Selection { partition: Some(99), ..all() }));
    measure("early", &|| page(&Selection { until: Some(1100), ..all() }));
    for (sort, _) in SORTS {
        measure(sort, &|| page(&Selection { sort: Some(sort.into()), ..all() }));
        let far = Selection { sort: Some(sort.into()), skip: 90_000, ..all() };
        measure(&format!("{sort}, far"), &|| page(&far));
    }
    measure("counts", &|| usize::from(counts(&db, &[running(5)]).unwrap().running > 0));
}
