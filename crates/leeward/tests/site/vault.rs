//! Imports that end as snapshots in the site's repository: by hand, cancelled, undone, and with the daemon killed at every step.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, LEEWARD, assert_holds, disk, image};

const VAULT: &str = "\n[target.vault]\nkind = \"repository\"\n";

fn leeward(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(LEEWARD).arg("-r").arg(daemon.path("repository")).args(arguments).output().unwrap()
}

fn succeeds(done: &Output) -> String {
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text} {}", String::from_utf8_lossy(&done.stderr));
    text
}

/// A site with a repository as target, and more configuration behind it.
fn site(more: &str, change: impl Fn(String) -> String) -> Daemon {
    let mut daemon = Daemon::new(|text| {
        let text = text.replace("lease_seconds = 30", "lease_seconds = 5");
        let text = text.replace("target = \"volumes\"", "target = \"vault\"");
        change(format!("{text}\n[repository]\nlocation = \"repository\"\n{VAULT}{more}"))
    });
    succeeds(&leeward(&daemon, &["repo", "init"]));
    daemon.up();
    daemon
}

/// The snapshots of an image, oldest first.
fn snapshots(daemon: &Daemon, image: &str) -> Vec<Value> {
    let done = leeward(daemon, &["log", image, "--json"]);
    if !done.status.success() {
        return Vec::new();
    }
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .rev()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn images(daemon: &Daemon) -> Vec<String> {
    let answer = daemon.get("/v1/images").json();
    let found = answer.as_array().unwrap().iter();
    let mut names: Vec<_> = found
        .filter(|image| image["snapshots"].as_u64() > Some(0))
        .map(|image| image["image"].as_str().unwrap().to_owned())
        .filter(|name| !name.starts_with("leeward/"))
        .collect();
    names.sort();
    names
}

/// Restores a snapshot and compares it with a disk.
fn assert_restores(daemon: &Daemon, snapshot: &str, raw: &Path) {
    let to = daemon.path("restored.raw");
    let _ = std::fs::remove_file(&to);
    succeeds(&leeward(daemon, &["restore", snapshot, to.to_str().unwrap()]));
    assert_eq!(std::fs::metadata(&to).unwrap().len(), std::fs::metadata(raw).unwrap().len());
    assert_holds(&to, raw);
}

fn stored(run: &Value, number: usize) -> &Value {
    &outputs(run, "write_image_to_bv")["snapshots"][number]
}

fn outputs<'a>(run: &'a Value, step: &str) -> &'a Value {
    &step_of(run, step)["outputs"]
}

fn step_of<'a>(run: &'a Value, step: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|found| found["name"] == step).unwrap()
}

/// All lines of a run's log, none of them cut.
fn log(daemon: &Daemon, run: &str) -> String {
    let log = daemon.get(&format!("/v1/runs/{run}/log?most=1000")).json();
    log["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| format!("{}\n", line["text"].as_str().unwrap()))
        .collect()
}

fn import(daemon: &Daemon, object: &str, more: Value) -> String {
    let body = json!({ "source": "inbox", "object": object, "target": "vault", "options": more });
    let answer = daemon.post("/v1/imports", &body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["run"].as_str().unwrap().to_owned()
}

/// A file system with files, as a raw disk; false where the tool is missing.
fn file_system(path: &Path, bytes: u64) -> bool {
    std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path).output();
    made.is_ok_and(|done| done.status.success())
}

#[test]
fn an_import_ends_as_a_snapshot_and_a_second_one_stores_what_is_new() {
    let daemon = site("", |text| text);
    let raw = daemon.path("disk.raw");
    disk(&raw, 192 << 20, 7);
    image(&raw, &daemon.path("inbox/my.first.disk.qcow2"), "qcow2", &["-c"]);
    let note = json!({ "owner": "ops & co", "ad_number": "1" });
    std::fs::write(daemon.path("inbox/my.first.disk.qcow2.leeward.json"), note.to_string()).unwrap();
    let start = ["import", "start", "inbox", "my.first.disk.qcow2", "--target", "vault", "--wait"];
    let text = succeeds(&daemon.leeward(&start));
    assert!(text.contains("done       write_image_to_bv"), "{text}");
    let name = "imports/my.first.disk.qcow2";
    assert_eq!(images(&daemon), [name]);
    assert_restores(&daemon, name, &raw);
    let first = snapshots(&daemon, name);
    assert_eq!((first.len(), first[0]["tags"]["owner"].as_str()), (1, Some("ops & co")), "{first:#?}");
    let listed = daemon.get("/v1/runs?kind=import").json()["runs"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(first[0]["tags"]["leeward-run"], listed.as_str());
    let run = daemon.run(&listed);
    for step in ["create_instance", "attach_block_volume", "detach_block_volume", "setup_backup_policy"] {
        assert_eq!(step_of(&run, step)["state"], "skipped", "{step}");
    }
    let said = log(&daemon, &listed);
    assert!(said.contains("all as read from the object"), "{said}");
    assert!(said.contains("ad_number is asked for"), "{said}");
    let all = stored(&run, 0);
    assert!(all["read_back_bytes"].as_u64() >= all["data_bytes"].as_u64(), "{all:#}");
    // Nearly the same disk, under the same name: in the first part something is new.
    let changed: Vec<u8> = (0..100_000_u32).map(|number| ((number * 7) >> 3) as u8).collect();
    let file = std::fs::File::options().write(true).open(&raw).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &changed, (5 << 20) + 77).unwrap();
    image(&raw, &daemon.path("inbox/my.first.disk.qcow2"), "qcow2", &[]);
    let second = import(&daemon, "my.first.disk.qcow2", json!({}));
    let run = daemon.until(&second, &["succeeded"]);
    let more = stored(&run, 0);
    assert!(more["new_bytes"].as_u64().unwrap() <= 400_000, "{more:#}");
    assert!(more["stored_bytes"].as_u64().unwrap() <= 400_000, "{more:#}");
    let (read, data) = (more["read_back_bytes"].as_u64().unwrap(), more["data_bytes"].as_u64().unwrap());
    assert!(read > 0 && read < data, "{more:#}");
    assert!(log(&daemon, &second).contains("were not read again"));
    assert_eq!(snapshots(&daemon, name).len(), 2);
    assert_restores(&daemon, name, &raw);
    succeeds(&leeward(&daemon, &["check", "--read-data"]));
    assert!(daemon.peak_bytes() < 256 << 20, "{} MiB", daemon.peak_bytes() >> 20);
    assert_eq!(daemon.get("/v1/overview").status, 200);
    assert_eq!(daemon.get("/v1/leftovers").json()["leftovers"].as_array().map(Vec::len), Some(0));
}

#[test]
fn two_disks_of_an_ova_become_two_images_at_once_and_a_wrapped_disk_one() {
    let daemon = site("image = \"{source}/{folder}/{stem}\"\n", |text| text);
    let (one, other) = (daemon.path("one.raw"), daemon.path("other.raw"));
    disk(&one, 40 << 20, 3);
    disk(&other, 72 << 20, 5);
    std::fs::create_dir(daemon.path("inbox/vms")).unwrap();
    ova(&daemon, &daemon.path("inbox/vms/pair.ova"), &[&one, &other]);
    let run = import(&daemon, "vms/pair.ova", json!({}));
    daemon.until(&run, &["succeeded"]);
    let names = ["inbox/vms/pair-disk1", "inbox/vms/pair-disk2"];
    assert_eq!(images(&daemon), names);
    assert_restores(&daemon, names[0], &one);
    assert_restores(&daemon, names[1], &other);
    let groups: Vec<_> = names.map(|name| snapshots(&daemon, name)[0]["group"].clone()).into_iter().collect();
    assert!(groups[0].is_string() && groups[0] == groups[1], "{groups:?}");
    // In order only, and no multiple of anything.
    let odd = daemon.path("odd.raw");
    disk(&odd, (33 << 20) + 512, 9);
    let wrapped = Command::new("gzip").args(["-k", "-c"]).arg(&odd).output().unwrap();
    std::fs::write(daemon.path("inbox/odd.raw.gz"), &wrapped.stdout).unwrap();
    let run = import(&daemon, "odd.raw.gz", json!({}));
    daemon.until(&run, &["succeeded"]);
    assert_restores(&daemon, "inbox/odd", &odd);
    // A larger one is asked for: zeros behind the disk, which ends within a unit.
    std::fs::write(daemon.path("inbox/large.raw.gz"), &wrapped.stdout).unwrap();
    std::fs::write(daemon.path("inbox/large.raw.gz.leeward.json"), r#"{"size_gib":"1"}"#).unwrap();
    let run = import(&daemon, "large.raw.gz", json!({}));
    let run = daemon.until(&run, &["succeeded"]);
    assert_eq!(stored(&run, 0)["virtual_bytes"], 1_u64 << 30);
    assert!(stored(&run, 0)["new_bytes"].as_u64() < Some(1 << 20), "{run:#}");
    let to = daemon.path("large.raw");
    succeeds(&leeward(&daemon, &["restore", "inbox/large", to.to_str().unwrap()]));
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 1 << 30);
    assert_holds(&to, &odd);
    succeeds(&leeward(&daemon, &["check", "--read-data"]));
}

/// An OVA of these disks.
fn ova(daemon: &Daemon, path: &Path, disks: &[&PathBuf]) {
    let names: Vec<String> = (1..=disks.len()).map(|number| format!("disk{number}.vmdk")).collect();
    for (raw, name) in disks.iter().zip(&names) {
        image(raw, &daemon.path(name), "vmdk", &["-o", "subformat=streamOptimized"]);
    }
    let files: String = names
        .iter()
        .enumerate()
        .map(|(n, name)| format!("<File ovf:id=\"f{n}\" ovf:href=\"{name}\"/>"))
        .collect();
    let drives: String = (0..names.len())
        .map(|n| format!("<Disk ovf:diskId=\"d{n}\" ovf:fileRef=\"f{n}\" ovf:capacity=\"100\"/>"))
        .collect();
    let text = format!(
        "<?xml version=\"1.0\"?><Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References>{files}</References>\
         <DiskSection><Info/>{drives}</DiskSection></Envelope>"
    );
    std::fs::write(daemon.path("vm.ovf"), text).unwrap();
    let packed = Command::new("tar")
        .arg("-C")
        .arg(daemon.folder.path())
        .args(["--format=ustar", "-cf"])
        .arg(path)
        .arg("vm.ovf")
        .args(&names)
        .output()
        .unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
}

#[test]
fn names_from_outside_do_not_reach_what_is_somebody_elses() {
    let daemon = site("image = \"{folder}/{name}\"\n", |text| text);
    let raw = daemon.path("disk.raw");
    disk(&raw, 5 << 20, 3);
    // A machine's own line.
    succeeds(&leeward(&daemon, &["backup", raw.to_str().unwrap(), "web/root.raw"]));
    for folder in ["leeward/state", "web", "a b/.."] {
        let _ = std::fs::create_dir_all(daemon.path("inbox").join(folder.trim_end_matches("/..")));
    }
    std::fs::copy(&raw, daemon.path("inbox/leeward/state/site.raw")).unwrap();
    std::fs::copy(&raw, daemon.path("inbox/web/root.raw")).unwrap();
    for (object, why) in [("leeward/state/site.raw", "the site's own"), ("web/root.raw", "is no import's")] {
        let run = import(&daemon, object, json!({}));
        let held = daemon.until(&run, &["held"]);
        let failed = step_of(&held, "create_block_volume")["failure"]["message"].as_str().unwrap().to_owned();
        assert!(failed.contains(why), "{object}: {failed}");
        // Under another name it is an import like any other.
        let named = import(&daemon, object, json!({ "volume_name": format!("fine/{object}") }));
        if daemon.until(&named, &["succeeded", "held"])["state"] == "held" {
            panic!("{}", log(&daemon, &named));
        }
        daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
        daemon.until(&run, &["cancelled"]);
    }
    assert_eq!(snapshots(&daemon, "web/root.raw").len(), 1);
    let odd = "a b/größe & $(id).raw";
    std::fs::copy(&raw, daemon.path("inbox").join(odd)).unwrap();
    let run = import(&daemon, odd, json!({}));
    daemon.until(&run, &["succeeded"]);
    let mut found = images(&daemon);
    found.retain(|name| name.starts_with("a_b-"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_restores(&daemon, &found[0], &raw);
}

#[test]
fn a_cancelled_or_failed_run_leaves_nothing_and_never_touches_an_older_snapshot() {
    let slow =
        |text: String| format!("{text}limit_bytes_per_second = 4000000\nfilesystem_errors = \"fail\"\n");
    let daemon = site("", slow);
    let raw = daemon.path("disk.raw");
    disk(&raw, 128 << 20, 11);
    std::fs::copy(&raw, daemon.path("inbox/line.raw")).unwrap();
    let first = import(&daemon, "line.raw", json!({}));
    daemon.until(&first, &["succeeded"]);
    let before = snapshots(&daemon, "imports/line.raw");
    assert_eq!(before.len(), 1);
    // While it reads.
    disk(&raw, 128 << 20, 13);
    std::fs::copy(&raw, daemon.path("inbox/line.raw")).unwrap();
    let second = import(&daemon, "line.raw", json!({}));
    let end = Instant::now() + Duration::from_secs(120);
    while step_of(&daemon.run(&second), "write_image_to_bv")["state"] != "running" {
        assert!(Instant::now() < end, "{:#}", daemon.run(&second));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.post(&format!("/v1/runs/{second}/cancel"), &json!({})).status, 200);
    daemon.until(&second, &["cancelled"]);
    assert_eq!(snapshots(&daemon, "imports/line.raw"), before);
    // When its snapshot is there: a broken file system has the run undone.
    let broken = daemon.path("broken.raw");
    if !file_system(&broken, 16 << 20) {
        println!("SKIPPED: mkfs.ext4 is not there");
        return;
    }
    let run = |name: &str| {
        std::fs::copy(&broken, daemon.path("inbox").join(name)).unwrap();
        let run = import(&daemon, name, json!({}));
        (daemon.until(&run, &["succeeded", "failed", "held"])["state"].clone(), run)
    };
    assert_eq!(run("sound.raw").0, "succeeded");
    let file = std::fs::File::options().write(true).open(&broken).unwrap();
    // The tables of the first group, behind the super block: fsck repairs that, and so finds it.
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 12 << 10], 4096).unwrap();
    let (state, failed) = run("sound.raw");
    assert_eq!(state, "failed", "{}", log(&daemon, &failed));
    assert!(log(&daemon, &failed).contains("all as read from the object"));
    assert_eq!(snapshots(&daemon, "imports/sound.raw").len(), 1);
    assert_eq!(snapshots(&daemon, "imports/line.raw"), before);
    assert_restores(&daemon, "imports/line.raw@latest", &{
        let again = daemon.path("first.raw");
        disk(&again, 128 << 20, 11);
        again
    });
}

#[test]
fn a_step_that_is_done_again_finds_its_snapshot_and_what_was_delivered_stays() {
    let daemon = site("", |text| text);
    let raw = daemon.path("disk.raw");
    disk(&raw, 64 << 20, 23);
    std::fs::copy(&raw, daemon.path("inbox/again.raw")).unwrap();
    let run = import(&daemon, "again.raw", json!({}));
    daemon.until(&run, &["succeeded"]);
    let before = snapshots(&daemon, "imports/again.raw");
    let retry = |step: &str| {
        let answer = daemon.post(&format!("/v1/runs/{run}/retry"), &json!({ "step": step }));
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    };
    retry("write_image_to_bv");
    daemon.until(&run, &["succeeded"]);
    assert_eq!(snapshots(&daemon, "imports/again.raw"), before);
    let said = log(&daemon, &run);
    assert!(said.contains("they are compared again"), "{said}");
    // Forgotten by somebody: it is stored again, and there is one.
    succeeds(&leeward(&daemon, &["forget", "imports/again.raw@latest"]));
    retry("create_block_volume");
    daemon.until(&run, &["succeeded"]);
    assert_eq!(snapshots(&daemon, "imports/again.raw").len(), 1);
    assert_restores(&daemon, "imports/again.raw", &raw);
    // Cancelled after it had delivered: what it delivered stays.
    retry("create_block_volume");
    daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
    daemon.until(&run, &["cancelled", "succeeded"]);
    assert_eq!(snapshots(&daemon, "imports/again.raw").len(), 1);
    assert_restores(&daemon, "imports/again.raw", &raw);
}

/// Kills as soon as the step was seen to have begun.
#[test]
fn killed_at_every_step_it_ends_with_one_snapshot() {
    let mut daemon = site("", |text| format!("{text}limit_bytes_per_second = 30000000\n"));
    let raw = daemon.path("inbox/kill.raw");
    disk(&raw, 96 << 20, 17);
    let run = import(&daemon, "kill.raw", json!({}));
    let steps = daemon.run(&run)["steps"].as_array().unwrap().clone();
    let mut kills = 0;
    for step in steps.iter().map(|step| step["name"].as_str().unwrap()) {
        let end = Instant::now() + Duration::from_secs(120);
        let mut is_over = false;
        loop {
            let present = daemon.run(&run);
            is_over |= present["state"] == "succeeded";
            if step_of(&present, step)["tries"].as_u64() > Some(0) || is_over {
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
    let found = snapshots(&daemon, "imports/kill.raw");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_restores(&daemon, "imports/kill.raw", &raw);
    succeeds(&leeward(&daemon, &["check", "--read-data"]));
}

/// Random moments of the step that stores and publishes, so that some fall around the publication.
#[test]
fn killed_at_random_moments_there_is_one_snapshot_each() {
    let mut daemon = site("", |text| text);
    let mut random = 88_172_645_463_325_252_u64;
    for number in 0..6_u64 {
        let name = format!("random{number}.raw");
        let raw = daemon.path("inbox").join(&name);
        disk(&raw, 48 << 20, 31 + number);
        let run = import(&daemon, &name, json!({}));
        for _ in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            std::thread::sleep(Duration::from_millis(random % 700));
            daemon.kill();
            daemon.up();
        }
        daemon.until(&run, &["succeeded"]);
        let image = format!("imports/{name}");
        let found = snapshots(&daemon, &image);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_restores(&daemon, &image, &raw);
    }
    succeeds(&leeward(&daemon, &["check", "--read-data"]));
}

#[test]
fn a_snapshot_that_somebody_holds_is_not_forgotten_and_the_run_says_so() {
    let daemon = site("", |text| text);
    let broken = daemon.path("inbox/broken.raw");
    if !file_system(&broken, 16 << 20) {
        println!("SKIPPED: mkfs.ext4 is not there");
        return;
    }
    let file = std::fs::File::options().write(true).open(&broken).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 12 << 10], 4096).unwrap();
    let name = "imports/broken.raw";
    // Accepted as it is, by a person.
    let accepted = import(&daemon, "broken.raw", json!({}));
    daemon.until(&accepted, &["held"]);
    let skip = json!({ "step": "fsck_on_block_volume" });
    assert_eq!(daemon.post(&format!("/v1/runs/{accepted}/skip"), &skip).status, 200);
    daemon.until(&accepted, &["succeeded"]);
    let before = snapshots(&daemon, name);
    assert_eq!(before.len(), 1);
    let run = import(&daemon, "broken.raw", json!({}));
    daemon.until(&run, &["held"]);
    assert_eq!(snapshots(&daemon, name).len(), 2);
    let latest = format!("{name}@latest");
    succeeds(&leeward(&daemon, &["hold", &latest, "--name", "audit", "--reason", "to be looked at"]));
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    let stuck = daemon.until(&run, &["undo-failed"]);
    assert!(stuck.to_string().contains("audit: to be looked at"), "{stuck:#}");
    assert_eq!(snapshots(&daemon, name).len(), 2);
    succeeds(&leeward(&daemon, &["release", &latest, "--name", "audit"]));
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/undo"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(snapshots(&daemon, name), before);
}

#[test]
fn what_a_run_has_left_is_offered_and_forgotten_when_it_is_named() {
    let daemon = site("", |text| format!("{text}limit_bytes_per_second = 2000000\n"));
    let raw = daemon.path("disk.raw");
    disk(&raw, 96 << 20, 41);
    std::fs::copy(&raw, daemon.path("inbox/left.raw")).unwrap();
    let run = import(&daemon, "left.raw", json!({}));
    daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({}));
    daemon.until(&run, &["cancelled"]);
    // As a process would have left it that was taken for dead and published late.
    let tags = [format!("leeward-run={run}"), "leeward-step=create_block_volume".to_owned()];
    let disk = raw.to_str().unwrap();
    let backup = |more: &[&str]| {
        succeeds(&leeward(&daemon, &[&["backup", disk, "imports/left.raw"], more].concat()));
    };
    backup(&[]);
    backup(&["--tag", &tags[0], "--tag", &tags[1]]);
    let found = daemon.get("/v1/leftovers").json();
    let left = found["leftovers"].as_array().unwrap();
    assert_eq!(left.len(), 1, "{found:#}");
    let id = left[0]["id"].as_str().unwrap().to_owned();
    let made = snapshots(&daemon, "imports/left.raw");
    assert_eq!(id, format!("imports/left.raw@{}", made[1]["id"].as_str().unwrap()));
    let removed = daemon.post("/v1/leftovers/remove", &json!({ "ids": [id] }));
    assert_eq!(removed.status, 200, "{}", String::from_utf8_lossy(&removed.body));
    assert_eq!(snapshots(&daemon, "imports/left.raw"), made[..1]);
    assert_eq!(daemon.get("/v1/leftovers").json()["leftovers"].as_array().map(Vec::len), Some(0));
}
