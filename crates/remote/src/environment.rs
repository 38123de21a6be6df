//! Where credentials and settings come from: variables and files.

use std::path::{Path, PathBuf};

use crate::profile;

/// The largest file of credentials that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

type Variable = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The variables of the process, or those of a test.
pub struct Environment {
    variable: Box<Variable>,
}

impl Environment {
    /// That of the process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { variable: Box::new(|name| std::env::var(name).ok()) }
    }

    /// One with these variables and no others.
    #[must_use]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let find = move |name: &str| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        Self { variable: Box::new(find) }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The first of these variables that is set.
    #[must_use]
    pub fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    /// The file that a variable names, or one in the home directory.
    #[must_use]
    pub fn file(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        self.get(variable).map(PathBuf::from).or_else(|| Some(Path::new(&self.get("HOME")?).join(in_home)))
    }

    /// A setting in a section of such a file.
    pub(crate) fn section(
        &self,
        variable: &str,
        in_home: &str,
        section: &str,
    ) -> Option<std::collections::BTreeMap<String, String>> {
        profile::section(&read(&self.file(variable, in_home)?)?, section)
    }
}

/// The text of a small file; `None` when it is not there or no text.
pub(crate) fn read(path: &Path) -> Option<String> {
    let size = std::fs::metadata(path).ok()?.len();
    (size <= FILE_BYTES_MAX).then(|| std::fs::read_to_string(path).ok())?
}
