//! Restores by a site: a snapshot of its repository becomes a volume of a target, byte for byte.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, LEEWARD, assert_holds, disk, image};
use super::oci::{Bed, assert_holds_sparsely};

/// A verb against the repository of a daemon.
pub fn repository(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(LEEWARD).arg("-r").arg(daemon.path("repository")).args(arguments).output().unwrap()
}

pub fn succeeds(done: Output) -> Vec<Value> {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = done.stdout.split(|byte| *byte == b'\n').filter(|line| line.first() == Some(&b'{'));
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

pub const REPOSITORY: &str = "\n[repository]\nlocation = 'repository'\n";

/// A daemon with an empty repository; leases are short, as it is killed.
pub fn site(change: impl Fn(String) -> String) -> Daemon {
    let mut daemon = Daemon::new(|text| {
        change(format!("{text}{REPOSITORY}")).replace("lease_seconds = 30", "lease_seconds = 5")
    });
    succeeds(repository(&daemon, &["repo", "init", "--pack-size", "1M"]));
    daemon.up();
    daemon
}

/// Backs a disk up; returns the whole digest of the snapshot.
pub fn back_up(daemon: &Daemon, path: &Path, name: &str) -> String {
    succeeds(repository(daemon, &["backup", path.to_str().unwrap(), name]));
    let logged = succeeds(repository(daemon, &["log", name, "--json"]));
    logged[0]["id"].as_str().unwrap_or_else(|| panic!("{logged:#?}")).to_owned()
}

fn holds(daemon: &Daemon, name: &str) -> usize {
    let logged = succeeds(repository(daemon, &["log", name, "--json"]));
    logged.iter().map(|entry| entry["holds"].as_array().map_or(0, Vec::len)).sum()
}

fn begin(daemon: &Daemon, body: &Value) -> String {
    let answer = daemon.post("/v1/restores", body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let answer = answer.json();
    assert_eq!(answer["new"], true);
    answer["run"].as_str().unwrap().to_owned()
}

pub fn state_of(run: &Value, step: &str) -> String {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|found| found["name"] == step).unwrap()["state"].as_str().unwrap().to_owned()
}

fn until_step(daemon: &Daemon, run: &str, step: &str, wanted: &[&str]) {
    let end = Instant::now() + Duration::from_secs(120);
    while !wanted.contains(&state_of(&daemon.run(run), step).as_str()) {
        assert!(Instant::now() < end, "{:#}", daemon.run(run));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_snapshot_becomes_a_volume_and_is_held_meanwhile() {
    let daemon = site(|text| text);
    let raw = daemon.path("web.raw");
    disk(&raw, (96 << 20) + 512, 31);
    let first = back_up(&daemon, &raw, "web-01/root");
    let before = daemon.path("before.raw");
    std::fs::copy(&raw, &before).unwrap();
    std::fs::File::options().write(true).open(&raw).unwrap().write_all_at(b"changed", 5 << 20).unwrap();
    let second = back_up(&daemon, &raw, "web-01/root");
    assert_ne!(first, second);

    // What would be done, by the verb and by the route.
    let asked = json!({"image": "web-01/root", "target": "volumes", "dry_run": true});
    let answer = daemon.post("/v1/restores", &asked);
    assert_eq!((answer.status, answer.json()["run"].clone()), (200, Value::Null));
    assert_eq!(answer.json()["snapshot"], second);
    let would = daemon.leeward(&["restore", "web-01/root@~1", "--target", "volumes", "-n", "--json"]);
    assert_eq!(succeeds(would)[0]["snapshot"], first);
    assert!(daemon.get("/v1/runs").json()["runs"].as_array().unwrap().is_empty());

    // The last one by the verb, the one before by the route with a name.
    let done = daemon.leeward(&["restore", "web-01/root", "--target", "volumes", "--wait"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let body = json!({"image": "web-01/root", "snapshot": first, "target": "volumes", "name": "old.raw"});
    let run = begin(&daemon, &body);
    let ended = daemon.until(&run, &["succeeded", "held", "failed"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_eq!((&ended["plan"]["kind"], &ended["inputs"]["snapshot"]), (&json!("restore"), &json!(first)));
    let volumes = daemon.volumes();
    assert_eq!(volumes.len(), 2, "{volumes:?}");
    let named = |part: &str| volumes.iter().find(|path| path.to_str().unwrap().contains(part)).unwrap();
    assert_holds(named("web-01-root"), &raw);
    assert_holds(named("old.raw"), &before);
    assert_eq!(holds(&daemon, "web-01/root"), 0, "it is let go at the end");

    // What is not there, and what makes no sense.
    for (body, status) in [
        (json!({"image": "web-01/none", "target": "volumes"}), 404),
        (json!({"image": "web-01/root", "target": "none"}), 404),
        (json!({"image": "web-01/root", "snapshot": "0123456789", "target": "volumes"}), 404),
        (json!({"image": "../root", "target": "volumes"}), 400),
        (json!({"image": "web-01/root", "snapshot": "", "target": "volumes"}), 404),
        (json!({"image": "web-01/root", "target": "volumes", "more": 1}), 400),
    ] {
        let answer = daemon.post("/v1/restores", &body);
        assert_eq!(answer.status, status, "{body}: {}", String::from_utf8_lossy(&answer.body));
    }
}

#[test]
fn content_that_looks_like_an_image_is_restored_as_it_is() {
    let daemon = site(|text| text);
    let (raw, inner) = (daemon.path("inner.raw"), daemon.path("inner.qcow2"));
    disk(&raw, 16 << 20, 5);
    image(&raw, &inner, "qcow2", &[]);
    succeeds(repository(&daemon, &["backup", "-f", "raw", inner.to_str().unwrap(), "nested"]));
    let run = begin(&daemon, &json!({"image": "nested", "target": "volumes"}));
    daemon.until(&run, &["succeeded"]);
    assert_holds(&daemon.volumes()[0], &inner);
}

#[test]
fn an_empty_terabyte_costs_what_its_data_costs() {
    let daemon = site(|text| text);
    let raw = daemon.path("large.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(1 << 40).unwrap();
    let data: Vec<u8> = (0..8_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    for offset in [0, 300 << 30, (1 << 40) - (8 << 20)] {
        file.write_all_at(&data, offset).unwrap();
    }
    back_up(&daemon, &raw, "large");
    let read_before = daemon.read_bytes();
    let run = begin(&daemon, &json!({"image": "large", "target": "volumes"}));
    let ended = daemon.until(&run, &["succeeded", "held", "failed"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let read = daemon.read_bytes() - read_before;
    println!("read {} MiB for 24 MiB of data, peak {} MiB", read >> 20, daemon.peak_bytes() >> 20);
    assert!(read < 512 << 20, "{read} bytes were read for 24 MiB");
    assert!(daemon.peak_bytes() < 256 << 20, "{} bytes of memory", daemon.peak_bytes());
    let volume = std::fs::File::open(&daemon.volumes()[0]).unwrap();
    let metadata = volume.metadata().unwrap();
    let stored = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(metadata.len() >= 1 << 40 && stored < 64 << 20, "{stored} bytes on the medium");
    for offset in [0, 300 << 30, (1 << 40) - (8 << 20)] {
        let mut found = vec![0; data.len()];
        volume.read_exact_at(&mut found, offset).unwrap();
        assert!(found == data, "at {offset}");
    }
}

#[test]
fn killed_on_the_way_it_goes_on_and_a_cancelled_one_leaves_nothing() {
    let slow = "#limit_bytes_per_second = 100000000";
    let mut daemon = site(|text| {
        assert!(text.contains(slow));
        text.replace(slow, "limit_bytes_per_second = 3000000")
    });
    let raw = daemon.path("web.raw");
    disk(&raw, 256 << 20, 37);
    let id = back_up(&daemon, &raw, "web");
    let run = begin(&daemon, &json!({"image": "web", "target": "volumes"}));
    until_step(&daemon, &run, "hold_snapshot", &["done", "succeeded"]);
    let spec = format!("web@{id}");
    let refused = repository(&daemon, &["forget", &spec]);
    assert!(!refused.status.success(), "it is held");
    for step in ["get_file_head", "create_block_volume", "write_image_to_bv", "write_image_to_bv"] {
        until_step(&daemon, &run, step, &["running", "done", "succeeded", "skipped"]);
        daemon.kill();
        daemon.up();
    }
    let ended = daemon.until(&run, &["succeeded", "held", "failed"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_eq!(daemon.volumes().len(), 1, "{:?}", daemon.volumes());
    assert_holds(&daemon.volumes()[0], &raw);
    assert_eq!(holds(&daemon, "web"), 0);

    let run = begin(&daemon, &json!({"image": "web", "target": "volumes", "name": "second"}));
    until_step(&daemon, &run, "write_image_to_bv", &["running"]);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(daemon.volumes().len(), 1, "{:?}", daemon.volumes());
    assert_eq!(holds(&daemon, "web"), 0);

    // A snapshot that was forgotten before a held run goes on is told of; brought back, the run ends well.
    let body = json!({"image": "web", "target": "volumes", "name": "third"});
    daemon.kill();
    let moved = daemon.path("volumes.moved");
    daemon.up();
    let volumes = daemon.path("volumes");
    std::fs::rename(&volumes, &moved).unwrap();
    std::fs::write(&volumes, "no directory").unwrap();
    let run = begin(&daemon, &body);
    let held = daemon.until(&run, &["held"]);
    assert_eq!(state_of(&held, "hold_snapshot"), "succeeded", "{held:#}");
    std::fs::remove_file(&volumes).unwrap();
    std::fs::rename(&moved, &volumes).unwrap();
    succeeds(repository(&daemon, &["release", &spec, "--name", &format!("run-{run}")]));
    succeeds(repository(&daemon, &["forget", &spec]));
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &json!({})).status, 200);
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let held = daemon.until(&run, &["held"]);
        if held["reason"].as_str().unwrap().contains("snapshot") {
            break;
        }
        assert!(Instant::now() < end, "{held:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
    succeeds(repository(&daemon, &["undelete", &spec]));
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &json!({})).status, 200);
    let ended = daemon.until(&run, &["succeeded", "failed"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
}

#[test]
fn targets_that_cannot_be_written_are_refused_before_anything_is_made() {
    let daemon = site(|text| {
        format!(
            "{text}\n[worker.west]\n[target.there]\nkind = 'directory'\npath = 'there'\nworker = 'west'\n
             [target.vault]\nkind = 'repository'\n"
        )
    });
    let raw = daemon.path("web.raw");
    disk(&raw, 1 << 20, 3);
    back_up(&daemon, &raw, "web");
    let answer = daemon.post("/v1/restores", &json!({"image": "web", "target": "there"}));
    assert_eq!(answer.status, 400);
    assert!(answer.json()["detail"].as_str().unwrap().contains("worker"), "{:#}", answer.json());
    let answer = daemon.post("/v1/restores", &json!({"image": "web", "target": "vault"}));
    assert_eq!(answer.status, 400);
    assert!(answer.json()["detail"].as_str().unwrap().contains("is the repository"), "{:#}", answer.json());
    assert!(daemon.get("/v1/runs").json()["runs"].as_array().unwrap().is_empty());
}

#[test]
fn a_snapshot_becomes_a_volume_of_a_cloud() {
    let Some(bed) = Bed::find() else { return };
    let (mut daemon, _) = bed.daemon("2");
    daemon.kill();
    let config = daemon.path("site.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}{REPOSITORY}")).unwrap();
    succeeds(repository(&daemon, &["repo", "init"]));
    let raw = daemon.path("web.raw");
    disk(&raw, 32 << 20, 41);
    let id = back_up(&daemon, &raw, "web/root");
    bed.up(&mut daemon);
    let body = json!({"image": "web/root", "target": "cloud", "options": {"backup_policy": "silver"}});
    let run = begin(&daemon, &body);
    let ended = daemon.until(&run, &["succeeded", "held", "failed"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let volume = bed.volume(&run);
    assert_eq!(volume["name"], "web-root");
    assert_eq!(volume["tags"]["restored-from"], format!("web/root@{id}"), "{volume:#}");
    assert_holds_sparsely(Path::new(volume["file"].as_str().unwrap()), &raw);
}

#[test]
fn a_run_stays_with_its_snapshot_and_a_key_with_its_request() {
    let daemon = site(|text| text);
    let (raw, before) = (daemon.path("web.raw"), daemon.path("before.raw"));
    disk(&raw, 16 << 20, 51);
    std::fs::copy(&raw, &before).unwrap();
    std::fs::copy(&raw, daemon.path("inbox/other.raw")).unwrap();
    let first = back_up(&daemon, &raw, "web");
    let ask = |path: &str, body: &Value| {
        let headers = [("authorization", daemon.bearer()), ("idempotency-key", "once".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        daemon.ask("POST", path, &headers, &body.to_string())
    };
    // The key of an import says nothing of a restore.
    assert_eq!(ask("/v1/imports", &json!({"source": "inbox", "object": "other.raw"})).status, 201);
    let body = json!({"image": "web", "target": "volumes"});
    let begun = ask("/v1/restores", &body);
    assert_eq!((begun.status, &begun.json()["snapshot"]), (201, &json!(first)));
    let run = begun.json()["run"].as_str().unwrap().to_owned();
    daemon.until(&run, &["succeeded"]);

    // The last snapshot is another one by now: who asks again is told of the restore that there was.
    std::fs::File::options().write(true).open(&raw).unwrap().write_all_at(b"changed", 5 << 20).unwrap();
    let second = back_up(&daemon, &raw, "web");
    let again = ask("/v1/restores", &body);
    assert_eq!((again.status, &again.json()["run"]), (200, &json!(run)));
    assert_eq!(again.json()["snapshot"], first);
    assert_eq!(
        ask("/v1/restores", &json!({"image": "web", "target": "volumes", "name": "x.raw"})).status,
        409
    );

    // Asked for another snapshot in the middle, it mixes nothing; from its beginning on it is done with that one.
    let volume = || {
        let volumes = daemon.volumes().into_iter();
        volumes.filter(|path| path.to_str().unwrap().contains("web")).collect::<Vec<_>>()
    };
    let retry = |body: &Value| {
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), body).status, 200);
    };
    retry(&json!({"step": "write_image_to_bv", "inputs": {"snapshot": second}}));
    let held = daemon.until(&run, &["held", "succeeded"]);
    assert!(held["reason"].as_str().unwrap_or_default().contains("began with snapshot"), "{held:#}");
    assert_holds(&volume()[0], &before);
    retry(&json!({"step": "hold_snapshot"}));
    daemon.until(&run, &["succeeded"]);
    assert_eq!(volume().len(), 1);
    assert_holds(&volume()[0], &raw);
    assert_eq!(holds(&daemon, "web"), 0);
}
