//! The daemon itself.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use leeward_api::oidc::Providers;
use leeward_api::server::{Audit, ListenOptions, serve, tls_config};
use leeward_api::site::{SiteState, routes};
use leeward_api::token::TokenBook;
use leeward_protect::job::Opening;
use leeward_repository::Repository;
use leeward_site::config::{RepositoryPlace, Server, return_address};
use leeward_site::{Config, OpenRepository, Site};

use super::super::serve as listening;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::limit::{LimitedStore, RateLimit};
use crate::location::{open_cached_store, open_examined_store};
use crate::output::{Output, printable};
use crate::servers::Side;
use crate::unlock::UnlockArguments;

pub(super) fn run(config: Config, output: &Output) -> Result<ExitCode, Failure> {
    let server = config.server.clone();
    let address = check(&server)?;
    let tls = listening::tls_files(&tls_arguments(&server), address.ip(), output)?
        .map(|files| tls_config(&files))
        .transpose()
        .map_err(|what| Failure::new(Code::Usage, what).hint("give a certificate and its key as PEM"))?;
    let tokens = TokenBook::open(&config.tokens_file()).map_err(super::super::token::failure)?;
    let audit = audit(&server)?;
    let listener = TcpListener::bind(address)
        .map_err(|error| Failure::new(Code::Io, format!("{}: cannot listen: {error}", server.listen)))?;
    let repository = config.repository.clone().map(open_repository);
    let owner = format!("{}:{}", leeward_repository::host_name(), std::process::id());
    let site = Arc::new(Site::start(config, &owner, repository).map_err(super::failure)?);
    listening::announce(&listener, tls.is_some(), output)?;
    let providers = Providers::start(&server)
        .map_err(|error| Failure::new(Code::Io, format!("the process gets no threads: {error}")))?;
    let state = SiteState::new(Arc::clone(&site), tokens, providers, audit, server.allow_from);
    serve(listener, tls, routes(state), ListenOptions::default(), &interrupt::is_requested)
        .map_err(|error| Failure::new(Code::Io, format!("the daemon failed: {error}")))?;
    // Requests have ended, so this is the last hold on it.
    if let Some(site) = Arc::into_inner(site) {
        site.stop();
    }
    output.line("Ended; runs that were under way go on when the daemon is started again");
    Ok(ExitCode::SUCCESS)
}

/// Where the daemon is to listen, if it may.
pub(super) fn check(server: &Server) -> Result<SocketAddr, Failure> {
    let address = listening::address(&server.listen)?;
    let has_tls = server.tls_cert.is_some() || server.tls_dir.is_some();
    listening::refuse_open(&server.listen, address, has_tls)?;
    Ok(address)
}

/// Asks each provider for its keys and for where people sign in; says what is wrong. The daemon starts all the same: own tokens need none of them.
pub(super) fn check_providers(server: &Server, output: &Output) {
    for (name, provider) in &server.oidc {
        match Providers::probe(provider) {
            Ok(found) => {
                let keys = found.keys;
                output.line(format!("[server.oidc.{name}]: {} has {keys} keys for tokens", provider.issuer));
                match found.sign_in {
                    None => {}
                    Some(Ok(())) => output.line(format!(
                        "[server.oidc.{name}]: people can sign in there; the address to which it sends them back is {}",
                        return_address(&server.origin().unwrap_or_default(), name)
                    )),
                    Some(Err(what)) => eprintln!(
                        "leeward: warning: [server.oidc.{name}]: nobody could sign in there now: {}",
                        printable(&what)
                    ),
                }
            }
            Err(what) => eprintln!(
                "leeward: warning: [server.oidc.{name}]: tokens of {} would not be taken now: {}; own tokens would",
                provider.issuer,
                printable(&what)
            ),
        }
    }
}

fn tls_arguments(server: &Server) -> listening::TlsArguments {
    listening::TlsArguments {
        tls_cert: server.tls_cert.clone(),
        tls_key: server.tls_key.clone(),
        tls_dir: server.tls_dir.clone(),
        tls_names: server.tls_names.clone(),
        client_ca: server.client_ca.clone(),
    }
}

fn audit(server: &Server) -> Result<Audit, Failure> {
    match &server.audit_log {
        None => Ok(Audit::to_stderr()),
        Some(path) => Audit::to_file(path).map_err(|error| {
            Failure::new(Code::Io, format!("{}: cannot write the log: {error}", path.display()))
        }),
    }
}

fn open_repository(place: RepositoryPlace) -> OpenRepository {
    Box::new(move |opening: &Opening| {
        let open = if opening.examined { open_examined_store } else { open_cached_store };
        let store = open(&place.location, Side::Own).map_err(|failure| failure.to_string())?;
        let limit = opening.limit_write.map(RateLimit::new);
        let store = LimitedStore::wrap(store, limit.as_ref(), None);
        let unlock = UnlockArguments::of_files(place.passphrase_file.clone(), place.key_file.clone());
        Repository::open_with(store, &unlock).map_err(|error| error.to_string())
    })
}
