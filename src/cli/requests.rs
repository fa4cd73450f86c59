//! `mb requests`: redrives and replays that were asked for, as a list; and their cancellation,
//! whether an mb runs or not. What becomes of them is in `again`.

use crate::api::instance::Instance;
use crate::api::operations::requests::{CancelRequests, ListRequests};
use crate::cli::args::{RequestAction, RequestsArgs};
use crate::cli::output;
use crate::history::asked::{RequestRow, Selection};
use crate::model::clock::format_ms as format_time;
use crate::model::error::Result;

/// # Errors
/// `Config` where there is no history; `Usage` for a state that there is not; `Other` for requests
/// that there are not, or that are over already.
pub fn run(args: &RequestsArgs) -> Result<()> {
    let data_dir = &args.connection.data_dir;
    match &args.action {
        RequestAction::List { state, limit } => {
            let selection = Selection {
                state: Some(state.clone()),
                topic: args.given.topic.then(|| args.connection.topic.clone()),
                group: args.given.group.then(|| args.connection.group.clone()),
                limit: u32::try_from(*limit).unwrap_or(u32::MAX),
            };
            let rows = Instance::of(data_dir)?.perform(ListRequests(selection))?;
            print(&rows, args.json)
        }
        RequestAction::Cancel { ids, note } => {
            let cancel = CancelRequests { ids: ids.clone(), note: note.clone() };
            Instance::to_change(data_dir)?.perform(cancel)?;
            let shown = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            log::info!(
                "cancelled: {shown}; runs that had started end as they end, and dead letters of those \
                 that had not are open again"
            );
            Ok(())
        }
    }
}

fn print(rows: &[RequestRow], json: bool) -> Result<()> {
    if json {
        return output::print_json(rows);
    }
    let cells: Vec<_> = rows.iter().map(row).collect();
    let heading = [
        "REQUEST",
        "KIND",
        "STATE",
        "GROUP",
        "TOPIC",
        "WHAT",
        "SUCCEEDED",
        "FAILED",
        "LEFT",
        "RECORDS",
        "ASKED",
        "ENDED",
        "NOTE",
    ];
    output::print_table(heading, &cells)
}

fn row(row: &RequestRow) -> [String; 13] {
    let dash = || "-".to_owned();
    let what = match (row.partition, row.first_offset, row.last_offset) {
        (Some(partition), Some(first), Some(last)) => format!("{partition}/{first}-{last}"),
        _ if row.letters_left > 0 => format!("{} dead letter(s) left", row.letters_left),
        _ => "dead letters".to_owned(),
    };
    [
        row.id.to_string(),
        row.kind.clone(),
        row.state.clone(),
        row.group.clone(),
        row.topic.clone(),
        what,
        row.runs_succeeded.to_string(),
        row.runs_failed.to_string(),
        row.runs_left.to_string(),
        row.records.to_string(),
        format_time(row.asked_ms),
        row.ended_ms.map_or_else(dash, format_time),
        row.note.clone().unwrap_or_else(dash),
    ]
}
