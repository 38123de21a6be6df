//! Files of sections and settings, as Amazon's tools keep them.

use std::collections::BTreeMap;

/// The settings of one section: `[name]`, or `[profile name]`.
pub(crate) fn section(text: &str, name: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(title) =
            line.strip_prefix('[').and_then(|line| line.split_once(']')).map(|(title, _)| title.trim())
        {
            inside =
                title == name || title.strip_prefix("profile ").is_some_and(|title| title.trim() == name);
            if inside {
                found.get_or_insert_with(BTreeMap::new);
            }
        } else if inside
            && !line.starts_with(['#', ';'])
            && let (Some(settings), Some((key, value))) = (found.as_mut(), line.split_once('='))
        {
            settings.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let text = "[default]\nregion = a\n# key = no\n[profile work]\nregion=b = c\n[other]\nregion = d\n";
        assert_eq!(section(text, "work").unwrap()["region"], "b = c");
        assert_eq!(section(text, "default").unwrap().len(), 1);
        assert_eq!(section(text, "missing"), None);
    }
}
