//! Whether another mb commits for the same group, as the marks beside the group's offsets show. Two mb of one group and
//! two data directories process every record twice, and nothing but these marks shows it.
//!
//! Pure: `watcher` asks the log.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::config::limits;
use crate::history::mark::{Mark, Stamp};
use crate::model::offset::Partition;

/// What the marks have shown since this mb began.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// The marks at the first look. They may be of an mb that ended before this one began.
    first: Option<BTreeMap<Partition, Mark>>,
    /// Commits of others that came since, with the time of the newest.
    newest: Option<(Stamp, Instant)>,
    /// When another mb was logged last.
    logged: Option<Instant>,
}

impl Others {
    /// Whether what was found is to be logged now: at once, and again each minute.
    pub fn is_log_due(&mut self, now: Instant) -> bool {
        let is_due = self.logged.is_none_or(|logged| now >= logged + limits::OTHERS_GONE_AFTER);
        if is_due {
            self.logged = Some(now);
        }
        is_due
    }

    /// Takes the marks beside the group's offsets as they are now; `own` is this mb's instance.
    pub fn look(&mut self, own: &str, marks: BTreeMap<Partition, Mark>, now: Instant) {
        let Some(first) = &self.first else {
            self.first = Some(marks);
            return;
        };
        for (partition, mark) in marks {
            if let Mark::Instance(stamp) = &mark
                && stamp.instance != own
                && first.get(&partition) != Some(&mark)
                && self.newest.as_ref().is_none_or(|(known, _)| known != stamp)
            {
                self.newest = Some((stamp.clone(), now));
            }
        }
    }

    /// The instance of an mb that commits too.
    pub fn found(&self, now: Instant) -> Option<&str> {
        let (stamp, since) = self.newest.as_ref()?;
        (now < *since + limits::OTHERS_GONE_AFTER).then_some(stamp.instance.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Looks(Others);

    impl Looks {
        fn look(&mut self, metadata: &str, now: Instant) -> Option<String> {
            self.0.look("me", BTreeMap::from([(0, Mark::of(metadata))]), now);
            self.0.found(now).map(str::to_owned)
        }
    }

    #[test]
    fn the_mark_of_an_mb_that_ended_before_is_nobodys() {
        let (mut looks, now) = (Looks(Others::default()), Instant::now());
        for metadata in ["mb1 you 7", "mb1 you 7", "mb1 me 1", "", "mb1 offsets 3"] {
            assert_eq!(looks.look(metadata, now), None, "{metadata}");
        }
    }

    #[test]
    fn an_mb_that_commits_meanwhile_is_found_until_it_has_stopped_for_a_while() {
        let (mut looks, now) = (Looks(Others::default()), Instant::now());
        let you = Some("you".to_owned());
        looks.look("mb1 you 7", now);
        assert_eq!(looks.look("mb1 you 8", now), you);
        assert_eq!(looks.look("mb1 me 3", now), you, "it committed a moment ago");
        let later = now + limits::OTHERS_GONE_AFTER;
        assert_eq!(looks.look("mb1 me 9", later), None);
        assert_eq!(looks.look("mb1 you 9", later), you);
        // The last commit of one that has ended since stays in the log.
        let gone = later + limits::OTHERS_GONE_AFTER;
        assert_eq!(looks.look("mb1 you 9", gone), None);
    }

    #[test]
    fn it_is_logged_at_once_and_then_each_minute() {
        let (mut others, now) = (Others::default(), Instant::now());
        assert!(others.is_log_due(now) && !others.is_log_due(now));
        assert!(others.is_log_due(now + limits::OTHERS_GONE_AFTER));
    }
}
