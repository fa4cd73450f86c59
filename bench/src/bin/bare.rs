//! The ceiling: reads a topic with one client and throws the records away. No runs, no commit.
//!
//! Each client has mb's own settings, which are those that made it fastest. The last line on stdout
//! is what every contender prints: how much it read. Nothing is closed: the process' end is quicker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use argh::FromArgs;
use kafka::client::{FetchPartition, KafkaClient};
use mb_bench::queue::{self, Message};
use mb_bench::{LONGEST, Result, consumer, partitions};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Counts a topic's records by a bare client.
#[derive(FromArgs)]
struct Args {
    /// rdkafka-poll, rdkafka-queue, rdkafka-queue-headers or kafka
    #[argh(positional)]
    client: String,
    /// host:port
    #[argh(option)]
    bootstrap_server: String,
    /// topic to read from its beginning
    #[argh(option)]
    topic: String,
    /// end after so many records
    #[argh(option)]
    count: u64,
}

#[derive(Default)]
struct Seen {
    records: u64,
    bytes: u64,
}

impl Seen {
    fn add(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes as u64;
    }
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    let seen = match args.client.as_str() {
        "rdkafka-poll" => poll(&args)?,
        "rdkafka-queue" => by_queue(&args, false)?,
        "rdkafka-queue-headers" => by_queue(&args, true)?,
        "kafka" => pure(&args)?,
        other => return Err(format!("no client is called {other}").into()),
    };
    println!(r#"{{"records":{},"bytes":{}}}"#, seen.records, seen.bytes);
    Ok(())
}

fn poll(args: &Args) -> Result<Seen> {
    let consumer = consumer(&args.bootstrap_server, "bare")?;
    let mut from = TopicPartitionList::new();
    for partition in partitions(&consumer, &args.topic)? {
        from.add_partition_offset(&args.topic, partition, Offset::Offset(0))?;
    }
    consumer.assign(&from)?;
    let mut seen = Seen::default();
    while seen.records < args.count {
        let message = consumer.poll(LONGEST).ok_or("no record for 10 s")??;
        seen.add(message.payload().map_or(0, <[u8]>::len));
    }
    std::mem::forget(consumer);
    Ok(seen)
}

/// `headers`: asks for each record's headers, as whoever hands records on whole has to, mb among them.
fn by_queue(args: &Args, headers: bool) -> Result<Seen> {
    let consumer = consumer(&args.bootstrap_server, "bare")?;
    let mut seen = Seen::default();
    let add = |message: Option<Message<'_>>| {
        if let Some(message) = message {
            seen.add(message.value.len());
        }
        Ok(())
    };
    queue::read(&consumer, &args.topic, args.count, headers, add)?;
    std::mem::forget(consumer);
    Ok(seen)
}

fn pure(args: &Args) -> Result<Seen> {
    let mut client = KafkaClient::new(vec![args.bootstrap_server.clone()]);
    client.load_metadata(&[&args.topic])?;
    client.set_fetch_max_wait_time(Duration::from_millis(100))?;
    client.set_fetch_max_bytes_per_partition(1 << 20);
    let topics = client.topics();
    let known = topics.partitions(&args.topic).ok_or("no such topic")?;
    let mut next: BTreeMap<i32, i64> = known.iter().map(|partition| (partition.id(), 0)).collect();
    let mut seen = Seen::default();
    let (mut last_seen, mut last_at) = (0, Instant::now());
    while seen.records < args.count {
        if seen.records > last_seen {
            (last_seen, last_at) = (seen.records, Instant::now());
        } else if last_at.elapsed() > LONGEST {
            return Err("no record for 10 s".into());
        }
        let wanted: Vec<_> = next
            .iter()
            .map(|(partition, offset)| FetchPartition::new(&args.topic, *partition, *offset))
            .collect();
        for response in client.fetch_messages(&wanted)? {
            for partition in response.topics().iter().flat_map(|topic| topic.partitions()) {
                let data = partition.data()?;
                for message in data.messages() {
                    seen.add(message.value.len());
                }
                if let Some(last) = data.messages().last() {
                    next.insert(partition.partition(), last.offset + 1);
                }
            }
        }
    }
    Ok(seen)
}
