//! The least that tracked micro-batches take over librdkafka: a bare loop that also does what mb's
//! promises need of anybody, and nothing else. Records are read whole (headers too) and copied into
//! batches of a partition; each batch has a row in mb's own history file before it is processed, and its
//! outcome in it afterwards; what is done is committed. A second thread writes, many batches in a
//! transaction, and processes: it throws the batch away.
//!
//! It has no workers, no bound on memory, no retries, no ticks, no page, and it cannot go on where it
//! was killed. The last line on stdout is what every contender prints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::JoinHandle;

use argh::FromArgs;
use crossbeam_channel::{Sender, bounded};
use mb::history::scope::{self, ScopeKey};
use mb::history::{self, schema};
use mb::kafka::Commit;
use mb::kafka::wire::Wire;
use mb::model::offset::{Offset, Partition};
use mb::model::run::RunState;
use mb_bench::queue::{self, Message};
use mb_bench::{Result, consumer};
use rusqlite::{Connection, TransactionBehavior, params};

/// Batches of one transaction, as in mb.
const GROUP: usize = mb::config::limits::PLAN_RUNS;
/// Groups that wait for the writer.
const WAITING: usize = 4;

/// Does a topic's records in tracked batches, as barely as it can be done.
#[derive(FromArgs)]
struct Args {
    /// host:port
    #[argh(option)]
    bootstrap_server: String,
    /// topic to read from its beginning
    #[argh(option)]
    topic: String,
    /// consumer group to commit for
    #[argh(option)]
    group: String,
    /// end after so many records
    #[argh(option)]
    count: u64,
    /// records of a batch
    #[argh(option)]
    batch: usize,
    /// folder for the history
    #[argh(option)]
    data_dir: PathBuf,
}

/// One partition's records: bytes behind one another, and offset, time, lengths of each.
struct Batch {
    partition: Partition,
    bytes: Vec<u8>,
    index: Vec<(i64, i64, u32, u32)>,
}

impl Batch {
    fn new(partition: Partition, records: usize) -> Batch {
        Batch { partition, bytes: Vec::new(), index: Vec::with_capacity(records) }
    }

    fn push(&mut self, message: Message<'_>) {
        let (key, value) = (message.key.len() as u32, message.value.len() as u32);
        self.bytes.extend_from_slice(message.key);
        self.bytes.extend_from_slice(message.value);
        self.index.push((message.offset, message.timestamp, key, value));
    }
}

#[derive(Clone, Copy, Default)]
struct Seen {
    records: u64,
    bytes: u64,
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    std::fs::create_dir_all(&args.data_dir)?;
    let db = schema::open(&args.data_dir.join(history::FILE))?;
    let consumer = consumer(&args.bootstrap_server, "least")?;
    let (groups, writer) = writer(db, &args)?;
    let mut filling = BTreeMap::<Partition, Batch>::new();
    let mut full = Vec::with_capacity(GROUP);
    queue::read(&consumer, &args.topic, args.count, true, |message| {
        let Some(message) = message else { return send(&groups, &mut full) };
        let new = || Batch::new(message.partition, args.batch);
        let batch = filling.entry(message.partition).or_insert_with(new);
        batch.push(message);
        if batch.index.len() == args.batch {
            let full_one = std::mem::replace(batch, new());
            batch.bytes.reserve_exact(full_one.bytes.len());
            full.push(full_one);
            if full.len() == GROUP {
                send(&groups, &mut full)?;
            }
        }
        Ok(())
    })?;
    full.extend(filling.into_values().filter(|batch| !batch.index.is_empty()));
    send(&groups, &mut full)?;
    drop(groups);
    let (seen, done) = writer.join().map_err(|_| "the writer panicked")??;
    let done: Vec<_> = done.into_iter().map(Commit::plain).collect();
    Wire::new(&args.bootstrap_server).commit(&args.group, &args.topic, &done)?;
    println!(r#"{{"records":{},"bytes":{}}}"#, seen.records, seen.bytes);
    std::mem::forget(consumer);
    Ok(())
}

fn send(groups: &Sender<Vec<Batch>>, full: &mut Vec<Batch>) -> Result<()> {
    if !full.is_empty() {
        let group = std::mem::replace(full, Vec::with_capacity(GROUP));
        groups.send(group).map_err(|_| "the writer has ended")?;
    }
    Ok(())
}

type Writer = JoinHandle<std::result::Result<(Seen, BTreeMap<Partition, Offset>), String>>;

/// The thread that writes and processes; it ends, with all written, when the sender is dropped.
fn writer(db: Connection, args: &Args) -> Result<(Sender<Vec<Batch>>, Writer)> {
    let key = ScopeKey {
        log: "kafka",
        cluster_id: String::new(),
        group: args.group.clone(),
        topic: args.topic.clone(),
        topic_id: String::new(),
    };
    let scope = scope::find_or_add(&db, &key)?;
    let (sender, groups) = bounded::<Vec<Batch>>(WAITING);
    let thread = std::thread::spawn(move || {
        let write = || -> rusqlite::Result<(Seen, BTreeMap<Partition, Offset>)> {
            let mut db = db;
            let (mut seen, mut done) = (Seen::default(), BTreeMap::new());
            let (mut next, mut ended) = (1_i64, Vec::new());
            for group in &groups {
                let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
                end(&write, &mut ended)?;
                let mut insert = write.prepare_cached(
                    "INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, \
                     records, bytes, state, queued_ms) VALUES (?1, ?2, 'rdkafka', ?3, ?4, ?5, ?6, ?7, \
                     ?8, ?9)",
                )?;
                for batch in &group {
                    let (first, last) = (batch.index[0].0, batch.index[batch.index.len() - 1].0);
                    insert.execute(params![
                        next,
                        scope.0,
                        batch.partition,
                        first,
                        last,
                        batch.index.len(),
                        batch.bytes.len(),
                        RunState::Queued.code(),
                        mb::model::clock::now_ms()
                    ])?;
                    ended.push(next);
                    next += 1;
                }
                drop(insert);
                write.commit()?;
                for batch in group {
                    seen.records += batch.index.len() as u64;
                    seen.bytes += batch.bytes.len() as u64;
                    let last = batch.index[batch.index.len() - 1].0;
                    done.insert(batch.partition, Offset::new(last + 1));
                }
            }
            let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            end(&write, &mut ended)?;
            write.commit()?;
            Ok((seen, done))
        };
        write().map_err(|cause| cause.to_string())
    });
    Ok((sender, thread))
}

fn end(db: &Connection, ended: &mut Vec<i64>) -> rusqlite::Result<()> {
    let mut update = db.prepare_cached(
        "UPDATE runs SET state = ?2, attempts = 1, started_ms = ?3, ended_ms = ?3, run_us = 0, \
         worker = 0 WHERE id = ?1",
    )?;
    let now_ms = mb::model::clock::now_ms();
    for id in ended.drain(..) {
        update.execute(params![id, RunState::Succeeded.code(), now_ms])?;
    }
    Ok(())
}
