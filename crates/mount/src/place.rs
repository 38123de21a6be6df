//! The mount point: whether it can be used, what a killed process left there, and how to take a mount away.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::{Error, Result};

/// What the system's table of mounts has as the source of the file systems that this crate mounts.
pub(crate) const SOURCE: &str = "leeward";

/// Where mounts go. Makes sure that a mount can be made there: a mount that a killed process left behind is removed.
///
/// # Errors
/// The directory is missing, not empty, or has something mounted on it that is not a dead mount of ours.
pub(crate) fn prepare(path: &Path) -> Result<PathBuf> {
    let failed = |source| Error::MountPoint { path: path.to_owned(), source };
    // Through the parent: the directory itself cannot be looked at while a dead mount lies on it.
    let place = match path.canonicalize() {
        Ok(place) => place,
        Err(error) if is_dead(&error) => real_path(path).map_err(failed)?,
        Err(error) => return Err(failed(error)),
    };
    if let Some(mount) = mount_at(&place) {
        // The kernel remembers what the directory looked like, but has to ask for what is in it.
        let is_left_over = place.read_dir().is_err_and(|error| is_dead(&error));
        if !mount.is_ours() || !is_left_over {
            return Err(Error::Occupied { path: place, what: mount.kind });
        }
        detach(&place)?;
    }
    let mut entries = place.read_dir().map_err(failed)?;
    if entries.next().is_some() {
        return Err(Error::NotEmpty { path: place });
    }
    Ok(place)
}

/// Whether an error says that nobody serves a FUSE mount any more. While its process is still being torn down the
/// kernel has another word for it.
fn is_dead(error: &io::Error) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn real_path(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(absolute),
    }
}

/// A line of the system's table of mounts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    kind: String,
    source: String,
}

impl MountEntry {
    /// Whether this crate made it. The kind has our name after a dot only where fusermount3 mounted.
    fn is_ours(&self) -> bool {
        self.source == SOURCE && (self.kind == "fuse" || self.kind == "fuse.leeward")
    }
}

/// Whether a mount of ours is there.
pub(crate) fn is_mounted(place: &Path) -> bool {
    mount_at(place).is_some_and(|entry| entry.is_ours())
}

/// What is mounted last on exactly this directory.
fn mount_at(place: &Path) -> Option<MountEntry> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    entry_in(&table, place)
}

/// Looks a directory up in the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): the fifth field is the mount
/// point; kind and source come after a lone dash.
fn entry_in(table: &[u8], place: &Path) -> Option<MountEntry> {
    let mut found = None;
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(point) = fields.nth(4) else { continue };
        if unescape(point) == place.as_os_str().as_bytes() {
            let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
            let mut text =
                || fields.next().map(|field| String::from_utf8_lossy(&unescape(field)).into_owned());
            found = text().zip(text()).map(|(kind, source)| MountEntry { kind, source });
        }
    }
    found
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match (first, digits) {
            (b'\\', Some(digits)) => {
                out.push(
                    digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Takes a mount out of the tree at once, also while files in it are open; whoever has one open goes on as long as it is
/// served.
///
/// # Errors
/// The system refuses, or the helper is missing.
pub(crate) fn detach(place: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::Unmount { path: place.to_owned(), source };
    match unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        // Somebody was faster.
        Err(Errno::INVAL) => return Ok(()),
        Err(Errno::PERM) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let output = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(place)
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if output.status.success() || mount_at(place).is_none() {
        return Ok(());
    }
    Err(failed(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}

/// Whether what mounting needs is there; the system says more when it is tried.
pub(crate) fn check_system() -> Result<()> {
    if let Err(source) = std::fs::metadata("/dev/fuse") {
        return Err(Error::NoDevice { source });
    }
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let helper = Command::new("fusermount3").arg("--version").stdin(Stdio::null()).output();
    if helper.is_err() { Err(Error::NoHelper) } else { Ok(()) }
}

/// Whether this process may open the device itself, which mounting through the helper does not need.
pub(crate) fn can_open_device() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_exact_place_and_the_last_one_counts() {
        let table = b"1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
            2 1 0:5 / /mnt/a\\040b rw master:3 shared:4 - fuse.other x rw\n\
            3 1 0:6 / /mnt/a\\040b rw - fuse.leeward leeward rw\n\
            4 1 0:7 / /mnt/a\\134 rw - tmpfs none rw\nbroken line\n";
        let kind = |place: &str| entry_in(table, Path::new(place)).map(|entry| entry.kind);
        assert_eq!(kind("/mnt/a b").as_deref(), Some("fuse.leeward"));
        assert!(entry_in(table, Path::new("/mnt/a b")).is_some_and(|entry| entry.is_ours()));
        assert!(!entry_in(table, Path::new("/")).is_some_and(|entry| entry.is_ours()));
        assert_eq!(kind("/mnt/a\\").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/").as_deref(), Some("ext4"));
        assert_eq!(kind("/mnt/a"), None);
        assert_eq!(kind("/mnt"), None);
    }
}
