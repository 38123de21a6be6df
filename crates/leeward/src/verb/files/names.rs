//! Names from inside of a disk: how they are shown, and which may be written.

pub use leeward_files::shown;

/// Why a name must not be written, if so. A name in a directory is one part of a path and nothing else.
pub fn refused(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("its name is empty"),
        b"." | b".." => Some("its name leads out of its directory"),
        _ if name.contains(&b'/') => Some("its name holds a slash"),
        _ if name.contains(&0) => Some("its name holds a zero byte"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_written() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert!(refused(name).is_some(), "{name:?}");
        }
        assert_eq!(refused(b"..."), None);
        assert_eq!(refused(b"\xff\n"), None);
    }
}
