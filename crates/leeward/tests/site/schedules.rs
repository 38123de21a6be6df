//! What the daemon begins by the clock, seen from outside.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, LEEWARD, assert_holds, disk};

/// The schedules, as the command line lists them.
fn schedules(daemon: &Daemon) -> Vec<Value> {
    let listed = daemon.leeward(&["schedule", "list", "--json"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn schedule(daemon: &Daemon, name: &str) -> Value {
    schedules(daemon).into_iter().find(|schedule| schedule["name"] == name).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn runs(daemon: &Daemon) -> usize {
    daemon.get("/v1/runs?most=1000").json()["runs"].as_array().unwrap().len()
}

#[test]
fn a_schedule_begins_runs_is_paused_and_fired_and_remembers_that_when_the_daemon_is_killed() {
    let mut daemon = Daemon::start(|text| {
        text + "\n[schedule.often]\nevery = '1s'\nimport = { source = 'inbox', object = 'a.raw' }\n"
            + "[schedule.seldom]\ncron = '0 0 1 1 *'\nimport = { source = 'inbox', object = 'b.raw' }\n"
    });
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    until("a scheduled run succeeds", || schedule(&daemon, "often")["last_state"] == "succeeded");
    assert_eq!(schedule(&daemon, "seldom")["last_run"], Value::Null);
    assert!(schedule(&daemon, "seldom")["next"].as_str().unwrap().contains("-01-01T"));

    assert!(daemon.leeward(&["schedule", "pause", "often"]).status.success());
    until("the last run is over", || schedule(&daemon, "often")["last_state"] == "succeeded");
    let begun = runs(&daemon);
    daemon.kill();
    std::thread::sleep(Duration::from_secs(2));
    daemon.up();
    assert_eq!(schedule(&daemon, "often")["paused"], true);
    assert_eq!(runs(&daemon), begun, "nothing is begun while it is paused");

    // Its object is not there: the run is held, and the next one has to wait for a person.
    let fired = daemon.post("/v1/schedules/seldom/fire", &json!({}));
    assert_eq!(fired.status, 201);
    let run = fired.json()["run"].as_str().unwrap().to_owned();
    daemon.until(&run, &["held"]);
    let refused = daemon.leeward(&["schedule", "fire", "seldom"]);
    assert_eq!(refused.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&run));
    disk(&daemon.path("inbox/b.raw"), 1 << 20, 2);
    assert!(daemon.leeward(&["run", "retry", &run]).status.success());
    daemon.until(&run, &["succeeded"]);
    let again = daemon.leeward(&["schedule", "fire", "seldom", "--wait"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(daemon.leeward(&["schedule", "fire", "never"]).status.code(), Some(7));

    assert!(daemon.leeward(&["schedule", "resume", "often"]).status.success());
    let before = runs(&daemon);
    until("it goes on", || runs(&daemon) > before);
}

/// A verb against the repository of a daemon.
fn repository(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(LEEWARD).arg("-r").arg(daemon.path("repository")).args(arguments).output().unwrap()
}

fn succeeds(done: Output) -> Vec<Value> {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = done.stdout.split(|byte| *byte == b'\n').filter(|line| line.first() == Some(&b'{'));
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// A daemon with a repository, in which such schedules are.
fn with_repository(more: &str) -> Daemon {
    let mut daemon = Daemon::new(|text| format!("{text}\n[repository]\nlocation = 'repository'\n{more}"));
    succeeds(repository(&daemon, &["repo", "init", "--pack-size", "1M"]));
    daemon.up();
    daemon
}

fn fire(daemon: &Daemon, name: &str) -> String {
    let fired = daemon.post(&format!("/v1/schedules/{name}/fire"), &json!({}));
    assert_eq!(fired.status, 201, "{}", String::from_utf8_lossy(&fired.body));
    fired.json()["run"].as_str().unwrap().to_owned()
}

#[test]
fn disks_are_backed_up_checked_and_retained_by_runs() {
    let mut daemon = with_repository(
        "[disk.web]\nlocation = 'web.raw'\nimage = 'web/root'\nlimit_read = '200K'\n
         [disk.gone]\nlocation = 'gone.raw'\nimage = 'gone/root'\n
         [schedule.nightly]\ncron = '0 0 1 1 *'\nbackup = { disks = ['web'] }\n
         [schedule.both]\ncron = '0 0 1 1 *'\nbackup = {}\n
         [schedule.tidy]\ncron = '0 0 1 1 *'\nretain = { keep = { last = 1 }, window = '0' }\n
         [schedule.look]\ncron = '0 0 1 1 *'\ncheck = { budget = '1GiB' }\n
         [rpo]\n'*' = '1d'\n'web/*' = '1h'\n",
    );
    let disk_file = daemon.path("web.raw");
    disk(&disk_file, 16 << 20, 7);
    // What is to be protected and is not, is said before anything went wrong.
    let shown = |daemon: &Daemon| {
        let overview = daemon.get("/v1/overview").json();
        let images = overview["images"].as_array().unwrap().iter().map(|image| {
            let name = image["image"].as_str().unwrap().to_owned();
            let target = image["rpo_target_seconds"].as_u64();
            (name, image["snapshots"].as_u64().unwrap(), target, image["protected"].as_bool().unwrap())
        });
        images.collect::<Vec<_>>()
    };
    let gone = ("gone/root".to_owned(), 0, Some(86400), false);
    assert_eq!(shown(&daemon), [gone.clone(), ("web/root".to_owned(), 0, Some(3600), false)]);

    // Killed in the middle (to read it takes six seconds): the run goes on and ends with one snapshot.
    let run = fire(&daemon, "nightly");
    until("the disk is read", || daemon.run(&run)["steps"][0]["state"] == "running");
    daemon.kill();
    daemon.up();
    let ended = daemon.until(&run, &["succeeded", "failed"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert!(ended["steps"][0]["tries"].as_u64() >= Some(2), "{ended:#}");
    let snapshots = |daemon: &Daemon| succeeds(repository(daemon, &["log", "web/root", "--json"])).len();
    assert_eq!(snapshots(&daemon), 1);
    let target = daemon.path("out.raw");
    succeeds(repository(&daemon, &["restore", "web/root", target.to_str().unwrap()]));
    assert_holds(&target, &disk_file);
    until("the repository is looked into again", || shown(&daemon).iter().any(|image| image.3));
    assert_eq!(shown(&daemon)[..2], [gone, ("web/root".to_owned(), 1, Some(3600), true)]);
    let figures = String::from_utf8(daemon.get("/metrics").body).unwrap();
    assert!(figures.contains("leeward_image_rpo_target_seconds{image=\"web/root\"} 3600"), "{figures}");

    // A cancelled one makes none.
    let run = fire(&daemon, "nightly");
    until("the disk is read", || daemon.run(&run)["steps"][0]["state"] == "running");
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(snapshots(&daemon), 1);

    // A disk that is not there is no reason to leave the other one out, and the next run may begin.
    let run = fire(&daemon, "both");
    until("the disk that is there is backed up", || {
        let run = daemon.run(&run);
        let step = |name: &str| {
            let steps = run["steps"].as_array().unwrap();
            steps.iter().find(|step| step["name"] == name).unwrap()["state"].as_str().unwrap().to_owned()
        };
        step("disk-web") == "succeeded" && step("disk-gone") == "waiting"
    });
    assert!(daemon.leeward(&["run", "cancel", &run]).status.success());
    daemon.until(&run, &["cancelled"]);
    assert_eq!(snapshots(&daemon), 2);

    daemon.until(&fire(&daemon, "tidy"), &["succeeded"]);
    assert_eq!(snapshots(&daemon), 1);
    daemon.until(&fire(&daemon, "look"), &["succeeded"]);
    assert!(daemon.path("state/verified").read_dir().unwrap().next().is_some(), "the turn is remembered");

    let packs = walk(&daemon.path("repository/packs"));
    let pack = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(pack).unwrap();
    std::fs::write(pack, bytes).unwrap();
    let run = daemon.until(&fire(&daemon, "look"), &["failed", "succeeded"]);
    assert_eq!(run["state"], "failed");
    assert!(run["reason"].as_str().unwrap().contains("damaged"), "{run:#}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn a_daemon_whose_state_is_lost_comes_back_from_the_repository_and_goes_on() {
    let mut daemon = with_repository("");
    assert_eq!(schedule(&daemon, "state")["times"], "every 1h", "without a word in the configuration");
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    let done = daemon.import("a.raw", json!({}));
    daemon.until(&done, &["succeeded"]);
    let held = daemon.import("b.raw", json!({}));
    daemon.until(&held, &["held"]);
    daemon.until(&fire(&daemon, "state"), &["succeeded"]);
    let later = daemon.import("c.raw", json!({}));
    daemon.until(&later, &["held"]);

    let state = daemon.path("state");
    let state = state.to_str().unwrap();
    let in_use = repository(&daemon, &["server", "restore-state", state]);
    assert_eq!(in_use.status.code(), Some(2), "a daemon works on it");
    daemon.kill();
    std::fs::remove_dir_all(state).unwrap();
    let planned = succeeds(repository(&daemon, &["server", "restore-state", state, "-n", "--json"]));
    assert_eq!((&planned[0]["dry_run"], &planned[0]["site"]), (&json!(true), &json!("home")));
    assert!(!daemon.path("state").exists());
    let restored = succeeds(repository(&daemon, &["server", "restore-state", state, "--json"]));
    assert_eq!((&restored[0]["kept"], &restored[0]["held"]), (&Value::Null, &json!([])));

    // The admin's token is as good as before, and so is what the daemon knows.
    daemon.up();
    assert_eq!(daemon.run(&done)["state"], "succeeded");
    assert_eq!(daemon.get(&format!("/v1/runs/{later}")).status, 404, "it was made after the copy");
    disk(&daemon.path("inbox/b.raw"), 1 << 20, 2);
    assert!(daemon.leeward(&["run", "retry", &held]).status.success());
    daemon.until(&held, &["succeeded"]);
    assert_eq!(daemon.volumes().len(), 2);

    // Over a state that is there: it is kept.
    assert!(daemon.stop());
    let again = succeeds(repository(&daemon, &["server", "restore-state", state, "--json"]));
    let kept = again[0]["kept"].as_str().unwrap();
    assert!(std::path::Path::new(kept).join("runs.sqlite").exists());
    daemon.up();
    assert_eq!(daemon.run(&held)["state"], "held", "as it was when it was copied");
}

/// The cluster of the test bed, when it is up.
fn ceph() -> Option<String> {
    let beds = std::env::var("TESTBED_DIR").unwrap_or_else(|_| "/var/tmp/testbeds".to_owned());
    let configuration = format!("{beds}/ceph/ceph.conf");
    let asked = Command::new("timeout").args(["10", "rbd", "--conf", &configuration, "ls", "rbd"]).output();
    if asked.is_ok_and(|asked| asked.status.success()) {
        return Some(configuration);
    }
    println!("SKIPPED: the test bed ceph is not up");
    None
}

/// An image in the pool `rbd`, removed with its snapshots at the end.
struct Image(String, String);

impl Image {
    fn rbd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("rbd");
        command.args(["--conf", &self.1]).args(arguments).output().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.rbd(&["snap", "purge", &format!("rbd/{}", self.0)]);
        let _ = self.rbd(&["rm", &format!("rbd/{}", self.0)]);
    }
}

#[test]
fn an_image_of_ceph_is_backed_up_by_what_changed_until_a_full_backup_is_due() {
    let Some(configuration) = ceph() else { return };
    let image = Image(format!("leeward-schedule-{}", std::process::id()), configuration.clone());
    let daemon = with_repository(&format!(
        "[disk.web]\nlocation = 'rbd:rbd/{}?conf={configuration}'\nimage = 'web/root'\n
         [schedule.nightly]\ncron = '0 0 1 1 *'\nfull_every = '7d'\nbackup = {{}}\n",
        image.0
    ));
    let disk_file = daemon.path("web.raw");
    disk(&disk_file, 16 << 20, 7);
    let made = image.rbd(&["import", disk_file.to_str().unwrap(), &format!("rbd/{}", image.0)]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let modes: Vec<String> = [false, false, true]
        .into_iter()
        .map(|full| {
            let fired = daemon.post("/v1/schedules/nightly/fire", &json!({ "full": full }));
            let run = fired.json()["run"].as_str().unwrap().to_owned();
            let ended = daemon.until(&run, &["succeeded", "failed", "held"]);
            assert_eq!(ended["state"], "succeeded", "{ended:#}");
            ended["steps"][0]["outputs"]["capture"]["mode"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(modes, ["full", "incremental", "full"]);
    let target = daemon.path("out.raw");
    succeeds(repository(&daemon, &["restore", "web/root", target.to_str().unwrap()]));
    assert_holds(&target, &disk_file);
    let listed = image.rbd(&["snap", "ls", &format!("rbd/{}", image.0), "--format", "json"]);
    let snapshots: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(snapshots.as_array().unwrap().len(), 1, "the last one stays, as the base of the next backup");
}
