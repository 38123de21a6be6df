//! What OpenStack's services say when they do not do what was asked.

use serde_json::Value;

use crate::answer::Refusal;
use crate::http::Response;

/// The largest text that is looked into, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Reads a refusal: `{"error": {"message": …}}` of Keystone, `{"badRequest": {"message": …}}` of Cinder, the page of
/// Glance.
pub(crate) fn read(response: &Response) -> Refusal {
    let body = response.body.get(..TEXT_BYTES_MAX).unwrap_or(&response.body);
    let (code, message) = words(body);
    Refusal::of(response, code, message)
}

/// The service's word for it and its explanation.
fn words(body: &[u8]) -> (String, String) {
    let Ok(Value::Object(told)) = serde_json::from_slice(body) else {
        return (String::new(), plain(&String::from_utf8_lossy(body)));
    };
    let message = |value: &Value| value.get("message").and_then(Value::as_str).map(str::to_owned);
    for (name, value) in &told {
        if let Some(text) = message(value) {
            let code = if name == "error" { String::new() } else { name.clone() };
            return (code, text);
        }
    }
    let text = message(&Value::Object(told)).unwrap_or_default();
    (String::new(), plain(&text))
}

/// The text of a small page.
fn plain(page: &str) -> String {
    let page = page.split_once("<body>").map_or(page, |(_, body)| body);
    let mut text = String::new();
    let mut is_inside = false;
    for character in page.chars() {
        match character {
            '<' => is_inside = true,
            '>' if is_inside => {
                is_inside = false;
                text.push(' ');
            }
            _ if is_inside => {}
            _ => text.push(character),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn refusals_of_all_services_are_understood() {
        let told = |text: &str| words(text.as_bytes());
        let keystone = r#"{"error":{"code":401,"message":"requires authentication","title":"Unauthorized"}}"#;
        assert_eq!(told(keystone), (String::new(), "requires authentication".to_owned()));
        let cinder =
            r#"{"overLimit":{"code":413,"message":"VolumeLimitExceeded: 10 volumes","retryAfter":"0"}}"#;
        assert_eq!(told(cinder), ("overLimit".to_owned(), "VolumeLimitExceeded: 10 volumes".to_owned()));
        let glance = "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  \
                      No image found with ID x<br /><br />\n\n\n\n </body>\n</html>";
        assert_eq!(told(glance).1, "404 Not Found No image found with ID x");
        assert_eq!(told(r#"{"message": "no<br />way", "code": "403 Forbidden"}"#).1, "no way");
        assert_eq!(told(""), (String::new(), String::new()));
    }
}
