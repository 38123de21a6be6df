//! Putting a reply together from its parts.

use super::wire::Command;

/// Parts of one reply at most: a server that sends fewer than 64 bytes at a time means no good.
const PARTS_MAX: usize = 4096;

/// Extents of one reply at most.
const EXTENTS_MAX: usize = 1 << 20;

/// What was asked for, and what has come so far.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) command: Command,
    offset: u64,
    length: u32,
    /// The bytes read.
    pub(super) data: Vec<u8>,
    /// The stretches of `data` that have come, in order.
    covered: Vec<(u32, u32)>,
    parts: usize,
    /// What was told, as number of a meta context, length, and flags: in order within one context.
    pub(super) extents: Vec<(u32, u32, u32)>,
    pub(super) failure: Option<String>,
}

impl Assembly {
    /// A reply to come. `data` is a buffer to be used again.
    pub(super) fn new(command: Command, offset: u64, length: u32, mut data: Vec<u8>) -> Self {
        let wanted = if command == Command::Read { length as usize } else { 0 };
        data.resize(wanted, 0);
        Self {
            command,
            offset,
            length,
            data,
            covered: Vec::new(),
            parts: 0,
            extents: Vec::new(),
            failure: None,
        }
    }

    /// Offset and length of what was asked for.
    pub(super) fn whole(&self) -> (u64, u32) {
        (self.offset, self.length)
    }

    /// The place for `length` bytes of the disk at `offset`, which must be part of what was asked for and new.
    pub(super) fn place(&mut self, offset: u64, length: u32) -> Result<&mut [u8], String> {
        let start = offset.checked_sub(self.offset).and_then(|start| u32::try_from(start).ok());
        let range = start.and_then(|start| Some((start, start.checked_add(length)?)));
        let Some((start, end)) = range.filter(|(_, end)| *end <= self.length && length > 0) else {
            return Err(format!("the server sends {length} bytes at {offset}, which were not asked for"));
        };
        if self.command != Command::Read {
            return Err("the server sends data that was not asked for".to_owned());
        }
        self.parts += 1;
        let index = self.covered.partition_point(|&(_, before)| before <= start);
        if self.parts > PARTS_MAX || self.covered.get(index).is_some_and(|&(next, _)| next < end) {
            return Err("the server sends the same bytes twice, or too few at a time".to_owned());
        }
        match index.checked_sub(1).and_then(|before| self.covered.get_mut(before)) {
            Some(before) if before.1 == start => before.1 = end,
            _ => self.covered.insert(index, (start, end)),
        }
        Ok(&mut self.data[start as usize..end as usize])
    }

    /// Notes the extents of a chunk; `bytes` is its payload behind the number of the context.
    pub(super) fn add_extents(&mut self, context: u32, bytes: &[u8]) -> Result<(), String> {
        let (entries, rest) = bytes.as_chunks::<8>();
        if self.command != Command::BlockStatus
            || !rest.is_empty()
            || entries.is_empty()
            || self.extents.len() > EXTENTS_MAX
        {
            return Err("the server sends extents that make no sense".to_owned());
        }
        for entry in entries {
            let (length, flags) = entry.split_at(4);
            let number = |bytes: &[u8]| bytes.iter().fold(0, |all, &byte| all << 8 | u32::from(byte));
            if number(length) == 0 {
                return Err("the server sends an extent without length".to_owned());
            }
            self.extents.push((context, number(length), number(flags)));
        }
        Ok(())
    }

    /// Whether all that was asked for has come, once the server says that the reply is complete.
    pub(super) fn check_complete(&self) -> Result<(), String> {
        let missing = match self.command {
            _ if self.failure.is_some() => false,
            Command::Read => self.covered.iter().map(|(start, end)| end - start).sum::<u32>() != self.length,
            Command::BlockStatus => self.extents.is_empty(),
            _ => false,
        };
        if missing { Err("the server's reply is not complete".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_may_come_in_any_order_but_once() {
        let mut reply = Assembly::new(Command::Read, 1000, 100, Vec::new());
        reply.place(1050, 50).unwrap().fill(2);
        assert!(reply.check_complete().is_err());
        assert!(reply.place(1040, 20).is_err(), "overlaps");
        reply.place(1000, 50).unwrap().fill(1);
        assert!(reply.check_complete().is_ok());
        assert!(reply.place(1000, 1).is_err(), "twice");
        assert!(
            reply.place(999, 1).is_err() && reply.place(1100, 1).is_err() && reply.place(1000, 0).is_err()
        );
        assert!(reply.place(u64::MAX, u32::MAX).is_err());
    }

    #[test]
    fn extents_have_a_length() {
        let mut reply = Assembly::new(Command::BlockStatus, 0, 100, Vec::new());
        assert!(reply.add_extents(1, &[0; 8]).is_err());
        assert!(reply.add_extents(1, &[0, 0, 0, 1, 0, 0, 0]).is_err());
        reply.add_extents(7, &[0, 0, 1, 0, 0, 0, 0, 3]).unwrap();
        assert_eq!(reply.extents, [(7, 256, 3)]);
    }
}
