//! A disk whose own bytes look like an image.
//!
//! The provider is told that the image is raw. Some look for themselves when they make a volume of it, and would then take what
//! a guest has written to the beginning of its disk for the head of a qcow2 image: the volume would hold something else, or a
//! file of the provider's that the head names. Such a disk is not sent.

use leeward_disk::{Error as DiskError, Result as DiskResult, Storage, detect};
use leeward_runs::step::Fault;

/// Heads of formats that are not read here, and which others know.
const OTHERS: [(&[u8], &str); 4] = [
    (b"QED\0", "qed"),
    (b"LUKS\xba\xbe", "luks"),
    (b"WithoutFreeSpace", "parallels"),
    (b"WithouFreSpacExt", "parallels"),
];

/// The beginning of a disk, all zeros behind it.
struct Head<'a> {
    bytes: &'a [u8],
    size: u64,
}

impl Storage for Head<'_> {
    fn name(&self) -> &str {
        "the beginning of the disk"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        let length = buffer.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(DiskError::Io {
                path: self.name().to_owned(),
                action: "read",
                offset,
                length,
                source: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        buffer.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.bytes.get(start..).unwrap_or_default();
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        Ok(())
    }
}

/// Refuses a disk of `size` bytes that begins like an image.
pub(super) fn refuse(beginning: &[u8], size: u64) -> Result<(), Fault> {
    let found = detect(&Head { bytes: beginning, size }).unwrap_or_default();
    let other = OTHERS.iter().find(|(head, _)| beginning.starts_with(head)).map(|(_, name)| *name);
    let Some(name) = found.first().map(|format| format.name()).or(other) else { return Ok(()) };
    Err(Fault::lasting(
        format!(
            "the disk itself begins like an image of the format {name}: the cloud could take its content for one, and the volume would \
             hold something else"
        ),
        "import it to a target of another kind; or, if an image was wrapped in an image by mistake, upload the inner one",
    ))
}

#[cfg(test)]
mod tests {
    use super::refuse;

    #[test]
    fn a_disk_that_begins_like_an_image_is_not_sent() {
        let size = 1 << 30;
        let mut table = vec![0; 4096];
        table[510..512].copy_from_slice(b"\x55\xaa");
        for fine in [&vec![0; 4096][..], &table, b"", b"#!/bin/sh"] {
            refuse(fine, size).unwrap();
        }
        let qcow2 = [&b"QFI\xfb\0\0\0\x03"[..], &[0; 4000]].concat();
        for head in [&qcow2[..], b"QED\0\0", b"LUKS\xba\xbe\0\x01", b"conectix\0\0\0\x02\0\x01\0\0"] {
            let head = [head, &[0; 4096]].concat();
            assert!(refuse(&head, size).is_err(), "{:?}", &head[..8]);
        }
    }
}
