//! Imports into OCI, on the test bed that Oracle's own clients accept: an object is put into a bucket, and a volume appears.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, assert_holds, disk, image};

mod temporary;

/// Hooks, faults and settings of the bed are for all, so its tests go one by one.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

/// A call of Oracle's SDK.
fn sdk(state: &Path, endpoint: &str, arguments: &[&str]) -> Value {
    let python = state.with_file_name("venv").join("bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/site/oci_client.py");
    let done = Command::new(python).arg(script).arg(state).arg(endpoint).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

pub struct Bed {
    pub state: PathBuf,
    port: String,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.control("DELETE", "hooks", &Value::Null);
        self.control("DELETE", "faults", &Value::Null);
    }
}

impl Bed {
    pub fn find() -> Option<Self> {
        let turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
        let state = PathBuf::from(variable("TESTBED_DIR", "/var/tmp/testbeds")).join("oci/state");
        let port = variable("OCI_PORT", "12780");
        let is_up = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
        if !is_up || !state.join("site.json").exists() {
            println!(
                "SKIPPED: the test bed oci is not up: nobody listens at port {port}, or {} is empty",
                state.display()
            );
            return None;
        }
        let bed = Self { state, port, _turn: turn };
        bed.control("DELETE", "hooks", &Value::Null);
        bed.control("DELETE", "faults", &Value::Null);
        bed.control(
            "PUT",
            "settings",
            &json!({
                "volume_provision": 0.3, "volume_terminate": 0.1, "volume_update": 0.1, "instance_provision": 0.1,
                "instance_terminate": 0.1, "attach": 0.3, "detach": 0.3,
            }),
        );
        Some(bed)
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut command = Command::new("curl");
        command.args(["-sS", "-X", method, "-H", "content-type: application/json"]);
        if !body.is_null() {
            command.args(["-d", &body.to_string()]);
        }
        let done =
            command.arg(format!("{}/_control/{path}", self.endpoint())).output().expect("curl is there");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap_or(Value::Null)
    }

    /// A call of Oracle's SDK.
    pub fn sdk(&self, arguments: &[&str]) -> Value {
        sdk(&self.state, &self.endpoint(), arguments)
    }

    pub fn put(&self, bucket: &str, name: &str, path: &Path, metadata: &Value) {
        self.sdk(&["put", bucket, name, path.to_str().unwrap(), &metadata.to_string()]);
    }

    /// A daemon with a bucket of its own as source, on an instance of the bed, and the bucket's name.
    pub fn daemon(&self, domain: &str) -> (Daemon, String) {
        self.daemon_with(domain, |instance| {
            let state = self.state.display();
            format!("device = \"/dev/oracleoci/oraclevdb\"\ndevice_root = \"{state}/instances/{instance}\"\n")
        })
    }

    /// The same with settings of the target that the instance decides.
    pub fn daemon_with(&self, domain: &str, settings: impl Fn(&str) -> String) -> (Daemon, String) {
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let bucket = format!("import-{seconds}");
        let namespace = self.sdk(&["bucket", &bucket])["namespace"].as_str().unwrap().to_owned();
        let instance = self.sdk(&["instance", domain])["id"].as_str().unwrap().to_owned();
        let endpoint = self.endpoint();
        let settings = settings(&instance);
        let more = format!(
            r#"
[source.bucket]
location = "oci://{bucket}@{namespace}?endpoint={endpoint}&allow-http=true"
watch = "events"
target = "cloud"
event_token_file = "events.secret"

[target.cloud]
kind = "oci"
instance = "{instance}"
{settings}import_vpus = 20
final_vpus = 10
filesystem_errors = "warn"
oci = {{ compartment = "{}", endpoint = "{endpoint}", poll_milliseconds = 100 }}
"#,
            self.compartment()
        );
        let mut daemon =
            Daemon::new(|text| format!("{text}{more}").replace("lease_seconds = 30", "lease_seconds = 5"));
        std::fs::write(daemon.path("events.secret"), "bucket-secret").unwrap();
        self.up(&mut daemon);
        (daemon, bucket)
    }

    pub fn up(&self, daemon: &mut Daemon) {
        let config = self.state.join("config");
        daemon.up_with(&[("OCI_CONFIG_FILE", config.to_str().unwrap()), ("OCI_PROFILE", "DEFAULT")]);
    }

    fn compartment(&self) -> String {
        let site: Value =
            serde_json::from_slice(&std::fs::read(self.state.join("site.json")).unwrap()).unwrap();
        site["compartments"][1][0].as_str().unwrap().to_owned()
    }

    /// From now on events of the bucket go to the daemon.
    pub fn hook(&self, daemon: &Daemon) {
        self.control("DELETE", "hooks", &Value::Null);
        let url = format!("http://{}/v1/hear/bucket?token=bucket-secret", daemon.address);
        self.control("POST", "hooks", &json!({ "url": url }));
    }

    /// The one volume of a run.
    pub fn volume(&self, run: &str) -> Value {
        let volumes = self.sdk(&["volumes", run]);
        assert_eq!(volumes.as_array().unwrap().len(), 1, "{volumes:#}");
        volumes[0].clone()
    }
}

pub fn runs(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/v1/runs").json()["runs"].as_array().unwrap().clone()
}

pub fn until_runs(daemon: &Daemon, count: usize) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let found = runs(daemon);
        if found.len() >= count {
            return found.iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
        }
        assert!(Instant::now() < end, "{found:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn state_of(run: &Value, step: &str) -> String {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|found| found["name"] == step).unwrap()["state"].as_str().unwrap().to_owned()
}

#[test]
fn an_image_that_is_put_into_the_bucket_ends_as_a_volume() {
    let Some(bed) = Bed::find() else { return };
    let (daemon, bucket) = bed.daemon("2");
    bed.hook(&daemon);
    let raw = daemon.path("disk.raw");
    disk(&raw, 32 << 20, 23);
    let path = daemon.path("web.old.qcow2");
    image(&raw, &path, "qcow2", &["-c"]);
    let metadata =
        json!({"ad_number": "2", "display_name": "web server", "backup_policy": "silver", "team": "blue"});
    bed.put(&bucket, "images/web.old.qcow2", &path, &metadata);
    std::fs::write(daemon.path("notes.txt"), "no image").unwrap();
    bed.put(&bucket, "notes.txt", &daemon.path("notes.txt"), &json!({}));
    let run = until_runs(&daemon, 1)[0].clone();
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let volume = bed.volume(&run);
    assert_eq!(volume["name"], "web.old.qcow2");
    assert_eq!(volume["gib"], 50);
    assert!(volume["domain"].as_str().unwrap().ends_with("AD-2"));
    assert_eq!((volume["state"].as_str(), volume["vpus"].as_u64()), (Some("AVAILABLE"), Some(10)));
    assert_eq!(
        (&volume["tags"]["team"], &volume["tags"]["display_name"]),
        (&json!("blue"), &json!("web server"))
    );
    assert_eq!(volume["attached"], json!([]));
    assert_eq!(volume["policies"].as_array().unwrap().len(), 1);
    assert_holds_sparsely(Path::new(volume["file"].as_str().unwrap()), &raw);
    let hints = daemon.get("/v1/heard").json();
    let notes =
        hints["hints"].as_array().unwrap().iter().find(|hint| hint["object"] == "notes.txt").unwrap().clone();
    assert_eq!(notes["state"], "ignored");
    assert_eq!(runs(&daemon).len(), 1, "the other object began nothing");
    // Without a policy the last step is skipped, and a repeated event makes no second volume.
    bed.put(&bucket, "plain.qcow2", &path, &json!({}));
    let second = until_runs(&daemon, 2)[0].clone();
    let ended = daemon.until(&second, &["succeeded", "held"]);
    assert_eq!(state_of(&ended, "setup_backup_policy"), "skipped");
    let event = json!({
        "eventType": "com.oraclecloud.objectstorage.createobject",
        "data": {"resourceName": "plain.qcow2", "additionalDetails": {"bucketName": bucket, "namespace": "n"}},
    });
    for _ in 0..3 {
        assert_eq!(
            daemon.ask("POST", "/v1/hear/bucket?token=bucket-secret", &[], &event.to_string()).status,
            202
        );
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(runs(&daemon).len(), 2);
    bed.volume(&second);
}

/// The volume of the bed is 50 GiB, sparse: only its beginning is compared, and that behind it nothing is allocated.
pub fn assert_holds_sparsely(volume: &Path, raw: &Path) {
    use std::io::Read;
    use std::os::unix::fs::MetadataExt;
    let length = std::fs::metadata(raw).unwrap().len();
    let copy = tempfile::NamedTempFile::new().unwrap();
    let mut begin = std::fs::File::open(volume).unwrap().take(length);
    std::io::copy(&mut begin, &mut copy.as_file()).unwrap();
    assert_holds(copy.path(), raw);
    let allocated = std::fs::metadata(volume).unwrap().blocks() * 512;
    assert!(allocated <= length + (4 << 20), "{allocated} bytes are allocated for a disk of {length}");
}

#[test]
fn a_domain_that_is_not_that_of_the_writer_holds_the_run() {
    let Some(bed) = Bed::find() else { return };
    let (daemon, bucket) = bed.daemon("1");
    let path = daemon.path("disk.raw");
    disk(&path, 4 << 20, 3);
    bed.put(&bucket, "disk.raw", &path, &json!({"ad_number": "3"}));
    let body = json!({"source": "bucket", "object": "disk.raw"});
    let run = daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned();
    let held = daemon.until(&run, &["held", "succeeded"]);
    assert_eq!(held["state"], "held", "{held:#}");
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(bed.sdk(&["volumes", &run]), json!([]));
}

/// The same path on another machine is another disk: a run whose volume is attached to one machine is not gone on with at another,
/// to which the configuration has been moved meanwhile.
#[test]
fn a_volume_is_written_by_the_machine_to_which_it_is_attached_and_by_no_other() {
    let Some(bed) = Bed::find() else { return };
    let (mut daemon, bucket) = bed.daemon("1");
    let path = daemon.path("disk.raw");
    std::fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
    for (program, arguments) in
        [("/sbin/mke2fs", &["-q", "-F", "-t", "ext4"][..]), ("/sbin/debugfs", &["-w", "-R", "clri <2>"])]
    {
        let done = Command::new(program).args(arguments).arg(&path).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    }
    bed.put(&bucket, "disk.raw", &path, &json!({}));
    let body = json!({"source": "bucket", "object": "disk.raw", "options": {"filesystem_errors": "hold"}});
    let run = daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned();
    let held = daemon.until(&run, &["held", "succeeded"]);
    assert_eq!(state_of(&held, "fsck_on_block_volume"), "failed", "{held:#}");

    let file = daemon.path("site.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let first = text.lines().find_map(|line| line.strip_prefix("instance = ")).unwrap().trim_matches('"');
    let other = bed.sdk(&["instance", "1"])["id"].as_str().unwrap().to_owned();
    let retry = |daemon: &Daemon| {
        let body = json!({"step": "write_image_to_bv"});
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &body).status, 200);
        daemon.until(&run, &["held", "succeeded"])
    };
    daemon.stop();
    std::fs::write(&file, text.replace(first, &other)).unwrap();
    bed.up(&mut daemon);
    let held = retry(&daemon);
    assert_eq!(state_of(&held, "write_image_to_bv"), "failed", "{held:#}");
    let told = held.to_string();
    assert!(told.contains(&format!("it is attached to {first}, and {other} is what writes now")), "{told}");

    daemon.stop();
    std::fs::write(&file, &text).unwrap();
    bed.up(&mut daemon);
    let held = retry(&daemon);
    assert_eq!(state_of(&held, "write_image_to_bv"), "succeeded", "{held:#}");
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(bed.sdk(&["volumes", &run]), json!([]));
}

/// Faults of every call that an import makes: before the work, after it with the answer lost, and slow ones; and in the
/// resources themselves. In the end there is one volume, whole, attached to nothing.
#[test]
fn faults_at_every_call_end_with_one_volume() {
    let Some(bed) = Bed::find() else { return };
    let (daemon, bucket) = bed.daemon("1");
    let path = daemon.path("disk.raw");
    disk(&path, 24 << 20, 29);
    bed.put(&bucket, "disk.raw", &path, &json!({"backup_policy": "gold"}));
    let operations = [
        "HeadObject",
        "GetObject",
        "ListAvailabilityDomains",
        "CreateVolume",
        "ListVolumes",
        "GetVolume",
        "AttachVolume",
        "GetVolumeAttachment",
        "DetachVolume",
        "UpdateVolume",
        "CreateVolumeBackupPolicyAssignment",
    ];
    let faults: Vec<Value> = operations
        .iter()
        .flat_map(|operation| {
            [
                json!({"operation": operation, "count": 2, "status": 503}),
                json!({"operation": operation, "count": 1, "status": 429, "headers": {"retry-after": "1"}}),
                json!({"operation": operation, "count": 1, "phase": "after", "action": "disconnect"}),
                json!({"operation": operation, "count": 1, "phase": "after", "status": 500}),
            ]
        })
        .chain([
            json!({"operation": "GetObject", "count": 3, "action": "truncate", "after_bytes": 100_000}),
            json!({"operation": "Transition:volume", "count": 1, "action": "fail"}),
            json!({"operation": "CreateVolume", "count": 1, "status": 404, "code": "NotAuthorizedOrNotFound"}),
        ])
        .collect();
    for fault in faults {
        bed.control("DELETE", "faults", &Value::Null);
        bed.control("POST", "faults", &fault);
        let body = json!({"source": "bucket", "object": "disk.raw"});
        let run = daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned();
        let mut ended = daemon.until(&run, &["succeeded", "held"]);
        if ended["state"] == "held" {
            // A person sees that the fault is over, and retries.
            bed.control("DELETE", "faults", &Value::Null);
            assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &json!({})).status, 200);
            ended = daemon.until(&run, &["succeeded", "held"]);
        }
        assert_eq!(ended["state"], "succeeded", "{fault}: {ended:#}");
        let volume = bed.volume(&run);
        assert_eq!(volume["attached"], json!([]), "{fault}");
        assert_eq!(volume["policies"].as_array().unwrap().len(), 1, "{fault}");
        assert_holds_sparsely(Path::new(volume["file"].as_str().unwrap()), &path);
    }
}

#[test]
fn the_daemon_killed_at_every_step_ends_with_one_volume() {
    let Some(bed) = Bed::find() else { return };
    let (mut daemon, bucket) = bed.daemon("3");
    let path = daemon.path("disk.raw");
    disk(&path, 64 << 20, 31);
    bed.put(&bucket, "disk.raw", &path, &json!({"backup_policy": "bronze"}));
    let body = json!({"source": "bucket", "object": "disk.raw"});
    let run = daemon.post("/v1/imports", &body).json()["run"].as_str().unwrap().to_owned();
    let steps = [
        "get_file_head",
        "download_image_from_bucket",
        "create_block_volume",
        "attach_block_volume",
        "wait_for_attachment",
        "write_image_to_bv",
        "fsck_on_block_volume",
        "detach_block_volume",
        "update_performance_of_bv",
        "setup_backup_policy",
    ];
    let mut kills = 0;
    for step in steps {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let present = daemon.run(&run);
            if present["state"] == "succeeded" || state_of(&present, step) != "pending" {
                break;
            }
            assert!(Instant::now() < end, "{step}: {present:#}");
        }
        if daemon.run(&run)["state"] == "succeeded" {
            break;
        }
        daemon.kill();
        kills += 1;
        bed.up(&mut daemon);
    }
    assert!(kills >= 6, "only {kills} kills were in time");
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let volume = bed.volume(&run);
    assert_eq!(volume["attached"], json!([]));
    assert_holds_sparsely(Path::new(volume["file"].as_str().unwrap()), &path);
}
