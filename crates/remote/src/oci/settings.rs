//! Settings of a bucket: versioning, retention rules (which lock objects), life cycle rules.

use serde::Deserialize;

use crate::http::{Method, Request, Response};
use crate::service::Send;
use crate::settings::{Known, LifecycleRule, Settings, concerns};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bucket {
    #[serde(default)]
    versioning: Option<String>,
}

#[derive(Deserialize)]
struct Retention {
    items: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Policy {
    items: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: String,
    action: String,
    is_enabled: bool,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    object_name_filter: Option<Filter>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    inclusion_prefixes: Option<Vec<String>>,
}

/// Asks for the settings; `bucket` is the bucket's path.
pub(super) fn read(origin: &str, bucket: &str, prefix: &str, send: &Send<'_>) -> Settings {
    let ask = |path: &str| send(Request::new(Method::GET, origin, format!("{bucket}{path}")));
    let versioning =
        told::<Bucket>(ask("")).map(|bucket| bucket.versioning.is_some_and(|state| state == "Enabled"));
    let locked = told::<Retention>(ask("/retentionRules")).map(|rules| !rules.items.is_empty());
    let lifecycle = match ask("/l") {
        // A bucket without a policy has none to show.
        Ok(response) if response.status == 404 => Ok(Vec::new()),
        other => told::<Policy>(other).map(|policy| rules(policy, prefix)),
    };
    Settings { versioning: known(versioning), object_lock: known(locked), lifecycle: known(lifecycle) }
}

fn known<T>(told: Result<T, String>) -> Known<T> {
    told.map_or_else(Known::Untold, Known::Is)
}

fn told<T: for<'a> Deserialize<'a>>(answer: leeward_store::Result<Response>) -> Result<T, String> {
    let response = answer.map_err(|error| error.to_string())?;
    if !response.is_success() {
        return Err(format!("the service answered {}", response.status));
    }
    serde_json::from_slice(&response.body).map_err(|error| format!("the answer makes no sense ({error})"))
}

fn rules(policy: Policy, prefix: &str) -> Vec<LifecycleRule> {
    let mut found = Vec::new();
    for rule in policy.items.into_iter().filter(|rule| rule.is_enabled) {
        // Unfinished uploads and old versions are no objects of a repository.
        if rule.target.as_deref().is_some_and(|target| target != "objects") {
            continue;
        }
        let prefixes = rule.object_name_filter.unwrap_or_default().inclusion_prefixes.unwrap_or_default();
        let prefixes = if prefixes.is_empty() { vec![String::new()] } else { prefixes };
        for concerned in prefixes.into_iter().filter(|concerned| concerns(concerned, prefix)) {
            found.push(LifecycleRule {
                id: rule.name.clone(),
                prefix: concerned,
                action: rule.action.clone(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Policy, rules};

    #[test]
    fn only_rules_that_touch_the_repository_are_told() {
        let policy: Policy = serde_json::from_str(
            r#"{"items": [
                {"name": "all", "action": "DELETE", "isEnabled": true, "timeAmount": 30, "timeUnit": "DAYS"},
                {"name": "off", "action": "DELETE", "isEnabled": false},
                {"name": "uploads", "action": "ABORT", "isEnabled": true, "target": "multipart-uploads"},
                {"name": "two", "action": "ARCHIVE", "isEnabled": true, "target": "objects",
                 "objectNameFilter": {"inclusionPrefixes": ["logs/", "repo/packs/"]}}]}"#,
        )
        .unwrap();
        let told: Vec<_> = rules(policy, "repo/").into_iter().map(|rule| (rule.id, rule.prefix)).collect();
        assert_eq!(told, [("all".into(), String::new()), ("two".into(), "repo/packs/".into())]);
    }
}
