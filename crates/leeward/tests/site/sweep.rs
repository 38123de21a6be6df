//! What runs have left in clouds: found, offered, removed; and what never is.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, assert_holds, disk};
use super::oci::Bed;
use super::restores;

fn sweep(daemon: &Daemon, arguments: &[&str]) -> Output {
    daemon.leeward(&[&["sweep", "--json"], arguments].concat())
}

fn lines(output: &Output) -> Vec<Value> {
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// What is left, by ids.
fn leftovers(daemon: &Daemon) -> Vec<Value> {
    let listed = sweep(daemon, &[]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    lines(&listed)
}

fn of<'a>(found: &'a [Value], id: &str) -> Option<&'a Value> {
    found.iter().find(|leftover| leftover["id"] == id)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn configure(daemon: &Daemon, changes: &[(&str, &str)]) {
    let file = daemon.path("site.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(&file, text).unwrap();
}

/// A run that was cancelled before it made anything.
fn cancelled(daemon: &Daemon, source: &str) -> String {
    let body = json!({ "source": source, "object": "gone.raw" });
    let run = daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned();
    daemon.until(&run, &["held"]);
    assert!(daemon.leeward(&["run", "cancel", &run]).status.success());
    daemon.until(&run, &["cancelled"]);
    run
}

fn id(volume: &Path) -> String {
    volume.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// A volume as another run would have made it: a copy of one, under a name of its own, with that run's tag.
fn copy(volume: &Path, name: &str, run: Option<&str>) -> PathBuf {
    let other = volume.with_file_name(format!("{name}.raw"));
    std::fs::copy(volume, &other).unwrap();
    let record = std::fs::read(volume.with_extension("json")).unwrap();
    let mut record: Value = serde_json::from_slice(&record).unwrap();
    if let Some(run) = run {
        record["tags"]["leeward-run"] = json!(run);
    }
    std::fs::write(other.with_extension("json"), record.to_string()).unwrap();
    other
}

fn lose(daemon: &Daemon, databases: &[&str]) {
    for file in
        databases.iter().flat_map(|name| ["", "-wal", "-shm"].map(|end| format!("state/{name}.sqlite{end}")))
    {
        let _ = std::fs::remove_file(daemon.path(&file));
    }
}

#[test]
fn what_a_run_left_is_removed_and_what_one_delivered_or_nobody_knows_stays() {
    let mut daemon = Daemon::start(|text| text.replace("sweep_age = \"24h\"", "sweep_age = \"1s\""));
    let raw = daemon.path("inbox/a.raw");
    disk(&raw, 8 << 20, 7);
    let delivering = daemon.import("a.raw", json!({}));
    daemon.until(&delivering, &["succeeded"]);
    let delivered = daemon.volumes().remove(0);
    assert!(leftovers(&daemon).is_empty(), "what was delivered is no leftover");

    let ended = cancelled(&daemon, "inbox");
    let name = id(&delivered);
    let named = |end: &str| format!("{}{end}", &name[..name.len() - 4]);
    let left = copy(&delivered, &named("aaaa"), Some(&ended));
    let cloned = copy(&delivered, &named("bbbb"), None);
    let held = daemon.import("missing.raw", json!({}));
    daemon.until(&held, &["held"]);
    let live = copy(&delivered, &named("cccc"), Some(&held));
    let stranger = copy(&delivered, &named("dddd"), Some("01hzzzzzzzzzzzzzzzzzzzzzzz"));
    std::thread::sleep(Duration::from_millis(2100));
    let found = leftovers(&daemon);
    let removable = |volume: &Path| of(&found, &id(volume)).map(|leftover| leftover["removable"] == true);
    assert_eq!(removable(&left), Some(true), "{found:#?}");
    assert_eq!((removable(&cloned), removable(&stranger)), (Some(false), Some(false)), "{found:#?}");
    assert_eq!((removable(&live), removable(&delivered)), (None, None), "{found:#?}");
    for (volume, why) in [(&live, "no leftover"), (&delivered, "no leftover")] {
        let refused = sweep(&daemon, &["--remove", &id(volume)]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(why), "{told}");
    }
    let removed = sweep(&daemon, &["--all-ended"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let told = lines(&removed);
    assert_eq!((told.len(), &told[0]["id"], &told[0]["removed"]), (1, &json!(id(&left)), &json!(true)));
    assert!(!left.exists() && cloned.exists() && live.exists() && stranger.exists());
    assert!(sweep(&daemon, &["--remove", &id(&cloned)]).status.success(), "who names it knows what it is");
    assert!(!cloned.exists());
    assert_holds(&delivered, &raw);

    // By policy: only what is plainly left goes; and nothing, when the daemon has lost what it knew.
    daemon.kill();
    configure(
        &daemon,
        &[("sweep = \"tell\"", "sweep = \"remove\""), ("sweep_every = \"6h\"", "sweep_every = \"1s\"")],
    );
    let left = copy(&delivered, &named("eeee"), Some(&ended));
    daemon.up();
    until("it is swept", || !left.exists());
    until("the figures tell of the rest", || {
        let figures = String::from_utf8(daemon.get("/metrics").body).unwrap();
        figures.contains("leeward_leftovers{target=\"volumes\",removable=\"false\"} 1")
    });
    for (databases, count) in [(&["runs"][..], 2), (&["runs", "catalog"], 3)] {
        // What was delivered is remembered for longer than the run; without that, nobody knows what it is.
        daemon.kill();
        lose(&daemon, databases);
        daemon.up();
        until("it is looked for", || {
            let figures = String::from_utf8(daemon.get("/metrics").body).unwrap();
            figures.contains(&format!("leeward_leftovers{{target=\"volumes\",removable=\"false\"}} {count}"))
        });
        assert_eq!(of(&leftovers(&daemon), &id(&delivered)).is_some(), count == 3);
    }
    let removed = sweep(&daemon, &["--all-ended"]);
    assert!(removed.status.success() && lines(&removed).is_empty());
    for volume in [&delivered, &live, &stranger] {
        assert!(volume.exists(), "{}", volume.display());
    }
    assert_holds(&delivered, &raw);
    let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(
        log.contains(&format!("volume {} (", id(&left))) && log.contains("is removed: its run has ended"),
        "{log}"
    );
}

#[test]
fn a_volume_that_is_left_in_oci_is_offered_and_removed_and_a_delivered_one_stays() {
    let Some(bed) = Bed::find() else { return };
    let (mut daemon, bucket) = bed.daemon("1");
    daemon.kill();
    configure(&daemon, &[("sweep_age = \"24h\"", "sweep_age = \"1s\"")]);
    bed.up(&mut daemon);
    let path = daemon.path("disk.raw");
    disk(&path, 8 << 20, 37);
    bed.put(&bucket, "disk.raw", &path, &json!({}));
    let begin = |daemon: &Daemon| {
        let body = json!({ "source": "bucket", "object": "disk.raw" });
        daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned()
    };
    let delivering = begin(&daemon);
    assert_eq!(daemon.until(&delivering, &["succeeded", "held"])["state"], "succeeded");
    let volumes = |run: &str| bed.sdk(&["volumes", run]).as_array().unwrap().clone();
    let delivered = volumes(&delivering).remove(0);
    let delivered = delivered["id"].as_str().unwrap();

    // The creation that a cancelled run had asked for shows when the run is over.
    let ended = cancelled(&daemon, "bucket");
    let late = bed.sdk(&["leak", &ended, "1"])["id"].as_str().unwrap().to_owned();
    std::thread::sleep(Duration::from_secs(2));
    let found = leftovers(&daemon);
    assert_eq!(of(&found, &late).unwrap()["removable"], true, "{found:#?}");
    assert!(of(&found, delivered).is_none(), "{found:#?}");
    assert!(!sweep(&daemon, &["--remove", delivered]).status.success());
    let removed = sweep(&daemon, &["--all-ended", "--target", "cloud"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    until("it is gone", || volumes(&ended).iter().all(|volume| volume["state"] != "AVAILABLE"));
    assert_eq!(volumes(&delivering)[0]["state"], "AVAILABLE");

    // The daemon is killed while it writes, and its state is lost: what it made is attached to its own machine.
    configure(&daemon, &[("import_vpus = 20", "import_vpus = 20\nlimit_bytes_per_second = 30000")]);
    daemon.kill();
    bed.up(&mut daemon);
    let lost = begin(&daemon);
    until("it writes", || {
        let run = daemon.run(&lost);
        let steps = run["steps"].as_array().unwrap();
        steps.iter().any(|step| step["name"] == "write_image_to_bv" && step["state"] == "running")
    });
    assert!(of(&leftovers(&daemon), volumes(&lost)[0]["id"].as_str().unwrap()).is_none(), "its run goes on");
    daemon.kill();
    lose(&daemon, &["runs", "catalog"]);
    bed.up(&mut daemon);
    let left = volumes(&lost).remove(0);
    let left = left["id"].as_str().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let found = leftovers(&daemon);
    let leftover = of(&found, left).unwrap();
    assert_eq!((&leftover["removable"], &leftover["run_state"]), (&json!(false), &Value::Null));
    assert_eq!(volumes(&lost)[0]["attached"].as_array().unwrap().len(), 1, "to the machine that writes");
    assert_eq!(
        of(&found, delivered).unwrap()["removable"],
        false,
        "nobody knows any more that it was delivered"
    );
    let removed = sweep(&daemon, &["--all-ended"]);
    assert!(removed.status.success());
    for id in [left, delivered] {
        assert!(lines(&removed).iter().all(|line| line["id"] != id), "{id} was nobody's to remove");
    }
    let removed = sweep(&daemon, &["--remove", left]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    until("it is gone", || volumes(&lost).iter().all(|volume| volume["state"] != "AVAILABLE"));
    assert_eq!(volumes(&delivering)[0]["state"], "AVAILABLE");
}

/// What holds a snapshot for ever is listed; a run's own hold goes with all that is over, a strange one by its id only.
#[test]
fn holds_of_lost_runs_are_let_go() {
    let daemon = restores::site(|text| text.replace("sweep_age = \"24h\"", "sweep_age = \"1s\""));
    let raw = daemon.path("web.raw");
    disk(&raw, 4 << 20, 77);
    let snapshot = restores::back_up(&daemon, &raw, "web/root");
    let done = daemon.leeward(&["restore", "web/root", "--target", "volumes", "--wait"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(leftovers(&daemon).is_empty(), "{:#?}", leftovers(&daemon));
    let run = daemon.get("/v1/runs").json()["runs"][0]["id"].as_str().unwrap().to_owned();
    let strange = "0".repeat(run.len());
    let hold = |name: &str| {
        let held = restores::repository(&daemon, &["hold", "web/root", "--name", name]);
        assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
    };
    hold(&format!("run-{run}"));
    hold(&format!("run-{strange}"));
    hold("run-of-the-mill");
    hold("audit");
    let id = |run: &str| format!("web/root@{snapshot}:run-{run}");
    std::thread::sleep(Duration::from_millis(1500));

    let found = leftovers(&daemon);
    assert_eq!(found.len(), 2, "{found:#?}");
    let own = of(&found, &id(&run)).unwrap();
    assert_eq!(
        (&own["kind"], &own["target"], &own["removable"]),
        (&json!("hold"), &json!("[repository]"), &json!(true))
    );
    assert_eq!(of(&found, &id(&strange)).unwrap()["removable"], false);
    let names = || {
        let logged = restores::succeeds(restores::repository(&daemon, &["log", "web/root", "--json"]));
        let holds = logged[0]["holds"].as_array().cloned().unwrap_or_default();
        holds.iter().map(|hold| hold["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 4);
    // Elsewhere there is nothing of the kind.
    assert!(lines(&sweep(&daemon, &["--target", "volumes"])).is_empty());
    assert_eq!(lines(&sweep(&daemon, &["--target", "[repository]"])).len(), 2);
    let removed = sweep(&daemon, &["--all-ended"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    let still = names();
    assert!(!still.contains(&format!("run-{run}")) && still.len() == 3, "{still:?}");
    let refused = sweep(&daemon, &["--remove", &format!("web/root@{snapshot}:audit")]);
    assert!(!refused.status.success(), "that is no run's");
    assert!(sweep(&daemon, &["--remove", &id(&strange)]).status.success());
    let mut still = names();
    still.sort();
    assert_eq!(still, ["audit", "run-of-the-mill"]);
    assert!(leftovers(&daemon).is_empty());
}
