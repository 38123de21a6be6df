//! Spans: frames of one pack that lie near each other and are read together.
//!
//! Where a read is a request to somebody, what a request costs is paid once for a span rather than for each frame, and
//! what lies between two wanted frames is read along when that is cheaper than to ask again. On a local disk a frame is a
//! span.

use crate::index::Location;
use crate::repository::Repository;

/// Bytes that one request reads, at most, unless a single frame is larger.
const SPAN_BYTES_MAX: u32 = 4 << 20;
/// Bytes between two frames that are read for nothing rather than asking twice. A gateway takes one to three
/// milliseconds of processor time for a request, in which it hands out several times as much.
const GAP_BYTES_MAX: u32 = 256 << 10;

/// How far apart frames may lie that are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Length of a span of several frames in bytes, at most.
    span_bytes: u32,
    /// Bytes between two of its frames, at most.
    gap_bytes: u32,
}

impl Reach {
    /// What pays at the store of a repository.
    pub(crate) fn of(repository: &Repository) -> Self {
        match repository.requests() {
            Some(_) => Self { span_bytes: SPAN_BYTES_MAX, gap_bytes: GAP_BYTES_MAX },
            None => Self { span_bytes: 0, gap_bytes: 0 },
        }
    }

    /// As this, but nothing is read that is not wanted.
    pub(crate) fn without_gaps(self) -> Self {
        Self { gap_bytes: 0, ..self }
    }

    /// As this, but so short that there are spans for so many readers at once, of `bytes` in all.
    pub(crate) fn for_readers(self, readers: usize, bytes: u64) -> Self {
        let share = u32::try_from(bytes / readers.max(1) as u64).unwrap_or(u32::MAX);
        Self { span_bytes: self.span_bytes.min(share), ..self }
    }

    /// Whether several frames are ever read together.
    pub(crate) fn joins(self) -> bool {
        self.span_bytes > 0
    }

    /// Whether a span that begins with frame `first` and ends with `last` may go on to `next`.
    fn reaches(self, first: &Location, last: &Location, next: &Location) -> bool {
        let end = last.offset.saturating_add(last.length);
        let length = next.offset.saturating_add(next.length).saturating_sub(first.offset);
        first.pack == next.pack
            && next.offset >= end
            && next.offset - end <= self.gap_bytes
            && length <= self.span_bytes
    }
}

/// Cuts things that lie in frames, in the order of their frames, into spans.
pub(crate) fn spans<T>(
    things: impl IntoIterator<Item = T>,
    reach: Reach,
    frame: impl Fn(&T) -> &Location,
) -> Vec<Vec<T>> {
    let mut spans: Vec<Vec<T>> = Vec::new();
    for thing in things {
        match spans.last_mut() {
            Some(span)
                if span
                    .first()
                    .zip(span.last())
                    .is_some_and(|(first, last)| reach.reaches(frame(first), frame(last), frame(&thing))) =>
            {
                span.push(thing);
            }
            _ => spans.push(vec![thing]),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::{Reach, spans};
    use crate::id::PackId;
    use crate::index::Location;

    fn frame(pack: u8, offset: u32, length: u32) -> Location {
        Location { pack: PackId([pack; 32]), offset, length, content_offset: 0 }
    }

    fn cut(frames: &[Location], reach: Reach) -> Vec<usize> {
        let cut = spans(frames.iter().copied(), reach, |frame| frame);
        assert_eq!(cut.concat(), frames, "nothing is lost, and the order stays");
        cut.iter().map(Vec::len).collect()
    }

    #[test]
    fn near_frames_of_one_pack_are_read_together_up_to_a_length() {
        let reach = Reach { span_bytes: 100, gap_bytes: 10 };
        let row = [frame(1, 0, 20), frame(1, 20, 20), frame(1, 50, 20), frame(1, 81, 5), frame(2, 86, 5)];
        assert_eq!(
            cut(&row, reach),
            [3, 1, 1],
            "a gap of 10 is passed over, one of 11 is not, nor a pack's end"
        );
        let long =
            [frame(1, 0, 60), frame(1, 60, 40), frame(1, 100, 1), frame(1, 101, 500), frame(1, 601, 1)];
        assert_eq!(cut(&long, reach), [2, 1, 1, 1], "a frame that is longer than a span is one by itself");
        assert_eq!(
            cut(&row, Reach { span_bytes: 0, gap_bytes: 0 }),
            [1; 5],
            "a local disk reads frame by frame"
        );
        assert_eq!(cut(&[], reach), [0; 0]);
        let even: Vec<_> = (0..12).map(|number| frame(1, number * 10, 10)).collect();
        assert_eq!(cut(&even, reach.for_readers(4, 120)), [3; 4], "every reader gets something to do");
        assert_eq!(cut(&even, reach.for_readers(1, u64::MAX)), [10, 2]);
    }

    #[test]
    fn frames_that_overlap_or_leave_the_pack_by_a_wrong_index_are_not_joined() {
        let reach = Reach { span_bytes: u32::MAX, gap_bytes: u32::MAX };
        let odd = [frame(1, 0, 50), frame(1, 40, 20), frame(1, u32::MAX, u32::MAX), frame(1, 0, 1)];
        assert_eq!(cut(&odd, reach), [1, 2, 1]);
    }
}
