//! Whether what people are told to run can be run.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

/// The words of a command that a text tells of, for each of them: behind a quote, a colon, or at the beginning of a line.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let starts = text.match_indices("leeward ").filter(|(at, _)| {
        let before = text[..*at].trim_end_matches("sudo ");
        ["`", "“", "\"", ": ", "\n", "$ "].iter().any(|mark| before.ends_with(mark))
    });
    let words = starts.map(|(at, name)| {
        let rest = &text[at + name.len()..];
        let end = rest.find(|byte: char| !(byte.is_ascii_lowercase() || byte == '-' || byte == ' '));
        let end = end.unwrap_or(rest.len());
        let whole = match rest[end..].starts_with(|byte: char| byte.is_alphanumeric() || byte == '_') {
            // The last word is none: it goes on with what no verb has.
            true => rest[..end].rfind(' ').unwrap_or(0),
            false => end,
        };
        rest[..whole].split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>()
    });
    words.filter(|words| !words.is_empty()).collect()
}

/// What is wrong with a command.
fn wrong(words: &[&str], root: &Command) -> Option<String> {
    let mut command = root;
    for word in words.iter().take_while(|word| !word.starts_with('-')) {
        match command.find_subcommand(word) {
            Some(found) => command = found,
            None if command.has_subcommands() && command.get_positionals().next().is_none() => {
                return Some(format!(
                    "leeward {}: {word} is no verb of {}",
                    words.join(" "),
                    command.get_name()
                ));
            }
            None => return None,
        }
    }
    None
}

fn texts(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), "tests" | "target" | "node_modules" | "vendor") {
            texts(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

#[test]
fn every_command_that_people_are_told_to_run_is_there() {
    let root = super::Arguments::command();
    assert!(wrong(&["runs", "log"], &root).is_some() && wrong(&["server", "token", "add"], &root).is_some());
    assert_eq!(
        commands("x: leeward run log {0}; “leeward show” leeward on v1"),
        [vec!["run", "log"], vec!["show"]]
    );
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec![top.join("README.md")];
    for (folder, ending) in [("crates", ".rs"), ("crates", ".toml"), ("ui/app", ".js"), ("docs", ".md")] {
        texts(&top.join(folder), &[ending], &mut files);
    }
    let (mut told, mut faults) = (0, Vec::new());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for words in commands(&text) {
            told += 1;
            faults.extend(wrong(&words, &root).map(|fault| format!("{}: {fault}", path.display())));
        }
    }
    assert!(told > 200, "only {told} commands are found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
