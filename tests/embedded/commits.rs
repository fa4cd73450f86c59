//! Commits that the log refuses, or does not answer: what the history keeps of them.

use std::sync::Arc;
use std::time::Duration;

use mb::kafka::embedded::Embedded;
use mb::kafka::{Broker, CommitError};
use mb::model::error::Error;
use mb::model::offset::{Offset, Partition};
use mb::model::sync::Mutex;
use mb::step::Step;
use mb::{Config, Pipeline, Stopper};

use crate::support::partly::{Answers, Partly};
use crate::support::world::*;
use crate::support::{eventually, eventually_some};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Stored,
    /// As by a broker that gives the group no permission.
    Refused,
    /// The commit is under way, and may arrive at any time.
    None,
}

/// A log that answers commits as a test says.
struct Committing {
    log: Embedded,
    history: std::path::PathBuf,
    answer: Mutex<Answer>,
    commits: Mutex<Vec<Commit>>,
}

#[derive(Clone, Debug)]
struct Commit {
    offsets: Vec<(Partition, Offset)>,
    answer: Answer,
    /// The intents that the history had when the commit was sent.
    intents: Vec<(Partition, i64)>,
}

impl Committing {
    fn new(world: &World, answer: Answer) -> Arc<Partly<Committing>> {
        Arc::new(Partly(Committing {
            log: world.topics.clone(),
            history: history_file(world.dir.path()),
            answer: Mutex::new(answer),
            commits: Mutex::default(),
        }))
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    /// Waits for a commit of this offset of partition 0 that gets this answer.
    fn await_commit(&self, offset: i64, answer: Answer) -> Commit {
        let wanted = (0, Offset::new(offset));
        eventually_some(LIMIT, &format!("a commit of {offset}, {answer:?}"), || {
            let commits = self.commits.lock();
            let mut found = commits.iter().filter(|commit| commit.offsets.contains(&wanted));
            found.find(|commit| commit.answer == answer).cloned()
        })
    }
}

impl Answers for Committing {
    fn broker(&self) -> &dyn Broker {
        &self.log
    }

    fn commit_all(
        &self,
        group: &str,
        topic: &str,
        commits: &[mb::kafka::Commit],
    ) -> Result<(), CommitError> {
        let answer = *self.answer.lock();
        let intents = intents(&self.history);
        let offsets = commits.iter().map(|one| (one.partition, one.offset)).collect();
        self.commits.lock().push(Commit { offsets, answer, intents });
        match answer {
            Answer::Stored => self.log.commit_all(group, topic, commits),
            Answer::Refused => {
                Err(CommitError::all_refused(commits, Error::broker("commit", "no permission")))
            }
            Answer::None => Err(CommitError::Unknown(Error::broker("commit", "no answer in time"))),
        }
    }
}

fn intents(history: &std::path::Path) -> Vec<(Partition, i64)> {
    let db = mb::history::schema::open_read_only(history).unwrap();
    let mut select = db.prepare("SELECT partition, committing FROM intents ORDER BY 1, 2").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn while_running(world: &World, log: &Arc<Partly<Committing>>, test: impl FnOnce()) {
    let step = Recorder::new(|_| Ok(()));
    let config = Config { until_caught_up: false, ..world.config() };
    let (stopper, stop) = Stopper::new();
    let broker = Arc::<Partly<Committing>>::clone(log);
    let pipeline = Pipeline::new(config, step as Arc<dyn Step>).with_broker(broker);
    let mb = std::thread::spawn(move || pipeline.run(&stop));
    test();
    stopper.stop();
    mb.join().unwrap().unwrap();
}

#[test]
fn refused_commits_leave_no_intents_in_the_history() {
    let world = World::with_records(1);
    let log = Committing::new(&world, Answer::Refused);
    while_running(&world, &log, || {
        for offset in 1..=4 {
            log.0.await_commit(offset, Answer::Refused);
            world.post(0, b"more");
        }
        for Commit { offsets, intents, .. } in log.0.commits.lock().iter() {
            let sent: Vec<_> = offsets.iter().map(|(one, offset)| (*one, offset.get())).collect();
            assert_eq!(*intents, sent, "only those of the commit that is being sent");
        }
        log.0.answer(Answer::Stored);
        let all = [(0, 5), (1, 1), (2, 1)].map(|(one, offset)| (one, Offset::new(offset)));
        eventually(LIMIT, "all is committed", || world.committed("mb") == all.into());
    });
    assert_eq!(intents(&log.0.history), []);
}

#[test]
fn a_refused_commit_leaves_the_intent_of_the_same_offset_that_may_still_arrive() {
    let world = World::new();
    world.post(0, b"first");
    let log = Committing::new(&world, Answer::None);
    while_running(&world, &log, || {
        log.0.await_commit(1, Answer::None);
        log.0.answer(Answer::Refused);
        log.0.await_commit(1, Answer::Refused);
        world.post(0, b"second");
        let mut intents = log.0.await_commit(2, Answer::Refused).intents;
        intents.retain(|(partition, _)| *partition == 0);
        assert_eq!(intents, [(0, 1), (0, 2)], "the first commit is still under way");
        log.0.answer(Answer::Stored);
        eventually(LIMIT, "both are committed", || {
            world.committed("mb").get(&0) == Some(&Offset::new(2))
        });
    });
    assert!(intents(&log.0.history).contains(&(0, 1)), "it may yet land on top of the second");
}
