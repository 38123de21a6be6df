//! The query of a request: names and values, percent-decoded; each name at most once, and none that is not known.

use std::collections::BTreeMap;

use leeward_remote::encode::decoded_form;

use super::problem::Problem;

/// The values of a query by their names.
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Takes a query apart.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decoded_form(name), decoded_form(value)) else {
                return Err(Problem::invalid("the query is not percent-encoded text"));
            };
            if !known.contains(&name.as_str()) {
                return Err(Problem::invalid(format!(
                    "{name:?} is not asked here; known are {}",
                    known.join(", ")
                )));
            }
            if values.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid(format!("{name} is given twice")));
            }
        }
        Ok(Self(values))
    }

    /// A text; an empty one is none: it filters nothing.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What stands between commas; nothing where the name is not given. Where it is, no part is empty.
    pub fn list<T: std::str::FromStr<Err = String>>(&self, name: &str) -> Result<Vec<T>, Problem> {
        let parts = self.0.get(name).into_iter().flat_map(|text| text.split(','));
        parts.map(|part| part.parse().map_err(Problem::invalid)).collect()
    }

    /// A value of some other type, of which no value is empty text.
    pub fn value<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let parse =
            |text: &str| text.parse().map_err(|error| Problem::invalid(format!("{name}={text}: {error}")));
        self.0.get(name).map(String::as_str).map(parse).transpose()
    }

    /// How many entries a page is to have: 1 to 1000, 100 where nothing is said.
    pub fn most(&self) -> Result<usize, Problem> {
        match self.value("most")?.unwrap_or(100) {
            most @ 1..=1000 => Ok(most),
            most => Err(Problem::invalid(format!("most={most}: 1 to 1000 entries make a page"))),
        }
    }
}
