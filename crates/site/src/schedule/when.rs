//! When a schedule's times come: functions of values, without a clock of their own.
//!
//! A *slot* is a time that a trigger names. Slots are whole seconds, and the same for everybody who has the same trigger: a
//! restarted daemon, and another one that shares the state, find the same ones.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The most missed slots that are counted.
const COUNTED_MAX: u32 = 1_000;
/// How late a run may begin and still be on time: a daemon that is restarted, a machine that is busy.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What names slots.
#[derive(Debug, Clone)]
pub(crate) enum Trigger {
    /// A cron pattern, on the wall clock of a time zone.
    Cron(Box<Cron>, TimeZone),
    /// Every so many seconds, counted from the beginning of 1970 in UTC.
    Every(i64),
}

impl Trigger {
    /// Slots of a cron pattern of five fields.
    ///
    /// # Errors
    /// It is none, or names no time that ever comes; in words.
    pub fn cron(pattern: &str, zone: TimeZone) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| format!("cron = {pattern:?}: {error}"))?;
        let trigger = Self::Cron(Box::new(cron), zone);
        match trigger.after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(trigger),
            None => Err(format!("cron = {pattern:?}: that time never comes")),
        }
    }

    /// Slots at equal distances.
    ///
    /// # Errors
    /// The distance is less than a second, or no whole seconds; in words.
    pub fn every(period: SignedDuration) -> Result<Self, String> {
        match (period.as_secs(), period.subsec_nanos()) {
            (seconds @ 1.., 0) => Ok(Self::Every(seconds)),
            _ => Err("a time between runs is of whole seconds, at least one".to_owned()),
        }
    }

    /// The first slot after a time.
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let second = whole(time)?;
        match self {
            Self::Cron(cron, zone) => {
                let found = cron.find_next_occurrence(&second.to_zoned(zone.clone()), false).ok()?;
                Some(found.timestamp()).filter(|found| *found > time)
            }
            Self::Every(period) => {
                let next = second.as_second().div_euclid(*period).checked_add(1)?.checked_mul(*period)?;
                Timestamp::from_second(next).ok()
            }
        }
    }

    /// The last slot that is not after a time.
    pub fn until(&self, time: Timestamp) -> Option<Timestamp> {
        let second = whole(time)?;
        match self {
            Self::Cron(cron, zone) => {
                let found = cron.find_previous_occurrence(&second.to_zoned(zone.clone()), true).ok()?;
                Some(found.timestamp()).filter(|found| *found <= time)
            }
            Self::Every(period) => {
                Timestamp::from_second(second.as_second().div_euclid(*period).checked_mul(*period)?).ok()
            }
        }
    }
}

/// The second in which a time lies.
fn whole(time: Timestamp) -> Option<Timestamp> {
    let second = time.as_nanosecond().div_euclid(1_000_000_000);
    Timestamp::from_second(i64::try_from(second).ok()?).ok()
}

/// What becomes of slots that passed while nobody could begin a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// One run makes up for all of them.
    #[default]
    Once,
    /// Nothing: the next slot is waited for.
    None,
}

/// When a schedule's runs begin.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    /// The usual slots.
    pub main: Trigger,
    /// Slots of runs that do the whole work, where others do what has changed.
    pub full: Option<Trigger>,
    /// How much later than its slot a run may begin.
    pub jitter: SignedDuration,
    /// What becomes of missed slots.
    pub catch_up: CatchUp,
    /// Whose schedule it is: others are late by other times.
    pub salt: String,
}

/// A slot whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The slot.
    pub slot: Timestamp,
    /// Whether its time was missed.
    pub is_late: bool,
    /// Whether it, or one that it makes up for, is one of the whole work.
    pub is_full: bool,
    /// How many slots before it were passed over; counted up to a bound.
    pub missed: u32,
}

impl Times {
    /// What is to be done now, where everything up to `handled` was decided. The newest slot whose time has come stands for
    /// all before it.
    pub fn due(&self, handled: Timestamp, now: Timestamp) -> Option<Due> {
        let mut to = now;
        let slot = loop {
            let slot = self.until(to).filter(|slot| *slot > handled)?;
            if self.begins(slot) <= now {
                break slot;
            }
            to = slot.checked_sub(SignedDuration::from_secs(1)).ok()?;
        };
        Some(Due {
            slot,
            is_late: now > self.begins(slot).saturating_add(GRACE).unwrap_or(Timestamp::MAX),
            is_full: self.full.as_ref().and_then(|full| full.until(slot)).is_some_and(|full| full > handled),
            missed: self.between(handled, slot),
        })
    }

    /// The first slot after a time, and when its run begins.
    pub fn next(&self, handled: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let slot = self.after(handled)?;
        Some((slot, self.begins(slot)))
    }

    /// When the run of a slot begins: always the same for the same slot, so that a restart changes nothing.
    pub fn begins(&self, slot: Timestamp) -> Timestamp {
        let most = u64::try_from(self.jitter.as_millis()).unwrap_or(0);
        let digest = blake3::hash(format!("{}\n{}", self.salt, slot.as_second()).as_bytes());
        let (part, _) = digest.as_bytes().split_at(8);
        let chance = part.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let later = i64::try_from(chance % (most + 1)).unwrap_or(0);
        slot.saturating_add(SignedDuration::from_millis(later)).unwrap_or(Timestamp::MAX)
    }

    fn after(&self, time: Timestamp) -> Option<Timestamp> {
        let full = self.full.as_ref().and_then(|full| full.after(time));
        [self.main.after(time), full].into_iter().flatten().min()
    }

    fn until(&self, time: Timestamp) -> Option<Timestamp> {
        let full = self.full.as_ref().and_then(|full| full.until(time));
        [self.main.until(time), full].into_iter().flatten().max()
    }

    /// How many slots lie between two times, without both.
    fn between(&self, from: Timestamp, to: Timestamp) -> u32 {
        let (mut time, mut count) = (from, 0);
        while let Some(slot) = self.after(time).filter(|slot| *slot < to && count < COUNTED_MAX) {
            (time, count) = (slot, count + 1);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central European time, without asking the machine for its zones.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn times(main: Trigger) -> Times {
        let (jitter, salt) = (SignedDuration::ZERO, "home\nnightly".to_owned());
        Times { main, full: None, jitter, catch_up: CatchUp::Once, salt }
    }

    fn slots(trigger: &Trigger, from: &str, to: &str) -> Vec<String> {
        let (mut time, to) = (at(from), at(to));
        let mut found = Vec::new();
        while let Some(slot) = trigger.after(time).filter(|slot| *slot <= to) {
            found.push(slot.to_string());
            time = slot;
        }
        found
    }

    #[test]
    fn a_time_that_the_clock_leaves_out_comes_when_it_goes_on() {
        let nightly = Trigger::cron("30 2 * * *", berlin()).unwrap();
        assert_eq!(
            slots(&nightly, "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_one_slot_and_an_hour_that_comes_twice_is_two() {
        let nightly = Trigger::cron("30 2 * * *", berlin()).unwrap();
        assert_eq!(
            slots(&nightly, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        let hourly = Trigger::cron("0 * * * *", berlin()).unwrap();
        let found = slots(&hourly, "2026-10-24T22:30:00Z", "2026-10-25T03:30:00Z");
        assert_eq!(found.len(), 5, "every hour that passes has one: {found:?}");
    }

    #[test]
    fn looking_back_finds_the_same_slots_as_looking_ahead() {
        let patterns =
            ["30 2 * * *", "0 * * * *", "*/7 1-3 * * *", "15 3 * * SUN", "0 0 L * *", "59 1,2 29 3 *"];
        let triggers = patterns.map(|pattern| Trigger::cron(pattern, berlin()).unwrap());
        let every =
            [90, 3600, 86_400].map(|seconds| Trigger::every(SignedDuration::from_secs(seconds)).unwrap());
        for trigger in triggers.iter().chain(&every) {
            for (from, to) in [
                ("2026-03-27T00:00:00Z", "2026-03-31T00:00:00Z"),
                ("2026-10-23T00:00:00Z", "2026-10-27T00:00:00Z"),
            ] {
                let ahead = slots(trigger, from, to);
                let (from, mut time) = (at(from), at(to));
                let mut back = Vec::new();
                while let Some(slot) = trigger.until(time).filter(|slot| *slot > from) {
                    back.push(slot.to_string());
                    time = slot - SignedDuration::from_secs(1);
                }
                back.reverse();
                assert_eq!(ahead, back, "{trigger:?}");
            }
        }
    }

    #[test]
    fn a_run_begins_within_its_jitter_and_always_at_the_same_time() {
        let mut all = times(Trigger::every(SignedDuration::from_hours(1)).unwrap());
        all.jitter = SignedDuration::from_mins(10);
        let mut seen = std::collections::BTreeSet::new();
        for hour in 0..500 {
            let slot = Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap();
            let later = all.begins(slot) - slot;
            let later = later.get_milliseconds() + later.get_seconds() * 1000;
            assert!((0..=600_000).contains(&later), "{later}");
            assert_eq!(all.begins(slot), all.begins(slot));
            seen.insert(later / 60_000);
        }
        assert!(seen.len() >= 10, "spread over all of it: {seen:?}");
        let others = Times { salt: "away\nnightly".to_owned(), ..all.clone() };
        let slot = Timestamp::from_second(1_800_000_000).unwrap();
        assert_ne!(all.begins(slot), others.begins(slot), "another site begins at another time");
    }

    #[test]
    fn a_slot_waits_for_its_jitter_and_is_not_decided_before() {
        let mut all = times(Trigger::every(SignedDuration::from_hours(1)).unwrap());
        all.jitter = SignedDuration::from_mins(10);
        let slot = at("2026-06-01T12:00:00Z");
        let begins = all.begins(slot);
        let handled = slot - SignedDuration::from_secs(1);
        assert!(begins > slot);
        assert_eq!(all.due(handled, begins - SignedDuration::from_millis(1)), None);
        let due = all.due(handled, begins).unwrap();
        assert_eq!((due.slot, due.is_late, due.missed), (slot, false, 0));
        assert_eq!(all.due(slot, begins), None, "once decided it is over");
        assert_eq!(all.next(handled), Some((slot, begins)));
    }

    #[test]
    fn the_newest_of_missed_slots_stands_for_all() {
        let all = times(Trigger::cron("0 * * * *", TimeZone::UTC).unwrap());
        let handled = at("2026-06-01T00:00:00Z");
        let due = all.due(handled, at("2026-06-01T10:20:00Z")).unwrap();
        assert_eq!((due.slot, due.is_late, due.missed), (at("2026-06-01T10:00:00Z"), true, 9));
        let due = all.due(handled, at("2026-06-01T10:00:59Z")).unwrap();
        assert!(!due.is_late, "within the grace");
        let years = all.due(handled, at("2036-06-01T10:20:00Z")).unwrap();
        assert_eq!(years.missed, COUNTED_MAX);
    }

    #[test]
    fn a_full_slot_among_missed_ones_is_not_lost() {
        let mut all = times(Trigger::cron("0 1 * * *", TimeZone::UTC).unwrap());
        all.full = Some(Trigger::cron("0 5 * * SUN", TimeZone::UTC).unwrap());
        let handled = at("2026-06-05T02:00:00Z");
        assert!(!all.due(handled, at("2026-06-06T01:00:00Z")).unwrap().is_full, "a Saturday");
        let sunday = all.due(at("2026-06-07T01:00:00Z"), at("2026-06-07T05:00:00Z")).unwrap();
        assert!(sunday.is_full && !sunday.is_late);
        assert!(all.due(handled, at("2026-06-09T12:00:00Z")).unwrap().is_full, "missed on Sunday");
        assert!(!all.due(at("2026-06-07T05:00:00Z"), at("2026-06-08T01:00:00Z")).unwrap().is_full);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for pattern in ["", "* * * *", "61 * * * *", "0 0 30 2 *", "* * * * * *", "soon"] {
            Trigger::cron(pattern, TimeZone::UTC).unwrap_err();
        }
        for period in [0, -5] {
            Trigger::every(SignedDuration::from_secs(period)).unwrap_err();
        }
        Trigger::every(SignedDuration::from_millis(1500)).unwrap_err();
    }
}
