//! What each party does, as a list of steps. A step touches the store at most once.

use crate::rules::{Rule, Rules};
use crate::state::Set;

/// A party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Backs a disk up; builds on a snapshot where that is kept. It may abandon its work.
    Writer { snapshot: usize, base: Option<usize>, pack: usize },
    /// Has what another repository has moved into this one: the pack that has the number `old` there gets the number `fresh`
    /// here, and what that does not bring the writer stores in `pack`.
    Mover { snapshot: usize, old: usize, fresh: usize, pack: usize },
    /// Collects. `revokes` tells whether it may declare writers dead, `copies` into which pack it copies what is used
    /// of mostly unused packs.
    Collection { list: usize, revokes: bool, copies: Option<usize> },
    /// Forgets snapshots of an image, one after the other.
    Forgetter { image: usize, snapshots: Set },
    /// Brings forgotten snapshots of an image back.
    Undeleter { image: usize, snapshots: Set },
    /// The collection that is let run alone in the end; everybody else is dead to it, and every window has passed.
    Quiet,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    PutSession,
    ReadLists,
    ReadRuns,
    ListPacks,
    /// Writes a run of packs of which no run speaks.
    Adopt,
    ReadBase,
    MovePack,
    StorePack,
    PutRun,
    PutManifest,
    Commit,
    Withdraw,
    EndOwnSession,
    Stop,
    // Completing sessions.
    ReadSessions,
    NextSession,
    ReadRef,
    SeeSession,
    WriteRef,
    Bury,
    EndSession,
    LastSession,
    // Collecting.
    ReadRevoked,
    WriteRevoked,
    ReadExpired,
    WriteExpired,
    ReadList,
    CountSessions,
    WriteCount,
    SeeWriters,
    LookAtSessions,
    LookAtRefs,
    LookAtManifests,
    LookAtImages,
    Decide,
    ReadOldRuns,
    ListOldPacks,
    WriteMerged,
    DeleteRuns,
    DeletePacks,
    DeleteManifests,
    DeleteList,
    NextList,
    Plan,
    CopyPack,
    CopyRun,
    CountBefore,
    PutList,
    // Forgetting and bringing back.
    Choose,
    ReadToChange,
    WriteForgotten,
    WriteUndeleted,
}

use Op::*;

/// Completing sessions: brings committed ones into refs and removes them, removes revoked ones.
fn completing(rules: Rules) -> Vec<Op> {
    let mut ops = vec![ReadSessions];
    ops.extend(ending(rules));
    ops
}

fn ending(rules: Rules) -> Vec<Op> {
    let mut ops = vec![NextSession];
    if !rules.hold(Rule::SessionEndsAfterRef) {
        return [ops, vec![EndSession, ReadRef, WriteRef, LastSession]].concat();
    }
    if rules.hold(Rule::SessionSeenAfterRef) {
        ops.extend([ReadRef, SeeSession, WriteRef]);
    } else {
        ops.extend([SeeSession, ReadRef, WriteRef]);
    }
    if rules.hold(Rule::ManifestEndsBeforeSession) {
        ops.extend([Bury, EndSession]);
    } else {
        ops.extend([EndSession, Bury]);
    }
    ops.push(LastSession);
    ops
}

fn writer(rules: Rules, moves: bool) -> Vec<Op> {
    let mut looks = Vec::new();
    if rules.hold(Rule::ListsBeforeIndex) {
        looks.push(ReadLists);
    }
    looks.extend(if rules.hold(Rule::WriterIndexBeforePacks) {
        [ReadRuns, ListPacks]
    } else {
        [ListPacks, ReadRuns]
    });
    if !rules.hold(Rule::ListsBeforeIndex) {
        looks.push(ReadLists);
    }
    looks.push(Adopt);
    if rules.hold(Rule::RefsLast) {
        looks.push(ReadBase);
    } else {
        looks.insert(0, ReadBase);
    }
    let mut ops = vec![PutSession];
    if rules.hold(Rule::SessionBeforeLook) {
        ops.extend(looks);
    } else {
        ops = [looks, ops].concat();
    }
    if !rules.hold(Rule::RefsAfterSession) {
        ops.retain(|op| *op != ReadBase);
        ops.insert(0, ReadBase);
    }
    if moves {
        ops.extend([MovePack, ReadLists, ReadRuns, ListPacks, Adopt]);
    }
    ops.extend([StorePack, PutRun]);
    ops.extend(if rules.hold(Rule::ManifestBeforeCommit) {
        [PutManifest, Commit]
    } else {
        [Commit, PutManifest]
    });
    ops.extend(ending(rules));
    [ops, vec![Stop, Withdraw, EndOwnSession, Stop]].concat()
}

/// C4's look, as far as it is in order.
fn looks(rules: Rules, stranded: bool) -> Vec<Op> {
    let mut live = vec![LookAtSessions, LookAtRefs];
    if !rules.hold(Rule::SessionsBeforeRefs) {
        live.reverse();
    }
    if stranded {
        live.extend([LookAtManifests, LookAtImages]);
    }
    let mut index = vec![ReadLists, ReadRuns, ListPacks];
    if !rules.hold(Rule::IndexBeforePacks) {
        index = vec![ReadLists, ListPacks, ReadRuns];
    }
    if !rules.hold(Rule::ListsBeforePacks) {
        index = vec![ReadRuns, ListPacks, ReadLists];
    }
    index.push(Adopt);
    if rules.hold(Rule::LiveBeforeIndex) { [live, index].concat() } else { [index, live].concat() }
}

fn collection(rules: Rules, revokes: bool, copies: bool, stranded: bool) -> Vec<Op> {
    let mut ops = Vec::new();
    if revokes {
        ops.extend([ReadRevoked, WriteRevoked]);
    }
    ops.extend(completing(rules));
    ops.extend([ReadExpired, WriteExpired]);
    ops.extend([ReadList, CountSessions, WriteCount]);
    if rules.hold(Rule::Wait) {
        ops.push(SeeWriters);
    }
    if rules.hold(Rule::CompleteBeforeDeciding) {
        ops.extend(completing(rules));
    }
    if rules.hold(Rule::LookAgain) {
        ops.extend(looks(rules, stranded));
    }
    ops.push(Decide);
    if !rules.hold(Rule::ListLast) {
        ops.push(DeleteList);
    }
    let merging = [ReadOldRuns, ListOldPacks, WriteMerged, DeleteRuns];
    if rules.hold(Rule::RunsBeforePacks) {
        ops.extend(merging);
        ops.push(DeletePacks);
    } else {
        ops.push(DeletePacks);
        ops.extend(merging);
    }
    ops.push(DeleteManifests);
    if rules.hold(Rule::ListLast) {
        ops.push(DeleteList);
    }
    ops.extend([NextList, Plan]);
    if copies && rules.hold(Rule::CopyInSession) {
        ops.extend([PutSession, CopyPack, CopyRun, EndOwnSession]);
    } else if copies {
        ops.extend([CopyPack, CopyRun]);
    }
    if !rules.hold(Rule::ListBeforeCount) {
        ops.push(CountBefore);
    }
    ops.push(PutList);
    ops
}

/// The steps of a role. `stranded` tells whether there is an image without a ref, which only then has to be looked for.
pub fn program(role: Role, rules: Rules, stranded: bool) -> Vec<Op> {
    match role {
        Role::Writer { .. } => writer(rules, false),
        Role::Mover { .. } => writer(rules, true),
        Role::Collection { revokes, copies, .. } => collection(rules, revokes, copies.is_some(), stranded),
        Role::Quiet => collection(rules, true, false, stranded),
        Role::Forgetter { .. } => {
            let mut ops = if rules.hold(Rule::ForgetCompletesFirst) { completing(rules) } else { Vec::new() };
            ops.insert(if rules.hold(Rule::ForgetWhatWasSeen) { 0 } else { ops.len() }, Choose);
            ops.extend([ReadToChange, WriteForgotten, Stop]);
            ops
        }
        Role::Undeleter { .. } => vec![Choose, ReadToChange, WriteUndeleted, Stop],
    }
}
