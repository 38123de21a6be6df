//! Names of volumes and workers, from names of objects.
//!
//! A volume is called as the last part of the object's name, dots and all: `images/web.old.qcow2` makes `web.old.qcow2`. What
//! no cloud takes, or what could be meant as something else (a path, an option, a hidden file), is replaced, never dropped
//! without a trace.

/// The longest name of a volume, in bytes: what all providers take.
const VOLUME_BYTES_MAX: usize = 255;
/// The longest name of a worker, in bytes: a label of DNS, less what makes it unique.
const WORKER_BYTES_MAX: usize = 48;

/// The name of a volume for an object, or for one disk of several in it (`disk` is not empty then).
#[must_use]
pub fn volume(object: &str, disk: &str) -> String {
    let last = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let whole = if disk.is_empty() { last(object) } else { format!("{}-{}", last(object), last(disk)) };
    let cleaned: String =
        whole.trim().chars().map(|character| if is_plain(character) { character } else { '_' }).collect();
    // A name must not look like an option or a hidden file, and must not be `..`.
    let cleaned = match cleaned.chars().next() {
        None => "volume".to_owned(),
        Some('.' | '-') => format!("_{}", &cleaned[1..]),
        Some(_) => cleaned,
    };
    shortened(cleaned, VOLUME_BYTES_MAX)
}

/// What may be in a name: all letters and digits, and what is usual between them.
fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || " ._-+()@#=,".contains(character)
}

/// Shortens a name in the middle, so that its ending stays.
fn shortened(name: String, bytes_max: usize) -> String {
    if name.len() <= bytes_max {
        return name;
    }
    let ending = name.rfind('.').filter(|dot| name.len() - dot <= 16).map_or("", |dot| &name[dot..]);
    let mut end = bytes_max - ending.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ending}", &name[..end])
}

/// The name of a worker: letters, digits and dashes, as a host may be called.
#[must_use]
pub fn worker(display_name: &str) -> String {
    let mut name = String::new();
    for character in display_name.chars().take(4 * WORKER_BYTES_MAX) {
        if character.is_ascii_alphanumeric() {
            name.push(character.to_ascii_lowercase());
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
    }
    name.truncate(WORKER_BYTES_MAX);
    let name = name.trim_matches('-');
    if name.is_empty() { "import".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{volume, worker};

    #[test]
    fn volumes_keep_their_dots() {
        assert_eq!(volume("images/web.old.qcow2", ""), "web.old.qcow2");
        assert_eq!(volume("vm.ova", "vm-disk1.vmdk"), "vm.ova-vm-disk1.vmdk");
        assert_eq!(volume("größe 2.raw", ""), "größe 2.raw");
    }

    #[test]
    fn hostile_names_become_plain_ones() {
        for (object, expected) in [
            ("a/..", "_."),
            ("-rf", "_rf"),
            (".hidden", "_hidden"),
            ("a;rm -rf $HOME`id`\n|x", "a_rm -rf _HOME_id___x"),
            ("..\\..\\x.vhd", "x.vhd"),
            ("", "volume"),
            ("<b>'\"&\u{202e}", "_b_____"),
        ] {
            assert_eq!(volume(object, ""), expected, "{object:?}");
        }
        let long = format!("{}.qcow2", "ä".repeat(400));
        let name = volume(&long, "");
        assert!(name.len() <= 255 && name.ends_with(".qcow2") && name.starts_with("ää"), "{name}");
    }

    #[test]
    fn workers_are_called_as_hosts_are() {
        assert_eq!(worker("Web Server (old).1"), "web-server-old-1");
        assert_eq!(worker("--$(id)--"), "id");
        assert_eq!(worker("日本"), "import");
        assert!(worker(&"x".repeat(999)).len() <= 48);
    }
}
