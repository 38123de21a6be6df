//! Names of users' objects.

use leeward_store::{Error, Result};

/// The longest name, in bytes: what all services take.
const LENGTH_MAX: usize = 1024;

/// Refuses a name that is none, or that a library on the way would turn into another: `.` and `..` are taken out of
/// addresses before they are sent, and file systems follow them.
///
/// # Errors
/// What is wrong with it.
pub fn check(store: &str, name: &str) -> Result<()> {
    let what = if name.is_empty() || name.len() > LENGTH_MAX {
        "a name has 1 to 1024 bytes"
    } else if name.chars().any(char::is_control) {
        "it has control characters"
    } else if name.starts_with('/') || name.ends_with('/') || name.split('/').any(is_special) {
        "it has a part that is empty, . or .."
    } else if name.contains('\\') {
        "it has a backslash"
    } else {
        return Ok(());
    };
    Err(Error::Unsupported {
        store: store.to_owned(),
        what: format!(
            "the object's name {:?} is not used: {what}; give the object another name",
            shortened(name)
        ),
    })
}

fn is_special(part: &str) -> bool {
    part.is_empty() || part == "." || part == ".." || is_encoded_dots(part)
}

/// `%2e%2e`, which an address means as `..`.
fn is_encoded_dots(part: &str) -> bool {
    let plain = part.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in ["disk.qcow2", "a/b c/ü.raw", "..a", "a..b/c", "%2f", "-x", "a/.hidden", "$(id);`x`'\""]
        {
            check("s", good).unwrap();
        }
        let long = "x".repeat(1025);
        for bad in
            ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a/%2E./b", "%2e%2e", "a\nb", "a\0", "a\\b", &long]
        {
            assert!(check("s", bad).is_err(), "{bad:?}");
        }
    }
}
