//! The project's rules, as far as a machine can check them. Each failure says what to do. The rules about the
//! shape of src/ are in `layout`.
//!
//! Reads the tracked files, cargo's own tree and the binary's help; runs no pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn stdout(command: &mut Command) -> String {
    let output = command
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|cause| panic!("cannot run {command:?}: {cause}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Every file of the project that is text, by its path from the project's root. Files that are not
/// ignored count before they are committed.
fn files() -> Vec<(String, String)> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = stdout(&mut list);
    let files: Vec<_> = names
        .split_terminator('\0')
        // Deleted but not yet committed, or no text: nothing to check.
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect();
    assert!(files.len() > 50, "git lists only {} files", files.len());
    files
}

pub fn rust_files() -> Vec<(String, String)> {
    files().into_iter().filter(|(name, _)| name.ends_with(".rs")).collect()
}

/// The code of src/ without tests and comments: path, then line number and line.
pub fn product() -> Vec<(String, Vec<(usize, String)>)> {
    let is_product =
        |(name, _): &(String, String)| name.starts_with("src/") && !name.ends_with("tests.rs");
    rust_files()
        .into_iter()
        .filter(is_product)
        .map(|(name, text)| {
            let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            let code = text[..end].lines().enumerate();
            let code = code.filter(|(_, line)| !line.trim_start().starts_with("//"));
            (name, code.map(|(index, line)| (index + 1, line.to_owned())).collect())
        })
        .collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"))
}

/// Whether `word` stands in `line` and is not the end of a longer name.
fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(part))
}

pub fn none(found: &[String], what_to_do: &str) {
    assert!(found.is_empty(), "{what_to_do}:\n  {}", found.join("\n  "));
}

#[test]
fn every_rust_file_says_what_lives_in_it() {
    let bare: Vec<_> = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| name)
        .collect();
    none(&bare, "open these files with two or three `//!` lines: what lives there, what does not");
}

/// Crates, and the only places of src/ that name them.
const ADAPTERS: &[(&str, &[&str])] = &[
    ("rdkafka::", &["src/kafka/librdkafka"]),
    ("rdkafka_sys::", &["src/kafka/librdkafka"]),
    ("::kafka::", &["src/kafka/crate_kafka"]),
    ("kafka_protocol::", &["src/kafka/wire"]),
    (
        "rusqlite::",
        &[
            "src/kafka/embedded",
            "src/pipeline/running.rs",
            "src/api/context.rs",
            "src/api/session.rs",
            "src/history/",
            "src/pipeline/startup.rs",
            "src/pipeline/cut_off.rs",
        ],
    ),
    ("argh::", &["src/cli/"]),
    ("httparse::", &["src/api/http/request.rs"]),
    ("indicatif::", &["src/cli/terminal.rs"]),
    ("prometheus::", &["src/api/metrics.rs", "src/model/measure.rs"]),
    ("ctrlc::", &["src/pipeline/signals.rs"]),
    ("env_logger::", &["src/cli/mod.rs"]),
    ("jiff::", &["src/model/clock.rs"]),
    ("parking_lot::", &["src/model/sync.rs"]),
    (
        "sd_notify::",
        &["src/pipeline/running.rs", "src/pipeline/supervise.rs", "src/pipeline/shutdown.rs"],
    ),
    ("mimalloc::", &["src/main.rs"]),
    (
        "libc::",
        &[
            "src/pipeline/signals.rs",
            "src/step/exec/spawn.rs",
            "src/config/own_files.rs",
            "src/cli/orphans.rs",
        ],
    ),
    (
        "unsafe ",
        &[
            "src/main.rs",
            "src/kafka/librdkafka/native.rs",
            "src/pipeline/signals.rs",
            "src/step/exec/spawn.rs",
        ],
    ),
];

#[test]
fn libraries_are_named_in_their_adapters_only() {
    let product = product();
    let mut strays = Vec::new();
    for (word, homes) in ADAPTERS {
        let mut used = false;
        for (name, code) in &product {
            let at_home = homes.iter().any(|home| name.starts_with(home));
            for (number, line) in code.iter().filter(|(_, line)| names(line, word)) {
                used |= at_home;
                if !at_home {
                    strays.push(format!("{name}:{number}: {}", line.trim()));
                }
            }
        }
        // The sys crate is listed so that nobody begins with it elsewhere.
        if !used && *word != "rdkafka_sys::" {
            strays.push(format!("{word} is not used in {homes:?} any more: mend ADAPTERS"));
        }
    }
    none(&strays, "put these behind the file that ADAPTERS names, or argue for another home there");
}

#[test]
fn the_code_neither_unwraps_nor_prints() {
    let banned = [
        ".unwrap()",
        ".expect(\"\")",
        "todo!(",
        "unimplemented!(",
        "dbg!(",
        "println!(",
        "eprintln!(",
        "print!(",
    ];
    let mut found = Vec::new();
    for (name, code) in product() {
        for (number, line) in code {
            let is_found = |word: &&&str| {
                if word.starts_with('.') { line.contains(**word) } else { names(&line, word) }
            };
            if let Some(word) = banned.iter().find(is_found) {
                found.push(format!("{name}:{number}: {word}"));
            }
        }
    }
    none(
        &found,
        "return an error, or `expect` with the reason why it cannot happen; print through \
         cli::output and the log",
    );
}

/// Hosts that files may name: names that mean the same everywhere.
const HOSTS: &[&str] = &[
    "localhost",
    "127.0.0.1",
    "github.com",
    "keepachangelog.com",
    "maven.apache.org",
    "semver.org",
    "www.apache.org",
    // the name space of SVG
    "www.w3.org",
    // a malformed server address in a test
    "a",
];

/// Whether nobody can have the name (RFC 2606).
fn is_reserved(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "example.com"
        || [".example.com", ".example", ".test"].iter().any(|ending| host.ends_with(ending))
}

#[test]
fn no_file_knows_one_machine() {
    // In two halves, so that this file does not break its own rule.
    let folders = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut found = Vec::new();
    for (name, text) in files().into_iter().filter(|(name, _)| name != "Cargo.lock") {
        for (index, line) in text.lines().enumerate() {
            let place = format!("{name}:{}", index + 1);
            for folder in folders.iter().filter(|folder| line.contains(**folder)) {
                found.push(format!("{place}: {folder}"));
            }
            for url in line.split("://").skip(1) {
                // USER:PASSWORD@ may stand before the host.
                let authority = url.split(|c: char| "/'\"`<> ".contains(c)).next().unwrap_or(url);
                let host = authority.rsplit_once('@').map_or(url, |(_, host)| host);
                let end = host.find(|c: char| !(c.is_alphanumeric() || ".-_".contains(c)));
                let host = &host[..end.unwrap_or(host.len())];
                let is_known = HOSTS.contains(&host) || is_reserved(host);
                if !host.is_empty() && !is_known && !host.starts_with('_') {
                    found.push(format!("{place}: host {host}"));
                }
            }
        }
    }
    none(&found, "name no folder of one machine, and only hosts that HOSTS has");

    let official = "registry+https://github.com/rust-lang/crates.io-index";
    let lock = read("Cargo.lock");
    let sources: BTreeSet<_> =
        lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    let expected = format!("\"{official}\"");
    assert_eq!(sources, BTreeSet::from([expected.as_str()]), "Cargo.lock: every crate is public");
}

#[test]
fn the_default_build_has_no_async_runtime() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--offline", "-e", "normal", "--prefix", "none"]);
    let tree = stdout(&mut tree);
    let crates: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("rdkafka") && crates.contains("kafka"), "not the tree: {tree}");
    let banned =
        ["tokio", "async-std", "smol", "async-executor", "futures-executor", "mio", "openssl-sys"];
    let found: Vec<_> =
        banned.iter().filter(|name| crates.contains(*name)).map(|name| (*name).into()).collect();
    none(&found, "turn the features off that bring these in (cargo tree -i NAME shows which)");
}

/// Long flags in a text: `--` and a letter, not within a longer word.
fn flags_in(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.match_indices("--")
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c == '-' || c.is_alphanumeric()))
        .map(|(at, _)| {
            let rest = &text[at..];
            rest[..rest.find(|c| !part(c)).unwrap_or(rest.len())].trim_end_matches('-')
        })
        .filter(|flag| flag.len() > 2)
        .collect()
}

/// The flags that a help text lists: those at the beginning of a line, before their description.
fn listed_flags(help: &str) -> BTreeSet<&str> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  -").map(|_| line.trim_start()));
    lines.flat_map(|line| flags_in(line.split("  ").next().unwrap_or(line))).collect()
}

/// The README and the manual, by their paths.
fn manual() -> Vec<(String, String)> {
    let is_manual = |name: &str| name == "README.md" || name.starts_with("docs/");
    files().into_iter().filter(|(name, _)| is_manual(name) && name.ends_with(".md")).collect()
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: move what only users need into docs/");
}

/// The document that lists every flag of the main job with its default.
const SETTINGS: &str = "docs/configure.md";

/// Flags of other programs in the manual's examples.
const FOREIGN_FLAGS: &[&str] = &[
    "--create",
    "--describe",
    "--example",
    "--no-default-features",
    "--nocapture",
    "--now",
    "--profile",
    "--profile",
    "--quiet",
    "--reference",
    "--release",
    "--test",
];

fn help(command: &[&str]) -> String {
    stdout(Command::new(env!("CARGO_BIN_EXE_mb")).args(command).arg("--help"))
}

#[test]
fn the_manual_has_every_flag_and_no_other() {
    let helps: Vec<_> = [
        &[][..],
        &["produce"],
        &["lag"],
        &["runs"],
        &["offsets"],
        &["dead-letters"],
        &["replay"],
        &["requests"],
        &["status"],
        &["pause"],
        &["resume"],
        &["tick"],
        &["set"],
        &["top"],
    ]
    .iter()
    .map(|command| help(command))
    .collect();
    let known: BTreeSet<_> = helps.iter().flat_map(|help| listed_flags(help)).collect();
    assert!(known.contains("--rate") && known.contains("--key-separator"), "{known:?}");
    let settings = read(SETTINGS);
    let manual: String = manual().into_iter().map(|(_, text)| text).collect();
    let named = flags_in(&manual);
    let to_lines = |flags: Vec<&&str>| flags.iter().map(ToString::to_string).collect::<Vec<_>>();

    let documented = flags_in(&settings);
    let missing = known.difference(&documented);
    none(&to_lines(missing.collect()), "say in docs/configure.md what these flags of mb do");
    let unknown = named.difference(&known).filter(|flag| !FOREIGN_FLAGS.contains(flag));
    none(
        &to_lines(unknown.collect()),
        "no command of mb has these flags of README.md and docs/: correct them, or list another \
         program's flag in FOREIGN_FLAGS",
    );
    let stale = FOREIGN_FLAGS.iter().filter(|flag| known.contains(*flag) || !named.contains(*flag));
    none(&to_lines(stale.collect()), "remove these from FOREIGN_FLAGS");
}

/// The flags of a help text that name their default, as in `(default 50)`.
fn defaults(help: &str) -> BTreeMap<String, String> {
    let mut defaults = BTreeMap::new();
    let mut flag = String::new();
    let mut text = String::new();
    for line in help.lines().chain(["  --end"]) {
        if line.starts_with("  --") {
            if let Some((_, rest)) = text.split_once("(default ") {
                let default = rest.split(')').next().expect("a default ends");
                defaults.insert(flag.clone(), default.to_owned());
            }
            flag = listed_flags(line).into_iter().next().unwrap_or_default().to_owned();
            text.clear();
        }
        text.push_str(line.trim());
        text.push(' ');
    }
    defaults
}

#[test]
fn the_settings_list_each_flag_with_its_default() {
    let defaults = defaults(&help(&[]));
    assert!(defaults.len() >= 20, "only {} flags have a default: {defaults:?}", defaults.len());
    let settings = read(SETTINGS);
    // Only the main job's tables: other commands have the same flags with other defaults.
    let (_, main_job) = settings.split_once("\n## Flags of the main job\n").expect("the main job");
    let main_job = main_job.split("\n## ").next().unwrap_or_default();
    let wrong: Vec<_> = defaults
        .iter()
        .filter(|(flag, default)| {
            let row = main_job.lines().find(|line| {
                line.starts_with(&format!("| `{flag} ")) || line.starts_with(&format!("| `{flag}`"))
            });
            !row.is_some_and(|row| row.contains(&format!("| `{default}` |")))
        })
        .map(|(flag, default)| format!("{flag}: {default}"))
        .collect();
    none(&wrong, "give each of these a row in docs/configure.md with the default of `mb --help`");
}

/// All documents: path and text.
fn documents() -> Vec<(String, String)> {
    let documents: Vec<_> = files().into_iter().filter(|(name, _)| name.ends_with(".md")).collect();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", SETTINGS, GUARANTEES] {
        assert!(documents.iter().any(|(document, _)| document == name), "{name} is missing");
    }
    documents
}

/// The lines of a document outside fenced code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// The name by which GitHub links to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn what_the_documents_point_at_is_there() {
    let mut dangling = Vec::new();
    for (document, text) in documents() {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.contains("://"));
        let code = text.split('`').skip(1).step_by(2);
        let paths = code.filter(|word| {
            let folder = ["src/", "tests/", "scripts/", "examples/"];
            // Patterns, and names that stand for any.
            let stands_for_one =
                !word.contains(['*', ' ', '|', '#', '\n']) && !word.contains("NAME");
            // Tests by name have a check of their own.
            let stands_for_one = stands_for_one && !word.contains("::");
            folder.iter().any(|folder| word.starts_with(folder)) && stands_for_one
        });
        for path in links.chain(paths) {
            let (path, heading) = path.split_once('#').unwrap_or((path, ""));
            // A link is relative to its document, a path in code to the project.
            let beside = root().join(&document).with_file_name(path);
            let target = if path.is_empty() {
                root().join(&document)
            } else if root().join(path).exists() {
                root().join(path)
            } else {
                beside
            };
            let has_heading = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                let mut headings = prose(&text).filter(|(_, line)| line.starts_with('#'));
                headings.any(|(_, line)| anchor(line) == heading)
            };
            if !target.exists() || !heading.is_empty() && !has_heading() {
                dangling.push(format!("{document}: {path}#{heading}"));
            }
        }
    }
    none(&dangling, "these files or headings do not exist: correct the document");
}

/// GitHub splits a row at every `|` that is not escaped, within code too, and drops what is beyond the
/// header's cells: `--order none|partition` loses half of its row.
#[test]
fn every_row_of_a_table_has_as_many_cells_as_its_header() {
    let cells = |row: &str| row.replace("\\|", "").matches('|').count();
    let mut broken = Vec::new();
    let mut tables = 0;
    for (document, text) in documents() {
        let mut header = None;
        for (number, line) in prose(&text) {
            if !line.starts_with('|') {
                header = None;
            } else if let Some(expected) = header {
                if cells(line) != expected || !line.ends_with('|') {
                    broken.push(format!("{document}:{number}: {line}"));
                }
            } else {
                tables += 1;
                header = Some(cells(line));
            }
        }
    }
    assert!(tables > 30, "only {tables} tables were found");
    none(
        &broken,
        "these rows have more or fewer cells than their header: write | as \\| in a cell",
    );
}

/// The document whose claims each name a test.
const GUARANTEES: &str = "docs/guarantees.md";

/// Tests in a text, as `file::test`.
fn tests_named_in(text: &str) -> Vec<(&str, &str)> {
    let code = text.split('`').skip(1).step_by(2);
    let named = code.filter_map(|word| word.split_once("::"));
    let is_name =
        |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c));
    named.filter(|(_, test)| is_name(test)).collect()
}

/// Whether `name`, as the guarantees have it, is the file at `path`: a path from the project's root, or
/// the name of a test binary or of one of its modules.
fn is_named(path: &str, name: &str) -> bool {
    if name.ends_with(".rs") {
        return path == name;
    }
    let Some((binary, file)) = path.strip_prefix("tests/").and_then(|path| path.split_once('/'))
    else {
        return false;
    };
    let is_binary = binary == name && file == "main.rs";
    is_binary || file == format!("{name}.rs") || file == format!("{name}/mod.rs")
}

/// Whether the text of a test file has the test: as a function under `#[test]`, or in the list that
/// a macro of the file makes tests of.
fn has_test(text: &str, test: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let function = format!("fn {test}(");
    let in_macro = text.contains("macro_rules!");
    lines.iter().enumerate().any(|(index, line)| {
        let above = &lines[index.saturating_sub(3)..index];
        let listed = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        line.contains(&function) && above.iter().any(|line| line.trim() == "#[test]")
            || line.contains(&function) && text.contains("proptest!")
            || in_macro && !line.contains("fn ") && listed.into_iter().any(|word| word == test)
    })
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    let guarantees = read(GUARANTEES);
    let named = tests_named_in(&guarantees);
    assert!(named.len() > 150, "only {} tests are named", named.len());
    let files = rust_files();
    let mut missing = Vec::new();
    for (file, test) in named {
        let mut found = files.iter().filter(|(path, _)| is_named(path, file));
        if !found.any(|(_, text)| has_test(text, test)) {
            missing.push(format!("{file}::{test}"));
        }
    }
    none(&missing, "no such tests: mend docs/guarantees.md, or write them");
}

#[test]
fn every_row_of_the_guarantees_has_a_test() {
    let guarantees = read(GUARANTEES);
    for (chapter, rows_at_least) in
        [("## Faults", 25), ("## Edges of the log", 12), ("## Bad input", 40)]
    {
        let (_, text) = guarantees.split_once(&format!("\n{chapter}\n")).expect(chapter);
        let text = text.split("\n## ").next().unwrap_or_default();
        let rows = text.lines().filter(|line| line.starts_with("| ")).skip(2);
        // A heading within the table, and what later work is for.
        let rows = rows.filter(|line| !line.starts_with("| **") && !line.ends_with(": later |"));
        let rows: Vec<_> = rows.collect();
        assert!(rows.len() >= rows_at_least, "{chapter} has {} rows", rows.len());
        let bare = rows.iter().filter(|row| tests_named_in(row).is_empty());
        none(&bare.map(ToString::to_string).collect::<Vec<_>>(), "name a test in these rows");
    }
}

#[test]
fn every_dependency_is_argued_for() {
    let manifest = read("Cargo.toml");
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").expect("dependencies");
    let (dependencies, _) = dependencies.split_once("\n[profile").expect("profiles after them");
    let architecture = read("ARCHITECTURE.md");
    let (_, libraries) = architecture.split_once("## Libraries").expect("a chapter on libraries");
    let silent: Vec<_> = dependencies
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !libraries.split(|c: char| c.is_whitespace() || c == ',').any(|w| w == name))
        .collect();
    none(&silent, "say in ARCHITECTURE.md, under Libraries, why mb needs these");
}

/// The fixed part of each thread's name, with the places that start one.
fn threads() -> BTreeMap<String, Vec<String>> {
    let mut threads = BTreeMap::<String, Vec<String>>::new();
    for (name, code) in product() {
        let code: Vec<_> = code.iter().map(|(_, line)| line.trim()).collect();
        let code = code.join(" ");
        for start in ["spawn(", "watched(", "call_with_limit(", "name = "] {
            for (at, _) in code.match_indices(start) {
                let rest = code[at + start.len()..].trim_start().trim_start_matches('&');
                let text = rest.strip_prefix("format!(").unwrap_or(rest);
                // `name = "…"` alone need not be a thread's.
                let is_made = start != "name = " || text.len() < rest.len();
                if let Some(literal) = text.strip_prefix('"').filter(|_| is_made) {
                    let end = literal.find(['"', '{']).expect("a string ends");
                    let fixed = literal[..end].to_owned();
                    if !fixed.is_empty() {
                        threads.entry(fixed).or_default().push(name.clone());
                    }
                }
            }
        }
    }
    threads
}

#[test]
fn threads_have_names_of_their_own_that_the_architecture_lists() {
    let threads = threads();
    assert!(threads.contains_key("worker-") && threads.contains_key("history"), "{threads:?}");
    let architecture = read("ARCHITECTURE.md");
    let mut wrong = Vec::new();
    for (name, places) in &threads {
        // `mb produce` and the main job are never one process.
        if places.len() > 1 && name != "producer" {
            wrong.push(format!("{name} is started in {places:?}: give each a name of its own"));
        }
        // The system cuts names behind 15 bytes.
        if name.len() > 15 {
            wrong.push(format!("{name} ({places:?}) is longer than the 15 bytes that are shown"));
        }
        if !architecture.contains(&format!("`{name}")) {
            wrong
                .push(format!("{name} ({places:?}): add it to ARCHITECTURE.md's table of threads"));
        }
    }
    none(&wrong, "threads");
}

#[test]
fn every_mutant_still_applies() {
    let patches: Vec<_> =
        files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".patch")).collect();
    assert!(patches.len() >= 6, "{patches:?}");
    let stale: Vec<_> = patches
        .into_iter()
        .filter(|patch| {
            let mut apply = Command::new("git");
            apply.args(["apply", "--check", patch]).current_dir(root());
            !apply.output().expect("git").status.success()
        })
        .collect();
    none(&stale, "the code that these break has changed: make them anew");
}

#[test]
fn scripts_stop_at_their_first_error() {
    let careless: Vec<_> = files()
        .into_iter()
        .filter(|(_, text)| text.starts_with("#!"))
        .filter(|(_, text)| {
            !text.starts_with("#!/usr/bin/env bash\n") || !text.contains("\nset -euo pipefail\n")
        })
        .map(|(name, _)| name)
        .collect();
    none(&careless, "begin these scripts with `#!/usr/bin/env bash` and `set -euo pipefail`");
    assert!(Path::new(&root()).join("scripts/kafka").exists());
}
