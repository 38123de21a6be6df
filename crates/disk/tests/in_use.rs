//! Disks of running machines are not overwritten.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "support/qemu.rs"]
mod qemu;

use leeward_disk::{CreateOptions, Error, create_target, in_use, open_target};
use qemu::{has, run, serve, text, wait_for};

#[test]
fn a_disk_that_qemu_writes_is_refused_and_one_that_it_reads_is_not() {
    if !has("qemu-nbd") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    for format in ["raw", "qcow2"] {
        let image = scratch.path().join(format!("disk.{format}"));
        run("qemu-img", &["create", "-q", "-f", format, text(&image), "4M"]);
        assert!(!in_use::is_written(&image).unwrap());
        drop(open_target(text(&image), 4 << 20).unwrap());

        let server = serve(&scratch.path().join(format), &["-f", format, text(&image)]);
        // It listens before it opens the image.
        wait_for(|| in_use::is_written(&image).unwrap());
        assert!(matches!(open_target(text(&image), 4 << 20), Err(Error::InUse { .. })));
        let overwrite = CreateOptions { overwrite: true, ..CreateOptions::default() };
        assert!(matches!(create_target(text(&image), 4 << 20, &overwrite), Err(Error::InUse { .. })));
        drop(server);

        let server = serve(&scratch.path().join(format!("{format}-ro")), &["-r", "-f", format, text(&image)]);
        assert!(!in_use::is_written(&image).unwrap(), "reading is not writing");
        drop(server);
    }
}
