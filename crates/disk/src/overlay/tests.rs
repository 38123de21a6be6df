//! Overlays against a model; a loss of power at every operation of the medium.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::*;

/// Small numbers from a seed (splitmix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// A base in memory, of which some parts are not there.
struct Base(Vec<u8>);

impl Base {
    const BLOCK: usize = 65536;

    fn new(size: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut bytes = vec![0; size];
        for block in bytes.chunks_mut(Self::BLOCK) {
            if random.below(3) > 0 {
                // Data may hold zeros too.
                let end = random.below(block.len() as u64 + 1) as usize;
                block[..end].fill_with(|| random.next() as u8);
            }
        }
        Self(bytes)
    }
}

impl Source for Base {
    fn virtual_size(&self) -> u64 {
        self.0.len() as u64
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.virtual_size(),
            allocated_bytes: None,
            details: Vec::new(),
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range("base", offset, length, self.virtual_size())?;
        let (mut found, mut position) = (Vec::new(), offset as usize);
        while position < (offset + length) as usize {
            let end = (position / Self::BLOCK + 1) * Self::BLOCK;
            let block = &self.0[end - Self::BLOCK..end.min(self.0.len())];
            let end = end.min((offset + length) as usize);
            let kind = if crate::is_zero(block) { ExtentKind::Unallocated } else { ExtentKind::Data };
            Extent { offset: position as u64, length: (end - position) as u64, kind }.push_merged(&mut found);
            position = end;
        }
        // To stop early is allowed, so it must do no harm.
        found.truncate(3);
        Ok(found)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range("base", offset, buffer.len() as u64, self.virtual_size())?;
        buffer.copy_from_slice(&self.0[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
}

/// A base that takes its time between reading and answering, so that others come in between.
struct Slow(Arc<Base>);

impl Source for Slow {
    fn virtual_size(&self) -> u64 {
        self.0.virtual_size()
    }

    fn info(&self) -> Info {
        self.0.info()
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.0.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buffer, offset)?;
        std::thread::sleep(std::time::Duration::from_millis(2));
        Ok(())
    }
}

fn read_all(source: &dyn Source) -> Vec<u8> {
    let mut bytes = vec![0xee; source.virtual_size() as usize];
    source.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Content, extents and what is called changed agree with the bytes that the disk must hold.
fn assert_holds(overlay: &Overlay, base: &[u8], expected: &[u8], what: &str) {
    assert!(read_all(overlay) == expected, "{what}: content");
    let mut next = 0;
    walk_extents::<Error>(overlay, 0, overlay.virtual_size(), |extent| {
        assert_eq!(extent.offset, next, "{what}: extents have a gap");
        next = extent.end();
        let bytes = &expected[extent.offset as usize..extent.end() as usize];
        assert!(extent.kind.is_data() || crate::is_zero(bytes), "{what}: data called {extent:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(next, expected.len() as u64, "{what}: extents end early");
    let mut unchanged = expected.to_vec();
    let mut last = 0;
    for range in overlay.changed_ranges() {
        assert!(range.start >= last && range.end > range.start, "{what}: {range:?} after {last}");
        last = range.end;
        let range = range.start as usize..range.end as usize;
        unchanged[range.clone()].copy_from_slice(&base[range]);
    }
    assert!(unchanged == base, "{what}: a change is not told");
    assert!(overlay.changed_bytes() <= overlay.local_bytes(), "{what}");
}

/// One operation at random within a range, done to the overlay and to the bytes.
fn operate(overlay: &Overlay, expected: &mut [u8], offset: u64, random: &mut Random) {
    let kind = random.below(10);
    let most = if random.below(4) == 0 { 300_000 } else { 9000 };
    let start = random.below(expected.len() as u64);
    let length = (1 + random.below(most)).min(expected.len() as u64 - start);
    let range = start as usize..(start + length) as usize;
    let at = offset + start;
    match kind {
        0..4 => {
            let byte = random.next() as u8;
            let data: Vec<u8> = (0..length).map(|index| byte.wrapping_add(index as u8)).collect();
            overlay.write_at(&data, at).unwrap();
            expected[range].copy_from_slice(&data);
        }
        4 => {
            overlay.zero_at(at, length, random.below(2) == 0).unwrap();
            expected[range].fill(0);
        }
        5 => {
            overlay.trim(at, length).unwrap();
            // What it reads as is the overlay's choice; that it stays so is not.
            overlay.read_at(&mut expected[range], at).unwrap();
        }
        6 => overlay.cache(at, length).unwrap(),
        7 => overlay.flush().unwrap(),
        _ => {
            let mut bytes = vec![0; length as usize];
            overlay.read_at(&mut bytes, at).unwrap();
            assert!(bytes == expected[range], "{length} bytes at {at}");
        }
    }
}

#[test]
fn an_overlay_behaves_as_a_disk_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    for (seed, granule) in [(1, 4096), (2, 512), (3, 65536), (4, 4096)] {
        let path = directory.path().join(format!("disk-{seed}"));
        let base = Arc::new(Base::new((3 << 20) + 700 + seed as usize, seed));
        let mut expected = base.0.clone();
        let mut random = Random(seed);
        let mut overlay = Overlay::create(&path, base.clone(), granule, "a base").unwrap();
        for round in 0..300 {
            operate(&overlay, &mut expected, 0, &mut random);
            if round % 60 == 59 {
                assert_holds(&overlay, &base.0, &expected, "while open");
                drop(overlay);
                overlay = Overlay::open(&path, base.clone()).unwrap();
                assert_eq!((overlay.torn_pages(), overlay.description().base.as_str()), (0, "a base"));
                assert_holds(&overlay, &base.0, &expected, "opened again");
            }
        }
        let cancel = AtomicBool::new(false);
        let changed = overlay.changed_ranges();
        overlay.hydrate(&WorkOptions { threads: 2, progress: &|_| {}, cancel: &cancel }).unwrap();
        assert!(overlay.is_complete());
        assert_eq!(overlay.local_bytes(), overlay.virtual_size());
        assert_eq!(overlay.changed_ranges(), changed, "to fetch changes nothing");
        drop(overlay);
        assert!(std::fs::read(&path).unwrap() == expected, "the file is the disk");
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let base = Arc::new(Base::new(4 << 20, 9));
    let overlay = Overlay::create(&path, Arc::new(Slow(base.clone())), 4096, "").unwrap();
    let mut expected = base.0.clone();
    // The parts meet inside granules.
    let part = (1 << 20) - 1000;
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (number, part) in expected.chunks_mut(part).enumerate() {
            let overlay = &overlay;
            scope.spawn(move || {
                let mut random = Random(number as u64);
                for _ in 0..400 {
                    operate(overlay, part, (number * ((1 << 20) - 1000)) as u64, &mut random);
                }
            });
        }
        scope.spawn(|| {
            overlay.hydrate(&WorkOptions { threads: 2, progress: &|_| {}, cancel: &cancel }).unwrap();
        });
    });
    assert!(overlay.is_complete());
    assert_holds(&overlay, &base.0, &expected, "after all");
    drop(overlay);
    assert!(std::fs::read(&path).unwrap() == expected);
}

#[test]
fn small_writes_to_one_granule_at_once_all_end_up_in_it_while_it_is_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let base = Arc::new(Base(vec![0xbb; 1 << 20]));
    for round in 0..30 {
        let path = directory.path().join(format!("disk-{round}"));
        let overlay = Overlay::create(&path, Arc::new(Slow(base.clone())), 65536, "").unwrap();
        std::thread::scope(|scope| {
            for number in 0..4_u64 {
                let overlay = &overlay;
                scope.spawn(move || overlay.write_at(&[number as u8; 500], number * 1000 + 17).unwrap());
            }
            overlay.cache(0, 100_000).unwrap();
        });
        let bytes = read_all(&overlay);
        for (at, byte) in bytes.iter().enumerate() {
            let number = at.wrapping_sub(17) / 1000;
            let is_written = at >= 17 && number < 4 && (at - 17) % 1000 < 500;
            assert_eq!(*byte, if is_written { number as u8 } else { 0xbb }, "round {round}, byte {at}");
        }
    }
}

#[test]
fn an_overlay_is_opened_once_and_over_its_own_base() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let base = Arc::new(Base::new(100_000, 1));
    let overlay = Overlay::create(&path, base.clone(), 4096, "{}").unwrap();
    assert!(matches!(Overlay::open(&path, base.clone()), Err(Error::OverlayInUse { .. })));
    assert_eq!(Overlay::describe(&path).unwrap().virtual_size, 100_000);
    overlay.close().unwrap();
    assert!(overlay.write_at(&[1], 0).is_err(), "closed");
    drop(overlay);
    let other = Arc::new(Base::new(100_001, 1));
    assert!(matches!(Overlay::open(&path, other), Err(Error::Invalid { .. })));
    assert!(matches!(Overlay::create(&path, base.clone(), 4096, ""), Err(Error::WouldOverwrite { .. })));
    std::fs::remove_file(directory.path().join("disk.map")).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Overlay::create(&path, base.clone(), 4096, ""), Err(Error::WouldOverwrite { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    // What a crash leaves before the map is there is taken over.
    std::fs::File::create(&path).unwrap().set_len(100_000).unwrap();
    drop(Overlay::create(&path, base.clone(), 4096, "").unwrap());
    std::fs::write(directory.path().join("disk.map"), vec![7; 8192]).unwrap();
    assert!(matches!(Overlay::open(&path, base), Err(Error::DamagedMap { .. })));
}

#[test]
fn little_that_is_written_to_a_large_disk_takes_little() {
    struct Large;
    impl Source for Large {
        fn virtual_size(&self) -> u64 {
            1 << 40
        }
        fn info(&self) -> Info {
            Info { format: Format::Raw, virtual_size: 1 << 40, allocated_bytes: None, details: Vec::new() }
        }
        fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
            Ok(vec![Extent { offset, length, kind: ExtentKind::Data }])
        }
        fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<()> {
            buffer.fill(7);
            Ok(())
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let base = Arc::new(Large);
    let overlay = Overlay::create(&path, base.clone(), GRANULE_BYTES, "").unwrap();
    for place in 0..8_u64 {
        overlay.write_at(&[1; 4096], place << 37).unwrap();
    }
    drop(overlay);
    for name in ["disk", "disk.map"] {
        let blocks = std::fs::metadata(directory.path().join(name)).unwrap().blocks();
        assert!(blocks * 512 < 300_000, "{name} takes {} bytes", blocks * 512);
    }
    let overlay = Overlay::open(&path, base).unwrap();
    assert_eq!((overlay.local_bytes(), overlay.changed_ranges().len()), (8 * 4096, 8));
    let mut bytes = [0; 8192];
    overlay.read_at(&mut bytes, (1 << 37) - 4096).unwrap();
    assert_eq!((bytes[0], bytes[4095], bytes[4096], bytes[8191]), (7, 7, 1, 1));
}

const SECTOR: usize = 512;

/// A medium with two files that loses what was not synced.
struct Medium {
    /// Operations until the power goes.
    left: u64,
    /// Bytes that can still be allocated.
    free: u64,
    files: [Content; 2],
}

#[derive(Default, Clone)]
struct Content {
    size: u64,
    /// What is on stable storage, by sector.
    stable: HashMap<u64, [u8; SECTOR]>,
    /// What was written to a sector since the last sync, in order.
    pending: HashMap<u64, Vec<[u8; SECTOR]>>,
}

impl Content {
    fn sector(&self, number: u64) -> [u8; SECTOR] {
        let newest =
            self.pending.get(&number).and_then(|list| list.last()).or_else(|| self.stable.get(&number));
        newest.copied().unwrap_or([0; SECTOR])
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut position = offset;
        while position < offset + bytes.len() as u64 {
            let (number, within) = (position / SECTOR as u64, (position % SECTOR as u64) as usize);
            let length = (SECTOR - within).min((offset + bytes.len() as u64 - position) as usize);
            let mut sector = self.sector(number);
            let from = (position - offset) as usize;
            sector[within..within + length].copy_from_slice(&bytes[from..from + length]);
            self.pending.entry(number).or_default().push(sector);
            position += length as u64;
        }
        self.size = self.size.max(offset + bytes.len() as u64);
    }

    /// Of every sector that was not synced, any of its states survives: sectors come apart, and out of order.
    fn after_power_loss(&self, random: &mut Random) -> Self {
        let mut stable = self.stable.clone();
        let mut numbers: Vec<_> = self.pending.keys().copied().collect();
        numbers.sort_unstable();
        let mood = random.below(4);
        for number in numbers {
            let list = &self.pending[&number];
            let chosen = match mood {
                0 => 0,
                1 => list.len(),
                _ => random.below(list.len() as u64 + 1) as usize,
            };
            if chosen > 0 {
                stable.insert(number, list[chosen - 1]);
            }
        }
        Self { size: self.size, stable, pending: HashMap::new() }
    }
}

#[derive(Clone)]
struct SimulatedFile {
    medium: Arc<Mutex<Medium>>,
    index: usize,
    size: u64,
}

impl SimulatedFile {
    /// Counts an operation; the power may go just then, in the middle of it.
    fn act<T>(&self, work: impl FnOnce(&mut Content, bool) -> T) -> Result<T> {
        let mut medium = self.medium.lock().unwrap();
        let failed = || Error::Io {
            path: "medium".to_owned(),
            action: "write",
            offset: 0,
            length: 0,
            source: std::io::Error::other("no power"),
        };
        let was_off = medium.left == 0;
        medium.left = medium.left.saturating_sub(1);
        let is_off = medium.left == 0;
        if was_off {
            return Err(failed());
        }
        let result = work(&mut medium.files[self.index], is_off);
        if is_off { Err(failed()) } else { Ok(result) }
    }
}

impl LocalFile for SimulatedFile {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let medium = self.medium.lock().unwrap();
        let mut position = offset;
        let end = offset + buffer.len() as u64;
        while position < end {
            let (number, within) = (position / SECTOR as u64, (position % SECTOR as u64) as usize);
            let length = (SECTOR - within).min((end - position) as usize);
            let from = (position - offset) as usize;
            let sector = medium.files[self.index].sector(number);
            buffer[from..from + length].copy_from_slice(&sector[within..within + length]);
            position += length as u64;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.act(|content, _| content.write(bytes, offset))
    }

    fn zero_at(&self, offset: u64, length: u64, _: bool) -> Result<()> {
        self.act(|content, _| content.write(&vec![0; length as usize], offset))
    }

    fn allocate(&self, _: u64, length: u64) -> Result<()> {
        let mut medium = self.medium.lock().unwrap();
        if medium.free < length {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(Error::Io {
                path: "medium".to_owned(),
                action: "reserve",
                offset: 0,
                length,
                source,
            });
        }
        medium.free -= length;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.act(|content, is_off| {
            // A sync that the power interrupts has synced nothing for certain.
            if !is_off {
                let pending = std::mem::take(&mut content.pending);
                content.stable.extend(pending.into_iter().filter_map(|(at, list)| Some((at, *list.last()?))));
            }
        })
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        Ok(vec![Extent { offset, length, kind: ExtentKind::Data }])
    }
}

/// A machine whose power goes and comes back.
struct Machine {
    base: Arc<Base>,
    medium: Arc<Mutex<Medium>>,
}

const GRANULE: u64 = 512;
/// Three pages of granules of 512 bytes, and a bit.
const DISK: usize = (9 << 20) + 300;

impl Machine {
    fn new(base: Arc<Base>) -> Self {
        let description =
            Description { virtual_size: DISK as u64, granule_bytes: GRANULE, base: String::new() };
        let mut files = [Content::default(), Content::default()];
        files[0].size = DISK as u64;
        files[1].write(&description.encode("map").unwrap(), 0);
        files[1] = files[1].after_power_loss(&mut Random(0));
        files[1].write(&description.encode("map").unwrap(), 0);
        let medium = Arc::new(Mutex::new(Medium { left: u64::MAX, free: u64::MAX, files }));
        let machine = Self { base, medium };
        machine.file(1).sync().unwrap();
        machine
    }

    fn file(&self, index: usize) -> SimulatedFile {
        let size = self.medium.lock().unwrap().files[index].size;
        SimulatedFile { medium: self.medium.clone(), index, size }
    }

    fn open(&self) -> Result<Overlay> {
        Overlay::assemble(Path::new("x"), Box::new(self.file(0)), Box::new(self.file(1)), self.base.clone())
    }

    fn power_in(&self, operations: u64) {
        self.medium.lock().unwrap().left = operations;
    }

    fn lose_power(&self, random: &mut Random) {
        let mut medium = self.medium.lock().unwrap();
        for content in &mut medium.files {
            *content = content.after_power_loss(random);
        }
        medium.left = u64::MAX;
    }
}

/// Where the work happens: at the edges of pages, so that few granules are written often.
const WINDOWS: [u64; 3] = [(4 << 20) - 8192, (8 << 20) - 8192, DISK as u64 - 16384];
const WINDOW: usize = 16384;

/// What may be read of the windows: the bytes of the last flush, and those written since.
struct Allowed {
    sure: Vec<u8>,
    later: Vec<Vec<u8>>,
}

impl Allowed {
    fn note(&mut self, now: &[u8]) {
        self.later.push(now.to_vec());
    }

    fn settle(&mut self, now: &[u8]) {
        self.sure = now.to_vec();
        self.later.clear();
    }

    fn check(&self, found: &[u8], what: &str) {
        for (at, byte) in found.iter().enumerate() {
            let allowed = *byte == self.sure[at] || self.later.iter().any(|bytes| bytes[at] == *byte);
            assert!(allowed, "{what}: byte {at} is neither as flushed nor as written later");
        }
    }
}

fn windows_of(source: &dyn Source) -> Vec<u8> {
    let mut bytes = vec![0; WINDOWS.len() * WINDOW];
    for (part, window) in bytes.chunks_mut(WINDOW).zip(WINDOWS) {
        source.read_at(part, window).unwrap();
    }
    bytes
}

/// Works until the power goes; returns whether it went.
fn work(overlay: &Overlay, allowed: &mut Allowed, random: &mut Random, steps: u64) -> bool {
    let mut now = allowed.later.last().unwrap_or(&allowed.sure).clone();
    for _ in 0..steps {
        let window = random.below(3) as usize;
        let start = random.below(WINDOW as u64 - 1);
        let length = (1 + random.below(3000)).min(WINDOW as u64 - start);
        let (at, within) = (WINDOWS[window] + start, window * WINDOW + start as usize);
        let range = within..within + length as usize;
        let result = match random.below(8) {
            0..3 => {
                let data: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                now[range].copy_from_slice(&data);
                allowed.note(&now);
                overlay.write_at(&data, at)
            }
            3 => {
                now[range].fill(0);
                allowed.note(&now);
                overlay.zero_at(at, length, true)
            }
            4 | 5 => overlay.cache(at, length),
            6 => overlay.flush().map(|()| allowed.settle(&now)),
            _ => {
                let first = (at.next_multiple_of(GRANULE) - WINDOWS[window]) as usize;
                let last = ((at + length) / GRANULE * GRANULE).saturating_sub(WINDOWS[window]) as usize;
                if first < last {
                    now[window * WINDOW + first..window * WINDOW + last].fill(0);
                    allowed.note(&now);
                }
                let aligned = WINDOWS[window] + first as u64;
                if first < last { overlay.trim(aligned, (last - first) as u64) } else { Ok(()) }
            }
        };
        if result.is_err() {
            return true;
        }
    }
    false
}

/// The changes that are told cover all that differs from the base.
fn assert_changes_told(overlay: &Overlay, base: &Base, found: &[u8], what: &str) {
    let changed = overlay.changed_ranges();
    for (number, window) in WINDOWS.iter().enumerate() {
        for index in 0..WINDOW {
            let at = window + index as u64;
            if found[number * WINDOW + index] != base.0[at as usize] {
                assert!(
                    changed.iter().any(|range| range.contains(&at)),
                    "{what}: the change at {at} is not told"
                );
            }
        }
    }
}

#[test]
fn power_may_go_at_every_operation() {
    let base = Arc::new(Base::new(DISK, 5));
    let (mut torn, mut losses) = (0, 0);
    for seed in 0..4_u64 {
        for power in 1..260_u64 {
            let machine = Machine::new(base.clone());
            let mut random = Random(seed << 32);
            let start = windows_of(base.as_ref());
            let mut allowed = Allowed { sure: start, later: Vec::new() };
            let mut luck = Random(seed << 40 | power);
            // The power goes a second time during the work that follows the first loss, or while opening.
            for (round, left) in [power, 1 + luck.below(60), u64::MAX].into_iter().enumerate() {
                let what = format!("seed {seed}, power {power}, round {round}");
                machine.power_in(left);
                let went = match machine.open() {
                    Ok(overlay) => {
                        torn += overlay.torn_pages();
                        let found = windows_of(&overlay);
                        allowed.check(&found, &what);
                        assert_changes_told(&overlay, &base, &found, &what);
                        // What is found now was found for good: opening has synced it.
                        allowed.settle(&found);
                        let went = work(&overlay, &mut allowed, &mut random, 60);
                        if !went && overlay.close().is_ok() {
                            let now = windows_of(&overlay);
                            allowed.settle(&now);
                        }
                        went
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Io { .. }), "{what}: {error}");
                        true
                    }
                };
                losses += u64::from(went);
                if luck.below(3) == 0 {
                    // Only the process ends; the power goes later, when the next one works on what this one left.
                    machine.power_in(u64::MAX);
                } else {
                    machine.lose_power(&mut luck);
                }
            }
            machine.lose_power(&mut luck);
            let overlay = machine.open().unwrap();
            let found = windows_of(&overlay);
            let what = format!("seed {seed}, power {power}, at the end");
            allowed.check(&found, &what);
            assert_changes_told(&overlay, &base, &found, &what);
        }
    }
    assert!(torn > 50 && losses > 1000, "{torn} torn pages in {losses} losses: nothing was put to the test");
}

#[test]
fn a_kill_loses_nothing_that_was_flushed_and_no_change() {
    let base = Arc::new(Base::new(DISK, 6));
    let mut random = Random(11);
    let machine = Machine::new(base.clone());
    let mut allowed = Allowed { sure: windows_of(base.as_ref()), later: Vec::new() };
    for round in 0..200 {
        let overlay = machine.open().unwrap();
        let found = windows_of(&overlay);
        allowed.check(&found, &format!("round {round}"));
        assert_changes_told(&overlay, &base, &found, &format!("round {round}"));
        allowed.settle(&found);
        machine.power_in(1 + random.below(100));
        work(&overlay, &mut allowed, &mut random, 30);
        // The process ends, and the kernel keeps what it was given.
        machine.power_in(0);
        drop(overlay);
        machine.power_in(u64::MAX);
    }
}

#[test]
fn a_full_disk_is_an_error_of_the_write_and_of_nothing_else() {
    let base = Arc::new(Base::new(DISK, 7));
    let machine = Machine::new(base.clone());
    machine.medium.lock().unwrap().free = 8192;
    let overlay = machine.open().unwrap();
    overlay.write_at(&[1; 1000], 0).unwrap();
    let error = overlay.write_at(&[2; 1000], 5 << 20).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    overlay.write_at(&[3; 1000], 1000).unwrap();
    overlay.flush().unwrap();
    let mut bytes = [0; 2000];
    overlay.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..1000] == [1; 1000] && bytes[1000..] == [3; 1000]);
    overlay.read_at(&mut bytes, 5 << 20).unwrap();
    assert!(bytes[..] == base.0[5 << 20..][..2000], "the write that failed has done nothing");
    drop(overlay);
    assert_eq!(machine.open().unwrap().changed_ranges(), std::iter::once(0..2048).collect::<Vec<_>>());
}

#[test]
fn after_a_sync_that_failed_nothing_is_promised_any_more() {
    let machine = Machine::new(Arc::new(Base::new(DISK, 8)));
    let overlay = machine.open().unwrap();
    overlay.write_at(&[1; 512], 0).unwrap();
    overlay.flush().unwrap();
    overlay.write_at(&[2; 512], 0).unwrap();
    machine.power_in(1);
    assert!(overlay.flush().is_err());
    machine.power_in(u64::MAX);
    assert!(overlay.flush().is_err(), "the kernel may have dropped what it could not write");
    let error = overlay.write_at(&[3; 512], 0).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("flush failed"), "{error}");
}
