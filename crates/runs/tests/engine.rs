//! What an engine makes of runs: order, retries, holds, undoing, cancelling, leases.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leeward_runs::engine::EngineOptions;
use leeward_runs::state::{Filter, Inserted, Replaced};
use leeward_runs::{Command, Event, OnCancel, OnFailure, RunState, StepState};
use serde_json::json;
use world::{Act, Bed, Scene, chain, diamond, options, plan, run, step};

on_each! {
    steps_come_in_order_and_hand_on_what_they_made,
    what_may_pass_is_tried_again,
    a_held_run_goes_on_from_the_failed_step_with_other_inputs,
    attempts_end_and_a_crash_is_a_failure,
    a_branch_beside_a_failed_step_is_let_to_its_end_and_no_other_begins,
    what_was_made_is_undone_in_reverse_also_by_the_failed_step,
    what_cannot_be_undone_is_named_and_can_be_tried_again,
    a_failure_may_ask_that_all_is_undone_where_the_plan_holds,
    a_cancelled_run_ends_as_cancelled_though_its_undoing_failed_once,
    what_a_run_delivered_when_it_succeeded_is_not_undone_later,
    a_cancelled_run_stops_and_leaves_nothing,
    a_plan_may_leave_what_a_cancelled_run_made,
    skipping_is_a_state_of_its_own,
    a_step_whose_time_is_over_fails_even_if_it_does_not_listen,
    a_pool_bounds_the_runs_that_are_under_way,
    a_held_run_gives_its_place_back,
    steps_of_a_gated_run_wait_for_a_word_each,
    a_run_is_made_once_under_one_key,
    an_engine_that_ends_hands_its_runs_on,
    a_step_that_loses_its_engine_again_and_again_is_held_to_be_the_cause,
    a_late_result_of_an_engine_that_lost_its_run_is_refused,
    plans_of_another_release_hold_with_a_reason,
    a_run_that_makes_no_sense_is_told_of_and_keeps_nobody_waiting,
}

fn retry() -> Command {
    Command::Retry { step: None, inputs: None }
}

fn steps_come_in_order_and_hand_on_what_they_made(bed: &Bed) {
    let scene = Scene::new(bed);
    let run = run(diamond());
    scene.begin(&run);
    let ended = scene.until(&run, RunState::Succeeded);
    assert_eq!(ended.step("d").unwrap().outputs["saw"], 2);
    assert!(ended.finished.is_some());
    let events = scene.state.events(Some(&run.id), 0, 1000).unwrap();
    let at =
        |wanted: &dyn Fn(&Event) -> bool| events.iter().position(|stored| wanted(&stored.event)).unwrap();
    for (before, after) in [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")] {
        let ended = at(&|event| matches!(event, Event::Succeeded { step, .. } if step == before));
        let began = at(&|event| matches!(event, Event::Started { step } if step == after));
        assert!(ended < began, "{after} began before {before} had ended");
    }
    let lines = scene.state.logged(&run.id, Some("d"), 0, 10).unwrap();
    assert_eq!(lines[0].text, "acting in d");
}

fn what_may_pass_is_tried_again(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("b", &[Act::Passing, Act::MakeAndFail, Act::Passing]);
    let run = run(chain());
    scene.begin(&run);
    let ended = scene.until(&run, RunState::Succeeded);
    assert_eq!(ended.step("b").unwrap().attempts, 4);
    assert_eq!(scene.world.things(), 4);
    let lines = scene.state.logged(&run.id, Some("b"), 0, 100).unwrap();
    assert_eq!(lines.iter().filter(|line| line.text.contains("trying again")).count(), 3);
}

fn a_held_run_goes_on_from_the_failed_step_with_other_inputs(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("c", &[Act::Lasting]);
    let run = run(chain());
    scene.begin(&run);
    let held = scene.until(&run, RunState::Held);
    assert_eq!(held.step("c").unwrap().state, StepState::Failed);
    assert_eq!(held.reason.as_deref(), Some("c: refused"));
    assert_eq!(held.step("d").unwrap().state, StepState::Pending);
    let command = Command::Retry { step: None, inputs: Some(json!({"size": 8, "new": true})) };
    scene.runs().command(&run.id, &command).unwrap();
    let ended = scene.until(&run, RunState::Succeeded);
    assert_eq!(ended.inputs, json!({"size": 8, "new": true}));
    assert_eq!(["a", "b", "c", "d"].map(|step| scene.world.calls_of(step)), [1, 1, 2, 1]);
}

fn attempts_end_and_a_crash_is_a_failure(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("a", &[Act::Passing, Act::Passing, Act::Passing, Act::Passing, Act::Crash]);
    let run = run(chain());
    scene.begin(&run);
    scene.until(&run, RunState::Held);
    assert_eq!(scene.world.calls_of("a"), 4);
    scene.runs().command(&run.id, &retry()).unwrap();
    let held = scene.until_that(&run, "it crashed", |run| {
        run.state == RunState::Held && run.reason.as_deref() == Some("a: the step crashed")
    });
    assert!(!held.step("a").unwrap().failure.clone().unwrap().passing);
    scene.runs().command(&run.id, &retry()).unwrap();
    scene.until(&run, RunState::Succeeded);
}

fn a_branch_beside_a_failed_step_is_let_to_its_end_and_no_other_begins(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("b", &[Act::Lasting]);
    scene.world.script("c", &[Act::Take(300)]);
    let run = run(diamond());
    scene.begin(&run);
    let held = scene.until(&run, RunState::Held);
    assert_eq!(held.step("c").unwrap().state, StepState::Succeeded);
    assert_eq!(held.step("d").unwrap().state, StepState::Pending);
}

fn what_was_made_is_undone_in_reverse_also_by_the_failed_step(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("c", &[Act::MakeAndFail, Act::Lasting]);
    scene.world.undo_script("b", &[Act::Passing, Act::Passing]);
    let mut undone = chain();
    undone.on_failure = OnFailure::Undo;
    let run = run(undone);
    scene.begin(&run);
    let ended = scene.until(&run, RunState::Failed);
    assert_eq!(scene.world.things(), 0);
    assert_eq!(ended.step("d").unwrap().state, StepState::Pending);
    let calls = scene.world.calls.lock().unwrap().clone();
    let undone: Vec<_> = calls.iter().filter(|call| call.starts_with("undo")).map(String::as_str).collect();
    assert_eq!(undone, ["undo c", "undo b", "undo b", "undo b", "undo a"]);
}

fn what_cannot_be_undone_is_named_and_can_be_tried_again(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("d", &[Act::Lasting]);
    scene.world.undo_script("b", &[Act::Lasting]);
    let run = run(chain());
    scene.begin(&run);
    scene.until(&run, RunState::Held);
    scene.runs().command(&run.id, &Command::Undo).unwrap();
    let stuck = scene.until(&run, RunState::UndoFailed);
    assert_eq!(stuck.reason.as_deref(), Some("not undone: a, b"));
    assert!(stuck.step("b").unwrap().failure.clone().unwrap().message.ends_with("is left"));
    assert_eq!(scene.world.things(), 2, "what comes before a step that is left stays as well");
    assert_eq!(scene.state.forget_ended_before(jiff::Timestamp::now()).unwrap(), 0, "it is not forgotten");
    scene.runs().command(&run.id, &Command::Undo).unwrap();
    scene.until(&run, RunState::Failed);
    assert_eq!(scene.world.things(), 0);
}

fn a_failure_may_ask_that_all_is_undone_where_the_plan_holds(bed: &Bed) {
    let scene = Scene::new(bed);
    // Beside one that only fails.
    scene.world.script("b", &[Act::Lasting]);
    scene.world.script("c", &[Act::LastingAndUndo]);
    let run = run(diamond());
    scene.begin(&run);
    let ended = scene.until_that(&run, "it ends", |run| !run.state.is_live());
    assert_eq!(ended.state, RunState::Failed, "{ended:#?}");
    assert_eq!(ended.reason.as_deref(), Some("c: worthless"));
    assert_eq!(scene.world.things(), 0);
    assert_eq!(["b", "c", "d"].map(|step| scene.world.calls_of(&format!("undo {step}"))), [1, 1, 0]);
}

fn a_cancelled_run_ends_as_cancelled_though_its_undoing_failed_once(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("c", &[Act::Hang]);
    scene.world.undo_script("b", &[Act::Lasting]);
    let run = run(chain());
    scene.begin(&run);
    scene.until_that(&run, "c runs", |run| run.step("c").unwrap().state == StepState::Running);
    scene.runs().command(&run.id, &Command::Cancel).unwrap();
    let stuck = scene.until(&run, RunState::UndoFailed);
    assert_eq!(stuck.reason.as_deref(), Some("not undone: a, b"));
    scene.runs().command(&run.id, &Command::Undo).unwrap();
    let ended = scene.until_that(&run, "it ends", |run| run.state.is_final());
    assert_eq!(ended.state, RunState::Cancelled);
    assert_eq!(scene.world.things(), 0);
}

fn what_a_run_delivered_when_it_succeeded_is_not_undone_later(bed: &Bed) {
    let scene = Scene::new(bed);
    let run = run(chain());
    scene.begin(&run);
    scene.until(&run, RunState::Succeeded);
    scene.world.script("c", &[Act::Hang]);
    let again = Command::Retry { step: Some("b".to_owned()), inputs: None };
    scene.runs().command(&run.id, &again).unwrap();
    scene.until_that(&run, "c runs", |run| run.step("c").unwrap().state == StepState::Running);
    scene.runs().command(&run.id, &Command::Cancel).unwrap();
    scene.until(&run, RunState::Cancelled);
    let undone = ["a", "b", "c", "d"].map(|step| scene.world.calls_of(&format!("undo {step}")));
    assert_eq!(undone, [0, 1, 1, 0], "b and c were begun since");
    let left: Vec<_> = scene.world.things.lock().unwrap().iter().cloned().collect();
    assert_eq!(left, ["a", "d"].map(|step| format!("lw-{}-{step}", run.id)));
}

fn a_cancelled_run_stops_and_leaves_nothing(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("c", &[Act::Hang]);
    let run = run(chain());
    scene.begin(&run);
    scene.until_that(&run, "c runs", |run| run.step("c").unwrap().state == StepState::Running);
    scene.runs().command(&run.id, &Command::Cancel).unwrap();
    scene.until(&run, RunState::Cancelled);
    assert_eq!(scene.world.things(), 0);
    scene.runs().command(&run.id, &Command::Cancel).unwrap_err();
}

fn a_plan_may_leave_what_a_cancelled_run_made(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("b", &[Act::Lasting]);
    let mut leaving = chain();
    leaving.on_cancel = OnCancel::Leave;
    let run = run(leaving);
    scene.begin(&run);
    scene.until(&run, RunState::Held);
    scene.runs().command(&run.id, &Command::Cancel).unwrap();
    scene.until(&run, RunState::Cancelled);
    assert_eq!(scene.world.things(), 1);
}

fn skipping_is_a_state_of_its_own(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("b", &[Act::Skip]);
    scene.world.script("c", &[Act::Lasting]);
    let mut skipping = chain();
    skipping.steps[2].may_skip = true;
    let run = run(skipping);
    scene.begin(&run);
    scene.until(&run, RunState::Held);
    let skip = |step: &str| Command::Skip { step: step.to_owned(), reason: None };
    scene.runs().command(&run.id, &skip("d")).unwrap_err();
    scene.runs().command(&run.id, &skip("zz")).unwrap_err();
    scene.runs().command(&run.id, &skip("c")).unwrap();
    let ended = scene.until(&run, RunState::Succeeded);
    assert_eq!(ended.step("b").unwrap().skipped.as_deref(), Some("not needed here"));
    assert_eq!(ended.step("c").unwrap().state, StepState::Skipped);
}

fn a_step_whose_time_is_over_fails_even_if_it_does_not_listen(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("a", &[Act::Hang]);
    let mut hurried = chain();
    hurried.steps[0].deadline_seconds = Some(1);
    let run = run(hurried);
    scene.begin(&run);
    let held = scene.until(&run, RunState::Held);
    assert_eq!(held.reason.as_deref(), Some("a: its time was over"));
    scene.runs().command(&run.id, &retry()).unwrap();
    scene.until(&run, RunState::Succeeded);
}

fn a_pool_bounds_the_runs_that_are_under_way(bed: &Bed) {
    let mut bounded = options("one");
    bounded.pools = BTreeMap::from([("imports".to_owned(), 3)]);
    let scene = Scene::with(bed, bounded.clone());
    let other = scene.start(EngineOptions { owner: "two".to_owned(), ..bounded });
    let mut runs = Vec::new();
    scene.world.script("a", &vec![Act::Take(100); 10]);
    for _ in 0..10 {
        let mut pooled = plan(vec![step("a", &[])]);
        pooled.pools = BTreeSet::from(["imports".to_owned()]);
        runs.push(run(pooled));
    }
    runs.iter().for_each(|run| scene.begin(run));
    runs.iter().for_each(|run| drop(scene.until(run, RunState::Succeeded)));
    let most = scene.world.busy.lock().unwrap().1;
    assert!((2..=3).contains(&most), "{most} at once");
    other.stop();
}

fn a_held_run_gives_its_place_back(bed: &Bed) {
    let mut bounded = options("one");
    bounded.pools = BTreeMap::from([("imports".to_owned(), 1)]);
    let scene = Scene::with(bed, bounded);
    scene.world.script("a", &[Act::Lasting]);
    let pooled = || {
        let mut pooled = plan(vec![step("a", &[])]);
        pooled.pools = BTreeSet::from(["imports".to_owned()]);
        run(pooled)
    };
    let (first, second) = (pooled(), pooled());
    scene.begin(&first);
    scene.until(&first, RunState::Held);
    scene.begin(&second);
    scene.until(&second, RunState::Succeeded);
}

fn steps_of_a_gated_run_wait_for_a_word_each(bed: &Bed) {
    let scene = Scene::new(bed);
    let mut run = run(chain());
    run.gated = true;
    scene.begin(&run);
    let release = |step: &str| Command::Release { step: step.to_owned() };
    for name in ["a", "b"] {
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(scene.load(&run).step(name).unwrap().state, StepState::Pending);
        scene.runs().command(&run.id, &release(name)).unwrap();
        scene.until_that(&run, "it is done", |run| run.step(name).unwrap().state == StepState::Succeeded);
    }
    // Doing a step again takes what comes after it back as well, and waits for a word again.
    scene.runs().command(&run.id, &Command::Retry { step: Some("a".to_owned()), inputs: None }).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(scene.load(&run).step("b").unwrap().state, StepState::Pending);
    for name in ["a", "b", "c", "d"] {
        scene.runs().command(&run.id, &release(name)).unwrap();
    }
    scene.until(&run, RunState::Succeeded);
    assert_eq!(scene.world.calls_of("a"), 2);
    assert_eq!(scene.world.things(), 4, "the same key finds the same thing");
}

fn a_run_is_made_once_under_one_key(bed: &Bed) {
    let scene = Scene::new(bed);
    let (first, second) = (run(chain()), run(chain()));
    assert_eq!(scene.runs().begin(&first, Some("event 7")).unwrap(), Inserted::New);
    assert_eq!(scene.runs().begin(&second, Some("event 7")).unwrap(), Inserted::Exists(first.id.clone()));
    assert_eq!(scene.state.list(&Filter::default()).unwrap().runs.len(), 1);
}

fn an_engine_that_ends_hands_its_runs_on(bed: &Bed) {
    let strict = |owner: &str| EngineOptions { interruptions: 1, ..options(owner) };
    let mut scene = Scene::with(bed, strict("one"));
    scene.world.script("b", &[Act::Hang, Act::Hang, Act::Hang]);
    let run = run(chain());
    scene.begin(&run);
    for restart in 1..=3 {
        scene.until_that(&run, "b runs", |run| run.step("b").unwrap().state == StepState::Running);
        scene.engine.take().unwrap().stop();
        let left = scene.load(&run);
        assert_eq!(left.step("b").unwrap().state, StepState::Pending, "it was interrupted, not failed");
        scene.engine = Some(scene.start(strict(&format!("engine {restart}"))));
    }
    let ended = scene.until(&run, RunState::Succeeded);
    assert_eq!(scene.world.calls_of("b"), 4);
    assert_eq!(ended.step("b").unwrap().interruptions, 0, "what is handed on is not lost");
}

fn a_step_that_loses_its_engine_again_and_again_is_held_to_be_the_cause(bed: &Bed) {
    let scene = Scene::with(bed, EngineOptions { interruptions: 2, ..options("one") });
    // As engines that were killed have left it.
    let left = |interruptions: u32| {
        let mut run = run(chain());
        run.state = RunState::Running;
        run.steps[0].state = StepState::Running;
        (run.steps[0].tries, run.steps[0].attempts, run.steps[0].interruptions) = (1, 1, interruptions);
        scene.begin(&run);
        run
    };
    let (often, seldom) = (left(2), left(1));
    let held = scene.until(&often, RunState::Held);
    assert_eq!(held.reason.as_deref(), Some("a: lost its engine 3 times"));
    assert_eq!(scene.until(&seldom, RunState::Succeeded).step("a").unwrap().interruptions, 2);
}

fn a_late_result_of_an_engine_that_lost_its_run_is_refused(bed: &Bed) {
    let scene = Scene::new(bed);
    scene.world.script("a", &[Act::Lasting]);
    let run = run(chain());
    scene.begin(&run);
    scene.until(&run, RunState::Held);
    let (stale, _) = scene.state.load(&run.id).unwrap().unwrap();
    scene.runs().command(&run.id, &retry()).unwrap();
    scene.until(&run, RunState::Succeeded);
    let late =
        [Event::Failed { step: "a".to_owned(), failure: stale.step("a").unwrap().failure.clone().unwrap() }];
    let newest = scene.load(&run);
    assert_eq!(
        scene.state.replace(&stale, newest.sequence, Some(stale.fence), &late).unwrap(),
        Replaced::Fenced
    );
    assert_eq!(scene.state.replace(&stale, stale.sequence, None, &late).unwrap(), Replaced::Changed);
    let claim = leeward_runs::state::Claim { run: run.id.clone(), fence: stale.fence };
    assert!(!scene.state.set_checkpoint(&claim, "a", &json!(1)).unwrap());
}

fn plans_of_another_release_hold_with_a_reason(bed: &Bed) {
    let scene = Scene::new(bed);
    let mut future = chain();
    future.version = 2;
    let run = run(future);
    scene.begin(&run);
    let held = scene.until(&run, RunState::Held);
    assert_eq!(held.reason.as_deref(), Some("a: this release does not know step a of test version 2"));
}

fn a_run_that_makes_no_sense_is_told_of_and_keeps_nobody_waiting(bed: &Bed) {
    let pooled = || {
        let mut pooled = plan(vec![step("a", &[])]);
        pooled.pools = BTreeSet::from(["imports".to_owned()]);
        run(pooled)
    };
    let (damaged, next) = (pooled(), pooled());
    let state = bed.open();
    for run in [&damaged, &next] {
        assert_eq!(state.insert(run, None).unwrap(), Inserted::New);
    }
    let set_body = |body: &str| {
        let text = format!("SET body = {body} WHERE id = '{}'", damaged.id);
        bed.tamper(&format!("UPDATE runs {text}"), &format!("UPDATE leeward_runs {text}"));
    };
    set_body("'x' || body");
    let pools = BTreeMap::from([("imports".to_owned(), 1)]);
    let scene = Scene::with(bed, EngineOptions { pools, ..options("one") });
    scene.until(&next, RunState::Succeeded);
    let troubles = scene.runs().troubles();
    assert_eq!(troubles.len(), 1, "{troubles:#?}");
    assert_eq!(troubles[0].run.as_ref(), Some(&damaged.id));
    assert!(troubles[0].what.contains("is damaged"), "{}", troubles[0]);
    std::thread::sleep(Duration::from_millis(300));
    set_body("substr(body, 2)");
    scene.until(&damaged, RunState::Succeeded);
    assert_eq!(scene.runs().troubles(), []);
    let events = scene.state.events(Some(&damaged.id), 0, 100).unwrap();
    let taken = events.iter().filter(|stored| matches!(stored.event, Event::Claimed { .. })).count();
    assert_eq!(taken, 2, "it is not taken again and again while it makes no sense");
}
