//! What the image is called that an import's snapshot is added to.
//!
//! The site's configuration has a template, as `imports/{name}`; what is put into it comes from outside: from the name of the object
//! and of the disk in it, or from who asks for the import. Names of images take few characters. What they do not take becomes `_`,
//! and eight digits of a digest of the whole follow, so that two objects never end in one line of snapshots because their names
//! were made plain; the same object has the same image each time.

use std::str::FromStr;

use leeward_repository::ImageName;

/// The longest part between slashes that is made of a name from outside, in bytes.
const PART_BYTES_MAX: usize = 64;
/// The longest name of an image, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// What the names of images begin with that are the site's own: the daemon's state, which a person may restore.
const RESERVED: &str = "leeward/";
/// Endings that say how a disk is packed and not what it is.
const ENDINGS: [&str; 14] = [
    ".gz", ".zst", ".xz", ".ova", ".tar", ".qcow2", ".qcow", ".raw", ".img", ".vmdk", ".vhd", ".vhdx",
    ".vdi", ".bin",
];

/// What is put into a template.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// The source, as the site has it.
    pub source: &'a str,
    /// The object's whole name.
    pub object: &'a str,
    /// Which disk of it; empty where there is one only.
    pub disk: &'a str,
    /// The name that was asked for; slashes in it are those of the image's name.
    pub given: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name,
    Stem,
    Folder,
    Source,
}

/// The configured template of images' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTemplate(Vec<Part>);

impl Default for ImageTemplate {
    fn default() -> Self {
        Self(vec![Part::Text("imports/".to_owned()), Part::Name])
    }
}

impl FromStr for ImageTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (plain, behind) =
                rest.split_once('{').map_or((rest, None), |(plain, behind)| (plain, Some(behind)));
            if !plain.is_empty() {
                parts.push(Part::Text(plain.to_owned()));
            }
            let Some(behind) = behind else { break };
            let (word, behind) = behind.split_once('}').ok_or("a { has no }")?;
            parts.push(match word {
                "name" => Part::Name,
                "stem" => Part::Stem,
                "folder" => Part::Folder,
                "source" => Part::Source,
                other => {
                    return Err(format!(
                        "{{{other}}} is unknown; there are {{name}}, {{stem}}, {{folder}} and {{source}}"
                    ));
                }
            });
            rest = behind;
        }
        let template = Self(parts);
        if !template.0.iter().any(|part| matches!(part, Part::Name | Part::Stem)) {
            return Err("without {name} or {stem} all disks would be one image".to_owned());
        }
        let sample = Names { source: "source", object: "folder/name.raw", disk: "", given: None };
        template.image(&sample)?;
        Ok(template)
    }
}

impl ImageTemplate {
    /// The image for a disk.
    ///
    /// # Errors
    /// The name is one that is reserved, or the template's own text cannot stand in a name: in words.
    pub(super) fn image(&self, names: &Names<'_>) -> Result<ImageName, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Source => text.push_str(&segment(names.source)),
                // Who gives a name does not mean a folder of the bucket.
                Part::Folder if names.given.is_some() => {}
                Part::Folder => text.push_str(&folder(names.object)),
                Part::Name => text.push_str(&named(names, |name| name)),
                Part::Stem => text.push_str(&named(names, stem)),
            }
        }
        // An object that lies in no folder leaves an empty part.
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        let whole = shortened(&parts.join("/"));
        let image: ImageName = whole.parse().map_err(|error: leeward_repository::Error| error.to_string())?;
        match whole.starts_with(RESERVED) {
            true => Err(format!("{image}: names that begin with {RESERVED} are the site's own")),
            false => Ok(image),
        }
    }
}

/// The name of a disk, made plain. Each part of an object's name goes through `plain` first.
fn named(names: &Names<'_>, plain: fn(&str) -> &str) -> String {
    match (names.given, names.disk) {
        (Some(given), _) => segments(given.split('/')),
        (None, "") => segment(plain(last(names.object))),
        (None, disk) => segment(&format!("{}-{}", plain(last(names.object)), plain(last(disk)))),
    }
}

fn last(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or_default()
}

fn folder(object: &str) -> String {
    let mut parts: Vec<&str> = object.split(['/', '\\']).collect();
    parts.pop();
    segments(parts.into_iter())
}

fn segments<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).map(segment).collect();
    if parts.is_empty() { String::new() } else { parts.join("/") }
}

/// A name without what says how it is packed; never empty where the name is not.
fn stem(name: &str) -> &str {
    let mut stem = name;
    loop {
        let is_ending = |ending: &&'static str| {
            let at = stem.len().checked_sub(ending.len()).filter(|at| *at > 0);
            at.is_some_and(|at| stem.is_char_boundary(at) && stem[at..].eq_ignore_ascii_case(ending))
        };
        let Some(ending) = ENDINGS.iter().copied().find(is_ending) else { return stem };
        stem = &stem[..stem.len() - ending.len()];
    }
}

/// A part of an image's name: what cannot stand in one is replaced, and told apart by a digest.
fn segment(name: &str) -> String {
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let mut plain: String = name
        .chars()
        .map(|character| if fits(character) { character } else { '_' })
        .take(PART_BYTES_MAX)
        .collect();
    if plain.starts_with(['.', '-']) || plain.is_empty() {
        plain.replace_range(..plain.len().min(1), "_");
    }
    if plain == name { plain } else { format!("{plain}-{}", digits(name)) }
}

fn digits(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..8].to_owned()
}

fn shortened(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX || !name.is_ascii() {
        return name.to_owned();
    }
    let begin = name[..NAME_BYTES_MAX - 9].trim_end_matches('/');
    format!("{begin}-{}", digits(name))
}

/// Gives each disk of an object an image of its own: names that are the same are counted.
///
/// # Errors
/// A name cannot be used: in words.
pub(super) fn images<'a>(
    template: &ImageTemplate,
    disks: impl Iterator<Item = Names<'a>>,
) -> Result<Vec<ImageName>, String> {
    let mut images: Vec<ImageName> = Vec::new();
    for names in disks {
        let first = template.image(&names)?;
        let mut image = first.clone();
        let mut number = 2;
        while images.contains(&image) {
            image = shortened(&format!("{first}-{number}"))
                .parse()
                .map_err(|error: leeward_repository::Error| error.to_string())?;
            number += 1;
        }
        images.push(image);
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: &str, object: &str) -> Result<String, String> {
        let names = Names { source: "inbox", object, disk: "", given: None };
        template.parse::<ImageTemplate>()?.image(&names).map(|image| image.to_string())
    }

    #[test]
    fn a_template_has_the_names_that_people_know() {
        for (template, object, expected) in [
            ("imports/{name}", "a/web.old.qcow2", "imports/web.old.qcow2"),
            ("imports/{stem}", "a/web.old.qcow2", "imports/web.old"),
            ("imports/{stem}", "web.RAW.GZ", "imports/web"),
            ("imports/{stem}", ".raw", "imports/_raw-6a2db3c4"),
            ("{source}/{folder}/{stem}", "a/b/web.vmdk", "inbox/a/b/web"),
            ("{source}/{folder}/{stem}", "web.vmdk", "inbox/web"),
            ("vm-{stem}/root", "web.vhd", "vm-web/root"),
        ] {
            let image = of(template, object).unwrap();
            match expected.split_once("-6a2db3c4") {
                None => assert_eq!(image, expected),
                Some((begin, _)) => assert!(image.starts_with(&format!("{begin}-")), "{image}"),
            }
        }
        let default = Names { source: "s", object: "x.raw", disk: "", given: None };
        assert_eq!(ImageTemplate::default().image(&default).unwrap().as_str(), "imports/x.raw");
    }

    #[test]
    fn a_template_that_makes_no_names_is_refused() {
        for (wrong, why) in [
            ("imports/all", "all disks would be one"),
            ("imports/{object}", "{object} is unknown"),
            ("imports/{name", "no }"),
            ("a b/{name}", "only letters"),
            ("../{name}", "begin with a dot"),
            ("leeward/state/{name}", "the site's own"),
            ("ä/{name}", "only letters"),
        ] {
            let told = wrong.parse::<ImageTemplate>().unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }

    #[test]
    fn hostile_names_become_plain_ones_of_their_own() {
        let long = format!("{}/{}.qcow2", "ö/".repeat(99), "x".repeat(400));
        let hostile = [
            "a/..",
            "a/.",
            "-rf",
            ".hidden",
            "a;rm -rf $HOME`id`\n|x",
            "..\\..\\x",
            "",
            "<b>'\"&\u{202e}",
            "größe",
            "grüße",
            "a b",
            "a_b",
            "a%2Fb",
            "web@latest",
            "web@~1",
            &long,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for object in hostile {
            let image = of("{folder}/{name}", object).unwrap();
            image.parse::<ImageName>().unwrap();
            assert!(seen.insert(image.clone()), "{object:?} has the image of another: {image}");
            assert_eq!(of("{folder}/{name}", object).unwrap(), image);
        }
        // What is in the bucket does not reach what a person would restore the daemon from.
        let told = of("{folder}/{name}", "leeward/state/site").unwrap_err();
        assert!(told.contains("the site's own"), "{told}");
        assert_eq!(of("{folder}/{name}", "/leeward").unwrap(), "leeward");
    }

    #[test]
    fn each_disk_has_an_image_and_a_given_name_may_have_slashes() {
        let template: ImageTemplate = "imports/{stem}".parse().unwrap();
        let names = |disk, given| Names { source: "s", object: "vm.ova", disk, given };
        let of = |disks: &[Names<'_>]| -> Vec<String> {
            images(&template, disks.iter().copied()).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&[names("a.vmdk", None), names("b.vmdk", None)]), ["imports/vm-a", "imports/vm-b"]);
        let same = of(&[names("a.vmdk", None), names("a.vhd", None)]);
        assert_eq!(same, ["imports/vm-a", "imports/vm-a-2"]);
        let given = of(&[names("a", Some("web/root")), names("b", Some("web/root-2"))]);
        assert_eq!(given, ["imports/web/root", "imports/web/root-2"]);
        let template: ImageTemplate = "{folder}/{stem}".parse().unwrap();
        let named = Names { source: "s", object: "leeward/state/site.raw", disk: "", given: Some("fine") };
        assert_eq!(template.image(&named).unwrap().as_str(), "fine");
        assert!(of(&[names("", Some("../../x y"))])[0].starts_with("imports/_.-"));
    }
}
