//! A daemon behind TLS, and clients with and without what it takes to be let in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use leeward_api::server::make_certificates;

use super::daemon::{Daemon, LEEWARD, assert_holds, disk};

/// The command line against a daemon behind TLS.
struct Client<'a> {
    daemon: &'a Daemon,
    scheme: &'a str,
    authority: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
}

impl Client<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let port = self.daemon.address.rsplit_once(':').unwrap().1;
        let mut command = Command::new(LEEWARD);
        command
            .args(&arguments[..1])
            .args(["--site", &format!("{}://localhost:{port}", self.scheme)])
            .args(&arguments[1..])
            .env("LEEWARD_SITE_TOKEN_FILE", self.daemon.path("admin.token"));
        let (certificate, key) = self.certificate.clone().unzip();
        let files = [("CA_FILE", self.authority.clone()), ("CLIENT_CERT", certificate), ("CLIENT_KEY", key)];
        for (name, file) in files {
            command.env_remove(format!("LEEWARD_{name}"));
            command.envs(file.map(|file| (format!("LEEWARD_SITE_{name}"), file)));
        }
        command.output().unwrap()
    }

    fn is_refused(&self, why: &str) {
        let done = self.run(&["run", "list"]);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && told.contains(why), "{told}");
    }
}

fn pair(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("server-cert.pem"), directory.join("server-key.pem"))
}

#[test]
fn a_daemon_behind_tls_serves_who_trusts_it_and_whom_it_trusts() {
    let mut daemon = Daemon::new(|text| {
        text.replace("#tls_dir", "tls_dir")
            .replace("#client_ca = \"clients-ca.pem\"", "client_ca = \"clients/ca-cert.pem\"")
    });
    for name in ["clients", "strangers"] {
        make_certificates(&daemon.path(name), &["a.example".to_owned()], &[]).unwrap();
    }
    daemon.up();
    let client = |certificates: &str| Client {
        daemon: &daemon,
        scheme: "https",
        authority: Some(daemon.path("tls/ca-cert.pem")),
        certificate: Some(pair(&daemon.path(certificates))),
    };
    let raw = daemon.path("disk.raw");
    disk(&raw, 8 << 20, 21);
    std::fs::copy(&raw, daemon.path("inbox/a.raw")).unwrap();
    let done = client("clients").run(&["import", "start", "inbox", "a.raw", "--wait"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_holds(&daemon.volumes()[0], &raw);

    // How a refused handshake reaches the client differs from time to time.
    client("strangers").is_refused("");
    Client { certificate: None, ..client("clients") }.is_refused("");
    Client { authority: None, ..client("clients") }.is_refused("set LEEWARD_CA_FILE");
    Client { scheme: "http", ..client("clients") }.is_refused("localhost");
    std::fs::write(daemon.path("admin.token"), "wrong").unwrap();
    client("clients").is_refused("leeward token add");
    assert!(daemon.stop(), "it ends well");
}

#[test]
fn a_configuration_that_would_not_do_what_it_says_is_no_configuration() {
    let daemon = Daemon::new(|text| text);
    let file = daemon.path("site.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let check = |verb: &[&str]| {
        let done =
            Command::new(LEEWARD).arg("server").args(verb).arg("--config").arg(&file).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    assert_eq!(check(&["check"]).0, Some(0));
    for (line, change, why) in [
        ("#client_ca", "client_ca", "client_ca goes with TLS"),
        ("#tls_cert", "tls_cert", "tls_cert needs tls_key"),
        ("#allow_from = [\"10.0.0.0/8\"", "allow_from = [\"10.0.0.0/33\"", "10.0.0.0/33"),
        ("listen = \"127.0.0.1:0\"", "listen = \"0.0.0.0:0\"", "can be reached from other machines"),
    ] {
        assert!(text.contains(line), "{line}");
        std::fs::write(&file, text.replace(line, change)).unwrap();
        for verb in [&["check"][..], &[]] {
            let (code, told) = check(verb);
            assert!(code.is_some_and(|code| code != 0) && told.contains(why), "{verb:?}: {code:?} {told}");
        }
    }
}
