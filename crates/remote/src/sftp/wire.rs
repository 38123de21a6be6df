//! Messages of SFTP, version 3 (draft-ietf-secsh-filexfer-02), as every server speaks it.
//!
//! What comes from the server is bounded and checked; nothing of it is believed before.

/// The largest message that is taken, in bytes. OpenSSH sends none beyond 256 KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// The most names that one answer may have.
const NAMES_MAX: u32 = 10_000;

/// Kinds of messages.
pub(super) mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const EXTENDED: u8 = 200;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Codes of a status.
pub(super) mod status {
    pub const OK: u32 = 0;
    pub const EOF: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const NO_CONNECTION: u32 = 6;
    pub const CONNECTION_LOST: u32 = 7;
    pub const OP_UNSUPPORTED: u32 = 8;
}

/// Flags of an opening.
pub(super) mod flag {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const CREATE: u32 = 8;
    pub const EXCLUSIVE: u32 = 32;
}

/// A message that is put together: length, kind, number, fields.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// A message of a kind, with its number.
    pub(super) fn new(kind: u8, number: u32) -> Self {
        let mut message = Self(vec![0, 0, 0, 0, kind]);
        message.number(number);
        message
    }

    pub(super) fn number(&mut self, number: u32) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn long(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// Bytes with their length before them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        // Callers send pieces and paths, which are far below 4 GiB.
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend(bytes);
        self
    }

    /// What is sent.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// What is told about a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    mode: Option<u32>,
    /// Time of the last change, in seconds since 1970, by the server's clock.
    pub(super) changed: Option<u32>,
}

impl Attributes {
    const KIND: u32 = 0o170_000;

    pub(super) fn is_folder(&self) -> bool {
        self.mode.is_some_and(|mode| mode & Self::KIND == 0o040_000)
    }

    /// Whether it is a plain file; a server that does not tell kinds is believed to have no others.
    pub(super) fn is_file(&self) -> bool {
        self.mode.is_none_or(|mode| mode & Self::KIND == 0o100_000)
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Status(u32, String),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(String, Attributes)>),
    Attributes(Attributes),
    Extended(Vec<u8>),
}

/// Fields of a message that are still to be read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn long(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.number()?;
        let mut found = Attributes::default();
        if flags & 1 != 0 {
            found.size = Some(self.long()?);
        }
        if flags & 2 != 0 {
            self.take(8)?;
        }
        if flags & 4 != 0 {
            found.mode = Some(self.number()?);
        }
        if flags & 8 != 0 {
            self.number()?;
            found.changed = Some(self.number()?);
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Some(found)
    }

    fn names(&mut self) -> Option<Vec<(String, Attributes)>> {
        let count = self.number().filter(|count| *count <= NAMES_MAX)?;
        let mut names = Vec::new();
        for _ in 0..count {
            let name = self.bytes()?;
            self.bytes()?;
            let attributes = self.attributes()?;
            // A name that is no text is not one of ours.
            if let Ok(name) = std::str::from_utf8(name) {
                names.push((name.to_owned(), attributes));
            }
        }
        Some(names)
    }
}

/// Reads an answer and the number of what it answers; `None` when it is none.
pub(super) fn answer(message: &[u8]) -> Option<(u32, Answer)> {
    let (kind, rest) = message.split_first()?;
    let mut fields = Fields(rest);
    let number = fields.number()?;
    let answer = match *kind {
        kind::STATUS => {
            let code = fields.number()?;
            // Old servers leave the words out.
            let words = fields.bytes().unwrap_or_default();
            Answer::Status(code, String::from_utf8_lossy(words).into_owned())
        }
        kind::HANDLE => Answer::Handle(fields.bytes()?.to_vec()),
        kind::DATA => Answer::Data(fields.bytes()?.to_vec()),
        kind::NAME => Answer::Names(fields.names()?),
        kind::ATTRS => Answer::Attributes(fields.attributes()?),
        kind::EXTENDED_REPLY => Answer::Extended(fields.0.to_vec()),
        _ => return None,
    };
    Some((number, answer))
}

#[cfg(test)]
mod tests {
    use super::{Answer, Message, answer, kind};

    fn names() -> Vec<u8> {
        let mut message = Message::new(kind::NAME, 7);
        message.number(1).bytes(b"a").bytes(b"-rw-r--r-- a");
        message.number(0x8000_000f).long(12).number(0).number(0).number(0o100_644).number(1).number(99);
        message.number(1).bytes(b"kind").bytes(b"value");
        message.finish()[4..].to_vec()
    }

    #[test]
    fn answers_are_read() {
        let (number, found) = answer(&names()).unwrap();
        let Answer::Names(found) = found else { panic!("{found:?}") };
        assert_eq!((number, found.len(), found[0].0.as_str()), (7, 1, "a"));
        assert!(found[0].1.size == Some(12) && found[0].1.changed == Some(99) && found[0].1.is_file());
        let mut status = Message::new(kind::STATUS, 3);
        status.number(4);
        assert_eq!(answer(&status.finish()[4..]), Some((3, Answer::Status(4, String::new()))));
    }

    #[test]
    fn what_is_cut_or_lies_about_its_lengths_is_no_answer() {
        let whole = names();
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length]), None, "{length} bytes");
        }
        let mut many = Message::new(kind::NAME, 1);
        many.number(u32::MAX);
        assert_eq!(answer(&many.finish()[4..]), None);
        let mut long = Message::new(kind::DATA, 1);
        long.number(u32::MAX);
        assert_eq!(answer(&long.finish()[4..]), None);
        assert_eq!(answer(&[99, 0, 0, 0, 1]), None);
    }
}
