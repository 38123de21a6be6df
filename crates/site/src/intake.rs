//! From hints to imports: what is heard or seen of an object becomes one run for each of its versions, or nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_store::ErrorKind as StoreKind;

use crate::catalog::{Hint, HintState, NewHint};
use crate::site::{ImportRequest, Inner};
use crate::{Error, Result};

/// Endings of names that are taken for images, in lower case. What is inside is found by content.
pub const EXTENSIONS: [&str; 13] =
    ["qcow2", "raw", "img", "vdi", "vhd", "vpc", "vhdx", "vmdk", "ova", "gz", "zst", "xz", "iso"];

/// How long a hint waits before it is looked into again, by how often it was.
fn wait(attempts: u32) -> Duration {
    Duration::from_secs(5 << attempts.min(6))
}

/// How often a hint about an object that is not there is looked into: a listing may lag behind an event.
const MISSING_ATTEMPTS: u32 = 5;

/// Looks into hints, and at sources that are polled, until the site ends.
pub(crate) fn work(site: &Arc<Inner>, stop: &AtomicBool) {
    let mut looks: Vec<(String, Option<Instant>)> = site
        .config
        .sources
        .iter()
        .filter(|(_, source)| source.watch.polls())
        .map(|(name, _)| (name.clone(), None))
        .collect();
    while !stop.load(Ordering::Acquire) {
        for (name, looked) in &mut looks {
            let period = site.config.sources.get(name).map_or(60, |source| source.poll_seconds);
            if looked.is_none_or(|looked| looked.elapsed() >= Duration::from_secs(period)) {
                *looked = Some(Instant::now());
                if let Err(error) = look(site, name) {
                    site.complain(&format!("source {name} cannot be looked at: {error}"));
                }
            }
        }
        if let Err(error) = act(site) {
            site.complain(&format!("events cannot be looked into: {error}"));
        }
        site.hints.wait(Duration::from_millis(500));
    }
}

/// Lists a source and hears of every object that has another version than at the look before.
fn look(site: &Arc<Inner>, name: &str) -> Result<()> {
    let objects = site.places.source(name).map_err(Error::Other)?;
    let prefix = site.config.sources.get(name).map_or("", |source| source.prefix.as_str());
    let mut after: Option<String> = None;
    loop {
        let page = objects.list(prefix, after.as_deref())?;
        for object in &page.objects {
            let modified = object.modified.map(|time| time.to_string()).unwrap_or_default();
            let version = object
                .version
                .as_ref()
                .map_or_else(|| format!("{} {modified}", object.bytes), |version| version.0.clone());
            if site.catalog.has_seen(name, &object.name, &version)? {
                continue;
            }
            let hint = NewHint {
                source: name.to_owned(),
                object: object.name.clone(),
                version: None,
                cause: "poll".to_owned(),
            };
            site.catalog.hear(&hint, Timestamp::now())?;
            site.catalog.saw(name, &object.name, &version)?;
        }
        if !page.goes_on || page.last.is_none() {
            return Ok(());
        }
        after = page.last;
    }
}

fn act(site: &Arc<Inner>) -> Result<()> {
    loop {
        let due = site.catalog.due(Timestamp::now(), 100)?;
        if due.is_empty() {
            return Ok(());
        }
        for hint in due {
            match decide(site, &hint) {
                Decision::Begun(outcome) => site.catalog.settle(hint.number, HintState::Acted, &outcome)?,
                Decision::Ignored(why) => {
                    site.complain(&format!(
                        "{}: {}: nothing is imported: {why}",
                        hint.source,
                        shown(&hint.object)
                    ));
                    site.catalog.settle(hint.number, HintState::Ignored, &why)?;
                }
                Decision::Later(why) => {
                    let until = Timestamp::now() + wait(hint.attempts);
                    site.catalog.postpone(hint.number, until, &why)?;
                }
            }
        }
    }
}

enum Decision {
    Begun(String),
    Ignored(String),
    Later(String),
}

fn decide(site: &Arc<Inner>, hint: &Hint) -> Decision {
    let Some(source) = site.config.sources.get(&hint.source) else {
        return Decision::Ignored("the site has no such source any more".to_owned());
    };
    let Some(target) = source.target.clone() else {
        return Decision::Ignored("the source has no target".to_owned());
    };
    if !hint.object.starts_with(&source.prefix) {
        return Decision::Ignored(format!("its name does not begin with {:?}", source.prefix));
    }
    if let Err(why) = may_be_image(&hint.object) {
        return Decision::Ignored(why);
    }
    if let Err(error) = objects_name(&hint.object) {
        return Decision::Ignored(error);
    }
    let objects = match site.places.source(&hint.source) {
        Ok(objects) => objects,
        Err(what) => return Decision::Later(what),
    };
    let head = match objects.head(&hint.object) {
        Ok(head) => head,
        Err(error) if error.kind() == StoreKind::NotFound && hint.attempts >= MISSING_ATTEMPTS => {
            return Decision::Ignored("there is no such object".to_owned());
        }
        Err(error) => return Decision::Later(error.to_string()),
    };
    let request = ImportRequest {
        source: hint.source.clone(),
        object: hint.object.clone(),
        target: Some(target),
        version: Some(head.version.0.clone()),
        ..ImportRequest::default()
    };
    // One run for each version: the object may be told of many times, and by several daemons.
    let unique = format!("import\n{}\n{}\n{}", hint.source, hint.object, head.version.0);
    match site.import(&request, &hint.cause, Some(&unique)) {
        Ok((run, true)) => Decision::Begun(run.to_string()),
        Ok((run, false)) => Decision::Begun(format!("{run} (begun before)")),
        Err(error) => Decision::Later(error.to_string()),
    }
}

fn objects_name(object: &str) -> Result<(), String> {
    leeward_remote::objects::check_name("the source", object).map_err(|error| error.to_string())
}

/// Whether a name is one of an image, by its ending.
fn may_be_image(object: &str) -> Result<(), String> {
    let ending = object
        .rsplit('/')
        .next()
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, ending)| ending.to_lowercase());
    match ending {
        Some(ending) if EXTENSIONS.contains(&ending.as_str()) => Ok(()),
        Some(ending) => {
            Err(format!("{:?} is no ending of an image; taken are {}", shown(&ending), EXTENSIONS.join(", ")))
        }
        None => Err(format!("the name has no ending; taken are {}", EXTENSIONS.join(", "))),
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_judged_without_their_case() {
        for name in ["a.qcow2", "dir.x/a.b.VMDK", "x.raw.gz"] {
            may_be_image(name).unwrap();
        }
        for name in ["a", "a.txt", "dir.raw/a", "a.raw/", ""] {
            may_be_image(name).unwrap_err();
        }
    }
}
