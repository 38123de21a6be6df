//! Small file systems of every kind, damaged in many ways: an answer or an error in time, and no more.
//!
//! `LEEWARD_FUZZ_SECONDS` says for how long each is damaged (2). Checksums are not looked at, so that the damage comes
//! through to the readers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::exercise::exercise;
use support::*;

/// No input may take longer, on a slow and busy machine.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
/// Memory that the whole process may have taken.
const MEMORY_KIB_MAX: u64 = 3 << 20;

fn seconds() -> Duration {
    let seconds = std::env::var("LEEWARD_FUZZ_SECONDS").ok().map_or(2.0, |text| text.parse().unwrap());
    Duration::from_secs_f64(seconds)
}

/// A disk that keeps damage apart from the sound bytes, so that large images cost nothing.
struct Damaged {
    sound: leeward_disk::SharedSource,
    size: u64,
    places: Vec<(u64, u8)>,
}

impl leeward_disk::Source for Damaged {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn info(&self) -> leeward_disk::Info {
        self.sound.info()
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<leeward_disk::Extent>> {
        self.sound.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        self.sound.read_at(buffer, offset)?;
        for (place, byte) in &self.places {
            if let Some(at) = place.checked_sub(offset).filter(|at| *at < buffer.len() as u64) {
                buffer[at as usize] = *byte;
            }
        }
        Ok(())
    }
}

/// Damages the file system in one to eight places that hold something, and cuts some short.
fn damage(image: &Path, what: &str, seed: u64) {
    let sound = disk(image);
    let mut places = Vec::new();
    leeward_disk::walk_extents(sound.as_ref(), 0, sound.virtual_size(), |extent| {
        if extent.kind.is_data() {
            let mut bytes = vec![0; extent.length as usize];
            sound.read_at(&mut bytes, extent.offset)?;
            // Content is mostly noise or text; what is left out of it is little metadata.
            for (index, block) in bytes.chunks(512).enumerate() {
                let zeros = block.iter().filter(|&&byte| byte == 0).count();
                if zeros > 20 && zeros < block.len() {
                    let start = extent.offset + index as u64 * 512;
                    let held = block.iter().zip(start..).filter(|(byte, _)| **byte != 0);
                    places.extend(held.map(|(_, place)| place));
                }
            }
        }
        Ok::<(), leeward_disk::Error>(())
    })
    .unwrap();
    let mut random = Random(seed);
    let (started, mut rounds) = (Instant::now(), 0_u64);
    exercise(&sound);
    while started.elapsed() < seconds() {
        let mut changes = Vec::new();
        for _ in 0..1 + random.below(8) {
            // Near the start more often: that is where the superblocks are.
            let index = if random.below(4) == 0 { random.below(200) } else { random.next() };
            let place = places[(index % places.len() as u64) as usize] + random.below(3);
            let byte = [0, 0xff, 0x80, 1, random.next() as u8][random.below(5) as usize];
            changes.push((place, byte));
        }
        let size =
            if random.below(20) == 0 { random.below(sound.virtual_size()) } else { sound.virtual_size() };
        let shown = format!("{what}: {changes:?}, size {size}");
        let damaged: leeward_disk::SharedSource =
            std::sync::Arc::new(Damaged { sound: sound.clone(), size, places: changes });
        let begun = Instant::now();
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| exercise(&damaged))) {
            eprintln!("{shown}");
            std::panic::resume_unwind(panic);
        }
        assert!(begun.elapsed() < INPUT_TIME_MAX, "{shown} took {:?}", begun.elapsed());
        rounds += 1;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MEMORY_KIB_MAX, "{what}: {peak} KiB");
    assert!(rounds > 10, "{what}: only {rounds} inputs");
    println!("{what}: {rounds} damaged disks, at most {peak} KiB so far");
}

#[test]
fn damaged_file_systems_do_no_harm() {
    let scratch = tempfile::tempdir().unwrap();
    let (root, image) = (scratch.path().join("root"), scratch.path().join("image"));
    std::fs::create_dir(&root).unwrap();
    populate(&root, Shape { large_directory: 60, links: true, odd_names: false, sparse: true });
    if has(&["mke2fs", "debugfs"]) {
        for options in [
            &["-t", "ext2", "-b", "1024"][..],
            &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"],
            &["-t", "ext4", "-b", "4096", "-O", "inline_data"],
        ] {
            blank(&image, 40);
            run("mke2fs", &[&["-q", "-F", "-d", text(&root)], options, &[text(&image)]].concat(), "");
            damage(&image, &format!("{options:?}"), 1);
        }
        // With changes in the journal, so that it is read too.
        let content = scratch.path().join("content");
        std::fs::write(&content, vec![7; 8192]).unwrap();
        let script = format!("jo -c\njw -b 20000,20001 {}\njw -r 20001\njc\n", text(&content));
        blank(&image, 40);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-d", text(&root), text(&image)], "");
        run("debugfs", &["-w", "-f", "/dev/stdin", text(&image)], &script);
        damage(&image, "journal", 2);
    }
    if has(&["mkfs.xfs"]) {
        let list = scratch.path().join("list");
        let file = |name: &str| root.join(name).display().to_string();
        let mut text_of = String::from("nothing\n0 0\nd--755 0 0\n");
        for name in ["one", "odd.bin", "text", "holes"] {
            text_of += &format!("{name} ---644 0 0 {}\n", file(name));
        }
        text_of += "link l--777 0 0 one\nfew d--755 0 0\n";
        for index in 0..40 {
            text_of += &format!("a-name-of-some-length-{index} ---644 0 0 {}\n", file("one"));
        }
        text_of += "$\n$\n";
        std::fs::write(&list, text_of).unwrap();
        for options in [&["-m", "crc=1"][..], &["-m", "crc=0", "-b", "size=1024"]] {
            blank(&image, 320);
            run("mkfs.xfs", &[options, &["-q", "-f", "-p", text(&list), text(&image)]].concat(), "");
            damage(&image, &format!("xfs {options:?}"), 3);
        }
    }
    if has(&["mkfs.vfat", "mcopy"]) {
        for bits in ["12", "16", "32"] {
            blank(&image, if bits == "32" { 40 } else { 30 });
            let cluster = if bits == "12" { "32" } else { "1" };
            let cluster = if bits == "16" { "4" } else { cluster };
            run("mkfs.vfat", &["-F", bits, "-s", cluster, text(&image)], "");
            let from: Vec<String> =
                ["a", "few", "many", "odd.bin"].map(|name| text(&root.join(name)).to_owned()).to_vec();
            let from: Vec<&str> = from.iter().map(String::as_str).collect();
            run("mcopy", &[&["-Q", "-s", "-i", text(&image)], from.as_slice(), &["::/"]].concat(), "");
            damage(&image, &format!("fat {bits}"), 4);
        }
    }
    if has(&["mkntfs", "ntfscp"]) {
        blank(&image, 30);
        run("mkntfs", &["-Q", "-F", "-q", text(&image)], "");
        for name in ["odd.bin", "one", "holes", "text"] {
            run("ntfscp", &["-q", "-f", text(&image), text(&root.join(name)), name], "");
        }
        damage(&image, "ntfs", 5);
    }
}
