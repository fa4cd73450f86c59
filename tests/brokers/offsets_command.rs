//! `mb offsets` by the built binary: what it shows, what it moves, what the next mb makes of it, on
//! the embedded topic and on real brokers; what it refuses. How offsets are chosen is unit-tested.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::support::kafka::{Kafka, V3_4, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, unique};
use mb::model::clock;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A topic of two partitions, read by one group, on a data directory.
struct World {
    dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl World {
    fn new(flags: &[&str]) -> World {
        let (topic, group) = (unique("moved"), unique("group"));
        let own = ["--topic", &topic, "--group", &group, "--partitions", "2"];
        let flags = own.iter().chain(flags).map(|&word| word.to_owned()).collect();
        World { dir: tempfile::tempdir().unwrap(), flags }
    }

    fn embedded() -> World {
        World::new(&["--client", "embedded"])
    }

    /// The pure client writes no timestamps, so there the broker is told to.
    fn kafka(broker: &Kafka, client: &str) -> World {
        let world = World::new(&["--bootstrap-server", &broker.bootstrap(), "--client", client]);
        if client == "kafka" {
            let by_broker = [("message.timestamp.type", "LogAppendTime")];
            broker.create_topic(&world.flags[1], 2, &by_broker);
        }
        world
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn mb(&self, args: &[&str]) -> Output {
        Mb::run_in(self.dir(), &self.line(args))
    }

    fn line<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        args.iter().copied().chain(self.flags.iter().map(String::as_str)).collect()
    }

    /// Both streams of a command that succeeds.
    fn done(&self, args: &[&str]) -> (String, String) {
        let output = self.mb(args);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        (stdout, stderr)
    }

    /// The last line on stderr of a command that fails with `code`.
    fn refused(&self, code: i32, args: &[&str]) -> String {
        let output = self.mb(args);
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?} prints nothing");
        stderr.lines().last().unwrap_or_default().to_owned()
    }

    fn post(&self, count: u32) {
        self.done(&["produce", "--rate", "max", "--count", &count.to_string()]);
    }

    /// How many records mb processes until it has caught up; `moved`: whether it says that somebody
    /// moved the offsets.
    fn processes(&self, records: u64, moved: bool) {
        let (_, said) = self.done(&["--step", "discard", "--until-caught-up"]);
        assert!(said.contains(&format!("stopped: {records} record(s) in ")), "{said}");
        assert_eq!(said.contains("somebody moved"), moved, "{said}");
    }

    /// Partition, current and new offset, and the lag after, of each line of `mb offsets`.
    fn offsets(&self, args: &[&str]) -> Vec<[Option<i64>; 4]> {
        let line = [&["offsets", "--json"], args].concat();
        let rows: Vec<Value> = serde_json::from_str(&self.done(&line).0).expect("JSON");
        let names = ["partition", "current_offset", "new_offset", "lag_after"];
        rows.iter().map(|row| names.map(|name| row[name].as_i64())).collect()
    }
}

/// The life of a group whose offsets a person moves.
fn moves_take_effect(world: &World) {
    world.post(20);
    let new = world.offsets(&["--to-earliest"]);
    assert_eq!(new, [0, 1].map(|partition| [Some(partition), None, Some(0), Some(10)]));
    world.processes(20, false);

    // A dry run says so, and changes nothing.
    let (table, said) = world.done(&["offsets", "--to-earliest"]);
    let heading: Vec<_> = table.lines().next().expect("a heading").split_whitespace().collect();
    let columns = ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "NEW-OFFSET", "LAG-AFTER"];
    assert_eq!(heading, columns);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(said.contains("nothing was changed") && said.contains("--execute"), "{said}");
    world.processes(0, false);

    world.done(&["offsets", "--to-earliest", "--execute"]);
    world.processes(20, false);

    // What comes from a time on is found by it.
    let first_half = clock::now_ms();
    eventually(LIMIT, "the clock goes on", || clock::now_ms() > first_half);
    world.post(6);
    let time = clock::format_ms(first_half + 1);
    let new = world.offsets(&["--to-datetime", &time]);
    assert_eq!(new, [0, 1].map(|partition| [Some(partition), Some(10), Some(10), Some(3)]));
    world.done(&["offsets", "--to-latest", "--execute"]);
    world.processes(0, false);
    world.done(&["offsets", "--to-datetime", &time, "--execute"]);
    world.processes(6, false);
    let (_, said) = world.done(&["offsets", "--to-datetime", "9999-01-01"]);
    assert_eq!(said.matches("the log's end 13 is taken").count(), 2, "{said}");
    let future = world.offsets(&["--to-datetime", "9999-01-01", "--partition", "1"]);
    assert_eq!(future, [[Some(1), Some(13), Some(13), Some(0)]]);

    let new = world.offsets(&["--shift-by", "-2", "--execute"]);
    assert_eq!(new, [0, 1].map(|partition| [Some(partition), Some(13), Some(11), Some(2)]));
    world.processes(4, false);
    world.done(&["offsets", "--to-offset", "3", "--partition", "1", "--execute"]);
    world.processes(10, false);

    // An offset outside the log is refused; a shift goes as far as the log does, and says so.
    let said = world.refused(64, &["offsets", "--to-offset", "500", "--execute"]);
    assert!(said.contains("got 500 for ") && said.contains("from 0 to its end 13"), "{said}");
    let (_, said) = world.done(&["offsets", "--shift-by=-500", "--partition", "0"]);
    assert!(said.contains("offset -487 of ") && said.contains("below the log's beginning: 0"));
}

#[test]
fn the_embedded_topic_is_processed_from_where_its_offsets_were_moved() {
    moves_take_effect(&World::embedded());
}

#[test]
fn kafka_4_is_processed_from_where_its_offsets_were_moved() {
    moves_take_effect(&World::kafka(Kafka::shared(V4_4), "rdkafka"));
}

#[test]
fn the_oldest_kafka_is_processed_from_where_its_offsets_were_moved() {
    moves_take_effect(&World::kafka(Kafka::shared(V3_4), "kafka"));
}

#[test]
fn offsets_moved_from_another_data_directory_are_somebodys_to_the_next_mb() {
    let broker = Kafka::shared(V3_9);
    let world = World::kafka(broker, "kafka");
    world.post(4);
    world.processes(4, false);
    let elsewhere = tempfile::tempdir().unwrap();
    let line = world.line(&["offsets", "--to-earliest", "--execute"]);
    // A folder that is not there is not made.
    let folder = elsewhere.path().join("none");
    let output = Mb::run_in(&folder, &line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.exists());
    world.processes(4, true);
}

#[test]
fn while_an_mb_runs_it_shows_but_does_not_move() {
    let world = World::embedded();
    world.post(4);
    let mut running = Mb::start_in(world.dir(), &world.line(&["--step", "discard"]));
    running.wait_for_line("worker(s)", LIMIT);
    let said = world.refused(78, &["offsets", "--to-earliest", "--execute"]);
    assert!(said.contains(&format!("(pid {})", running.pid())), "{said}");
    assert!(said.contains("stop it first"), "{said}");
    let new = world.offsets(&["--to-datetime", "1970-01-01T00:00:00Z"]);
    assert_eq!(new.iter().map(|row| row[2]).collect::<Vec<_>>(), [Some(0), Some(0)]);
    running.term();
    assert!(running.wait(LIMIT).success());
    world.done(&["offsets", "--to-earliest", "--execute"]);
    world.processes(4, false);
}

#[test]
fn a_group_with_members_is_not_moved_and_that_is_said() {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};

    for (version, client) in [(V3_9, "kafka"), (V4_4, "rdkafka")] {
        let broker = Kafka::shared(version);
        let world = World::kafka(broker, client);
        world.post(2);
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.bootstrap()).set("group.id", &world.flags[3]);
        let member: BaseConsumer = config.create().unwrap();
        member.subscribe(&[&world.flags[1]]).unwrap();
        eventually(LIMIT, "the member has its partitions", || {
            member.poll(Duration::from_millis(100));
            member.assignment().is_ok_and(|assigned| assigned.count() == 2)
        });
        let said = world.refused(1, &["offsets", "--to-latest", "--execute"]);
        assert!(said.starts_with("mb: cannot commit"), "{said}");
        assert!(said.contains("active members") && said.contains("stop it"), "{said}");
    }
}

#[test]
fn what_does_not_fit_the_group_or_topic_is_named() {
    let world = World::embedded();
    let said = world.refused(78, &["offsets", "--to-latest"]);
    assert!(said.contains("there is no embedded topic in "), "{said}");
    world.post(2);
    let said = world.refused(78, &["offsets", "--shift-by", "1"]);
    assert!(said.contains("--shift-by") && said.contains("no committed offset in"), "{said}");
    let said = world.refused(78, &["offsets", "--to-latest", "--partition", "2"]);
    assert!(said.contains("--partition: got 2, expected one of topic"), "{said}");
    let output = Mb::run_in(
        world.dir(),
        &["offsets", "--to-latest", "--client", "embedded", "--topic", "x"],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("topic x does not exist"), "{said}");
}

#[test]
fn a_target_is_needed_and_only_one() {
    let world = World::embedded();
    let said = world.refused(64, &["offsets"]);
    for target in ["--to-earliest", "--to-latest", "--to-datetime", "--to-offset", "--shift-by"] {
        assert!(said.contains(target), "{said}");
    }
    let said = world.refused(64, &["offsets", "--to-earliest", "--shift-by", "1"]);
    assert!(said.contains("--shift-by: got --to-earliest as well"), "{said}");
}

#[test]
fn a_wrong_value_is_named_with_its_rule() {
    let world = World::embedded();
    for (flag, value, rule) in [
        ("--to-datetime", "yesterday", "a time from 1970 on such as"),
        ("--to-datetime", "2026-13-01", "a time from 1970 on such as"),
        ("--to-datetime", "1969-12-31", "a time from 1970 on such as"),
        ("--to-offset", "-1", "a whole number from 0 to"),
        ("--to-offset", "9223372036854775808", "a whole number from 0 to"),
        ("--shift-by", "ten", "a whole number such as 10 or -10"),
        ("--shift-by", "1.5", "a whole number such as 10 or -10"),
        ("--partition", "-1", "a whole number from 0 to 2147483647"),
        ("--partition", "2147483648", "a whole number from 0 to 2147483647"),
    ] {
        let said = world.refused(64, &["offsets", flag, value]);
        assert!(said.starts_with(&format!("mb: {flag}: got {value}, expected {rule}")), "{said}");
    }
    for switch in ["--to-earliest", "--to-latest", "--execute", "--json"] {
        let said = world.refused(64, &["offsets", &format!("{switch}=yes")]);
        assert!(said.contains(&format!("{switch}: got yes, expected no value")), "{said}");
    }
}
