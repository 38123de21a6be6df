//! A server's client is a store, over TLS with HTTP/2 and in the clear.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Served, Setup};
use leeward_api::guard::Content;
use leeward_api::server::ServerOptions;
use leeward_api::token::Role;
use leeward_store::simulation::conformance::run;

fn opaque(has_tls: bool) -> Served {
    // Small pages, so that listings have many.
    let options = ServerOptions { page_entries: 7, ..ServerOptions::default() };
    Served::new(Setup { content: Content::Opaque, has_tls, options, ..Setup::default() })
}

#[test]
fn a_server_over_tls_is_a_store() {
    let served = opaque(true);
    run(&served.as_role("a", Role::Admin, &[]));
}

#[test]
fn a_server_on_this_machine_is_a_store() {
    let served = opaque(false);
    run(&served.as_role("a", Role::Admin, &[]));
}
