//! Engines that are killed and paused at every point: what the runs make is made once, nothing is lost, nothing is left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod killed;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use killed::{Files, Process};
use leeward_runs::state::State;
use leeward_runs::{OnFailure, Plan, Run, RunState, StepState};
use rustix::process::Signal;
use world::{Bed, plan, run, step};

on_each! {
    an_engine_that_dies_at_every_point_makes_all_things_once,
    an_engine_that_dies_at_every_point_of_undoing_leaves_nothing,
    one_engine_killed_at_random,
    two_engines_killed_at_random,
    a_paused_engine_finds_its_runs_gone,
}

#[test]
fn the_engine_of_another_process() {
    killed::live();
}

const STEPS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn forward() -> Plan {
    plan(vec![
        step("a", &[]),
        step("b", &["a"]),
        step("c", &["a"]),
        step("d", &["b", "c"]),
        step("e", &["d"]),
    ])
}

/// The same, with a last step that fails: all is undone.
fn back() -> Plan {
    let mut plan = forward();
    plan.steps.push(step("refused", &["e"]));
    plan.on_failure = OnFailure::Undo;
    plan
}

struct Scene {
    bed: std::path::PathBuf,
    files: Files,
    state: std::sync::Arc<dyn State>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(bed: &Bed) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { bed: bed.file(), files: Files::new(folder.path()), state: bed.open(), _folder: folder }
    }

    fn begin(&self, plan: Plan) -> Run {
        let run = run(plan);
        self.state.insert(&run, None).unwrap();
        run
    }

    fn process(&self, owner: &str, dies: bool) -> Process {
        Process::start(&self.bed, &self.files, owner, dies)
    }

    fn load(&self, run: &Run) -> Run {
        self.state.load(&run.id).unwrap().unwrap().0
    }

    fn has_ended(&self, runs: &[Run]) -> bool {
        runs.iter().all(|run| !self.load(run).state.is_live())
    }

    fn until(&self, what: &str, test: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(120);
        while !test() {
            assert!(Instant::now() < end, "not in time: {what}; {:#?}", self.files.journal());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts an engine again whenever it has died, until the run ends.
    fn revive_until_end(&self, run: &Run) {
        let end = Instant::now() + Duration::from_secs(300);
        let mut process = self.process("dying", true);
        while self.load(run).state.is_live() {
            assert!(Instant::now() < end, "not in time: {:#?} {:#?}", self.load(run), self.files.deaths());
            std::thread::sleep(Duration::from_millis(5));
            if process.has_ended() {
                process = self.process("dying", true);
            }
        }
    }

    /// Whether each run ended as its plan says, and what is there is what they say.
    fn check(&self, forward: &[Run], back: &[Run]) {
        let made = |run: &Run| STEPS.map(|step| format!("lw-{}-{step}", run.id)).to_vec();
        let mut wanted: Vec<_> = forward.iter().flat_map(made).collect();
        wanted.sort();
        assert_eq!(self.files.things(), wanted);
        for run in forward {
            let ended = self.load(run);
            assert_eq!(ended.state, RunState::Succeeded, "{ended:#?}");
            assert!(ended.steps.iter().all(|step| step.outputs["made"].is_string()));
        }
        for run in back {
            let ended = self.load(run);
            assert_eq!(ended.state, RunState::Failed, "{ended:#?}");
            assert!(ended.steps.iter().all(|step| step.state == StepState::Undone), "{ended:#?}");
        }
        self.check_journal(forward, back);
    }

    /// Each thing was made once, and removed only where it was to be.
    fn check_journal(&self, forward: &[Run], back: &[Run]) {
        let mut made = BTreeMap::new();
        for line in self.files.journal() {
            if let Some(key) = line.strip_prefix("made ") {
                *made.entry(key.to_owned()).or_insert(0) += 1;
            }
            if let Some(key) = line.strip_prefix("removed ") {
                assert!(!forward.iter().any(|run| key.contains(run.id.as_str())), "{key} was removed");
            }
        }
        // Who dies between making and saying so leaves no line: at most one per thing, then.
        assert!(made.values().all(|times| *times == 1), "{made:?}");
        assert!(made.len() <= (forward.len() + back.len()) * STEPS.len());
    }
}

fn an_engine_that_dies_at_every_point_makes_all_things_once(bed: &Bed) {
    let scene = Scene::new(bed);
    let run = scene.begin(forward());
    scene.revive_until_end(&run);
    assert_eq!(scene.files.deaths().len(), STEPS.len() * 2, "{:?}", scene.files.deaths());
    scene.check(std::slice::from_ref(&run), &[]);
    // Steps beside each other die together: each death interrupts one step or two.
    let interruptions: u32 = scene.load(&run).steps.iter().map(|step| step.interruptions).sum();
    assert!(interruptions >= 10, "{interruptions}");
}

fn an_engine_that_dies_at_every_point_of_undoing_leaves_nothing(bed: &Bed) {
    let scene = Scene::new(bed);
    let run = scene.begin(back());
    scene.revive_until_end(&run);
    // The refused step acts on nothing, but its undo looks.
    assert_eq!(scene.files.deaths().len(), STEPS.len() * 4 + 2, "{:?}", scene.files.deaths());
    scene.check(&[], std::slice::from_ref(&run));
}

fn one_engine_killed_at_random(bed: &Bed) {
    kill_at_random(bed, 1, 8);
}

fn two_engines_killed_at_random(bed: &Bed) {
    kill_at_random(bed, 2, 10);
}

fn kill_at_random(bed: &Bed, engines: usize, kills: u32) {
    let scene = Scene::new(bed);
    let forward: Vec<_> = (0..3).map(|_| scene.begin(forward())).collect();
    let back: Vec<_> = (0..3).map(|_| scene.begin(back())).collect();
    let all: Vec<_> = forward.iter().chain(&back).cloned().collect();
    let owner = |at: usize| format!("engine {at}");
    let mut processes: Vec<_> = (0..engines).map(|at| scene.process(&owner(at), false)).collect();
    for kill in 0..kills {
        let random = u64::from(std::process::id()).wrapping_mul(u64::from(kill) + 7) ^ now_micros();
        std::thread::sleep(Duration::from_millis(random % 900));
        let at = (random / 1000) as usize % engines;
        processes.remove(at).kill();
        processes.insert(at, scene.process(&owner(at), false));
    }
    scene.until("all runs have ended", || scene.has_ended(&all));
    scene.check(&forward, &back);
}

fn now_micros() -> u64 {
    jiff::Timestamp::now().as_microsecond().unsigned_abs()
}

fn a_paused_engine_finds_its_runs_gone(bed: &Bed) {
    let scene = Scene::new(bed);
    let run = scene.begin(plan(vec![step("careless", &[]), step("careful", &[])]));
    let noted = |text: &str| scene.files.journal().iter().any(|line| line == text);
    let both = |text: &str| noted(&format!("careless {text}")) && noted(&format!("careful {text}"));
    let first = scene.process("A", false);
    scene.until("A works", || both("of A waits"));
    first.signal(Signal::STOP);
    while !bed.is_writable() {
        first.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(20));
        first.signal(Signal::STOP);
    }
    let _second = scene.process("B", false);
    scene.until("B has taken the run", || both("of B waits"));
    scene.files.put("go B");
    scene.until("B has ended the run", || scene.has_ended(std::slice::from_ref(&run)));
    let ended = scene.load(&run);
    assert_eq!(ended.state, RunState::Succeeded);
    assert!(ended.steps.iter().all(|step| step.outputs["by"] == "B"), "{ended:#?}");
    let events = scene.state.last_event().unwrap();
    scene.files.put("go A");
    first.signal(Signal::CONT);
    scene.until("A was late", || noted("careless of A answers"));
    scene.until("A has asked", || noted("careful of A may act: false"));
    assert!(!noted("careful of A answers"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(scene.load(&run), ended, "what A says late is refused");
    assert_eq!(scene.state.last_event().unwrap(), events);
}
