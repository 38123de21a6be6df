//! Tags, and what providers let them be.

use std::collections::BTreeMap;

use super::{IMAGE_TAG, Owner, RUN_TAG, STEP_TAG};
use crate::{Error, Result};

/// Keys and values that hang on a thing.
pub type Tags = BTreeMap<String, String>;

/// What tags may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagLimits {
    /// How many a thing may have, those of the owner included.
    pub count_max: usize,
    /// The longest key, in characters.
    pub key_chars_max: usize,
    /// The longest value, in characters.
    pub value_chars_max: usize,
}

/// Tags that were made to fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitted {
    /// What can be given to a `create`.
    pub tags: Tags,
    /// What had to be changed or left out, in words for the log of a run.
    pub notes: Vec<String>,
}

impl TagLimits {
    /// Refuses tags that the provider would refuse, and says which; `owner` has two of its own.
    ///
    /// # Errors
    /// Refused: what is wrong with which.
    pub fn check(&self, provider: &str, tags: &Tags, owner: &Owner) -> Result<()> {
        let all = owner.mark(tags);
        let wrong = match tags.keys().find(|key| is_reserved(key)) {
            Some(key) => Some(format!("the tag {key:?} is Leeward's own")),
            None => self
                .too_many(all.len())
                .or_else(|| all.iter().find_map(|(key, value)| self.wrong(key, value))),
        };
        wrong.map_or(Ok(()), |what| Err(Error::refused(provider, "set tags", what)))
    }

    /// Makes tags of what people wrote (the metadata of an object): what is too long is cut, what cannot be a key or is
    /// one too many is left out, in the order of the keys; each change is noted.
    #[must_use]
    pub fn fit(&self, written: &Tags) -> Fitted {
        let mut fitted = Fitted::default();
        let places = self.count_max.saturating_sub(2);
        for (key, value) in written {
            if let Some(why) = self.unfit(key) {
                fitted.notes.push(format!("{} is not made a tag: {why}", quoted(key)));
            } else if fitted.tags.len() >= places {
                fitted.notes.push(format!(
                    "{} is not made a tag: a volume may have {places} beside Leeward's own",
                    quoted(key)
                ));
            } else {
                let clean = self.clean(value);
                if clean != *value {
                    fitted.notes.push(format!("the value of {} is cut to what a tag may hold", quoted(key)));
                }
                fitted.tags.insert(key.clone(), clean);
            }
        }
        fitted
    }

    fn too_many(&self, count: usize) -> Option<String> {
        (count > self.count_max).then(|| {
            format!(
                "there are {count}, but at most {} are possible, two of which are Leeward's own",
                self.count_max
            )
        })
    }

    fn wrong(&self, key: &str, value: &str) -> Option<String> {
        if let Some(why) = self.unfit_form(key) {
            return Some(format!("the key {} cannot be one: {why}", quoted(key)));
        }
        (self.clean(value) != *value).then(|| {
            format!(
                "the value of {} is longer than {} characters or has control characters",
                quoted(key),
                self.value_chars_max
            )
        })
    }

    fn unfit(&self, key: &str) -> Option<String> {
        if is_reserved(key) { Some("the name is Leeward's own".to_owned()) } else { self.unfit_form(key) }
    }

    fn unfit_form(&self, key: &str) -> Option<String> {
        let printable = |character: char| character.is_ascii_graphic();
        if key.is_empty() {
            Some("it is empty".to_owned())
        } else if key.chars().count() > self.key_chars_max {
            Some(format!("it is longer than {} characters", self.key_chars_max))
        } else if !key.chars().all(printable) {
            Some("it has other characters than printable ASCII".to_owned())
        } else {
            None
        }
    }

    fn clean(&self, value: &str) -> String {
        value.chars().filter(|character| !character.is_control()).take(self.value_chars_max).collect()
    }
}

fn is_reserved(key: &str) -> bool {
    [RUN_TAG, STEP_TAG, IMAGE_TAG].iter().any(|own| own.eq_ignore_ascii_case(key))
}

/// A key as it is shown: hostile ones are long, or move the cursor.
fn quoted(key: &str) -> String {
    format!("{:?}", key.chars().take(60).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::{TagLimits, Tags};
    use crate::ErrorKind;
    use crate::provider::Owner;

    const LIMITS: TagLimits = TagLimits { count_max: 10, key_chars_max: 100, value_chars_max: 256 };

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn metadata_becomes_tags_and_what_cannot_is_told() {
        let long = "v".repeat(300);
        let key = "k".repeat(101);
        let written = tags(&[
            ("display_name", "web 01 ä"),
            ("", "x"),
            (&key, "x"),
            ("two words", "x"),
            ("long", &long),
            ("leeward-run", "mine"),
            ("bell", "a\x07b"),
        ]);
        let fitted = LIMITS.fit(&written);
        let wanted = tags(&[("display_name", "web 01 ä"), ("long", &long[..256]), ("bell", "ab")]);
        assert_eq!(fitted.tags, wanted);
        assert_eq!(fitted.notes.len(), 6, "{:?}", fitted.notes);
        LIMITS.check("p", &fitted.tags, &Owner::new("r", "s")).unwrap();
    }

    #[test]
    fn at_most_so_many_fit_beside_the_owners() {
        let written: Tags = (0..12).map(|number| (format!("key-{number:02}"), String::new())).collect();
        let fitted = LIMITS.fit(&written);
        assert_eq!((fitted.tags.len(), fitted.notes.len()), (8, 4));
        assert!(fitted.notes[0].contains("key-08"), "{:?}", fitted.notes);
        LIMITS.check("p", &fitted.tags, &Owner::new("r", "s")).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let owner = Owner::new("r", "s");
        let refused = |pairs: &[(&str, &str)]| {
            let error = LIMITS.check("p", &tags(pairs), &owner).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            error.to_string()
        };
        assert!(refused(&[("a b", "")]).contains("\"a b\""));
        assert!(refused(&[("a", &"v".repeat(257))]).contains("256"));
        assert!(refused(&[("Leeward-Step", "x")]).contains("own"));
        let many: Tags = (0..9).map(|number| (number.to_string(), String::new())).collect();
        assert!(LIMITS.check("p", &many, &owner).unwrap_err().to_string().contains("there are 11"));
        let owner = Owner::new("r".repeat(257), "s");
        assert!(LIMITS.check("p", &Tags::new(), &owner).unwrap_err().to_string().contains("leeward-run"));
    }
}
