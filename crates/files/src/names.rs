//! Names from inside of a disk, as people may see them.

use std::fmt::Write;

/// The name as it may go to a terminal: bytes that are no UTF-8, control characters and those that change the direction
/// of text become `\xNN` or `\u{NNNN}`, and `\` is doubled, so that no two names look alike.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                other if is_harmful(other) => {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(other));
                }
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(shown(b"plain name.txt"), "plain name.txt");
        assert_eq!(shown("Wörter".as_bytes()), "Wörter");
        assert_eq!(shown(b"\x1b[2J\n\\\xff"), "\\u{1b}[2J\\n\\\\\\xff");
        assert_eq!(shown("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }
}
