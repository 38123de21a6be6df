//! What requests a verb sent to a remote repository: the size of its bill. A repository in a directory has none.

use leeward_store::bucket::RequestCounts;
use serde::Serialize;
use serde_json::{Value, json};

use crate::output::Output;
use crate::size;

/// The counts for programs; null where nothing is sent to anybody.
pub fn value(sent: Option<RequestCounts>) -> Value {
    let Some(sent) = sent else { return Value::Null };
    json!({
        "put": sent.put, "get": sent.get, "head": sent.head, "list": sent.list, "delete": sent.delete, "other": sent.other,
        "sent_bytes": sent.bytes_sent, "received_bytes": sent.bytes_received,
    })
}

/// A result and the requests that it took, as one value.
#[derive(Serialize)]
pub struct With<'a, T: Serialize> {
    #[serde(flatten)]
    result: &'a T,
    requests: Value,
}

impl<'a, T: Serialize> With<'a, T> {
    /// A result, which must be a structure, with the requests beside its fields.
    pub fn new(result: &'a T, sent: Option<RequestCounts>) -> Self {
        Self { result, requests: value(sent) }
    }
}

/// Tells people the counts, where there are any.
pub fn tell(sent: Option<RequestCounts>, output: &Output) {
    if let Some(sent) = sent {
        output.line(format!("  requests: {}", show(&sent)));
    }
}

/// As [`tell`], of one repository among several.
pub fn tell_at(location: &str, sent: Option<RequestCounts>, output: &Output) {
    if let Some(sent) = sent {
        output.line(format!("  requests to {location}: {}", show(&sent)));
    }
}

/// `12 put, 3 get, 1 list; 1.2 GiB up, 3.0 MiB down`.
fn show(sent: &RequestCounts) -> String {
    let classes = [
        (sent.put, "put"),
        (sent.get, "get"),
        (sent.head, "head"),
        (sent.list, "list"),
        (sent.delete, "delete"),
        (sent.other, "other"),
    ];
    let counts: Vec<String> = classes
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, class)| format!("{count} {class}"))
        .collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    format!("{counts}; {} up, {} down", size::show(sent.bytes_sent), size::show(sent.bytes_received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_is_told() {
        let sent = RequestCounts {
            put: 12,
            get: 3,
            list: 1,
            bytes_sent: 5 << 28,
            bytes_received: 3 << 20,
            ..RequestCounts::default()
        };
        assert_eq!(show(&sent), "12 put, 3 get, 1 list; 1.2 GiB up, 3.0 MiB down");
        assert_eq!(show(&RequestCounts::default()), "none; 0 B up, 0 B down");
        assert_eq!(value(Some(sent))["sent_bytes"], 5_u64 << 28);
        assert!(value(None).is_null(), "a directory is sent nothing");
    }
}
