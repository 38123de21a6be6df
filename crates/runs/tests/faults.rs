//! Random graphs and faults with real engines, threads and databases, whose answers are lost at random; engines end and
//! others go on. The smaller sister of the simulation in `src/engine/work/simulation.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use leeward_runs::engine::{Engine, EngineOptions};
use leeward_runs::{Command, OnFailure, Plan, Run, RunState, StepState};
use proptest::prelude::*;
use world::faulty::Faulty;
use world::{Act, Bed, Scene, options, plan, run, step};

on_each! { whatever_is_lost_the_run_ends_and_the_world_is_what_it_says }

#[derive(Debug, Clone)]
struct Case {
    plan: Plan,
    acts: Vec<Vec<Act>>,
    undo_acts: Vec<Vec<Act>>,
    /// After how long the engine is ended and another one begun, in milliseconds.
    restarts: Vec<u64>,
    cancel_after: Option<u64>,
    seed: u64,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        Just(Act::Make),
        Just(Act::MakeAndFail),
        Just(Act::Passing),
        Just(Act::Lasting),
        Just(Act::Crash),
        (0..60_u64).prop_map(Act::Take),
    ];
    prop::collection::vec(act, 0..4)
}

fn cases() -> impl Strategy<Value = Case> {
    let graph = prop::collection::vec(any::<u8>(), 2..6);
    let restarts = prop::collection::vec(10..300_u64, 0..3);
    (graph, prop::collection::vec((acts(), acts()), 6), restarts, any::<bool>(), any::<u64>(), 0..900_u64)
        .prop_map(|(graph, acts, restarts, undoes, seed, cancel)| {
            let after = |at: usize, mask: u8| -> Vec<String> {
                (0..at).filter(|before| mask >> before & 1 == 1).map(|before| format!("s{before}")).collect()
            };
            let steps = graph.iter().enumerate().map(|(at, mask)| {
                let names = after(at, *mask);
                step(&format!("s{at}"), &names.iter().map(String::as_str).collect::<Vec<_>>())
            });
            let mut plan = plan(steps.collect());
            plan.on_failure = if undoes { OnFailure::Undo } else { OnFailure::Hold };
            let (acts, undo_acts) = acts.into_iter().unzip();
            Case { plan, acts, undo_acts, restarts, cancel_after: (cancel < 300).then_some(cancel), seed }
        })
}

fn whatever_is_lost_the_run_ends_and_the_world_is_what_it_says(bed: &Bed) {
    let cases_max = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let config = ProptestConfig {
        cases: cases_max,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Default::default()
    };
    proptest!(config, |(case in cases())| try_case(bed, case));
}

fn hasty(owner: usize) -> EngineOptions {
    EngineOptions {
        lease: Duration::from_millis(400),
        poll: Duration::from_millis(20),
        interruptions: 10_000,
        ..options(&format!("engine {owner}"))
    }
}

fn try_case(bed: &Bed, case: Case) {
    let state = bed.open();
    let faulty = Arc::new(Faulty::new(Arc::clone(&state), case.seed));
    let scene = Scene { world: Arc::default(), state, engine: None };
    for (at, (acts, undo_acts)) in case.acts.iter().zip(&case.undo_acts).enumerate() {
        scene.world.script(&format!("s{at}"), acts);
        scene.world.undo_script(&format!("s{at}"), undo_acts);
    }
    let run = run(case.plan.clone());
    scene.state.insert(&run, None).unwrap();
    let start = |owner: usize| {
        let kind = Arc::new(world::TestKind(Arc::clone(&scene.world)));
        Engine::start(faulty.clone(), vec![kind], hasty(owner)).unwrap()
    };
    let mut engine = start(0);
    for (at, wait) in case.restarts.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(*wait));
        engine.stop();
        engine = start(at + 1);
    }
    let cancelled = case.cancel_after.is_some_and(|wait| {
        std::thread::sleep(Duration::from_millis(wait));
        leeward_runs::engine::Runs::new(Arc::clone(&scene.state)).command(&run.id, &Command::Cancel).is_ok()
    });
    let ended = mend(&scene, &run, &faulty);
    engine.stop();
    check(&scene, &ended, cancelled);
}

/// A person who has each failed step tried again, until the run ends.
fn mend(scene: &Scene, run: &Run, faulty: &Faulty) -> Run {
    let runs = leeward_runs::engine::Runs::new(Arc::clone(&scene.state));
    let begun = Instant::now();
    loop {
        let now = scene.load(run);
        let said = match now.state {
            state if state.is_final() => return now,
            RunState::Held => Command::Retry { step: None, inputs: None },
            RunState::UndoFailed => Command::Undo,
            _ => {
                std::thread::sleep(Duration::from_millis(5));
                faulty.is_on.store(begun.elapsed() < Duration::from_secs(20), Ordering::Relaxed);
                assert!(begun.elapsed() < Duration::from_secs(60), "it does not end: {now:#?}");
                continue;
            }
        };
        runs.command(&run.id, &said).unwrap();
    }
}

fn check(scene: &Scene, run: &Run, cancelled: bool) {
    let things = scene.world.things.lock().unwrap().clone();
    let key = |step: &str| format!("lw-{}-{step}", run.id);
    match run.state {
        RunState::Succeeded => {
            assert!(run.steps.iter().all(|step| step.state == StepState::Succeeded));
            assert_eq!(things, run.steps.iter().map(|step| key(&step.name)).collect());
        }
        RunState::Failed | RunState::Cancelled => {
            assert!(things.is_empty(), "it leaked {things:?}: {run:#?}");
            assert!(
                cancelled || (run.state == RunState::Failed && run.plan.on_failure == OnFailure::Undo),
                "{run:#?}"
            );
        }
        other => panic!("{other:?} is no end"),
    }
}
