//! NBD under TLS: both sides of ours, and each against QEMU and libnbd.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/memory.rs"]
mod memory;
#[path = "support/qemu.rs"]
mod qemu;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use leeward_disk::nbd::{
    Clients, Export, Handle, Listen, NbdDisk, NbdOptions, NbdUrl, Server, ServerOptions, TlsServer,
};
use leeward_disk::{Result, Source, Target};
use memory::MemoryDisk;
use qemu::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const SIZE: usize = (5 << 20) + 512;

/// An authority, and a directory with its certificates for a server (`localhost`) and a client.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new(directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = named("authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.join("ca-cert.pem"), certificate.pem()).unwrap();
        let authority = Self { issuer: Issuer::new(parameters, key), directory };
        authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
        authority.issue("client", ExtendedKeyUsagePurpose::ClientAuth);
        authority
    }

    fn issue(&self, role: &str, usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name = named(role).distinguished_name;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![usage];
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.directory.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(self.directory.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
    }

    /// The same without a certificate for clients.
    fn without_client(&self) -> PathBuf {
        let directory = self.directory.with_extension("anonymous");
        std::fs::create_dir(&directory).unwrap();
        std::fs::copy(self.directory.join("ca-cert.pem"), directory.join("ca-cert.pem")).unwrap();
        directory
    }
}

fn named(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

fn serve_with(authority: &Authority, clients: Clients, disk: Arc<MemoryDisk>) -> (Handle, u16) {
    let exports = vec![Export { name: "disk".to_owned(), description: String::new(), device: disk }];
    let tls = TlsServer::load(&authority.directory, clients).unwrap();
    let options = ServerOptions { tls: Some(tls), ..ServerOptions::default() };
    let server = Server::bind(Listen::Tcp("127.0.0.1:0".parse().unwrap()), exports, options).unwrap();
    let port = server.tcp_address().unwrap().port();
    (server.start().unwrap(), port)
}

fn connect(url: &str) -> Result<NbdDisk> {
    NbdDisk::connect(&NbdUrl::parse(url).unwrap(), &NbdOptions::default())
}

fn url(port: u16, directory: &Path) -> String {
    format!("nbds://localhost:{port}/disk?tls-certificates={}", text(directory))
}

#[test]
fn our_client_and_our_server_speak_tls() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path().join("pki"));
    let bytes = content(SIZE, 3);
    let disk = Arc::new(MemoryDisk::new(bytes.clone(), false));
    let (handle, port) = serve_with(&authority, Clients::Certified, disk.clone());
    let client = connect(&url(port, &authority.directory)).unwrap();
    assert_reads(&client, &bytes, "under TLS");
    // Both directions at once, from several threads.
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (client, bytes) = (&client, &bytes);
            scope.spawn(move || {
                let range = thread << 20..(thread + 1) << 20;
                for _ in 0..5 {
                    client.write_at(&bytes[range.clone()], range.start as u64).unwrap();
                    let mut buffer = vec![0; bytes.len()];
                    client.read_at(&mut buffer, 0).unwrap();
                    assert!(buffer == *bytes);
                }
            });
        }
    });
    let changed = content(SIZE, 4);
    client.write_at(&changed, 0).unwrap();
    client.finish(true).unwrap();
    drop(client);
    assert!(disk.bytes() == changed);
    assert_eq!(handle.stop().unwrap().requests_failed, 0);
}

#[test]
fn unix_sockets_may_have_tls_too() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path().join("pki"));
    let bytes = content(SIZE, 7);
    let disk = Arc::new(MemoryDisk::new(bytes.clone(), true));
    let exports = vec![Export { name: String::new(), description: String::new(), device: disk }];
    let tls = TlsServer::load(&authority.directory, Clients::Anyone).unwrap();
    let options = ServerOptions { tls: Some(tls), ..ServerOptions::default() };
    let socket = directory.path().join("s");
    let handle = Server::bind(Listen::Unix(socket), exports, options).unwrap().start().unwrap();
    let anonymous = text(&authority.without_client()).to_owned();
    let client = connect(&format!("{}&tls-certificates={anonymous}", handle.server().url(""))).unwrap();
    assert_reads(&client, &bytes, "under TLS");
}

#[test]
fn strangers_are_refused_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let ours = Authority::new(directory.path().join("ours"));
    let theirs = Authority::new(directory.path().join("theirs"));
    let disk = Arc::new(MemoryDisk::new(content(SIZE, 3), true));
    let (handle, port) = serve_with(&ours, Clients::Certified, disk);
    let refused = |url: String| connect(&url).err().unwrap().to_string();
    let plain = refused(format!("nbd://localhost:{port}/disk"));
    assert!(plain.contains("demands TLS"), "{plain}");
    let anonymous = refused(url(port, &ours.without_client()));
    assert!(anonymous.contains("CertificateRequired"), "{anonymous}");
    let untrusted = refused(url(port, &theirs.directory));
    assert!(untrusted.contains("UnknownIssuer") || untrusted.contains("BadSignature"), "{untrusted}");
    // A client that trusts our server, but whose own certificate is from elsewhere.
    std::fs::copy(ours.directory.join("ca-cert.pem"), theirs.directory.join("ca-cert.pem")).unwrap();
    let foreign = refused(url(port, &theirs.directory));
    assert!(foreign.contains("received fatal alert"), "{foreign}");
    let misnamed = refused(url(port, &ours.directory).replace("localhost", "127.0.0.1"));
    assert!(misnamed.contains("not valid for name"), "{misnamed}");
    let renamed = url(port, &ours.directory).replace("localhost", "127.0.0.1");
    connect(&format!("{renamed}&tls-hostname=localhost")).unwrap();
    assert_eq!(handle.stop().unwrap().requests, 0, "nobody read anything");

    let plain = vec![Export {
        name: "disk".to_owned(),
        description: String::new(),
        device: Arc::new(MemoryDisk::new(vec![0; 512], true)),
    }];
    let server =
        Server::bind(Listen::Tcp("127.0.0.1:0".parse().unwrap()), plain, ServerOptions::default()).unwrap();
    let port = server.tcp_address().unwrap().port();
    let _handle = server.start().unwrap();
    let refused = refused(url(port, &ours.directory));
    assert!(refused.contains("does not speak TLS"), "{refused}");
}

#[test]
fn files_that_make_no_sense_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path().join("pki"));
    let load = || TlsServer::load(&authority.directory, Clients::Certified).err().unwrap().to_string();
    std::fs::write(authority.directory.join("ca-cert.pem"), "nothing").unwrap();
    assert!(load().contains("ca-cert.pem"), "{}", load());
    std::fs::remove_file(authority.directory.join("ca-cert.pem")).unwrap();
    assert!(load().contains("ca-cert.pem"), "{}", load());
    TlsServer::load(&authority.directory, Clients::Anyone).unwrap();
    std::fs::copy(authority.directory.join("client-key.pem"), authority.directory.join("server-key.pem"))
        .unwrap();
    assert!(
        TlsServer::load(&authority.directory, Clients::Anyone).err().unwrap().to_string().contains("server-")
    );
}

#[test]
fn libnbd_connects_with_tls() {
    if !has("nbdinfo") || !has("nbdcopy") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path().join("pki"));
    let disk = Arc::new(MemoryDisk::new(content(SIZE, 3), false));
    let (handle, port) = serve_with(&authority, Clients::Certified, disk.clone());
    let url = url(port, &authority.directory);
    let said = run("nbdinfo", &["--json", &url]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["TLS"], true, "{said}");
    let file = directory.path().join("copy.raw");
    run("nbdcopy", &[&url, text(&file)]);
    assert!(std::fs::read(&file).unwrap() == disk.bytes(), "to a file");
    let bytes = write_content(&file, SIZE, 8);
    run("nbdcopy", &["--requests=32", text(&file), &url]);
    assert!(disk.bytes() == bytes, "from a file");
    assert_eq!(handle.stop().unwrap().requests_failed, 0);
}

#[test]
fn qemu_connects_with_tls() {
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path().join("pki"));
    let disk = Arc::new(MemoryDisk::new(content(SIZE, 3), true));
    let (_handle, port) = serve_with(&authority, Clients::Certified, disk.clone());
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", text(&authority.directory));
    let image = format!(
        "driver=nbd,server.type=inet,server.host=localhost,server.port={port},export=disk,tls-creds=tls"
    );
    let copy = directory.path().join("copy.raw");
    run("qemu-img", &["convert", "--object", &credentials, "--image-opts", &image, "-O", "raw", text(&copy)]);
    assert!(std::fs::read(&copy).unwrap() == disk.bytes());
}

#[test]
fn our_client_connects_to_qemu_with_tls() {
    if !has("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path().join("pki"));
    let raw = directory.path().join("a.raw");
    let bytes = write_content(&raw, SIZE, 5);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let credentials =
        format!("tls-creds-x509,id=tls,endpoint=server,dir={},verify-peer=yes", text(&authority.directory));
    let child = Command::new("qemu-nbd")
        .args(["--object", &credentials, "--tls-creds", "tls", "--persistent", "--shared=8", "-x", "disk"])
        .args(["-b", "127.0.0.1", "-p", &port.to_string(), "-f", "raw", text(&raw)])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let _server = qemu::Server(child);
    let mut client = None;
    wait_for(|| {
        client = connect(&url(port, &authority.directory)).ok();
        client.is_some()
    });
    let client = client.unwrap();
    assert_reads(&client, &bytes, "from QEMU under TLS");
    let changed = content(SIZE, 6);
    client.write_at(&changed, 0).unwrap();
    client.finish(true).unwrap();
    drop(client);
    assert!(std::fs::read(&raw).unwrap()[..SIZE] == changed);
    let anonymous = connect(&url(port, &authority.without_client())).err().unwrap().to_string();
    assert!(anonymous.contains("localhost"), "{anonymous}");
}
