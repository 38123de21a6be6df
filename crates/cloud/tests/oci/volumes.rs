//! Volumes: lost answers, tokens, states.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leeward_cloud::ErrorKind;
use leeward_cloud::provider::{Goal, Performance, Progress, VolumeSpec, VolumeState};
use leeward_remote::http::Method;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::conformance::{self, delete, live, make, owner, spec, usable};

#[test]
fn oci_keeps_every_promise_of_volumes() {
    let Some(bed) = Bed::find() else { return };
    conformance::volumes(&bed.cloud());
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
