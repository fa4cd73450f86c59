//! The metrics for Prometheus, as text (format 0.0.4): what `/metrics` answers.
//!
//! An answer is built from the counters in `live`, which are no library's, so the threads of a pipeline pay for
//! no registry. Names of lag and offsets are kafka-exporter's, so that its dashboards and alerts work.

use prometheus::proto::LabelPair;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Opts, Registry, TextEncoder};
use serde::{Deserialize, Serialize};

use crate::api::context::{Context, RunningPipeline, Stage};
use crate::api::operations::Operation;
use crate::api::operations::overview::{queue, shared_overview};
use crate::api::session::Session;
use crate::model::error::{Error, Result};
use crate::observe::overview::{Overview, PartitionLag, VerdictState};

/// The `Content-Type` of the exposition over HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics as text.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetMetrics {}

impl Operation for GetMetrics {
    type Answer = String;

    fn perform(self, context: &Context, _: &mut Session) -> Result<String> {
        exposition(context)
    }
}

/// All metrics as they are now; what comes from the log and the history is a second or so old.
fn exposition(context: &Context) -> Result<String> {
    let overview = shared_overview(context)?;
    let write = || -> prometheus::Result<String> {
        let families = Families::default();
        process(&families, &overview)?;
        if let Stage::Running(_, pipeline) = &*context.stage() {
            work(&families, &overview, pipeline)?;
            settings(&families, &overview)?;
            if let Some(found) = pipeline.watch.found() {
                families.gauge(
                    "mb_stalled_partitions",
                    "Partitions with lag and without progress for longer than --stall-after.",
                    found.stalled as f64,
                )?;
                partitions(&families, &overview, &found.lag.top)?;
            }
        }
        families.text(&overview)
    };
    write().map_err(|cause| Error::Other(format!("the metrics cannot be written as text: {cause}")))
}

fn process(families: &Families, overview: &Overview) -> prometheus::Result<()> {
    families.gauges(
        "mb_build_info",
        "Always 1; the label is mb's version.",
        &["version"],
        [(vec![overview.version.clone()], 1.0)],
    )?;
    families.gauge(
        "process_start_time_seconds",
        "When mb was started, in seconds since 1970.",
        overview.started_ms as f64 / 1000.0,
    )?;
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    families.counter(
        "process_cpu_seconds_total",
        "CPU time of mb's own process, in seconds. That of commands is not in it.",
        cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
    )?;
    families.gauge(
        "process_resident_memory_bytes",
        "Resident memory of mb, in bytes.",
        overview.memory_bytes as f64,
    )?;
    let ready = f64::from(u8::from(overview.verdict.ready));
    families.gauge("mb_ready", "1 if /readyz says ready, else 0.", ready)?;
    let is_so = |state: VerdictState| f64::from(u8::from(state == overview.verdict.state));
    families.gauges(
        "mb_verdict",
        "1 for the verdict as it is now, 0 for the others.",
        &["verdict"],
        VerdictState::ALL.map(|state| (vec![state.name().to_owned()], is_so(state))),
    )?;
    let open = overview.dead_letters_open as f64;
    families.gauge(
        "mb_dead_letters_open",
        "Dead letters that are neither redriven nor discarded.",
        open,
    )?;
    Ok(())
}

fn work(
    families: &Families,
    overview: &Overview,
    pipeline: &RunningPipeline,
) -> prometheus::Result<()> {
    let live = &pipeline.engine.live;
    let counters = [
        ("mb_records_in_total", "Records taken from the topic.", live.records_in.get()),
        (
            "mb_records_done_total",
            "Records processed, or kept as dead letters.",
            live.records_done(),
        ),
        ("mb_bytes_in_total", "Bytes of records taken from the topic.", live.bytes_in.get()),
        ("mb_bytes_done_total", "Bytes of records processed.", live.bytes_done.get()),
        ("mb_attempts_failed_total", "Attempts that failed.", live.attempts_failed.get()),
        ("mb_dead_letters_total", "Records that became dead letters.", live.dead_letters.get()),
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
        (
            "mb_records_ahead_total",
            "Records whose timestamp was in the future when they were processed.",
            live.latency.ahead.get(),
        ),
    ];
    for (name, help, value) in counters {
        families.counter(name, help, value as f64)?;
    }
    let states = [
        ("succeeded", live.runs_succeeded.get()),
        ("failed", live.runs_failed.get()),
        ("halted", live.runs_halted.get()),
        ("split", live.runs_split.get()),
    ];
    families.counters("mb_runs_total", "Runs that ended.", "state", states)?;
    families.0.register(Box::new(live.run_time.clone()))?;
    families.0.register(Box::new(live.wait_time.clone()))?;
    families.0.register(Box::new(live.latency.time.clone()))?;
    let latency = &live.latency;
    let others = [
        ("backlog", latency.backlog.get()),
        ("reprocessed", latency.reprocessed.get()),
        ("no-timestamp", latency.without_timestamp.get()),
    ];
    families.counters(
        "mb_records_without_latency_total",
        "Records that were processed and are not in mb_record_latency_seconds.",
        "reason",
        others,
    )?;
    let queue = queue(pipeline);
    let running = live.running().len();
    let gauges = [
        ("mb_queue_runs", "Runs in the queue.", queue.runs),
        ("mb_queue_runs_limit", "Runs that the queue can hold.", queue.limit),
        ("mb_queue_bytes", "Bytes of batches filled, queued and running.", queue.bytes),
        (
            "mb_queue_bytes_limit",
            "Bytes that those may have, at most (--queue-bytes).",
            queue.bytes_limit,
        ),
        ("mb_retries_waiting", "Runs that wait for another attempt.", queue.waiting_retries),
        ("mb_runs_parked", "Runs that wait behind others of their lane.", queue.parked),
        ("mb_runs_running", "Runs that a worker has.", running as u64),
        ("mb_workers", "Workers.", overview.workers.len() as u64),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, value as f64)?;
    }
    let ms = live.last_commit_ms().unwrap_or(overview.started_ms);
    families.gauge(
        "mb_last_commit_timestamp_seconds",
        "When offsets were committed last, in seconds since 1970; before the first commit, when mb was started.",
        ms as f64 / 1000.0,
    )
}

fn settings(families: &Families, overview: &Overview) -> prometheus::Result<()> {
    let settings = &overview.settings;
    if let Some(rate) = settings.rate {
        families.gauge(
            "mb_producer_rate_asked",
            "Messages per second that mb's own producer is set to; 0 for as many as it can.",
            rate.value,
        )?;
    }
    let interval = settings.tick_interval_s.value;
    families.gauge("mb_tick_interval_seconds", "Time between two ticks.", interval)?;
    let max_wait = settings.max_wait_s.value;
    families.gauge("mb_max_wait_seconds", "Time that a batch waits for more records.", max_wait)?;
    families.gauge(
        "mb_batch_records_limit",
        "Records of a batch at most.",
        settings.max_batch.value as f64,
    )?;
    let holding = f64::from(u8::from(overview.hold.is_some()));
    families.gauge("mb_holding", "1 while the step fails for every run and mb holds.", holding)?;
    let held = overview.hold.as_ref().map_or(0.0, |hold| hold.runs as f64);
    families.gauge("mb_held_runs", "Runs that wait for the step to work again.", held)?;
    let paused = f64::from(u8::from(overview.sensor.paused));
    families.gauge("mb_paused", "1 if the sensors are paused, else 0.", paused)?;
    if let Some(freshness) = overview.freshness {
        if let Some(age) = freshness.age_s {
            families.gauge(
                "mb_freshness_age_seconds",
                "Age of the oldest record that is not processed.",
                age,
            )?;
        }
        families.gauge(
            "mb_freshness_limit_seconds",
            "The age that this record may have (--freshness).",
            freshness.policy_s,
        )?;
    }
    Ok(())
}

fn partitions(
    families: &Families,
    overview: &Overview,
    partitions: &[PartitionLag],
) -> prometheus::Result<()> {
    let each = |name: &str, help: &str, value: fn(&PartitionLag) -> Option<f64>| {
        let labels = ["consumergroup", "topic", "partition"];
        let row = |of: &PartitionLag| {
            let (group, topic) = (overview.group.clone(), overview.topic.clone());
            Some((vec![group, topic, of.partition.to_string()], value(of)?))
        };
        families.gauges(name, help, &labels, partitions.iter().filter_map(row))
    };
    // What the broker does not say any more is left out: an old value would look like a new one.
    let is_known = overview.lag.total.is_some();
    if is_known {
        each("kafka_consumergroup_lag", "Messages of a partition that are not committed.", |of| {
            Some(of.lag as f64)
        })?;
        each(
            "kafka_consumergroup_lag_seconds",
            "For how long a partition's next message has waited, at least.",
            |of| of.lag_s,
        )?;
    }
    each("kafka_consumergroup_current_offset", "The committed offset of a partition.", |of| {
        of.committed.map(|offset| offset as f64)
    })?;
    let end =
        |of: &PartitionLag| (vec![overview.topic.clone(), of.partition.to_string()], of.end as f64);
    families.gauges(
        "kafka_topic_partition_current_offset",
        "The end of a partition's log: the next offset that it will give.",
        &["topic", "partition"],
        partitions.iter().filter(|_| is_known).map(end),
    )
}

/// Metrics with their names and meanings.
#[derive(Default)]
struct Families(Registry);

impl Families {
    fn gauge(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        self.0.register(Box::new(gauge))
    }

    /// A gauge for each row of label values.
    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<String>, f64)>,
    ) -> prometheus::Result<()> {
        let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
        for (values, value) in rows {
            gauges.get_metric_with_label_values(&values)?.set(value);
        }
        self.0.register(Box::new(gauges))
    }

    fn counter(&self, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        let counter = Counter::new(name, help)?;
        counter.inc_by(value);
        self.0.register(Box::new(counter))
    }

    /// A counter for each value of one label.
    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        rows: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> prometheus::Result<()> {
        let counters = CounterVec::new(Opts::new(name, help), &[label])?;
        for (value, count) in rows {
            counters.get_metric_with_label_values(&[value])?.inc_by(count as f64);
        }
        self.0.register(Box::new(counters))
    }

    /// The metrics as text. Those of mb itself get the labels `topic` and `group`.
    fn text(&self, overview: &Overview) -> prometheus::Result<String> {
        let mut families = self.0.gather();
        for family in families.iter_mut().filter(|family| family.name().starts_with("mb_")) {
            for metric in family.mut_metric() {
                let mut labels = metric.take_label();
                for (name, value) in [("group", &overview.group), ("topic", &overview.topic)] {
                    let mut label = LabelPair::default();
                    label.set_name(name.to_owned());
                    label.set_value(value.clone());
                    labels.push(label);
                }
                labels.sort();
                metric.set_label(labels);
            }
        }
        TextEncoder::new().encode_to_string(&families)
    }
}
