//! Transfers between two servers: real processes with real TLS, and a third machine that plans, watches and publishes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::server::Site;
use common::{Bench, Outcome, outcome, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Two sites and a machine that has a token of each.
struct Scene {
    east: Site,
    west: Site,
    client: Bench,
    east_token: PathBuf,
    west_token: PathBuf,
}

impl Scene {
    /// East holds a repository with a disk of 48 MiB of data; west an empty one, or none.
    fn new(east_init: &[&str], west_init: Option<&[&str]>) -> Self {
        let (east, west) = (Site::new(Some(east_init)), Site::new(west_init));
        let disk = east.bench.disk("disk.raw", 64, 48, 3);
        east.bench.succeeds(&["backup", disk.to_str().unwrap(), "web/root"]);
        let east_token = east.token("reader", &["--role", "reader"]);
        let west_token = west.token("admin", &["--role", "admin"]);
        Self { east, west, client: Bench::new(), east_token, west_token }
    }

    /// East sends to its peer.
    fn east_sends(&mut self) {
        self.west.serve(&[]);
        let (peer, authority) = (format!("west={}", self.west.url), self.west.authority());
        self.east.serve(&["--peer", &peer, "--peer-ca", &authority]);
    }

    /// West fetches from its peer.
    fn west_fetches(&mut self) {
        self.east.serve(&[]);
        let (peer, authority) = (format!("east={}", self.east.url), self.east.authority());
        self.west.serve(&["--peer", &peer, "--peer-ca", &authority]);
    }

    /// A command on the third machine, which works on east and knows west as the other.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.east.command(&self.client, &self.east_token, arguments);
        command
            .env("LEEWARD_OTHER_CA_FILE", self.west.authority())
            .env("LEEWARD_OTHER_TOKEN_FILE", &self.west_token);
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(self.command(arguments).spawn().unwrap(), arguments)
    }

    fn succeeds(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome
    }

    fn restores(&self, image: &str, disk: &Path) {
        let target = self.west.bench.path("restored.raw");
        self.west.bench.succeeds(&["restore", image, target.to_str().unwrap(), "--force", "--no-sync"]);
        assert!(std::fs::read(&target).unwrap() == std::fs::read(disk).unwrap(), "{image}");
        self.west.bench.is_sound("after a transfer between servers");
    }
}

/// Bytes that passed the third machine, both ways, as its connections counted them.
fn through_the_client(value: &Value) -> u64 {
    let count = |side: &str, way: &str| value["requests"][side][way].as_u64().unwrap();
    ["from", "to"].iter().map(|side| count(side, "sent_bytes") + count(side, "received_bytes")).sum()
}

fn relayed(value: &Value) -> &Value {
    &value["transfer"]["relayed"]
}

#[test]
fn packs_go_from_server_to_server_and_hardly_anything_through_the_client() {
    let mut scene = Scene::new(&[], Some(&[]));
    scene.east_sends();
    let url = scene.west.url.clone();
    let planned = scene.succeeds(&["push", "--dry-run", "web/root", &url]);
    let pushed = scene.succeeds(&["push", "web/root", &url, "--direct", "must", "--verify"]);
    let value = pushed.value();
    let (bytes, packs) = (relayed(value)["bytes"].as_u64().unwrap(), &relayed(value)["packs"]);
    assert!(bytes > 12 << 20, "{value}");
    assert_eq!(planned.value()["estimate"]["whole_pack_bytes"], bytes);
    assert_eq!(&planned.value()["estimate"]["whole_packs"], packs);
    let through = through_the_client(value);
    println!("{bytes} bytes in {packs} packs from server to server, {through} through the client");
    assert!(through < bytes / 50, "{through} of {bytes}: {value}");
    assert_eq!(value["transfer"]["chunks_sent"], 0);
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));

    // The second day: only what is new.
    let changed = scene.east.bench.changed(&scene.east.bench.path("disk.raw"), "changed.raw", 9);
    scene.east.bench.succeeds(&["backup", changed.to_str().unwrap(), "web/root"]);
    let second = scene.succeeds(&["sync", &url]);
    assert_eq!(second.value()["transfer"]["snapshots"].as_array().unwrap().len(), 1);
    assert!(relayed(second.value())["bytes"].as_u64().unwrap() < 4 << 20, "{}", second.stdout);
    scene.restores("web/root", &changed);
    let nothing = scene.succeeds(&["sync", &url]);
    assert!(relayed(nothing.value()).is_null() && through_the_client(nothing.value()) < 50_000);

    // Both logs say who did what, and no secret is in them.
    let (east, west) = (scene.east.log(), scene.west.log());
    assert!(east.contains("packs sent to peer west") && east.contains("\"token\":\"reader\""), "{east}");
    assert!(west.contains("admin by pass"), "{west}");
    assert!(!east.contains("lwp_") && !west.contains("lwp_") && !west.contains("lwt_"));
    scene.east.end();
    scene.west.end();
}

#[test]
fn a_clone_of_an_encrypted_repository_is_fetched_by_a_server_that_has_no_key() {
    let passphrase = |command: &mut Command| {
        command.env("LEEWARD_PASSPHRASE", "correct horse battery staple");
    };
    let (east, west) = (Site::new(None), Site::new(None));
    let with_key = |bench: &Bench, arguments: &[&str]| {
        let mut command = bench.command(arguments);
        passphrase(&mut command);
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
        let outcome = outcome(child.unwrap(), arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome
    };
    with_key(&east.bench, &["repo", "init", "--encrypt", "--pack-size", "1M"]);
    let disk = east.bench.disk("disk.raw", 64, 48, 5);
    with_key(&east.bench, &["backup", disk.to_str().unwrap(), "web/root"]);
    let east_token = east.token("reader", &["--role", "reader"]);
    let west_token = west.token("admin", &["--role", "admin"]);
    let mut scene = Scene { east, west, client: Bench::new(), east_token, west_token };
    scene.west_fetches();
    let arguments = ["clone", &scene.east.url, &scene.west.url, "--direct", "must"];
    let mut command = scene.command(&arguments);
    passphrase(&mut command);
    let cloned = outcome(command.spawn().unwrap(), &arguments);
    assert_eq!(cloned.code, 0, "{}{}", cloned.stdout, cloned.stderr);
    let (value, bytes) = (cloned.value(), relayed(cloned.value())["bytes"].as_u64().unwrap());
    let through = through_the_client(value);
    println!("{bytes} bytes from server to server, {through} through the client");
    assert!(bytes > 12 << 20 && through < bytes / 50, "{value}");
    assert!(text(&relayed(value)["by"]).contains("fetches from its peer east"), "{value}");
    let target = scene.west.bench.path("restored.raw");
    with_key(&scene.west.bench, &["restore", "web/root", target.to_str().unwrap()]);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&disk).unwrap());
    let check = with_key(&scene.west.bench, &["check", "--read-data"]);
    assert_eq!(check.value()["findings"], Value::Array(Vec::new()));
}

#[test]
fn without_peers_all_goes_through_the_client_or_nothing_where_that_is_forbidden() {
    let mut scene = Scene::new(&[], Some(&[]));
    scene.east.serve(&[]);
    scene.west.serve(&[]);
    let url = scene.west.url.clone();
    let refused = scene.run(&["push", "web/root", &url, "--direct", "must"]);
    assert_eq!(refused.code, 5, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("--peer"), "{}", refused.stderr);
    let pushed = scene.succeeds(&["push", "web/root", &url]);
    assert!(relayed(pushed.value()).is_null(), "{}", pushed.stdout);
    assert!(text(&pushed.value()["direct"]["not_because"]).contains("--peer"), "{}", pushed.stdout);
    assert!(through_the_client(pushed.value()) > 24 << 20, "{}", pushed.stdout);
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));
    // A token of one server is not shown to the other.
    let mut command = scene.command(&["push", "web/root", &url]);
    command.env_remove("LEEWARD_OTHER_TOKEN_FILE");
    let refused = outcome(command.spawn().unwrap(), &["push"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("LEEWARD_OTHER_TOKEN_FILE"), "{}", refused.stderr);
    let to_directory = scene.run(&["push", "web/root", &scene.client.path("x").display().to_string()]);
    assert_eq!(to_directory.code, 7);
}

#[test]
fn must_holds_whatever_stands_in_the_way() {
    // Other names: nothing is of use to the other side as it is.
    let mut scene = Scene::new(&[], Some(&["--chunk-size", "32K"]));
    scene.east_sends();
    let url = scene.west.url.clone();
    let must = ["push", "web/root", &url, "--direct", "must"];
    let refused = scene.run(&must);
    assert_eq!(refused.code, 5, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("name content differently"), "{}", refused.stderr);
    assert!(scene.west.bench.succeeds(&["images"]).lines.is_empty(), "nothing is published");
    let pushed = scene.succeeds(&["push", "web/root", &url]);
    let why = text(&pushed.value()["direct"]["not_because"]);
    assert!(why.contains("name content differently"), "{}", pushed.stdout);
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));
    // Nothing is left to send, so nothing goes another way.
    scene.succeeds(&must);

    // A pack that the server leaves, because it is damaged where it lies.
    let mut scene = Scene::new(&[], Some(&[]));
    scene.east_sends();
    let url = scene.west.url.clone();
    let must = ["push", "web/root", &url, "--direct", "must"];
    let packs = std::fs::read_dir(scene.east.bench.repository().join("packs")).unwrap();
    let largest = packs.map(|entry| entry.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let largest = largest.unwrap();
    let whole = std::fs::read(&largest).unwrap();
    let mut bad = whole.clone();
    bad[1000] ^= 1;
    std::fs::write(&largest, bad).unwrap();
    let refused = scene.run(&must);
    assert_eq!(refused.code, 6, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("packs were left"), "{}", refused.stderr);
    assert!(scene.west.bench.succeeds(&["images"]).lines.is_empty(), "nothing is published");
    std::fs::write(&largest, whole).unwrap();
    scene.succeeds(&must);
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));
}

/// Waits until west has so many packs.
fn await_packs(scene: &Scene, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while scene.west.packs() < count {
        assert!(Instant::now() < deadline, "west has {} packs", scene.west.packs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_transfer_survives_the_death_of_either_server() {
    let mut scene = Scene::new(&[], Some(&[]));
    scene.east_sends();
    let url = scene.west.url.clone();
    let arguments = ["push", "web/root", &url, "--direct", "must", "--limit", "3M"];
    let child = scene.command(&arguments).spawn().unwrap();
    await_packs(&scene, 2);
    scene.east.kill();
    let (peer, authority) = (format!("west={}", scene.west.url), scene.west.authority());
    scene.east.serve(&["--peer", &peer, "--peer-ca", &authority]);
    let so_far = scene.west.packs();
    await_packs(&scene, so_far + 2);
    scene.west.kill();
    scene.west.serve(&[]);
    let pushed = outcome(child, &arguments);
    assert_eq!(pushed.code, 0, "{}{}", pushed.stdout, pushed.stderr);
    let (value, found) = (pushed.value(), relayed(pushed.value()));
    let count = |name: &str| found[name].as_u64().unwrap();
    assert_eq!(count("packs"), count("packs_wanted"), "{value}");
    assert_eq!(count("bytes"), count("wanted_bytes"), "{value}");
    assert!(through_the_client(value) < 2 << 20, "{value}");
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));
}

#[test]
fn a_client_that_is_stopped_or_dies_goes_on_where_it_was() {
    let mut scene = Scene::new(&[], Some(&[]));
    scene.east_sends();
    let url = scene.west.url.clone();
    let slow = ["push", "web/root", &url, "--direct", "must", "--limit", "3M"];
    let child = scene.command(&slow).spawn().unwrap();
    await_packs(&scene, 2);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let stopped = outcome(child, &slow);
    assert_eq!(stopped.code, 130, "{}{}", stopped.stdout, stopped.stderr);
    // What was under way ends, and no more comes.
    std::thread::sleep(Duration::from_millis(1500));
    let so_far = scene.west.packs();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(scene.west.packs(), so_far, "the transfer was cancelled");
    assert!(scene.west.bench.succeeds(&["images"]).lines.is_empty(), "nothing is published");

    let mut child = scene.command(&slow).spawn().unwrap();
    await_packs(&scene, so_far + 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let pushed = scene.succeeds(&["push", "web/root", &url, "--direct", "must"]);
    // The server goes on for two minutes after a client has died: it may have moved all by now.
    let moved = relayed(pushed.value())["packs"].as_u64().unwrap_or(0) as usize;
    let all = std::fs::read_dir(scene.east.bench.repository().join("packs")).unwrap().count();
    assert!(moved + so_far + 2 <= all, "{moved} moved, {so_far} there, {all} in all");
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));
}

#[test]
fn rights_on_both_sides_are_asked_for() {
    let mut scene = Scene::new(&[], Some(&[]));
    scene.east_sends();
    let url = scene.west.url.clone();
    let push = ["push", "web/root", &url, "--direct", "must"];
    // Who may not add at west lends nothing there; who may not read at east has nothing moved.
    let admin = std::mem::replace(&mut scene.west_token, scene.west.token("r", &["--role", "reader"]));
    assert_eq!(scene.run(&push).code, 5);
    scene.west_token = scene.west.token("other", &["--role", "writer", "--prefix", "db"]);
    assert_eq!(scene.run(&push).code, 5);
    assert!(scene.west.bench.succeeds(&["images"]).lines.is_empty());
    scene.west_token = scene.west.token("small", &["--role", "writer", "--prefix", "web", "--quota", "4M"]);
    let full = scene.run(&push);
    assert_eq!(full.code, 6, "{}{}", full.stdout, full.stderr);
    assert!(full.stderr.contains("quota"), "{}", full.stderr);
    scene.west_token = admin;
    let writer = scene.east.token("w", &["--role", "writer"]);
    let reader = std::mem::replace(&mut scene.east_token, writer);
    let refused = scene.run(&push);
    assert!(refused.code != 0, "a writer reads no chunks, by whatever way: {}", refused.stdout);
    scene.east_token = scene.east.token("confined", &["--role", "reader", "--prefix", "db"]);
    assert_eq!(scene.run(&push).code, 5, "an image outside its prefixes is not shown");
    scene.east_token = reader;
    // A writer of that image is enough.
    scene.west_token = scene.west.token("writer", &["--role", "writer", "--prefix", "web"]);
    scene.succeeds(&push);
    scene.restores("web/root", &scene.east.bench.path("disk.raw"));
}
