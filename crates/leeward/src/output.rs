//! How results are shown: text for people, JSON for programs, progress on a terminal only.

use std::io::{IsTerminal, Write};

use clap::Args;
use serde::Serialize;

/// Options of every verb that concern what is printed.
#[derive(Args, Debug, Clone, Default)]
pub struct OutputArguments {
    /// Print results as JSON, one value per line.
    #[arg(long, global = true)]
    json: bool,
    /// Print no progress, even on a terminal.
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// Where results go.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    progress: bool,
}

impl Output {
    /// Output as the arguments and the terminal have it.
    pub fn new(arguments: &OutputArguments) -> Self {
        Self { json: arguments.json, progress: !arguments.quiet && std::io::stderr().is_terminal() }
    }

    /// Whether JSON is asked for.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether progress is to be shown.
    pub fn shows_progress(&self) -> bool {
        self.progress
    }

    /// Prints one JSON value on a line. A closed pipe ends the output, not the work.
    pub fn json_line(&self, value: &impl Serialize) {
        let mut out = std::io::stdout().lock();
        if serde_json::to_writer(&mut out, value).is_ok() {
            let _ = out.write_all(b"\n");
        }
    }

    /// Prints a line of text, unless JSON is asked for. A closed pipe ends the output, not the work.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
        }
    }
}

/// Text from outside, for people: control characters, which could rule the terminal, are written as escapes, and what is
/// very long is cut.
pub fn printable(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    let mut shown = String::new();
    for (number, character) in text.chars().enumerate() {
        if number == CHARACTERS_MAX {
            shown.push('…');
            break;
        }
        // Those that turn the direction of text around deceive as well.
        let deceives = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || deceives {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}
