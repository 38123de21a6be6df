//! Settings of a bucket: versioning, object lock, lifecycle rules.

use roxmltree::Node;

use crate::answer::Refusal;
use crate::http::Response;
use crate::settings::{Known, LifecycleRule, Settings, concerns};
use crate::xml;

pub(crate) type Get<'a> = dyn Fn(&'static str) -> leeward_store::Result<Response> + 'a;

/// Asks for the settings. One that the service does not tell is unknown, not a failure: keys are often not allowed to ask.
pub(super) fn read(prefix: &str, get: &Get<'_>) -> Settings {
    Settings {
        versioning: versioning(get),
        object_lock: known(
            ask("object-lock", get),
            |refusal| (refusal.code == "ObjectLockConfigurationNotFoundError").then_some(false),
            |root| Ok(xml::text(root, "ObjectLockEnabled") == Some("Enabled")),
        ),
        lifecycle: lifecycle(get, "NoSuchLifecycleConfiguration", &|root| rules(root, prefix)),
    }
}

fn ask(setting: &'static str, get: &Get<'_>) -> Answer {
    let response = get(setting).map_err(|error| error.to_string())?;
    if response.is_success() { Ok(Ok(response.body)) } else { Ok(Err(xml::refusal(&response))) }
}

/// Whether old versions are kept; S3, Google and Aliyun say it alike.
pub(crate) fn versioning(get: &Get<'_>) -> Known<bool> {
    known(ask("versioning", get), |_| None, |root| Ok(xml::text(root, "Status") == Some("Enabled")))
}

/// The rules that take objects away, as `rules` reads them; `none` is the service's word for none.
pub(crate) fn lifecycle(
    get: &Get<'_>,
    none: &str,
    rules: &dyn Fn(Node<'_, '_>) -> Vec<LifecycleRule>,
) -> Known<Vec<LifecycleRule>> {
    known(ask("lifecycle", get), |refusal| (refusal.code == none).then(Vec::new), |root| Ok(rules(root)))
}

type Answer = Result<Result<Vec<u8>, Refusal>, String>;

fn known<T>(
    answer: Answer,
    not_set: impl Fn(&Refusal) -> Option<T>,
    read: impl Fn(Node<'_, '_>) -> Result<T, String>,
) -> Known<T> {
    match answer {
        Ok(Ok(body)) => match xml::read(&body, read) {
            Ok(value) => Known::Is(value),
            Err(what) => Known::Untold(what),
        },
        Ok(Err(refusal)) => match not_set(&refusal) {
            Some(value) => Known::Is(value),
            None if refusal.status == 501 || refusal.code == "NotImplemented" => Known::Absent,
            None => Known::Untold(
                format!("the service answered {} {}", refusal.status, refusal.code).trim_end().to_owned(),
            ),
        },
        Err(what) => Known::Untold(what),
    }
}

/// The enabled rules that delete or move objects under `prefix`. Rules about unfinished uploads and old versions do not
/// touch what a repository needs.
pub(crate) fn rules(root: Node<'_, '_>, prefix: &str) -> Vec<LifecycleRule> {
    xml::children(root, "Rule")
        .filter(|rule| xml::text(*rule, "Status") == Some("Enabled"))
        .filter_map(|rule| {
            let action = action(rule)?;
            let of_rule = rule_prefix(rule);
            let id = xml::text(rule, "ID").unwrap_or("(without a name)").to_owned();
            concerns(&of_rule, prefix).then_some(LifecycleRule { id, prefix: of_rule, action })
        })
        .collect()
}

fn action(rule: Node<'_, '_>) -> Option<String> {
    let when = |node| {
        let days = xml::text(node, "Days").map(|days| format!("after {days} days"));
        let date = || xml::text(node, "Date").map(|date| format!("on {date}"));
        // Aliyun's word for a rule about all that is older than a date.
        let before = || xml::text(node, "CreatedBeforeDate").map(|date| format!("made before {date}"));
        days.or_else(date).or_else(before)
    };
    let deletes = xml::child(rule, "Expiration").and_then(when).map(|when| format!("deletes objects {when}"));
    let moves = xml::child(rule, "Transition").and_then(|node| {
        let class = xml::text(node, "StorageClass").unwrap_or("another class");
        Some(format!("moves objects to {class} {}", when(node)?))
    });
    match (deletes, moves) {
        (Some(deletes), Some(moves)) => Some(format!("{deletes} and {moves}")),
        (deletes, moves) => deletes.or(moves),
    }
}

/// The prefix of a rule: its own, or that of its filter. A rule for a tag or a size is taken for one about its prefix:
/// better a warning too many.
fn rule_prefix(rule: Node<'_, '_>) -> String {
    let filter = xml::child(rule, "Filter");
    let both = filter.and_then(|filter| xml::child(filter, "And"));
    [both, filter, Some(rule)]
        .into_iter()
        .flatten()
        .find_map(|node| xml::text(node, "Prefix"))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::rules;
    use crate::xml;

    #[test]
    fn rules_that_delete_or_move_are_found_and_others_are_not() {
        let text = br"<LifecycleConfiguration>
            <Rule><ID>eat</ID><Status>Enabled</Status><Filter><Prefix>backups/</Prefix></Filter>
              <Expiration><Days>30</Days></Expiration></Rule>
            <Rule><ID>off</ID><Status>Disabled</Status><Prefix></Prefix><Expiration><Days>1</Days></Expiration></Rule>
            <Rule><ID>elsewhere</ID><Status>Enabled</Status><Prefix>logs/</Prefix><Expiration><Days>1</Days></Expiration></Rule>
            <Rule><ID>parts</ID><Status>Enabled</Status><Filter/>
              <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
            <Rule><ID>cold</ID><Status>Enabled</Status><Filter><And><Prefix>back</Prefix><Tag/></And></Filter>
              <Transition><Days>9</Days><StorageClass>GLACIER</StorageClass></Transition></Rule>
            </LifecycleConfiguration>";
        let found = xml::read(text, |root| Ok(rules(root, "backups/web/"))).unwrap();
        let shown: Vec<_> = found.iter().map(|rule| (rule.id.as_str(), rule.action.as_str())).collect();
        assert_eq!(
            shown,
            [("eat", "deletes objects after 30 days"), ("cold", "moves objects to GLACIER after 9 days")]
        );
    }
}
