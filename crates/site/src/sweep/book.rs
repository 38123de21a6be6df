//! What runs have delivered, remembered beyond the runs' own history: a table of the catalog.
//!
//! The history of runs is forgotten after a while, and volumes live for years. Without this each of them would be listed as a
//! thing that nobody knows.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::Result;
use crate::catalog::{Catalog, values};

pub(crate) const TABLES: &str = "
CREATE TABLE delivered (
    target TEXT NOT NULL, id TEXT NOT NULL, run TEXT NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (target, id)
) STRICT, WITHOUT ROWID;
";

impl Catalog {
    /// Remembers that a run has delivered a thing.
    pub fn remember_delivered(&self, target: &str, id: &str, run: &str, now: Timestamp) -> Result<()> {
        self.change(
            "remember what was delivered",
            "INSERT INTO @delivered (target, id, run, seen) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            values![target, id, run, now.as_microsecond()],
        )
    }

    /// The things of a target that runs have delivered, with the runs.
    pub fn delivered(&self, target: &str) -> Result<BTreeSet<(String, String)>> {
        let found = self.find(
            "read what was delivered",
            "SELECT id, run FROM @delivered WHERE target = ?1",
            values![target],
            |row| Ok((row.text("id")?, row.text("run")?)),
        )?;
        Ok(found.into_iter().collect())
    }

    /// Forgets a thing that is there no more.
    pub fn forget_delivered(&self, target: &str, id: &str) -> Result<()> {
        self.change(
            "forget what was delivered",
            "DELETE FROM @delivered WHERE target = ?1 AND id = ?2",
            values![target, id],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_is_remembered_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalog");
        let catalog = Catalog::open(&file).unwrap();
        for _ in 0..2 {
            catalog.remember_delivered("cloud", "v1", "r1", Timestamp::now()).unwrap();
        }
        drop(catalog);
        let catalog = Catalog::open(&file).unwrap();
        let known = catalog.delivered("cloud").unwrap();
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [("v1".to_owned(), "r1".to_owned())]);
        assert!(catalog.delivered("other").unwrap().is_empty());
        catalog.forget_delivered("cloud", "v1").unwrap();
        assert!(catalog.delivered("cloud").unwrap().is_empty());
    }
}
