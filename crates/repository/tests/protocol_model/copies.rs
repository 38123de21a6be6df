//! One manifest that several transfers copy here and several collections delete: the rules of `copies` and `deletes`.
//!
//! It is a model of its own, for these rules touch nothing else, and beside all others their states would be too many. The
//! manifest may be there at first, as a dead transfer leaves it; every collection has it on a decided list; who publishes
//! and who forgets comes in any order. A collection here decides without having looked: it has to find out in C5.

use std::hash::Hash;

use crate::explorer::{Found, Model, Visit, explore};

/// A rule of `docs/collection.md` about manifests of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyRule {
    /// W1: a writer of copies puts its session, with their names, before it looks for those who delete.
    NamesBeforeLook,
    /// W1: it begins again while somebody deletes.
    WaitForDeletions,
    /// C5: whoever deletes has a session that says so, from before its look.
    DeleterHasSession,
    /// C5: it spares what open sessions copy.
    SpareCopies,
    /// C5: it spares what is published.
    SparePublished,
    /// C5: it reads the open sessions before what is published.
    CopiesBeforePublished,
    /// C5: of what is published it reads sessions before refs.
    SessionsBeforeRefs,
    /// No writer deletes a copied manifest, whatever becomes of it.
    CopiesStay,
}

pub const COPY_RULES: &[CopyRule] = &[
    CopyRule::NamesBeforeLook,
    CopyRule::WaitForDeletions,
    CopyRule::DeleterHasSession,
    CopyRule::SpareCopies,
    CopyRule::SparePublished,
    CopyRule::CopiesBeforePublished,
    CopyRule::SessionsBeforeRefs,
    CopyRule::CopiesStay,
];

const COPIERS: usize = 2;
const DELETERS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Session {
    #[default]
    Absent,
    Open,
    Committed,
}

/// A transfer: its next step, and whether it has put the manifest itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Copier {
    step: u8,
    session: Session,
    has_put: bool,
}

/// A collection at C5: its next step, whether it has a session, has died, and means to spare the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Deleter {
    step: u8,
    has_session: bool,
    is_dead: bool,
    spares: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    manifest: bool,
    /// Whether the ref has the snapshot.
    in_ref: bool,
    copiers: [Copier; COPIERS],
    deleters: [Deleter; DELETERS],
    forgets_left: u8,
}

/// The protocol without one rule, or with all.
struct Copies {
    without: Option<CopyRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyStep {
    PutSession,
    Look,
    PutManifest,
    Commit,
    WriteRef,
    EndSession,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeleteStep {
    PutSession,
    ReadOpen,
    ReadCommitted,
    ReadRefs,
    Delete,
    EndSession,
}

impl Copies {
    fn hold(&self, rule: CopyRule) -> bool {
        self.without != Some(rule)
    }

    fn copying(&self) -> [CopyStep; 6] {
        use CopyStep::{Commit, EndSession, Look, PutManifest, PutSession, WriteRef};
        match self.hold(CopyRule::NamesBeforeLook) {
            true => [PutSession, Look, PutManifest, Commit, WriteRef, EndSession],
            false => [Look, PutSession, PutManifest, Commit, WriteRef, EndSession],
        }
    }

    fn deleting(&self) -> Vec<DeleteStep> {
        use DeleteStep::{Delete, EndSession, PutSession, ReadCommitted, ReadOpen, ReadRefs};
        let mut published = vec![ReadCommitted, ReadRefs];
        if !self.hold(CopyRule::SessionsBeforeRefs) {
            published.reverse();
        }
        let looks = match self.hold(CopyRule::CopiesBeforePublished) {
            true => [vec![ReadOpen], published].concat(),
            false => [published, vec![ReadOpen]].concat(),
        };
        match self.hold(CopyRule::DeleterHasSession) {
            true => [vec![PutSession], looks, vec![Delete, EndSession]].concat(),
            false => [looks, vec![Delete]].concat(),
        }
    }

    /// What a transfer does next; nothing when it waits.
    fn copy(&self, state: &State, number: usize) -> Option<State> {
        let mut after = *state;
        let copier = &mut after.copiers[number];
        let step = *self.copying().get(usize::from(copier.step))?;
        copier.step += 1;
        match step {
            CopyStep::PutSession => copier.session = Session::Open,
            CopyStep::Look => {
                let is_deleting = |deleter: &Deleter| deleter.has_session && !deleter.is_dead;
                if self.hold(CopyRule::WaitForDeletions) && state.deleters.iter().any(is_deleting) {
                    *copier = Copier::default();
                }
            }
            CopyStep::PutManifest => {
                copier.has_put = !state.manifest;
                after.manifest = true;
            }
            CopyStep::Commit => copier.session = Session::Committed,
            CopyStep::WriteRef => after.in_ref = true,
            CopyStep::EndSession => copier.session = Session::Absent,
        }
        Some(after)
    }

    /// A transfer gives up before it has published.
    fn give_up(&self, state: &State, number: usize) -> Option<State> {
        let mut after = *state;
        let copier = &mut after.copiers[number];
        if copier.session != Session::Open {
            return None;
        }
        if copier.has_put && !self.hold(CopyRule::CopiesStay) {
            after.manifest = false;
        }
        *copier = Copier { step: u8::MAX, ..Copier::default() };
        Some(after)
    }

    fn delete(&self, state: &State, number: usize) -> Option<State> {
        let mut after = *state;
        let deleter = &mut after.deleters[number];
        let step = *self.deleting().get(usize::from(deleter.step))?;
        if deleter.is_dead {
            return None;
        }
        deleter.step += 1;
        let has = |wanted: Session| state.copiers.iter().any(|copier| copier.session == wanted);
        let counts = self.hold(CopyRule::SparePublished);
        match step {
            DeleteStep::PutSession => deleter.has_session = true,
            DeleteStep::ReadOpen => {
                deleter.spares |= self.hold(CopyRule::SpareCopies) && has(Session::Open);
            }
            DeleteStep::ReadCommitted => deleter.spares |= counts && has(Session::Committed),
            DeleteStep::ReadRefs => deleter.spares |= counts && state.in_ref,
            DeleteStep::Delete => after.manifest &= deleter.spares,
            DeleteStep::EndSession => deleter.has_session = false,
        }
        Some(after)
    }

    /// Forgets the snapshot and drops it at once; committed sessions are completed before.
    fn forget(state: &State) -> Option<State> {
        let is_committed = state.copiers.iter().any(|copier| copier.session == Session::Committed);
        let may = state.in_ref && !is_committed && state.forgets_left > 0;
        may.then(|| State { in_ref: false, forgets_left: state.forgets_left - 1, ..*state })
    }
}

impl Model for Copies {
    type State = State;

    fn steps(&self, state: &State, visit: &mut Visit<'_, State>) {
        for number in 0..COPIERS {
            if let Some(after) = self.copy(state, number) {
                let step = self.copying()[usize::from(state.copiers[number].step)];
                visit(after, &|| format!("transfer {number}: {step:?}"));
            }
            if let Some(after) = self.give_up(state, number) {
                visit(after, &|| format!("transfer {number} gives up"));
            }
        }
        for number in 0..DELETERS {
            if let Some(after) = self.delete(state, number) {
                let step = self.deleting()[usize::from(state.deleters[number].step)];
                visit(after, &|| format!("collection {number}: {step:?}"));
            }
            let mut after = *state;
            if !after.deleters[number].is_dead {
                after.deleters[number].is_dead = true;
                visit(after, &|| format!("collection {number} dies"));
            }
        }
        if let Some(after) = Self::forget(state) {
            visit(after, &|| "somebody forgets the snapshot".to_owned());
        }
    }

    fn flaw(&self, state: &State) -> Option<String> {
        let is_published =
            state.in_ref || state.copiers.iter().any(|copier| copier.session == Session::Committed);
        (is_published && !state.manifest).then(|| "the manifest of a published snapshot is gone".to_owned())
    }
}

/// Searches all orders of steps, from a store with the manifest and from one without.
pub fn search_copies(without: Option<CopyRule>) -> Found {
    let model = Copies { without };
    let start = |manifest| State {
        manifest,
        in_ref: false,
        copiers: Default::default(),
        deleters: Default::default(),
        forgets_left: 2,
    };
    let found = explore(&model, start(false), 50_000_000);
    if found.flaw.is_some() { found } else { explore(&model, start(true), 50_000_000) }
}
