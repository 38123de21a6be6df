//! Several daemons with one database of PostgreSQL: one of them dies, and the others go on with what it had.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, LEEWARD, assert_holds, disk, image};

#[allow(dead_code, reason = "support of other tests too")]
#[path = "../../../runs/tests/world/server.rs"]
pub mod server;

use server::Server;

/// Two daemons of one site, and what they share.
struct Pair {
    daemons: [Daemon; 2],
    server: Server,
    folder: tempfile::TempDir,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.daemons.iter_mut().for_each(Daemon::kill);
        self.server.end();
    }
}

impl Pair {
    /// None, loudly, where PostgreSQL is not installed.
    fn start(keys: &str) -> Option<Self> {
        let Some(programs) = server::programs() else {
            println!("SKIPPED: no /usr/lib/postgresql/*/bin; install the package postgresql");
            return None;
        };
        let server = Server::start(programs, "off");
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["inbox", "volumes", "repository"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let made =
            Command::new(LEEWARD).arg("-r").arg(path("repository")).args(["repo", "init"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let url = path("postgres.url");
        server.database("site", &url);
        let change = |text: String| {
            let text = text
                .replace("\n[server]\n", &format!("\n[database]\nurl_file = {url:?}\n\n[server]\n"))
                .replace("location = \"inbox\"", &format!("location = {:?}", path("inbox")))
                .replace(
                    "path = \"volumes\"",
                    &format!("path = {:?}\nlimit_bytes_per_second = 8000000", path("volumes")),
                )
                .replace("watch = \"off\"", "watch = \"poll\"")
                .replace("poll_seconds = 60", "poll_seconds = 1")
                .replace("lease_seconds = 30", "lease_seconds = 5");
            assert!(
                text.contains("limit_bytes_per_second = 8000000\n") && text.contains("lease_seconds = 5")
            );
            format!("{text}\n[repository]\nlocation = {:?}\n{keys}", path("repository"))
        };
        let mut daemons = [Daemon::new(change), Daemon::new(change)];
        // One file of tokens, as operations.md says.
        let [first, second] = &mut daemons;
        for name in ["state/tokens", "admin.token"] {
            std::fs::copy(first.path(name), second.path(name)).unwrap();
        }
        second.token.clone_from(&first.token);
        daemons.iter_mut().for_each(Daemon::up);
        Some(Self { daemons, server, folder })
    }

    fn put(&self, name: &str, bytes: u64, seed: u64) -> std::path::PathBuf {
        let raw = self.folder.path().join(format!("{name}.disk"));
        disk(&raw, bytes, seed);
        let hidden = self.folder.path().join("inbox/.coming");
        image(&raw, &hidden, "qcow2", &[]);
        std::fs::rename(&hidden, self.folder.path().join("inbox").join(name)).unwrap();
        raw
    }

    /// The number of the daemon that has said last that it leads.
    fn leader(&self) -> usize {
        until(|| (0..2).find(|number| leads(&self.daemons[*number])), "somebody leads")
    }

    fn volumes(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("volumes")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "raw")).collect()
    }
}

fn leads(daemon: &Daemon) -> bool {
    let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    let said = log.lines().rev().find(|line| line.contains("daemon leads"));
    said.is_some_and(|line| line.contains("this daemon leads"))
}

fn until<T>(mut look: impl FnMut() -> Option<T>, what: &str) -> T {
    let end = Instant::now() + Duration::from_secs(240);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn runs_of(daemon: &Daemon, object: &str) -> Vec<String> {
    let listed = daemon.get("/v1/runs?kind=import&most=100").json();
    let runs = listed["runs"].as_array().unwrap().iter();
    runs.filter(|run| run["subject"] == object).map(|run| run["id"].as_str().unwrap().to_owned()).collect()
}

fn schedule(daemon: &Daemon) -> Value {
    let listed = daemon.get("/v1/schedules").json();
    let mut found = listed["schedules"].as_array().unwrap().iter();
    found.find(|schedule| schedule["name"] == "look").unwrap().clone()
}

#[test]
fn a_daemon_that_dies_is_followed_by_the_other_in_all_that_it_did() {
    let Some(mut pair) = Pair::start("[schedule.look]\nevery = \"1d\"\ncheck = { read_data = true }\n")
    else {
        return;
    };
    let leader = pair.leader();
    let other = 1 - leader;
    assert!(!leads(&pair.daemons[other]));

    // What one is told, both know.
    assert_eq!(pair.daemons[other].post("/v1/schedules/look/pause", &json!({})).status, 200);
    assert_eq!(schedule(&pair.daemons[leader])["paused"], true);
    assert_eq!(pair.daemons[leader].post("/v1/schedules/look/resume", &json!({})).status, 200);
    assert_eq!(schedule(&pair.daemons[other])["paused"], false);

    // The leader sees an image; whoever has its run dies in the middle, and the server crashes, too.
    let raw = pair.put("one.qcow2", 256 << 20, 1);
    let run = until(|| runs_of(&pair.daemons[other], "one.qcow2").pop(), "the image is seen");
    let owner = until(
        || {
            let shown = pair.daemons[other].get(&format!("/v1/runs/{run}")).json();
            let is_writing = shown["progress"]["write_image_to_bv"]["done"].as_u64() > Some(0);
            let owner = shown["lease"]["owner"].as_str().map(str::to_owned);
            owner.filter(|_| is_writing)
        },
        "it is being written",
    );
    pair.server.crash();
    let process = owner.split(':').nth(1).unwrap().to_owned();
    let had = (0..2).find(|number| pair.daemons[*number].process() == process).unwrap();
    pair.daemons[had].kill();
    let done = until(
        || {
            // While the server is away, the answer says that it is.
            let answer = pair.daemons[1 - had].get(&format!("/v1/runs/{run}"));
            assert!([200, 503].contains(&answer.status), "{}", String::from_utf8_lossy(&answer.body));
            let run = (answer.status == 200).then(|| answer.json()["run"].clone());
            run.filter(|run| ["succeeded", "held", "failed"].contains(&run["state"].as_str().unwrap()))
        },
        "the other one goes on with the run",
    );
    assert_eq!(done["state"], "succeeded", "{done:#}");
    assert_eq!(pair.volumes().len(), 1);
    assert_holds(&pair.volumes()[0], &raw);
    let steps = done["steps"].as_array().unwrap();
    let writing = steps.iter().find(|step| step["name"] == "write_image_to_bv").unwrap();
    let again = [&writing["attempts"], &writing["interruptions"]].map(|count| count.as_u64().unwrap());
    assert!(again.iter().sum::<u64>() > 1, "the other one went on with it: {done:#}");

    // Back again, and then the one that leads dies: the other one looks into the folder from then on.
    pair.daemons[had].up();
    let leader = pair.leader();
    pair.daemons[leader].kill();
    let raw = pair.put("two.qcow2", 16 << 20, 2);
    let other = &pair.daemons[1 - leader];
    let run = until(|| runs_of(other, "two.qcow2").pop(), "the other one looks into the folder");
    assert_eq!(other.until(&run, &["succeeded", "held", "failed"])["state"], "succeeded");
    assert!(leads(other));
    let volumes = pair.volumes();
    assert_eq!(volumes.len(), 2, "nothing was imported twice");
    let new = volumes.iter().find(|path| path.to_string_lossy().contains("two")).unwrap();
    assert_holds(new, &raw);
    assert_eq!((runs_of(other, "one.qcow2").len(), runs_of(other, "two.qcow2").len()), (1, 1));

    // One that ends in order lets go at once.
    pair.daemons[leader].up();
    assert!(pair.daemons[1 - leader].stop());
    let begun = Instant::now();
    until(|| leads(&pair.daemons[leader]).then_some(()), "the first one leads again");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_daemons_share_is_stored_and_comes_back_as_files_of_one() {
    let Some(mut pair) = Pair::start("") else { return };
    pair.put("one.qcow2", 4 << 20, 1);
    let run = until(|| runs_of(&pair.daemons[0], "one.qcow2").pop(), "the image is seen");
    pair.daemons[1].until(&run, &["succeeded"]);
    let fired = pair.daemons[1].post("/v1/schedules/state/fire", &json!({}));
    assert_eq!(fired.status, 201, "{}", String::from_utf8_lossy(&fired.body));
    let stored = fired.json()["run"].as_str().unwrap().to_owned();
    assert_eq!(pair.daemons[0].until(&stored, &["succeeded", "held", "failed"])["state"], "succeeded");
    let heard = pair.daemons[0].get("/v1/heard").json();
    let log = pair.daemons[0].get(&format!("/v1/runs/{run}/log")).json();
    assert!(!log["lines"].as_array().unwrap().is_empty());
    pair.daemons.iter_mut().for_each(Daemon::kill);

    // The database is lost with its server.
    let daemon = &mut pair.daemons[0];
    let check = || {
        let done = Command::new(LEEWARD)
            .args(["server", "check", "--config"])
            .arg(daemon.path("site.toml"))
            .output();
        let done = done.unwrap();
        (done.status.code(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
    };
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("answers"), "{said}");
    pair.server.end();
    let (code, said) = check();
    assert!(code == Some(6) && said.contains("cannot reach the database"), "{code:?} {said}");
    let state = daemon.path("state");
    std::fs::remove_dir_all(&state).unwrap();
    let restored = Command::new(LEEWARD)
        .arg("-r")
        .arg(pair.folder.path().join("repository"))
        .args(["server", "restore-state"])
        .arg(&state)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    without_database(&daemon.path("site.toml"));
    daemon.up();
    let back = daemon.run(&run);
    assert_eq!(back["state"], "succeeded");
    assert_eq!(daemon.get("/v1/heard").json(), heard);
    assert_eq!(daemon.get(&format!("/v1/runs/{run}/log")).json(), log);
}

fn without_database(config: &Path) {
    let text = std::fs::read_to_string(config).unwrap();
    let kept: Vec<_> =
        text.lines().filter(|line| *line != "[database]" && !line.starts_with("url_file")).collect();
    std::fs::write(config, kept.join("\n")).unwrap();
}
