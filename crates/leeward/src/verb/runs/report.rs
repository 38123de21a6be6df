//! `leeward run report`: what became of runs, as tables.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use jiff::civil::Date;
use leeward_api::client::SiteClient;
use leeward_remote::encode::component;
use leeward_site::{Report, ReportGroup};

use crate::failure::{Code, Failure};
use crate::output::{Output, printable};
use crate::place_of_site::failure;
use crate::size;

/// Which runs.
#[derive(Args)]
pub struct ReportArguments {
    /// Those begun at this time or later, as 2026-11-01 or 2026-11-01T12:00:00Z [default: 30 days before the end]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// Those begun before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    /// Only those of this kind, as in backup
    #[arg(long)]
    kind: Option<String>,
}

/// A time, or the beginning of a day in UTC.
fn moment(text: &str) -> Result<Timestamp, String> {
    let wrong = |error: jiff::Error| format!("{text:?} is neither a day, as 2026-11-01, nor a time: {error}");
    match text.parse::<Date>() {
        Ok(day) if !text.contains(['T', 't', ' ']) => {
            day.to_zoned(jiff::tz::TimeZone::UTC).map(|start| start.timestamp()).map_err(wrong)
        }
        _ => text.parse().map_err(wrong),
    }
}

/// Runs the verb.
pub fn report(
    client: &SiteClient,
    arguments: &ReportArguments,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if let (Some(from), Some(to)) = (arguments.from, arguments.to)
        && from >= to
    {
        return Err(Failure::new(Code::Usage, format!("--from {from} is not before --to {to}")));
    }
    let query = [
        ("from", arguments.from.map(|time| time.to_string())),
        ("to", arguments.to.map(|time| time.to_string())),
        ("kind", arguments.kind.clone()),
    ];
    let given =
        query.iter().filter_map(|(name, value)| Some(format!("{name}={}", component(value.as_ref()?))));
    let query: Vec<_> = given.collect();
    let report: Report = client.get(&format!("/v1/reports?{}", query.join("&"))).map_err(failure)?;
    if output.is_json() {
        output.json_line(&report);
    }
    lines(&report).iter().for_each(|line| output.line(line));
    Ok(ExitCode::SUCCESS)
}

fn lines(report: &Report) -> Vec<String> {
    let day = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let mut lines = vec![format!("{} runs, from {} to {}", report.runs, day(report.from), day(report.to))];
    if !report.complete {
        lines.push(format!("There were too many: only those since {} are counted", day(report.since)));
    } else if report.since > report.from {
        lines.push(format!("What ended before {} may be forgotten", day(report.since)));
    }
    if report.groups.is_empty() {
        return lines;
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<10} {:<16} {:>6} {:>6} {:>7} {:>6} {:>9} {:>5} {:>7} {:>7}  {:>10} {:>10}  {:>9} {:>9}",
        "KIND",
        "SCHEDULE",
        "BEGUN",
        "GOOD",
        "PARTIAL",
        "FAILED",
        "CANCELLED",
        "HELD",
        "WAITING",
        "RUNNING",
        "STORED",
        "WRITTEN",
        "MEDIAN",
        "LONGEST"
    ));
    lines.extend(report.groups.iter().map(group));
    if !report.images.is_empty() {
        lines.push(String::new());
        let (gap, rpo, last) = ("LONGEST GAP", "OVER RPO", "LAST");
        lines.push(format!("{:<32} {:>8} {:>10}  {gap:>12} {rpo:>9}  {last}", "IMAGE", "BACKUPS", "STORED"));
    }
    for image in &report.images {
        lines.push(format!(
            "{:<32} {:>8} {:>10}  {:>12} {:>9}  {}",
            printable(&image.image),
            image.backups,
            size::show(image.stored_bytes),
            time(Some(image.longest_gap_seconds as f64)),
            image.rpo_misses.map_or("-".to_owned(), |misses| misses.to_string()),
            day(image.last)
        ));
    }
    lines
}

fn group(group: &ReportGroup) -> String {
    format!(
        "{:<10} {:<16} {:>6} {:>6} {:>7} {:>6} {:>9} {:>5} {:>7} {:>7}  {:>10} {:>10}  {:>9} {:>9}",
        printable(&group.kind),
        printable(group.schedule.as_deref().unwrap_or("-")),
        group.begun,
        group.succeeded,
        group.partial,
        group.failed + group.undo_failed,
        group.cancelled,
        group.held,
        group.waiting,
        group.running,
        size::show(group.stored_bytes),
        size::show(group.written_bytes),
        time(group.median_seconds),
        time(group.longest_seconds)
    )
}

/// A length of time, coarse as people say it.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 120.0 => format!("{seconds:.1} s"),
        Some(seconds) if seconds < 2.0 * 3600.0 => format!("{:.1} min", seconds / 60.0),
        Some(seconds) if seconds < 48.0 * 3600.0 => format!("{:.1} h", seconds / 3600.0),
        Some(seconds) => format!("{:.1} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_the_beginning_of_a_day() {
        for (text, expected) in [
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2026-11-01T12:30:00Z", "2026-11-01T12:30:00Z"),
            ("2026-11-01T12:30:00+02:00", "2026-11-01T10:30:00Z"),
        ] {
            assert_eq!(moment(text).map(|time| time.to_string()).as_deref(), Ok(expected), "{text}");
        }
        assert!(moment("yesterday").is_err());
        assert!(moment("2026-11-01T12:30:00").is_err(), "whose noon?");
    }
}
