//! push, pull, clone, sync, seed and the graph of snapshots, with the real binary.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{Bench, text};
use serde_json::Value;

/// A repository with two snapshots of an image and one of another, and the place of a second one.
fn site() -> (Bench, Vec<String>, String) {
    let bench = Bench::with_repository();
    let disk = bench.disk("disk.raw", 16, 6, 1);
    let changed = bench.changed(&disk, "changed.raw", 2);
    let other = bench.disk("other.raw", 8, 2, 3);
    let ids = [(&disk, "web/root"), (&changed, "web/root"), (&other, "db/data")].map(|(disk, image)| {
        text(&bench.succeeds(&["backup", disk.to_str().unwrap(), image]).value()["snapshot"])
    });
    let second = bench.path("second").to_str().unwrap().to_owned();
    (bench, ids.to_vec(), second)
}

fn sent(value: &Value) -> Vec<String> {
    value["transfer"]["snapshots"].as_array().unwrap().iter().map(|sent| text(&sent["snapshot"])).collect()
}

/// Restores a snapshot from a repository and compares it with the disk that it was made from.
fn restores(bench: &Bench, repository: &str, spec: &str, disk: &Path) {
    let target = bench.path("restored.raw");
    bench.succeeds(&["-r", repository, "restore", spec, target.to_str().unwrap(), "--no-sync"]);
    assert!(fs::read(&target).unwrap() == fs::read(disk).unwrap(), "{spec}");
    fs::remove_file(target).unwrap();
}

fn is_sound(bench: &Bench, repository: &str) {
    let check = bench.succeeds(&["-r", repository, "check", "--read-data"]);
    assert_eq!(check.value()["findings"], Value::Array(vec![]));
}

#[test]
fn push_and_pull_send_what_is_lacking_and_nothing_twice() {
    let (bench, ids, second) = site();
    bench.succeeds(&["-r", &second, "repo", "init", "--pack-size", "1M"]);
    let planned = bench.succeeds(&["push", "-n", "web/root@~1", &second]);
    assert_eq!(planned.value()["dry_run"], true);
    assert!(bench.succeeds(&["-r", &second, "images"]).lines.is_empty(), "a dry run sends nothing");
    let pushed = bench.succeeds(&["push", "web/root@~1", &second, "--verify", "--limit", "1G"]);
    assert_eq!(sent(pushed.value()), ids[..1]);
    let (planned, stored) = (
        planned.value()["estimate"]["bytes"].as_f64().unwrap(),
        pushed.value()["transfer"]["stored_bytes"].as_f64().unwrap(),
    );
    assert!((0.9..1.1).contains(&(planned / stored)), "{planned} planned, {stored} stored");
    let first = bench.repository().display().to_string();
    let pulled = bench.succeeds(&["-r", &second, "pull", "web/root", "db/data", &first]);
    assert_eq!(sent(pulled.value()), ids[1..]);
    let again = bench.succeeds(&["push", "--all", &second]);
    assert!(sent(again.value()).is_empty());
    assert_eq!(again.value()["transfer"]["present"], 3);
    for side in ["from", "to"] {
        let traffic = &again.value()["traffic"][side];
        assert!(traffic["total"]["received_bytes"].as_u64().unwrap() < 50_000);
        assert!(traffic["by_class"].get("index").is_none() && traffic["by_class"].get("packs").is_none());
    }
    restores(&bench, &second, "web/root", &bench.path("changed.raw"));
    restores(&bench, &second, &format!("web/root@{}", ids[0]), &bench.path("disk.raw"));
    restores(&bench, &second, "db/data", &bench.path("other.raw"));
    is_sound(&bench, &second);
    bench.fails(&["push", &second], 2);
    bench.fails(&["push", "--all", "web/root", &second], 2);
    bench.fails(&["push", "nothing", &second], 7);
    bench.fails(&["push", "web/root@~7", &second], 7);
    bench.fails(&["push", "--all", &first], 2);
    bench.fails(&["push", "--all", bench.path("missing").to_str().unwrap()], 7);
}

#[test]
fn a_clone_has_the_same_settings_and_goes_on() {
    let (bench, ids, second) = site();
    let first = bench.repository().display().to_string();
    let planned = bench.succeeds(&["clone", "-n", &first, &second]);
    assert_eq!(planned.value()["estimate"]["snapshots"].as_array().unwrap().len(), 3);
    assert!(!Path::new(&second).exists());
    assert_eq!(sent(bench.succeeds(&["clone", &first, &second]).value()), ids);
    let config = |location: &str| bench.succeeds(&["-r", location, "repo", "info"]).value().clone();
    for name in ["chunk_bits", "pack_bytes", "zstd_level"] {
        assert_eq!(config(&first)[name], config(&second)[name]);
    }
    let more = bench.changed(&bench.path("changed.raw"), "more.raw", 9);
    let id = text(&bench.succeeds(&["backup", more.to_str().unwrap(), "web/root"]).value()["snapshot"]);
    assert_eq!(sent(bench.succeeds(&["clone", &first, &second]).value()), [id]);
    is_sound(&bench, &second);
    let other = bench.path("other-settings");
    let other = other.to_str().unwrap();
    bench.succeeds(&["-r", other, "repo", "init", "--chunk-size", "128K"]);
    bench.fails(&["clone", &first, other], 5);
    // A push names everything anew, once.
    assert_eq!(sent(bench.succeeds(&["push", "--all", other]).value()).len(), 4);
    assert!(sent(bench.succeeds(&["push", "--all", other]).value()).is_empty());
    restores(&bench, other, "web/root", &more);
}

#[test]
fn sync_forgets_what_was_forgotten_and_nothing_else() {
    let (bench, ids, second) = site();
    bench.succeeds(&["-r", &second, "repo", "init", "--pack-size", "1M"]);
    let filtered = bench.succeeds(&["sync", &second, "--filter", "web*"]);
    assert_eq!(sent(filtered.value()), ids[..2]);
    assert_eq!(sent(bench.succeeds(&["sync", &second]).value()), ids[2..]);
    bench.succeeds(&["forget", &format!("web/root@{}", ids[0])]);
    let kept = bench.succeeds(&["sync", &second, "--delete-not"]);
    assert_eq!(kept.lines.len(), 1);
    let planned = bench.succeeds(&["sync", &second, "-n"]);
    assert_eq!(
        (&planned.lines[1]["snapshot"], &planned.lines[1]["forgotten"]),
        (&Value::from(ids[0].clone()), &Value::Bool(false))
    );
    bench.succeeds(&["-r", &second, "hold", &format!("web/root@{}", ids[0]), "--reason", "audit"]);
    let held = bench.succeeds(&["sync", &second]);
    assert!(text(&held.lines[1]["kept_because"]).contains("audit"));
    bench.succeeds(&["-r", &second, "release", &format!("web/root@{}", ids[0])]);
    assert_eq!(bench.succeeds(&["sync", &second]).lines[1]["forgotten"], true);
    let left = bench.succeeds(&["-r", &second, "log", "web/root"]).lines;
    assert_eq!(left.len(), 1);
    assert_eq!(bench.succeeds(&["sync", &second]).lines.len(), 1, "nothing is left to forget");
    is_sound(&bench, &second);
}

#[test]
fn a_seed_travels_on_a_disk() {
    let (bench, ids, second) = site();
    bench.succeeds(&["-r", &second, "repo", "init", "--pack-size", "1M"]);
    let seed = bench.path("seed");
    let place = seed.to_str().unwrap();
    bench.fails(&["-r", &second, "seed", "import", place], 7);
    assert_eq!(sent(bench.succeeds(&["seed", "export", place, "web/root"]).value()), ids[..2]);
    let manifest: Value = serde_json::from_slice(&fs::read(seed.join("seed.json")).unwrap()).unwrap();
    assert_eq!(manifest["snapshots"].as_array().unwrap().len(), 2);
    // An export that was not finished is not taken for one that was.
    fs::rename(seed.join("seed.json"), seed.join("aside")).unwrap();
    bench.fails(&["-r", &second, "seed", "import", place], 7);
    fs::rename(seed.join("aside"), seed.join("seed.json")).unwrap();
    assert_eq!(sent(bench.succeeds(&["-r", &second, "seed", "import", place]).value()), ids[..2]);
    assert!(sent(bench.succeeds(&["-r", &second, "seed", "import", place]).value()).is_empty());
    is_sound(&bench, &second);
    // From here on the network is enough, and what is forgotten at the first site is known to come from there.
    assert_eq!(sent(bench.succeeds(&["sync", &second]).value()), ids[2..]);
    // A seed that was damaged on its way is noticed, and what is sound is taken over.
    let third = bench.path("third");
    let third = third.to_str().unwrap();
    bench.succeeds(&["-r", third, "repo", "init", "--pack-size", "1M"]);
    for entry in fs::read_dir(seed.join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[90] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let refused = bench.run(&["-r", third, "seed", "import", place]);
    assert_eq!(refused.code, 4, "{}{}", refused.stdout, refused.stderr);
    assert_eq!(refused.value()["transfer"]["refused"].as_array().unwrap().len(), 2);
    is_sound(&bench, third);
}

#[test]
fn a_seed_is_followed_by_sync_whatever_verb_took_it_over_and_what_came_from_elsewhere_is_told() {
    let (bench, ids, second) = site();
    let seed = bench.path("seed");
    let place = seed.to_str().unwrap();
    // What would travel is told without a seed, and nothing is made.
    let planned = bench.succeeds(&["seed", "export", "-n", place, "web/root"]);
    assert_eq!(planned.value()["estimate"]["snapshots"].as_array().unwrap().len(), 2);
    assert!(planned.value()["estimate"]["bytes"].as_u64().unwrap() > 1 << 20 && !seed.exists());
    bench.succeeds(&["seed", "export", place, "--all"]);
    let third = bench.path("third").to_str().unwrap().to_owned();
    let fourth = bench.path("fourth").to_str().unwrap().to_owned();
    for repository in [&second, &third, &fourth] {
        bench.succeeds(&["-r", repository, "repo", "init", "--pack-size", "1M"]);
    }
    bench.succeeds(&["-r", &second, "seed", "import", place]);
    bench.succeeds(&["-r", &third, "pull", "--all", place]);
    // The fourth has its copies from the third, which is not the first's to forget.
    bench.succeeds(&["-r", &third, "push", "--all", &fourth]);
    bench.succeeds(&["forget", &format!("web/root@{}", ids[0])]);
    for repository in [&second, &third] {
        let synced = bench.succeeds(&["sync", repository]);
        assert_eq!(synced.lines[1]["forgotten"], true, "{repository}: {}", synced.stdout);
        assert_eq!(bench.succeeds(&["-r", repository, "log", "web/root"]).lines.len(), 1);
    }
    let synced = bench.succeeds(&["sync", &fourth]);
    let origin = text(&bench.succeeds(&["-r", &third, "repo", "info"]).value()["repository_id"]);
    assert_eq!(synced.lines[1]["kept_from_repository"], origin.as_str(), "{}", synced.stdout);
    assert_eq!(synced.lines[1]["snapshots"], 1);
    assert_eq!(bench.succeeds(&["-r", &fourth, "log", "web/root"]).lines.len(), 2);
}

#[test]
fn the_graph_shows_two_heads_after_backups_at_two_sites() {
    let (bench, ids, second) = site();
    let first = bench.repository().display().to_string();
    bench.succeeds(&["clone", &first, &second]);
    let disks = ["east.raw", "west.raw"].map(|name| {
        bench.changed(&bench.path("changed.raw"), name, name.len() as u64 + u64::from(name.as_bytes()[0]))
    });
    let backup = |repository: &str, disk: &Path| {
        text(
            &bench.succeeds(&["-r", repository, "backup", disk.to_str().unwrap(), "web/root"]).value()["snapshot"],
        )
    };
    let heads = [backup(&first, &disks[0]), backup(&second, &disks[1])];
    bench.succeeds(&["push", "web/root", &second]);
    bench.succeeds(&["pull", "web/root", &second]);
    for repository in [&first, &second] {
        let lines = bench.succeeds(&["-r", repository, "log", "--graph", "web/root"]).lines;
        let found: Vec<String> =
            lines.iter().filter(|line| line["head"] == true).map(|line| text(&line["id"])).collect();
        assert_eq!(found, [heads[1].clone(), heads[0].clone()]);
        assert_eq!(lines[0]["parents"][0], Value::from(ids[1].clone()));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_leeward"));
        let drawn = command.args(["-r", repository, "log", "--graph", "web/root"]).output().unwrap();
        let drawn = String::from_utf8(drawn.stdout).unwrap();
        let columns: Vec<&str> =
            drawn.lines().map(|line| line.split(|c: char| c.is_ascii_hexdigit()).next().unwrap()).collect();
        assert_eq!(columns, ["* ", "| * ", "|/", "* ", "* "]);
        assert_eq!(
            bench.succeeds(&["-r", repository, "show", "web/root"]).value()["id"],
            heads[1],
            "the newest by time"
        );
    }
}
