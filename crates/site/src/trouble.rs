//! Says what keeps the engine of runs from its work: on standard error at once, and to who wants to be told when it lasts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeward_runs::RunId;
use leeward_runs::engine::Trouble;

use crate::site::Inner;

/// How often what lasts is said.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How long it lasts before people are told: a database that is busy for a moment is nothing to be woken for.
const TELL_AFTER: Duration = Duration::from_secs(30);

pub(crate) fn work(site: &Arc<Inner>, stop: &AtomicBool) {
    let mut said = Said::default();
    let mut told = Told::default();
    while !stop.load(Ordering::Acquire) {
        let troubles = site.runs.troubles();
        let lines = said.lines(&troubles, Instant::now());
        lines.iter().for_each(|line| site.complain(line));
        for (trouble, is_over) in told.news(&troubles, Instant::now()) {
            site.notifier.trouble(trouble.run.as_ref(), &trouble.what, trouble.since, is_over);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What was said, and when: of the state, and of single runs.
#[derive(Default)]
struct Said(BTreeMap<Option<RunId>, Instant>);

impl Said {
    /// What is to be said now: what is new, what has lasted for another minute, and what is over.
    fn lines(&mut self, troubles: &[Trouble], now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        self.0.retain(|run, _| {
            let lasts = troubles.iter().any(|trouble| trouble.run == *run);
            if !lasts {
                let what = run.as_ref().map_or("runs go on".to_owned(), |run| format!("run {run} goes on"));
                lines.push(format!("{what}: what kept the engine from its work is over"));
            }
            lasts
        });
        for trouble in troubles {
            if self.0.get(&trouble.run).is_none_or(|said| now.duration_since(*said) >= SAY_EVERY) {
                self.0.insert(trouble.run.clone(), now);
                let what = trouble
                    .run
                    .as_ref()
                    .map_or("runs stand still".to_owned(), |run| format!("run {run} stands still"));
                lines.push(format!("{what}: {trouble}"));
            }
        }
        lines
    }
}

/// What lasts, since when it was seen, and whether people were told.
#[derive(Default)]
struct Told(Vec<(Trouble, Instant, bool)>);

impl Told {
    /// What people are to be told now, and whether it is over.
    fn news(&mut self, troubles: &[Trouble], now: Instant) -> Vec<(Trouble, bool)> {
        let mut news = Vec::new();
        self.0.retain(|(known, _, is_told)| {
            let lasts = troubles.iter().any(|trouble| trouble.run == known.run);
            if !lasts && *is_told {
                news.push((known.clone(), true));
            }
            lasts
        });
        for trouble in troubles {
            match self.0.iter_mut().find(|(known, _, _)| known.run == trouble.run) {
                None => self.0.push((trouble.clone(), now, false)),
                Some((_, seen, is_told)) if !*is_told && now.duration_since(*seen) >= TELL_AFTER => {
                    *is_told = true;
                    news.push((trouble.clone(), false));
                }
                Some(_) => {}
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn people_are_told_of_what_lasts_and_of_its_end_and_of_nothing_else() {
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let trouble = Trouble {
            run: None,
            what: "the disk is full".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
        };
        let troubles = std::slice::from_ref(&trouble);
        let mut told = Told::default();
        assert!(told.news(troubles, at(0)).is_empty() && told.news(troubles, at(29)).is_empty());
        assert!(told.news(&[], at(29)).is_empty(), "it was over soon");
        assert!(told.news(troubles, at(30)).is_empty());
        assert_eq!(told.news(troubles, at(60)), [(trouble.clone(), false)]);
        assert!(told.news(troubles, at(999)).is_empty());
        assert_eq!(told.news(&[], at(1000)), [(trouble.clone(), true)]);
    }

    #[test]
    fn a_trouble_is_said_once_a_minute_and_so_is_its_end() {
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let run = RunId::new(Timestamp::now()).unwrap();
        let trouble = |run: Option<&RunId>| Trouble {
            run: run.cloned(),
            what: "runs.db: cannot take runs: the disk is full".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
        };
        let (state, damaged) = (trouble(None), trouble(Some(&run)));
        let mut said = Said::default();
        assert!(said.lines(&[], at(0)).is_empty());
        let wanted =
            "runs stand still: runs.db: cannot take runs: the disk is full (since 1970-01-01T00:00:00Z)";
        assert_eq!(said.lines(std::slice::from_ref(&state), at(1)), [wanted]);
        assert!(said.lines(std::slice::from_ref(&state), at(2)).is_empty());
        let both = [state, damaged.clone()];
        assert_eq!(said.lines(&both, at(3)), [wanted.replace("runs stand", &format!("run {run} stands"))]);
        assert_eq!(said.lines(&both, at(61)), [wanted], "a minute later");
        let over = said.lines(&[damaged], at(62));
        assert_eq!(over, ["runs go on: what kept the engine from its work is over"]);
        assert_eq!(said.lines(&[], at(62)), [over[0].replace("runs go", &format!("run {run} goes"))]);
    }
}
