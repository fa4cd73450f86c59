//! The embedded topic: whoever waits for a change sees it, whenever it comes.

use std::sync::Arc;

use models::kafka::Topic;
use models::model::clock;
use models::model::sync::Mutex;
use shuttle::thread;

use crate::{HOUR, explore};

/// Fails if a change is announced to one reader only, or counted after it was announced; or if a reader compares
/// versions before it takes the lock under which it falls asleep.
#[test]
fn every_reader_sees_every_record_whenever_it_began_to_wait() {
    const READERS: usize = 2;
    const RECORDS: usize = 2;
    explore(|| {
        let topic = Arc::new(Topic::open());
        let records = Arc::new(Mutex::new(0));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (topic, records) = (Arc::clone(&topic), Arc::clone(&records));
                thread::spawn(move || {
                    loop {
                        // As a consumer's poll does.
                        let seen = topic.version();
                        if *records.lock() == RECORDS {
                            return;
                        }
                        topic.wait(seen, clock::now() + HOUR);
                    }
                })
            })
            .collect();
        for _ in 0..RECORDS {
            *records.lock() += 1;
            topic.notify();
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
