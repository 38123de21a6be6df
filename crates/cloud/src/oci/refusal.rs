//! What a refusal means for the caller.

use leeward_remote::Refusal;

use crate::ErrorKind;

/// Sorts a refusal.
pub(super) fn kind(refusal: &Refusal) -> ErrorKind {
    match refusal.status {
        _ if is_limit(&refusal.code) || has_no_room(refusal) => ErrorKind::Limit,
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        409 | 412 => ErrorKind::Conflict,
        408 | 429 | 500 | 502..=504 => ErrorKind::Passing,
        _ => ErrorKind::Refused,
    }
}

fn is_limit(code: &str) -> bool {
    ["LimitExceeded", "QuotaExceeded"].contains(&code)
}

/// An instance finds no room as an internal error, which would not pass if it were asked for again at once.
fn has_no_room(refusal: &Refusal) -> bool {
    let message = refusal.message.to_ascii_lowercase();
    refusal.code == "OutOfHostCapacity"
        || refusal.status >= 500
            && (message.contains("out of host capacity") || message.contains("out of capacity"))
}

/// What a person can do, where the service's own words do not say it.
pub(super) fn hint(refusal: &Refusal, of_identity: &str) -> Option<String> {
    let hint = match kind(refusal) {
        ErrorKind::Limit if has_no_room(refusal) => {
            "another availability domain or shape may have room, or a later hour"
        }
        ErrorKind::Limit => {
            "see Limits, Quotas and Usage in the console; remove what is not needed, or ask for more"
        }
        ErrorKind::Denied if refusal.status == 401 => of_identity,
        ErrorKind::Denied | ErrorKind::NotFound => {
            "OCI answers so also where a right is missing: see that it exists in this region and compartment, and the \
             policy statements in docs/providers.md"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use leeward_remote::Refusal;

    use super::{hint, kind};
    use crate::ErrorKind;

    #[test]
    fn refusals_are_sorted_by_what_can_be_done() {
        let of = |status, code: &str, message: &str| {
            kind(&Refusal {
                status,
                code: code.to_owned(),
                message: message.to_owned(),
                ..Refusal::default()
            })
        };
        assert_eq!(of(429, "TooManyRequests", ""), ErrorKind::Passing);
        assert_eq!(of(500, "InternalServerError", ""), ErrorKind::Passing);
        assert_eq!(of(503, "ServiceUnavailable", ""), ErrorKind::Passing);
        assert_eq!(of(500, "InternalError", "Out of host capacity."), ErrorKind::Limit);
        assert_eq!(of(400, "LimitExceeded", ""), ErrorKind::Limit);
        assert_eq!(of(400, "QuotaExceeded", ""), ErrorKind::Limit);
        assert_eq!(of(400, "InvalidParameter", "out of capacity"), ErrorKind::Refused);
        assert_eq!(of(401, "NotAuthenticated", ""), ErrorKind::Denied);
        assert_eq!(of(404, "NotAuthorizedOrNotFound", ""), ErrorKind::NotFound);
        assert_eq!(of(409, "IncorrectState", ""), ErrorKind::Conflict);
        assert_eq!(of(412, "NoEtagMatch", ""), ErrorKind::Conflict);
        assert_eq!(of(501, "MethodNotImplemented", ""), ErrorKind::Refused);
        let refusal = Refusal { status: 401, ..Refusal::default() };
        assert_eq!(hint(&refusal, "upload the key").as_deref(), Some("upload the key"));
    }
}
