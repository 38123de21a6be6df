//! How keys are fetched of a provider of OpenID Connect: by TLS, from somebody who is trusted, and not for ever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use leeward_api::oidc::{Probed, Providers};
use leeward_api::server::{ListenOptions, TlsFiles, make_certificates, serve, tls_config};
use leeward_site::Config;
use leeward_site::config::Provider;

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;

fn provider(issuer: &str, more: &str) -> Provider {
    let text = format!(
        "name='a'\nstate='s'\n[server.oidc.a]\nissuer='{issuer}'\naudience=['x']\nroles_claim='g'\nroles={{a='admin'}}\n{more}\n"
    );
    Config::parse(&text, Path::new("/")).unwrap().server.oidc["a"].clone()
}

#[test]
fn a_provider_is_believed_whose_authority_is_named_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["own", "other"] {
        make_certificates(&folder.path().join(name), &["localhost".to_owned()], &[]).unwrap();
    }
    let file = |name: &str| folder.path().join("own").join(name);
    let files =
        TlsFiles { certificate: file("server-cert.pem"), key: file("server-key.pem"), client_ca: None };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let discovery = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{issuer}/keys"}}"#);
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(|| async move { discovery }))
        .route("/keys", get(|| async { KEYS }));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tls = tls_config(&files).unwrap();
        let stop = || is_over.load(Ordering::Acquire);
        scope.spawn(move || serve(listener, Some(tls), router, ListenOptions::default(), &stop).unwrap());
        let ca = |name: &str| format!("ca='{}'", folder.path().join(name).join("ca-cert.pem").display());
        let found = Providers::probe(&provider(&issuer, &ca("own")));
        let strangers = [ca("other"), String::new(), "ca='/nowhere/ca.pem'".to_owned()]
            .map(|more| Providers::probe(&provider(&issuer, &more)));
        let unusable = format!("{}\nalgorithms=['RS256']", ca("own"));
        let without_keys = Providers::probe(&provider(&issuer, &unusable));
        is_over.store(true, Ordering::Release);
        assert_eq!(found, Ok(Probed { keys: 1, sign_in: None }));
        for told in &strangers[..2] {
            assert!(told.as_ref().is_err_and(|told| told.contains("no safe connection")), "{told:?}");
        }
        assert!(strangers[2].as_ref().is_err_and(|told| told.contains("/nowhere/ca.pem")), "{strangers:?}");
        assert!(
            without_keys.as_ref().is_err_and(|told| told.contains("no key for RS256")),
            "{without_keys:?}"
        );
    });
}

#[test]
fn a_provider_that_sends_one_byte_after_the_other_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").unwrap();
        // It never stands still for as long as would be noticed.
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let began = Instant::now();
    let told = Providers::probe(&provider(&issuer, "")).unwrap_err();
    assert!(told.contains("had not answered to the end"), "{told}");
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
}
