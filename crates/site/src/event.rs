//! Events about objects, in the forms that services send them.
//!
//! - OCI Events: `com.oraclecloud.objectstorage.createobject` and `updateobject` ("Contents of an Event Message",
//!   <https://docs.oracle.com/en-us/iaas/Content/Events/Reference/eventenvelopereference.htm>), which are CloudEvents 0.1 with
//!   names of their own;
//! - CloudEvents 1.0 (<https://github.com/cloudevents/spec>), the same data or any with `bucket` and `object`;
//! - notifications of S3 and of Ceph's gateway: `Records[].s3`
//!   (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>). Names in them are
//!   percent-encoded with `+` for a space.

use leeward_remote::encode::decoded_form;
use serde_json::Value;

/// An object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventObject {
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub object: String,
    /// Its entity tag, where it is told.
    pub version: Option<String>,
}

/// The objects that were made or replaced, as a message tells; none where it is about anything else.
///
/// # Errors
/// It is about an object that was made, but does not say which.
pub fn parse(message: &Value) -> Result<Vec<EventObject>, String> {
    if let Some(records) = message.get("Records").and_then(Value::as_array) {
        return records.iter().filter(|record| is_s3_creation(record)).map(of_s3).collect();
    }
    let kind = text(message, &["eventType"]).or_else(|| text(message, &["type"])).unwrap_or_default();
    match kind.rsplit('.').next() {
        Some("createobject" | "updateobject") => of_oci(message).map(|object| vec![object]),
        Some("created" | "object-created") => of_plain(message).map(|object| vec![object]),
        _ => Ok(Vec::new()),
    }
}

fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, name| value.get(name)).and_then(Value::as_str)
}

fn needed(value: &Value, path: &[&str]) -> Result<String, String> {
    text(value, path).map(str::to_owned).ok_or_else(|| format!("the event has no {}", path.join(".")))
}

fn of_oci(message: &Value) -> Result<EventObject, String> {
    Ok(EventObject {
        bucket: needed(message, &["data", "additionalDetails", "bucketName"])?,
        object: needed(message, &["data", "resourceName"])?,
        version: text(message, &["data", "additionalDetails", "eTag"]).map(str::to_owned),
    })
}

fn of_plain(message: &Value) -> Result<EventObject, String> {
    Ok(EventObject {
        bucket: needed(message, &["data", "bucket"])?,
        object: needed(message, &["data", "object"])?,
        version: text(message, &["data", "etag"]).map(str::to_owned),
    })
}

fn is_s3_creation(record: &Value) -> bool {
    let name = text(record, &["eventName"]).unwrap_or_default();
    name.trim_start_matches("s3:").starts_with("ObjectCreated")
}

fn of_s3(record: &Value) -> Result<EventObject, String> {
    let object = needed(record, &["s3", "object", "key"])?;
    let version = text(record, &["s3", "object", "eTag"]).or_else(|| text(record, &["s3", "object", "etag"]));
    Ok(EventObject {
        bucket: needed(record, &["s3", "bucket", "name"])?,
        object: decoded_form(&object).ok_or_else(|| format!("the event's name {object:?} is no text"))?,
        version: version.filter(|version| !version.is_empty()).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_of_oci_names_bucket_object_and_tag() {
        let event = json!({
            "eventType": "com.oraclecloud.objectstorage.createobject",
            "data": {
                "resourceName": "disk 1.qcow2",
                "additionalDetails": {"bucketName": "b", "namespace": "n", "eTag": "e1"},
            },
        });
        let object =
            EventObject { bucket: "b".into(), object: "disk 1.qcow2".into(), version: Some("e1".into()) };
        assert_eq!(parse(&event).unwrap(), [object]);
        let other = json!({"eventType": "com.oraclecloud.objectstorage.deleteobject", "data": {}});
        assert_eq!(parse(&other).unwrap(), []);
        parse(&json!({"eventType": "com.oraclecloud.objectstorage.createobject", "data": {}})).unwrap_err();
    }

    #[test]
    fn a_notification_of_s3_names_all_its_objects() {
        let record = |name: &str, key: &str| json!({"eventName": name, "s3": {"bucket": {"name": "b"}, "object": {"key": key, "eTag": ""}}});
        let records =
            [record("s3:ObjectCreated:Put", "a+b%2F%C3%A9.raw"), record("ObjectRemoved:Delete", "c")];
        let found = parse(&json!({ "Records": records })).unwrap();
        assert_eq!(found, [EventObject { bucket: "b".into(), object: "a b/é.raw".into(), version: None }]);
        for bad in ["%F", "%+5", "%ff"] {
            parse(&json!({"Records": [record("ObjectCreated:Put", bad)]})).unwrap_err();
        }
    }
}
