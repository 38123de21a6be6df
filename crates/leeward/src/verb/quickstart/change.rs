//! A working day for the disk: a few percent of it change, and it stays as usable as it was.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use leeward_disk::{Format, OpenOptions as DiskOptions, Source, open_source};
use serde::Serialize;

use super::generate::Region;
use super::partitions::{layout, number, read};
use super::tools::{check_interrupt, find, io, run};
use crate::failure::{Code, Failure};
use crate::size;

const PAGE: u64 = 4096;
/// Runs of pages that are rewritten together: like a database that merges, or a log that rotates.
const RUN_PAGES: (u64, u64) = (16, 160);
const PERCENT: u64 = 3;
const NEW_FILE: &str = "leeward-quickstart.bin";
const NEW_FILE_BYTES: (u64, u64) = (256 << 10, 64 << 20);

/// What was changed.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// In words.
    pub what: String,
    /// Bytes written.
    pub bytes: u64,
}

/// Numbers that are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A page that compresses like a log, or one that does not, like a picture.
    fn page(&mut self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize + 64);
        let is_text = self.below(2) == 0;
        while page.len() < PAGE as usize {
            let word = self.next();
            if is_text {
                let line = format!("2026-11-21 order {:08} total {:5} ok\n", word >> 40, word % 90_000);
                page.extend_from_slice(line.as_bytes());
            } else {
                page.extend_from_slice(&word.to_le_bytes());
            }
        }
        page.truncate(PAGE as usize);
        page
    }
}

/// Rewrites pages within the content of files, so that the file system stays sound.
pub fn rewrite(path: &Path, regions: &[Region], data_bytes: u64, seed: u64) -> Result<Change, Failure> {
    let usable: Vec<&Region> = regions.iter().filter(|region| region.length >= PAGE).collect();
    let room: u64 = usable.iter().map(|region| region.length / PAGE).sum();
    let wanted = (data_bytes * PERCENT / 100 / PAGE).clamp(1, (room / 2).max(1));
    if usable.is_empty() {
        return grow(path, data_bytes, seed);
    }
    let file = OpenOptions::new().write(true).open(path).map_err(io("open", path))?;
    let mut numbers = Numbers(seed);
    let (mut done, mut runs) = (HashSet::new(), 0_u64);
    while (done.len() as u64) < wanted {
        check_interrupt()?;
        let region = usable[numbers.below(usable.len() as u64) as usize];
        let pages = region.length / PAGE;
        let length = (RUN_PAGES.0 + numbers.below(RUN_PAGES.1 - RUN_PAGES.0)).min(pages);
        let first = numbers.below(pages - length + 1);
        for page in first..first + length {
            let offset = region.offset + page * PAGE;
            if done.insert(offset) {
                file.write_all_at(&numbers.page(), offset).map_err(io("write", path))?;
            }
        }
        runs += 1;
    }
    let bytes = done.len() as u64 * PAGE;
    Ok(Change { what: format!("rewrote pages inside files, {} in {runs} places", size::show(bytes)), bytes })
}

/// Changes the copy of somebody's disk: a new file in its first sound ext file system, by debugfs and without mounting
/// it; else, since nothing is known of what is on it, the disk grows.
pub fn change_given(path: &Path, data_bytes: u64, scratch: &Path, seed: u64) -> Result<Change, Failure> {
    let name = path.display().to_string();
    let disk = open_source(&name, &DiskOptions::with_format(Format::Raw))?;
    let mut places = layout(disk.as_ref()).partitions;
    places.push(Region { offset: 0, length: disk.virtual_size() });
    let found = places.iter().find_map(|place| {
        let free = sound_ext(disk.as_ref(), place)?;
        let bytes = (data_bytes * PERCENT / 100).clamp(NEW_FILE_BYTES.0, NEW_FILE_BYTES.1).min(free / 4);
        (bytes >= NEW_FILE_BYTES.0).then_some((*place, bytes / PAGE * PAGE))
    });
    match (found, find("debugfs")) {
        (Some((place, bytes)), Some(debugfs)) => {
            add_file(&debugfs, path, place, bytes, scratch, seed)?;
            let (bytes_shown, at) = (size::show(bytes), size::show(place.offset));
            let what = format!("added a file of {bytes_shown} to its ext file system at {at}, by debugfs");
            Ok(Change { what, bytes })
        }
        _ => grow(path, data_bytes, seed),
    }
}

/// The free bytes of an ext2, 3 or 4 file system that was unmounted in order; one with an open journal must not be touched.
fn sound_ext(disk: &dyn Source, place: &Region) -> Option<u64> {
    const NEEDS_RECOVERY_OR_IS_JOURNAL: u32 = 0x4 | 0x8;
    let block: [u8; 1024] = read(disk, place.offset.checked_add(1024)?)?;
    let clean = block[56..58] == [0x53, 0xef] && block[58..60] == [1, 0];
    let closed = number(&block[96..100]) & NEEDS_RECOVERY_OR_IS_JOURNAL == 0;
    let bits = number(&block[24..28]);
    (clean && closed && bits <= 6).then(|| u64::from(number(&block[12..16])) << (10 + bits))
}

fn add_file(
    debugfs: &Path,
    path: &Path,
    place: Region,
    bytes: u64,
    scratch: &Path,
    seed: u64,
) -> Result<(), Failure> {
    let content = scratch.join(NEW_FILE);
    let file = File::create(&content).map_err(io("create", &content))?;
    write_pages(&file, &content, 0, bytes, seed)?;
    let device = format!("{}?offset={}", path.display(), place.offset);
    // In the folder of the content, so that no path needs quoting.
    let mut command = Command::new(debugfs);
    command.current_dir(scratch).args(["-w", "-R", &format!("write {NEW_FILE} {NEW_FILE}"), &device]);
    let written = run(&mut command, scratch)?;
    let mut command = Command::new(debugfs);
    command.args(["-R", &format!("stat /{NEW_FILE}"), &device]);
    let stat = run(&mut command, scratch)?;
    std::fs::remove_file(&content).map_err(io("remove", &content))?;
    // debugfs ends with success whatever happens.
    if stat.split_whitespace().any(|word| word == bytes.to_string()) {
        return Ok(());
    }
    let said = written.lines().last().unwrap_or("it said nothing");
    Err(Failure::new(Code::Failed, format!("debugfs could not add a file to the working copy: {said}")))
}

/// Makes the disk longer and fills what is new: nothing that was on it is touched.
fn grow(path: &Path, data_bytes: u64, seed: u64) -> Result<Change, Failure> {
    let file = OpenOptions::new().write(true).open(path).map_err(io("open", path))?;
    let size = file.metadata().map_err(io("examine", path))?.len();
    let bytes = (data_bytes * PERCENT / 100).clamp(1 << 20, 256 << 20).next_multiple_of(1 << 20);
    write_pages(&file, path, size, bytes, seed)?;
    Ok(Change { what: format!("the disk grew by {} of new data at its end", size::show(bytes)), bytes })
}

fn write_pages(file: &File, path: &Path, offset: u64, bytes: u64, seed: u64) -> Result<(), Failure> {
    let mut numbers = Numbers(seed);
    for position in (0..bytes).step_by(PAGE as usize) {
        check_interrupt()?;
        file.write_all_at(&numbers.page(), offset + position).map_err(io("write", path))?;
    }
    Ok(())
}
