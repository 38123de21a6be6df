//! Whether a history of one object is that of a register with comparison, each operation done at one moment of its call.
//!
//! An object may lose parts to somebody else, and is mended then. What that may change in a history is what
//! `docs/repair.md` promises, and no more: from the loss to the end of the mending a call may be refused because the object
//! is damaged, and has changed and read nothing then; and as whoever mends decides the same value once more, a replacement may be
//! refused though the value is the one that it knows. In the order itself a loss and its mending have no place: they change no value.

use std::collections::HashSet;

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Create(u64),
    Replace(u64, u64),
    Delete,
    Get,
    /// Gives a lost object another value, whatever it had.
    Remake(u64),
}

/// What it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused,
    Found(u64),
    /// An error that leaves it open.
    Unknown,
    /// Nothing was done or read, for parts of the object are lost.
    Damaged,
}

/// A call, with the numbers of the moments at which it began and ended.
#[derive(Debug, Clone)]
pub struct Event {
    pub call: Call,
    pub answer: Answer,
    pub began: u64,
    pub ended: u64,
}

/// When the object lost a part, and when it had been mended.
#[derive(Debug, Clone, Copy)]
pub struct Mend {
    pub began: u64,
    pub ended: u64,
}

impl Event {
    fn is_beside(&self, mend: &Mend) -> bool {
        self.began < mend.ended && mend.began < self.ended
    }
}

/// The states that the object may have after the event, if it was in this one before.
fn after(event: &Event, state: Option<u64>) -> Vec<Option<u64>> {
    let only_if = |holds: bool, next: Option<u64>| if holds { vec![next] } else { Vec::new() };
    match (&event.call, &event.answer) {
        (Call::Create(new), Answer::Done) => only_if(state.is_none(), Some(*new)),
        (Call::Create(_), Answer::Refused) => only_if(state.is_some(), state),
        (Call::Create(new), _) => {
            if state.is_none() {
                vec![Some(*new), state]
            } else {
                vec![state]
            }
        }
        (Call::Replace(old, new), Answer::Done) => only_if(state == Some(*old), Some(*new)),
        (Call::Replace(old, _), Answer::Refused) => only_if(state != Some(*old), state),
        (Call::Replace(old, new), _) => {
            if state == Some(*old) {
                vec![Some(*new), state]
            } else {
                vec![state]
            }
        }
        (Call::Remake(new), Answer::Done) => only_if(state.is_some(), Some(*new)),
        (Call::Remake(_), Answer::Refused) => vec![state],
        (Call::Remake(new), _) => vec![Some(*new), state],
        // In doubt a deletion says that it was the one.
        (Call::Delete, Answer::Done) => vec![None],
        (Call::Delete, Answer::Refused) => only_if(state.is_none(), None),
        (Call::Delete, _) => vec![None, state],
        (Call::Get, Answer::Found(value)) => only_if(state == Some(*value), state),
        (Call::Get, Answer::Refused) => only_if(state.is_none(), None),
        (Call::Get, _) => vec![state],
    }
}

/// Whether a history is that of a register with comparison which lost parts and was mended.
pub fn is_explained(events: &[Event], mends: &[Mend]) -> bool {
    let is_beside_one = |event: &Event| mends.iter().any(|mend| event.is_beside(mend));
    let is_damaged = |event: &Event| event.answer == Answer::Damaged;
    if events.iter().any(|event| is_damaged(event) && !is_beside_one(event)) {
        return false;
    }
    let says_nothing = |event: &Event| {
        let is_refused = matches!((&event.call, &event.answer), (Call::Replace(..), Answer::Refused));
        is_damaged(event) || is_refused && is_beside_one(event)
    };
    let telling: Vec<Event> = events.iter().filter(|event| !says_nothing(event)).cloned().collect();
    is_linearizable(&telling)
}

/// Whether there is an order of the events, true to the moments of the calls, that explains all answers. A call whose
/// outcome is open may take effect at any time after it began.
fn is_linearizable(events: &[Event]) -> bool {
    assert!(events.len() < 64, "a history has too many events");
    let mut seen = HashSet::new();
    search(events, 0, None, &mut seen)
}

fn search(events: &[Event], done: u64, state: Option<u64>, seen: &mut HashSet<(u64, Option<u64>)>) -> bool {
    let left = |number: &usize| done >> number & 1 == 0;
    let must = |event: &Event| event.answer != Answer::Unknown;
    if (0..events.len()).filter(left).all(|number| !must(&events[number])) {
        return true;
    }
    if !seen.insert((done, state)) {
        return false;
    }
    let first_end =
        (0..events.len()).filter(left).filter(|n| must(&events[*n])).map(|n| events[n].ended).min();
    (0..events.len()).filter(left).filter(|n| Some(events[*n].began) < first_end).any(|number| {
        after(&events[number], state).into_iter().any(|next| search(events, done | 1 << number, next, seen))
    })
}

#[test]
fn a_value_that_comes_back_after_its_deletion_is_no_history_of_a_register() {
    let event = |call, answer, began| Event { call, answer, began, ended: began + 1 };
    let mut events = vec![
        event(Call::Create(1), Answer::Done, 0),
        event(Call::Get, Answer::Found(1), 2),
        event(Call::Delete, Answer::Done, 4),
    ];
    assert!(is_linearizable(&events));
    events.push(event(Call::Get, Answer::Found(1), 6));
    assert!(!is_linearizable(&events));
    events[3].answer = Answer::Refused;
    assert!(is_linearizable(&events));
    events.push(event(Call::Replace(1, 2), Answer::Done, 8));
    assert!(!is_linearizable(&events), "what is gone cannot be replaced");
}

#[test]
fn a_lost_update_is_no_history_of_a_register() {
    let event = |call, answer, began, ended| Event { call, answer, began, ended };
    let mut events = vec![
        event(Call::Create(1), Answer::Done, 0, 1),
        event(Call::Replace(1, 2), Answer::Done, 2, 5),
        event(Call::Replace(1, 3), Answer::Done, 3, 4),
    ];
    assert!(!is_linearizable(&events));
    events[2].answer = Answer::Refused;
    assert!(is_linearizable(&events));
    events[1].answer = Answer::Unknown;
    events[2].answer = Answer::Done;
    assert!(is_linearizable(&events));
}

#[test]
fn only_from_a_loss_to_the_end_of_its_mending_is_anything_excused() {
    let event = |call, answer, began| Event { call, answer, began, ended: began + 1 };
    let created = event(Call::Create(1), Answer::Done, 0);
    let mend = Mend { began: 4, ended: 8 };
    let is_told = |call, answer, began| is_explained(&[created.clone(), event(call, answer, began)], &[mend]);
    for (began, holds) in [(2, false), (5, true), (9, false)] {
        assert_eq!(is_told(Call::Get, Answer::Damaged, began), holds);
        assert_eq!(is_told(Call::Replace(1, 2), Answer::Refused, began), holds);
        // It is there all the time, and what is told to have been done was done.
        assert!(!is_told(Call::Get, Answer::Refused, began));
        assert!(!is_told(Call::Create(2), Answer::Done, began));
        assert!(is_told(Call::Create(2), Answer::Refused, began));
    }
    let lost_update =
        [created.clone(), event(Call::Replace(1, 2), Answer::Done, 5), event(Call::Get, Answer::Found(1), 9)];
    assert!(!is_explained(&lost_update, &[mend]), "a value that was replaced does not come back");
}
