//! The hand-over of runs: pushed and taken on one thread, and from one thread to another, which waits
//! as a worker does; without an order, and with runs that wait for others of their partition.
//!
//! `cargo bench --bench run_queue`. Throughput is in runs; the runs have no records, so that nothing
//! but the queue is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, Sender, bounded};
use mb::config::Order;
use mb::model::batch::Batch;
use mb::model::budget::Permit;
use mb::model::offset::{Offset, OffsetRange, RunKey};
use mb::model::run::{Run, RunId};
use mb::runs::queue::RunQueue;

/// As by default.
const QUEUE: usize = 100;
const QUEUE_BYTES: usize = 32 << 20;
const RUNS: i64 = 10_000;

/// Makes runs of one partition, one behind the other.
struct Maker {
    topic: Arc<str>,
    permit: Arc<Permit>,
    next: i64,
}

impl Maker {
    fn new() -> Maker {
        Maker { topic: Arc::from("orders"), permit: Arc::new(Permit::nothing()), next: 0 }
    }

    fn run(&mut self) -> Run {
        let range = OffsetRange::new(Offset::new(self.next), Offset::new(self.next));
        self.next += 1;
        Run {
            id: RunId(self.next),
            key: RunKey::new(Arc::clone(&self.topic), 0, range),
            whole: range,
            batch: Batch::default(),
            permit: Arc::clone(&self.permit),
            failed_attempts: 0,
            failing: None,
            queued: Instant::now(),
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

const ORDERS: [(&str, Order); 2] = [("no order", Order::None), ("partition", Order::Partition)];

fn on_one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("push and try_next");
    group.throughput(Throughput::Elements(RUNS as u64));
    for (name, order) in ORDERS {
        let queue = RunQueue::new(QUEUE, order, QUEUE_BYTES);
        let (_stop, stopped) = bounded(0);
        let mut maker = Maker::new();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let mut taken = 0;
                for _ in 0..RUNS / QUEUE as i64 {
                    let deadline = far();
                    for _ in 0..QUEUE {
                        queue.push(maker.run(), deadline, &stopped).expect("there is room");
                    }
                    while let Some(run) = queue.try_next() {
                        queue.ended(&run.key);
                        taken += 1;
                    }
                }
                assert_eq!(taken, RUNS);
            });
        });
    }
    group.finish();
}

/// A worker that takes runs and does nothing with them; it says when it has had as many as were asked
/// for.
fn worker(queue: &RunQueue, asked: &Receiver<i64>, had: &Sender<()>) {
    let (_retire, retired) = bounded(0);
    for runs in asked {
        for _ in 0..runs {
            let run = queue.next(&retired).expect("the queue is open");
            queue.started();
            queue.ended(&run.key);
        }
        had.send(()).expect("the other thread waits");
    }
}

fn between_two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("push, and next on another thread");
    group.throughput(Throughput::Elements(RUNS as u64));
    for (name, order) in ORDERS {
        let queue = RunQueue::new(QUEUE, order, QUEUE_BYTES);
        let (_stop, stopped) = bounded(0);
        let (ask, asked) = bounded(1);
        let (had, wait) = bounded(1);
        let mut maker = Maker::new();
        std::thread::scope(|scope| {
            scope.spawn(|| worker(&queue, &asked, &had));
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    ask.send(RUNS).expect("the worker waits");
                    let deadline = far();
                    for _ in 0..RUNS {
                        queue.push(maker.run(), deadline, &stopped).expect("room comes");
                    }
                    wait.recv().expect("the worker goes on");
                });
            });
            drop(ask);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = on_one_thread, between_two_threads
}
criterion_main!(benches);
