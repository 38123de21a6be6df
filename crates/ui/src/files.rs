//! The table of files. A test compares it with what lies in `ui/`, so a new page cannot be forgotten.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../ui/", $name)).as_slice())),*]
    };
}

/// Names below `ui/`, and bytes.
pub(crate) const FILES: &[(&str, &[u8])] = files![
    "icon.svg",
    "index.html",
    "style.css",
    "app/api.js",
    "app/chart.js",
    "app/commands.js",
    "app/files.js",
    "app/format.js",
    "app/graph.js",
    "app/hooks.js",
    "app/html.js",
    "app/icons.js",
    "app/image.js",
    "app/images.js",
    "app/imports.js",
    "app/layout.js",
    "app/leftovers.js",
    "app/live.js",
    "app/log.js",
    "app/login.js",
    "app/main.js",
    "app/notices.js",
    "app/overview.js",
    "app/parts.js",
    "app/question.js",
    "app/rates.js",
    "app/reports.js",
    "app/repository.js",
    "app/router.js",
    "app/run.js",
    "app/runs.js",
    "app/say.js",
    "app/scale.js",
    "app/schedules.js",
    "app/sign-in.js",
    "app/sites.js",
    "app/snapshot.js",
    "app/states.js",
    "app/theme.js",
    "vendor/htm-preact-standalone.module.js",
    "vendor/htm.LICENSE",
    "vendor/preact.LICENSE",
];
