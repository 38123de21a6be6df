//! How frames are sealed: chunks so that only the holder of the private content key reads them, nodes so that whoever has
//! the metadata secret does.
//!
//! A sealed payload is
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..32 | chunks: public key of the writer's passing key pair; nodes: random salt |
//! | 32..44 | nonce |
//! | 44.. | ciphertext of AES-256-GCM |
//! | last 16 | tag; the frame's header of 16 bytes is authentic as well |
//!
//! A writer makes a key pair, agrees once on a key with the content's public key, and counts; so agreeing costs nothing per
//! frame, and a writer that cannot read what others wrote cannot read what it wrote itself, once it has ended. The nonce is
//! the count (4 bytes) and 8 random bytes: the count alone would do, were it not for machines that are put back to a
//! snapshot of their memory and then count the same frames twice.

use std::sync::{Arc, Mutex};

use super::aead::{Aead, NONCE_BYTES, TAG_BYTES};
use super::agreement::{Identity, PUBLIC_BYTES, PublicKey};
use super::secret::{Secret, fill_random};
use crate::blobs::Recent;
use crate::frame::BlobKind;
use crate::writer::lock;
use crate::{Error, Result};

/// The contexts in which keys of frames are derived. These strings are part of the format.
pub(crate) mod context {
    pub(crate) const CHUNKS: &str = "leeward v1 chunk frame key";
    pub(crate) const NODES: &str = "leeward v1 node frame key";
}

/// Number of the cipher of chunk frames.
pub(crate) const CIPHER_CHUNKS: u8 = 1;
/// Number of the cipher of node frames.
pub(crate) const CIPHER_NODES: u8 = 2;

/// Bytes of a payload before the ciphertext.
pub(crate) const FRAME_PREFIX_BYTES: usize = PUBLIC_BYTES + NONCE_BYTES;
/// Bytes of a payload after the ciphertext.
pub(crate) const FRAME_TAG_BYTES: usize = TAG_BYTES;
/// Writers whose agreed keys a reader remembers, at most.
const AGREED_MAX: usize = 1024;

/// The keys of frames.
pub(crate) struct FrameKeys {
    metadata: Secret,
    content: PublicKey,
    /// None for a holder who may only write.
    private: Option<Identity>,
    writer: Mutex<Option<Passing>>,
    agreed: Mutex<Recent<[u8; PUBLIC_BYTES], Arc<Aead>>>,
}

/// The key pair of a writer, for as long as it runs: its private half is dropped as soon as the key is agreed.
struct Passing {
    public: PublicKey,
    key: Arc<Aead>,
    /// Frames that it sealed; the next one's count.
    count: u32,
}

impl FrameKeys {
    pub(super) fn new(metadata: Secret, content: PublicKey, private: Option<Identity>) -> Self {
        let agreed = Mutex::new(Recent::new(AGREED_MAX));
        Self { metadata, content, private, writer: Mutex::new(None), agreed }
    }

    /// The highest number of a cipher that is known.
    pub(crate) const CIPHER_MAX: u8 = CIPHER_NODES;

    /// Number of the cipher of frames of a kind.
    pub(crate) fn cipher(kind: BlobKind) -> u8 {
        match kind {
            BlobKind::Chunk => CIPHER_CHUNKS,
            BlobKind::Node => CIPHER_NODES,
        }
    }

    /// Seals a payload: `payload` has room for prefix and tag around the content, which is encrypted where it is.
    pub(crate) fn seal(&self, kind: BlobKind, header: &[u8], payload: &mut [u8]) -> Result<()> {
        let (salt, nonce, key) = match kind {
            BlobKind::Chunk => self.next_for_chunks()?,
            BlobKind::Node => self.fresh_for_nodes()?,
        };
        seal_with(&key, salt, nonce, header, payload)
    }

    /// Opens a payload into `plain`, or says what is wrong with it.
    pub(crate) fn open(
        &self,
        kind: BlobKind,
        header: &[u8],
        payload: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        let too_short = "the frame is too short to be encrypted";
        let (salt, rest) = payload.split_first_chunk::<PUBLIC_BYTES>().ok_or(too_short)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(too_short)?;
        let key = match kind {
            BlobKind::Chunk => self.agreed(*salt)?,
            BlobKind::Node => Arc::new(self.node_key(salt).map_err(|error| error.to_string())?),
        };
        key.open(*nonce, header, sealed, plain).ok_or_else(|| {
            "the frame does not decrypt: it was altered, moved, or sealed for other keys".to_owned()
        })
    }

    fn next_for_chunks(&self) -> Result<([u8; PUBLIC_BYTES], [u8; NONCE_BYTES], Arc<Aead>)> {
        let mut nonce = [0; NONCE_BYTES];
        fill_random(&mut nonce[4..])?;
        let mut writer = lock(&self.writer);
        let passing = match writer.take().filter(|passing| passing.count < u32::MAX) {
            Some(passing) => passing,
            None => self.passing(&Identity::generate()?)?,
        };
        nonce[..4].copy_from_slice(&passing.count.to_le_bytes());
        let (public, key) = (passing.public.0, Arc::clone(&passing.key));
        *writer = Some(Passing { count: passing.count + 1, ..passing });
        Ok((public, nonce, key))
    }

    pub(super) fn passing_key(&self, identity: &Identity) -> Result<Aead> {
        let shared = identity.agree(self.content).ok_or_else(|| {
            Error::Invalid("the repository's content key is no sound public key".to_owned())
        })?;
        Aead::new(&chunk_key(&shared, identity.public().0, self.content))
    }

    fn passing(&self, identity: &Identity) -> Result<Passing> {
        let key = Arc::new(self.passing_key(identity)?);
        Ok(Passing { public: identity.public(), key, count: 0 })
    }

    fn fresh_for_nodes(&self) -> Result<([u8; PUBLIC_BYTES], [u8; NONCE_BYTES], Arc<Aead>)> {
        let (mut salt, mut nonce) = ([0; PUBLIC_BYTES], [0; NONCE_BYTES]);
        fill_random(&mut salt)?;
        fill_random(&mut nonce)?;
        Ok((salt, nonce, Arc::new(self.node_key(&salt)?)))
    }

    pub(super) fn node_key(&self, salt: &[u8; PUBLIC_BYTES]) -> Result<Aead> {
        Aead::new(&Secret::derive(context::NODES, &[self.metadata.expose(), salt]))
    }

    /// The key that a writer agreed on with the content key.
    fn agreed(&self, public: [u8; PUBLIC_BYTES]) -> Result<Arc<Aead>, String> {
        if let Some(key) = lock(&self.agreed).get(&public) {
            return Ok(key);
        }
        let private = self.private.as_ref().ok_or("this key cannot read chunks")?;
        let shared = private.agree(PublicKey(public)).ok_or("the frame's public key is not sound")?;
        let key = chunk_key(&shared, public, self.content);
        let key = Arc::new(Aead::new(&key).map_err(|error| error.to_string())?);
        lock(&self.agreed).put(public, Arc::clone(&key));
        Ok(key)
    }
}

fn chunk_key(shared: &Secret, passing: [u8; PUBLIC_BYTES], content: PublicKey) -> Secret {
    Secret::derive(context::CHUNKS, &[shared.expose(), &passing, &content.0])
}

pub(super) fn seal_with(
    key: &Aead,
    salt: [u8; PUBLIC_BYTES],
    nonce: [u8; NONCE_BYTES],
    header: &[u8],
    payload: &mut [u8],
) -> Result<()> {
    let no_room = || Error::Invalid("there is no room to seal a frame".to_owned());
    let (prefix, rest) = payload.split_at_mut_checked(FRAME_PREFIX_BYTES).ok_or_else(no_room)?;
    let (content, tag) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or_else(no_room)?;
    prefix[..PUBLIC_BYTES].copy_from_slice(&salt);
    prefix[PUBLIC_BYTES..].copy_from_slice(&nonce);
    *tag = key.seal(nonce, header, content)?;
    Ok(())
}
