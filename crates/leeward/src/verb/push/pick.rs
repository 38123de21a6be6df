//! What a person names to be transferred: images, snapshots, machines, groups.

use leeward_repository::transfer::{Pick, Selection};
use leeward_repository::{Error, Group, ImageName, Repository, SnapshotSpec};

use crate::failure::Failure;
use crate::verb::groups;

/// Finds everything that is named, before anything travels.
pub fn selection(from: &Repository, what: &[String]) -> Result<Selection, Failure> {
    let mut picks = Vec::new();
    for text in what {
        match of_image(from, text) {
            Ok(pick) => picks.push(pick),
            // It may be a machine, or a group of snapshots; where it is not, that there is no such image says more.
            Err(Error::NoImage { store, image }) => {
                let found =
                    of_groups(from, text).map_err(|_| Failure::from(Error::NoImage { store, image }))?;
                picks.extend(found);
            }
            // The digits of a group need not make a name that an image can have.
            Err(error @ (Error::BadImageName { .. } | Error::BadSpec { .. })) => return Err(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Selection::Picks(picks))
}

fn of_image(from: &Repository, text: &str) -> Result<Pick, Error> {
    if text.contains('@') {
        let spec: SnapshotSpec = text.parse()?;
        let entry = from.resolve(&spec)?;
        return Ok(Pick { image: spec.image, snapshot: Some(entry.id) });
    }
    let image: ImageName = text.parse()?;
    from.image(&image)?;
    Ok(Pick { image, snapshot: None })
}

/// All groups of a machine, or one group.
fn of_groups(from: &Repository, text: &str) -> Result<Vec<Pick>, Failure> {
    let mut all = from.groups()?;
    all.retain(|group| groups::machine_of(group) == text);
    if all.is_empty() {
        all.push(groups::resolve(from, text)?);
    }
    let members = |group: Group| group.members.into_iter();
    Ok(all
        .into_iter()
        .flat_map(members)
        .map(|(image, entry)| Pick { image, snapshot: Some(entry.id) })
        .collect())
}
