//! What the tests of the server share: a real server on this machine, and raw clients and servers that lie.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use leeward_api::Pace;
use leeward_api::client::{ClientOptions, HttpStore, Location, Patience, Trust};
use leeward_api::guard::{Content, Guard};
use leeward_api::server::{
    Audit, ListenOptions, ServerOptions, ServerState, TlsFiles, make_certificates, routes, serve, tls_config,
};
use leeward_api::token::{NewToken, Role, TokenBook, TokenFile, TokenText};
use leeward_repository::{InitOptions, PREFIXES, Repository};
use leeward_store::{DirectoryStore, SharedStore};

/// A log in memory.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A server in threads of this process.
pub struct Served {
    pub directory: tempfile::TempDir,
    pub address: SocketAddr,
    pub store: SharedStore,
    pub log: Log,
    has_tls: bool,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub struct Setup {
    pub content: Content,
    pub has_tls: bool,
    /// Of which authority clients need a certificate.
    pub client_ca: Option<PathBuf>,
    pub options: ServerOptions,
    pub listen: ListenOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            content: Content::Repository,
            has_tls: false,
            client_ca: None,
            options: ServerOptions::default(),
            listen: ListenOptions { drain_time: Duration::from_secs(2), ..ListenOptions::default() },
        }
    }
}

impl Served {
    pub fn new(setup: Setup) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let place = directory.path().join("store");
        let prefixes: Vec<&str> = match setup.content {
            Content::Repository => PREFIXES.to_vec(),
            Content::Opaque => leeward_store::simulation::conformance::PREFIXES.to_vec(),
        };
        let store: SharedStore = Arc::new(DirectoryStore::create(&place, &prefixes).unwrap());
        if setup.content == Content::Repository {
            Repository::init(store.clone(), &InitOptions { pack_bytes: 1 << 20, ..InitOptions::default() })
                .unwrap();
        }
        let tokens = directory.path().join("tokens");
        TokenFile::load_or_new(&tokens).unwrap().save(&tokens).unwrap();
        let mut served = Self {
            directory,
            address: "127.0.0.1:0".parse().unwrap(),
            store,
            log: Log::default(),
            has_tls: setup.has_tls,
            stop: Arc::default(),
            thread: None,
        };
        served.start(setup);
        served
    }

    fn start(&mut self, setup: Setup) {
        let ledger = self.directory.path().join("ledger");
        let guard = Guard::new(self.store.clone(), setup.content, Some(&ledger)).unwrap();
        let book = TokenBook::open(&self.tokens()).unwrap();
        let audit = Audit::to(Box::new(self.log.clone()));
        let router = routes(ServerState::new(guard, book, audit, setup.options));
        let tls = setup.has_tls.then(|| {
            let place = self.directory.path().join("tls");
            make_certificates(&place, &["localhost".to_owned()], &["127.0.0.1".parse().unwrap()]).unwrap();
            let (certificate, key) = (place.join("server-cert.pem"), place.join("server-key.pem"));
            tls_config(&TlsFiles { certificate, key, client_ca: setup.client_ca.clone() }).unwrap()
        });
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        self.stop = Arc::default();
        let stop = Arc::clone(&self.stop);
        self.thread = Some(std::thread::spawn(move || {
            serve(listener, tls, router, setup.listen, &|| stop.load(Ordering::SeqCst)).unwrap();
        }));
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Ends the server and starts it again at the same place.
    pub fn restart(&mut self, setup: Setup) {
        self.stop();
        self.start(setup);
    }

    pub fn tokens(&self) -> PathBuf {
        self.directory.path().join("tokens")
    }

    pub fn change_tokens<T>(&self, act: impl FnOnce(&mut TokenFile) -> T) -> T {
        let mut file = TokenFile::load(&self.tokens()).unwrap();
        let done = act(&mut file);
        file.save(&self.tokens()).unwrap();
        done
    }

    pub fn token(&self, name: &str, role: Role, prefixes: &[&str]) -> TokenText {
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        self.add(NewToken { name: name.to_owned(), role, prefixes, quota_bytes: None, expires: None })
    }

    pub fn add(&self, new: NewToken) -> TokenText {
        self.change_tokens(|file| file.add(new).unwrap())
    }

    pub fn url(&self) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn client(&self, token: TokenText) -> SharedStore {
        let authority = self.has_tls.then(|| self.directory.path().join("tls/ca-cert.pem"));
        connect(&self.url(), token, authority)
    }

    /// A new token's store.
    pub fn as_role(&self, name: &str, role: Role, prefixes: &[&str]) -> SharedStore {
        self.client(self.token(name, role, prefixes))
    }

    /// Sends bytes as they are and returns all that comes back until the server closes or stays silent.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The server may refuse before it has read all.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Patience of tests: what lies is given up soon.
pub fn impatient() -> ClientOptions {
    ClientOptions {
        pace: Pace { interval: Duration::from_millis(1500), bytes_min: 64 << 10 },
        answer_time: Duration::from_secs(20),
        patience: Patience {
            attempts: 3,
            first_wait: Duration::from_millis(10),
            wait_max: Duration::from_millis(50),
        },
        entries_max: 100_000,
        connections: 4,
    }
}

pub fn connect(url: &str, token: TokenText, authority: Option<PathBuf>) -> SharedStore {
    let trust = Trust { authority, certificate: None };
    Arc::new(HttpStore::new(&Location::parse(url).unwrap(), token, &trust, impatient()).unwrap())
}

/// A server that answers each connection's requests as `act` has it: it gets the head of the request and the stream.
pub struct Liar {
    pub url: String,
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    pub fn new(act: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, act) = (Arc::clone(&requests), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, act) = (Arc::clone(&seen), Arc::clone(&act));
                std::thread::spawn(move || one(stream, &seen, act.as_ref()));
            }
        });
        Self { url, requests }
    }

    pub fn client(&self) -> SharedStore {
        connect(&self.url, TokenText::new("lwt_x"), None)
    }
}

/// Reads one request with its body, answers, and closes.
fn one(mut stream: TcpStream, seen: &Mutex<Vec<String>>, act: &(dyn Fn(&str, &mut TcpStream) + Sync)) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    seen.lock().unwrap().push(head.clone());
    act(&head, &mut stream);
    // What the client still sends is read, so that closing does not throw the answer away.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// Reads a request's body.
pub fn body(head: &str, stream: &mut TcpStream) -> Vec<u8> {
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok())
        .unwrap_or(0);
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

pub fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}
