//! Azurite, Microsoft's emulator of Azure's storage: started by a test, on a free port of this machine, and stopped by it.
//!
//! It runs when `AZURITE` names its executable, or `azurite-blob` is found in `PATH`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use leeward_remote::{Connection, Environment, Location, connect};

/// The account that the emulator has, and its key.
pub const ACCOUNT: &str = "leewardtests";
pub const KEY: &str = "bGVld2FyZCB0ZXN0cyBvbmx5LCBubyByZWFsIGFjY291bnQ=";
pub const CONTAINER: &str = "repositories";

/// A running emulator with one container; stopped when dropped.
pub struct Azurite {
    child: Child,
    /// The account's endpoint.
    pub endpoint: String,
    _directory: tempfile::TempDir,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The emulator's executable, if there is one.
fn executable() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("AZURITE").filter(|named| !named.is_empty()) {
        return Some(named.into());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|path| path.join("azurite-blob")).find(|path| path.is_file())
}

impl Azurite {
    /// Starts one, with a container in it; `None` when there is none to start.
    pub fn start() -> Option<Self> {
        let Some(executable) = executable() else {
            println!("SKIPPED: neither does AZURITE name an emulator of Azure, nor is azurite-blob in PATH");
            return None;
        };
        let azurite = Self::spawn(&executable);
        let connection = connect(&azurite.location("x"), &azurite.environment()).unwrap();
        connection.bare.make().unwrap();
        Some(azurite)
    }

    fn spawn(executable: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(executable)
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--silent", "--disableTelemetry"])
            .arg("--location")
            .arg(directory.path())
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", executable.display()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let listens = "listens on ";
        let found = lines.find_map(|line| line.split_once(listens).map(|(_, url)| url.trim().to_owned()));
        let origin = found.expect("the emulator ended before it listened");
        // Whoever writes to a pipe that nobody reads stands still some day.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, endpoint: format!("{origin}/{ACCOUNT}"), _directory: directory }
    }

    /// The variables that give access.
    pub fn variables() -> [(&'static str, &'static str); 1] {
        [("AZURE_STORAGE_KEY", KEY)]
    }

    pub fn environment(&self) -> Environment {
        Environment::of(&Self::variables())
    }

    /// The text of a location in a container.
    pub fn url(&self, container: &str, prefix: &str) -> String {
        format!("azure://{container}/{prefix}?account={ACCOUNT}&endpoint={}", self.endpoint)
    }

    pub fn location(&self, prefix: &str) -> Location {
        Location::parse(&self.url(CONTAINER, prefix)).unwrap().unwrap()
    }

    /// A connection to a prefix that nobody else has.
    pub fn connect(&self) -> Connection {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        connect(&self.location(&prefix), &self.environment()).unwrap()
    }
}
