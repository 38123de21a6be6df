//! Whether the blobs of a pack are what its directory calls them, where no key is needed to tell.

use std::sync::Arc;

use crate::frame::{BlobKind, FrameDecoder};
use crate::id::IdKeys;
use crate::keys::Keyring;
use crate::pack;
use crate::tree::Node;

/// Byte of a pack's header that has the size of its chunks, as a power of two.
const CHUNK_BITS_AT: usize = 12;
/// Byte of a frame's header that names its cipher.
const CIPHER_AT: usize = 5;

/// Compares every blob of a pack with its name in the directory. `false` for a pack with encrypted frames, whose names
/// only holders of the keys can compare. The stored digests are not looked at: see [`super::inspect`].
///
/// # Errors
/// What is wrong with the pack.
pub fn verify_names(name: &str, bytes: &[u8]) -> Result<bool, String> {
    let directory = pack::parse(name.parse()?, bytes)?;
    let keys = IdKeys::new(&[0; 32]);
    let mut decoder = FrameDecoder::new(&Arc::new(Keyring::plain())).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    for entry in &directory.frames {
        let flaw = |what: String| format!("the frame at byte {}: {what}", entry.offset);
        let start = entry.offset as usize;
        let frame = start.checked_add(entry.length as usize).and_then(|end| bytes.get(start..end));
        let frame = frame.ok_or_else(|| flaw("it lies outside the pack".to_owned()))?;
        if frame.get(CIPHER_AT).is_some_and(|cipher| *cipher != 0) {
            return Ok(false);
        }
        decoder.decode(directory.kind, frame, &mut content).map_err(flaw)?;
        let mut rest = content.as_slice();
        for id in &entry.blobs {
            let length = match directory.kind {
                BlobKind::Chunk => 1_usize.checked_shl(bytes[CHUNK_BITS_AT].into()).unwrap_or(usize::MAX),
                BlobKind::Node => Node::decode(rest).map_err(flaw)?.1,
            };
            let (blob, after) =
                rest.split_at_checked(length).ok_or_else(|| flaw("it ends within a blob".to_owned()))?;
            let found = match directory.kind {
                BlobKind::Chunk => keys.chunk(blob),
                BlobKind::Node => keys.node(blob),
            };
            if found != *id {
                return Err(flaw(format!("{} {id} does not match its name", directory.kind.name())));
            }
            rest = after;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, InitOptions};
    use crate::frame::FrameEncoder;
    use crate::id::BlobId;
    use crate::pack::PackBuilder;

    fn pack(content: &[u8], ids: Vec<BlobId>) -> (String, Vec<u8>) {
        let config = Config::new(&InitOptions::default(), String::new()).unwrap();
        let mut encoder = FrameEncoder::new(1, &Arc::new(Keyring::plain())).unwrap();
        let mut builder = PackBuilder::new(BlobKind::Chunk, &config).unwrap();
        builder.push(&encoder.encode(BlobKind::Chunk, content).unwrap(), ids);
        let sealed = builder.seal();
        (sealed.id.to_string(), sealed.bytes)
    }

    #[test]
    fn a_pack_that_calls_chunks_by_names_of_others_is_refused() {
        let chunk_bytes = InitOptions::default().chunk_bytes as usize;
        let content: Vec<u8> = (0..2 * chunk_bytes).map(|at| (at / 7) as u8).collect();
        let keys = IdKeys::new(&[0; 32]);
        let ids: Vec<BlobId> = content.chunks(chunk_bytes).map(|chunk| keys.chunk(chunk)).collect();
        let (name, bytes) = pack(&content, ids.clone());
        assert_eq!(verify_names(&name, &bytes), Ok(true));
        for lie in [vec![ids[1], ids[0]], vec![ids[0], BlobId([7; 32])], [&ids[..], &ids[..1]].concat()] {
            // Its stored digests are in order, so what needs no names accepts it.
            let (name, bytes) = pack(&content, lie);
            super::super::verify_object(&format!("packs/{name}"), &bytes).unwrap();
            verify_names(&name, &bytes).unwrap_err();
        }
    }
}
