//! What the daemon begins by the clock, seen from outside.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, disk};

/// The schedules, as the command line lists them.
fn schedules(daemon: &Daemon) -> Vec<Value> {
    let listed = daemon.leeward(&["schedule", "list", "--json"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let lines = listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn schedule(daemon: &Daemon, name: &str) -> Value {
    schedules(daemon).into_iter().find(|schedule| schedule["name"] == name).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn runs(daemon: &Daemon) -> usize {
    daemon.get("/v1/runs?most=1000").json()["runs"].as_array().unwrap().len()
}

#[test]
fn a_schedule_begins_runs_is_paused_and_fired_and_remembers_that_when_the_daemon_is_killed() {
    let mut daemon = Daemon::start(|text| {
        text + "\n[schedule.often]\nevery = '1s'\nimport = { source = 'inbox', object = 'a.raw' }\n"
            + "[schedule.seldom]\ncron = '0 0 1 1 *'\nimport = { source = 'inbox', object = 'b.raw' }\n"
    });
    disk(&daemon.path("inbox/a.raw"), 1 << 20, 1);
    until("a scheduled run succeeds", || schedule(&daemon, "often")["last_state"] == "succeeded");
    assert_eq!(schedule(&daemon, "seldom")["last_run"], Value::Null);
    assert!(schedule(&daemon, "seldom")["next"].as_str().unwrap().contains("-01-01T"));

    assert!(daemon.leeward(&["schedule", "pause", "often"]).status.success());
    until("the last run is over", || schedule(&daemon, "often")["last_state"] == "succeeded");
    let begun = runs(&daemon);
    daemon.kill();
    std::thread::sleep(Duration::from_secs(2));
    daemon.up();
    assert_eq!(schedule(&daemon, "often")["paused"], true);
    assert_eq!(runs(&daemon), begun, "nothing is begun while it is paused");

    // Its object is not there: the run is held, and the next one has to wait for a person.
    let fired = daemon.post("/v1/schedules/seldom/fire", &json!({}));
    assert_eq!(fired.status, 201);
    let run = fired.json()["run"].as_str().unwrap().to_owned();
    daemon.until(&run, &["held"]);
    let refused = daemon.leeward(&["schedule", "fire", "seldom"]);
    assert_eq!(refused.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&run));
    disk(&daemon.path("inbox/b.raw"), 1 << 20, 2);
    assert!(daemon.leeward(&["run", "retry", &run]).status.success());
    daemon.until(&run, &["succeeded"]);
    let again = daemon.leeward(&["schedule", "fire", "seldom", "--wait"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(daemon.leeward(&["schedule", "fire", "never"]).status.code(), Some(7));

    assert!(daemon.leeward(&["schedule", "resume", "often"]).status.success());
    let before = runs(&daemon);
    until("it goes on", || runs(&daemon) > before);
}
