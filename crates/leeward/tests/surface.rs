//! What programs rely on: exit codes, JSON on every verb, and errors that say what to do next.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{Bench, text};
use serde_json::Value;

fn has(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "no {field} in {value}");
    }
}

#[test]
fn every_verb_speaks_json() {
    let bench = Bench::new();
    let made = bench.succeeds(&["repo", "init", "--pack-size", "1M"]);
    has(made.value(), &["format_version", "repository_id", "chunk_bits", "pack_bytes"]);
    assert_eq!(bench.succeeds(&["repo", "info"]).value(), made.value());
    let disk = bench.disk("disk.raw", 8, 2, 1);
    let changed = bench.changed(&disk, "changed.raw", 2);
    let (disk, changed) = (disk.to_str().unwrap(), changed.to_str().unwrap());

    let planned = bench.succeeds(&["backup", disk, "web/root", "-n"]);
    has(planned.value(), &["dry_run", "virtual_size", "data_bytes"]);
    assert!(bench.succeeds(&["images"]).lines.is_empty());
    let first = bench.succeeds(&["backup", disk, "web/root", "--tag", "first"]);
    has(first.value(), &["image", "snapshot", "parents", "virtual_size", "statistics", "seconds"]);
    let second = bench.succeeds(&["backup", changed, "web/root"]);
    let (first, second) = (text(&first.value()["snapshot"]), text(&second.value()["snapshot"]));
    assert_eq!(bench.succeeds(&["images"]).value()["image"], "web/root");
    let log = bench.succeeds(&["log", "web/root"]).lines;
    let ids: Vec<String> = log.iter().map(|entry| text(&entry["id"])).collect();
    assert_eq!(ids, [second.clone(), first.clone()], "newest first");
    let shown = bench.succeeds(&["show", "web/root@first"]);
    assert_eq!(shown.value()["id"], first);
    has(&shown.value()["manifest"], &["root", "virtual_size", "source", "created"]);

    let difference = bench.run(&["diff", "web/root"]);
    assert_eq!(difference.code, 3);
    has(&difference.lines[0], &["offset", "length"]);
    assert_eq!(bench.succeeds(&["diff", "web/root", "web/root"]).lines.len(), 0);

    has(bench.succeeds(&["tag", "web/root", "good=yes"]).value(), &["id", "tags"]);
    has(bench.succeeds(&["hold", "web/root", "--reason", "audit"]).value(), &["id", "holds"]);
    let planned = bench.succeeds(&["forget", "web/root", "--keep-last", "1", "-n"]);
    assert_eq!(planned.lines.iter().filter(|line| line.get("decision").is_some()).count(), 2);
    has(bench.succeeds(&["release", "web/root"]).value(), &["id"]);

    let target = bench.path("out.raw");
    let target = target.to_str().unwrap();
    has(bench.succeeds(&["restore", "web/root", target, "-n"]).value(), &["dry_run", "virtual_size"]);
    let restored = bench.succeeds(&["restore", "web/root@first", target]);
    has(&restored.value()["restore"], &["virtual_size", "written_bytes"]);
    assert!(fs::read(target).unwrap() == fs::read(disk).unwrap());
    let onto = bench.succeeds(&["restore", "web/root", target, "--onto", "--verify"]);
    assert_eq!(onto.lines.len(), 2);
    assert!(fs::read(target).unwrap() == fs::read(changed).unwrap());
    assert_eq!(bench.succeeds(&["verify-restore", "web/root", target]).value()["equal"], true);
    let differs = bench.run(&["verify-restore", "web/root@first", target]);
    assert_eq!((differs.code, &differs.value()["equal"]), (3, &Value::Bool(false)));

    has(bench.succeeds(&["stats"]).value(), &["total", "images", "store_bytes"]);
    has(bench.succeeds(&["rebuild-index"]).value(), &["packs", "blobs", "unreadable"]);
    let forgotten = bench.succeeds(&["forget", "web/root@first"]);
    assert_eq!(forgotten.value()["forgotten"][0], first);
    has(&bench.succeeds(&["collect", "-n"]).value()["collect"], &["unused_packs", "unused_bytes"]);
    has(&bench.succeeds(&["collect"]).value()["collect"], &["deleted_bytes", "waits_for"]);
    has(bench.succeeds(&["check", "--read-data"]).value(), &["snapshots", "packs", "findings"]);
    has(bench.succeeds(&["disk", "info", disk]).value(), &["format", "virtual_size"]);
}

#[test]
fn exit_codes_tell_what_went_wrong_and_a_hint_what_to_do() {
    let bench = Bench::new();
    bench.fails(&["images"], 7);
    bench.succeeds(&["repo", "init", "--pack-size", "1M"]);
    bench.fails(&["repo", "init"], 2);
    let disk = bench.disk("disk.raw", 8, 2, 1);
    let name = disk.to_str().unwrap();
    bench.fails(&["backup", "/does/not/exist", "a"], 6);
    bench.fails(&["log", "nothing"], 7);
    bench.succeeds(&["backup", name, "a"]);
    bench.fails(&["show", "a@~5"], 7);
    bench.fails(&["restore", "a", name], 5);
    bench.fails(&["forget", "a"], 2);
    bench.fails(&["tag", "a"], 2);
    bench.fails(&["collect", "--max-unused", "200"], 2);
    bench.succeeds(&["hold", "a", "--reason", "audit"]);
    bench.fails(&["forget", "a@latest"], 5);
    bench.fails(&["hold", "a"], 2);
    bench.fails(&["release", "a", "--name", "other"], 2);
    // Wrong arguments are told by the parser, with its own usage text.
    for wrong in [&["backup", name, "../a"][..], &["restore", "a@"], &["no-such-verb"], &[]] {
        let outcome = bench.command(wrong).output().unwrap();
        assert_eq!(outcome.status.code(), Some(2), "{wrong:?}");
        assert!(!outcome.stderr.is_empty());
    }
    let other = bench.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "x").unwrap();
    bench.fails(&["-r", other.to_str().unwrap(), "repo", "init"], 5);
    let lost = bench.fails(&["-r", bench.path("no/such").to_str().unwrap(), "repo", "init"], 6);
    assert!(lost.stderr.contains("create that one first"), "{}", lost.stderr);
}

#[test]
fn damage_has_a_code_of_its_own() {
    let bench = Bench::with_repository();
    let disk = bench.disk("disk.raw", 8, 4, 1);
    bench.succeeds(&["backup", disk.to_str().unwrap(), "a"]);
    for entry in fs::read_dir(bench.repository().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[80] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let check = bench.run(&["check", "--read-data"]);
    assert_eq!(check.code, 4);
    let findings = check.value()["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| text(&finding["object"]).starts_with("packs/")));
    assert!(findings.iter().any(|finding| !finding["touches"].as_array().unwrap().is_empty()));
    let target = bench.path("out.raw");
    bench.fails(&["restore", "a", target.to_str().unwrap()], 4);
    assert!(!target.exists(), "a failed restore leaves no file");
}

#[test]
fn snapshots_named_together_are_all_found_before_any_is_forgotten() {
    let bench = Bench::with_repository();
    let mut disk = bench.disk("0.raw", 4, 1, 1);
    let mut ids = Vec::new();
    for number in 1..=4 {
        disk = bench.changed(&disk, &format!("{number}.raw"), number);
        ids.push(text(&bench.succeeds(&["backup", disk.to_str().unwrap(), "a"]).value()["snapshot"]));
    }
    bench.fails(&["forget", "a@latest", "a@~9"], 7);
    assert_eq!(bench.published().len(), 4, "nothing is forgotten when one of them is not there");
    // The two newest, not the newest and the one before the one before.
    bench.succeeds(&["forget", "a@latest", "a@~1"]);
    let left: Vec<String> = bench.published().into_iter().map(|(_, id)| id).collect();
    assert_eq!(left, [ids[1].clone(), ids[0].clone()]);
}
