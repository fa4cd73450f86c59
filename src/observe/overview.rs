//! The overview as values: the JSON of `GET /api/v1/status`, of the events, and of `mb status --json`. Times are
//! milliseconds since 1970 (UTC), durations seconds unless stated otherwise.
//!
//! Only shapes are here; `watch` and `api` fill them.

use crate::config::steering::SettingsView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::history::query::{RunRow, TickRow};

/// What mb is doing now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    pub version: String,
    pub pid: u32,
    pub now_ms: i64,
    pub started_ms: i64,
    pub topic: String,
    pub group: String,
    /// `rdkafka`, `kafka` or `embedded`; `none` while mb is waiting for its broker.
    pub client: String,
    /// The log, for people: "Kafka at localhost:9092, client rdkafka (librdkafka 2.12.1)".
    pub broker: String,
    pub step: String,
    /// What mb is waiting for before it can read the topic; null once it reads.
    pub waiting_for: Option<String>,
    pub sensor: SensorView,
    pub settings: SettingsView,
    pub totals: Totals,
    pub rates: Rates,
    /// Null if no record was processed in the last minute that arrived while mb ran.
    #[serde(default)]
    pub latency: Option<LatencyView>,
    pub lag: LagView,
    pub queue: QueueView,
    /// Null unless mb holds.
    #[serde(default)]
    pub hold: Option<HoldView>,
    pub workers: Vec<WorkerView>,
    /// Dead letters that are neither redriven nor discarded.
    pub dead_letters_open: u64,
    /// When offsets were last committed.
    pub last_commit_ms: Option<i64>,
    /// mb's resident set size in bytes.
    pub memory_bytes: u64,
    pub freshness: Option<FreshnessView>,
    pub verdict: Verdict,
    /// The former name of two fields of the verdict; it goes with the next release.
    #[serde(default)]
    pub health: HealthView,
    /// Newest first, 10 at most.
    pub newest_runs: Vec<RunRow>,
    /// Newest first, 60 at most.
    pub ticks: Vec<TickRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Sensor")]
pub struct SensorView {
    pub paused: bool,
    pub sensors: usize,
    pub tick_runtime_s: f64,
}

/// mb holds: the step fails for every run, so nothing is given up on, and one run at a time tries whether the
/// step works again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Hold")]
pub struct HoldView {
    pub for_s: f64,
    /// The newest error.
    pub cause: String,
    /// Runs that have failed and wait.
    pub runs: u64,
    /// How often the step was tried since.
    pub probes: u32,
    pub next_probe_s: f64,
}

/// Since mb started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    pub records_in: u64,
    pub bytes_in: u64,
    /// Processed, or kept as dead letters.
    pub records_done: u64,
    pub bytes_done: u64,
    pub runs_succeeded: u64,
    pub runs_failed: u64,
    pub runs_halted: u64,
    pub runs_split: u64,
    pub attempts_failed: u64,
    pub dead_letters: u64,
    pub ticks: u64,
    pub offsets_skipped: u64,
    pub messages_posted: u64,
}

/// Per second, over the last 5 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Growth of the log's end offsets per second (transaction markers count too); null while it is not known.
    pub records_arriving: Option<f64>,
    /// Records that mb reads.
    pub records_in: f64,
    pub bytes_in: f64,
    /// Processed, or kept as dead letters.
    pub records_done: f64,
    pub bytes_done: f64,
    /// By mb's own producer.
    pub messages_posted: f64,
}

/// From a record's timestamp to the end of the run that processed it, in seconds, over the last minute. Records count that
/// arrived while mb ran; those of redrives and replays do not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Latency")]
pub struct LatencyView {
    /// How many records the figures are of.
    pub records: u64,
    /// Half of the records took at most this long; 95 of 100; 99 of 100.
    pub p50_s: f64,
    pub p95_s: f64,
    pub p99_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Lag")]
pub struct LagView {
    /// Records in all partitions together; null while that is not known.
    pub total: Option<u64>,
    /// The largest of the partitions' lags, in seconds.
    pub seconds: Option<f64>,
    /// While mb catches up: how long until the lag is 0 if it goes on falling as it does; else null.
    pub catch_up_s: Option<f64>,
    /// When the log was last asked successfully.
    pub at_ms: Option<i64>,
    /// Why the lag is not known, or not up to date.
    pub error: Option<String>,
    pub partitions: u64,
    /// In the overview the 50 partitions with most lag; from `/api/v1/lag` all of them, by number.
    pub top: Vec<PartitionLag>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionLag {
    pub partition: i32,
    pub beginning: i64,
    /// The next offset that the log will give.
    pub end: i64,
    /// The group's offset in the log: every offset below it is done, unless somebody else has moved it (then mb is
    /// not ready, for the reason `offsets`); null if none is committed yet.
    pub committed: Option<i64>,
    /// The offset that the sensor reads next.
    pub cursor: i64,
    /// Offsets from the committed one (or from where reading began) to the end.
    pub lag: u64,
    /// For how long the next record to be committed has waited, at least, in seconds; null if that is not known.
    pub lag_s: Option<f64>,
    /// Runs that are queued or running.
    pub in_flight: u64,
    /// For how long it has had lag and made no progress, in seconds; null if it makes progress.
    pub stuck_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Queue")]
pub struct QueueView {
    pub runs: u64,
    pub limit: u64,
    /// Runs that wait for another attempt.
    pub waiting_retries: u64,
    /// Runs that wait behind others of their lane (`--order`).
    pub parked: u64,
    /// Bytes of batches that are being filled, queued or running; the limit is `--queue-bytes`.
    pub bytes: u64,
    pub bytes_limit: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Worker")]
pub struct WorkerView {
    pub worker: u64,
    pub run: Option<RunningView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RunningRun")]
pub struct RunningView {
    pub id: i64,
    pub key: String,
    pub attempt: u32,
    /// For how long the run has been in its step.
    pub running_s: f64,
    /// The run has exceeded `--step-timeout`, or was cancelled, and its step cannot be ended.
    pub stalled: bool,
}

/// The age of the oldest unprocessed record against `--freshness`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Freshness")]
pub struct FreshnessView {
    pub policy_s: f64,
    pub age_s: Option<f64>,
    pub fresh: bool,
}

/// Whether mb keeps up; if not, why, and what to change. `/readyz` answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    pub state: VerdictState,
    pub level: Level,
    /// What `/readyz` answers: 200 if true, else 503.
    pub ready: bool,
    /// One sentence.
    pub headline: String,
    /// A few words, for the title of a browser's tab.
    pub brief: String,
    /// Which setting would help, with the numbers behind it; null if none is known, or none is needed.
    pub advice: Option<String>,
    pub reasons: Vec<Reason>,
}

/// See `verdict`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Health")]
pub struct HealthView {
    pub ready: bool,
    pub reasons: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictState {
    /// What arrives is processed.
    KeepingUp,
    /// As `keeping-up`, with open dead letters.
    DeadLettersOpen,
    /// There is more lag than usual, and it falls.
    CatchingUp,
    Paused,
    /// Where the log ends is not known, or not for long enough to tell whether the lag falls.
    Unknown,
    /// mb does not read yet.
    Starting,
    /// There is more lag than usual and it does not fall, or the lag grows.
    FallingBehind,
    /// The step fails for every run, and mb holds.
    Held,
    /// Something other than the step stands in the way.
    Blocked,
    /// The newest attempts have all failed, but mb does not hold yet.
    StepFails,
}

/// How a verdict is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Good,
    Warn,
    Wait,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// `starting`, `held`, `broker`, `partition`, `stalled`, `transaction`, `step`, `disk`, `offsets`, `freshness` or `dead-letters`.
    pub reason: String,
    /// For people: what is wrong, where, and since when.
    pub detail: String,
}

/// The last 15 minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    pub samples: Vec<Sample>,
}

/// One second; rates are over the last 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    pub at_ms: i64,
    /// Per second, as the log's ends grow; null if it was not known.
    pub records_arriving: Option<f64>,
    /// Read by mb, per second.
    pub records_in: f64,
    /// Processed, or kept as dead letters.
    pub records_done: f64,
    pub bytes_in: f64,
    /// In records; null if it was not known.
    pub lag: Option<u64>,
    pub queued: u64,
    pub running: u64,
}
