//! What the routes do with objects.

use std::ops::Range;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use leeward_store::{Key, Version};
use serde_json::json;

use super::{Caller, MEMORY_UNIT, Peer, ServerState, body, json};
use crate::guard::{Condition, Reading};
use crate::limits::{PAGE_ENTRIES_MAX, size_max};
use crate::problem::{Code, Problem};

/// How many bytes came with a request, for the log.
#[derive(Clone, Copy)]
pub(super) struct BodyBytes(pub(super) u64);

/// The largest body that is read to its end only to be able to say no: some clients hear nothing before they have sent all.
const DRAINED_BYTES_MAX: u64 = 64 << 20;
/// How long the next part of such a body may take.
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(5);

fn bad(message: impl Into<String>) -> Problem {
    Problem::new(Code::BadRequest, message, "see docs/protocol.md")
}

/// The key in a path, decoded exactly once.
pub(super) fn key_of(path: &str) -> Result<Key, Problem> {
    let encoded = path.strip_prefix("/v1/objects/").unwrap_or_default();
    let shown = || encoded.chars().take(80).collect::<String>();
    decode(encoded)
        .and_then(Key::new)
        .ok_or_else(|| bad(format!("{:?} is not the key of an object", shown())))
}

/// Undoes percent encoding; none where it is not well formed.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(
            u8::from_str_radix(digits, 16)
                .ok()
                .filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?,
        );
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

fn query(text: &str, name: &str) -> Result<Option<String>, Problem> {
    for pair in text.split('&') {
        if let Some((key, value)) = pair.split_once('=')
            && key == name
        {
            return decode(value).map(Some).ok_or_else(|| bad(format!("the value of {name} cannot be read")));
        }
    }
    Ok(None)
}

fn prefix_of(text: &str) -> Result<String, Problem> {
    let prefix = query(text, "prefix")?.ok_or_else(|| bad("no prefix is given"))?;
    Key::new(prefix.clone()).filter(|_| !prefix.contains('/')).ok_or_else(|| bad("the prefix is none"))?;
    Ok(prefix)
}

pub(super) async fn list(state: &ServerState, caller: Caller, text: &str) -> Result<Response, Problem> {
    let prefix = prefix_of(text)?;
    let after = query(text, "after")?.unwrap_or_default();
    let limit = match query(text, "limit")? {
        Some(limit) => limit.parse().map_err(|_| bad("the limit is not a number"))?,
        None => PAGE_ENTRIES_MAX,
    };
    let limit = limit.clamp(1, state.0.options.page_entries.clamp(1, PAGE_ENTRIES_MAX));
    let entries = state.blocking(move |guard| guard.list(&caller.token, &prefix)).await?;
    let start = entries.partition_point(|entry| entry.key.as_str() <= after.as_str());
    let page: Vec<_> = entries[start..]
        .iter()
        .take(limit)
        .map(|entry| json!({"key": entry.key.as_str(), "size": entry.size}))
        .collect();
    let more = entries.len() - start > page.len();
    Ok(json(&json!({"entries": page, "more": more})))
}

pub(super) async fn read(
    state: &ServerState,
    caller: Caller,
    peer: Option<Peer>,
    path: &str,
    wanted: Option<Range<u64>>,
    is_head: bool,
) -> Result<Response, Problem> {
    let key = key_of(path)?;
    let asked = wanted.clone();
    let reading =
        state.blocking(move |guard| guard.read(&caller.token, &key, asked.as_ref(), is_head)).await?;
    let size = reading.size();
    if let Some(range) = wanted.as_ref().filter(|range| range.end > size) {
        let what =
            format!("bytes {} to {} lie outside the {size} bytes of the object", range.start, range.end);
        return Err(Problem::new(Code::BadRange, what, "ask for its size with HEAD"));
    }
    let range = wanted.clone().unwrap_or(0..size);
    let length = range.end - range.start;
    let tag = match &reading {
        Reading::Record(_, version) => Some(version.clone()),
        Reading::Object(_) => None,
    };
    let body = match reading {
        _ if is_head => Body::empty(),
        Reading::Record(bytes, _) => {
            let (start, end) = (range.start as usize, range.end as usize);
            Body::from(bytes::Bytes::from(bytes).slice(start..end))
        }
        Reading::Object(object) => body::send(state, object, range.clone(), peer),
    };
    state.0.metrics.sent(if is_head { 0 } else { length });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(tag) = tag {
        put_tag(headers, &tag);
    }
    if wanted.is_some() {
        let text = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
        headers.insert(header::CONTENT_RANGE, text.parse().map_err(|_| bad("the range cannot be written"))?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn put_tag(headers: &mut HeaderMap, version: &Version) {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        headers.insert(header::ETAG, tag);
    }
}

/// One range with both ends; others are not offered.
pub(super) fn range_of(headers: &HeaderMap) -> Result<Option<Range<u64>>, Problem> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let parse = || {
        let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..last.checked_add(1)?)
    };
    parse().map(Some).ok_or_else(|| {
        Problem::new(Code::BadRange, "the range cannot be read", "use one of the form bytes=FIRST-LAST")
    })
}

fn condition_of(headers: &HeaderMap) -> Result<Condition, Problem> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    match (text(header::IF_NONE_MATCH), text(header::IF_MATCH)) {
        (Some("*"), None) => Ok(Condition::Absent),
        (None, Some(tag)) => {
            let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
            Ok(Condition::Matches(tag.parse().map_err(bad)?))
        }
        _ => Err(Problem::new(
            Code::ConditionRequired,
            "an object is written with If-None-Match: * or with If-Match: its version",
            "see docs/protocol.md",
        )),
    }
}

fn length_of(headers: &HeaderMap, key: &Key, memory: u64) -> Result<u64, Problem> {
    let text = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let hint = "send the object whole, with its length";
    let text =
        text.ok_or_else(|| Problem::new(Code::LengthRequired, "the body has no Content-Length", hint))?;
    let max = size_max(key).min(memory);
    match text.parse::<u64>() {
        Ok(length) if length <= max => Ok(length),
        _ => {
            let what = format!(
                "a body of {} bytes is announced for {key}, which may have {max}",
                text.chars().take(30).collect::<String>()
            );
            Err(Problem::new(Code::TooLarge, what, "nothing was stored; see that the client is sound"))
        }
    }
}

pub(super) async fn write(
    state: &ServerState,
    caller: Caller,
    path: &str,
    request: Request,
) -> Result<Response, Problem> {
    let options = &state.0.options;
    let judge = |request: &Request| {
        let key = key_of(path)?;
        let condition = condition_of(request.headers())?;
        let length = length_of(request.headers(), &key, options.memory_bytes.into())?;
        state.0.guard.may_write(&caller.token, &key, &condition)?;
        Ok((key, condition, length))
    };
    let (key, condition, length) = match judge(&request) {
        Ok(judged) => judged,
        Err(problem) => {
            drain(request).await;
            return Err(problem);
        }
    };
    let busy = || Problem::new(Code::Busy, "the server has too many bodies in memory", "try again later");
    let units = u32::try_from(length.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
    let wait = state.0.memory.acquire_many(units);
    let _memory =
        tokio::time::timeout(options.queue_time, wait).await.map_err(|_| busy())?.map_err(|_| busy())?;
    let bytes = body::take(request.into_body(), length, options.pace).await.map_err(|mut problem| {
        problem.message = format!("token {:?}, {key}: {}", caller.token.name, problem.message);
        problem
    })?;
    state.0.metrics.received(length);
    let is_new = condition == Condition::Absent;
    let version = state
        .blocking(move |guard| {
            if caller.purpose.is_some() {
                // Nobody with a key has read it on its way, so what can be told without one is.
                guard.names_fit(&key, &bytes)?.map_err(|what| {
                    Problem::rejected(format!(
                        "token {:?} sent {key}, which cannot be accepted: {what}",
                        caller.token.name
                    ))
                })?;
            }
            guard.write(&caller.token, &caller.tokens, &key, &condition, &bytes)
        })
        .await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    put_tag(response.headers_mut(), &version);
    response.extensions_mut().insert(BodyBytes(length));
    Ok(response)
}

/// Reads a body that nobody wants, if it is not too long and comes swiftly.
async fn drain(request: Request) {
    use http_body_util::BodyExt;
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut left: u64 = length.filter(|length| *length <= DRAINED_BYTES_MAX).unwrap_or(0);
    let mut body = request.into_body();
    while left > 0 {
        let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_TIME, body.frame()).await else { return };
        left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
    }
}

pub(super) async fn delete(state: &ServerState, caller: Caller, path: &str) -> Result<Response, Problem> {
    let key = key_of(path)?;
    let was_there = state.blocking(move |guard| guard.delete(&caller.token, &key)).await?;
    Ok(json(&json!({"deleted": was_there})))
}

pub(super) async fn settle(state: &ServerState, _caller: Caller, text: &str) -> Result<Response, Problem> {
    let prefix = prefix_of(text)?;
    state.blocking(move |guard| guard.settle(&prefix)).await?;
    Ok(json(&json!({"settled": true})))
}

pub(super) async fn sweep(state: &ServerState, caller: Caller) -> Result<Response, Problem> {
    let freed = state.blocking(move |guard| guard.sweep(&caller.token)).await?;
    Ok(json(&json!({"freed_bytes": freed})))
}

pub(super) async fn whoami(state: &ServerState, caller: Caller) -> Result<Response, Problem> {
    let token = &caller.token;
    Ok(json(&json!({
        "protocol": 1, "token": token.name, "role": token.role, "prefixes": token.prefixes, "expires": token.expires,
        "quota_bytes": token.quota_bytes, "used_bytes": state.0.guard.used(token),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tricks_with_paths_lead_to_no_key() {
        let long = format!("/v1/objects/packs/{}", "a".repeat(600));
        for path in [
            "/v1/objects/",
            "/v1/objects/../config",
            "/v1/objects/packs/%2e%2e/config",
            "/v1/objects/packs/..%2fconfig",
            "/v1/objects/packs/%00",
            "/v1/objects/packs/a%",
            "/v1/objects/packs/a%2",
            "/v1/objects/packs/%+1",
            "/v1/objects/packs//a",
            "/v1/objects//config",
            "/v1/objects/packs%5ca",
            "/v1/objects/%ff",
            &long,
        ] {
            assert_eq!(key_of(path).unwrap_err().code, Code::BadRequest, "{path}");
        }
        assert_eq!(key_of("/v1/objects/refs/web%252Froot").unwrap().as_str(), "refs/web%2Froot");
        assert_eq!(key_of("/v1/objects/config").unwrap().as_str(), "config");
    }
}
