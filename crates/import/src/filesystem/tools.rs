//! The tools, and what their exit codes mean.

use std::path::PathBuf;

use leeward_files::{Content, FileKind, Volume};

use super::Verdict;
use crate::{Error, Result};

/// A tool that checks a file system without changing it.
pub(super) struct Tool {
    pub(super) file_system: &'static str,
    pub(super) program: &'static str,
    /// Debian's package.
    pub(super) package: &'static str,
    /// What comes before the file.
    pub(super) arguments: &'static [&'static str],
    /// How large a file it may write: nothing, as `prlimit` has it. One that takes its own limit away first may do that,
    /// and has no place to write then either, as it runs under a user that owns nothing.
    pub(super) file_limit: &'static str,
    /// Exit codes that mean errors, besides 0 for none; all others mean that it could not work.
    errors: &'static [i32],
}

/// Where tools are, whatever the caller's path is.
const PLACES: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

// e2fsck(8): 4 errors left uncorrected; 1, 2 and 12 hold the same bits with others.
static EXT: Tool = Tool {
    file_system: "ext",
    program: "e2fsck",
    package: "e2fsprogs",
    arguments: &["-f", "-n"],
    file_limit: "0",
    errors: &[1, 2, 4, 12],
};
// xfs_repair(8): with -n 1 for corruption, 2 for a log that was not replayed.
static XFS: Tool = Tool {
    file_system: "xfs",
    program: "xfs_repair",
    package: "xfsprogs",
    arguments: &["-n", "-f"],
    file_limit: "0:unlimited",
    errors: &[1, 2],
};
static NTFS: Tool = Tool {
    file_system: "ntfs",
    program: "ntfsfix",
    package: "ntfs-3g",
    arguments: &["-n"],
    file_limit: "0",
    errors: &[1],
};
// fsck.fat(8): 1 for recoverable errors found.
static FAT: Tool = Tool {
    file_system: "fat",
    program: "fsck.fat",
    package: "dosfstools",
    arguments: &["-n"],
    file_limit: "0",
    errors: &[1],
};
static EXFAT: Tool = Tool {
    file_system: "exfat",
    program: "fsck.exfat",
    package: "exfatprogs",
    arguments: &["-n"],
    file_limit: "0",
    errors: &[1, 2, 4],
};
static BTRFS: Tool = Tool {
    file_system: "btrfs",
    program: "btrfs",
    package: "btrfs-progs",
    arguments: &["check", "--readonly"],
    file_limit: "0",
    errors: &[1],
};

impl Tool {
    /// The tool for what a volume holds.
    pub(super) fn of(volume: &Volume) -> Result<Option<&'static Self>> {
        let kind = match &volume.content {
            Content::Files(kind) => *kind,
            Content::Other(_) => return Ok(is_btrfs(volume)?.then_some(&BTRFS)),
        };
        Ok(match kind {
            FileKind::Ext2 | FileKind::Ext3 | FileKind::Ext4 => Some(&EXT),
            FileKind::Xfs => Some(&XFS),
            FileKind::Ntfs => Some(&NTFS),
            FileKind::Fat => Some(&FAT),
            FileKind::ExFat => Some(&EXFAT),
            _ => None,
        })
    }

    /// Where it is installed.
    pub(super) fn find(&self) -> Option<PathBuf> {
        PLACES.iter().map(|place| PathBuf::from(place).join(self.program)).find(|path| path.is_file())
    }

    /// The tool with its options, for people.
    pub(super) fn command(&self) -> String {
        format!("{} {}", self.program, self.arguments.join(" "))
    }

    pub(super) fn verdict(&self, code: i32) -> Verdict {
        match code {
            0 => Verdict::Clean,
            code if self.errors.contains(&code) => Verdict::Errors,
            code => Verdict::NotChecked { why: format!("{} could not work: exit code {code}", self.program) },
        }
    }
}

/// The magic of Btrfs, in its first superblock.
fn is_btrfs(volume: &Volume) -> Result<bool> {
    let mut magic = [0; 8];
    match volume.source() {
        Some(source) if source.virtual_size() > 0x10048 => {
            source.read_at(&mut magic, 0x10040).map_err(Error::Disk)?;
            Ok(&magic == b"_BHRfS_M")
        }
        _ => Ok(false),
    }
}

/// What a volume holds where no tool is for it.
pub(super) fn describe(volume: &Volume) -> String {
    match (&volume.problem, &volume.content) {
        (Some(problem), _) => problem.clone(),
        (None, Content::Other(what)) => what.clone(),
        (None, Content::Files(_)) => "nothing that can be read".to_owned(),
    }
}
