//! Every fixed limit of mb in one place, with its unit in its name unless its type has one, and with assertions
//! of how limits depend on each other. What a user can set is in `settings`.

use std::time::Duration;

use crate::model::backoff::Backoff;

/// Time limit of one call to the broker: metadata, offsets, or a commit.
pub const BROKER_CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long one call waits for a partition that has no leader, before it answers without that partition. An
/// election after a clean shutdown takes well under a second.
pub const LEADER_LIMIT: Duration = Duration::from_secs(2);
/// Time limit of the first contact with the broker; after it mb exits 1, unless `--wait-for-broker` is set.
pub const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(10);
/// Time limit of connecting, and of each read or write of the ApiVersions probe.
pub const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// Time limit of the probe for a Kafka on localhost:9092 if no server was named; a local port answers at
/// once.
pub const LOCAL_PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How long closing a consumer may take; after it the client is abandoned on its own thread.
#[cfg(feature = "rdkafka")]
pub const CONSUMER_CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long a consumer may be without any broker before that is an error. librdkafka reconnects by itself,
/// so a short interruption is none.
#[cfg(feature = "rdkafka")]
pub const BROKER_DOWN_LIMIT: Duration = Duration::from_secs(1);

/// The wait after a tick's first error; it doubles with each further error, up to the maximum.
pub const SENSOR_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// Commands that wait for a sensor; whoever sends one more waits until the sensor has taken one.
pub const SENSOR_COMMANDS: usize = 64;

/// A poll that waits for records returns after this time, so that the caller notices a stop.
pub const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The same once everything that `--until-caught-up` waits for has been read, for up to `LAST_LOOKS`.
pub const LAST_LOOK_INTERVAL: Duration = Duration::from_millis(5);
pub const LAST_LOOKS: Duration = Duration::from_secs(1);

/// Offsets are committed this often while runs finish; the promise is once a second.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
pub const COMMIT_BACKOFF: Backoff =
    Backoff { first: COMMIT_INTERVAL, longest: SENSOR_BACKOFF.longest };
/// A commit without an answer may still reach the log for this long after its failure. After that time a
/// confirmed commit settles all earlier ones.
pub const COMMIT_DOUBT: Duration = Duration::from_secs(60);
/// An offset that does not change is committed again this often, or each quarter of the broker's
/// `offsets.retention.minutes` if that is shorter, but not more often than the second value.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(3600);
pub const RENEWAL_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// How often the log is asked for the group's offsets, to notice that somebody else has moved them. Two mb of one group
/// both commit up to four times a second, so each look sees the other's commit or mb's own: within a minute, one of a
/// dozen sees the other's.
pub const OFFSETS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long they must have been mb's own before the log says that they are again.
pub const OFFSETS_CALM: Duration = Duration::from_secs(60);
/// Another mb that has not committed for this long counts as ended; its mark may stay beside an offset for ever.
pub const OTHERS_GONE_AFTER: Duration = Duration::from_secs(60);
/// How long a sensor may take to release a partition: one call to the broker, and a little.
pub const CURSOR_RELEASE_LIMIT: Duration = Duration::from_secs(12);
/// How long a cursor move waits for its partitions' running runs, unless the asker says otherwise.
pub const CURSOR_MOVE_WAIT: Duration = Duration::from_secs(30);
/// How long the asker waits for the broker to confirm a cursor move; past it the move goes on by itself.
pub const CURSOR_MOVE_LIMIT: Duration = Duration::from_secs(20);
/// How often the supervisor looks for stalled runs.
pub const SUPERVISE_INTERVAL: Duration = Duration::from_secs(1);
/// How often processes that commands left behind are reaped while some end, and how many at once.
pub const ORPHANS_INTERVAL: Duration = Duration::from_millis(50);
pub const ORPHANS_AT_ONCE: usize = 10_000;
/// Signals that come within this time of one that asks for a stop are part of it.
pub const SAME_STOP: Duration = Duration::from_secs(1);
/// From a second signal to the end of the process, whatever it is doing.
pub const SECOND_SIGNAL_GRACE: Duration = Duration::from_millis(500);
/// The pause between two attempts to reach a broker that is still loading.
pub const FIRST_CONTACT_PAUSE: Duration = Duration::from_millis(300);
/// Events on their way from the threads to the supervisor: more than there can be threads.
pub const EVENTS: usize = 4096;
/// How long sensors and the producer get at the stop once no run is running; they hold nothing of value.
pub const INTAKE_STOP_LIMIT: Duration = Duration::from_secs(4);
/// How long the history gets at the stop to write what it still holds.
pub const HISTORY_STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a starting process waits for the lock on its data directory, which a command holds only for
/// moments. A command waits as long for an mb that is starting.
pub const LOCK_LIMIT: Duration = Duration::from_secs(3);
pub const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Time limit of a request on the control socket, from its first byte to its answer.
pub const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// Connections that the control socket serves at the same time.
pub const CONTROL_CONNECTIONS: usize = 16;
/// How long a command waits for a change (redrive, discard, replay) of a running mb's history.
pub const CHANGE_LIMIT: Duration = Duration::from_secs(300);
/// Records shown of a run.
pub const SHOWN_RECORDS: usize = 100;
/// Records shown of each partition in a preview.
pub const PREVIEW_SHOWN_RECORDS: usize = 5;
/// Headers shown of a record.
pub const SHOWN_HEADERS: usize = 100;
/// Bytes shown of a key or a value.
pub const SHOWN_VALUE_BYTES: usize = 16 * 1024;
/// Bytes of key and value that a list of dead letters shows.
pub const PREVIEW_VALUE_BYTES: usize = 120;
/// How many dead letters, and how many bytes of them, one answer to a search looks at.
pub const SEARCH_LETTERS: u32 = 50_000;
pub const SEARCH_BYTES: usize = 32 << 20;
/// Time limit of reading a run's records again to show them.
pub const RECORDS_LIMIT: Duration = Duration::from_secs(5);
/// A preview of a tick ends after this time, or after `PREVIEW_RECORDS`.
pub const PREVIEW_LIMIT: Duration = Duration::from_secs(2);
pub const PREVIEW_RECORDS: u64 = 10_000;
/// With more partitions than this, a preview shows only those that have records.
pub const PREVIEW_PARTITIONS: usize = 200;
/// Characters of the note with which a person cancels a run.
pub const CANCEL_NOTE_CHARS: usize = 500;
/// Rows of a list that are read and sent at once; a longer list is sent in several answers.
pub const LIST_ROWS: u32 = 500;
/// Bytes of one request on the control socket.
pub const CONTROL_REQUEST_BYTES: usize = 8 << 20;

/// HTTP connections at the same time; for one more, the oldest of the least useful ones is closed.
pub const HTTP_CONNECTIONS: usize = 64;
/// Threads of HTTP connections, including those whose connection is closed while they still work on an
/// answer.
pub const HTTP_THREADS: usize = 128;
/// Time limit of a request, from its first byte (or its connection's beginning) to its last.
pub const HTTP_REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is kept open between two requests.
pub const HTTP_IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Time limit of an answer, or of one event, from its first byte to its last.
pub const HTTP_WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How much is still read of a refused request, in time and bytes, so that its sender gets to see the
/// reason.
pub const HTTP_LINGER_LIMIT: Duration = Duration::from_secs(1);
pub const HTTP_LINGER_BYTES: usize = 4 << 20;
/// How long answers get at the stop, and after that the threads.
pub const HTTP_STOP_GRACE: Duration = Duration::from_millis(300);
pub const HTTP_STOP_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a request line with its headers, the number of headers, and bytes of a request body.
pub const HTTP_HEAD_BYTES: usize = 16 << 10;
pub const HTTP_HEADERS: usize = 64;
pub const HTTP_BODY_BYTES: usize = 1 << 20;
/// Requests at the same time that change something or ask the broker; one more is told to come back later.
pub const HTTP_LONG_REQUESTS: usize = 8;
/// Connections to the history that are kept open for the next request.
pub const HTTP_SPARE_SESSIONS: usize = 4;
/// Rows on a page of a list if the request names no number, and at most.
pub const HTTP_PAGE_ROWS: u32 = 50;
pub const HTTP_PAGE_ROWS_MAX: u32 = 200;
/// The time between two events of the overview.
pub const HTTP_EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the token in `--token-file`.
pub const TOKEN_BYTES_MIN: usize = 16;
pub const TOKEN_BYTES_MAX: usize = 4096;
/// How long the answer to a wrong token waits; it doubles with each further one until none has come for
/// `WRONG_TOKEN_QUIET`.
pub const WRONG_TOKEN_WAIT: Backoff =
    Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(5) };
pub const WRONG_TOKEN_QUIET: Duration = Duration::from_secs(60);
/// The time between two lines of the log about wrong tokens.
pub const WRONG_TOKEN_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Browsers that are signed in at the same time; for one more, the oldest is signed out.
pub const SIGNED_IN_MAX: usize = 100;
/// How long a browser stays signed in.
pub const SIGNED_IN_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Time limit of the last commit at the stop.
pub const FINAL_COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// Most writes in one transaction of the history.
pub const HISTORY_GROUP_WRITES: usize = 4096;
/// How long writes that nobody waits for (outcomes of successful runs, ticks) wait for others to share
/// their transaction.
pub const HISTORY_LINGER: Duration = Duration::from_millis(2);
/// Writes that wait for the history thread.
pub const HISTORY_QUEUE_WRITES: usize = 8192;
/// Bytes of steps' output that wait for the history thread; one run's output is at most an eighth of it.
pub const HISTORY_OUTPUT_BYTES: usize = 8 << 20;
/// How long the history waits before it retries a failed write.
pub const HISTORY_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a dead-letter topic may take without acknowledging anything before its producer is replaced.
pub const DEAD_LETTER_LIMIT: Duration = Duration::from_secs(10);
/// The wait after dead letters could not be written; it doubles with each further failure, up to the
/// maximum.
pub const DEAD_LETTER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
/// Distinct causes that are logged while dead letters cannot be written.
pub const DEAD_LETTER_CAUSES: usize = 20;

/// How long one redrive or replay is worked on before the next one has its turn.
pub const REQUEST_TURN: Duration = Duration::from_secs(2);
/// How often the runs of redrives and replays are checked for being done.
pub const REQUESTS_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Attempts to read an unreadable record before `--until-caught-up` stops waiting for the replay that
/// contains it.
pub const UNREADABLE_TRIES: u32 = 3;
/// How long a replay by time looks for records of its window that lie behind the window's end in the log, and how
/// many separate ranges of them one partition may have.
pub const LATE_RECORDS_LIMIT: Duration = Duration::from_secs(5);
pub const LATE_RANGES: usize = 100;
/// Dead letters that one command may name.
pub const DEAD_LETTER_IDS: usize = 100_000;
/// Bytes of key and value of a dead letter that a person has edited.
pub const EDITED_RECORD_BYTES: usize = 64 << 20;
/// Requests or runs that one command may name.
pub const REQUEST_IDS: usize = 1000;

/// Runs per second that the log step logs one by one; further runs of that second share one line.
pub const LOGGED_RUNS_PER_SECOND: u64 = 20;

/// Bytes that are kept of a command's stdout, and of its stderr: the first half and the last half.
pub const CAPTURE_BYTES: usize = 64 * 1024;
/// How long an attempt waits for room on a full disk before it retries, give or take half of it.
pub const ROOM_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The pause before one command more is tried than there was room for.
pub const ROOM_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };
/// A lack of room for commands is over once nobody has waited for it for this long.
pub const ROOM_QUIET: Duration = Duration::from_secs(10);
/// Descriptors that commands leave to the page, the control socket and the history; an eighth of the limit, if
/// that is less.
pub const SPARE_DESCRIPTORS: u64 = 16;
/// Characters of an error that log and history keep.
pub const ERROR_CHARS: usize = 2000;
/// From SIGTERM to SIGKILL for a command that exceeds its time limit.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// Bytes of JSON lines that wait for a command to read them: as much as a pipe takes at once. A single
/// longer record is built in full.
pub const FEED_BYTES: usize = 64 * 1024;
/// Bytes that are still read from an ended command's pipes: the most that a pipe can hold
/// (`/proc/sys/fs/pipe-max-size` as the kernel sets it).
pub const PIPE_REST_BYTES: usize = 1024 * 1024;
/// Characters that an error shows of a command's last line on stderr.
pub const ERROR_LINE_CHARS: usize = 200;
/// Bytes that are read of a command's `MB_FAILED_FILE`: this many, and `FAILED_FILE_BYTES_PER_RECORD` more
/// for each record of the batch. An offset with its line end takes up to 21 bytes, the rest is for reasons.
pub const FAILED_FILE_BYTES: u64 = 64 * 1024;
pub const FAILED_FILE_BYTES_PER_RECORD: u64 = 256;
/// Attempts to create the private directory of those files, each under a new name.
pub const SCRATCH_FOLDER_TRIES: usize = 16;
/// Time limit of asking the shell, at the start, whether a command is valid.
pub const SHELL_CHECK_LIMIT: Duration = Duration::from_secs(10);

/// Most runs that are planned together.
pub const PLAN_RUNS: usize = 64;
/// How long runs wait to be planned together with others while records arrive in bulk.
pub const PLAN_LINGER: Duration = Duration::from_millis(5);
/// Most records that one poll of the embedded topic returns.
pub const EMBEDDED_POLL_RECORDS: usize = 4096;
/// Records that are taken from librdkafka at once: few enough to be still in the processor's caches when
/// they are copied.
#[cfg(feature = "rdkafka")]
pub const RDKAFKA_TAKE_RECORDS: usize = 1024;
/// librdkafka's `queued.max.messages.kbytes` of one consumer: what it reads ahead stays in the processor's
/// caches until it is taken.
#[cfg(feature = "rdkafka")]
pub const RDKAFKA_QUEUE_KIB: usize = 4 * 1024;
/// Records that one consumer of librdkafka holds before it stops fetching. Each takes about 350 bytes
/// beyond its key and value, which the limit above does not count: without this limit, 10-byte records took
/// 1.1 GB.
#[cfg(feature = "rdkafka")]
pub const RDKAFKA_QUEUE_RECORDS: usize = 10_000;
/// Bytes that one fetch of librdkafka brings of all partitions together. Not exact: the broker sends the
/// first batch of the first partition in full, however large it is. If a later partition's batch is cut
/// off, it comes with the next fetch, for which librdkafka doubles that partition's limit.
#[cfg(feature = "rdkafka")]
pub const RDKAFKA_FETCH_BYTES: usize = 8 << 20;

/// Bytes that one fetch of librdkafka brings of each of this many partitions: 1 MiB together, so that an
/// answer is still in the processor's caches when it is parsed, but at least a quarter of that for each, or
/// there would be too many answers.
#[cfg(feature = "rdkafka")]
pub const fn rdkafka_fetch_bytes(partitions: usize) -> usize {
    match partitions {
        0 | 1 => 1 << 20,
        2 | 3 => (1 << 20) / partitions,
        _ => 1 << 18,
    }
}
/// If the run queue is at least half full and will take this long to empty, its places are shared among the partitions.
pub const FAIR_QUEUE_EMPTIES_IN: Duration = Duration::from_millis(250);
/// The least that an answer may bring of a partition then: smaller ones would be mostly overhead.
pub const TURN_BYTES_MIN: usize = 16 << 10;
/// The producer's buffer in librdkafka.
pub const PRODUCER_QUEUE_KIB: usize = 16 * 1024;

/// How often `mb top` redraws.
pub const TOP_INTERVAL: Duration = Duration::from_secs(1);

/// The largest `--max-batch`.
pub const MAX_BATCH_RECORDS: u64 = 1_000_000;
/// The largest `--max-concurrent-runs`.
pub const WORKERS_MAX: u64 = 1000;

/// The longest duration that a flag takes: a year of 365 days.
pub const DURATION_MAX: Duration = Duration::from_secs(8760 * 3600);
/// The lowest and the highest `--rate`, in messages per second.
pub const RATE_MIN: f64 = 0.001;
pub const RATE_MAX: f64 = 10_000_000.0;
/// At more than one message per this interval, a paced producer wakes up once per interval and sends what
/// is due.
pub const PACING_INTERVAL: Duration = Duration::from_millis(1);
/// How long a producer waits for room in the client's buffer before it looks for a stop again.
pub const PRODUCER_ROOM_WAIT: Duration = Duration::from_millis(50);
/// The time between two progress reports of a producer.
pub const PRODUCER_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a failed producer gets to send what it still holds before it is replaced.
pub const PRODUCER_RETIRE_LIMIT: Duration = Duration::from_secs(1);
/// The wait after a producer's first error; it doubles with each further error, up to the maximum.
pub const PRODUCER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
/// Attempts of a message that fresh producers refuse before it counts as failed.
pub const PRODUCER_TRIES: u32 = 3;
/// How long the last flush of a producer may make no progress: a lost broker is waited for.
pub const PRODUCER_FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// How long that flush may take as a whole after a stop.
pub const PRODUCER_STOP_FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// Bytes of one line of `mb produce -`.
pub const STDIN_LINE_BYTES: usize = 64 << 20;
/// Lines of stdin are handed to the producer in chunks of this many bytes (or one longer line), of which
/// `STDIN_CHUNKS_AHEAD` are read ahead.
pub const STDIN_CHUNK_BYTES: usize = 64 << 10;
pub const STDIN_CHUNKS_AHEAD: usize = 4;
/// How long it may take until every broker knows a topic that mb has just created.
pub const TOPIC_CREATION_LIMIT: Duration = Duration::from_secs(10);
/// Bytes or records at which a chunk of the embedded topic (a row of its file) is closed; a larger record
/// is a chunk of its own.
pub const EMBEDDED_CHUNK_BYTES: usize = 256 * 1024;
pub const EMBEDDED_CHUNK_RECORDS: usize = 1024;
/// Bytes that a producer of the embedded topic holds before it writes them; a larger record is written
/// alone.
pub const EMBEDDED_OUTBOX_BYTES: usize = 1024 * 1024;
/// Bytes of the largest record of the embedded topic.
pub const EMBEDDED_RECORD_BYTES: usize = 64 * 1024 * 1024;
/// How long a message waits at most for others that share its write.
pub const EMBEDDED_LINGER: Duration = Duration::from_millis(5);
/// How long a failed write (disk full) waits before it is retried.
pub const EMBEDDED_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long SQLite waits for a lock of the embedded topic's file.
pub const EMBEDDED_BUSY_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that crate kafka fetches of all partitions together, and of one partition, before a larger stored
/// batch needs a fetch of its own. It holds one such answer while the next one is fetched.
pub const PURE_FETCH_BYTES: usize = 8 * 1024 * 1024;
pub const PURE_PARTITION_FETCH_BYTES: usize = 1024 * 1024;
/// Bytes of messages that crate kafka sends in one request. The broker makes one batch of them, which must
/// fit its `message.max.bytes` (1 MiB by default).
pub const PURE_CHUNK_BYTES: usize = 512 * 1024;
/// How long a message waits for others before crate kafka sends it.
pub const PURE_LINGER: Duration = Duration::from_millis(5);
/// How long messages for a deleted topic are kept and retried before they count as failed.
pub const PURE_UNKNOWN_LIMIT: Duration = Duration::from_secs(30);

/// Kafka's own limit on topic names.
pub const TOPIC_NAME_CHARS: usize = 249;

/// Bytes that a run takes beyond its records: its key, its place in the queue, its bookkeeping.
pub const RUN_OVERHEAD_BYTES: usize = 512;
/// The most lanes that a partition's keys are split into.
pub const LANES_MAX: u32 = 64;
/// With `--bisect` each record may become a run of its own: the bytes that this takes beyond its records.
pub const SPLIT_RECORD_BYTES: usize = 320;
/// Runs of one partition that wait behind others of their lane before the sensor pauses the partition; it
/// resumes below half of that.
pub const PARKED_RUNS: usize = 64;
/// How often a sensor checks whether a paused partition may be read again.
pub const PARKED_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How often the watcher takes a sample, and how many samples it keeps: 15 minutes.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
pub const SAMPLES: usize = 900;
/// A sample is taken this long after the log is asked for its ends, so that the ends are new.
pub const SAMPLE_AFTER_ASKING: Duration = Duration::from_millis(200);
/// A partition that has made no progress for this long, and has no run, is asked for an open transaction.
pub const TRANSACTION_ASKED_AFTER: Duration = Duration::from_secs(5);
/// The time of which the latency is shown.
pub const LATENCY_WINDOW: Duration = Duration::from_secs(60);
/// The time over which rates per second are counted.
pub const RATE_WINDOW: Duration = Duration::from_secs(5);
/// The time over which the growth of the lag is measured; a longer one, for slow growth; the shortest from which a trend
/// is computed; and the time over which its rates are.
pub const TREND_WINDOW: Duration = Duration::from_secs(30);
pub const TREND_LONG_WINDOW: Duration = Duration::from_secs(300);
pub const TREND_MIN: Duration = Duration::from_secs(5);
pub const TREND_RATE_WINDOW: Duration = Duration::from_secs(10);
/// The lag counts as falling once its highest point is at least this long ago.
pub const TREND_TURN: Duration = Duration::from_secs(3);
/// How long a record may wait while mb keeps up, beyond what ticks, batches and the step explain, unless
/// `--freshness` says it.
pub const KEEPING_UP_FOR: Duration = Duration::from_secs(10);
/// A lag of up to this many records, or of one batch if that is less, is normal.
pub const USUAL_LAG: usize = 1000;
/// For so long mb must have been behind without catching up before the verdict says so; and before the log does.
pub const FALLING_BEHIND_AFTER: Duration = Duration::from_secs(5);
pub const FALLING_BEHIND_LOGGED_AFTER: Duration = Duration::from_secs(10);
/// The log is asked for its ends this often for up to `LAG_PARTITIONS_PER_INTERVAL` partitions,
/// proportionally less often for more of them, and at least every `LAG_INTERVAL_MAX`.
pub const LAG_INTERVAL: Duration = Duration::from_secs(1);
pub const LAG_PARTITIONS_PER_INTERVAL: usize = 100;
pub const LAG_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// How long the watcher threads get at the stop.
pub const WATCH_STOP_LIMIT: Duration = Duration::from_millis(300);
/// Ends of one partition's log that are remembered with their times, to know the lag in seconds.
pub const LAG_MEMORY_ENDS: usize = 120;
/// How long, beyond the usual interval, a lag counts as known after the log did not answer.
pub const LAG_KNOWN_FOR: Duration = Duration::from_secs(5);
/// A broker that has failed for this long is a reason not to be ready.
pub const BROKER_TROUBLE_LIMIT: Duration = Duration::from_secs(10);
/// This many failed attempts in a row are a reason not to be ready, while the last one is not older than
/// `FAILED_ATTEMPTS_FOR`.
pub const FAILED_ATTEMPTS_ON_END: u64 = 10;
pub const FAILED_ATTEMPTS_FOR: Duration = Duration::from_secs(300);
/// Stalled partitions that the log and the reasons name one by one.
pub const STALLS_NAMED: usize = 3;
/// The overview is made at most this often, however many clients look: less than a second, so that a client
/// that looks each second sees a new one each time.
pub const OVERVIEW_INTERVAL: Duration = Duration::from_millis(900);
/// Partitions, runs and ticks that the overview shows.
pub const OVERVIEW_PARTITIONS: usize = 50;
pub const OVERVIEW_RUNS: u32 = 10;
pub const OVERVIEW_TICKS: u32 = 60;

const _: () = assert!(COMMIT_INTERVAL.as_millis() < 1000, "commits happen at least once a second");
const _: () = assert!(CURSOR_RELEASE_LIMIT.as_millis() > BROKER_CALL_LIMIT.as_millis());
const _: () = assert!(2 * OFFSETS_LOOK_INTERVAL.as_secs() + BROKER_CALL_LIMIT.as_secs() <= 60);
const _: () = assert!(COMMIT_DOUBT.as_millis() >= 3 * BROKER_CALL_LIMIT.as_millis());
const _: () = assert!(FAILED_FILE_BYTES_PER_RECORD > 21, "every record can be named");
const _: () = assert!(HISTORY_GROUP_WRITES <= HISTORY_QUEUE_WRITES);
const _: () =
    assert!(EMBEDDED_CHUNK_RECORDS <= EMBEDDED_POLL_RECORDS, "a poll hands over whole chunks");
const _: () = assert!(EMBEDDED_CHUNK_BYTES <= EMBEDDED_OUTBOX_BYTES);
const _: () = assert!(EMBEDDED_BUSY_LIMIT.as_millis() < BROKER_CALL_LIMIT.as_millis());
const _: () = assert!(PRODUCER_STOP_FLUSH_LIMIT.as_millis() < INTAKE_STOP_LIMIT.as_millis());
const _: () = assert!(HTTP_PAGE_ROWS_MAX < LIST_ROWS, "one row more is read than a page has");
const _: () = assert!(HTTP_CONNECTIONS < HTTP_THREADS);
const _: () = assert!(OVERVIEW_INTERVAL.as_millis() < HTTP_EVENT_INTERVAL.as_millis());
const _: () = assert!(PROBE_LIMIT.as_millis() < FIRST_CONTACT_LIMIT.as_millis());
