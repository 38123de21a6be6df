//! Whether a block device holds a file system that is mounted for writing while it is backed up.
//!
//! What is read of such a device is of no one moment: the beginning is older than the end, and what the system has not
//! written yet is missing. It is not refused, because a file system that was frozen first is mounted all the same, and
//! nothing here can tell.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How far devices upon devices are followed: partitions, volumes, encryption, and some more.
const LEVELS_MAX: usize = 8;

/// A device by its numbers, as the kernel writes them: `MAJOR:MINOR`.
type Device = String;

/// Where file systems of a device, or of what is built upon it, are mounted for writing. Nothing for what is no block device.
pub fn places(source: &str) -> Vec<String> {
    let Some(device) = block_device(Path::new(source)) else { return Vec::new() };
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    let mut devices = BTreeSet::from([device]);
    let mut fresh: Vec<Device> = devices.iter().cloned().collect();
    for _ in 0..LEVELS_MAX {
        fresh = fresh.iter().flat_map(upon).filter(|device| devices.insert(device.clone())).collect();
        if fresh.is_empty() {
            break;
        }
    }
    places_in(&table, &devices, |path| block_device(Path::new(path)))
}

fn block_device(path: &Path) -> Option<Device> {
    let found = std::fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    let number = found.rdev();
    Some(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

/// The partitions of a device, and the devices that are made of it.
fn upon(device: &Device) -> Vec<Device> {
    let place = PathBuf::from("/sys/dev/block").join(device);
    let entries = |path: &Path| path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries(&place).filter(|path| path.join("partition").exists());
    let holders = entries(&place.join("holders"));
    partitions
        .chain(holders)
        .filter_map(|path| std::fs::read_to_string(path.join("dev")).ok())
        .map(|text| text.trim().to_owned())
        .collect()
}

/// Looks devices up in the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): the third field is the device, the fifth
/// the mount point; kind, source and options of the file system come after a lone dash. Some file systems (Btrfs) have a
/// number of their own there; those are known by their source.
fn places_in(
    table: &str,
    devices: &BTreeSet<Device>,
    device_of: impl Fn(&str) -> Option<Device>,
) -> Vec<String> {
    let mut places = Vec::new();
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = before.split(' ').collect();
        let (Some(number), Some(point), Some(own)) = (fields.get(2), fields.get(4), fields.get(5)) else {
            continue;
        };
        let mut of_system = after.split(' ').skip(1);
        let (source, system) = (of_system.next().unwrap_or_default(), of_system.next().unwrap_or_default());
        let is_of_device = devices.contains(*number)
            || number.starts_with("0:") && device_of(source).is_some_and(|found| devices.contains(&found));
        let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
        // A mount for reading of a file system that is written elsewhere is seen there.
        if is_of_device && !is_read_only(own) && !is_read_only(system) {
            places.push(point.replace("\\040", " "));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 253:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 22 253:2 / /srv/with\\040blank rw - xfs /dev/vda2 rw
31 22 253:3 / /frozen ro,relatime - ext4 /dev/vda3 rw
32 22 253:4 / /medium rw - iso9660 /dev/vdb ro
40 22 0:45 /sub /data rw - btrfs /dev/vdc rw
41 22 0:46 / /run rw - tmpfs tmpfs rw
broken line
";

    #[test]
    fn what_is_mounted_for_writing_is_found_by_number_or_source() {
        let device_of = |path: &str| (path == "/dev/vdc").then(|| "253:32".to_owned());
        let places = |numbers: &[&str]| {
            places_in(TABLE, &numbers.iter().map(|number| (*number).to_owned()).collect(), device_of)
        };
        assert_eq!(places(&["253:0", "253:1", "253:2"]), ["/", "/srv/with blank"]);
        assert!(places(&["253:3", "253:4"]).is_empty(), "read only");
        assert_eq!(places(&["253:32"]), ["/data"]);
        assert!(places(&["7:0"]).is_empty());
    }

    #[test]
    fn a_file_is_no_device() {
        assert!(places("/etc/hostname").is_empty() && places("/nowhere").is_empty());
    }
}
