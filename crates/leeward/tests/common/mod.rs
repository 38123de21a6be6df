//! What the tests of the command share: the real binary, a real directory, and disks in files.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

pub mod domain;
pub mod machine;
pub mod server;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use leeward_store::simulation::Random;
use serde_json::Value;

pub const MIB: u64 = 1 << 20;

/// A repository in a directory of its own, and room for disks beside it.
pub struct Bench {
    directory: tempfile::TempDir,
}

/// What a run of the command came to.
pub struct Outcome {
    pub code: i32,
    pub lines: Vec<Value>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The only value that was printed.
    pub fn value(&self) -> &Value {
        assert_eq!(self.lines.len(), 1, "{}", self.stdout);
        &self.lines[0]
    }
}

impl Bench {
    /// An empty bench.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// A bench with a repository of small packs.
    pub fn with_repository() -> Self {
        let bench = Self::new();
        bench.succeeds(&["repo", "init", "--pack-size", "1M"]);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory in which everything is.
    pub fn root(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
        command.arg("--json").args(arguments).env("LEEWARD_REPO", self.repository()).stdin(Stdio::null());
        command.env("LEEWARD_CACHE_DIR", self.path("cache"));
        command
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the command with `--json`; every line that it prints must be JSON.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(self.start(arguments), arguments)
    }

    pub fn succeeds(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// Runs the command, which must fail with this code, a message and a hint.
    pub fn fails(&self, arguments: &[&str], code: i32) -> Outcome {
        let outcome = self.run(arguments);
        let told = format!("{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.code, code, "{told}");
        let value = outcome.lines.last().unwrap_or_else(|| panic!("{told}"));
        assert_eq!(value["code"], code, "{told}");
        assert!(value["error"].as_str().is_some_and(|text| text.len() > 10), "{told}");
        assert!(value["hint"].as_str().is_some_and(|text| text.len() > 10), "no hint: {told}");
        assert!(outcome.stderr.starts_with("leeward: ") && outcome.stderr.contains("hint: "), "{told}");
        outcome
    }

    /// Asserts that nothing is damaged.
    pub fn is_sound(&self, context: &str) {
        let outcome = self.run(&["check", "--read-data"]);
        assert_eq!(outcome.code, 0, "{context}: {}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.value()["findings"], Value::Array(vec![]), "{context}");
    }

    /// All published snapshots, as image and digest.
    pub fn published(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for image in self.succeeds(&["images"]).lines {
            let name = text(&image["image"]);
            for entry in self.succeeds(&["log", &name]).lines {
                found.push((name.clone(), text(&entry["id"])));
            }
        }
        found
    }

    /// Asserts that a snapshot is the disk that its manifest says it was made from.
    pub fn equals_its_source(&self, image: &str, id: &str, context: &str) {
        let spec = format!("{image}@{id}");
        let location = text(&self.succeeds(&["show", &spec]).value()["manifest"]["source"]["location"]);
        let outcome = self.run(&["verify-restore", &spec, &location, "-f", "raw"]);
        assert_eq!(outcome.code, 0, "{context}: {spec}: {}{}", outcome.stdout, outcome.stderr);
    }

    /// Restores a snapshot and compares every byte with the disk that it was made from.
    pub fn restores(&self, image: &str, id: &str, context: &str) {
        let spec = format!("{image}@{id}");
        let location = text(&self.succeeds(&["show", &spec]).value()["manifest"]["source"]["location"]);
        let target = self.path("restored.raw");
        let outcome = self.run(&["restore", &spec, target.to_str().unwrap(), "--force", "--no-sync"]);
        assert_eq!(outcome.code, 0, "{context}: {spec}: {}{}", outcome.stdout, outcome.stderr);
        assert!(std::fs::read(&target).unwrap() == std::fs::read(&location).unwrap(), "{context}: {spec}");
        std::fs::remove_file(target).unwrap();
    }

    /// A disk of so many MiB: mostly holes, with noise, text and zeros that were written.
    pub fn disk(&self, name: &str, size: u64, data: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(size * MIB).unwrap();
        scribble(&file, size, data * 4, seed);
        path
    }

    /// A copy of a disk after some writes.
    pub fn changed(&self, from: &Path, name: &str, seed: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::copy(from, &path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let size = file.metadata().unwrap().len() / MIB;
        scribble(&file, size, 8, seed);
        path
    }
}

/// Writes so many pieces of 256 KiB somewhere.
fn scribble(file: &File, size: u64, pieces: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut piece = vec![0; 256 << 10];
    for _ in 0..pieces {
        match random.below(5) {
            0 => piece.fill(0),
            1 => piece.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 1000) as u8),
            _ => random.fill(&mut piece),
        }
        file.write_all_at(&piece, random.below(size * 4) * (256 << 10)).unwrap();
    }
}

pub fn outcome(child: Child, arguments: &[&str]) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"))
        })
        .collect();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Outcome { code: output.status.code().unwrap_or(-1), lines, stdout, stderr }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
