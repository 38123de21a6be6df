//! A PostgreSQL server of the tests' own: in a temporary directory, on a Unix socket, gone when the test process is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Stops the server when its input ends, which it does whatever becomes of the test process.
const WATCH: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c fsync="$3" -c max_connections=200 -c shared_buffers=32MB \
    >>"$2/log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf "$2"
"#;

pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    user: Option<&'static str>,
    _watch: Child,
}

/// The server of this process; `None`, loudly, where PostgreSQL is not installed.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let server = programs().map(|programs| Server::start(programs, "off"));
            if server.is_none() {
                eprintln!("SKIPPED: no /usr/lib/postgresql/*/bin; install the package postgresql");
            }
            server
        })
        .as_ref()
}

pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.sort();
    found.into_iter().rev().find(|path| path.join("initdb").exists())
}

impl Server {
    pub fn start(programs: PathBuf, fsync: &str) -> Self {
        Self::start_with(programs, fsync, |data| configure(data, "listen_addresses = ''"))
    }

    /// The same, after something was done to its new directory.
    pub fn start_with(programs: PathBuf, fsync: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("leeward-pg-").tempdir().unwrap().keep();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        // The server refuses to run as root.
        let user = rustix::process::geteuid().is_root().then_some("postgres");
        if let Some(user) = user {
            let owner = Command::new("chown").arg(user).arg(&folder).status().unwrap();
            assert!(owner.success(), "there is no user {user}");
        }
        let made = as_user(user, &programs.join("initdb"))
            .arg("-D")
            .arg(folder.join("data"))
            .args(["-U", "leeward", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "initdb failed");
        prepare(&folder.join("data"));
        let watch = as_user(user, Path::new("/bin/sh"))
            .args(["-c", WATCH, "watch"])
            .args([&programs, &folder])
            .arg(fsync)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { programs, folder, user, _watch: watch };
        server.wait();
        server
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        let text = std::fs::read_to_string(self.folder.join("data/postgresql.conf")).unwrap();
        let port =
            text.lines().rev().find_map(|line| line.strip_prefix("port = ")?.parse().ok()).unwrap_or(5432);
        while !self.ask_at(port, "postgres", "SELECT 1") {
            assert!(Instant::now() < end, "{}", std::fs::read_to_string(self.folder.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn ask(&self, database: &str, text: &str) -> bool {
        self.ask_at(5432, database, text)
    }

    /// Has a statement done, through the socket of a port.
    pub fn ask_at(&self, port: u16, database: &str, text: &str) -> bool {
        Command::new(self.programs.join("psql"))
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &port.to_string()])
            .args(["-U", "leeward", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", text, database])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    /// A new, empty database; returns a file with its connection string.
    pub fn database(&self, name: &str, file: &Path) {
        assert!(self.ask("postgres", &format!("CREATE DATABASE {name}")));
        let text = format!("host={} user=leeward dbname={name}\n", self.folder.display());
        std::fs::write(file, text).unwrap();
    }

    /// Ends the server as a crash does, and starts it again.
    pub fn crash(&self) {
        let control = |arguments: &[&str]| {
            let done = as_user(self.user, &self.programs.join("pg_ctl"))
                .arg("-D")
                .arg(self.folder.join("data"))
                .args(arguments)
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(done.success(), "pg_ctl {arguments:?} failed");
        };
        let options = format!("-k {} -c fsync=off", self.folder.display());
        let log = self.folder.join("log");
        control(&["stop", "-m", "immediate"]);
        control(&["start", "-w", "-l", log.to_str().unwrap(), "-o", &options]);
    }

    /// Ends a server that [`Server::crash`] has started: that one is no child of the watch.
    pub fn end(&self) {
        let _ = as_user(self.user, &self.programs.join("pg_ctl"))
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["stop", "-m", "immediate"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Adds lines to the server's configuration.
pub fn configure(data: &Path, lines: &str) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
    writeln!(file, "{lines}").unwrap();
}

fn as_user(user: Option<&str>, program: &Path) -> Command {
    let Some(user) = user else { return Command::new(program) };
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(program).current_dir("/");
    command
}
