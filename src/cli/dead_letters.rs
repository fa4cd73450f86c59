//! `mb dead-letters`: lists and searches dead letters, redrives and discards them, whether an mb runs or not. What
//! concerns a single one is in `dead_letter`. Redrives are performed in `source::reprocess`; selections are resolved in
//! `history::dead_letters`.

use std::path::Path;

use log::info;
use serde::Serialize;

use crate::api::context::Status;
use crate::api::instance::Instance;
use crate::api::operations::dead_letters::{
    CountDeadLetterErrors, Discard, ListDeadLetters, Redrive, SearchDeadLetters,
};
use crate::cli::dead_letter;
use crate::cli::errors::{check_taken, usage};
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{output, values};
use crate::config::Client;
use crate::config::limits;
use crate::history::dead_letters::{DeadLetterRow, ErrorCount, Pick, RedriveRequest, Selection};
use crate::model::clock::format_ms as format_time;
use crate::model::error::Result;
use crate::step::shown_record::ShownPair;

flags! {
    #[argh(
        description = "Lists dead letters (records that mb gave up on), shows one in full, edits, redrives or discards \
            them. ID is a number from the first column of the list.\n\
            \n\
            edit changes the value or the key with which a dead letter is redriven; the original stays, and revert \
            takes the edit back. redrive processes dead letters once more, in new runs: at once if mb runs, otherwise at its next \
            start. discard marks them as not needed. Open dead letters are kept without a time limit, whatever \
            --history-keep says.",
        example = "mb dead-letters list --topic orders\n\
            mb dead-letters list --by-error\n\
            mb dead-letters list --search poison --sort oldest\n\
            mb dead-letters show 17\n\
            mb dead-letters edit 17 --value-file mended.json\n\
            mb dead-letters redrive --all --error timeout\n\
            mb dead-letters discard 17 18 --note 'test data'"
    )]
    struct DeadLettersFlags {
        "Selection": {
            /// list, show, edit, revert, redrive or discard, followed by the dead letters it applies to
            #[argh(positional, arg_name = "ACTION [ID…]")]
            words: Vec<String>,

            /// with list: only dead letters in this state: open, redriving, redriven, discarded or all
            /// (default open)
            #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
            state: Option<String>,

            /// with list: only dead letters with TEXT in their error, key or value; a and A are the same
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            search: Option<String>,

            /// with list: which come first: newest, oldest or error (default newest)
            #[argh(option, arg_name = "ORDER", from_str_fn(values::text))]
            sort: Option<String>,

            /// with list: the first N dead letters, 1 to 1000000 (default 20)
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
        "Editing": {
            /// with edit: the record's new value, byte for byte; - is stdin
            #[argh(option, arg_name = "FILE", from_str_fn(values::text))]
            value_file: Option<String>,

            /// with edit: the record's new key
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            key: Option<String>,
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
    List { selection: Selection, search: Option<String> },
    CountByError(Selection),
    Show { id: i64 },
    Edit { id: i64, value_file: Option<String>, key: Option<String> },
    Revert { id: i64 },
    Redrive(Pick),
    Discard { pick: Pick, note: String },
}

impl Command for DeadLettersFlags {
    const NAME: &'static str = "dead-letters";
    const SUMMARY: &'static str = "list, show, edit, redrive or discard records that mb gave up on";
    const USAGE: &'static [&'static str] = &[
        "[FLAGS] list",
        "[FLAGS] show ID",
        "[FLAGS] edit ID [--value-file FILE] [--key TEXT]",
        "[FLAGS] revert ID",
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
            Action::List { selection, search } => list(data_dir, selection, search, args.json),
            Action::CountByError(selection) => count(data_dir, selection, args.json),
            Action::Show { id } => dead_letter::show(data_dir, id, args.json),
            Action::Edit { id, value_file, key } => {
                dead_letter::edit(data_dir, id, value_file.as_deref(), key, args.json)
            }
            Action::Revert { id } => dead_letter::revert(data_dir, id, args.json),
            Action::Redrive(pick) => redrive(data_dir, pick, args.json),
            Action::Discard { pick, note } => discard(data_dir, pick, &note, args.json),
        }
    }
}

impl DeadLettersFlags {
    fn action(&self, common: &Common) -> Result<Action> {
        const ACTIONS: [&str; 6] = ["list", "show", "edit", "revert", "redrive", "discard"];
        let (action, words) = values::action(&self.words, &ACTIONS)?;
        check_taken(
            action,
            &[
                ("--state", self.state.is_some(), &["list"]),
                ("--limit", self.limit.is_some(), &["list"]),
                ("--by-error", self.by_error, &["list"]),
                ("--search", self.search.is_some(), &["list"]),
                ("--sort", self.sort.is_some(), &["list"]),
                ("--value-file", self.value_file.is_some(), &["edit"]),
                ("--key", self.key.is_some(), &["edit"]),
                ("--error", self.error.is_some(), &["list", "redrive", "discard"]),
                ("--all", self.all, &["redrive", "discard"]),
                ("--note", self.note.is_some(), &["discard"]),
            ],
        )?;
        let ids = values::ids("ID", words, "mb dead-letters list")?;
        match (action, &ids[..]) {
            ("list", []) if self.by_error => self.count_by_error(common),
            ("list", []) => {
                Ok(Action::List { selection: self.selection(common), search: self.search.clone() })
            }
            ("list", [id, ..]) => usage(format!("ID: got {id} with list, expected none")),
            ("show", [id]) => Ok(Action::Show { id: *id }),
            ("edit", [id]) => self.edit(*id),
            ("revert", [id]) => Ok(Action::Revert { id: *id }),
            ("show" | "edit" | "revert", ids) => {
                usage(format!("ID: got {} of them with {action}, expected one", ids.len()))
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

    fn count_by_error(&self, common: &Common) -> Result<Action> {
        if self.search.is_some() || self.sort.is_some() {
            return usage("--by-error: got --search or --sort as well, expected only one of them");
        }
        Ok(Action::CountByError(self.selection(common)))
    }

    fn edit(&self, id: i64) -> Result<Action> {
        let (value_file, key) = (self.value_file.clone(), self.key.clone());
        if value_file.is_none() && key.is_none() {
            return usage("edit: got no change, expected --value-file FILE or --key TEXT as well");
        }
        Ok(Action::Edit { id, value_file, key })
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
            sort: self.sort.clone(),
            limit: self.limit.unwrap_or(values::LIST_LIMIT),
            ..Selection::default()
        }
    }
}

fn list(data_dir: &Path, selection: Selection, search: Option<String>, json: bool) -> Result<()> {
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
        "KEY",
        "VALUE",
        "ERROR",
    ];
    output::print_pages(
        json,
        heading,
        selection.limit,
        row,
        |last: Option<&DeadLetterRow>, limit| {
            let mut page = Selection { limit, ..selection.clone() };
            if let Some(last) = last {
                page.go_on_after(last.id);
            }
            match &search {
                None => instance.perform(ListDeadLetters(page)),
                Some(text) => search_to_the_end(&mut instance, page, text),
            }
        },
    )
}

/// A page of what a search finds. One answer may end before the list does.
fn search_to_the_end(
    instance: &mut Instance,
    mut page: Selection,
    text: &str,
) -> Result<Vec<DeadLetterRow>> {
    let wanted = page.limit as usize;
    let mut rows = Vec::new();
    loop {
        let search = SearchDeadLetters { selection: page.clone(), text: text.to_owned() };
        let found = instance.perform(search)?;
        rows.extend(found.dead_letters);
        match found.stopped_at.filter(|_| rows.len() < wanted) {
            None => return Ok(rows),
            Some(last) => page.go_on_after(last),
        }
        page.limit = u32::try_from(wanted - rows.len()).unwrap_or(page.limit);
    }
}

fn row(letter: &DeadLetterRow) -> [String; 13] {
    let redrive = match (letter.request, letter.redrive_run) {
        (_, Some(run)) => format!("run {run}"),
        (Some(request), None) => format!("request {request}"),
        (None, None) => "-".to_owned(),
    };
    let ShownPair { key, key_base64, value, value_base64, .. } = &letter.preview;
    let edited = if letter.edited_ms.is_some() { ", edited" } else { "" };
    [
        letter.id.to_string(),
        format!("{}{edited}", letter.state),
        letter.group.clone(),
        letter.topic.clone(),
        letter.partition.to_string(),
        letter.offset.to_string(),
        letter.attempts.to_string(),
        format_time(letter.at_ms),
        letter.run.to_string(),
        redrive,
        beginning(key.as_ref(), key_base64.as_ref()),
        beginning(value.as_ref(), value_base64.as_ref()),
        letter.error.chars().take(60).collect(),
    ]
}

/// What a cell shows of a key or value.
fn beginning(text: Option<&Option<String>>, base64: Option<&String>) -> String {
    const CHARS: usize = 40;
    match (text, base64) {
        (_, Some(base64)) => format!("(base64) {base64}").chars().take(CHARS).collect(),
        (Some(Some(text)), None) => text.chars().take(CHARS).collect(),
        _ => "-".to_owned(),
    }
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
