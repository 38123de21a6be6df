//! Objects that the store keeps in several parts: what their remaining parts tell comes back before anything else is
//! looked at.
//!
//! That is the store's matter ([`Chains`](leeward_store::Chains)): a value that was decided comes back as it was, or not at
//! all. What does not come back is damaged as any other object, and is mended like it.

use leeward_store::{Key, Store};
use serde::Serialize;

use crate::Result;
use crate::image::{ImageName, ImageRef};
use crate::repository::Repository;

/// An object that lost parts, and whose value the others tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainRepair {
    /// Key of the object.
    pub object: String,
    /// What is missing.
    pub what: String,
    /// What the value is that it has again, where it is a ref that can be read.
    pub value: Option<String>,
}

/// What a ref says, for people.
fn show(image: &ImageRef) -> String {
    let last = image.snapshots.last().map_or_else(String::new, |entry| {
        format!(", the last {} of {}", entry.id.short(), entry.created.strftime("%Y-%m-%d %H:%M:%SZ"))
    });
    format!("generation {}, {} snapshots{last}", image.generation, image.snapshots.len())
}

impl Repository {
    /// Gives objects of a store that lost parts the value back that the other parts tell, before the repository is opened:
    /// its configuration may be one of them. Nothing is done where a store keeps each object in one piece.
    ///
    /// # Errors
    /// The store fails.
    pub fn mend_chains(store: &dyn Store) -> Result<Vec<ChainRepair>> {
        let Some(chains) = store.chains() else { return Ok(Vec::new()) };
        let mut mended = Vec::new();
        for damaged in chains.damaged()?.into_iter().filter(|damaged| damaged.is_determined) {
            if chains.mend(&damaged.key)? {
                mended.push(ChainRepair { object: damaged.key.to_string(), what: damaged.what, value: None });
            }
        }
        Ok(mended)
    }

    /// The objects that [`Repository::mend_chains`] would mend.
    ///
    /// # Errors
    /// The store fails.
    pub fn plan_chains(&self) -> Result<Vec<ChainRepair>> {
        let Some(chains) = self.store().chains() else { return Ok(Vec::new()) };
        let determined = chains.damaged()?.into_iter().filter(|damaged| damaged.is_determined);
        let planned = |damaged: leeward_store::DamagedChain| ChainRepair {
            object: damaged.key.to_string(),
            what: damaged.what,
            value: None,
        };
        Ok(determined.map(planned).collect())
    }

    /// Says what the refs among these objects are now.
    pub(super) fn tell_values(&self, mended: &mut [ChainRepair]) -> Result<()> {
        for one in mended {
            let key = Key::new(one.object.as_str()).filter(|key| key.as_str().starts_with("refs/"));
            let image = key.and_then(|key| ImageName::from_key(&key));
            if let Some(name) = image
                && let Ok(Some((image, _))) = self.read_ref(&name)
            {
                one.value = Some(show(&image));
            }
        }
        Ok(())
    }
}
