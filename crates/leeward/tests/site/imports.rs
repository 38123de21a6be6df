//! Imports into a folder of volumes: by hand, by looking, by event.

use serde_json::json;

use super::daemon::{Daemon, assert_holds, disk, image};

fn outputs<'a>(run: &'a serde_json::Value, step: &str) -> &'a serde_json::Value {
    let steps = run["steps"].as_array().unwrap();
    &steps.iter().find(|found| found["name"] == step).unwrap()["outputs"]
}

fn state_of<'a>(run: &'a serde_json::Value, step: &str) -> &'a str {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|found| found["name"] == step).unwrap()["state"].as_str().unwrap()
}

#[test]
fn a_newcomer_imports_an_image_by_hand() {
    let daemon = Daemon::start(|text| text);
    let raw = daemon.path("disk.raw");
    disk(&raw, 64 << 20, 7);
    image(&raw, &daemon.path("inbox/my.first.disk.qcow2"), "qcow2", &["-c"]);
    let done = daemon.leeward(&["import", "start", "inbox", "my.first.disk.qcow2", "--wait"]);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text} {}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("done       write_image_to_bv"), "{text}");
    let volumes = daemon.volumes();
    assert_eq!(volumes.len(), 1);
    assert_holds(&volumes[0], &raw);
    let listed = daemon.leeward(&["run", "list", "--json"]);
    let run: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((run["state"].as_str(), run["by"].as_str()), (Some("succeeded"), Some("admin")));
    let run = daemon.run(run["id"].as_str().unwrap());
    assert_eq!(
        outputs(&run, "create_block_volume")["volumes"][0]["name"],
        "my.first.disk.qcow2",
        "names keep their dots"
    );
    assert_eq!(state_of(&run, "create_instance"), "skipped");
    assert_eq!(state_of(&run, "setup_backup_policy"), "skipped");
    let log = daemon.leeward(&["run", "log", run["id"].as_str().unwrap()]);
    assert!(String::from_utf8_lossy(&log.stdout).contains("all as written"));
}

#[test]
fn every_format_ends_as_the_same_bytes() {
    let daemon = Daemon::start(|text| text.replace("imports = 3", "imports = 2"));
    let raw = daemon.path("disk.raw");
    disk(&raw, 24 << 20, 11);
    let formats: [(&str, &str, &[&str]); 7] = [
        ("a.raw", "raw", &[]),
        ("a.qcow2", "qcow2", &["-c", "-o", "compression_type=zstd"]),
        ("a.vmdk", "vmdk", &[]),
        ("stream.vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
        ("a.vdi", "vdi", &[]),
        ("a.vhdx", "vhdx", &[]),
        // What the name says does not matter, the content does.
        ("lies.raw", "vpc", &["-o", "force_size=on"]),
    ];
    let runs: Vec<_> = formats
        .iter()
        .map(|(name, format, options)| {
            image(&raw, &daemon.path("inbox").join(name), format, options);
            daemon.import(name, json!({}))
        })
        .collect();
    for run in &runs {
        daemon.until(run, &["succeeded"]);
    }
    let volumes = daemon.volumes();
    assert_eq!(volumes.len(), formats.len());
    volumes.iter().for_each(|volume| assert_holds(volume, &raw));
}

#[test]
fn what_is_put_into_a_watched_folder_is_imported_once_and_other_files_say_why_not() {
    let watch = |text: String| {
        text.replace("watch = \"off\"", "watch = \"poll\"").replace("poll_seconds = 60", "poll_seconds = 1")
    };
    let mut daemon = Daemon::new(watch);
    let raw = daemon.path("disk.raw");
    disk(&raw, 8 << 20, 3);
    image(&raw, &daemon.path("inbox/watched.qcow2"), "qcow2", &[]);
    std::fs::write(daemon.path("inbox/notes.txt"), "no image").unwrap();
    std::fs::write(daemon.path("inbox/without-ending"), "no image").unwrap();
    daemon.up();
    let heard = || daemon.get("/v1/heard").json()["hints"].as_array().unwrap().clone();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while heard().iter().filter(|hint| hint["state"] != "waiting").count() < 3 {
        assert!(std::time::Instant::now() < end, "{:#?}", heard());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let hints = heard();
    let of = |object: &str| hints.iter().find(|hint| hint["object"] == object).unwrap();
    assert_eq!(of("notes.txt")["state"], "ignored");
    assert!(of("notes.txt")["outcome"].as_str().unwrap().contains("no ending of an image"));
    assert!(of("without-ending")["outcome"].as_str().unwrap().contains("has no ending"));
    daemon.until(of("watched.qcow2")["outcome"].as_str().unwrap(), &["succeeded"]);
    // More looks, and another daemon's start, make no second volume.
    drop(hints);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let mut daemon = daemon;
    assert!(daemon.stop(), "it ends well");
    daemon.up();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(daemon.get("/v1/runs").json()["runs"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.volumes().len(), 1);
}

#[test]
fn events_are_hints_and_a_repeated_one_begins_nothing_new() {
    let daemon = Daemon::new(|text| {
        text.replace("watch = \"off\"", "watch = \"events\"").replace("#event_token_file", "event_token_file")
    });
    std::fs::write(daemon.path("inbox-events.secret"), "s3cret-of-the-bucket\n").unwrap();
    let mut daemon = daemon;
    daemon.up();
    let raw = daemon.path("disk.raw");
    disk(&raw, 8 << 20, 5);
    image(&raw, &daemon.path("inbox/event.vmdk"), "vmdk", &[]);
    let event = json!({"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "any"}, "object": {"key": "event.vmdk"}}}]});
    let send = |path: &str| daemon.ask("POST", path, &[], &event.to_string()).status;
    assert_eq!(send("/v1/hear/inbox"), 401);
    assert_eq!(send("/v1/hear/inbox?token=wrong"), 401);
    assert_eq!(
        send("/v1/hear/nowhere?token=s3cret-of-the-bucket"),
        401,
        "it does not tell which sources there are"
    );
    for _ in 0..5 {
        assert_eq!(send("/v1/hear/inbox?token=s3cret-of-the-bucket"), 202);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let runs = || daemon.get("/v1/runs").json()["runs"].as_array().unwrap().clone();
    while runs().is_empty() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    daemon.until(runs()[0]["id"].as_str().unwrap(), &["succeeded"]);
    assert_eq!(send("/v1/hear/inbox?token=s3cret-of-the-bucket"), 202);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(runs().len(), 1);
    let audit = std::fs::read_to_string(daemon.path("daemon.log")).unwrap();
    assert!(
        audit.contains("/v1/hear/inbox") && !audit.contains("s3cret-of-the-bucket"),
        "the log has no secret"
    );
    // Another version of the object is another import.
    disk(&raw, 8 << 20, 6);
    image(&raw, &daemon.path("inbox/event.vmdk"), "vmdk", &[]);
    assert_eq!(send("/v1/hear/inbox?token=s3cret-of-the-bucket"), 202);
    while runs().len() < 2 {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_held_run_says_what_to_do_and_goes_on_with_other_inputs() {
    let daemon = Daemon::start(|text| text);
    let raw = daemon.path("disk.raw");
    disk(&raw, 8 << 20, 9);
    image(&raw, &daemon.path("inbox/held.vdi"), "vdi", &[]);
    let run = daemon.import("held.vdi", json!({"ad_number": 4}));
    let held = daemon.until(&run, &["held"]);
    assert!(held["reason"].as_str().unwrap().contains("ad_number is 4"), "{held:#}");
    let shown = daemon.leeward(&["run", "show", &run]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("FAILED     create_block_volume"));
    let retried = daemon.leeward(&["run", "retry", &run, "--input", "ad_number=1"]);
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    daemon.until(&run, &["succeeded"]);
    assert_holds(&daemon.volumes()[0], &raw);
}

#[test]
fn a_cancelled_import_leaves_no_volume() {
    let daemon = Daemon::start(|text| {
        text.replace("#limit_bytes_per_second = 100000000", "limit_bytes_per_second = 400000")
    });
    let raw = daemon.path("inbox/slow.raw");
    disk(&raw, 64 << 20, 13);
    let run = daemon.import("slow.raw", json!({}));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while state_of(&daemon.run(&run), "write_image_to_bv") != "running" {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(daemon.volumes().len(), 1);
    let cancelled = daemon.leeward(&["run", "cancel", &run]);
    assert!(cancelled.status.success());
    daemon.until(&run, &["cancelled"]);
    assert!(daemon.volumes().is_empty());
}

#[test]
fn hostile_objects_are_refused_and_make_no_volume() {
    let daemon = Daemon::start(|text| text);
    std::fs::write(daemon.path("inbox/empty.raw"), b"").unwrap();
    let backing = daemon.path("secret.raw");
    disk(&backing, 1 << 20, 1);
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(&backing)
        .arg(daemon.path("inbox/backed.qcow2"))
        .status()
        .unwrap();
    assert!(made.success());
    for name in ["empty.raw", "backed.qcow2"] {
        let run = daemon.import(name, json!({}));
        let held = daemon.until(&run, &["held"]);
        assert!(held["reason"].as_str().unwrap().starts_with("download_image_from_bucket: "), "{held:#}");
        assert_eq!(daemon.post(&format!("/v1/runs/{run}/undo"), &json!({})).status, 200);
        daemon.until(&run, &["failed"]);
    }
    assert!(daemon.volumes().is_empty());
    for name in ["../site.toml", "/etc/passwd", "a\u{0}b", ""] {
        let body = json!({"source": "inbox", "object": name});
        assert_eq!(daemon.post("/v1/imports", &body).status, 400, "{name:?}");
    }
}
