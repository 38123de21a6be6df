//! A long way that loses packets, for `bench/link`: forwards TCP connections, or measures what plain ones get on it.
#![allow(clippy::unwrap_used, reason = "a tool for measuring: what fails ends it")]

#[path = "../tests/common/link/mod.rs"]
mod link;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use link::{Link, Way};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Prints the address at which it listens, and forwards until its input ends; then prints what has passed
    Forward {
        /// What is behind the link
        #[arg(long)]
        to: SocketAddr,
        #[command(flatten)]
        way: WayArguments,
    },
    /// Prints what plain streams get, from an end to a sink
    Plain {
        /// Connections at once
        #[arg(long)]
        streams: usize,
        /// How long they send
        #[arg(long)]
        seconds: u64,
        #[command(flatten)]
        way: WayArguments,
    },
}

#[derive(Args)]
struct WayArguments {
    /// Milliseconds to the other end and back
    #[arg(long, default_value_t = 100)]
    round_trip: u64,
    /// Packets in a hundred that are lost
    #[arg(long, default_value_t = 1.0)]
    loss: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl WayArguments {
    fn way(&self) -> Way {
        let losses = (self.loss * 10_000.0) as u64;
        Way { round_trip: Duration::from_millis(self.round_trip), losses, seed: self.seed }
    }
}

fn main() {
    match Arguments::parse().verb {
        Verb::Forward { to, way } => forward(to, way.way()),
        Verb::Plain { streams, seconds, way } => plain(streams, Duration::from_secs(seconds), way.way()),
    }
}

fn forward(to: SocketAddr, way: Way) {
    let link = Link::start(to, way).unwrap();
    println!("{}", link.address());
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let (connections, up, down) = (link.connections(), link.up_bytes(), link.down_bytes());
    println!("{{\"connections\":{connections},\"up_bytes\":{up},\"down_bytes\":{down}}}");
}

fn plain(streams: usize, time: Duration, way: Way) {
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = Link::start(sink.local_addr().unwrap(), way).unwrap();
    let arrived = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&arrived);
    std::thread::spawn(move || {
        for stream in sink.incoming() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || swallow(stream.unwrap(), &counted));
        }
    });
    let began = Instant::now();
    for _ in 0..streams {
        let mut stream = TcpStream::connect(link.address()).unwrap();
        // Ends with the process.
        std::thread::spawn(move || while stream.write_all(&[0; 64 << 10]).is_ok() {});
    }
    std::thread::sleep(time);
    let (bytes, seconds) = (arrived.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
    println!("{{\"bytes\":{bytes},\"seconds\":{seconds:.3},\"rate\":{:.0}}}", bytes as f64 / seconds);
}

fn swallow(mut stream: TcpStream, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Some(read) = stream.read(&mut buffer).ok().filter(|read| *read > 0) {
        counted.fetch_add(read as u64, Ordering::Relaxed);
    }
}
