//! Imports into OCI by iSCSI attachments, on the test bed: the daemon is the initiator, no device appears.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::bridges::{log, retry, state_of, until, until_nobody_serves, until_written, writers};
use super::daemon::{Daemon, disk, image};
use super::oci::{Bed, assert_holds_sparsely, until_runs};

/// The bed, where QEMU has its driver as well.
fn bed() -> Option<Bed> {
    let folder = tempfile::tempdir().unwrap();
    let tried = Command::new("qemu-nbd")
        .arg("--socket")
        .arg(folder.path().join("s"))
        .args(["--image-opts", "driver=raw,file.driver=iscsi"])
        .output();
    match tried {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("Unknown driver") => Bed::find(),
        _ => {
            println!("SKIPPED: qemu-nbd has no iscsi driver: install qemu-block-extra");
            None
        }
    }
}

fn daemon(bed: &Bed, more: &str) -> (Daemon, String) {
    bed.daemon_with("1", |_| format!("attachment = \"iscsi\"\n{more}"))
}

fn begin(daemon: &Daemon, object: &str) -> String {
    let body = json!({"source": "bucket", "object": object});
    daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned()
}

fn file_of(volume: &serde_json::Value) -> PathBuf {
    PathBuf::from(volume["file"].as_str().unwrap())
}

#[test]
fn an_image_that_is_put_into_the_bucket_ends_as_a_volume_by_iscsi() {
    let Some(bed) = bed() else { return };
    let (daemon, bucket) = daemon(&bed, "");
    bed.hook(&daemon);
    let raw = daemon.path("disk.raw");
    disk(&raw, 32 << 20, 61);
    let path = daemon.path("web.qcow2");
    image(&raw, &path, "qcow2", &["-c"]);
    bed.put(&bucket, "web.qcow2", &path, &json!({"backup_policy": "silver"}));
    let run = until_runs(&daemon, 1)[0].clone();
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let volume = bed.volume(&run);
    assert_eq!((&volume["attached"], volume["gib"].as_u64()), (&json!([]), Some(50)));
    assert_holds_sparsely(&file_of(&volume), &raw);
    let told = log(&daemon, &run);
    assert!(
        told.contains("iscsi://127.0.0.1:") && told.contains("past the page cache: all as written"),
        "{told}"
    );
}

#[test]
fn killed_while_it_writes_by_iscsi_it_goes_on_and_what_lay_there_is_gone() {
    let Some(bed) = bed() else { return };
    let (mut daemon, bucket) = daemon(&bed, "limit_bytes_per_second = 500000\n");
    let raw = daemon.path("kill.raw");
    disk(&raw, 128 << 20, 67);
    let path = daemon.path("kill.qcow2");
    image(&raw, &path, "qcow2", &[]);
    bed.put(&bucket, "kill.qcow2", &path, &json!({}));
    let run = begin(&daemon, "kill.qcow2");
    until_written(&daemon, &run, Duration::from_secs(8));
    let volume = bed.volume(&run);
    assert_eq!(writers("iqn.2015-12.com.oracleiaas").len(), 1);
    daemon.kill();
    until_nobody_serves("iqn.2015-12.com.oracleiaas");
    // What another tenant may have left on a new volume, near the end of the disk and behind it.
    scribble(&file_of(&volume), (120 << 20) - 65_536);
    scribble(&file_of(&volume), 1 << 30);
    bed.up(&mut daemon);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert!(log(&daemon, &run).contains("going on at byte"));
    assert_eq!(bed.volume(&run)["attached"], json!([]));
    assert_zero(&file_of(&volume), 1 << 30);
    assert_holds_sparsely(&file_of(&volume), &raw);
    // Changed after it was imported: whoever has it compared again finds it, and mends it.
    scribble(&file_of(&volume), 3 << 20);
    retry(&daemon, &run, &json!({"step": "attach_block_volume"}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert!(log(&daemon, &run).contains("differs: "));
    assert_holds_sparsely(&file_of(&volume), &raw);
}

fn scribble(volume: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(volume).unwrap();
    file.write_all_at(&[0xa5; 65_536], offset).unwrap();
}

fn assert_zero(volume: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let mut found = vec![0xff; 65_536];
    std::fs::File::open(volume).unwrap().read_exact_at(&mut found, offset).unwrap();
    assert!(found.iter().all(|byte| *byte == 0), "what lay at byte {offset} is still there");
}

#[test]
fn a_cancelled_import_by_iscsi_leaves_nothing() {
    let Some(bed) = bed() else { return };
    let (daemon, bucket) = daemon(&bed, "limit_bytes_per_second = 400000\n");
    let raw = daemon.path("slow.raw");
    disk(&raw, 64 << 20, 71);
    bed.put(&bucket, "slow.raw", &raw, &json!({}));
    let run = begin(&daemon, "slow.raw");
    until(&daemon, &run, |run| state_of(run, "write_image_to_bv") == "running");
    until_written(&daemon, &run, Duration::from_millis(200));
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(bed.sdk(&["volumes", &run]), json!([]));
    assert_eq!(writers("iqn.2015-12.com.oracleiaas"), Vec::<u32>::new());
}
