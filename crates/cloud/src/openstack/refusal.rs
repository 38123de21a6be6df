//! What a refusal means for the caller.

use leeward_remote::Refusal;

use crate::ErrorKind;

/// Sorts a refusal.
pub(super) fn kind(refusal: &Refusal) -> ErrorKind {
    match refusal.status {
        // Cinder's quotas, and Glance's and a proxy's largest upload; being asked too much as well, with a time to wait.
        413 if refusal.wait.is_some_and(|wait| !wait.is_zero()) => ErrorKind::Passing,
        413 | 507 => ErrorKind::Limit,
        403 if is_of_quota(&refusal.message) => ErrorKind::Limit,
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        409 | 412 => ErrorKind::Conflict,
        // "Invalid volume: Volume status must be available or error …": another state is needed.
        400 if refusal.message.starts_with("Invalid volume:") => ErrorKind::Conflict,
        408 | 429 | 500 | 502..=504 => ErrorKind::Passing,
        _ => ErrorKind::Refused,
    }
}

fn is_of_quota(message: &str) -> bool {
    message.to_ascii_lowercase().contains("quota")
}

/// What a person can do, where the service's own words do not say it.
pub(super) fn hint(refusal: &Refusal) -> Option<String> {
    let hint = match (kind(refusal), refusal.status) {
        (ErrorKind::Limit, _) => {
            "see: openstack quota show, and the largest image that the cloud takes; remove what is not needed, or ask for more"
        }
        (ErrorKind::Denied, 401) => "the token was refused, and a new one too",
        (ErrorKind::Denied, _) => {
            "see that the account has a role that may do this in its project (member, for instance)"
        }
        (ErrorKind::NotFound, _) => {
            "OpenStack answers so also for what is another project's: see the account's project and region"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leeward_remote::Refusal;

    use super::kind;
    use crate::ErrorKind;

    #[test]
    fn refusals_are_sorted_by_what_can_be_done() {
        let of = |status, message: &str, wait: Option<u64>| {
            kind(&Refusal {
                status,
                message: message.to_owned(),
                wait: wait.map(Duration::from_secs),
                ..Refusal::default()
            })
        };
        assert_eq!(of(413, "VolumeSizeExceedsAvailableQuota: 1 G", Some(0)), ErrorKind::Limit);
        assert_eq!(of(413, "", None), ErrorKind::Limit);
        assert_eq!(of(413, "too many requests", Some(3)), ErrorKind::Passing);
        assert_eq!(of(403, "Quota exceeded for volumes", None), ErrorKind::Limit);
        assert_eq!(of(403, "Policy doesn't allow it", None), ErrorKind::Denied);
        assert_eq!(of(400, "Availability zone 'nowhere' is invalid", None), ErrorKind::Refused);
        assert_eq!(of(400, "Invalid volume: Volume status must be available", None), ErrorKind::Conflict);
        assert_eq!(of(503, "", None), ErrorKind::Passing);
        assert_eq!(of(404, "", None), ErrorKind::NotFound);
    }
}
