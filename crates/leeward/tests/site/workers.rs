//! Standing workers: processes of `leeward worker` that write for a daemon, are killed, paused, and told to stop.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::daemon::{Daemon, LEEWARD, assert_holds, disk, image};

const NAME: &str = "writer";

/// A port that nobody listens at now: the daemon is to have the same one again when it is started again.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A daemon whose target is written by a standing worker, at most so fast.
fn daemon(bytes_per_second: Option<u64>) -> Daemon {
    let port = free_port();
    Daemon::start(|text| {
        let text = text
            .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
            .replace("lease_seconds = 30", "lease_seconds = 5")
            .replacen("#worker = \"writer\"", "worker = \"writer\"", 1)
            .replace("#worker_lost_seconds = 60", "worker_lost_seconds = 5")
            .replace("#[worker.writer]", "[worker.writer]");
        assert!(text.contains("\nworker = ") && text.contains("\n[worker.writer]"));
        match bytes_per_second {
            Some(limit) => text
                .replace("#limit_bytes_per_second = 100000000", &format!("limit_bytes_per_second = {limit}")),
            None => text,
        }
    })
}

fn token(daemon: &Daemon, name: &str, role: &str, more: &[&str]) -> PathBuf {
    let path = daemon.path(&format!("{name}.token"));
    let made = Command::new(LEEWARD)
        .args(["token", "add", "--tokens"])
        .arg(daemon.path("state/tokens"))
        .args([name, "--role", role, "--output"])
        .arg(&path)
        .args(more)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

/// A worker's process; it ends with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Worker {
    fn start(daemon: &Daemon, token: &std::path::Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(daemon.path("worker.log")).unwrap();
        let child = Command::new(LEEWARD)
            .args(["worker", "--server", &format!("http://{}", daemon.address), "--token-file"])
            .arg(token)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

pub fn lines(daemon: &Daemon, run: &str, step: &str) -> Vec<String> {
    let log = daemon.get(&format!("/v1/runs/{run}/log?step={step}&most=1000")).json();
    let lines = log["lines"].as_array().unwrap();
    lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

pub fn step(run: &Value, name: &str) -> Value {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|found| found["name"] == name).unwrap().clone()
}

/// Waits for a line of the log of the step that writes.
pub fn until_line(daemon: &Daemon, run: &str, part: &str) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let found = lines(daemon, run, "write_image_to_bv");
        if found.iter().any(|line| line.contains(part)) {
            return;
        }
        assert!(Instant::now() < end, "no {part:?} in {found:#?}: {:#}", daemon.run(run));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until so many bytes are told to be written.
pub fn until_written(daemon: &Daemon, run: &str, bytes: u64) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = daemon.get(&format!("/v1/runs/{run}")).json();
        let progress = answer["progress"]["write_image_to_bv"]["done"].as_u64();
        if progress.is_some_and(|done| done >= bytes) {
            return;
        }
        assert!(Instant::now() < end, "{answer:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// From which bytes attempts went on.
pub fn resumed_at(daemon: &Daemon, run: &str) -> Vec<u64> {
    let lines = lines(daemon, run, "write_image_to_bv");
    let at = lines.iter().filter_map(|line| line.strip_prefix("going on at byte "));
    at.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
}

/// The most memory that workers of a run have had, as they tell.
pub fn peak_bytes(daemon: &Daemon, run: &str) -> u64 {
    let lines =
        [lines(daemon, run, "write_image_to_bv"), lines(daemon, run, "fsck_on_block_volume")].concat();
    let told = lines.iter().filter_map(|line| line.strip_prefix("the worker's peak memory: "));
    told.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).max().unwrap()
}

#[test]
fn a_standing_worker_writes_and_checks_what_the_daemon_would() {
    let daemon = daemon(None);
    let worker = Worker::start(&daemon, &token(&daemon, NAME, "worker", &[]));
    let raw = daemon.path("disk.raw");
    disk(&raw, 700 << 20, 101);
    image(&raw, &daemon.path("inbox/disk.qcow2"), "qcow2", &["-c"]);
    let run = daemon.import("disk.qcow2", json!({}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&daemon.volumes()[0], &raw);
    assert_eq!(step(&ended, "create_instance")["state"], "skipped");
    for name in ["write_image_to_bv", "fsck_on_block_volume"] {
        let found = lines(&daemon, &run, name);
        assert!(found.iter().any(|line| line == "worker writer has taken the work"), "{name}: {found:#?}");
    }
    assert!(resumed_at(&daemon, &run).is_empty());
    let peak = peak_bytes(&daemon, &run);
    println!("the worker's peak memory: {} MiB", peak >> 20);
    assert!(peak < 256 << 20, "{peak}");
    // An archive of several disks: a piece of work for each. And one whose extents are objects beside it.
    image(&raw, &daemon.path("flat.vmdk"), "vmdk", &["-o", "subformat=monolithicFlat"]);
    std::fs::rename(daemon.path("flat-flat.vmdk"), daemon.path("inbox/flat-flat.vmdk")).unwrap();
    std::fs::rename(daemon.path("flat.vmdk"), daemon.path("inbox/flat.vmdk")).unwrap();
    let run = daemon.import("flat.vmdk", json!({ "volume_name": "flat" }));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    drop(worker);
}

#[test]
fn who_is_no_worker_of_the_site_gets_no_work_and_no_bytes() {
    let daemon = daemon(None);
    let tokens = [
        token(&daemon, "reader", "reader", &[]),
        token(&daemon, "another", "worker", &[]),
        token(&daemon, "old", "worker", &["--expires", "2026-01-01T00:00:00Z"]),
        daemon.path("admin.token"),
        {
            let path = daemon.path("made-up.token");
            std::fs::write(&path, format!("lww_{}", "0".repeat(64))).unwrap();
            path
        },
    ];
    for token in tokens {
        let done = Command::new(LEEWARD)
            .args(["worker", "--server", &format!("http://{}", daemon.address), "--token-file"])
            .arg(&token)
            .output()
            .unwrap();
        assert_eq!(
            done.status.code(),
            Some(9),
            "{}: {}",
            token.display(),
            String::from_utf8_lossy(&done.stderr)
        );
        let text = std::fs::read_to_string(&token).unwrap();
        let bearer = format!("Bearer {}", text.trim());
        for path in ["/v1/work/binary", "/v1/work/x/object?name=a.raw", "/v1/work/x/head?name=a.raw"] {
            let answer = daemon.ask("GET", path, &[("authorization", &bearer)], "");
            assert!(matches!(answer.status, 401 | 403 | 429), "{path}: {}", answer.status);
        }
    }
    // A worker's token is good for its work alone: neither runs nor other objects are shown to it.
    let text = std::fs::read_to_string(token(&daemon, NAME, "worker", &[])).unwrap();
    let bearer = format!("Bearer {}", text.trim());
    let ask = |method: &str, path: &str, body: &str| {
        daemon.ask(method, path, &[("authorization", &bearer)], body).status
    };
    for path in ["/v1/runs", "/v1/site", "/metrics", "/v1/sources/inbox/objects", "/v1/images"] {
        assert_eq!(ask("GET", path, ""), 403, "{path}");
    }
    assert_eq!(ask("POST", "/v1/imports", "{\"source\": \"inbox\", \"object\": \"a.raw\"}"), 403);
    assert_eq!(ask("GET", "/v1/work/x/object?name=a.raw", ""), 410);
    assert_eq!(ask("POST", "/v1/work/x/report?process=p", "{}"), 410);
    assert_eq!(ask("POST", "/v1/work/claim", "{\"process\": \"../x\"}"), 400);
    assert_eq!(ask("GET", "/v1/work/x/y/z", ""), 404);
}

#[test]
fn a_worker_that_is_killed_is_followed_by_one_that_goes_on_where_it_was() {
    let daemon = daemon(Some(700_000));
    let token = token(&daemon, NAME, "worker", &[]);
    let worker = Worker::start(&daemon, &token);
    let raw = daemon.path("slow.raw");
    disk(&raw, 256 << 20, 103);
    image(&raw, &daemon.path("inbox/slow.qcow2"), "qcow2", &[]);
    let run = daemon.import("slow.qcow2", json!({}));
    until_written(&daemon, &run, 96 << 20);
    worker.signal(Signal::KILL);
    drop(worker);
    let _second = Worker::start(&daemon, &token);
    until_line(&daemon, &run, "worker writer is not heard any more");
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&daemon.volumes()[0], &raw);
    assert_eq!(daemon.volumes().len(), 1);
    // What was written before is not written again, but for a window of 5 s of a limited rate.
    let at = resumed_at(&daemon, &run);
    assert!(at.len() == 1 && at[0] >= 24 << 20, "{at:?}");
}

#[test]
fn a_worker_outlives_a_daemon_that_is_killed() {
    let mut daemon = daemon(Some(700_000));
    let mut worker = Worker::start(&daemon, &token(&daemon, NAME, "worker", &[]));
    let raw = daemon.path("slow.raw");
    disk(&raw, 192 << 20, 107);
    image(&raw, &daemon.path("inbox/slow.qcow2"), "qcow2", &[]);
    let run = daemon.import("slow.qcow2", json!({}));
    until_written(&daemon, &run, 80 << 20);
    daemon.kill();
    daemon.up();
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&daemon.volumes()[0], &raw);
    assert!(resumed_at(&daemon, &run).iter().any(|at| *at > 0), "{:?}", resumed_at(&daemon, &run));
    assert_eq!(worker.0.try_wait().unwrap(), None, "it is the same process");
}

/// A worker that was paused for longer than its lease still has the device when it wakes; while it has, nobody else writes.
#[test]
fn a_worker_that_wakes_up_late_writes_nothing_beside_another() {
    let daemon = daemon(Some(700_000));
    let token = token(&daemon, NAME, "worker", &[]);
    let first = Worker::start(&daemon, &token);
    let raw = daemon.path("slow.raw");
    disk(&raw, 192 << 20, 109);
    image(&raw, &daemon.path("inbox/slow.qcow2"), "qcow2", &[]);
    let run = daemon.import("slow.qcow2", json!({}));
    until_written(&daemon, &run, 64 << 20);
    first.signal(Signal::STOP);
    let _second = Worker::start(&daemon, &token);
    until_line(&daemon, &run, "worker writer is not heard any more");
    // The second one has taken the work, and learns from the kernel that the first still has the device.
    until_line(&daemon, &run, "another program has it open and locked");
    first.signal(Signal::CONT);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&daemon.volumes()[0], &raw);
}

#[test]
fn a_cancelled_run_stops_its_worker_which_then_takes_other_work() {
    let daemon = daemon(Some(700_000));
    let _worker = Worker::start(&daemon, &token(&daemon, NAME, "worker", &[]));
    disk(&daemon.path("inbox/slow.raw"), 128 << 20, 113);
    let run = daemon.import("slow.raw", json!({}));
    until_written(&daemon, &run, 8 << 20);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert!(daemon.volumes().is_empty());
    let small = daemon.path("inbox/small.raw");
    disk(&small, 4 << 20, 127);
    let run = daemon.import("small.raw", json!({}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&daemon.volumes()[0], &small);
}
