//! The forms of time that services use.

use jiff::Timestamp;

/// `20260102T030405Z`.
pub(crate) fn compact(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// `Fri, 02 Jan 2026 03:04:05 GMT`.
pub(crate) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Reads the time of an HTTP header.
pub(crate) fn parse_http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::{compact, http_date, parse_http_date};

    #[test]
    fn times_come_back() {
        let time: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(compact(time), "20260102T030405Z");
        assert_eq!(http_date(time), "Fri, 02 Jan 2026 03:04:05 GMT");
        assert_eq!(parse_http_date("Fri, 02 Jan 2026 03:04:05 GMT"), Some(time));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
