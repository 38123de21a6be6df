//! Imports into a pool of RBD, on the test bed ceph: bytes by QEMU's driver, compared by Ceph's own export.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::bridges::{log, retry, state_of, until, until_log, until_nobody_serves, until_written, writers};
use super::daemon::{Daemon, assert_holds, disk, image};

/// A pool of a test's own, which goes with it.
struct Pool {
    configuration: PathBuf,
    name: String,
}

impl Pool {
    fn find(name: &str) -> Option<Self> {
        let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
        let configuration = beds.join("ceph/ceph.conf");
        let name = format!("leeward-site-{}-{name}", std::process::id());
        let pool = Self { configuration, name };
        let mut asked = Command::new("timeout");
        asked.args(["20", "ceph", "status", "--conf"]).arg(&pool.configuration);
        if !pool.configuration.exists() || !asked.output().is_ok_and(|output| output.status.success()) {
            println!(
                "SKIPPED: the test bed ceph is not up ({}), or ceph is not installed",
                pool.configuration.display()
            );
            return None;
        }
        pool.ceph(&["osd", "pool", "create", &pool.name, "1"]);
        pool.rbd(&["pool", "init", &pool.name]);
        Some(pool)
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        let done = command.args(arguments).arg("--conf").arg(&self.configuration).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn rbd(&self, arguments: &[&str]) -> String {
        self.tool("rbd", arguments)
    }

    fn ceph(&self, arguments: &[&str]) -> String {
        self.tool("ceph", arguments)
    }

    fn images(&self) -> Vec<String> {
        self.rbd(&["ls", &self.name]).lines().map(str::to_owned).collect()
    }

    /// The one image, which nobody has open any more, as a file: read by Ceph's own tool.
    fn exported(&self, daemon: &Daemon) -> PathBuf {
        let images = self.images();
        assert_eq!(images.len(), 1, "{images:?}");
        let path = daemon.path("exported.raw");
        let _ = std::fs::remove_file(&path);
        self.rbd(&["export", "--no-progress", &self.spec(&images[0]), path.to_str().unwrap()]);
        path
    }

    fn spec(&self, image: &str) -> String {
        format!("{}/{image}", self.name)
    }

    /// A daemon whose imports go into the pool, or into `pool` where another is named.
    fn daemon(&self, pool: Option<&str>, more: &str) -> Daemon {
        let target = format!(
            "\n[target.pool]\nkind = \"rbd\"\npool = \"{}\"\nceph_conf = \"{}\"\nceph_user = \"admin\"\n{more}\n",
            pool.unwrap_or(&self.name),
            self.configuration.display()
        );
        Daemon::start(|text| {
            text.replace("lease_seconds = 30", "lease_seconds = 5")
                .replace("target = \"volumes\"", "target = \"pool\"")
                + &target
        })
    }

    /// Writes over an image behind the daemon's back.
    fn scribble(&self, image: &str, offset: u64, length: u64) {
        let spec = format!("rbd:{}:id=admin:conf={}", self.spec(image), self.configuration.display());
        let write = format!("write -P 0xa5 {offset} {length}");
        let done = Command::new("qemu-io").args(["-f", "raw", "-c", &write, &spec]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut command = Command::new("ceph");
        command.args(["osd", "pool", "delete", &self.name, &self.name, "--yes-i-really-really-mean-it"]);
        let _ = command.arg("--conf").arg(&self.configuration).output();
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until another bridge writes, and asserts that it begins when the earlier one has gone.
fn until_written_by_others(daemon: &Daemon, run: &str, earlier: u32) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let present = writers(&format!("file.pool=leeward-site-{}-kill", std::process::id()));
        let is_gone = !present.contains(&earlier);
        assert!(is_gone || present.len() == 1, "two write: {present:?}");
        if is_gone && !present.is_empty() || daemon.run(run)["state"] == "succeeded" {
            return;
        }
        assert!(Instant::now() < end, "the earlier bridge stays: {present:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A disk of 64 MiB with a GPT and a file system in its one partition.
fn partitioned(path: &Path) {
    let shell = |line: &str| {
        let done = Command::new("sh").args(["-c", line, "sh"]).arg(path).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    shell("truncate -s 64M \"$1\"");
    shell("printf 'label: gpt\\nstart=2048, size=81920\\n' | /usr/sbin/sfdisk -q \"$1\"");
    shell("/usr/sbin/mke2fs -q -F -t ext4 -E offset=1048576 -d /usr/share/doc/util-linux \"$1\" 40M");
}

#[test]
fn an_image_that_is_imported_is_an_image_of_the_pool_checked_and_with_its_table_at_the_end() {
    let Some(pool) = Pool::find("whole") else { return };
    let daemon = pool.daemon(None, "");
    let raw = daemon.path("disk.raw");
    partitioned(&raw);
    image(&raw, &daemon.path("inbox/web.old.qcow2"), "qcow2", &["-c"]);
    let run = daemon.import("web.old.qcow2", json!({}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&pool.exported(&daemon), &raw);
    let image_name = pool.images()[0].clone();
    assert!(image_name.starts_with("web.old.qcow2-"), "{image_name}");
    let told = log(&daemon, &run);
    assert!(told.contains("past the page cache: all as written"), "{told}");
    let steps = ended["steps"].as_array().unwrap();
    let of = |name: &str| &steps.iter().find(|step| step["name"] == name).unwrap()["outputs"];
    let device = &of("wait_for_attachment")["devices"][0];
    assert_eq!(device, &json!(format!("rbd:{}", pool.spec(&image_name))));
    let checked = &of("fsck_on_block_volume")["volumes"][0]["volumes"][0];
    assert_eq!(
        (&checked["file_system"], &checked["verdict"]["verdict"]),
        (&json!("ext"), &json!("clean")),
        "{checked:#}"
    );
    let metadata = pool.rbd(&["image-meta", "get", &pool.spec(&image_name), "leeward"]);
    assert!(metadata.contains(&run) && metadata.contains("\"read_only\":null"), "{metadata}");
    pool.rbd(&["rm", "--no-progress", &pool.spec(&image_name)]);

    // A larger volume: what is behind the disk is zero but for the table's backup, which is moved there.
    std::fs::write(
        daemon.path("inbox/larger.qcow2.leeward.json"),
        r#"{"size_gib": "1", "move_gpt": "true"}"#,
    )
    .unwrap();
    image(&raw, &daemon.path("inbox/larger.qcow2"), "qcow2", &[]);
    let run = daemon.import("larger.qcow2", json!({}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let exported = pool.exported(&daemon);
    assert_eq!(std::fs::metadata(&exported).unwrap().len(), 1 << 30);
    assert!(log(&daemon, &run).contains("the backup of the GPT is moved"));
    let sound = Command::new("/usr/sbin/sgdisk").arg("--verify").arg(&exported).output().unwrap();
    let said = String::from_utf8_lossy(&sound.stdout);
    assert!(said.contains("No problems found"), "{said}");
}

#[test]
fn killed_while_it_writes_it_goes_on_and_no_bridge_is_left() {
    let Some(pool) = Pool::find("kill") else { return };
    let mut daemon = pool.daemon(None, "limit_bytes_per_second = 500000");
    let raw = daemon.path("kill.raw");
    disk(&raw, 192 << 20, 41);
    image(&raw, &daemon.path("inbox/kill.qcow2"), "qcow2", &[]);
    let run = daemon.import("kill.qcow2", json!({}));
    // So far that a checkpoint is kept, by its own window of 5 s.
    until_written(&daemon, &run, Duration::from_secs(8));
    assert_eq!(writers(&pool.name).len(), 1, "one bridge writes");
    daemon.kill();
    until_nobody_serves(&pool.name);
    daemon.up();
    until_written(&daemon, &run, Duration::from_secs(2));
    // A bridge that stands still when its daemon dies, with requests that it has not sent yet: the next one does not begin beside
    // it, but ends it.
    let stuck = writers(&pool.name);
    assert_eq!(stuck.len(), 1, "one bridge writes");
    signal(stuck[0], rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_secs(1));
    daemon.kill();
    daemon.up();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(writers(&pool.name), stuck, "nobody writes beside it");
    until_written_by_others(&daemon, &run, stuck[0]);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert!(log(&daemon, &run).contains("going on at byte"));
    assert_holds(&pool.exported(&daemon), &raw);
    // Whoever has it compared again finds what was changed since, also where there is nothing in the image, and mends it.
    let name = pool.images()[0].clone();
    pool.scribble(&name, (4 << 20) - 65_536, 65_536);
    pool.scribble(&name, 8 << 20, 4096);
    retry(&daemon, &run, &json!({"step": "attach_block_volume"}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert!(log(&daemon, &run).contains("differs: "));
    assert_holds(&pool.exported(&daemon), &raw);
}

#[test]
fn a_cancelled_import_leaves_no_image_and_one_that_is_open_elsewhere_is_not_written() {
    let Some(pool) = Pool::find("open") else { return };
    let daemon = pool.daemon(None, "limit_bytes_per_second = 400000");
    let raw = daemon.path("inbox/open.raw");
    disk(&raw, 64 << 20, 43);
    let run = daemon.import("open.raw", json!({}));
    until(&daemon, &run, |run| state_of(run, "write_image_to_bv") == "running");
    let cancelled = daemon.leeward(&["run", "cancel", &run]);
    assert!(cancelled.status.success());
    daemon.until(&run, &["cancelled"]);
    assert_eq!(pool.images(), Vec::<String>::new(), "a cancelled import leaves no image");
    assert_eq!(writers(&pool.name), Vec::<u32>::new());

    // Somebody else has the image open: nothing is written until it is closed.
    let fast = pool.daemon(None, "");
    disk(&fast.path("inbox/open.raw"), 16 << 20, 47);
    let run = fast.import("open.raw", json!({}));
    let ended = fast.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let name = pool.images()[0].clone();
    let socket = fast.path("other.sock");
    let spec = format!("rbd:{}:id=admin:conf={}", pool.spec(&name), pool.configuration.display());
    let mut other = Command::new("qemu-nbd")
        .args(["--persistent", "--format=raw", "--socket"])
        .arg(&socket)
        .arg(&spec)
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !socket.exists() {
        assert!(Instant::now() < end, "the other user does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    retry(&fast, &run, &json!({"step": "attach_block_volume"}));
    until_log(&fast, &run, "the image is open elsewhere, at ");
    other.kill().unwrap();
    other.wait().unwrap();
    let ended = fast.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&pool.exported(&fast), &fast.path("inbox/open.raw"));
}

#[test]
fn a_pool_that_is_absent_or_without_room_is_told() {
    let Some(pool) = Pool::find("full") else { return };
    let absent = pool.daemon(Some("no-such-pool"), "");
    disk(&absent.path("inbox/a.raw"), 4 << 20, 3);
    let run = absent.import("a.raw", json!({}));
    until_log(&absent, &run, "rbd:no-such-pool: cannot list the volumes: the cluster has no such pool");
    drop(absent);

    let daemon = pool.daemon(None, "");
    let raw = daemon.path("inbox/full.raw");
    disk(&raw, 16 << 20, 53);
    pool.ceph(&["osd", "pool", "set-quota", &pool.name, "max_objects", "1"]);
    let end = Instant::now() + Duration::from_secs(120);
    while !pool
        .ceph(&["osd", "pool", "ls", "detail"])
        .lines()
        .any(|line| line.contains(&format!("'{}'", pool.name)) && line.contains("full_quota"))
    {
        assert!(Instant::now() < end, "the pool does not become full");
        std::thread::sleep(Duration::from_millis(500));
    }
    let run = daemon.import("full.raw", json!({}));
    until_log(&daemon, &run, "has reached its quota (of 0 bytes and 1 objects");
    assert_eq!(state_of(&daemon.run(&run), "write_image_to_bv"), "pending");
    pool.ceph(&["osd", "pool", "set-quota", &pool.name, "max_objects", "0"]);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&pool.exported(&daemon), &raw);
}

/// The quota is reached while an import writes: the cluster says nothing, it waits. The run says why, and goes on when there
/// is room.
#[test]
fn a_pool_that_becomes_full_while_it_is_written_is_told() {
    let Some(pool) = Pool::find("fills") else { return };
    let daemon = pool.daemon(None, "limit_bytes_per_second = 400000");
    let raw = daemon.path("fills.raw");
    disk(&raw, 128 << 20, 59);
    image(&raw, &daemon.path("inbox/fills.qcow2"), "qcow2", &[]);
    let run = daemon.import("fills.qcow2", json!({}));
    until_written(&daemon, &run, Duration::from_secs(1));
    pool.ceph(&["osd", "pool", "set-quota", &pool.name, "max_objects", "1"]);
    until_log(&daemon, &run, "has reached its quota");
    pool.ceph(&["osd", "pool", "set-quota", &pool.name, "max_objects", "0"]);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_holds(&pool.exported(&daemon), &raw);
}
