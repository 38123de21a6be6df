//! The monitor and the agent of a domain, which libvirt holds and passes on.
//!
//! `virDomainQemuMonitorCommandWithFiles` takes any command of QMP and open files with it; `qemu-monitor-event` of virsh
//! is the same event stream. libvirt marks the domain as tainted (`custom-monitor`) and does no more about it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::connection::{Connection, DomainId, fits};
use super::rpc::{Message, QEMU, Refusal};
use super::xdr::{Reader, Writer};
use crate::qemu::channel::{AgentChannel, Channel, broken};
use crate::qemu::{Qmp, QmpOptions};
use crate::{Error, Result};

/// Procedures of the program `QEMU`.
const MONITOR_COMMAND: u32 = 1;
const MONITOR_EVENT: u32 = 6;
const MONITOR_COMMAND_WITH_FILES: u32 = 7;
/// `VIR_ERR_OPERATION_TIMEOUT`: somebody else works on the domain, and the command was not run.
const TIMED_OUT: u32 = 68;

/// A monitor behind libvirt.
#[derive(Debug)]
pub(super) struct DomainChannel {
    connection: Connection,
    domain: DomainId,
    /// Number of the call whose answer is outstanding, and of the command.
    asked: Option<(u32, u64)>,
}

impl DomainChannel {
    pub(super) fn new(mut connection: Connection, domain: DomainId) -> Result<Self> {
        connection.rpc.set_peer(format!("domain {}", domain.name));
        connection.register_events(&domain)?;
        Ok(Self { connection, domain, asked: None })
    }

    fn broken(&self, what: &str) -> Error {
        self.connection.broken(what)
    }

    /// What the monitor answered, as it would have come from QEMU's own socket.
    fn answer(&self, id: u64, result: std::result::Result<Vec<u8>, Refusal>) -> Result<Value> {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(refusal) if refusal.code == TIMED_OUT => {
                let error = json!({ "class": "Busy", "desc": refusal.message });
                return Ok(json!({ "id": id, "error": error }));
            }
            Err(refusal) => return Err(self.connection.refused(&refusal)),
        };
        let text = Reader::new(&bytes).text();
        let value = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        match value {
            Some(mut value) if value.is_object() => {
                value["id"] = json!(id);
                Ok(value)
            }
            _ => Err(self.broken("it answers with what is not JSON")),
        }
    }

    /// An event of the domain; `None` for what libvirt tells otherwise.
    fn event(&self, procedure: u32, payload: &[u8]) -> Result<Option<Value>> {
        if procedure != MONITOR_EVENT {
            return Ok(None);
        }
        let mut reader = Reader::new(payload);
        let mut parse = || {
            let _callback = reader.word()?;
            let _domain = DomainId::read(&mut reader)?;
            let name = reader.text()?;
            let (_seconds, _microseconds) = (reader.double()?, reader.word()?);
            let details = match reader.optional_text()? {
                Some(text) => serde_json::from_str(&text).ok()?,
                None => Value::Null,
            };
            Some(json!({ "event": name, "data": details }))
        };
        parse().map(Some).ok_or_else(|| self.broken("it sends an event that makes no sense"))
    }
}

impl Channel for DomainChannel {
    fn peer(&self) -> &str {
        self.connection.rpc.peer()
    }

    fn process(&self) -> Option<u32> {
        None
    }

    fn send(
        &mut self,
        id: u64,
        command: &str,
        arguments: &Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<()> {
        // libvirt numbers commands by itself.
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        if !fits(&text) {
            return Err(self.broken("a command is longer than libvirt takes"));
        }
        let procedure = if descriptors.is_empty() { MONITOR_COMMAND } else { MONITOR_COMMAND_WITH_FILES };
        let payload = self.domain.write(Writer::default()).text(&text).word(0).done();
        let serial = self.connection.rpc.send(QEMU, procedure, &payload, descriptors)?;
        self.asked = Some((serial, id));
        Ok(())
    }

    fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            match self.connection.rpc.next(deadline)? {
                None => return Ok(None),
                Some(Message::Reply { serial, result }) => {
                    return match self.asked.take() {
                        Some((asked, id)) if asked == serial => self.answer(id, result).map(Some),
                        _ => Err(self.broken("it answers something that was not asked")),
                    };
                }
                Some(Message::Event { program: QEMU, procedure, payload }) => {
                    if let Some(event) = self.event(procedure, &payload)? {
                        return Ok(Some(event));
                    }
                }
                Some(Message::Event { .. }) => {}
            }
        }
    }

    /// libvirt answers from one thread and tells of events from another.
    fn keeps_order(&self) -> bool {
        false
    }

    fn renew(&self, options: &QmpOptions) -> Result<Qmp> {
        let channel = Self::new(self.connection.again()?, self.domain.clone())?;
        Qmp::through(Box::new(channel), options)
    }

    fn agent(&self) -> Option<Result<Box<dyn AgentChannel>>> {
        let agent = self.connection.again().map(|mut connection| {
            connection.rpc.set_peer(format!("agent in domain {}", self.domain.name));
            Box::new(DomainAgent { connection, domain: self.domain.clone() }) as Box<dyn AgentChannel>
        });
        Some(agent)
    }
}

/// The guest's agent behind libvirt, which keeps its line in order.
#[derive(Debug)]
struct DomainAgent {
    connection: Connection,
    domain: DomainId,
}

impl AgentChannel for DomainAgent {
    fn peer(&self) -> &str {
        self.connection.rpc.peer()
    }

    fn synchronise(&mut self, limit: Duration) -> Result<()> {
        let answer = self.call("guest-ping", limit)?;
        match answer["error"]["desc"].as_str() {
            None => Ok(()),
            Some(why) => Err(broken(self.peer(), why)),
        }
    }

    fn call(&mut self, command: &str, limit: Duration) -> Result<Value> {
        let text = json!({ "execute": command }).to_string();
        match self.connection.agent_command(&self.domain, &text, limit)? {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| broken(self.peer(), format!("it sends what is not JSON: {error}"))),
            Err(refusal) => Ok(json!({ "error": { "class": "GenericError", "desc": refusal.message } })),
        }
    }
}
