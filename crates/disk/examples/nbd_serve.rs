//! Serves an image read-only until standard input ends: `nbd_serve IMAGE SOCKET [CERTIFICATES]`. For measurements.
#![allow(clippy::unwrap_used, reason = "an example")]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use leeward_disk::nbd::{Clients, Export, Listen, ReadOnly, Server, ServerOptions, TlsServer};
use leeward_disk::{OpenOptions, open_path};

fn main() -> leeward_disk::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let source = open_path(Path::new(&arguments[0]), &OpenOptions::default())?;
    let exports = vec![Export {
        name: String::new(),
        description: String::new(),
        device: Arc::new(ReadOnly::new(source)),
    }];
    let tls = arguments
        .get(2)
        .map(|directory| TlsServer::load(Path::new(directory), Clients::Anyone))
        .transpose()?;
    let options = ServerOptions { tls, ..ServerOptions::default() };
    let handle = Server::bind(Listen::Unix(arguments[1].clone().into()), exports, options)?.start()?;
    println!("{}", handle.server().url(""));
    let _ = std::io::stdin().read(&mut [0]);
    println!("{:?}", handle.stop()?);
    Ok(())
}
