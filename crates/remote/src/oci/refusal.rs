//! What OCI says when it does not do what was asked: `{"code": …, "message": …}`, or nothing at all after a HEAD.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::answer::Refusal;
use crate::http::Response;
use crate::time::parse_http_date;

/// How far apart clocks must be to be blamed. The service itself bears five minutes.
const SKEW_BLAMED: SignedDuration = SignedDuration::from_secs(60);

#[derive(Default, Deserialize)]
struct Words {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads a refusal that came at `now`, by the clock that dated the request. Clocks that differ are blamed for a 401.
#[must_use]
pub fn read(response: &Response, now: Timestamp) -> Refusal {
    let words: Words = serde_json::from_slice(&response.body).unwrap_or_default();
    let mut message = words.message;
    if response.status == 401 {
        let told = response.header("date").and_then(parse_http_date);
        if let Some(apart) = told.and_then(|told| difference(now.duration_since(told))) {
            message = format!("{message} ({apart}; set this machine's clock)");
        }
    }
    Refusal::of(response, words.code, message)
}

/// Words for a difference of clocks that matters.
fn difference(ahead: SignedDuration) -> Option<String> {
    let seconds = ahead.abs().as_secs();
    let way = if ahead.is_negative() { "behind" } else { "ahead of" };
    let span = format!("{} h {} min {} s", seconds / 3600, seconds / 60 % 60, seconds % 60);
    (ahead.abs() > SKEW_BLAMED).then(|| format!("this machine's clock is {span} {way} the service's"))
}

/// What a person can do.
pub(super) fn hint(refusal: &Refusal) -> Option<String> {
    let hint = match (refusal.status, refusal.code.as_str()) {
        (_, "BucketNotFound") => {
            "see that the bucket is spelt right, lies in this region, and that a policy lets your group manage objects in \
             it; OCI does not tell these apart. Make it with: oci os bucket create --name BUCKET --compartment-id OCID"
        }
        (_, "NamespaceNotFound") => "see that the namespace is the one that this prints: oci os ns get",
        (401, _) => {
            "see that the public key with this fingerprint is uploaded for this user, and that the profile names the \
             right tenancy"
        }
        (403, _) => "see that a policy lets your group manage objects in this bucket",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::difference;

    #[test]
    fn clocks_that_differ_too_much_are_blamed() {
        assert_eq!(difference(SignedDuration::from_secs(59)), None);
        let ahead = difference(SignedDuration::from_secs(3 * 3600 + 65)).unwrap();
        assert_eq!(ahead, "this machine's clock is 3 h 1 min 5 s ahead of the service's");
        assert!(difference(SignedDuration::from_secs(-7200)).unwrap().contains("2 h 0 min 0 s behind"));
    }
}
