//! Sizes and times for people, and sizes that people write.

use std::time::Duration;

/// `12.0 GiB`, `512 B`.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut shown = None;
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        shown = Some(unit);
    }
    match shown {
        None => format!("{bytes} B"),
        Some(unit) => format!("{value:.1} {unit}"),
    }
}

/// `7 s`, `3 min 20 s`, `2 h 5 min`.
pub fn show_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `0.84 s`, `12.3 s`, then as [`show_seconds`].
pub fn show_time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 10.0 => format!("{seconds:.2} s"),
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        _ => show_seconds(time.as_secs()),
    }
}

/// `420.0 MiB/s`.
pub fn show_rate(bytes: u64, time: Duration) -> String {
    format!("{}/s", show((bytes as f64 / time.as_secs_f64().max(1e-6)) as u64))
}

/// One count beside another: `3.2 : 1`, or a dash where there is nothing to compare.
pub fn show_ratio(whole: u64, part: u64) -> String {
    if part == 0 { "-".to_owned() } else { format!("{:.1} : 1", whole as f64 / part as f64) }
}

/// A number of bytes such as `65536`, `64K`, `64KiB` or `2M`.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        _ => None,
    };
    shift
        .zip(number.parse::<u64>().ok())
        .and_then(|(shift, number): (u32, u64)| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is not a size: write for example 65536, 64K or 2M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse("64K"), Ok(65536));
        assert_eq!(parse("64 KiB"), Ok(65536));
        assert_eq!(parse("2MB"), Ok(2 << 20));
        assert_eq!(parse("512"), Ok(512));
        assert!(parse("x").is_err() && parse("5y").is_err() && parse("99999999999T").is_err());
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(show(0), "0 B");
        assert_eq!(show(12 << 30), "12.0 GiB");
        assert_eq!(show(u64::MAX), "16.0 EiB");
        assert_eq!(show_seconds(200), "3 min 20 s");
    }
}
