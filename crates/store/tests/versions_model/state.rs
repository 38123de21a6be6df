//! The state of the model: what is in the bucket, where each process stands, and what has been decided.

/// How many ballots a run can have.
pub const SLOTS: usize = 10;
/// How many versions an object can have.
pub const VERSIONS: usize = 4;

/// A ballot. The three lowest bits of its place in a mask: prepared, accepted, marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub version: u8,
    pub round: u8,
    /// Number of the ballot that it builds on, from 1 on; 0 for nothing.
    pub base: u8,
    pub operation: u8,
    /// The operations that made the versions up to its own.
    pub history: [u8; VERSIONS],
}

pub fn prepared(slot: u8) -> u32 {
    1 << (3 * slot)
}

pub fn accepted(slot: u8) -> u32 {
    2 << (3 * slot)
}

pub fn marked(slot: u8) -> u32 {
    4 << (3 * slot)
}

pub fn whole(slot: u8) -> u32 {
    7 << (3 * slot)
}

/// What a listing is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    Find,
    AfterPrepare,
    AfterAccept,
    Clean,
    Bury,
    Bar,
}

/// What comes after waiting for the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    List(Why),
    Confirm(Why),
}

/// What a process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Wait(Then),
    Waiting(Then),
    List(Why),
    ListFurther(Why),
    Confirm(Why),
    Prepare,
    Accept,
    Mark,
    Bar,
    Remove,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Create,
    Replace,
    Delete,
    Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Told {
    Nothing,
    /// The operation was done.
    Done,
    /// It was not: another one was first, or there was nothing to do it on.
    Refused,
    /// It is not known.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub role: Role,
    pub step: Step,
    /// What the last listing showed, and what its first half showed.
    pub view: u32,
    pub half: u32,
    /// What becomes visible to all when the wait is over.
    pub wait: u32,
    /// How many ballots it has opened.
    pub ballots: u8,
    /// Those of them that were acknowledged.
    pub own: u32,
    pub round: u8,
    /// What it builds on, plus 1.
    pub base: u8,
    pub is_exposed: bool,
    /// Parts to be removed, and which of them belong to marked ballots.
    pub doomed: u32,
    pub doomed_marked: u32,
    pub barrier: bool,
    pub tombstone: u8,
    /// What it will tell when it has removed everything; `Nothing` when it begins anew.
    pub will_tell: Told,
    pub told: Told,
    /// How many decisions there were when it began, if it has.
    pub began: Option<u8>,
}

impl Process {
    pub fn new(role: Role, step: Step) -> Self {
        Self {
            role,
            step,
            view: 0,
            half: 0,
            wait: 0,
            ballots: 0,
            own: 0,
            round: 0,
            base: 0,
            is_exposed: false,
            doomed: 0,
            doomed_marked: 0,
            barrier: false,
            tombstone: 0,
            will_tell: Told::Nothing,
            told: Told::Nothing,
            began: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub slots: [Slot; SLOTS],
    /// The parts that are in the bucket.
    pub parts: u32,
    /// Those that changed so lately that a reader may see them as they are or as they were.
    pub fresh: u32,
    /// Writes that have failed and will take effect later.
    pub late: u32,
    pub losses: u8,
    pub processes: Vec<Process>,
    /// The operations that were decided, in order: the history of the object.
    pub log: Vec<u8>,
    /// What went wrong, if anything.
    pub bad: Option<&'static str>,
}
