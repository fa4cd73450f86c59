//! Kafka's own VerifiableProducer as a process: it writes at a rate and says of each message whether
//! it was acknowledged, and where it is.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::files::FileRecord;
use crate::support::kafka::Kafka;

/// It gives up on a message after 120 s of its own.
const STOP_LIMIT: Duration = Duration::from_secs(150);
/// The pipe closes with the test process, however that ends.
const SUPERVISOR: &str = r#"
"$0" run verifiable-producer "$@" </dev/null 2>/dev/null &
producer=$!
read -r _ || :
kill -TERM "$producer"
wait "$producer"
"#;

/// A running VerifiableProducer. Dropping it stops it.
pub struct Verifiable {
    child: Child,
    said: Arc<Mutex<Said>>,
    reader: Option<JoinHandle<()>>,
}

/// What it has said by now.
#[derive(Debug, Default)]
pub struct Said {
    pub acknowledged: Vec<FileRecord>,
    pub refused: u64,
}

impl Verifiable {
    pub fn start(kafka: &Kafka, topic: &str, per_second: u64, keys: u64) -> Verifiable {
        let (rate, keys) = (per_second.to_string(), keys.to_string());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
        let mut child = Command::new("bash")
            .args(["-c", SUPERVISOR])
            .arg(script)
            .args(["--topic", topic, "--throughput", &rate, "--repeating-keys", &keys])
            .env("KAFKA_VERSION", kafka.version())
            .env("KAFKA_PORT", kafka.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash starts");
        let said = Arc::<Mutex<Said>>::default();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let its = Arc::clone(&said);
        let reader = thread::spawn(move || read(stdout, &its));
        Verifiable { child, said, reader: Some(reader) }
    }

    /// How many messages were acknowledged by now.
    pub fn acknowledged(&self) -> usize {
        lock(&self.said).acknowledged.len()
    }

    /// Lets it send what it has, and returns all that it said.
    pub fn stop(mut self) -> Said {
        drop(self.child.stdin.take());
        eventually(STOP_LIMIT, "the producer ends", || {
            self.child.try_wait().expect("the producer can be waited for").is_some()
        });
        self.reader.take().expect("stopped once").join().expect("the producer's lines are whole");
        std::mem::take(&mut *lock(&self.said))
    }
}

impl Drop for Verifiable {
    fn drop(&mut self) {
        // Its supervisor does the rest.
        drop(self.child.stdin.take());
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(stdout: impl Read, said: &Mutex<Said>) {
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("a line in UTF-8");
        let json: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let bytes = |name: &str| json[name].as_str().map(|text| text.as_bytes().to_vec());
        match json["name"].as_str() {
            Some("producer_send_success") => {
                let number = |name: &str| json[name].as_i64().expect("a number");
                lock(said).acknowledged.push(FileRecord {
                    partition: number("partition").try_into().expect("a partition"),
                    offset: number("offset"),
                    key: bytes("key"),
                    value: bytes("value"),
                    headers: Vec::new(),
                });
            }
            Some("producer_send_error") => lock(said).refused += 1,
            _ => {}
        }
    }
}
