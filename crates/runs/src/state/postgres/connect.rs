//! How the server is reached: from a file or the environment, and never over a network without TLS.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::config::{Host, SslMode};
use postgres::{Client, Config, NoTls};
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::load_native_certs;
use tokio_postgres_rustls::MakeRustlsConnect;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::work::Failure;
use crate::{Error, Result};

/// The longest connection string, in bytes.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// What the client takes where the connection string says nothing (`tokio_postgres::Config::keepalives_idle`).
const KEEPALIVES_IDLE_USUAL: Duration = Duration::from_secs(2 * 60 * 60);

/// Where the server is, and how it proves itself. Its text has a password: it is not printed.
#[derive(Clone)]
pub struct PostgresOptions {
    config: Config,
    place: String,
    roots: Roots,
}

/// Which authorities may vouch for the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Roots {
    /// Those that the operating system trusts.
    #[default]
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

impl PostgresOptions {
    /// Reads the connection string, as `postgresql://USER:PASSWORD@HOST/DATABASE` or `host=… user=…`, from a file.
    ///
    /// # Errors
    /// The file cannot be read, or its text is no connection string or asks for a connection without TLS over a network.
    pub fn from_file(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|source| Error::Database {
                place: place.clone(),
                action: "read the connection string",
                source: source.into(),
            })?;
        if read as u64 > TEXT_BYTES_MAX {
            return Err(Error::Invalid(format!("{place}: longer than a connection string can be")));
        }
        Self::parse(&place, text.trim())
    }

    /// Reads the connection string from a variable of the environment.
    ///
    /// # Errors
    /// There is no such variable, or see [`PostgresOptions::from_file`].
    pub fn from_environment(variable: &str) -> Result<Self> {
        match std::env::var(variable) {
            Ok(text) => Self::parse(&format!("${variable}"), text.trim()),
            Err(_) => Err(Error::Invalid(format!(
                "${variable} has no connection string for PostgreSQL; set it, or name a file that has one"
            ))),
        }
    }

    /// The same with other authorities for the server's certificate.
    #[must_use]
    pub fn with_roots(self, roots: Roots) -> Self {
        Self { roots, ..self }
    }

    fn parse(source: &str, text: &str) -> Result<Self> {
        // The parser's own words may quote a part of the text, and a password with it.
        let mut config: Config = text.parse().map_err(|_| {
            Error::Invalid(format!(
                "{source}: this is no connection string for PostgreSQL; write \
                 postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or host=… dbname=… user=… password=… with quotes round \
                 values that have spaces"
            ))
        })?;
        let place = place_of(&config);
        require_tls(&mut config).map_err(|what| Error::Invalid(format!("{source}: {place}: {what}")))?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(20));
        }
        // A server that has taken a question and is then cut off answers never: without this the system asks after two hours.
        if config.get_keepalives_idle() == KEEPALIVES_IDLE_USUAL {
            config.keepalives_idle(Duration::from_secs(10));
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(Duration::from_secs(5));
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(3);
        }
        if config.get_application_name().is_none() {
            config.application_name("leeward");
        }
        Ok(Self { config, place, roots: Roots::default() })
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions").field("place", &self.place).field("roots", &self.roots).finish()
    }
}

/// Sockets of this machine need no TLS; to any other there is TLS with a certificate that is checked, or nothing.
fn require_tls(config: &mut Config) -> Result<(), &'static str> {
    let is_near = match (config.get_hosts(), config.get_hostaddrs()) {
        ([], []) => return Err("name a host, or the directory of the server's socket"),
        (_, addresses @ [_, ..]) => addresses.iter().all(IpAddr::is_loopback),
        (hosts, []) => hosts.iter().all(is_of_this_machine),
    };
    match (is_near, config.get_ssl_mode()) {
        (true, SslMode::Prefer) => config.ssl_mode(SslMode::Disable),
        (true, _) => config,
        (false, SslMode::Disable) => {
            return Err("sslmode=disable would send the password and all runs in the clear; remove it");
        }
        (false, _) => config.ssl_mode(SslMode::Require),
    };
    Ok(())
}

fn is_of_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|at| at.is_loopback()),
    }
}

/// The database for messages: without password.
fn place_of(config: &Config) -> String {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let mut hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
    if hosts.is_empty() {
        hosts = config.get_hostaddrs().iter().map(IpAddr::to_string).collect();
    }
    let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
    let port = if ports.is_empty() { String::new() } else { format!(":{}", ports.join(",")) };
    let database = config.get_dbname().or(config.get_user()).unwrap_or("");
    format!("postgresql {}{port}/{database}", hosts.join(","))
}

/// Makes connections.
pub(super) struct Connector {
    config: Config,
    place: String,
    tls: Option<MakeRustlsConnect>,
}

impl Connector {
    pub fn new(options: &PostgresOptions) -> Result<Self> {
        let needs_tls = options.config.get_ssl_mode() != SslMode::Disable;
        let tls = needs_tls.then(|| tls(&options.place, &options.roots)).transpose()?;
        Ok(Self { config: options.config.clone(), place: options.place.clone(), tls })
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn connect(&self) -> Result<Client, Failure> {
        Ok(match &self.tls {
            Some(tls) => self.config.connect(tls.clone())?,
            None => self.config.connect(NoTls)?,
        })
    }
}

fn tls(place: &str, roots: &Roots) -> Result<MakeRustlsConnect> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Database {
        place: place.to_owned(),
        action: "prepare TLS",
        source,
    };
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => store.add_parsable_certificates(load_native_certs().certs),
        Roots::File(path) => {
            let named = |error: rustls::pki_types::pem::Error| {
                failed(format!("{}: {error:?}", path.display()).into())
            };
            let read: Vec<_> = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(named)?;
            store.add_parsable_certificates(read)
        }
    };
    if store.is_empty() {
        return Err(failed(format!("no certificate of an authority in {roots:?}").into()));
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.into()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PostgresOptions> {
        PostgresOptions::parse("$HERE", text)
    }

    #[test]
    fn no_password_is_printed() {
        for text in [
            "postgresql://me:s3cret@db.example/state",
            "host=/run/postgresql user=me password=s3cret dbname=state",
            "host=db.example user=me password=s3cret bogus=s3cret",
            "postgresql://me:s3cret@db.example:notaport/state",
            "host=db.example user=me password=s3cret sslmode=disable",
            "s3cret",
        ] {
            let said = match parse(text) {
                Ok(options) => format!("{options:?} {}", options.place),
                Err(error) => format!("{error:?} {error}"),
            };
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn there_is_no_way_over_a_network_without_tls() {
        let mode = |text: &str| parse(text).unwrap().config.get_ssl_mode();
        assert_eq!(mode("host=db.example user=me"), SslMode::Require);
        assert_eq!(mode("host=db.example user=me sslmode=prefer"), SslMode::Require);
        assert_eq!(mode("host=/run/postgresql,db.example user=me"), SslMode::Require);
        assert_eq!(mode("host=localhost hostaddr=192.0.2.1 user=me"), SslMode::Require);
        assert_eq!(mode("host=localhost user=me"), SslMode::Disable);
        assert_eq!(mode("host=/run/postgresql user=me"), SslMode::Disable);
        assert_eq!(mode("host=127.0.0.1 user=me sslmode=require"), SslMode::Require);
        parse("host=db.example user=me sslmode=disable").unwrap_err();
        parse("user=me").unwrap_err();
    }

    #[test]
    fn places_name_the_server() {
        assert_eq!(
            parse("postgresql://me:x@db.example:5433/state").unwrap().place,
            "postgresql db.example:5433/state"
        );
        assert_eq!(parse("host=/run/pg user=me").unwrap().place, "postgresql /run/pg/me");
    }
}
