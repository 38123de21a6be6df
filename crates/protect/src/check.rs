//! Checks within a budget: what was read longest ago is read first.

use std::path::Path;
use std::time::Duration;

use leeward_repository::{Budget, CheckOutcome, Control, Repository, TurnReport, VerifiedRecord};

use crate::{Result, size};

/// What a check within a budget saw.
#[derive(Debug)]
pub struct Turn {
    /// What it saw.
    pub outcome: CheckOutcome,
    /// How far the reading of all packs in turn has come.
    pub report: TurnReport,
}

/// Checks, and reads so much of what was read longest ago. Which that is stands in the file `record`; where that cannot be
/// used, `flaw` is told, and the turn starts anew.
///
/// # Errors
/// The repository or the file fails, or the work is cancelled. Also what was verified until then counts.
pub fn in_turn(
    repository: &Repository,
    record: &Path,
    budget: Budget,
    control: &dyn Control,
    flaw: &mut dyn FnMut(&str),
) -> Result<Turn> {
    let (mut verified, found) = VerifiedRecord::load(record, repository)?;
    if let Some(found) = &found {
        flaw(found);
    }
    let result = repository.check_in_turn(&mut verified, budget, jiff::Timestamp::now(), control);
    let saved = verified.save(record);
    let (outcome, report) = result?;
    match saved {
        // What was found is worth more than the turn.
        Err(error) if !outcome.findings.is_empty() => {
            flaw(&format!("what was verified cannot be kept: {}", leeward_store::with_causes(&error)));
        }
        saved => saved?,
    }
    Ok(Turn { outcome, report })
}

/// `10GiB`, `30min`, `2h`, `90s`, or one of each with a comma or a bar between them.
///
/// # Errors
/// It is no budget; in words.
pub fn parse_budget(text: &str) -> Result<Budget, String> {
    let mut budget = Budget::default();
    for part in text.split([',', '|']) {
        match parse_time(part) {
            Some(time) if budget.time.is_none() => budget.time = Some(time),
            None if budget.bytes.is_none() => budget.bytes = Some(size::parse(part)?),
            _ => return Err(format!("{text:?} gives two of a kind: give a size, a time, or one of each")),
        }
    }
    Ok(budget)
}

fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_as_people_write_them() {
        let budget =
            |bytes, seconds: Option<u64>| Ok(Budget { bytes, time: seconds.map(Duration::from_secs) });
        assert_eq!(parse_budget("10GiB"), budget(Some(10 << 30), None));
        assert_eq!(parse_budget("30min"), budget(None, Some(1800)));
        assert_eq!(parse_budget("1T,2h"), budget(Some(1 << 40), Some(7200)));
        assert_eq!(parse_budget("90s|512"), budget(Some(512), Some(90)));
        for bad in ["", "1G,2G", "1h,2h", "soon", "10 parsecs"] {
            assert!(parse_budget(bad).is_err(), "{bad:?}");
        }
    }
}
