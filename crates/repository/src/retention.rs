//! Which snapshots to keep: a pure function of rules, snapshots and time.

use std::collections::{BTreeMap, HashSet};

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::id::SnapshotId;
use crate::image::SnapshotEntry;
use crate::{Error, Result};

/// Which snapshots of an image to keep. A snapshot is kept when any rule keeps it.
#[derive(Debug, Clone, Default)]
pub struct KeepRules {
    /// So many of the last.
    pub last: usize,
    /// The last of each hour that has one, for so many hours.
    pub hourly: usize,
    /// The last of each day that has one, for so many days.
    pub daily: usize,
    /// The last of each week (from Monday) that has one, for so many weeks.
    pub weekly: usize,
    /// The last of each month that has one, for so many months.
    pub monthly: usize,
    /// The last of each year that has one, for so many years.
    pub yearly: usize,
    /// All that are not older than this.
    pub within: Option<Span>,
    /// All that carry one of these tags.
    pub tags: Vec<String>,
}

impl KeepRules {
    /// Whether no rule would keep anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|count| *count == 0) && self.within.is_none() && self.tags.is_empty()
    }
}

/// What becomes of a snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// When its backup began.
    pub created: Timestamp,
    /// Whether it is kept.
    pub keep: bool,
    /// The rules that keep it.
    pub reasons: Vec<String>,
}

/// Decides what becomes of each snapshot, newest first. Held snapshots and those from the future are kept and use up no
/// rule's count: whoever floods an image with future snapshots cannot push the real ones out.
///
/// # Errors
/// There is no rule, which would forget everything.
pub fn plan_retention(
    entries: &[SnapshotEntry],
    rules: &KeepRules,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<Decision>> {
    if rules.is_empty() {
        return Err(Error::Invalid(
            "no rule says what to keep; give --keep-last, --keep-daily … or name the snapshots to forget"
                .to_owned(),
        ));
    }
    let oldest_within = match &rules.within {
        None => None,
        Some(span) => Some(now.to_zoned(zone.clone()).checked_sub(*span).map_err(|error| {
            Error::Invalid(format!("the time span of --keep-within cannot be used: {error}"))
        })?),
    };
    let mut periods = [
        Period::new("hourly", rules.hourly, |time| time.strftime("%Y-%m-%d %H %z").to_string()),
        Period::new("daily", rules.daily, |time| time.strftime("%Y-%m-%d").to_string()),
        Period::new("weekly", rules.weekly, |time| time.strftime("%G-%V").to_string()),
        Period::new("monthly", rules.monthly, |time| time.strftime("%Y-%m").to_string()),
        Period::new("yearly", rules.yearly, |time| time.strftime("%Y").to_string()),
    ];
    let mut sorted: Vec<&SnapshotEntry> = entries.iter().collect();
    sorted.sort_by_key(|entry| std::cmp::Reverse((entry.created, entry.id)));
    let mut last_left = rules.last;
    let mut decisions = Vec::with_capacity(sorted.len());
    for entry in sorted {
        let mut reasons: Vec<String> = entry.holds.iter().map(|hold| format!("hold {}", hold.name)).collect();
        if entry.created > now {
            reasons.push("from the future".to_owned());
        } else {
            let time = entry.created.to_zoned(zone.clone());
            if last_left > 0 {
                last_left -= 1;
                reasons.push("last".to_owned());
            }
            for period in &mut periods {
                if period.keeps(&time) {
                    reasons.push(period.name.to_owned());
                }
            }
            if oldest_within.as_ref().is_some_and(|oldest| time >= *oldest) {
                reasons.push("within".to_owned());
            }
        }
        let tags = rules.tags.iter().filter(|tag| entry.tags.contains_key(*tag));
        reasons.extend(tags.map(|tag| format!("tag {tag}")));
        decisions.push(Decision { id: entry.id, created: entry.created, keep: !reasons.is_empty(), reasons });
    }
    Ok(decisions)
}

/// As [`plan_retention`], by writer: the rules count the snapshots of each writer for themselves, so that one who floods
/// an image cannot push those of another out. Newest first.
///
/// # Errors
/// As [`plan_retention`].
pub fn plan_by_writer(
    entries: &[(String, SnapshotEntry)],
    rules: &KeepRules,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<Decision>> {
    let mut writers: BTreeMap<&str, Vec<SnapshotEntry>> = BTreeMap::new();
    for (writer, entry) in entries {
        writers.entry(writer).or_default().push(entry.clone());
    }
    // Also where there is nothing to decide, no rule is an error.
    let mut decisions = plan_retention(&[], rules, now, zone)?;
    for entries in writers.values() {
        decisions.extend(plan_retention(entries, rules, now, zone)?);
    }
    decisions.sort_by_key(|decision| std::cmp::Reverse((decision.created, decision.id)));
    Ok(decisions)
}

/// One rule that keeps the newest of each period.
struct Period {
    name: &'static str,
    left: usize,
    seen: HashSet<String>,
    of: fn(&Zoned) -> String,
}

impl Period {
    fn new(name: &'static str, count: usize, of: fn(&Zoned) -> String) -> Self {
        Self { name, left: count, seen: HashSet::new(), of }
    }

    fn keeps(&mut self, time: &Zoned) -> bool {
        if self.left == 0 || !self.seen.insert((self.of)(time)) {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Hold;

    fn entry(number: u8, time: &str) -> SnapshotEntry {
        SnapshotEntry {
            id: SnapshotId([number; 32]),
            created: time.parse().unwrap(),
            virtual_size: 0,
            group: None,
            tags: Default::default(),
            holds: Vec::new(),
            origin: None,
        }
    }

    fn kept(entries: &[SnapshotEntry], rules: &KeepRules) -> Vec<u8> {
        let now = "2026-03-10T12:00:00Z".parse().unwrap();
        let decisions = plan_retention(entries, rules, now, &TimeZone::UTC).unwrap();
        decisions.iter().filter(|decision| decision.keep).map(|decision| decision.id.0[0]).collect()
    }

    fn days() -> Vec<SnapshotEntry> {
        vec![
            entry(1, "2025-12-31T23:00:00Z"),
            entry(2, "2026-02-01T00:00:00Z"),
            entry(3, "2026-03-08T10:00:00Z"),
            entry(4, "2026-03-09T10:00:00Z"),
            entry(5, "2026-03-09T11:10:00Z"),
            entry(6, "2026-03-09T11:50:00Z"),
        ]
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let rules = |change: fn(&mut KeepRules)| {
            let mut rules = KeepRules::default();
            change(&mut rules);
            rules
        };
        assert_eq!(kept(&days(), &rules(|r| r.last = 2)), [6, 5]);
        assert_eq!(kept(&days(), &rules(|r| r.hourly = 3)), [6, 4, 3]);
        assert_eq!(kept(&days(), &rules(|r| r.daily = 2)), [6, 3]);
        assert_eq!(kept(&days(), &rules(|r| r.weekly = 2)), [6, 3]);
        assert_eq!(kept(&days(), &rules(|r| r.monthly = 3)), [6, 2, 1]);
        assert_eq!(kept(&days(), &rules(|r| r.yearly = 9)), [6, 1]);
        assert_eq!(kept(&days(), &rules(|r| r.within = Some("2d".parse().unwrap()))), [6, 5, 4]);
    }

    #[test]
    fn holds_and_the_future_are_kept_and_cost_no_place() {
        let mut entries = days();
        entries[0].holds.push(Hold { name: "audit".into(), reason: String::new(), created: String::new() });
        entries.push(entry(9, "2027-01-01T00:00:00Z"));
        let rules = KeepRules { last: 1, ..KeepRules::default() };
        assert_eq!(kept(&entries, &rules), [9, 6, 1]);
    }

    #[test]
    fn a_writer_that_floods_an_image_pushes_out_its_own_snapshots_alone() {
        let mut entries: Vec<(String, SnapshotEntry)> =
            days().into_iter().map(|entry| ("honest".to_owned(), entry)).collect();
        for number in 100..200 {
            entries.push(("flood".to_owned(), entry(number, "2026-03-10T11:00:00Z")));
        }
        let rules = KeepRules { last: 2, ..KeepRules::default() };
        let now = "2026-03-10T12:00:00Z".parse().unwrap();
        let decisions = plan_by_writer(&entries, &rules, now, &TimeZone::UTC).unwrap();
        assert_eq!(decisions.len(), entries.len());
        let kept: Vec<u8> = decisions.iter().filter(|one| one.keep).map(|one| one.id.0[0]).collect();
        assert_eq!(kept, [199, 198, 6, 5]);
    }

    #[test]
    fn no_rule_is_an_error() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(plan_retention(&days(), &KeepRules::default(), now, &TimeZone::UTC).is_err());
    }
}
