//! Handing out the space of the file.

/// Bytes to which compressed clusters are aligned: it keeps the refcount of a host cluster of 2 MiB within 16 bits.
const ALIGNMENT: u64 = 64;

/// The free end of the file. Nothing that was given out is given out again.
#[derive(Debug)]
pub(super) struct Space {
    cluster_bytes: u64,
    /// The first cluster that was not given out.
    end: u64,
    /// The rest of the last cluster that compressed bytes were put into: from here to `packed_end`.
    packed: u64,
    packed_end: u64,
}

impl Space {
    /// A file of which the first cluster is taken by the header.
    pub(super) fn new(cluster_bytes: u64) -> Self {
        Self { cluster_bytes, end: cluster_bytes, packed: 0, packed_end: 0 }
    }

    /// The offset of `count` new clusters, one after the other.
    pub(super) fn clusters(&mut self, count: u64) -> u64 {
        let offset = self.end;
        self.end += count * self.cluster_bytes;
        offset
    }

    /// The offset of `length` bytes for compressed clusters.
    pub(super) fn packed(&mut self, length: u64) -> u64 {
        if self.packed + length > self.packed_end {
            let adjacent = self.packed_end == self.end;
            let start = if adjacent { self.packed } else { self.end };
            let missing = start + length - self.end;
            self.clusters(missing.div_ceil(self.cluster_bytes));
            (self.packed, self.packed_end) = (start, self.end);
        }
        let offset = self.packed;
        self.packed = align(self.packed + length).min(self.packed_end);
        offset
    }
}

/// Rounds up to where the next compressed cluster may begin.
pub(super) fn align(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bytes_go_on_where_they_ended_unless_a_cluster_came_between() {
        let mut space = Space::new(512);
        assert_eq!(space.packed(100), 512);
        assert_eq!(space.packed(500), 640, "reaches into the next cluster");
        assert_eq!(space.clusters(2), 1536);
        assert_eq!(space.packed(300), 1152, "still fits behind the second");
        assert_eq!(space.packed(600), 2560);
        assert_eq!(space.clusters(1), 3584);
    }
}
