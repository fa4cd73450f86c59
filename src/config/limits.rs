//! Every fixed limit of mb in one place, with its unit in its name. What a user can set is in
//! `config`; these hold it up.

use std::time::Duration;

use crate::model::backoff::Backoff;

/// One call to the broker (metadata, offsets, a commit) must have its answer by then.
pub const BROKER_CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long one call waits for a partition that has no leader, before it answers without that partition. An
/// election after a clean shutdown takes well under a second.
pub const LEADER_LIMIT: Duration = Duration::from_secs(2);
/// The first contact with the broker; past it mb exits 1, unless `--wait-for-broker`.
pub const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(10);
/// Connecting, and each read or write of the ApiVersions probe.
pub const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// Whether Kafka is on localhost:9092 when no server was named: a local port answers at once.
pub const LOCAL_PROBE_LIMIT: Duration = Duration::from_secs(1);
/// Closing a consumer; past it the client is left to itself on its own thread.
pub const CONSUMER_CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long a consumer may have lost every broker before that is an error: librdkafka reconnects by
/// itself, and a short break is none.
pub const BROKER_DOWN_LIMIT: Duration = Duration::from_secs(1);

/// The wait after a tick's first error, doubled with each further one up to the maximum.
pub const SENSOR_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// Commands that wait for a sensor; whoever sends one more waits until the sensor has taken one.
pub const SENSOR_COMMANDS: usize = 64;

/// A poll of the client that waits for records is ended this often, to see whether mb stops.
pub const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The same, once all that `--until-caught-up` is to do was read; for so long.
pub const LAST_LOOK_INTERVAL: Duration = Duration::from_millis(5);
pub const LAST_LOOKS: Duration = Duration::from_secs(1);

/// Offsets are committed this often while runs finish; the promise is once a second.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(250);
pub const COMMIT_BACKOFF: Backoff =
    Backoff { first: COMMIT_INTERVAL, longest: SENSOR_BACKOFF.longest };
/// A commit without an answer may still reach the log for so long, counted from its failure; past
/// it a confirmed one settles all before.
pub const COMMIT_DOUBT: Duration = Duration::from_secs(60);
/// How often the watching thread looks for stalled runs.
pub const SUPERVISE_INTERVAL: Duration = Duration::from_secs(1);
/// From a second signal to the end of the process, whatever it does.
pub const SECOND_SIGNAL_GRACE: Duration = Duration::from_millis(500);
/// Between two first questions to a broker that is still loading.
pub const FIRST_CONTACT_PAUSE: Duration = Duration::from_millis(300);
/// Words from the threads to the one that watches them: more than there can be threads.
pub const EVENTS: usize = 4096;
/// What sensors and producer get at the stop once no run is going on; they hold nothing of value.
pub const INTAKE_STOP_LIMIT: Duration = Duration::from_secs(4);
/// What the history gets at the stop to write the rest.
pub const HISTORY_STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a process that starts waits for the lock on its data directory: a command has it for
/// moments only. A command waits as long for an mb that is starting.
pub const LOCK_LIMIT: Duration = Duration::from_secs(3);
pub const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A request on the control socket, from its first byte to its answer.
pub const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// Connections that the control socket serves at once.
pub const CONTROL_CONNECTIONS: usize = 16;
/// What a command waits for a change (redrive, discard, replay) of a running mb's history.
pub const CHANGE_LIMIT: Duration = Duration::from_secs(300);
/// Records that are shown of a run, and of each partition in a preview.
pub const SHOWN_RECORDS: usize = 100;
pub const PREVIEW_SHOWN_RECORDS: usize = 5;
/// What is shown of a key or a value, in bytes.
pub const SHOWN_VALUE_BYTES: usize = 16 * 1024;
/// Reading a run's records again for people.
pub const RECORDS_LIMIT: Duration = Duration::from_secs(5);
/// A preview of a tick ends at so long, or at so many records.
pub const PREVIEW_LIMIT: Duration = Duration::from_secs(2);
pub const PREVIEW_RECORDS: u64 = 10_000;
/// With more partitions a preview shows only those that have records.
pub const PREVIEW_PARTITIONS: usize = 200;
/// Characters of the note of a person who cancels a run.
pub const CANCEL_NOTE_CHARS: usize = 500;
/// Rows of a list that are read and sent at once; a longer one comes in several answers.
pub const LIST_ROWS: u32 = 500;
/// Bytes of one request on the control socket.
pub const CONTROL_REQUEST_BYTES: usize = 8 << 20;

/// Connections of the page and the API at once; at one more the oldest that is least use is closed.
pub const HTTP_CONNECTIONS: usize = 64;
/// Threads of connections, those included that were closed and are still at an answer.
pub const HTTP_THREADS: usize = 128;
/// A request, from its first byte (or its connection's beginning) to its last.
pub const HTTP_REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is kept between two requests.
pub const HTTP_IDLE_LIMIT: Duration = Duration::from_secs(60);
/// An answer, or one event, from its first byte to its last.
pub const HTTP_WRITE_LIMIT: Duration = Duration::from_secs(10);
/// What is still read of a refused request, so that its sender gets to see why.
pub const HTTP_LINGER_LIMIT: Duration = Duration::from_secs(1);
pub const HTTP_LINGER_BYTES: usize = 4 << 20;
/// What answers under way get at the stop, and after that the threads.
pub const HTTP_STOP_GRACE: Duration = Duration::from_millis(300);
pub const HTTP_STOP_LIMIT: Duration = Duration::from_secs(2);
/// Request line and headers of a request, in bytes; how many headers; its body, in bytes.
pub const HTTP_HEAD_BYTES: usize = 16 << 10;
pub const HTTP_HEADERS: usize = 64;
pub const HTTP_BODY_BYTES: usize = 1 << 20;
/// Requests at once that change something or ask the broker; one more is asked to come again.
pub const HTTP_LONG_REQUESTS: usize = 8;
/// Readers of the history that wait for the next request.
pub const HTTP_SPARE_SESSIONS: usize = 4;
/// Rows of a page of a list, where the request names no number, and at most.
pub const HTTP_PAGE_ROWS: u32 = 50;
pub const HTTP_PAGE_ROWS_MAX: u32 = 200;
/// Between two events of the overview.
pub const HTTP_EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the token in `--token-file`.
pub const TOKEN_BYTES_MIN: usize = 16;
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Browsers that are signed in; the oldest is signed out at one more.
pub const SIGNED_IN_MAX: usize = 100;
/// How long a browser stays signed in.
pub const SIGNED_IN_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The last commit at the stop.
pub const FINAL_COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// Writes that one history transaction takes at most.
pub const HISTORY_GROUP_WRITES: usize = 4096;
/// How long writes that nobody waits for (outcomes of runs that succeeded, ticks) wait for company.
pub const HISTORY_LINGER: Duration = Duration::from_millis(2);
/// Writes that wait for the history thread.
pub const HISTORY_QUEUE_WRITES: usize = 8192;
/// Output of steps, in bytes, that waits for the history thread; one run's is an eighth at most.
pub const HISTORY_OUTPUT_BYTES: usize = 8 << 20;
/// How long the history waits before it tries again what could not be written.
pub const HISTORY_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a dead-letter topic may take without acknowledging anything, before its producer is given
/// up on.
pub const DEAD_LETTER_LIMIT: Duration = Duration::from_secs(10);
/// The wait after dead letters could not be written, doubled with each further time up to the maximum.
pub const DEAD_LETTER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
/// Causes why dead letters cannot be written that are told while any waits.
pub const DEAD_LETTER_CAUSES: usize = 20;

/// What one redrive or replay gets before the next one has its turn.
pub const REQUEST_TURN: Duration = Duration::from_secs(2);
/// How often it is looked whether the runs of redrives and replays are done.
pub const REQUESTS_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Tries of a record that cannot be read, before nobody waits for the replay that comes to it any more.
pub const UNREADABLE_TRIES: u32 = 3;
/// Dead letters that one command may name.
pub const DEAD_LETTER_IDS: usize = 100_000;
/// Requests that one command may name.
pub const REQUEST_IDS: usize = 1000;

/// Runs that the log step shows one by one in a second; above it a second gets one line.
pub const LOGGED_RUNS_PER_SECOND: u64 = 20;

/// Output of a command that is kept, each of stdout and stderr: the first half and the last.
pub const CAPTURE_BYTES: usize = 64 * 1024;
/// How long the files step waits for room on a full disk before it tries again.
pub const ROOM_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Characters of an error that log and history keep.
pub const ERROR_CHARS: usize = 2000;
/// From SIGTERM to SIGKILL for a command past its time limit.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// JSON lines that wait for a command to read them: as much as a pipe takes at once. A single
/// longer record is built whole.
pub const FEED_BYTES: usize = 64 * 1024;
/// What is still read of an ended command's pipes: the most that a pipe can hold
/// (`/proc/sys/fs/pipe-max-size` as the kernel sets it).
pub const PIPE_REST_BYTES: usize = 1024 * 1024;
/// Characters of a command's last line on stderr that an error shows.
pub const ERROR_LINE_CHARS: usize = 200;
/// What is read of a command's `MB_FAILED_FILE`, in bytes: so much, and so much more for each
/// record of the batch. An offset and its line end take 21 bytes at most, the rest is for reasons.
pub const FAILED_FILE_BYTES: u64 = 64 * 1024;
pub const FAILED_FILE_BYTES_PER_RECORD: u64 = 256;
/// Tries to make the private folder of those files, each under a new name.
pub const SCRATCH_FOLDER_TRIES: usize = 16;
/// Asking the shell, at the start, whether it can make sense of a command.
pub const SHELL_CHECK_LIMIT: Duration = Duration::from_secs(10);

/// Runs that are planned together at most.
pub const PLAN_RUNS: usize = 64;
/// How long runs wait for company to be planned with, while records come in bulk.
pub const PLAN_LINGER: Duration = Duration::from_millis(5);
/// Records that one poll of the embedded topic hands over at most.
pub const EMBEDDED_POLL_RECORDS: usize = 4096;
/// Records that are taken from librdkafka at once: few enough to be in the processor's nearer caches
/// still when they are copied.
pub const RDKAFKA_TAKE_RECORDS: usize = 1024;
/// librdkafka's `queued.max.messages.kbytes` of one consumer: what it reads ahead stays within the
/// processor's caches until it is taken.
pub const RDKAFKA_QUEUE_KIB: usize = 4 * 1024;
/// Records that one consumer of librdkafka's holds before it stops fetching: each costs it some 350
/// bytes beyond its key and value, which the bound above does not count (10-byte records: 1.1 GB where
/// there is no bound).
pub const RDKAFKA_QUEUE_RECORDS: usize = 10_000;
/// What one fetch of librdkafka's brings at most, of all partitions together, in bytes. Soft: the broker
/// sends the first batch of the first partition whole, however large it is. A later partition's batch that
/// its bound cuts comes with the next fetch, for which librdkafka doubles that bound.
pub const RDKAFKA_FETCH_BYTES: usize = 8 << 20;

/// What one fetch of librdkafka's brings at most of each of so many partitions, in bytes: 1 MiB
/// together, so that an answer is still in the processor's caches when it is parsed, but from a few
/// partitions on a quarter of that each, or there would be too many answers.
pub const fn rdkafka_fetch_bytes(partitions: usize) -> usize {
    match partitions {
        0 | 1 => 1 << 20,
        2 | 3 => (1 << 20) / partitions,
        _ => 1 << 18,
    }
}
/// The producer's buffer in librdkafka.
pub const PRODUCER_QUEUE_KIB: usize = 16 * 1024;

/// How often `mb top` looks.
pub const TOP_INTERVAL: Duration = Duration::from_secs(1);

/// The most records that `--max-batch` allows, and the most workers.
pub const MAX_BATCH_RECORDS: u64 = 1_000_000;
pub const WORKERS_MAX: u64 = 1000;

/// The longest duration that a flag takes: a year of 365 days.
pub const DURATION_MAX: Duration = Duration::from_secs(8760 * 3600);
/// The lowest and the highest `--rate`, in messages per second.
pub const RATE_MIN: f64 = 0.001;
pub const RATE_MAX: f64 = 10_000_000.0;
/// Above a message per such an interval, a paced producer wakes once per interval and sends what
/// is due.
pub const PACING_INTERVAL: Duration = Duration::from_millis(1);
/// How long a producer waits for room in the client's buffer before it looks at the stop again.
pub const PRODUCER_ROOM_WAIT: Duration = Duration::from_millis(50);
/// The time between two progress reports of a producer.
pub const PRODUCER_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// What a failed producer gets to hand over what it still holds, before it is replaced.
pub const PRODUCER_RETIRE_LIMIT: Duration = Duration::from_secs(1);
/// The wait after a producer's first error, doubled with each further one up to the maximum.
pub const PRODUCER_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
/// Tries of a message that a fresh producer refuses before it is given up on.
pub const PRODUCER_TRIES: u32 = 3;
/// How long the last flush of a producer may go without progress: a lost broker is waited for.
pub const PRODUCER_FLUSH_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take as a whole after a stop.
pub const PRODUCER_STOP_FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// One line of `mb produce -`, in bytes.
pub const STDIN_LINE_BYTES: usize = 64 << 20;
/// Lines of stdin are handed to the producer in chunks of this many bytes (or one longer line),
/// and so many chunks are read ahead.
pub const STDIN_CHUNK_BYTES: usize = 64 << 10;
pub const STDIN_CHUNKS_AHEAD: usize = 4;
/// Until a topic that mb has just created is known to every broker.
pub const TOPIC_CREATION_LIMIT: Duration = Duration::from_secs(10);
/// One chunk of the embedded topic (a row of its file) closes at this many bytes or records; a
/// larger record is a chunk of its own.
pub const EMBEDDED_CHUNK_BYTES: usize = 256 * 1024;
pub const EMBEDDED_CHUNK_RECORDS: usize = 1024;
/// What a producer for the embedded topic holds before it writes; a larger record goes alone.
pub const EMBEDDED_OUTBOX_BYTES: usize = 1024 * 1024;
/// The largest record of the embedded topic.
pub const EMBEDDED_RECORD_BYTES: usize = 64 * 1024 * 1024;
/// A message waits at most this long for others that share its write.
pub const EMBEDDED_LINGER: Duration = Duration::from_millis(5);
/// How long a failed write (disk full) rests before it is tried again.
pub const EMBEDDED_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// SQLite's wait for a lock of the embedded topic's file.
pub const EMBEDDED_BUSY_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that crate kafka fetches of all partitions together, and of one, before a larger stored
/// batch makes a fetch of its own. It has one such answer at hand, and the next one under way.
pub const PURE_FETCH_BYTES: usize = 8 * 1024 * 1024;
pub const PURE_PARTITION_FETCH_BYTES: usize = 1024 * 1024;
/// Bytes of messages that crate kafka sends in one request: together they must fit a broker's
/// `message.max.bytes` (1 MiB by default), because the broker makes one batch of them.
pub const PURE_CHUNK_BYTES: usize = 512 * 1024;
/// How long a message waits for company before crate kafka sends it.
pub const PURE_LINGER: Duration = Duration::from_millis(5);
/// How long messages for a topic that is gone are kept and tried, before they count as failed.
pub const PURE_UNKNOWN_LIMIT: Duration = Duration::from_secs(30);

/// Kafka's own bound on topic names.
pub const TOPIC_NAME_CHARS: usize = 249;

/// A run's memory beyond its records: its key, its place in the queue, its bookkeeping.
pub const RUN_OVERHEAD_BYTES: usize = 512;
/// The most lanes that a partition's keys are split into.
pub const LANES_MAX: u32 = 64;
/// With `--bisect` each record may become a run of its own: what that takes beyond its bytes.
pub const SPLIT_RECORD_BYTES: usize = 320;
/// Runs of one partition that wait behind others of their lane, before the sensor stops reading
/// it; it goes on below half of them.
pub const PARKED_RUNS: usize = 64;
/// How often a sensor looks whether a partition that it does not read may be read again.
pub const PARKED_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How often the watching thread counts, and how many samples it keeps: 15 minutes.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
pub const SAMPLES: usize = 900;
/// It counts so long after the log is asked for its ends, which then are new.
pub const SAMPLE_AFTER_ASKING: Duration = Duration::from_millis(200);
/// What rates per second are counted over, and how the lag falls.
pub const RATE_WINDOW: Duration = Duration::from_secs(5);
pub const CATCH_UP_WINDOW: Duration = Duration::from_secs(15);
/// The log is asked for its ends each second for so many partitions, for more of them in proportion
/// less often, and at least so often.
pub const LAG_INTERVAL: Duration = Duration::from_secs(1);
pub const LAG_PARTITIONS_PER_INTERVAL: usize = 100;
pub const LAG_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// What the watching threads get at the stop.
pub const WATCH_STOP_LIMIT: Duration = Duration::from_millis(300);
/// Ends of one partition's log that are remembered with their times, for the lag in seconds.
pub const LAG_MEMORY_ENDS: usize = 120;
/// A lag counts as known for so long after the log was asked in vain, beyond the usual interval.
pub const LAG_KNOWN_FOR: Duration = Duration::from_secs(5);
/// A broker that fails for so long is a reason not to be ready.
pub const BROKER_TROUBLE_LIMIT: Duration = Duration::from_secs(10);
/// So many attempts on end that failed are a reason not to be ready, while the last one is not older
/// than this.
pub const FAILED_ATTEMPTS_ON_END: u64 = 10;
pub const FAILED_ATTEMPTS_FOR: Duration = Duration::from_secs(300);
/// Stalled partitions that the log and the reasons name one by one.
pub const STALLS_NAMED: usize = 3;
/// The overview is made anew at most so often, however many look: less than a second, so that who looks
/// each second sees a new one each time.
pub const OVERVIEW_INTERVAL: Duration = Duration::from_millis(900);
/// What the overview shows of partitions, runs and ticks.
pub const OVERVIEW_PARTITIONS: usize = 50;
pub const OVERVIEW_RUNS: u32 = 10;
pub const OVERVIEW_TICKS: u32 = 60;

const _: () = assert!(COMMIT_INTERVAL.as_millis() < 1000, "commits happen at least once a second");
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
