//! A push over a counted link: it uses as many connections as it has packs under way, and when it is killed again and again,
//! at seeded points, no more is sent twice than was under way at each.
//!
//! `LEEWARD_INTERRUPTIONS` says how often it is killed: 3 times with a small disk and small packs by default; with 20 or more
//! the disk has 1 GiB and packs have 32 MiB, or `LEEWARD_DISK_MIB` and a 32nd of it. `LEEWARD_SEED` says where.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;
#[path = "common/link/mod.rs"]
mod link;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, MIB, outcome, text};
use leeward_remote::{Connection, Environment, Location, connect};
use leeward_store::Key;
use leeward_store::simulation::Random;
use link::reno::{MSS, Reno};
use link::{Link, Way};
use serde_json::Value;

/// Longer than any attempt takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// The largest frame, which a pack may be longer than its size.
const FRAME_BYTES: u64 = 2 * MIB + 4096;
/// What an attempt sends beside packs: handshakes, requests, its session, an index of what the last one left.
const OVERHEAD_BYTES: u64 = 256 << 10;
const STREAMS: u64 = 6;

const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "testbed"),
    ("AWS_SECRET_ACCESS_KEY", "testbed-secret-0123456789abcdef"),
    ("AWS_REGION", "default"),
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// How often, and what.
struct Round {
    kills: u64,
    disk_mib: u64,
    pack_mib: u64,
}

impl Round {
    fn wanted() -> Self {
        match number("LEEWARD_INTERRUPTIONS", 3) {
            kills @ 20.. => {
                let disk_mib = number("LEEWARD_DISK_MIB", 1024).max(32);
                Self { kills, disk_mib, pack_mib: disk_mib / 32 }
            }
            kills => Self { kills, disk_mib: 16, pack_mib: 1 },
        }
    }

    /// Bytes that may be under way at once.
    fn window(&self) -> u64 {
        STREAMS * (self.pack_mib * MIB + FRAME_BYTES)
    }

    fn pack_size(&self) -> String {
        format!("{}M", self.pack_mib)
    }
}

/// A bench whose repository has one snapshot of bytes that do not compress.
fn source(round: &Round) -> Bench {
    let bench = Bench::new();
    bench.succeeds(&["repo", "init", "--pack-size", &round.pack_size()]);
    let disk = bench.path("disk.raw");
    let mut file = std::fs::File::create(&disk).unwrap();
    let (mut random, mut piece) = (Random::new(number("LEEWARD_SEED", 1)), vec![0; MIB as usize]);
    for _ in 0..round.disk_mib {
        random.fill(&mut piece);
        file.write_all(&piece).unwrap();
    }
    bench.succeeds(&["backup", disk.to_str().unwrap(), "web/root"]);
    std::fs::remove_file(disk).unwrap();
    bench
}

/// Where a push goes: through a link.
trait Target {
    /// An empty repository, reached at `address` (of the link) or directly.
    fn location(&self, address: Option<SocketAddr>) -> String;
    /// Where the link leads.
    fn address(&self) -> SocketAddr;
    fn prepare(&self, command: &mut Command);
}

fn command(bench: &Bench, target: &dyn Target, arguments: &[&str]) -> Command {
    let mut command = bench.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    target.prepare(&mut command);
    command
}

fn succeeds(bench: &Bench, target: &dyn Target, arguments: &[&str]) -> Value {
    let outcome = outcome(command(bench, target, arguments).spawn().unwrap(), arguments);
    assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    outcome.lines.last().cloned().unwrap_or_default()
}

/// Bytes that a push sends which nobody interrupts.
fn uninterrupted(bench: &Bench, target: &dyn Target) -> u64 {
    let link = Link::start(target.address(), Way::PLAIN).unwrap();
    succeeds(bench, target, &["push", "web/root", &target.location(Some(link.address()))]);
    link.up_bytes()
}

/// Ends a push when so many bytes have passed; whether it came to its end before.
fn attempt(bench: &Bench, target: &dyn Target, link: &Link, bytes: u64) -> bool {
    link.stop_after(bytes);
    let arguments = ["push", "web/root", &target.location(Some(link.address()))];
    let mut child = command(bench, target, &arguments).spawn().unwrap();
    let since = Instant::now();
    loop {
        if link.is_stopped(Duration::from_millis(20)) {
            child.kill().unwrap();
            child.wait().unwrap();
            link.open();
            return false;
        }
        if child.try_wait().unwrap().is_some() {
            let outcome = outcome(child, &arguments);
            assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
            return true;
        }
        assert!(since.elapsed() < PATIENCE, "the push neither ends nor sends {bytes} bytes");
    }
}

/// Kills pushes at random points of the way, lets the last one pass, and compares what all of them sent.
fn interrupts(name: &str, bench: &Bench, round: &Round, whole: u64, target: &dyn Target) {
    let mut random = Random::new(number("LEEWARD_SEED", 1) + 1);
    let mut points: Vec<u64> = (0..round.kills).map(|_| random.below(whole)).collect();
    points.sort_unstable();
    let link = Link::start(target.address(), Way::PLAIN).unwrap();
    let (mut before, mut killed) = (0, 0);
    for point in points {
        if attempt(bench, target, &link, point - before) {
            break;
        }
        (before, killed) = (point, killed + 1);
    }
    let arguments = ["push", "web/root", &target.location(Some(link.address()))];
    succeeds(bench, target, &arguments);
    let sent = link.up_bytes();
    let excess = sent.saturating_sub(whole);
    let bound = killed * (round.window() + OVERHEAD_BYTES);
    println!(
        "{name}: killed {killed} times; {sent} bytes sent in all, {whole} without a kill: {excess} more, {:.3} of the whole, \
         {} a kill; a window has {}, {killed} of them {bound}",
        excess as f64 / whole as f64,
        excess / killed.max(1),
        round.window()
    );
    assert!(killed > 0, "no attempt was killed");
    assert!(excess <= bound, "{excess} bytes were sent twice, more than {bound}");
    let check = succeeds(bench, target, &["-r", &target.location(None), "check", "--read-data"]);
    assert_eq!(check["findings"], Value::Array(vec![]));
    let again = succeeds(bench, target, &arguments);
    assert_eq!(again["transfer"]["present"], 1, "nothing is left to send");
}

/// A served directory.
struct Served {
    child: Child,
    address: SocketAddr,
    authority: PathBuf,
    token: PathBuf,
    state: PathBuf,
}

impl Served {
    fn start(bench: &Bench, round: &Round) -> Self {
        let repository = bench.path("served");
        let place = repository.to_str().unwrap();
        bench.succeeds(&["-r", place, "repo", "init", "--pack-size", &round.pack_size()]);
        let (tokens, token) = (bench.path("tokens"), bench.path("operator.token"));
        let (tokens_text, token_text) = (tokens.to_str().unwrap(), token.to_str().unwrap());
        if !token.exists() {
            bench.succeeds(&[
                "token",
                "add",
                "operator",
                "--tokens",
                tokens_text,
                "--role",
                "operator",
                "--output",
                token_text,
            ]);
        }
        let tls = bench.path("tls");
        let mut child = bench
            .command(&["-r", place, "serve", "--listen", "127.0.0.1:0", "--tokens", tokens_text])
            .args(["--tls-dir", tls.to_str().unwrap(), "--audit-log"])
            .arg(bench.path("audit"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the server says {line:?}"));
        let address = text(&value["listening"]).trim_start_matches("https://").parse().unwrap();
        let state = bench.path("state");
        Self { child, address, authority: tls.join("ca-cert.pem"), token, state }
    }

    /// Ends it, and makes room for the next.
    fn end(self, bench: &Bench) {
        let state = self.state.clone();
        drop(self);
        std::fs::remove_dir_all(bench.path("served")).unwrap();
        let _ = std::fs::remove_dir_all(state);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Also when the test fails: nobody else ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target for Served {
    fn location(&self, address: Option<SocketAddr>) -> String {
        format!("https://{}", address.unwrap_or(self.address))
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env("LEEWARD_CA_FILE", &self.authority)
            .env("LEEWARD_TOKEN_FILE", &self.token)
            .env("XDG_STATE_HOME", &self.state);
    }
}

/// A place in a bucket of the test bed `ceph`.
struct Bucket {
    endpoint: String,
    prefix: String,
}

impl Bucket {
    /// One in which a repository was made, when the test bed is up.
    fn make(bench: &Bench, round: &Round, name: &str) -> Option<Self> {
        let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
        let text = std::fs::read_to_string(beds.join("ceph/env")).unwrap_or_default();
        let endpoint = text.lines().find_map(|line| line.strip_prefix("export TB_RGW=")).map(str::to_owned);
        let bucket = Self { endpoint: endpoint?, prefix: format!("{name}-{}", std::process::id()) };
        std::net::TcpStream::connect_timeout(&bucket.address(), Duration::from_secs(2)).ok()?;
        bucket.connection().bare.make().unwrap();
        let location = bucket.location(None);
        succeeds(bench, &bucket, &["-r", &location, "repo", "init", "--pack-size", &round.pack_size()]);
        Some(bucket)
    }

    fn connection(&self) -> Connection {
        let location = Location::parse(&self.location(None)).unwrap().unwrap();
        connect(&location, &Environment::of(&KEYS)).unwrap()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let bucket = self.connection().bucket;
        for prefix in leeward_repository::PREFIXES {
            for entry in bucket.list(prefix).unwrap_or_default() {
                let _ = bucket.delete(&entry.key);
            }
        }
        for key in ["config", "abilities"].into_iter().filter_map(|name| Key::new(name.to_owned())) {
            let _ = bucket.delete(&key);
        }
    }
}

impl Target for Bucket {
    fn location(&self, address: Option<SocketAddr>) -> String {
        let endpoint = address.map_or(self.endpoint.clone(), |address| format!("http://{address}"));
        format!("s3://leeward-tests/{}?endpoint={endpoint}", self.prefix)
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.trim_start_matches("http://").parse().unwrap()
    }

    fn prepare(&self, command: &mut Command) {
        command.envs(KEYS);
    }
}

#[test]
fn a_killed_push_to_a_server_sends_no_more_twice_than_was_under_way() {
    let round = Round::wanted();
    let bench = source(&round);
    let served = Served::start(&bench, &round);
    let whole = uninterrupted(&bench, &served);
    served.end(&bench);
    let served = Served::start(&bench, &round);
    interrupts("server", &bench, &round, whole, &served);
    served.end(&bench);
}

#[test]
fn a_killed_push_to_a_bucket_sends_no_more_twice_than_was_under_way() {
    let round = Round::wanted();
    let bench = source(&round);
    let Some(bucket) = Bucket::make(&bench, &round, "uninterrupted") else {
        println!("SKIPPED: the test bed ceph is not up");
        return;
    };
    let whole = uninterrupted(&bench, &bucket);
    drop(bucket);
    let bucket = Bucket::make(&bench, &round, "interrupted").unwrap();
    interrupts("bucket", &bench, &round, whole, &bucket);
}

#[test]
fn packs_that_are_under_way_at_once_have_connections_of_their_own() {
    let round = Round { kills: 0, disk_mib: 16, pack_mib: 1 };
    let bench = source(&round);
    let served = Served::start(&bench, &round);
    // Long enough that a pack is under way while others are read.
    let way = Way { round_trip: Duration::from_millis(40), losses: 0, seed: 1 };
    for (seed, streams, connections) in [(11, "1", 1..=1), (12, "4", 3..=4)] {
        let link = Link::start(served.address(), way).unwrap();
        let location = served.location(Some(link.address()));
        let image = format!("web/{streams}");
        let disk = bench.disk("other.raw", 64, 24, seed);
        bench.succeeds(&["backup", disk.to_str().unwrap(), &image]);
        succeeds(&bench, &served, &["push", "--streams", streams, &image, &location]);
        assert!(connections.contains(&link.connections()), "{streams}: {} connections", link.connections());
    }
    served.end(&bench);
}

#[test]
fn a_stream_over_the_link_gets_what_the_formula_of_mathis_says() {
    let way = Way { round_trip: Duration::from_millis(100), losses: 10_000, seed: 7 };
    let mut sender = Reno::new(way, 0, Duration::ZERO);
    let (mut now, mut sent, time) = (Duration::ZERO, 0, Duration::from_secs(2000));
    while now < time {
        match sender.room(now) {
            Ok(room) => {
                let bytes = room.min(16 << 10);
                let arrives = sender.send(bytes, now);
                assert!(arrives >= now + way.round_trip / 2);
                sent += bytes;
            }
            Err(until) => now = until,
        }
    }
    let rate = sent as f64 / time.as_secs_f64();
    let formula = MSS as f64 * 1.5_f64.sqrt() / (0.1 * 0.01_f64.sqrt());
    assert!((0.85..1.15).contains(&(rate / formula)), "{rate} bytes/s, {formula} by the formula");
}
