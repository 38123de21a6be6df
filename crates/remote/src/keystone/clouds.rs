//! `clouds.yaml`, where OpenStack's own clients keep their accounts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use yaml_rust2::{Yaml, YamlLoader};

use crate::environment::{Environment, read};

/// The settings of one cloud, under the names of the `OS_` variables that mean the same.
///
/// # Errors
/// There is no such file, it is no YAML, or it has no such cloud.
pub(crate) fn find(cloud: &str, environment: &Environment) -> Result<BTreeMap<String, String>, String> {
    let (path, text) = places(environment)
        .into_iter()
        .find_map(|path| read(&path).map(|text| (path, text)))
        .ok_or("OS_CLOUD is set, but there is no clouds.yaml here, in ~/.config/openstack or in /etc/openstack; set \
                OS_CLIENT_CONFIG_FILE to it")?;
    let mut found = entry(&text, cloud).map_err(|what| format!("{}: {what}", path.display()))?;
    // Passwords may stand in a file of their own beside it.
    let secure = path.with_file_name("secure.yaml");
    if let Some(more) = read(&secure).and_then(|text| entry(&text, cloud).ok()) {
        found.extend(more);
    }
    Ok(found)
}

fn places(environment: &Environment) -> Vec<PathBuf> {
    if let Some(path) = environment.get("OS_CLIENT_CONFIG_FILE") {
        return vec![path.into()];
    }
    let mut places = vec![PathBuf::from("clouds.yaml")];
    places.extend(
        environment.get("HOME").map(|home| PathBuf::from(home).join(".config/openstack/clouds.yaml")),
    );
    places.push("/etc/openstack/clouds.yaml".into());
    places
}

fn entry(text: &str, cloud: &str) -> Result<BTreeMap<String, String>, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| format!("it is no YAML ({error})"))?;
    let clouds = documents.first().and_then(|document| document["clouds"].as_hash());
    let clouds = clouds.ok_or("it lists no clouds")?;
    let found = clouds.get(&Yaml::String(cloud.to_owned())).ok_or_else(|| {
        let known: Vec<&str> = clouds.keys().filter_map(Yaml::as_str).collect();
        format!("there is no cloud {cloud}; there are {}", known.join(", "))
    })?;
    let mut settings = BTreeMap::new();
    collect(found, &mut settings);
    collect(&found["auth"], &mut settings);
    Ok(settings)
}

/// Takes the plain values of a mapping: `auth_url` becomes `OS_AUTH_URL`.
fn collect(mapping: &Yaml, settings: &mut BTreeMap<String, String>) {
    for (key, value) in mapping.as_hash().into_iter().flatten() {
        let value = match value {
            Yaml::String(text) | Yaml::Real(text) => text.clone(),
            Yaml::Integer(number) => number.to_string(),
            _ => continue,
        };
        if let Some(key) = key.as_str() {
            settings.insert(format!("OS_{}", key.to_uppercase()), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::entry;

    const TEXT: &str = "clouds:\n  one:\n    region_name: R\n    interface: internal\n    auth:\n      auth_url: http://k/v3\n      \
                        username: u\n      password: 0123\n  two: {auth: {}}\n";

    #[test]
    fn the_entry_of_a_cloud_is_read() {
        let found = entry(TEXT, "one").unwrap();
        let value = |name: &str| found.get(name).map(String::as_str);
        assert_eq!((value("OS_REGION_NAME"), value("OS_INTERFACE")), (Some("R"), Some("internal")));
        assert_eq!((value("OS_AUTH_URL"), value("OS_USERNAME")), (Some("http://k/v3"), Some("u")));
        assert!(entry(TEXT, "three").unwrap_err().contains("one, two"));
        assert!(entry("a: [", "one").unwrap_err().contains("no YAML"));
        assert!(entry("", "one").is_err() && entry("clouds: 3", "one").is_err());
    }
}
