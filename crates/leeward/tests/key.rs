//! `leeward key` and encrypted repositories from the command line: what opens, what does not, and what is never shown.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Bench, Outcome, outcome, text};

/// A bench with a key pair in a file and a repository that it opens.
struct Safe {
    bench: Bench,
    key: String,
}

impl Safe {
    fn new() -> Self {
        let bench = Bench::new();
        let key = generate(&bench, "owner.key").0;
        bench.succeeds(&["repo", "init", "--pack-size", "1M", "--encrypt", "--key", &key]);
        Self { bench, key }
    }

    /// Runs the command with the owner's key.
    fn succeeds(&self, arguments: &[&str]) -> Outcome {
        self.bench.succeeds(&[&["--key", &self.key], arguments].concat())
    }

    fn fails(&self, arguments: &[&str], code: i32) -> Outcome {
        self.bench.fails(&[&["--key", &self.key], arguments].concat(), code)
    }

    /// A key that was added with these options.
    fn added(&self, name: &str, options: &[&str]) -> String {
        let (file, public) = generate(&self.bench, &format!("{name}.key"));
        self.succeeds(&[&["key", "add", "--name", name, "--recipient", &public], options].concat());
        file
    }
}

/// A new key pair: its file, and the public key.
fn generate(bench: &Bench, name: &str) -> (String, String) {
    let file = bench.path(name).to_str().unwrap().to_owned();
    let made = bench.succeeds(&["key", "generate", &file]);
    let secret = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let digits = secret.lines().last().unwrap();
    assert!(digits.starts_with("LWSK1-") && !made.stdout.contains(digits), "the secret stays in the file");
    (file, text(&made.value()["public_key"]))
}

/// Runs the command with variables in its environment.
fn with_environment(bench: &Bench, variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = bench.command(arguments);
    command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    outcome(command.spawn().unwrap(), arguments)
}

#[test]
fn an_encrypted_repository_is_backed_up_and_restored_with_its_key_alone() {
    let safe = Safe::new();
    let disk = safe.bench.disk("disk.raw", 8, 3, 1);
    let name = disk.to_str().unwrap();
    safe.succeeds(&["backup", name, "web/root"]);
    let target = safe.bench.path("out.raw");
    safe.succeeds(&["restore", "web/root", target.to_str().unwrap()]);
    assert!(fs::read(&target).unwrap() == fs::read(&disk).unwrap());
    safe.succeeds(&["check", "--read-data"]);
    let info = safe.succeeds(&["repo", "info"]);
    assert_eq!(info.value()["features_required"][0], "encryption-1");
    assert_eq!((&info.value()["encrypted"], &info.value()["access"]), (&true.into(), &"full".into()));
    // What the listing of keys calls the repository is what --fingerprint takes.
    let fingerprint = text(&info.value()["fingerprint"]);
    assert_eq!(safe.succeeds(&["key", "list"]).lines[0]["fingerprint"], fingerprint.as_str());
    safe.succeeds(&["images", "--fingerprint", &fingerprint]);
    safe.fails(&["repo", "init", "--encrypt"], 2);

    // Without a key, with another one, and where it says that nothing is encrypted.
    let (other, _) = generate(&safe.bench, "other.key");
    safe.bench.fails(&["images"], 9);
    safe.bench.fails(&["images", "--key", &other], 9);
    safe.bench.fails(&["images", "--key", "/does/not/exist"], 2);
    let plain = safe.bench.path("plain");
    let plain = plain.to_str().unwrap();
    safe.bench.succeeds(&["repo", "init", "-r", plain]);
    safe.fails(&["images", "-r", plain], 5);
    safe.fails(&["repo", "init", "-r", safe.bench.path("unencrypted").to_str().unwrap()], 2);

    // Anybody who holds the objects checks every byte.
    let check = safe.bench.succeeds(&["check", "--without-keys", "--read-data"]);
    assert!(check.value()["read_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(check.value()["not_checked"].as_array().unwrap().len(), 1);
    let pack = fs::read_dir(safe.bench.repository().join("packs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[200] ^= 1;
    fs::write(&pack, bytes).unwrap();
    assert_eq!(safe.bench.run(&["check", "--without-keys", "--read-data"]).code, 4);
}

#[test]
fn a_passphrase_comes_from_a_file_the_environment_or_a_command() {
    let bench = Bench::new();
    let (right, wrong) = (bench.path("right"), bench.path("wrong"));
    fs::write(&right, "correct horse battery\n").unwrap();
    fs::write(&wrong, "correct house battery\n").unwrap();
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    bench.succeeds(&["repo", "init", "--encrypt", "--passphrase-file", right]);
    bench.succeeds(&["images", "--passphrase-file", right]);
    let told = bench.fails(&["images", "--passphrase-file", wrong], 9);
    assert!(!told.stderr.contains("house") && !told.stdout.contains("house"));
    let command = format!("cat {right}");
    bench.succeeds(&["images", "--passphrase-command", &command]);
    bench.fails(&["images", "--passphrase-command", "exit 3"], 2);
    for (variable, value, code) in [
        ("LEEWARD_PASSPHRASE_FILE", right, 0),
        ("LEEWARD_PASSPHRASE_COMMAND", command.as_str(), 0),
        ("LEEWARD_PASSPHRASE", "correct horse battery", 0),
        ("LEEWARD_PASSPHRASE", "correct house battery", 9),
    ] {
        assert_eq!(with_environment(&bench, &[(variable, value)], &["images"]).code, code, "{variable}");
    }
    // What is given as an option goes before the environment.
    let both = with_environment(
        &bench,
        &[("LEEWARD_PASSPHRASE_FILE", wrong)],
        &["images", "--passphrase-file", right],
    );
    assert_eq!(both.code, 0);
}

#[test]
fn keys_are_added_listed_and_removed() {
    let safe = Safe::new();
    let alice = safe.added("alice", &[]);
    safe.added("web-01", &["--write-only"]);
    let listed = safe.succeeds(&["key", "list"]).lines;
    let names: Vec<String> = listed.iter().map(|key| text(&key["name"])).collect();
    assert_eq!(names, ["first", "alice", "web-01"]);
    assert_eq!(listed[2]["access"], "write-only");
    safe.bench.succeeds(&["images", "--key", &alice]);
    assert_eq!(safe.succeeds(&["key", "remove", "alice"]).value()["name"], "alice");
    safe.bench.fails(&["images", "--key", &alice], 9);
    safe.fails(&["key", "remove", "first"], 2);
    safe.fails(&["key", "remove", "nobody"], 2);
    let owner = safe.bench.path("owner.key");
    safe.fails(&["key", "generate", owner.to_str().unwrap()], 5);
    let outcome = safe.bench.command(&["key", "add", "--recipient", "LWPK1-0000"]).output().unwrap();
    assert_eq!(outcome.status.code(), Some(2), "a public key that was mistyped");
}

#[test]
fn a_write_only_key_backs_up_and_every_verb_that_reads_chunks_says_so_before_it_writes() {
    let safe = Safe::new();
    let writer = safe.added("web-01", &["--write-only"]);
    let run = |arguments: &[&str]| safe.bench.run(&[&["--key", &writer], arguments].concat());
    let disk = safe.bench.disk("disk.raw", 8, 3, 1);
    let changed = safe.bench.changed(&disk, "changed.raw", 2);
    let (name, changed) = (disk.to_str().unwrap(), changed.to_str().unwrap());
    for source in [name, changed] {
        assert_eq!(run(&["backup", source, "web"]).code, 0);
    }
    let target = safe.bench.path("out.raw");
    let out = target.to_str().unwrap();
    let mount = safe.bench.path("mount");
    fs::create_dir(&mount).unwrap();
    for refused in [
        &["restore", "web", out][..],
        &["files", "web"],
        &["export", "web", "-l", "127.0.0.1:0", "--read-only"],
        &["mount", mount.to_str().unwrap()],
        &["key", "add", "--recipient", &generate(&safe.bench, "x.key").1],
        &["key", "remove", "web-01"],
    ] {
        let outcome = run(refused);
        assert_eq!(outcome.code, 9, "{refused:?}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains("key") && outcome.stderr.contains("hint"), "{}", outcome.stderr);
    }
    assert!(!target.exists());
    for (allowed, code) in [
        (&["images"][..], 0),
        (&["log", "web"], 0),
        (&["show", "web"], 0),
        (&["stats"], 0),
        (&["diff", "web"], 3),
        (&["verify-restore", "web", changed, "-f", "raw"], 0),
        (&["verify-restore", "web", name, "-f", "raw"], 3),
        (&["check", "--read-data"], 0),
        (&["tag", "web", "a=b"], 0),
        (&["collect"], 0),
        (&["repo", "info"], 0),
        (&["key", "list"], 0),
    ] {
        let outcome = run(allowed);
        assert_eq!(outcome.code, code, "{allowed:?}: {}{}", outcome.stdout, outcome.stderr);
    }
    safe.succeeds(&["restore", "web@~1", out]);
    assert!(fs::read(&target).unwrap() == fs::read(&disk).unwrap());
}

#[test]
fn a_recovery_key_opens_the_repository_and_is_written_to_a_file_or_a_terminal_only() {
    let safe = Safe::new();
    let sheet = safe.bench.path("sheet.txt");
    let sheet = sheet.to_str().unwrap();
    let told = safe.succeeds(&["key", "recovery", "--output", sheet]);
    let written = fs::read_to_string(sheet).unwrap();
    let secret = written.lines().find(|line| line.starts_with("LWSK1-")).unwrap();
    assert!(!told.stdout.contains(secret) && !told.stderr.contains(secret));
    assert_eq!(fs::metadata(sheet).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(written.contains('█') || written.contains('▀'), "there is a QR code");
    // As a person types it, and the sheet as it is.
    let typed = safe.bench.path("typed");
    fs::write(&typed, secret.to_lowercase().replace('-', " ")).unwrap();
    for file in [typed.to_str().unwrap(), sheet] {
        safe.bench.succeeds(&["images", "--key", file]);
    }
    fs::write(&typed, secret.replacen("LWSK1-", "LWSK1-Z", 1)).unwrap();
    safe.bench.fails(&["images", "--key", typed.to_str().unwrap()], 2);
    // Its output goes to a pipe here, and nothing is added.
    safe.fails(&["key", "recovery"], 5);
    safe.fails(&["key", "recovery", "--output", sheet], 5);
    assert_eq!(safe.succeeds(&["key", "list"]).lines.len(), 2);
    let (again, place) = (safe.bench.path("again.txt"), safe.bench.path("second"));
    let option = format!("--recovery-key={}", again.display());
    safe.succeeds(&["repo", "init", "-r", place.to_str().unwrap(), "--encrypt", &option]);
    safe.bench.succeeds(&["images", "-r", place.to_str().unwrap(), "--key", again.to_str().unwrap()]);
}

#[test]
fn a_pinned_fingerprint_keeps_other_repositories_out() {
    let safe = Safe::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
    let shown = command
        .args(["key", "list", "--key", &safe.key, "-r"])
        .arg(safe.bench.repository())
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let fingerprint = shown.lines().find_map(|line| line.strip_prefix("fingerprint ")).unwrap();
    safe.succeeds(&["images", "--fingerprint", fingerprint]);
    let other: String = fingerprint.chars().rev().collect();
    safe.fails(&["images", "--fingerprint", &other], 5);
}

/// Runs the command on a terminal and answers what it asks; what the terminal showed.
fn on_a_terminal(bench: &Bench, arguments: &[&str], answers: &[(&str, &str)]) -> Option<(bool, String)> {
    let line = format!("{} {}", env!("CARGO_BIN_EXE_leeward"), arguments.join(" "));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("LEEWARD_REPO", bench.repository());
    let Ok(mut child) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        println!("SKIPPED: script (util-linux) is not here");
        return None;
    };
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    let mut byte = [0];
    let mut answers = answers.iter();
    let mut next = answers.next();
    // Each answer when its question is there: what is typed before that is thrown away, as it would be shown.
    while output.read(&mut byte).unwrap() == 1 {
        shown.push(byte[0]);
        if let Some((question, answer)) = next
            && shown.ends_with(question.as_bytes())
        {
            writeln!(input, "{answer}").unwrap();
            next = answers.next();
        }
    }
    Some((child.wait().unwrap().success(), String::from_utf8(shown).unwrap()))
}

#[test]
fn a_passphrase_is_asked_for_on_a_terminal_and_not_shown() {
    let bench = Bench::new();
    let init = ["repo", "init", "--encrypt", "--recovery-key"];
    let asked = [("new repository: ", "correct horse"), ("same again: ", "correct horse")];
    let Some((made, shown)) = on_a_terminal(&bench, &init, &asked) else { return };
    assert!(made && !shown.contains("horse"), "{shown}");
    let recovery = shown.lines().map(str::trim).find(|line| line.starts_with("LWSK1-")).unwrap();
    let file = bench.path("typed");
    fs::write(&file, recovery).unwrap();
    bench.succeeds(&["images", "--key", file.to_str().unwrap()]);
    let (opened, shown) = on_a_terminal(&bench, &["repo", "info"], &[(": ", "correct horse")]).unwrap();
    assert!(opened && !shown.contains("horse") && shown.contains("AES-256-GCM"), "{shown}");
    let (opened, shown) = on_a_terminal(&bench, &["repo", "info"], &[(": ", "wrong")]).unwrap();
    assert!(!opened && shown.contains("does not open this repository"), "{shown}");
    let elsewhere = bench.path("elsewhere");
    let elsewhere = ["-r", elsewhere.to_str().unwrap(), "repo", "init", "--encrypt"];
    let asked = [("new repository: ", "one"), ("same again: ", "other")];
    let (made, shown) = on_a_terminal(&bench, &elsewhere, &asked).unwrap();
    assert!(!made && shown.contains("differ"), "{shown}");
}

#[test]
fn a_process_that_holds_a_secret_writes_no_core_dump() {
    let bench = Bench::new();
    let file = bench.path("passphrase");
    fs::write(&file, "correct horse\n").unwrap();
    let (file, seen) = (file.to_str().unwrap(), bench.path("limit"));
    bench.succeeds(&["repo", "init", "--encrypt", "--passphrase-file", file]);
    // The command is started with the limit of the process that asks.
    let line = format!(
        "ulimit -S -c $(ulimit -H -c); ulimit -c > {seen}.before; exec {leeward} images -r {repository} \
         --passphrase-command 'ulimit -c > {seen}; cat {file}'",
        seen = seen.display(),
        leeward = env!("CARGO_BIN_EXE_leeward"),
        repository = bench.repository().display(),
    );
    assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
    let limit = |path: &Path| fs::read_to_string(path).unwrap().trim().to_owned();
    if limit(&bench.path("limit.before")) == "0" {
        println!("SKIPPED: this system allows no core dumps at all");
        return;
    }
    assert_eq!(limit(&seen), "0");
}
