//! The protocol as a model: what each step does to the store and to what its party knows.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::explorer::{Model, Visit, fingerprint};
use crate::program::{Op, Role, program};
use crate::rules::{Rule, Rules};
use crate::state::{LISTS, PACKS, PARTIES, Party, QUIET, Ref, Session, Set, State, Store, each, one};

/// A party that has stopped.
const STOPPED: u8 = u8::MAX;

/// Where the parties begin, and who they are.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    /// The blobs that each snapshot needs.
    pub needs: [Set; 5],
    /// The image of each snapshot.
    pub images: [usize; 5],
    /// The blobs of the packs that are there; there is a run for each.
    pub packs: &'static [Set],
    /// The snapshots in the ref of image 0. Image 1 has none.
    pub kept: Set,
    pub cast: Vec<Role>,
    /// Whether forgetting only marks, and data goes when a window has passed; no clock says when that is.
    pub window: bool,
    /// So many steps the first party has taken before anybody else begins.
    pub head_start: usize,
}

/// A scenario under some rules.
pub struct Protocol {
    pub scenario: Scenario,
    pub rules: Rules,
    roles: [Option<Role>; PARTIES],
    programs: Vec<Vec<Op>>,
    /// Stores from which the quiet collection was tried.
    tried: RefCell<HashSet<u128>>,
}

/// One step, being taken.
pub struct Step<'a> {
    pub protocol: &'a Protocol,
    pub state: State,
    pub me: usize,
}

impl Protocol {
    pub fn new(scenario: &Scenario, rules: Rules) -> Self {
        let mut roles = [None; PARTIES];
        for (place, role) in scenario.cast.iter().enumerate() {
            roles[place] = Some(*role);
        }
        roles[QUIET] = Some(Role::Quiet);
        let stranded = scenario.images.contains(&1);
        let programs =
            roles.iter().map(|role| role.map_or_else(Vec::new, |role| program(role, rules, stranded)));
        Self {
            scenario: scenario.clone(),
            rules,
            roles,
            programs: programs.collect(),
            tried: RefCell::default(),
        }
    }

    /// The state from which a search begins.
    pub fn start(&self) -> State {
        let mut state = State::default();
        for (pack, blobs) in self.scenario.packs.iter().enumerate() {
            state.store.packs |= one(pack);
            state.store.contents[pack] = *blobs;
            state.store.runs |= 1 << one(pack);
        }
        let kept = self.scenario.kept;
        state.store.refs[0] = Ref { is_there: true, snapshots: kept, forgotten: 0, generation: 0 };
        state.store.manifests = kept;
        state.published = kept;
        for place in 0..PARTIES {
            let is_there = place != QUIET && self.roles[place].is_some();
            state.parties[place].step = if is_there { 0 } else { STOPPED };
        }
        for _ in 0..self.scenario.head_start {
            let mut after = None;
            self.steps_of(&state, 0, &mut |next, _| after = after.or(Some(next)));
            state = after.unwrap_or(state);
        }
        state
    }

    pub fn role(&self, party: usize) -> Role {
        self.roles[party].unwrap_or(Role::Quiet)
    }

    pub fn op(&self, party: usize, step: u8) -> Option<Op> {
        self.programs[party].get(usize::from(step)).copied()
    }

    /// The blobs that snapshots need.
    pub fn needs(&self, snapshots: Set) -> Set {
        each(snapshots).fold(0, |blobs, snapshot| blobs | self.scenario.needs[snapshot])
    }

    /// The snapshots that committed sessions have.
    pub fn committed(&self, store: &Store) -> Set {
        each(store.sessions_that_are(Session::Committed)).fold(0, |set, party| set | self.snapshot_of(party))
    }

    /// What a session publishes.
    pub fn snapshot_of(&self, party: usize) -> Set {
        match self.role(party) {
            Role::Writer { snapshot, .. } | Role::Mover { snapshot, .. } => one(snapshot),
            _ => 0,
        }
    }

    pub fn name(&self, party: usize) -> String {
        let number = party + 1;
        match self.role(party) {
            Role::Writer { .. } => format!("writer {number}"),
            Role::Mover { .. } => format!("mover {number}"),
            Role::Collection { .. } => format!("collection {number}"),
            Role::Forgetter { .. } => format!("forgetter {number}"),
            Role::Undeleter { .. } => format!("undeleter {number}"),
            Role::Quiet => "quiet collection".to_owned(),
        }
    }

    /// Takes the next step of one party in every way in which it can go.
    fn steps_of(&self, state: &State, me: usize, visit: &mut Visit<'_, State>) {
        let Some(op) = self.op(me, state.parties[me].step) else { return };
        for choice in 0.. {
            let mut step = Step { protocol: self, state: *state, me };
            if !step.take(op, choice) {
                break;
            }
            step.go_on();
            let (before, after) = (*state, step.state);
            visit(after, &|| crate::tell::tell(self, me, op, &before, &after));
        }
    }

    /// What is wrong at once: something published is gone, or something forgotten is back.
    fn loss(&self, state: &State) -> Option<String> {
        let store = &state.store;
        let in_refs = store.refs.iter().fold(0, |set, image| set | image.snapshots);
        let marked = store.refs.iter().fold(0, |set, image| set | image.forgotten);
        let committed = self.committed(store);
        let shown = committed | (in_refs & !marked);
        let lost = state.published & !state.forgotten & !shown;
        if lost != 0 {
            return Some(format!(
                "snapshot {} was published and is in no ref and no session",
                name_all(lost)
            ));
        }
        let back = (state.forgotten & shown) | (state.dropped & in_refs);
        if back != 0 {
            return Some(format!("snapshot {} was forgotten and has come back", name_all(back)));
        }
        let live = committed | in_refs;
        if live & !store.manifests != 0 {
            let lost = name_all(live & !store.manifests);
            return Some(format!("snapshot {lost} is published and its manifest is gone"));
        }
        let missing = self.needs(live) & !store.blobs(store.packs);
        if missing != 0 {
            return Some(format!("blob {} is gone, which a published snapshot needs", name_all(missing)));
        }
        state.false_alarm.then(|| "a collection calls a sound repository damaged".to_owned())
    }

    /// Stops everybody and lets one collection run alone, twice; tells what it leaves.
    fn left_over(&self, state: &State) -> Option<String> {
        let mut state = *state;
        state.parties = [Party { step: STOPPED, ..Party::default() }; PARTIES];
        if !self.tried.borrow_mut().insert(fingerprint(&state)) {
            return None;
        }
        for _ in 0..2 {
            state.parties[QUIET].step = 0;
            while self.op(QUIET, state.parties[QUIET].step).is_some() {
                let mut after = None;
                self.steps_of(&state, QUIET, &mut |next, _| after = after.or(Some(next)));
                state = after?;
                if let Some(loss) = self.loss(&state) {
                    return Some(format!("when all have stopped and one collection runs alone, {loss}"));
                }
            }
        }
        self.garbage(&state).map(|what| format!("a collection that runs alone leaves {what}"))
    }

    /// What nothing needs. One thing is excepted: a writer that was revoked while it lived may put its manifest after
    /// that and die before it learns of it. When the image has no ref, that looks like a lost ref, and is kept.
    fn garbage(&self, state: &State) -> Option<String> {
        let store = &state.store;
        let live = store.refs.iter().fold(0, |set, image| set | image.snapshots);
        if store.sessions.iter().any(|session| *session != Session::Absent) {
            return Some("a session".to_owned());
        }
        if store.lists().next().is_some() {
            return Some("a condemned list".to_owned());
        }
        let has_no_ref = |snapshot: &usize| !store.refs[self.scenario.images[*snapshot]].is_there;
        let late = each(state.late & store.manifests)
            .filter(has_no_ref)
            .fold(0, |set, snapshot| set | one(snapshot));
        if store.manifests & !late != live {
            return Some(format!("manifest {} of no use", name_all(store.manifests & !live & !late)));
        }
        let used = each(self.needs(live | late)).fold(0, |used, blob| {
            used | each(store.packs).find(|pack| store.contents[*pack] & one(blob) != 0).map_or(0, one)
        });
        (store.packs & !used != 0).then(|| format!("pack {} of no use", name_all(store.packs & !used)))
    }
}

/// Things by their numbers.
pub fn name_all(set: Set) -> String {
    let names: Vec<String> = each(set).map(|number| number.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join("+") }
}

impl Model for Protocol {
    type State = State;

    fn steps(&self, state: &State, visit: &mut Visit<'_, State>) {
        for party in 0..QUIET {
            self.steps_of(state, party, visit);
        }
    }

    fn flaw(&self, state: &State) -> Option<String> {
        self.loss(state).or_else(|| self.left_over(state))
    }
}

impl Step<'_> {
    pub fn party(&mut self) -> &mut Party {
        &mut self.state.parties[self.me]
    }

    pub fn my(&self) -> &Party {
        &self.state.parties[self.me]
    }

    pub fn holds(&self, rule: Rule) -> bool {
        self.protocol.rules.hold(rule)
    }

    /// Goes to the next place of a step behind this one.
    pub fn ahead_to(&mut self, op: Op) {
        let mut step = self.my().step + 1;
        while self.protocol.op(self.me, step).is_some_and(|found| found != op) {
            step += 1;
        }
        self.party().step = step;
    }

    /// Goes to the last place of a step before this one.
    pub fn back_to(&mut self, op: Op) {
        let mut step = self.my().step;
        while step > 0 && self.protocol.op(self.me, step) != Some(op) {
            step -= 1;
        }
        self.party().step = step;
    }

    pub fn next(&mut self) {
        self.party().step += 1;
    }

    pub fn stop(&mut self) {
        *self.party() = Party { step: STOPPED, ..Party::default() };
    }

    /// Goes over what does not touch the store.
    fn go_on(&mut self) {
        while let Some(op) = self.protocol.op(self.me, self.my().step) {
            if !self.pass(op) {
                return;
            }
        }
        self.stop();
    }
}

// The most that the sets can hold.
const _: () = assert!(PACKS < 8 && PARTIES <= 8 && LISTS <= 8);
