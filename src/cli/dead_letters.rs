//! `mb dead-letters`: lists dead letters, shows one in full, redrives and discards them, whether an mb runs or not.
//! Redrives are performed in `source::reprocess`; selections are resolved in `history::dead_letters`.

use std::fmt::Write as _;
use std::path::Path;

use log::info;
use serde::Serialize;
use serde_json::json;

use crate::api::context::Status;
use crate::api::instance::Instance;
use crate::api::operations::dead_letters::{
    CountDeadLetterErrors, Discard, GetDeadLetter, ListDeadLetters, Redrive,
};
use crate::cli::errors::{check_taken, usage};
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{output, values};
use crate::config::Client;
use crate::config::limits;
use crate::history::dead_letters::{
    DeadLetterDetail, DeadLetterRow, ErrorCount, Pick, RedriveRequest, Selection,
};
use crate::model::clock::format_ms as format_time;
use crate::model::error::{Error, Result};

flags! {
    #[argh(
        description = "Lists dead letters (records that mb gave up on), shows one in full, redrives or discards them. ID \
            is a number from the first column of the list.\n\
            \n\
            redrive processes dead letters once more, in new runs: at once if mb runs, otherwise at its next \
            start. discard marks them as not needed. Open dead letters are kept without a time limit, whatever \
            --history-keep says.",
        example = "mb dead-letters list --topic orders\n\
            mb dead-letters list --by-error\n\
            mb dead-letters show 17\n\
            mb dead-letters redrive --all --error timeout\n\
            mb dead-letters discard 17 18 --note 'test data'"
    )]
    struct DeadLettersFlags {
        "Selection": {
            /// list, show, redrive or discard, followed by the dead letters it applies to
            #[argh(positional, arg_name = "ACTION [ID…]")]
            words: Vec<String>,

            /// with list: only dead letters in this state: open, redriving, redriven, discarded or all
            /// (default open)
            #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
            state: Option<String>,

            /// with list: the newest N dead letters, 1 to 1000000 (default 20)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000, _>))]
            limit: Option<u32>,

            /// only dead letters whose error contains TEXT
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            error: Option<String>,

            /// with list: count the dead letters of each error
            #[argh(switch)]
            by_error: bool,

            /// with redrive or discard: all open dead letters that the other flags select
            #[argh(switch)]
            all: bool,

            /// with discard: the reason, which is stored with the dead letters
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            note: Option<String>,
        }
        "Output": {
            /// print one JSON array
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct DeadLettersArgs {
    pub common: Common,
    pub action: Action,
    pub json: bool,
}

/// What `mb dead-letters` does. A `Pick` without ids means all open dead letters that it selects.
#[derive(Clone, Debug)]
pub enum Action {
    List(Selection),
    CountByError(Selection),
    Show { id: i64 },
    Redrive(Pick),
    Discard { pick: Pick, note: String },
}

impl Command for DeadLettersFlags {
    const NAME: &'static str = "dead-letters";
    const SUMMARY: &'static str = "list, show, redrive or discard records that mb gave up on";
    const USAGE: &'static [&'static str] = &[
        "[FLAGS] list",
        "[FLAGS] show ID",
        "[FLAGS] redrive ID…|--all",
        "[FLAGS] discard ID…|--all --note TEXT",
    ];
    type Args = DeadLettersArgs;

    fn check(self) -> Result<DeadLettersArgs> {
        let common = self.common()?;
        let action = self.action(&common)?;
        Ok(DeadLettersArgs { common, action, json: self.json })
    }

    fn run(args: DeadLettersArgs, _: &Terminal) -> Result<()> {
        let data_dir = &args.common.connection.data_dir;
        match args.action {
            Action::List(selection) => list(data_dir, selection, args.json),
            Action::CountByError(selection) => count(data_dir, selection, args.json),
            Action::Show { id } => show(data_dir, id, args.json),
            Action::Redrive(pick) => redrive(data_dir, pick, args.json),
            Action::Discard { pick, note } => discard(data_dir, pick, &note, args.json),
        }
    }
}

impl DeadLettersFlags {
    fn action(&self, common: &Common) -> Result<Action> {
        const ACTIONS: [&str; 4] = ["list", "show", "redrive", "discard"];
        let (action, words) = values::action(&self.words, &ACTIONS)?;
        check_taken(
            action,
            &[
                ("--state", self.state.is_some(), &["list"]),
                ("--limit", self.limit.is_some(), &["list"]),
                ("--by-error", self.by_error, &["list"]),
                ("--error", self.error.is_some(), &["list", "redrive", "discard"]),
                ("--all", self.all, &["redrive", "discard"]),
                ("--note", self.note.is_some(), &["discard"]),
            ],
        )?;
        let ids = values::ids("ID", words, "mb dead-letters list")?;
        match (action, &ids[..]) {
            ("list", []) if self.by_error => Ok(Action::CountByError(self.selection(common))),
            ("list", []) => Ok(Action::List(self.selection(common))),
            ("list", [id, ..]) => usage(format!("ID: got {id} with list, expected none")),
            ("show", [id]) => Ok(Action::Show { id: *id }),
            ("show", ids) => {
                usage(format!("ID: got {} of them with show, expected one", ids.len()))
            }
            (_, _) => {
                self.check_ids(action, &ids)?;
                let pick = Pick {
                    ids,
                    topic: common.typed_topic(),
                    group: common.typed_group(),
                    error: self.error.clone(),
                };
                match (action, &self.note) {
                    ("redrive", _) => Ok(Action::Redrive(pick)),
                    (_, Some(note)) => Ok(Action::Discard { pick, note: note.clone() }),
                    (_, None) => {
                        usage("--note: got no reason with discard, expected --note TEXT as well")
                    }
                }
            }
        }
    }

    /// Dead letters are redriven or discarded by their ids, or all of them with `--all`.
    fn check_ids(&self, action: &str, ids: &[i64]) -> Result<()> {
        match ids {
            [] if !self.all => usage(format!("ID: got none, expected ID… or --all after {action}")),
            [id, ..] if self.all => {
                usage(format!("--all: got {id} as well, expected only one of them"))
            }
            ids if ids.len() > limits::DEAD_LETTER_IDS => usage(format!(
                "ID: got {} of them, expected up to {}; --all with --error, --topic or --group selects \
                 more",
                ids.len(),
                limits::DEAD_LETTER_IDS
            )),
            _ => Ok(()),
        }
    }

    fn selection(&self, common: &Common) -> Selection {
        Selection {
            state: Some(self.state.clone().unwrap_or_else(|| "open".to_owned())),
            topic: common.typed_topic(),
            group: common.typed_group(),
            error: self.error.clone(),
            limit: self.limit.unwrap_or(values::LIST_LIMIT),
            ..Selection::default()
        }
    }
}

fn list(data_dir: &Path, selection: Selection, json: bool) -> Result<()> {
    let mut instance = Instance::of(data_dir)?;
    let heading = [
        "ID",
        "STATE",
        "GROUP",
        "TOPIC",
        "PARTITION",
        "OFFSET",
        "ATTEMPTS",
        "SINCE",
        "RUN",
        "REDRIVE",
        "ERROR",
    ];
    output::print_pages(
        json,
        heading,
        selection.limit,
        row,
        |last: Option<&DeadLetterRow>, limit| {
            let page = Selection { before: last.map(|last| last.id), limit, ..selection.clone() };
            instance.perform(ListDeadLetters(page))
        },
    )
}

fn row(letter: &DeadLetterRow) -> [String; 11] {
    let redrive = match (letter.request, letter.redrive_run) {
        (_, Some(run)) => format!("run {run}"),
        (Some(request), None) => format!("request {request}"),
        (None, None) => "-".to_owned(),
    };
    [
        letter.id.to_string(),
        letter.state.clone(),
        letter.group.clone(),
        letter.topic.clone(),
        letter.partition.to_string(),
        letter.offset.to_string(),
        letter.attempts.to_string(),
        format_time(letter.at_ms),
        letter.run.to_string(),
        redrive,
        letter.error.chars().take(60).collect(),
    ]
}

fn count(data_dir: &Path, selection: Selection, json: bool) -> Result<()> {
    let mut instance = Instance::of(data_dir)?;
    let row = |count: &ErrorCount| {
        let ErrorCount { letters, topic, group, error } = count.clone();
        [letters.to_string(), group, topic, error]
    };
    let heading = ["DEAD-LETTERS", "GROUP", "TOPIC", "ERROR"];
    let mut skip = 0;
    output::print_pages(json, heading, selection.limit, row, |_, limit| {
        let page = Selection { skip, limit, ..selection.clone() };
        skip += limit;
        instance.perform(CountDeadLetterErrors(page))
    })
}

fn show(data_dir: &Path, id: i64, json: bool) -> Result<()> {
    let detail = Instance::of(data_dir)?.perform(GetDeadLetter { id })?;
    let detail = detail.ok_or_else(|| {
        Error::Other(format!(
            "dead letter {id} is not in the history of {}: it never existed, or it was resolved and then removed \
             by --history-keep",
            data_dir.display()
        ))
    })?;
    if json { output::print_json(&[json!(detail)]) } else { output::print(&text(&detail)) }
}

fn text(detail: &DeadLetterDetail) -> String {
    let DeadLetterDetail { letter, record } = detail;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // A String takes whatever is written to it.
        let _ = writeln!(text, "{name:<14} {}", output::escape(value));
    };
    line("dead letter", &letter.id.to_string());
    line("state", &letter.state);
    line("from", &format!("{}/{} offset {}", letter.topic, letter.partition, letter.offset));
    line("group", &letter.group);
    if let Some(timestamp) = letter.timestamp_ms {
        line("timestamp", &format_time(timestamp));
    }
    line("run", &format!("{} ({})", letter.run, letter.run_key));
    line("given up", &format_time(letter.at_ms));
    line("attempts", &letter.attempts.to_string());
    line("error", &letter.error);
    if let Some(request) = letter.request {
        line("redrive", &format!("request {request}"));
    }
    if let Some(run) = letter.redrive_run {
        line("redrive run", &run.to_string());
    }
    if let Some(resolved) = letter.resolved_ms {
        line("resolved", &format_time(resolved));
    }
    if let Some(note) = &letter.note {
        line("note", note);
    }
    for header in record["headers"].as_array().into_iter().flatten() {
        line("header", &format!("{}: {}", shown(header, "key"), shown(header, "value")));
    }
    for name in ["key", "value"] {
        line(name, &shown(record, name));
    }
    text
}

/// A field that mb's JSON has as text, or as base64 under NAME_base64 if its bytes are not UTF-8.
fn shown(json: &serde_json::Value, name: &str) -> String {
    match (&json[name], json[format!("{name}_base64")].as_str()) {
        (_, Some(bytes)) => format!("(base64) {bytes}"),
        (serde_json::Value::String(text), None) => text.clone(),
        _ => "(null)".to_owned(),
    }
}

fn redrive(data_dir: &Path, pick: Pick, json: bool) -> Result<()> {
    let mut instance = Instance::to_change(data_dir)?;
    let status = instance.status()?;
    let asked = instance.perform(Redrive(pick))?;
    for RedriveRequest { request, topic, group, letters, left } in &asked {
        info!(
            "request {request}: {letters} dead letter(s) of topic {topic}, group {group} are redriven \
             {}; mb runs --request {request}{} lists its runs",
            when(status.as_ref(), topic, group),
            output::data_dir_flag(data_dir)
        );
        if *left > 0 {
            info!(
                "{left} more stay open: a dead letter of the same offset but with different content is \
                 redriven first; redrive the rest when that is done"
            );
        }
    }
    if json {
        return output::print_json(&asked);
    }
    let row = |asked: &RedriveRequest| {
        let RedriveRequest { request, topic, group, letters, .. } = asked.clone();
        [request.to_string(), group, topic, letters.to_string()]
    };
    let rows: Vec<_> = asked.iter().map(row).collect();
    output::print_table(["REQUEST", "GROUP", "TOPIC", "DEAD-LETTERS"], &rows)
}

fn discard(data_dir: &Path, pick: Pick, note: &str, json: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Discarded {
        discarded: u64,
    }
    let discard = Discard { pick, note: note.to_owned() };
    let discarded = Instance::to_change(data_dir)?.perform(discard)?;
    if json {
        return output::print_json(&[Discarded { discarded }]);
    }
    output::print(&format!("{discarded} dead letter(s) discarded\n"))
}

/// When a request is carried out.
pub(super) fn when(status: Option<&Status>, topic: &str, group: &str) -> String {
    match status {
        Some(status) if status.topic == topic && status.group == group => "now".to_owned(),
        _ => format!("the next time mb runs with --topic {topic} --group {group}"),
    }
}
