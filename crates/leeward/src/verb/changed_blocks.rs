//! `leeward changed-blocks`: points in time of a running machine, and what has changed between them, for other programs.

use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, Subcommand};
use leeward_cloud::qemu::{Capture, CapturedDisk, Claim, Machine, MachineDisk, Mode, Watched, tracking};
use leeward_disk::default_threads;
use leeward_disk::nbd::{Clients, Context, Export, ReadOnly, Server, ServerOptions, Statistics, TlsServer};
use serde_json::json;

use leeward_protect::{Running, group_id};

use super::backup::machine::{MachineArguments, note};
use super::export::{parse_listen, serve};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::size;

/// Let other programs read a running machine's disks at one moment, and what has changed since the moment before
#[derive(Subcommand)]
pub enum ChangedBlocksVerb {
    /// Begin to record changes under a name
    Start(ChainArguments),
    /// Make a point in time of all disks, and serve them and their changes since the last point over NBD
    Export(Box<ExportArguments>),
    /// End recording, and forget what was recorded
    Stop(ChainArguments),
    /// Show what is recorded
    List(MachineArgument),
}

/// Which machine.
#[derive(Args)]
pub struct MachineArgument {
    /// The machine: qmp:SOCKET, or qmp:SOCKET?disk=NAME&disk=NAME for some of its disks
    #[arg(value_name = "MACHINE")]
    machine: String,
}

/// Which machine and under which name.
#[derive(Args)]
pub struct ChainArguments {
    #[command(flatten)]
    machine: MachineArgument,
    /// The name: letters, digits, - and _
    name: String,
}

/// How a point is made and served.
#[derive(Args)]
pub struct ExportArguments {
    #[command(flatten)]
    chain: ChainArguments,
    /// Where to listen: unix:PATH or HOST:PORT (port 0 takes a free one)
    #[arg(short, long, value_name = "ADDRESS")]
    listen: String,
    /// Demand TLS, with server-cert.pem, server-key.pem and ca-cert.pem from this directory
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// End when the last client has gone
    #[arg(long)]
    until_disconnect: bool,
    /// Do not count from this point on: the next one tells of these changes again
    #[arg(long)]
    keep_base: bool,
    #[command(flatten)]
    options: MachineArguments,
}

impl ChainArguments {
    fn prefix(&self) -> Result<String, Failure> {
        tracking::prefix(&self.name).ok_or_else(|| {
            Failure::new(Code::Usage, format!("{:?}: no name for recorded changes", self.name))
                .hint("a name has 1 to 64 letters, digits, - and _")
        })
    }
}

impl MachineArgument {
    fn place(&self) -> Result<Running, Failure> {
        let place = Running::behind_socket(&self.machine).map(|place| place.map_err(Failure::from));
        place.unwrap_or_else(|| {
            Err(Failure::new(Code::Usage, format!("{}: not a running machine", self.machine))
                .hint("a machine is given as qmp:SOCKET or qmp:SOCKET?disk=NAME&disk=NAME"))
        })
    }
}

/// Runs the verb.
pub fn run(verb: &ChangedBlocksVerb, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        ChangedBlocksVerb::Start(arguments) => start(arguments, output),
        ChangedBlocksVerb::Export(arguments) => export(arguments, output),
        ChangedBlocksVerb::Stop(arguments) => stop(arguments, output),
        ChangedBlocksVerb::List(arguments) => list(arguments, output),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn claim(place: &Running, take_over: bool, output: &Output) -> Result<(Claim, Machine), Failure> {
    let mut claim = Claim::of(place.monitor()?, take_over)?;
    if !claim.removed().is_empty() {
        note(output, &format!("removed what an unfinished run had left: {}", claim.removed().join(", ")));
    }
    let machine = place.selected(claim.machine()?)?;
    Ok((claim, machine))
}

fn start(arguments: &ChainArguments, output: &Output) -> Result<(), Failure> {
    let (prefix, place) = (arguments.prefix()?, arguments.machine.place()?);
    let (mut claim, machine) = claim(&place, false, output)?;
    tracking::start(&mut claim, &machine.disks, &prefix, &group_id()?)?;
    for disk in &machine.disks {
        print_json(
            output,
            &json!({
                "name": arguments.name, "disk": disk.name, "recording": true, "persistent": disk.keeps_bitmaps,
            }),
        );
        let lasting = if disk.keeps_bitmaps { "" } else { ", until QEMU ends: the image cannot keep it" };
        output.line(format!("Recording changes of disk {} as {}{lasting}", disk.name, arguments.name));
    }
    Ok(())
}

fn stop(arguments: &ChainArguments, output: &Output) -> Result<(), Failure> {
    let (prefix, place) = (arguments.prefix()?, arguments.machine.place()?);
    let (mut claim, machine) = claim(&place, false, output)?;
    let removed = tracking::stop(&mut claim, &machine.disks, &prefix)?;
    if removed == 0 {
        return Err(Failure::new(Code::NotFound, format!("nothing is recorded as {}", arguments.name))
            .hint("leeward changed-blocks list shows what is recorded"));
    }
    print_json(output, &json!({ "name": arguments.name, "removed": removed }));
    output.line(format!("Nothing is recorded as {} any more ({removed} bitmaps removed)", arguments.name));
    Ok(())
}

fn list(arguments: &MachineArgument, output: &Output) -> Result<(), Failure> {
    let place = arguments.place()?;
    let mut monitor = place.monitor()?;
    let machine = place.selected(Machine::discover(&mut monitor)?)?;
    for (disk, bitmap) in tracking::list(&mut monitor, &machine)? {
        let name = tracking::chain(&bitmap.name).unwrap_or_default();
        let state = match &bitmap {
            _ if bitmap.inconsistent => "inconsistent",
            _ if bitmap.busy => "in use",
            _ if bitmap.recording => "recording",
            _ => "stopped",
        };
        print_json(output, &json!({ "name": name, "disk": disk, "state": state, "bitmap": bitmap }));
        output.line(format!(
            "{name}  {disk}  {state}  {} changed{}",
            size::show(bitmap.dirty_bytes),
            if bitmap.persistent { "" } else { "  (until QEMU ends)" }
        ));
    }
    Ok(())
}

fn export(arguments: &ExportArguments, output: &Output) -> Result<(), Failure> {
    let prefix = arguments.chain.prefix()?;
    let place = arguments.chain.machine.place()?;
    let listen = parse_listen(&arguments.listen, arguments.tls_dir.is_some())?;
    let load = |directory| TlsServer::load(directory, Clients::Certified);
    let tls = arguments.tls_dir.as_deref().map(load).transpose()?;
    let options = arguments.options.settings().options(prefix.clone(), default_threads())?;
    let (mut claim, mut machine) = claim(&place, arguments.options.take_over, output)?;
    let mended = tracking::mend(&mut claim, &machine.disks, &prefix)?;
    if !mended.is_empty() {
        let what = "the last point was not finished: the changes since the one before are told";
        note(output, &format!("{what} (disks {})", mended.join(", ")));
        machine = place.selected(claim.machine()?)?;
    }
    let plan: Vec<(MachineDisk, Mode)> = machine
        .disks
        .iter()
        .map(|disk| {
            let whole = || Mode::Full { reason: "all data was asked for".to_owned() };
            let mode = if arguments.options.full { whole() } else { tracking::decide(disk, &prefix) };
            (disk.clone(), mode)
        })
        .collect();
    let mut capture = Capture::begin(claim, &machine, plan, &options)?;
    for text in &capture.moment().notes {
        note(output, text);
    }
    let exports = capture.disks().iter().map(|captured| exported(captured, &arguments.chain.name)).collect();
    let served = Server::bind(listen, exports, ServerOptions { tls, ..ServerOptions::default() })
        .map_err(Failure::from)
        .and_then(|server| {
            announce(&capture, &arguments.chain.name, &server, output);
            attend(&mut capture, &server, arguments.until_disconnect).map(|()| server.statistics())
        });
    let kept = match &served {
        Err(_) => Some("the export failed"),
        Ok(_) if arguments.keep_base => Some("--keep-base was given"),
        Ok(statistics) => reason_to_keep(statistics, &capture),
    };
    let troubles = if kept.is_some() { capture.abandon() } else { capture.finish() };
    for trouble in troubles {
        note(output, &format!("cleaning up: {trouble}"));
    }
    let statistics = served?;
    print_json(
        output,
        &json!({ "ended": {
            "name": arguments.chain.name, "base": if kept.is_some() { "kept" } else { "moved" }, "reason": kept,
            "connections": statistics.connections_total, "read_bytes": statistics.bytes_read,
            "failed_requests": statistics.requests_failed,
        }}),
    );
    output.line(match kept {
        None => format!("{} read; changes count from this point on", size::show(statistics.bytes_read)),
        Some(why) => {
            format!("{} read; changes count from where they did: {why}", size::show(statistics.bytes_read))
        }
    });
    Ok(())
}

/// Why a point cannot have been taken over by anybody.
fn reason_to_keep(statistics: &Statistics, capture: &Capture) -> Option<&'static str> {
    let has_content =
        |captured: &CapturedDisk| captured.changed.as_ref().is_none_or(|ranges| !ranges.is_empty());
    match statistics {
        _ if statistics.requests_failed > 0 => Some("a request failed"),
        _ if statistics.requests == 0 => Some("nobody asked for anything"),
        _ if statistics.bytes_read == 0 && capture.disks().iter().any(has_content) => {
            Some("nobody read anything")
        }
        _ => None,
    }
}

fn print_json(output: &Output, value: &serde_json::Value) {
    if output.is_json() {
        output.json_line(value);
    }
}

/// What clients ask for to learn what has changed.
fn context(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}

fn exported(captured: &CapturedDisk, name: &str) -> Export {
    let marked = captured.changed.clone().unwrap_or_else(|| vec![(0, captured.disk.virtual_size)]);
    let contexts = vec![Context { name: context(name), marked }];
    let source = Arc::clone(&captured.source);
    Export {
        name: captured.disk.name.clone(),
        description: captured.mode.reason().unwrap_or("changes since the last point are known").to_owned(),
        device: Arc::new(ReadOnly::with_contexts(source, contexts)),
    }
}

fn announce(capture: &Capture, name: &str, server: &Server, output: &Output) {
    let mut listening = Vec::new();
    for captured in capture.disks() {
        let (disk, url) = (&captured.disk, server.url(&captured.disk.name));
        let changed: Option<u64> =
            captured.changed.as_ref().map(|ranges| ranges.iter().map(|(_, length)| length).sum());
        output.line(match changed {
            Some(bytes) => format!("Disk {} at {url}: {} changed", disk.name, size::show(bytes)),
            None => format!(
                "Disk {} at {url}: all of {} counts as changed: {}",
                disk.name,
                size::show(disk.virtual_size),
                captured.mode.reason().unwrap_or_default()
            ),
        });
        listening.push(json!({
            "disk": disk.name, "url": url, "virtual_size": disk.virtual_size, "context": context(name),
            "plan": captured.mode, "changed_bytes": changed,
        }));
    }
    print_json(output, &json!({ "listening": listening, "consistency": capture.moment().consistency }));
    // Who waits for the address reads it from a pipe.
    let _ = std::io::stdout().flush();
}

/// Serves until a person or the last client has enough, or until what is served cannot be believed any more.
fn attend(capture: &mut Capture, server: &Server, until_disconnect: bool) -> Result<(), Failure> {
    let asked = RefCell::new(Instant::now());
    capture.watched(|qemu: &Watched| -> Result<(), Failure> {
        serve(server, until_disconnect, &|| {
            // A job that ended without an event would be seen too late by those who read.
            if asked.borrow().elapsed().as_secs() >= 5 {
                asked.replace(Instant::now());
                let _ = qemu.confirm();
            }
            qemu.is_in_doubt()
        })?;
        Ok(qemu.confirm()?)
    })?
}
