//! Machines that are backed up by the clock: all disks at one moment, as a group, by what has changed where that is known.

use std::io::Read;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use leeward_store::simulation::Random;
use serde_json::{Value, json};

use super::common::machine::{Disk, Machine, SIZE, Write, assert_same, has_qemu};
use super::common::{Bench, MIB};
use super::daemon::{Daemon, LEEWARD};

fn repository(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(LEEWARD).arg("-r").arg(daemon.path("repository")).args(arguments).output().unwrap()
}

fn succeeds(done: Output) -> Vec<Value> {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = done.stdout.split(|byte| *byte == b'\n').filter(|line| line.first() == Some(&b'{'));
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn snapshots(daemon: &Daemon, image: &str) -> usize {
    let done = repository(daemon, &["log", image, "--json"]);
    if done.status.success() { succeeds(done).len() } else { 0 }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn fire(daemon: &Daemon, name: &str, full: bool) -> String {
    let fired = daemon.post(&format!("/v1/schedules/{name}/fire"), &json!({ "full": full }));
    assert_eq!(fired.status, 201, "{}", String::from_utf8_lossy(&fired.body));
    fired.json()["run"].as_str().unwrap().to_owned()
}

/// What came of a run's step.
fn output(run: &Value, step: &str) -> Value {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|found| found["name"] == step).unwrap()["outputs"].clone()
}

fn ended(daemon: &Daemon, run: &str) -> Value {
    let ended = daemon.until(run, &["succeeded", "failed", "cancelled"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    ended
}

/// Whether the newest snapshots of a machine's disks hold these bytes.
fn holds(daemon: &Daemon, image: &str, disks: &[Vec<u8>], context: &str) {
    for (number, wanted) in disks.iter().enumerate() {
        let target = daemon.path("restored.raw");
        let spec = format!("{image}/vd{number}");
        succeeds(repository(daemon, &["restore", &spec, target.to_str().unwrap(), "--force", "--no-sync"]));
        let mut found = Vec::new();
        std::fs::File::open(&target).unwrap().read_to_end(&mut found).unwrap();
        assert_same(&found, wanted, &format!("{context}: {spec}"));
    }
}

#[test]
fn machines_are_backed_up_by_runs_as_groups_of_one_moment() {
    if !has_qemu() {
        return;
    }
    let (bench, other) = (Bench::new(), Bench::new());
    let disks = [Disk::create(&bench, "a.qcow2", "qcow2", SIZE), Disk::create(&bench, "b.raw", "raw", SIZE)];
    let web = Machine::start(&bench, &disks, &[]);
    let db = Machine::start(&other, &[Disk::create(&other, "c.qcow2", "qcow2", 4 * MIB)], &[]);
    let machine = |name: &str, machine: &Machine, bench: &Bench| {
        format!(
            "[machine.{name}]\nlocation = '{}'\nimage = '{name}-01'\noverlay_dir = '{}'\nlimit_read = '2M'\n",
            machine.source(),
            bench.root()
        )
    };
    let mut daemon = Daemon::new(|text| {
        format!(
            "{text}\n[repository]\nlocation = 'repository'\n{}{}\
             [schedule.nightly]\ncron = '0 0 1 1 *'\nfull_cron = '0 0 1 6 *'\nbackup = {{ machines = ['web', 'db'] }}\n\
             [schedule.web]\ncron = '0 0 1 1 *'\nbackup = {{ machines = ['web'] }}\n",
            machine("web", &web, &bench),
            machine("db", &db, &other)
        )
    });
    succeeds(repository(&daemon, &["repo", "init", "--pack-size", "1M"]));
    daemon.up();
    let mut content = vec![vec![0; SIZE as usize]; 2];
    let mut random = Random::new(9);
    let mut write = |count: u32, content: &mut [Vec<u8>]| {
        for _ in 0..count {
            let write = Write::random(&mut random, 2, SIZE);
            web.write(&write);
            write.apply(content);
        }
    };
    write(40, &mut content);

    // Two machines are branches of one run; the first time all is read.
    let run = ended(&daemon, &fire(&daemon, "nightly", false));
    let made = output(&run, "machine-web");
    let parts = made["disks"].as_array().unwrap();
    assert_eq!(parts.len(), 2, "{made:#}");
    assert!(parts.iter().all(|part| part["group"] == parts[0]["group"] && part["capture"]["mode"] == "full"));
    assert!(parts.iter().all(|part| part["capture"]["reason"].is_string()), "{made:#}");
    assert_eq!(output(&run, "machine-db")["disks"].as_array().unwrap().len(), 1);
    holds(&daemon, "web-01", &content, "the first one");

    // Then what has changed where a bitmap tells that.
    write(10, &mut content);
    let run = ended(&daemon, &fire(&daemon, "nightly", false));
    let made = output(&run, "machine-web");
    let modes: Vec<&Value> =
        made["disks"].as_array().unwrap().iter().map(|part| &part["capture"]["mode"]).collect();
    assert_eq!(modes, ["incremental", "incremental"], "{made:#}");
    holds(&daemon, "web-01", &content, "what has changed");
    let run = ended(&daemon, &fire(&daemon, "nightly", true));
    let made = output(&run, "machine-web");
    assert!(
        made["disks"].as_array().unwrap().iter().all(|part| part["capture"]["mode"] == "full"),
        "{made:#}"
    );
    assert_eq!((snapshots(&daemon, "web-01/vd0"), snapshots(&daemon, "web-01/vd1")), (3, 3));

    // Killed while it reads all of it (which takes seconds by the limit): one more group, and nothing left in the machine.
    let run = fire(&daemon, "web", true);
    let progress = || daemon.get(&format!("/v1/runs/{run}")).json()["progress"].clone();
    until("the machine is read", || progress()["machine-web"]["done"].as_u64() > Some(0));
    daemon.kill();
    write(3, &mut content);
    daemon.up();
    let run = ended(&daemon, &run);
    assert!(run["steps"][0]["tries"].as_u64() >= Some(2), "{run:#}");
    assert_eq!((snapshots(&daemon, "web-01/vd0"), snapshots(&daemon, "web-01/vd1")), (4, 4));
    holds(&daemon, "web-01", &content, "after a kill");
    web.is_clean(2, "after a kill");

    // A cancelled one makes none, and the next one knows what has changed since the last that was made.
    let run = fire(&daemon, "web", true);
    until("the machine is read", || daemon.run(&run)["steps"][0]["state"] == "running");
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(snapshots(&daemon, "web-01/vd0"), 4);
    web.is_clean(2, "after it was cancelled");
    write(3, &mut content);
    ended(&daemon, &fire(&daemon, "web", false));
    holds(&daemon, "web-01", &content, "after a cancelled one");

    // A machine that is away leaves the others alone.
    web.end(true);
    let run = fire(&daemon, "nightly", false);
    until("the other one is backed up", || {
        let run = daemon.run(&run);
        run["steps"].as_array().unwrap().iter().filter(|step| step["state"] == "succeeded").count() == 1
    });
    assert_eq!(snapshots(&daemon, "db-01/vd0"), 4);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
}
