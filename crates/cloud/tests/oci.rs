//! OCI against its test bed: every promise of a provider, and every fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod bed;
mod conformance;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bed::Bed;
use conformance::{attached, delete, detached, live, make, owner, spec, usable, wait};
use jiff::{SignedDuration, Timestamp};
use leeward_cloud::ErrorKind;
use leeward_cloud::oci::{Oci, Settings};
use leeward_cloud::provider::{
    AttachmentKind, AttachmentSpec, Cloud, Device, Goal, Instance, InstanceId, InstanceSpec, Owner,
    Performance, Progress, RUN_TAG, Tags, UserData, VolumeSpec, VolumeState,
};
use leeward_remote::http::Method;
use serde_json::{Value, json};

fn instance_spec(bed: &Bed, cloud: &Cloud, owner: Owner) -> InstanceSpec {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    InstanceSpec {
        name: "convert".to_owned(),
        domain: cloud.volumes.domains().unwrap()[0].name.clone(),
        shape: "VM.Standard.E4.Flex".to_owned(),
        cpus: Some(1),
        memory_gib: Some(8),
        image: text(&bed.site["images"][0][0]),
        subnet: text(&bed.site["subnet"]),
        user_data: Some(UserData::new("#cloud-config\ntoken: hunter2\n")),
        ssh_keys: vec!["ssh-ed25519 AAAA a".to_owned()],
        tags: Tags::from([("instance_role".to_owned(), "worker".to_owned())]),
        defined_tags: Vec::new(),
        boot_volume_gib: Some(50),
        owner,
    }
}

fn running(cloud: &Cloud, id: &InstanceId) -> Progress {
    wait(cloud, Goal::Use, || Ok(cloud.instances.as_ref().unwrap().instance(id)?.state))
}

fn launch(bed: &Bed, cloud: &Cloud) -> Instance {
    let instance =
        cloud.instances.as_ref().unwrap().launch(&instance_spec(bed, cloud, owner("launch"))).unwrap();
    assert_eq!(running(cloud, &instance.id), Progress::Ready);
    instance
}

fn terminate(cloud: &Cloud, id: &InstanceId) {
    let instances = cloud.instances.as_ref().unwrap();
    instances.terminate(id).unwrap();
    assert_eq!(wait(cloud, Goal::End, || Ok(instances.instance(id)?.state)), Progress::Ready);
    instances.terminate(id).unwrap();
}

fn attachment(volume: &leeward_cloud::provider::VolumeId, instance: &InstanceId) -> AttachmentSpec {
    AttachmentSpec {
        volume: volume.clone(),
        instance: instance.clone(),
        kind: AttachmentKind::Paravirtualized,
        device: None,
        read_only: false,
        owner: owner("attach"),
    }
}

#[test]
fn oci_keeps_every_promise_of_volumes() {
    let Some(bed) = Bed::find() else { return };
    conformance::volumes(&bed.cloud());
}

#[test]
fn oci_keeps_every_promise_of_attachments() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instance = launch(&bed, &cloud);
    conformance::attachments(&cloud, &instance.id);
    terminate(&cloud, &instance.id);
}

#[test]
fn an_instance_is_launched_once_has_an_address_and_goes() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instances = cloud.instances.clone().unwrap();
    let wanted = instance_spec(&bed, &cloud, owner("launch"));
    bed.fault(json!({"operation": "LaunchInstance", "phase": "after", "action": "disconnect"}));
    let instance = instances.launch(&wanted).unwrap();
    assert_eq!(running(&cloud, &instance.id), Progress::Ready);
    // Another attempt has another token for the worker; it is the same instance all the same.
    let again = InstanceSpec { user_data: Some(UserData::new("other")), ..wanted.clone() };
    assert_eq!(instances.launch(&again).unwrap().id, instance.id);
    let address = instances.private_address(&instance.id).unwrap().unwrap();
    assert!(address.is_loopback(), "{address}");
    assert_eq!(instances.instances_tagged(RUN_TAG, Some(&wanted.owner.run)).unwrap().len(), 1);
    let elsewhere = InstanceSpec { shape: "VM.Standard2.1".to_owned(), ..wanted.clone() };
    let refused = instances.launch(&elsewhere).unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Conflict && refused.to_string().contains(instance.id.as_str()),
        "{refused}"
    );
    terminate(&cloud, &instance.id);
    assert_eq!(instances.private_address(&instance.id).unwrap(), None);
    // Launched again after it went: a new one.
    let second = instances.launch(&wanted).unwrap();
    assert_ne!(second.id, instance.id);
    terminate(&cloud, &second.id);
    assert!(!format!("{wanted:?}").contains("hunter2"));
    let none = InstanceId::new("ocid1.instance.oc1..none");
    assert_eq!(instances.private_address(&none).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_lost_answer_makes_no_second_volume() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    for lost in [json!({"action": "disconnect"}), json!({"status": 500}), json!({"status": 429})] {
        // Once: the repetition inside finds it by the retry token. Often: it fails, and the next attempt finds it.
        for count in [1, 5] {
            let wanted = spec(&cloud, owner("create"));
            let mut rule = json!({"operation": "CreateVolume", "phase": "after", "count": count});
            rule.as_object_mut().unwrap().extend(lost.as_object().unwrap().clone());
            bed.fault(rule);
            let first = cloud.volumes.create_volume(&wanted);
            assert_eq!(first.is_ok(), count == 1, "{first:?}");
            assert!(first.as_ref().err().is_none_or(leeward_cloud::Error::is_passing), "{first:?}");
            let volume = make(&cloud, &wanted);
            assert_eq!(live(&cloud, &wanted.owner.run).len(), 1);
            delete(&cloud, &volume.id);
        }
    }
}

#[test]
fn a_token_that_is_used_up_without_a_trace_is_followed_by_the_next() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let wanted = spec(&cloud, owner("create"));
    let first = make(&cloud, &wanted);
    delete(&cloud, &first.id);
    bed.control(Method::DELETE, "terminated", Value::Null);
    let (second, calls) = bed.calls("CreateVolume", || make(&cloud, &wanted));
    assert_eq!(calls, 2);
    assert_ne!(second.id, first.id);
    delete(&cloud, &second.id);
}

#[test]
fn many_at_once_make_one_volume() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let wanted = Arc::new(spec(&cloud, owner("create")));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let (cloud, wanted) = (cloud.clone(), Arc::clone(&wanted));
            thread::spawn(move || cloud.volumes.create_volume(&wanted).unwrap().id)
        })
        .collect();
    let mut ids: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(usable(&cloud, &ids[0]), Progress::Ready);
    assert_eq!(live(&cloud, &wanted.owner.run).len(), 1);
    delete(&cloud, &ids[0]);
}

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
fn a_volume_that_sticks_stays_changing_and_one_that_fails_is_broken() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let wanted = spec(&cloud, owner("create"));
    bed.fault(json!({"operation": "Transition:volume", "action": "fail"}));
    let faulty = cloud.volumes.create_volume(&wanted).unwrap();
    assert_eq!(usable(&cloud, &faulty.id), Progress::Broken);
    let told = cloud.volumes.create_volume(&wanted).unwrap();
    assert_eq!(
        (told.id, told.state.state, told.state.word.as_str()),
        (faulty.id.clone(), VolumeState::Faulty, "FAULTY")
    );
    delete(&cloud, &faulty.id);
    bed.fault(json!({"operation": "Transition:volume", "action": "stick"}));
    let stuck = cloud.volumes.create_volume(&wanted).unwrap();
    assert_ne!(stuck.id, faulty.id);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(cloud.volumes.volume(&stuck.id).unwrap().state.progress(Goal::Use), Progress::Changing);
    // While it is being made it cannot be removed, nor changed.
    assert_eq!(cloud.volumes.delete_volume(&stuck.id).unwrap_err().kind(), ErrorKind::Conflict);
    let faster = cloud.volumes.set_performance(&stuck.id, &Performance::VpusPerGb(20)).unwrap_err();
    assert_eq!(faster.kind(), ErrorKind::Conflict, "{faster}");
}

#[test]
fn an_instance_that_fails_is_broken_and_a_new_one_is_launched() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instances = cloud.instances.clone().unwrap();
    let wanted = instance_spec(&bed, &cloud, owner("launch"));
    bed.fault(json!({"operation": "Transition:instance", "action": "fail"}));
    let failed = instances.launch(&wanted).unwrap();
    assert_eq!(running(&cloud, &failed.id), Progress::Broken);
    let second = instances.launch(&wanted).unwrap();
    assert_ne!(second.id, failed.id);
    terminate(&cloud, &second.id);
}

#[test]
fn limits_are_told_and_not_asked_again() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let wanted = spec(&cloud, owner("create"));
    bed.fault(
        json!({"operation": "CreateVolume", "status": 400, "code": "LimitExceeded", "message": "At most 3."}),
    );
    let (told, calls) = bed.calls("CreateVolume", || cloud.volumes.create_volume(&wanted).unwrap_err());
    assert_eq!((told.kind(), calls), (ErrorKind::Limit, 1));
    assert!(told.to_string().contains("At most 3.; see Limits"), "{told}");
    let full = json!({"operation": "LaunchInstance", "status": 500, "code": "InternalError",
        "message": "Out of host capacity."});
    bed.fault(full);
    let instance = instance_spec(&bed, &cloud, owner("launch"));
    let instances = cloud.instances.clone().unwrap();
    let (told, calls) = bed.calls("LaunchInstance", || instances.launch(&instance).unwrap_err());
    assert_eq!((told.kind(), calls), (ErrorKind::Limit, 1));
    assert!(told.to_string().contains("another availability domain"), "{told}");
    let large = InstanceSpec { user_data: Some(UserData::new("x".repeat(30_000))), ..instance };
    assert_eq!(instances.launch(&large).unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn performance_goes_up_and_down_though_answers_are_lost() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let (fast, key) = (Some(Performance::VpusPerGb(20)), Some("ocid1.key.oc1..mine".to_owned()));
    let wanted = VolumeSpec {
        performance: fast.clone(),
        encryption_key: key.clone(),
        ..spec(&cloud, owner("create"))
    };
    let volume = make(&cloud, &wanted);
    assert_eq!((&volume.performance, &volume.encryption_key), (&fast, &key));
    let plain = cloud.volumes.create_volume(&VolumeSpec { encryption_key: None, ..wanted }).unwrap_err();
    assert_eq!(plain.kind(), ErrorKind::Conflict, "{plain}");
    bed.fault(json!({"operation": "UpdateVolume", "phase": "after", "action": "disconnect"}));
    let normal = Performance::VpusPerGb(10);
    assert_eq!(cloud.volumes.set_performance(&volume.id, &normal).unwrap().performance, Some(normal.clone()));
    let (_, calls) =
        bed.calls("UpdateVolume", || cloud.volumes.set_performance(&volume.id, &normal).unwrap());
    assert_eq!(calls, 0);
    for wrong in
        [Performance::VpusPerGb(15), Performance::VpusPerGb(130), Performance::Class("ssd".to_owned())]
    {
        let refused = cloud.volumes.set_performance(&volume.id, &wrong).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    }
    assert_eq!(usable(&cloud, &volume.id), Progress::Ready);
    delete(&cloud, &volume.id);
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
fn a_volume_is_attached_to_one_machine_and_conflicts_name_the_other() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let (one, other) = (launch(&bed, &cloud), launch(&bed, &cloud));
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    let wanted =
        AttachmentSpec { device: Some("/dev/oracleoci/oraclevdb".into()), ..attachment(&volume, &one.id) };
    bed.fault(json!({"operation": "AttachVolume", "phase": "after", "action": "disconnect"}));
    let first = cloud.attachments.attach(&wanted).unwrap();
    assert_eq!(attached(&cloud, &first.id), Progress::Ready);
    assert_eq!(cloud.attachments.attachments_of(&volume).unwrap().len(), 1);
    let told = cloud.attachments.attachment(&first.id).unwrap();
    assert_eq!(told.device, Some(Device::Path("/dev/oracleoci/oraclevdb".into())));
    let link = bed.state.join(format!("instances/{}/dev/oracleoci/oraclevdb", one.id));
    assert!(link.exists(), "{link:?}");
    let refused = cloud.attachments.attach(&attachment(&volume, &other.id)).unwrap_err();
    assert!(
        refused.kind() == ErrorKind::Conflict && refused.to_string().contains(one.id.as_str()),
        "{refused}"
    );
    // The same device for a second volume is in use; left to the provider, another is taken.
    let second = make(&cloud, &spec(&cloud, owner("create"))).id;
    let same = AttachmentSpec { volume: second.clone(), ..wanted.clone() };
    assert_eq!(cloud.attachments.attach(&same).unwrap_err().kind(), ErrorKind::Conflict);
    let free = cloud.attachments.attach(&attachment(&second, &one.id)).unwrap();
    assert_eq!(free.device, Some(Device::Path("/dev/oracleoci/oraclevdc".into())));
    // Terminating the machine detaches.
    assert_eq!(attached(&cloud, &free.id), Progress::Ready);
    terminate(&cloud, &one.id);
    assert_eq!(detached(&cloud, &first.id), Progress::Ready);
    // And now to the other machine, in the same run and step.
    let moved = cloud.attachments.attach(&AttachmentSpec { instance: other.id.clone(), ..wanted }).unwrap();
    assert_eq!(attached(&cloud, &moved.id), Progress::Ready);
    terminate(&cloud, &other.id);
    delete(&cloud, &volume);
    delete(&cloud, &second);
}

#[test]
fn an_iscsi_attachment_tells_its_portal_and_name() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instance = launch(&bed, &cloud);
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    let wanted = AttachmentSpec { kind: AttachmentKind::Iscsi, ..attachment(&volume, &instance.id) };
    match cloud.attachments.attach(&wanted) {
        Err(error) if error.is_passing() => println!("SKIPPED: no iSCSI here ({error})"),
        attachment => {
            let attachment = attachment.unwrap();
            assert_eq!(attached(&cloud, &attachment.id), Progress::Ready);
            let Some(Device::Iscsi { portal, iqn }) = attachment.device else { panic!("{attachment:?}") };
            assert!(
                portal.ip().is_loopback() && iqn.starts_with("iqn.2015-12.com.oracleiaas:"),
                "{portal} {iqn}"
            );
            std::net::TcpStream::connect(portal).unwrap();
            let otherwise = AttachmentSpec { kind: AttachmentKind::Paravirtualized, ..wanted };
            assert_eq!(cloud.attachments.attach(&otherwise).unwrap_err().kind(), ErrorKind::Conflict);
        }
    }
    terminate(&cloud, &instance.id);
    delete(&cloud, &volume);
}

#[test]
fn attaching_too_early_or_across_domains_is_told() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let instance = launch(&bed, &cloud);
    bed.set(json!({"volume_provision": 2.0}));
    let early = cloud.volumes.create_volume(&spec(&cloud, owner("create"))).unwrap().id;
    let refused = cloud.attachments.attach(&attachment(&early, &instance.id)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    bed.set(json!({"volume_provision": 0.1}));
    let elsewhere = cloud.volumes.domains().unwrap()[1].name.clone();
    let far = make(&cloud, &VolumeSpec { domain: elsewhere, ..spec(&cloud, owner("create")) }).id;
    let refused = cloud.attachments.attach(&attachment(&far, &instance.id)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert_eq!(usable(&cloud, &early), Progress::Ready);
    bed.fault(json!({"operation": "Transition:attachment", "action": "fail"}));
    let fails = cloud.attachments.attach(&attachment(&early, &instance.id)).unwrap();
    assert_eq!(attached(&cloud, &fails.id), Progress::Broken);
    terminate(&cloud, &instance.id);
    delete(&cloud, &early);
    delete(&cloud, &far);
}

#[test]
fn removing_bears_lost_answers_and_does_not_take_a_missing_right_for_success() {
    let Some(bed) = Bed::find() else { return };
    let cloud = bed.cloud();
    let volume = make(&cloud, &spec(&cloud, owner("create"))).id;
    bed.fault(json!({"operation": "DeleteVolume", "status": 404}));
    let refused = cloud.volumes.delete_volume(&volume).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    bed.fault(json!({"operation": "DeleteVolume", "phase": "after", "action": "disconnect"}));
    cloud.volumes.delete_volume(&volume).unwrap();
    let instance = launch(&bed, &cloud);
    bed.fault(json!({"operation": "TerminateInstance", "phase": "after", "action": "disconnect"}));
    terminate(&cloud, &instance.id);
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
