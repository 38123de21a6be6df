//! Comparing two disks.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::copy::{WorkOptions, run};
use crate::plan::{Planner, Unit};
use crate::zero::is_zero;
use crate::{Result, Source, walk_extents};

/// The block of which a unit is made; both disks are read in whole blocks.
const BLOCK_BYTES: u64 = 64 << 10;

/// What [`compare`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Size of the first disk.
    pub first_size: u64,
    /// Size of the second disk.
    pub second_size: u64,
    /// The lowest offset at which they differ; a longer disk is compared with zeros behind the end of the shorter.
    pub first_difference: Option<u64>,
    /// How many bytes differ.
    pub different_bytes: u64,
}

impl Comparison {
    /// Whether a guest reads the same from both, apart from zeros behind the end of the shorter.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.different_bytes == 0
    }

    fn note(&mut self, offset: u64, count: u64) {
        self.different_bytes += count;
        self.first_difference = Some(self.first_difference.map_or(offset, |first| first.min(offset)));
    }
}

/// Compares two disks byte by byte. What neither holds as data is not read.
///
/// # Errors
/// Either cannot be read, or the caller cancelled.
pub fn compare(first: &dyn Source, second: &dyn Source, options: &WorkOptions<'_>) -> Result<Comparison> {
    let (first_size, second_size) = (first.virtual_size(), second.virtual_size());
    let found = Mutex::new(Comparison { first_size, second_size, ..Comparison::default() });
    let note = |differences: &Differences| {
        if differences.count > 0 {
            found.lock().unwrap_or_else(PoisonError::into_inner).note(differences.first, differences.count);
        }
    };
    let common = first_size.min(second_size);
    run(Planner::new(first, common, BLOCK_BYTES), options, |unit, buffer| {
        match unit {
            Unit::Data { offset, .. } => {
                first.read_at(buffer, offset)?;
                let mut other = vec![0; buffer.len()];
                second.read_at(&mut other, offset)?;
                note(&Differences::between(buffer, &other, offset));
            }
            Unit::Gap { offset, length } => note(&differences_from_zero(second, offset, length)?),
        }
        Ok(())
    })?;
    let longer = if first_size > second_size { first } else { second };
    note(&differences_from_zero(longer, common, longer.virtual_size() - common)?);
    (options.progress)(longer.virtual_size() - common);
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Default)]
struct Differences {
    first: u64,
    count: u64,
}

impl Differences {
    fn between(first: &[u8], second: &[u8], offset: u64) -> Self {
        if first == second {
            return Self::default();
        }
        let differing = || first.iter().zip(second).map(|(a, b)| a != b);
        Self {
            first: offset + differing().position(|differs| differs).unwrap_or(0) as u64,
            count: differing().filter(|&differs| differs).count() as u64,
        }
    }

    fn add(&mut self, offset: u64, count: u64) {
        if self.count == 0 {
            self.first = offset;
        }
        self.count += count;
    }
}

/// The bytes of a stretch that are not zero.
fn differences_from_zero(source: &dyn Source, offset: u64, length: u64) -> Result<Differences> {
    let mut found = Differences::default();
    let mut buffer = Vec::new();
    walk_extents(source, offset, length, |extent| {
        let mut position = extent.offset;
        while extent.kind.is_data() && position < extent.end() {
            let part = (extent.end() - position).min(1 << 20);
            buffer.resize(part as usize, 0);
            source.read_at(&mut buffer, position)?;
            if !is_zero(&buffer) {
                let first = buffer.iter().position(|&byte| byte != 0).unwrap_or(0);
                let count = buffer.iter().filter(|&&byte| byte != 0).count();
                found.add(position + first as u64, count as u64);
            }
            position += part;
        }
        Ok::<(), crate::Error>(())
    })?;
    Ok(found)
}
