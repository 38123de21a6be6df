//! The moment itself: with the guest's file systems at rest where that can be had.

use std::path::PathBuf;
use std::time::Duration;

use leeward_repository::Consistency;
use serde_json::{Value, json};

use super::CaptureOptions;
use crate::qemu::agent::Agent;
use crate::qemu::machine::Machine;
use crate::qemu::qmp::Qmp;
use crate::{Error, Result};

/// The name of the port behind which QEMU's guest agent listens.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";

/// How far the content has to agree with itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// File systems at rest where the guest's agent answers, or else as after a power cut.
    #[default]
    Auto,
    /// As after a power cut; the guest is not asked.
    Crash,
    /// File systems at rest, or no backup.
    Filesystem,
}

/// How a moment was taken.
#[derive(Debug, Clone)]
pub struct Moment {
    /// How far the content agrees with itself.
    pub consistency: Consistency,
    /// Why the file systems were not at rest.
    pub reason: Option<String>,
    /// How long the guest was frozen.
    pub frozen_for: Option<Duration>,
    /// What people should know: a guest that was found frozen, one that could not be thawed.
    pub notes: Vec<String>,
}

impl Default for Moment {
    fn default() -> Self {
        Self { consistency: Consistency::Crash, reason: None, frozen_for: None, notes: Vec::new() }
    }
}

impl Moment {
    /// Runs the actions, with the guest frozen if that is wanted and can be had.
    ///
    /// # Errors
    /// The actions fail, or the file systems had to be at rest and were not.
    pub(super) fn take(
        monitor: &mut Qmp,
        machine: &Machine,
        options: &CaptureOptions,
        actions: &[(&str, Value)],
    ) -> Result<Self> {
        let mut moment = Self::default();
        if machine.is_at_rest() {
            moment.consistency = Consistency::AtRest;
        }
        let frozen = match moment.agent(monitor, machine, options)? {
            Some(agent) => match agent.freeze(options.freeze_limit, options.guardian.as_ref()) {
                Ok(frozen) => Some(frozen),
                Err(error) => {
                    moment.give_way(monitor, options, format!("the guest could not be frozen: {error}"))?;
                    None
                }
            },
            None => None,
        };
        let taken = monitor.transaction(actions);
        let Some(thawed) = frozen.map(crate::qemu::agent::Frozen::thaw) else {
            return taken.map(|()| moment);
        };
        moment.frozen_for = Some(thawed.frozen_for);
        moment.consistency = Consistency::Filesystem;
        if let Err(error) = &thawed.thawed {
            moment.notes.push(format!(
                "the guest could not be thawed, and its file systems may still be frozen: {error} — thaw it with \
                 guest-fsfreeze-thaw or restart its agent"
            ));
        }
        taken?;
        if !thawed.in_time {
            let why = format!(
                "the moment took longer than the {} s that the guest may be frozen",
                options.freeze_limit.as_secs_f32()
            );
            moment.consistency = Consistency::Crash;
            // The moment is made, and is undone when this fails.
            moment.reason = Some(why);
        }
        Ok(moment)
    }

    /// Goes on without file systems at rest, unless they were asked for.
    fn give_way(&mut self, monitor: &Qmp, options: &CaptureOptions, why: String) -> Result<()> {
        if options.consistency == Wanted::Filesystem {
            return Err(Error::Refused {
                peer: monitor.peer().to_owned(),
                what: format!("file systems at rest were asked for, but {why}"),
            });
        }
        self.reason = Some(why);
        Ok(())
    }

    /// The agent, ready to freeze.
    fn agent(
        &mut self,
        monitor: &mut Qmp,
        machine: &Machine,
        options: &CaptureOptions,
    ) -> Result<Option<Agent>> {
        if options.consistency == Wanted::Crash
            || (machine.is_at_rest() && options.consistency == Wanted::Auto)
        {
            return Ok(None);
        }
        match find_agent(monitor, machine, options).and_then(|found| match found {
            Ok(agent) => self.ready(agent, options).map(Ok),
            Err(why) => Ok(Err(why)),
        }) {
            Ok(Ok(agent)) => Ok(Some(agent)),
            Ok(Err(why)) => self.give_way(monitor, options, why).map(|()| None),
            Err(error) => {
                let why = format!("the guest's agent does not do its work: {error}");
                self.give_way(monitor, options, why).map(|()| None)
            }
        }
    }

    /// A guest that somebody left frozen is thawed first.
    fn ready(&mut self, mut agent: Agent, options: &CaptureOptions) -> Result<Agent> {
        if agent.is_frozen(options.freeze_limit)? {
            agent.thaw()?;
            self.notes
                .push("the guest was found frozen, left so by somebody before, and was thawed".to_owned());
        }
        Ok(agent)
    }
}

/// The agent, or why there is none.
fn find_agent(
    monitor: &mut Qmp,
    machine: &Machine,
    options: &CaptureOptions,
) -> Result<Result<Agent, String>> {
    if !machine.is_running() {
        return Ok(Err(format!("the guest does not run (state {})", machine.status)));
    }
    let socket = match (&options.agent, monitor.agent()) {
        (Some(socket), _) => socket.clone(),
        (None, Some(channel)) => return Agent::over(channel?, options.freeze_limit).map(Ok),
        (None, None) => match agent_socket(monitor)? {
            Ok(socket) => socket,
            Err(why) => return Ok(Err(why)),
        },
    };
    Agent::connect(&socket, options.freeze_limit).map(Ok)
}

/// The socket behind which the agent listens, or why there is none.
fn agent_socket(monitor: &mut Qmp) -> Result<Result<PathBuf, String>> {
    let Some(device) = agent_device(monitor)? else {
        return Ok(Err("the machine has no port for a guest agent".to_owned()));
    };
    let devices = monitor.execute("query-chardev", json!({}))?;
    let device = devices.as_array().into_iter().flatten().find(|found| found["label"] == device.as_str());
    let Some(device) = device else { return Ok(Err("the port for a guest agent leads nowhere".to_owned())) };
    if device["frontend-open"] == false {
        return Ok(Err("the guest runs no agent".to_owned()));
    }
    // As in `disconnected:unix:/run/agent.sock,server=on`, or `unix:/run/agent.sock,server=on <-> (null)`.
    let name = device["filename"].as_str().unwrap_or_default();
    let name = name.strip_prefix("disconnected:").unwrap_or(name);
    let path = name.strip_prefix("unix:").and_then(|rest| {
        let end = rest.find(",server").or_else(|| rest.find(" <->")).unwrap_or(rest.len());
        Some(&rest[..end]).filter(|path| path.starts_with('/'))
    });
    Ok(path.map(PathBuf::from).ok_or_else(|| {
        format!("the guest's agent is not behind a Unix socket with an absolute path ({name}) — name it with --agent")
    }))
}

/// The character device of the agent's port.
fn agent_device(monitor: &mut Qmp) -> Result<Option<String>> {
    for container in ["/machine/peripheral", "/machine/peripheral-anon"] {
        let devices = monitor.properties(container)?;
        for (name, _) in devices.into_iter().filter(|(_, kind)| kind == "child<virtserialport>") {
            let path = format!("{container}/{name}");
            if monitor.property(&path, "name")? == AGENT_PORT {
                return Ok(monitor.property(&path, "chardev")?.as_str().map(str::to_owned));
            }
        }
    }
    Ok(None)
}
