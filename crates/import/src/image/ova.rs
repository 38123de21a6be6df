//! An OVA: a tar archive with a description (OVF) and the disks of a machine.

use leeward_disk::Storage;
use roxmltree::{Document, Node};

use super::tar::{self, Member};
use crate::{Error, Result};

/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: u64 = 4 << 20;
/// Disks of a machine, at most.
const DISKS_MAX: usize = 64;

/// The members of an archive that are disks, in the order of the description, and what a person should know.
pub(super) struct Disks {
    pub(super) members: Vec<Member>,
    pub(super) notes: Vec<String>,
}

/// Reads the description of an archive.
pub(super) fn disks(storage: &dyn Storage) -> Result<Disks> {
    let wrong = |what: String| Error::Image { object: storage.name().to_owned(), what };
    let members = tar::members(storage)?;
    let description = members.iter().find(|member| has_ending(&member.name, ".ovf")).ok_or_else(|| {
        wrong(
            "it is a tar archive without an OVF description, so no OVA; upload the disk image itself"
                .to_owned(),
        )
    })?;
    if description.bytes > DESCRIPTION_BYTES_MAX {
        return Err(wrong(format!("a description of {} bytes", description.bytes)));
    }
    let mut text = vec![0; description.bytes as usize];
    storage.read_at(&mut text, description.offset)?;
    let text = String::from_utf8(text).map_err(|_| wrong("the description is no text".to_owned()))?;
    // Documents with a DTD are refused by the parser, so nothing in one can grow.
    let document = Document::parse(text.trim_start_matches('\u{feff}'))
        .map_err(|error| wrong(format!("the description is no XML: {error}")))?;
    let mut notes = Vec::new();
    if members.iter().any(|member| has_ending(&member.name, ".mf")) {
        notes.push("the digests in the archive's manifest were not compared".to_owned());
    }
    let members = listed(&document, &members, &mut notes).map_err(wrong)?;
    if members.is_empty() {
        return Err(wrong("the description names no disk with content".to_owned()));
    }
    Ok(Disks { members, notes })
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.to_ascii_lowercase().ends_with(ending)
}

fn listed(
    document: &Document<'_>,
    members: &[Member],
    notes: &mut Vec<String>,
) -> Result<Vec<Member>, String> {
    let mut found: Vec<Member> = Vec::new();
    for disk in elements(document, "Disk") {
        let id = attribute(disk, "diskId").unwrap_or("without a name");
        if attribute(disk, "parentRef").is_some() {
            return Err(format!("the disk {id} is a difference from another: export it whole"));
        }
        let Some(reference) = attribute(disk, "fileRef") else {
            notes.push(format!("the disk {id} has no content, and makes no volume"));
            continue;
        };
        let file = elements(document, "File").find(|file| attribute(*file, "id") == Some(reference));
        let file =
            file.ok_or_else(|| format!("the disk {id} is in a file {reference:?} that is not described"))?;
        if attribute(file, "chunkSize").is_some() {
            return Err(format!("the disk {id} is in pieces: export it as one file"));
        }
        let href = attribute(file, "href").unwrap_or_default();
        // Only what is in the archive: a description may name a place anywhere.
        let mut named = members.iter().filter(|member| member.name == href);
        match (named.next(), named.next()) {
            (Some(member), None) if !found.contains(member) => found.push(member.clone()),
            (Some(_), None) => return Err(format!("two disks are in {href:?}")),
            (None, _) => return Err(format!("the disk {id} is in {href:?}, which is not in the archive")),
            (Some(_), Some(_)) => return Err(format!("{href:?} is in the archive twice")),
        }
        if found.len() > DISKS_MAX {
            return Err(format!("it has more than {DISKS_MAX} disks"));
        }
    }
    Ok(found)
}

fn elements<'a>(document: &'a Document<'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    document.root().descendants().filter(move |node| node.tag_name().name() == name)
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|attribute| attribute.name() == name).map(|attribute| attribute.value())
}
