//! Which packs a check reads whole.

use std::collections::HashSet;

use crate::id::PackId;
use crate::verified::Turn;

/// How much of the packs to read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ReadData {
    /// Only what describes them.
    #[default]
    No,
    /// Every byte.
    All,
    /// Every byte of this share of them, from 0 to 1, chosen anew each time.
    Share(f64),
}

/// Which packs a check reads whole, and who is told.
pub(crate) enum Reading<'a> {
    /// As a person said.
    By(ReadData),
    /// These.
    These(&'a HashSet<PackId>),
    /// Those that were read longest ago, within a budget.
    Turn(&'a mut Turn),
}

impl Reading<'_> {
    /// The packs to read among those that are there, in order.
    pub(crate) fn choose(&mut self, listed: &[(PackId, u64)]) -> Vec<(PackId, u64)> {
        match self {
            Self::By(ReadData::No) => Vec::new(),
            Self::By(ReadData::All) => listed.to_vec(),
            Self::By(ReadData::Share(share)) => {
                let chosen: Vec<_> = listed.iter().filter(|_| is_chosen(*share)).copied().collect();
                // A share of few packs may come to none, and then nothing would have been looked at.
                if chosen.is_empty() && *share > 0.0 { any_of(listed).into_iter().collect() } else { chosen }
            }
            Self::These(packs) => listed.iter().filter(|(pack, _)| packs.contains(pack)).copied().collect(),
            Self::Turn(turn) => turn.choose(listed),
        }
    }

    /// Whether there is time for another pack.
    pub(crate) fn goes_on(&self) -> bool {
        match self {
            Self::Turn(turn) => turn.goes_on(),
            _ => true,
        }
    }

    /// Notes that a pack was read whole, whatever was found.
    pub(crate) fn note(&mut self, pack: PackId, is_sound: bool) {
        if let Self::Turn(turn) = self {
            turn.note(pack, is_sound);
        }
    }
}

fn any_of(listed: &[(PackId, u64)]) -> Option<(PackId, u64)> {
    let mut random = [0; 8];
    // Without randomness it is the first.
    let _ = getrandom::fill(&mut random);
    let number = u64::from_le_bytes(random).checked_rem(listed.len() as u64)?;
    listed.get(number as usize).copied()
}

fn is_chosen(share: f64) -> bool {
    let mut random = [0; 8];
    // Without randomness everything is read: more work, never less.
    getrandom::fill(&mut random).is_err() || (u64::from_le_bytes(random) as f64) < share * u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::{ReadData, Reading};
    use crate::id::PackId;

    #[test]
    fn a_share_of_few_packs_is_one_at_least() {
        let listed = [(PackId([1; 32]), 1), (PackId([2; 32]), 1)];
        let chosen = |share, listed: &[_]| Reading::By(ReadData::Share(share)).choose(listed).len();
        assert_eq!((chosen(1e-9, &listed), chosen(1e-9, &[]), chosen(0.0, &listed)), (1, 0, 0));
    }
}
