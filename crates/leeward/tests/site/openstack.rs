//! Imports into OpenStack, on the test bed's real Keystone, Glance, Cinder and Nova. The bed takes minutes to come up and is not
//! started by the tests: `testbeds/openstack/up primary`, then `cargo test --test site openstack`. Without it they say that they
//! are skipped.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, assert_holds, disk, image};
use super::openstack_proxy::{Act, Proxy};

/// The project's quota is for all, so the tests go one by one.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

struct Bed {
    state: PathBuf,
    token: String,
    endpoints: Vec<(String, String)>,
    _turn: MutexGuard<'static, ()>,
}

fn curl(arguments: &[&str]) -> String {
    let done = Command::new("curl").args(["-sS", "-i"]).args(arguments).output().expect("curl is there");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

impl Bed {
    fn find() -> Option<Self> {
        let turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
        let state = beds.join("openstack");
        let is_up = std::net::TcpStream::connect("127.0.0.11:5000").is_ok()
            && std::net::TcpStream::connect("127.0.0.11:8776").is_ok();
        if !is_up || !state.join("clouds.yaml").exists() {
            println!("SKIPPED: the test bed openstack is not up: see {}", state.display());
            return None;
        }
        let domain = json!({"name": "Default"});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user":
                {"name": "demo", "domain": domain, "password": "testbed-demo"}}},
            "scope": {"project": {"name": "demo", "domain": domain}}}});
        let answer = curl(&[
            "-H",
            "content-type: application/json",
            "-d",
            &body.to_string(),
            "http://127.0.0.11:5000/v3/auth/tokens",
        ]);
        let token = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("x-subject-token").then(|| value.trim().to_owned())
        });
        let told: Value = serde_json::from_str(&answer[answer.rfind("\r\n\r\n").unwrap()..]).unwrap();
        let endpoints = told["token"]["catalog"].as_array().unwrap().iter().filter_map(|entry| {
            let public = entry["endpoints"].as_array()?.iter().find(|one| one["interface"] == "public")?;
            Some((entry["type"].as_str()?.to_owned(), public["url"].as_str()?.to_owned()))
        });
        let endpoints = endpoints.collect();
        Some(Self { state, token: token.unwrap(), endpoints, _turn: turn })
    }

    fn ask(&self, method: &str, service: &str, path: &str, body: &Value) -> Value {
        let (_, url) = self.endpoints.iter().find(|(kind, _)| kind == service).expect("the catalogue has it");
        let url = format!("{}{path}", url.trim_end_matches('/'));
        let token = format!("x-auth-token: {}", self.token);
        let body = body.to_string();
        let mut arguments = vec!["-X", method, "-H", &token, "-H", "content-type: application/json"];
        if method == "POST" {
            arguments.extend(["-d", &body]);
        }
        arguments.push(&url);
        let answer = curl(&arguments);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        assert!(status.starts_with('2'), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    /// The volumes and the images of a run, whatever their state.
    fn left(&self, run: &str) -> (Vec<Value>, Vec<Value>) {
        let volumes = self.ask("GET", "volumev3", "/volumes/detail", &Value::Null);
        let own = |thing: &&Value, tags: &str| match tags {
            "" => thing["leeward-run"] == run,
            tags => thing[tags]["leeward-run"] == run,
        };
        let volumes = volumes["volumes"].as_array().unwrap().iter().filter(|thing| own(thing, "metadata"));
        let path = if self.endpoints.iter().any(|(kind, url)| kind == "image" && url.ends_with("/v2")) {
            "/images"
        } else {
            "/v2/images"
        };
        let images = self.ask("GET", "image", path, &Value::Null);
        let images = images["images"].as_array().unwrap().iter().filter(|thing| own(thing, ""));
        (volumes.cloned().collect(), images.cloned().collect())
    }

    /// The one volume of a run, which has left no image.
    fn volume(&self, run: &str) -> Value {
        let (volumes, images) = self.left(run);
        assert_eq!((volumes.len(), images.len()), (1, 0), "{volumes:#?} {images:#?}");
        assert_eq!(volumes[0]["status"], "available");
        volumes[0].clone()
    }

    /// The bytes of a volume, as the NFS back end keeps them.
    fn file(&self, volume: &Value) -> PathBuf {
        self.state.join("primary/nfs").join(format!("volume-{}", volume["id"].as_str().unwrap()))
    }

    fn delete(&self, volume: &Value) {
        let id = volume["id"].as_str().unwrap();
        self.ask("DELETE", "volumev3", &format!("/volumes/{id}"), &Value::Null);
    }

    /// A daemon whose target is the bed; with more keys of the target.
    fn daemon(&self, keys: &str, proxy: Option<&Proxy>) -> Daemon {
        let target = format!(
            "\n[target.cloud]\nkind = \"openstack\"\nfilesystem_errors = \"warn\"\n{keys}\n\
             openstack = {{ cloud = \"primary\", poll_milliseconds = 300 }}\n"
        );
        let mut daemon = Daemon::new(|text| {
            let text = text.replace("target = \"volumes\"", "target = \"cloud\"");
            format!("{text}{target}").replace("lease_seconds = 30", "lease_seconds = 5")
        });
        self.up(&mut daemon, proxy);
        daemon
    }

    fn up(&self, daemon: &mut Daemon, proxy: Option<&Proxy>) {
        let clouds = self.state.join("clouds.yaml");
        let address = proxy.map(|proxy| format!("http://{}", proxy.address)).unwrap_or_default();
        let mut environment = vec![("OS_CLIENT_CONFIG_FILE", clouds.to_str().unwrap())];
        if proxy.is_some() {
            environment.extend([
                ("HTTP_PROXY", address.as_str()),
                ("http_proxy", &address),
                ("NO_PROXY", ""),
            ]);
        }
        daemon.up_with(&environment);
    }
}

fn step<'a>(run: &'a Value, step: &str) -> &'a Value {
    run["steps"].as_array().unwrap().iter().find(|found| found["name"] == step).unwrap()
}

fn succeeded(daemon: &Daemon, run: &str) -> Value {
    let ended = daemon.until(run, &["succeeded", "held", "cancelled", "undo-failed"]);
    let log = || String::from_utf8_lossy(&daemon.leeward(&["run", "log", run]).stdout).into_owned();
    assert_eq!(ended["state"], "succeeded", "{ended:#}\n{}", log());
    ended
}

/// Whether a moment has come.
type Moment<'a> = dyn Fn(&Daemon) -> bool + 'a;

/// Waits until something is seen of a run.
fn until(what: &str, seen: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !seen() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_server_boots_from_an_imported_volume() {
    let Some(bed) = Bed::find() else { return };
    let daemon = bed.daemon("", None);
    let guest = bed.state.join("image/tiny.qcow2");
    std::fs::copy(&guest, daemon.path("inbox/tiny.guest.qcow2")).unwrap();
    let run = daemon.import("tiny.guest.qcow2", json!({}));
    let ended = succeeded(&daemon, &run);
    for name in ["create_instance", "attach_block_volume", "wait_for_attachment", "detach_block_volume"] {
        assert_eq!(step(&ended, name)["state"], "skipped", "{name}");
    }
    assert_eq!(step(&ended, "fsck_on_block_volume")["state"], "succeeded");
    let volume = bed.volume(&run);
    assert_eq!((&volume["name"], &volume["bootable"]), (&json!("tiny.guest.qcow2"), &json!("true")));
    let raw = daemon.path("tiny.raw");
    let made = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .arg(&guest)
        .arg(&raw)
        .status()
        .expect("qemu-img is there");
    assert!(made.success());
    assert_holds(&bed.file(&volume), &raw);
    let log = String::from_utf8_lossy(&daemon.leeward(&["run", "log", &run]).stdout).into_owned();
    assert!(log.contains("the sha512 that the cloud computed of them is that of what was read"), "{log}");
    assert!(log.contains("the cloud's own copying was not checked"), "{log}");

    let flavors = bed.ask("GET", "compute", "/flavors", &Value::Null);
    let flavor = flavors["flavors"].as_array().unwrap().iter().find(|one| one["name"] == "tiny").unwrap();
    let networks = bed.ask("GET", "network", "/v2.0/networks?name=private", &Value::Null);
    let server = bed.ask(
        "POST",
        "compute",
        "/servers",
        &json!({"server": {
            "name": "from-import", "flavorRef": flavor["id"],
            "networks": [{"uuid": networks["networks"][0]["id"]}],
            "block_device_mapping_v2": [{
                "boot_index": 0, "uuid": volume["id"], "source_type": "volume", "destination_type": "volume",
                "delete_on_termination": false,
            }],
        }}),
    );
    let id = server["server"]["id"].as_str().unwrap().to_owned();
    let end = Instant::now() + Duration::from_secs(400);
    let console = loop {
        std::thread::sleep(Duration::from_secs(3));
        let told = bed.ask("GET", "compute", &format!("/servers/{id}"), &Value::Null);
        let status = told["server"]["status"].as_str().unwrap().to_owned();
        assert_ne!(status, "ERROR", "{told:#}");
        if status == "ACTIVE" {
            let console = bed.ask(
                "POST",
                "compute",
                &format!("/servers/{id}/action"),
                &json!({"os-getConsoleOutput": {}}),
            );
            let text = console["output"].as_str().unwrap_or_default().to_owned();
            if text.contains("TESTBED ready") {
                break text;
            }
        }
        assert!(Instant::now() < end, "the server does not boot: {told:#}");
    };
    println!("{}", console.lines().filter(|line| line.contains("TESTBED")).collect::<Vec<_>>().join("\n"));
    bed.ask("DELETE", "compute", &format!("/servers/{id}"), &Value::Null);
    until("the server is gone", || {
        let volume =
            bed.ask("GET", "volumev3", &format!("/volumes/{}", volume["id"].as_str().unwrap()), &Value::Null);
        volume["volume"]["status"] == "available"
    });
    bed.delete(&volume);
}

#[test]
fn cancelled_while_it_is_sent_and_while_it_is_made_nothing_is_left() {
    let Some(bed) = Bed::find() else { return };
    let daemon = bed.daemon("limit_bytes_per_second = 4000000", None);
    disk(&daemon.path("inbox/slow.raw"), 256 << 20, 41);
    for moment in ["sent", "made"] {
        let name = if moment == "sent" { "slow.raw" } else { "quick.raw" };
        disk(&daemon.path("inbox/quick.raw"), 24 << 20, 43);
        let run = daemon.import(name, json!({}));
        until(moment, || {
            let (volumes, images) = bed.left(&run);
            match moment {
                "sent" => images.iter().any(|image| image["status"] == "saving"),
                _ => !volumes.is_empty(),
            }
        });
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
        daemon.until(&run, &["cancelled"]);
        assert_eq!(bed.left(&run), (Vec::new(), Vec::new()), "{moment}");
    }
}

#[test]
fn the_daemon_killed_again_and_again_ends_with_one_volume() {
    let Some(bed) = Bed::find() else { return };
    let mut daemon = bed.daemon("limit_bytes_per_second = 6000000", None);
    let raw = daemon.path("inbox/kill.raw");
    disk(&raw, 96 << 20, 47);
    let run = daemon.import("kill.raw", json!({}));
    let begun = |daemon: &Daemon, name: &str| step(&daemon.run(&run), name)["tries"].as_u64() > Some(0);
    let saving = |_: &Daemon| bed.left(&run).1.iter().any(|image| image["status"] == "saving");
    let made = |_: &Daemon| !bed.left(&run).0.is_empty();
    let whole = |_: &Daemon| bed.left(&run).0.iter().any(|volume| volume["status"] == "available");
    let moments: [(&str, &Moment<'_>); 6] = [
        ("the image is made", &|daemon| begun(daemon, "create_block_volume")),
        ("it is sent", &saving),
        ("it is sent again", &saving),
        ("the volume is made", &made),
        ("the volume is whole", &whole),
        ("it is checked", &|daemon| begun(daemon, "fsck_on_block_volume")),
    ];
    let mut ids = Vec::new();
    for (what, is_now) in moments {
        until(what, || is_now(&daemon) || daemon.run(&run)["state"] == "succeeded");
        daemon.kill();
        ids.extend(bed.left(&run).0.iter().map(|volume| volume["id"].clone()));
        bed.up(&mut daemon, None);
    }
    succeeded(&daemon, &run);
    let volume = bed.volume(&run);
    ids.dedup();
    assert_eq!(ids, [volume["id"].clone()], "one volume was ever made");
    assert_holds(&bed.file(&volume), &raw);
    bed.delete(&volume);
}

/// Faults of the calls that an import makes: before they arrive, and after they were carried out, with the answer lost.
#[test]
fn faults_at_the_calls_end_with_one_volume() {
    let Some(bed) = Bed::find() else { return };
    let proxy = Arc::new(Proxy::start());
    let daemon = bed.daemon("", Some(&proxy));
    let raw = daemon.path("inbox/fault.raw");
    disk(&raw, 12 << 20, 53);
    let faults: [(&str, &str, Act, u32); 14] = [
        ("POST", "/v3/auth/tokens", Act::Answer(503, "{}"), 2),
        ("GET", "/v2/images", Act::Answer(503, "{}"), 2),
        ("POST", "/v2/images", Act::Lose, 1),
        ("POST", "/v2/images", Act::Answer(500, "{}"), 2),
        // The token has ended: the service says so, and gets another.
        ("POST", "/v2/images", Act::Answer(401, "{}"), 1),
        ("PUT", "/file", Act::Answer(401, ""), 1),
        ("PUT", "/file", Act::Answer(503, ""), 1),
        ("PUT", "/file", Act::Lose, 1),
        ("PUT", "/file", Act::Cut(5_000_000), 1),
        ("POST", "/volumes", Act::Lose, 1),
        ("POST", "/volumes", Act::Answer(413, OVER_QUOTA), 1),
        ("GET", "/volumes/detail", Act::Answer(502, "<html>"), 2),
        // Cinder's own work fails.
        ("GET", "/volumes/", Act::Replace("\"status\": \"", "\"status\": \"error_"), 1),
        ("DELETE", "/v2/images/", Act::Lose, 1),
    ];
    for (method, path, act, count) in faults {
        let what = format!("{method} {path} {act:?}");
        proxy.clear();
        proxy.fault(method, path, act, count);
        let run = daemon.import("fault.raw", json!({}));
        succeeded(&daemon, &run);
        assert_eq!(proxy.left(), 0, "{what} never came about");
        let volume = bed.volume(&run);
        assert_holds(&bed.file(&volume), &raw);
        bed.delete(&volume);
        println!("{what}: one volume");
    }
}

const OVER_QUOTA: &str =
    r#"{"overLimit": {"code": 413, "message": "VolumeSizeExceedsAvailableQuota", "retryAfter": "0"}}"#;

/// What lasts is told in the cloud's own words, and holds the run; cancelled it leaves nothing.
#[test]
fn what_lasts_holds_the_run() {
    let Some(bed) = Bed::find() else { return };
    let daemon = bed.daemon("", None);
    // No quota has room for it, and nothing is sent to learn that.
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(daemon.path("inbox/large.qcow2"))
        .arg("20T")
        .status()
        .expect("qemu-img is there");
    assert!(made.success());
    // What a guest wrote to the beginning of its disk looks like an image of another format.
    let inner = daemon.path("inner.raw");
    disk(&inner, 4 << 20, 59);
    image(&inner, &daemon.path("inner.qcow2"), "qcow2", &[]);
    image(&daemon.path("inner.qcow2"), &daemon.path("inbox/nested.qcow2"), "qcow2", &[]);
    for (object, name, why) in [
        ("large.qcow2", "create_block_volume", "GiB of volumes"),
        ("nested.qcow2", "write_image_to_bv", "begins like an image of the format qcow2"),
    ] {
        let run = daemon.import(object, json!({}));
        let held = daemon.until(&run, &["held", "succeeded"]);
        assert_eq!(held["state"], "held", "{held:#}");
        assert!(step(&held, name).to_string().contains(why), "{:#}", step(&held, name));
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
        daemon.until(&run, &["cancelled"]);
        assert_eq!(bed.left(&run), (Vec::new(), Vec::new()), "{object}");
    }
}
