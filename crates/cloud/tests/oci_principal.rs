//! Instance principals: the metadata service and the auth service are stand-ins here, as the test bed has neither. The
//! stand-in checks the federation request as the service would; what the token then signs is checked by the bed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod bed;
mod stand_in;

use std::thread;
use std::time::Duration;

use bed::Bed;
use leeward_cloud::ErrorKind;
use leeward_cloud::oci::{Auth, Oci, Settings};
use leeward_remote::Environment;
use stand_in::{Fault, StandIn};

fn settings(bed: &Bed, stand_in: &StandIn) -> Settings {
    Settings {
        auth: Some(Auth::InstancePrincipal),
        metadata_endpoint: Some(format!("{}/opc/v2", stand_in.origin)),
        auth_endpoint: Some(stand_in.origin.clone()),
        ..bed.settings()
    }
}

fn nothing() -> Environment {
    Environment::of(&[])
}

#[test]
fn an_instance_signs_with_a_token_for_its_certificate() {
    let Some(bed) = Bed::find() else { return };
    let Some(stand_in) = StandIn::start(&bed, 3600) else { return };
    let oci = Oci::connect(&settings(&bed, &stand_in), &nothing()).unwrap();
    let cloud = oci.cloud();
    assert_eq!(cloud.volumes.name(), "oci eu-frankfurt-1");
    assert_eq!(cloud.volumes.domains().unwrap().len(), 3);
    cloud.volumes.volumes().unwrap();
    assert_eq!(stand_in.tokens(), 1, "one token serves many requests");
    let here = cloud.attachments().unwrap().here().unwrap().unwrap();
    assert_eq!((here.instance.as_str(), here.domain.as_deref()), ("ocid1.instance.oc1..me", Some("AD-1")));
    // The service forgets the token: there is another one.
    stand_in.forget_keys(&bed);
    cloud.volumes.volumes().unwrap();
    assert_eq!(stand_in.tokens(), 2);
    stand_in.forget_keys(&bed);
}

#[test]
fn a_token_is_renewed_before_its_end() {
    let Some(bed) = Bed::find() else { return };
    // Two minutes before the end it is renewed: so in a second.
    let Some(stand_in) = StandIn::start(&bed, 121) else { return };
    let cloud = Oci::connect(&settings(&bed, &stand_in), &nothing()).unwrap().cloud();
    cloud.volumes.domains().unwrap();
    thread::sleep(Duration::from_millis(2100));
    cloud.volumes.domains().unwrap();
    assert_eq!(stand_in.tokens(), 2);
    stand_in.forget_keys(&bed);
}

#[test]
fn a_service_that_gives_no_token_is_told_without_its_words() {
    let Some(bed) = Bed::find() else { return };
    for (fault, kind) in [
        (Fault::NoToken, ErrorKind::Denied),
        (Fault::Refuses(401), ErrorKind::Denied),
        (Fault::Refuses(500), ErrorKind::Passing),
        (Fault::Header, ErrorKind::Denied),
        (Fault::NoCertificate, ErrorKind::Denied),
    ] {
        let Some(stand_in) = StandIn::start(&bed, 3600) else { return };
        stand_in.fail(fault);
        let cloud = Oci::connect(&settings(&bed, &stand_in), &nothing()).unwrap().cloud();
        let told = cloud.volumes.domains().unwrap_err();
        assert_eq!(told.kind(), kind, "{told}");
        assert!(!told.to_string().contains("secret"), "{told}");
    }
}

#[test]
fn away_from_oci_there_is_no_instance() {
    let Some(bed) = Bed::find() else { return };
    // A port on which nobody answers, and a service that is another cloud's.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [format!("http://{free}/opc/v2"), format!("{}/opc/v2", bed.endpoint)] {
        let elsewhere = Settings { metadata_endpoint: Some(address), ..bed.settings() };
        let by_key = Oci::connect(&elsewhere, &bed.environment("DEFAULT")).unwrap().cloud();
        assert_eq!(by_key.attachments().unwrap().here().unwrap(), None);
        let by_instance = Settings { auth: Some(Auth::InstancePrincipal), ..elsewhere };
        let told = Oci::connect(&by_instance, &nothing()).err().unwrap();
        assert!(told.to_string().contains("instance"), "{told}");
    }
}
