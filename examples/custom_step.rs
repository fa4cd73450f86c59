//! A step of your own: counts the records of each key and writes one file per run.
//!
//! Try it: `cargo run --release --example custom_step`, then look into the folder `counts`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use mb::{Attempt, Builder, Client, Step, StepError};

/// Counts the records of each key. The file is named after the run, so a run that is repeated replaces
/// its file: every batch counts exactly once, whatever happens.
struct CountByKey {
    folder: PathBuf,
}

impl Step for CountByKey {
    fn name(&self) -> &str {
        "count-by-key"
    }

    fn prepare(&self, _topic: &str) -> mb::Result<()> {
        fs::create_dir_all(&self.folder).map_err(|cause| {
            mb::Error::Config(format!("cannot create {}: {cause}", self.folder.display()))
        })
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for record in attempt.batch.records() {
            let key = String::from_utf8_lossy(record.key.unwrap_or(b"(none)")).into_owned();
            *counts.entry(key).or_default() += 1;
        }
        let lines: String = counts.iter().map(|(key, n)| format!("{key}\t{n}\n")).collect();
        let name = attempt.key.to_string().replace('/', "-");
        let unfinished = self.folder.join(format!(".{name}.tmp"));
        // An I/O error fails the attempt, which is retried up to `max_attempts` times.
        fs::write(&unfinished, lines)?;
        fs::rename(unfinished, self.folder.join(format!("{name}.tsv")))?;
        attempt.output = Some(format!("{} keys", counts.len()));
        Ok(())
    }
}

fn main() -> mb::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let summary = Builder::new(CountByKey { folder: PathBuf::from("counts") })
        .data_dir("custom-step-data")
        .max_batch(1000)
        .configure(|config| {
            // To try it without Kafka: a topic in the data directory, and a slow producer. With Kafka, call
            // bootstrap_server() instead.
            config.connection.client = Client::Embedded;
            config.produce =
                Some(mb::Produce { rate: 100.0, count: None, message_bytes: 100, keys: 5 });
        })
        .run_until_signal()?;
    println!("{} records in {} runs", summary.records_processed, summary.runs_succeeded);
    Ok(())
}
