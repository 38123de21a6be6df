//! What a tool says, as far as it is kept.

use std::io::Read;

/// The start and the end of what comes, as text; the middle is left out where it is too much.
pub(super) fn bounded(mut pipe: impl Read, bytes_max: usize) -> String {
    let half = bytes_max / 2;
    let (mut start, mut end, mut left_out) = (Vec::new(), Vec::new(), 0_u64);
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let of_start = count.min(half - start.len());
        start.extend_from_slice(&buffer[..of_start]);
        end.extend_from_slice(&buffer[of_start..count]);
        let surplus = end.len().saturating_sub(half);
        left_out += surplus as u64;
        end.drain(..surplus);
    }
    let middle = if left_out > 0 { format!("\n… {left_out} bytes left out …\n") } else { String::new() };
    let text = format!("{}{middle}{}", String::from_utf8_lossy(&start), String::from_utf8_lossy(&end));
    text.chars().filter(|character| !character.is_control() || "\n\t".contains(*character)).collect()
}

#[cfg(test)]
mod tests {
    use super::bounded;

    #[test]
    fn the_middle_of_long_output_is_left_out_and_control_characters_are_too() {
        assert_eq!(bounded(&b"a\x1b[2Jb\n"[..], 100), "a[2Jb\n");
        let long = [vec![b'a'; 30_000], vec![b'b'; 30_000]].concat();
        let kept = bounded(&long[..], 1000);
        assert!(
            kept.starts_with("aaa") && kept.ends_with("bbb") && kept.contains("59000 bytes left out"),
            "{kept}"
        );
    }
}
