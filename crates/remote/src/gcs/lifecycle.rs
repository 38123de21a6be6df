//! Google's lifecycle rules: an action and the conditions under which it is taken.

use roxmltree::Node;

use crate::settings::{LifecycleRule, concerns};
use crate::xml;

/// The rules that delete or move live objects under `prefix`.
pub(super) fn rules(root: Node<'_, '_>, prefix: &str) -> Vec<LifecycleRule> {
    let mut found = Vec::new();
    for (number, rule) in xml::children(root, "Rule").enumerate() {
        let (Some(action), condition) = (action(rule), xml::child(rule, "Condition")) else { continue };
        // A rule about old versions does not touch what a repository needs.
        if condition.and_then(|condition| xml::text(condition, "IsLive")) == Some("false") {
            continue;
        }
        let mut prefixes: Vec<String> = condition
            .iter()
            .flat_map(|condition| xml::children(*condition, "MatchesPrefix"))
            .map(|node| node.text().unwrap_or_default().to_owned())
            .collect();
        if prefixes.is_empty() {
            prefixes.push(String::new());
        }
        found.extend(prefixes.into_iter().filter(|of_rule| concerns(of_rule, prefix)).map(|of_rule| {
            LifecycleRule { id: format!("number {}", number + 1), prefix: of_rule, action: action.clone() }
        }));
    }
    found
}

fn action(rule: Node<'_, '_>) -> Option<String> {
    let action = xml::child(rule, "Action")?;
    if xml::child(action, "Delete").is_some() {
        return Some("deletes objects".to_owned());
    }
    let class = xml::text(action, "SetStorageClass")?;
    Some(format!("moves objects to {class}"))
}

#[cfg(test)]
mod tests {
    use super::rules;
    use crate::xml;

    #[test]
    fn rules_that_delete_or_move_live_objects_are_found() {
        let text = br"<LifecycleConfiguration>
            <Rule><Action><Delete/></Action><Condition><Age>30</Age></Condition></Rule>
            <Rule><Action><Delete/></Action><Condition><IsLive>false</IsLive></Condition></Rule>
            <Rule><Action><AbortIncompleteMultipartUpload/></Action><Condition><Age>1</Age></Condition></Rule>
            <Rule><Action><SetStorageClass>COLDLINE</SetStorageClass></Action>
              <Condition><MatchesPrefix>logs/</MatchesPrefix><MatchesPrefix>repo/</MatchesPrefix></Condition></Rule>
            </LifecycleConfiguration>";
        let found = xml::read(text, |root| Ok(rules(root, "repo/"))).unwrap();
        let shown: Vec<_> =
            found.iter().map(|rule| (rule.id.as_str(), rule.prefix.as_str(), rule.action.as_str())).collect();
        assert_eq!(
            shown,
            [("number 1", "", "deletes objects"), ("number 4", "repo/", "moves objects to COLDLINE")]
        );
    }
}
