//! PostgreSQL over TCP: TLS with a certificate that is checked, a password that is not printed.

#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use leeward_runs::state::{PostgresOptions, PostgresState, Roots, State};
use world::server::{Server, configure, programs};

/// An authority and a certificate for 127.0.0.1 and localhost.
const CERTIFICATES: &str = "set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
openssl req -x509 $new -keyout ca.key -out ca.pem -subj /CN=ca -days 2
openssl req -x509 $new -keyout other.key -out other.pem -subj /CN=other -days 2
openssl req $new -keyout server.key -out server.csr -subj /CN=server
echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' >names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 2 -out server.crt -extfile names -CAcreateserial
";

fn certificates(folder: &Path) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", CERTIFICATES]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that takes TLS and passwords only.
fn server(programs: PathBuf, certificates: &Path, port: u16) -> Server {
    Server::start_with(programs, "off", |data| {
        configure(data, &format!("listen_addresses = '127.0.0.1'\nport = {port}\nssl = on"));
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n",
        )
        .unwrap();
        for name in ["server.crt", "server.key"] {
            std::fs::copy(certificates.join(name), data.join(name)).unwrap();
            let _ = Command::new("chown").arg("postgres").arg(data.join(name)).status();
            let _ = Command::new("chmod").arg("600").arg(data.join(name)).status();
        }
    })
}

fn open(folder: &Path, text: &str, roots: &str) -> Result<PostgresState, String> {
    let file = folder.join("connection");
    std::fs::write(&file, text).unwrap();
    let options = PostgresOptions::from_file(&file).map_err(|error| error.to_string())?;
    PostgresState::open(&options.with_roots(Roots::File(folder.join(roots)))).map_err(|error| {
        let mut said = format!("{error} {error:?}");
        let mut cause = error.source();
        while let Some(error) = cause {
            said += &format!(": {error}");
            cause = error.source();
        }
        said
    })
}

#[test]
fn the_servers_certificate_and_name_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(programs) = programs().filter(|_| certificates(folder)) else {
        eprintln!("SKIPPED: PostgreSQL or openssl is not installed");
        return;
    };
    let port = free_port();
    let server = server(programs, folder, port);
    assert!(server.ask_at(port, "postgres", "ALTER ROLE leeward PASSWORD 's3cret'"));
    let at = |rest: &str| format!("port={port} user=leeward dbname=postgres password=s3cret {rest}");
    for host in ["host=127.0.0.1 sslmode=require", "host=localhost hostaddr=127.0.0.1 sslmode=require"] {
        let state = open(folder, &at(host), "ca.pem").unwrap();
        state.now().unwrap();
        assert!(!state.place().contains("s3cret"));
    }
    let refused = |host: &str, roots: &str, why: &str| {
        let said = open(folder, &at(host), roots).map(drop).unwrap_err();
        assert!(said.contains(why), "{host}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    };
    refused("host=127.0.0.1 sslmode=require", "other.pem", "UnknownIssuer");
    refused("host=elsewhere.example hostaddr=127.0.0.1 sslmode=require", "ca.pem", "NotValidForName");
    refused("host=127.0.0.1", "ca.pem", "no encryption");
    refused("host=127.0.0.1 sslmode=require", "nothing.pem", "nothing.pem");
    let said = open(folder, &at("host=127.0.0.1 sslmode=require").replace("s3cret", "wr0ng"), "ca.pem");
    let said = said.map(drop).unwrap_err();
    assert!(said.contains("authentication failed") && !said.contains("wr0ng"), "{said}");
}
