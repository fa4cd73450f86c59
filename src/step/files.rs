//! The step that writes one NDJSON file per run. A file is complete or absent, and a repeated run replaces it.
//! The form of a line is in `record_json`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::shortage::{Next, Shortage};
use super::{Attempt, Step, StepError, record_json};
use crate::model::crash;
use crate::model::error::{Error, Result};
use crate::model::offset::{Lane, Reprocess, RunKey};
use crate::model::sync::Mutex;

const BUFFER_BYTES: usize = 64 * 1024;

/// Writes each run to `DIR/TOPIC/PARTITION/FIRST-LAST.ndjson` (`FIRST-LAST.lane-K-of-L.ndjson` for
/// a lane run), offsets padded with zeros to 20 digits so that names sort as numbers do.
///
/// The file is written as `.NAME.tmp` in the same folder, fsynced and renamed, and the folder is fsynced. So a
/// run that is done survives a power cut, and a reader of `*.ndjson` never sees half a file.
#[derive(Debug)]
pub struct FilesStep {
    dir: PathBuf,
    /// Partition folders that would survive a power cut, because their parents were fsynced.
    durable: Mutex<HashSet<PathBuf>>,
    shortage: Shortage,
}

impl FilesStep {
    pub fn new(dir: impl Into<PathBuf>) -> FilesStep {
        FilesStep { dir: dir.into(), durable: Mutex::default(), shortage: Shortage::default() }
    }

    fn folder(&self, key: &RunKey) -> PathBuf {
        self.dir.join(&*key.topic).join(key.partition.to_string())
    }

    /// Makes sure that the folder exists and would survive a power cut. The lock is held meanwhile: another
    /// worker that found the folder before it is fsynced would report a run as done that a power cut loses.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock();
        if !durable.contains(folder) {
            make_folder(folder)?;
            durable.insert(folder.to_owned());
        }
        Ok(())
    }

    fn create(&self, folder: &Path, temp: &Path) -> io::Result<File> {
        self.make_durable(folder)?;
        match File::create(temp) {
            // The folder was removed while mb runs.
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                self.durable.lock().remove(folder);
                self.make_durable(folder)?;
                File::create(temp)
            }
            outcome => outcome,
        }
    }
}

impl FilesStep {
    fn write_whole(&self, folder: &Path, name: &str, attempt: &Attempt<'_>) -> io::Result<()> {
        let temp = folder.join(format!(".{name}.tmp"));
        let file = self.create(folder, &temp)?;
        let written = write(file, attempt)
            .inspect(|()| crash::point("half-written"))
            .and_then(|()| fs::rename(&temp, folder.join(name)))
            .and_then(|()| sync_folder(folder));
        if written.is_err() {
            // On a full disk the half-written file would keep the room that the retry needs. An error of the
            // removal is ignored: the first error is reported, and after the rename there is nothing to remove.
            let _ = fs::remove_file(&temp);
        }
        written
    }
}

impl Step for FilesStep {
    fn name(&self) -> &str {
        "files"
    }

    fn prepare(&self, topic: &str) -> Result<()> {
        let folder = self.dir.join(topic);
        let check = || -> io::Result<()> {
            make_folder(&folder)?;
            // Folders that an earlier process made may not be on the disk yet.
            sync_folder(&self.dir)?;
            sync_folder(&folder)?;
            remove_leftovers(&folder)?;
            let probe = folder.join(".probe.tmp");
            File::create(&probe)?;
            fs::remove_file(&probe)
        };
        check().map_err(|cause| {
            Error::Config(format!(
                "--out: got {}, expected a folder that mb can write to: {}: {cause}",
                self.dir.display(),
                folder.display()
            ))
        })
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let folder = self.folder(attempt.key);
        let name = file_name(attempt.key);
        loop {
            let outcome = self.write_whole(&folder, &name, attempt);
            let doing = || format!("write {}", folder.join(&name).display());
            let cause = match outcome {
                Ok(()) => {
                    self.shortage.over("write files");
                    return Ok(());
                }
                Err(cause) => cause,
            };
            let next = match cause.kind() {
                // A folder has this file's name.
                ErrorKind::IsADirectory => Next::Failed,
                // The disk is full or broken, or the folder is gone or read-only. No record is to blame, so
                // the attempt waits; failing it would turn the backlog into dead letters.
                _ => self.shortage.wait_out(&doing(), &cause),
            };
            if let Some(error) = next.error(&doing(), &cause) {
                return Err(error);
            }
        }
    }

    fn stopping(&self) {
        self.shortage.stop();
    }

    fn abort(&self) {
        self.shortage.stop();
    }
}

fn file_name(key: &RunKey) -> String {
    let (first, last) = (key.range.first.get(), key.range.last.get());
    let lane = match key.lane {
        Lane::WHOLE => String::new(),
        Lane { index, count } => format!(".lane-{index}-of-{count}"),
    };
    let request = match key.reprocess {
        None => String::new(),
        Some(Reprocess::Redrive(request)) => format!(".redrive-{request}"),
        Some(Reprocess::Replay(request)) => format!(".replay-{request}"),
    };
    format!("{first:020}-{last:020}{lane}{request}.ndjson")
}

fn write(file: File, attempt: &Attempt<'_>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    record_json::write_lines(&mut out, attempt.key.partition, attempt.batch.records())?;
    out.flush()?;
    out.get_ref().sync_all()
}

/// Creates the folder and its missing ancestors, and fsyncs the parent of each.
fn make_folder(folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            make_folder(parent)?;
            match fs::create_dir(folder) {
                Err(cause) if cause.kind() != ErrorKind::AlreadyExists => return Err(cause),
                _ => {}
            }
        }
        Err(_) if folder.is_dir() => return Ok(()),
        Err(cause) => return Err(cause),
    }
    sync_folder(parent)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // The file system cannot fsync folders; POSIX prescribes EINVAL.
        Err(cause) if cause.kind() == ErrorKind::InvalidInput => Ok(()),
        outcome => outcome,
    }
}

/// Removes the half-written files of a killed process from the topic's folder and its partitions' folders.
fn remove_leftovers(topic_folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(topic_folder)? {
        let path = entry?.path();
        let partition =
            path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).is_some();
        if is_leftover(&path) {
            fs::remove_file(&path)?;
        } else if partition && path.is_dir() {
            for entry in fs::read_dir(&path)? {
                let path = entry?.path();
                if is_leftover(&path) {
                    fs::remove_file(&path)?;
                }
            }
        }
    }
    Ok(())
}

fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(b".tmp") && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{Batch, Record};
    use crate::model::offset::{Offset, OffsetRange};

    fn key(topic: &str, first: i64, last: i64) -> RunKey {
        RunKey::new(topic, 3, OffsetRange::new(Offset::new(first), Offset::new(last)))
    }

    fn batch(values: &[&[u8]]) -> Batch {
        let mut batch = Batch::default();
        for (offset, value) in values.iter().enumerate() {
            let offset = Offset::new(100 + offset as i64);
            let (timestamp, value) = (Some(5), Some(*value));
            batch.push(Record { offset, timestamp, value, ..Record::default() });
        }
        batch
    }

    fn run(step: &FilesStep, key: &RunKey, batch: &Batch) -> Result<(), StepError> {
        step.run(&mut Attempt::new(key, 1, batch))
    }

    /// Every file below `dir`, by its path from there, sorted.
    fn files(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_run_becomes_one_file_of_json_lines() {
        let dir = tempfile::tempdir().unwrap();
        let step = FilesStep::new(dir.path());
        step.prepare("a.b-c_9").unwrap();
        run(&step, &key("a.b-c_9", 100, 101), &batch(&[b"x", b"\xff"])).unwrap();
        let path = "a.b-c_9/3/00000000000000000100-00000000000000000101.ndjson";
        assert_eq!(files(dir.path()), [path]);
        assert_eq!(
            fs::read_to_string(dir.path().join(path)).unwrap(),
            "{\"partition\":3,\"offset\":100,\"timestamp\":5,\"key\":null,\"value\":\"x\"}\n\
             {\"partition\":3,\"offset\":101,\"timestamp\":5,\"key\":null,\"value_base64\":\"/w==\"}\n"
        );
    }

    #[test]
    fn a_lane_run_has_a_name_of_its_own() {
        let mut key = key("t", 0, i64::MAX);
        key.lane = Lane { index: 2, count: 5 };
        assert_eq!(file_name(&key), "00000000000000000000-09223372036854775807.lane-2-of-5.ndjson");
    }

    #[test]
    fn doing_a_run_again_replaces_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let step = FilesStep::new(dir.path());
        step.prepare("t").unwrap();
        run(&step, &key("t", 100, 102), &batch(&[b"a", b"b", b"c"])).unwrap();
        run(&step, &key("t", 100, 102), &batch(&[b"b"])).unwrap();
        let all = files(dir.path());
        assert_eq!(all.len(), 1, "{all:?}");
        let text = fs::read_to_string(dir.path().join(&all[0])).unwrap();
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn leftovers_of_this_topic_go_at_the_start_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["t/3", "t/notes", "other/3"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let kept = [
            "other/3/.7-8.ndjson.tmp",
            "t/3/.hidden",
            "t/3/7-8.ndjson",
            "t/3/plain.tmp",
            "t/notes/.mine.tmp",
        ];
        for file in kept.iter().copied().chain(["t/3/.7-8.ndjson.tmp", "t/.probe.tmp"]) {
            fs::write(dir.path().join(file), "half").unwrap();
        }
        FilesStep::new(dir.path()).prepare("t").unwrap();
        assert_eq!(files(dir.path()), kept);
    }

    #[test]
    fn a_folder_below_a_file_is_a_configuration_error_that_names_path_and_cause() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let out = file.join("out");
        let error = FilesStep::new(&out).prepare("t").unwrap_err();
        assert_eq!(error.exit_code(), 78);
        let text = error.to_string();
        assert!(text.contains(out.to_str().unwrap()), "{text}");
        assert!(text.contains("Not a directory (os error 20)"), "{text}");
    }

    #[test]
    fn a_folder_removed_while_mb_runs_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let step = FilesStep::new(dir.path().join("a/b"));
        step.prepare("t").unwrap();
        run(&step, &key("t", 100, 100), &batch(&[b"x"])).unwrap();
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        run(&step, &key("t", 100, 100), &batch(&[b"x"])).unwrap();
        assert_eq!(files(dir.path()).len(), 1);
    }

    #[test]
    fn a_failed_write_is_retried_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let step = FilesStep::new(dir.path());
        let key = key("t", 100, 100);
        // A folder in the file's place lets everything succeed but the rename.
        let path = step.folder(&key).join(file_name(&key));
        fs::create_dir_all(&path).unwrap();
        match run(&step, &key, &batch(&[b"x"])) {
            Err(StepError::Retry(text)) => assert!(text.contains(path.to_str().unwrap()), "{text}"),
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(files(dir.path()), [] as [&str; 0]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_waited_for_until_a_stop() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let step = FilesStep::new(&out);
        step.prepare("t").unwrap();
        fs::remove_dir_all(&out).unwrap();
        fs::write(&out, "no folder").unwrap();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run(&step, &key("t", 100, 100), &batch(&[b"x"])));
            fs::remove_file(&out).unwrap();
            running.join().unwrap().unwrap();
        });
        assert_eq!(files(&out).len(), 1);
        fs::remove_dir_all(&out).unwrap();
        fs::write(&out, "no folder").unwrap();
        step.stopping();
        let outcome = run(&step, &key("t", 100, 100), &batch(&[b"x"]));
        assert!(matches!(outcome, Err(StepError::NotDone(_))), "{outcome:?}");
    }

    #[test]
    fn an_empty_batch_is_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let step = FilesStep::new(dir.path());
        run(&step, &key("t", 100, 109), &Batch::default()).unwrap();
        let all = files(dir.path());
        assert_eq!(fs::read(dir.path().join(&all[0])).unwrap(), b"");
    }
}
