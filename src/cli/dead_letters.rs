//! `mb dead-letters`: lists them, shows one whole, redrives and discards, whether an mb runs or not.
//!
//! What becomes of a redrive is in `again`; which letters are meant, in `history::letters`.

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
use crate::cli::args::{DeadLettersArgs, LetterAction};
use crate::cli::output;
use crate::history::letters::{Asked, ErrorCount, LetterDetail, LetterRow, Pick, Selection};
use crate::model::clock::format_ms as format_time;
use crate::model::error::{Error, Result};

/// # Errors
/// `Config` where there is no history; `Usage` for a state that there is not; `Other` for letters
/// that there are not, or that are resolved already.
pub fn run(args: &DeadLettersArgs) -> Result<()> {
    let data_dir = &args.connection.data_dir;
    let topic = args.given.topic.then(|| args.connection.topic.clone());
    let group = args.given.group.then(|| args.connection.group.clone());
    let pick = |ids: &[i64], error: &Option<String>| Pick {
        ids: ids.to_vec(),
        topic: topic.clone(),
        group: group.clone(),
        error: error.clone(),
    };
    match &args.action {
        LetterAction::List { state, error, limit, by_error } => {
            let selection = Selection {
                state: Some(state.clone()),
                topic,
                group,
                error: error.clone(),
                limit: u32::try_from(*limit).unwrap_or(u32::MAX),
                ..Selection::default()
            };
            if *by_error {
                count(data_dir, selection, args.json)
            } else {
                list(data_dir, selection, args.json)
            }
        }
        LetterAction::Show { id } => show(data_dir, *id, args.json),
        LetterAction::Redrive { ids, error } => redrive(data_dir, pick(ids, error), args.json),
        LetterAction::Discard { ids, error, note } => {
            discard(data_dir, pick(ids, error), note, args.json)
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
    output::print_pages(json, heading, selection.limit, row, |last: Option<&LetterRow>, limit| {
        let page = Selection { before: last.map(|last| last.id), limit, ..selection.clone() };
        instance.perform(ListDeadLetters(page))
    })
}

fn row(letter: &LetterRow) -> [String; 11] {
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
    let heading = ["LETTERS", "GROUP", "TOPIC", "ERROR"];
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
            "dead letter {id} is not in the history of {}: it never was, or it was resolved and \
             --history-keep has removed it",
            data_dir.display()
        ))
    })?;
    if json { output::print_json(&[json!(detail)]) } else { output::print(&text(&detail)) }
}

fn text(detail: &LetterDetail) -> String {
    let LetterDetail { letter, record, headers } = detail;
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
    for header in headers {
        line("header", &format!("{}: {}", shown(header, "name"), shown(header, "value")));
    }
    for name in ["key", "value"] {
        line(name, &shown(record, name));
    }
    text
}

/// A field of mb's JSON for bytes, for people.
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
    for Asked { request, topic, group, letters, left } in &asked {
        info!(
            "request {request}: {letters} dead letter(s) of topic {topic}, group {group} are redriven \
             {}; mb runs --request {request}{} shows how that goes",
            when(status.as_ref(), topic, group),
            output::data_dir_flag(data_dir)
        );
        if *left > 0 {
            info!(
                "{left} more stay open: another one of the same offset has other bytes, and is \
                 redriven first; ask again after it"
            );
        }
    }
    if json {
        return output::print_json(&asked);
    }
    let row = |asked: &Asked| {
        let Asked { request, topic, group, letters, .. } = asked.clone();
        [request.to_string(), group, topic, letters.to_string()]
    };
    let rows: Vec<_> = asked.iter().map(row).collect();
    output::print_table(["REQUEST", "GROUP", "TOPIC", "LETTERS"], &rows)
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

/// When a request is worked on.
pub(super) fn when(status: Option<&Status>, topic: &str, group: &str) -> String {
    match status {
        Some(status) if status.topic == topic && status.group == group => "now".to_owned(),
        _ => format!("when mb runs the next time with --topic {topic} --group {group}"),
    }
}
