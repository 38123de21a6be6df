//! Writes that are killed, disturbed, limited, and that go on where they were.

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leeward_import::image::ImageOptions;
use leeward_import::verify::{VerifyCheckpoint, VerifyOptions, verify};
use leeward_import::write::{Checkpoint, WriteOptions, write};
use leeward_import::{Error, ErrorKind, Progress, Quiet, RateLimit, VolumeTarget, Watch, image};

use crate::support::{
    Bucket, DATA, MIB, assert_holds, disk, environment, import, noise, oci_endpoint, text, tool, used_volume,
};

const WINDOW: u64 = 16 * MIB;

/// What the child is told: everything it needs, in one variable.
const TOLD: &str = "LEEWARD_TEST_IMPORT";

/// Not a test: the process that is killed. It imports, keeps checkpoints in a file, and tells what it has read.
#[test]
#[ignore = "runs as a child of other tests"]
fn child() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let get = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    let variables: Vec<(String, String)> = serde_json::from_value(told["variables"].clone()).unwrap();
    let objects = leeward_remote::objects::open(&get("location"), &environment(&variables)).unwrap();
    let head = objects.head(&get("object")).unwrap();
    let image = image::open(&objects, &get("object"), &head, &ImageOptions::default(), &Quiet).unwrap();
    let disk = &image.disks[0];
    let target = VolumeTarget::open(Path::new(&get("volume")), disk.virtual_size()).unwrap();
    let (place, part) = (get("checkpoint"), format!("{}.part", get("checkpoint")));
    let from: Option<Checkpoint> =
        std::fs::read(&place).ok().map(|text| serde_json::from_slice(&text).unwrap());
    let keep = |checkpoint: &Checkpoint| {
        std::fs::write(&part, serde_json::to_vec(checkpoint)?)?;
        Ok(std::fs::rename(&part, &place)?)
    };
    let rate = told["rate"].as_u64().map(RateLimit::new);
    let options = WriteOptions {
        window_bytes: told["window"].as_u64().unwrap_or(WINDOW),
        limit: rate,
        requests: told["requests"].as_u64().map_or(12, |requests| requests as usize),
        ..WriteOptions::default()
    };
    let written = write(disk, &target, "volume-1", from.as_ref(), &options, &Quiet, &keep).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let received = objects.requests().map_or(0, |counts| counts.bytes_received);
    println!(
        "TOLD {}",
        serde_json::json!({ "received": received, "peak": peak, "digest": written.digest, "position": written.checkpoint.position })
    );
}

/// An import in a process of its own.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(
        bucket: &Bucket,
        object: &str,
        volume: &Path,
        checkpoint: &Path,
        more: &serde_json::Value,
    ) -> Self {
        let mut told = serde_json::json!({
            "location": bucket.location, "variables": bucket.variables, "object": object,
            "volume": text(volume), "checkpoint": text(checkpoint),
        });
        for (key, value) in more.as_object().unwrap() {
            told[key] = value.clone();
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "resume::child", "--nocapture", "--test-threads=1"])
            .env(TOLD, told.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Waits for its end, and returns what it told.
    pub fn told(self) -> serde_json::Value {
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("TOLD ")).unwrap().1;
        serde_json::from_str(line).unwrap()
    }

    /// Kills it, when it has kept a checkpoint or after a time.
    fn kill(mut self, checkpoint: &Path, before: &[u8], longest: Duration) {
        let until = Instant::now() + longest;
        while Instant::now() < until {
            let is_new = std::fs::read(checkpoint).is_ok_and(|now| !now.is_empty() && now != before);
            if is_new || self.child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.signal() == Some(9) || status.success(), "{status}");
    }
}

/// A raw image killed at many moments: it ends well, and what is read twice is a window at most for each kill.
#[test]
fn a_killed_import_goes_on_and_reads_one_window_again_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (raw, volume, checkpoint) = (path("disk.raw"), path("volume"), path("checkpoint"));
    let bytes = 96 * MIB;
    disk(&raw, bytes, &[(0, bytes)]);
    let md5 = Command::new("md5sum").arg(&raw).output().unwrap();
    let md5 = String::from_utf8(md5.stdout).unwrap()[..32].to_owned();
    let buckets = [Bucket::oci(), Bucket::ceph()];
    for bucket in buckets.into_iter().flatten() {
        bucket.put_with("disk", &raw, &[("md5", &md5)]);
        let _ = std::fs::remove_file(&checkpoint);
        used_volume(&volume, bytes + 8 * MIB);
        let more = serde_json::json!({ "rate": 60 * MIB, "window": WINDOW });
        let mut kills = 0;
        let mut last = Vec::new();
        for round in 0..4 {
            let process = Process::start(&bucket, "disk", &volume, &checkpoint, &more);
            process.kill(&checkpoint, &last, Duration::from_secs(60));
            let kept = std::fs::read(&checkpoint).unwrap();
            let position = serde_json::from_slice::<Checkpoint>(&kept).unwrap().position;
            println!("{}: killed in round {round}, kept up to {position}", bucket.location);
            kills += u32::from(kept != last);
            last = kept;
        }
        assert!(kills >= 3);
        let kept: Checkpoint = serde_json::from_slice(&last).unwrap();
        let told = Process::start(&bucket, "disk", &volume, &checkpoint, &more).told();
        assert_holds(&volume, &raw);
        let received = told["received"].as_u64().unwrap();
        // What was settled is not read again, but for both ends, by which the format is told.
        let needed = bytes - kept.position.min(bytes);
        assert!(received <= needed + MIB, "{received} for {needed}: {told}");
        // The digest went on from its state.
        assert_eq!(told["digest"]["result"], "matches", "{told}");
        let written: Checkpoint = serde_json::from_slice(&std::fs::read(&checkpoint).unwrap()).unwrap();
        let verified =
            verify(&volume, &written, None, &VerifyOptions::default(), &Quiet, &|_| Ok(())).unwrap();
        assert!(verified.is_equal());
    }
}

/// Stops after so many bytes of progress, or never; notes the most data that lay behind the last checkpoint.
struct Stop {
    after: u64,
    seen: AtomicU64,
}

impl Watch for Stop {
    fn progress(&self, progress: Progress) {
        self.seen.fetch_max(progress.done_bytes, Ordering::SeqCst);
    }

    fn is_cancelled(&self) -> bool {
        self.seen.load(Ordering::SeqCst) >= self.after
    }
}

/// No more than a window is read beyond what is settled, whatever the format.
#[test]
fn no_more_than_a_window_is_at_stake() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, 64 * MIB, &[(0, 64 * MIB)]);
    let Some(bucket) = Bucket::oci().or_else(Bucket::ceph) else { return };
    bucket.put("disk", &raw);
    used_volume(&volume, 64 * MIB);
    let disk = bucket.disk("disk");
    let target = VolumeTarget::open(&volume, 0).unwrap();
    let base = bucket.received();
    let worst = Mutex::new((0, 0));
    let keep = |checkpoint: &Checkpoint| {
        // What was read up to now, against what a crash before this moment had kept.
        let mut worst = worst.lock().unwrap();
        let (most, before) = *worst;
        *worst = ((bucket.received() - base).saturating_sub(before).max(most), checkpoint.position);
        Ok(())
    };
    let options = WriteOptions { window_bytes: WINDOW, ..WriteOptions::default() };
    write(&disk, &target, "v", None, &options, &Quiet, &keep).unwrap();
    let most = worst.lock().unwrap().0;
    println!("at stake at most: {most} bytes of a window of {WINDOW}");
    // A unit may be handed out when the window is not yet full.
    assert!(most > 0 && most <= WINDOW + 2 * MIB, "{most}");
}

#[test]
fn a_cancelled_import_keeps_what_is_done_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, 65 * MIB, &DATA);
    let bucket = Bucket::directory();
    bucket.put("disk", &raw);
    tool("gzip", &["-kf1", text(&raw)]);
    bucket.put("disk.gz", &folder.path().join("disk.raw.gz"));
    for name in ["disk", "disk.gz"] {
        used_volume(&volume, 70 * MIB);
        let disk = bucket.disk(name);
        let target = VolumeTarget::open(&volume, 0).unwrap();
        let kept = Mutex::new(None);
        let keep = |checkpoint: &Checkpoint| {
            *kept.lock().unwrap() = Some(checkpoint.clone());
            Ok(())
        };
        let stop = Stop { after: 30 * MIB, seen: AtomicU64::new(0) };
        let options = WriteOptions { requests: 3, ..WriteOptions::default() };
        let error = write(&disk, &target, "v", None, &options, &stop, &keep).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        let from = kept.lock().unwrap().clone().unwrap();
        assert!(from.position >= 30 * MIB && !from.is_complete(), "{}", from.position);
        // What is before the checkpoint is not touched again.
        let mark = [0x77; 512];
        std::fs::OpenOptions::new().write(true).open(&volume).unwrap().write_all_at(&mark, 2 * MIB).unwrap();
        let written = write(&disk, &target, "v", Some(&from), &options, &Quiet, &keep).unwrap();
        let check =
            || verify(&volume, &written.checkpoint, None, &VerifyOptions::default(), &Quiet, &|_| Ok(()));
        let verified = check().unwrap();
        assert_eq!((verified.differences.len(), verified.differences[0].offset), (1, 0), "the mark is found");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&volume)
            .unwrap()
            .write_all_at(&[0; 512], 2 * MIB)
            .unwrap();
        assert!(check().unwrap().is_equal());
        assert_holds(&volume, &raw);

        // A checkpoint of something else is refused.
        let other = |change: &dyn Fn(&mut Checkpoint)| {
            let mut other = from.clone();
            change(&mut other);
            write(&disk, &target, "v", Some(&other), &options, &Quiet, &keep).unwrap_err()
        };
        for error in [
            other(&|other| other.source.version = "x".into()),
            other(&|other| other.source.object = "x".into()),
            other(&|other| other.target.id = "x".into()),
            other(&|other| other.target.bytes += 512),
            other(&|other| other.position += 512),
            other(&|other| other.digests.ranges.push(Default::default())),
            other(&|other| other.version = 2),
        ] {
            assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        }
        // It survives being kept as text.
        let text = serde_json::to_string(&from).unwrap();
        assert_eq!(serde_json::from_str::<Checkpoint>(&text).unwrap(), from);
    }
}

#[test]
fn a_comparison_goes_on_from_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, 200 * MIB, &[(0, 150 * MIB)]);
    let bucket = Bucket::directory();
    bucket.put("disk", &raw);
    used_volume(&volume, 200 * MIB);
    let written = import(&bucket.disk("disk"), &volume, &WriteOptions::default()).unwrap().written.checkpoint;
    let kept = Mutex::new(Vec::<VerifyCheckpoint>::new());
    let keep = |checkpoint: &VerifyCheckpoint| {
        kept.lock().unwrap().push(checkpoint.clone());
        Ok(())
    };
    let stop = Stop { after: 100 * MIB, seen: AtomicU64::new(0) };
    let options = VerifyOptions { window_bytes: 32 * MIB, ..VerifyOptions::default() };
    assert!(verify(&volume, &written, None, &options, &stop, &keep).is_err());
    let from = kept.lock().unwrap().last().unwrap().clone();
    assert!(from.position >= 100 * MIB);
    std::fs::OpenOptions::new().write(true).open(&volume).unwrap().write_all_at(b"x", 180 * MIB).unwrap();
    let verified = verify(&volume, &written, Some(&from), &options, &Quiet, &keep).unwrap();
    assert_eq!(verified.differences.len(), 1);
    assert_eq!(verified.differences[0].offset, 128 * MIB);
    println!("{verified:?}");
    assert!(
        verify(&raw, &written, Some(&VerifyCheckpoint { position: 7, ..from }), &options, &Quiet, &keep)
            .is_err()
    );
}

/// Replaces the object when a part of it is read.
struct Replace<'a> {
    bucket: &'a Bucket,
    with: &'a Path,
    done: Mutex<bool>,
}

impl Watch for Replace<'_> {
    fn progress(&self, progress: Progress) {
        let mut done = self.done.lock().unwrap();
        if progress.done_bytes >= 8 * MIB && !std::mem::replace(&mut *done, true) {
            self.bucket.put("disk", self.with);
        }
    }
}

#[test]
fn an_object_that_is_replaced_midway_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let volume = path("volume");
    disk(&path("a.raw"), 64 * MIB, &[(0, 64 * MIB)]);
    std::fs::write(path("b.raw"), noise(99, 64 * MIB as usize)).unwrap();
    for (raw, image) in [("a.raw", "a.qcow2"), ("b.raw", "b.qcow2")] {
        tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&path(raw)), text(&path(image))]);
    }
    for bucket in Bucket::all() {
        for (first, second) in [("a.raw", "b.raw"), ("a.qcow2", "b.qcow2")] {
            bucket.put("disk", &path(first));
            used_volume(&volume, 64 * MIB);
            let disk = bucket.disk("disk");
            let target = VolumeTarget::open(&volume, 0).unwrap();
            let options = WriteOptions {
                requests: 2,
                window_bytes: 4 * MIB,
                limit: Some(RateLimit::new(400 * MIB)),
                ..WriteOptions::default()
            };
            let replace = Replace { bucket: &bucket, with: &path(second), done: Mutex::new(false) };
            let error = write(&disk, &target, "v", None, &options, &replace, &|_| Ok(())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Replaced, "{error}");
            assert!(error.to_string().contains("replaced"), "{error}");
        }
    }
}

/// Tells the test bed to disturb requests.
fn fault(rule: &serde_json::Value) {
    let rule = rule.to_string();
    let url = format!("{}/_control/faults", oci_endpoint());
    tool("curl", &["-sf", "-X", "POST", "-H", "content-type: application/json", "-d", &rule, &url]);
}

#[test]
fn downloads_that_are_cut_short_or_refused_are_made_again() {
    let Some(bucket) = Bucket::oci() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, 40 * MIB, &[(0, 40 * MIB)]);
    let name = format!("disturbed-{}", std::process::id());
    bucket.put(&name, &raw);
    used_volume(&volume, 40 * MIB);
    let disk = bucket.disk(&name);
    let get = |rule: serde_json::Value| {
        let mut rule = rule;
        rule["operation"] = "GetObject".into();
        rule["match"] = name.as_str().into();
        fault(&rule);
    };
    get(serde_json::json!({ "action": "truncate", "after_bytes": 100_000, "count": 5 }));
    get(serde_json::json!({ "status": 429, "count": 3, "skip": 2 }));
    get(serde_json::json!({ "status": 500, "count": 3, "skip": 4 }));
    let imported = import(&disk, &volume, &WriteOptions::default()).unwrap();
    assert!(imported.verified.is_equal());
    assert_holds(&volume, &raw);
    // Cut short for ever: an error that may pass, and what was done is kept.
    used_volume(&volume, 40 * MIB);
    println!("{:?}", bucket.objects.requests().map(|counts| counts.to_string()));
}

#[test]
fn a_volume_that_is_too_small_or_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, volume) = (folder.path().join("disk.raw"), folder.path().join("volume"));
    disk(&raw, 8 * MIB, &[(0, MIB)]);
    let bucket = Bucket::directory();
    bucket.put("disk", &raw);
    used_volume(&volume, 7 * MIB);
    let error = import(&bucket.disk("disk"), &volume, &WriteOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Space, "{error}");
    assert!(VolumeTarget::open(&folder.path().join("none"), 0).is_err());
    assert!(VolumeTarget::create(&volume, MIB).is_err(), "it is there already");
    let new = folder.path().join("new");
    let target = VolumeTarget::create(&new, 10 * MIB).unwrap();
    let disk = bucket.disk("disk");
    write(&disk, &target, "v", None, &WriteOptions::default(), &Quiet, &|_| Ok(())).unwrap();
    assert_holds(&new, &raw);
}
