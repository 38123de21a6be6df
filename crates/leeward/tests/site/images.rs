//! Snapshots of a site, held and looked into by REST.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::problem;
use super::daemon::{Daemon, LEEWARD};

fn repository(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(LEEWARD).arg("-r").arg(daemon.path("repository")).args(arguments).output().unwrap()
}

fn succeeds(done: &Output) -> String {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout.clone()).unwrap()
}

/// Runs a tool; false, said loudly, where the machine has none.
fn tool(name: &str, arguments: &[&str]) -> bool {
    match Command::new(name).args(arguments).output() {
        Ok(done) => {
            assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
            true
        }
        Err(error) => {
            println!("SKIPPED: {name} is not there: {error}");
            false
        }
    }
}

/// A disk with a GPT whose second partition, from 1 MiB on, holds an ext4 file system of a directory; partition 1 is swap space
/// without anything on it.
fn disk(path: &Path, tree: &Path, part: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(part).unwrap();
    file.set_len(40 << 20).unwrap();
    let (tree, part_text) = (tree.to_str().unwrap(), part.to_str().unwrap());
    if !tool("mke2fs", &["-q", "-t", "ext4", "-L", "system", "-d", tree, part_text]) {
        return false;
    }
    let file = std::fs::File::create(path).unwrap();
    file.set_len(64 << 20).unwrap();
    let mut child =
        match Command::new("sfdisk").arg("-q").arg(path).stdin(std::process::Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                println!("SKIPPED: sfdisk is not there: {error}");
                return false;
            }
        };
    let table = "label: gpt\nstart=45MiB,size=10MiB,type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F\nstart=1MiB,size=40MiB,type=L\n";
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), table.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    file.write_all_at(&std::fs::read(part).unwrap(), 1 << 20).unwrap();
    true
}

/// Bytes that differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// What lies in the disk: a large file, many small ones, a name that is no text, links.
fn tree(folder: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let content = noise(3_000_001);
    std::fs::create_dir_all(folder.join("etc/many")).unwrap();
    std::fs::write(folder.join("etc/fstab"), "/dev/sda2 / ext4\n").unwrap();
    std::fs::write(folder.join("etc/large.bin"), &content).unwrap();
    std::fs::write(folder.join("etc/empty"), "").unwrap();
    std::fs::write(folder.join("etc/100% \"sure\".txt"), "sure").unwrap();
    std::fs::write(folder.join("etc").join(std::ffi::OsStr::from_bytes(b"no\xfftext")), "bytes").unwrap();
    std::os::unix::fs::symlink("/etc/fstab", folder.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("loop", folder.join("etc/loop")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../etc", folder.join("out")).unwrap();
    for number in 0..2500 {
        std::fs::write(folder.join(format!("etc/many/{number:04}")), [number as u8]).unwrap();
    }
    content
}

struct Site {
    daemon: Daemon,
    /// The way to the snapshots of the image.
    base: String,
    content: Vec<u8>,
}

impl Site {
    fn files(&self, snapshot: &str, path: &str, more: &str) -> super::daemon::Answer {
        let path = leeward_remote::encode::component(path);
        self.daemon.get(&format!("{}/{snapshot}/files?path={path}{more}", self.base))
    }

    fn list(&self, snapshot: &str, path: &str) -> Vec<Value> {
        let answer = self.files(snapshot, path, "&most=1000");
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()["entries"].as_array().unwrap().clone()
    }

    fn take(&self, snapshot: &str, path: &str, headers: &[(&str, &str)]) -> super::daemon::Answer {
        let path = leeward_remote::encode::component(path);
        let bearer = self.daemon.bearer();
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        self.daemon.ask("GET", &format!("{}/{snapshot}/files/content?path={path}", self.base), &headers, "")
    }

    fn snapshots(&self) -> Vec<Value> {
        let answer = self.daemon.get(&self.base);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json().as_array().unwrap().clone()
    }
}

/// A daemon whose repository has an image with two snapshots.
fn site() -> Option<Site> {
    let mut daemon = Daemon::new(|text| {
        format!(
            "{text}\n[repository]\nlocation = 'repository'\n[disk.web]\nlocation = 'web.raw'\nimage = 'web-01/root'\n
             [disk.gone]\nlocation = 'gone.raw'\nimage = 'gone/root'\n
             [schedule.both]\ncron = '0 0 1 1 *'\nbackup = {{ disks = ['web'] }}\n"
        )
    });
    let content = tree(&daemon.path("tree"));
    let raw = daemon.path("web.raw");
    if !disk(&raw, &daemon.path("tree"), &daemon.path("part")) {
        return None;
    }
    succeeds(&repository(&daemon, &["repo", "init", "--pack-size", "1M"]));
    let raw_text = raw.to_str().unwrap();
    succeeds(&repository(&daemon, &["backup", raw_text, "web-01/root", "--tag", "before=change"]));
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&raw).unwrap(),
        &noise(1 << 20),
        46 << 20,
    )
    .unwrap();
    succeeds(&repository(&daemon, &["backup", raw_text, "web-01/root"]));
    daemon.up();
    Some(Site { daemon, base: "/v1/images/web-01%2Froot/snapshots".to_owned(), content })
}

#[test]
fn files_of_a_snapshot_are_listed_page_by_page_and_taken_as_they_are() {
    let Some(site) = site() else { return };
    let id = site.snapshots()[0]["id"].as_str().unwrap().to_owned();

    let volumes = site.list(&id, "/");
    let kinds: Vec<_> = volumes
        .iter()
        .map(|volume| (volume["name"].as_str().unwrap(), volume["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [("1", "unreadable"), ("2", "partition")], "{volumes:#?}");
    assert!(volumes[1]["about"].as_str().unwrap().starts_with("ext4"), "{volumes:#?}");
    assert_eq!(volumes[1]["bytes"], 40 << 20);

    let root = site.list(&id, "/2");
    let names: Vec<_> = root.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["etc", "lost+found", "out"]);
    let etc = site.list(&id, "/2/etc");
    let of = |name: &str| {
        etc.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name}: {etc:#?}"))
    };
    assert_eq!((&of("fstab")["kind"], &of("fstab")["bytes"]), (&json!("file"), &json!(17)));
    assert!(of("fstab")["modified"].as_str().unwrap().starts_with("20"));
    assert_eq!((&of("link")["kind"], &of("link")["about"]), (&json!("symlink"), &json!("/etc/fstab")));
    assert_eq!(of("many")["kind"], "directory");
    assert_eq!(of("no\\xfftext")["path"], "/2/etc/no%FFtext");
    assert_eq!(of("100% \"sure\".txt")["path"], "/2/etc/100%25 \"sure\".txt");
    // A link to a directory leads there, and nowhere outside.
    assert_eq!(site.list(&id, "/2/out").len(), etc.len());

    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let more = if after.is_empty() { String::new() } else { format!("&after={after}") };
        let page = site.files(&id, "/2/etc/many", &format!("&most=700{more}")).json();
        all.extend(
            page["entries"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["name"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(all, (0..2500).map(|number| format!("{number:04}")).collect::<Vec<_>>());

    let whole = site.take(&id, "/2/etc/large.bin", &[]);
    assert_eq!(whole.status, 200, "{}", whole.head);
    assert!(whole.body == site.content, "{} bytes came", whole.body.len());
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        whole.header("content-disposition"),
        Some("attachment; filename=\"large.bin\"; filename*=UTF-8''large.bin")
    );
    let part = site.take(&id, "/2/etc/large.bin", &[("range", "bytes=1000000-2000000")]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000000-2000000/3000001")));
    assert!(part.body == site.content[1_000_000..=2_000_000]);
    let last = site.take(&id, "/2/etc/large.bin", &[("range", "bytes=-1")]);
    assert_eq!((last.status, last.body), (206, site.content[3_000_000..].to_vec()));
    let none = site.take(&id, "/2/etc/large.bin", &[("range", "bytes=3000001-")]);
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */3000001")));
    problem(&none);
    assert_eq!(site.take(&id, "/2/etc/link", &[]).body, b"/dev/sda2 / ext4\n");
    assert_eq!(site.take(&id, "/2/etc/no%FFtext", &[]).body, b"bytes");
    let sure = site.take(&id, "/2/etc/100%25 \"sure\".txt", &[]);
    assert_eq!(sure.body, b"sure");
    assert!(
        sure.header("content-disposition").unwrap().starts_with("attachment; filename=\"100_ _sure_.txt\"; ")
    );
    let empty = site.take(&id, "/2/etc/empty", &[]);
    assert_eq!((empty.status, empty.header("content-length"), empty.body.len()), (200, Some("0"), 0));
    let bearer = site.daemon.bearer();
    let large = format!("{}/{id}/files/content?path=/2/etc/large.bin", site.base);
    let head = site.daemon.ask("HEAD", &large, &[("authorization", &bearer)], "");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("3000001"), 0));

    for (path, status) in [
        ("/2/none", 404),
        ("/9", 404),
        ("/2/etc/fstab/x", 404),
        ("/2/etc%2Ffstab", 404),
        ("/2/etc/loop", 404),
        ("/1", 409),
        ("/2/%", 400),
    ] {
        for answer in [site.files(&id, path, ""), site.take(&id, path, &[])] {
            assert_eq!(answer.status, status, "{path}: {}", String::from_utf8_lossy(&answer.body));
            problem(&answer);
        }
    }
    assert_eq!(site.take(&id, "/2/etc", &[]).status, 404, "a directory is no file");
    assert_eq!(site.files(&id, "/2/etc/fstab", "").status, 404, "a file is no directory");
    assert_eq!(site.files(&"0".repeat(64), "/", "").status, 404);
    assert_eq!(site.files("latest", "/", "").status, 404);

    // Looking is remembered, with what was looked at.
    let log = std::fs::read_to_string(site.daemon.path("daemon.log")).unwrap();
    let line =
        log.lines().find(|line| line.contains("/files/content?path=%2F2%2Fetc%2Flarge.bin")).expect("a line");
    assert!(line.contains("\"role\":\"admin\"") && line.contains("\"status\":200"), "{line}");

    // It is so however one asks: with other slashes, and with a path that is long for nothing.
    let logged = || std::fs::read_to_string(site.daemon.path("daemon.log")).unwrap();
    let looks = |text: &str| logged().lines().filter(|line| line.contains(text)).count();
    let way = format!("{}/{id}/files/content?path=", site.base);
    let fstab = "/files/content?path=%2F2%2Fetc%2Ffstab\"";
    let before = looks(fstab);
    for (number, path) in [
        format!("/{way}/2/etc/fstab"),
        format!("///{way}/2/etc/fstab"),
        format!("{}/{id}/files/content/?path=//2/etc//fstab/", site.base),
        format!("{way}/2{}/etc/fstab", "/.".repeat(1500)),
        format!("{way}/2/etc/fstab{}", "/%252E".repeat(800)),
    ]
    .iter()
    .enumerate()
    {
        let answer = site.daemon.get(path);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"/dev/sda2 / ext4\n"[..]), "{path}");
        assert_eq!(looks(fstab), before + number + 1, "{path}: {}", logged());
    }
    // One that is long for something is told with its end, whatever came of it.
    let long = format!("{way}/2{}/etc/fstab", "/etc/..".repeat(500));
    let answer = site.daemon.get(&long);
    // As it was understood, or, where it made no sense, as it was asked.
    let ends = ["%2F%252E%252E%2Fetc%2Ffstab\"", "/../etc/fstab\""];
    let told = logged();
    let line = told.lines().find(|line| ends.iter().any(|end| line.contains(end)));
    let line = line.unwrap_or_else(|| panic!("{}: {told}", answer.status));
    assert!(line.contains(&format!("\"status\":{}", answer.status)), "{line}");
    assert!(line.contains(&format!("GET {way}")), "{line}");

    // Clients that leave in the middle, more of them than turns, keep nobody out.
    for _ in 0..40 {
        let answer = site.daemon.head("GET", &large, &[("authorization", &bearer)], "");
        assert!(matches!(answer.status, 200 | 503), "{}", answer.head);
    }
    let end = Instant::now() + Duration::from_secs(120);
    while site.take(&id, "/2/etc/fstab", &[]).status != 200 {
        assert!(Instant::now() < end, "the turns of those who left are not given back");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_held_snapshot_is_not_forgotten_until_it_is_let_go() {
    let Some(site) = site() else { return };
    let daemon = &site.daemon;
    let snapshots = site.snapshots();
    assert_eq!(snapshots.len(), 2);
    let (id, first) = (snapshots[0]["id"].as_str().unwrap(), &snapshots[1]);
    assert_eq!(first["tags"], json!({"before": "change"}));
    assert!(
        first["stored_bytes"].as_u64() > Some(3_000_000) && first["virtual_bytes"] == 64 << 20,
        "{first:#}"
    );
    // A slash in the name may stand as it is.
    assert_eq!(daemon.get("/v1/images/web-01/root/snapshots").json(), json!(snapshots));

    let holds = format!("{}/{id}/holds", site.base);
    let hold = json!({"name": "audit-2026", "reason": "year’s end"});
    let held = daemon.post(&holds, &hold);
    assert_eq!(held.status, 201, "{}", String::from_utf8_lossy(&held.body));
    assert_eq!((&held.json()["id"], &held.json()["holds"][0]["reason"]), (&json!(id), &hold["reason"]));
    assert_eq!(daemon.post(&holds, &hold).status, 200, "asked again it is the same hold");
    assert_eq!(site.snapshots()[0]["holds"].as_array().unwrap().len(), 1);
    let other = daemon.post(&holds, &json!({"name": "audit-2026", "reason": "another"}));
    assert_eq!(other.status, 409);
    problem(&other);
    for wrong in
        [json!({"name": "a b"}), json!({"name": ""}), json!({}), json!({"name": "a", "reason": "x\ny"})]
    {
        assert_eq!(daemon.post(&holds, &wrong).status, 400, "{wrong}");
    }
    let nowhere = format!("{}/{}/holds", site.base, "0".repeat(64));
    assert_eq!(daemon.post(&nowhere, &hold).status, 404);
    let log = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(log.contains(&format!("POST {holds}")), "the change is in the audit log");

    let spec = format!("web-01/root@{}", &id[..12]);
    let forgotten = repository(daemon, &["forget", &spec]);
    assert!(!forgotten.status.success() && String::from_utf8_lossy(&forgotten.stderr).contains("year’s end"));
    let bearer = daemon.bearer();
    let let_go =
        |name: &str| daemon.ask("DELETE", &format!("{holds}/{name}"), &[("authorization", &bearer)], "");
    // One that the command line made may have any name.
    succeeds(&repository(daemon, &["hold", &spec, "--name", "two words"]));
    assert_eq!(let_go("two%20words").status, 200);
    assert_eq!(let_go("other").status, 404);
    let free = let_go("audit-2026");
    assert_eq!((free.status, &free.json()["holds"]), (200, &json!([])));
    assert_eq!(let_go("audit-2026").status, 404);

    let figures = daemon.get("/v1/repository").json();
    assert_eq!(
        (&figures["images"], &figures["snapshots"], &figures["forgotten"]),
        (&json!(1), &json!(2), &json!(0))
    );
    let added: u64 = snapshots.iter().map(|snapshot| snapshot["stored_bytes"].as_u64().unwrap()).sum();
    let growth = figures["growth"].as_array().unwrap();
    assert_eq!((growth.len(), growth[1]["stored_bytes"].as_u64()), (2, Some(added)));
    let objects: u64 = succeeds(
        &Command::new("find")
            .arg(daemon.path("repository"))
            .args(["-type", "f", "-printf", "%s\n"])
            .output()
            .unwrap(),
    )
    .lines()
    .map(|line| line.parse::<u64>().unwrap())
    .sum();
    let stored = figures["stored_bytes"].as_u64().unwrap();
    assert!(stored <= objects && stored > objects * 9 / 10, "{stored} of {objects} bytes");

    succeeds(&repository(daemon, &["forget", &spec]));
    assert_eq!(site.snapshots().len(), 1);
    assert_eq!(site.files(id, "/2", "").status, 404, "what is forgotten shows nothing");
    let figures = daemon.get("/v1/repository").json();
    assert_eq!((&figures["snapshots"], &figures["forgotten"]), (&json!(1), &json!(1)));
}

#[test]
fn a_report_says_what_became_of_runs_in_all_its_forms() {
    let Some(site) = site() else { return };
    let daemon = &site.daemon;
    let fired = daemon.post("/v1/schedules/both/fire", &json!({})).json();
    daemon.until(fired["run"].as_str().unwrap(), &["succeeded"]);
    super::daemon::disk(&daemon.path("inbox/a.raw"), 8 << 20, 1);
    let import = daemon.import("a.raw", json!({}));
    daemon.until(&import, &["succeeded"]);
    std::fs::write(daemon.path("inbox/empty.raw"), "").unwrap();
    let held = daemon.import("empty.raw", json!({}));
    daemon.until(&held, &["held"]);

    let report = daemon.get("/v1/reports").json();
    assert_eq!((&report["runs"], &report["complete"]), (&json!(3), &json!(true)), "{report:#}");
    let group = |kind: &str| {
        let groups = report["groups"].as_array().unwrap();
        groups.iter().find(|group| group["kind"] == kind).unwrap_or_else(|| panic!("{report:#}")).clone()
    };
    let (backup, import) = (group("backup"), group("import"));
    assert_eq!(
        (&backup["schedule"], &backup["begun"], &backup["succeeded"]),
        (&json!("both"), &json!(1), &json!(1))
    );
    assert!(
        backup["read_bytes"].as_u64() > Some(0) && backup["median_seconds"].as_f64() > Some(0.0),
        "{backup:#}"
    );
    assert_eq!(
        (&import["schedule"], &import["begun"], &import["held"]),
        (&Value::Null, &json!(2), &json!(1))
    );
    // Two pieces of data, each within a MiB of its own.
    assert!(import["written_bytes"].as_u64() >= Some(600_000), "{import:#}");
    assert_eq!(
        (&report["images"][0]["image"], &report["images"][0]["backups"]),
        (&json!("web-01/root"), &json!(1))
    );

    let only = daemon.get("/v1/reports?kind=import&to=2100-01-01T00:00:00Z&from=2020-01-01T00:00:00Z").json();
    assert_eq!((&only["runs"], only["groups"].as_array().unwrap().len()), (&json!(2), 1));
    assert!(only["since"].as_str() > Some("2020-01-02"), "what is older is forgotten: {only:#}");
    let before = daemon.get("/v1/reports?to=2020-01-01T00:00:00Z").json();
    assert_eq!((&before["runs"], &before["from"]), (&json!(0), &json!("2019-12-02T00:00:00Z")));
    for wrong in ["from=yesterday", "format=xml", "since=x", "to="] {
        assert_eq!(daemon.get(&format!("/v1/reports?{wrong}")).status, 400, "{wrong}");
    }

    let csv = daemon.get("/v1/reports?format=csv");
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"runs.csv\""));
    let text = String::from_utf8(csv.body).unwrap();
    assert!(text.starts_with("kind,schedule,begun,") && text.contains("\r\nbackup,both,1,1,0,"), "{text}");
    let images = String::from_utf8(daemon.get("/v1/reports?format=images-csv").body).unwrap();
    assert!(images.contains("\r\nweb-01/root,1,"), "{images}");

    let shown = succeeds(&daemon.leeward(&["run", "report", "--from", "2020-01-01"]));
    assert!(shown.contains("3 runs") && shown.contains("web-01/root") && shown.contains("both"), "{shown}");
    let told = succeeds(&daemon.leeward(&["run", "report", "--kind", "import", "--json"]));
    let told: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(told["groups"][0]["begun"], 2);
    let wrong = daemon.leeward(&["run", "report", "--from", "2026-02-01", "--to", "2026-01-01"]);
    assert_eq!(wrong.status.code(), Some(2));
}
