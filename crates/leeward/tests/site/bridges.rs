//! What tests of volumes behind a bridge share: who serves a disk, and how far a run is.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::Daemon;

/// The processes of `qemu-nbd` that have this in their arguments and may write.
pub fn writers(part: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let numbers = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let is_bridge = command.starts_with("qemu-nbd") && command.contains("--discard=unmap");
            is_bridge && command.contains(part) && !command.contains("--read-only")
        })
        .collect()
}

/// Waits until bridges that lost their daemon have ended: by themselves.
pub fn until_nobody_serves(part: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    while !writers(part).is_empty() {
        assert!(Instant::now() < end, "a bridge outlives its daemon: {:?}", writers(part));
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn state_of<'a>(run: &'a Value, step: &str) -> &'a str {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|found| found["name"] == step).unwrap()["state"].as_str().unwrap()
}

/// Waits until a run has become so.
pub fn until(daemon: &Daemon, run: &str, is_so: impl Fn(&Value) -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let present = daemon.run(run);
        if is_so(&present) {
            return;
        }
        assert!(Instant::now() < end, "not in time: {present:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until bytes were written, and for so long after that.
pub fn until_written(daemon: &Daemon, run: &str, more: Duration) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let told = daemon.get(&format!("/v1/runs/{run}")).json();
        if told["progress"]["write_image_to_bv"]["done"].as_u64().is_some_and(|done| done > 0) {
            break;
        }
        assert_ne!(told["run"]["state"], "succeeded", "it was too fast");
        assert!(Instant::now() < end, "not in time: {told:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(more);
    assert_ne!(daemon.run(run)["state"], "succeeded", "it was too fast");
}

/// All lines of a run's log.
pub fn log(daemon: &Daemon, run: &str) -> String {
    let told = daemon.get(&format!("/v1/runs/{run}/log?most=1000")).json();
    let lines = told["lines"].as_array().unwrap();
    lines.iter().map(|line| format!("{}\n", line["text"].as_str().unwrap())).collect()
}

/// Waits until the log of a run, or what it says of its steps, has this.
pub fn until_log(daemon: &Daemon, run: &str, part: &str) {
    let end = Instant::now() + Duration::from_secs(240);
    loop {
        let told = log(daemon, run);
        let present = daemon.run(run);
        if told.contains(part) || present.to_string().contains(part) {
            return;
        }
        assert!(Instant::now() < end, "not in time: {part:?}: {told}{present:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub fn retry(daemon: &Daemon, run: &str, body: &Value) {
    let answer = daemon.post(&format!("/v1/runs/{run}/retry"), body);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}
