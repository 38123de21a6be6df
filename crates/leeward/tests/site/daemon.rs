//! A daemon of a test's own, and ways to speak to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const LEEWARD: &str = env!("CARGO_BIN_EXE_leeward");

/// A site in a folder of its own.
pub struct Daemon {
    pub folder: tempfile::TempDir,
    pub address: String,
    pub token: String,
    child: Option<Child>,
}

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    /// A site as `server init` makes it, with changes to its configuration; started.
    pub fn start(change: impl Fn(String) -> String) -> Self {
        let mut daemon = Self::new(change);
        daemon.up();
        daemon
    }

    /// The same, not started yet.
    pub fn new(change: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("site.toml");
        let made = Command::new(LEEWARD).args(["server", "init", "--config"]).arg(&config).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = std::fs::read_to_string(&config).unwrap().replace("127.0.0.1:7443", "127.0.0.1:0");
        std::fs::write(&config, change(text)).unwrap();
        let token = std::fs::read_to_string(folder.path().join("admin.token")).unwrap().trim().to_owned();
        Self { folder, address: String::new(), token, child: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the daemon and waits for its address.
    pub fn up(&mut self) {
        self.up_with(&[]);
    }

    pub fn up_with(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut child = Command::new(LEEWARD)
            .args(["server", "--config"])
            .arg(self.path("site.toml"))
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .find_map(|line| line.ok().filter(|line| line.contains("Serving at")))
            .unwrap_or_else(|| {
                panic!(
                    "the daemon does not start: {}",
                    std::fs::read_to_string(self.path("daemon.log")).unwrap()
                )
            });
        self.address = line.split("://").nth(1).unwrap().trim().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it as an operator would; returns whether it ended well.
    pub fn stop(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().success()
    }

    /// The number of its process.
    pub fn process(&self) -> String {
        self.child.as_ref().map(|child| child.id().to_string()).unwrap_or_default()
    }

    fn process_file(&self, name: &str) -> String {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
    }

    fn figure(&self, file: &str, name: &str) -> u64 {
        let text = self.process_file(file);
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The most memory that it has had.
    pub fn peak_bytes(&self) -> u64 {
        self.figure("status", "VmHWM:") << 10
    }

    /// What it has read of files and of the network.
    pub fn read_bytes(&self) -> u64 {
        self.figure("io", "rchar:")
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.address,
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
        stream
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut bytes = Vec::new();
        self.send(method, path, headers, body).read_to_end(&mut bytes).unwrap();
        let (status, head) = head_of(&bytes).expect("an answer has a head");
        let rest = &bytes[head.len()..];
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(rest) } else { rest.to_vec() };
        Answer { status, head, body }
    }

    /// The head of an answer, whose body may never end.
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (mut stream, mut bytes) = (self.send(method, path, headers, body), Vec::new());
        loop {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "the answer has no whole head: {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&piece[..count]);
            if let Some((status, head)) = head_of(&bytes) {
                return Answer { status, head, body: Vec::new() };
            }
        }
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[("authorization", &self.bearer())], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("authorization", &self.bearer())], &body.to_string())
    }

    /// A verb of the command line against this daemon.
    pub fn leeward(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(LEEWARD)
            .args(arguments)
            .env("LEEWARD_SITE", format!("http://{}", self.address))
            .env("LEEWARD_SITE_TOKEN_FILE", self.path("admin.token"))
            .output()
            .unwrap()
    }

    pub fn run(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/runs/{id}"));
        assert_eq!(answer.status, 200);
        answer.json()["run"].clone()
    }

    /// Waits until a run is in one of these states.
    pub fn until(&self, id: &str, states: &[&str]) -> Value {
        let end = Instant::now() + Duration::from_secs(240);
        loop {
            let run = self.run(id);
            if states.contains(&run["state"].as_str().unwrap()) {
                return run;
            }
            assert!(Instant::now() < end, "not in time: {states:?}: {run:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Begins an import, and returns its run.
    pub fn import(&self, object: &str, options: Value) -> String {
        let body = serde_json::json!({ "source": "inbox", "object": object, "options": options });
        let answer = self.post("/v1/imports", &body);
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["run"].as_str().unwrap().to_owned()
    }

    /// The volumes of the target in the folder.
    pub fn volumes(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.path("volumes")) else { return Vec::new() };
        let mut found: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "raw"))
            .collect();
        found.sort();
        found
    }
}

/// The status and the head of an answer, when they are there.
fn head_of(bytes: &[u8]) -> Option<(u16, String)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((status, head))
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return body };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

/// A disk with data here and there, and its image in a format.
pub fn image(raw: &Path, path: &Path, format: &str, options: &[&str]) {
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    arguments.extend(options);
    let made =
        Command::new("qemu-img").args(arguments).arg(raw).arg(path).output().expect("qemu-img is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A raw disk of so many bytes, in which every 4 MiB there are some of data that differs everywhere.
pub fn disk(path: &Path, bytes: u64, seed: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    let mut state = seed | 1;
    for offset in (0..bytes).step_by(4 << 20) {
        let mut data = vec![0; 300_000];
        for byte in &mut data {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
        let length = data.len().min((bytes - offset) as usize);
        file.write_all_at(&data[..length], offset).unwrap();
    }
}

/// Whether a volume begins with a disk's bytes, and is zero behind them.
pub fn assert_holds(volume: &Path, raw: &Path) {
    let (mut one, mut other) = (std::fs::File::open(volume).unwrap(), std::fs::File::open(raw).unwrap());
    let length = other.metadata().unwrap().len();
    assert!(one.metadata().unwrap().len() >= length);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let count = other.read(&mut right).unwrap();
        if count == 0 {
            break;
        }
        one.read_exact(&mut left[..count]).unwrap();
        assert!(left[..count] == right[..count], "{} differs after byte {offset}", volume.display());
        offset += count as u64;
    }
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == 0), "behind the disk there is something left");
}
