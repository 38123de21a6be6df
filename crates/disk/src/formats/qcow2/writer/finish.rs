//! The tables and the header of a new image.

use super::{Qcow2Target, State};
use crate::formats::qcow2::entry::Mapping;
use crate::formats::qcow2::head::{COPIED, Head};
use crate::formats::qcow2::header::REFCOUNT_TABLE_BYTES_MAX;
use crate::{Error, Result};

/// Where the tables go, as offsets in the file.
struct Layout {
    l1: u64,
    refcount_table: u64,
    refcount_table_clusters: u64,
    refcount_blocks: u64,
    refcount_block_count: u64,
    end: u64,
}

impl Qcow2Target {
    /// Writes L2 tables, L1 table, refcounts and at last the header.
    pub(super) fn write_tables(&self) -> Result<()> {
        let mut state = self.state();
        let l1 = self.write_l2_tables(&mut state)?;
        let layout = self.layout(&mut state, l1.len() as u64)?;
        self.staged.set_length(layout.end)?;
        self.write_words(&l1, layout.l1)?;
        self.write_refcounts(&state, &l1, &layout)?;
        let head = Head {
            cluster_bits: self.geometry.cluster_bits(),
            virtual_size: self.virtual_size,
            l1_entries: l1.len() as u32,
            l1: layout.l1,
            refcount_table: layout.refcount_table,
            refcount_table_clusters: layout.refcount_table_clusters as u32,
            is_compressed: self.compress,
        };
        self.staged.write_at(&head.bytes(), 0)
    }

    /// Writes the tables that map something, and returns the L1 table.
    fn write_l2_tables(&self, state: &mut State) -> Result<Vec<u64>> {
        let mut l1 = vec![0; state.l2.len()];
        let State { l2, space } = state;
        for (entry, table) in l1.iter_mut().zip(l2) {
            let Some(table) = table.as_ref().filter(|table| table.iter().any(|&entry| entry != 0)) else {
                continue;
            };
            let offset = space.clusters(1);
            self.write_words(table, offset)?;
            *entry = offset | COPIED;
        }
        Ok(l1)
    }

    /// Places the rest. The refcounts count themselves, so their size is raised until it suffices.
    fn layout(&self, state: &mut State, l1_entries: u64) -> Result<Layout> {
        let cluster = self.geometry.cluster_bytes();
        let l1 = state.space.clusters((l1_entries * 8).div_ceil(cluster));
        let start = state.space.clusters(0);
        let (mut blocks, mut table) = (1, 1);
        loop {
            let clusters = start / cluster + blocks + table;
            let blocks_needed = clusters.div_ceil(cluster / 2);
            let table_needed = (blocks_needed * 8).div_ceil(cluster);
            if blocks_needed <= blocks && table_needed <= table {
                break;
            }
            (blocks, table) = (blocks.max(blocks_needed), table.max(table_needed));
        }
        if table * cluster > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::Invalid {
                path: self.staged.name().to_owned(),
                what: format!(
                    "the image has grown too large for clusters of {cluster} bytes: use larger ones"
                ),
            });
        }
        let refcount_table = state.space.clusters(table);
        let refcount_blocks = state.space.clusters(blocks);
        Ok(Layout {
            l1,
            refcount_table,
            refcount_table_clusters: table,
            refcount_blocks,
            refcount_block_count: blocks,
            end: state.space.clusters(0),
        })
    }

    fn write_refcounts(&self, state: &State, l1: &[u64], layout: &Layout) -> Result<()> {
        let cluster = self.geometry.cluster_bytes();
        let mut counts = vec![0_u16; (layout.refcount_block_count * cluster / 2) as usize];
        let mut count = |host: u64, length: u64| {
            for index in host / cluster..(host + length).div_ceil(cluster) {
                counts[index as usize] += 1;
            }
        };
        count(0, cluster);
        count(layout.l1, layout.end - layout.l1);
        l1.iter().filter(|&&entry| entry != 0).for_each(|entry| count(entry & !COPIED, cluster));
        for table in state.l2.iter().flatten() {
            for (index, _) in table.iter().enumerate().filter(|(_, entry)| **entry != 0) {
                match self.geometry.lookup(table, (index as u64) << self.geometry.cluster_bits()).0 {
                    Mapping::Data { host } => count(host, cluster),
                    Mapping::Compressed { host, length } => count(host, u64::from(length)),
                    Mapping::Zero | Mapping::Unallocated => {}
                }
            }
        }
        let bytes: Vec<u8> = counts.into_iter().flat_map(u16::to_be_bytes).collect();
        self.staged.write_at(&bytes, layout.refcount_blocks)?;
        let table: Vec<u64> =
            (0..layout.refcount_block_count).map(|index| layout.refcount_blocks + index * cluster).collect();
        self.write_words(&table, layout.refcount_table)
    }

    fn write_words(&self, words: &[u64], offset: u64) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.staged.write_at(&bytes, offset)
    }
}
