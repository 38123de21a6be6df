//! Digests that are stated for a whole object, and whether its content has them.
//!
//! Stated are the MD5 or SHA-256 that the service tells (see
//! [`StatedDigests`](leeward_remote::objects::StatedDigests)), and those that the owner wrote into the metadata `md5` and
//! `sha256`. They can be compared only where every byte of the object passes by in order: a raw image, or one that is
//! wrapped in a compression. From a qcow2, vmdk, vhd, vhdx or vdi image only tables and data are read. The answers of the
//! service are then protected by TLS and pinned to one version, and [`DigestCheck::NotChecked`] says what was not done.

use leeward_remote::objects::ObjectHead;
use md5::Md5;
use md5::digest::Digest as _;
use md5::digest::common::hazmat::{SerializableState, SerializedState};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{Error, Result};

/// A kind of digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestKind {
    /// MD5: against accidents only.
    Md5,
    /// SHA-256.
    Sha256,
}

/// What came of the digests that are stated for an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum DigestCheck {
    /// The content has them.
    Matches {
        /// Which were compared.
        kinds: Vec<DigestKind>,
    },
    /// None is stated.
    NotStated,
    /// They were not compared.
    NotChecked {
        /// Why.
        why: String,
    },
}

impl DigestCheck {
    /// That only a part of the object was read.
    pub(crate) fn of_part() -> Self {
        let why = "only the tables and the data of this format are read, and a digest is of every byte";
        Self::NotChecked { why: why.to_owned() }
    }
}

/// The digests that are stated for an object, in hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    md5: Option<String>,
    sha256: Option<String>,
}

impl Stated {
    /// Those of the service, else those of the owner.
    pub(crate) fn of(head: &ObjectHead) -> Self {
        let owner = |key: &str, digits: usize| {
            let text = head.metadata.get(key)?.trim().to_ascii_lowercase();
            (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
        };
        Self {
            md5: head.digests.md5.clone().or_else(|| owner("md5", 32)),
            sha256: owner("sha256", 64).or_else(|| head.digests.sha256.clone()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.md5.is_none() && self.sha256.is_none()
    }
}

/// How far digests were computed: a part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashState {
    /// Bytes that went in.
    bytes: u64,
    md5: Option<String>,
    sha256: Option<String>,
}

/// Computes the digests that are stated.
#[derive(Clone)]
pub(crate) struct Hasher {
    stated: Stated,
    bytes: u64,
    md5: Option<Md5>,
    sha256: Option<Sha256>,
}

impl Hasher {
    pub(crate) fn new(stated: Stated) -> Self {
        let md5 = stated.md5.is_some().then(Md5::new);
        let sha256 = stated.sha256.is_some().then(Sha256::new);
        Self { stated, bytes: 0, md5, sha256 }
    }

    /// Goes on from a state; `None` when it is not of these digests.
    pub(crate) fn resume(stated: Stated, state: &HashState) -> Option<Self> {
        let md5 = stated.md5.is_some().then(|| restore::<Md5>(state.md5.as_deref()?));
        let sha256 = stated.sha256.is_some().then(|| restore::<Sha256>(state.sha256.as_deref()?));
        let (md5, sha256) = (unless_lost(md5)?, unless_lost(sha256)?);
        Some(Self { stated, bytes: state.bytes, md5, sha256 })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn state(&self) -> HashState {
        HashState {
            bytes: self.bytes,
            md5: self.md5.as_ref().map(|md5| hex(&md5.serialize())),
            sha256: self.sha256.as_ref().map(|sha256| hex(&sha256.serialize())),
        }
    }

    /// Compares, when all bytes have gone in.
    pub(crate) fn finish(self, object: &str) -> Result<DigestCheck> {
        let mut kinds = Vec::new();
        let compare =
            |kind: &'static str, stated: Option<String>, found: Option<String>| match (stated, found) {
                (Some(stated), Some(found)) if stated != found => {
                    Err(Error::Digest { object: object.to_owned(), kind, stated, found })
                }
                (stated, found) => Ok(stated.is_some() && found.is_some()),
            };
        if compare("MD5", self.stated.md5, self.md5.map(|md5| hex(&md5.finalize())))? {
            kinds.push(DigestKind::Md5);
        }
        if compare("SHA-256", self.stated.sha256, self.sha256.map(|sha256| hex(&sha256.finalize())))? {
            kinds.push(DigestKind::Sha256);
        }
        Ok(if kinds.is_empty() { DigestCheck::NotStated } else { DigestCheck::Matches { kinds } })
    }
}

/// `None` when a wanted state could not be restored.
#[expect(clippy::option_option, reason = "not wanted, wanted and lost, wanted and there")]
fn unless_lost<T>(restored: Option<Option<T>>) -> Option<Option<T>> {
    match restored {
        None => Some(None),
        Some(None) => None,
        Some(there) => Some(there),
    }
}

fn restore<T: SerializableState>(text: &str) -> Option<T> {
    let mut state = SerializedState::<T>::default();
    let bytes = unhex(text)?;
    (bytes.len() == state.len()).then(|| state.copy_from_slice(&bytes))?;
    T::deserialize(&state).ok()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated() -> Stated {
        Stated {
            md5: Some("900150983cd24fb0d6963f7d28e17f72".into()),
            sha256: Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into()),
        }
    }

    #[test]
    fn digests_go_on_from_a_state_and_are_compared() {
        let mut hasher = Hasher::new(stated());
        hasher.update(b"ab");
        let state = hasher.state();
        let mut hasher = Hasher::resume(stated(), &state).unwrap();
        hasher.update(b"c");
        assert_eq!(hasher.bytes(), 3);
        let both = DigestCheck::Matches { kinds: vec![DigestKind::Md5, DigestKind::Sha256] };
        assert_eq!(hasher.clone().finish("o").unwrap(), both);
        hasher.update(b"d");
        assert!(hasher.finish("o").unwrap_err().to_string().contains("MD5"));
        assert!(Hasher::resume(stated(), &HashState::default()).is_none());
    }
}
