//! Reports as comma-separated values (RFC 4180).

use super::{ImageReport, Report, ReportGroup};

/// A cell. What programs for tables would take for a formula begins with an apostrophe instead.
fn cell(text: &str) -> String {
    let text = match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

fn lines(rows: impl Iterator<Item = Vec<String>>) -> String {
    rows.map(|row| row.join(",") + "\r\n").collect()
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map(|seconds| format!("{seconds:.3}")).unwrap_or_default()
}

impl ReportGroup {
    fn row(&self) -> Vec<String> {
        let mut row = vec![cell(&self.kind), cell(self.schedule.as_deref().unwrap_or_default())];
        let counts = [
            self.begun,
            self.succeeded,
            self.partial,
            self.failed,
            self.cancelled,
            self.held,
            self.undo_failed,
            self.waiting,
            self.running,
            self.read_bytes,
            self.stored_bytes,
            self.written_bytes,
        ];
        row.extend(counts.iter().map(u64::to_string));
        row.extend([seconds(self.median_seconds), seconds(self.longest_seconds)]);
        row
    }
}

impl ImageReport {
    fn row(&self) -> Vec<String> {
        let Self { image, backups, stored_bytes, last, longest_gap_seconds, rpo_target_seconds, rpo_misses } =
            self;
        vec![
            cell(image),
            backups.to_string(),
            stored_bytes.to_string(),
            last.to_string(),
            longest_gap_seconds.to_string(),
            rpo_target_seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
            rpo_misses.map(|misses| misses.to_string()).unwrap_or_default(),
        ]
    }
}

impl Report {
    /// What became of runs by kind and schedule, as comma-separated values with a line of names.
    #[must_use]
    pub fn groups_csv(&self) -> String {
        let names = "kind,schedule,begun,succeeded,partial,failed,cancelled,held,undo_failed,waiting,running,\
             read_bytes,stored_bytes,written_bytes,median_seconds,longest_seconds\r\n";
        names.to_owned() + &lines(self.groups.iter().map(ReportGroup::row))
    }

    /// Backups by image, in the same way.
    #[must_use]
    pub fn images_csv(&self) -> String {
        let names = "image,backups,stored_bytes,last,longest_gap_seconds,rpo_target_seconds,rpo_misses\r\n";
        names.to_owned() + &lines(self.images.iter().map(ImageReport::row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_break_no_line_and_begin_no_formula() {
        for (text, expected) in [
            ("nightly", "nightly"),
            ("a,b", "\"a,b\""),
            ("say \"no\"\n", "\"say \"\"no\"\"\n\""),
            ("=1+1", "'=1+1"),
            ("-x,", "\"'-x,\""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }

    #[test]
    fn each_row_has_a_cell_for_each_name() {
        let group =
            ReportGroup { kind: "backup".to_owned(), median_seconds: Some(1.5), ..Default::default() };
        let at = jiff::Timestamp::UNIX_EPOCH;
        let image = ImageReport {
            image: "web/root".to_owned(),
            backups: 2,
            stored_bytes: 3,
            last: at,
            longest_gap_seconds: 4,
            rpo_target_seconds: Some(3),
            rpo_misses: Some(1),
        };
        let report = Report {
            from: at,
            to: at,
            since: at,
            complete: true,
            runs: 1,
            groups: vec![group],
            images: vec![image],
        };
        for text in [report.groups_csv(), report.images_csv()] {
            let counts: Vec<_> = text.split("\r\n").map(|line| line.matches(',').count()).collect();
            assert_eq!(counts.len(), 3, "{text}");
            assert_eq!((counts[0], counts[2]), (counts[1], 0), "{text}");
        }
    }
}
