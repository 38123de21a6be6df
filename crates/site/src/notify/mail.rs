//! Notices as mail.
//!
//! The message is written here rather than by a library: it has few headers, and what comes from outside can only get into the
//! subject and the text, both of which are encoded as a whole.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;
use lettre::address::Envelope;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, SmtpTransport, Transport};

use super::notice::Notice;
use super::{Answered, Refused, secret};
use crate::config::{Mail, Safety};

/// How long the server may take for each answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of text in an encoded word: with its frame it has at most 75 characters (RFC 2047, section 2).
const WORD_BYTES_MAX: usize = 42;
/// Bytes of the text in a line of Base64, which then has 76 characters.
const LINE_BYTES: usize = 57;

/// A person or a programme with an address, as `Storage <storage@example.org>` or `storage@example.org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailbox {
    name: Option<String>,
    address: Address,
}

impl FromStr for Mailbox {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no address ({why}); give one as storage@example.org");
        let (name, address) = match text.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, address)) => (name.trim().trim_matches('"'), address),
            None => ("", text.trim()),
        };
        if text.chars().any(char::is_control) {
            return Err(wrong("it has control characters"));
        }
        if !address.is_ascii() {
            return Err(wrong("write names of domains in other scripts as xn--…"));
        }
        let address: Address =
            address.parse().map_err(|error: lettre::address::AddressError| wrong(&error.to_string()))?;
        Ok(Self { name: Some(name.to_owned()).filter(|name| !name.is_empty()), address })
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{} <{}>", encoded(name), self.address),
            None => write!(formatter, "{}", self.address),
        }
    }
}

/// A text as encoded words (RFC 2047), folded: nothing in it can end the header or begin another one.
fn encoded(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for character in text.chars() {
        if word.len() + character.len_utf8() > WORD_BYTES_MAX {
            words.push(std::mem::take(&mut word));
        }
        word.push(character);
    }
    words.push(word);
    let words: Vec<_> = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

/// The whole message.
fn message(from: &Mailbox, to: &[Mailbox], notice: &Notice) -> String {
    let recipients: Vec<_> = to.iter().map(Mailbox::to_string).collect();
    let date = notice.at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000");
    let subject = encoded(&format!("[Leeward {}] {}", notice.site, notice.title));
    let headers = [
        format!("Date: {date}"),
        format!("From: {from}"),
        format!("To: {}", recipients.join(",\r\n ")),
        format!("Subject: {subject}"),
        // The same each time that it is tried: a message that arrives twice is known again.
        format!("Message-ID: <{}@{}>", notice.id, from.address.domain()),
        // Nobody who is on holiday answers to it (RFC 3834).
        "Auto-Submitted: auto-generated".to_owned(),
        "MIME-Version: 1.0".to_owned(),
        "Content-Type: text/plain; charset=utf-8".to_owned(),
        "Content-Transfer-Encoding: base64".to_owned(),
    ];
    let text = notice.text.replace('\n', "\r\n") + "\r\n";
    let body: Vec<_> = text.as_bytes().chunks(LINE_BYTES).map(|line| STANDARD.encode(line)).collect();
    format!("{}\r\n\r\n{}\r\n", headers.join("\r\n"), body.join("\r\n"))
}

fn tls(mail: &Mail, host: &str) -> Result<TlsParameters, String> {
    let mut parameters = TlsParameters::builder(host.to_owned());
    if let Some(file) = &mail.ca {
        let wrong = |what: String| format!("{}: {what}", file.display());
        let pem = std::fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let authority = Certificate::from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
        parameters = parameters.add_root_certificate(authority);
    }
    parameters.build_rustls().map_err(|error| leeward_store::with_causes(&error))
}

fn transport(mail: &Mail) -> Result<SmtpTransport, String> {
    let (host, port, safety) = mail.server()?;
    let tls = match safety {
        Safety::Tls => Tls::Wrapper(tls(mail, &host)?),
        Safety::StartTls => Tls::Required(tls(mail, &host)?),
        Safety::Plain => Tls::None,
    };
    let mut transport = SmtpTransport::builder_dangerous(host).port(port).tls(tls).timeout(Some(TIMEOUT));
    let own = leeward_repository::host_name();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if !own.is_empty() && own.bytes().all(is_name) {
        transport = transport.hello_name(ClientId::Domain(own));
    }
    if let (Some(name), Some(file)) = (&mail.username, &mail.password_file) {
        let password = secret(file)?;
        transport = transport
            .credentials(Credentials::new(name.clone(), password.trim_end_matches(['\r', '\n']).to_owned()));
    }
    Ok(transport.build())
}

/// Tells a notice; returns what the server said.
///
/// # Errors
/// It did not take it, or could not be asked; in words.
pub(super) fn send(mail: &Mail, notice: &Notice) -> Answered {
    let parse = |text: &String| text.parse::<Mailbox>();
    let from = parse(&mail.from).map_err(Refused::by_us)?;
    let to: Vec<Mailbox> = mail.to.iter().map(parse).collect::<Result<_, _>>().map_err(Refused::by_us)?;
    let recipients = to.iter().map(|to| to.address.clone()).collect();
    let envelope = Envelope::new(Some(from.address.clone()), recipients)
        .map_err(|error| Refused::by_us(error.to_string()))?;
    let transport = transport(mail).map_err(Refused::by_us)?;
    match transport.send_raw(&envelope, message(&from, &to, notice).as_bytes()) {
        Ok(response) => {
            let said = response.first_line().unwrap_or_default();
            Ok(format!("it answered {} {said}", response.code()))
        }
        Err(error) => Err(Refused::unreached(leeward_store::with_causes(&error))),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::notice::Teller;
    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_a_name() {
        let parse = |text: &str| text.parse::<Mailbox>();
        assert_eq!(parse("a@b.example").unwrap().to_string(), "a@b.example");
        let named = parse("\"Lee, W.\" <a@b.example>").unwrap();
        assert_eq!(
            (named.name.as_deref(), named.to_string().as_str()),
            (Some("Lee, W."), "=?utf-8?B?TGVlLCBXLg==?= <a@b.example>")
        );
        for wrong in ["", "nobody", "a@b.example\r\nBcc: c@d.example", "ä@b.example", "x <a@b", "<>"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_from_outside_becomes_a_header() {
        let teller = Teller { site: "home".to_owned(), url: None };
        let note = "x\r\nBcc: all@example.org\r\n\r\nbody ü ".repeat(8);
        let notice = Notice { title: note.clone(), ..teller.missed("s", Timestamp::UNIX_EPOCH, &note, None) };
        let to: Vec<Mailbox> = vec!["o@a.example".parse().unwrap(), "Ö <p@a.example>".parse().unwrap()];
        let written = message(&"L <l@a.example>".parse().unwrap(), &to, &notice);
        assert!(written.is_ascii() && written.lines().all(|line| line.len() <= 78), "{written}");
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        let names: Vec<_> = head
            .split("\r\n")
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split_once(": ").unwrap().0)
            .collect();
        let wanted = [
            "Date",
            "From",
            "To",
            "Subject",
            "Message-ID",
            "Auto-Submitted",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        ];
        assert_eq!(names, wanted);
        let text = STANDARD.decode(body.replace("\r\n", "")).unwrap();
        assert!(
            String::from_utf8(text).unwrap().contains("Bcc: all@example.org"),
            "it is said as it is, in the text"
        );
    }
}
