//! The catalogue that comes with a token: which service is where.

use serde::Deserialize;

/// A service.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    region_id: Option<String>,
    url: String,
}

impl Endpoint {
    fn region(&self) -> &str {
        self.region_id.as_deref().or(self.region.as_deref()).unwrap_or_default()
    }
}

/// The address of a service in a region; without a region there must be only one. `kinds` are the types under which it may
/// be listed, the one that is wanted most first; `what` is what people call it: `object store`.
///
/// # Errors
/// There is none, or there are several: which.
pub(crate) fn address<'a>(
    catalogue: &'a [Entry],
    (what, kinds): (&str, &[&str]),
    region: Option<&str>,
    interface: &str,
) -> Result<&'a str, String> {
    let listed = |kind: &&&str| catalogue.iter().any(|entry| entry.kind == ***kind);
    let kind = kinds.iter().find(listed).copied().unwrap_or_default();
    let services = catalogue.iter().filter(|entry| entry.kind == kind);
    let endpoints: Vec<&Endpoint> = services
        .flat_map(|entry| &entry.endpoints)
        .filter(|endpoint| endpoint.interface == interface)
        .collect();
    let fitting: Vec<&&Endpoint> =
        endpoints.iter().filter(|endpoint| region.is_none_or(|region| endpoint.region() == region)).collect();
    match fitting[..] {
        [only] => Ok(&only.url),
        [] if endpoints.is_empty() => Err(format!(
            "Keystone's catalogue has no {what} with the interface {interface}; see OS_INTERFACE, and that the project \
             may use it"
        )),
        [] => Err(format!(
            "Keystone's catalogue has no {what} in the region {}, but in {}; set OS_REGION_NAME",
            region.unwrap_or_default(),
            regions(&endpoints)
        )),
        _ => Err(format!(
            "there is more than one {what}, in {}; set OS_REGION_NAME to one of these",
            regions(&endpoints)
        )),
    }
}

fn regions(endpoints: &[&Endpoint]) -> String {
    endpoints.iter().map(|endpoint| endpoint.region()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{Entry, address};

    fn object_store<'a>(
        catalogue: &'a [Entry],
        region: Option<&str>,
        interface: &str,
    ) -> Result<&'a str, String> {
        address(catalogue, ("object store", &["object-store"]), region, interface)
    }

    #[test]
    fn the_store_of_a_region_is_found() {
        let catalogue: Vec<Entry> = serde_json::from_str(
            r#"[{"type": "compute", "endpoints": []},
                {"type": "object-store", "endpoints": [
                    {"interface": "public", "region_id": "one", "url": "http://a"},
                    {"interface": "admin", "region_id": "one", "url": "http://b"},
                    {"interface": "public", "region": "two", "url": "http://c"}]}]"#,
        )
        .unwrap();
        assert_eq!(object_store(&catalogue, Some("one"), "public").unwrap(), "http://a");
        assert_eq!(object_store(&catalogue, Some("two"), "public").unwrap(), "http://c");
        assert_eq!(object_store(&catalogue, None, "admin").unwrap(), "http://b");
        assert!(object_store(&catalogue, None, "public").unwrap_err().contains("one, two"));
        assert!(object_store(&catalogue, Some("three"), "public").unwrap_err().contains("three"));
        assert!(object_store(&catalogue, None, "internal").unwrap_err().contains("OS_INTERFACE"));
        assert!(object_store(&[], None, "public").is_err());
    }

    #[test]
    fn a_service_is_found_under_any_of_its_names() {
        let catalogue: Vec<Entry> = serde_json::from_str(
            r#"[{"type": "volumev2", "endpoints": [{"interface": "public", "region": "r", "url": "http://two"}]},
                {"type": "volumev3", "endpoints": [{"interface": "public", "region": "r", "url": "http://three"}]}]"#,
        )
        .unwrap();
        let found = address(&catalogue, ("block storage", &["block-storage", "volumev3"]), None, "public");
        assert_eq!(found.unwrap(), "http://three");
    }
}
