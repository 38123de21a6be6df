//! Chains of clusters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, Run};
use crate::{Error, Result, bytes};

const CHAINS_KEPT: usize = 16;

/// How the table of clusters is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits12,
    Bits16,
    Bits32,
    /// 32 bits of which all count.
    ExFat,
}

/// Clusters that follow each other on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// First one, counted within the file.
    first: u32,
    cluster: u32,
    count: u32,
}

pub(super) type Chain = Arc<Vec<Piece>>;

/// The clusters of a file system and the table that chains them.
pub(super) struct Clusters {
    pub(super) kind: &'static str,
    pub(super) width: Width,
    /// Where the table lies, in bytes.
    pub(super) table: u64,
    /// Where cluster 2 lies, in bytes.
    pub(super) heap: u64,
    pub(super) cluster_bytes: u64,
    /// Number of clusters; their numbers begin at 2.
    pub(super) count: u32,
    pub(super) kept: Mutex<VecDeque<((u32, u32), Chain)>>,
}

impl Clusters {
    fn corrupt(&self, what: String) -> Error {
        Error::corrupt(self.kind, what)
    }

    /// The cluster behind `cluster`; `None` at the end of a chain.
    fn next(&self, disk: &Disk, cluster: u32) -> Result<Option<u32>> {
        let index = u64::from(cluster);
        let value = match self.width {
            Width::Bits12 => {
                let pair = u32::from(bytes::le16(&disk.bytes(self.table + index * 3 / 2, 2)?, 0));
                if cluster % 2 == 1 { pair >> 4 } else { pair & 0xfff }
            }
            Width::Bits16 => u32::from(bytes::le16(&disk.bytes(self.table + index * 2, 2)?, 0)),
            Width::Bits32 => bytes::le32(&disk.bytes(self.table + index * 4, 4)?, 0) & 0x0fff_ffff,
            Width::ExFat => bytes::le32(&disk.bytes(self.table + index * 4, 4)?, 0),
        };
        let end = match self.width {
            Width::Bits12 => 0xff8,
            Width::Bits16 => 0xfff8,
            Width::Bits32 => 0x0fff_fff8,
            Width::ExFat => 0xffff_fff8,
        };
        if value >= end {
            return Ok(None);
        }
        if !self.is_cluster(value) {
            return Err(self.corrupt(format!("cluster {cluster} leads to {value}, which does not exist")));
        }
        Ok(Some(value))
    }

    fn is_cluster(&self, cluster: u32) -> bool {
        (2..self.count.saturating_add(2)).contains(&cluster)
    }

    /// The pieces of the chain that begins at `first`, up to `wanted` clusters. No chain has more clusters than the
    /// file system, so one that is a circle is found out.
    fn chain(&self, disk: &Disk, first: u32, wanted: u32) -> Result<Chain> {
        let key = (first, wanted);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, chain)) = kept.iter().find(|(other, _)| *other == key) {
            return Ok(Arc::clone(chain));
        }
        drop(kept);
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut at, mut index) = (first, 0_u32);
        if !self.is_cluster(first) {
            return Err(self.corrupt(format!("a file begins at cluster {first}, which does not exist")));
        }
        while index < wanted {
            if index >= self.count {
                return Err(self.corrupt(format!("the chain of cluster {first} is a circle")));
            }
            match pieces.last_mut() {
                Some(last) if last.cluster + last.count == at => last.count += 1,
                _ => pieces.push(Piece { first: index, cluster: at, count: 1 }),
            }
            index += 1;
            match self.next(disk, at)? {
                Some(next) => at = next,
                None => break,
            }
        }
        let chain: Chain = Arc::new(pieces);
        kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((key, Arc::clone(&chain)));
        if kept.len() > CHAINS_KEPT {
            kept.pop_front();
        }
        Ok(chain)
    }

    /// Where the byte at `offset` of the file that begins at `cluster` lies; `None` behind the end of its chain.
    /// `bytes` bounds how much of the chain is followed.
    pub(super) fn map(
        &self,
        disk: &Disk,
        (cluster, contiguous): (u32, bool),
        bytes: u64,
        offset: u64,
        length: u64,
    ) -> Result<Option<Run>> {
        let index = offset / self.cluster_bytes;
        let within = offset % self.cluster_bytes;
        let found = if contiguous {
            let end = u64::from(self.count) + 2;
            let at = u64::from(cluster) + index;
            (self.is_cluster(cluster) && at < end).then_some((at, end - at))
        } else {
            let wanted = u32::try_from(bytes.div_ceil(self.cluster_bytes)).unwrap_or(u32::MAX);
            let chain = self.chain(disk, cluster, wanted)?;
            let after = chain.partition_point(|piece| u64::from(piece.first) <= index);
            let piece = after.checked_sub(1).and_then(|at| chain.get(at));
            piece.and_then(|piece| {
                let skipped = index - u64::from(piece.first);
                let left = u64::from(piece.count).checked_sub(skipped).filter(|left| *left > 0)?;
                Some((u64::from(piece.cluster) + skipped, left))
            })
        };
        Ok(found.map(|(cluster, left)| Run {
            length: (left * self.cluster_bytes - within).min(length).max(1),
            place: Some(self.heap + (cluster - 2) * self.cluster_bytes + within),
        }))
    }
}
