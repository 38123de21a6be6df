//! The test vectors of `tests/vectors.json`, which a program that shares no code with this one computed from
//! `docs/format.md`. A change here is a new format.

use std::sync::Arc;

use leeward_store::Key;
use serde_json::Value;

use super::agreement::Identity;
use super::bundle::KeyAccess;
use super::frames::seal_with;
use super::keyring::Keyring;
use super::secret::{Passphrase, Secret};
use super::slot::SlotRecord;
use super::unlock::Credential;
use crate::frame::{BlobKind, FrameDecoder};
use crate::id::{from_hex, to_hex};
use crate::record::{self, Kind};

struct Vectors(Value);

impl Vectors {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../../../tests/vectors.json")).unwrap())
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("no vector {name}"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let pairs = self.text(name).as_bytes().chunks(2);
        pairs.map(|pair| from_hex::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0]).collect()
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        from_hex(self.text(name)).unwrap()
    }

    fn keyring(&self) -> Keyring {
        Keyring::of_root(self.array("root"))
    }

    fn slots(&self) -> Vec<SlotRecord> {
        serde_json::from_value(self.0["slots"].clone()).unwrap()
    }

    fn credentials(&self) -> [Credential; 2] {
        let recipient = Identity::from_private(Secret::new(self.array("recipient_private"))).unwrap();
        [
            Credential::Passphrase(Passphrase::new(self.text("passphrase")).unwrap()),
            Credential::Identity(recipient),
        ]
    }
}

#[test]
fn derived_secrets_and_names_are_those_of_the_document() {
    let vectors = Vectors::read();
    let (keyring, content) = (vectors.keyring(), vectors.bytes("content"));
    assert_eq!(keyring.names().chunk(&content).to_string(), vectors.text("chunk_name"));
    assert_eq!(keyring.names().node(&content).to_string(), vectors.text("node_name"));
    assert_eq!(keyring.names().snapshot(&content).to_string(), vectors.text("snapshot_name"));
    assert_eq!(keyring.fingerprint().to_string(), vectors.text("fingerprint"));
    let root = vectors.array::<32>("root");
    let derived = |context| to_hex(Secret::derive(context, &[&root]).expose());
    assert_eq!(derived(super::bundle::context::METADATA), vectors.text("metadata_secret"));
    assert_eq!(derived(super::bundle::context::CONTENT), vectors.text("content_private"));
    let content = Identity::from_private(Secret::new(vectors.array("content_private"))).unwrap();
    assert_eq!(to_hex(&content.public().0), vectors.text("content_public"));
}

#[test]
fn frames_are_those_of_the_document() {
    let vectors = Vectors::read();
    let keyring = Arc::new(vectors.keyring());
    let frames = keyring.frames().unwrap();
    let passing = Identity::from_private(Secret::new(vectors.array("passing_private"))).unwrap();
    let content = vectors.bytes("content");
    for (kind, name, salt, key) in [
        (BlobKind::Chunk, "chunk_frame", passing.public().0, frames.passing_key(&passing).unwrap()),
        (
            BlobKind::Node,
            "node_frame",
            vectors.array("salt"),
            frames.node_key(&vectors.array("salt")).unwrap(),
        ),
    ] {
        let expected = vectors.bytes(name);
        let mut opened = Vec::new();
        FrameDecoder::new(&keyring).unwrap().decode(kind, &expected, &mut opened).unwrap();
        assert_eq!(opened, content, "{name}");
        let mut payload = vec![0; 44];
        payload.extend_from_slice(&content);
        payload.extend_from_slice(&[0; 16]);
        seal_with(&key, salt, vectors.array("nonce"), &expected[..16], &mut payload).unwrap();
        assert_eq!(payload, expected[16..], "{name}");
    }
}

#[test]
fn records_are_those_of_the_document() {
    let vectors = Vectors::read();
    let (keyring, text) = (vectors.keyring(), vectors.bytes("record_text"));
    for (kind, key, name, salt) in [
        (Kind::Snapshot, "snapshots/a", "manifest_record", vectors.array("record_salt")),
        (Kind::Ref, "refs/a", "ref_record", [0; 24]),
    ] {
        let key = Key::new(key).unwrap();
        let encoded = record::encode_with(kind, &key, &text, &keyring, salt).unwrap();
        assert_eq!(to_hex(&encoded), vectors.text(name));
        assert_eq!(*record::decode(kind, &key, &encoded, &keyring).unwrap(), text);
    }
}

#[test]
fn wrapped_keys_open_and_are_those_of_the_document() {
    let vectors = Vectors::read();
    for (number, (slot, credential)) in vectors.slots().iter().zip(vectors.credentials()).enumerate() {
        assert!(slot.flaw().is_none());
        let opened = slot.unwrap(&credential).unwrap().keyring().unwrap();
        assert_eq!(opened.fingerprint(), vectors.keyring().fingerprint());
        let access = [KeyAccess::Full, KeyAccess::WriteOnly][number];
        assert_eq!(opened.access(), Some(access));
        let bundle = vectors.keyring().bundle(access).unwrap();
        let key = slot.wrapping_key(&credential).unwrap();
        let again = slot.clone().with_wrapped(&key, vectors.array("nonce"), &bundle).unwrap();
        assert_eq!(again, *slot);
    }
    let [_, Credential::Identity(recipient)] = vectors.credentials() else { panic!("no identity") };
    assert_eq!(recipient.public().to_string(), vectors.text("public_text"));
    assert_eq!(recipient.to_secret_text().as_str(), vectors.text("secret_text"));
}

#[test]
fn every_flipped_bit_of_what_is_wrapped_or_bound_is_noticed() {
    let vectors = Vectors::read();
    for (slot, credential) in vectors.slots().iter().zip(vectors.credentials()) {
        for bit in 0..slot.wrapped.len() * 4 {
            let mut bad = slot.clone();
            let mut digits = bad.wrapped.into_bytes();
            let value = char::from(digits[bit / 4]).to_digit(16).unwrap() ^ 1 << (bit % 4);
            digits[bit / 4] = char::from_digit(value, 16).unwrap() as u8;
            bad.wrapped = String::from_utf8(digits).unwrap();
            assert!(bad.unwrap(&credential).is_none(), "bit {bit}");
        }
        let other = "0c".repeat(16);
        let mut moved = slot.clone();
        moved.id.clone_from(&other);
        assert!(moved.unwrap(&credential).is_none(), "another place");
        let mut foreign = slot.clone();
        foreign.repository_id = other;
        assert!(foreign.unwrap(&credential).is_none(), "another repository");
        let mut raised = slot.clone();
        raised.access = match slot.access {
            KeyAccess::Full => KeyAccess::WriteOnly,
            KeyAccess::WriteOnly => KeyAccess::Full,
        };
        assert!(raised.unwrap(&credential).is_none(), "another kind");
        for text in ["", "00", "zz", "é", "0"] {
            assert!(SlotRecord { wrapped: text.to_owned(), ..slot.clone() }.unwrap(&credential).is_none());
        }
    }
}

#[test]
fn every_flipped_bit_of_a_sealed_frame_is_noticed() {
    let vectors = Vectors::read();
    let keyring = Arc::new(vectors.keyring());
    let mut decoder = FrameDecoder::new(&keyring).unwrap();
    let mut content = Vec::new();
    for (kind, other, name) in
        [(BlobKind::Chunk, BlobKind::Node, "chunk_frame"), (BlobKind::Node, BlobKind::Chunk, "node_frame")]
    {
        let good = vectors.bytes(name);
        decoder.decode(kind, &good, &mut content).unwrap();
        assert!(
            !good.windows(8).any(|window| content.windows(8).any(|part| part == window)),
            "it is readable"
        );
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decoder.decode(kind, &bad, &mut content).is_err(), "bit {bit}");
            let blocks = decoder.decode_blocks(kind, &bad, 8, usize::MAX, |_, _| {});
            assert!(blocks.is_err(), "bit {bit}, in blocks");
        }
        for length in 0..good.len() {
            assert!(decoder.decode(kind, &good[..length], &mut content).is_err(), "length {length}");
        }
        // A frame of one kind is none of the other, even if it says so.
        let mut swapped = good.clone();
        (swapped[5], swapped[6]) = (other as u8, other as u8);
        assert!(decoder.decode(other, &swapped, &mut content).is_err());
        let mut plain = FrameDecoder::new(&Arc::new(Keyring::plain())).unwrap();
        assert!(plain.decode(kind, &good, &mut content).is_err(), "as if not encrypted");
    }
}
