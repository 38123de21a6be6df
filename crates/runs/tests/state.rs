//! What every state of runs does: one suite for SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use leeward_runs::state::{Claim, Filter, Inserted, Level, LogLine, Order, Progress, Replaced, State};
use leeward_runs::{Event, Run, RunId, RunState, apply};
use serde_json::json;
use world::{Bed, chain, plan, run, step};

on_each! {
    a_run_reads_back_as_it_was_kept,
    one_key_makes_one_run_whoever_comes,
    a_change_is_by_comparison,
    no_run_is_taken_twice,
    a_pool_has_its_places_and_no_more,
    who_cleans_up_waits_for_no_place,
    who_has_its_places_is_taken_without_counting,
    runs_that_are_to_be_left_alone_keep_nobody_waiting,
    runs_are_taken_in_their_order_whatever_their_pools,
    a_lease_that_is_over_is_somebody_elses,
    a_lease_of_a_clock_that_was_set_back_is_over,
    a_newer_release_is_not_meddled_with,
    a_run_that_ends_frees_what_it_had,
    checkpoints_are_kept_under_the_newest_claim_only,
    events_appear_in_the_order_of_their_numbers,
    lines_of_a_log_can_be_followed,
    listings_are_filtered_and_paged,
    runs_are_counted_by_kind_and_state,
    progress_is_what_was_said_last,
    old_runs_are_forgotten_with_all_that_is_theirs,
    two_daemons_may_start_for_the_first_time_at_once,
    text_with_any_characters_is_kept,
}

/// Longer than any of these tests takes on a slow machine.
const LEASE: Duration = Duration::from_secs(600);

fn free() -> BTreeMap<String, u32> {
    BTreeMap::new()
}

fn kept(state: &dyn State) -> Run {
    let run = run(chain());
    assert_eq!(state.insert(&run, None).unwrap(), Inserted::New);
    run
}

fn pooled(state: &dyn State) -> Run {
    let mut plan = plan(vec![step("a", &[])]);
    plan.pools = BTreeSet::from(["imports".to_owned(), "west".to_owned()]);
    let run = run(plan);
    state.insert(&run, None).unwrap();
    run
}

fn load(state: &dyn State, run: &Run) -> Run {
    state.load(&run.id).unwrap().unwrap().0
}

fn move_to(state: &dyn State, run: &Run, to: RunState) -> Replaced {
    let mut run = load(state, run);
    let event = Event::Moved { state: to, reason: None };
    apply(&mut run, &event, Timestamp::now());
    state.replace(&run, run.sequence, None, &[event]).unwrap()
}

fn a_run_reads_back_as_it_was_kept(bed: &Bed) {
    let state = bed.open();
    let mut run = run(chain());
    run.labels.insert("cause".to_owned(), "object ünder 'quotes'".to_owned());
    run.inputs = json!({"deep": [1, 2.5, null, {"a": "\u{0}b"}], "big": u64::MAX});
    state.insert(&run, None).unwrap();
    let other = bed.open();
    assert_eq!(other.load(&run.id).unwrap(), Some((run.clone(), None)));
    assert_eq!(other.load(&RunId::new(Timestamp::now()).unwrap()).unwrap(), None);
    state.insert(&run, None).unwrap_err();
}

fn one_key_makes_one_run_whoever_comes(bed: &Bed) {
    let states = [bed.open(), bed.open()];
    let runs: Vec<_> = (0..16).map(|_| run(chain())).collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = runs
            .iter()
            .enumerate()
            .map(|(at, run)| {
                let state = Arc::clone(&states[at % 2]);
                scope.spawn(move || state.insert(run, Some("event 7")).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let new: Vec<_> = answers
        .iter()
        .zip(&runs)
        .filter(|(answer, _)| **answer == Inserted::New)
        .map(|(_, run)| run)
        .collect();
    assert_eq!(new.len(), 1);
    let others = answers.iter().filter(|answer| **answer == Inserted::Exists(new[0].id.clone()));
    assert_eq!(others.count(), 15);
    assert_eq!(states[0].list(&Filter::default()).unwrap().runs.len(), 1);
    let created = states[1].events(None, 0, 100).unwrap();
    assert_eq!(created.len(), 1, "who found a run made no event");
}

fn a_change_is_by_comparison(bed: &Bed) {
    let (one, two) = (bed.open(), bed.open());
    let run = kept(&*one);
    let was = load(&*two, &run);
    assert_eq!(was.sequence, 0);
    let mut changed = was.clone();
    changed.inputs = json!("mine");
    let edited = [Event::Edited { inputs: json!("mine") }];
    assert_eq!(one.replace(&changed, 0, None, &edited).unwrap(), Replaced::Done);
    changed.inputs = json!("theirs");
    assert_eq!(two.replace(&changed, 0, None, &edited).unwrap(), Replaced::Changed);
    let now = load(&*two, &run);
    assert_eq!((now.sequence, &now.inputs), (1, &json!("mine")));
    assert_eq!(two.events(Some(&run.id), 0, 10).unwrap().len(), 2, "what was refused left no event");
    let gone = world::run(chain());
    assert_eq!(one.replace(&gone, 0, None, &[]).unwrap(), Replaced::Gone);
    let claim = &two.claim("two", LEASE, 1, &free(), &[]).unwrap()[0];
    assert_eq!(one.replace(&now, 1, Some(claim.fence), &edited).unwrap(), Replaced::Done);
    assert_eq!(one.replace(&now, 2, Some(claim.fence + 1), &edited).unwrap(), Replaced::Fenced);
    // Of many at once that have read the same, one gets its way.
    let done = contend(&[one, two], |state, at| {
        let mut mine = now.clone();
        mine.inputs = json!(at);
        state.replace(&mine, 2, None, &[]).unwrap() == Replaced::Done
    });
    assert_eq!(done.into_iter().filter(|done| *done).count(), 1);
}

/// Does the same from eight threads at once, and returns what came of it.
fn contend<T: Send>(states: &[Arc<dyn State>], act: impl Fn(&dyn State, usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> =
            (0..8).map(|at| scope.spawn(move || act(&*states[at % states.len()], at))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn no_run_is_taken_twice(bed: &Bed) {
    let states = [bed.open(), bed.open(), bed.open()];
    let mut runs: Vec<_> = (0..60).map(|_| kept(&*states[0]).id).collect();
    // Names made in the same millisecond are in no order of time.
    runs.sort();
    let claims = contend(&states, |state, at| {
        let mut mine = Vec::new();
        loop {
            let taken = state.claim(&format!("engine {at}"), LEASE, 7, &free(), &[]).unwrap();
            assert!(taken.len() <= 7);
            if taken.is_empty() {
                return mine;
            }
            mine.extend(taken);
        }
    });
    let mut taken: Vec<_> = claims.into_iter().flatten().map(|claim| claim.run).collect();
    taken.sort();
    assert_eq!(taken, runs);
    let (run, lease) = states[0].load(&runs[0]).unwrap().unwrap();
    assert_eq!(run.fence, 1);
    let lease = lease.unwrap();
    assert!(lease.owner.starts_with("engine "));
    let left = lease.until.duration_since(states[0].now().unwrap()).as_secs();
    assert!((0..=600).contains(&left), "{left} s");
}

fn a_pool_has_its_places_and_no_more(bed: &Bed) {
    let states = [bed.open(), bed.open(), bed.open()];
    (0..12).for_each(|_| drop(pooled(&*states[0])));
    let other = kept(&*states[0]);
    let limits = BTreeMap::from([("imports".to_owned(), 3), ("other".to_owned(), 0)]);
    let claims: Vec<Claim> =
        contend(&states, |state, _| state.claim("one", LEASE, 50, &limits, &[]).unwrap())
            .into_iter()
            .flatten()
            .collect();
    assert_eq!(claims.len(), 4, "three with places, and one that needs none");
    let (without, with): (Vec<_>, Vec<_>) = claims.into_iter().partition(|claim| claim.run == other.id);
    assert_eq!(without.len(), 1);
    assert_eq!(states[1].claim("two", LEASE, 50, &limits, &[]).unwrap(), []);
    states[1].release(&with[0]).unwrap();
    states[1].release(&with[0]).unwrap();
    let again = states[2].claim("two", LEASE, 50, &limits, &[]).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!((&again[0].run, again[0].fence), (&with[0].run, 2));
}

fn who_cleans_up_waits_for_no_place(bed: &Bed) {
    let state = bed.open();
    let runs: Vec<_> = (0..3).map(|_| pooled(&*state)).collect();
    let limits = BTreeMap::from([("west".to_owned(), 1)]);
    assert_eq!(state.claim("one", LEASE, 5, &limits, &[]).unwrap().len(), 1);
    assert_eq!(state.claim("one", LEASE, 5, &limits, &[]).unwrap(), []);
    assert_eq!(move_to(&*state, &runs[2], RunState::Cancelling), Replaced::Done);
    let taken = state.claim("one", LEASE, 5, &limits, &[]).unwrap();
    assert_eq!(taken.iter().map(|claim| &claim.run).collect::<Vec<_>>(), [&runs[2].id]);
}

/// Lets all leases be over, however slow the machine.
fn end_leases(bed: &Bed) {
    bed.tamper("UPDATE runs SET lease_until = 1", "UPDATE leeward_runs SET lease_until = 1");
}

fn names(claims: &[Claim]) -> Vec<&RunId> {
    claims.iter().map(|claim| &claim.run).collect()
}

fn who_has_its_places_is_taken_without_counting(bed: &Bed) {
    let state = bed.open();
    let limit = |places: u32| BTreeMap::from([("west".to_owned(), places)]);
    let (first, second) = (pooled(&*state), pooled(&*state));
    assert_eq!(names(&state.claim("one", LEASE, 5, &limit(1), &[]).unwrap()), [&first.id]);
    assert_eq!(move_to(&*state, &first, RunState::Held), Replaced::Done);
    assert_eq!(names(&state.claim("one", LEASE, 5, &limit(1), &[]).unwrap()), [&second.id]);
    // The older one waits again and has no place; the younger one's engine is killed.
    assert_eq!(move_to(&*state, &first, RunState::Queued), Replaced::Done);
    end_leases(bed);
    assert_eq!(names(&state.claim("two", LEASE, 5, &limit(1), &[]).unwrap()), [&second.id]);
    // Both have places, and there is one place fewer when they are taken again: that is for those who come then.
    assert_eq!(names(&state.claim("two", LEASE, 5, &limit(2), &[]).unwrap()), [&first.id]);
    let third = pooled(&*state);
    end_leases(bed);
    let taken = state.claim("three", LEASE, 5, &limit(1), &[]).unwrap();
    assert_eq!(names(&taken), [&first.id, &second.id]);
    state.release(&taken[0]).unwrap();
    assert_eq!(state.claim("three", LEASE, 5, &limit(1), &[]).unwrap(), []);
    state.release(&taken[1]).unwrap();
    assert_eq!(names(&state.claim("three", LEASE, 5, &limit(2), &[]).unwrap()), [&first.id, &second.id]);
    assert_eq!(names(&state.claim("three", LEASE, 5, &limit(3), &[]).unwrap()), [&third.id]);
}

fn runs_that_are_to_be_left_alone_keep_nobody_waiting(bed: &Bed) {
    let state = bed.open();
    let runs: Vec<_> = (0..4).map(|_| pooled(&*state)).collect();
    let limits = BTreeMap::from([("west".to_owned(), 1)]);
    let except = [runs[0].id.clone(), runs[1].id.clone()];
    assert_eq!(names(&state.claim("one", LEASE, 2, &limits, &except).unwrap()), [&runs[2].id]);
    assert_eq!(state.claim("one", LEASE, 2, &limits, &[]).unwrap(), []);
    assert_eq!(move_to(&*state, &runs[2], RunState::Succeeded), Replaced::Done);
    assert_eq!(names(&state.claim("one", LEASE, 2, &limits, &[]).unwrap()), [&runs[0].id]);
}

fn runs_are_taken_in_their_order_whatever_their_pools(bed: &Bed) {
    let state = bed.open();
    let limits = BTreeMap::from([("west".to_owned(), 2)]);
    let has_place = pooled(&*state);
    assert_eq!(names(&state.claim("one", LEASE, 5, &limits, &[]).unwrap()), [&has_place.id]);
    let (plain, waits, cleans) = (kept(&*state), pooled(&*state), kept(&*state));
    let (last, cleans_too, never) = (kept(&*state), pooled(&*state), pooled(&*state));
    for run in [&cleans, &cleans_too] {
        assert_eq!(move_to(&*state, run, RunState::Cancelling), Replaced::Done);
    }
    end_leases(bed);
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(state.claim("two", LEASE, 2, &limits, &[]).unwrap());
    }
    // Two that clean up; one that has its place; and the one after it finds that they have both places.
    assert_eq!(names(&order), [&cleans.id, &cleans_too.id, &has_place.id, &plain.id, &last.id]);
    assert_eq!(move_to(&*state, &has_place, RunState::Succeeded), Replaced::Done);
    assert_eq!(names(&state.claim("two", LEASE, 5, &limits, &[]).unwrap()), [&waits.id]);
    assert_eq!(move_to(&*state, &cleans_too, RunState::Cancelled), Replaced::Done);
    assert_eq!(names(&state.claim("two", LEASE, 5, &limits, &[]).unwrap()), [&never.id]);
}

fn a_lease_that_is_over_is_somebody_elses(bed: &Bed) {
    let (one, two) = (bed.open(), bed.open());
    let run = kept(&*one);
    let first = one.claim("one", LEASE, 5, &free(), &[]).unwrap().remove(0);
    assert_eq!(two.claim("two", LEASE, 5, &free(), &[]).unwrap(), []);
    end_leases(bed);
    // Nobody took it meanwhile: it is still the first one's, who prolongs it late.
    assert_eq!(one.renew(std::slice::from_ref(&first), LEASE).unwrap(), [(first.clone(), 0)]);
    assert_eq!(two.claim("two", LEASE, 5, &free(), &[]).unwrap(), []);
    end_leases(bed);
    let second = two.claim("two", LEASE, 5, &free(), &[]).unwrap().remove(0);
    assert_eq!((&second.run, second.fence), (&run.id, 2));
    assert_eq!(one.renew(&[first.clone(), second.clone()], LEASE).unwrap(), [(second.clone(), 0)]);
    one.release(&first).unwrap();
    assert_eq!(two.load(&run.id).unwrap().unwrap().1.unwrap().owner, "two", "a late release frees nothing");
    assert_eq!(one.claim("one", LEASE, 5, &free(), &[]).unwrap(), []);
    let now = load(&*one, &run);
    assert_eq!(one.replace(&now, 0, Some(1), &[]).unwrap(), Replaced::Fenced);
    two.release(&second).unwrap();
    assert_eq!(one.claim("one", LEASE, 5, &free(), &[]).unwrap()[0].fence, 3);
}

fn a_lease_of_a_clock_that_was_set_back_is_over(bed: &Bed) {
    let (one, two) = (bed.open(), bed.open());
    kept(&*one);
    one.claim("one", LEASE, 5, &free(), &[]).unwrap();
    let later = |seconds: u64| {
        let text = format!("SET lease_until = lease_until + {seconds}000000");
        bed.tamper(&format!("UPDATE runs {text}"), &format!("UPDATE leeward_runs {text}"));
    };
    later(300);
    assert_eq!(
        two.claim("two", LEASE, 5, &free(), &[]).unwrap(),
        [],
        "a clock that was put right by some seconds"
    );
    later(3600);
    assert_eq!(two.claim("two", LEASE, 5, &free(), &[]).unwrap()[0].fence, 2);
}

fn a_newer_release_is_not_meddled_with(bed: &Bed) {
    drop(bed.open());
    bed.tamper("PRAGMA user_version = 99", "UPDATE leeward_schema SET version = 99");
    let Err(error) = bed.try_open() else { panic!("it was opened") };
    assert!(matches!(error, leeward_runs::Error::Newer { found: 99, .. }), "{error}");
}

fn a_run_that_ends_frees_what_it_had(bed: &Bed) {
    let state = bed.open();
    let (first, second) = (pooled(&*state), pooled(&*state));
    let limits = BTreeMap::from([("west".to_owned(), 1)]);
    let claim = state.claim("one", LEASE, 5, &limits, &[]).unwrap().remove(0);
    assert_eq!(claim.run, first.id);
    assert_eq!(move_to(&*state, &first, RunState::Held), Replaced::Done);
    assert_eq!(state.load(&first.id).unwrap().unwrap().1, None);
    assert_eq!(state.renew(&[claim], LEASE).unwrap(), []);
    assert_eq!(state.claim("one", LEASE, 5, &limits, &[]).unwrap()[0].run, second.id);
    assert_eq!(move_to(&*state, &first, RunState::Queued), Replaced::Done);
    assert_eq!(state.claim("one", LEASE, 5, &limits, &[]).unwrap(), []);
    assert_eq!(move_to(&*state, &second, RunState::Succeeded), Replaced::Done);
    assert_eq!(state.claim("one", LEASE, 5, &limits, &[]).unwrap()[0].run, first.id);
}

fn checkpoints_are_kept_under_the_newest_claim_only(bed: &Bed) {
    let state = bed.open();
    let run = kept(&*state);
    let short = Duration::from_millis(1);
    let first = state.claim("one", short, 5, &free(), &[]).unwrap().remove(0);
    assert!(state.set_checkpoint(&first, "a", &json!({"offset": 7})).unwrap());
    assert!(state.set_checkpoint(&first, "a", &json!({"offset": 8})).unwrap());
    std::thread::sleep(Duration::from_millis(20));
    let second = state.claim("two", LEASE, 5, &free(), &[]).unwrap().remove(0);
    assert!(!state.set_checkpoint(&first, "a", &json!({"offset": 9})).unwrap());
    assert_eq!(state.checkpoint(&run.id, "a").unwrap(), Some(json!({"offset": 8})));
    assert_eq!(state.checkpoint(&run.id, "b").unwrap(), None);
    state.release(&second).unwrap();
    assert!(!state.set_checkpoint(&second, "a", &json!(1)).unwrap(), "it was given back");
}

fn events_appear_in_the_order_of_their_numbers(bed: &Bed) {
    let states = [bed.open(), bed.open(), bed.open()];
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            loop {
                let is_last = done.load(Ordering::Acquire);
                let after = seen.last().copied().unwrap_or(0);
                let more = states[2].events(None, after, 1000).unwrap();
                seen.extend(more.iter().map(|event| event.number));
                if is_last && more.is_empty() {
                    return seen;
                }
            }
        });
        contend(&states[..2], |state, _| {
            for _ in 0..15 {
                let run = kept(state);
                move_to(state, &run, RunState::Held);
            }
        });
        done.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    assert!(seen.is_sorted());
    assert_eq!(seen.len(), 8 * 15 * 2, "who follows the events misses none");
    assert_eq!(states[0].last_event().unwrap(), *seen.last().unwrap());
    assert_eq!(states[0].events(None, seen[9], 5).unwrap()[0].number, seen[10]);
}

fn line(run: &Run, step: &str, text: &str) -> LogLine {
    let level = Level::Warning;
    LogLine {
        run: run.id.clone(),
        step: step.to_owned(),
        at: Timestamp::UNIX_EPOCH,
        level,
        text: text.to_owned(),
    }
}

fn lines_of_a_log_can_be_followed(bed: &Bed) {
    let states = [bed.open(), bed.open(), bed.open()];
    let (run, other) = (kept(&*states[0]), kept(&*states[0]));
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            let mut after = 0;
            loop {
                let is_last = done.load(Ordering::Acquire);
                let more = states[2].logged(&run.id, None, after, 1000).unwrap();
                after = more.last().map_or(after, |line| line.number);
                if is_last && more.is_empty() {
                    return seen;
                }
                seen.extend(more.into_iter().map(|line| line.text));
            }
        });
        contend(&states[..2], |state, at| {
            for number in 0..20 {
                let step = if at % 2 == 0 { "a" } else { "b" };
                let lines = [line(&run, step, &format!("{at} {number}")), line(&other, step, "x")];
                state.log(&lines).unwrap();
            }
        });
        done.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    assert_eq!(seen.len(), 160);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 160);
    assert_eq!(states[0].logged(&run.id, Some("a"), 0, 1000).unwrap().len(), 80);
    let first = states[0].logged(&run.id, Some("b"), 0, 1).unwrap().remove(0);
    assert_eq!((first.level, first.at, first.step.as_str()), (Level::Warning, Timestamp::UNIX_EPOCH, "b"));
    states[0].log(&[]).unwrap();
}

fn listings_are_filtered_and_paged(bed: &Bed) {
    let state = bed.open();
    let mut runs = Vec::new();
    for number in 0..25 {
        let mut run = run(chain());
        run.subject = format!("Disk {number} 100%_'\"");
        if number % 5 == 0 {
            run.plan.kind = "other".to_owned();
        }
        state.insert(&run, None).unwrap();
        runs.push(run);
    }
    let mut ids: Vec<_> = runs.iter().map(|run| run.id.clone()).collect();
    ids.sort();
    let mut found = Vec::new();
    let mut filter = Filter { most: 10, order: Order::OldestFirst, ..Filter::default() };
    loop {
        let page = state.list(&filter).unwrap();
        assert!(page.runs.len() <= 10);
        found.extend(page.runs.into_iter().map(|run| run.id));
        let Some(next) = page.next else { break };
        filter.past = Some(next);
    }
    assert_eq!(found, ids);
    let newest = state.list(&Filter { past: Some(ids[20].clone()), ..Filter::default() }).unwrap();
    assert_eq!(
        newest.runs.iter().map(|run| &run.id).collect::<Vec<_>>(),
        ids[..20].iter().rev().collect::<Vec<_>>()
    );
    let count = |filter: Filter| state.list(&filter).unwrap().runs.len();
    assert_eq!(count(Filter { kind: Some("other".to_owned()), ..Filter::default() }), 5);
    let text = |text: &str| Filter { text: Some(text.to_owned()), ..Filter::default() };
    assert_eq!(count(text("dISK 2")), 6);
    assert_eq!(count(text("100%_'\"")), 25);
    assert_eq!(count(text("100__")), 0);
    move_to(&*state, &runs[3], RunState::Held);
    let states = vec![RunState::Held, RunState::Failed];
    let held = state.list(&Filter { states, ..Filter::default() }).unwrap();
    assert_eq!(held.runs.len(), 1);
    assert_eq!((&held.runs[0].id, held.runs[0].steps, held.next), (&runs[3].id, 4, None));
}

fn runs_are_counted_by_kind_and_state(bed: &Bed) {
    let state = bed.open();
    let runs: Vec<_> = (0..3).map(|_| kept(&*state)).collect();
    move_to(&*state, &runs[0], RunState::UndoFailed);
    let mut counts = state.counts().unwrap();
    counts.sort();
    let kind = || "test".to_owned();
    assert_eq!(counts, [(kind(), RunState::Queued, 2), (kind(), RunState::UndoFailed, 1)]);
}

fn progress_is_what_was_said_last(bed: &Bed) {
    let state = bed.open();
    let run = kept(&*state);
    for done in [1, 2] {
        let progress =
            Progress { done, total: Some(u64::MAX), note: "half\0way".to_owned(), ..Progress::default() };
        state.set_progress(&run.id, "a", &progress).unwrap();
    }
    state.set_progress(&run.id, "b", &Progress::default()).unwrap();
    let progress = state.progress(&run.id).unwrap();
    assert_eq!((progress["a"].done, progress["a"].total, progress.len()), (2, Some(u64::MAX), 2));
    assert_eq!(progress["a"].note, "half\0way");
}

fn old_runs_are_forgotten_with_all_that_is_theirs(bed: &Bed) {
    let state = bed.open();
    let ended: Vec<_> = (0..205).map(|_| run(plan(vec![step("a", &[])]))).collect();
    for (number, run) in ended.iter().enumerate() {
        let mut run = run.clone();
        let moved = Event::Moved { state: RunState::Succeeded, reason: None };
        apply(&mut run, &moved, Timestamp::UNIX_EPOCH);
        state.insert(&run, Some(&number.to_string())).unwrap();
        assert_eq!(state.replace(&run, 0, None, &[moved]).unwrap(), Replaced::Done);
    }
    let (stuck, live) = (kept(&*state), kept(&*state));
    move_to(&*state, &stuck, RunState::UndoFailed);
    state.log(&[line(&ended[0], "a", "words"), line(&live, "a", "words")]).unwrap();
    state.set_progress(&ended[0].id, "a", &Progress::default()).unwrap();
    let late = Timestamp::now() + Duration::from_secs(3600);
    assert_eq!(state.forget_ended_before(Timestamp::UNIX_EPOCH).unwrap(), 0, "before, not at");
    assert_eq!(state.forget_ended_before(late).unwrap(), 205);
    assert_eq!(state.forget_ended_before(late).unwrap(), 0);
    let left: BTreeSet<_> =
        state.list(&Filter::default()).unwrap().runs.into_iter().map(|run| run.id).collect();
    assert_eq!(left, BTreeSet::from([stuck.id, live.id.clone()]));
    assert_eq!(state.events(Some(&ended[0].id), 0, 10).unwrap(), []);
    assert_eq!(state.logged(&ended[0].id, None, 0, 10).unwrap(), []);
    assert!(state.progress(&ended[0].id).unwrap().is_empty());
    assert_eq!(state.logged(&live.id, None, 0, 10).unwrap().len(), 1);
    assert_eq!(state.insert(&run(chain()), Some("7")).unwrap(), Inserted::New, "a forgotten key is free");
}

fn two_daemons_may_start_for_the_first_time_at_once(bed: &Bed) {
    let states: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bed.open())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let run = kept(&*states[0]);
    states.iter().for_each(|state| assert_eq!(load(&**state, &run).id, run.id));
}

fn text_with_any_characters_is_kept(bed: &Bed) {
    let state = bed.open();
    let mut run = run(chain());
    run.subject = "a\0b 'x' \u{1f600}".to_owned();
    state.insert(&run, None).unwrap();
    assert_eq!(load(&*state, &run).subject, run.subject);
    state.log(&[line(&run, "a", "nul \0 and \u{1b}[31m")]).unwrap();
    let text = state.logged(&run.id, None, 0, 10).unwrap().remove(0).text;
    assert!(text.starts_with("nul ") && text.ends_with("[31m"), "{text:?}");
}
