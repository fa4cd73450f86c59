//! Bad input of every kind against the built binary: bytes in records, flags, files, stdin, the output
//! of commands. It is refused in one line or comes through exact, and nothing is lost by it.
//!
//! Broken brokers are in bad_input_brokers.rs; the whole table is in docs/guarantees.md.

pub mod data;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use mb::history::schema;
use mb::model::headers::Headers;
use mb::step::{Attempt, Step, StepError};

use self::data::{Data, Header, LIMIT, TOPIC, calm, refusal};
use crate::support::files::{FileRecord, Files, assert_same};
use crate::support::mb::Mb;

// Bytes of records.

/// Each shape as a key beside a plain value, as a value beside a plain key, and as both.
macro_rules! shapes {
    ($($name:ident: $bytes:expr;)+) => {$(
        #[test]
        fn $name() {
            comes_out_exact($bytes);
        }
    )+};
}

shapes! {
    a_null_key_and_a_null_value_come_out_as_null: None;
    an_empty_key_and_an_empty_value_come_out_empty_and_not_as_null: Some(b"");
    bytes_that_are_no_utf8_come_out_exact: Some(b"caf\xe9 \xff\xfe\xc3\x28 \xed\xa0\x80");
    zero_bytes_come_out_exact: Some(b"\0before\0after\0");
    newlines_and_quotes_come_out_exact_and_stay_one_line: Some(b"a\nb\r\nc\"d\\e\x0b\xe2\x80\xa8\xc2\x85");
    escape_sequences_come_out_exact: Some(b"\x1b[31mred\x1b]0;title\x07\x9b2J\x08");
    json_in_a_record_stays_text: Some(b"{\"offset\":-1,\"value\":null}\n{}");
    a_key_and_a_value_of_megabytes_come_out_exact: Some(&[b'm'; 3_000_001]);
}

fn comes_out_exact(bytes: Option<&[u8]>) {
    let mut data = Data::empty();
    data.post(bytes, Some(b"plain"), &[]);
    data.post(Some(b"plain"), bytes, &[]);
    data.post(bytes, bytes, &[("name", bytes), ("plain", Some(b"plain"))]);
    data.post(Some(b"after"), Some(b"after"), &[]);
    comes_out(&data);
}

/// A command has the same lines on its stdin as the files step writes, and both have what was posted.
fn comes_out(data: &Data) {
    let out = data.beside("by-command");
    let folder = out.join(TOPIC).join("0");
    fs::create_dir_all(&folder).unwrap();
    let to = format!(
        "cat > {}/$(printf %020d $MB_FIRST_OFFSET)-$(printf %020d $MB_LAST_OFFSET).ndjson",
        folder.display()
    );
    data.run(&["--exec", &to, "--group", "by-command"]);
    data.assert_nothing_lost();
    let by_command = Files::read(&out, TOPIC).records();
    assert_same(&by_command, &Files::read(&data.beside("proof"), TOPIC).records());
}

/// Remembers the headers of every record.
#[derive(Default)]
struct Seen(Mutex<Vec<Vec<u8>>>);

impl Step for Seen {
    fn name(&self) -> &str {
        "seen"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let records = attempt.batch.records();
        self.0.lock().unwrap().extend(records.map(|record| record.headers.encoded().to_vec()));
        Ok(())
    }
}

/// A step of this process, a command and a file have them as they were sent, and those of the records around it.
fn headers_come_through(headers: &[Header<'_>]) {
    let mut data = Data::empty();
    data.post(None, Some(b"before"), &[]);
    data.post(Some(b"key"), Some(b"value"), headers);
    data.post(None, Some(b"after"), &[("after", None)]);
    comes_out(&data);
    let seen = Arc::new(Seen::default());
    let step: Arc<dyn Step> = Arc::<Seen>::clone(&seen);
    let (_stopper, stop) = mb::Stopper::new();
    let mut config = data.config();
    config.connection.group = "in-process".to_owned();
    mb::Pipeline::new(config, step).run(&stop).unwrap();
    let seen = seen.0.lock().unwrap();
    let [before, between, after] = &seen[..] else { panic!("{} records", seen.len()) };
    let sent: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
    let came: Vec<_> = Headers::decode(between).unwrap().iter().collect();
    assert!(came == sent, "{} headers came of {}", came.len(), sent.len());
    assert!(before.is_empty(), "{before:?}");
    let after: Vec<_> = Headers::decode(after).unwrap().iter().collect();
    assert_eq!(after, [(b"after".as_slice(), None)]);
}

#[test]
fn a_header_without_a_value_is_not_one_with_an_empty_value() {
    headers_come_through(&[("null", None), ("empty", Some(b"")), ("", None), ("", Some(b""))]);
}

#[test]
fn headers_of_one_name_all_come_in_their_order() {
    headers_come_through(&[
        ("a", Some(b"1")),
        ("b", Some(b"2")),
        ("a", Some(b"3")),
        ("a", Some(b"1")),
    ]);
}

#[test]
fn header_bytes_of_every_kind_come_exact() {
    headers_come_through(&[
        ("zero\0in the name", Some(b"\0")),
        ("\u{1b}[31m", Some(b"\x1b]0;title\x07")),
        ("line\nend", Some(b"\r\n")),
        ("grüße", Some(b"\xff\xfe")),
    ]);
}

#[test]
fn ten_thousand_headers_and_a_large_one_come() {
    let names: Vec<String> = (0..10_000).map(|number| format!("header-{number}")).collect();
    let large = vec![b'h'; 200_000];
    let mut headers: Vec<Header<'_>> =
        names.iter().map(|name| (name.as_str(), Some(name.as_bytes()))).collect();
    headers.push(("large", Some(&large)));
    headers_come_through(&headers);
}

#[test]
fn a_record_larger_than_the_queue_is_named_and_comes_with_a_larger_one() {
    let mut data = Data::with_records();
    data.post(None, Some(&[b'x'; 300_000]), &[]);
    data.post(None, Some(b"behind it"), &[]);
    let small = ["--queue-bytes", "64KiB", "--max-batch-bytes", "16KiB", "--step", "discard"];
    let mut mb = data.start(&small);
    let said = mb.wait_for_line("orders/0", LIMIT);
    assert!(said.contains("40") && said.contains("--queue-bytes"), "{said}");
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert!(
        data.committed()[&0] <= mb::model::offset::Offset::new(40),
        "never past what was not read"
    );
    // Whoever waits for the end is told that it does not come.
    let until = [&small[..], &["--until-caught-up"]].concat();
    data.refused(1, &until, &["orders/0", "40", "--queue-bytes"]);
    assert_eq!(data.committed()[&0], mb::model::offset::Offset::new(40), "all before it is done");
    data.assert_nothing_lost();
}

// Flags.

/// The command line is refused with 64, before the data directory is even made.
fn usage(args: &[&str], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("not made");
    let text = refusal(Mb::start_in(&data_dir, args), 64, words);
    assert!(text.contains("got ") && text.contains("expected "), "{text}");
    assert!(!data_dir.exists(), "{args:?}");
}

#[test]
fn numbers_out_of_range_or_too_long_for_a_computer_name_the_range() {
    let huge = "99999999999999999999999999";
    for (flag, rule) in [
        ("--max-batch", "1 to 1000000"),
        ("--max-concurrent-runs", "1 to 1000"),
        ("--sensors", "1 to 100"),
        ("--queue", "1 to 100000"),
        ("--lanes", "1 to 64"),
        ("--max-attempts", "1 to 1000"),
        ("--history-keep", "1 to 1000000000"),
        ("--partitions", "1 to 10000"),
        ("--queue-bytes", "from 1KiB"),
        ("--max-batch-bytes", "from 1"),
        ("--embedded-retention-bytes", "from 64KiB"),
        ("--fetch-min-bytes", "from 1"),
    ] {
        for value in ["0", "-1", "abc", "1e9", "18446744073709551616", huge, "0x10", " 5", "٣"] {
            usage(&[&format!("{flag}={value}")], &[flag, rule]);
        }
    }
}

#[test]
fn durations_that_are_none_or_overflow_name_the_units() {
    for flag in ["--max-wait", "--tick-runtime", "--step-timeout", "--drain-timeout"] {
        for value in ["5x", "-1", "1e400", "inf", "nan", "99999999999999999999h", "5 s", "s"] {
            usage(&[&format!("{flag}={value}")], &[flag, "ms, s, m or h"]);
        }
    }
}

#[test]
fn settings_that_contradict_each_other_are_both_named() {
    for (line, words) in [
        (&["--lanes", "4"][..], &["--lanes", "--order key"][..]),
        (&["--lanes", "4", "--order", "partition"], &["--lanes", "--order key"]),
        (&["--exec", "cat", "--step", "files", "--out", "x"], &["--exec", "--step"]),
        (&["--step", "files"], &["--step", "--out"]),
        (&["--out", "x"], &["--out", "--step files"]),
        (&["--count", "5"], &["--count", "--rate"]),
        (&["--keys", "5"], &["--keys", "--rate"]),
        (&["--rate", "5", "--until-caught-up"], &["--until-caught-up", "--count"]),
        (&["--queue-bytes", "64KiB"], &["--queue-bytes", "--max-batch-bytes"]),
        (
            &["--bisect", "--max-batch", "1000000", "--queue-bytes", "64MiB"],
            &["--queue-bytes", "--max-batch", "--bisect"],
        ),
        (
            &["--client", "embedded", "--bootstrap-server", "a:1"],
            &["--client", "--bootstrap-server"],
        ),
        (&["produce", "-", "--count", "5"], &["--count", "-"]),
        (&["produce", "--key-separator", ":"], &["--key-separator", "-"]),
        (&["offsets", "--to-earliest", "--to-latest"], &["--to-latest", "--to-earliest"]),
        (&["offsets"], &["target", "--to-earliest"]),
        (&["runs", "5", "--state", "failed"], &["5", "--state"]),
    ] {
        usage(line, words);
    }
}

#[test]
fn illegal_topics_and_groups_name_the_rule() {
    let long = "x".repeat(250);
    for topic in [".", "..", "a b", "a/b", "a\\b", "ü", "a\nb", "../../etc/passwd", "a:b", &long] {
        for command in [&[][..], &["lag"], &["produce"], &["runs"]] {
            let line = [command, &["--topic", topic]].concat();
            usage(&line, &["--topic", "1 to 249 of a-z A-Z 0-9 . _ -"]);
        }
    }
    usage(&["--topic="], &["--topic", "one character or more"]);
    usage(&["--group="], &["--group", "one character or more"]);
}

#[test]
fn malformed_servers_name_the_form() {
    for servers in [
        "localhost",
        ":9092",
        "a:0",
        "a:65536",
        "a:-1",
        ",",
        "PLAINTEXT://a",
        "http://a:9092",
        "a:9092;b:9092",
        "a:9092/topic",
    ] {
        usage(&["--bootstrap-server", servers], &["--bootstrap-server", "HOST:PORT"]);
    }
    for servers in ["SASL_SSL://a:9092", "a:9092, SSL://a:9093"] {
        usage(&["--bootstrap-server", servers], &["--bootstrap-server", "not supported yet"]);
    }
}

#[test]
fn numbers_of_runs_that_are_none_are_refused() {
    for id in ["abc", "18446744073709551616", "1.5", "0x1", "..", "%2e%2e"] {
        usage(&["runs", id], &[id, "RUN-ID"]);
    }
}

// Commands, and what they print.

#[test]
fn a_command_that_cannot_run_is_refused_at_the_start() {
    let data = Data::with_records();
    let file = data.beside("not-executable");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    for command in ["no-such-command-here", "cat (", "'", file.to_str().unwrap()] {
        data.refused(78, &["--exec", command], &["--exec", "expected a command for sh"]);
    }
    data.assert_offsets_unmoved();
    data.assert_nothing_lost();
}

/// The most memory that mb had, in KiB: from a file that its command wrote.
fn peak_kib(status: &Path) -> u64 {
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_gigabyte_of_output_without_a_newline_is_cut_and_memory_stays_bounded() {
    let data = Data::with_records();
    let status = data.beside("status");
    let flood = format!(
        "head -c 1073741824 /dev/zero; cat > /dev/null; cat /proc/$PPID/status > {}",
        status.display()
    );
    let mb = data.run(&["--exec", &flood, "--group", "flooded"]);
    calm(&mb.stderr().join("\n"));
    assert!(peak_kib(&status) < 200 * 1024, "{} KiB", peak_kib(&status));
    let history = schema::open_read_only(&data.file(mb::history::FILE)).unwrap();
    let longest: i64 =
        history.query_row("SELECT max(length(output)) FROM outputs", [], |row| row.get(0)).unwrap();
    assert!(longest < 1 << 20, "{longest}");
    data.assert_nothing_lost();
}

#[test]
fn what_a_failing_command_prints_can_steer_no_terminal() {
    let data = Data::with_records();
    let hostile = r#"printf '\033[31mred\033]0;title\007\r\000\377\n' | tee /dev/stderr; exit 65"#;
    let mb = data.run(&["--exec", hostile, "--group", "hostile"]);
    let log = mb.stderr().join("\n");
    assert!(log.contains("red"), "{log}");
    calm(&log);
    for args in [&["runs"][..], &["runs", "1"], &["runs", "--json"]] {
        shows_calmly(&data, args);
    }
    data.assert_nothing_lost();
}

#[test]
fn a_dead_letter_of_hostile_bytes_can_steer_no_terminal() {
    let mut data = Data::empty();
    let hostile = b"\x1b[31mred\x1b]0;title\x07\r\0".as_slice();
    let headers = [("\u{1b}[2J", Some(hostile)), ("a\u{9b}b", None), ("bytes", Some(b"\xff\x1b"))];
    data.post(Some(hostile), Some(hostile), &headers);
    data.post(Some(b"\xff\x1b"), None, &[]);
    data.run(&["--exec", "exit 65"]);
    for args in [&["list"][..], &["list", "--by-error"], &["list", "--json"]] {
        shows_calmly(&data, &[&["dead-letters"], args].concat());
    }
    for id in ["1", "2"] {
        let text = shows_calmly(&data, &["dead-letters", "show", id]);
        assert!(id != "1" || text.contains("title"), "{text}");
        shows_calmly(&data, &["dead-letters", "show", id, "--json"]);
    }
}

fn shows_calmly(data: &Data, args: &[&str]) -> String {
    let shown = Mb::run_in(data.path(), args);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let text = String::from_utf8(shown.stdout).unwrap();
    calm(&text);
    text
}

#[test]
fn garbage_in_the_failed_file_fails_the_attempt_and_names_nothing() {
    for garbage in ["not an offset", "-1", "99999999999999999999", "5000", "\\0\\0", "\\377"] {
        let data = Data::with_records();
        let command = format!("printf -- '{garbage}\\n' > $MB_FAILED_FILE");
        let args = ["--exec", &command, "--on-outage", "halt", "--max-attempts", "1"];
        data.refused(65, &args, &["MB_FAILED_FILE"]);
        data.assert_offsets_unmoved();
        data.assert_nothing_lost();
    }
}

#[test]
fn a_command_that_kills_its_shell_halts_with_the_signal_named_and_loses_nothing() {
    let data = Data::with_records();
    let args = ["--exec", "kill -SEGV $$", "--on-outage", "halt", "--max-attempts", "2"];
    let quick = ["--retry-backoff", "1ms"];
    data.refused(65, &[&args[..], &quick].concat(), &["SIGSEGV"]);
    data.assert_offsets_unmoved();
    data.assert_nothing_lost();
}

// Stdin, and what else a process is given.

fn produce(data_dir: &Path, args: &[&str], stdin: Stdio, input: &[u8]) -> Output {
    let mut produce = Command::new(env!("CARGO_BIN_EXE_mb"));
    produce.args(["produce", "-", "--client", "embedded", "--topic", TOPIC, "--partitions", "1"]);
    produce.args(args).arg("--data-dir").arg(data_dir).env_remove("RUST_LOG");
    produce.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = produce.spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        // Where mb has refused the line already, nobody reads the rest.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().unwrap()
}

fn produce_error(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    calm(&text);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("mb: ") && words.iter().all(|word| last.contains(word)), "{text}");
}

#[test]
fn lines_of_every_kind_on_stdin_become_records_of_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let input = b"k\xfe:v\xff\n:empty key\nno separator\nk:\n\n\x1b[31m:\x1b[0m\r\na\0:b\0";
    let output = produce(folder.path(), &["--key-separator", ":"], Stdio::piped(), input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = folder.path().join("out");
    let args = ["--client", "embedded", "--topic", TOPIC, "--listen", "off", "--until-caught-up"];
    let step = ["--step", "files", "--out", out.to_str().unwrap()];
    let done = Mb::run_in(folder.path(), &[&args[..], &step].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let expected: [(Option<&[u8]>, &[u8]); 7] = [
        (Some(b"k\xfe"), b"v\xff"),
        (Some(b""), b"empty key"),
        (None, b"no separator"),
        (Some(b"k"), b""),
        (None, b""),
        (Some(b"\x1b[31m"), b"\x1b[0m\r"),
        (Some(b"a\0"), b"b\0"),
    ];
    let records = expected.iter().zip(0..).map(|((key, value), offset)| FileRecord {
        partition: 0,
        offset,
        key: key.map(<[u8]>::to_vec),
        value: Some(value.to_vec()),
        headers: Vec::new(),
    });
    assert_same(&Files::read(&out, TOPIC).records(), &records.collect::<Vec<_>>());
}

#[test]
fn a_line_on_stdin_without_end_is_refused_with_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let mut input = b"first\n".to_vec();
    input.resize(mb::config::limits::STDIN_LINE_BYTES + 100, b'x');
    let output = produce(folder.path(), &[], Stdio::piped(), &input);
    produce_error(&output, &["line 2", "64MiB"]);
}

#[test]
fn a_folder_as_stdin_is_an_error_and_none_is_an_empty_one() {
    let data = Data::with_records();
    let folder = File::open(data.path()).unwrap();
    let output = produce(data.path(), &[], folder.into(), b"");
    produce_error(&output, &["stdin", "directory"]);
    let output = produce(data.path(), &[], Stdio::null(), b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    data.assert_nothing_lost();
}

#[test]
fn a_log_that_nobody_can_write_changes_neither_exit_code_nor_work() {
    let data = Data::with_records();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let run = |args: &[&str]| {
        let mut mb = Command::new(env!("CARGO_BIN_EXE_mb"));
        mb.args(args).arg("--data-dir").arg(data.path()).stdin(Stdio::null());
        mb.stdout(full()).stderr(full()).status().unwrap().code()
    };
    assert_eq!(run(&["--max-batch", "x"]), Some(64));
    let job = [
        "--client",
        "embedded",
        "--topic",
        TOPIC,
        "--until-caught-up",
        "--step",
        "log",
        "--listen",
        "off",
    ];
    assert_eq!(run(&[&job[..], &["--group", "unheard"]].concat()), Some(0));
    data.assert_nothing_lost();
}

#[test]
fn a_notify_socket_that_is_none_changes_nothing() {
    for socket in ["/nonexistent/socket", "garbage", "", "@", "/dev/null"] {
        let data = Data::with_records();
        let output = Command::new(env!("CARGO_BIN_EXE_mb"))
            .args(["--client", "embedded", "--topic", TOPIC, "--until-caught-up"])
            .args(["--step", "discard", "--group", "other", "--listen", "off", "--data-dir"])
            .arg(data.path())
            .env("NOTIFY_SOCKET", socket)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{socket}: {text}");
        calm(&text);
        data.assert_nothing_lost();
    }
}
