//! Keys, clocks, authorities; what passes and what does not; pages; policies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use leeward_cloud::ErrorKind;
use leeward_cloud::oci::{Oci, Settings};
use leeward_cloud::provider::Owner;
use leeward_remote::http::Method;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::conformance::{delete, live, make, owner, spec};

#[test]
fn passing_failures_are_borne_and_told_when_they_do_not_pass() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let volume = make(&cloud, &spec(&cloud, owner("create")));
    for status in [429, 500, 502, 503, 504] {
        bed.fault(json!({"operation": "GetVolume", "status": status, "count": 2}));
        let (told, calls) = bed.calls("GetVolume", || cloud.volumes.volume(&volume.id));
        assert_eq!((told.unwrap().id, calls), (volume.id.clone(), 3));
    }
    bed.fault(json!({"operation": "GetVolume", "status": 429, "headers": {"retry-after": "2"}}));
    let begun = Instant::now();
    cloud.volumes.volume(&volume.id).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    bed.fault(json!({"operation": "GetVolume", "status": 429, "headers": {"retry-after": "3600"}}));
    let (told, calls) = bed.calls("GetVolume", || cloud.volumes.volume(&volume.id).unwrap_err());
    assert_eq!((told.kind(), told.wait(), calls), (ErrorKind::Passing, Some(Duration::from_secs(3600)), 1));
    bed.fault(json!({"operation": "GetVolume", "status": 503, "count": 99}));
    let (told, calls) = bed.calls("GetVolume", || cloud.volumes.volume(&volume.id).unwrap_err());
    assert!(told.is_passing() && calls == 5, "{calls} calls: {told}");
    assert!(told.to_string().contains("(request "), "{told}");
    bed.control(Method::DELETE, "faults", Value::Null);
    delete(&cloud, &volume.id);
}

#[test]
fn every_page_of_a_list_is_read() {
    let Some(bed) = Bed::find() else { return };
    let settings = Settings { page_items: Some(2), ..bed.settings() };
    let cloud = Oci::connect(&settings, &bed.environment("DEFAULT")).unwrap().cloud();
    let run = owner("x").run;
    let wanted: Vec<_> =
        (0..5).map(|number| spec(&cloud, Owner::new(&run, format!("create-{number}")))).collect();
    let made: Vec<_> = wanted.iter().map(|wanted| make(&cloud, wanted).id).collect();
    assert_eq!(live(&cloud, &run).len(), 5);
    // One that is not on the first page is found, too.
    assert_eq!(cloud.volumes.create_volume(&wanted[0]).unwrap().id, made[0]);
    bed.fault(json!({"operation": "ListVolumes", "status": 500, "skip": 1}));
    let (all, calls) = bed.calls("ListVolumes", || live(&cloud, &run));
    assert!(all.len() == 5 && calls >= 4, "{calls}");
    made.iter().for_each(|id| delete(&cloud, id));
}

#[test]
fn policies_are_found_assigned_read_back_and_taken_away() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let policies = cloud.policies.clone().unwrap();
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    assert_eq!(policies.assigned_policy(&volume).unwrap(), None);
    policies.assign_policy(&volume, None).unwrap();
    let gold = policies.policy("gold").unwrap();
    assert_eq!(policies.policy(gold.id.as_str()).unwrap(), gold);
    let missing = policies.policy("platinum").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("there are: "), "{missing}");
    const ASSIGN: &str = "CreateVolumeBackupPolicyAssignment";
    bed.fault(json!({"operation": ASSIGN, "phase": "after", "action": "disconnect"}));
    policies.assign_policy(&volume, Some(&gold.id)).unwrap();
    assert_eq!(policies.assigned_policy(&volume).unwrap(), Some(gold.id.clone()));
    let (_, calls) = bed.calls(ASSIGN, || policies.assign_policy(&volume, Some(&gold.id)).unwrap());
    assert_eq!(calls, 0);
    let bronze = policies.policy("bronze").unwrap().id;
    policies.assign_policy(&volume, Some(&bronze)).unwrap();
    assert_eq!(policies.assigned_policy(&volume).unwrap(), Some(bronze.clone()));
    bed.fault(json!({"operation": ASSIGN, "status": 404}));
    let late = policies.assign_policy(&volume, Some(&gold.id)).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::NotFound);
    assert!(late.to_string().contains("docs/providers.md"), "{late}");
    policies.assign_policy(&volume, None).unwrap();
    assert_eq!(policies.assigned_policy(&volume).unwrap(), None);
    delete(&cloud, &volume);
}

#[test]
fn wrong_keys_and_wrong_clocks_are_told() {
    let Some(bed) = Bed::find() else { return };
    let stray = Oci::connect(&bed.settings(), &bed.environment("STRAY")).unwrap().cloud();
    let refused = stray.volumes.volumes().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains("is uploaded for its user"), "{refused}");
    let oci = Oci::connect(&bed.settings(), &bed.environment("DEFAULT")).unwrap();
    let late = oci.with_clock(Arc::new(|| Timestamp::now() - SignedDuration::from_secs(450))).cloud();
    let refused = late.volumes.volumes().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains("this machine's clock is 0 h 7 min"), "{refused}");
    let none = Oci::connect(&bed.settings(), &bed.environment("NOBODY")).err().unwrap();
    assert!(none.kind() == ErrorKind::Denied && none.to_string().contains("NOBODY"), "{none}");
    let wrong = Settings { compartment: Some("ocid1.compartment.oc1..none".to_owned()), ..bed.settings() };
    let cloud = Oci::connect(&wrong, &bed.environment("DEFAULT")).unwrap().cloud();
    assert_eq!(cloud.volumes.domains().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn over_tls_only_a_trusted_authority_is_believed() {
    let Some(bed) = Bed::find() else { return };
    let port = std::env::var("OCI_TLS_PORT").unwrap_or_else(|_| "12781".to_owned());
    let settings = Settings { endpoint: Some(format!("https://localhost:{port}")), ..bed.settings() };
    let stranger = Oci::connect(&settings, &bed.environment("DEFAULT")).unwrap().cloud();
    let refused = stranger.volumes.domains().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
    let trusting = Settings { authority: Some(bed.state.join("tls-ca.pem")), ..settings.clone() };
    let cloud = Oci::connect(&trusting, &bed.environment("DEFAULT")).unwrap().cloud();
    assert_eq!(cloud.volumes.domains().unwrap().len(), 3);
    let nonsense = Settings { authority: Some(bed.state.join("config")), ..settings };
    assert!(Oci::connect(&nonsense, &bed.environment("DEFAULT")).is_err());
}
