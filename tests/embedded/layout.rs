//! The shape of src/, which ARCHITECTURE.md describes: few entries at its root, folders that import from
//! their left only, no circle of imports between files, files of a length that can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::tidy::{none, product, root, rust_files};

/// Entries of src/ at most.
const MOST_ENTRIES: usize = 14;
/// Folders of src/; those in one row know nothing of one another, others import from rows above only.
const FOLDERS: &[&[&str]] = &[
    &["model"],
    &["config"],
    &["kafka", "step"],
    &["history"],
    &["commit"],
    &["runs"],
    &["source"],
    &["observe"],
    &["api"],
    &["pipeline"],
    &["cli"],
];
/// Files that are in a circle of imports today. This list only gets shorter.
const IN_CIRCLES: &[&str] = &[
    "history/asked.rs",
    "history/letters.rs",
    "history/mod.rs",
    "history/pruning.rs",
    "history/recovery.rs",
    "history/requests.rs",
    "history/reset.rs",
    "history/writer.rs",
];
/// Lines of a file of src/, with its tests and comments.
const LINES: std::ops::RangeInclusive<usize> = 40..=500;
/// Files that are longer or shorter. This list only gets shorter.
const OTHER_LENGTHS: &[&str] = &[
    "api/operations/operation.rs",
    "cli/offsets.rs",
    "config/settings.rs",
    "history/mod.rs",
    "history/query/mod.rs",
    "history/recovery.rs",
    "history/schema.rs",
    "history/writer.rs",
    "kafka/embedded/no_faults.rs",
    "kafka/wire/fuzzing.rs",
    "model/sync.rs",
    "pipeline/status.rs",
    "runs/outcome_tests.rs",
    "runs/undelivered.rs",
    "step/discard.rs",
];
/// Lines of a file of tests, benches and the bench at most.
const MOST_LINES_OF_TESTS: usize = 700;

#[test]
fn the_root_of_src_has_few_entries() {
    let entries = fs::read_dir(root().join("src")).expect("src/ is there").count();
    assert!(entries <= MOST_ENTRIES, "src/ has {entries} entries: put new files into a folder");
}

#[test]
fn folders_import_from_their_left_only() {
    let row = |file: &str| {
        let folder = file.split('/').next().unwrap_or_default();
        FOLDERS.iter().position(|row| row.contains(&folder)).map(|row| (row, folder.to_owned()))
    };
    let mut wrong = Vec::new();
    for (from, targets) in imports() {
        let Some((from_row, from_folder)) = row(&from) else { continue };
        for to in targets {
            match row(&to) {
                Some((_, folder)) if folder == from_folder => {}
                Some((to_row, _)) if to_row < from_row => {}
                _ => wrong.push(format!("{from} imports from {to}")),
            }
        }
    }
    none(
        &wrong,
        "a folder may know those to its left only (lib.rs, Layout): move what both need there",
    );
}

#[test]
fn files_import_from_one_another_without_circles() {
    let imports = imports();
    let reached = |from: &str| {
        let mut reached = BTreeSet::<String>::new();
        let mut open = vec![from.to_owned()];
        while let Some(file) = open.pop() {
            for next in imports.get(&file).into_iter().flatten() {
                if reached.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        reached
    };
    let in_circles: Vec<_> = imports.keys().filter(|file| reached(file).contains(*file)).collect();
    let known = |file: &&&String| !IN_CIRCLES.contains(&file.as_str());
    let new: Vec<_> = in_circles.iter().filter(known).map(|file| file.to_string()).collect();
    none(&new, "these files import one another: move what they share to a file of its own");
    let gone = IN_CIRCLES.iter().filter(|file| !in_circles.iter().any(|known| known == *file));
    gone.for_each(|file| println!("{file} is in no circle any more: take it out of IN_CIRCLES"));
}

#[test]
fn files_are_long_enough_for_a_thing_and_short_enough_to_be_read() {
    let mut found = Vec::new();
    let mut unusual = BTreeSet::new();
    for (name, text) in rust_files() {
        let lines = text.lines().count();
        let Some(file) = name.strip_prefix("src/") else {
            if lines > MOST_LINES_OF_TESTS {
                found
                    .push(format!("{name}: {lines} lines, expected {MOST_LINES_OF_TESTS} at most"));
            }
            continue;
        };
        // One that declares and re-exports is as short as that is.
        let only_declares = file.ends_with("mod.rs") && lines < *LINES.start();
        if !LINES.contains(&lines) && !only_declares && file != "main.rs" {
            unusual.insert(file.to_owned());
            if !OTHER_LENGTHS.contains(&file) {
                found.push(format!("{name}: {lines} lines, expected {LINES:?}"));
            }
        }
    }
    none(&found, "a file holds one thing that its name says: divide these, or join them");
    let gone = OTHER_LENGTHS.iter().filter(|file| !unusual.contains(**file));
    gone.for_each(|file| {
        println!("{file} is of a usual length by now: take it out of OTHER_LENGTHS")
    });
}

/// Which files of src/ each file names in its code, tests apart; paths from src/.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files: BTreeMap<Vec<String>, (String, String)> = product()
        .into_iter()
        .filter(|(name, _)| name != "src/main.rs")
        .map(|(name, lines)| {
            let file = name.trim_start_matches("src/").to_owned();
            let code = lines.iter().map(|(_, line)| line.split("//").next().unwrap_or_default());
            let code = code.collect::<Vec<_>>().join("\n");
            (module(&file), (file, code))
        })
        .collect();
    let names = |path: &[String]| {
        // The longest part of the path that is a file: the rest is an item in it.
        let mut parts = (1..=path.len()).rev().map(|length| &path[..length]);
        parts.find_map(|part| files.get(part)).map(|(file, _)| file.clone())
    };
    let mut imports = BTreeMap::new();
    for (own, (file, code)) in &files {
        let paths = paths(code).into_iter().filter_map(|path| absolute(own, &path));
        let mut targets: BTreeSet<_> = paths.filter_map(|path| names(&path)).collect();
        targets.remove(file);
        imports.insert(file.clone(), targets);
    }
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 300, "{imports:?}");
    imports
}

/// The module that a file of src/ is.
fn module(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let mut parts: Vec<_> = path.split('/').map(str::to_owned).collect();
    parts.pop_if(|last| last == "mod" || last == "lib");
    parts
}

/// `path` as seen from the crate's root; `None` for one of another crate.
fn absolute(own: &[String], path: &str) -> Option<Vec<String>> {
    let mut parts = path.split("::").map(str::trim).peekable();
    let mut from = match parts.next()? {
        "crate" => Vec::new(),
        "self" => own.to_vec(),
        "super" => own[..own.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    while parts.next_if_eq(&"super").is_some() {
        from.pop();
    }
    from.extend(parts.map(str::to_owned));
    Some(from)
}

/// Every path in the code that begins with `crate`, `super` or `self`, braces of `use` opened.
fn paths(code: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            // Not the end of another path or name.
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !is_part(c) && c != ':' && c != '$') {
                open(String::new(), &mut code[at..].chars().peekable(), &mut paths);
            }
        }
    }
    paths
}

/// Reads one path, and within braces all that it stands for.
fn open(
    mut path: String,
    code: &mut std::iter::Peekable<std::str::Chars<'_>>,
    paths: &mut Vec<String>,
) {
    while let Some(c) = code.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == ':') {
        path.push(c);
    }
    if path.ends_with("::") && code.next_if_eq(&'{').is_some() {
        loop {
            while code.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
            if code.next_if_eq(&'}').is_some() || code.peek().is_none() {
                return;
            }
            open(path.clone(), code, paths);
            // `as NAME`, and a `*`.
            while code.next_if(|c| !matches!(c, ',' | '}')).is_some() {}
        }
    }
    paths.push(path.trim_end_matches(':').to_owned());
}

#[test]
fn braces_and_parents_are_followed() {
    let code = "use crate::a::{b, c::{D, self as e}};\nuse super::f::*;\nlet x = crate::g::h(y);";
    let found = paths(code);
    assert_eq!(
        found,
        ["crate::a::b", "crate::a::c::D", "crate::a::c::self", "crate::g::h", "super::f"]
    );
    let own = ["x".to_owned(), "y".to_owned()];
    assert_eq!(absolute(&own, "super::f").unwrap(), ["x", "f"]);
    assert_eq!(absolute(&own, "std::fs"), None);
}
