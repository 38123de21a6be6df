//! A connection to libvirt's daemon, and what is asked of it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::place::{Daemon, Surroundings};
use super::rpc::{Message, QEMU, REMOTE, Refusal, Rpc};
use super::xdr::{Reader, TEXT_BYTES_MAX, Writer};
use crate::qemu::channel::broken;
use crate::{Error, Result};

/// How long an answer may take. The daemon itself waits half a minute for whoever else works on the domain.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Procedures of the program [`REMOTE`].
mod procedure {
    pub(super) const CONNECT_OPEN: u32 = 1;
    pub(super) const DOMAIN_GET_XML_DESC: u32 = 14;
    pub(super) const DOMAIN_LOOKUP_BY_NAME: u32 = 23;
    pub(super) const DOMAIN_LOOKUP_BY_UUID: u32 = 24;
    pub(super) const AUTH_LIST: u32 = 66;
    pub(super) const AUTH_POLKIT: u32 = 70;
    pub(super) const DOMAIN_GET_STATE: u32 = 212;
    /// Procedures of the program `QEMU`.
    pub(super) const AGENT_COMMAND: u32 = 3;
    pub(super) const EVENT_REGISTER: u32 = 4;
}

/// Ways to prove who one is.
const AUTH_NONE: u32 = 0;
const AUTH_POLKIT: u32 = 2;
/// The description as it would be after a restart.
const XML_INACTIVE: u32 = 2;
/// `VIR_ERR_NO_DOMAIN`.
const NO_DOMAIN: u32 = 42;

/// What a domain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has a QEMU.
    Active,
    /// It is shut off, or has crashed.
    ShutOff,
}

/// A domain as the protocol names it: name, UUID, number.
#[derive(Debug, Clone)]
pub(super) struct DomainId {
    pub(super) name: String,
    uuid: [u8; 16],
    number: u32,
}

impl DomainId {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { name: reader.text()?, uuid: reader.fixed(16)?.try_into().ok()?, number: reader.word()? })
    }

    pub(super) fn write(&self, writer: Writer) -> Writer {
        writer.text(&self.name).fixed(&self.uuid).word(self.number)
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) rpc: Rpc,
    daemon: Daemon,
}

impl Connection {
    /// Connects to the daemon behind a URI of libvirt, or to the usual one.
    pub(super) fn open(uri: Option<&str>) -> Result<Self> {
        Self::to(Daemon::find(uri, &Surroundings::current())?)
    }

    /// Another connection to the same daemon.
    pub(super) fn again(&self) -> Result<Self> {
        Self::to(self.daemon.clone())
    }

    fn to(daemon: Daemon) -> Result<Self> {
        let mut rpc =
            Err(Error::NotFound { peer: daemon.uri.clone(), what: "libvirt has no socket".to_owned() });
        for socket in &daemon.sockets {
            rpc = Rpc::connect(socket, ANSWER_LIMIT);
            if rpc.is_ok() {
                break;
            }
        }
        let mut connection = Self { rpc: rpc?, daemon };
        connection.authenticate()?;
        let open = Writer::default().optional_text(Some(&connection.daemon.uri)).word(0).done();
        connection.call("to open", REMOTE, procedure::CONNECT_OPEN, &open)?;
        Ok(connection)
    }

    fn authenticate(&mut self) -> Result<()> {
        let answer = self.call("how to log in", REMOTE, procedure::AUTH_LIST, &[])?;
        let mut reader = Reader::new(&answer);
        let count = reader.word().unwrap_or(0).min(20);
        let ways: Vec<_> = (0..count).map_while(|_| reader.word()).collect();
        if ways.is_empty() || ways.contains(&AUTH_NONE) {
            return Ok(());
        }
        if ways.contains(&AUTH_POLKIT) {
            return self.call("to log in", REMOTE, procedure::AUTH_POLKIT, &[]).map(|_| ());
        }
        Err(Error::Refused {
            peer: self.rpc.peer().to_owned(),
            what: "libvirt wants a password — run leeward as root, or as a member of the group libvirt"
                .to_owned(),
        })
    }

    /// Makes a call and waits for its answer; events that come before are left out.
    pub(super) fn call(
        &mut self,
        what: &str,
        program: u32,
        procedure: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        match self.exchange(what, program, procedure, payload, ANSWER_LIMIT)? {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.refused(&refusal)),
        }
    }

    fn exchange(
        &mut self,
        what: &str,
        program: u32,
        procedure: u32,
        payload: &[u8],
        limit: Duration,
    ) -> Result<std::result::Result<Vec<u8>, Refusal>> {
        let asked = self.rpc.send(program, procedure, payload, &[] as &[BorrowedFd<'_>])?;
        let deadline = Instant::now() + limit;
        loop {
            match self.rpc.next(deadline)? {
                Some(Message::Reply { serial, result }) if serial == asked => return Ok(result),
                Some(Message::Reply { .. }) => {
                    return Err(self.broken("it answers something that was not asked"));
                }
                Some(Message::Event { .. }) => {}
                None => {
                    return Err(Error::TimedOut {
                        peer: self.rpc.peer().to_owned(),
                        waited_for: what.to_owned(),
                        limit,
                    });
                }
            }
        }
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Error {
        let peer = self.rpc.peer().to_owned();
        let what = format!("libvirt says: {}", refusal.message);
        match refusal.code {
            NO_DOMAIN => Error::NotFound { peer, what },
            _ => Error::Refused { peer, what },
        }
    }

    pub(super) fn broken(&self, what: &str) -> Error {
        broken(self.rpc.peer(), what)
    }

    /// Finds a domain by its name, or else by its UUID.
    pub(super) fn find(&mut self, domain: &str) -> Result<DomainId> {
        let name = Writer::default().text(domain).done();
        let found = self.call("for a domain", REMOTE, procedure::DOMAIN_LOOKUP_BY_NAME, &name);
        let answer = match (found, parse_uuid(domain)) {
            (Err(Error::NotFound { .. }), Some(uuid)) => {
                self.call("for a domain", REMOTE, procedure::DOMAIN_LOOKUP_BY_UUID, &uuid)?
            }
            (found, _) => found?,
        };
        DomainId::read(&mut Reader::new(&answer)).ok_or_else(|| self.broken("it names no domain"))
    }

    /// The description of a domain, without what is secret in it.
    pub(super) fn xml(&mut self, domain: &DomainId, state: State) -> Result<String> {
        let flags = if state == State::Active { 0 } else { XML_INACTIVE };
        self.xml_with(domain, flags)
    }

    /// The description of a domain as it would be after a restart, without what is secret in it.
    pub(super) fn lasting_xml(&mut self, domain: &DomainId) -> Result<String> {
        self.xml_with(domain, XML_INACTIVE)
    }

    fn xml_with(&mut self, domain: &DomainId, flags: u32) -> Result<String> {
        let payload = domain.write(Writer::default()).word(flags).done();
        let answer = self.call("for a description", REMOTE, procedure::DOMAIN_GET_XML_DESC, &payload)?;
        Reader::new(&answer).text().ok_or_else(|| self.broken("it describes no domain"))
    }

    pub(super) fn state(&mut self, domain: &DomainId) -> Result<State> {
        const SHUT_OFF: u32 = 5;
        const CRASHED: u32 = 6;
        let payload = domain.write(Writer::default()).word(0).done();
        let answer = self.call("for a state", REMOTE, procedure::DOMAIN_GET_STATE, &payload)?;
        let state = Reader::new(&answer).word().ok_or_else(|| self.broken("it tells no state"))?;
        Ok(if matches!(state, SHUT_OFF | CRASHED) { State::ShutOff } else { State::Active })
    }

    /// Has the daemon send the events of a domain's QEMU.
    pub(super) fn register_events(&mut self, domain: &DomainId) -> Result<()> {
        let payload = domain.write(Writer::default().word(1)).optional_text(None).word(0).done();
        self.call("for events", QEMU, procedure::EVENT_REGISTER, &payload).map(|_| ())
    }

    /// Runs a command of the guest's agent and returns what it says.
    pub(super) fn agent_command(
        &mut self,
        domain: &DomainId,
        command: &str,
        limit: Duration,
    ) -> Result<std::result::Result<String, Refusal>> {
        // libvirt counts whole seconds.
        let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).clamp(1, 3600);
        let payload = domain.write(Writer::default()).text(command).word(seconds).word(0).done();
        let name = "the guest's agent";
        let answer = self.exchange(name, QEMU, procedure::AGENT_COMMAND, &payload, limit + ANSWER_LIMIT)?;
        match answer {
            Err(refusal) => Ok(Err(refusal)),
            Ok(bytes) => match Reader::new(&bytes).optional_text() {
                Some(Some(text)) => Ok(Ok(text)),
                _ => Err(self.broken("the guest's agent says nothing")),
            },
        }
    }
}

/// Whether a text is short enough to be sent.
pub(super) fn fits(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 32 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_sixteen_bytes() {
        let uuid = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((uuid[0], uuid[15]), (0, 0xff));
        assert!(parse_uuid("web-01").is_none() && parse_uuid("00112233").is_none());
    }
}
