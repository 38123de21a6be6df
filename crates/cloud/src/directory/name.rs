//! Names of files, made of names from outside.

use crate::provider::Owner;

/// The longest part of a name that shows in a file's name, in characters.
const SHOWN_CHARS_MAX: usize = 80;
/// The longest id, in bytes.
const ID_BYTES_MAX: usize = 120;

/// The id of an owner's volume: what is plain of its name, so that people find it, and a digest of the owner, so that no
/// two are the same. `kind` says what has the id, so that folders and pools differ.
pub(crate) fn id(name: &str, kind: &str, owner: &Owner) -> String {
    let plain = |character: char| if is_plain(character) { character } else { '-' };
    let shown: String = name.chars().map(plain).take(SHOWN_CHARS_MAX).collect();
    let shown = shown.trim_start_matches(['.', '-']);
    let digest = digest(kind, owner);
    format!("{}-{}", if shown.is_empty() { "volume" } else { shown }, digest)
}

/// The end of the ids of an owner: 16 digits.
pub(crate) fn digest(kind: &str, owner: &Owner) -> String {
    let token = owner.token(kind, 0);
    token.as_str().trim_start_matches("leeward-").chars().take(16).collect()
}

/// The digest in an id that was made here.
pub(crate) fn digest_of(id: &str) -> Option<&str> {
    let digest = id.get(id.len().checked_sub(16)?..)?;
    let is_digest =
        digest.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.get(..id.len() - 16)?.ends_with('-');
    (is_id(id) && is_digest).then_some(digest)
}

/// Whether it can be an id that was made here; then it is also safe as the name of a file.
pub(crate) fn is_id(text: &str) -> bool {
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
    begins_well && text.len() <= ID_BYTES_MAX && text.chars().all(is_plain)
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::{digest, digest_of, id, is_id};
    use crate::provider::Owner;

    #[test]
    fn names_keep_their_dots_and_lose_what_is_dangerous() {
        let owner = Owner::new("r", "s");
        assert!(id("disk1.qcow2", "k", &owner).starts_with("disk1.qcow2-"));
        let hostile =
            ["", ".", "..", "../../etc/passwd", "a/b", "\0", "-rf", "ä\n\x1b[2J", &"x".repeat(9999), "_a"];
        for name in hostile {
            let id = id(name, "k", &owner);
            assert!(is_id(&id), "{name:?} became {id:?}");
        }
        assert_ne!(id("a", "k", &owner), id("a", "k", &Owner::new("r", "t")));
        assert_eq!(digest_of(&id("a", "k", &owner)), Some(digest("k", &owner).as_str()));
    }

    #[test]
    fn ids_that_were_not_made_here_are_known() {
        for wrong in ["", ".", "..", ".lock", "../a", "a/b", "a b", "-a", "ä"] {
            assert!(!is_id(wrong), "{wrong:?}");
        }
        assert!(!is_id(&"x".repeat(121)));
        for wrong in [
            "",
            "web-01",
            "-0123456789abcdef",
            "web0123456789abcdef",
            "web-0123456789abcdeg",
            "é0123456789abcde",
        ] {
            assert_eq!(digest_of(wrong), None, "{wrong:?}");
        }
    }
}
