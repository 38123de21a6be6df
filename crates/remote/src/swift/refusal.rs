//! What Swift and Ceph's gateway say when they do not do what was asked.

use serde::Deserialize;

use crate::answer::Refusal;
use crate::http::Response;

/// The largest text that is looked into, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfCeph {
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads a refusal.
pub(super) fn read(response: &Response) -> Refusal {
    let (code, message) = words(response.body.get(..TEXT_BYTES_MAX).unwrap_or(&response.body));
    // Another MD5 than was announced: the upload did not come through whole.
    let code = if response.status == 422 { "BadDigest".to_owned() } else { code };
    Refusal::of(response, code, message)
}

fn words(body: &[u8]) -> (String, String) {
    if let Ok(told) = serde_json::from_slice::<OfCeph>(body) {
        return (told.code, told.message);
    }
    let text = String::from_utf8_lossy(body);
    // Ceph's gateway sends its code alone as text, Swift a small page.
    if !text.is_empty() && text.len() < 60 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return (text.into_owned(), String::new());
    }
    let paragraph = text.split_once("<p>").and_then(|(_, rest)| rest.split_once("</p>"));
    (String::new(), paragraph.map(|(text, _)| text.trim().to_owned()).unwrap_or_default())
}

/// What a person can do.
pub(super) fn hint(refusal: &Refusal, container: &str) -> Option<String> {
    match (refusal.status, refusal.code.as_str()) {
        (_, "NoSuchBucket") => {
            Some(format!("make the container first: openstack container create {container}"))
        }
        (401, _) => Some("the token was refused, and a new one too".to_owned()),
        (403, _) => Some(format!(
            "see that the account has a role that may write to {container} (member, for instance), and its quota"
        )),
        (413, _) => Some("see the quota of the account and of the container".to_owned()),
        (507, _) => Some("the storage is full".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn refusals_of_both_are_understood() {
        let told = |text: &str| words(text.as_bytes());
        assert_eq!(told(r#"{"Code":"NoSuchKey","Message":"","RequestId":"x"}"#).0, "NoSuchKey");
        assert_eq!(told("NoSuchBucket").0, "NoSuchBucket");
        let page = "<html><h1>Not Found</h1><p>The resource could not be found.</p></html>";
        assert_eq!(told(page), (String::new(), "The resource could not be found.".into()));
        assert_eq!(told(""), (String::new(), String::new()));
    }
}
