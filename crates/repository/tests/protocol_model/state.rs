//! What the model holds: the objects of the store, and what each party knows.
//!
//! Sets are bits. Packs, snapshots, sessions and lists have numbers; a session has the number of its party.

/// A set of at most eight things.
pub type Set = u8;

/// Packs that there can be: three from before, one for each of two writers, one for each of two collections that copy.
pub const PACKS: usize = 7;
/// Parties; the last place is that of the quiet collection that is let run in the end.
pub const PARTIES: usize = 6;
/// The place of the quiet collection.
pub const QUIET: usize = PARTIES - 1;
/// Lists: of two collections, and of the quiet one.
pub const LISTS: usize = 3;

/// The set of one thing.
pub fn one(number: usize) -> Set {
    1 << number
}

/// The numbers in a set, in order.
pub fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |number| set & one(*number) != 0)
}

/// A session's record, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Session {
    #[default]
    Absent,
    Open,
    Committed,
    Revoked,
}

/// A condemned list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct List {
    pub is_there: bool,
    pub packs: Set,
    pub manifests: Set,
    /// Whether `waits_for` has been written.
    pub is_counted: bool,
    pub waits_for: Set,
    pub is_decided: bool,
}

/// The ref of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ref {
    pub is_there: bool,
    pub snapshots: Set,
    /// Those that are forgotten and can still be brought back.
    pub forgotten: Set,
    pub generation: u8,
}

/// The objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Store {
    pub packs: Set,
    /// The blobs of every pack that there has been.
    pub contents: [Set; PACKS],
    /// A run is the set of the packs of which it speaks, and its name is its content: bit `r` is the run of the set `r`.
    pub runs: u128,
    pub manifests: Set,
    pub refs: [Ref; 2],
    pub sessions: [Session; PARTIES],
    pub lists: [List; LISTS],
}

impl Store {
    /// The packs of which runs speak.
    pub fn indexed(&self) -> Set {
        (0..128).filter(|run| self.runs >> run & 1 == 1).fold(0, |packs, run| packs | run as Set)
    }

    /// The sessions in a state.
    pub fn sessions_that_are(&self, state: Session) -> Set {
        (0..PARTIES).filter(|number| self.sessions[*number] == state).fold(0, |set, number| set | one(number))
    }

    /// The blobs of some packs.
    pub fn blobs(&self, packs: Set) -> Set {
        each(packs).fold(0, |blobs, pack| blobs | self.contents[pack])
    }

    /// The lists that are there.
    pub fn lists(&self) -> impl Iterator<Item = &List> {
        self.lists.iter().filter(|list| list.is_there)
    }
}

/// What a party has seen in one look at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Look {
    /// Snapshots that are published.
    pub live: Set,
    /// Packs on lists.
    pub condemned: Set,
    /// Manifests on lists.
    pub listed: Set,
    /// Packs of which the index speaks.
    pub indexed: Set,
    pub present: Set,
    pub manifests: Set,
    /// Images that have a ref.
    pub images: Set,
}

/// A party: the step that comes next, and what it remembers. What it does not need any more is put back to nothing, so
/// that states that differ in it alone are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Party {
    /// Number of the next step in its program; it has stopped when there is none.
    pub step: u8,
    pub look: Look,
    /// Sessions that it has still to bring to their end, those of them that were revoked, and the one it is at.
    pub todo: Set,
    pub revoked: Set,
    pub at: u8,
    /// A ref as it was read.
    pub image: Ref,
    /// A list as it was read, its number, and the sessions that were counted for it.
    pub list: List,
    pub list_number: u8,
    pub waits_for: Set,
    /// Runs that are merged, packs seen for it or to be copied, and blobs to be copied.
    pub runs: u128,
    pub packs: Set,
    pub blobs: Set,
    /// The snapshot that is to be forgotten or brought back.
    pub chosen: Set,
    /// Whether the snapshot on which a backup builds is kept.
    pub has_base: bool,
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State {
    pub store: Store,
    pub parties: [Party; PARTIES],
    /// Snapshots that were published.
    pub published: Set,
    /// Those that were forgotten and not brought back.
    pub forgotten: Set,
    /// Those that were dropped from their ref.
    pub dropped: Set,
    /// Those whose manifest was put when their writer had been revoked already, which it had not yet noticed.
    pub late: Set,
    /// A collection called something damaged that was sound.
    pub false_alarm: bool,
}
