//! `mb replay`: requests that a range of the log is processed once more, in new runs; the committed offsets do not
//! move. Replays are performed in `source::reprocess`.

use log::info;
use serde::Serialize;

use crate::api::instance::Instance;
use crate::api::operations::requests::ReplayRanges;
use crate::cli::errors::usage;
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{connect, dead_letters, output, values};
use crate::config::Client;
use crate::history::{self, schema};
use crate::model::clock;
use crate::model::error::Result;
use crate::model::offset::{Offset, OffsetRange, Partition};
use crate::source::reprocess::plan::{self, Span};

flags! {
    #[argh(
        description = "Processes a range of the topic once more, in new runs: at once if mb runs, otherwise at its next \
            start. The committed offsets of the group do not move. Records that the log no longer has \
            are skipped with a warning.\n\
            \n\
            TIME is 2026-11-24T06:10:30Z, or has an offset such as +01:00. Without either it is UTC, and a date \
            alone is its midnight.",
        example = "mb replay --topic orders --partition 3 --from 1000 --to 1999\n\
            mb replay --since 2026-11-24T06:00:00Z --until 2026-11-24T07:00:00Z"
    )]
    struct ReplayFlags {
        "Range": {
            /// first offset to replay; with --partition
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, { i64::MAX as u64 }, _>))]
            from: Option<i64>,

            /// last offset to replay (if not set: the last one in the log)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<0, { i64::MAX as u64 }, _>))]
            to: Option<i64>,

            /// replay from the first record with this timestamp or a later one
            #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
            since: Option<i64>,

            /// stop before the first record with this timestamp or a later one (if not set: the log's end)
            #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
            until: Option<i64>,

            /// only this partition (if not set: all partitions)
            #[argh(option, arg_name = "P", from_str_fn(values::whole::<0, { i32::MAX as u64 }, _>))]
            partition: Option<i32>,
        }
        "Output": {
            /// print one JSON array
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct ReplayArgs {
    pub common: Common,
    /// One partition rather than all.
    pub partition: Option<Partition>,
    pub span: Span,
    pub json: bool,
}

/// One partition's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    request: i64,
    topic: String,
    partition: Partition,
    first_offset: i64,
    last_offset: i64,
}

impl Command for ReplayFlags {
    const NAME: &'static str = "replay";
    const SUMMARY: &'static str = "process a range of the topic once more";
    const USAGE: &'static [&'static str] = &[
        "[FLAGS] --partition P --from N [--to N]",
        "[FLAGS] --since TIME [--until TIME] [--partition P]",
    ];
    type Args = ReplayArgs;

    fn check(self) -> Result<ReplayArgs> {
        let common = self.common()?;
        let span = self.span()?;
        Ok(ReplayArgs { common, partition: self.partition, span, json: self.json })
    }

    fn run(args: ReplayArgs, _: &Terminal) -> Result<()> {
        replay(&args)
    }
}

impl ReplayFlags {
    fn span(&self) -> Result<Span> {
        match (self.from, self.to, self.since, self.until) {
            (Some(from), to, None, None) => {
                if let Some(to) = to.filter(|to| *to < from) {
                    return usage(format!("--to: got {to}, expected --from ({from}) or more"));
                }
                if self.partition.is_none() {
                    return usage(
                        "--from: got this flag without --partition, expected --partition P as well, \
                         because each partition has offsets of its own",
                    );
                }
                Ok(Span::Offsets { from: Offset::new(from), to: to.map(Offset::new) })
            }
            (None, None, Some(since), until) => {
                if let Some(until) = until.filter(|until| *until <= since) {
                    return usage(format!(
                        "--until: got {}, expected a time after --since ({})",
                        clock::format_ms(until),
                        clock::format_ms(since)
                    ));
                }
                Ok(Span::Times { since, until })
            }
            (None, Some(to), None, None) => {
                usage(format!("--to: got {to} without --from, expected --from N as well"))
            }
            (None, None, None, _) => usage(
                "range: got none, expected --partition P --from N --to N, or --since TIME --until TIME",
            ),
            _ => usage(
                "range: got offsets and times, expected --from and --to, or --since and --until",
            ),
        }
    }
}

fn replay(args: &ReplayArgs) -> Result<()> {
    let data_dir = &args.common.connection.data_dir;
    schema::check_exists(&data_dir.join(history::FILE))?;
    let connected = connect::broker(&args.common, connect::Embedded::IfPresent)?;
    let (broker, connection) = (connected.broker.as_ref(), &connected.connection);
    let info = broker.topic(&connection.topic)?;
    let partitions = connect::partitions(&info, args.partition)?;
    let plan = plan::plan(broker, &info.name, &partitions, args.span)?;
    plan.log_notes();
    let replay = plan.request(broker.backend(), &info, &connection.group);
    let mut instance = if connected.holds_data_dir() {
        Instance::stopped(data_dir, None)
    } else {
        Instance::to_change(data_dir)?
    };
    let status = instance.status()?;
    let numbers = instance.perform(ReplayRanges(replay))?;
    let when = dead_letters::when(status.as_ref(), &info.name, &connection.group);
    for (request, (partition, range)) in numbers.iter().zip(&plan.ranges) {
        info!(
            "request {request}: {}/{partition} {range} is replayed {when}; mb runs --request {request}{} \
             lists its runs",
            info.name,
            output::data_dir_flag(&connection.data_dir)
        );
    }
    let row = |(request, (partition, range)): (&i64, &(Partition, OffsetRange))| Row {
        request: *request,
        topic: info.name.clone(),
        partition: *partition,
        first_offset: range.first.get(),
        last_offset: range.last.get(),
    };
    let rows: Vec<Row> = numbers.iter().zip(&plan.ranges).map(row).collect();
    print(rows, args.json)
}

fn print(rows: Vec<Row>, json: bool) -> Result<()> {
    if json {
        return output::print_json(&rows);
    }
    let cells: Vec<_> = rows
        .into_iter()
        .map(|row| {
            [
                row.request.to_string(),
                row.topic,
                row.partition.to_string(),
                row.first_offset.to_string(),
                row.last_offset.to_string(),
            ]
        })
        .collect();
    output::print_table(["REQUEST", "TOPIC", "PARTITION", "FIRST-OFFSET", "LAST-OFFSET"], &cells)
}
