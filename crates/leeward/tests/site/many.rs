//! Many images at once, and a large one that is nearly empty: places in a pool, memory, bytes that are read and allocated.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, assert_holds, image};

const MIB: u64 = 1 << 20;
/// What a worker may need, however many bytes its images have.
const MEMORY_MAX: u64 = 256 * MIB;

/// A raw disk full of data, of which about a third can be compressed.
fn dense(path: &Path, bytes: u64, seed: u64) {
    let file = std::fs::File::create(path).unwrap();
    let mut state = seed | 1;
    let mut data = vec![0; MIB as usize];
    for offset in (0..bytes).step_by(MIB as usize) {
        for (index, byte) in data.iter_mut().enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if index % 12 < 4 { 7 } else { (state >> 32) as u8 };
        }
        file.write_all_at(&data, offset).unwrap();
    }
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

/// From when to when steps of a run were under way.
fn span(run: &Value) -> (jiff::Timestamp, jiff::Timestamp) {
    let steps = run["steps"].as_array().unwrap().iter();
    let first = steps.filter(|step| step["started"].is_string()).map(|step| time(&step["started"])).min();
    (first.unwrap(), time(&run["finished"]))
}

/// The most spans that share a moment.
fn together(spans: &[(jiff::Timestamp, jiff::Timestamp)]) -> usize {
    let at = |moment| spans.iter().filter(|(from, to)| *from <= moment && moment < *to).count();
    spans.iter().map(|(from, _)| at(*from)).max().unwrap_or(0)
}

fn outputs(run: &Value) -> Value {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == "write_image_to_bv").unwrap()["outputs"]["disks"][0].clone()
}

#[test]
fn ten_images_at_once_go_three_by_three_and_need_little_memory() {
    let mut daemon = Daemon::new(|text| {
        text.replace("watch = \"off\"", "watch = \"poll\"").replace("poll_seconds = 60", "poll_seconds = 1")
    });
    let config = std::fs::read_to_string(daemon.path("site.toml")).unwrap();
    assert!(config.contains("imports = 3"), "what is written for a new site");
    let raws: Vec<_> = (0..10u64)
        .map(|number| {
            let raw = daemon.path(&format!("disk-{number}.raw"));
            dense(&raw, 48 * MIB, 100 + number);
            raw
        })
        .collect();
    daemon.up();
    let kinds: [(&str, &str, &[&str]); 5] = [
        ("raw", "raw", &[]),
        ("qcow2", "qcow2", &["-c", "-o", "compression_type=zstd"]),
        ("qcow2", "qcow2", &[]),
        ("vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
        ("vhdx", "vhdx", &[]),
    ];
    for (number, raw) in raws.iter().enumerate() {
        let (ending, format, options) = kinds[number % kinds.len()];
        let hidden = daemon.path("inbox/.coming");
        image(raw, &hidden, format, options);
        std::fs::rename(&hidden, daemon.path(&format!("inbox/disk-{number}.{ending}"))).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(300);
    let list = || daemon.get("/v1/runs").json()["runs"].as_array().unwrap().clone();
    while list().iter().filter(|run| run["state"] == "succeeded").count() < raws.len() {
        assert!(Instant::now() < end, "{:#?}", list());
        assert!(list().iter().all(|run| run["state"] != "held"), "{:#?}", list());
        std::thread::sleep(Duration::from_millis(100));
    }
    let runs: Vec<_> = list().iter().map(|run| daemon.run(run["id"].as_str().unwrap())).collect();
    assert_eq!(runs.len(), raws.len(), "one run for each");
    let volumes = daemon.volumes();
    assert_eq!(volumes.len(), raws.len());
    for run in &runs {
        let number: usize = run["subject"].as_str().unwrap()["disk-".len()..][..1].parse().unwrap();
        let volume = outputs(run)["volume"].as_str().unwrap().to_owned();
        let path = volumes.iter().find(|path| path.to_str().unwrap().contains(&volume));
        assert_holds(path.unwrap_or_else(|| panic!("{volume} of {volumes:?}")), &raws[number]);
    }
    let most = together(&runs.iter().map(span).collect::<Vec<_>>());
    let memory = daemon.peak_bytes();
    println!("at most {most} imports together; the daemon's peak memory is {} MiB", memory / MIB);
    assert!(most <= 3, "{most} runs at once, the pool has room for 3");
    assert!(most >= 2, "they go on beside each other");
    assert!(memory < MEMORY_MAX, "{memory} bytes");
}

#[test]
fn a_sparse_tebibyte_costs_what_its_data_costs() {
    let daemon = Daemon::start(|text| text);
    let source = daemon.path("inbox/huge.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&source).arg("1T").status();
    assert!(made.expect("qemu-img is there").success());
    let mut data = 0;
    let mut writes = Command::new("qemu-io");
    for offset in [0u64, 300 << 30, (512 << 30) + 12345 * 4096, 777 << 30, (1 << 40) - 4 * MIB] {
        writes.args(["-c", &format!("write -P {} {offset} 4M", 1 + offset % 250)]);
        data += 4 * MIB;
    }
    assert!(writes.arg(&source).output().expect("qemu-io is there").status.success());
    let object = std::fs::metadata(&source).unwrap().len();
    let (began, before) = (Instant::now(), daemon.read_bytes());
    let run = daemon.import("huge.qcow2", json!({}));
    let ended = daemon.until(&run, &["succeeded", "held"]);
    let (took, read) = (began.elapsed(), daemon.read_bytes() - before);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let (volume, result) = (&daemon.volumes()[0], outputs(&ended));
    let metadata = std::fs::metadata(volume).unwrap();
    let allocated = metadata.blocks() * 512;
    println!(
        "1 TiB with {} MiB of data, an object of {} KiB: {} KiB read in {} ms, {} KiB allocated, peak memory {} MiB",
        data / MIB,
        object >> 10,
        read >> 10,
        took.as_millis(),
        allocated >> 10,
        daemon.peak_bytes() / MIB
    );
    assert_eq!(metadata.len(), 1 << 40);
    assert!(allocated <= data + 2 * MIB, "{allocated} bytes are allocated");
    // The data once from the object and once from the volume, the object's tables, and the files of the daemon's own state.
    assert!(read <= 3 * object + 16 * MIB, "{read} bytes were read for an object of {object}");
    let counted = |name: &str| result[name].as_u64().unwrap();
    // Both are counted in units of 2 MiB, of which a piece of data may touch one more than it fills.
    assert!(counted("data_bytes") <= data + 10 * MIB, "{result}");
    assert!(counted("read_back_bytes") <= data + 10 * MIB, "{result}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(daemon.peak_bytes() < MEMORY_MAX);
    let same = Command::new("qemu-img")
        .args(["compare", "-f", "qcow2", "-F", "raw"])
        .arg(&source)
        .arg(volume)
        .output()
        .unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
}
