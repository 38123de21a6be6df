//! Negotiation.

use std::io::{Read, Write};

use super::stream::describe;
use super::url::NbdUrl;
use super::wire;
use crate::formats::bytes::{be16, be32, be64};
use crate::{Error, Result};

/// Bytes of an option reply, and number of replies to one option, that a server needs at most.
const REPLY_BYTES_MAX: u32 = 64 << 10;
const REPLIES_MAX: usize = 64;

/// The meta context that tells holes from data.
pub(super) const ALLOCATION: &str = "base:allocation";

/// A meta context that was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) name: String,
    /// The number under which the server reports it.
    pub(super) number: u32,
}

/// What the server says of the export.
#[derive(Debug, Clone)]
pub(super) struct Export {
    pub(super) size: u64,
    pub(super) flags: u16,
    pub(super) block_min: u32,
    pub(super) block_max: u32,
    pub(super) structured: bool,
    pub(super) contexts: Vec<Context>,
}

impl Export {
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The number under which a meta context is reported, if the server has it.
    pub(super) fn context(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|context| context.name == name).map(|context| context.number)
    }
}

/// Greets the server of a new connection.
pub(super) fn greet(stream: &mut (impl Read + Write), url: &NbdUrl) -> Result<()> {
    Session { stream, url }.greet()
}

/// Asks a server for TLS; its handshake follows.
pub(super) fn start_tls(stream: &mut (impl Read + Write), url: &NbdUrl) -> Result<()> {
    let mut session = Session { stream, url };
    match session.ask(wire::OPTION_STARTTLS, &[])?.1 {
        reply if reply.kind == wire::REPLY_ACK => Ok(()),
        reply => {
            let what =
                "the server does not speak TLS; for a connection without it, use nbd:// or nbd+unix://";
            Err(session.refused(what, &reply))
        }
    }
}

/// Negotiates up to where requests may be sent. Next to `base:allocation`, which a server may lack, it must have all
/// `contexts`.
pub(super) fn negotiate(stream: &mut (impl Read + Write), url: &NbdUrl, contexts: &[&str]) -> Result<Export> {
    let mut session = Session { stream, url };
    let structured = session.structured_replies()?;
    let agreed = if structured { session.contexts(contexts)? } else { Vec::new() };
    if let Some(missing) = contexts.iter().find(|name| !agreed.iter().any(|context| context.name == **name)) {
        return Err(session.broken(format!("the server has no meta context {missing:?} for this export")));
    }
    session.go(structured, agreed)
}

struct Session<'a, S> {
    stream: &'a mut S,
    url: &'a NbdUrl,
}

struct Reply {
    kind: u32,
    data: Vec<u8>,
}

impl<S: Read + Write> Session<'_, S> {
    fn broken(&self, what: impl Into<String>) -> Error {
        Error::Protocol { peer: self.url.text.clone(), what: what.into() }
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).map_err(|error| self.broken(describe(&error)))?;
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|error| self.broken(describe(&error)))
    }

    fn greet(&mut self) -> Result<()> {
        let greeting = self.read::<16>()?;
        if be64(&greeting, 0) != wire::SERVER_MAGIC {
            return Err(self.broken("this is not an NBD server"));
        }
        if be64(&greeting, 8) != wire::OPTION_MAGIC {
            return Err(
                self.broken("the server speaks the old style of the protocol, which is not supported")
            );
        }
        let flags = u16::from_be_bytes(self.read()?);
        if flags & wire::FIXED_NEWSTYLE == 0 {
            return Err(self.broken("the server does not speak the fixed newstyle of the protocol"));
        }
        let own = wire::FIXED_NEWSTYLE | flags & wire::NO_ZEROES;
        self.write(&u32::from(own).to_be_bytes())
    }

    fn send(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(16 + data.len());
        message.extend(wire::OPTION_MAGIC.to_be_bytes());
        message.extend(option.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.write(&message)
    }

    fn reply(&mut self, option: u32) -> Result<Reply> {
        let header = self.read::<20>()?;
        let (kind, length) = (be32(&header, 12), be32(&header, 16));
        if be64(&header, 0) != wire::OPTION_REPLY_MAGIC || be32(&header, 8) != option {
            return Err(self.broken("the server answers what was not asked"));
        }
        if length > REPLY_BYTES_MAX {
            return Err(self.broken(format!("the server announces a reply of {length} bytes")));
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).map_err(|error| self.broken(describe(&error)))?;
        Ok(Reply { kind, data })
    }

    /// Sends an option and returns the replies before the final one, and that.
    fn ask(&mut self, option: u32, data: &[u8]) -> Result<(Vec<Reply>, Reply)> {
        self.send(option, data)?;
        let mut replies = Vec::new();
        while replies.len() < REPLIES_MAX {
            let reply = self.reply(option)?;
            if reply.kind == wire::REPLY_ACK || reply.kind & wire::REPLY_ERROR != 0 {
                return Ok((replies, reply));
            }
            replies.push(reply);
        }
        Err(self.broken("the server does not end its reply"))
    }

    fn structured_replies(&mut self) -> Result<bool> {
        let (_, last) = self.ask(wire::OPTION_STRUCTURED_REPLY, &[])?;
        if last.kind == wire::REPLY_ERROR_TLS_REQUIRED {
            return Err(self.refused(
                "the server demands TLS: use nbds:// or nbds+unix:// with tls-certificates=DIRECTORY",
                &last,
            ));
        }
        Ok(last.kind == wire::REPLY_ACK)
    }

    /// Asks for `base:allocation` and `wanted`. A server without `base:allocation` is read as if all were data.
    fn contexts(&mut self, wanted: &[&str]) -> Result<Vec<Context>> {
        let names: Vec<&str> = std::iter::once(ALLOCATION).chain(wanted.iter().copied()).collect();
        let mut data = self.export_name();
        data.extend((names.len() as u32).to_be_bytes());
        for name in &names {
            data.extend((name.len() as u32).to_be_bytes());
            data.extend(name.as_bytes());
        }
        let (replies, last) = self.ask(wire::OPTION_SET_META_CONTEXT, &data)?;
        let mut agreed: Vec<Context> = Vec::new();
        if last.kind != wire::REPLY_ACK {
            return Ok(agreed);
        }
        for reply in replies.iter().filter(|reply| reply.kind == wire::REPLY_META_CONTEXT) {
            let name = names.iter().find(|name| reply.data.get(4..) == Some(name.as_bytes()));
            let number = be32(&reply.data, 0);
            if let Some(name) = name
                && !agreed.iter().any(|known| known.name == **name || known.number == number)
            {
                agreed.push(Context { name: (*name).to_owned(), number });
            }
        }
        Ok(agreed)
    }

    fn export_name(&self) -> Vec<u8> {
        let mut data = (self.url.export.len() as u32).to_be_bytes().to_vec();
        data.extend(self.url.export.as_bytes());
        data
    }

    fn go(&mut self, structured: bool, contexts: Vec<Context>) -> Result<Export> {
        let mut data = self.export_name();
        data.extend(1_u16.to_be_bytes());
        data.extend(wire::INFO_BLOCK_SIZE.to_be_bytes());
        let (replies, last) = self.ask(wire::OPTION_GO, &data)?;
        match last.kind {
            wire::REPLY_ACK => {}
            wire::REPLY_ERROR_UNKNOWN => {
                return Err(self.refused(&format!("the server has no export {:?}", self.url.export), &last));
            }
            wire::REPLY_ERROR_TLS_REQUIRED => {
                return Err(self.refused(
                    "the server demands TLS: use nbds:// or nbds+unix:// with tls-certificates=DIRECTORY",
                    &last,
                ));
            }
            wire::REPLY_ERROR_UNSUPPORTED => {
                return Err(self.refused("the server is too old: it does not know NBD_OPT_GO", &last));
            }
            _ => return Err(self.refused("the server refuses the export", &last)),
        }
        let mut export =
            Export { size: 0, flags: 0, block_min: 1, block_max: 32 << 20, structured, contexts };
        let mut has_size = false;
        for reply in replies.iter().filter(|reply| reply.kind == wire::REPLY_INFO) {
            match (be16(&reply.data, 0), reply.data.len()) {
                (wire::INFO_EXPORT, 12) => {
                    (export.size, export.flags) = (be64(&reply.data, 2), be16(&reply.data, 10));
                    has_size = true;
                }
                (wire::INFO_BLOCK_SIZE, 14) => {
                    (export.block_min, export.block_max) = (be32(&reply.data, 2), be32(&reply.data, 10));
                }
                _ => {}
            }
        }
        if !has_size {
            return Err(self.broken("the server does not say how large the export is"));
        }
        self.check(export)
    }

    fn check(&self, export: Export) -> Result<Export> {
        if export.size > i64::MAX as u64 {
            return Err(self.broken(format!("the server says that the export has {} bytes", export.size)));
        }
        let (least, most) = (export.block_min, export.block_max);
        if !least.is_power_of_two() || least > 64 << 10 || most < least {
            return Err(self.broken(format!("the server wants requests of {least} to {most} bytes")));
        }
        Ok(export)
    }

    fn refused(&self, what: &str, reply: &Reply) -> Error {
        let said = String::from_utf8_lossy(&reply.data);
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        self.broken(if said.is_empty() { what.to_owned() } else { format!("{what} ({said})") })
    }
}
