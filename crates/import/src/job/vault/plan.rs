//! `create_block_volume`: which images the snapshots are added to.

use leeward_cloud::provider::{GIB, Provider, STEP_TAG, Volumes as _};
use leeward_repository::{ErrorKind, ImageName, Repository};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault};

use super::super::inspect::{Image, Seen};
use super::super::volume::owner;
use super::super::{Inputs, fault};
use super::name::{self, Names};
use super::{Intended, Opening, Vault, of_repository};
use crate::metadata;

/// Decides it, and sees that the repository can be opened.
pub(in super::super) fn plan(
    context: &Context,
    vault: &Vault,
    inputs: &Inputs,
    seen: &Seen,
    image: &Image,
) -> Result<Vec<Intended>, Fault> {
    unasked(context, inputs, seen);
    let given = inputs.volume_name.as_deref().filter(|name| !name.is_empty());
    let given: Vec<Option<String>> = (0..image.disks.len())
        .map(|number| match number {
            0 => given.map(str::to_owned),
            _ => given.map(|name| format!("{name}-{}", number + 1)),
        })
        .collect();
    let disks = image.disks.iter().zip(&given).map(|(disk, given)| Names {
        source: &inputs.source,
        object: &inputs.object,
        disk: &disk.name,
        given: given.as_deref(),
    });
    let hint = "give the import another name (--volume-name), or the target another `image`";
    let images = name::images(&vault.template, disks).map_err(|what| Fault::lasting(what, hint))?;
    let repository = vault.open(Opening::Usual)?;
    let fitted = vault.tag_limits().fit(&metadata::tags(&seen.metadata));
    fitted.notes.iter().for_each(|note| context.log(Level::Warning, note));
    let wanted = seen.wishes.size_gib.map_or(0, |size| size.saturating_mul(GIB));
    let mut intended = Vec::new();
    for (number, (image_name, disk)) in images.into_iter().zip(&image.disks).enumerate() {
        check_line(&repository, &image_name)?;
        let bytes = vault
            .volume_limits()
            .volume_bytes(vault.name(), disk.virtual_bytes.max(wanted))
            .map_err(|error| fault::of_cloud(&error))?;
        context.say(format!("a snapshot of {bytes} bytes will be added to image {image_name}"));
        intended.push(Intended {
            image: image_name,
            disk: disk.name.clone(),
            bytes,
            tags: owner(context, "create_block_volume", number).mark(&fitted.tags),
        });
    }
    Ok(intended)
}

/// What volumes have and snapshots do not.
fn unasked(context: &Context, inputs: &Inputs, seen: &Seen) {
    let asked = [
        ("ad_number", inputs.ad_number.or(seen.wishes.ad_number).is_some_and(|number| number > 0)),
        ("kms_key", inputs.kms_key.is_some() || seen.wishes.kms_key.is_some()),
        ("move_gpt", inputs.move_gpt.or(seen.wishes.move_gpt).unwrap_or(false)),
    ];
    for (key, _) in asked.iter().filter(|(_, is_asked)| *is_asked) {
        context.log(
            Level::Warning,
            &format!("{key} is asked for, which snapshots do not have: it has no effect"),
        );
    }
}

/// Whether an import may add to an image: one that is new, or whose last snapshot is an import's. Who may put objects into a bucket
/// does not thereby get to say what the newest state of a machine is that is backed up.
fn check_line(repository: &Repository, image: &ImageName) -> Result<(), Fault> {
    let found = match repository.image(image) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(of_repository(&error)),
    };
    match found.snapshots.last() {
        Some(last) if !last.tags.contains_key(STEP_TAG) => Err(Fault::lasting(
            format!(
                "the last snapshot of image {image} is no import's, and imports do not add to such a line"
            ),
            "give the import another name (--volume-name), or the target another `image`",
        )),
        _ => Ok(()),
    }
}
