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

/// Compares every blob of a pack with its name in the directory, where no key is needed for that. Of a repository that is
/// encrypted only holders of the keys can compare the names of frames that are, so these are passed over, each by itself; in one
/// that is not, such a frame is refused: nobody could read it. The stored digests are not looked at: see [`super::inspect`].
///
/// # Errors
/// What is wrong with the pack.
pub fn verify_names(name: &str, bytes: &[u8], is_encrypted: bool) -> Result<(), String> {
    let directory = pack::parse(name.parse()?, bytes)?;
    let keys = IdKeys::new(&[0; 32]);
    let mut decoder = FrameDecoder::new(&Arc::new(Keyring::plain())).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    for entry in &directory.frames {
        let flaw = |what: String| format!("the frame at byte {}: {what}", entry.offset);
        let start = entry.offset as usize;
        let frame = start.checked_add(entry.length as usize).and_then(|end| bytes.get(start..end));
        let frame = frame.ok_or_else(|| flaw("it lies outside the pack".to_owned()))?;
        match frame.get(CIPHER_AT) {
            Some(0) => {}
            Some(_) if is_encrypted => continue,
            _ => return Err(flaw("it is encrypted, and the repository is not".to_owned())),
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
    Ok(())
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
        assert_eq!(verify_names(&name, &bytes, false), Ok(()));
        for lie in [vec![ids[1], ids[0]], vec![ids[0], BlobId([7; 32])], [&ids[..], &ids[..1]].concat()] {
            // Its stored digests are in order, so what needs no names accepts it.
            let (name, bytes) = pack(&content, lie);
            super::super::verify_object(&format!("packs/{name}"), &bytes).unwrap();
            verify_names(&name, &bytes, false).unwrap_err();
        }
    }

    #[test]
    fn one_frame_that_is_encrypted_hides_no_other() {
        let chunk_bytes = InitOptions::default().chunk_bytes as usize;
        let content = vec![7; chunk_bytes];
        let config = Config::new(&InitOptions::default(), String::new()).unwrap();
        let packed = |lie: bool| {
            let mut plain = FrameEncoder::new(1, &Arc::new(Keyring::plain())).unwrap();
            let mut builder = PackBuilder::new(BlobKind::Chunk, &config).unwrap();
            // As far as anybody without keys can see, it is encrypted.
            let sealed = plain.encode(BlobKind::Chunk, b"sealed").unwrap();
            let mut hidden = sealed.bytes.to_vec();
            hidden[CIPHER_AT] = 1;
            let digest = crate::id::stored_digest(crate::id::domain::FRAME, &[&hidden]);
            builder.push(&crate::frame::Frame { bytes: &hidden, digest }, vec![BlobId([9; 32])]);
            let id = if lie { BlobId([8; 32]) } else { IdKeys::new(&[0; 32]).chunk(&content) };
            builder.push(&plain.encode(BlobKind::Chunk, &content).unwrap(), vec![id]);
            let pack = builder.seal();
            super::super::verify_object(&format!("packs/{}", pack.id), &pack.bytes).unwrap();
            (pack.id.to_string(), pack.bytes)
        };
        let (name, bytes) = packed(false);
        assert_eq!(verify_names(&name, &bytes, true), Ok(()));
        assert!(verify_names(&name, &bytes, false).unwrap_err().contains("it is encrypted"));
        let (name, bytes) = packed(true);
        assert!(verify_names(&name, &bytes, true).unwrap_err().contains("does not match its name"));
    }
}
