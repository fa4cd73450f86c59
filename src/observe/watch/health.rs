//! What stands in mb's way, in words for people. And the log lines when a partition stalls or goes on, when the data
//! becomes stale or fresh, and when mb falls behind or keeps up again. What it amounts to is decided in `verdict`.
//!
//! Pure, except that it logs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::advice::Work;
use super::trend::{Explained, Trend};
use crate::commit::in_log::Foreign;
use crate::config::limits;
use crate::model::live::{READING_A_PARTITION, Running};
use crate::model::offset::{Offset, Partition};
use crate::observe::overview::{FreshnessView, Reason, Verdict, VerdictState};

/// What the verdict depends on.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What fails at the broker: what, for how long, and why.
    pub broker: Vec<(String, Duration, String)>,
    /// mb holds: for how long, and the step's newest error.
    pub held: Option<(Duration, String)>,
    /// The stalled partitions, the longest stalled first.
    pub stalls: Vec<Stall>,
    /// Partitions that an open transaction holds back, but not for as long yet; the longest first.
    pub waits: Vec<Stall>,
    /// Runs that have exceeded their time in a step that cannot be ended.
    pub stalled_runs: Vec<String>,
    /// How many attempts in a row have failed, the last one's error, and how long ago that was.
    pub failures: (u64, Option<(String, Duration)>),
    /// The history cannot be written.
    pub disk: bool,
    pub freshness: Option<FreshnessView>,
    pub group: String,
    /// Offsets of the group that somebody else has committed, by partition.
    pub foreign: BTreeMap<Partition, Foreign>,
    /// Another mb that commits for the group, in words.
    pub other: Option<String>,
    pub is_paused: bool,
    /// Records that mb has read since it started.
    pub records_in: u64,
    /// In records; `None` if it is not known, for the cause in `lag_error` if there is one.
    pub lag: Option<u64>,
    pub lag_error: Option<String>,
    /// For how long the record has waited that has waited longest, at least.
    pub age_s: Option<f64>,
    /// `None` if the lag is not known, or not for long enough.
    pub trend: Option<Trend>,
    /// What moves the lag while mb keeps up.
    pub explained: Explained,
    /// For how long the lag has been more than usual without falling.
    pub behind_for: Duration,
    pub work: Work,
}

/// A partition that has lag and makes no progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Stall {
    pub partition: Partition,
    pub offset: Offset,
    pub lag: u64,
    pub stuck: Duration,
    /// What its runs are doing.
    pub what: String,
}

impl Stall {
    /// "partition orders/3 has made no progress for 75 s: offset 12, …".
    pub fn describe(&self, topic: &str) -> String {
        format!(
            "partition {topic}/{} has made no progress for {} s: it stands at offset {} with a lag \
             of {}; {}",
            self.partition,
            self.stuck.as_secs(),
            self.offset,
            self.lag,
            self.what
        )
    }
}

/// Each offset that is somebody else's; of many partitions the first few, and how many there are.
pub(super) fn foreign_lines(
    foreign: &[(&Partition, &Foreign)],
    group: &str,
    topic: &str,
) -> Vec<String> {
    let named = foreign.iter().take(limits::STALLS_NAMED);
    let mut lines: Vec<_> =
        named.map(|(partition, foreign)| foreign.describe(group, topic, **partition)).collect();
    if foreign.len() > limits::STALLS_NAMED {
        let more = foreign.len() - limits::STALLS_NAMED;
        lines.push(format!("somebody moved the group's offsets in {more} more partition(s)"));
    }
    lines
}

/// What a partition's runs are doing, for people: `runs` are those that workers have, `in_flight` is how many
/// there are in all.
pub fn under_way(runs: &[&Running], in_flight: usize) -> String {
    let in_step = runs.iter().max_by_key(|run| run.since.elapsed());
    match in_step {
        Some(run) => format!(
            "run {} ({}) has been in its step on worker-{} for {} s, attempt {}",
            run.id,
            run.key,
            run.worker,
            run.since.elapsed().as_secs(),
            run.attempt
        ),
        None if in_flight > 0 => {
            format!(
                "{in_flight} of its runs wait in the queue or for another attempt, and none is running"
            )
        }
        None => "it has no runs: its records are not read, or not committed".to_owned(),
    }
}

/// What stands in the way.
pub fn reasons(facts: &Facts, topic: &str) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |reason: &str, detail: String| {
        reasons.push(Reason { reason: reason.to_owned(), detail });
    };
    if let Some((since, cause)) = &facts.held {
        add(
            "held",
            format!(
                "the step has failed for every run for {} s, the newest with: {cause}; nothing is given up \
                 on, and one run at a time is tried",
                since.as_secs()
            ),
        );
    }
    for (what, since, cause) in &facts.broker {
        if *since <= limits::BROKER_TROUBLE_LIMIT {
            continue;
        }
        match what.as_str() {
            READING_A_PARTITION => add("partition", format!("{cause} (for {} s)", since.as_secs())),
            _ => add("broker", format!("{what} has failed for {} s: {cause}", since.as_secs())),
        }
    }
    for stall in facts.stalls.iter().take(limits::STALLS_NAMED) {
        add("stalled", stall.describe(topic));
    }
    if facts.stalls.len() > limits::STALLS_NAMED {
        let more = facts.stalls.len() - limits::STALLS_NAMED;
        add("stalled", format!("{more} more partition(s) have lag and make no progress"));
    }
    for wait in facts.waits.iter().take(limits::STALLS_NAMED) {
        add("transaction", wait.describe(topic));
    }
    for run in &facts.stalled_runs {
        add("stalled", run.clone());
    }
    if let (in_a_row, Some((error, ago))) = &facts.failures
        && facts.held.is_none()
        && *in_a_row >= limits::FAILED_ATTEMPTS_ON_END
        && *ago < limits::FAILED_ATTEMPTS_FOR
    {
        add(
            "step",
            format!("the last {in_a_row} attempts have all failed, the newest with: {error}"),
        );
    }
    if facts.disk {
        add(
            "disk",
            "the history cannot be written, so nothing is started or committed: is the disk full?"
                .to_owned(),
        );
    }
    if let Some(other) = &facts.other {
        add("offsets", other.clone());
    }
    for line in foreign_lines(&facts.foreign.iter().collect::<Vec<_>>(), &facts.group, topic) {
        add("offsets", line);
    }
    if let Some(FreshnessView { policy_s, age_s: Some(age), fresh: false }) = facts.freshness {
        add(
            "freshness",
            format!(
                "the oldest record that is not processed is {age:.0} s old, more than the {policy_s} \
                 s of --freshness"
            ),
        );
    }
    reasons
}

/// What has been logged already, so that each stall is one line when it begins and one when it ends.
#[derive(Debug, Default)]
pub struct Announced {
    stalled: BTreeMap<Partition, Duration>,
    /// When the partition's offset was last seen to be somebody else's.
    foreign: BTreeMap<Partition, Instant>,
    stale: bool,
    /// Since when mb has been falling behind, and whether that was logged.
    behind: Option<(Instant, bool)>,
}

impl Announced {
    /// Logs what is new in `facts`, and in the verdict on them.
    pub fn log_news(&mut self, facts: &Facts, verdict: &Verdict, topic: &str, now: Instant) {
        let mut lines = self.news(facts, topic, now);
        lines.extend(self.verdict_news(verdict, now));
        for (is_warning, line) in lines {
            if is_warning { log::warn!("{line}") } else { log::info!("{line}") }
        }
    }

    /// Lines for the log; true for a warning.
    fn news(&mut self, facts: &Facts, topic: &str, now: Instant) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        let fresh: Vec<_> = facts
            .stalls
            .iter()
            .filter(|stall| !self.stalled.contains_key(&stall.partition))
            .collect();
        for stall in fresh.iter().take(limits::STALLS_NAMED) {
            lines.push((true, stall.describe(topic)));
        }
        if fresh.len() > limits::STALLS_NAMED {
            let more = fresh.len() - limits::STALLS_NAMED;
            lines.push((true, format!("{more} more partition(s) of {topic} make no progress")));
        }
        let stalled: BTreeMap<_, _> =
            facts.stalls.iter().map(|stall| (stall.partition, stall.stuck)).collect();
        let over: Vec<_> =
            self.stalled.iter().filter(|(partition, _)| !stalled.contains_key(partition)).collect();
        for (partition, stuck) in over.iter().take(limits::STALLS_NAMED) {
            let after = stuck.as_secs();
            lines.push((
                false,
                format!(
                    "partition {topic}/{partition} makes progress again, after more than {after} s"
                ),
            ));
        }
        if over.len() > limits::STALLS_NAMED {
            let more = over.len() - limits::STALLS_NAMED;
            lines.push((false, format!("{more} more partition(s) of {topic} make progress again")));
        }
        self.stalled = stalled;
        lines.extend(self.foreign_news(facts, topic, now));
        if let Some(FreshnessView { policy_s, age_s: Some(age), fresh }) = facts.freshness
            && fresh == self.stale
        {
            self.stale = !fresh;
            let line = match fresh {
                true => {
                    format!(
                        "the data is fresh again: no record has waited for longer than {policy_s} s"
                    )
                }
                false => format!(
                    "the oldest record that is not processed is {age:.0} s old, more than \
                     --freshness ({policy_s} s)"
                ),
            };
            lines.push((!fresh, line));
        }
        lines
    }

    /// A warning once mb has been falling behind for a while, and a line when it catches up or keeps up again.
    fn verdict_news(&mut self, verdict: &Verdict, now: Instant) -> Option<(bool, String)> {
        let over = match verdict.state {
            VerdictState::FallingBehind => {
                let (since, logged) = self.behind.get_or_insert((now, false));
                let lasts = now.saturating_duration_since(*since);
                if *logged || lasts < limits::FALLING_BEHIND_LOGGED_AFTER {
                    return None;
                }
                *logged = true;
                let advice = verdict.advice.iter().map(|advice| format!("; {advice}"));
                return Some((true, format!("{}{}", verdict.headline, advice.collect::<String>())));
            }
            VerdictState::CatchingUp => verdict.headline.clone(),
            VerdictState::KeepingUp | VerdictState::DeadLettersOpen => {
                "mb keeps up again".to_owned()
            }
            // What else is the matter is said elsewhere; whether mb keeps up is not known meanwhile.
            _ => return None,
        };
        let (_, logged) = self.behind.take()?;
        logged.then_some((false, over))
    }

    /// One warning for each partition, however often it changes hands: with another mb in the group, its commits and
    /// mb's own replace one another for as long as both run. What mb follows is said by who follows it.
    fn foreign_news(&mut self, facts: &Facts, topic: &str, now: Instant) -> Vec<(bool, String)> {
        let foreign = || facts.foreign.iter().filter(|(_, foreign)| !foreign.is_followed());
        let new: Vec<_> = foreign().filter(|(one, _)| !self.foreign.contains_key(one)).collect();
        let lines = foreign_lines(&new, &facts.group, topic);
        let mut lines: Vec<_> = lines.into_iter().map(|line| (true, line)).collect();
        self.foreign.extend(foreign().map(|(partition, _)| (*partition, now)));
        let before = self.foreign.len();
        self.foreign.retain(|_, seen| now.saturating_duration_since(*seen) < limits::OFFSETS_CALM);
        if before > 0 && self.foreign.is_empty() {
            lines.push((false, format!("the offsets of group {} are mb's own again", facts.group)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Pace;
    use super::*;
    use crate::history::recovery::Mover;

    fn stall(partition: Partition) -> Stall {
        Stall {
            partition,
            offset: Offset::new(12),
            lag: 40,
            stuck: Duration::from_secs(75),
            what: under_way(&[], 2),
        }
    }

    fn foreign(partition: Partition) -> (Partition, Foreign) {
        let (in_log, ours) = (Offset::new(100), Offset::new(1486));
        (partition, Foreign { in_log, ours, by: Mover::Instance("you".into()) })
    }

    fn said(reasons: &[Reason]) -> Vec<&str> {
        reasons.iter().map(|reason| reason.reason.as_str()).collect()
    }

    #[test]
    fn without_trouble_there_is_no_reason() {
        assert_eq!(reasons(&Facts::default(), "t"), []);
    }

    #[test]
    fn each_reason_says_what_is_wrong_and_where() {
        let trouble = |seconds| {
            ("reading the topic".to_owned(), Duration::from_secs(seconds), "refused".to_owned())
        };
        let facts = Facts {
            held: None,
            broker: vec![trouble(9), trouble(11)],
            stalls: (0..5).map(stall).collect(),
            stalled_runs: vec!["run 7 is past its time".into()],
            failures: (10, Some(("exit code 1".into(), Duration::from_secs(1)))),
            disk: true,
            freshness: Some(FreshnessView { policy_s: 30.0, age_s: Some(31.2), fresh: false }),
            group: "g".into(),
            foreign: [foreign(2)].into(),
            other: Some("another mb (instance you) commits".into()),
            ..Facts::default()
        };
        let health = reasons(&facts, "orders");
        let expected = [
            "broker",
            "stalled",
            "stalled",
            "stalled",
            "stalled",
            "stalled",
            "step",
            "disk",
            "offsets",
            "offsets",
            "freshness",
        ];
        assert_eq!(said(&health), expected);
        assert_eq!(health[0].detail, "reading the topic has failed for 11 s: refused");
        assert_eq!(
            health[1].detail,
            "partition orders/0 has made no progress for 75 s: it stands at offset 12 with a lag of \
             40; 2 of its runs wait in the queue or for another attempt, and none is running"
        );
        assert_eq!(health[4].detail, "2 more partition(s) have lag and make no progress");
    }

    #[test]
    fn few_failures_or_old_ones_are_no_reason() {
        let failures = |in_a_row, ago| Facts {
            failures: (in_a_row, Some(("no".into(), Duration::from_secs(ago)))),
            ..Facts::default()
        };
        assert_eq!(reasons(&failures(9, 1), "t"), []);
        assert_eq!(said(&reasons(&failures(10, 1), "t")), ["step"]);
        assert_eq!(reasons(&failures(10, 301), "t"), []);
    }

    #[test]
    fn a_stall_is_one_warning_when_it_begins_and_one_line_when_it_ends() {
        let mut announced = Announced::default();
        let stalled = Facts { stalls: vec![stall(3)], ..Facts::default() };
        let lines = announced.news(&stalled, "orders", Instant::now());
        assert_eq!(lines.len(), 1);
        assert!(lines[0].0 && lines[0].1.starts_with("partition orders/3 has made no progress"));
        assert_eq!(announced.news(&stalled, "orders", Instant::now()), []);
        let over =
            (false, "partition orders/3 makes progress again, after more than 75 s".to_owned());
        assert_eq!(announced.news(&Facts::default(), "orders", Instant::now()), [over]);
        assert_eq!(announced.news(&Facts::default(), "orders", Instant::now()), []);
        let many = Facts { stalls: (0..1000).map(stall).collect(), ..Facts::default() };
        assert_eq!(announced.news(&many, "orders", Instant::now()).len(), limits::STALLS_NAMED + 1);
        assert_eq!(
            announced.news(&Facts::default(), "orders", Instant::now()).len(),
            limits::STALLS_NAMED + 1
        );
    }

    #[test]
    fn offsets_that_somebody_moved_are_one_warning_however_often_they_change_hands() {
        let mut announced = Announced::default();
        let begin = Instant::now();
        let mut news = |count: Partition, second: u64| {
            let foreign = (0..count).map(foreign).collect();
            let facts = Facts { group: "g".into(), foreign, ..Facts::default() };
            announced.news(&facts, "orders", begin + Duration::from_secs(second))
        };
        let lines = news(1, 0);
        assert!(lines.len() == 1 && lines[0].0, "{lines:?}");
        assert!(
            lines[0].1.contains("(instance you) moved the offset of group g in orders/0 to 100")
        );
        for second in 1..100 {
            assert_eq!(news(Partition::from(second % 2 == 0), second), [], "{second}");
        }
        assert_eq!(news(0, 120), []);
        let over = (false, "the offsets of group g are mb's own again".to_owned());
        assert_eq!(news(0, 98 + limits::OFFSETS_CALM.as_secs()), [over]);
        assert_eq!(news(0, 200), []);
        assert_eq!(news(1000, 201).len(), limits::STALLS_NAMED + 1);
    }

    #[test]
    fn stale_data_is_one_warning_until_it_is_fresh_again() {
        let mut announced = Announced::default();
        let facts = |age: f64| Facts {
            freshness: Some(FreshnessView { policy_s: 30.0, age_s: Some(age), fresh: age <= 30.0 }),
            ..Facts::default()
        };
        let kinds = [1.0, 31.0, 40.0, 2.0, 3.0].map(|age| {
            let lines = announced.news(&facts(age), "t", Instant::now());
            lines.into_iter().map(|(warns, _)| warns).collect::<Vec<_>>()
        });
        assert_eq!(kinds, [vec![], vec![true], vec![], vec![false], vec![]]);
    }

    #[test]
    fn falling_behind_is_one_warning_once_it_lasts_and_one_line_when_it_is_over() {
        use super::super::trend::Course;
        use super::super::verdict::verdict;
        let of = |course, lag| {
            let trend = Some(Trend { arriving: 100.0, done: 50.0, course });
            let work =
                Work { workers: 2, pace: Pace { busy: 2.0, ..Pace::default() }, ..Work::default() };
            let behind_for = Duration::from_secs(60);
            verdict(&Facts { lag, trend, work, behind_for, ..Facts::default() }, "t", 0)
        };
        let (grows, steady) = (Course::Grows, Course::Steady);
        let mut announced = Announced::default();
        let begin = Instant::now();
        let mut news = |course, lag, second| {
            announced.verdict_news(&of(course, lag), begin + Duration::from_secs(second))
        };
        assert_eq!(news(grows, Some(500), 0), None);
        assert_eq!(news(steady, Some(500), 5), None, "a moment is not worth a line");
        assert_eq!((news(grows, Some(500), 6), news(grows, Some(500), 15)), (None, None));
        let (is_warning, line) = news(grows, Some(500), 16).expect("it lasts");
        let expected = "Falling behind: 500 records behind; 100/s arrive, 50/s are processed; all 2 workers are busy: raise";
        assert!(is_warning && line.starts_with(expected), "{line}");
        assert_eq!((news(grows, Some(500), 60), news(steady, None, 61)), (None, None));
        let over = "mb keeps up again".to_owned();
        assert_eq!(
            (news(steady, Some(500), 62), news(steady, Some(500), 63)),
            (Some((false, over)), None)
        );
    }
}
