//! What the owner of an object asks for in its metadata.
//!
//! Keys are those of the published architecture (`ad_number`, `display_name`) and some more. Services differ in what they
//! make of an underscore (Ceph's gateway and some proxies turn it into a dash), so both are taken. What a key asks for is
//! checked before anything is made; a value that makes no sense is an error, never a silent default.

use std::collections::BTreeMap;

use leeward_disk::Format;
use leeward_remote::objects::Metadata;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The largest number of an availability domain.
const AD_NUMBER_MAX: u32 = 64;
/// Performance units per GB go in steps of this.
const VPUS_STEP: u32 = 10;
/// The most performance units per GB.
const VPUS_MAX: u32 = 120;
/// The longest identifier or name, in bytes.
const TEXT_BYTES_MAX: usize = 255;
/// The longest key of a tag, in bytes.
const TAG_KEY_BYTES_MAX: usize = 100;
/// The longest value of a tag, in bytes.
const TAG_VALUE_BYTES_MAX: usize = 256;
/// The largest volume that can be asked for, in GiB.
const SIZE_GIB_MAX: u64 = 64 << 10;

/// What an object's metadata asks for; `None` where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// `ad_number`: the number of the availability domain, from 1. 0 in the metadata means any, as no key does.
    pub ad_number: Option<u32>,
    /// `display_name`: what people call it.
    pub display_name: Option<String>,
    /// `backup_policy`: name or identifier of the policy that is assigned; `none` for none.
    pub backup_policy: Option<BackupPolicy>,
    /// `vpus_per_gb`: performance of the volume when the import is over.
    pub vpus_per_gb: Option<u32>,
    /// `kms_key`: identifier of the key that encrypts the volume.
    pub kms_key: Option<String>,
    /// `size_gib`: size of the volume, where it is to be larger than the image needs.
    pub size_gib: Option<u64>,
    /// `format`: the format of the image, where the content is not to decide.
    pub format: Option<Format>,
    /// `move_gpt`: whether the backup of the partition table is moved to the end of a larger volume.
    pub move_gpt: Option<bool>,
}

/// Which backup policy is assigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupPolicy {
    /// None, whatever the site's default is.
    None,
    /// The one of this name or identifier.
    Named(String),
}

/// Reads what metadata asks for. Keys that are not known here are nobody's concern: they become tags as all do.
///
/// # Errors
/// A value makes no sense, or a key is given twice in two spellings: which, and what is right.
pub fn parse(metadata: &Metadata) -> Result<Wishes> {
    let known = spelled(metadata)?;
    let get = |key: &str| known.get(key).map(|value| (key.to_owned(), value.trim().to_owned()));
    Ok(Wishes {
        ad_number: get("ad_number")
            .map(|(key, value)| number(&key, &value, 0, u64::from(AD_NUMBER_MAX), 1))
            .transpose()?
            .filter(|number| *number > 0)
            .and_then(|number| u32::try_from(number).ok()),
        display_name: get("display_name").map(|(key, value)| text(&key, value)).transpose()?,
        backup_policy: get("backup_policy").map(|(key, value)| policy(&key, value)).transpose()?,
        vpus_per_gb: get("vpus_per_gb")
            .map(|(key, value)| number(&key, &value, 0, u64::from(VPUS_MAX), u64::from(VPUS_STEP)))
            .transpose()?
            .and_then(|number| u32::try_from(number).ok()),
        kms_key: get("kms_key").map(|(key, value)| identifier(&key, value)).transpose()?,
        size_gib: get("size_gib").map(|(key, value)| number(&key, &value, 1, SIZE_GIB_MAX, 1)).transpose()?,
        format: get("format").map(|(key, value)| format(&key, &value)).transpose()?,
        move_gpt: get("move_gpt").map(|(key, value)| flag(&key, &value)).transpose()?,
    })
}

/// All metadata as tags: every key, with characters and lengths that providers take.
#[must_use]
pub fn tags(metadata: &Metadata) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    for (key, value) in metadata {
        let key: String =
            key.chars()
                .map(|character| {
                    if character.is_ascii_alphanumeric() || "-_".contains(character) {
                        character
                    } else {
                        '_'
                    }
                })
                .take(TAG_KEY_BYTES_MAX)
                .collect();
        let value: String = value.chars().filter(|character| !character.is_control()).collect();
        if !key.is_empty() {
            tags.insert(key, cut(&value, TAG_VALUE_BYTES_MAX).to_owned());
        }
    }
    tags
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The metadata with underscores in its keys.
fn spelled(metadata: &Metadata) -> Result<BTreeMap<String, String>> {
    let mut known = BTreeMap::new();
    for (key, value) in metadata {
        let before = known.insert(key.to_ascii_lowercase().replace('-', "_"), value.clone());
        if before.is_some_and(|before| before != *value) {
            return Err(wrong(key, value, "it is given twice, with - and with _"));
        }
    }
    Ok(known)
}

fn wrong(key: &str, value: &str, what: impl Into<String>) -> Error {
    let value = value.chars().filter(|character| !character.is_control()).take(64).collect();
    Error::Metadata { key: key.to_owned(), value, what: what.into() }
}

fn number(key: &str, value: &str, least: u64, most: u64, step: u64) -> Result<u64> {
    let is_digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse::<u64>().ok().filter(|_| is_digits);
    number.filter(|number| (least..=most).contains(number) && number % step == 0).ok_or_else(|| {
        let steps = if step > 1 { format!(" in steps of {step}") } else { String::new() };
        wrong(key, value, format!("it is a number from {least} to {most}{steps}"))
    })
}

fn text(key: &str, value: String) -> Result<String> {
    if value.is_empty() || value.len() > TEXT_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(wrong(key, &value, "it is a text of 1 to 255 bytes without control characters"));
    }
    Ok(value)
}

fn identifier(key: &str, value: String) -> Result<String> {
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    let begins = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !begins || value.len() > TEXT_BYTES_MAX || !value.bytes().all(is_sound) || value.contains("..") {
        return Err(wrong(key, &value, "it is an identifier of letters, digits and . _ : / -"));
    }
    Ok(value)
}

fn policy(key: &str, value: String) -> Result<BackupPolicy> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(BackupPolicy::None);
    }
    identifier(key, value).map(BackupPolicy::Named)
}

fn format(key: &str, value: &str) -> Result<Format> {
    value.to_ascii_lowercase().parse().map_err(|what: String| wrong(key, value, what))
}

fn flag(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(wrong(key, value, "it is true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_asked_for_is_read_in_both_spellings() {
        let told = of(&[
            ("ad-number", "2"),
            ("display_name", " web 1 "),
            ("backup_policy", "gold"),
            ("vpus_per_gb", "20"),
            ("kms_key", "ocid1.key.oc1.eu-frankfurt-1.abc"),
            ("size_gib", "100"),
            ("format", "RAW"),
            ("move_gpt", "yes"),
            ("owner", "ops"),
        ]);
        let wishes = parse(&told).unwrap();
        assert_eq!((wishes.ad_number, wishes.vpus_per_gb, wishes.size_gib), (Some(2), Some(20), Some(100)));
        assert_eq!(wishes.display_name.as_deref(), Some("web 1"));
        assert_eq!(wishes.backup_policy, Some(BackupPolicy::Named("gold".into())));
        assert_eq!((wishes.format, wishes.move_gpt), (Some(Format::Raw), Some(true)));
        assert_eq!(parse(&of(&[("ad_number", "0")])).unwrap(), Wishes::default());
        assert_eq!(tags(&told)["owner"], "ops");
    }

    #[test]
    fn hostile_values_are_refused_by_name() {
        let long = "x".repeat(300);
        for (key, value) in [
            ("ad_number", "-1"),
            ("ad_number", "65"),
            ("ad_number", "1;reboot"),
            ("ad_number", "+1"),
            ("ad_number", ""),
            ("ad_number", "99999999999999999999"),
            ("vpus_per_gb", "15"),
            ("vpus_per_gb", "130"),
            ("display_name", "a\u{1b}[2Jb"),
            ("display_name", &long),
            ("backup_policy", "../../gold"),
            ("backup_policy", "$(id)"),
            ("kms_key", "a b"),
            ("kms_key", "-x"),
            ("format", "exe"),
            ("size_gib", "0"),
            ("move_gpt", "maybe"),
        ] {
            let error = parse(&of(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains('\u{1b}') && error.len() < 400, "{error}");
        }
        assert!(parse(&of(&[("ad-number", "1"), ("ad_number", "2")])).is_err());
    }

    #[test]
    fn tags_have_plain_keys_and_bounded_values() {
        let tags = tags(&of(&[("a.b c", "x\ny"), ("long", &"ä".repeat(300))]));
        assert_eq!(tags["a_b_c"], "xy");
        assert!(tags["long"].len() <= 256);
    }
}
