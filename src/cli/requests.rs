//! `mb requests`: lists redrives and replays, and cancels them, whether an mb runs or not. They are performed in
//! `source::reprocess`.

use crate::api::instance::Instance;
use crate::api::operations::requests::{CancelRequests, ListRequests};
use crate::cli::errors::{check_taken, shown, usage};
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{output, values};
use crate::config::Client;
use crate::config::limits;
use crate::history::requests::{RequestRow, Selection};
use crate::model::clock::format_ms as format_time;
use crate::model::error::Result;

flags! {
    #[argh(
        description = "Lists requests to reprocess records (redrives and replays), or cancels them. REQUEST is a number \
            from the first column of the list. Cancelling ends an open request: runs that have started finish, \
            the others never start, and their dead letters are open again. mb runs --request N lists the runs \
            of a request. SUCCEEDED, FAILED and LEFT are numbers of records, RECORDS is their sum.",
        example = "mb requests list --state open\n\
            mb requests cancel 3 --note 'wrong range'"
    )]
    struct RequestsFlags {
        "Selection": {
            /// list or cancel, followed by the requests to cancel
            #[argh(positional, arg_name = "ACTION [REQUEST…]")]
            words: Vec<String>,

            /// with list: only requests in this state: open, done, cancelled or all (default all)
            #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
            state: Option<String>,

            /// with list: the newest N requests, 1 to 1000000 (default 20)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000, _>))]
            limit: Option<u32>,

            /// with cancel: the reason, which is stored with the request
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            note: Option<String>,
        }
        "Output": {
            /// with list: print one JSON array
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct RequestsArgs {
    pub common: Common,
    pub action: Action,
    pub json: bool,
}

/// What `mb requests` does.
#[derive(Clone, Debug)]
pub enum Action {
    List(Selection),
    Cancel { ids: Vec<i64>, note: String },
}

impl Command for RequestsFlags {
    const NAME: &'static str = "requests";
    const SUMMARY: &'static str = "list redrives and replays, or cancel them";
    const USAGE: &'static [&'static str] = &["[FLAGS] list", "[FLAGS] cancel REQUEST…"];
    type Args = RequestsArgs;

    fn check(self) -> Result<RequestsArgs> {
        let common = self.common()?;
        let action = self.action(&common)?;
        Ok(RequestsArgs { common, action, json: self.json })
    }

    fn run(args: RequestsArgs, _: &Terminal) -> Result<()> {
        let data_dir = &args.common.connection.data_dir;
        match args.action {
            Action::List(selection) => {
                let rows = Instance::of(data_dir)?.perform(ListRequests(selection))?;
                print(&rows, args.json)
            }
            Action::Cancel { ids, note } => {
                let cancel = CancelRequests { ids: ids.clone(), note };
                Instance::to_change(data_dir)?.perform(cancel)?;
                let shown = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                log::info!(
                    "cancelled: {shown}; runs that have started finish, the others never start and their \
                     dead letters are open again"
                );
                Ok(())
            }
        }
    }
}

impl RequestsFlags {
    fn action(&self, common: &Common) -> Result<Action> {
        const ACTIONS: [&str; 2] = ["list", "cancel"];
        let (action, words) = values::action(&self.words, &ACTIONS)?;
        check_taken(
            action,
            &[
                ("--state", self.state.is_some(), &["list"]),
                ("--limit", self.limit.is_some(), &["list"]),
                ("--note", self.note.is_some(), &["cancel"]),
            ],
        )?;
        if action == "cancel" {
            let ids = values::ids("REQUEST", words, "mb requests list")?;
            if ids.is_empty() || ids.len() > limits::REQUEST_IDS {
                return usage(format!(
                    "REQUEST: got {} of them, expected 1 to {} after cancel",
                    ids.len(),
                    limits::REQUEST_IDS
                ));
            }
            let note = self.note.clone().unwrap_or_else(|| "cancelled by a person".to_owned());
            return Ok(Action::Cancel { ids, note });
        }
        match words {
            [] => Ok(Action::List(Selection {
                state: Some(self.state.clone().unwrap_or_else(|| "all".to_owned())),
                topic: common.typed_topic(),
                group: common.typed_group(),
                limit: self.limit.unwrap_or(values::LIST_LIMIT),
                ..Selection::default()
            })),
            [word, ..] => usage(format!("REQUEST: got {} with list, expected none", shown(word))),
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
        "REQUESTED",
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
        row.records.to_string(),
        row.records_failed.to_string(),
        row.records_left.to_string(),
        (row.records + row.records_failed + row.records_left).to_string(),
        format_time(row.asked_ms),
        row.ended_ms.map_or_else(dash, format_time),
        row.note.clone().unwrap_or_else(dash),
    ]
}
