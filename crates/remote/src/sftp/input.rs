//! What comes from a server, message by message.

use std::io::Read;
use std::process::ChildStdout;

use super::wire::{Fields, MESSAGE_BYTES_MAX, kind};

/// What a server begins with.
pub(super) enum Greeting {
    /// The names of its extensions.
    Abilities(Vec<String>),
    /// What is no SFTP.
    Babble,
    /// Nothing.
    Nothing,
}

/// Reads what a server begins with.
pub(super) fn greeting_of(output: &mut ChildStdout) -> Greeting {
    let message = match message_of(output) {
        Ok(message) => message,
        Err(Unread::Broken(_)) => return Greeting::Nothing,
        Err(Unread::Length(_)) => return Greeting::Babble,
    };
    let mut fields = Fields(&message[1..]);
    if message[0] != kind::VERSION || fields.number().is_none_or(|version| version < 3) {
        return Greeting::Babble;
    }
    let mut names = Vec::new();
    while let (Some(name), Some(_)) = (fields.bytes(), fields.bytes()) {
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    Greeting::Abilities(names)
}

/// Why there is no message.
pub(super) enum Unread {
    Broken(std::io::Error),
    /// It would have so many bytes.
    Length(usize),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "the connection broke ({error})"),
            Self::Length(length) => {
                write!(f, "the server sent a message of {length} bytes, which is no SFTP")
            }
        }
    }
}

/// One message, of a byte at least.
pub(super) fn message_of(output: &mut ChildStdout) -> Result<Vec<u8>, Unread> {
    let mut length = [0; 4];
    output.read_exact(&mut length).map_err(Unread::Broken)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(1..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(Unread::Length(length));
    }
    let mut message = vec![0; length];
    output.read_exact(&mut message).map_err(Unread::Broken)?;
    Ok(message)
}
