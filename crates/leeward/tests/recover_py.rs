//! The repository without the product: `tests/recover.py`, written by `docs/format.md` alone, gives back what was backed up.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use common::{Bench, text};

const LIBRARIES: [&str; 4] =
    ["blake3==1.0.11", "zstandard==0.25.0", "cryptography==50.0.2", "argon2-cffi==25.1.0"];

/// A Python that has the libraries, or why there is none. Made once, under the target directory.
static PYTHON: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recover-venv");
    let python = place.join("bin/python");
    let works = |python: &Path| {
        let libraries = "import argon2, blake3, cryptography, zstandard";
        Command::new(python).args(["-c", libraries]).output().is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2"];
    run(Command::new(&python).args(quiet).args(LIBRARIES))?;
    if works(&python) { Ok(python) } else { Err("the libraries do not load".to_owned()) }
});

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

/// Runs a script; none when there is no Python for it.
fn script(name: &str, arguments: &[&str]) -> Option<Output> {
    let python = match &*PYTHON {
        Ok(python) => python,
        Err(why) => {
            println!("SKIPPED: Python with {LIBRARIES:?} is not to be had: {why}");
            return None;
        }
    };
    let mut command = Command::new(python);
    command.arg(scripts().join(name)).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command.output().unwrap())
}

/// Backs two states of a disk up, and compares what the script makes of them.
fn compare(bench: &Bench, keys: &[&str]) {
    let with_keys = |arguments: &[&str]| bench.succeeds(&[arguments, keys].concat());
    let first = bench.disk("first.raw", 24, 6, 1);
    let second = bench.changed(&first, "second.raw", 2);
    let mut ids = Vec::new();
    for disk in [&first, &second] {
        let made = with_keys(&["backup", disk.to_str().unwrap(), "web/root"]);
        ids.push(text(&made.value()["snapshot"]));
    }
    let repository = bench.repository();
    let place = repository.to_str().unwrap();
    let Some(listed) = script("recover.py", &[&[place], keys].concat()) else { return };
    let shown = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(ids.iter().all(|id| shown.contains(&format!("web/root@{id} "))), "{shown}");
    let target = bench.path("recovered.raw");
    let out = target.to_str().unwrap();
    for (spec, disk) in [(format!("web/root@{}", &ids[0][..12]), &first), ("web/root".to_owned(), &second)] {
        let restored = script("recover.py", &[&[place, &spec, out], keys].concat()).unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        assert!(fs::read(&target).unwrap() == fs::read(disk).unwrap(), "{spec}");
    }
}

#[test]
fn a_script_restores_by_the_document_alone() {
    compare(&Bench::with_repository(), &[]);
}

#[test]
fn a_script_restores_an_encrypted_repository_with_a_key_file() {
    let bench = Bench::new();
    let key = bench.path("key");
    let key = key.to_str().unwrap();
    bench.succeeds(&["key", "generate", key]);
    bench.succeeds(&["repo", "init", "--pack-size", "1M", "--encrypt", "--key", key]);
    compare(&bench, &["--key", key]);
    let other = bench.path("other");
    bench.succeeds(&["key", "generate", other.to_str().unwrap()]);
    let arguments =
        [bench.repository().to_str().unwrap(), "--key", other.to_str().unwrap()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(refused) = script("recover.py", &arguments) else { return };
    assert!(!refused.status.success());
}

#[test]
fn a_script_restores_an_encrypted_repository_with_a_passphrase() {
    let bench = Bench::new();
    let file = bench.path("passphrase");
    fs::write(&file, "Straße 42, 3. Stock\n").unwrap();
    let file = file.to_str().unwrap();
    bench.succeeds(&["repo", "init", "--pack-size", "1M", "--encrypt", "--passphrase-file", file]);
    compare(&bench, &["--passphrase-file", file]);
}

#[test]
fn the_test_vectors_are_those_that_the_document_gives() {
    let Some(computed) = script("vectors.py", &[]) else { return };
    assert!(computed.status.success(), "{}", String::from_utf8_lossy(&computed.stderr));
    let kept = fs::read(scripts().join("vectors.json")).unwrap();
    assert!(computed.stdout == kept, "tests/vectors.json is not what tests/vectors.py prints");
}
