//! Mending the bytes of a pack by its parity.

use reed_solomon_simd::ReedSolomonDecoder;

use super::object::{piece_digest, pieces, read};
use crate::id::PackId;

/// The bytes that a pack had, from what is left of it and from its parity; or why that is not enough. Whoever takes them
/// compares them with the pack's name.
pub(super) fn heal(pack: PackId, mut bytes: Vec<u8>, parity: &[u8]) -> Result<Vec<u8>, String> {
    let (outline, parity) = read(pack, parity).map_err(|what| format!("its parity is damaged: {what}"))?;
    if outline.pack_bytes > super::PACK_BYTES_MAX {
        return Err(format!("it has {} bytes, more than are mended", outline.pack_bytes));
    }
    let helping = parity.iter().flatten().count();
    if helping == 0 && bytes.len() as u64 != outline.pack_bytes {
        return Err("it has another length than it had, and none of its parity can be used".to_owned());
    }
    bytes.resize(outline.pack_bytes as usize, 0);
    let piece = outline.piece_bytes as usize;
    let digests = &outline.digests[..outline.pack_pieces];
    let is_sound: Vec<bool> =
        pieces(&bytes, piece).zip(digests).map(|(one, digest)| piece_digest(&one) == *digest).collect();
    let bad = is_sound.iter().filter(|sound| !**sound).count();
    if bad > helping {
        return Err(format!(
            "{bad} of its {} pieces of {piece} bytes are damaged, and its parity mends {helping} at most",
            outline.pack_pieces
        ));
    }
    if bad == 0 {
        return Ok(bytes);
    }
    let failed = |error| format!("its parity cannot be used: {error}");
    let mut decoder =
        ReedSolomonDecoder::new(outline.pack_pieces, outline.parity_pieces(), piece).map_err(failed)?;
    for (number, (one, _)) in
        pieces(&bytes, piece).zip(&is_sound).enumerate().filter(|(_, (_, sound))| **sound)
    {
        decoder.add_original_shard(number, one).map_err(failed)?;
    }
    for (number, one) in parity.iter().enumerate() {
        if let Some(one) = one {
            decoder.add_recovery_shard(number, one).map_err(failed)?;
        }
    }
    let restored = decoder.decode().map_err(failed)?;
    for (number, one) in restored.restored_original_iter() {
        let start = number * piece;
        let length = bytes.len().saturating_sub(start).min(piece);
        bytes[start..start + length].copy_from_slice(&one[..length]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::object::{check_object, make};
    use super::heal;
    use crate::id::{PackId, domain, stored_digest};

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_stretch_of_the_promised_length_is_mended_wherever_it_begins() {
        let pack = PackId([3; 32]);
        for (length, percent) in [(1, 1), (900, 10), (70_000, 5), (300_001, 10), (1_500_000, 1)] {
            let whole = noise(length);
            let parity = make(pack, &whole, percent).unwrap();
            assert_eq!(check_object(pack, &parity, Some(&whole)), Ok(()));
            let stretch = (length * usize::from(percent)).div_ceil(100);
            for number in 0..20 {
                let start = (length - stretch) * number / 19;
                let mut bad = whole.clone();
                bad[start..start + stretch].iter_mut().for_each(|byte| *byte ^= 0xa5);
                assert!(heal(pack, bad, &parity).unwrap() == whole, "{length} bytes, from {start}");
            }
            // A part of that length that was cut off.
            assert!(heal(pack, whole[..length - stretch].to_vec(), &parity).unwrap() == whole);
        }
    }

    #[test]
    fn too_much_damage_is_told_and_damaged_parity_helps_as_far_as_it_goes() {
        let pack = PackId([4; 32]);
        let whole = noise(200_000);
        let parity = make(pack, &whole, 10).unwrap();
        let mut bad = whole.clone();
        bad[..30_000].fill(0);
        let why = heal(pack, bad, &parity).unwrap_err();
        assert!(
            why.starts_with("30 of its 196 pieces of 1024 bytes are damaged, and its parity mends 21"),
            "{why}"
        );
        // Its first outline and a piece are lost: the second outline and the other pieces do.
        let mut bad_parity = parity.clone();
        bad_parity[..5000].fill(9);
        assert!(check_object(pack, &bad_parity, None).is_err());
        let mut bad = whole.clone();
        bad[100_000..118_000].fill(1);
        assert!(heal(pack, bad, &bad_parity).unwrap() == whole);
        assert!(heal(pack, whole.clone(), &parity[..100]).unwrap_err().contains("too short"));
        assert!(heal(PackId([5; 32]), whole.clone(), &parity).unwrap_err().contains("of pack"));
        for at in (0..parity.len()).step_by(97) {
            let mut bad = parity.clone();
            bad[at] ^= 1;
            assert!(check_object(pack, &bad, Some(&whole)).is_err(), "byte {at}");
        }
    }

    /// A parity object of some 200 bytes that speaks of pieces of gigabytes takes no memory.
    #[test]
    fn sizes_that_parity_speaks_of_are_bounded_before_memory_is_spent() {
        let pack = PackId([6; 32]);
        let forged = |bytes: u64, piece: u32, count: u32, parity: u32| {
            let mut outline = b"LEEWARDQ".to_vec();
            outline.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
            outline.extend_from_slice(&bytes.to_le_bytes());
            [piece, count, parity, 0]
                .iter()
                .for_each(|field| outline.extend_from_slice(&field.to_le_bytes()));
            outline.extend_from_slice(pack.as_bytes());
            outline.resize(outline.len() + 16 * (count + parity) as usize, 0);
            let digest = stored_digest(domain::PARITY, &[&outline]);
            outline.extend_from_slice(digest.as_bytes());
            outline
        };
        for (bytes, piece, count, parity) in [
            (1000, u32::MAX - 63, 1, 1),
            (1 << 20, 2 << 20, 1, 1),
            (1 << 20, 1 << 20, 1, 30_000),
            (100, 1088, 1, 1),
        ] {
            let why = heal(pack, vec![0; 1000], &forged(bytes, piece, count, parity)).unwrap_err();
            assert!(why.contains("its outline contradicts itself"), "{why}");
        }
        let why = heal(pack, vec![0; 1000], &forged(400 << 20, 1 << 20, 400, 2)).unwrap_err();
        assert!(why.contains("another length"), "{why}");
        assert!(check_object(pack, &forged(1000, u32::MAX - 63, 1, 1), Some(&[0; 1000])).is_err());
    }

    /// The code is part of the format: another version of the crate must give the same parity.
    #[test]
    fn parity_of_known_bytes_is_what_it_always_was() {
        let parity = make(PackId([0; 32]), &noise(100_000), 5).unwrap();
        let digest = stored_digest(domain::PARITY, &[&parity]);
        let known = "23709ee1343d2a79ad0ab9ad94737799001c25006026a37acbf0fa7f5d2e9ccb";
        assert_eq!((parity.len(), digest.to_string().as_str()), (9696, known));
    }
}
