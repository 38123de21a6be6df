//! `leeward serve`: a repository for other machines, over HTTP.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use leeward_api::guard::{Content, Guard};
use leeward_api::server::{
    Audit, ListenOptions, ServerOptions, ServerState, TlsFiles, make_certificates, routes, serve, tls_config,
};
use leeward_api::token::TokenBook;
use leeward_repository::{Repository, host_name};
use serde_json::json;

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::output::Output;
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
    let memory_bytes = u32::try_from(arguments.memory).unwrap_or(u32::MAX);
    let options = ServerOptions { memory_bytes, ..ServerOptions::default() };
    let router = routes(ServerState::new(guard, tokens, audit, options));
    serve(listener, tls, router, ListenOptions::default(), &interrupt::is_requested)
        .map_err(|error| Failure::new(Code::Io, format!("the server failed: {error}")))?;
    output.line("Ended; nothing is under way any more");
    Ok(ExitCode::SUCCESS)
}

/// The store of a repository that this version knows, or a place for one, which an admin may then make through the server.
fn store_to_serve(place: &str) -> Result<leeward_store::SharedStore, Failure> {
    use leeward_repository::Error;
    let store = location::open_store(place)?;
    match Repository::open(store.clone()) {
        Err(Error::NoRepository { .. }) => location::create_store(place, false, false),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(store),
    }
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

/// The store behind a server, as the environment has token and trust; with a witness of its refs.
pub fn connect(text: &str) -> Result<leeward_store::SharedStore, Failure> {
    use leeward_api::client::{ClientOptions, HttpStore, Location};
    let location = Location::parse(text).map_err(|what| Failure::new(Code::Usage, what))?;
    let trust = trust_of_environment()?;
    let token = token_of(std::env::var_os("LEEWARD_TOKEN_FILE").map(PathBuf::from).as_deref())?;
    let store = HttpStore::new(&location, token, &trust, ClientOptions::default())
        .map_err(|error| Failure::from(leeward_repository::Error::from(error)))?;
    let store: leeward_store::SharedStore = std::sync::Arc::new(store);
    Ok(match leeward_api::witness::WitnessStore::usual_directory() {
        Some(directory) => leeward_api::witness::WitnessStore::wrap(store, &directory),
        None => store,
    })
}

/// Whom a client trusts and what certificate it shows, as the environment has it.
pub fn trust_of_environment() -> Result<leeward_api::client::Trust, Failure> {
    let file = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let certificate = match (file("LEEWARD_CLIENT_CERT"), file("LEEWARD_CLIENT_KEY")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(Failure::new(Code::Usage, "a client's certificate needs its key")
                .hint("set both LEEWARD_CLIENT_CERT and LEEWARD_CLIENT_KEY, or neither"));
        }
    };
    Ok(leeward_api::client::Trust { authority: file("LEEWARD_CA_FILE"), certificate })
}

/// The token in a file, or in LEEWARD_TOKEN.
pub fn token_of(file: Option<&Path>) -> Result<leeward_api::token::TokenText, Failure> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Code::Usage, format!("{}: cannot read the token: {error}", path.display())))?,
        None => std::env::var("LEEWARD_TOKEN").map_err(|_| {
            Failure::new(Code::Usage, "the server needs a token, and none is given")
                .hint("set LEEWARD_TOKEN_FILE to a file with it, or LEEWARD_TOKEN; one is made with: leeward token add")
        })?,
    };
    Ok(leeward_api::token::TokenText::new(text.trim()))
}
