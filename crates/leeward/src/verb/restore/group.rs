//! The group that is to be restored: its members, and what is known of the machine.

use leeward_cloud::qemu::{DiskDefinition, MachineDefinition};
use leeward_repository::{Consistency, Group, ImageName, Repository, Snapshot, SnapshotId};

use crate::failure::{Code, Failure};
use crate::output::printable;
use crate::verb::groups;

/// A group with all that its manifests say.
pub struct Restorable {
    /// The group.
    pub group: Group,
    /// Its disks, in the order in which the machine had them.
    pub members: Vec<MemberDisk>,
    /// Names of the disks of which the snapshot is not kept any more.
    pub missing: Vec<String>,
    /// The machine, as far as it can be read.
    pub definition: Option<MachineDefinition>,
    /// The machine as it is stored.
    pub stored_definition: Option<serde_json::Value>,
    /// What is wrong with the stored one, if something is.
    pub flaw: Option<String>,
}

/// A disk of a group.
pub struct MemberDisk {
    /// Its name: the last part of its image's.
    pub name: String,
    /// Its image.
    pub image: ImageName,
    /// Its snapshot.
    pub id: SnapshotId,
    /// The manifest.
    pub snapshot: Snapshot,
    /// What the machine's definition says of it.
    pub definition: Option<DiskDefinition>,
}

impl MemberDisk {
    /// The snapshot, for people.
    pub fn label(&self) -> String {
        format!("{}@{}", self.image, self.id.short())
    }
}

impl Restorable {
    /// Reads the group that a person means.
    pub fn load(repository: &Repository, wanted: &str) -> Result<Self, Failure> {
        let group = groups::resolve(repository, wanted)?;
        let mut members = Vec::new();
        for (image, entry) in &group.members {
            let snapshot = repository.snapshot(entry.id)?;
            let name = last_part(image.as_str()).to_owned();
            members.push(MemberDisk { name, image: image.clone(), id: entry.id, snapshot, definition: None });
        }
        let records: Vec<_> = members.iter().filter_map(|member| member.snapshot.group.clone()).collect();
        let Some(record) = records.first().filter(|record| {
            record.id == group.id
                && records.len() == members.len()
                && records.iter().all(|other| other == *record)
        }) else {
            return Err(Failure::new(
                Code::Damaged,
                format!("the members of group {} do not agree on what the group is", group.id),
            )
            .hint("run `leeward check`; single disks can be restored by their images"));
        };
        let is_there = |image: &String| members.iter().any(|member| member.image.as_str() == image);
        let missing = record.images.iter().filter(|image| !is_there(image));
        let missing = missing.map(|image| last_part(image).to_owned()).collect();
        let stored_definition = record.machine.clone();
        let read = stored_definition.clone().map(serde_json::from_value::<MachineDefinition>).transpose();
        let (definition, flaw) = match read {
            Ok(definition) => (definition, None),
            Err(error) => (None, Some(printable(&error.to_string()))),
        };
        let mut found = Self { group, members, missing, definition, stored_definition, flaw };
        found.describe_disks();
        found.make_names_unique();
        Ok(found)
    }

    /// Joins disks and their definitions, and brings them into the machine's order.
    fn describe_disks(&mut self) {
        let Some(definition) = &self.definition else { return };
        let place = |member: &MemberDisk| {
            let of_image =
                definition.disks.iter().position(|disk| disk.image.as_deref() == Some(member.image.as_str()));
            of_image.or_else(|| {
                definition.disks.iter().position(|disk| disk.image.is_none() && disk.name == member.name)
            })
        };
        for member in &mut self.members {
            member.definition = place(member).map(|place| definition.disks[place].clone());
        }
        self.members.sort_by_cached_key(|member| place(member).unwrap_or(usize::MAX));
    }

    /// Two images of a group may end alike; their files may not.
    fn make_names_unique(&mut self) {
        for index in 1..self.members.len() {
            while self.members[..index].iter().any(|other| other.name == self.members[index].name) {
                self.members[index].name.push_str("-2");
            }
        }
    }

    /// The name of the machine.
    pub fn machine(&self) -> &str {
        groups::machine_of(&self.group)
    }

    /// Keeps the disks that are named; without names all of them are wanted.
    ///
    /// # Errors
    /// One of them was forgotten or never was.
    pub fn select(&mut self, wanted: &[String]) -> Result<(), Failure> {
        if wanted.is_empty() && !self.missing.is_empty() {
            let missing = printable(&self.missing.join(", "));
            return Err(Failure::new(
                Code::NotFound,
                format!("group {} is not whole: the snapshots of {missing} were forgotten", self.group.id),
            )
            .hint(format!("choose among the others with: {}", self.choices())));
        }
        for name in wanted {
            if self.members.iter().any(|member| goes_by(member, name)) {
                continue;
            }
            let forgotten = self.missing.iter().any(|missing| missing == name);
            let what = if forgotten { "the snapshot of that disk was forgotten" } else { "it never had one" };
            return Err(Failure::new(
                Code::NotFound,
                format!("group {} has no disk {name:?}: {what}", self.group.id),
            )
            .hint(format!("there are: {}", self.choices())));
        }
        if !wanted.is_empty() {
            self.members.retain(|member| wanted.iter().any(|name| goes_by(member, name)));
        }
        Ok(())
    }

    fn choices(&self) -> String {
        let names: Vec<_> = self.members.iter().map(|member| format!("--disk {}", member.name)).collect();
        names.join(" ")
    }

    /// How far the disks agree with themselves and each other: as the weakest of them does.
    pub fn consistency(&self) -> &'static str {
        let has = |wanted| self.members.iter().any(|member| member.snapshot.consistency == wanted);
        match (has(Consistency::Crash), has(Consistency::Filesystem)) {
            (true, _) => "crash: as after a power cut",
            (_, true) => "filesystem: the guest had written everything out",
            _ => "at rest: nothing was writing",
        }
    }
}

/// Whether a person can mean the disk by this name.
pub fn goes_by(member: &MemberDisk, name: &str) -> bool {
    let in_machine = member.definition.as_ref().map(|disk| disk.name.as_str());
    member.name == name || member.image.as_str() == name || in_machine == Some(name)
}

fn last_part(image: &str) -> &str {
    image.rsplit_once('/').map_or(image, |(_, last)| last)
}
