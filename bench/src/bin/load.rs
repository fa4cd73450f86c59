//! Writes a topic with a bare librdkafka: as many records as asked for, at once or at a pace.
//!
//! A program of its own, because a child's peak memory begins with its parent's: the harness, which
//! starts the contenders, must stay small.

use std::time::{Duration, Instant};

use argh::FromArgs;
use mb_bench::{Noise, Result, monotonic_ns, partitions, producer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

/// Writes records to a topic.
#[derive(FromArgs)]
struct Args {
    /// fill (any settings that make it quick), produce (mb's settings, as fast as it goes) or paced
    /// (each value opens with its time and its number; nothing waits for company)
    #[argh(positional)]
    mode: String,
    /// host:port
    #[argh(option)]
    bootstrap_server: String,
    /// a topic that is there
    #[argh(option)]
    topic: String,
    /// records in all
    #[argh(option)]
    count: u64,
    /// bytes of a value (default 100)
    #[argh(option, default = "100")]
    bytes: usize,
    /// paced: records a second
    #[argh(option, default = "1000.0")]
    rate: f64,
}

/// Records that go to one partition in a row where nobody cares: about one batch of 16 KiB.
const IN_A_ROW: u64 = 150;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);

/// Keeps the first record that the broker did not take.
#[derive(Default)]
struct Failed(std::sync::OnceLock<KafkaError>);

impl ClientContext for Failed {}

impl ProducerContext for Failed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let _ = self.0.set(error.clone());
        }
    }
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    let producer: BaseProducer<Failed> = match args.mode.as_str() {
        "fill" => filling(&args.bootstrap_server),
        "produce" => producer(&args.bootstrap_server, 5),
        "paced" => producer(&args.bootstrap_server, 0),
        other => return Err(format!("no mode is called {other}").into()),
    }
    .create_with_context(Failed::default())?;
    let partitions = {
        let consumer = mb_bench::consumer(&args.bootstrap_server, "load")?;
        partitions(&consumer, &args.topic)?
    };
    if args.mode == "paced" {
        paced(&args, &producer, &partitions)?;
    } else {
        at_once(&args, &producer, &partitions)?;
    }
    producer.flush(FLUSH_LIMIT)?;
    if let Some(error) = producer.context().0.get() {
        return Err(error.to_string().into());
    }
    println!(r#"{{"records":{},"bytes":{}}}"#, args.count, args.count * args.bytes as u64);
    Ok(())
}

/// Batches as Kafka's own producer makes them by default (16 KiB): their size is what consumers feel.
fn filling(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("acks", "1")
        .set("batch.size", "16384")
        .set("linger.ms", "20")
        .set("compression.type", "none")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "131072");
    config
}

/// Each partition gets its equal share, the first ones what does not divide.
fn at_once(args: &Args, producer: &BaseProducer<Failed>, partitions: &[i32]) -> Result<()> {
    let in_a_row = if args.mode == "fill" { IN_A_ROW } else { 1 };
    let share = args.count / partitions.len() as u64;
    let rest = args.count % partitions.len() as u64;
    let mut left: Vec<(i32, u64)> = (0u64..)
        .zip(partitions)
        .map(|(index, partition)| (*partition, share + u64::from(index < rest)))
        .collect();
    let (mut noise, mut value) = (Noise(1), vec![0; args.bytes]);
    while !left.is_empty() {
        for (partition, left) in &mut left {
            for _ in 0..in_a_row.min(*left) {
                noise.fill(&mut value);
                send(producer, &args.topic, *partition, &value)?;
                *left -= 1;
            }
        }
        left.retain(|(_, left)| *left > 0);
        producer.poll(Duration::ZERO);
    }
    Ok(())
}

fn paced(args: &Args, producer: &BaseProducer<Failed>, partitions: &[i32]) -> Result<()> {
    let (mut noise, mut value) = (Noise(1), vec![0; args.bytes]);
    noise.fill(&mut value);
    let start = Instant::now();
    for number in 0..args.count {
        let due = start + Duration::from_secs_f64(number as f64 / args.rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        value[8..16].copy_from_slice(&number.to_le_bytes());
        value[..8].copy_from_slice(&monotonic_ns().to_le_bytes());
        let partition = partitions[number as usize % partitions.len()];
        send(producer, &args.topic, partition, &value)?;
        producer.poll(Duration::ZERO);
    }
    Ok(())
}

fn send(producer: &BaseProducer<Failed>, topic: &str, partition: i32, value: &[u8]) -> Result<()> {
    loop {
        let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(value);
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
