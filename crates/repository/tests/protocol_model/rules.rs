//! The rules of the protocol, each of which can be left out.

/// A rule of `docs/collection.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// W1 comes before W2.
    SessionBeforeLook,
    /// W2 reads the lists before index and packs.
    ListsBeforeIndex,
    /// W2 opens the index before it lists the packs.
    WriterIndexBeforePacks,
    /// W2 reads refs after W1.
    RefsAfterSession,
    /// W2 reads refs last.
    RefsLast,
    /// W3 refers to nothing condemned.
    NeverReferToCondemned,
    /// W3 takes blobs over by name only where there is no list.
    ByNameOnlyWithoutLists,
    /// W3 takes blobs over by name only where every pack of the index is there.
    ByNameOnlyWithAllPacks,
    /// W3 takes blobs over by name only of a snapshot that is kept.
    ByNameOnlyOfKept,
    /// W4 comes before W5.
    ManifestBeforeCommit,
    /// W5 is a comparison.
    CommitByComparison,
    /// W6 is a comparison.
    RefByComparison,
    /// W7 comes after W6.
    SessionEndsAfterRef,
    /// Whoever completes a session looks for it after reading the ref.
    SessionSeenAfterRef,
    /// Forgetting completes committed sessions first.
    ForgetCompletesFirst,
    /// What is forgotten was seen in its ref before that.
    ForgetWhatWasSeen,
    /// C0 revokes by comparison.
    RevokeByComparison,
    /// C0 deletes the manifest before the session.
    ManifestEndsBeforeSession,
    /// C1 comes before C2.
    ListBeforeCount,
    /// C2 writes the sessions into the list by comparison.
    CountByComparison,
    /// C3 waits.
    Wait,
    /// C4 looks again.
    LookAgain,
    /// C4 looks at committed sessions.
    SessionsCount,
    /// C4 reads sessions before refs.
    SessionsBeforeRefs,
    /// C4 reads what is published before lists, index and packs.
    LiveBeforeIndex,
    /// C4 reads lists before it lists packs.
    ListsBeforePacks,
    /// C4 reads the index before it lists packs.
    IndexBeforePacks,
    /// C4 spares packs.
    SparePacks,
    /// C4 spares packs though the other copy is on a list, if it is on another's.
    OthersListsCount,
    /// C4 spares manifests.
    SpareManifests,
    /// C4 decides by comparison.
    DecideByComparison,
    /// C5 writes runs before it deletes packs.
    RunsBeforePacks,
    /// C5 deletes the list last.
    ListLast,
    /// The code completes sessions once more between C3 and C4.
    CompleteBeforeDeciding,
    /// A collection that copies has a session while it does.
    CopyInSession,
    /// A collection goes on with the lists of others.
    OthersListsFinished,
    /// A pack that is moved from another repository gets a name that no pack has had.
    MovedUnderNewName,
    /// A forgotten entry keeps what it needs until its window has passed.
    ForgottenAreKept,
}

/// Rules of which it is shown that leaving them out does harm, each alone or with the one that covers for it.
pub const SHOWN: &[&[Rule]] = &[
    &[Rule::SessionBeforeLook],
    &[Rule::ListsBeforeIndex],
    &[Rule::RefsAfterSession],
    &[Rule::RefsLast],
    &[Rule::NeverReferToCondemned],
    &[Rule::ByNameOnlyWithoutLists],
    &[Rule::ByNameOnlyOfKept],
    &[Rule::ManifestBeforeCommit],
    &[Rule::CommitByComparison],
    &[Rule::RefByComparison],
    &[Rule::SessionEndsAfterRef],
    &[Rule::SessionSeenAfterRef],
    &[Rule::ForgetCompletesFirst],
    &[Rule::ForgetWhatWasSeen],
    &[Rule::RevokeByComparison],
    &[Rule::ManifestEndsBeforeSession],
    &[Rule::ListBeforeCount],
    &[Rule::Wait],
    &[Rule::LookAgain],
    &[Rule::SessionsCount, Rule::CompleteBeforeDeciding],
    &[Rule::SessionsBeforeRefs, Rule::CompleteBeforeDeciding],
    &[Rule::LiveBeforeIndex],
    &[Rule::ListsBeforePacks],
    &[Rule::IndexBeforePacks],
    &[Rule::SparePacks],
    &[Rule::OthersListsCount],
    &[Rule::SpareManifests],
    &[Rule::ListLast],
    &[Rule::OthersListsFinished],
    &[Rule::MovedUnderNewName],
    &[Rule::ForgottenAreKept],
];

/// Rules without which nothing is lost and nothing stays behind in any scenario. `docs/collection.md` says why they
/// stand nevertheless.
pub const HARMLESS: &[Rule] = &[
    Rule::WriterIndexBeforePacks,
    Rule::ByNameOnlyWithAllPacks,
    Rule::CountByComparison,
    Rule::DecideByComparison,
    Rule::RunsBeforePacks,
    Rule::CompleteBeforeDeciding,
    Rule::CopyInSession,
];

/// Which rules hold: all but some.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    without: u64,
}

impl Rules {
    /// All rules but these.
    pub fn without(rules: &[Rule]) -> Self {
        Self { without: rules.iter().fold(0, |set, rule| set | 1 << *rule as u64) }
    }

    /// Whether a rule holds.
    pub fn hold(self, rule: Rule) -> bool {
        self.without >> rule as u64 & 1 == 0
    }
}
