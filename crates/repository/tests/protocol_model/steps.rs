//! The steps of writers, of whoever completes sessions, and of those that forget and bring back.

use crate::program::{Op, Role};
use crate::protocol::Step;
use crate::rules::Rule;
use crate::state::{Look, Ref, Session, Set, each, one};

impl Step<'_> {
    /// Takes a step in the way of this number; `false` when there are not so many ways.
    pub fn take(&mut self, op: Op, choice: u8) -> bool {
        let ways = match op {
            Op::Commit => 2,
            Op::Choose => self.named().count() as u8,
            Op::ReadRevoked => self.revocable().count() as u8 + u8::from(!self.is_quiet()),
            Op::ReadExpired => 2 - u8::from(self.is_quiet()),
            _ => 1,
        };
        if choice >= ways.max(1) {
            return false;
        }
        match op {
            Op::Commit if choice == 1 => self.ahead_to(Op::Withdraw),
            Op::Choose => match self.named().nth(usize::from(choice)) {
                Some(snapshot) => {
                    self.party().chosen = one(snapshot);
                    self.next();
                }
                None => self.stop(),
            },
            Op::ReadToChange => self.read_to_change(),
            Op::ReadRevoked => self.read_revoked(choice),
            Op::ReadExpired if choice == 1 => {
                self.ahead_to(Op::WriteExpired);
                self.next();
            }
            _ => self.act(op),
        }
        true
    }

    fn act(&mut self, op: Op) {
        let me = self.me;
        match op {
            Op::PutSession => self.state.store.sessions[me] = Session::Open,
            Op::ReadLists => {
                let lists = self.state.store.lists;
                let own = self.my().list_number;
                for (number, list) in lists.iter().enumerate().filter(|(_, list)| list.is_there) {
                    let counts = self.holds(Rule::OthersListsCount)
                        || number == usize::from(own)
                        || matches!(self.role(), Role::Writer { .. } | Role::Mover { .. });
                    let look = &mut self.party().look;
                    look.condemned |= if counts { list.packs } else { 0 };
                    look.listed |= list.manifests;
                }
            }
            Op::ReadRuns => self.party().look.indexed = self.state.store.indexed(),
            Op::ListPacks => self.party().look.present = self.state.store.packs,
            Op::Adopt => {
                let orphans = self.orphans();
                self.state.store.runs |= 1 << orphans;
                self.party().look.indexed |= orphans;
            }
            Op::ReadBase => {
                if let Role::Writer { snapshot, base: Some(base), .. } = self.role() {
                    let image = self.state.store.refs[self.protocol.scenario.images[snapshot]];
                    let is_kept = image.snapshots & !image.forgotten & one(base) != 0;
                    self.party().has_base = is_kept || !self.holds(Rule::ByNameOnlyOfKept);
                }
            }
            Op::MovePack => self.move_pack(),
            Op::StorePack => return self.store_pack(),
            Op::PutRun => self.state.store.runs |= 1 << one(self.own_pack()),
            Op::PutManifest => {
                let snapshot = self.protocol.snapshot_of(me);
                self.state.store.manifests |= snapshot;
                let is_late = !matches!(self.state.store.sessions[me], Session::Open | Session::Committed);
                self.state.late |= if is_late { snapshot } else { 0 };
            }
            Op::Commit => return self.commit(),
            Op::Withdraw => self.state.store.manifests &= !self.protocol.snapshot_of(me),
            Op::EndOwnSession => self.state.store.sessions[me] = Session::Absent,
            Op::ReadSessions => {
                let revoked = self.state.store.sessions_that_are(Session::Revoked);
                let committed = self.state.store.sessions_that_are(Session::Committed);
                let party = self.party();
                (party.todo, party.revoked) = (committed | revoked, revoked);
            }
            Op::ReadRef => {
                let image = self.image_at();
                self.party().image = self.state.store.refs[image];
            }
            Op::SeeSession => {
                if self.state.store.sessions[usize::from(self.my().at)] == Session::Absent {
                    return self.ahead_to(Op::EndSession);
                }
            }
            Op::WriteRef => return self.write_ref(),
            Op::Bury => {
                let at = usize::from(self.my().at);
                self.state.store.manifests &= !self.protocol.snapshot_of(at);
                if !self.holds(Rule::ManifestEndsBeforeSession) {
                    return self.end_one();
                }
            }
            Op::EndSession => return self.end_session(),
            Op::WriteForgotten | Op::WriteUndeleted => return self.write_change(op),
            _ => return self.collect(op),
        }
        self.next();
    }

    pub fn role(&self) -> Role {
        self.protocol.role(self.me)
    }

    pub fn is_quiet(&self) -> bool {
        self.role() == Role::Quiet
    }

    /// Packs of which no run speaks, as far as they may be adopted and are still there.
    pub fn orphans(&self) -> Set {
        let Look { present, indexed, condemned, .. } = self.my().look;
        present & !indexed & !condemned & self.state.store.packs
    }

    fn own_pack(&self) -> usize {
        match self.role() {
            Role::Writer { pack, .. } | Role::Mover { pack, .. } => pack,
            _ => unreachable!("only writers put runs"),
        }
    }

    /// The blobs that may be referred to, as things were when this party looked.
    fn found(&self) -> Set {
        let Look { condemned, indexed, present, .. } = self.my().look;
        let avoided = if self.holds(Rule::NeverReferToCondemned) { condemned } else { 0 };
        self.state.store.blobs(indexed & present & !avoided)
    }

    /// Has the pack that the other repository has of the same blobs as pack `old` once had here moved, where some of them are
    /// lacking. Where it goes under its old name, it is not moved if there is one of that name.
    fn move_pack(&mut self) {
        let Role::Mover { snapshot, old, fresh, .. } = self.role() else { return };
        let blobs = self.state.store.contents[old];
        let is_lacking = self.protocol.needs(one(snapshot)) & blobs & !self.found() != 0;
        let number = if self.holds(Rule::MovedUnderNewName) { fresh } else { old };
        if is_lacking {
            self.state.store.packs |= one(number);
            self.state.store.contents[number] = blobs;
        }
        self.party().look = Look::default();
    }

    /// W3: decides what is referred to, and stores the rest.
    fn store_pack(&mut self) {
        let (snapshot, base, pack) = match self.role() {
            Role::Writer { snapshot, base, pack } => (snapshot, base, pack),
            Role::Mover { snapshot, pack, .. } => (snapshot, None, pack),
            _ => return,
        };
        let Look { condemned, indexed, present, .. } = self.my().look;
        let unlisted = condemned == 0 || !self.holds(Rule::ByNameOnlyWithoutLists);
        let complete = indexed & !present == 0 || !self.holds(Rule::ByNameOnlyWithAllPacks);
        let by_name = match base {
            Some(base) if self.my().has_base && unlisted && complete => self.protocol.needs(one(base)),
            _ => 0,
        };
        let found = self.found();
        let stored = self.protocol.needs(one(snapshot)) & !(by_name | found);
        let party = self.party();
        (party.look, party.has_base) = (Look::default(), false);
        if stored != 0 {
            self.state.store.packs |= one(pack);
            self.state.store.contents[pack] = stored;
            return self.next();
        }
        self.ahead_to(Op::PutRun);
        self.next();
    }

    fn commit(&mut self) {
        let session = &mut self.state.store.sessions[self.me];
        if *session != Session::Open && self.protocol.rules.hold(Rule::CommitByComparison) {
            return self.ahead_to(Op::Withdraw);
        }
        *session = Session::Committed;
        self.state.published |= self.protocol.snapshot_of(self.me);
        self.party().todo = one(self.me);
        self.next();
    }

    fn image_at(&self) -> usize {
        let snapshot = self.protocol.snapshot_of(usize::from(self.my().at));
        each(snapshot).next().map_or(0, |snapshot| self.protocol.scenario.images[snapshot])
    }

    /// W6: adds a snapshot to its ref.
    fn write_ref(&mut self) {
        let number = self.image_at();
        let snapshot = self.protocol.snapshot_of(usize::from(self.my().at));
        let read = self.my().image;
        if read.snapshots & snapshot == 0 {
            let written = Ref { is_there: true, snapshots: read.snapshots | snapshot, ..read };
            if !self.replace_ref(number, written) {
                return self.back_to(Op::ReadRef);
            }
        }
        self.party().image = Ref::default();
        if self.holds(Rule::SessionEndsAfterRef) { self.ahead_to(Op::EndSession) } else { self.end_one() }
    }

    /// Replaces a ref that was read; `false` when somebody was faster.
    pub fn replace_ref(&mut self, number: usize, written: Ref) -> bool {
        let read = self.my().image;
        let found = &mut self.state.store.refs[number];
        if *found != read && self.protocol.rules.hold(Rule::RefByComparison) {
            return false;
        }
        *found = Ref { generation: found.generation.max(read.generation) + 1, ..written };
        true
    }

    fn end_session(&mut self) {
        let at = usize::from(self.my().at);
        self.state.store.sessions[at] = Session::Absent;
        let is_revoked = self.my().revoked & one(at) != 0;
        if !self.holds(Rule::SessionEndsAfterRef) && !is_revoked {
            return self.next();
        }
        if !self.holds(Rule::ManifestEndsBeforeSession) && is_revoked {
            return self.next();
        }
        self.end_one();
    }

    fn end_one(&mut self) {
        let party = self.party();
        let done = !one(usize::from(party.at));
        (party.todo, party.revoked, party.at) = (party.todo & done, party.revoked & done, 0);
        self.back_to(Op::NextSession);
    }

    /// The snapshots on which a forgetter or undeleter can act.
    fn named(&self) -> impl Iterator<Item = usize> + use<> {
        let image = |number: usize| self.state.store.refs[number];
        each(match self.role() {
            Role::Forgetter { image: number, snapshots } => {
                snapshots & image(number).snapshots & !image(number).forgotten
            }
            Role::Undeleter { image: number, snapshots } => snapshots & image(number).forgotten,
            _ => 0,
        })
    }

    fn read_to_change(&mut self) {
        let (Role::Forgetter { image, .. } | Role::Undeleter { image, .. }) = self.role() else { return };
        let is_there = each(self.my().chosen).any(|snapshot| self.named().any(|named| named == snapshot));
        if !is_there {
            return self.stop();
        }
        self.party().image = self.state.store.refs[image];
        self.next();
    }

    fn write_change(&mut self, op: Op) {
        let (Role::Forgetter { image, .. } | Role::Undeleter { image, .. }) = self.role() else { return };
        let (snapshot, read) = (self.my().chosen, self.my().image);
        let is_forgotten = op == Op::WriteForgotten;
        let mut written = read;
        match (is_forgotten, self.protocol.scenario.window) {
            (true, true) => written.forgotten |= snapshot,
            (true, false) => written.snapshots &= !snapshot,
            (false, _) => written.forgotten &= !snapshot,
        }
        if !self.replace_ref(image, written) {
            return self.back_to(Op::ReadToChange);
        }
        if is_forgotten {
            self.state.forgotten |= snapshot;
            self.state.dropped |= read.snapshots & !written.snapshots;
        } else {
            self.state.forgotten &= !snapshot;
        }
        self.stop();
    }
}
