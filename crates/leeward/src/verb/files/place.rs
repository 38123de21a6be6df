//! Which disk, which volume of it, and which path there.

use std::sync::Arc;

use leeward_disk::SharedSource;
use leeward_files::{FileSystem, Follow, OpenOptions, Volume, Volumes, lookup, volumes};
use leeward_repository::SnapshotSpec;

use super::{DiskArguments, warn};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::verb::repository::RepositoryArgument;

/// What only the root of a system has.
const ROOT_MARKS: [&[u8]; 4] = [b"/etc/os-release", b"/etc/fstab", b"/etc/passwd", b"/Windows/System32"];

/// A volume and a path on it.
pub struct Place {
    /// The volume, if it was named.
    pub volume: Option<String>,
    /// The path.
    pub path: Vec<u8>,
}

pub fn usage(message: String) -> Failure {
    Failure::new(Code::Usage, message)
        .hint("for example: leeward files web/root 1:/etc, leeward cp web/root:/etc/fstab .")
}

impl Place {
    /// Reads `/PATH` or `VOLUME:/PATH`.
    pub fn parse(text: &str, arguments: &DiskArguments) -> Result<Self, Failure> {
        let (volume, path) = if text.starts_with('/') {
            (arguments.volume.clone(), text)
        } else {
            let Some((volume, path)) = text.split_once(":/") else {
                return Err(usage(format!("{text}: a path in a disk begins with / or with VOLUME:/")));
            };
            if arguments.volume.is_some() {
                return Err(usage(format!("{text}: --volume names the volume already")));
            }
            (Some(volume.to_owned()), text.get(text.len() - path.len() - 1..).unwrap_or("/"))
        };
        Ok(Self { volume, path: path.as_bytes().to_vec() })
    }
}

/// Splits `SNAPSHOT:/PATH` or `SNAPSHOT:VOLUME:/PATH` behind the snapshot. A time has colons too, so a number behind
/// hours or minutes belongs to it.
pub fn split_source(text: &str) -> Result<(&str, &str), Failure> {
    let Some(end) = text.find(":/") else {
        return Err(usage(format!("{text}: say what to copy, as SNAPSHOT:/PATH")));
    };
    let (before, path) = text.split_at(end);
    let start = before.rfind(":lvm:").or_else(|| {
        let (rest, last) = before.rsplit_once(':')?;
        let is_number = last.parse::<u32>().is_ok_and(|number| number > 0) && !last.starts_with('0');
        (last == "disk" || is_number && !ends_in_time(rest)).then_some(rest.len())
    });
    match start {
        Some(start) => Ok((text.get(..start).unwrap_or(text), text.get(start + 1..).unwrap_or_default())),
        None => Ok((before, path.get(1..).unwrap_or_default())),
    }
}

/// Whether the text ends in `T12` or `T12:30`, so that `:30` behind it would be minutes or seconds.
fn ends_in_time(text: &str) -> bool {
    let two = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((_, time)) = text.rsplit_once(['T', 't']) else { return false };
    match time.split_once(':') {
        None => two(time),
        Some((hours, minutes)) => two(hours) && two(minutes),
    }
}

/// Opens the disk: a snapshot, or what `--disk` names.
pub fn open_disk(
    arguments: &DiskArguments,
    snapshot: Option<&str>,
    repository: &RepositoryArgument,
) -> Result<SharedSource, Failure> {
    let Some(snapshot) = snapshot else {
        return arguments.open.open(arguments.disk.as_deref().unwrap_or_default());
    };
    let spec: SnapshotSpec = snapshot.parse()?;
    let repository = repository.open()?;
    let entry = repository.resolve(&spec)?;
    Ok(Arc::new(repository.source(entry.id)?))
}

/// Opens the file system that the place is on.
pub fn open_files(
    disk: &SharedSource,
    place: &Place,
    arguments: &DiskArguments,
    output: &Output,
) -> Result<Box<dyn FileSystem>, Failure> {
    let found = volumes(disk)?;
    let files = match &place.volume {
        Some(id) => named(&found, id)?.open(options(arguments))?,
        None => only(&found, arguments)?,
    };
    warn(files.as_ref(), output);
    Ok(files)
}

pub fn options(arguments: &DiskArguments) -> OpenOptions {
    OpenOptions { ignore_checksums: arguments.ignore_checksums }
}

fn named<'a>(found: &'a Volumes, id: &str) -> Result<&'a Volume, Failure> {
    found.volumes.iter().find(|volume| volume.id == id).ok_or_else(|| {
        let there: Vec<&str> = found.volumes.iter().map(|volume| volume.id.as_str()).collect();
        Failure::new(Code::NotFound, format!("{id}: there is no such volume on the disk"))
            .hint(format!("it has: {}", there.join(", ")))
    })
}

/// The only file system, or the only one that looks like the root of a system.
fn only(found: &Volumes, arguments: &DiskArguments) -> Result<Box<dyn FileSystem>, Failure> {
    let with_files: Vec<&Volume> = found.volumes.iter().filter(|volume| volume.has_files()).collect();
    if let [volume] = with_files.as_slice() {
        return Ok(volume.open(options(arguments))?);
    }
    let mut roots = Vec::new();
    for volume in &with_files {
        let Ok(files) = volume.open(options(arguments)) else { continue };
        if ROOT_MARKS.iter().any(|mark| lookup(files.as_ref(), mark, Follow::No).is_ok()) {
            roots.push(files);
        }
    }
    match (roots.pop(), roots.is_empty()) {
        (Some(files), true) => Ok(files),
        _ => {
            let there: Vec<String> = with_files.iter().map(|volume| volume.id.clone()).collect();
            let (message, hint) = if there.is_empty() {
                (
                    "the disk has no file system that can be read".to_owned(),
                    "see what is on it with: leeward files".to_owned(),
                )
            } else {
                (
                    format!(
                        "the disk has {} file systems, and none stands out as the root of a system",
                        there.len()
                    ),
                    format!(
                        "say which one: {}",
                        there.iter().map(|id| format!("{id}:/")).collect::<Vec<_>>().join(", ")
                    ),
                )
            };
            Err(Failure::new(Code::NotFound, message).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_split_behind_the_snapshot() {
        for (text, snapshot, path) in [
            ("web/root:/etc/fstab", "web/root", "/etc/fstab"),
            ("web/root@latest:1:/etc", "web/root@latest", "1:/etc"),
            ("web@2026-01-02T12:00:00Z:/x", "web@2026-01-02T12:00:00Z", "/x"),
            ("web@2026-01-02T12:00:15:/x", "web@2026-01-02T12:00:15", "/x"),
            ("web@2026-01-02T12:15:/x", "web@2026-01-02T12:15", "/x"),
            ("web@2026-01-02T12:00:15:2:/x", "web@2026-01-02T12:00:15", "2:/x"),
            ("web:lvm:vg/root:/x:/y", "web", "lvm:vg/root:/x:/y"),
            ("web:disk:/", "web", "disk:/"),
        ] {
            assert_eq!(split_source(text).map_err(|_| ()), Ok((snapshot, path)), "{text}");
        }
        assert!(split_source("web/root").is_err());
    }
}
