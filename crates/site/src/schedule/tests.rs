//! Schedules under a clock of their own: what is begun when time passes, stops, jumps and goes back.

use std::path::Path;

use leeward_runs::state::{SqliteState, State};

use super::*;

const SITE: &str =
    "name='home'\nstate='s'\n[source.x]\nlocation='/x'\n[target.t]\nkind='directory'\npath='/t'\n
[schedule.nightly]\nimport = { source = 'x', object = 'a.raw', target = 't' }\n";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A daemon that begins runs and never does them.
struct World {
    folder: tempfile::TempDir,
    state: Arc<dyn State>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state: Arc<dyn State> = Arc::new(SqliteState::open(&folder.path().join("runs")).unwrap());
        Self { folder, state }
    }

    /// One daemon of those that share the state, as it is when it has been started.
    fn daemon(&self, name: &str, schedule: &str) -> Scheduler {
        let config = Config::parse(&format!("{SITE}{schedule}"), Path::new("/")).unwrap();
        let catalog = Arc::new(Catalog::open(&self.folder.path().join(name)).unwrap());
        let notifier = Arc::new(Notifier::new(&config, Arc::clone(&catalog)));
        Scheduler::new(&config, Runs::new(Arc::clone(&self.state)), catalog, notifier).unwrap()
    }

    /// The slots of all runs, as `day hour:minute`, in the order in which they were begun.
    fn slots(&self) -> Vec<String> {
        let mut slots: Vec<_> = self.runs().iter().map(|run| run.labels["slot"].clone()).collect();
        slots.sort();
        slots
    }

    fn runs(&self) -> Vec<Run> {
        let page = self.state.list(&Filter { most: 1000, ..Filter::default() }).unwrap();
        page.runs.iter().map(|found| self.state.load(&found.id).unwrap().unwrap().0).collect()
    }

    fn end_all(&self) {
        for mut run in self.runs().into_iter().filter(|run| !run.state.is_final()) {
            run.state = RunState::Succeeded;
            self.state.replace(&run, run.sequence, None, &[]).unwrap();
        }
    }
}

/// Has the catalog say something else than it does.
fn remember(daemon: &Scheduler, entry: &Entry) {
    let was = daemon.catalog.schedules().unwrap().remove("nightly");
    assert!(daemon.catalog.keep_schedule("nightly", was.as_ref(), entry).unwrap());
}

fn view(daemon: &Scheduler) -> ScheduleView {
    daemon.views().unwrap().remove(0)
}

const HOURLY: &str = "every = '1h'";

#[test]
fn each_slot_begins_one_run_and_what_was_before_the_schedule_begins_none() {
    let world = World::new();
    let daemon = world.daemon("a", HOURLY);
    for minute in 0..180 {
        daemon.tick(at("2026-06-01T10:30:00Z") + minutes(minute)).unwrap();
        world.end_all();
    }
    assert_eq!(world.slots(), ["2026-06-01T11:00:00Z", "2026-06-01T12:00:00Z", "2026-06-01T13:00:00Z"]);
    let view = view(&daemon);
    assert_eq!(view.next, Some(at("2026-06-01T14:00:00Z")));
    assert_eq!(
        (view.last_slot, view.last_state),
        (Some(at("2026-06-01T13:00:00Z")), Some(RunState::Succeeded))
    );
    assert_eq!(view.note, None);
}

#[test]
fn what_was_missed_is_made_up_for_once_or_not_at_all() {
    for (catch_up, begun) in [("once", vec!["2026-06-01T20:00:00Z"]), ("none", vec![])] {
        let world = World::new();
        let schedule = format!("{HOURLY}\ncatch_up = '{catch_up}'");
        world.daemon("a", &schedule).tick(at("2026-06-01T10:30:00Z")).unwrap();
        // The daemon was down, or its machine slept, or the clock jumped: it is the same.
        let daemon = world.daemon("a", &schedule);
        daemon.tick(at("2026-06-01T20:20:00Z")).unwrap();
        assert_eq!(world.slots(), begun, "{catch_up}");
        let note = view(&daemon).note.unwrap();
        assert!(note.contains("missed, and 9 before it"), "{note}");
        world.end_all();
        daemon.tick(at("2026-06-01T20:40:00Z")).unwrap();
        assert_eq!(world.slots(), begun, "decided is decided");
        daemon.tick(at("2026-06-01T21:00:01Z")).unwrap();
        assert_eq!(world.slots().last().map(String::as_str), Some("2026-06-01T21:00:00Z"));
    }
}

#[test]
fn a_clock_that_is_set_back_begins_nothing_twice_and_does_not_stop_the_schedule() {
    let world = World::new();
    let daemon = world.daemon("a", HOURLY);
    for time in ["10:30", "11:00", "12:00", "10:45", "11:00", "11:30", "12:00", "13:00"] {
        daemon.tick(at(&format!("2026-06-01T{time}:00Z"))).unwrap();
        world.end_all();
    }
    assert_eq!(world.slots(), ["2026-06-01T11:00:00Z", "2026-06-01T12:00:00Z", "2026-06-01T13:00:00Z"]);
    // A clock that was years ahead and is mended: the schedule does not wait for that year.
    daemon.tick(at("2040-01-01T00:30:00Z")).unwrap();
    world.end_all();
    daemon.tick(at("2026-06-01T13:30:00Z")).unwrap();
    daemon.tick(at("2026-06-01T14:00:00Z")).unwrap();
    assert!(world.slots().contains(&"2026-06-01T14:00:00Z".to_owned()), "{:?}", world.slots());
}

#[test]
fn two_daemons_that_share_the_state_begin_one_run() {
    let world = World::new();
    let daemons = ["a", "b"].map(|name| world.daemon(name, HOURLY));
    daemons.iter().for_each(|daemon| daemon.tick(at("2026-06-01T10:30:00Z")).unwrap());
    for hour in 11..20 {
        std::thread::scope(|scope| {
            for daemon in &daemons {
                scope.spawn(move || daemon.tick(at(&format!("2026-06-01T{hour}:00:02Z"))).unwrap());
            }
        });
        let [one, other] = daemons.each_ref().map(view);
        assert!(one.last_run.is_some());
        assert_eq!(one.last_run, other.last_run, "both tell of the same run");
        world.end_all();
    }
    assert_eq!(world.slots().len(), 9);
}

#[test]
fn a_daemon_that_dies_before_it_remembers_begins_the_same_run() {
    let world = World::new();
    let daemon = world.daemon("a", HOURLY);
    daemon.tick(at("2026-06-01T10:30:00Z")).unwrap();
    let before = daemon.catalog.schedules().unwrap();
    daemon.tick(at("2026-06-01T11:00:00Z")).unwrap();
    remember(&daemon, &before["nightly"]);
    // Its run is still under way: it is the slot's own, so it is not in the way.
    let again = world.daemon("a", HOURLY);
    again.tick(at("2026-06-01T11:00:30Z")).unwrap();
    assert_eq!(world.runs().len(), 1);
    assert_eq!(view(&again).last_run, Some(world.runs()[0].id.clone()));
    assert_eq!(view(&again).note, None);
}

#[test]
fn who_wants_to_know_is_told_once_of_each_time_that_passed_without_its_run() {
    let world = World::new();
    let receiver = "\n[notify.ops]\non=['missed']\nwebhook={url='https://h.example/',secret_file='s'}";
    let schedule = format!("{HOURLY}\ncatch_up = 'none'{receiver}");
    let daemon = world.daemon("a", &schedule);
    let told = |daemon: &Scheduler| -> Vec<String> {
        let found = daemon.catalog.deliveries(&[], None, 100).unwrap();
        found.into_iter().rev().map(|delivery| delivery.title).collect()
    };
    daemon.tick(at("2026-06-01T10:30:00Z")).unwrap();
    daemon.tick(at("2026-06-01T11:00:00Z")).unwrap();
    assert!(told(&daemon).is_empty());
    // An open run is told once, however many slots pass.
    for hour in 12..15 {
        daemon.tick(at(&format!("2026-06-01T{hour}:00:00Z"))).unwrap();
    }
    assert_eq!(told(&daemon).len(), 1);
    world.end_all();
    let daemon = world.daemon("a", &schedule);
    daemon.tick(at("2026-06-01T20:20:00Z")).unwrap();
    daemon.tick(at("2026-06-01T20:20:01Z")).unwrap();
    let titles = told(&daemon);
    assert_eq!(titles.len(), 2, "{titles:?}");
    assert!(titles[1].starts_with("schedule nightly: no run: its time was missed"), "{titles:?}");
    // Whoever died before it was written down that the slot is decided tells it under the same name.
    let mut before = daemon.catalog.schedules().unwrap();
    let entry = before.get_mut("nightly").unwrap();
    (entry.handled, entry.note) = (at("2026-06-01T14:00:00Z"), None);
    remember(&daemon, entry);
    daemon.tick(at("2026-06-01T20:20:02Z")).unwrap();
    assert_eq!(told(&daemon).len(), 2);
}

#[test]
fn while_a_run_is_not_over_no_other_begins_and_that_is_said() {
    let world = World::new();
    let daemon = world.daemon("a", HOURLY);
    daemon.tick(at("2026-06-01T10:30:00Z")).unwrap();
    daemon.tick(at("2026-06-01T11:00:00Z")).unwrap();
    daemon.tick(at("2026-06-01T12:00:00Z")).unwrap();
    let run = world.runs().remove(0).id;
    let shown = view(&daemon);
    assert!(shown.note.clone().unwrap().contains(&format!("no run: run {run} is queued")), "{shown:?}");
    let error = daemon.fire("nightly", false, "me", None).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Conflict);
    assert!(error.to_string().contains(run.as_str()), "{error}");
    world.end_all();
    let (fired, new) = daemon.fire("nightly", false, "me", None).unwrap();
    assert!(new && fired != run);
    assert_eq!(view(&daemon).note.unwrap(), "begun by me");
    assert_eq!(world.runs().len(), 2);
    let error = daemon.fire("weekly", false, "me", None).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::NotFound);
}

#[test]
fn what_passes_while_it_is_paused_is_not_made_up_for_and_a_restart_keeps_the_pause() {
    let world = World::new();
    // Pauses are times of the state's own clock.
    let now = world.state.now().unwrap();
    let daemon = world.daemon("a", HOURLY);
    daemon.tick(now - minutes(600)).unwrap();
    let paused = daemon.pause("nightly", true, "me").unwrap();
    assert_eq!((paused.paused, paused.paused_by.as_deref(), paused.next), (true, Some("me"), None));
    let daemon = world.daemon("a", HOURLY);
    daemon.tick(now).unwrap();
    daemon.tick(now + minutes(600)).unwrap();
    assert_eq!(world.runs().len(), 0);
    let resumed = daemon.pause("nightly", false, "me").unwrap();
    assert!(!resumed.paused && resumed.next.is_some());
    daemon.tick(world.state.now().unwrap()).unwrap();
    assert_eq!(world.runs().len(), 0, "what passed was not wanted");
    daemon.tick(now + minutes(700)).unwrap();
    assert_eq!(world.runs().len(), 1);
}

#[test]
fn other_times_and_a_schedule_that_comes_again_have_missed_nothing() {
    let world = World::new();
    world.daemon("a", HOURLY).tick(at("2026-06-01T10:30:00Z")).unwrap();
    world.daemon("a", "every = '10m'").tick(at("2026-06-01T20:05:00Z")).unwrap();
    world.daemon("a", "every = '10m'\nenabled = false").tick(at("2026-06-01T20:15:00Z")).unwrap();
    world.daemon("a", "every = '10m'").tick(at("2026-06-01T23:05:00Z")).unwrap();
    assert_eq!(world.runs().len(), 0);
}

/// Minutes, to add to a time.
fn minutes(number: i64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_mins(number)
}
