//! Notices as HTTP requests: CloudEvents 1.0 in the structured mode of JSON, signed as Standard Webhooks has it.
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>,
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>)

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use leeward_remote::http::{Client, HeaderName, HeaderValue, Method, Request};
use leeward_store::bucket::{RequestClass, Requests};
use serde::Serialize;
use url::{Position, Url};

use super::notice::{Notice, RunFacts};
use super::{Answered, secret};
use crate::config::Webhook;

/// How long no byte may move.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer that is taken, in bytes; nobody reads it.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The most secrets: the one in use, and those that are on their way in or out.
const SECRETS_MAX: usize = 8;
/// Lengths of a secret in bytes; what is longer serves nothing.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A notice as a CloudEvent.
#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    site: &'a str,
    title: &'a str,
    text: &'a str,
    link: Option<&'a str>,
    run: Option<&'a RunFacts>,
}

/// The body: the same bytes for the same notice.
fn body(notice: &Notice) -> Result<Vec<u8>, String> {
    let event = Event {
        specversion: "1.0",
        id: &notice.id,
        // A name of a site has no characters that a URN could not have.
        source: format!("urn:leeward:site:{}", notice.site),
        r#type: &notice.kind,
        subject: notice.about.as_deref(),
        time: notice.at.to_string(),
        datacontenttype: "application/json",
        data: Data {
            site: &notice.site,
            title: &notice.title,
            text: &notice.text,
            link: notice.link.as_deref(),
            run: notice.run.as_ref(),
        },
    };
    serde_json::to_vec(&event).map_err(|error| format!("the notice cannot be written: {error}"))
}

/// The secrets of a file, one a line; lines that begin with `#` say something to people.
fn keys(text: &str) -> Result<Vec<hmac::Key>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let key = |line: &str| {
        let encoded = line.strip_prefix("whsec_").unwrap_or(line);
        let bytes = STANDARD.decode(encoded).ok().filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
        bytes.map(|bytes| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    };
    let keys: Option<Vec<_>> = lines.map(key).collect();
    match keys {
        Some(keys) if (1..=SECRETS_MAX).contains(&keys.len()) => Ok(keys),
        // What stands there instead is told to nobody: it may be a secret all the same.
        _ => Err(format!(
            "it has no secrets: a line each, `whsec_` and {} to {} bytes in Base64, as from: echo \"whsec_$(openssl rand -base64 32)\"",
            SECRET_BYTES.start(),
            SECRET_BYTES.end()
        )),
    }
}

fn signature(keys: &[hmac::Key], id: &str, seconds: i64, body: &[u8]) -> String {
    let signed = |key| {
        let mut context = hmac::Context::with_key(key);
        context.update(format!("{id}.{seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    };
    keys.iter().map(signed).collect::<Vec<_>>().join(" ")
}

/// The request that tells it.
fn request(webhook: &Webhook, notice: &Notice, now: Timestamp) -> Result<Request, String> {
    let url: Url = webhook.address()?;
    let secrets = secret(&webhook.secret_file)?;
    let keys = keys(&secrets).map_err(|what| format!("{}: {what}", webhook.secret_file.display()))?;
    let body = body(notice)?;
    let seconds = now.as_second();
    let origin = &url[..Position::BeforePath];
    let mut request = Request::new(Method::POST, origin, url.path())
        .header("content-type", "application/cloudevents+json; charset=utf-8")
        .header("webhook-id", &notice.id)
        .header("webhook-timestamp", &seconds.to_string())
        .header("webhook-signature", &signature(&keys, &notice.id, seconds, &body))
        .body(&[&body]);
    request.target = Some(url[Position::BeforePath..].to_owned());
    request.answer_bytes_max = ANSWER_BYTES_MAX;
    let mut add = |name: &str, value: &str, is_secret: bool| {
        let name = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of {name} cannot be sent in a header"))?;
        value.set_sensitive(is_secret);
        request.headers.insert(name, value);
        Ok::<(), String>(())
    };
    for (name, value) in &webhook.headers {
        add(name, value, false)?;
    }
    for (name, file) in &webhook.header_files {
        add(name, secret(file)?.trim(), true)?;
    }
    Ok(request)
}

fn client(webhook: &Webhook) -> Result<Client, String> {
    let requests = Arc::new(Requests::default());
    let client = match &webhook.ca {
        None => Client::new(requests),
        Some(file) => {
            let pem = std::fs::read(file)
                .map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
            Client::trusting(requests, &pem)
        }
    };
    Ok(client.map_err(|fault| fault.to_string())?.with_idle_timeout(IDLE_TIMEOUT))
}

/// Tells a notice; returns what the server said.
///
/// # Errors
/// It did not take it, or could not be asked; in words.
pub(super) fn send(webhook: &Webhook, notice: &Notice, now: Timestamp) -> Answered {
    let request = request(webhook, notice, now).map_err(super::Refused::by_us)?;
    let client = client(webhook).map_err(super::Refused::by_us)?;
    let answer = client
        .send(request, RequestClass::Other)
        .map_err(|fault| super::Refused::unreached(fault.to_string()))?;
    let status = answer.status;
    match status {
        200..=299 => Ok(format!("it answered {status}")),
        300..=399 => Err(super::Refused::this_one(format!(
            "it answered {status}: redirections are not followed; configure the address where it is"
        ))),
        408 | 425 | 429 | 500.. => {
            let after =
                answer.header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
            Err(super::Refused::unreached(format!("it answered {status}")).after(after))
        }
        _ => Err(super::Refused::this_one(format!("it answered {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example of the reference libraries of Standard Webhooks.
        let keys = keys("# the one in use\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed =
            signature(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_told() {
        for text in ["", "# nothing", "whsec_short", "correct horse battery staple", "whsec_!!!"] {
            let told = keys(text).unwrap_err();
            assert!(told.contains("openssl rand") && !told.contains("staple"), "{told}");
        }
        assert_eq!(keys(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".repeat(2)).unwrap().len(), 2);
    }
}
