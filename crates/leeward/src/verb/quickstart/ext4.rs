//! An ext4 disk by mke2fs, without root and without loop devices.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::gather::Found;
use super::generate::{Generated, PARTITION_OFFSET, Region, blank_disk, total};
use super::tools::{check_interrupt, find, io, run};
use crate::failure::{Code, Failure};

const BLOCK: u64 = 4096;
const LINUX: u8 = 0x83;
/// The largest files are asked where they lie, up to this many.
const ASKED_MAX: usize = 200;

/// Copies the files together, lets mke2fs make a file system of them, and removes the copies.
pub fn make(
    mke2fs: &Path,
    files: &[Found],
    folder: &Path,
    path: &Path,
    note: &dyn Fn(&str),
) -> Result<Generated, Failure> {
    let staging = folder.join("files");
    let copied = stage(files, &staging, note)?;
    let blocks: u64 = copied.iter().map(|file| file.size.next_multiple_of(BLOCK)).sum();
    let size = (PARTITION_OFFSET + blocks / 4 * 5 + (48 << 20)).next_multiple_of(1 << 20);
    drop(blank_disk(path, size, LINUX)?);
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "leeward"]);
    command.args(["-N", &(copied.len() * 2 + 1024).to_string()]);
    command.args(["-E", &format!("offset={PARTITION_OFFSET},root_owner=0:0")]);
    command.arg("-d").arg(&staging).arg(path).arg(format!("{}k", (size - PARTITION_OFFSET) >> 10));
    note("mke2fs makes the file system …");
    let made = run(&mut command, folder);
    std::fs::remove_dir_all(&staging).map_err(io("remove", &staging))?;
    if let Err(failure) = made {
        std::fs::remove_file(path).map_err(io("remove", path))?;
        return Err(failure);
    }
    Ok(Generated {
        path: path.to_owned(),
        how: "ext4 in an MBR partition, made by mke2fs".to_owned(),
        files: copied.len(),
        file_bytes: copied.iter().map(|file| file.size).sum(),
        regions: regions(&copied, folder, path)?,
    })
}

/// Copies files below a folder; those that cannot be read any more are left out.
fn stage<'a>(files: &'a [Found], staging: &Path, note: &dyn Fn(&str)) -> Result<Vec<&'a Found>, Failure> {
    let mut copied = Vec::with_capacity(files.len());
    for file in files {
        check_interrupt()?;
        note(&format!("copy files: {} of {}", copied.len(), files.len()));
        let Ok(mut from) = file.open() else { continue };
        let target = staging.join(&file.name);
        let folder = target.parent().unwrap_or(staging);
        std::fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        let mut to = File::create_new(&target).map_err(io("create", &target))?;
        std::io::copy(&mut from, &mut to).map_err(io("copy into", &target))?;
        let mode = std::fs::Permissions::from_mode(file.mode | 0o200);
        to.set_permissions(mode).map_err(io("set the permissions of", &target))?;
        copied.push(file);
    }
    if total(files) > 0 && copied.is_empty() {
        return Err(Failure::new(Code::Failed, "none of the files of this machine could be read"));
    }
    Ok(copied)
}

/// Asks debugfs where the content of the largest files lies. Without it nothing is known.
fn regions(files: &[&Found], folder: &Path, path: &Path) -> Result<Vec<Region>, Failure> {
    let Some(debugfs) = find("debugfs") else { return Ok(Vec::new()) };
    let mut largest = files.to_vec();
    largest.sort_by(|a, b| (b.size, &a.name).cmp(&(a.size, &b.name)));
    largest.truncate(ASKED_MAX);
    let mut questions = String::new();
    for file in largest {
        // Writing to a string cannot fail.
        let _ = writeln!(questions, "dump_extents -l /{}", file.name);
    }
    let script = folder.join("debugfs.commands");
    std::fs::write(&script, questions).map_err(io("write", &script))?;
    let mut command = Command::new(debugfs);
    command.arg("-f").arg(&script).arg(format!("{}?offset={PARTITION_OFFSET}", path.display()));
    let answers = run(&mut command, folder);
    std::fs::remove_file(&script).map_err(io("remove", &script))?;
    Ok(answers?.lines().filter_map(extent).collect())
}

/// A line of `dump_extents`: ` 0/ 0   1/  3     0 -   255    33280 -   33535    256`, uninitialised ones left out.
fn extent(line: &str) -> Option<Region> {
    let tail = line.split_once(" - ")?.1.split_once(" - ")?;
    let first: u64 = tail.0.split_whitespace().last()?.parse().ok()?;
    let mut rest = tail.1.split_whitespace();
    let last: u64 = rest.next()?.parse().ok()?;
    let count: u64 = rest.next()?.parse().ok()?;
    let plausible = rest.next().is_none() && last.checked_sub(first)? + 1 == count;
    plausible.then_some(Region { offset: PARTITION_OFFSET + first * BLOCK, length: count * BLOCK })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_debugfs_are_read() {
        let region = Region { offset: PARTITION_OFFSET + 33280 * BLOCK, length: 256 * BLOCK };
        assert_eq!(extent(" 0/ 0   1/  1     0 -   255    33280 -   33535    256 "), Some(region));
        assert_eq!(extent(" 0/ 0   1/  1     0 -   255    33280 -   33535    256 Uninit"), None);
        assert_eq!(extent("Level Entries       Logical          Physical Length Flags"), None);
        assert_eq!(extent("debugfs: dump_extents -l /usr/bin/a - b - c"), None);
    }
}
