//! A data directory with records in its embedded topic, what mb says when it refuses something, and
//! the proof that nothing was lost by it.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mb::kafka::embedded::{Embedded, FILE};
use mb::kafka::{Broker, Message, Sent};
use mb::model::offset::{Offset, Partition};

use crate::support::files::{FileRecord, Files, assert_same};
use crate::support::mb::Mb;

pub const TOPIC: &str = "orders";
/// Far above what anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: i64 = 40;

pub type Header<'a> = (&'a str, Option<&'a [u8]>);

pub struct Data {
    dir: tempfile::TempDir,
    folder: PathBuf,
    posted: Vec<FileRecord>,
}

impl Data {
    pub fn empty() -> Data {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        Data::at(dir, folder)
    }

    fn at(dir: tempfile::TempDir, folder: PathBuf) -> Data {
        let topics = Embedded::open(&folder, 1 << 30).unwrap();
        topics.create_topic(TOPIC, 1).unwrap();
        Data { dir, folder, posted: Vec::new() }
    }

    /// Forty small records, the first ten of which are committed.
    pub fn with_records() -> Data {
        Data::filled(Data::empty())
    }

    /// The same on a file system that is `dir`.
    pub fn with_records_on(dir: tempfile::TempDir) -> Data {
        let folder = dir.path().join("data");
        Data::filled(Data::at(dir, folder))
    }

    fn filled(mut data: Data) -> Data {
        for number in 0..RECORDS {
            data.post(None, Some(format!("value {number}").as_bytes()), &[]);
        }
        data.topics().commit("mb", TOPIC, &[(0, Offset::new(10))]).unwrap();
        data
    }

    pub fn post(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) {
        let topics = self.topics();
        let mut producer = topics.producer(TOPIC).unwrap();
        let message = Message { partition: 0, key, value, headers };
        assert_eq!(producer.send(message, LIMIT).unwrap(), Sent::Accepted);
        assert_eq!(producer.flush(LIMIT).unwrap(), 0);
        let offset = self.posted.len() as i64;
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        let header =
            |(key, value): &Header<'_>| (key.as_bytes().to_vec(), value.map(<[u8]>::to_vec));
        let headers = headers.iter().map(header).collect();
        self.posted.push(FileRecord { partition: 0, offset, key, value, headers });
    }

    /// All records of the topic.
    pub fn posted(&self) -> &[FileRecord] {
        &self.posted
    }

    /// Only while no mb runs.
    fn topics(&self) -> Embedded {
        Embedded::open(&self.folder, 1 << 30).unwrap()
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The topic's file, whole: its journal is written back before.
    pub fn topic_file(&self) -> PathBuf {
        let path = self.file(FILE);
        let db = rusqlite::Connection::open(&path).unwrap();
        db.pragma_update(None, "journal_mode", "DELETE").unwrap();
        path
    }

    /// A path beside the data directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn committed(&self) -> BTreeMap<Partition, Offset> {
        let answers = self.topics().committed("mb", TOPIC, &[0]).unwrap().into_iter();
        let offsets = answers.map(|(partition, offset)| (partition, offset.unwrap()));
        offsets.filter_map(|(partition, offset)| Some((partition, offset?))).collect()
    }

    /// Settings of a pipeline in this process, which ends when it is caught up.
    pub fn config(&self) -> mb::Config {
        mb::Config {
            connection: mb::config::Connection {
                topic: TOPIC.to_owned(),
                client: mb::Client::Embedded,
                data_dir: self.folder.clone(),
                ..mb::config::Connection::default()
            },
            until_caught_up: true,
            ..mb::Config::default()
        }
    }

    /// Starts mb on it.
    pub fn start(&self, more: &[&str]) -> Mb {
        let base = ["--client", "embedded", "--topic", TOPIC, "--listen", "off"];
        Mb::start_in(&self.folder, &[&base, more].concat())
    }

    /// Runs mb to its end, which is a good one.
    pub fn run(&self, more: &[&str]) -> Mb {
        let mut mb = self.start(&[more, &["--until-caught-up"]].concat());
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        mb
    }

    /// mb refuses `more`: see `refusal`.
    pub fn refused(&self, code: i32, more: &[&str], words: &[&str]) -> String {
        refusal(self.start(more), code, words)
    }

    /// A good start processes every record from the committed offset on, each once.
    pub fn assert_nothing_lost(&self) {
        let from = self.committed().get(&0).map_or(0, |offset| offset.get());
        let out = self.beside("proof");
        self.run(&["--step", "files", "--out", out.to_str().unwrap()]);
        let expected: Vec<_> =
            self.posted.iter().filter(|record| record.offset >= from).cloned().collect();
        assert_same(&Files::read(&out, TOPIC).records(), &expected);
        let end = Offset::new(self.posted.len() as i64);
        assert_eq!(self.committed()[&0], end);
    }

    /// Where the offsets of `with_records` are, and that nothing moved them.
    pub fn assert_offsets_unmoved(&self) {
        assert_eq!(self.committed()[&0], Offset::new(10));
    }
}

/// Waits for mb's end with `code`, after one line that has all of `words` beside its log.
pub fn refusal(mut mb: Mb, code: i32, words: &[&str]) -> String {
    let status = mb.wait(LIMIT);
    let said = mb.stderr();
    let text = said.join("\n");
    assert_eq!(status.code(), Some(code), "{text}");
    let lines: Vec<_> = said.iter().filter(|line| !line.starts_with('[')).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("mb: "), "one line beside the log: {text}");
    calm(&text);
    for word in words {
        assert!(lines[0].contains(word), "{word} in {}", lines[0]);
    }
    lines[0].clone()
}

/// No panic, no backtrace, nothing that steers a terminal.
pub fn calm(text: &str) {
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    let steering = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(steering), "{text:?}");
}
