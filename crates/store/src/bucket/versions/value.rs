//! The bytes of a value: a header with the operations that made the last versions, then the object's content.

/// What a header begins with.
const MAGIC: &[u8; 8] = b"LEEWARDV";
/// Size of a header in bytes.
pub(super) const HEADER_BYTES: usize = 512;
/// How many operations a header names.
const OPERATIONS: usize = (HEADER_BYTES - MAGIC.len()) / 8;

/// The operations that made a version and those before it, latest first. Whoever comes late, and finds that others have
/// gone on and removed the version that it proposed, learns here what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History(Vec<u64>);

impl History {
    /// The history of a first version.
    pub(super) fn first(operation: u64) -> Self {
        Self(vec![operation])
    }

    /// The history of the version after.
    pub(super) fn then(&self, operation: u64) -> Self {
        let mut operations = vec![operation];
        operations.extend_from_slice(&self.0[..self.0.len().min(OPERATIONS - 1)]);
        Self(operations)
    }

    /// Which operation made the version so many versions before; `None` when that is too long ago.
    pub(super) fn made_before(&self, versions: u32) -> Option<u64> {
        self.0.get(usize::try_from(versions).ok()?).copied()
    }

    /// The bytes of a value.
    pub(super) fn encode(&self, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
        bytes.extend_from_slice(MAGIC);
        for operation in &self.0 {
            bytes.extend_from_slice(&operation.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(content);
        bytes
    }

    /// Takes the bytes of a value apart; `None` when they are not one.
    pub(super) fn decode(mut bytes: Vec<u8>) -> Option<(Self, Vec<u8>)> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return None;
        }
        let content = bytes.split_off(HEADER_BYTES);
        let numbers = bytes[MAGIC.len()..].chunks_exact(8);
        let operations =
            numbers.map(|number| number.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)));
        Some((Self(operations.take_while(|operation| *operation != 0).collect()), content))
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER_BYTES, History, OPERATIONS};

    #[test]
    fn a_history_tells_who_made_which_version_and_forgets_the_oldest() {
        let mut history = History::first(1);
        for operation in 2..=100 {
            history = history.then(operation);
        }
        let (found, content) = History::decode(history.encode(b"content")).unwrap();
        assert_eq!((&found, content.as_slice()), (&history, b"content".as_slice()));
        assert_eq!(found.made_before(0), Some(100));
        assert_eq!(found.made_before(62), Some(38));
        assert_eq!(found.made_before(OPERATIONS as u32), None);
    }

    #[test]
    fn bytes_that_are_no_value_are_refused() {
        assert_eq!(History::decode(vec![0; HEADER_BYTES]), None);
        assert_eq!(History::decode(b"LEEWARDV".to_vec()), None);
    }
}
