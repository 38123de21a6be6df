//! `leeward export`: snapshots as disks that a machine can start from at once.

use std::cell::Cell;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use leeward_disk::nbd::{
    Clients, Device, Export, Listen, ReadOnly, Server, ServerOptions, Statistics, TlsServer,
};
use leeward_disk::overlay::Overlay;
use leeward_disk::{Source, WorkOptions, default_threads};
use leeward_repository::{ReadOptions, SnapshotSpec, SpillOptions};
use serde_json::json;

use super::overlay::{self, Base, Serving};
use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::size;

/// How long nobody may be connected until the last client counts as gone.
const GONE: Duration = Duration::from_millis(500);

/// Serve snapshots as disks over NBD: a machine starts from one at once
#[derive(Args)]
pub struct ExportArguments {
    /// The snapshots: IMAGE, IMAGE@SPEC or NAME=IMAGE@SPEC; the export is called NAME, or as its image
    #[arg(required = true, value_name = "[NAME=]SNAPSHOT")]
    snapshots: Vec<String>,
    /// Where to listen: unix:PATH or HOST:PORT (port 0 takes a free one)
    #[arg(short, long, value_name = "ADDRESS")]
    listen: String,
    /// Let the guest write, and keep what it writes in this file and its .map; one that is there is continued
    #[arg(long, value_name = "PATH", conflicts_with = "read_only")]
    cow: Option<PathBuf>,
    /// Let nobody write (the default)
    #[arg(long)]
    read_only: bool,
    /// Memory for decoded chunks
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse)]
    cache: u64,
    /// Keep decoded chunks that memory has no room for in a file of up to this size, so that each is decoded once; it has
    /// no name and is gone when the export ends
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    cache_disk: Option<u64>,
    /// Where the file of --cache-disk is made
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    cache_dir: PathBuf,
    /// Demand TLS, with server-cert.pem, server-key.pem and ca-cert.pem from this directory; clients need a certificate
    /// of that authority
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Bring the whole disk to the file of --cow meanwhile
    #[arg(long, requires = "cow")]
    hydrate: bool,
    /// End when the last client has gone
    #[arg(long)]
    until_disconnect: bool,
}

/// What is served under one name.
struct Served {
    name: String,
    label: String,
    size: u64,
}

/// Runs the verb.
pub fn run(
    arguments: &ExportArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let listen = parse_listen(&arguments.listen, arguments.tls_dir.is_some())?;
    let load = |directory| TlsServer::load(directory, Clients::Certified);
    let tls = arguments.tls_dir.as_deref().map(load).transpose()?;
    if arguments.cow.is_some() && arguments.snapshots.len() > 1 {
        return Err(Failure::new(Code::Usage, "--cow goes with one snapshot, and several are given")
            .hint("start one export for each disk that is to be written"));
    }
    let repository = repository.open()?;
    let mut overlay = None;
    let (mut served, mut exports) = (Vec::new(), Vec::new());
    let spill =
        arguments.cache_disk.map(|bytes| SpillOptions { directory: arguments.cache_dir.clone(), bytes });
    let reader =
        repository.reader(ReadOptions { cache_bytes: arguments.cache, spill, ..ReadOptions::serving() })?;
    for text in &arguments.snapshots {
        let (name, spec) = parse_snapshot(text)?;
        let entry = repository.resolve(&spec)?;
        let source = Arc::new(reader.source(entry.id)?);
        let base = Base::of(&repository, &source, entry.id);
        served.push(Served { name: name.clone(), label: base.label(), size: source.virtual_size() });
        let device: Arc<dyn Device> = match &arguments.cow {
            None => Arc::new(ReadOnly::new(source)),
            Some(path) => {
                let (opened, is_continued) = overlay::create_or_continue(path, source, &base)?;
                if is_continued {
                    output.line(format!(
                        "Continuing {}: {} local, {} changed",
                        path.display(),
                        size::show(opened.local_bytes()),
                        size::show(opened.changed_bytes())
                    ));
                }
                let opened = Arc::new(opened);
                overlay = Some((path.clone(), Arc::clone(&opened)));
                opened
            }
        };
        exports.push(Export { name, description: base.label(), device });
    }
    let bound = Instant::now();
    let socket = match &listen {
        Listen::Unix(path) => Some(path.clone()),
        _ => None,
    };
    let server = Server::bind(listen, exports, ServerOptions { tls, ..ServerOptions::default() })?;
    let serving = match (&overlay, served.first()) {
        (Some((path, _)), Some(only)) => Some(Serving::announce(path, &server.url(&only.name))?),
        _ => None,
    };
    let place = Place {
        socket: socket.as_deref(),
        has_tls: arguments.tls_dir.is_some(),
        is_writable: arguments.cow.is_some(),
    };
    announce(&served, &server, &place, output);
    let hydration = Hydration { is_over: AtomicBool::new(false), wanted: arguments.hydrate };
    let result = std::thread::scope(|scope| {
        if let Some((path, overlay)) = overlay.as_ref().filter(|_| hydration.wanted) {
            let hydration = &hydration;
            scope.spawn(move || hydration.run(overlay, path, output));
        }
        let result = serve(&server, arguments.until_disconnect, &|| false);
        hydration.is_over.store(true, Ordering::Relaxed);
        result
    });
    let closed = overlay.as_ref().map_or(Ok(()), |(_, overlay)| overlay.close());
    drop(serving);
    report(
        &server.statistics(),
        bound - began,
        began.elapsed(),
        overlay.as_ref().map(|(_, o)| o.as_ref()),
        output,
    );
    result?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

/// Serves until a signal comes, something else says so or, if asked for, the last client has gone.
pub(super) fn serve(
    server: &Server,
    until_disconnect: bool,
    must_stop: &dyn Fn() -> bool,
) -> leeward_disk::Result<()> {
    let (has_come, alone_since) = (Cell::new(false), Cell::new(None::<Instant>));
    server.serve(&|| {
        if interrupt::is_requested() || must_stop() {
            return true;
        }
        let statistics = server.statistics();
        has_come.set(has_come.get() || statistics.connections > 0 || statistics.requests > 0);
        if statistics.connections > 0 || !has_come.get() {
            alone_since.set(None);
            return false;
        }
        let since = alone_since.get().unwrap_or_else(Instant::now);
        alone_since.set(Some(since));
        until_disconnect && since.elapsed() >= GONE
    })
}

struct Hydration {
    /// The export ends.
    is_over: AtomicBool,
    wanted: bool,
}

impl Hydration {
    /// Fetches what is missing while the export serves. An error ends the hydration, not the export.
    fn run(&self, overlay: &Overlay, path: &Path, output: &Output) {
        let options =
            WorkOptions { threads: default_threads().min(2), progress: &|_| {}, cancel: &self.is_over };
        match overlay.hydrate(&options) {
            Ok(()) => {
                if output.is_json() {
                    output.json_line(&json!({ "hydrated": path, "overlay": overlay::describe(overlay) }));
                }
                output.line(format!("{} holds the whole disk now", path.display()));
            }
            Err(leeward_disk::Error::Cancelled) => {}
            Err(error) => {
                let failure = Failure::from(error);
                eprintln!("leeward: the disk is served, but could not be brought to {}", path.display());
                let _ = failure.report(output);
            }
        }
    }
}

fn announce(served: &[Served], server: &Server, place: &Place<'_>, output: &Output) {
    let mut listening = Vec::new();
    for disk in served {
        let url = server.url(&disk.name);
        let qemu = qemu_line(&disk.name, server, place);
        output.line(format!("Serving {} ({}) at {url}", disk.label, size::show(disk.size)));
        output.line(format!("  for QEMU: {qemu}"));
        listening.push(json!({
            "name": disk.name, "snapshot": disk.label, "virtual_size": disk.size, "url": url,
            "read_only": !place.is_writable, "qemu": qemu,
        }));
    }
    if output.is_json() {
        output.json_line(&json!({ "listening": listening }));
    }
    // Who waits for the address reads it from a pipe.
    let _ = std::io::stdout().flush();
}

/// What to add to the command line of QEMU. Where the disk is read-only, QEMU keeps what the guest writes in a temporary
/// file and throws it away.
fn qemu_line(export: &str, server: &Server, place: &Place<'_>) -> String {
    let comma = |text: &str| text.replace(',', ",,");
    let mut options = vec![("driver", "nbd".to_owned()), ("export", comma(export))];
    match server.tcp_address() {
        Some(address) => options.extend([
            ("server.type", "inet".to_owned()),
            ("server.host", address.ip().to_string()),
            ("server.port", address.port().to_string()),
        ]),
        None => {
            let path = place.socket.map(|path| path.display().to_string()).unwrap_or_default();
            options.extend([("server.type", "unix".to_owned()), ("server.path", comma(&path))]);
        }
    }
    let mut words = Vec::new();
    if place.has_tls {
        options.push(("tls-creds", "tls0".to_owned()));
        words.extend([
            "-object".to_owned(),
            "tls-creds-x509,id=tls0,endpoint=client,dir=DIRECTORY".to_owned(),
        ]);
    }
    let listed = |prefix: &str| {
        options.iter().map(|(name, value)| format!("{prefix}{name}={value}")).collect::<Vec<_>>().join(",")
    };
    if place.is_writable {
        words.extend(["-blockdev".to_owned(), format!("{},node-name=leeward0,discard=unmap", listed(""))]);
        words.extend(["-device".to_owned(), "virtio-blk-pci,drive=leeward0".to_owned()]);
    } else {
        words.extend(["-drive".to_owned(), format!("{},format=raw,if=virtio,snapshot=on", listed("file."))]);
    }
    quote(&words)
}

/// How clients reach the exports.
struct Place<'a> {
    socket: Option<&'a Path>,
    has_tls: bool,
    is_writable: bool,
}

/// Words for a shell.
fn quote(words: &[impl AsRef<str>]) -> String {
    let plain =
        |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=.,/:@%+".contains(&byte));
    let quoted = words.iter().map(AsRef::as_ref).map(|word| match plain(word) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn report(
    statistics: &Statistics,
    before: Duration,
    time: Duration,
    overlay: Option<&Overlay>,
    output: &Output,
) {
    let first_read = statistics.first_read.map(|first| first + before);
    if output.is_json() {
        output.json_line(&json!({
            "served": {
                "seconds": time.as_secs_f64(),
                "connections": statistics.connections_total,
                "requests": statistics.requests,
                "failed_requests": statistics.requests_failed,
                "read_bytes": statistics.bytes_read,
                "written_bytes": statistics.bytes_written,
                "first_read_seconds": first_read.map(|time| time.as_secs_f64()),
                "overlay": overlay.map(overlay::describe),
            }
        }));
    }
    output.line(format!(
        "Served {} connections for {}: {} requests, {} read, {} written",
        statistics.connections_total,
        size::show_time(time),
        statistics.requests,
        size::show(statistics.bytes_read),
        size::show(statistics.bytes_written)
    ));
    if let Some(first) = first_read {
        output.line(format!("  the first read was served {} ms after the start", first.as_millis()));
    }
    if statistics.requests_failed > 0 {
        output.line(format!("  {} requests failed", statistics.requests_failed));
    }
    if let Some(overlay) = overlay {
        output.line(format!(
            "  of {}, {} are local and {} changed",
            size::show(overlay.virtual_size()),
            size::show(overlay.local_bytes()),
            size::show(overlay.changed_bytes())
        ));
    }
}

/// `IMAGE@SPEC`, or `NAME=IMAGE@SPEC`.
fn parse_snapshot(text: &str) -> Result<(String, SnapshotSpec), Failure> {
    // A tag may have no name with an equals sign, but a time zone's offset never has one either: the first one counts.
    let (name, spec) = match text.split_once('=') {
        Some((name, spec)) => (Some(name), spec),
        None => (None, text),
    };
    let spec: SnapshotSpec = spec.parse()?;
    let name = name.map_or_else(|| spec.image.to_string(), str::to_owned);
    if name.is_empty() || name.len() > 4096 || name.contains('\0') {
        return Err(Failure::new(
            Code::Usage,
            format!("{text}: the name of the export is empty or too long"),
        )
        .hint("write NAME=IMAGE@SPEC, or IMAGE@SPEC"));
    }
    Ok((name, spec))
}

pub(super) fn parse_listen(text: &str, has_tls: bool) -> Result<Listen, Failure> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(Failure::new(Code::Usage, "--listen unix: names no path").hint("write unix:PATH"));
        }
        let path =
            std::path::absolute(path).map_err(|source| leeward_disk::Error::open(path, "find", source))?;
        return Ok(Listen::Unix(path));
    }
    let wrong = || {
        Failure::new(Code::Usage, format!("{text}: not a place to listen"))
            .hint("write unix:PATH, or HOST:PORT as in 127.0.0.1:10809")
    };
    let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(|_| wrong())?.collect();
    if let Some(open) = addresses.iter().find(|address| !has_tls && !address.ip().is_loopback()) {
        return Err(Failure::new(
            Code::Refused,
            format!("{text}: refused: {} can be reached from other machines, and the disk would be served to anybody", open.ip()),
        )
        .hint("give certificates with --tls-dir DIR, or listen on unix:PATH or 127.0.0.1:PORT"));
    }
    addresses.first().copied().map(Listen::Tcp).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_listens_beyond_this_machine_without_tls() {
        for open in ["0.0.0.0:10809", "[::]:0", "192.0.2.1:10809"] {
            assert_eq!(parse_listen(open, false).unwrap_err().code(), Code::Refused, "{open}");
            assert!(parse_listen(open, true).is_ok(), "{open}");
        }
        for wrong in ["unix:", "10809", "localhost", "a b:1", "127.0.0.1:99999"] {
            assert_eq!(parse_listen(wrong, true).unwrap_err().code(), Code::Usage, "{wrong}");
        }
        assert!(matches!(parse_listen("127.0.0.1:0", false), Ok(Listen::Tcp(_))));
        assert!(matches!(parse_listen("unix:x", false), Ok(Listen::Unix(path)) if path.is_absolute()));
    }

    #[test]
    fn exports_are_called_as_their_images_or_as_told() {
        let parse = |text| parse_snapshot(text).map(|(name, spec)| (name, spec.image.to_string()));
        assert_eq!(parse("web/root@~1").unwrap(), ("web/root".to_owned(), "web/root".to_owned()));
        assert_eq!(parse("disk 0=web/root").unwrap(), ("disk 0".to_owned(), "web/root".to_owned()));
        assert!(parse("=web/root").is_err() && parse("a=").is_err());
    }

    #[test]
    fn words_for_a_shell_are_quoted_where_needed() {
        assert_eq!(quote(&["-drive", "a=b,c=/d/e"]), "-drive a=b,c=/d/e");
        assert_eq!(quote(&["it's"]), r"'it'\''s'");
    }
}
