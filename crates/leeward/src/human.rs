//! Numbers for people.

use std::time::Duration;

/// A count of bytes with three digits: `1.50 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A rate of bytes: `420 MiB/s`.
pub fn rate(count: u64, time: Duration) -> String {
    format!("{}/s", bytes((count as f64 / time.as_secs_f64().max(1e-6)) as u64))
}

/// A duration: `0.84 s`, `12.3 s`, `4 min 05 s`, `2 h 10 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = time.as_secs();
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// One count beside another: `3.2 : 1`, or a dash where there is nothing to compare.
pub fn ratio(whole: u64, part: u64) -> String {
    if part == 0 { "-".to_owned() } else { format!("{:.1} : 1", whole as f64 / part as f64) }
}

/// A size as people type it: `64K`, `32MiB`, `4096`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("{text:?} is not a size: use a number with K, M, G or T (powers of 1024)")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size: it has no number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_bytes("64K"), Ok(65536));
        assert_eq!(parse_bytes("32MiB"), Ok(32 << 20));
        assert_eq!(parse_bytes("1 GB"), Ok(1 << 30));
        assert_eq!(parse_bytes("7"), Ok(7));
        assert!(parse_bytes("x").is_err() && parse_bytes("5Q").is_err() && parse_bytes("99999999999T").is_err());
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1 << 30), "1.00 GiB");
        assert_eq!(bytes(1023), "1.00 KiB");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 05 s");
    }
}
