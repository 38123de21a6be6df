//! The daemon is killed at every step of an import, and at random moments: there is one volume in the end, and its bytes are
//! the image's.

use std::time::{Duration, Instant};

use serde_json::json;

use super::daemon::{Daemon, assert_holds, disk, image};

const STEPS: [&str; 14] = [
    "get_file_head",
    "create_instance",
    "get_private_ip",
    "wait_cloud_init_execution",
    "download_image_from_bucket",
    "create_block_volume",
    "attach_block_volume",
    "wait_for_attachment",
    "write_image_to_bv",
    "fsck_on_block_volume",
    "detach_block_volume",
    "terminate_instance",
    "update_performance_of_bv",
    "setup_backup_policy",
];

fn begun(run: &serde_json::Value, step: &str) -> bool {
    run["steps"]
        .as_array()
        .unwrap()
        .iter()
        .any(|found| found["name"] == step && found["tries"].as_u64() > Some(0))
}

/// Kills as soon as the step was seen to have begun.
#[test]
fn killed_at_every_step_it_ends_with_one_volume() {
    let short = |text: String| text.replace("lease_seconds = 30", "lease_seconds = 5");
    let mut daemon = Daemon::start(short);
    let raw = daemon.path("inbox/kill.raw");
    disk(&raw, 96 << 20, 17);
    let run = daemon.import("kill.raw", json!({}));
    let mut kills = 0;
    for step in STEPS {
        let end = Instant::now() + Duration::from_secs(120);
        let mut is_over = false;
        loop {
            let present = daemon.run(&run);
            is_over |= present["state"] == "succeeded";
            if begun(&present, step) || is_over {
                break;
            }
            assert!(Instant::now() < end, "{step}: {present:#}");
        }
        if is_over {
            break;
        }
        daemon.kill();
        kills += 1;
        daemon.up();
    }
    assert!(kills >= 5, "only {kills} kills were in time");
    daemon.until(&run, &["succeeded"]);
    let volumes = daemon.volumes();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    assert_holds(&volumes[0], &raw);
}

/// Random moments, while much is written slowly: what is read twice is a window at most.
#[test]
fn killed_at_random_moments_it_goes_on_where_it_was() {
    let slow = |text: String| {
        text.replace("lease_seconds = 30", "lease_seconds = 5")
            .replace("#limit_bytes_per_second = 100000000", "limit_bytes_per_second = 700000")
    };
    let mut daemon = Daemon::start(slow);
    let raw = daemon.path("slow.raw");
    disk(&raw, 256 << 20, 19);
    image(&raw, &daemon.path("inbox/slow.qcow2"), "qcow2", &[]);
    let run = daemon.import("slow.qcow2", json!({}));
    for number in 0..4_u64 {
        // The last two come after a window of 5 s has been kept.
        std::thread::sleep(Duration::from_millis(700 + 2411 * number));
        daemon.kill();
        daemon.up();
    }
    let ended = daemon.until(&run, &["succeeded"]);
    assert_holds(&daemon.volumes()[0], &raw);
    assert_eq!(daemon.volumes().len(), 1);
    let interruptions: u64 =
        ended["steps"].as_array().unwrap().iter().map(|step| step["interruptions"].as_u64().unwrap()).sum();
    assert!(interruptions >= 2, "{ended:#}");
    let log = daemon.get(&format!("/v1/runs/{run}/log?step=write_image_to_bv&most=1000")).json();
    let resumed = log["lines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["text"].as_str().unwrap().contains("going on at byte"));
    assert!(resumed.count() >= 1, "{log:#}");
}
