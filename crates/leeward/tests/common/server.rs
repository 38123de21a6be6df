//! A repository behind a server: a real process with real TLS, at a place of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Bench, text};

/// A directory with a repository, tokens and certificates, and perhaps a server of it.
pub struct Site {
    pub bench: Bench,
    server: Option<Child>,
    pub url: String,
}

impl Site {
    /// A site without a server; its repository is made with these arguments, or not at all.
    pub fn new(init: Option<&[&str]>) -> Self {
        let bench = Bench::new();
        match init {
            Some(arguments) => {
                bench.succeeds(&[&["repo", "init", "--pack-size", "1M"], arguments].concat());
            }
            None => std::fs::create_dir(bench.repository()).unwrap(),
        }
        Self { bench, server: None, url: String::new() }
    }

    pub fn file(&self, name: &str) -> String {
        self.bench.path(name).display().to_string()
    }

    /// The authority of its certificates.
    pub fn authority(&self) -> String {
        self.file("tls/ca-cert.pem")
    }

    /// Makes a token; the file with it.
    pub fn token(&self, name: &str, more: &[&str]) -> PathBuf {
        let (tokens, file) = (self.file("tokens"), self.bench.path(&format!("{name}.token")));
        let arguments = [&["token", "add", name, "--tokens", &tokens], more].concat();
        self.bench.succeeds(&[&arguments[..], &["--output", file.to_str().unwrap()]].concat());
        file
    }

    /// Starts a server at a free port, or where it was before, and waits until it listens.
    pub fn serve(&mut self, more: &[&str]) {
        let address = match self.url.strip_prefix("https://") {
            Some(address) => address.to_owned(),
            None => "127.0.0.1:0".to_owned(),
        };
        let (tls, tokens, log) = (self.file("tls"), self.file("tokens"), self.file("audit"));
        let arguments =
            ["serve", "--listen", &address, "--tls-dir", &tls, "--tokens", &tokens, "--audit-log", &log];
        let mut child = self
            .bench
            .command(&[&arguments[..], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the server says {line:?}"));
        self.url = text(&value["listening"]);
        self.server = Some(child);
    }

    /// Ends the server as a person would, and sees that it ends well.
    pub fn end(&mut self) {
        let mut server = self.server.take().unwrap();
        kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
        assert!(server.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub fn packs(&self) -> usize {
        std::fs::read_dir(self.bench.repository().join("packs")).unwrap().count()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.bench.path("audit")).unwrap()
    }

    /// A command on a third machine that works on this site's repository.
    pub fn command(&self, client: &Bench, token: &std::path::Path, arguments: &[&str]) -> Command {
        let mut command = client.command(arguments);
        command
            .env("LEEWARD_REPO", &self.url)
            .env("LEEWARD_CA_FILE", self.authority())
            .env("LEEWARD_TOKEN_FILE", token)
            .env("XDG_STATE_HOME", client.path("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
