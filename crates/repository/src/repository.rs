//! An open repository: configuration, small objects, refs, and the way to blobs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use leeward_store::bucket::RequestCounts;
use leeward_store::{ErrorKind as StoreErrorKind, Key, SharedStore, Store, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::condemned::CONDEMNED;
use crate::config::{Config, InitOptions};
use crate::frame::{FrameDecoder, FrameEncoder};
use crate::id::{IdKeys, PackId, RunId, SnapshotId};
use crate::image::{ImageName, ImageRef, REFS, SnapshotEntry, SnapshotSpec};
use crate::index::{Index, PackStates, Run};
use crate::keys::{
    KEYS, KeyAccess, Keyring, NewKey, NoCredential, Unlock, store_first_keys, store_keys_of, unlock,
};
use crate::pack::{self, Directory, FOOTER_BYTES, HEADER_BYTES};
use crate::record::{self, Kind, RECORD_BYTES_MAX};
use crate::session::{Process, SESSIONS, State};
use crate::snapshot::Snapshot;
use crate::{Error, Result};

/// Prefix of the keys of packs.
pub(crate) const PACKS: &str = "packs";
/// Prefix of the keys of what mends packs, see [`crate::parity`].
pub(crate) const PARITIES: &str = "parity";
/// Prefix of the keys of index runs.
pub(crate) const INDEX: &str = "index";
/// Prefix of the keys of manifests.
pub(crate) const SNAPSHOTS: &str = "snapshots";
pub(crate) const CONFIG: &str = "config";

/// The prefixes under which a repository keeps its objects; a directory store makes a directory of each.
pub const PREFIXES: [&str; 8] = [PACKS, PARITIES, INDEX, SNAPSHOTS, REFS, SESSIONS, CONDEMNED, KEYS];

/// How often a conditional write is tried again when others were faster.
const ATTEMPTS_MAX: usize = 1000;
/// What is wrong with an object of which the medium does not give every byte.
pub(crate) const UNREADABLE: &str = "the medium cannot read it";

/// Judges whether the process behind a session has ended for certain.
pub type HasEnded = Arc<dyn Fn(&Process) -> bool + Send + Sync>;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// Snapshots of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Identity: 32 hexadecimal digits.
    pub id: String,
    /// When its backup began.
    pub created: jiff::Timestamp,
    /// Its snapshots, by image.
    pub members: Vec<(ImageName, SnapshotEntry)>,
}

/// A writer that has not ended its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WriterInfo {
    /// Identity of the session: 32 hexadecimal digits.
    pub session: String,
    /// The process behind it.
    pub process: Process,
    /// What it does, for people.
    pub purpose: String,
    /// Since when, RFC 3339.
    pub created: String,
    /// Whether the process has ended for certain.
    pub has_ended: bool,
}

/// An open repository. Cheap to share between threads; holds no lock and no state of the store.
#[derive(Clone)]
pub struct Repository {
    store: SharedStore,
    config: Config,
    keyring: Arc<Keyring>,
    process: Process,
    has_ended: HasEnded,
    clock: Clock,
}

impl Repository {
    /// Makes a repository in an empty store; an encrypted one where the options name keys.
    ///
    /// # Errors
    /// There is one already, an option lies outside its range, or the store fails.
    pub fn init(store: SharedStore, options: &InitOptions) -> Result<Self> {
        let config = Config::new(options, jiff::Timestamp::now().to_string())?;
        if Self::is_present(store.as_ref())? {
            return Err(Error::RepositoryExists { store: store.name().to_owned() });
        }
        let keyring = if config.is_encrypted() {
            store_first_keys(store.as_ref(), &config.repository_id, &options.keys)?
        } else {
            Keyring::plain()
        };
        Self::begin(store, config, Arc::new(keyring))
    }

    /// Makes a repository in an empty store with the settings and the secret of another, so that content has the same names
    /// in both and travels between them as it is stored. `keys` says who may open it; nobody where nothing is encrypted.
    ///
    /// # Errors
    /// There is one already, the other one is encrypted and was not opened with a full key, no key is named for it, or the
    /// store fails.
    pub fn init_alike(store: SharedStore, like: &Self, keys: &[NewKey]) -> Result<Self> {
        let options = InitOptions {
            chunk_bytes: like.config.chunk_bytes() as u64,
            pack_bytes: like.config.pack_bytes,
            zstd_level: like.config.zstd_level,
            keys: keys.to_vec(),
        };
        if like.config.is_encrypted() == keys.is_empty() {
            return Err(Error::Invalid("a repository is encrypted exactly where its like is".to_owned()));
        }
        let config = Config::new(&options, jiff::Timestamp::now().to_string())?;
        if Self::is_present(store.as_ref())? {
            return Err(Error::RepositoryExists { store: store.name().to_owned() });
        }
        store_keys_of(&like.keyring, store.as_ref(), &config.repository_id, keys)?;
        Self::begin(store, config, Arc::clone(&like.keyring))
    }

    /// Stores the configuration: from here on there is a repository.
    fn begin(store: SharedStore, config: Config, keyring: Arc<Keyring>) -> Result<Self> {
        let key = config_key()?;
        let bytes = record::encode_value(Kind::Config, &key, &config, &keyring)?;
        match store.put_if_absent(&key, &[&bytes]) {
            Ok(()) => Ok(Self::with_keyring(store, config, keyring)),
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {
                Err(Error::RepositoryExists { store: store.name().to_owned() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a repository in a store, in whatever state.
    ///
    /// # Errors
    /// The store fails.
    pub fn is_present(store: &dyn Store) -> Result<bool> {
        match store.open(&config_key()?) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a repository that is not encrypted.
    ///
    /// # Errors
    /// There is none, it is encrypted, it needs a newer version, or the store fails.
    pub fn open(store: SharedStore) -> Result<Self> {
        Self::open_with(store, &NoCredential)
    }

    /// Opens a repository, with what `credentials` gives where it is encrypted.
    ///
    /// # Errors
    /// There is none, nothing that was given opens it, it is not encrypted where the caller expects that it is, it needs a
    /// newer version, or the store fails.
    pub fn open_with(store: SharedStore, credentials: &dyn Unlock) -> Result<Self> {
        let (config, bytes) = read_config(store.as_ref())?;
        if !config.is_encrypted() {
            if credentials.expects_encryption() {
                return Err(Error::NotEncrypted { store: store.name().to_owned() });
            }
            return Ok(Self::with(store, config, Keyring::plain()));
        }
        let keyring = unlock(store.as_ref(), &config, credentials)?;
        // Until now it was the store's word.
        let config = decode_config(store.as_ref(), &bytes, &keyring)?;
        Ok(Self::with(store, config, keyring))
    }

    /// Opens a repository without keys, see [`crate::KeylessRepository`].
    pub(crate) fn open_keyless(store: SharedStore) -> Result<Self> {
        let (config, _) = read_config(store.as_ref())?;
        let keyring = if config.is_encrypted() { Keyring::locked() } else { Keyring::plain() };
        Ok(Self::with(store, config, keyring))
    }

    fn with(store: SharedStore, config: Config, keyring: Keyring) -> Self {
        Self::with_keyring(store, config, Arc::new(keyring))
    }

    fn with_keyring(store: SharedStore, config: Config, keyring: Arc<Keyring>) -> Self {
        let has_ended = Arc::new(Process::has_ended);
        let clock: Clock = Arc::new(jiff::Timestamp::now);
        Self { store, config, keyring, process: Process::current(), has_ended, clock }
    }

    /// Replaces who this process says it is and how the end of others is judged: for simulations.
    #[must_use]
    pub fn with_process(mut self, process: Process, has_ended: HasEnded) -> Self {
        (self.process, self.has_ended) = (process, has_ended);
        self
    }

    /// Reaches the store through another one, which passes on to it: to count, or to limit.
    #[must_use]
    pub fn map_store(mut self, wrap: impl FnOnce(SharedStore) -> SharedStore) -> Self {
        self.store = wrap(self.store);
        self
    }

    /// Replaces the way to the store, which must hold the same repository: for simulations.
    #[must_use]
    pub fn with_store(mut self, store: SharedStore) -> Self {
        self.store = store;
        self
    }

    /// Replaces the clock of this machine: for simulations.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The time by this machine's clock, which nobody else has to agree with.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        (self.clock)()
    }

    /// What was fixed when the repository was made.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn replace_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn location(&self) -> &str {
        self.store.name()
    }

    /// What requests its store was sent since it was opened; `None` where it is a directory.
    #[must_use]
    pub fn requests(&self) -> Option<RequestCounts> {
        self.store.requests()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub(crate) fn keys(&self) -> &IdKeys {
        self.keyring.names()
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// An encoder of frames for this repository.
    pub(crate) fn frame_encoder(&self) -> Result<FrameEncoder> {
        FrameEncoder::new(self.config.zstd_level, &self.keyring)
    }

    /// A decoder of frames of this repository.
    pub(crate) fn frame_decoder(&self) -> Result<FrameDecoder> {
        FrameDecoder::new(&self.keyring)
    }

    /// The record of a value, for this key of the store.
    pub(crate) fn encode_record(&self, kind: Kind, key: &Key, value: &impl Serialize) -> Result<Vec<u8>> {
        record::encode_value(kind, key, value, &self.keyring)
    }

    /// The value in a record that was found under this key of the store.
    pub(crate) fn decode_record<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &Key,
        bytes: &[u8],
    ) -> Result<T> {
        record::decode_value(kind, key, bytes, &self.keyring).map_err(|what| self.damaged(key.as_str(), what))
    }

    /// What the key that opened the repository may do; none where nothing is encrypted.
    #[must_use]
    pub fn access(&self) -> Option<KeyAccess> {
        self.keyring.access()
    }

    /// Whether the content of frames of a kind can be looked into with the keys that there are.
    pub(crate) fn looks_into(&self, kind: crate::frame::BlobKind) -> bool {
        match kind {
            crate::frame::BlobKind::Chunk => self.keyring.reads_chunks(),
            crate::frame::BlobKind::Node => !self.keyring.is_locked(),
        }
    }

    /// An error unless chunks can be read with the key that opened the repository.
    pub(crate) fn require_chunk_access(&self) -> Result<()> {
        if self.keyring.reads_chunks() {
            return Ok(());
        }
        Err(Error::Denied { store: self.location().to_owned(), what: "this key cannot read chunks" })
    }

    /// Whether equal content has equal names in both repositories (chunks, nodes and snapshots), so that one can tell what
    /// the other lacks.
    #[must_use]
    pub fn shares_names_with(&self, other: &Self) -> bool {
        let (own, others) = (self.config(), other.config());
        (own.chunk_bits, own.fanout_bits) == (others.chunk_bits, others.fanout_bits)
            && self.keyring.names_id() == other.keyring.names_id()
    }

    /// Whether whoever can read the frames of one repository can read those of the other, so that they can be passed on as
    /// they are stored.
    #[must_use]
    pub fn shares_cipher_with(&self, other: &Self) -> bool {
        let (own, other) = (self.keyring.cipher_id(), other.keyring.cipher_id());
        own.is_some() && own == other
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn has_ended(&self, process: &Process) -> bool {
        (self.has_ended)(process)
    }

    pub(crate) fn damaged(&self, key: &str, what: impl Into<String>) -> Error {
        Error::Damaged { store: self.location().to_owned(), key: key.to_owned(), what: what.into() }
    }

    // ---- images and snapshots

    /// The names of all images, in order.
    ///
    /// # Errors
    /// The store fails.
    pub fn images(&self) -> Result<Vec<ImageName>> {
        Ok(self.store.list(REFS)?.iter().filter_map(|entry| ImageName::from_key(&entry.key)).collect())
    }

    /// The ref of an image.
    ///
    /// # Errors
    /// There is no such image, its ref is damaged, or the store fails.
    pub fn image(&self, name: &ImageName) -> Result<ImageRef> {
        match self.read_ref(name)? {
            Some((image, _)) => Ok(image),
            None => Err(Error::NoImage { store: self.location().to_owned(), image: name.to_string() }),
        }
    }

    /// The snapshot that a reference means.
    ///
    /// # Errors
    /// There is no such image or snapshot, several match, or the store fails.
    pub fn resolve(&self, spec: &SnapshotSpec) -> Result<SnapshotEntry> {
        let image = self.image(&spec.image)?;
        spec.which.resolve(&image).cloned()
    }

    /// The groups of snapshots that are kept, oldest first. A group of which a member was forgotten has the others.
    ///
    /// # Errors
    /// A ref or session is damaged, or the store fails.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let mut groups: HashMap<String, Group> = HashMap::new();
        let mut add = |image: &ImageName, entry: SnapshotEntry| {
            let Some(id) = entry.group.clone() else { return };
            let group = groups.entry(id.clone()).or_insert_with(|| Group {
                id,
                created: entry.created,
                members: Vec::new(),
            });
            if group.members.iter().all(|(_, other)| other.id != entry.id) {
                group.members.push((image.clone(), entry));
            }
        };
        // What a dead writer published counts, though it may not be in all refs yet. Sessions before refs: see `live`.
        for session in self.sessions()? {
            if let State::Committed { snapshots } = session.record.state {
                snapshots.into_iter().for_each(|published| add(&published.image, published.entry));
            }
        }
        for name in self.images()? {
            if let Some((image, _)) = self.read_ref(&name)? {
                image.snapshots.into_iter().for_each(|entry| add(&name, entry));
            }
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        for group in &mut groups {
            group.members.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        groups.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(groups)
    }

    /// The writers that are at work, as far as their sessions tell: identity, process, what it does, since when.
    ///
    /// # Errors
    /// A session is damaged, or the store fails.
    pub fn writers(&self) -> Result<Vec<WriterInfo>> {
        let sessions = self.sessions()?.into_iter().filter(|session| session.record.state == State::Open);
        Ok(sessions
            .map(|session| WriterInfo {
                has_ended: self.has_ended(&session.record.process),
                session: session.record.id,
                process: session.record.process,
                purpose: session.record.purpose,
                created: session.record.created,
            })
            .collect())
    }

    /// Takes the right to publish from a writer; `false` when it had ended or published before.
    ///
    /// # Errors
    /// The session is damaged, or the store fails.
    pub fn revoke_writer(&self, session: &str) -> Result<bool> {
        let found = self.sessions()?.into_iter().find(|found| found.record.id == session);
        match found.filter(|found| found.record.state == State::Open) {
            Some(found) => found.revoke(self),
            None => Ok(false),
        }
    }

    /// The manifest of a snapshot, checked against its name.
    ///
    /// # Errors
    /// It is missing or damaged, or the store fails.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Snapshot> {
        let text = self.snapshot_text(id)?;
        self.parse_snapshot(id, &text)
    }

    /// The manifest with this text.
    pub(crate) fn parse_snapshot(&self, id: SnapshotId, text: &[u8]) -> Result<Snapshot> {
        let key = snapshot_key(id)?;
        let damaged = |what| self.damaged(key.as_str(), what);
        let snapshot: Snapshot = serde_json::from_slice(text)
            .map_err(|error| damaged(format!("its content cannot be read: {error}")))?;
        match snapshot.flaw() {
            Some(flaw) => Err(damaged(flaw)),
            None => Ok(snapshot),
        }
    }

    /// The bytes of a small object. One that the medium cannot give, as on a bad sector, is damaged like any other: what
    /// mends that is known by its name.
    pub(crate) fn record_bytes(&self, key: &Key) -> Result<(Vec<u8>, Version)> {
        self.store.get(key, RECORD_BYTES_MAX).map_err(|error| match error.is_bad_place() {
            true => self.damaged(key.as_str(), format!("{UNREADABLE}: {error}")),
            false => error.into(),
        })
    }

    /// The text of a manifest, which its name covers.
    pub(crate) fn snapshot_text(&self, id: SnapshotId) -> Result<Vec<u8>> {
        let key = snapshot_key(id)?;
        let (bytes, _) = self.record_bytes(&key)?;
        let damaged = |what| self.damaged(key.as_str(), what);
        let payload = record::decode(Kind::Snapshot, &key, &bytes, &self.keyring).map_err(damaged)?;
        if self.keys().snapshot(&payload) != id {
            return Err(damaged("its content does not match its name".to_owned()));
        }
        Ok(payload.to_vec())
    }

    /// Stores a manifest and returns its name. A manifest that is there already is as good.
    pub(crate) fn put_snapshot(&self, snapshot: &Snapshot) -> Result<SnapshotId> {
        let payload = serde_json::to_vec(snapshot)
            .map_err(|error| Error::Invalid(format!("the manifest cannot be written: {error}")))?;
        let id = self.keys().snapshot(&payload);
        let stored = self.put_manifest(&payload);
        if stored.is_err() {
            self.withdraw_snapshot(id);
        }
        stored
    }

    /// Stores a manifest, given as text, and returns its name. What was stored stays also when this fails.
    pub(crate) fn put_manifest(&self, text: &[u8]) -> Result<SnapshotId> {
        let id = self.keys().snapshot(text);
        let key = snapshot_key(id)?;
        put_once(self.store(), &key, &record::encode(Kind::Snapshot, &key, text, &self.keyring)?)?;
        Ok(id)
    }

    /// Deletes the manifest of a snapshot that is certain never to be published. A manifest names the session that made
    /// it, so it is nobody else's. A failure is no harm: the manifest is then left for a collection.
    pub(crate) fn withdraw_snapshot(&self, id: SnapshotId) {
        if let Ok(key) = snapshot_key(id) {
            // For good, before the session that explains it goes.
            let _ = self.store.delete(&key).and_then(|_| self.store.settle(SNAPSHOTS));
        }
    }

    /// As [`Repository::withdraw_snapshot`], for several.
    pub(crate) fn withdraw_snapshots(&self, ids: &[SnapshotId]) {
        ids.iter().for_each(|id| self.withdraw_snapshot(*id));
    }

    /// Snapshots that no ref and no session has, and whose image has no ref at all. No ref is ever deleted, so the ref
    /// was lost; or the first backup of the image has not yet published, or died before it did.
    pub(crate) fn stranded_snapshots(
        &self,
        live: &HashSet<SnapshotId>,
    ) -> Result<Vec<(SnapshotId, Snapshot)>> {
        // Manifests first: a ref that is made between the two looks is then seen.
        let manifests = self.unpublished(live)?;
        let images: HashSet<String> = self.images()?.iter().map(ToString::to_string).collect();
        Ok(manifests.into_iter().filter(|(_, snapshot)| !images.contains(&snapshot.image)).collect())
    }

    /// The sound manifests that are not among `live`.
    pub(crate) fn unpublished(&self, live: &HashSet<SnapshotId>) -> Result<Vec<(SnapshotId, Snapshot)>> {
        let mut found = Vec::new();
        for entry in self.store.list(SNAPSHOTS)? {
            let Ok(id) = entry.key.name().parse::<SnapshotId>() else { continue };
            if live.contains(&id) {
                continue;
            }
            match self.snapshot(id) {
                Ok(snapshot) => found.push((id, snapshot)),
                Err(Error::Damaged { .. }) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    pub(crate) fn read_ref(&self, name: &ImageName) -> Result<Option<(ImageRef, Version)>> {
        let key = name.key()?;
        let (bytes, version) = match self.record_bytes(&key) {
            Ok(read) => read,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some((self.decode_ref(name, &bytes)?, version)))
    }

    /// The ref of an image that an object's bytes are.
    pub(crate) fn decode_ref(&self, name: &ImageName, bytes: &[u8]) -> Result<ImageRef> {
        let key = name.key()?;
        let image: ImageRef = self.decode_record(Kind::Ref, &key, bytes)?;
        if image.image != *name || image.ref_version != 1 {
            return Err(self.damaged(
                key.as_str(),
                format!("it is the ref of {}, or of an unknown version", image.image),
            ));
        }
        Ok(image)
    }

    /// Changes an image's ref: reads it, lets `change` alter it, and replaces it if nobody else did in between, else
    /// begins again. Nothing is written when `change` answers `false`. An image without snapshots has no ref.
    pub(crate) fn change_ref(
        &self,
        name: &ImageName,
        create: bool,
        mut change: impl FnMut(&mut ImageRef) -> Result<bool>,
    ) -> Result<ImageRef> {
        let key = name.key()?;
        for _ in 0..ATTEMPTS_MAX {
            let (mut image, version) = match self.read_ref(name)? {
                Some((image, version)) => (image, Some(version)),
                None if create => (ImageRef::new(name.clone()), None),
                None => {
                    return Err(Error::NoImage {
                        store: self.location().to_owned(),
                        image: name.to_string(),
                    });
                }
            };
            if !change(&mut image)? {
                return Ok(image);
            }
            image.generation += 1;
            let bytes = self.encode_record(Kind::Ref, &key, &image)?;
            let written = match &version {
                None => self.store.put_if_absent(&key, &[&bytes]),
                Some(version) => self.store.put_if_match(&key, &bytes, version),
            };
            match written {
                Ok(()) => return Ok(image),
                // All changes see for themselves whether they are made already.
                Err(error)
                    if matches!(
                        error.kind(),
                        StoreErrorKind::Conflict | StoreErrorKind::AlreadyExists | StoreErrorKind::Uncertain
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contended { store: self.location().to_owned(), key: key.to_string() })
    }

    // ---- packs and index

    /// The packs that collections mean to delete.
    pub(crate) fn condemned_packs(&self) -> Result<HashSet<PackId>> {
        Ok(self.condemned_lists()?.into_iter().flat_map(|list| list.record.packs).collect())
    }

    /// The packs that are there, with their sizes.
    pub(crate) fn present_packs(&self) -> Result<HashMap<PackId, u64>> {
        Ok(self
            .store
            .list(PACKS)?
            .into_iter()
            .filter_map(|entry| Some((entry.key.name().parse().ok()?, entry.size)))
            .collect())
    }

    /// As [`Repository::load_index`], for readers: they do without a damaged condemned list and without damaged runs. That
    /// the entries of a run are damaged shows only when it is compared with its name, which takes reading all of it.
    pub(crate) fn load_index_to_read(&self, compare: bool) -> Result<Index> {
        let condemned = match self.condemned_packs() {
            Err(Error::Damaged { .. }) => HashSet::new(),
            other => other?,
        };
        let mut runs = self.load_runs(Damage::LeaveOut)?;
        if compare {
            runs.retain(|run| run.verify().unwrap_or(false));
        }
        let present = self.present_packs()?;
        Ok(Index::new(runs, PackStates { present, condemned }))
    }

    /// Looks at the store and opens the whole index.
    ///
    /// The order matters. A pack that is condemned after the look at the lists is one whose collection waits for the
    /// session that looks. Runs come before packs: a pack that a run speaks of and that is not there is then gone, not
    /// still to come; the other way round, a collection that copies between the two looks would hide both the old copy,
    /// which the runs do not have any more, and the new one, whose pack was not there yet.
    pub(crate) fn load_index(&self) -> Result<Index> {
        let condemned = self.condemned_packs()?;
        let runs = self.load_runs(Damage::Refuse)?;
        let present = self.present_packs()?;
        Ok(Index::new(runs, PackStates { present, condemned }))
    }

    /// Opens all runs. A run that disappears between listing and opening was merged by a collection: the listing is then
    /// repeated, but no run is opened twice.
    pub(crate) fn load_runs(&self, damage: Damage) -> Result<Vec<Arc<Run>>> {
        let mut known: HashMap<RunId, Arc<Run>> = HashMap::new();
        'listing: for _ in 0..ATTEMPTS_MAX {
            let mut runs = Vec::new();
            for entry in self.store.list(INDEX)? {
                let Ok(id) = entry.key.name().parse::<RunId>() else { continue };
                let run = match known.get(&id) {
                    Some(run) => Arc::clone(run),
                    None => {
                        let object = match self.store.open(&entry.key) {
                            Ok(object) => object,
                            Err(error) if error.kind() == StoreErrorKind::NotFound => continue 'listing,
                            Err(error) => return Err(error.into()),
                        };
                        let run = match Run::open(id, object, self.location()) {
                            Ok(run) => Arc::new(run),
                            Err(Error::Damaged { .. }) if damage == Damage::LeaveOut => continue,
                            // Where an open object does not outlive its deletion.
                            Err(error) if error.is_not_found() => continue 'listing,
                            Err(error) => return Err(error),
                        };
                        known.insert(id, Arc::clone(&run));
                        run
                    }
                };
                runs.push(run);
            }
            return Ok(runs);
        }
        Err(Error::Contended { store: self.location().to_owned(), key: INDEX.to_owned() })
    }

    /// Reads the directory of a pack and checks it against the pack's name.
    pub(crate) fn pack_directory(&self, id: PackId) -> Result<Directory> {
        let key = pack_key(id)?;
        let damaged = |what: String| self.damaged(key.as_str(), what);
        let object = self.store.open(&key)?;
        let size = object.size();
        if size < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(damaged("it is too short for a pack".to_owned()));
        }
        let (mut header, mut footer) = ([0; HEADER_BYTES], [0; FOOTER_BYTES]);
        object.read_at(&mut header, 0)?;
        object.read_at(&mut footer, size - FOOTER_BYTES as u64)?;
        let footer = pack::read_footer(&footer, size).map_err(damaged)?;
        let mut directory = vec![0; footer.directory_length as usize];
        object.read_at(&mut directory, footer.directory_offset)?;
        pack::read_directory(id, &header, footer, &directory).map_err(damaged)
    }
}

/// What becomes of a damaged run when the index is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is an error: whoever stores or deletes has to know everything.
    Refuse,
    /// The index goes without it.
    LeaveOut,
}

/// Writes an object that is named by its content; one that is there already is as good.
pub(crate) fn put_once(store: &dyn Store, key: &Key, bytes: &[u8]) -> Result<()> {
    match store.put_if_absent(key, &[bytes]) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the configuration by the word of the store; what is encrypted is authenticated later.
fn read_config(store: &dyn Store) -> Result<(Config, Vec<u8>)> {
    let bytes = match store.get(&config_key()?, RECORD_BYTES_MAX) {
        Ok((bytes, _)) => bytes,
        Err(error) if error.kind() == StoreErrorKind::NotFound => {
            return Err(Error::NoRepository { store: store.name().to_owned() });
        }
        Err(error) => return Err(error.into()),
    };
    let keyring = if record::is_authenticated(&bytes) { Keyring::locked() } else { Keyring::plain() };
    let config = decode_config(store, &bytes, &keyring)?;
    Ok((config, bytes))
}

fn decode_config(store: &dyn Store, bytes: &[u8], keyring: &Keyring) -> Result<Config> {
    let damaged = |what| Error::Damaged { store: store.name().to_owned(), key: CONFIG.to_owned(), what };
    let config: Config =
        record::decode_value(Kind::Config, &config_key()?, bytes, keyring).map_err(damaged)?;
    config.check(store.name())?;
    if config.is_encrypted() == keyring.is_plain() {
        return Err(damaged("what it says of encryption contradicts its form".to_owned()));
    }
    Ok(config)
}

fn key_of(prefix: &str, name: &str) -> Result<Key> {
    Key::under(prefix, name).ok_or_else(|| Error::Invalid(format!("{prefix}/{name} is not a key")))
}

pub(crate) fn config_key() -> Result<Key> {
    Key::new(CONFIG).ok_or_else(|| Error::Invalid("config is not a key".to_owned()))
}

pub(crate) fn pack_key(id: PackId) -> Result<Key> {
    key_of(PACKS, &id.to_string())
}

pub(crate) fn run_key(id: RunId) -> Result<Key> {
    key_of(INDEX, &id.to_string())
}

pub(crate) fn snapshot_key(id: SnapshotId) -> Result<Key> {
    key_of(SNAPSHOTS, &id.to_string())
}
