//! `mb replay`: asks for a range of the log to be processed once more, in runs of its own; nothing is
//! committed for it. What becomes of it is in `again`.

use std::collections::BTreeMap;

use log::{info, warn};
use serde::Serialize;

use crate::api::instance::Instance;
use crate::api::operations::requests::ReplayRanges;
use crate::cli::args::{ReplayArgs, Span};
use crate::cli::{connect, dead_letters, output};
use crate::history::requests::Replay;
use crate::history::{self, schema};
use crate::kafka::{Backend, Broker, TopicInfo, Watermarks, require_all};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange, Partition};

/// One partition's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    request: i64,
    topic: String,
    partition: Partition,
    first_offset: i64,
    last_offset: i64,
}

/// # Errors
/// `Config` where there is no history, no such partition, or nothing in the log that could be
/// replayed; whatever the broker cannot answer.
pub fn run(args: &ReplayArgs) -> Result<()> {
    let data_dir = &args.connection.data_dir;
    schema::check_exists(&data_dir.join(history::FILE))?;
    let connected = connect::broker(&args.connection, args.given, connect::Embedded::IfPresent)?;
    let (broker, connection) = (connected.broker.as_ref(), &connected.connection);
    let info = broker.topic(&connection.topic)?;
    let ranges = ranges(broker, &info, args.partition, args.span)?;
    let replay = Replay {
        embedded: broker.backend() == Backend::Embedded,
        cluster_id: info.cluster_id.clone().unwrap_or_default(),
        group: connection.group.clone(),
        topic: info.name.clone(),
        topic_id: info.id.clone().unwrap_or_default(),
        ranges: ranges
            .iter()
            .map(|(partition, range)| (*partition, range.first.get(), range.last.get()))
            .collect(),
    };
    let mut instance = if connected.holds_data_dir() {
        Instance::stopped(data_dir, None)
    } else {
        Instance::to_change(data_dir)?
    };
    let status = instance.status()?;
    let numbers = instance.perform(ReplayRanges(replay))?;
    let when = dead_letters::when(status.as_ref(), &info.name, &connection.group);
    for (request, (partition, range)) in numbers.iter().zip(&ranges) {
        info!(
            "request {request}: {}/{partition} {range} is replayed {when}; mb runs --request {request}{} \
             shows how that goes",
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
    let rows: Vec<Row> = numbers.iter().zip(&ranges).map(row).collect();
    print(rows, args.json)
}

/// What is replayed of each partition: of the range that was asked for, what the log has now.
fn ranges(
    broker: &dyn Broker,
    info: &TopicInfo,
    only: Option<Partition>,
    span: Span,
) -> Result<Vec<(Partition, OffsetRange)>> {
    let topic = &info.name;
    let partitions = connect::partitions(info, only)?;
    let marks = require_all(broker.watermarks(topic, &partitions)?)?;
    let at = |time: Option<i64>| -> Result<BTreeMap<Partition, Offset>> {
        match time {
            Some(ms) => require_all(broker.offsets_at(topic, &partitions, ms)?),
            None => Ok(BTreeMap::new()),
        }
    };
    let (since, until) = match span {
        Span::Offsets { .. } => (BTreeMap::new(), BTreeMap::new()),
        Span::Times { since, until } => (at(Some(since))?, at(until)?),
    };
    let mut ranges = Vec::new();
    for (partition, Watermarks { beginning, end }) in marks {
        // Offsets that bound it: the first one included, the second one not.
        let (first, next) = match span {
            Span::Offsets { from, to } => {
                // Far behind the end there may be no next offset; near or far, it is said below.
                let behind = |to: Offset| if to < end { to.next() } else { to.max(end.next()) };
                (from, to.map_or(end, behind))
            }
            Span::Times { .. } => (
                since.get(&partition).copied().unwrap_or(end),
                until.get(&partition).copied().unwrap_or(end),
            ),
        };
        if first < beginning {
            let last = beginning.min(next).get() - 1;
            warn!(
                "{topic}/{partition} {first}-{last} is not in the log any more (retention): the replay \
                 begins at {beginning}"
            );
        }
        if next > end {
            warn!("{topic}/{partition} ends at {end}: what comes later is not replayed");
        }
        let (first, next) = (first.max(beginning), next.min(end));
        if first < next {
            ranges.push((partition, OffsetRange::new(first, Offset::new(next.get() - 1))));
        } else {
            info!("{topic}/{partition} has nothing in that range");
        }
    }
    if ranges.is_empty() {
        return Err(Error::Config(format!(
            "range: nothing of topic {topic} lies in it, expected offsets or times that the log has"
        )));
    }
    Ok(ranges)
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
