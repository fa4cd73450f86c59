//! The flags of each command as argh structs: names, help texts and which kind of value each takes.
//!
//! Flag syntax is in `bridge`, the kinds of values in `values`; what becomes of them, in `args`.
//! A help text states the default in brackets; a test holds it to `config::Config`.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::cli::values::{self, Given, Listen, StepName};
use crate::config::limits;
use crate::config::{
    Client, Connection, DeadLetterTo, Isolation, OnFailure, OnMissingOffsets, Order, StartFrom,
};

/// Headings in the help text of every command, each with the first flag beneath it.
pub const HEADINGS: [(&str, &str); 12] = [
    ("--rate", "Producer"),
    ("--max-batch", "Sensor and batches"),
    ("--queue", "Run queue and workers"),
    ("--step", "Step"),
    ("--max-attempts", "Failures and history"),
    ("--drain-timeout", "Process"),
    ("--to-earliest", "Target (one of them)"),
    ("--to", "Range"),
    ("--state", "Selection"),
    ("--bootstrap-server", "Connection and data"),
    ("--json", "Output"),
    ("-V,", "Help"),
];

/// A command's argh struct: its own flags, then those that every command has. Types are taken apart
/// into names, since argh reads them by their letters and cannot see into a macro's `ty`.
macro_rules! command {
    (
        $(#[$meta:meta])*
        struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $type:ident $(<$inner:ident>)?,)*
        }
    ) => {
        #[derive(FromArgs, ArgsInfo, Debug)]
        $(#[$meta])*
        #[argh(
            help_triggers("-h", "--help"),
            error_code(0, "done, or stopped in order"),
            error_code(1, "runtime error, such as a broker that does not answer"),
            error_code(2, "forced stop: a second signal, or the time limit of the first"),
            error_code(64, "wrong usage"),
            error_code(65, "deliberate halt, such as a failed run with --on-failure halt"),
            error_code(78, "settings that cannot be used, such as a data directory in use")
        )]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type $(<$inner>)?,)*

            /// brokers of Kafka, HOST:PORT[,HOST:PORT…] (without it localhost:9092 if it answers, else
            /// the embedded topic where --rate or --client embedded is given)
            #[argh(option, arg_name = "HOST:PORT[,HOST:PORT…]", from_str_fn(values::text))]
            pub bootstrap_server: Option<String>,

            /// the topic (default First_Topic)
            #[argh(option, arg_name = "NAME", from_str_fn(values::text))]
            pub topic: Option<String>,

            /// the consumer group whose offsets are used (default mb)
            #[argh(option, arg_name = "NAME", from_str_fn(values::text))]
            pub group: Option<String>,

            /// which client speaks to the log: auto, rdkafka, kafka (pure Rust, brokers up to 3.9)
            /// or embedded (a topic in the data directory, no Kafka) (default auto)
            #[argh(option, arg_name = "CLIENT", from_str_fn(values::client))]
            pub client: Option<Client>,

            /// where history, dead letters and the embedded topic are (default mb-data)
            #[argh(option, arg_name = "DIR", from_str_fn(values::text))]
            pub data_dir: Option<String>,

            /// partitions of topics that mb creates, 1 to 10000 (default 4)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 10_000, _>))]
            pub partitions: Option<u32>,

            /// how much the embedded topic keeps; unread records are never removed
            /// (default 256MiB)
            #[argh(
                option,
                arg_name = "SIZE",
                from_str_fn(values::size::<65_536, 1_099_511_627_776, _>)
            )]
            pub embedded_retention_bytes: Option<u64>,

            /// print the version
            #[argh(switch, short = 'V')]
            #[allow(dead_code, reason = "the bridge answers it before argh is asked")]
            version: bool,
        }

        impl $name {
            /// Which of them were typed.
            pub fn given(&self) -> Given {
                Given { topic: self.topic.is_some(), group: self.group.is_some() }
            }

            /// The flags that every command has.
            pub fn connection(&self) -> Connection {
                let default = Connection::default();
                Connection {
                    bootstrap_server: self.bootstrap_server.clone(),
                    topic: self.topic.clone().unwrap_or(default.topic),
                    group: self.group.clone().unwrap_or(default.group),
                    client: self.client.unwrap_or(default.client),
                    data_dir: self.data_dir.as_ref().map_or(default.data_dir, PathBuf::from),
                    partitions: self.partitions.unwrap_or(default.partitions),
                    embedded_retention_bytes: self
                        .embedded_retention_bytes
                        .unwrap_or(default.embedded_retention_bytes),
                }
            }
        }
    };
}

command! {
    #[argh(
        usage = "[FLAGS]\n       mb produce [FLAGS] [-]\n       mb lag [FLAGS]\n       mb runs [FLAGS] [RUN-ID]\n       mb offsets [FLAGS]\n       mb dead-letters [FLAGS] ACTION [ID…]\n       mb replay [FLAGS]\n       mb requests [FLAGS] ACTION [REQUEST…]\n       mb status|pause|resume|tick|top [FLAGS]\n       mb set [FLAGS] [NAME=VALUE…]",
        description = "A Kafka topic goes in, tracked micro-batch runs come out.\n\
            \n\
            Without a command it is the main job: sensors read the topic in ticks and cut it into\n\
            batches, a bounded queue holds them, a fixed number of workers runs the step on each;\n\
            offsets are committed after success only.\n\
            \n\
            Durations are seconds (10, 0.25) or carry a unit (250ms, 10s, 5m, 1h); sizes are bytes or\n\
            carry KiB, MiB or GiB. --flag=VALUE is the same as --flag VALUE.\n\
            \n\
            Commands:\n\
            \x20 produce           post messages to the topic\n\
            \x20 lag               how far the group is behind, per partition\n\
            \x20 status            how the running mb is doing; top shows it each second\n\
            \x20 pause, resume     stop the sensors of the running mb, and let them go on\n\
            \x20 tick              begin a tick now, or say what it would read (--preview)\n\
            \x20 set               change settings of the running mb\n\
            \x20 runs              the runs that the history holds; cancel them, or run them again\n\
            \x20 offsets           move the group's offsets\n\
            \x20 dead-letters      list, show, redrive or discard records that were given up on\n\
            \x20 replay            process a range of the topic again\n\
            \x20 requests          list redrives and replays, or cancel them\n\
            \x20 (each with --help of its own)",
        example = "{command_name} --rate 1000 --max-batch 100\n\
            {command_name} --bootstrap-server localhost:9092 --topic orders --exec 'wc -l' --max-concurrent-runs 8\n\
            {command_name} --topic orders --step files --out batches --until-caught-up"
    )]
    struct RunFlags {
        /// post this many messages per second too, from 0.001 to 10000000, or max (without it
        /// nothing is posted)
        #[argh(option, arg_name = "RATE", from_str_fn(values::rate))]
        rate: Option<f64>,

        /// with --rate: messages in all (without it they go on until the stop)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000_000_000_000, _>))]
        count: Option<u64>,

        /// with --rate: bytes of a message's value at least, up to 64MiB (default 100)
        #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 67_108_864, _>))]
        message_bytes: Option<usize>,

        /// with --rate: how many keys the messages have, the partition following the key; 0 sends
        /// without keys, to each partition in turn (default 0)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, 1_000_000_000, _>))]
        keys: Option<u64>,

        /// records of a batch at most, 1 to 1000000 (default 50)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, { limits::MAX_BATCH_RECORDS }, _>))]
        max_batch: Option<usize>,

        /// bytes of a batch at most, 1 to 1GiB; a larger record is a batch of its own
        /// (default 1MiB)
        #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 1_073_741_824, _>))]
        max_batch_bytes: Option<usize>,

        /// how long a batch may take to fill (default 100ms)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
        max_wait: Option<Duration>,

        /// how long a tick reads before its consumer is closed (default 10s)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
        tick_runtime: Option<Duration>,

        /// the pause between two ticks (default 1s)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
        tick_interval: Option<Duration>,

        /// bytes that the broker gathers before it answers a fetch, 1 to 64MiB (default 1)
        #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 67_108_864, _>))]
        fetch_min_bytes: Option<usize>,

        /// which records of transactions are read: read_committed or read_uncommitted, those of
        /// aborted ones too (without it read_committed where the client can)
        #[argh(option, arg_name = "LEVEL", from_str_fn(values::isolation))]
        isolation: Option<Isolation>,

        /// sensor threads, the partitions split among them, 1 to 100 (default 1)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 100, _>))]
        sensors: Option<usize>,

        /// where a group without offsets starts: earliest, latest or committed, which fails
        /// (default earliest)
        #[argh(option, arg_name = "WHERE", from_str_fn(values::start_from))]
        from: Option<StartFrom>,

        /// what happens where offsets to be read are not in the log, removed by retention or gone with
        /// a topic that was made again: halt (mb ends with 65) or skip (they are passed over, and
        /// recorded) (default halt)
        #[argh(option, arg_name = "WHAT", from_str_fn(values::on_missing_offsets))]
        on_missing_offsets: Option<OnMissingOffsets>,

        /// runs that wait for a worker at most, 1 to 100000 (default 100)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 100_000, _>))]
        queue: Option<usize>,

        /// bytes of all batches being filled, waiting and running, up to 1024GiB (default 32MiB)
        #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1024, 1_099_511_627_776, _>))]
        queue_bytes: Option<usize>,

        /// worker threads: how many runs are processed at a time, 1 to 1000 (default 5)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, { limits::WORKERS_MAX }, _>))]
        max_concurrent_runs: Option<usize>,

        /// which runs wait for others: none, partition (a partition's runs one after another) or key
        /// (records of one key one after another) (default none)
        #[argh(option, arg_name = "ORDER", from_str_fn(values::order))]
        order: Option<Order>,

        /// with --order key: lanes that a partition's keys are split into, 1 to 64 (without it as
        /// many as --max-concurrent-runs)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 64, _>))]
        lanes: Option<u32>,

        /// what a run does with its batch: discard (counts only), log or files (one NDJSON file per
        /// run) (default log)
        #[argh(option, arg_name = "STEP", from_str_fn(values::step))]
        step: Option<StepName>,

        /// with --step files: the folder they go to
        #[argh(option, arg_name = "DIR", from_str_fn(values::text))]
        out: Option<String>,

        /// instead of --step: a command (through sh -c) per batch, one JSON record a line on its
        /// stdin, MB_RUN_KEY and others in its environment; exit code 0 is success
        #[argh(option, arg_name = "COMMAND", from_str_fn(values::text))]
        exec: Option<String>,

        /// a pause before the step of each attempt, which stands for real work (default 0s)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
        step_delay: Option<Duration>,

        /// time limit of one attempt; a command is ended with all its processes (without it there
        /// is none)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
        step_timeout: Option<Duration>,

        /// attempts of a run before it is given up on, 1 to 1000 (default 3)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1000, _>))]
        max_attempts: Option<u32>,

        /// the pause before the second attempt, doubled for each further one (default 1s)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
        retry_backoff: Option<Duration>,

        /// what becomes of a run that is given up on: dead-letter (its records are kept, the
        /// offsets go on) or halt (mb ends with 65) (default dead-letter)
        #[argh(option, arg_name = "WHAT", from_str_fn(values::on_failure))]
        on_failure: Option<OnFailure>,

        /// where dead letters go: store (the history), topic:NAME (a topic, which is made if it is not
        /// there) or both, where :NAME may follow (without it TOPIC-dead-letters) (default store)
        #[argh(option, arg_name = "WHERE", from_str_fn(values::dead_letter))]
        dead_letter: Option<DeadLetterTo>,

        /// halve a batch whose last attempt failed, and its halves, with attempts of their own, until
        /// the bad records stand alone
        #[argh(switch)]
        bisect: bool,

        /// runs that the history keeps, 1 to 1000000000 (default 100000)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000_000, _>))]
        history_keep: Option<u64>,

        /// what running runs get to finish in at the stop (default 25s)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::duration))]
        drain_timeout: Option<Duration>,

        /// wait for the first contact with the broker for as long as it takes, not 10s
        #[argh(switch)]
        wait_for_broker: bool,

        /// end when everything that was in the topic at the start, and all that --rate and --count
        /// posted, is done
        #[argh(switch)]
        until_caught_up: bool,

        /// how long a partition that has lag may make no progress before that is a warning, and mb is
        /// not ready (default 1m)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
        stall_after: Option<Duration>,

        /// how old the oldest unprocessed record may be before mb is not ready (without it any age is
        /// fine)
        #[argh(option, arg_name = "DURATION", from_str_fn(values::positive_duration))]
        freshness: Option<Duration>,

        /// where the page, the API and the metrics are served: HOST:PORT, PORT or off
        /// (default 127.0.0.1:3000)
        #[argh(option, arg_name = "ADDRESS", from_str_fn(values::listen))]
        listen: Option<Listen>,

        /// a file with the token that the page and the API ask for; needed where --listen is reached
        /// from other machines
        #[argh(option, arg_name = "FILE", from_str_fn(values::text))]
        token_file: Option<String>,

        /// the page and the API change nothing
        #[argh(switch)]
        read_only: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS] [-]",
        description = "Posts messages to the topic, which is created if it is not there. A message is JSON with a\n\
            sequence number and the time of sending in ms: {{\"seq\":0,\"sent_ms\":1700000000000}}.",
        example = "{command_name} --rate 5000 --count 100000\n\
            {command_name} --topic orders --key-separator : - < orders.txt"
    )]
    struct ProduceFlags {
        /// a dash posts each line of stdin: its bytes as they are, without the newline; as fast as
        /// it goes where --rate is not given
        #[argh(positional, arg_name = "-")]
        source: Option<String>,

        /// messages per second, from 0.001 to 10000000, or max (default 1000)
        #[argh(option, arg_name = "RATE", from_str_fn(values::rate))]
        rate: Option<f64>,

        /// messages in all (without it they go on until the stop)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000_000_000_000, _>))]
        count: Option<u64>,

        /// bytes of a message's value at least, up to 64MiB (default 100)
        #[argh(option, arg_name = "SIZE", from_str_fn(values::size::<1, 67_108_864, _>))]
        message_bytes: Option<usize>,

        /// how many keys the messages have, the partition following the key; 0 sends without keys,
        /// to each partition in turn (default 0)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, 1_000_000_000, _>))]
        keys: Option<u64>,

        /// with -: what stands between key and value; a line without it has no key
        #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
        key_separator: Option<String>,
    }
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Prints how far the group is behind, with the columns of Kafka's consumer-groups tool. A - stands\n\
            where the group has committed nothing yet.",
        example = "{command_name} --topic orders --group mb\n{command_name} --json"
    )]
    struct LagFlags {
        /// print one JSON array
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS] [RUN-ID]\n       mb runs [FLAGS] cancel|again RUN-ID…",
        description = "Prints the runs that the history holds, the newest first; with RUN-ID that one in full. Where mb\n\
            runs, cancel gives runs up that are not over, their records become dead letters, and again\n\
            replays the offsets of runs.",
        example = "{command_name} --state failed\n{command_name} 17\n{command_name} cancel 17 --note 'wrong table'"
    )]
    struct RunsFlags {
        /// the run to be shown in full; or cancel or again, then the runs that it is done to
        #[argh(positional, arg_name = "RUN-ID")]
        words: Vec<String>,

        /// cancel: the reason, which is kept
        #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
        note: Option<String>,

        /// only runs in this state, such as failed
        #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
        state: Option<String>,

        /// only runs of this partition
        #[argh(option, arg_name = "P", from_str_fn(values::whole::<0, { i32::MAX as u64 }, _>))]
        partition: Option<i32>,

        /// only those with TEXT in their error
        #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
        error: Option<String>,

        /// only runs queued at TIME or later
        #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
        since: Option<i64>,

        /// only runs queued before TIME
        #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
        until: Option<i64>,

        /// only runs of this redrive or replay
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, { i64::MAX as u64 }, _>))]
        request: Option<i64>,

        /// the newest N runs, 1 to 1000000 (default 20)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000, _>))]
        limit: Option<u32>,

        /// print one JSON array
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Moves the group's offsets in the topic, as Kafka's consumer-groups tool does (--reset-offsets):\n\
            what lies from the new offset on is processed next, again where it was before. Without\n\
            --execute it only shows what would be. No mb may run on the data directory meanwhile.\n\
            \n\
            A TIME is 2026-11-24T06:10:30Z or has an offset such as +01:00; without either it is UTC, and\n\
            a day alone is its midnight.",
        example = "{command_name} --topic orders --group mb --to-earliest --execute\n\
            {command_name} --to-datetime 2026-11-24T06:00:00Z\n\
            {command_name} --shift-by -10 --partition 3 --execute"
    )]
    struct OffsetsFlags {
        /// to the first record that the log still has
        #[argh(switch)]
        to_earliest: bool,

        /// to the log's end, past all that is there
        #[argh(switch)]
        to_latest: bool,

        /// to the first record from TIME on, to the log's end where there is none
        #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
        to_datetime: Option<i64>,

        /// to this offset, or the log's beginning or end where it lies outside
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, { i64::MAX as u64 }, _>))]
        to_offset: Option<i64>,

        /// by N on from where the group is, back where N is below 0
        #[argh(option, arg_name = "N", from_str_fn(values::signed))]
        shift_by: Option<i64>,

        /// only this partition (without it all of them)
        #[argh(option, arg_name = "P", from_str_fn(values::whole::<0, { i32::MAX as u64 }, _>))]
        partition: Option<i32>,

        /// commit the new offsets (without it nothing is changed)
        #[argh(switch)]
        execute: bool,

        /// print one JSON array
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS] ACTION [ID…]",
        description = "Records that were given up on, as the history keeps them. ACTION is list, show, redrive or discard;\n\
            an ID is a number of the first column of the list. redrive processes them again, in runs of\n\
            their own (at once where mb runs, else with its next start); discard marks them as not\n\
            needed. Open ones are kept for as long as it takes, whatever --history-keep says.",
        example = "{command_name} list --topic orders\n\
            {command_name} list --by-error\n\
            {command_name} redrive --all --error timeout\n\
            {command_name} discard 17 18 --note 'test data'"
    )]
    struct DeadLettersFlags {
        /// list, show, redrive or discard; then the dead letters that it is done to
        #[argh(positional, arg_name = "ACTION-AND-IDS")]
        words: Vec<String>,

        /// list only those in this state: open, redriving, redriven, discarded or all
        /// (default open)
        #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
        state: Option<String>,

        /// list the newest N, 1 to 1000000 (default 20)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000, _>))]
        limit: Option<usize>,

        /// only those with TEXT in their error
        #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
        error: Option<String>,

        /// list how many have which error
        #[argh(switch)]
        by_error: bool,

        /// redrive or discard all open ones that the other flags select
        #[argh(switch)]
        all: bool,

        /// discard: the reason, which is kept
        #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
        note: Option<String>,

        /// print one JSON array
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS]",
        description = "Processes a range of the topic again, in runs of its own; the group's offsets stay where they are.\n\
            What the log has of the range now is taken: at once where mb runs, else with its next start.\n\
            \n\
            A TIME is 2026-11-24T06:10:30Z or has an offset such as +01:00; without either it is UTC, and\n\
            a day alone is its midnight.",
        example = "{command_name} --topic orders --partition 3 --from 1000 --to 1999\n\
            {command_name} --since 2026-11-24T06:00:00Z --until 2026-11-24T07:00:00Z"
    )]
    struct ReplayFlags {
        /// to this offset, which is replayed too (without it to the log's end)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, { i64::MAX as u64 }, _>))]
        to: Option<i64>,

        /// from this offset on; with --partition
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, { i64::MAX as u64 }, _>))]
        from: Option<i64>,

        /// from the first record of TIME or later on
        #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
        since: Option<i64>,

        /// to the last record before the first one of TIME or later (without it to the log's end)
        #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
        until: Option<i64>,

        /// only this partition (without it all of them)
        #[argh(option, arg_name = "P", from_str_fn(values::whole::<0, { i32::MAX as u64 }, _>))]
        partition: Option<i32>,

        /// print one JSON array
        #[argh(switch)]
        json: bool,
    }
}

command! {
    #[argh(
        usage = "[FLAGS] ACTION [REQUEST…]",
        description = "Redrives and replays that were asked for. ACTION is list or cancel; a REQUEST is a number of the\n\
            first column of the list. cancel ends open ones: runs that have started end as they end, the\n\
            others never start, and their dead letters are open again. mb runs --request N has the runs\n\
            of one.",
        example = "{command_name} list --state open\n\
            {command_name} cancel 3 --note 'wrong range'"
    )]
    struct RequestsFlags {
        /// list or cancel; then the requests that it is done to
        #[argh(positional, arg_name = "ACTION-AND-REQUESTS")]
        words: Vec<String>,

        /// list only those in this state: open, done, cancelled or all (default all)
        #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
        state: Option<String>,

        /// list the newest N, 1 to 1000000 (default 20)
        #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000, _>))]
        limit: Option<usize>,

        /// cancel: the reason, which is kept
        #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
        note: Option<String>,

        /// list: print one JSON array
        #[argh(switch)]
        json: bool,
    }
}

mod steer;

pub use steer::{PauseFlags, ResumeFlags, SetFlags, StatusFlags, TickFlags, TopFlags};
