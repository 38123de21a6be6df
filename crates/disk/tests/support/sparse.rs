//! Storage that holds only what is not zero, so that an image of many MiB is a small input for a fuzzer.
//!
//! The packed form is `SPARSE01`, the size in bytes (8), then pieces: offset (8), length (4), bytes. A packed input may
//! be damaged by a mutator: what does not fit is dropped.

use leeward_disk::{Error, Result, Storage};

pub const MAGIC: &[u8; 8] = b"SPARSE01";
/// Images larger than this are cut off, so that no test depends on the memory of the machine.
const PIECES_MAX: usize = 1 << 14;

pub struct SparseStorage {
    size: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl SparseStorage {
    /// The image in `input`, packed or as it is.
    pub fn new(input: &[u8]) -> Self {
        match input.strip_prefix(MAGIC) {
            Some(packed) => Self::unpack(packed),
            None => Self { size: input.len() as u64, pieces: vec![(0, input.to_vec())] },
        }
    }

    fn unpack(packed: &[u8]) -> Self {
        let number =
            |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let (size, mut rest) = packed.split_at(packed.len().min(8));
        let mut storage = Self { size: number(size), pieces: Vec::new() };
        while rest.len() > 12 && storage.pieces.len() < PIECES_MAX {
            let (offset, length) = (number(&rest[..8]), number(&rest[8..12]) as usize);
            let (bytes, after) = rest[12..].split_at(length.min(rest.len() - 12));
            storage.write(offset, bytes);
            rest = after;
        }
        storage
    }

    /// The packed form of an image: its pages of 512 bytes that are not zero, without the zeros at their ends.
    pub fn pack(image: &[u8]) -> Vec<u8> {
        let mut packed = [MAGIC.as_slice(), &(image.len() as u64).to_le_bytes()].concat();
        let mut piece = (0, Vec::new());
        let mut flush = |piece: &mut (usize, Vec<u8>)| {
            while piece.1.last() == Some(&0) {
                piece.1.pop();
            }
            if !piece.1.is_empty() {
                packed.extend((piece.0 as u64).to_le_bytes());
                packed.extend((piece.1.len() as u32).to_le_bytes());
                packed.append(&mut piece.1);
            }
        };
        for (index, page) in image.chunks(512).enumerate() {
            if page.iter().all(|byte| *byte == 0) {
                flush(&mut piece);
            } else {
                if piece.1.is_empty() {
                    piece.0 = index * 512;
                }
                piece.1.extend(page);
            }
        }
        flush(&mut piece);
        packed
    }

    /// Overwrites bytes; those past the end are dropped.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let length = self.size.saturating_sub(offset).min(bytes.len() as u64) as usize;
        if length > 0 {
            self.pieces.push((offset, bytes[..length].to_vec()));
        }
    }

    /// Bytes at `offset`, or none where the image ends before them.
    pub fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_at(&mut bytes, offset).ok().map(|()| bytes)
    }
}

impl Storage for SparseStorage {
    fn name(&self) -> &str {
        "input"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end =
            offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size).ok_or_else(|| {
                Error::Io {
                    path: "input".to_owned(),
                    action: "read",
                    offset,
                    length: buffer.len() as u64,
                    source: std::io::ErrorKind::UnexpectedEof.into(),
                }
            })?;
        buffer.fill(0);
        for (start, bytes) in &self.pieces {
            let (first, last) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if first < last {
                buffer[(first - offset) as usize..(last - offset) as usize]
                    .copy_from_slice(&bytes[(first - start) as usize..(last - start) as usize]);
            }
        }
        Ok(())
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum())
    }
}
