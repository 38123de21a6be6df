//! What an import costs: memory, requests for a sparse disk, and time against "download, convert, sync".

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::resume::Process;
use crate::support::{Bucket, MIB, disk, has, import, text, tool};
use leeward_import::write::WriteOptions;

/// Where the large disk holds data.
const DATA: [(u64, u64); 3] = [(0, MIB), (500 << 30, 20 * MIB), ((1 << 40) - MIB, MIB)];

/// A disk of 1 TiB with little in it costs what its data cost.
#[test]
fn a_sparse_disk_of_a_tebibyte_costs_what_its_data_cost() {
    if !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| folder.path().join(name);
    disk(&path("disk.raw"), 1 << 40, &DATA);
    for bucket in Bucket::all() {
        for format in ["qcow2", "vmdk", "vhdx"] {
            let (image, volume) = (path("image"), path("volume"));
            tool("qemu-img", &["convert", "-f", "raw", "-O", format, text(&path("disk.raw")), text(&image)]);
            bucket.put(format, &image);
            std::fs::File::create(&volume).unwrap().set_len(1 << 40).unwrap();
            let (started, before) = (Instant::now(), bucket.received());
            let disk = bucket.disk(format);
            let imported = import(&disk, &volume, &WriteOptions::default()).unwrap();
            let received = bucket.received() - before;
            println!(
                "{format}: {:?}, {} MiB received, {} MiB read back, checkpoint of {} bytes",
                started.elapsed(),
                received / MIB,
                imported.verified.read_bytes / MIB,
                serde_json::to_vec(&imported.written.checkpoint).unwrap().len()
            );
            assert!(imported.verified.is_equal());
            // The tables of a vmdk are of the whole disk: 64 MiB for 1 TiB, and twice.
            let image_bytes = std::fs::metadata(&image).unwrap().len();
            assert!(received < image_bytes + 4 * MIB && received < 100 * MIB, "{received} of {image_bytes}");
            let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&volume).unwrap()) * 512;
            assert!(taken < 64 * MIB, "{taken}");
            // A comparison of all of it by qemu-img takes minutes; the rest is a hole, as its size on the medium says.
            for (offset, length) in DATA {
                let read = |path: &Path| {
                    let mut bytes = vec![0; length as usize];
                    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
                    bytes
                };
                assert!(read(&volume) == read(&path("disk.raw")), "at {offset}");
            }
            std::fs::remove_file(&volume).unwrap();
        }
    }
}

/// Wall time against what people do today, on the same bucket and target, in the same run; and the peak of memory.
#[test]
#[ignore = "a measurement: takes a minute, and means little on a busy machine"]
fn time_and_memory() {
    let Some(bucket) = Bucket::ceph() else { return };
    let gigabytes =
        std::env::var("LEEWARD_BENCH_GB").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| folder.path().join(name);
    disk(&path("disk.raw"), gigabytes << 32, &[(0, gigabytes << 29), (3 << 30, gigabytes << 29)]);
    for (name, format, options) in [
        ("qcow2", "qcow2", "compat=1.1"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
        ("vhdx", "vhdx", "subformat=dynamic"),
    ] {
        let image = path(name);
        tool(
            "qemu-img",
            &["convert", "-f", "raw", "-O", format, "-o", options, text(&path("disk.raw")), text(&image)],
        );
        bucket.put(name, &image);
        std::fs::remove_file(&image).unwrap();
        let (volume, scratch) = (path("volume"), path("scratch"));
        let mut ratios = Vec::new();
        for round in 0..3 {
            std::fs::File::create(&volume).unwrap().set_len(gigabytes << 32).unwrap();
            let started = Instant::now();
            download(&bucket, name, &scratch);
            tool("qemu-img", &["convert", "-n", "-f", format, "-O", "raw", text(&scratch), text(&volume)]);
            tool("sync", &[text(&volume)]);
            let theirs = started.elapsed();
            std::fs::remove_file(&scratch).unwrap();
            std::fs::File::create(&volume).unwrap().set_len(gigabytes << 32).unwrap();
            let started = Instant::now();
            let more = serde_json::json!({ "window": 256 * MIB });
            let _ = std::fs::remove_file(path("checkpoint"));
            let told = Process::start(&bucket, name, &volume, &path("checkpoint"), &more).told();
            let ours = started.elapsed();
            ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
            println!(
                "{name} round {round}: {ours:?} against {theirs:?}, ratio {:.2}, {}",
                ratios[round], told["peak"]
            );
        }
        ratios.sort_by(f64::total_cmp);
        println!("{name}: median ratio {:.2}", ratios[1]);
    }
}

/// Downloads as people do: with one stream.
fn download(bucket: &Bucket, name: &str, to: &Path) {
    let (place, endpoint) = bucket.location.split_once("?endpoint=").unwrap();
    let url = format!("{endpoint}/{}/{name}", place.split_once("://").unwrap().1);
    let value = |key: &str| bucket.variables.iter().find(|(name, _)| name == key).unwrap().1.clone();
    let status = Command::new("curl")
        .args(["-sf", "--aws-sigv4", "aws:amz:default:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .args(["-o", text(to), &url])
        .arg("--user")
        .arg(format!("{}:{}", value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY")))
        .status()
        .unwrap();
    assert!(status.success());
}
