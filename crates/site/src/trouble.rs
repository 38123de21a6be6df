//! Says on standard error what keeps the engine of runs from its work: nobody else would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeward_runs::RunId;
use leeward_runs::engine::Trouble;

use crate::site::Inner;

/// How often what lasts is said.
const SAY_EVERY: Duration = Duration::from_secs(60);

pub(crate) fn work(site: &Arc<Inner>, stop: &AtomicBool) {
    let mut said = Said::default();
    while !stop.load(Ordering::Acquire) {
        let lines = said.lines(&site.runs.troubles(), Instant::now());
        lines.iter().for_each(|line| site.complain(line));
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

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

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
