//! `get_file_head` and `download_image_from_bucket`: what the object is, and what is in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use leeward_remote::objects::{Metadata, ObjectHead, ObjectVersion, StatedDigests};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome, Step};
use serde::{Deserialize, Serialize};

use super::fault::Watching;
use super::snapshot::{self, Found};
use super::{Inputs, Origin, Places, fault};
use crate::image::{Expanded, ImageOptions, ObjectImage};
use crate::metadata::{self, Wishes};
use crate::names;

/// The tag that says which snapshot a volume was made of.
const RESTORED_FROM: &str = "restored-from";

/// What `get_file_head` leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// The object.
    pub head: ObjectHead,
    /// What its owner says about it.
    pub metadata: Metadata,
    /// What its owner asks for.
    pub wishes: Wishes,
}

impl Seen {
    /// What the volume for a disk is called.
    pub fn volume_name(&self, inputs: &Inputs, number: usize, disk: &DiskSeen) -> String {
        let given = inputs.volume_name.as_deref().filter(|name| !name.is_empty());
        match (given, number) {
            (Some(name), 0) => names::volume(name, ""),
            (Some(name), _) => names::volume(&format!("{name}-{}", number + 1), ""),
            (None, _) => names::volume(&inputs.object, &disk.name),
        }
    }
}

/// What `download_image_from_bucket` leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Image {
    /// The disks, one at least.
    pub disks: Vec<DiskSeen>,
    /// What was measured of wrapped disks.
    #[serde(default)]
    pub expanded: BTreeMap<String, Expanded>,
}

/// A disk in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskSeen {
    /// Which: the name of a member, empty where there is one only.
    pub name: String,
    /// Its format, by content.
    pub format: String,
    /// What is around it.
    pub wrappings: Vec<String>,
    /// Size that a guest sees.
    pub virtual_bytes: u64,
}

/// `get_file_head`.
pub(super) struct Head(pub Arc<dyn Places>);

impl Step for Head {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let inputs = Inputs::of(context)?;
        if inputs.origin == Origin::Snapshot {
            return self.snapshot(context, &inputs);
        }
        let source = self.0.source(&inputs.source).map_err(fault::of_place)?;
        let head = source.head(&inputs.object).map_err(|error| fault::of_store(&error))?;
        if let Some(version) = inputs.version.as_ref().filter(|version| **version != head.version.0) {
            return Err(Fault::lasting(
                format!(
                    "{}: version {version} is meant, and the object is now {}",
                    inputs.object, head.version.0
                ),
                "cancel this run; the new object has a run of its own, or begin one by hand",
            ));
        }
        let wishes = metadata::parse(&head.metadata).map_err(|error| fault::of_import(&error))?;
        context.say(format!("{}: {} bytes, version {}", inputs.object, head.bytes, head.version.0));
        for (name, value) in &head.metadata {
            context.say(format!("metadata {name:?} = {value:?}"));
        }
        Outcome::done(&Seen { metadata: head.metadata.clone(), head, wishes })
    }
}

impl Head {
    fn snapshot(&self, context: &Context, inputs: &Inputs) -> Result<Outcome, Fault> {
        let target = self.0.target(&inputs.target).map_err(fault::of_place)?;
        inputs.check_target(&target)?;
        let Found { image, entry, .. } = Found::look(self.0.as_ref(), &snapshot::of_run(context)?)?;
        context.say(format!(
            "{image}@{} of {}: a disk of {} bytes",
            entry.id.short(),
            entry.created,
            entry.virtual_size
        ));
        // What the volume is a copy of stands in its tags, where the provider has such.
        let metadata = Metadata::from([(RESTORED_FROM.to_owned(), format!("{image}@{}", entry.id))]);
        let head = ObjectHead {
            bytes: entry.virtual_size,
            version: ObjectVersion(entry.id.to_string()),
            digests: StatedDigests::default(),
            metadata: Metadata::new(),
            modified: Some(entry.created),
        };
        Outcome::done(&Seen { head, metadata, wishes: Wishes::default() })
    }
}

/// `download_image_from_bucket`.
pub(super) struct Open(pub Arc<dyn Places>);

impl Step for Open {
    fn act(&self, context: &Context) -> Result<Outcome, Fault> {
        let image = open(self.0.as_ref(), context, &BTreeMap::new())?;
        image.notes.iter().for_each(|note| context.log(Level::Warning, note));
        let seen: Vec<_> = image
            .disks
            .iter()
            .map(|disk| DiskSeen {
                name: disk.identity().disk.clone(),
                format: disk.format.name().to_owned(),
                wrappings: disk.wrappings.clone(),
                virtual_bytes: disk.virtual_size(),
            })
            .collect();
        for disk in &seen {
            let wrapped = disk.wrappings.iter().map(|name| format!(" in {name}")).collect::<String>();
            context
                .say(format!("{} disk of {} bytes{wrapped} {}", disk.format, disk.virtual_bytes, disk.name));
        }
        context.say(match Inputs::of(context)?.origin {
            Origin::Object => "nothing is downloaded: the image is read where it lies",
            Origin::Snapshot => "each chunk of the snapshot is compared with its name when it is read",
        });
        Outcome::done(&Image { disks: seen, expanded: image.expanded })
    }
}

/// Opens the object in the version that the run is about.
pub(super) fn open(
    places: &dyn Places,
    context: &Context,
    expanded: &BTreeMap<String, Expanded>,
) -> Result<ObjectImage, Fault> {
    let inputs = Inputs::of(context)?;
    if inputs.origin == Origin::Snapshot {
        return snapshot::open(places, &snapshot::of_run(context)?);
    }
    let seen: Seen = context.needed("get_file_head")?;
    let source = places.source(&inputs.source).map_err(fault::of_place)?;
    let options =
        ImageOptions { format: seen.wishes.format, expanded: expanded.clone(), ..ImageOptions::default() };
    let watching = Watching { context, note: "opening the image" };
    crate::image::open(&source, &inputs.object, &seen.head, &options, &watching)
        .map_err(|error| fault::of_import(&error))
}
