//! The steps of the model: the same as those of the store, request by request.

use stateright::Property;

use crate::state::{
    Process, Role, SLOTS, Slot, State, Step, Then, Told, VERSIONS, Why, accepted, marked, prepared, whole,
};

/// The rules that make it right, each with a switch.
#[derive(Debug, Clone)]
pub struct Rules {
    /// V2: a ballot looks after its prepared part, and takes over the value of the highest ballot.
    pub looks_after_prepare: bool,
    /// V3: it looks again after its accepted part.
    pub looks_after_accept: bool,
    /// V3: it gives way to a higher ballot.
    pub gives_way: bool,
    /// V4: what it builds on must be there in every look.
    pub sees_base: bool,
    /// V5: what a listing showed is looked for once more when it has ended.
    pub confirms: bool,
    /// V5: so is what stays, before anything is removed that the listing showed.
    pub confirms_removal: bool,
    /// V6: a creator watches all its ballots.
    pub watches_own: bool,
    /// V7: a value counts only with the prepared part of its ballot.
    pub counts_with_prepared: bool,
    /// V1: prepared parts are sent once.
    pub sends_once: bool,
    /// V9: the tombstone goes last.
    pub tombstone_last: bool,
    /// V9: the present version stays.
    pub present_stays: bool,
    /// V10: the anchor stays.
    pub anchor_stays: bool,
    /// V11: a barrier before creators' ballots are removed.
    pub bars: bool,
    /// V12: waiting for the lag after a write.
    pub waits_after_write: bool,
    /// V12: waiting for the lag between a listing and what confirms it.
    pub waits_after_list: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            looks_after_prepare: true,
            looks_after_accept: true,
            gives_way: true,
            sees_base: true,
            confirms: true,
            confirms_removal: true,
            watches_own: true,
            counts_with_prepared: true,
            sends_once: true,
            tombstone_last: true,
            present_stays: true,
            anchor_stays: true,
            bars: true,
            waits_after_write: true,
            waits_after_list: true,
        }
    }
}

/// Who takes part, and what the bucket does to them.
#[derive(Debug, Clone)]
pub struct Model {
    pub rules: Rules,
    pub exists: bool,
    pub processes: Vec<Process>,
    pub is_torn: bool,
    pub lags: bool,
    pub losses_max: u8,
    pub ballots_max: u8,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A process takes its step and sees this much of what it might see.
    Go { process: u8, sees: u32 },
    /// Its write fails and may take effect later.
    Lose { process: u8 },
    /// A write takes effect late.
    Land { part: u32 },
}

impl Model {
    /// The ballots of a process: one for each try, then the barrier.
    fn slot_of(&self, process: usize, number: u8) -> u8 {
        1 + process as u8 * (self.ballots_max + 1) + number
    }

    fn is_tombstone(&self, operation: u8) -> bool {
        operation >= 2 && self.processes[usize::from(operation) - 2].role == Role::Delete
    }

    fn counts(&self, view: u32, slot: u8) -> bool {
        let needed =
            if self.rules.counts_with_prepared { whole(slot) } else { accepted(slot) | marked(slot) };
        view & needed == needed
    }

    fn current(&self, state: &State, view: u32) -> Option<u8> {
        (0..SLOTS as u8)
            .filter(|slot| self.counts(view, *slot))
            .max_by_key(|slot| state.slots[usize::from(*slot)].version)
    }

    fn is_anchored(&self, state: &State, view: u32) -> bool {
        (0..SLOTS as u8).any(|slot| {
            let anchor = prepared(slot) | marked(slot);
            state.slots[usize::from(slot)].version == 1 && view & anchor == anchor
        })
    }

    /// The operation that is the object's present state in the history; 0 when it is absent.
    fn after(&self, log: &[u8]) -> u8 {
        log.last().copied().filter(|operation| !self.is_tombstone(*operation)).unwrap_or(0)
    }

    /// Whether the object was in such a state at some moment since the process began.
    fn was(&self, state: &State, process: &Process, is: impl Fn(u8) -> bool) -> bool {
        (usize::from(process.began.unwrap_or(0))..=state.log.len())
            .any(|length| is(self.after(&state.log[..length])))
    }

    /// The masks that a reader may see of these parts.
    fn views(&self, state: &State, from: u32) -> Vec<u32> {
        let certain = state.parts & !state.fresh & from;
        subsets(state.fresh & from).map(|seen| certain | seen).collect()
    }

    fn change(&self, state: &mut State, part: u32, is_there: bool) {
        let before = state.parts;
        if is_there {
            state.parts |= part
        } else {
            state.parts &= !part
        }
        if self.lags && before != state.parts {
            state.fresh |= part;
            for process in &mut state.processes {
                process.wait &= !part;
            }
        }
    }

    fn decide(&self, state: &mut State, slot: u8) {
        let Slot { operation, base, .. } = state.slots[usize::from(slot)];
        if !self.counts(state.parts, slot) || state.log.contains(&operation) {
            return;
        }
        let needed = if base == 0 { 0 } else { state.slots[usize::from(base) - 1].operation };
        if self.after(&state.log) != needed {
            state.bad = Some("a decision does not build on the one before");
        }
        state.log.push(operation);
    }

    /// How many of the latest decisions somebody may not see yet: they may be taken to be made later than they were.
    fn still_hidden(&self, state: &State) -> u8 {
        state.log.iter().rev().take_while(|operation| self.is_hidden(state, **operation)).count() as u8
    }

    fn is_hidden(&self, state: &State, operation: u8) -> bool {
        let its = |slot: &u8| state.slots[usize::from(*slot)].operation == operation;
        let marks = (0..SLOTS as u8).filter(its).filter(|slot| state.parts & marked(*slot) != 0);
        let mut marks = marks.peekable();
        marks.peek().is_some() && marks.all(|slot| state.fresh & marked(slot) != 0)
    }

    fn check(&self, state: &mut State) {
        if state.bad.is_some() {
            return;
        }
        let shown = self.current(state, state.parts).map(|slot| state.slots[usize::from(slot)].operation);
        let shown = shown.filter(|operation| !self.is_tombstone(*operation)).unwrap_or(0);
        if shown != self.after(&state.log) {
            state.bad = Some("the bucket does not hold what was decided last");
        }
        for (number, process) in state.processes.iter().enumerate() {
            let is_decided = state.log.contains(&(number as u8 + 2));
            match process.told {
                Told::Done if !is_decided && process.role != Role::Read => {
                    state.bad = Some("an operation was told to be done and is not");
                }
                Told::Refused if is_decided => state.bad = Some("an operation was refused and is done"),
                _ => {}
            }
        }
    }

    /// The process tells its caller what came of it.
    fn tell(&self, state: &mut State, number: usize, told: Told) {
        let process = state.processes[number].clone();
        if told == Told::Done && process.role != Role::Read && self.is_hidden(state, number as u8 + 2) {
            state.bad = Some("an operation was told to be done before all can see it");
        }
        if told == Told::Refused {
            let base = process.base.checked_sub(1).map(|slot| state.slots[usize::from(slot)].operation);
            let is_right = match process.role {
                Role::Create => self.was(state, &process, |present| present != 0),
                Role::Replace => self.was(state, &process, |present| present == 0 || Some(present) != base),
                Role::Delete => self.was(state, &process, |present| present == 0),
                Role::Read => true,
            };
            if !is_right {
                state.bad = Some("an operation was refused without a reason");
            }
        }
        let process = &mut state.processes[number];
        let (role, began) = (process.role, process.began);
        *process = Process { told, began, ..Process::new(role, Step::Done) };
    }

    /// The process removes the ballots that it gave up, then tells.
    fn withdraw_and_tell(&self, state: &mut State, number: usize, told: Told) {
        let process = &mut state.processes[number];
        let mut doomed = 0;
        for slot in 0..SLOTS as u8 {
            if process.own & prepared(slot) != 0 {
                doomed |= prepared(slot) | accepted(slot);
            }
        }
        (process.doomed, process.doomed_marked, process.will_tell) = (doomed, 0, told);
        self.remove_next(state, number);
    }

    /// Goes on removing, or tells when there is nothing left to remove.
    fn remove_next(&self, state: &mut State, number: usize) {
        let process = &mut state.processes[number];
        process.doomed &= state.parts | state.late | state.fresh;
        process.step = Step::Remove;
        if process.doomed != 0 {
            return;
        }
        if process.barrier {
            process.barrier = false;
            process.doomed_marked = 0;
            process.doomed = prepared(self.slot_of(number, self.ballots_max));
            return;
        }
        match process.will_tell {
            Told::Nothing => {
                (process.own, process.is_exposed, process.base) = (0, false, 0);
                process.step = Step::List(Why::Find);
            }
            told => self.tell(state, number, told),
        }
    }

    fn doomed_first(&self, state: &State, process: &Process) -> u32 {
        let order = |bit: u32| {
            let slot = state.slots[(bit / 3) as usize];
            let is_marked = process.doomed_marked & whole((bit / 3) as u8) != 0;
            let version =
                if self.rules.tombstone_last { slot.version } else { VERSIONS as u8 - slot.version };
            (version, is_marked, bit)
        };
        let bits = (0..30).filter(|bit| process.doomed >> bit & 1 == 1);
        1 << bits.min_by_key(|bit| order(*bit)).unwrap_or(0)
    }

    /// After a write: wait, then look.
    fn then_list(&self, why: Why) -> Step {
        let waits = self.lags && self.rules.waits_after_write;
        if waits { Step::Wait(Then::List(why)) } else { Step::List(why) }
    }

    fn then_confirm(&self, why: Why) -> Step {
        let waits = self.lags && self.rules.waits_after_list;
        if waits { Step::Wait(Then::Confirm(why)) } else { Step::Confirm(why) }
    }

    /// Whether the process sees a part in this step (`sees`), where a listing is confirmed.
    fn is_still(&self, sees: u32, part: u32) -> bool {
        !self.rules.confirms || sees & part != 0
    }

    fn is_still_for_removal(&self, sees: u32, slot: u8) -> bool {
        !self.rules.confirms_removal || sees & accepted(slot) != 0
    }

    fn confirm(&self, state: &mut State, number: usize, why: Why, sees: u32) {
        match why {
            Why::Find => self.found(state, number, sees),
            Why::AfterPrepare | Why::AfterAccept => self.looked(state, number, why, sees),
            Why::Clean => self.clean(state, number, sees),
            Why::Bury => self.bury(state, number, sees),
            Why::Bar => {
                let (view, tombstone) = (state.processes[number].view, state.processes[number].tombstone);
                if !(self.counts(view, tombstone) && self.is_still(sees, accepted(tombstone))) {
                    state.processes[number].doomed = 0;
                }
                self.remove_next(state, number);
            }
        }
    }

    fn found(&self, state: &mut State, number: usize, sees: u32) {
        let process = state.processes[number].clone();
        let current = self.current(state, process.view);
        let present = match current {
            Some(slot) if !self.is_still(sees, accepted(slot)) => {
                state.processes[number].step = Step::List(Why::Find);
                return;
            }
            None if self.rules.anchor_stays && self.is_anchored(state, process.view) => {
                state.processes[number].step = Step::List(Why::Find);
                return;
            }
            other => other,
        };
        let operation = present.map_or(0, |slot| state.slots[usize::from(slot)].operation);
        let is_tombstone = self.is_tombstone(operation);
        match process.role {
            Role::Read => {
                let value = if is_tombstone { 0 } else { operation };
                if !self.was(state, &process, |present| present == value) {
                    state.bad = Some("a reader was told what was not so during its call");
                }
                self.tell(state, number, Told::Done);
            }
            Role::Create | Role::Delete if is_tombstone => {
                let process = &mut state.processes[number];
                process.tombstone = present.unwrap_or(0);
                process.will_tell = if process.role == Role::Create { Told::Nothing } else { Told::Refused };
                process.step = self.then_list(Why::Bury);
            }
            Role::Create if present.is_none() => state.processes[number].step = Step::Prepare,
            Role::Replace | Role::Delete if present.is_some() && !is_tombstone => {
                let process = &mut state.processes[number];
                process.base = present.map_or(0, |slot| slot + 1);
                process.step = Step::Prepare;
            }
            _ => self.tell(state, number, Told::Refused),
        }
    }

    fn own_are_there(&self, process: &Process, sees: u32) -> bool {
        let own = process.own;
        !self.rules.watches_own || process.view & own == own && (!self.rules.confirms || sees & own == own)
    }

    fn looked(&self, state: &mut State, number: usize, why: Why, sees: u32) {
        let process = state.processes[number].clone();
        let slot = self.slot_of(number, process.ballots - 1);
        let mine = state.slots[usize::from(slot)];
        let current = self.current(state, process.view);
        if let Some(current) = current.filter(|s| state.slots[usize::from(*s)].version >= mine.version) {
            return self.judge(state, number, current, sees);
        }
        let again = |state: &mut State| state.processes[number].step = Step::List(why);
        if current.is_none() && self.rules.anchor_stays && self.is_anchored(state, process.view) {
            return again(state);
        }
        let stands = if process.base > 0 {
            let base = process.base - 1;
            if !self.rules.sees_base {
                true
            } else if !self.counts(process.view, base) {
                false
            } else if !self.is_still(sees, accepted(base)) {
                return again(state);
            } else {
                process.view & prepared(slot) != 0
            }
        } else {
            self.own_are_there(&process, sees)
        };
        if !stands {
            let told = match (process.is_exposed, process.role) {
                (true, _) => Told::Unknown,
                (false, Role::Replace) => Told::Refused,
                (false, _) => Told::Nothing,
            };
            return self.withdraw_and_tell(state, number, told);
        }
        let open =
            |s: &u8| state.slots[usize::from(*s)].version == mine.version && process.view & prepared(*s) != 0;
        let rank = |s: u8| (state.slots[usize::from(s)].round, s);
        let highest = (0..SLOTS as u8).filter(open).max_by_key(|s| rank(*s)).unwrap_or(slot);
        if self.rules.gives_way && rank(highest) > rank(slot) {
            state.processes[number].round = rank(highest).0;
            return self.next_ballot(state, number);
        }
        if why == Why::AfterAccept {
            state.processes[number].step = Step::Mark;
            return;
        }
        let valued = |s: &u8| {
            let needs = if self.rules.counts_with_prepared { prepared(*s) } else { 0 };
            *s != slot
                && state.slots[usize::from(*s)].version == mine.version
                && process.view & (accepted(*s) | needs) == accepted(*s) | needs
        };
        let adopted = (0..SLOTS as u8).filter(valued).max_by_key(|s| rank(*s));
        if let Some(other) = adopted {
            let is_there = self.is_still(sees, accepted(other))
                && (self.is_still(sees, prepared(other)) || !self.rules.counts_with_prepared);
            if !is_there {
                return self.next_ballot(state, number);
            }
            let Slot { operation, history, .. } = state.slots[usize::from(other)];
            let given = &mut state.slots[usize::from(slot)];
            (given.operation, given.history) = (operation, history);
        }
        self.expose(state, number, slot);
    }

    fn expose(&self, state: &mut State, number: usize, slot: u8) {
        let is_mine = state.slots[usize::from(slot)].operation == number as u8 + 2;
        state.processes[number].is_exposed |= is_mine;
        state.processes[number].step = Step::Accept;
    }

    /// A version at least as high as the process's own was decided.
    fn judge(&self, state: &mut State, number: usize, current: u8, sees: u32) {
        let process = state.processes[number].clone();
        let decided = state.slots[usize::from(current)];
        let operation = number as u8 + 2;
        let slot = self.slot_of(number, process.ballots - 1);
        let version = usize::from(state.slots[usize::from(slot)].version);
        let outcome = if usize::from(decided.version) == version && decided.operation == operation {
            Told::Done
        } else if !process.is_exposed {
            Told::Refused
        } else if sees & accepted(current) == 0 {
            let step = &mut state.processes[number].step;
            if let Step::Confirm(why) = *step {
                *step = Step::List(why);
            }
            return;
        } else {
            let is_same = match process.base.checked_sub(1) {
                Some(base) => {
                    let base = state.slots[usize::from(base)];
                    decided.history[usize::from(base.version) - 1] == base.operation
                }
                None => self.own_are_there(&process, sees),
            };
            match is_same {
                true if decided.history[version - 1] == operation => Told::Done,
                true => Told::Refused,
                false => Told::Unknown,
            }
        };
        let is_tombstone = self.is_tombstone(decided.operation);
        match (process.role, outcome) {
            (Role::Create, Told::Refused) if is_tombstone => {
                self.withdraw_and_tell(state, number, Told::Nothing)
            }
            (Role::Delete, Told::Refused) if !is_tombstone => {
                self.withdraw_and_tell(state, number, Told::Nothing)
            }
            _ => self.withdraw_and_tell(state, number, outcome),
        }
    }

    fn next_ballot(&self, state: &mut State, number: usize) {
        if state.processes[number].ballots < self.ballots_max {
            state.processes[number].step = Step::Prepare;
        } else {
            self.withdraw_and_tell(state, number, Told::Unknown);
        }
    }

    fn clean(&self, state: &mut State, number: usize, sees: u32) {
        let process = state.processes[number].clone();
        let slot = self.slot_of(number, process.ballots - 1);
        let version = state.slots[usize::from(slot)].version;
        let mut doomed = 0;
        if version > 1 && self.counts(process.view, slot) && self.is_still_for_removal(sees, slot) {
            for other in 0..SLOTS as u8 {
                let seen = process.view & whole(other);
                let its = state.slots[usize::from(other)].version;
                let is_past = its < version || !self.rules.present_stays && its == version;
                doomed |= match (its, process.view & marked(other) != 0) {
                    _ if seen == 0 || !is_past => 0,
                    (1, true) if self.rules.anchor_stays => seen & accepted(other),
                    (1, false) => seen & accepted(other),
                    _ => seen,
                };
            }
        }
        let process = &mut state.processes[number];
        process.doomed = doomed;
        process.doomed_marked = process.view & all_marks();
        self.remove_next(state, number);
    }

    fn bury(&self, state: &mut State, number: usize, sees: u32) {
        let process = state.processes[number].clone();
        let tombstone = process.tombstone;
        if !(self.counts(process.view, tombstone) && self.is_still_for_removal(sees, tombstone)) {
            state.processes[number].doomed = 0;
            return self.remove_next(state, number);
        }
        let last = state.slots[usize::from(tombstone)].version;
        let (mut doomed, mut creators, mut round) = (0, false, 0);
        for other in 0..SLOTS as u8 {
            let Slot { version, round: its, .. } = state.slots[usize::from(other)];
            if version <= last {
                doomed |= process.view & whole(other);
            }
            if version == 1 && process.view & prepared(other) != 0 {
                round = round.max(its);
                creators |= process.view & marked(other) == 0;
            }
        }
        let barrier = self.slot_of(number, self.ballots_max);
        let process = &mut state.processes[number];
        (process.doomed, process.doomed_marked) = (doomed, process.view & all_marks());
        if creators && self.rules.bars && state.slots[usize::from(barrier)].version == 0 {
            process.barrier = true;
            process.step = Step::Bar;
            state.slots[usize::from(barrier)] = Slot { version: 1, round: round + 1, ..Slot::default() };
            return;
        }
        self.remove_next(state, number);
    }

    fn prepare(&self, state: &mut State, number: usize) -> Option<u32> {
        let process = &mut state.processes[number];
        if process.ballots >= self.ballots_max {
            self.withdraw_and_tell(state, number, Told::Unknown);
            return None;
        }
        let slot = 1 + number as u8 * (self.ballots_max + 1) + process.ballots;
        process.ballots += 1;
        process.round += 1;
        let base = process.base.checked_sub(1).map(|base| state.slots[usize::from(base)]);
        let version = base.map_or(1, |base| base.version + 1);
        if usize::from(version) > VERSIONS {
            self.tell(state, number, Told::Unknown);
            return None;
        }
        let mut history = base.map_or([0; VERSIONS], |base| base.history);
        history[usize::from(version) - 1] = number as u8 + 2;
        let (round, base) = (process.round, process.base);
        state.slots[usize::from(slot)] = Slot { version, round, base, operation: number as u8 + 2, history };
        Some(prepared(slot))
    }

    fn go(&self, state: &mut State, number: usize, sees: u32) {
        let begins = state.log.len() as u8 - self.still_hidden(state);
        state.processes[number].began.get_or_insert(begins);
        let step = state.processes[number].step;
        match step {
            Step::Wait(then) => {
                state.processes[number].wait = state.fresh;
                state.processes[number].step = Step::Waiting(then);
            }
            Step::Waiting(then) => {
                state.fresh &= !state.processes[number].wait;
                state.processes[number].wait = 0;
                state.processes[number].step = match then {
                    Then::List(why) => Step::List(why),
                    Then::Confirm(why) => Step::Confirm(why),
                };
            }
            Step::List(why) if self.is_torn => {
                state.processes[number].half = sees;
                state.processes[number].step = Step::ListFurther(why);
            }
            Step::List(why) | Step::ListFurther(why) => {
                (state.processes[number].view, state.processes[number].half) = (sees, 0);
                state.processes[number].step = self.then_confirm(why);
            }
            Step::Confirm(why) => self.confirm(state, number, why, sees),
            Step::Prepare => {
                if let Some(part) = self.prepare(state, number) {
                    self.change(state, part, true);
                    state.processes[number].own |= part;
                    if self.rules.looks_after_prepare {
                        state.processes[number].step = self.then_list(Why::AfterPrepare);
                    } else {
                        let slot = self.slot_of(number, state.processes[number].ballots - 1);
                        self.expose(state, number, slot);
                    }
                }
            }
            Step::Accept => {
                let slot = self.slot_of(number, state.processes[number].ballots - 1);
                self.change(state, accepted(slot), true);
                state.processes[number].step = match self.rules.looks_after_accept {
                    true => self.then_list(Why::AfterAccept),
                    false => Step::Mark,
                };
            }
            Step::Mark => self.mark(state, number),
            Step::Bar => {
                self.change(state, prepared(self.slot_of(number, self.ballots_max)), true);
                state.processes[number].step = self.then_list(Why::Bar);
            }
            Step::Remove => {
                let part = self.doomed_first(state, &state.processes[number]);
                self.change(state, part, false);
                state.processes[number].doomed &= !part;
                self.remove_next(state, number);
            }
            Step::Done => {}
        }
    }

    fn mark(&self, state: &mut State, number: usize) {
        let slot = self.slot_of(number, state.processes[number].ballots - 1);
        self.change(state, marked(slot), true);
        self.decide(state, slot);
        let operation = state.slots[usize::from(slot)].operation;
        let is_mine = operation == number as u8 + 2;
        let is_tombstone = self.is_tombstone(operation);
        let process = &mut state.processes[number];
        process.own &= !prepared(slot);
        process.tombstone = slot;
        process.will_tell = match (is_mine, process.role) {
            (true, _) => Told::Done,
            (false, Role::Delete) if !is_tombstone => Told::Nothing,
            (false, Role::Create) if is_tombstone => Told::Nothing,
            _ => Told::Refused,
        };
        if !is_tombstone {
            process.step = self.then_list(Why::Clean);
        } else if is_mine {
            process.step = self.then_list(Why::Bury);
        } else {
            let told = process.will_tell;
            self.withdraw_and_tell(state, number, told);
        }
    }

    fn lose(&self, state: &mut State, number: usize) {
        state.losses += 1;
        let step = state.processes[number].step;
        let part = match step {
            Step::Prepare => self.prepare(state, number),
            _ => Some(accepted(self.slot_of(number, state.processes[number].ballots - 1))),
        };
        let Some(part) = part else { return };
        state.late |= part;
        if !self.rules.sends_once && step == Step::Prepare {
            // The same part is sent once more, and this time it arrives.
            self.change(state, part, true);
            state.processes[number].own |= part;
            state.processes[number].step = self.then_list(Why::AfterPrepare);
        } else {
            self.next_ballot(state, number);
        }
    }
}

fn all_marks() -> u32 {
    (0..SLOTS as u8).map(marked).sum()
}

/// All subsets of a mask.
fn subsets(mask: u32) -> impl Iterator<Item = u32> {
    let mut next = Some(mask);
    std::iter::from_fn(move || {
        let now = next?;
        next = now.checked_sub(1).map(|below| below & mask).filter(|_| now != 0);
        Some(now)
    })
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut slots = [Slot::default(); SLOTS];
        if self.exists {
            slots[0] = Slot { version: 1, round: 1, base: 0, operation: 1, history: [1, 0, 0, 0] };
        }
        vec![State {
            slots,
            parts: if self.exists { whole(0) } else { 0 },
            fresh: 0,
            late: 0,
            losses: 0,
            processes: self.processes.clone(),
            log: if self.exists { vec![1] } else { Vec::new() },
            bad: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (number, process) in state.processes.iter().enumerate() {
            let number = number as u8;
            let all = u32::MAX;
            let seen = match process.step {
                Step::Done => continue,
                Step::List(_) | Step::Confirm(_) => self.views(state, all),
                Step::ListFurther(_) => {
                    let mut seen: Vec<u32> = Vec::new();
                    for now in self.views(state, all) {
                        let same = now & process.half;
                        seen.extend(subsets(now ^ process.half).map(|torn| same | torn));
                    }
                    seen.sort_unstable();
                    seen.dedup();
                    seen
                }
                _ => vec![0],
            };
            actions.extend(seen.into_iter().map(|sees| Action::Go { process: number, sees }));
            if state.losses < self.losses_max && matches!(process.step, Step::Prepare | Step::Accept) {
                actions.push(Action::Lose { process: number });
            }
        }
        for bit in 0..30 {
            if state.late >> bit & 1 == 1 {
                actions.push(Action::Land { part: 1 << bit });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Go { process, sees } => self.go(&mut state, usize::from(process), sees),
            Action::Lose { process } => self.lose(&mut state, usize::from(process)),
            Action::Land { part } => {
                state.late &= !part;
                self.change(&mut state, part, true);
            }
        }
        self.check(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing goes wrong", |_, state: &State| state.bad.is_none())]
    }
}
