//! A sound repository, and objects of it made anew as `docs/format.md` describes them, so that digests and names fit whatever
//! is in them.

use std::path::Path;
use std::sync::Arc;

use leeward_repository::{
    Identity, InitOptions, KeyAccess, NewKey, PREFIXES, Passphrase, PassphraseCost, Recipient, Repository,
};
use leeward_store::simulation::{Random, SimulatedFileSystem};
use leeward_store::{DirectoryStore, Key, SharedStore};
use serde_json::{Value, json};

use crate::common::{CHUNK_BYTES, ROOT, backup, content};

const RECORD_HEADER: usize = 40;
const PROOF: usize = 32;
const DIGEST: usize = 32;
const OBJECT_BYTES_MAX: u64 = 64 << 20;
/// So little that trying takes no time.
const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };

/// The record of a kind with this text, in a repository that is not encrypted.
pub fn record(kind: u8, text: &[u8]) -> Vec<u8> {
    sealed_record(kind, 0, text)
}

/// The same where records are authenticated, with a proof that proves nothing.
pub fn authenticated(kind: u8, text: &[u8]) -> Vec<u8> {
    sealed_record(kind, 3, &[text, &[0; PROOF]].concat())
}

fn sealed_record(kind: u8, cipher: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"LEEWARDR\x01\x00".to_vec();
    bytes.extend_from_slice(&[kind, cipher]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.resize(RECORD_HEADER, 0);
    bytes.extend_from_slice(payload);
    let digest = blake3::derive_key("leeward v1 stored record", &bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

/// The text of a sound record.
pub fn text_of(record: &[u8]) -> Vec<u8> {
    let proof = if record[11] == 3 { PROOF } else { 0 };
    record[RECORD_HEADER..record.len() - DIGEST - proof].to_vec()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of content in a repository that is not encrypted.
fn name_of(context: &str, content: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&blake3::derive_key(context, &[0; 32]), content).as_bytes()
}

fn stored_name(context: &str, bytes: &[u8]) -> String {
    hex(&blake3::derive_key(context, bytes))
}

fn key(prefix: &str, name: &str) -> Key {
    Key::under(prefix, name).unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
}

/// A repository with two snapshots, a session and a condemned list, as the objects that it is made of.
pub struct Sound {
    pub objects: Vec<(Key, Vec<u8>)>,
    /// Who may open it, where it is encrypted.
    pub identity: Option<Identity>,
    /// A node of its tree.
    pub node: Vec<u8>,
}

impl Sound {
    pub fn new() -> Self {
        let store = empty();
        let repository = Repository::init(Arc::clone(&store), &options(Vec::new())).unwrap();
        for seed in 0..2 {
            backup(&repository, "a", &content(&mut Random::new(seed), 30 * CHUNK_BYTES)).unwrap();
        }
        let mut sound = Self { objects: objects(&store), identity: None, node: Vec::new() };
        sound.node = sound.first_node();
        let (id, pack) = ("5e".repeat(16), sound.find("packs/").0.name().to_owned());
        let snapshot = sound.find("snapshots/").0.name().to_owned();
        let entry: Value =
            serde_json::from_slice::<Value>(&text_of(&sound.find("refs/").1)).unwrap()["snapshots"][0]
                .clone();
        let session = json!({
            "session_version": 1, "id": id, "purpose": "backup of a", "created": "2026-03-01T00:00:00Z",
            "process": {"host": "elsewhere", "boot": "first", "pid": 7, "started": 1},
            "state": {"committed": {"snapshots": [{"image": "a", "entry": entry}]}},
            "copies": [snapshot], "deletes": false,
        });
        let list = json!({
            "condemned_version": 1, "id": id, "created": "2026-03-01T00:00:00Z",
            "packs": [pack], "snapshots": [snapshot], "waits_for": [id], "decided": false,
        });
        sound.objects.push((key("sessions", &id), record(4, session.to_string().as_bytes())));
        sound.objects.push((key("condemned", &id), record(5, list.to_string().as_bytes())));
        sound
    }

    /// An encrypted one, with a wrapped key for an identity and one for a passphrase.
    pub fn encrypted() -> Self {
        let (store, identity) = (empty(), Identity::generate().unwrap());
        let new =
            |name: &str, recipient| NewKey { name: name.to_owned(), access: KeyAccess::Full, recipient };
        let passphrase = Passphrase::new("a passphrase").unwrap();
        let keys = vec![
            new("owner", Recipient::PublicKey(identity.public())),
            new("people", Recipient::Passphrase(passphrase, CHEAP)),
        ];
        Repository::init(Arc::clone(&store), &options(keys)).unwrap();
        Self { objects: objects(&store), identity: Some(identity), node: Vec::new() }
    }

    fn find(&self, prefix: &str) -> (Key, Vec<u8>) {
        self.objects.iter().find(|(key, _)| key.as_str().starts_with(prefix)).unwrap().clone()
    }

    /// A store with these objects, of which one is another.
    pub fn store_with(&self, changed: &Key, bytes: &[u8]) -> SharedStore {
        self.store(|key| key != changed, &[(changed.clone(), bytes.to_vec())])
    }

    fn store(&self, keep: impl Fn(&Key) -> bool, added: &[(Key, Vec<u8>)]) -> SharedStore {
        let store = empty();
        let kept = self.objects.iter().filter(|(key, _)| keep(key));
        for (key, bytes) in kept.chain(added) {
            // What is added may be named like something that is there.
            let _ = store.put_if_absent(key, &[bytes]);
        }
        store
    }

    /// The text of the manifest of the last snapshot.
    pub fn manifest(&self) -> Vec<u8> {
        let image: Value = serde_json::from_slice(&text_of(&self.find("refs/").1)).unwrap();
        let id = image["snapshots"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap();
        text_of(&self.find(&format!("snapshots/{id}")).1)
    }

    /// The repository with another manifest for its last snapshot.
    pub fn with_manifest(&self, text: &[u8]) -> SharedStore {
        let (place, added) = self.manifest_objects(text);
        self.store(|key| *key != place, &added)
    }

    /// The key of the ref, and ref and manifest as they are with this manifest.
    fn manifest_objects(&self, text: &[u8]) -> (Key, Vec<(Key, Vec<u8>)>) {
        let id = hex(&name_of("leeward v1 snapshot id key", text));
        let (place, image) = self.find("refs/");
        let mut image: Value = serde_json::from_slice(&text_of(&image)).unwrap();
        *image["snapshots"].as_array_mut().unwrap().last_mut().unwrap().get_mut("id").unwrap() = json!(id);
        let image = record(3, image.to_string().as_bytes());
        (place.clone(), vec![(place, image), (key("snapshots", &id), record(2, text))])
    }

    /// The first node of the pack of nodes. It is stored as it is: names cannot be compressed.
    fn first_node(&self) -> Vec<u8> {
        let is_nodes = |bytes: &[u8]| bytes[10] == 2;
        let (_, pack) = self
            .objects
            .iter()
            .find(|(key, bytes)| key.as_str().starts_with("packs/") && is_nodes(bytes))
            .unwrap();
        pack[64 + 16..64 + 16 + number(pack, 64 + 8)].to_vec()
    }

    /// The repository with a snapshot whose root is this node, in a pack of its own.
    pub fn with_node(&self, node: &[u8]) -> SharedStore {
        let name = name_of("leeward v1 tree node id key", node);
        let mut frame = b"LWFR\x00\x00\x02\x00".to_vec();
        frame.extend_from_slice(&(node.len() as u32).to_le_bytes());
        frame.extend_from_slice(&(node.len() as u32).to_le_bytes());
        frame.extend_from_slice(node);
        let mut pack = b"LEEWARDP\x01\x00\x02\x00\x0e".to_vec();
        pack.resize(64, 0);
        pack.extend_from_slice(&frame);
        pack.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        pack.extend_from_slice(&1_u32.to_le_bytes());
        pack.extend_from_slice(&blake3::derive_key("leeward v1 stored frame", &frame));
        pack.extend_from_slice(&name);
        pack.extend_from_slice(b"LEEWARDD");
        pack.extend_from_slice(&(64 + frame.len() as u64).to_le_bytes());
        pack.extend_from_slice(&72_u32.to_le_bytes());
        pack.extend_from_slice(&1_u32.to_le_bytes());
        pack.resize(pack.len() + 40, 0);
        let mut manifest: Value = serde_json::from_slice(&self.manifest()).unwrap();
        let level = node.get(1).copied().unwrap_or_default().min(6);
        manifest["root"] = json!(hex(&name));
        manifest["root_level"] = json!(level);
        // The largest disk with a root of this level, so that the tree is walked as the node says.
        manifest["virtual_size"] = json!(1_u64 << (14 + 7 * (u32::from(level) + 1)));
        let (place, mut added) = self.manifest_objects(manifest.to_string().as_bytes());
        added.push(named_pack(pack));
        self.store(|key| *key != place, &added)
    }

    /// The repository with a pack that was changed; no run speaks of what is in it.
    pub fn with_pack(&self, change: impl FnOnce(&[u8]) -> Vec<u8>) -> SharedStore {
        let (old, bytes) = self.find("packs/");
        let mut bytes = change(&bytes);
        refresh_frames(&mut bytes);
        let keep = |key: &Key| *key != old && !key.as_str().starts_with("index/");
        self.store(keep, &[named_pack(bytes)])
    }

    /// The repository with a run that was changed.
    pub fn with_run(&self, change: impl FnOnce(&[u8]) -> Vec<u8>) -> SharedStore {
        let (old, bytes) = self.find("index/");
        let mut bytes = change(&bytes);
        let table = number(&bytes, 24).saturating_mul(32);
        let table = table + number(&bytes, 28).saturating_add(1).saturating_mul(4);
        let end = table.saturating_add(number(&bytes, 16).saturating_mul(2)).saturating_add(64);
        if let Some(table) = bytes.get(64..end) {
            let digest = blake3::derive_key("leeward v1 index run", table);
            bytes[32..64].copy_from_slice(&digest);
        }
        let name = stored_name("leeward v1 index run", &bytes);
        self.store(|key| *key != old, &[(key("index", &name), bytes)])
    }
}

/// A pack under the name that its header and directory give it.
fn named_pack(mut bytes: Vec<u8>) -> (Key, Vec<u8>) {
    let end = bytes.len().saturating_sub(64);
    let offset = number(&bytes, end + 8);
    let mut covered = bytes.get(..64).unwrap_or_default().to_vec();
    covered.extend_from_slice(bytes.get(offset..end).unwrap_or_default());
    let name = blake3::derive_key("leeward v1 pack header and directory", &covered);
    if let Some(place) = bytes.last_chunk_mut::<32>() {
        *place = name;
    }
    (key("packs", &hex(&name)), bytes)
}

/// Makes the digests of a pack's frames fit, as far as its directory can be followed.
fn refresh_frames(bytes: &mut [u8]) {
    let end = bytes.len().saturating_sub(64);
    let (mut at, mut frame) = (number(bytes, end + 8), 64_usize);
    while at + 40 <= end {
        let (length, blobs) = (number(bytes, at), number(bytes, at + 4));
        let Some(stored) = bytes.get(frame..frame.saturating_add(length)) else { return };
        let digest = blake3::derive_key("leeward v1 stored frame", stored);
        bytes[at + 8..at + 40].copy_from_slice(&digest);
        frame += length;
        at = at.saturating_add(40).saturating_add(blobs.saturating_mul(32));
    }
}

fn options(keys: Vec<NewKey>) -> InitOptions {
    InitOptions { chunk_bytes: CHUNK_BYTES as u64, pack_bytes: 1 << 20, zstd_level: 1, keys }
}

fn empty() -> SharedStore {
    let files = Arc::new(SimulatedFileSystem::new());
    Arc::new(DirectoryStore::create_on(files, Path::new(ROOT), &PREFIXES).unwrap())
}

/// All objects of a store.
fn objects(store: &SharedStore) -> Vec<(Key, Vec<u8>)> {
    let mut keys = vec![Key::new("config").unwrap()];
    for prefix in PREFIXES {
        keys.extend(store.list(prefix).unwrap().into_iter().map(|entry| entry.key));
    }
    keys.into_iter().map(|key| (key.clone(), store.get(&key, OBJECT_BYTES_MAX).unwrap().0)).collect()
}
