//! Steps as a person reads them.

use crate::program::Op;
use crate::protocol::{Protocol, name_all};
use crate::state::{LISTS, PARTIES, Session, State};

/// What a step was, and what it changed in the store.
pub fn tell(protocol: &Protocol, me: usize, op: Op, before: &State, after: &State) -> String {
    let (old, new) = (&before.store, &after.store);
    let mut changes = Vec::new();
    let mut change = |what: &str, old: u8, new: u8| {
        if new & !old != 0 {
            changes.push(format!("{what} {} is there", name_all(new & !old)));
        }
        if old & !new != 0 {
            changes.push(format!("{what} {} is gone", name_all(old & !new)));
        }
    };
    change("pack", old.packs, new.packs);
    change("manifest", old.manifests, new.manifests);
    change("index of pack", old.indexed(), new.indexed());
    for image in 0..2 {
        let (old, new) = (old.refs[image], new.refs[image]);
        change(&format!("in ref {image} snapshot"), old.snapshots, new.snapshots);
        change(&format!("in ref {image} the mark of snapshot"), old.forgotten, new.forgotten);
    }
    for party in 0..PARTIES {
        if old.sessions[party] != new.sessions[party] {
            let state = match new.sessions[party] {
                Session::Absent => "ended",
                Session::Open => "open",
                Session::Committed => "committed",
                Session::Revoked => "revoked",
            };
            changes.push(format!("the session of {} is {state}", protocol.name(party)));
        }
    }
    for number in 0..LISTS {
        let (old, new) = (old.lists[number], new.lists[number]);
        if old == new {
            continue;
        }
        changes.push(match (new.is_there, new.is_decided, new.is_counted) {
            (false, ..) => format!("list {number} is gone"),
            (_, true, _) => format!("list {number} is decided: packs {}", name_all(new.packs)),
            (_, _, true) => format!("list {number} waits for sessions {}", name_all(new.waits_for)),
            _ => {
                let (packs, manifests) = (name_all(new.packs), name_all(new.manifests));
                format!("list {number} condemns packs {packs}, manifests {manifests}")
            }
        });
    }
    let effect = if changes.is_empty() { String::new() } else { format!(": {}", changes.join(", ")) };
    format!("{:<13} {}{effect}", protocol.name(me), spoken(op))
}

/// A step's name in words.
fn spoken(op: Op) -> String {
    let mut words = String::new();
    for letter in format!("{op:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}
