//! Random graphs, random faults, engines that die, people who speak: a simulation of turns without threads and databases.
//! Whatever happens, each run ends where its plan allows, and what is in the world is what the run says.
//!
//! All that is random comes from a tape, so a failing case replays and shrinks; where the tape ends, all goes well.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::command::decide;
use crate::step::LeaseEnd;
use crate::{Command, OnCancel, OnFailure, Plan, Retry, RunId, StepPlan};

struct Tape(std::vec::IntoIter<u8>);

impl Tape {
    /// A number below `most`; 0 at the end of the tape.
    fn draw(&mut self, most: u8) -> u8 {
        self.0.next().unwrap_or(0) % most
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

/// A step under way.
struct Call {
    step: String,
    try_number: u32,
    is_undo: bool,
}

/// What becomes of a change that is to be kept.
#[derive(PartialEq)]
enum Fate {
    Kept,
    Refused,
    /// Kept, but the answer is lost.
    Unknown,
}

struct Simulation {
    run: Run,
    now: Timestamp,
    tape: Tape,
    held: Held,
    calls: Vec<Call>,
    things: BTreeSet<String>,
    was_cancelled: bool,
    was_undone: bool,
    asked_undo: bool,
    /// What was there when the run last succeeded.
    delivered: BTreeSet<String>,
    /// The steps that were begun since.
    begun: BTreeSet<String>,
}

fn hold(run: &Run) -> Held {
    let lease = LeaseEnd::new(Instant::now(), Duration::from_secs(1 << 30));
    Held::new(Claim { run: run.id.clone(), fence: run.fence }, lease)
}

impl Simulation {
    fn new(plan: Plan, tape: Vec<u8>) -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let run = Run::new(RunId::new(now).unwrap(), "", plan, serde_json::Value::Null, "", now);
        Self {
            held: hold(&run),
            run,
            now,
            tape: Tape(tape.into_iter()),
            calls: Vec::new(),
            things: BTreeSet::new(),
            was_cancelled: false,
            was_undone: false,
            asked_undo: false,
            delivered: BTreeSet::new(),
            begun: BTreeSet::new(),
        }
    }

    fn run_to_end(&mut self) {
        while !self.tape.is_over() {
            match self.tape.draw(8) {
                0..=2 => {
                    let fate = match self.tape.draw(8) {
                        1 => Fate::Refused,
                        2 => Fate::Unknown,
                        _ => Fate::Kept,
                    };
                    self.turn(&fate);
                }
                3..=4 => self.answer(),
                5 => self.crash(),
                6 => self.speak(),
                _ => self.now += Duration::from_millis(u64::from(self.tape.draw(20))),
            }
        }
        for _ in 0..3_000 {
            if self.run.state.is_final() {
                return;
            }
            self.calm();
        }
        panic!("it does not end: {:#?}", self.run);
    }

    /// A time in which nothing fails and a person mends.
    fn calm(&mut self) {
        match self.run.state {
            RunState::Held => self.command(&Command::Retry { step: None, inputs: None }),
            RunState::UndoFailed => self.command(&Command::Undo),
            _ => {
                self.turn(&Fate::Kept);
                self.answer();
                self.now += Duration::from_millis(10);
            }
        }
    }

    fn turn(&mut self, fate: &Fate) {
        if !self.run.state.is_live() {
            self.held = hold(&self.run);
            return;
        }
        let mut turn =
            Turn { run: self.run.clone(), events: Vec::new(), begin: Vec::new(), stop: false, due: None };
        turn.adopt(&self.held, self.now, 1_000);
        turn.take_results(&self.held, self.now);
        let free = 64 - usize::from(self.tape.draw(64)).min(62);
        turn.act(&self.held, self.now, free.saturating_sub(self.calls.len()));
        if *fate == Fate::Refused {
            return;
        }
        self.run = turn.run;
        self.begun.extend(turn.begin.iter().filter(|(_, is_undo)| !is_undo).map(|(step, _)| step.clone()));
        if self.run.state == RunState::Succeeded {
            self.delivered.clone_from(&self.things);
            self.begun.clear();
        }
        self.check_asking();
        if *fate == Fate::Unknown {
            return;
        }
        self.held.results.clear();
        if turn.stop {
            self.held.stop_all(Stop::Cancelled);
        }
        for (step, is_undo) in turn.begin {
            self.begin(step, is_undo);
        }
        assert!(self.run.state.is_live() || self.calls.is_empty(), "{:#?}", self.run);
    }

    /// No run is held with a failure that asks for undoing.
    fn check_asking(&self) {
        let asks = |step: &&StepRecord| {
            step.state == StepState::Failed && step.failure.as_ref().is_some_and(|failure| failure.undo)
        };
        let asking = self.run.steps.iter().find(asks);
        assert!(self.run.state != RunState::Held || asking.is_none(), "{asking:?}");
    }

    /// Whether what a step made is the result of an earlier success, and not to be undone any more.
    fn is_in_use(&self, step: &str) -> bool {
        self.delivered.contains(step) && !self.begun.contains(step)
    }

    fn begin(&mut self, step: String, is_undo: bool) {
        assert!(!self.calls.iter().any(|call| call.step == step), "{step} is under way twice");
        let plan = self.run.plan.step(&step).unwrap();
        if is_undo {
            assert!(plan.has_undo && self.run.state == RunState::Undoing);
            let after = self.run.plan.followers(&step);
            assert!(!self.is_in_use(&step), "{step} was delivered and is undone");
            let left = |name: &&String| {
                let has_undo = self.run.plan.step(name).unwrap().has_undo;
                has_undo && self.things.contains(name.as_str()) && !self.is_in_use(name)
            };
            assert_eq!(after.iter().find(left), None, "{step} is undone before what came after it");
        } else {
            let is_done = |name: &String| self.run.step(name).unwrap().state.is_done();
            assert!(plan.after.iter().all(is_done), "{step} begins too early");
        }
        let try_number = self.run.step(&step).unwrap().tries;
        let signal = Arc::new(Signal::new(Arc::clone(&self.held.lease)));
        self.held.working.insert(step.clone(), Working { try_number, signal, deadline: None, stopped: None });
        self.calls.push(Call { step, try_number, is_undo });
    }

    /// A step under way ends somehow.
    fn answer(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let at = usize::from(self.tape.draw(16)) % self.calls.len();
        let call = self.calls.remove(at);
        let stop = self.held.working[&call.step].signal.get();
        let luck = self.tape.draw(8);
        let result = match (stop, luck) {
            (Some(_), 0..=5) => {
                self.touch(&call, luck % 2 == 1);
                Err(Fault::Stopped)
            }
            _ => self.outcome(&call, luck),
        };
        let claim = self.held.claim.clone();
        let finished = Finished { claim, step: call.step, try_number: call.try_number, result, stop };
        assert!(self.held.settle(finished));
    }

    fn outcome(&mut self, call: &Call, luck: u8) -> Result<Outcome, Fault> {
        // Odd luck fails after the world was touched, even luck before.
        self.touch(call, luck == 0 || luck % 2 == 1);
        match luck {
            0 | 7 => Ok(Outcome::Done(serde_json::Value::Null)),
            1 | 2 => Err(Fault::passing("busy", "")),
            3 => Err(Fault::lasting("refused", "")),
            4 => {
                self.asked_undo |= !call.is_undo;
                Err(Fault::lasting("worthless", "").and_undo())
            }
            5 => Err(Fault::Stopped),
            _ if call.is_undo => Err(Fault::passing("busy", "")),
            _ => Ok(Outcome::Skipped(String::new())),
        }
    }

    fn touch(&mut self, call: &Call, really: bool) {
        match (really, call.is_undo) {
            (true, false) => drop(self.things.insert(call.step.clone())),
            (true, true) => drop(self.things.remove(&call.step)),
            (false, _) => {}
        }
    }

    /// The engine dies: what was under way may have acted, and nobody is told.
    fn crash(&mut self) {
        for call in std::mem::take(&mut self.calls) {
            let acted = self.tape.draw(2) == 1;
            self.touch(&call, acted);
        }
        self.run.fence += 1;
        self.held = hold(&self.run);
    }

    fn speak(&mut self) {
        let which = usize::from(self.tape.draw(32)) % self.run.steps.len();
        let step = self.run.steps[which].name.clone();
        let command = match self.tape.draw(8) {
            0 | 1 => Command::Retry { step: None, inputs: None },
            2 => Command::Retry { step: Some(step), inputs: Some(serde_json::json!({"x": which})) },
            3 | 4 => Command::Skip { step, reason: None },
            5 => Command::Cancel,
            _ => Command::Undo,
        };
        self.command(&command);
    }

    fn command(&mut self, command: &Command) {
        let Ok(events) = decide(&self.run, command) else { return };
        self.was_cancelled |= *command == Command::Cancel;
        self.was_undone |= *command == Command::Undo;
        events.iter().for_each(|event| apply(&mut self.run, event, self.now));
    }

    fn check(&self) {
        let run = &self.run;
        for step in &run.steps {
            let is_there = self.things.contains(&step.name);
            assert!(step.tries > 0 || !is_there, "{} was never begun", step.name);
            assert!(step.state != StepState::Succeeded || is_there, "{} is lost", step.name);
            assert!(step.state != StepState::Undone || !is_there, "{} is left", step.name);
            assert!(!step.state.is_active(), "{} is under way", step.name);
        }
        let undoes = run.plan.on_failure == OnFailure::Undo || self.was_undone || self.asked_undo;
        match run.state {
            RunState::Succeeded => assert!(run.steps.iter().all(|step| step.state.is_done())),
            RunState::Failed => assert!(undoes && !self.was_cancelled, "{run:#?}"),
            RunState::Cancelled => assert!(self.was_cancelled),
            other => panic!("{other:?} is no end"),
        }
        let leaves = run.state == RunState::Cancelled && run.plan.on_cancel == OnCancel::Leave;
        let lost =
            self.delivered.iter().find(|name| !self.begun.contains(*name) && !self.things.contains(*name));
        assert_eq!(lost, None, "it was delivered and is gone: {run:#?}");
        if run.state != RunState::Succeeded && !leaves {
            let leaks =
                |name: &&String| run.plan.step(name).unwrap().has_undo && !self.is_in_use(name.as_str());
            assert_eq!(self.things.iter().find(leaks), None, "it leaked: {run:#?}");
        }
    }
}

fn plans() -> impl Strategy<Value = Plan> {
    let steps = prop::collection::vec((any::<u8>(), any::<u8>()), 1..8);
    (steps, any::<bool>(), any::<bool>()).prop_map(|(steps, undoes, leaves)| Plan {
        kind: "test".to_owned(),
        version: 1,
        steps: steps.iter().enumerate().map(|(at, (after, flags))| step(at, *after, *flags)).collect(),
        on_failure: if undoes { OnFailure::Undo } else { OnFailure::Hold },
        on_cancel: if leaves { OnCancel::Leave } else { OnCancel::Undo },
        pools: BTreeSet::new(),
    })
}

fn step(at: usize, after: u8, flags: u8) -> StepPlan {
    StepPlan {
        name: format!("s{at}"),
        title: String::new(),
        after: (0..at).filter(|before| after >> before & 1 == 1).map(|before| format!("s{before}")).collect(),
        retry: Retry { attempts: 1 + u32::from(flags & 3), first_ms: 5, most_ms: 20 },
        deadline_seconds: (flags & 0x30 == 0).then_some(1),
        may_skip: flags & 4 == 0,
        has_undo: flags & 8 == 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_as_its_plan_allows_and_nothing_leaks(
        plan in plans(),
        tape in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        plan.check().unwrap();
        let mut simulation = Simulation::new(plan, tape);
        simulation.run_to_end();
        simulation.check();
    }
}
