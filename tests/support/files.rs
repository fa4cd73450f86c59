//! Reads what `--step files` wrote: `DIR/TOPIC/PARTITION/FIRST-LAST.ndjson`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A record as a file has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileRecord {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// All that the step has written for a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// By run key (`TOPIC/PARTITION/FIRST-LAST`): its records, in the order of the file.
    pub runs: BTreeMap<String, Vec<FileRecord>>,
}

impl Files {
    /// Reads all finished files beneath `dir` (hidden ones are still being written).
    ///
    /// # Panics
    /// Where a file is not as it should be: another name, a line that is no record, a record of
    /// another partition or range.
    pub fn read(dir: &Path, topic: &str) -> Files {
        let mut files = Files::default();
        for folder in entries(&dir.join(topic)) {
            let partition: i32 = name(&folder).parse().expect("a folder per partition");
            for path in entries(&folder) {
                let (first, last) = range(&path);
                let records = read_file(&path);
                for record in &records {
                    assert_eq!(record.partition, partition, "{}", path.display());
                    assert!((first..=last).contains(&record.offset), "{}", path.display());
                }
                files.runs.insert(format!("{topic}/{partition}/{first}-{last}"), records);
            }
        }
        files
    }

    /// All records, in the order of partition and offset, as often as they are there.
    pub fn records(&self) -> Vec<FileRecord> {
        let mut records: Vec<_> = self.runs.values().flatten().cloned().collect();
        records.sort();
        records
    }
}

/// Holds what came out against what the topic holds, both in the order of partition and offset.
///
/// # Panics
/// Where they differ, with the first difference.
pub fn assert_same(got: &[FileRecord], expected: &[FileRecord]) {
    let differing = got.iter().zip(expected).position(|(got, expected)| got != expected);
    let at = differing.unwrap_or(got.len().min(expected.len()));
    assert!(
        got.len() == expected.len() && differing.is_none(),
        "{} records instead of {}; the first difference: {:?} instead of {:?}",
        got.len(),
        expected.len(),
        got.get(at),
        expected.get(at)
    );
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
    paths.filter(|path| !name(path).starts_with('.')).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8")
}

fn range(path: &Path) -> (i64, i64) {
    let ends = name(path).strip_suffix(".ndjson").and_then(|stem| stem.split_once('-'));
    let (first, last) = ends.unwrap_or_else(|| panic!("no FIRST-LAST.ndjson: {}", path.display()));
    assert!(first.len() == 20 && last.len() == 20, "20 digits each: {}", path.display());
    (first.parse().expect("a number"), last.parse().expect("a number"))
}

/// The records of one finished file.
///
/// # Panics
/// Where a line is no record.
pub fn read_file(path: &Path) -> Vec<FileRecord> {
    let text = fs::read_to_string(path).expect("a readable file");
    text.lines()
        .map(|line| {
            let json: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}: {error}: {line}", path.display()));
            let number = |name| json[name].as_i64().unwrap_or_else(|| panic!("no {name}: {line}"));
            let value = |json| bytes(json, "value", "value_base64");
            let header = |json| (bytes(json, "key", "key_base64").expect("a key"), value(json));
            FileRecord {
                partition: number("partition").try_into().expect("a partition"),
                offset: number("offset"),
                key: bytes(&json, "key", "key_base64"),
                value: value(&json),
                headers: json["headers"].as_array().into_iter().flatten().map(header).collect(),
            }
        })
        .collect()
}

fn bytes(json: &Value, text: &str, base64: &str) -> Option<Vec<u8>> {
    match (&json[text], &json[base64]) {
        (Value::String(text), Value::Null) => Some(text.clone().into_bytes()),
        (Value::Null, Value::String(text)) => Some(STANDARD.decode(text).expect("base64")),
        (Value::Null, Value::Null) => None,
        _ => panic!("both {text} and {base64}, or neither as text: {json}"),
    }
}
