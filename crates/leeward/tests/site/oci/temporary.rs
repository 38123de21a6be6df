//! Temporary workers on the test bed. It boots nothing, so the test plays the machines: as soon as one runs, what its cloud-init
//! would run is run, under the directory that stands for it; when it is terminated, its processes end.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::super::workers::{free_port, lines, peak_bytes, resumed_at, step, until_line, until_written};
use super::*;

/// Plays the machines of a run until it is dropped.
struct Machines {
    stop: Arc<AtomicBool>,
    kills: Sender<()>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Machines {
    fn play(bed: &Bed, run: &str, folder: &Path) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let (kills, killed) = channel();
        let player = Player {
            state: bed.state.clone(),
            endpoint: bed.endpoint(),
            run: run.to_owned(),
            folder: folder.to_owned(),
            machines: BTreeMap::new(),
        };
        let is_over = Arc::clone(&stop);
        let thread = Some(std::thread::spawn(move || player.play(&is_over, &killed)));
        Self { stop, kills, thread }
    }

    /// Kills the worker's process; its machine goes on without it.
    fn kill_worker(&self) {
        self.kills.send(()).unwrap();
    }

    /// Ends it; returns the machines that there were, in the order of their launch.
    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

struct Player {
    state: PathBuf,
    endpoint: String,
    run: String,
    folder: PathBuf,
    machines: BTreeMap<String, Child>,
}

impl Player {
    fn play(mut self, stop: &AtomicBool, killed: &Receiver<()>) -> Vec<String> {
        let mut launched = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            if killed.try_recv().is_ok() {
                for child in self.machines.values_mut() {
                    child.kill().unwrap();
                    child.wait().unwrap();
                }
            }
            let found = sdk(&self.state, &self.endpoint, &["instances", &self.run]);
            for machine in found.as_array().unwrap() {
                let id = machine["id"].as_str().unwrap();
                match machine["state"].as_str().unwrap() {
                    "RUNNING" if !launched.contains(&id.to_owned()) => {
                        launched.push(id.to_owned());
                        self.boot(id, machine["user_data"].as_str().unwrap());
                    }
                    "TERMINATING" | "TERMINATED" => {
                        if let Some(mut child) = self.machines.remove(id) {
                            let _ = child.kill();
                            let _ = child.wait();
                        }
                    }
                    _ => {}
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        for child in self.machines.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        launched
    }

    fn boot(&mut self, id: &str, user_data: &str) {
        use base64::Engine;
        let script = base64::engine::general_purpose::STANDARD.decode(user_data).unwrap();
        let path = self.folder.join(format!("{}.sh", id.rsplit('.').next().unwrap()));
        std::fs::write(&path, script).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("cloud-init.log"))
            .unwrap();
        let child = Command::new("sh")
            .arg(&path)
            .env("LEEWARD_ROOT", self.state.join("instances").join(id))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.machines.insert(id.to_owned(), child);
    }
}

impl Bed {
    /// A daemon that launches a worker for each run.
    fn launching(&self, bytes_per_second: u64, held_seconds: u64) -> (Daemon, String) {
        let nanoseconds =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let bucket = format!("import-{nanoseconds}");
        let namespace = self.sdk(&["bucket", &bucket])["namespace"].as_str().unwrap().to_owned();
        let (endpoint, compartment, port) = (self.endpoint(), self.compartment(), free_port());
        let site: Value =
            serde_json::from_slice(&std::fs::read(self.state.join("site.json")).unwrap()).unwrap();
        let (subnet, picture) = (site["subnet"].as_str().unwrap(), site["images"][0][0].as_str().unwrap());
        let more = format!(
            r#"
[source.bucket]
location = "oci://{bucket}@{namespace}?endpoint={endpoint}&allow-http=true"
target = "cloud"

[target.cloud]
kind = "oci"
worker = "temporary"
worker_lost_seconds = 5
worker_start_seconds = 120
limit_bytes_per_second = {bytes_per_second}
device = "/dev/oracleoci/oraclevdb"
import_vpus = 20
final_vpus = 10
filesystem_errors = "warn"
oci = {{ compartment = "{compartment}", endpoint = "{endpoint}", poll_milliseconds = 100 }}

[target.cloud.temporary]
shape = "VM.Standard.E4.Flex"
cpus = 1
memory_gib = 8
image = "{picture}"
subnet = "{subnet}"
server = "http://127.0.0.1:{port}"
prepare_file = "prepare.sh"
held_seconds = {held_seconds}
"#
        );
        let mut daemon = Daemon::new(|text| {
            format!("{text}{more}")
                .replace("lease_seconds = 30", "lease_seconds = 5")
                .replace("127.0.0.1:0\"", &format!("127.0.0.1:{port}\""))
        });
        std::fs::write(daemon.path("prepare.sh"), "echo prepared > \"$private/prepared\"\n").unwrap();
        self.up(&mut daemon);
        (daemon, bucket)
    }

    /// The machines of a run that are not gone or going.
    fn machines(&self, run: &str) -> Vec<Value> {
        let all = self.sdk(&["instances", run]);
        let is_live = |one: &&Value| !one["state"].as_str().unwrap().starts_with("TERMINAT");
        all.as_array().unwrap().iter().filter(is_live).cloned().collect()
    }

    fn until_no_machine(&self, run: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.machines(run).is_empty() {
            assert!(Instant::now() < end, "{:#?}", self.machines(run));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn begin(daemon: &Daemon, options: Value) -> String {
    let body = json!({"source": "bucket", "object": "disk.qcow2", "options": options});
    let answer = daemon.post("/v1/imports", &body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["run"].as_str().unwrap().to_owned()
}

fn upload(bed: &Bed, daemon: &Daemon, bucket: &str, bytes: u64, metadata: &Value) -> PathBuf {
    let raw = daemon.path("disk.raw");
    disk(&raw, bytes, bytes | 131);
    let path = daemon.path("disk.qcow2");
    image(&raw, &path, "qcow2", &["-c"]);
    bed.put(bucket, "disk.qcow2", &path, metadata);
    raw
}

fn cloud_init(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.path("cloud-init.log")).unwrap_or_default()
}

#[test]
fn a_worker_is_launched_for_a_run_writes_its_volume_and_is_removed() {
    let Some(bed) = Bed::find() else { return };
    let (daemon, bucket) = bed.launching(100_000_000, 900);
    let metadata = json!({"display_name": "Web Server (old)", "team": "blue"});
    let raw = upload(&bed, &daemon, &bucket, 400 << 20, &metadata);
    // The first domain has no room.
    bed.control(
        "POST",
        "faults",
        &json!({
            "operation": "LaunchInstance", "count": 1, "status": 500, "code": "InternalError",
            "message": "Out of host capacity.",
        }),
    );
    let run = begin(&daemon, json!({}));
    let machines = Machines::play(&bed, &run, daemon.folder.path());
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}\n{}", cloud_init(&daemon));
    assert_eq!(machines.end().len(), 1);
    let volume = bed.volume(&run);
    assert_eq!(volume["attached"], json!([]));
    assert_holds_sparsely(Path::new(volume["file"].as_str().unwrap()), &raw);
    assert!(bed.machines(&run).is_empty());
    let launched = bed.sdk(&["instances", &run])[0].clone();
    assert!(launched["name"].as_str().unwrap().starts_with("web-server-old-"), "{launched:#}");
    assert_eq!(launched["domain"], volume["domain"]);
    assert_eq!(
        (&launched["tags"]["team"], &launched["tags"]["leeward-step"]),
        (&json!("blue"), &json!("create_instance"))
    );
    let refused = lines(&daemon, &run, "create_instance");
    assert!(refused.iter().any(|line| line.contains("Out of host capacity")), "{refused:#?}");
    for name in ["create_instance", "get_private_ip", "wait_cloud_init_execution", "terminate_instance"] {
        assert_eq!(step(&ended, name)["state"], "succeeded", "{name}");
    }
    let peak = peak_bytes(&daemon, &run);
    println!("the temporary worker's peak memory: {} MiB", peak >> 20);
    assert!(peak < 256 << 20, "{peak}");
    // What it was given is worth nothing now.
    let user_data = launched["user_data"].as_str().unwrap();
    let script = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, user_data).unwrap();
    let script = String::from_utf8(script).unwrap();
    let token = script.lines().find(|line| line.starts_with("lww_")).unwrap();
    let bearer = format!("Bearer {token}");
    for path in ["/v1/work/binary", "/v1/runs"] {
        assert_eq!(daemon.ask("GET", path, &[("authorization", &bearer)], "").status, 401, "{path}");
    }
    assert!(
        !std::fs::read(daemon.path("state/catalog.sqlite"))
            .unwrap()
            .windows(32)
            .any(|part| { part == &token.as_bytes()[4..36] })
    );
}

#[test]
fn a_temporary_worker_that_is_killed_is_removed_and_another_goes_on() {
    let Some(bed) = Bed::find() else { return };
    let (mut daemon, bucket) = bed.launching(900_000, 900);
    let raw = upload(&bed, &daemon, &bucket, 160 << 20, &json!({}));
    let run = begin(&daemon, json!({"ad_number": 2}));
    let machines = Machines::play(&bed, &run, daemon.folder.path());
    until_written(&daemon, &run, 84 << 20);
    machines.kill_worker();
    until_line(&daemon, &run, "is not heard any more");
    // And the daemon as well, while the second one is on its way.
    daemon.kill();
    bed.up(&mut daemon);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}\n{}", cloud_init(&daemon));
    let launched = machines.end();
    assert!(launched.len() >= 2, "{launched:?}");
    let volume = bed.volume(&run);
    assert!(volume["domain"].as_str().unwrap().ends_with("AD-2"));
    assert_eq!(volume["attached"], json!([]));
    assert_holds_sparsely(Path::new(volume["file"].as_str().unwrap()), &raw);
    assert!(bed.machines(&run).is_empty());
    assert!(resumed_at(&daemon, &run).iter().any(|at| *at > 0), "{:?}", resumed_at(&daemon, &run));
}

#[test]
fn a_cancelled_run_leaves_neither_volume_nor_machine() {
    let Some(bed) = Bed::find() else { return };
    let (daemon, bucket) = bed.launching(700_000, 900);
    upload(&bed, &daemon, &bucket, 160 << 20, &json!({}));
    let run = begin(&daemon, json!({}));
    let machines = Machines::play(&bed, &run, daemon.folder.path());
    until_written(&daemon, &run, 8 << 20);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(bed.sdk(&["volumes", &run]), json!([]));
    assert!(bed.machines(&run).is_empty());
    assert_eq!(machines.end().len(), 1);
}

#[test]
fn the_worker_of_a_held_run_is_removed_in_time_and_a_retry_launches_another() {
    let Some(bed) = Bed::find() else { return };
    let (daemon, bucket) = bed.launching(100_000_000, 3);
    let raw = upload(&bed, &daemon, &bucket, 24 << 20, &json!({}));
    let fault = json!({"operation": "CreateVolume", "count": 9, "status": 400, "code": "InvalidParameter"});
    bed.control("POST", "faults", &fault);
    let run = begin(&daemon, json!({}));
    let machines = Machines::play(&bed, &run, daemon.folder.path());
    let held = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(held["state"], "held", "{held:#}");
    assert_eq!(bed.machines(&run).len(), 1, "it is kept for a while");
    bed.until_no_machine(&run);
    bed.control("DELETE", "faults", &Value::Null);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &json!({})).status, 200);
    let ended = daemon.until(&run, &["succeeded", "held"]);
    assert_eq!(ended["state"], "succeeded", "{ended:#}\n{}", cloud_init(&daemon));
    assert_eq!(machines.end().len(), 2);
    assert!(bed.machines(&run).is_empty());
    assert_holds_sparsely(Path::new(bed.volume(&run)["file"].as_str().unwrap()), &raw);
}
