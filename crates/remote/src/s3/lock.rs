//! Object Lock: how S3 writes the lock of an object.
//!
//! A lock belongs to a version of an object, and these requests speak of the present one. Deleting the object without naming
//! a version, and replacing it, put something in front of that version and leave it: see `crate::past` for how to get at it.

use std::time::SystemTime;

use jiff::Timestamp;
use leeward_store::{Lock, LockMode};

use crate::http::Response;

/// The lock that the answer to a look at an object tells, if it has not ended.
pub(super) fn told(response: &Response) -> Option<Lock> {
    let mode = match response.header("x-amz-object-lock-mode")?.to_ascii_uppercase().as_str() {
        "GOVERNANCE" => LockMode::Governance,
        "COMPLIANCE" => LockMode::Compliance,
        _ => return None,
    };
    let until: Timestamp = response.header("x-amz-object-lock-retain-until-date")?.parse().ok()?;
    Some(Lock { mode, until: SystemTime::from(until) })
}

/// The document that asks for a lock, to the second; `None` for a time that no calendar has.
pub(super) fn document(lock: Lock) -> Option<String> {
    let mode = lock.mode.name().to_ascii_uppercase();
    let until = Timestamp::try_from(lock.until).ok()?.strftime("%Y-%m-%dT%H:%M:%SZ");
    Some(format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
         <RetainUntilDate>{until}</RetainUntilDate></Retention>"
    ))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use leeward_store::{Lock, LockMode};

    use super::{document, told};
    use crate::http::{HeaderMap, Response};

    fn answer(headers: &[(&'static str, &str)]) -> Response {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Response { status: 200, headers: map, body: Vec::new() }
    }

    #[test]
    fn a_lock_is_written_and_read() {
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let lock = Lock { mode: LockMode::Compliance, until };
        let text = document(lock).unwrap();
        assert!(text.contains("<Mode>COMPLIANCE</Mode><RetainUntilDate>2027-01-15T08:00:00Z</"), "{text}");
        for time in ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00.000Z"] {
            let headers =
                [("x-amz-object-lock-mode", "COMPLIANCE"), ("x-amz-object-lock-retain-until-date", time)];
            assert_eq!(told(&answer(&headers)), Some(lock));
        }
    }

    #[test]
    fn what_tells_no_lock_is_none() {
        assert_eq!(told(&answer(&[])), None);
        assert_eq!(told(&answer(&[("x-amz-object-lock-mode", "GOVERNANCE")])), None);
        let odd = [
            ("x-amz-object-lock-mode", "OFF"),
            ("x-amz-object-lock-retain-until-date", "2027-01-15T08:00:00Z"),
        ];
        assert_eq!(told(&answer(&odd)), None);
    }
}
