//! A server of OpenSSH that a test starts on a free port of this machine, with keys of its own, and stops.
//!
//! It runs when `SSHD` names the server, or it is where distributions put it. Started by an ordinary user it serves that user
//! alone; started by root it needs the user `sshd`, which the package makes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use leeward_remote::{Connection, Environment, Location, connect};

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running server; stopped when dropped.
pub struct Sshd {
    child: Child,
    pub port: u16,
    directory: tempfile::TempDir,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn skipped<T>(why: &str) -> Option<T> {
    println!("SKIPPED: {why}");
    None
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn make_key(path: &Path) {
    output("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path.to_str().unwrap()]);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Sshd {
    /// Starts one; `None` when there is none to start.
    pub fn start() -> Option<Self> {
        Self::start_with("Subsystem sftp internal-sftp")
    }

    /// Starts one with this line about SFTP in its configuration.
    pub fn start_with(subsystem: &str) -> Option<Self> {
        let executable = match std::env::var_os("SSHD").filter(|named| !named.is_empty()) {
            Some(named) => PathBuf::from(named),
            None => PathBuf::from("/usr/sbin/sshd"),
        };
        if !executable.is_file() || Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
            return skipped(&format!(
                "no OpenSSH here: {} or ssh is missing (packages openssh-server, openssh-client)",
                executable.display()
            ));
        }
        if output("id", &["-u"]) == "0" && std::fs::create_dir_all("/run/sshd").is_err() {
            return skipped("sshd needs the directory /run/sshd when it is started by root");
        }
        let directory = tempfile::tempdir().unwrap();
        for name in ["host", "key", "stranger"] {
            make_key(&directory.path().join(name));
        }
        std::fs::copy(directory.path().join("key.pub"), directory.path().join("authorized")).unwrap();
        std::fs::create_dir(directory.path().join("data")).unwrap();
        // The port may be taken by somebody else before the server has it.
        for _ in 0..5 {
            let port = free_port();
            let mut child = Self::spawn(&executable, directory.path(), port, subsystem);
            if listens(&mut child, port) {
                write_client_files(directory.path(), port);
                return Some(Self { child, port, directory });
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        skipped(&format!(
            "sshd does not start here: {}",
            std::fs::read_to_string(directory.path().join("log")).unwrap_or_default()
        ))
    }

    fn spawn(executable: &Path, directory: &Path, port: u16, subsystem: &str) -> Child {
        let config = directory.join("sshd_config");
        let place = directory.display();
        let text = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {place}/host\nPidFile none\nAuthorizedKeysFile {place}/authorized\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\nMaxSessions 100\nLogLevel ERROR\n\
             {subsystem}\n"
        );
        std::fs::write(&config, text).unwrap();
        let log = directory.join("log");
        Command::new(executable)
            .arg("-D")
            .arg("-E")
            .arg(log)
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// A file of the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory in which repositories are.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The variables that make ssh use the test's keys and nothing of the user's.
    pub fn variables(&self) -> [(&'static str, String); 1] {
        [("LEEWARD_SFTP_CONFIG", self.path("config").to_str().unwrap().to_owned())]
    }

    pub fn environment(&self) -> Environment {
        let variables = self.variables();
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Environment::of(&variables)
    }

    /// The text of a location in the test's directory.
    pub fn url(&self, name: &str) -> String {
        format!("sftp://127.0.0.1:{}{}/{name}", self.port, self.data().display())
    }

    pub fn location(&self, name: &str) -> Location {
        Location::parse(&self.url(name)).unwrap().unwrap()
    }

    /// A connection to a directory that nobody else has, and which is there.
    pub fn connect(&self) -> Connection {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        let connection = connect(&self.location(&name), &self.environment()).unwrap();
        connection.bare.make().unwrap();
        connection
    }

    /// Stops the server; the files for clients stay.
    pub fn stop(&mut self) {
        self.cut();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Cuts all connections; the server goes on.
    pub fn cut(&self) {
        let own = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let _ = Command::new("kill").arg("-9").arg(child).stderr(Stdio::null()).status();
        }
    }

    /// The fingerprint of the server's key.
    pub fn fingerprint(&self) -> String {
        let told = output("ssh-keygen", &["-lf", self.path("host.pub").to_str().unwrap()]);
        told.split_whitespace().nth(1).unwrap().to_owned()
    }
}

/// Whether a server comes to listen.
fn listens(child: &mut Child, port: u16) -> bool {
    let until = Instant::now() + STARTS_WITHIN;
    while Instant::now() < until && child.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// The client's configuration, and the key of the host that it knows.
fn write_client_files(directory: &Path, port: u16) {
    let key = std::fs::read_to_string(directory.join("host.pub")).unwrap();
    let known = format!("[127.0.0.1]:{port} {key}");
    std::fs::write(directory.join("known"), known).unwrap();
    let place = directory.display();
    let text = format!(
        "IdentityFile {place}/key\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {place}/known\n\
         GlobalKnownHostsFile /dev/null\n"
    );
    std::fs::write(directory.join("config"), text).unwrap();
}
