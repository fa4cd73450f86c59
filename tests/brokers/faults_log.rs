//! The rows of FAULTS.md in which the log itself is another one than before: removed records, topics
//! made again, partitions that come, gaps. One test per row, seeded (see `support::faults`).

use crate::support::faults::{
    LIMIT, PARTITIONS, World, by_form, create_topic, each_seed, no_panic, sound,
};
use crate::support::files::Files;
use crate::support::{eventually, raw};

#[test]
fn row_24_records_removed_before_they_were_read_halt_mb_with_their_range() {
    each_seed("row_24", |row| {
        let mut world = World::new(row);
        world.fill(100, 20);
        let mut mb = world.start(&world.files(&["--until-caught-up"]));
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        world.fill(100, 20);
        let (partition, beginning) = (row.random.i32(0..PARTITIONS), row.random.i64(101..200));
        world.kafka.delete_records(&world.topic, partition, beginning);
        let mut mb = world.start(&world.files(&[]));
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        let (said, last) = (mb.stderr().join("\n"), beginning - 1);
        assert!(said.contains(&format!("{}/{partition} 100-{last}", world.topic)), "{said}");
        no_panic(&mb);
        assert_eq!(world.committed()[&partition], 100, "nothing is committed past the gap");
        world.assert_sound();
    });
}

#[test]
fn row_25_a_topic_made_again_while_mb_runs_halts_it_whatever_its_length() {
    each_seed("row_25", |row| {
        for longer in [false, true] {
            let mut world = World::new(row);
            // The second topic's values are longer.
            world.fill(100, 20);
            let mut mb = world.start_working(&world.files(&[]));
            eventually(LIMIT, "all is committed", || world.committed() == world.ends());
            std::thread::sleep(row.millis(0..1000));
            world.kafka.tool("topics", &["--delete", "--topic", &world.topic]);
            create_topic(&world.direct, &world.topic, PARTITIONS);
            world.fill(if longer { 150 } else { 50 }, 30);
            assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
            let said = mb.stderr().join("\n");
            assert!(said.contains(&world.topic) && said.contains(" again"), "{said}");
            no_panic(&mb);
            // What the first topic held was done, each record once, and nothing of the second one.
            let records = Files::read(world.out(), &world.topic).records();
            assert_eq!(records.len(), 100 * PARTITIONS as usize);
            let is_first = |value: &[u8]| value.len() == "0-".len() + 20;
            assert!(records.iter().all(|record| record.value.as_deref().is_some_and(is_first)));
            sound(world.data_dir.path());
        }
    });
}

#[test]
fn row_26_added_partitions_are_read_from_their_beginning() {
    each_seed("row_26", |row| {
        let mut world = World::new(row);
        world.fill(100, 20);
        let mb = world.start_working(&world.files(&["--from", "latest"]));
        std::thread::sleep(row.millis(0..1000));
        world.kafka.add_partitions(&world.topic, 8);
        for partition in 4..8 {
            raw::produce(
                &world.direct,
                "none",
                &world.topic,
                partition,
                &vec![b"new".to_vec(); 50],
            );
        }
        eventually(LIMIT, "the new partitions are done from 0", || {
            let committed = world.committed();
            (4..8).all(|partition| committed.get(&partition) == Some(&50))
        });
        let files = Files::read(world.out(), &world.topic);
        let is_new = |partition| partition >= PARTITIONS;
        assert!(files.records().iter().all(|record| is_new(record.partition)), "--from latest");
        let offsets = |partition: i32| -> Vec<i64> {
            let records =
                files.records().into_iter().filter(|record| record.partition == partition);
            records.map(|record| record.offset).collect()
        };
        for partition in 4..8 {
            assert_eq!(offsets(partition), (0..50).collect::<Vec<_>>());
        }
        no_panic(&mb);
        world.assert_sound();
    });
}

#[test]
fn row_27_aborted_transactions_and_their_markers_are_passed_over() {
    each_seed("row_27", |row| {
        let world = World::new(row);
        let value = |text: &str| vec![text.as_bytes().to_vec(); 30];
        for _ in 0..by_form(2, 10) {
            for partition in 0..PARTITIONS {
                let commit = row.random.bool();
                let text = if commit { "committed" } else { "aborted" };
                raw::transaction(&world.direct, &world.topic, partition, &value(text), commit);
                raw::produce(&world.direct, "none", &world.topic, partition, &value("plain"));
            }
        }
        // The log ends in markers, behind which there is no record.
        for partition in 0..PARTITIONS {
            raw::transaction(&world.direct, &world.topic, partition, &value("aborted"), false);
        }
        let mut mb = world.start(&world.files(&["--until-caught-up"]));
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        no_panic(&mb);
        assert_eq!(world.committed(), world.ends(), "the lag is 0");
        let files = Files::read(world.out(), &world.topic);
        crate::support::files::assert_same(
            &files.records(),
            &raw::read_all(&world.direct, &world.topic),
        );
        let aborted =
            files.records().into_iter().filter(|r| r.value.as_deref() == Some(b"aborted"));
        assert_eq!(aborted.count(), 0);
        sound(world.data_dir.path());
    });
}
