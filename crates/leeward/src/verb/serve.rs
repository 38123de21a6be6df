//! `leeward serve`: a repository for other machines, over HTTP.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leeward_api::client::Trust;
use leeward_api::guard::{Content, Guard};
use leeward_api::server::{
    Audit, ListenOptions, PeerServer, ServerOptions, ServerState, TlsFiles, make_certificates, routes, serve,
    tls_config,
};
use leeward_api::token::TokenBook;
use leeward_repository::{Repository, host_name};
use serde_json::json;

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::servers::Side;
use crate::{interrupt, location, size};

/// Serve the repository to other machines over HTTPS, by tokens with roles
///
/// Clients use it as -r https://HOST:PORT, with their token in LEEWARD_TOKEN_FILE or LEEWARD_TOKEN. SIGTERM ends it once
/// what is under way is done.
#[derive(Args)]
pub struct ServeArguments {
    /// Where to listen: HOST:PORT (port 0 takes a free one)
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    listen: String,
    /// The tokens that are let in, see leeward token; a change counts at once
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    #[command(flatten)]
    tls: TlsArguments,
    /// Another server that packs may be moved to and from, when somebody who may do both asks for it (push --direct); may be
    /// given several times. URL as people write it
    #[arg(long = "peer", value_name = "NAME=URL")]
    peers: Vec<String>,
    /// The authority of the peers; those of the system without it
    #[arg(long, value_name = "FILE", requires = "peers")]
    peer_ca: Option<PathBuf>,
    /// A certificate to show to peers that demand one
    #[arg(long, value_name = "FILE", requires = "peer_key")]
    peer_cert: Option<PathBuf>,
    /// Its key
    #[arg(long = "peer-cert-key", value_name = "FILE", requires = "peer_cert")]
    peer_key: Option<PathBuf>,
    /// Log changes to the end of this file [default: the error output]
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Memory for what clients are sending; it also bounds the size of an object
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse)]
    memory: u64,
}

/// What a server shows of itself, and demands of clients.
#[derive(Args)]
pub struct TlsArguments {
    /// Certificate for TLS, with those between it and its authority
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "tls_dir")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// TLS with server-cert.pem and server-key.pem from this directory; where they are missing they are made, of an authority
    /// of its own: give its ca-cert.pem to clients
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// A name or address under which clients know this server, for a certificate that is made; may be given several times
    #[arg(long = "tls-name", value_name = "NAME", requires = "tls_dir")]
    pub tls_names: Vec<String>,
    /// Demand a certificate of this authority from clients, beside their token
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(
    arguments: &ServeArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let address = address(&arguments.listen)?;
    let has_tls = arguments.tls.tls_cert.is_some() || arguments.tls.tls_dir.is_some();
    refuse_open(&arguments.listen, address, has_tls)?;
    if arguments.tls.client_ca.is_some() && !has_tls {
        return Err(Failure::new(Code::Usage, "--client-ca goes with TLS")
            .hint("give --tls-cert or --tls-dir as well"));
    }
    let store = store_to_serve(repository.location()?)?;
    let tokens = TokenBook::open(&arguments.tokens).map_err(super::token::failure)?;
    let guard = Guard::new(store, Content::Repository, Some(&super::token::ledger(&arguments.tokens)))
        .map_err(|error| {
            Failure::new(Code::Io, format!("the ledger beside the tokens cannot be used: {error}"))
        })?;
    let audit = match &arguments.audit_log {
        None => Audit::to_stderr(),
        Some(path) => Audit::to_file(path).map_err(|error| {
            Failure::new(Code::Io, format!("{}: cannot write the log: {error}", path.display()))
        })?,
    };
    let tls = tls_files(&arguments.tls, address.ip(), output)?
        .map(|files| tls_config(&files))
        .transpose()
        .map_err(|what| Failure::new(Code::Usage, what).hint("give a certificate and its key as PEM"))?;
    let listener = TcpListener::bind(address)
        .map_err(|error| Failure::new(Code::Io, format!("{}: cannot listen: {error}", arguments.listen)))?;
    announce(&listener, tls.is_some(), output)?;
    let peers = peers(arguments)?;
    let memory_bytes = u32::try_from(arguments.memory).unwrap_or(u32::MAX);
    let options = ServerOptions { memory_bytes, peers, ..ServerOptions::default() };
    let router = routes(ServerState::new(guard, tokens, audit, options));
    serve(listener, tls, router, ListenOptions::default(), &interrupt::is_requested)
        .map_err(|error| Failure::new(Code::Io, format!("the server failed: {error}")))?;
    output.line("Ended; nothing is under way any more");
    Ok(ExitCode::SUCCESS)
}

/// The store of a repository that this version knows, or a place for one, which an admin may then make through the server.
fn store_to_serve(place: &str) -> Result<leeward_store::SharedStore, Failure> {
    use leeward_repository::Error;
    let store = location::open_store(place, Side::Own)?;
    match Repository::open(store.clone()) {
        Err(Error::NoRepository { .. }) => location::create_store(place, Side::Own, false, false),
        // A server needs no key: what it decides it decides by stored forms.
        Err(Error::Locked { .. }) | Ok(_) => Ok(store),
        Err(error) => Err(error.into()),
    }
}

/// The servers that this one may speak to.
fn peers(arguments: &ServeArguments) -> Result<Vec<PeerServer>, Failure> {
    let certificate = arguments.peer_cert.clone().zip(arguments.peer_key.clone());
    let trust = Trust { authority: arguments.peer_ca.clone(), certificate };
    let peers: Result<Vec<PeerServer>, String> =
        arguments.peers.iter().map(|text| PeerServer::parse(text, trust.clone())).collect();
    let peers = peers.map_err(|what| {
        Failure::new(Code::Usage, what)
            .hint("write --peer NAME=URL as in --peer west=https://west.example.org:7443")
    })?;
    for (number, peer) in peers.iter().enumerate() {
        if peers[..number].iter().any(|other| other.name == peer.name || other.location == peer.location) {
            let what = format!("peer {} ({}) is given twice", peer.name, peer.location);
            return Err(Failure::new(Code::Usage, what).hint("give each peer one name"));
        }
        // What is wrong with the files of trust is told now, not at the first transfer.
        leeward_api::client::check_trust(&peer.trust)
            .map_err(|what| Failure::new(Code::Usage, what).hint("give --peer-ca and --peer-cert as PEM"))?;
    }
    Ok(peers)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, Failure> {
    text.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(|| {
        Failure::new(Code::Usage, format!("{text}: not a place to listen"))
            .hint("write HOST:PORT as in 127.0.0.1:7443")
    })
}

pub(super) fn refuse_open(text: &str, address: SocketAddr, has_tls: bool) -> Result<(), Failure> {
    match has_tls || address.ip().is_loopback() {
        true => Ok(()),
        false => Err(Failure::new(
            Code::Refused,
            format!("{text}: refused: {} can be reached from other machines, and tokens would be sent for all to read", address.ip()),
        )
        .hint("give a certificate with --tls-cert and --tls-key, or have one made with --tls-dir DIR")),
    }
}

pub(super) fn tls_files(
    arguments: &TlsArguments,
    listen: IpAddr,
    output: &Output,
) -> Result<Option<TlsFiles>, Failure> {
    let client_ca = arguments.client_ca.clone();
    if let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) {
        return Ok(Some(TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca }));
    }
    let Some(directory) = &arguments.tls_dir else { return Ok(None) };
    let (names, addresses) = own_names(&arguments.tls_names, listen);
    let made = make_certificates(directory, &names, &addresses)
        .map_err(|what| Failure::new(Code::Io, what).hint("see that the directory may be written"))?;
    if made {
        output.line(format!(
            "Made a certificate for {}; clients trust it with LEEWARD_CA_FILE={}",
            names.join(", "),
            directory.join("ca-cert.pem").display()
        ));
    }
    let file = |name: &str| directory.join(name);
    Ok(Some(TlsFiles { certificate: file("server-cert.pem"), key: file("server-key.pem"), client_ca }))
}

/// What a certificate that is made is for: this machine's own names, and those that were given.
fn own_names(given: &[String], listen: IpAddr) -> (Vec<String>, Vec<IpAddr>) {
    let mut names = vec!["localhost".to_owned(), host_name()];
    let mut addresses: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()];
    if !listen.is_unspecified() && !addresses.contains(&listen) {
        addresses.push(listen);
    }
    for name in given {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    names.dedup();
    (names, addresses)
}

pub(super) fn announce(listener: &TcpListener, has_tls: bool, output: &Output) -> Result<(), Failure> {
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(Code::Io, format!("the listener has no address: {error}")))?;
    let url = format!("{}://{address}", if has_tls { "https" } else { "http" });
    output.line(format!("Serving at {url}"));
    if output.is_json() {
        output.json_line(&json!({ "listening": url }));
    }
    // Who waits for the address reads it from a pipe.
    let _ = std::io::stdout().flush();
    Ok(())
}
