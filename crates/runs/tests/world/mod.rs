//! A world in which steps make things, for tests: what a step made stands there under its key until it is undone.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "support of tests; each test file uses a part"
)]

mod bed;
pub mod faulty;
#[cfg(feature = "postgres")]
pub mod server;

pub use bed::{Bed, open};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leeward_runs::engine::{Engine, EngineOptions, Runs};
use leeward_runs::state::{Inserted, State};
use leeward_runs::step::{Context, Fault, Kind, Outcome, Step};
use leeward_runs::{OnCancel, OnFailure, Plan, Retry, Run, RunId, RunState, StepPlan};
use serde_json::{Value, json};

/// What a step does at its next call.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Make,
    Skip,
    /// Makes, and then fails in a way that passes.
    MakeAndFail,
    Passing,
    Lasting,
    /// Makes, fails for good, and asks that all be undone.
    LastingAndUndo,
    Crash,
    /// Runs until it is told to stop.
    Hang,
    /// Takes this long, in milliseconds.
    Take(u64),
}

/// What steps have made, and what they were told to do.
#[derive(Default)]
pub struct World {
    pub things: Mutex<BTreeSet<String>>,
    pub script: Mutex<BTreeMap<String, VecDeque<Act>>>,
    pub undo_script: Mutex<BTreeMap<String, VecDeque<Act>>>,
    pub calls: Mutex<Vec<String>>,
    pub busy: Mutex<(usize, usize)>,
}

impl World {
    pub fn script(&self, step: &str, acts: &[Act]) {
        self.script.lock().unwrap().insert(step.to_owned(), acts.iter().cloned().collect());
    }

    pub fn undo_script(&self, step: &str, acts: &[Act]) {
        self.undo_script.lock().unwrap().insert(step.to_owned(), acts.iter().cloned().collect());
    }

    pub fn calls_of(&self, what: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|call| *call == what).count()
    }

    pub fn things(&self) -> usize {
        self.things.lock().unwrap().len()
    }

    fn next(script: &Mutex<BTreeMap<String, VecDeque<Act>>>, step: &str) -> Act {
        script.lock().unwrap().get_mut(step).and_then(VecDeque::pop_front).unwrap_or(Act::Make)
    }
}

pub struct TestKind(pub Arc<World>);

impl Kind for TestKind {
    fn name(&self) -> &str {
        "test"
    }

    fn step(&self, version: u32, _: &str) -> Option<Arc<dyn Step>> {
        (version == 1).then(|| Arc::new(TestStep(Arc::clone(&self.0))) as Arc<dyn Step>)
    }
}

struct TestStep(Arc<World>);

impl TestStep {
    fn made(&self, context: &Context) -> Result<Outcome, Fault> {
        self.0.things.lock().unwrap().insert(context.key());
        let seen: Vec<Value> = context
            .run()
            .plan
            .step(context.step())
            .unwrap()
            .after
            .iter()
            .map(|name| context.run().step(name).unwrap().outputs.clone())
            .collect();
        Outcome::done(&json!({ "made": context.key(), "saw": seen.len() }))
    }
}

impl Step for TestStep {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        self.0.calls.lock().unwrap().push(context.step().to_owned());
        context.say(format!("acting in {}", context.step()));
        match World::next(&self.0.script, context.step()) {
            Act::Make => self.made(context),
            Act::Skip => Ok(Outcome::Skipped("not needed here".to_owned())),
            Act::MakeAndFail => {
                self.made(context)?;
                Err(Fault::passing("the answer was lost", "try again"))
            }
            Act::Passing => Err(Fault::passing("busy", "try again")),
            Act::Lasting => Err(Fault::lasting("refused", "mend it")),
            Act::LastingAndUndo => {
                self.made(context)?;
                Err(Fault::lasting("worthless", "make another").and_undo())
            }
            Act::Crash => panic!("a crash of the test's"),
            Act::Hang => loop {
                context.wait(Duration::from_secs(1))?;
            },
            Act::Take(time) => {
                {
                    let mut busy = self.0.busy.lock().unwrap();
                    busy.0 += 1;
                    busy.1 = busy.1.max(busy.0);
                }
                let waited = context.wait(Duration::from_millis(time));
                self.0.busy.lock().unwrap().0 -= 1;
                waited?;
                self.made(context)
            }
        }
    }

    fn undo(&self, context: &Context) -> Result<(), Fault> {
        self.0.calls.lock().unwrap().push(format!("undo {}", context.step()));
        match World::next(&self.0.undo_script, context.step()) {
            Act::Passing => Err(Fault::passing("busy", "try again")),
            Act::Lasting => Err(Fault::lasting(format!("{} is left", context.key()), "remove it by hand")),
            _ => {
                self.0.things.lock().unwrap().remove(&context.key());
                Ok(())
            }
        }
    }
}

pub fn step(name: &str, after: &[&str]) -> StepPlan {
    StepPlan {
        name: name.to_owned(),
        title: format!("Does {name}"),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        retry: Retry { attempts: 4, first_ms: 5, most_ms: 20 },
        deadline_seconds: None,
        may_skip: false,
        has_undo: true,
    }
}

pub fn chain() -> Plan {
    plan(vec![step("a", &[]), step("b", &["a"]), step("c", &["b"]), step("d", &["c"])])
}

pub fn diamond() -> Plan {
    plan(vec![step("a", &[]), step("b", &["a"]), step("c", &["a"]), step("d", &["b", "c"])])
}

pub fn plan(steps: Vec<StepPlan>) -> Plan {
    Plan {
        kind: "test".to_owned(),
        version: 1,
        steps,
        on_failure: OnFailure::Hold,
        on_cancel: OnCancel::Undo,
        pools: BTreeSet::new(),
    }
}

pub fn run(plan: Plan) -> Run {
    // Names sort by milliseconds: two runs of one millisecond would have no order.
    std::thread::sleep(Duration::from_millis(2));
    let now = jiff::Timestamp::now();
    Run::new(RunId::new(now).unwrap(), "a subject", plan, json!({"size": 7}), "tester", now)
}

pub fn options(owner: &str) -> EngineOptions {
    EngineOptions {
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(50),
        patience: Duration::from_millis(800),
        ..EngineOptions::new(owner)
    }
}

/// A world, a state, and an engine.
pub struct Scene {
    pub world: Arc<World>,
    pub state: Arc<dyn State>,
    pub engine: Option<Engine>,
}

impl Scene {
    pub fn new(bed: &Bed) -> Self {
        Self::with(bed, options("one"))
    }

    pub fn with(bed: &Bed, options: EngineOptions) -> Self {
        Self::on(bed.open(), options)
    }

    pub fn on(state: Arc<dyn State>, options: EngineOptions) -> Self {
        let mut scene = Self { world: Arc::default(), state, engine: None };
        scene.engine = Some(scene.start(options));
        scene
    }

    pub fn start(&self, options: EngineOptions) -> Engine {
        let kind = Arc::new(TestKind(Arc::clone(&self.world)));
        Engine::start(Arc::clone(&self.state), vec![kind], options).unwrap()
    }

    pub fn runs(&self) -> Runs {
        self.engine.as_ref().unwrap().runs().clone()
    }

    pub fn begin(&self, run: &Run) {
        assert_eq!(self.runs().begin(run, None).unwrap(), Inserted::New);
    }

    pub fn load(&self, run: &Run) -> Run {
        self.state.load(&run.id).unwrap().unwrap().0
    }

    pub fn until(&self, run: &Run, state: RunState) -> Run {
        self.until_that(run, &format!("it is {}", state.name()), |run| run.state == state)
    }

    pub fn until_that(&self, run: &Run, what: &str, test: impl Fn(&Run) -> bool) -> Run {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let found = self.load(run);
            if test(&found) {
                return found;
            }
            assert!(Instant::now() < end, "not in time: {what}; {found:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
