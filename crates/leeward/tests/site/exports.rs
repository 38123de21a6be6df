//! Exports by a site: a snapshot of its repository becomes an object that others read, in a directory and in a bucket of Ceph.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leeward_remote::Environment;
use leeward_remote::http::{Client, Method, Request};
use leeward_remote::objects;
use leeward_store::bucket::RequestClass;
use serde_json::{Value, json};

use super::daemon::{Daemon, disk, image};
use super::restores::{REPOSITORY, back_up, repository, site, state_of, succeeds};

const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "testbed"),
    ("AWS_SECRET_ACCESS_KEY", "testbed-secret-0123456789abcdef"),
    ("AWS_REGION", "default"),
];

fn begin(daemon: &Daemon, body: &Value) -> String {
    let answer = daemon.post("/v1/exports", body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["run"].as_str().unwrap().to_owned()
}

fn ends_well(daemon: &Daemon, run: &str) -> Value {
    let ended = daemon.until(run, &["succeeded", "held", "failed", "cancelled"]);
    let log = daemon.get(&format!("/v1/runs/{run}/log?most=100")).json();
    assert_eq!(ended["state"], "succeeded", "{ended:#}\n{log:#}");
    ended
}

/// Whether QEMU reads the same disk from both, and finds nothing wrong with an image that it can check.
fn assert_same(exported: &Path, format: &str, raw: &Path) {
    let format = match format {
        "vhd" | "vhd-fixed" => "vpc",
        "zst" => "raw",
        format => format,
    };
    let run = |arguments: &[&str]| {
        let done = Command::new("qemu-img").args(arguments).output().expect("qemu-img is there");
        assert!(
            done.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    };
    let (exported, raw) = (exported.to_str().unwrap(), raw.to_str().unwrap());
    if matches!(format, "qcow2" | "vmdk" | "vhdx") {
        run(&["check", "-f", format, exported]);
    }
    run(&["compare", "-f", format, "-F", "raw", exported, raw]);
}

/// All files under a directory, also hidden ones.
fn files(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.file_name().to_str().unwrap().to_owned()),
        }
    }
    found.sort();
    found
}

/// A daemon with a repository and a directory `out` for exports.
fn with_directory(settings: &str) -> Daemon {
    let daemon = site(|text| format!("{text}\n[bucket.out]\nlocation = 'out'\n{settings}\n"));
    std::fs::create_dir(daemon.path("out")).unwrap();
    daemon
}

#[test]
fn a_snapshot_becomes_an_image_that_others_read() {
    let daemon = with_directory("");
    let raw = daemon.path("web.raw");
    disk(&raw, (150 << 20) + 1024, 43);
    let id = back_up(&daemon, &raw, "web-01/root");
    let file = std::fs::File::options().write(true).open(&raw).unwrap();
    let would = daemon.leeward(&["upload", "web-01/root", "out", "-n", "--json"]);
    let would = succeeds(would)[0].clone();
    assert_eq!(would["object"], format!("web-01-root-{}.qcow2", &id[..8]));
    assert_eq!(files(&daemon.path("out")), [""; 0]);
    let formats = [
        ("qcow2", "web.qcow2"),
        ("raw", "web.raw"),
        ("zst", "web.raw.zst"),
        ("vmdk", "web.vmdk"),
        ("vhd", "web.vhd"),
        ("vhd-fixed", "fixed.vhd"),
        ("vhdx", "web.vhdx"),
    ];
    for (format, name) in formats {
        let name = format!("images/{name}");
        let done = daemon.leeward(&["upload", "web-01/root@latest", "out", &name, "-O", format, "--wait"]);
        assert!(done.status.success(), "{format}: {}", String::from_utf8_lossy(&done.stderr));
        let mut exported = daemon.path("out").join(&name);
        if format == "zst" {
            let unpacked = daemon.path("unpacked.raw");
            let packed = std::fs::File::open(&exported).unwrap();
            std::io::copy(&mut zstd_reader(packed), &mut std::fs::File::create(&unpacked).unwrap()).unwrap();
            exported = unpacked;
        }
        assert_same(&exported, format, &raw);
        let told: Value = serde_json::from_slice(
            &std::fs::read(daemon.path("out").join(format!("{name}.leeward.json"))).unwrap(),
        )
        .unwrap();
        assert_eq!(told["leeward-snapshot"], format!("web-01/root@{id}"));
    }
    assert_eq!(files(&daemon.path("out")).len(), 2 * formats.len(), "{:?}", files(&daemon.path("out")));

    // What is there stays, unless it is to be replaced.
    file.write_all_at(b"another", 1 << 20).unwrap();
    back_up(&daemon, &raw, "web-01/root");
    let place = daemon.path("out/images/web.qcow2");
    let before = std::fs::read(&place).unwrap();
    let body = json!({"image": "web-01/root", "bucket": "out", "object": "images/web.qcow2"});
    assert_eq!(daemon.post("/v1/exports", &body).status, 409);
    // The same under a key is asked of the run, which is held by it.
    let bearer = daemon.bearer();
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let answer = daemon.ask("POST", "/v1/exports", &headers, &body.to_string());
    assert_eq!(answer.status, 201);
    let run = answer.json()["run"].as_str().unwrap().to_owned();
    assert_eq!(daemon.ask("POST", "/v1/exports", &headers, &body.to_string()).status, 200);
    daemon.until(&run, &["held"]);
    assert!(std::fs::read(&place).unwrap() == before);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert!(std::fs::read(&place).unwrap() == before, "cancelling removes nothing that was there before");
    let replaced = daemon.leeward(&["upload", "web-01/root", "out", "images/web.qcow2", "--replace", "-w"]);
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    assert_same(&place, "qcow2", &raw);

    for (body, status) in [
        (json!({"image": "web-01/root", "bucket": "none"}), 404),
        (json!({"image": "none", "bucket": "out"}), 404),
        (json!({"image": "web-01/root", "bucket": "out", "object": "../web"}), 400),
        (json!({"image": "web-01/root", "bucket": "out", "object": ".web"}), 400),
        (json!({"image": "web-01/root", "bucket": "out", "object": ""}), 400),
        (json!({"image": "web-01/root", "bucket": "out", "format": "vdi"}), 400),
    ] {
        let answer = daemon.post("/v1/exports", &body);
        assert_eq!(answer.status, status, "{body}: {}", String::from_utf8_lossy(&answer.body));
    }
}

fn zstd_reader(file: std::fs::File) -> impl std::io::Read {
    let done = Command::new("zstd").args(["-dc"]).stdin(file).output().expect("zstd is there");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::io::Cursor::new(done.stdout)
}

#[test]
fn a_disk_that_looks_like_an_image_is_exported_as_qcow2_alone() {
    let daemon = with_directory("");
    let (raw, inner) = (daemon.path("inner.raw"), daemon.path("inner.qcow2"));
    disk(&raw, 16 << 20, 5);
    image(&raw, &inner, "qcow2", &[]);
    succeeds(repository(&daemon, &["backup", "-f", "raw", inner.to_str().unwrap(), "nested"]));
    let run = begin(&daemon, &json!({"image": "nested", "bucket": "out", "format": "raw", "object": "n"}));
    let held = daemon.until(&run, &["held", "succeeded"]);
    assert_eq!(held["state"], "held", "{held:#}");
    assert_eq!(files(&daemon.path("out")), [""; 0]);
    // A fixed VHD begins with the disk's own bytes.
    let retry = json!({"inputs": {"format": "vhd-fixed"}});
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &retry).status, 200);
    daemon.until(&run, &["held"]);
    let retry = json!({"inputs": {"format": "qcow2"}});
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &retry).status, 200);
    ends_well(&daemon, &run);
    assert_same(&daemon.path("out/n"), "qcow2", &inner);
}

#[test]
fn an_empty_terabyte_is_a_small_image() {
    let daemon = with_directory("");
    let raw = daemon.path("large.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(1 << 40).unwrap();
    let data: Vec<u8> = (0..4_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    for offset in [1 << 20, 700 << 30, (1 << 40) - (4 << 20)] {
        file.write_all_at(&data, offset).unwrap();
    }
    back_up(&daemon, &raw, "large");
    let began = Instant::now();
    let run = begin(&daemon, &json!({"image": "large", "bucket": "out", "object": "large.qcow2"}));
    ends_well(&daemon, &run);
    let place = daemon.path("out/large.qcow2");
    let bytes = place.metadata().unwrap().len();
    println!(
        "1 TiB with 12 MiB of data: {} KiB as qcow2, {:.1} s, peak {} MiB",
        bytes >> 10,
        began.elapsed().as_secs_f64(),
        daemon.peak_bytes() >> 20
    );
    assert!(bytes < 32 << 20, "{bytes}");
    assert!(daemon.peak_bytes() < 256 << 20, "{} bytes of memory", daemon.peak_bytes());
    assert_same(&place, "qcow2", &raw);
    for format in ["vmdk", "vhd", "vhdx"] {
        let (began, name) = (Instant::now(), format!("large.{format}"));
        let body = json!({"image": "large", "bucket": "out", "object": name, "format": format});
        ends_well(&daemon, &begin(&daemon, &body));
        let place = daemon.path("out").join(name);
        let bytes = place.metadata().unwrap().blocks() * 512;
        println!("as {format}: {} KiB, {:.1} s", bytes >> 10, began.elapsed().as_secs_f64());
        assert!(bytes < 32 << 20, "{bytes}");
        // Of a vhdx qemu-img reads every byte, also where nothing is stored: a smaller one is compared in `views_by_qemu`.
        if format != "vhdx" {
            assert_same(&place, format, &raw);
        }
    }
}

/// Waits until so much was sent; or more, and all that follows, where that was faster than this looked.
fn until_sent(daemon: &Daemon, run: &str, least: u64) {
    let end = Instant::now() + Duration::from_secs(240);
    loop {
        let found = daemon.get(&format!("/v1/runs/{run}")).json();
        let done = found["progress"]["write_object"]["done"].as_u64().unwrap_or(0);
        match state_of(&found["run"], "write_object").as_str() {
            "running" if done >= least => return,
            "pending" | "waiting" | "running" => {}
            _ => return,
        }
        assert!(Instant::now() < end, "{found:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Data that does not compress, all over.
fn noise(length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    let mut state = 88_172_645_463_325_252_u64;
    for word in data.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    data
}

/// Kills in the middle, goes on, ends well; then cancels one in the middle. Each part takes a while.
fn killed_and_cancelled(
    daemon: &mut Daemon,
    up: &dyn Fn(&mut Daemon),
    format: &str,
    left: &dyn Fn(&Daemon) -> Vec<String>,
    fetched: &dyn Fn(&Daemon, &str) -> PathBuf,
) {
    let raw = daemon.path("web.raw");
    std::fs::write(&raw, noise(96 << 20)).unwrap();
    back_up(daemon, &raw, "web");
    let body = json!({"image": "web", "bucket": "out", "object": "k/web.img", "format": format});
    let run = begin(daemon, &body);
    for least in [1, 32 << 20, 64 << 20] {
        until_sent(daemon, &run, least);
        daemon.kill();
        up(daemon);
    }
    let ended = ends_well(daemon, &run);
    let log = daemon.get(&format!("/v1/runs/{run}/log?step=write_object&most=1000")).json();
    let resumed = log["lines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["text"].as_str().unwrap().starts_with("going on after"));
    assert!(resumed.count() >= 1, "{log:#}\n{ended:#}");
    let exported = fetched(daemon, "k/web.img");
    if format == "zst" {
        let unpacked = daemon.path("unpacked.raw");
        let mut reader = zstd_reader(std::fs::File::open(&exported).unwrap());
        std::io::copy(&mut reader, &mut std::fs::File::create(&unpacked).unwrap()).unwrap();
        assert_same(&unpacked, "raw", &raw);
    } else {
        assert_same(&exported, format, &raw);
    }
    let before = left(daemon);
    let body = json!({"image": "web", "bucket": "out", "object": "k/second.img", "format": format});
    let run = begin(daemon, &body);
    until_sent(daemon, &run, 1);
    daemon.kill();
    up(daemon);
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    assert_eq!(left(daemon), before, "a cancelled export leaves nothing");
    let holds = succeeds(repository(daemon, &["log", "web", "--json"]));
    assert!(holds.iter().all(|entry| entry["holds"].as_array().is_none_or(Vec::is_empty)), "{holds:#?}");
}

const SLOW: &str = "limit_bytes_per_second = 8000000";

#[test]
fn killed_on_the_way_to_a_directory_it_goes_on_and_a_cancelled_one_leaves_nothing() {
    for format in ["qcow2", "zst", "vmdk", "vhdx"] {
        let mut daemon = with_directory(SLOW);
        let left = |daemon: &Daemon| files(&daemon.path("out"));
        let fetched = |daemon: &Daemon, name: &str| daemon.path("out").join(name);
        killed_and_cancelled(&mut daemon, &|daemon| daemon.up(), format, &left, &fetched);
    }
}

#[test]
fn an_export_that_broke_off_between_its_file_and_its_metadata_is_known() {
    for is_cancelled in [true, false] {
        let mut daemon = with_directory("");
        let raw = daemon.path("web.raw");
        disk(&raw, 8 << 20, 7);
        back_up(&daemon, &raw, "web");
        let (place, beside) = (daemon.path("out/web.raw"), daemon.path("out/web.raw.leeward.json"));
        // Where the metadata are to be, is something that no file can replace.
        std::fs::create_dir_all(beside.join("x")).unwrap();
        let run =
            begin(&daemon, &json!({"image": "web", "bucket": "out", "object": "web.raw", "format": "raw"}));
        let end = Instant::now() + Duration::from_secs(120);
        while !place.exists() {
            assert!(Instant::now() < end, "{:#}", daemon.run(&run));
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.kill();
        std::fs::remove_dir_all(&beside).unwrap();
        daemon.up();
        if is_cancelled {
            assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
            daemon.until(&run, &["cancelled", "succeeded"]);
        } else {
            ends_well(&daemon, &run);
        }
        let expected: &[&str] = match daemon.run(&run)["state"] == "cancelled" {
            true => &[],
            false => &["web.raw", "web.raw.leeward.json"],
        };
        assert_eq!(files(&daemon.path("out")), expected);
    }
}

#[test]
fn what_somebody_puts_in_the_place_of_an_exported_file_stays() {
    const BYTES: u64 = 128 << 20;
    let daemon = with_directory("");
    let raw = daemon.path("web.raw");
    std::fs::write(&raw, noise(BYTES as usize)).unwrap();
    back_up(&daemon, &raw, "web");
    // Reading the object back takes a while, in which another file takes its place. Where this comes too late, it is tried again.
    for number in 0..10 {
        let name = format!("web-{number}.raw");
        let (theirs, place) = (daemon.path("theirs"), daemon.path("out").join(&name));
        let beside = daemon.path("out").join(format!("{name}.leeward.json"));
        let file = std::fs::File::create(&theirs).unwrap();
        file.write_all_at(b"precious", 0).unwrap();
        // Of the same size: that does not make it the run's.
        file.set_len(BYTES).unwrap();
        let body = json!({"image": "web", "bucket": "out", "object": name, "format": "raw"});
        let run = begin(&daemon, &body);
        let end = Instant::now() + Duration::from_secs(240);
        while !(place.exists() && beside.exists()) {
            assert!(Instant::now() < end, "{:#}", daemon.run(&run));
            std::thread::sleep(Duration::from_millis(1));
        }
        // As by mv: what lies beside the file, and says that the run wrote it, stays there.
        std::fs::rename(&theirs, &place).unwrap();
        let ended = daemon.until(&run, &["held", "succeeded"]);
        if ended["state"] == "succeeded" {
            println!("{name} was compared before another file took its place");
            continue;
        }
        let is_theirs = |when: &str| {
            let mut begins = [0; 8];
            std::fs::File::open(&place).expect(when).read_exact_at(&mut begins, 0).expect(when);
            assert_eq!(&begins, b"precious", "{when}");
            assert!(beside.exists(), "{when}");
        };
        is_theirs("compared");
        let retry = json!({"step": "write_object"});
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/retry"), &retry).status, 200);
        let held = daemon.until(&run, &["held", "succeeded"]);
        assert_eq!((&held["state"], state_of(&held, "write_object").as_str()), (&json!("held"), "failed"));
        is_theirs("retried");
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
        daemon.until(&run, &["cancelled"]);
        is_theirs("cancelled");
        let left = files(&daemon.path("out"));
        assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
        return;
    }
    panic!("each object was compared before another file could take its place");
}

/// The endpoint of the bed Ceph, if it is up.
fn ceph() -> Option<String> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let text = std::fs::read_to_string(beds.join("ceph/env")).unwrap_or_default();
    let endpoint = text.lines().find_map(|line| line.strip_prefix("export TB_RGW="));
    let is_up = |endpoint: &&str| {
        let address = endpoint.trim_start_matches("http://").parse().unwrap();
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
    };
    let Some(endpoint) = endpoint.filter(is_up) else {
        println!("SKIPPED: the test bed ceph is not up");
        return None;
    };
    Some(endpoint.to_owned())
}

/// A bucket there of this test's own: its endpoint and name.
fn bucket(name: &str) -> Option<(String, String)> {
    let endpoint = ceph()?;
    let name = format!("leeward-export-{}-{name}", std::process::id());
    let location = format!("s3://{name}?endpoint={endpoint}");
    let parsed = leeward_remote::Location::parse(&location).unwrap().unwrap();
    leeward_remote::connect(&parsed, &Environment::of(&KEYS)).unwrap().bare.make().unwrap();
    Some((endpoint, name))
}

/// A site that exports to a bucket: killed and cancelled on the way, and with objects of others in the way.
fn exports_to(location: &str, keys: &'static [(&'static str, &'static str)], formats: &[&str]) {
    let mut daemon = Daemon::new(|text| {
        format!("{text}{REPOSITORY}\n[bucket.out]\nlocation = '{location}'\n{SLOW}\n")
            .replace("lease_seconds = 30", "lease_seconds = 5")
    });
    succeeds(repository(&daemon, &["repo", "init", "--pack-size", "1M"]));
    let up = |daemon: &mut Daemon| daemon.up_with(keys);
    up(&mut daemon);
    let remote = objects::open(location, &Environment::of(keys)).unwrap();
    let left = |_: &Daemon| {
        let listed = remote.list("", None).unwrap().objects.into_iter().map(|object| object.name);
        let parts = remote.parts().unwrap();
        let uploads = ["k/web.img", "k/second.img"].map(|name| parts.unfinished(name).unwrap()).concat();
        listed.chain(uploads).collect::<Vec<String>>()
    };
    let fetched = |daemon: &Daemon, name: &str| {
        let head = remote.head(name).unwrap();
        assert!(head.metadata.contains_key("leeward-export"), "{head:?}");
        let path = daemon.path("fetched");
        let file = std::fs::File::create(&path).unwrap();
        for offset in (0..head.bytes).step_by(8 << 20) {
            let end = head.bytes.min(offset + (8 << 20));
            file.write_all_at(&remote.read(name, offset..end, &head.version).unwrap(), offset).unwrap();
        }
        path
    };
    for format in formats {
        killed_and_cancelled(&mut daemon, &up, format, &left, &fetched);
        assert_eq!(left(&daemon), ["k/web.img"]);
        remote.delete("k/web.img").unwrap();
    }

    // What somebody else has put there stays, also when it comes while the export is under way.
    remote.put("theirs", &mut &b"precious"[..], &objects::Metadata::new()).unwrap();
    let body = json!({"image": "web", "bucket": "out", "object": "theirs"});
    assert_eq!(daemon.post("/v1/exports", &body).status, 409);
    let body = json!({"image": "web", "bucket": "out", "object": "later"});
    let run = begin(&daemon, &body);
    until_sent(&daemon, &run, 1);
    remote.put("later", &mut &b"precious"[..], &objects::Metadata::new()).unwrap();
    let held = daemon.until(&run, &["held", "succeeded"]);
    assert_eq!(held["state"], "held", "{held:#}");
    assert_eq!(daemon.post(&format!("/v1/runs/{run}/cancel"), &json!({})).status, 200);
    daemon.until(&run, &["cancelled"]);
    for name in ["theirs", "later"] {
        assert_eq!(remote.head(name).unwrap().bytes, 8, "{name}");
    }
    assert_eq!(remote.parts().unwrap().unfinished("later").unwrap(), [""; 0]);
    for object in remote.list("", None).unwrap().objects {
        remote.delete(&object.name).unwrap();
    }
}

#[test]
fn a_bucket_of_s3_gets_an_image_that_others_read() {
    let Some((endpoint, name)) = bucket("s3") else { return };
    exports_to(&format!("s3://{name}?endpoint={endpoint}"), &KEYS, &["qcow2"]);
    let removed = Command::new("radosgw-admin")
        .args(["bucket", "rm", "--purge-objects", "--bucket", &name, "--conf"])
        .arg(
            std::env::var_os("TESTBED_DIR")
                .map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from)
                .join("ceph/ceph.conf"),
        )
        .output();
    println!("bucket removed: {}", removed.is_ok_and(|output| output.status.success()));
}

/// An account of the bed Ceph, by the authentication that Swift began with.
const ACCOUNT: [(&str, &str); 3] =
    [("ST_AUTH", "http://127.0.0.1:7480/auth/1.0"), ("ST_USER", "testbed:swift"), ("ST_KEY", "swift-secret")];

/// A container of the bed Ceph, and what asks for it or its segments.
struct Container {
    client: Client,
    origin: String,
    path: String,
    token: String,
}

impl Container {
    fn new(name: &str) -> Option<Self> {
        ceph()?;
        let client = Client::new(Arc::default()).unwrap();
        let login = Request::new(Method::GET, "http://127.0.0.1:7480", "/auth/1.0")
            .header("x-auth-user", ACCOUNT[1].1)
            .header("x-auth-key", ACCOUNT[2].1);
        let login = client.send(login, RequestClass::Other).unwrap();
        let header = |name| login.header(name).unwrap().to_owned();
        let (storage, token) = (header("x-storage-url"), header("x-auth-token"));
        let (scheme, rest) = storage.split_once("://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let name = format!("leeward-export-{}-{name}", std::process::id());
        let made =
            Self { client, origin: format!("{scheme}://{host}"), path: format!("/{path}/{name}"), token };
        made.ask(Method::PUT, "");
        Some(made)
    }

    fn name(&self) -> &str {
        self.path.rsplit_once('/').unwrap().1
    }

    fn ask(&self, method: Method, ending: &str) -> String {
        let request = Request::new(method, &self.origin, format!("{}{ending}", self.path))
            .header("x-auth-token", &self.token);
        let answer = self.client.send(request, RequestClass::Other).unwrap();
        assert!(answer.is_success(), "{}", answer.status);
        String::from_utf8(answer.body).unwrap()
    }
}

#[test]
fn a_container_of_swift_gets_an_image_that_others_read() {
    let Some(container) = Container::new("swift") else { return };
    exports_to(&format!("swift://{}", container.name()), &ACCOUNT, &["vmdk", "zst"]);
    assert_eq!(container.ask(Method::GET, "_segments"), "", "no segment is left of anything");
    container.ask(Method::DELETE, "_segments");
    container.ask(Method::DELETE, "");
}
