//! Serves a snapshot over NBD until its standard input ends; for `bench/export`.
//!
//!     serve_snapshot REPOSITORY IMAGE SOCKET CACHE_MIB

#![allow(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::sync::Arc;
use std::time::Instant;

use leeward_disk::nbd::{Export, Listen, ReadOnly, Server, ServerOptions};
use leeward_repository::{ReadOptions, Repository};
use leeward_store::DirectoryStore;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [repository, image, socket, cache] = &arguments[..] else {
        eprintln!("serve_snapshot REPOSITORY IMAGE SOCKET CACHE_MIB");
        std::process::exit(2);
    };
    let started = Instant::now();
    let store = DirectoryStore::open(repository.as_ref()).expect("a directory");
    let repository = Repository::open(Arc::new(store)).expect("a repository");
    let entry = repository.resolve(&image.parse().expect("IMAGE")).expect("a snapshot");
    let cache_bytes = cache.parse::<u64>().expect("MiB") << 20;
    let options = ReadOptions { cache_bytes, ..ReadOptions::serving() };
    let source = Arc::new(repository.source_with(entry.id, options).expect("a disk"));
    let export =
        Export { name: String::new(), description: String::new(), device: Arc::new(ReadOnly::new(source)) };
    let server = Server::bind(Listen::Unix(socket.into()), vec![export], ServerOptions::default())
        .and_then(Server::start)
        .expect("a server");
    println!("serving after {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let _ = std::io::stdin().read_line(&mut String::new());
    server.stop().expect("a clean end");
}
