//! What mb has processed, gathered while it works: each finished file once, and at the end all of
//! them again. Judging it is in `oracle`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::files::{FileRecord, read_file};

/// A run by its key within the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    pub lane: u32,
    pub lanes: u32,
}

/// The files of a topic.
#[derive(Debug)]
pub struct Collected {
    folder: PathBuf,
    pub runs: BTreeMap<Run, Vec<FileRecord>>,
    /// By partition: the first offset that is not done, and those done above it.
    fronts: BTreeMap<i32, (i64, BTreeSet<i64>)>,
    /// Records, each as often as it is in a run.
    pub done: usize,
}

impl Collected {
    pub fn new(out: &Path, topic: &str) -> Collected {
        Collected {
            folder: out.join(topic),
            runs: BTreeMap::new(),
            fronts: BTreeMap::new(),
            done: 0,
        }
    }

    /// Takes in the files that are new.
    pub fn look(&mut self) {
        for partition in fs::read_dir(&self.folder).into_iter().flatten() {
            let partition = partition.expect("an entry");
            let name = partition.file_name().into_string().expect("a name in UTF-8");
            // A start of mb tries whether it can write here.
            if name.starts_with('.') {
                continue;
            }
            let number: i32 = name.parse().expect("a folder per partition");
            for file in fs::read_dir(partition.path()).into_iter().flatten() {
                let file = file.expect("an entry");
                let name = file.file_name().into_string().expect("a name in UTF-8");
                // Hidden ones are still being written.
                let Some(key) = name.strip_suffix(".ndjson").filter(|key| !key.starts_with('.'))
                else {
                    continue;
                };
                let run = run(number, key);
                if !self.runs.contains_key(&run) {
                    self.add(run, read_file(&file.path()));
                }
            }
        }
    }

    fn add(&mut self, run: Run, records: Vec<FileRecord>) {
        let (front, above) = self.fronts.entry(run.partition).or_default();
        for record in &records {
            assert_eq!(record.partition, run.partition, "{run:?}");
            assert!((run.first..=run.last).contains(&record.offset), "{run:?}: {record:?}");
            above.insert(record.offset);
        }
        while above.remove(front) {
            *front += 1;
        }
        self.done += records.len();
        self.runs.insert(run, records);
    }

    /// The first offset of the partition that is not done.
    pub fn done_up_to(&self, partition: i32) -> i64 {
        self.fronts.get(&partition).map_or(0, |(front, _)| *front)
    }

    /// The same files, read anew.
    pub fn again(&self) -> Collected {
        let mut again =
            Collected { folder: self.folder.clone(), ..Collected::new(Path::new(""), "") };
        again.look();
        again
    }
}

/// `FIRST-LAST` or `FIRST-LAST.lane-K-of-L`.
fn run(partition: i32, key: &str) -> Run {
    let parsed = || {
        let (range, lane) = key.split_once(".lane-").unwrap_or((key, "0-of-1"));
        let (first, last) = range.split_once('-')?;
        let (lane, lanes) = lane.split_once("-of-")?;
        Some(Run {
            partition,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            lane: lane.parse().ok()?,
            lanes: lanes.parse().ok()?,
        })
    };
    parsed().unwrap_or_else(|| panic!("no run's key: {key}"))
}
