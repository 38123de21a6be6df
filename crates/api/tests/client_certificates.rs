//! Certificates of clients, with real TLS: who is let in beside his token, who is not, and what he is told.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Served, Setup};
use leeward_api::client::{ClientOptions, HttpStore, Location, Trust};
use leeward_api::token::{Role, TokenText};
use leeward_store::{Error, ErrorKind, Key, Store};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority with its files.
struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
type Files = (PathBuf, PathBuf);

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        std::fs::write(directory.join("ca.pem"), parameters.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(parameters, key) }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    fn certificate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let file = |end: &str| self.directory.join(format!("{name}-{end}.pem"));
        std::fs::write(file("cert"), parameters.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        (file("cert"), file("key"))
    }
}

/// What reading the configuration comes to. With the patience that people have: what cannot pass by itself is told at once.
fn read(
    served: &Served,
    token: &str,
    authority: Option<PathBuf>,
    certificate: Option<Files>,
) -> Result<(), Error> {
    let trust = Trust { authority, certificate };
    let location = Location::parse(&served.url()).unwrap();
    let store = HttpStore::new(&location, TokenText::new(token), &trust, ClientOptions::default())?;
    let began = Instant::now();
    let done = store.get(&Key::new("config").unwrap(), 1 << 20).map(drop);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?} for {done:?}", began.elapsed());
    done
}

#[test]
fn only_clients_with_a_valid_certificate_of_the_authority_and_a_token_are_let_in() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (own, foreign) =
        (Authority::new(directory.path(), "own"), Authority::new(directory.path(), "foreign"));
    let setup = Setup { has_tls: true, client_ca: Some(own.file()), ..Setup::default() };
    let served = Served::new(setup);
    let known = || Some(served.directory.path().join("tls/ca-cert.pem"));
    let token = served.token("reader", Role::Reader, &[]);
    let good = own.certificate("good", |_| ());
    read(&served, token.reveal(), known(), Some(good.clone())).unwrap();
    // The certificate opens the door; what may be done in the house the token says.
    let nobody = read(&served, "lwt_00", known(), Some(good.clone())).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Denied);
    let log = served.log.text();

    let past = own.certificate("past", |parameters| {
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2021, 1, 1);
    });
    let future = own.certificate("future", |parameters| {
        parameters.not_before = date_time_ymd(4000, 1, 1);
        parameters.not_after = date_time_ymd(4001, 1, 1);
    });
    let for_servers = own.certificate("for-servers", |parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let stranger = foreign.certificate("stranger", |_| ());
    for (certificate, expected) in [
        (None, "LEEWARD_CLIENT_CERT"),
        (Some(stranger), "LEEWARD_CLIENT_CERT"),
        (Some(past), "expired"),
        (Some(future), "LEEWARD_CLIENT_CERT"),
        (Some(for_servers), "LEEWARD_CLIENT_CERT"),
    ] {
        let shown = certificate.as_ref().map(|(file, _)| file.display().to_string());
        let refused = read(&served, token.reveal(), known(), certificate).unwrap_err();
        assert!(!refused.is_transient() && refused.to_string().contains(expected), "{shown:?}: {refused}");
    }
    assert_eq!(served.log.text(), log, "none of them came as far as a request");
    // And the other way round: who does not know the server is told what to set.
    for authority in [None, Some(foreign.file())] {
        let refused = read(&served, token.reveal(), authority, Some(good.clone())).unwrap_err();
        assert!(!refused.is_transient() && refused.to_string().contains("LEEWARD_CA_FILE"), "{refused}");
    }
    read(&served, token.reveal(), known(), Some(good)).unwrap();
}

#[test]
fn a_server_demands_no_certificate_that_it_was_not_told_to() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let own = Authority::new(directory.path(), "own");
    let served = Served::new(Setup { has_tls: true, ..Setup::default() });
    let token = served.token("reader", Role::Reader, &[]);
    let known = || Some(served.directory.path().join("tls/ca-cert.pem"));
    read(&served, token.reveal(), known(), None).unwrap();
    read(&served, token.reveal(), known(), Some(own.certificate("any", |_| ()))).unwrap();
}
