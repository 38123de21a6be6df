//! `leeward restore GROUP --as NAME`: disks, a definition, and what starts the machine from them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use leeward_cloud::qemu::MachineDefinition;
use leeward_cloud::qemu::recovery::words::{Bus, MachineName};
use leeward_cloud::qemu::recovery::{
    Blueprint, Identity, Link, Network, RecoveryOptions, RestoredDisk, holds_variables,
};
use leeward_disk::{CreateOptions, Format, OpenOptions, create_target, default_threads, open_source};
use leeward_repository::{Repository, RestoreMode, RestoreOutcome};
use leeward_store::bucket::RequestCounts;

use super::RestoreArguments;
use super::group::{MemberDisk, Restorable};
use super::publish::Staging;
use super::start;
use crate::failure::{Code, Failure};
use crate::output::Output;

use crate::verb::quickstart::tools::{find, io};
use crate::verb::repository::Watch;
use crate::{requests, size};

/// What concerns whole machines.
#[derive(Args)]
#[command(next_help_heading = "Machines")]
pub struct MachineArguments {
    /// Restore the group as a machine of this name: its disks, a start script and a domain of libvirt
    #[arg(long = "as", value_name = "NAME", requires = "dir", conflicts_with_all = ["in_place", "target", "onto"])]
    pub name: Option<MachineName>,
    /// The directory for the machine's files; it is made where it is missing
    #[arg(long, requires = "name")]
    pub dir: Option<PathBuf>,
    /// Bring the disks of a stopped machine back, where they were or where --disk NAME=PATH says, writing what differs
    #[arg(long, conflicts_with_all = ["target", "onto", "output_format"])]
    pub in_place: bool,
    /// Only this disk of the group; may be given several times
    #[arg(long = "disk", value_name = "NAME[=PATH]")]
    pub disks: Vec<String>,
    /// Memory, instead of what the machine had
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "name")]
    pub memory: Option<u64>,
    /// Number of processors, instead of what the machine had
    #[arg(long, value_name = "N", requires = "name")]
    pub cpus: Option<u64>,
    /// What the network cards are connected to: none, user, bridge=NAME, tap=NAME, or keep for what they were
    #[arg(long, default_value = "none")]
    pub network: Network,
    /// Addresses of the network cards [default: keep, where no other machine can see them; to be said where one can]
    #[arg(long, value_name = "WHICH", requires = "name")]
    mac: Option<Which>,
    /// The identity that the guest sees [default: as --mac]
    #[arg(long, value_name = "WHICH", requires = "name")]
    uuid: Option<Which>,
    /// How the disks are attached: virtio, scsi, nvme, ide, usb, or keep
    #[arg(long, default_value = "keep", value_parser = parse_bus)]
    pub bus: BusChoice,
    /// Write the start script only, not the domain of libvirt
    #[arg(long, requires = "name")]
    script: bool,
    /// Write the domain of libvirt only, not the start script
    #[arg(long, requires = "name", conflicts_with = "start")]
    libvirt_xml: bool,
    /// Start the machine in the background with its script
    #[arg(long, requires = "name")]
    start: bool,
    /// Do it without asking, for --in-place
    #[arg(short, long)]
    pub yes: bool,
    /// Follow backing files that lie in this directory, for --in-place
    #[arg(long, value_name = "DIR", requires = "in_place")]
    pub allow_references: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// What the machine had
    Keep,
    /// A new one
    New,
}

impl From<Which> for Identity {
    fn from(which: Which) -> Self {
        match which {
            Which::Keep => Self::Keep,
            Which::New => Self::New,
        }
    }
}

/// The bus that was asked for, if one was.
#[derive(Debug, Clone, Copy)]
pub struct BusChoice(Option<Bus>);

fn parse_bus(text: &str) -> Result<BusChoice, String> {
    if text == "keep" { Ok(BusChoice(None)) } else { text.parse().map(|bus| BusChoice(Some(bus))) }
}

/// Runs it.
pub fn restore(
    arguments: &RestoreArguments,
    name: &MachineName,
    repository: &Repository,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let machine = &arguments.machine;
    let started = Instant::now();
    let mut group = Restorable::load(repository, &arguments.snapshot)?;
    group.select(&machine.disks)?;
    let directory = absolute(machine.dir.as_deref().unwrap_or(Path::new(".")))?;
    let recovery = Recovery::plan(arguments, name, &group, &directory)?;
    if arguments.dry_run {
        recovery.show_plan(&group, output);
        return Ok(ExitCode::SUCCESS);
    }
    let documents = recovery.documents(&group)?;
    let staging = Staging::create(Path::new(&directory), &name.to_string(), arguments.force)?;
    let disks = recovery.disks.iter().map(|disk| &disk.path);
    disks.chain(documents.iter().map(|(path, ..)| path)).try_for_each(|path| staging.check_free(path))?;
    let mut outcomes = Vec::new();
    for (member, disk) in group.members.iter().zip(&recovery.disks) {
        outcomes.push(restore_disk(member, disk, &staging, arguments, repository, output)?);
    }
    for (path, content, is_program) in &documents {
        staging.write(path, content, *is_program)?;
    }
    staging.publish(!arguments.no_sync)?;
    recovery.report(&group, &outcomes, started.elapsed(), repository.requests(), output);
    if machine.start
        && let Some(blueprint) = &recovery.blueprint
    {
        start::start(Path::new(&recovery.path("sh")), &blueprint.run_files(), output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is about to be made.
struct Recovery {
    name: MachineName,
    directory: String,
    disks: Vec<RestoredDisk>,
    blueprint: Option<Blueprint>,
    with_script: bool,
    with_domain: bool,
    notes: Vec<String>,
}

impl Recovery {
    fn plan(
        arguments: &RestoreArguments,
        name: &MachineName,
        group: &Restorable,
        directory: &str,
    ) -> Result<Self, Failure> {
        let machine = &arguments.machine;
        let both = machine.script == machine.libvirt_xml;
        let format = arguments.output_format.unwrap_or(Format::Raw);
        if !matches!(format, Format::Raw | Format::Qcow2) {
            return Err(Failure::new(
                Code::Usage,
                format!("disks are restored as raw or qcow2, not {format}"),
            ));
        }
        let disks: Vec<_> = group
            .members
            .iter()
            .map(|member| planned_disk(member, name, directory, format, group.definition.as_ref()))
            .collect();
        let mut recovery = Self {
            name: name.clone(),
            directory: directory.to_owned(),
            disks,
            blueprint: None,
            with_script: machine.script || both,
            with_domain: machine.libvirt_xml || both,
            notes: Vec::new(),
        };
        match &group.definition {
            Some(definition) if Blueprint::knows(&definition.architecture) => {
                let mut blueprint = Blueprint::plan(definition, &recovery.disks, &options(machine, name, directory)?)?;
                if let Some(known) = known_machine_types(&blueprint.program()) {
                    blueprint.fit(&known);
                }
                recovery.notes.extend(blueprint.notes().iter().cloned());
                if recovery.with_domain {
                    recovery.notes.extend(blueprint.domain_notes());
                }
                recovery.blueprint = Some(blueprint);
            }
            Some(definition) => recovery.notes.push(format!(
                "machines of architecture {:?} are not started by Leeward: there is no script, only disks and definition",
                definition.architecture
            )),
            None => recovery.notes.push(match &group.flaw {
                None => "the group has no definition of a machine: only its disks are restored".to_owned(),
                Some(flaw) => format!("the group's definition of a machine cannot be read ({flaw}): only its disks are restored"),
            }),
        }
        if machine.start && recovery.blueprint.is_none() {
            return Err(Failure::new(
                Code::Refused,
                format!("{name} cannot be started: {}", recovery.notes.join("; ")),
            )
            .hint("leave --start out, and start a machine of your own from the disks"));
        }
        Ok(recovery)
    }

    fn path(&self, ending: &str) -> String {
        format!("{}/{}.{ending}", self.directory.trim_end_matches('/'), self.name)
    }

    /// The files beside the disks: path, content, and whether it is a program.
    fn documents(&self, group: &Restorable) -> Result<Vec<(String, String, bool)>, Failure> {
        let mut documents = Vec::new();
        if let Some(stored) = &group.stored_definition {
            let text = serde_json::to_string_pretty(stored).map_err(|error| {
                Failure::new(Code::Failed, format!("the definition cannot be written: {error}"))
            })?;
            documents.push((self.path("json"), text + "\n", false));
        }
        if let Some(blueprint) = &self.blueprint {
            if self.with_script {
                documents.push((self.path("sh"), blueprint.script(), true));
            }
            if self.with_domain {
                documents.push((self.path("xml"), blueprint.domain(has_kvm()), false));
            }
        }
        Ok(documents)
    }

    fn show_plan(&self, group: &Restorable, output: &Output) {
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "group": group.group.id, "machine": group.machine(), "name": self.name.to_string(),
                "directory": self.directory, "notes": self.notes,
                "disks": group.members.iter().zip(&self.disks).map(|(member, disk)| serde_json::json!({
                    "image": member.image, "snapshot": member.id, "path": disk.path,
                    "virtual_size": member.snapshot.virtual_size, "data_bytes": member.snapshot.statistics.data_bytes,
                })).collect::<Vec<_>>(),
            }));
        }
        output.line(format!(
            "Would restore group {} of {} as {}:",
            group.group.id,
            group.machine(),
            self.name
        ));
        for (member, disk) in group.members.iter().zip(&self.disks) {
            let data = size::show(member.snapshot.statistics.data_bytes);
            output.line(format!("  {} to {}: {data} of data", member.label(), disk.path));
        }
        self.notes.iter().for_each(|note| output.line(format!("  note: {note}")));
    }

    fn report(
        &self,
        group: &Restorable,
        outcomes: &[RestoreOutcome],
        time: std::time::Duration,
        sent: Option<RequestCounts>,
        output: &Output,
    ) {
        let (script, domain) =
            (self.blueprint.is_some() && self.with_script, self.blueprint.is_some() && self.with_domain);
        let path = |is_there: bool, ending| is_there.then(|| self.path(ending));
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "group": group.group.id, "machine": group.machine(), "name": self.name.to_string(),
                "directory": self.directory, "seconds": time.as_secs_f64(), "notes": self.notes,
                "requests": requests::value(sent), "definition": path(group.stored_definition.is_some(), "json"),
                "script": path(script, "sh"), "domain": path(domain, "xml"),
                "disks": group.members.iter().zip(&self.disks).zip(outcomes).map(|((member, disk), outcome)|
                    serde_json::json!({
                        "name": disk.name, "image": member.image, "snapshot": member.id, "path": disk.path,
                        "restore": outcome,
                    })).collect::<Vec<_>>(),
            }));
        }
        output.line(format!(
            "Restored group {} of {} as {} in {}",
            group.group.id,
            group.machine(),
            self.name,
            size::show_time(time)
        ));
        for (disk, outcome) in self.disks.iter().zip(outcomes) {
            let (all, data) = (size::show(outcome.virtual_size), size::show(outcome.data_bytes));
            output.line(format!("  {}: {all}, {data} of data", disk.path));
        }
        if script {
            output.line(format!("  start it with: {}", self.path("sh")));
        }
        if domain {
            output.line(format!("  or by libvirt: virsh define {}", self.path("xml")));
        }
        self.notes.iter().for_each(|note| output.line(format!("  note: {note}")));
        requests::tell(sent, output);
    }
}

fn planned_disk(
    member: &MemberDisk,
    name: &MachineName,
    directory: &str,
    format: Format,
    machine: Option<&MachineDefinition>,
) -> RestoredDisk {
    let is_firmware =
        machine.zip(member.definition.as_ref()).is_some_and(|(machine, disk)| holds_variables(machine, disk));
    let format = if is_firmware { Format::Raw } else { format };
    RestoredDisk {
        name: member.name.clone(),
        path: format!("{}/{name}-{}.{format}", directory.trim_end_matches('/'), member.name),
        is_qcow2: format == Format::Qcow2,
        definition: member.definition.clone(),
    }
}

fn options(
    machine: &MachineArguments,
    name: &MachineName,
    directory: &str,
) -> Result<RecoveryOptions, Failure> {
    let is_shared = match &machine.network {
        Network::All(link) => Link::is_shared(link),
        Network::Keep => true,
    };
    if is_shared && machine.mac.is_none() {
        return Err(Failure::new(
            Code::Refused,
            "on a network with others, two machines of one address cut each other off",
        )
        .hint("say --mac keep if the original is gone, or --mac new if it lives"));
    }
    let mac = machine.mac.unwrap_or(Which::Keep);
    Ok(RecoveryOptions {
        name: name.clone(),
        directory: directory.to_owned(),
        memory_bytes: machine.memory,
        cpus: machine.cpus,
        network: machine.network.clone(),
        mac: mac.into(),
        uuid: machine.uuid.unwrap_or(mac).into(),
        bus: machine.bus.0,
    })
}

fn restore_disk(
    member: &MemberDisk,
    disk: &RestoredDisk,
    staging: &Staging,
    arguments: &RestoreArguments,
    repository: &Repository,
    output: &Output,
) -> Result<RestoreOutcome, Failure> {
    let format = if disk.is_qcow2 { Format::Qcow2 } else { Format::Raw };
    let place = staging.place(&disk.path)?;
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let options = CreateOptions { format: Some(format), ..CreateOptions::default() };
    let virtual_size = member.snapshot.virtual_size;
    let target = create_target(&place, virtual_size, &options)?;
    let watch = Watch::new(output, virtual_size, &format!("restore {}", member.label()));
    let result = repository.restore(&member.snapshot, RestoreMode::Write(target.as_ref()), threads, &watch);
    watch.finish();
    let outcome = result?;
    target.finish(!arguments.no_sync)?;
    if arguments.verify {
        let source = open_source(&place, &OpenOptions::with_format(format))?;
        let watch = Watch::new(output, virtual_size, &format!("verify {}", member.label()));
        let compared =
            repository.restore(&member.snapshot, RestoreMode::Compare(source.as_ref()), threads, &watch);
        watch.finish();
        if compared?.differing_bytes != 0 {
            return Err(Failure::new(
                Code::Differs,
                format!(
                    "what was restored of {} does not read as it was written, in {}",
                    member.label(),
                    disk.path
                ),
            )
            .hint("the disk of this host, or its memory, gives wrong bytes; nothing was kept"));
        }
    }
    Ok(outcome)
}

/// The directory without links, as far as it is there.
fn absolute(directory: &Path) -> Result<String, Failure> {
    let path = match directory.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::path::absolute(directory).map_err(io("find", directory))?
        }
        Err(error) => return Err(io("find", directory)(error)),
    };
    path.into_os_string()
        .into_string()
        .map_err(|_| Failure::new(Code::Usage, format!("{}: not a path in UTF-8", directory.display())))
}

/// The types of machines that the QEMU of this host knows, if there is one.
fn known_machine_types(program: &str) -> Option<String> {
    let answer = std::process::Command::new(find(program)?).args(["-machine", "help"]).output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
}

fn has_kvm() -> bool {
    use rustix::fs::Access;
    rustix::fs::access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok()
}
