//! A cluster of three Kafka brokers on loopback, each broker and controller in one process, started
//! by the same script as a single one. Everything is kept three times, and two must have a write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::kafka::{Kafka, alive};
use super::{eventually, eventually_some, free_port};

/// Brokers of a cluster; also how often each record is kept.
pub const BROKERS: usize = 3;
/// Partitions of `__consumer_offsets`: a group's coordinator leads one of them.
const OFFSETS_PARTITIONS: usize = 3;
/// One question to the cluster.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Until every replica has caught up with its leader after a restart.
const IN_SYNC_LIMIT: Duration = Duration::from_secs(60);

/// Where Kafka keeps what groups have committed.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// More messages than any test waits for: a producer whose test was killed ends by itself.
const MOST_MESSAGES: &str = "300000";

/// Three brokers. Dropping it kills them and removes their folders.
pub struct Cluster {
    /// Node 1 first.
    nodes: Vec<Kafka>,
}

/// The partition of `OFFSETS_TOPIC` that has the group's offsets: by Java's hash of its name.
pub fn offsets_partition(group: &str) -> i32 {
    let mix = |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    let partitions = i32::try_from(OFFSETS_PARTITIONS).expect("a small number");
    (group.encode_utf16().fold(0, mix) & i32::MAX) % partitions
}

/// Who leads a partition, and who has all of it.
struct Leadership {
    leader: i32,
    in_sync: usize,
}

impl Cluster {
    /// Starts three brokers of the version, and returns when all three answer.
    ///
    /// # Panics
    /// Where one cannot start, with what scripts/kafka said.
    pub fn start(version: &str) -> Cluster {
        let voters: Vec<_> =
            (1..=BROKERS).map(|node| format!("{node}@127.0.0.1:{}", free_port())).collect();
        let (voters, offsets) = (voters.join(","), OFFSETS_PARTITIONS.to_string());
        let start = |node: usize| {
            Kafka::start_with(
                version,
                &[
                    ("node.id", &node.to_string()),
                    ("controller.quorum.voters", &voters),
                    ("default.replication.factor", "3"),
                    ("min.insync.replicas", "2"),
                    ("offsets.topic.replication.factor", "3"),
                    ("offsets.topic.num.partitions", &offsets),
                    // A broker that comes back shall lead again only when a test says so.
                    ("auto.leader.rebalance.enable", "false"),
                ],
            )
        };
        // None of them is ready before two controllers have found each other.
        let nodes = thread::scope(|scope| {
            let starts: Vec<_> =
                (1..=BROKERS).map(|node| scope.spawn(move || start(node))).collect();
            starts.into_iter().map(|start| start.join().expect("a broker starts")).collect()
        });
        Cluster { nodes }
    }

    /// The broker with this number, counted from 1.
    pub fn node(&self, number: i32) -> &Kafka {
        let index = usize::try_from(number - 1).expect("nodes count from 1");
        &self.nodes[index]
    }

    /// Addresses of all brokers, comma-separated.
    pub fn bootstrap(&self) -> String {
        let servers: Vec<_> = self.nodes.iter().map(Kafka::bootstrap).collect();
        servers.join(",")
    }

    /// The brokers that lead the topic's partitions, by partition.
    pub fn leaders(&self, topic: &str) -> BTreeMap<i32, i32> {
        let partitions = self.leadership(topic).expect("the cluster answers");
        partitions.into_iter().map(|(partition, now)| (partition, now.leader)).collect()
    }

    /// The broker that coordinates the group.
    pub fn coordinator(&self, group: &str) -> i32 {
        self.leaders(OFFSETS_TOPIC)[&offsets_partition(group)]
    }

    /// Returns when each partition of the topics is on all brokers.
    pub fn wait_until_in_sync(&self, topics: &[&str]) {
        eventually(IN_SYNC_LIMIT, "every partition is whole on every broker", || {
            topics.iter().all(|topic| {
                self.leadership(topic).is_some_and(|partitions| {
                    partitions.values().all(|now| now.leader > 0 && now.in_sync == BROKERS)
                })
            })
        });
    }

    fn leadership(&self, topic: &str) -> Option<BTreeMap<i32, Leadership>> {
        let metadata = self.client("asker").fetch_metadata(Some(topic), ASK_LIMIT).ok()?;
        let partitions = metadata.topics().first()?.partitions();
        let now = |partition: &rdkafka::metadata::MetadataPartition| Leadership {
            leader: partition.leader(),
            in_sync: partition.isr().iter().collect::<BTreeSet<_>>().len(),
        };
        Some(partitions.iter().map(|partition| (partition.id(), now(partition))).collect())
    }

    /// What the group has committed, 0 where nothing; `None` where nobody can say just now.
    pub fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: i32,
    ) -> Option<BTreeMap<i32, i64>> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            asked.add_partition(topic, partition);
        }
        let answer = self.client(group).committed_offsets(asked, ASK_LIMIT).ok()?;
        let offset = |at: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            at.error().ok()?;
            match at.offset() {
                Offset::Offset(offset) => Some((at.partition(), offset)),
                Offset::Invalid => Some((at.partition(), 0)),
                _ => None,
            }
        };
        answer.elements().iter().map(offset).collect()
    }

    /// A fresh one each time: an old one's view of the cluster may be wrong.
    fn client(&self, group: &str) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config.create().expect("a client of librdkafka")
    }
}

/// Kafka's own VerifiableProducer at work: it writes ascending numbers, and says of each whether and
/// where it was acknowledged. Dropping it kills it.
pub struct Load {
    child: Child,
    reader: Option<JoinHandle<Said>>,
    _config: NamedTempFile,
}

/// What the producer said.
#[derive(Default)]
pub struct Said {
    /// The value by partition and offset.
    pub acknowledged: BTreeMap<(i32, i64), Vec<u8>>,
    /// Messages that it gave up on; they may be in the log all the same.
    pub failed: usize,
}

impl Load {
    /// Writes `per_second` messages to the topic, each acknowledged by all replicas, until stopped.
    pub fn start(cluster: &Cluster, topic: &str, per_second: u32) -> Load {
        let config = NamedTempFile::new().unwrap();
        // The tool's own default is to give up a message at its first error.
        let settings = "retries=2147483647\nenable.idempotence=true\nlinger.ms=5\n";
        fs::write(config.path(), settings).unwrap();
        let node = cluster.node(1);
        let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"))
            .args(["run", "verifiable-producer", "--bootstrap-server", &cluster.bootstrap()])
            .args(["--topic", topic, "--acks", "-1", "--throughput", &per_second.to_string()])
            // Keys spread evenly over the partitions; without them one after another gets all.
            .args(["--repeating-keys", "1000", "--max-messages", MOST_MESSAGES])
            .arg("--producer.config")
            .arg(config.path())
            .env("KAFKA_VERSION", node.version())
            .env("KAFKA_PORT", node.port().to_string())
            .env("KAFKA_DIR", node.folder().join("kafka"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/kafka starts");
        let pipe = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let reader = thread::spawn(move || {
            let mut said = Said::default();
            for line in pipe.lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                match event["name"].as_str() {
                    Some("producer_send_success") => {
                        let number = |name| event[name].as_i64().expect("a number");
                        let partition = i32::try_from(number("partition")).expect("a partition");
                        let value = event["value"].as_str().expect("a value").as_bytes().to_vec();
                        said.acknowledged.insert((partition, number("offset")), value);
                    }
                    Some("producer_send_error") => said.failed += 1,
                    _ => {}
                }
            }
            said
        });
        Load { child, reader: Some(reader), _config: config }
    }

    /// Ends it in order; what it said.
    pub fn stop(mut self) -> Said {
        let pid = i32::try_from(self.child.id()).expect("a pid fits 32 bits");
        assert!(alive(pid), "the producer ended before it was told to");
        kill_process(Pid::from_raw(pid).expect("a pid is above 0"), Signal::TERM).unwrap();
        eventually_some(Duration::from_secs(60), "the producer ends", || {
            self.child.try_wait().expect("it can be waited for")
        });
        let reader = self.reader.take().expect("it is stopped once");
        reader.join().expect("a reader of the producer's output")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
