//! A site with one daemon and its files goes on with two daemons that share a database.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, LEEWARD, assert_holds, disk, image};
use super::shared::server::{self, Server};

/// A site whose parts are in one folder, and a server of PostgreSQL with an empty database for it.
struct World {
    server: Server,
    folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.end();
    }
}

impl World {
    fn new() -> Option<Self> {
        let Some(programs) = server::programs() else {
            println!("SKIPPED: no /usr/lib/postgresql/*/bin; install the package postgresql");
            return None;
        };
        let world = Self { server: Server::start(programs, "off"), folder: tempfile::tempdir().unwrap() };
        for name in ["inbox", "volumes", "repository"] {
            std::fs::create_dir(world.path(name)).unwrap();
        }
        let made =
            Command::new(LEEWARD).arg("-r").arg(world.path("repository")).args(["repo", "init"]).output();
        assert!(made.unwrap().status.success());
        world.server.database("site", &world.path("postgres.url"));
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration of a daemon, which has files of its own until it is told of the database.
    fn config(&self, text: &str) -> String {
        let text = text
            .replace("location = \"inbox\"", &format!("location = {:?}", self.path("inbox")))
            .replace(
                "path = \"volumes\"",
                &format!("path = {:?}\nlimit_bytes_per_second = 8000000", self.path("volumes")),
            )
            .replace("watch = \"off\"", "watch = \"poll\"")
            .replace("poll_seconds = 60", "poll_seconds = 1")
            .replace("lease_seconds = 30", "lease_seconds = 5");
        let look = "[schedule.look]\nevery = \"1d\"\ncheck = { read_data = true }\n";
        format!("{text}\n[repository]\nlocation = {:?}\n{look}", self.path("repository"))
    }

    fn put(&self, name: &str, bytes: u64, seed: u64) -> PathBuf {
        let raw = self.path(&format!("{name}.disk"));
        disk(&raw, bytes, seed);
        image(&raw, &self.path("inbox/.coming"), "qcow2", &[]);
        std::fs::rename(self.path("inbox/.coming"), self.path("inbox").join(name)).unwrap();
        raw
    }

    /// Volumes whose names have a text.
    fn volumes(&self, text: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("volumes")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_one = |path: &PathBuf| {
            path.extension().is_some_and(|end| end == "raw") && path.to_string_lossy().contains(text)
        };
        paths.filter(is_one).collect()
    }

    /// Whether something holds in the database.
    fn holds(&self, condition: &str) -> bool {
        self.server.ask("site", &format!("SELECT 1 / ({condition})::int"))
    }

    fn says(&self, text: &str) {
        assert!(self.server.ask("site", text), "{text}");
    }
}

fn with_database(daemon: &Daemon, url: &Path) {
    let config = daemon.path("site.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("\n[server]\n", &format!("\n[database]\nurl_file = {url:?}\n\n[server]\n"));
    std::fs::write(&config, text).unwrap();
}

fn moving(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(LEEWARD);
    command.args(["server", "move-state", "--config"]).arg(daemon.path("site.toml")).args(arguments);
    command
}

fn said(done: &Output) -> (Option<i32>, String) {
    let text = [done.stdout.as_slice(), done.stderr.as_slice()].concat();
    (done.status.code(), String::from_utf8(text).unwrap())
}

fn answers(daemon: &Daemon, code: i32, what: &str) {
    let (found, said) = said(&moving(daemon, &[]).output().unwrap());
    assert!(found == Some(code) && said.contains(what), "{found:?} {said}");
}

/// A daemon that does not start, and what it says.
fn does_not_start(daemon: &Daemon, what: &str) {
    for verb in [["server", "--config"].as_slice(), &["server", "check", "--config"]] {
        let done = Command::new(LEEWARD).args(verb).arg(daemon.path("site.toml")).output().unwrap();
        let (code, said) = said(&done);
        assert!(code == Some(5) && said.contains(what), "{verb:?}: {code:?} {said}");
    }
}

fn until<T>(mut look: impl FnMut() -> Option<T>, what: &str) -> T {
    let end = Instant::now() + Duration::from_secs(240);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run_of(daemon: &Daemon, object: &str) -> Option<String> {
    let listed = daemon.get("/v1/runs?kind=import&most=100").json();
    let mut runs = listed["runs"].as_array().unwrap().iter();
    runs.find(|run| run["subject"] == object).map(|run| run["id"].as_str().unwrap().to_owned())
}

fn is_written(daemon: &Daemon, run: &str) -> bool {
    let shown = daemon.get(&format!("/v1/runs/{run}")).json();
    shown["progress"]["write_image_to_bv"]["done"].as_u64() > Some(0)
}

fn schedule(daemon: &Daemon) -> Value {
    let listed = daemon.get("/v1/schedules").json();
    let mut found = listed["schedules"].as_array().unwrap().iter();
    found.find(|schedule| schedule["name"] == "look").unwrap().clone()
}

/// What a daemon tells of a run that has ended or waits.
fn all_of(daemon: &Daemon, run: &str) -> [Value; 2] {
    ["", "/log"].map(|what| daemon.get(&format!("/v1/runs/{run}{what}")).json())
}

/// The first events, with their numbers.
fn events(daemon: &Daemon, count: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(&daemon.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = format!(
        "GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\nlast-event-id: 0\r\n\r\n",
        daemon.bearer()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map(|line| line.unwrap());
    lines.filter(|line| line.starts_with("id: ") || line.starts_with("data: ")).take(2 * count).collect()
}

#[test]
fn a_site_with_one_daemon_goes_on_with_two_that_share_a_database() {
    let Some(world) = World::new() else { return };
    let mut daemons = [Daemon::new(|text| world.config(&text)), Daemon::new(|text| world.config(&text))];
    let [first, second] = &mut daemons;
    first.up();
    world.put("one.qcow2", 4 << 20, 1);
    let one = until(|| run_of(first, "one.qcow2"), "the image is seen");
    first.until(&one, &["succeeded"]);
    image(&world.path("one.qcow2.disk"), &world.path("inbox/.held"), "vdi", &[]);
    std::fs::rename(world.path("inbox/.held"), world.path("inbox/waits.bin")).unwrap();
    let waits = first.import("waits.bin", json!({"ad_number": 4}));
    first.until(&waits, &["held"]);
    assert_eq!(first.post("/v1/schedules/look/pause", &json!({})).status, 200);
    let raw = world.put("big.qcow2", 256 << 20, 2);
    let big = until(|| run_of(first, "big.qcow2"), "the image is seen");
    until(|| is_written(first, &big).then_some(()), "it is being written");
    let before = [all_of(first, &one), all_of(first, &waits)];
    let (paused, told) = (schedule(first), events(first, 20));
    assert_eq!((paused["paused"].as_bool(), told.len()), (Some(true), 40));

    // Not while the daemon runs, and not without a database to go to.
    answers(first, 2, "it has no [database]");
    with_database(first, &world.path("postgres.url"));
    answers(first, 2, "another daemon has this state");
    first.kill();
    does_not_start(first, "leeward server move-state");

    // What would be done is told, and nothing is done.
    let planned = moving(first, &["--dry-run", "--json"]).output().unwrap();
    assert!(planned.status.success(), "{:?}", said(&planned));
    let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let count = |name: &str| planned["tables"][name].as_u64().unwrap();
    // The hour may have begun just now, with a run for the copy of the state.
    assert!(
        count("runs") >= 3 && planned["live"].as_u64() >= Some(2) && planned["dry_run"] == true,
        "{planned:#}"
    );
    assert!(count("events") > 20 && count("logs") > 0 && count("seen") >= 2 && count("schedules") == 2);
    assert!(world.holds("to_regclass('leeward_runs') IS NULL"));

    // Not while a daemon is there, and not where one was.
    with_database(second, &world.path("postgres.url"));
    let config = std::fs::read_to_string(second.path("site.toml")).unwrap();
    std::fs::write(second.path("site.toml"), config.replace("watch = \"poll\"", "watch = \"off\"")).unwrap();
    second.up();
    until(|| world.holds("EXISTS (SELECT 1 FROM leeward_leader)").then_some(()), "it leads");
    answers(first, 8, "works there");
    assert!(second.stop());
    std::fs::write(second.path("site.toml"), config).unwrap();
    answers(first, 5, "there is the state of a site already (");
    for table in ["runs", "pools", "events", "logs", "progress", "hints", "seen", "schedules", "told_up_to"] {
        world.says(&format!("TRUNCATE leeward_{table}"));
    }

    // A statement that fails, and a kill in the middle: nothing is there, and the files are as good as before.
    let nothing = "NOT EXISTS (SELECT 1 FROM leeward_runs) AND to_regclass('leeward_moved') IS NULL";
    let stumble = |what: &str| {
        world.says(&format!(
            "CREATE OR REPLACE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; RETURN NEW; END $$"
        ));
    };
    stumble("RAISE EXCEPTION 'no room'");
    world.says(
        "CREATE TRIGGER stumble BEFORE INSERT ON leeward_schedules FOR EACH ROW EXECUTE PROCEDURE stumble()",
    );
    answers(first, 6, "no room");
    assert!(world.holds(nothing) && !first.path("state/moved.json").exists());
    stumble("PERFORM pg_sleep(3)");
    let mut child = moving(first, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_there = "EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
    until(|| world.holds(is_there).then_some(()), "it is in the middle");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!first.path("state/moved.json").exists());
    until(|| (!world.holds(is_there) && world.holds(nothing)).then_some(()), "the server gives it up");

    // One that was killed right before its commit has left its mark, and no daemon starts until it is known what became of it.
    world.says("DROP TRIGGER stumble ON leeward_schedules");
    let mut mark = json!({
        "id": "00", "site": "x", "database": "postgresql x", "at": "2026-01-01T00:00:00Z", "is_done": false,
    });
    std::fs::write(first.path("state/moved.json"), mark.to_string()).unwrap();
    does_not_start(first, "whether it was done is not known here");
    // Nor does another database know.
    answers(first, 5, "whether it was done is not known here");
    mark["database"] = planned["database"].clone();
    std::fs::write(first.path("state/moved.json"), mark.to_string()).unwrap();
    let moved = moving(first, &["--json"]).output().unwrap();
    assert!(moved.status.success(), "{:?}", said(&moved));
    let moved: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!((&moved["tables"], &moved["live"]), (&planned["tables"], &planned["live"]));
    for (table, count) in moved["tables"].as_object().unwrap() {
        assert!(world.holds(&format!("(SELECT count(*) FROM leeward_{table}) = {count}")), "{table}");
    }
    assert!(first.path("state/runs.sqlite").exists());

    // And one that was killed right after it: the next one finds that it was done.
    let mut mark: Value =
        serde_json::from_slice(&std::fs::read(first.path("state/moved.json")).unwrap()).unwrap();
    assert_eq!(mark["is_done"], true);
    mark["is_done"] = false.into();
    std::fs::write(first.path("state/moved.json"), mark.to_string()).unwrap();
    does_not_start(first, "whether it was done is not known here");
    for _ in 0..2 {
        answers(first, 0, "there is nothing to move");
    }

    // Two daemons go on with all of it.
    for name in ["state/tokens", "admin.token"] {
        std::fs::copy(first.path(name), second.path(name)).unwrap();
    }
    second.token.clone_from(&first.token);
    first.up();
    second.up();
    assert_eq!([all_of(second, &one), all_of(second, &waits)], before);
    assert_eq!(events(second, 20), told);
    assert_eq!(schedule(second)["paused"], paused["paused"]);
    let done = second.until(&big, &["succeeded", "failed", "held"]);
    assert_eq!(done["state"], "succeeded", "{done:#}");
    let volumes = world.volumes("big");
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    assert_holds(&volumes[0], &raw);
    // The same objects are not noticed again, and new ones have numbers of their own.
    world.put("next.qcow2", 4 << 20, 3);
    let next = until(|| run_of(first, "next.qcow2"), "the image is seen");
    first.until(&next, &["succeeded"]);
    assert!(world.holds("(SELECT count(*) FROM leeward_runs WHERE kind = 'import') = 4"));
    assert_eq!(["one", "big", "next"].map(|name| world.volumes(name).len()), [1; 3]);

    // Back to files that are old by now: no daemon starts on them silently, and nothing is moved over what is there.
    daemons.iter_mut().for_each(Daemon::kill);
    let [first, _] = &mut daemons;
    let config = std::fs::read_to_string(first.path("site.toml")).unwrap();
    let kept: Vec<_> =
        config.lines().filter(|line| *line != "[database]" && !line.starts_with("url_file")).collect();
    std::fs::write(first.path("site.toml"), kept.join("\n")).unwrap();
    does_not_start(first, "what ran since would run again");
    std::fs::write(first.path("site.toml"), config).unwrap();
    answers(first, 0, "there is nothing to move");
    world.server.database("other", &world.path("postgres.url"));
    answers(first, 5, "does not have it");
}
