//! From hints to imports: what is heard or seen of an object becomes one run for each of its versions, or nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_store::{ErrorKind as StoreKind, with_causes};

use crate::catalog::{Hint, HintState, NewHint};
use crate::site::{ImportRequest, Inner};
use crate::{Error, ErrorKind, Result};

/// Endings of names that are taken for images, in lower case. What is inside is found by content.
pub const EXTENSIONS: [&str; 13] =
    ["qcow2", "raw", "img", "vdi", "vhd", "vpc", "vhdx", "vmdk", "ova", "gz", "zst", "xz", "iso"];

/// How long a hint waits before it is looked into again, by how often it was.
fn wait(attempts: u32) -> Duration {
    Duration::from_secs(5 << attempts.min(6))
}

/// How often a hint about an object that is not there is looked into: a listing may lag behind an event.
const MISSING_ATTEMPTS: u32 = 5;

/// The longest key under which a run is begun once, in bytes; docs/runs.md, "Bounds".
const KEY_BYTES_MAX: usize = 1024;

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
        if !site.leads() {
            site.hints.wait(Duration::from_millis(500));
            continue;
        }
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
    let Some(source) = site.config.sources.get(name) else { return Ok(()) };
    let objects = site.places.source(name).map_err(Error::Other)?;
    let now = Timestamp::now();
    let mut after: Option<String> = None;
    loop {
        let page = objects.list(&source.prefix, after.as_deref())?;
        // A bucket shows whole objects only; a file is seen while it is being written.
        let is_whole = |modified| !source.is_directory() || rests(modified, now, source.poll_seconds);
        for object in page.objects.iter().filter(|object| is_whole(object.modified)) {
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

/// Whether a file was not written for so many seconds. One whose time lies ahead is as fresh as one whose time lies back:
/// clocks differ. One that is far ahead is none that is being written.
fn rests(modified: Option<Timestamp>, now: Timestamp, seconds: u64) -> bool {
    modified
        .is_none_or(|modified| now.duration_since(modified).unsigned_abs() >= Duration::from_secs(seconds))
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

#[derive(Debug, PartialEq, Eq)]
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
    let unique = unique_key(&hint.source, &hint.object, &head.version.0);
    match site.import(&request, &hint.cause, Some(&unique)) {
        Ok((run, true)) => Decision::Begun(run.to_string()),
        Ok((run, false)) => Decision::Begun(format!("{run} (begun before)")),
        Err(error) => refused(&error),
    }
}

/// What becomes of a hint whose import was refused: what makes no sense now makes none later.
fn refused(error: &Error) -> Decision {
    let why = with_causes(error);
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::NotFound => Decision::Ignored(why),
        _ => Decision::Later(why),
    }
}

/// The key under which a version of an object is imported once: it may be told of many times, and by several daemons. Names
/// may be longer than keys; what a name has no room for is told by its digest.
fn unique_key(source: &str, object: &str, version: &str) -> String {
    let key = format!("import\n{source}\n{object}\n{version}");
    match key.len() <= KEY_BYTES_MAX {
        true => key,
        false => format!("import\n{source}\n{}", blake3::hash(format!("{object}\n{version}").as_bytes())),
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
    use std::path::Path;
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::{Config, Site};

    /// A site in a folder, with a source `inbox` and a target `volumes`.
    fn site(folder: &Path, location: &str, watch: &str) -> Site {
        let text = format!(
            "name='a'\nstate='state'\n[source.inbox]\nlocation='{location}'\ntarget='volumes'\n{watch}\n\
             [target.volumes]\nkind='directory'\npath='volumes'\n"
        );
        std::fs::create_dir_all(folder.join("inbox")).unwrap();
        Site::start(Config::parse(&text, folder).unwrap(), "test", None).unwrap()
    }

    /// What was heard, once that is of so many objects and nothing of it waits to be looked into.
    fn heard(site: &Site, count: usize) -> Vec<Hint> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let hints = site.hints(None, 100).unwrap();
            let settled = hints.iter().filter(|hint| hint.state != HintState::Waiting).count();
            if settled >= count {
                return hints;
            }
            assert!(Instant::now() < end, "{hints:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn created(bucket: &str, object: &str) -> serde_json::Value {
        json!({"type": "example.created", "data": {"bucket": bucket, "object": object}})
    }

    #[test]
    fn endings_are_judged_without_their_case() {
        for name in ["a.qcow2", "dir.x/a.b.VMDK", "x.raw.gz"] {
            may_be_image(name).unwrap();
        }
        for name in ["a", "a.txt", "dir.raw/a", "a.raw/", ""] {
            may_be_image(name).unwrap_err();
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_tried_for_ever() {
        let invalid = leeward_runs::Error::Invalid("no plan".to_owned());
        assert!(matches!(refused(&invalid.into()), Decision::Ignored(why) if why.contains("no plan")));
        assert_eq!(refused(&Error::NotFound("x".to_owned())), Decision::Ignored("x".to_owned()));
        assert_eq!(refused(&Error::Other("x".to_owned())), Decision::Later("x".to_owned()));
    }

    #[test]
    fn an_object_with_the_longest_name_is_imported_once_for_each_version() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{}.raw", ["d", "e", "f", "g", "h"].map(|part| part.repeat(200)).join("/"));
        let path = folder.path().join("inbox").join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let site = site(folder.path(), "inbox", "watch='events'");
        let mut runs = Vec::new();
        for told in 1..=3 {
            assert_eq!(site.hear("inbox", &created("any", &name)).unwrap(), 1);
            let hint = heard(&site, told).swap_remove(0);
            assert_eq!(hint.state, HintState::Acted, "{:?}", hint.outcome);
            runs.push(hint.outcome.unwrap());
            if told == 2 {
                std::fs::write(&path, vec![2; 2 << 20]).unwrap();
            }
        }
        assert_eq!(runs[1], format!("{} (begun before)", runs[0]));
        assert!(!runs[2].contains(&runs[0]), "another version is another import");
        site.stop();
    }

    #[test]
    fn events_of_a_bucket_are_heard_by_their_names_under_the_location() {
        let folder = tempfile::tempdir().unwrap();
        // Nobody is asked: there are no such credentials. What matters is what would be looked for.
        let location = "s3://b/images?region=r&profile=leeward-has-no-such-profile";
        let site = site(folder.path(), location, "watch='events'");
        assert_eq!(site.hear("inbox", &created("b", "images/web/a.raw")).unwrap(), 1);
        assert_eq!(site.hear("inbox", &created("b", "other/a.raw")).unwrap(), 0);
        assert_eq!(site.hear("inbox", &created("c", "images/a.raw")).unwrap(), 0);
        let hints = site.hints(None, 10).unwrap();
        let told: Vec<_> = hints.iter().map(|hint| (hint.object.as_str(), hint.state)).collect();
        assert_eq!(told, [("other/a.raw", HintState::Ignored), ("web/a.raw", HintState::Waiting)]);
        assert!(hints[0].outcome.as_ref().unwrap().contains("not under the source's location"));
        site.stop();
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_by_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let write = |name: &str, modified: SystemTime| {
            let path = folder.path().join("inbox").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(path).unwrap();
            file.set_len(1 << 20).unwrap();
            file.set_modified(modified).unwrap();
        };
        let now = SystemTime::now();
        write("a-fresh.raw", now);
        write("b-of-another-clock.raw", now + hour / 2);
        write("c-rests.raw", now - 2 * hour);
        write("d-of-tomorrow.raw", now + 24 * hour);
        let site = site(folder.path(), "inbox", "watch='poll'\npoll_seconds=3600");
        let hints = heard(&site, 2);
        let names: Vec<_> = hints.iter().rev().map(|hint| hint.object.as_str()).collect();
        assert_eq!(names, ["c-rests.raw", "d-of-tomorrow.raw"]);
        site.stop();
    }
}
