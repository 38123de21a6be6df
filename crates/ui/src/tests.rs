#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

fn ui() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui")
}

fn text(asset: &Asset) -> &str {
    std::str::from_utf8(&asset.bytes).unwrap()
}

/// The paths that the page names, without its own dots.
fn named_by_page() -> Vec<String> {
    let page = asset(PAGE).unwrap();
    let quoted = text(&page).split('"').filter(|part| part.starts_with("assets/"));
    quoted.map(|path| format!("/{path}")).collect()
}

#[test]
fn the_page_names_only_what_is_there() {
    let named = named_by_page();
    assert!(named.len() > 4, "{named:?}");
    for path in named {
        assert!(asset(&path).is_some(), "{path} is named and not there");
    }
    assert!(!text(&asset(PAGE).unwrap()).contains(PLACEHOLDER), "the placeholder is left");
}

#[test]
fn the_table_has_every_file_that_a_page_may_need_and_no_other() {
    let mut found = BTreeSet::from(["index.html".to_owned(), "style.css".to_owned(), "icon.svg".to_owned()]);
    for directory in ["app", "vendor"] {
        for entry in std::fs::read_dir(ui().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.ends_with(".md") {
                found.insert(format!("{directory}/{name}"));
            }
        }
    }
    let known: BTreeSet<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(known, found);
}

#[test]
fn every_module_is_loaded_ahead() {
    let named = named_by_page();
    for (name, _) in FILES.iter().filter(|(name, _)| name.ends_with(".js")) {
        assert!(named.iter().any(|path| path.ends_with(name)), "index.html does not name {name}");
    }
}

#[test]
fn modules_import_only_what_is_there() {
    for (name, bytes) in FILES.iter().filter(|(name, _)| name.starts_with("app/")) {
        let source = std::str::from_utf8(bytes).unwrap();
        let imports = source.lines().filter_map(|line| line.split_once(" from '")).map(|(_, rest)| rest);
        for import in imports {
            let target = import.trim_end_matches("';");
            let path = match target.strip_prefix("../") {
                Some(path) => path.to_owned(),
                None => format!("app/{}", target.trim_start_matches("./")),
            };
            assert!(FILES.iter().any(|(known, _)| *known == path), "{name} imports {target}");
        }
    }
}

#[test]
fn other_paths_have_nothing() {
    let digest = named_by_page()[0].split('/').nth(2).unwrap().to_owned();
    for path in [
        "",
        "/x",
        "//",
        "/assets/",
        "/assets/dev/style.css",
        "/assets/0000000000000000/style.css",
        "/style.css",
        "/../Cargo.toml",
    ] {
        assert_eq!(asset(path), None, "{path}");
    }
    for name in ["index.html", "../index.html", "app/", "app/../style.css", ""] {
        assert_eq!(asset(&format!("/assets/{digest}/{name}")), None, "{name}");
    }
}

#[test]
fn the_page_is_asked_for_again_and_what_it_names_is_kept() {
    let page = asset(PAGE).unwrap();
    assert_eq!(page.cache_control(), "no-cache");
    assert_eq!(page.content_type, "text/html; charset=utf-8");
    assert_eq!(asset("/index.html").unwrap(), page);
    let style = asset(named_by_page().iter().find(|path| path.ends_with(".css")).unwrap()).unwrap();
    assert_eq!(style.cache_control(), "public, max-age=31536000, immutable");
    assert_ne!(style.etag, page.etag);
    assert!(style.etag.starts_with('"') && style.etag.ends_with('"'));
}

#[test]
fn the_page_is_also_where_providers_send_browsers_back_to() {
    let page = asset("/sign-in/company").unwrap();
    let root = text(&asset(PAGE).unwrap()).replace("\"assets/", "\"../assets/");
    assert_eq!(text(&page), root);
    assert_eq!(page.cache_control(), "no-cache");
    for path in ["/sign-in", "/sign-in/", "/sign-in/a/b", "/sign-in/a%2fb", "/sign-in/a\"b"] {
        assert_eq!(asset(path), None, "{path}");
    }
}

/// The policy forbids inline scripts and styles; a page that has them would be broken, so it has none. Nothing is loaded from elsewhere:
/// the only addresses are those of XML name spaces.
#[test]
fn pages_keep_to_their_own_policy() {
    let page = asset(PAGE).unwrap();
    assert!(!text(&page).contains("style=") && !text(&page).contains("<style"));
    assert_eq!(
        text(&page).matches("<script").count(),
        text(&page).matches("<script type=\"module\" src=").count()
    );
    for (name, bytes) in FILES.iter().filter(|(name, _)| !name.starts_with("vendor/")) {
        let source = String::from_utf8_lossy(bytes).replace("http://www.w3.org/", "");
        assert!(!source.contains("http://") && !source.contains("https://"), "{name} names another place");
        for forbidden in
            ["innerHTML", "dangerouslySetInnerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!source.contains(forbidden), "{name} has {forbidden}: text of the server must stay text");
        }
    }
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(CONTENT_SECURITY_POLICY.contains(part));
    }
    assert!(!CONTENT_SECURITY_POLICY.contains('\n') && !CONTENT_SECURITY_POLICY.contains("unsafe"));
}
