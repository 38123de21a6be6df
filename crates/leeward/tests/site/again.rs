//! Steps that are done again: after a volume was lost or changed, after the run had succeeded, with other inputs.

use serde_json::json;

use super::daemon::{Daemon, assert_holds, disk, image};

/// A site with an import that has succeeded: the daemon, the run, and the disk that its volume holds.
fn imported(change: impl Fn(String) -> String) -> (Daemon, String, std::path::PathBuf) {
    let daemon = Daemon::start(change);
    let raw = daemon.path("disk.raw");
    disk(&raw, 16 << 20, 21);
    image(&raw, &daemon.path("inbox/again.qcow2"), "qcow2", &[]);
    let run = daemon.import("again.qcow2", json!({}));
    daemon.until(&run, &["succeeded"]);
    (daemon, run, raw)
}

fn retry(daemon: &Daemon, run: &str, body: &serde_json::Value) {
    let answer = daemon.post(&format!("/v1/runs/{run}/retry"), body);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

fn remove_volumes(daemon: &Daemon) {
    for entry in std::fs::read_dir(daemon.path("volumes")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn a_volume_that_was_made_anew_is_written_anew() {
    let (daemon, run, raw) = imported(|text| text);
    // The new one has the same name here: only reading it tells that it is empty.
    remove_volumes(&daemon);
    assert!(daemon.volumes().is_empty());
    retry(&daemon, &run, &json!({"step": "create_block_volume"}));
    daemon.until(&run, &["succeeded"]);
    let volumes = daemon.volumes();
    assert_eq!(volumes.len(), 1);
    assert_holds(&volumes[0], &raw);
}

#[test]
fn a_volume_that_was_changed_since_is_found_and_written_again() {
    use std::os::unix::fs::FileExt;
    let (daemon, run, raw) = imported(|text| text);
    let volume = std::fs::File::options().write(true).open(&daemon.volumes()[0]).unwrap();
    // Where the image has no data, and where it has some.
    volume.write_all_at(b"somebody was here", (4 << 20) - 100).unwrap();
    volume.write_all_at(b"and here", 4 << 20).unwrap();
    retry(&daemon, &run, &json!({"step": "attach_block_volume"}));
    daemon.until(&run, &["succeeded"]);
    assert_holds(&daemon.volumes()[0], &raw);
    let log = daemon.leeward(&["run", "log", &run]);
    assert!(
        String::from_utf8_lossy(&log.stdout).contains("differs: "),
        "it was compared, and the log says where"
    );
}

#[test]
fn what_a_run_has_delivered_is_not_removed_when_it_is_done_again_and_cancelled() {
    let (daemon, run, raw) = imported(|text| text);
    // From the last steps; and from the making of the volume, which is found again.
    for step in ["update_performance_of_bv", "create_block_volume"] {
        // Not to be done: its source is not there.
        retry(&daemon, &run, &json!({"step": step, "inputs": {"source": "nowhere", "vpus_per_gb": 10}}));
        daemon.until(&run, &["running", "held", "succeeded"]);
        // The last steps need no source: they may be done before this arrives.
        daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
        daemon.until(&run, &["cancelled", "succeeded"]);
        assert_holds(&daemon.volumes()[0], &raw);
    }
    assert_eq!(daemon.run(&run)["state"], "cancelled");
}

#[test]
fn a_device_that_is_not_the_volume_any_more_is_not_written() {
    let daemon = Daemon::start(|text| text);
    let raw = daemon.path("disk.raw");
    disk(&raw, 8 << 20, 23);
    image(&raw, &daemon.path("inbox/gated.qcow2"), "qcow2", &[]);
    let body = json!({"source": "inbox", "object": "gated.qcow2", "gated": true});
    let answer = daemon.post("/v1/imports", &body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let run = answer.json()["run"].as_str().unwrap().to_owned();
    let steps: Vec<_> =
        daemon.run(&run)["steps"].as_array().unwrap().iter().map(|step| step["name"].clone()).collect();
    let write = steps.iter().position(|name| name == "write_image_to_bv").unwrap();
    let release = |step: &serde_json::Value| {
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/release"), &json!({"step": step})).status, 200);
    };
    steps[..write].iter().for_each(release);
    let is_attached = || daemon.run(&run)["steps"][write - 1]["state"] == "succeeded";
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_attached() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Somebody detaches it, as in the provider's console.
    let record = daemon.volumes()[0].with_extension("json");
    let mut known: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    assert!(!known["attached"].is_null());
    known["attached"] = serde_json::Value::Null;
    std::fs::write(&record, known.to_string()).unwrap();
    // What comes after it first: a run that is held releases nothing.
    steps[write..].iter().rev().for_each(release);
    let held = daemon.until(&run, &["held"]);
    assert!(held["reason"].as_str().unwrap().contains("is not at "), "{held:#}");
    let content = std::fs::read(&daemon.volumes()[0]).unwrap();
    assert!(content.iter().all(|byte| *byte == 0), "nothing was written");
    retry(&daemon, &run, &json!({"step": "attach_block_volume"}));
    steps[write - 2..].iter().for_each(release);
    daemon.until(&run, &["succeeded"]);
    assert_holds(&daemon.volumes()[0], &raw);
}

#[test]
fn a_run_makes_volumes_in_one_target_only() {
    let two =
        |text: String| format!("{text}\n[target.elsewhere]\nkind = \"directory\"\npath = \"elsewhere\"\n");
    let (daemon, run, raw) = imported(two);
    retry(&daemon, &run, &json!({"step": "create_block_volume", "inputs": {"target": "elsewhere"}}));
    let held = daemon.until(&run, &["held"]);
    let reason = held["reason"].as_str().unwrap();
    assert!(reason.contains("has made volume") && reason.contains("target volumes"), "{reason}");
    retry(&daemon, &run, &json!({"inputs": {"target": "volumes"}}));
    daemon.until(&run, &["succeeded"]);
    assert_holds(&daemon.volumes()[0], &raw);
    // Held again, and cancelled as the hint says: the result of the run stays.
    retry(&daemon, &run, &json!({"step": "create_block_volume", "inputs": {"target": "elsewhere"}}));
    daemon.until(&run, &["held"]);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_holds(&daemon.volumes()[0], &raw);
    let elsewhere = std::fs::read_dir(daemon.path("elsewhere")).map_or(0, Iterator::count);
    assert_eq!(elsewhere, 0);
}

#[test]
fn errors_of_a_file_system_have_the_import_undone_where_they_shall() {
    let daemon =
        Daemon::start(|text| text.replace("filesystem_errors = \"hold\"", "filesystem_errors = \"fail\""));
    let raw = daemon.path("inbox/broken.raw");
    std::fs::File::create(&raw).unwrap().set_len(16 << 20).unwrap();
    let run_tool = |program: &str, arguments: &[&str]| {
        let path = raw.to_str().unwrap();
        let done = std::process::Command::new(program)
            .args(arguments)
            .arg(path)
            .output()
            .expect("e2fsprogs is there");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run_tool("mke2fs", &["-q", "-F", "-t", "ext4"]);
    run_tool("debugfs", &["-w", "-R", "clri <11>"]);
    let run = daemon.import("broken.raw", json!({}));
    let failed = daemon.until(&run, &["failed", "held", "succeeded"]);
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert!(failed["reason"].as_str().unwrap().contains("has errors"), "{failed:#}");
    assert!(daemon.volumes().is_empty(), "its volume is removed");
}
