//! The steps of collections.

use crate::program::{Op, Role};
use crate::protocol::Step;
use crate::rules::Rule;
use crate::state::{LISTS, List, Look, PARTIES, Ref, Session, Set, each, one};

/// What marking came to.
struct Marks {
    /// The best pack of each blob that is needed.
    used: Set,
    /// For each pack the blobs of which it has the best copy.
    used_blobs: [Set; 8],
    /// Packs to spare: they hold something needed of which every copy is condemned.
    spared: Set,
}

impl Step<'_> {
    /// Passes a step that does not touch the store as things are; `false` when it does.
    pub fn pass(&mut self, op: Op) -> bool {
        match op {
            Op::NextSession => self.next_session(),
            Op::LastSession => self.next(),
            Op::Stop => self.stop(),
            Op::Adopt if self.orphans() == 0 => self.next(),
            Op::ReadExpired if self.state.store.refs[0].forgotten == 0 => {
                self.ahead_to(Op::WriteExpired);
                self.next();
            }
            Op::CountSessions if self.my().list.is_decided && self.holds(Rule::RunsBeforePacks) => {
                self.ahead_to(Op::ReadOldRuns);
            }
            Op::CountSessions if self.my().list.is_decided => self.ahead_to(Op::DeletePacks),
            Op::CountSessions if self.my().list.is_counted => {
                self.party().waits_for = self.my().list.waits_for;
                self.ahead_to(Op::WriteCount);
                self.next();
            }
            Op::DeleteRuns if self.my().runs == 0 => {
                self.next();
            }
            Op::DeletePacks if self.my().list.packs == 0 => self.next(),
            Op::DeleteManifests if self.my().list.manifests == 0 => self.next(),
            Op::NextList => self.next_list(),
            Op::CopyPack if self.my().packs == 0 => self.ahead_to(Op::PutList),
            Op::PutSession if self.own_list().is_some() && self.my().packs == 0 => self.ahead_to(Op::PutList),
            _ => return false,
        }
        true
    }

    fn own_list(&self) -> Option<usize> {
        match self.role() {
            Role::Collection { list, .. } => Some(list),
            Role::Quiet => Some(LISTS - 1),
            _ => None,
        }
    }

    fn next_session(&mut self) {
        let Some(at) = each(self.my().todo).next() else {
            return self.ahead_to(Op::LastSession);
        };
        let is_revoked = self.my().revoked & one(at) != 0;
        self.party().at = at as u8;
        match (is_revoked, self.holds(Rule::SessionEndsAfterRef), self.holds(Rule::ManifestEndsBeforeSession))
        {
            (true, true, true) => self.ahead_to(Op::Bury),
            (true, ..) => self.ahead_to(Op::EndSession),
            (false, ..) => self.next(),
        }
    }

    fn next_list(&mut self) {
        let number = self.my().list_number;
        if Some(usize::from(number)) == self.own_list() {
            return self.stop();
        }
        let party = self.party();
        (party.list, party.waits_for, party.list_number) = (List::default(), 0, number + 1);
        self.back_to(Op::ReadList);
    }

    pub fn revocable(&self) -> impl Iterator<Item = usize> + use<> {
        let open = self.state.store.sessions_that_are(Session::Open) & !one(self.me);
        (0..PARTIES).filter(move |party| open & one(*party) != 0)
    }

    pub fn read_revoked(&mut self, choice: u8) {
        match self.revocable().nth(usize::from(choice)) {
            Some(party) => {
                self.party().at = party as u8;
                self.next();
            }
            None => {
                self.ahead_to(Op::WriteRevoked);
                self.next();
            }
        }
    }

    pub fn collect(&mut self, op: Op) {
        match op {
            Op::WriteRevoked => return self.write_revoked(),
            Op::ReadExpired => self.party().image = self.state.store.refs[0],
            Op::WriteExpired => return self.write_expired(),
            Op::ReadList => return self.read_list(),
            Op::CountSessions | Op::CountBefore => {
                let absent = self.state.store.sessions_that_are(Session::Absent);
                self.party().waits_for = !absent & (one(PARTIES) - 1);
            }
            Op::WriteCount => return self.write_count(),
            Op::SeeWriters => {
                let open = self.state.store.sessions_that_are(Session::Open);
                if open & self.my().waits_for != 0 {
                    return self.ahead_to(Op::NextList);
                }
                self.party().waits_for = 0;
            }
            Op::LookAtSessions if self.holds(Rule::SessionsCount) => {
                self.party().look.live |= self.protocol.committed(&self.state.store);
            }
            Op::LookAtSessions => {}
            Op::LookAtRefs => self.look_at_refs(),
            Op::LookAtManifests => self.party().look.manifests = self.state.store.manifests,
            Op::LookAtImages => self.look_at_images(),
            Op::Decide => return self.decide(),
            Op::ReadOldRuns => self.party().runs = self.state.store.runs,
            Op::ListOldPacks => self.party().packs = self.state.store.packs,
            Op::WriteMerged => self.write_merged(),
            Op::DeleteRuns => {
                let lowest = self.my().runs & self.my().runs.wrapping_neg();
                self.state.store.runs &= !lowest;
                self.party().runs &= !lowest;
                return;
            }
            Op::DeletePacks => {
                let pack = self.my().list.packs & self.my().list.packs.wrapping_neg();
                self.state.store.packs &= !pack;
                self.party().list.packs &= !pack;
                return;
            }
            Op::DeleteManifests => {
                self.state.store.manifests &= !self.my().list.manifests;
                self.party().list.manifests = 0;
            }
            Op::DeleteList => self.state.store.lists[usize::from(self.my().list_number)] = List::default(),
            Op::Plan => return self.plan(),
            Op::CopyPack => return self.copy_pack(),
            Op::CopyRun => {
                if let Role::Collection { copies: Some(pack), .. } = self.role() {
                    self.state.store.runs |= 1 << one(pack);
                }
            }
            Op::PutList => return self.put_list(),
            _ => {}
        }
        self.next();
    }

    fn write_revoked(&mut self) {
        let session = &mut self.state.store.sessions[usize::from(self.my().at)];
        if *session == Session::Open || !self.protocol.rules.hold(Rule::RevokeByComparison) {
            *session = Session::Revoked;
        }
        self.party().at = 0;
        if self.is_quiet() { self.back_to(Op::ReadRevoked) } else { self.next() }
    }

    /// Drops the forgotten entries whose window has passed. Which those are no clock of the model tells.
    fn write_expired(&mut self) {
        let read = self.my().image;
        let written = Ref { snapshots: read.snapshots & !read.forgotten, forgotten: 0, ..read };
        if !self.replace_ref(0, written) {
            return self.back_to(Op::ReadExpired);
        }
        self.state.dropped |= read.forgotten;
        self.party().image = Ref::default();
        self.next();
    }

    fn read_list(&mut self) {
        let first = usize::from(self.my().list_number);
        let others = self.holds(Rule::OthersListsFinished);
        let found = (first..LISTS).find(|number| {
            others && self.state.store.lists[*number].is_there && Some(*number) != self.own_list()
        });
        match found {
            Some(number) => {
                let list = self.state.store.lists[number];
                let party = self.party();
                (party.list, party.list_number) = (list, number as u8);
                self.next();
            }
            None => {
                self.party().list_number = 0;
                self.ahead_to(Op::Plan);
            }
        }
    }

    /// Replaces the list that was read; `false` when another collection has dealt with it.
    fn replace_list(&mut self, written: List, rule: Rule) -> bool {
        let number = usize::from(self.my().list_number);
        if self.state.store.lists[number] != self.my().list && self.holds(rule) {
            return false;
        }
        self.state.store.lists[number] = written;
        self.party().list = written;
        true
    }

    fn write_count(&mut self) {
        let list = self.my().list;
        let written = List { is_counted: true, waits_for: self.my().waits_for, ..list };
        if self.replace_list(written, Rule::CountByComparison) {
            self.next()
        } else {
            self.ahead_to(Op::NextList)
        }
    }

    fn look_at_refs(&mut self) {
        for image in self.state.store.refs {
            let left_out = if self.holds(Rule::ForgottenAreKept) { 0 } else { image.forgotten };
            self.party().look.live |= image.snapshots & !left_out;
        }
    }

    fn look_at_images(&mut self) {
        let refs = self.state.store.refs;
        let there = refs.iter().enumerate().filter(|(_, image)| image.is_there);
        self.party().look.images = there.fold(0, |set, (number, _)| set | one(number));
    }

    /// Manifests that tell of a lost ref, or of a first backup that is being made.
    fn stranded(&self) -> Set {
        let look = self.my().look;
        let images = self.protocol.scenario.images;
        let lost =
            each(look.manifests & !look.live).filter(|snapshot| look.images & one(images[*snapshot]) == 0);
        lost.fold(0, |set, snapshot| set | one(snapshot))
    }

    /// Marks what is needed. When something is missing the collection ends; that is a false alarm if it was there.
    fn mark(&mut self) -> Option<Marks> {
        let look = self.my().look;
        let usable = look.indexed & look.present;
        let mut marks = Marks { used: 0, used_blobs: [0; 8], spared: 0 };
        let stranded = if self.protocol.scenario.images.contains(&1) { self.stranded() } else { 0 };
        for (snapshots, is_needed) in [(look.live, true), (stranded, false)] {
            for blob in each(self.protocol.needs(snapshots)) {
                let contents = self.state.store.contents;
                let holds = |pack: &usize| contents[*pack] & one(blob) != 0;
                let copies = each(usable).filter(holds).fold(0, |set, pack| set | one(pack));
                let free = copies & !look.condemned;
                let best = each(if free == 0 { copies } else { free }).next();
                match best {
                    Some(pack) => {
                        marks.used |= one(pack);
                        marks.used_blobs[pack] |= one(blob);
                        marks.spared |= if free == 0 { copies } else { 0 };
                    }
                    None if is_needed => {
                        let live = self.protocol.committed(&self.state.store)
                            | self.state.store.refs.iter().fold(0, |set, image| set | image.snapshots);
                        let needed = self.protocol.needs(look.live & live) & one(blob) != 0;
                        self.state.false_alarm |= needed;
                        return None;
                    }
                    None => {}
                }
            }
        }
        Some(marks)
    }

    /// C4: spares what is needed after all, and decides.
    fn decide(&mut self) {
        let list = self.my().list;
        let mut written = List { is_decided: true, ..list };
        if self.holds(Rule::LookAgain) {
            let Some(marks) = self.mark() else { return self.stop() };
            let kept = self.my().look.live
                | if self.protocol.scenario.images.contains(&1) { self.stranded() } else { 0 };
            if self.holds(Rule::SparePacks) {
                written.packs &= !marks.spared;
            }
            if self.holds(Rule::SpareManifests) {
                written.manifests &= !kept;
            }
        }
        self.party().look = Look::default();
        if self.replace_list(written, Rule::DecideByComparison) {
            self.next()
        } else {
            self.ahead_to(Op::NextList)
        }
    }

    /// Writes one run of what is left of all, and keeps it out of those that are then deleted.
    fn write_merged(&mut self) {
        let party = *self.my();
        let spoken =
            (0..128).filter(|run| party.runs >> run & 1 == 1).fold(0, |packs, run| packs | run as Set);
        let merged = spoken & party.packs & !party.list.packs;
        if merged != 0 {
            self.state.store.runs |= 1 << merged;
        }
        let party = self.party();
        party.packs = 0;
        party.runs &= !(1 << merged);
    }

    /// C1 up to the list, seen at one moment: whatever it condemns, C4 has to look again.
    fn plan(&mut self) {
        let store = self.state.store;
        let live = self.protocol.committed(&store);
        self.party().look = Look {
            live,
            condemned: store.lists().fold(0, |set, list| set | list.packs),
            listed: store.lists().fold(0, |set, list| set | list.manifests),
            indexed: store.indexed() | store.packs,
            present: store.packs,
            manifests: store.manifests,
            images: 0,
        };
        self.look_at_refs();
        self.look_at_images();
        let orphans = store.packs & !store.indexed() & !self.my().look.condemned;
        if orphans != 0 {
            self.state.store.runs |= 1 << orphans;
        }
        let Some(marks) = self.mark() else { return self.stop() };
        let look = self.my().look;
        let candidates = look.present & !look.condemned;
        let partly =
            each(candidates & marks.used).filter(|pack| store.contents[*pack] != marks.used_blobs[*pack]);
        let copies = matches!(self.role(), Role::Collection { copies: Some(_), .. });
        let copied = if copies { partly.fold(0, |set, pack| set | one(pack)) } else { 0 };
        let stranded = self.stranded();
        let list = List {
            packs: (candidates & !marks.used) | copied,
            manifests: look.manifests & !look.live & !look.listed & !stranded,
            ..List::default()
        };
        let party = self.party();
        party.look = Look::default();
        if list.packs == 0 && list.manifests == 0 {
            return self.stop();
        }
        party.packs = copied;
        party.blobs = each(copied).fold(0, |blobs, pack| blobs | marks.used_blobs[pack]);
        party.list = list;
        self.next();
    }

    fn copy_pack(&mut self) {
        let Role::Collection { copies: Some(pack), .. } = self.role() else { return };
        let party = *self.my();
        let copied = self.state.store.blobs(party.packs & self.state.store.packs) & party.blobs;
        self.party().blobs = 0;
        self.party().packs = 0;
        if copied != 0 {
            self.state.store.packs |= one(pack);
            self.state.store.contents[pack] = copied;
            return self.next();
        }
        self.ahead_to(Op::CopyRun);
        self.next();
    }

    fn put_list(&mut self) {
        let Some(number) = self.own_list() else { return };
        let party = *self.my();
        let is_counted = !self.holds(Rule::ListBeforeCount);
        let list = List { is_there: true, is_counted, waits_for: party.waits_for, ..party.list };
        self.state.store.lists[number] = list;
        let party = self.party();
        (party.list, party.list_number, party.packs, party.blobs) = (list, number as u8, 0, 0);
        self.back_to(Op::CountSessions);
    }
}
