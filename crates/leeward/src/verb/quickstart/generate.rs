//! A disk made of files of this machine, for who has none at hand.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::gather::{Found, gather};
use super::tools::{find, io};
use super::{ext4, fat};
use crate::failure::{Code, Failure};

/// Where the one partition begins.
pub const PARTITION_OFFSET: u64 = 1 << 20;
/// The least that a disk is made of.
const CONTENT_MIN: u64 = 1 << 20;

/// A stretch of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub length: u64,
}

/// The file system of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// Made by mke2fs.
    Ext4,
    /// Made by Leeward.
    Fat32,
}

/// A disk that was made.
pub struct Generated {
    /// The raw file.
    pub path: PathBuf,
    /// What made which file system.
    pub how: String,
    /// Number of files on it.
    pub files: usize,
    /// Their bytes.
    pub file_bytes: u64,
    /// Where content of files lies: what may be overwritten without harm to the file system.
    pub regions: Vec<Region>,
}

/// Makes a raw disk with one partition that holds about `bytes` of files.
pub fn generate(
    folder: &Path,
    bytes: u64,
    wanted: Option<FileSystem>,
    free_bytes: u64,
    note: &dyn Fn(&str),
) -> Result<Generated, Failure> {
    // The files are there twice while the disk is made; afterwards come the disk, two repositories and their slack.
    let bytes = bytes.min(free_bytes / 5);
    if bytes < CONTENT_MIN {
        return Err(Failure::new(Code::Refused, format!("too little space is free in {}", folder.display()))
            .hint("name a folder with more space with --dir"));
    }
    let files = gather(bytes)?;
    let path = folder.join("disk.raw");
    let mut why_not = "mke2fs is not installed".to_owned();
    if wanted != Some(FileSystem::Fat32)
        && let Some(mke2fs) = find("mke2fs")
    {
        match ext4::make(&mke2fs, &files, folder, &path, note) {
            Ok(generated) => return Ok(generated),
            Err(failure) if failure.code() != Code::Failed => return Err(failure),
            Err(failure) => why_not = failure.to_string(),
        }
    }
    if wanted == Some(FileSystem::Ext4) {
        return Err(Failure::new(Code::NotFound, why_not).hint("install e2fsprogs"));
    }
    let mut generated = fat::make(&files, &path)?;
    if wanted.is_none() {
        generated.how = format!("{}; {why_not}", generated.how);
    }
    Ok(generated)
}

/// The sum of the sizes of files.
pub fn total(files: &[Found]) -> u64 {
    files.iter().map(|file| file.size).sum()
}

/// What a machine says on its first serial port when it starts from the disk.
pub const GREETING: &str = "LEEWARD-STARTED: the boot sector of this disk runs; it has files and no system";

/// A boot sector, without its partition table, that greets and halts. 8086 code as a BIOS starts it at 0000:7c00.
fn boot_sector() -> Vec<u8> {
    const CODE: [u8; 33] = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xfc, // cld
        0xbe, 0x21, 0x7c, // mov si, text
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x11, // jz end
        0x88, 0xc3, // mov bl, al
        0xba, 0xfd, 0x03, // mov dx, 0x3fd: line status of the port
        0xec, // busy: in al, dx
        0xa8, 0x20, // test al, 0x20: room for a byte
        0x74, 0xfb, // jz busy
        0xb2, 0xf8, // mov dl, 0xf8: data of the port
        0x88, 0xd8, // mov al, bl
        0xee, // out dx, al
        0xeb, 0xea, // jmp next
        0xf4, // end: hlt
        0xeb, 0xfd, // jmp end
    ];
    let mut sector = CODE.to_vec();
    sector.extend_from_slice(GREETING.as_bytes());
    sector.extend_from_slice(b"\r\n\0");
    sector
}

/// A new raw file of `size` bytes with one partition from [`PARTITION_OFFSET`] to its end.
pub fn blank_disk(path: &Path, size: u64, partition_type: u8) -> Result<File, Failure> {
    let file = File::create_new(path).map_err(io("create", path))?;
    file.set_len(size).map_err(io("set the length of", path))?;
    let sectors = |bytes: u64| u32::try_from(bytes / 512).unwrap_or(u32::MAX).to_le_bytes();
    file.write_all_at(&boot_sector(), 0).map_err(io("write", path))?;
    let mut table = [0; 66];
    table[0] = 0x80;
    table[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    table[4] = partition_type;
    table[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    table[8..12].copy_from_slice(&sectors(PARTITION_OFFSET));
    table[12..16].copy_from_slice(&sectors(size - PARTITION_OFFSET));
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 446).map_err(io("write", path))?;
    Ok(file)
}
