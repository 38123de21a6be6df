//! Content in pieces of one size, without copying it.

/// The content that parts make up together, in pieces of a size; only the last one may be smaller.
pub(crate) fn pieces<'a>(parts: &[&'a [u8]], piece_bytes: usize) -> Vec<Vec<&'a [u8]>> {
    let mut pieces = Vec::new();
    let (mut piece, mut room) = (Vec::new(), piece_bytes);
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let (taken, left) = rest.split_at(rest.len().min(room));
            piece.push(taken);
            (rest, room) = (left, room - taken.len());
            if room == 0 {
                pieces.push(std::mem::take(&mut piece));
                room = piece_bytes;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_make_up_the_whole_and_are_full_but_for_the_last() {
        let parts: [&[u8]; 5] = [b"ab", b"", b"cdefgh", b"i", b"jklm"];
        let found: Vec<Vec<u8>> = pieces(&parts, 4).iter().map(|piece| piece.concat()).collect();
        assert_eq!(found, [&b"abcd"[..], b"efgh", b"ijkl", b"m"]);
        assert_eq!(pieces(&parts[..3], 4).len(), 2);
        assert!(pieces(&[], 4).is_empty());
    }
}
