//! Negotiation, up to where requests may come.

use std::io::{self, Read, Write};

use super::Export;
use crate::formats::bytes::{be16, be32, be64};
use crate::nbd::handshake::ALLOCATION;
use crate::nbd::wire;

/// Bytes of an option that a client needs at most, and options in all.
const OPTION_BYTES_MAX: u32 = 64 << 10;
const OPTIONS_MAX: usize = 256;
/// The protocol's limit for names.
const NAME_BYTES_MAX: u32 = 4096;

pub(super) const BLOCK_PREFERRED: u32 = 64 << 10;
/// The longest read or write.
pub(super) const BLOCK_MAX: u32 = 32 << 20;

/// The number under which `base:allocation` is reported; those of the device follow.
pub(super) const ALLOCATION_NUMBER: u32 = 1;
/// Contexts of a device at most.
pub(super) const CONTEXTS_MAX: usize = 30;

/// Where a connection stands with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    /// The server has no certificate.
    None,
    /// The client must start TLS before anything else.
    Required,
    /// TLS is spoken.
    Started,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Index of the export.
    pub(super) export: usize,
    pub(super) structured: bool,
    /// The contexts that the client asked for: a bit for each number.
    pub(super) contexts: u32,
}

/// How negotiating ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Requests follow.
    Serve(Agreed),
    /// The client's TLS handshake follows, then more options.
    StartTls,
    /// The client takes its leave.
    Over,
}

/// The state of a negotiation.
pub(super) struct Negotiation<'a> {
    exports: &'a [Export],
    security: Security,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which contexts were chosen, and which.
    chosen: Option<(usize, u32)>,
    options: usize,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn read<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// What the server says to an option, and whether it was the last.
enum Step {
    Continue,
    End(Outcome),
}

impl<'a> Negotiation<'a> {
    pub(super) fn new(exports: &'a [Export], security: Security) -> Self {
        Self {
            exports,
            security,
            fixed: false,
            no_zeroes: false,
            structured: false,
            chosen: None,
            options: 0,
        }
    }

    /// TLS is spoken from now on.
    pub(super) fn secured(&mut self) {
        self.security = Security::Started;
    }

    /// Greets the client and takes its flags.
    pub(super) fn greet(&mut self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        let mut greeting = Vec::with_capacity(18);
        greeting.extend(wire::SERVER_MAGIC.to_be_bytes());
        greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
        greeting.extend((wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
        stream.write_all(&greeting)?;
        let flags = u32::from_be_bytes(read(stream)?);
        let known = u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
        if flags & !known != 0 {
            return Err(broken("the client sets flags that the server did not offer"));
        }
        self.fixed = flags & u32::from(wire::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;
        Ok(())
    }

    /// Answers options until one ends this phase.
    pub(super) fn options(&mut self, stream: &mut (impl Read + Write)) -> io::Result<Outcome> {
        while self.options < OPTIONS_MAX {
            self.options += 1;
            let header = read::<16>(stream)?;
            let (option, length) = (be32(&header, 8), be32(&header, 12));
            if be64(&header, 0) != wire::OPTION_MAGIC {
                return Err(broken("the client does not speak the protocol"));
            }
            if length > OPTION_BYTES_MAX {
                reply(stream, option, wire::REPLY_ERROR_TOO_BIG, b"the option is too long")?;
                return Err(broken("the client sends an option that is too long"));
            }
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            if let Step::End(outcome) = self.answer(stream, option, &data)? {
                return Ok(outcome);
            }
        }
        Err(broken("the client does not end its negotiation"))
    }

    fn answer(&mut self, stream: &mut (impl Read + Write), option: u32, data: &[u8]) -> io::Result<Step> {
        if !self.fixed && option != wire::OPTION_EXPORT_NAME {
            return Err(broken("the client does not speak the fixed newstyle of the protocol"));
        }
        let secret = self.security == Security::Required;
        match option {
            wire::OPTION_EXPORT_NAME if secret => {
                return Err(broken("the client names an export without TLS"));
            }
            wire::OPTION_ABORT => {
                // A client that is gone already is as good.
                let _ = reply(stream, option, wire::REPLY_ACK, &[]);
                return Ok(Step::End(Outcome::Over));
            }
            wire::OPTION_STARTTLS => return self.start_tls(stream, data),
            _ if secret => {
                reply(stream, option, wire::REPLY_ERROR_TLS_REQUIRED, b"this server demands TLS")?;
            }
            wire::OPTION_EXPORT_NAME => return self.export_name(stream, data),
            wire::OPTION_LIST => self.list(stream, data)?,
            wire::OPTION_INFO | wire::OPTION_GO => return self.info(stream, option, data),
            wire::OPTION_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                reply(stream, option, wire::REPLY_ACK, &[])?;
            }
            wire::OPTION_STRUCTURED_REPLY => {
                reply(stream, option, wire::REPLY_ERROR_INVALID, b"the option takes no data")?;
            }
            wire::OPTION_LIST_META_CONTEXT | wire::OPTION_SET_META_CONTEXT => {
                self.contexts(stream, option, data)?;
            }
            _ => reply(stream, option, wire::REPLY_ERROR_UNSUPPORTED, &[])?,
        }
        Ok(Step::Continue)
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let named = self.exports.iter().position(|export| export.name.as_bytes() == name);
        named.or((name.is_empty() && self.exports.len() == 1).then_some(0))
    }

    fn start_tls(&mut self, stream: &mut impl Write, data: &[u8]) -> io::Result<Step> {
        let option = wire::OPTION_STARTTLS;
        match self.security {
            _ if !data.is_empty() => {
                reply(stream, option, wire::REPLY_ERROR_INVALID, b"the option takes no data")?;
            }
            Security::None => {
                reply(stream, option, wire::REPLY_ERROR_POLICY, b"this server has no certificate")?;
            }
            Security::Started => {
                reply(stream, option, wire::REPLY_ERROR_INVALID, b"TLS is spoken already")?;
            }
            Security::Required => {
                reply(stream, option, wire::REPLY_ACK, &[])?;
                return Ok(Step::End(Outcome::StartTls));
            }
        }
        Ok(Step::Continue)
    }

    fn serve(&self, export: usize) -> Step {
        let chosen = self.chosen.filter(|(of, _)| self.structured && *of == export);
        let contexts = chosen.map_or(0, |(_, contexts)| contexts);
        Step::End(Outcome::Serve(Agreed { export, structured: self.structured, contexts }))
    }

    fn flags(&self, export: usize) -> u16 {
        let df = if self.structured { wire::SEND_DF } else { 0 };
        wire::HAS_FLAGS
            | df
            | match self.exports[export].device.writable() {
                None => wire::READ_ONLY | wire::CAN_MULTI_CONN,
                Some(_) => {
                    wire::SEND_FLUSH
                        | wire::SEND_FUA
                        | wire::SEND_TRIM
                        | wire::SEND_WRITE_ZEROES
                        | wire::SEND_FAST_ZERO
                        | wire::SEND_CACHE
                }
            }
    }

    /// The old way to choose, which knows no error: an unknown name ends the connection.
    fn export_name(&self, stream: &mut impl Write, name: &[u8]) -> io::Result<Step> {
        let export =
            self.find(name).ok_or_else(|| broken("the client asks for an export that is not there"))?;
        let mut answer = self.exports[export].device.source().virtual_size().to_be_bytes().to_vec();
        answer.extend(self.flags(export).to_be_bytes());
        if !self.no_zeroes {
            answer.resize(answer.len() + 124, 0);
        }
        stream.write_all(&answer)?;
        Ok(self.serve(export))
    }

    fn list(&self, stream: &mut impl Write, data: &[u8]) -> io::Result<()> {
        let option = wire::OPTION_LIST;
        if !data.is_empty() {
            return reply(stream, option, wire::REPLY_ERROR_INVALID, b"the option takes no data");
        }
        for export in self.exports {
            let mut data = (export.name.len() as u32).to_be_bytes().to_vec();
            data.extend(export.name.as_bytes());
            data.extend(export.description.as_bytes());
            reply(stream, option, wire::REPLY_SERVER, &data)?;
        }
        reply(stream, option, wire::REPLY_ACK, &[])
    }

    fn info(&self, stream: &mut impl Write, option: u32, data: &[u8]) -> io::Result<Step> {
        let mut fields = Fields(data);
        let asked = fields.name().zip(fields.bytes(2).map(|count| usize::from(be16(count, 0))));
        let Some((name, _)) = asked.filter(|(_, count)| fields.0.len() == 2 * count) else {
            reply(stream, option, wire::REPLY_ERROR_INVALID, b"the option is not sound")?;
            return Ok(Step::Continue);
        };
        let wants = |kind: u16| fields.0.as_chunks::<2>().0.contains(&kind.to_be_bytes());
        let Some(index) = self.find(name) else {
            reply(stream, option, wire::REPLY_ERROR_UNKNOWN, b"there is no such export")?;
            return Ok(Step::Continue);
        };
        let export = &self.exports[index];
        let mut info = |kind: u16, parts: &[&[u8]]| {
            reply(
                stream,
                option,
                wire::REPLY_INFO,
                &[&kind.to_be_bytes(), parts.concat().as_slice()].concat(),
            )
        };
        let size = export.device.source().virtual_size();
        info(wire::INFO_EXPORT, &[&size.to_be_bytes(), &self.flags(index).to_be_bytes()])?;
        info(
            wire::INFO_BLOCK_SIZE,
            &[&1_u32.to_be_bytes(), &BLOCK_PREFERRED.to_be_bytes(), &BLOCK_MAX.to_be_bytes()],
        )?;
        if wants(wire::INFO_NAME) {
            info(wire::INFO_NAME, &[export.name.as_bytes()])?;
        }
        if wants(wire::INFO_DESCRIPTION) && !export.description.is_empty() {
            info(wire::INFO_DESCRIPTION, &[export.description.as_bytes()])?;
        }
        reply(stream, option, wire::REPLY_ACK, &[])?;
        Ok(if option == wire::OPTION_GO { self.serve(index) } else { Step::Continue })
    }

    fn contexts(&mut self, stream: &mut impl Write, option: u32, data: &[u8]) -> io::Result<()> {
        let set = option == wire::OPTION_SET_META_CONTEXT;
        if set {
            self.chosen = None;
        }
        if !self.structured {
            let why = b"structured replies must be negotiated first";
            return reply(stream, option, wire::REPLY_ERROR_INVALID, why);
        }
        let Some((name, queries)) = queries(data) else {
            return reply(stream, option, wire::REPLY_ERROR_INVALID, b"the option is not sound");
        };
        let Some(export) = self.find(name) else {
            return reply(stream, option, wire::REPLY_ERROR_UNKNOWN, b"there is no such export");
        };
        let wants = |name: &str| {
            let whole_space =
                |query: &[u8]| !set && query.ends_with(b":") && name.as_bytes().starts_with(query);
            queries.iter().any(|query| *query == name.as_bytes() || whole_space(query))
                || !set && queries.is_empty()
        };
        let of_device = self.exports[export].device.contexts().iter().take(CONTEXTS_MAX);
        let names = std::iter::once(ALLOCATION).chain(of_device.map(|context| context.name.as_str()));
        let mut chosen = 0;
        for (number, name) in (ALLOCATION_NUMBER..).zip(names).filter(|(_, name)| wants(name)) {
            let told = if set { number } else { 0 };
            let context = [&told.to_be_bytes(), name.as_bytes()].concat();
            reply(stream, option, wire::REPLY_META_CONTEXT, &context)?;
            chosen |= 1 << number;
        }
        if set {
            self.chosen = Some((export, chosen));
        }
        reply(stream, option, wire::REPLY_ACK, &[])
    }
}

fn reply(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(20 + data.len());
    message.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
    message.extend(option.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    stream.write_all(&message)
}

/// The name of the export and the queries of a meta context option.
fn queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut fields = Fields(data);
    let name = fields.name()?;
    let count = be32(fields.bytes(4)?, 0) as usize;
    let mut queries = Vec::new();
    // Each takes four bytes at least.
    for _ in 0..Some(count).filter(|count| *count <= data.len() / 4)? {
        queries.push(fields.name()?);
    }
    fields.0.is_empty().then_some((name, queries))
}

/// The fields of an option, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A string behind its length.
    fn name(&mut self) -> Option<&'a [u8]> {
        let length = be32(self.bytes(4)?, 0);
        (length <= NAME_BYTES_MAX).then_some(())?;
        self.bytes(length as usize)
    }
}
