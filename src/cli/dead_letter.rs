//! One dead letter in `mb dead-letters`: shown in full, edited, and its edit taken back. Lists, and what is done to
//! several: `dead_letters`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use log::info;
use serde_json::json;

use crate::api::instance::Instance;
use crate::api::operations::dead_letters::{
    EditDeadLetter, EditedFields, GetDeadLetter, RevertDeadLetter,
};
use crate::cli::output;
use crate::config::limits;
use crate::history::dead_letters::{DeadLetterDetail, DeadLetterRow};
use crate::model::clock::format_ms as format_time;
use crate::model::error::{Error, Result};

pub(super) fn show(data_dir: &Path, id: i64, json: bool) -> Result<()> {
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
    let DeadLetterDetail { letter, record, edited } = detail;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // A String takes whatever is written to it.
        let _ = writeln!(text, "{name:<14} {}", output::escape(value));
    };
    facts(letter, &mut line);
    for header in record["headers"].as_array().into_iter().flatten() {
        line("header", &format!("{}: {}", shown(header, "key"), shown(header, "value")));
    }
    for name in ["key", "value"] {
        line(name, &shown(record, name));
    }
    if let (Some(edited), Some(at)) = (edited, letter.edited_ms) {
        line("edited", &format!("{}; the next redrive processes:", format_time(at)));
        for name in ["key", "value"] {
            line(&format!("edited {name}"), &shown(edited, name));
        }
    }
    text
}

fn facts(letter: &DeadLetterRow, line: &mut impl FnMut(&str, &str)) {
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
}

/// A field that mb's JSON has as text, or as base64 under NAME_base64 if its bytes are not UTF-8.
fn shown(json: &serde_json::Value, name: &str) -> String {
    match (&json[name], json[format!("{name}_base64")].as_str()) {
        (_, Some(bytes)) => format!("(base64) {bytes}"),
        (serde_json::Value::String(text), None) => text.clone(),
        _ => "(null)".to_owned(),
    }
}

/// Edits the record: its value becomes the content of a file (`-` is stdin), or its key another one.
pub(super) fn edit(
    data_dir: &Path,
    id: i64,
    value_file: Option<&str>,
    key: Option<String>,
    json: bool,
) -> Result<()> {
    let mut fields = EditedFields { key: key.map(Some), ..EditedFields::default() };
    if let Some(file) = value_file {
        match String::from_utf8(read(file)?) {
            Ok(text) => fields.value = Some(Some(text)),
            Err(bytes) => fields.value_base64 = Some(STANDARD.encode(bytes.as_bytes())),
        }
    }
    let edit = EditDeadLetter { id, fields, redrive: false };
    let done = Instance::to_change(data_dir)?.perform(edit)?;
    if json {
        return output::print_json(&[done]);
    }
    info!(
        "dead letter {id} is edited; mb dead-letters redrive {id}{} processes it as it is now",
        output::data_dir_flag(data_dir)
    );
    Ok(())
}

/// The whole content of a file, if a record may be so large.
fn read(file: &str) -> Result<Vec<u8>> {
    let most = limits::EDITED_RECORD_BYTES;
    let mut content = Vec::new();
    let mut read = |from: &mut dyn Read| from.take(most as u64 + 1).read_to_end(&mut content);
    let outcome = match file {
        "-" => read(&mut io::stdin().lock()),
        path => File::open(path).and_then(|mut opened| read(&mut opened)),
    };
    outcome.map_err(|cause| {
        Error::Config(format!("--value-file: got {file}, which cannot be read: {cause}"))
    })?;
    if content.len() > most {
        return Err(Error::Config(format!(
            "--value-file: got {file} with more than {most} bytes, which a record may have at most"
        )));
    }
    Ok(content)
}

pub(super) fn revert(data_dir: &Path, id: i64, json: bool) -> Result<()> {
    let done = Instance::to_change(data_dir)?.perform(RevertDeadLetter { id })?;
    if json {
        return output::print_json(&[done]);
    }
    info!("the edit of dead letter {id} is taken back: a redrive processes the original");
    Ok(())
}
