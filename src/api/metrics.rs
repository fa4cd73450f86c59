//! The metrics for Prometheus, as text (format 0.0.4): what `/metrics` answers. Each answer is built
//! from the counters, which are no library's, so the threads of a pipeline pay for no registry.
//!
//! Names of lag and offsets are those of kafka-exporter, so that its dashboards and alerts fit.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::api::control::requests::{Attached, Context};
use crate::api::control::watch::shared_overview;
use crate::model::error::{Error, Result};
use crate::model::histogram;
use crate::observe::overview::{Overview, PartitionLag};

/// What the answer is in HTTP's `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, as they are now (what is asked of the log and of the history, as of the last second
/// or so).
///
/// # Errors
/// `Other` where they cannot be written as text.
pub fn exposition(context: &Context) -> Result<String> {
    let overview = shared_overview(context)?;
    let mut families = Families::default();
    process(&mut families, &overview);
    let stage = context.stage();
    if let Some(pipeline) = &stage.pipeline {
        work(&mut families, &overview, pipeline);
        settings(&mut families, &overview);
        if let Some(found) = pipeline.watch.found() {
            families.gauge(
                "mb_stalled_partitions",
                "Partitions with lag and without progress for longer than --stall-after.",
                found.stalled as f64,
            );
            partitions(&mut families, &overview, &found.lag.top);
        }
    }
    TextEncoder::new()
        .encode_to_string(&families.0)
        .map_err(|cause| Error::Other(format!("the metrics cannot be written as text: {cause}")))
}

fn process(families: &mut Families, overview: &Overview) {
    let version = [("version", overview.version.as_str())];
    families.family(
        "mb_build_info",
        "Always 1; which version of mb it is.",
        MetricType::GAUGE,
        vec![gauge(&version, 1.0)],
    );
    families.gauge(
        "process_start_time_seconds",
        "When mb was started, in seconds since 1970.",
        overview.started_ms as f64 / 1000.0,
    );
    families.gauge(
        "process_resident_memory_bytes",
        "Memory that mb has, in bytes.",
        overview.memory_bytes as f64,
    );
    let ready = f64::from(u8::from(overview.health.ready));
    families.gauge("mb_ready", "1 where /readyz says ready, else 0.", ready);
    let open = overview.dead_letters_open as f64;
    families.gauge(
        "mb_dead_letters_open",
        "Dead letters that are neither redriven nor discarded.",
        open,
    );
}

fn work(families: &mut Families, overview: &Overview, pipeline: &Attached) {
    let live = &pipeline.live;
    let counters = [
        ("mb_records_in_total", "Records taken from the topic.", live.records_in.get()),
        ("mb_records_done_total", "Records processed.", live.records_done.get()),
        ("mb_bytes_in_total", "Bytes of records taken from the topic.", live.bytes_in.get()),
        ("mb_bytes_done_total", "Bytes of records processed.", live.bytes_done.get()),
        ("mb_attempts_failed_total", "Attempts that failed.", live.attempts_failed.get()),
        ("mb_dead_letters_total", "Records given up on.", live.dead_letters.get()),
        ("mb_ticks_total", "Evaluations of sensors.", live.ticks.get()),
        (
            "mb_offsets_skipped_total",
            "Offsets passed over without being processed.",
            live.offsets_skipped.get(),
        ),
        (
            "mb_messages_posted_total",
            "Messages posted by mb's own producer.",
            live.messages_posted.get(),
        ),
    ];
    for (name, help, value) in counters {
        families.family(name, help, MetricType::COUNTER, vec![counter(&[], value as f64)]);
    }
    let states = [
        ("succeeded", live.runs_succeeded.get()),
        ("failed", live.runs_failed.get()),
        ("halted", live.runs_halted.get()),
        ("split", live.runs_split.get()),
    ];
    let runs = states.map(|(state, runs)| counter(&[("state", state)], runs as f64));
    families.family("mb_runs_total", "Runs that ended.", MetricType::COUNTER, runs.to_vec());
    families.histogram(
        "mb_run_duration_seconds",
        "Time in the step, of each attempt.",
        &live.run_time.read(),
    );
    families.histogram(
        "mb_run_wait_seconds",
        "Time from the queue to the first attempt.",
        &live.wait_time.read(),
    );
    let queue = crate::api::control::watch::queue(pipeline);
    let running = live.running().len();
    let gauges = [
        ("mb_queue_runs", "Runs in the queue.", queue.runs),
        ("mb_queue_runs_limit", "Runs that the queue holds.", queue.limit),
        ("mb_queue_bytes", "Bytes of batches filled, queued and running.", queue.bytes),
        ("mb_queue_bytes_limit", "Bytes that those may have.", queue.bytes_limit),
        ("mb_retries_waiting", "Runs that wait for another attempt.", queue.waiting_retries),
        ("mb_runs_parked", "Runs that wait behind others of their lane.", queue.parked),
        ("mb_runs_running", "Runs that are with a worker.", running as u64),
        ("mb_workers", "Workers.", overview.workers.len() as u64),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, value as f64);
    }
    if let Some(ms) = live.last_commit_ms() {
        families.gauge(
            "mb_last_commit_timestamp_seconds",
            "When offsets were committed last, in seconds since 1970.",
            ms as f64 / 1000.0,
        );
    }
}

fn settings(families: &mut Families, overview: &Overview) {
    let settings = &overview.settings;
    if let Some(rate) = settings.rate {
        families.gauge(
            "mb_producer_rate_asked",
            "Messages per second that mb's own producer is to post; 0 is as fast as it goes.",
            rate.value,
        );
    }
    let interval = settings.tick_interval_s.value;
    families.gauge("mb_tick_interval_seconds", "Time between two ticks.", interval);
    families.gauge(
        "mb_batch_records_limit",
        "Records of a batch at most.",
        settings.max_batch.value as f64,
    );
    let paused = f64::from(u8::from(overview.sensor.paused));
    families.gauge("mb_paused", "1 where the sensors are paused, else 0.", paused);
    if let Some(freshness) = overview.freshness {
        if let Some(age) = freshness.age_s {
            families.gauge(
                "mb_freshness_age_seconds",
                "Age of the oldest record that is not processed.",
                age,
            );
        }
        families.gauge(
            "mb_freshness_limit_seconds",
            "The age that it may have (--freshness).",
            freshness.policy_s,
        );
    }
}

fn partitions(families: &mut Families, overview: &Overview, partitions: &[PartitionLag]) {
    let (group, topic) = (overview.group.as_str(), overview.topic.as_str());
    let mut each = |name: &str, help: &str, value: &dyn Fn(&PartitionLag) -> Option<f64>| {
        let metric = |row: &PartitionLag| {
            let partition = row.partition.to_string();
            let labels = [("consumergroup", group), ("topic", topic), ("partition", &partition)];
            Some(gauge(&labels, value(row)?))
        };
        let metrics = partitions.iter().filter_map(metric).collect();
        families.family(name, help, MetricType::GAUGE, metrics);
    };
    each("kafka_consumergroup_lag", "Messages of a partition that are not committed.", &|row| {
        Some(row.lag as f64)
    });
    each(
        "kafka_consumergroup_lag_seconds",
        "For how long a partition's next message has waited, at least.",
        &|row| row.lag_s,
    );
    each("kafka_consumergroup_current_offset", "The committed offset of a partition.", &|row| {
        row.committed.map(|offset| offset as f64)
    });
    let ends = partitions.iter().map(|row| {
        let partition = row.partition.to_string();
        gauge(&[("topic", topic), ("partition", &partition)], row.end as f64)
    });
    families.family(
        "kafka_topic_partition_current_offset",
        "The end of a partition's log: the next offset that it will give.",
        MetricType::GAUGE,
        ends.collect(),
    );
}

/// Metrics with their names and meanings.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    /// A family without metrics is left out: the format has none.
    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, MetricType::GAUGE, vec![gauge(&[], value)]);
    }

    fn histogram(&mut self, name: &str, help: &str, reading: &histogram::Reading) {
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(reading.buckets.iter().map(bucket).collect());
        histogram.set_sample_count(reading.count);
        histogram.set_sample_sum(reading.sum_s);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.family(name, help, MetricType::HISTOGRAM, vec![metric]);
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

fn gauge(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_gauge(gauge);
    metric
}

fn counter(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels(pairs));
    metric.set_counter(counter);
    metric
}
