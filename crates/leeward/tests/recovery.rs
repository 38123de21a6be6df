//! Machines come back from groups: under another name, and in place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::machine::{Disk, Machine, SIZE, Write, assert_same, has_qemu, qemu_img};
use common::{Bench, MIB, Outcome, outcome, text};
use leeward_cloud::qemu::{Qmp, QmpOptions};
use leeward_disk::{MemoryStorage, Source};
use leeward_repository::{
    Consistency, GroupOptions, GroupRecord, Member, Repository, SourceRecord, Unattended, host_name,
};
use leeward_store::DirectoryStore;
use leeward_store::simulation::Random;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const MAC: &str = "52:54:00:aa:bb:cc";
const UUID: &str = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

/// A machine that `--start` started, which ends with the test.
struct Started {
    pid: Pid,
    files: Value,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

impl Started {
    fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(text(&self.files["console"])).unwrap_or_default()).into_owned()
    }

    fn says(&self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(240);
        while !self.console().contains(wanted) {
            assert!(Instant::now() < deadline, "no {wanted} on the console: {}", self.console());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn ask(&self, command: &str) -> Value {
        let mut monitor =
            Qmp::connect(Path::new(&text(&self.files["monitor"])), &QmpOptions::default()).unwrap();
        monitor.execute(command, json!({})).unwrap()
    }
}

/// Restores and starts a machine under emulation: a KVM may be there and not work.
fn restore_and_start(bench: &Bench, arguments: &[&str]) -> (Outcome, Started) {
    let child = bench
        .command(arguments)
        .env("LEEWARD_ACCEL", "tcg")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let outcome = outcome(child, arguments);
    assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
    let told = outcome.lines.last().unwrap().clone();
    let pid = Pid::from_raw(told["pid"].as_i64().unwrap() as i32).unwrap();
    (outcome, Started { pid, files: told["files"].clone() })
}

fn tiny_disk() -> Option<PathBuf> {
    let beds = std::env::var_os("TESTBED_DIR").map_or_else(|| "/var/tmp/testbeds".into(), PathBuf::from);
    let disk = beds.join("vm/images/tiny.qcow2");
    if !disk.exists() {
        println!("SKIPPED: no {}; start the test bed", disk.display());
        return None;
    }
    Some(disk)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_group_becomes_a_machine_that_boots_and_is_backed_up_again() {
    let (true, Some(tiny)) = (has_qemu(), tiny_disk()) else { return };
    let bench = Bench::with_repository();
    let disks = vec![
        Disk { path: bench.path("root.qcow2"), format: "qcow2" },
        Disk::create(&bench, "data.raw", "raw", SIZE),
    ];
    std::fs::copy(tiny, &disks[0].path).unwrap();
    let card = format!("e1000,mac={MAC}");
    let original = Machine::start(
        &bench,
        &disks,
        &["-m", "192", "-smp", "2", "-uuid", UUID, "-device", &card, "-machine", "q35"],
    );
    original.write(&Write {
        disk: 1,
        offset: 0,
        length: 1 << 20,
        pattern: 7,
        kind: common::machine::Kind::Data,
    });
    bench.succeeds(&bench.back_up(&original.source(), &[]));

    let shown = bench.succeeds(&["show", "m"]);
    let definition = &shown.value()["definition"];
    assert_eq!((&definition["cpus"], &definition["memory_bytes"]), (&json!(2), &json!(192 * MIB)));
    assert_eq!(definition["disks"][0]["location"], disks[0].path.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(definition["disks"][0]["format"], "qcow2");

    // Beside the living original.
    let out = bench.path("out");
    let out = out.to_str().unwrap();
    let (outcome, drill) =
        restore_and_start(&bench, &["restore", "m", "--as", "drill", "--dir", out, "--verify", "--start"]);
    assert_eq!(outcome.lines[0]["notes"], json!([]));
    drill.says("TINY-VERIFY ok");
    assert_eq!(drill.ask("query-cpus-fast").as_array().unwrap().len(), 2);
    assert_eq!(drill.ask("query-memory-size-summary")["base-memory"], 192 * MIB);
    assert_eq!(drill.ask("query-uuid")["UUID"], UUID);

    // It has the names that the original had, so its backups go on with the same images.
    let source = format!("qmp:{}", text(&drill.files["monitor"]));
    bench.succeeds(&bench.back_up(&source, &[]));
    let again = bench.succeeds(&["show", "m"]).value().clone();
    assert_eq!(again["definition"]["nics"], json!([{ "model": "e1000", "mac": MAC }]));
    assert_eq!(again["definition"]["machine_type"], definition["machine_type"]);
    assert_eq!(bench.succeeds(&["log", "m/vd0"]).lines.len(), 2);
    assert_eq!(again["disks"].as_array().unwrap().len(), 2);

    // It does not run twice, and the attempt does not disturb it.
    let second = Command::new(format!("{out}/drill.sh")).env("LEEWARD_ACCEL", "tcg").output().unwrap();
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("runs already"));
    assert_eq!(drill.ask("query-status")["status"], "running");

    // A running machine's disks are not overwritten.
    let refused = bench.fails(&["restore", "m@~1", "--as", "drill", "--dir", out, "--force"], 5);
    assert!(refused.stderr.contains("running machine"), "{}", refused.stderr);
    drop(drill);

    let overrides = [
        "restore",
        "m@~1",
        "--as",
        "two",
        "--dir",
        out,
        "-O",
        "qcow2",
        "--bus",
        "nvme",
        "--cpus",
        "1",
        "--memory",
        "128M",
        "--mac",
        "new",
        "--network",
        "user",
        "--start",
    ];
    let (_, two) = restore_and_start(&bench, &overrides);
    two.says("TINY-VERIFY ok");
    assert_eq!(two.ask("query-cpus-fast").as_array().unwrap().len(), 1);
    assert_eq!(two.ask("query-memory-size-summary")["base-memory"], 128 * MIB);
    assert_ne!(two.ask("query-uuid")["UUID"], UUID, "the identity follows the addresses");
    let script = std::fs::read_to_string(format!("{out}/two.sh")).unwrap();
    assert!(!script.contains(MAC) && script.contains("e1000,mac=52:54:00:"), "{script}");
    drop(two);

    // One disk alone: for a machine, and as a volume.
    let only = bench.succeeds(&["restore", "m@~1", "--as", "one", "--dir", out, "--disk", "vd1", "--script"]);
    assert!(only.value()["notes"].to_string().contains("vd0"), "{}", only.stdout);
    assert_eq!(only.value()["domain"], Value::Null);
    assert_eq!(std::fs::read(format!("{out}/one-vd1.raw")).unwrap()[..1 << 20], vec![7; 1 << 20]);
    let volume = bench.path("volume.raw");
    bench.succeeds(&["restore", "m@~1", volume.to_str().unwrap(), "--disk", "vd1"]);
    assert!(std::fs::read(volume).unwrap() == std::fs::read(format!("{out}/one-vd1.raw")).unwrap());
    bench.fails(&["restore", "m", bench.path("x").to_str().unwrap(), "--disk", "vd0", "--disk", "vd1"], 2);
}

#[test]
fn libvirt_takes_the_domain() {
    let virsh = |commands: &str| {
        // Its own driver for tests, which needs no daemon and reads documents as the others do.
        let output = Command::new("virsh").args(["-c", "test:///default", commands]).output();
        output.map(|output| (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    if !virsh("version").is_ok_and(|(success, _)| success) {
        return println!("SKIPPED: virsh is not installed");
    }
    let bench = Bench::with_repository();
    publish(&bench, &["m/root", "m/data"], Some(definition(&["m/root", "m/data"])));
    let out = bench.path("it's <a> \"dir\" & so on");
    for (name, more) in [
        ("plain", &[][..]),
        ("net", &["--network", "bridge=br0", "--mac", "keep", "--bus", "ide", "-O", "qcow2"]),
        ("tap", &["--network", "tap=tap0", "--mac", "new", "--bus", "nvme"]),
        ("usb", &["--network", "user", "--bus", "usb", "--libvirt-xml"]),
    ] {
        let arguments = ["restore", "m", "--as", name, "--dir", out.to_str().unwrap()];
        let outcome = bench.succeeds(&[&arguments, more].concat());
        let domain = text(&outcome.value()["domain"]);
        // In a directory without a quote: virsh has a syntax of its own.
        let document = bench.path("domain.xml");
        std::fs::copy(&domain, &document).unwrap();
        let commands = format!("define --validate {}; dumpxml {name}", document.display());
        let (success, told) = virsh(&commands).unwrap();
        assert!(success && told.contains(&format!("<name>{name}</name>")), "{told}");
        let path = "it&apos;s &lt;a&gt; &quot;dir&quot; &amp; so on";
        assert!(told.contains(&format!("{path}/{name}-root.")), "{told}");
        assert!(told.contains("<memory unit='KiB'>262144</memory>"), "{told}");
        // The test can fail: a document with a foreign element is refused.
        let wrong = std::fs::read_to_string(&document).unwrap().replace("</vcpu>", "</vcpu><evil/>");
        std::fs::write(&document, wrong).unwrap();
        assert!(!virsh(&commands).unwrap().0);
    }
    bench.fails(&["restore", "m", "--as", "b", "--dir", out.to_str().unwrap(), "--network", "bridge=br0"], 5);
}

#[test]
fn a_machine_with_uefi_starts_from_its_firmware_or_says_that_there_is_none() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let images = ["m/root", "m/nvram"];
    let mut machine = definition(&images);
    machine["firmware"] =
        json!({ "kind": "flash", "code": "/usr/share/OVMF/OVMF_CODE_4M.fd", "variables": "nvram" });
    machine["disks"][1]["bus"] = json!("flash");
    publish(&bench, &images, Some(machine));
    let out = bench.path("out");
    bench.succeeds(&["restore", "m", "--as", "x", "--dir", out.to_str().unwrap(), "-O", "qcow2"]);
    // Flash memory is raw, whatever the disks are.
    assert_eq!(names(&out), ["x-nvram.raw", "x-root.qcow2", "x.json", "x.sh", "x.xml"]);
    let domain = std::fs::read_to_string(out.join("x.xml")).unwrap();
    assert!(domain.contains("x-nvram.raw</nvram>") && domain.contains("OVMF_CODE"), "{domain}");
    let code = std::env::var("OVMF_CODE").unwrap_or_else(|_| "/usr/share/OVMF/OVMF_CODE_4M.fd".to_owned());
    if !Path::new(&code).exists() {
        let told = Command::new(out.join("x.sh")).env("LEEWARD_ACCEL", "tcg").output().unwrap();
        assert!(!told.status.success());
        if String::from_utf8_lossy(&told.stderr).contains("no UEFI firmware is here") {
            return println!("SKIPPED: no OVMF, so that only its absence was tested");
        }
        return println!("SKIPPED: no OVMF of 4 MiB is here");
    }
    // Its variables fit the program; those of the test are of no machine.
    let variables = code.replace("CODE", "VARS");
    std::fs::copy(&variables, out.join("x-nvram.raw")).unwrap();
    let mut child =
        Command::new(out.join("x.sh")).env("LEEWARD_ACCEL", "tcg").env("OVMF_CODE", &code).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let console =
        || String::from_utf8_lossy(&std::fs::read(out.join("x.console")).unwrap_or_default()).into_owned();
    while !console().contains("BdsDxe") {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "{}", console());
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_interrupted_restore_leaves_nothing() {
    let bench = Bench::with_repository();
    publish(&bench, &["m/a", "m/b"], Some(definition(&["m/a", "m/b"])));
    let disk = bench.disk("big.raw", 512, 400, 3);
    bench.succeeds(&["backup", disk.to_str().unwrap(), "m/a"]);
    let store = DirectoryStore::open(&bench.repository()).unwrap();
    let repository = Repository::open(Arc::new(store)).unwrap();
    let big = leeward_disk::open_path(&disk, &leeward_disk::OpenOptions::default()).unwrap();
    group_of(&repository, &[("m/a", big.as_ref())], Some(definition(&["m/a"])));
    let out = bench.path("out");
    for signal in [Signal::INT, Signal::KILL] {
        let child = bench.start(&[
            "restore",
            "m",
            "--as",
            "x",
            "--dir",
            out.to_str().unwrap(),
            "-j",
            "1",
            "-O",
            "qcow2",
        ]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !out.exists() || names(&out).is_empty() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
        let outcome = outcome(child, &["restore"]);
        assert_eq!(outcome.code, if signal == Signal::INT { 130 } else { -1 }, "{}", outcome.stderr);
        assert_eq!(out.exists(), signal == Signal::KILL, "what was made is taken away, unless by a kill");
    }
    bench.succeeds(&["restore", "m", "--as", "x", "--dir", out.to_str().unwrap(), "-O", "qcow2"]);
    assert_eq!(names(&out), ["x-a.qcow2", "x.json", "x.sh", "x.xml"], "what the kill left is gone");
}

fn definition(images: &[&str]) -> Value {
    let disks: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(number, image)| {
            json!({
                "name": image.rsplit('/').next().unwrap(), "image": image, "bus": "virtio",
                "boot_index": number, "virtual_size": MIB,
            })
        })
        .collect();
    json!({
        "provider": "qemu", "version": "7.2.22", "architecture": "x86_64", "machine_type": "pc-q35-7.2",
        "cpu_type": "qemu64-x86_64-cpu", "cpus": 2, "memory_bytes": 256 * MIB, "uuid": UUID,
        "firmware": { "kind": "bios" }, "disks": disks, "nics": [{ "model": "virtio-net-pci", "mac": MAC }],
    })
}

/// A group of disks of 1 MiB with this definition; returns its identity.
fn publish(bench: &Bench, images: &[&str], machine: Option<Value>) -> String {
    let store = DirectoryStore::open(&bench.repository()).unwrap();
    let repository = Repository::open(Arc::new(store)).unwrap();
    let disks: Vec<_> = (1..=images.len())
        .map(|number| {
            let storage = Arc::new(MemoryStorage::new("disk", vec![number as u8; MIB as usize]));
            let raw = leeward_disk::OpenOptions::with_format(leeward_disk::Format::Raw);
            leeward_disk::open_storage(storage, &raw).unwrap()
        })
        .collect();
    let pairs: Vec<_> =
        images.iter().zip(&disks).map(|(image, disk)| (*image, disk.as_ref() as &dyn Source)).collect();
    group_of(&repository, &pairs, machine)
}

fn group_of(repository: &Repository, disks: &[(&str, &dyn Source)], machine: Option<Value>) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    let record = SourceRecord { location: "qmp:x".to_owned(), format: "raw".to_owned(), host: host_name() };
    let members: Vec<_> = disks
        .iter()
        .map(|(image, source)| Member {
            image: image.parse().unwrap(),
            source: *source,
            record: record.clone(),
            changed: None,
            capture: None,
        })
        .collect();
    let id = format!("{:08x}", COUNTER.fetch_add(1, Ordering::Relaxed)).repeat(4);
    let options = GroupOptions {
        group: Some(GroupRecord { id: id.clone(), images: Vec::new(), machine }),
        consistency: Consistency::Crash,
        tags: Default::default(),
        threads: 1,
    };
    repository.backup_group(&members, &options, &Unattended).unwrap();
    id
}

#[test]
fn what_a_hostile_definition_says_is_shown_and_never_done() {
    let bench = Bench::with_repository();
    let trap = bench.path("trap");
    let evil = [
        format!("'; touch {}; '", trap.display()),
        format!("$(touch {})", trap.display()),
        format!("x\n-incoming\nexec:touch {}", trap.display()),
        "\u{1b}]0;evil\u{7}\u{1b}[31m".to_owned(),
        "../../../etc/passwd".to_owned(),
    ];
    for (number, evil) in evil.iter().enumerate() {
        let image = format!("m{number}/root");
        let mut machine = definition(&[&image]);
        for field in ["provider", "version", "machine_type", "cpu_type", "uuid", "name"] {
            machine[field] = json!(evil);
        }
        machine["firmware"] = json!({ "kind": "flash", "code": evil, "variables": evil });
        machine["nics"] = json!([{ "model": evil, "mac": evil }]);
        machine["command_line"] = json!(["-netdev", format!("bridge,br={evil}")]);
        for field in ["name", "bus", "model", "location", "format"] {
            machine["disks"][0][field] = json!(evil);
        }
        publish(&bench, &[&image], Some(machine));
        let group = format!("m{number}");
        let out = bench.path(&format!("out{number}"));
        bench.succeeds(&["restore", &group, "--as", "drill", "--dir", out.to_str().unwrap()]);
        assert_eq!(names(&out), ["drill-root.raw", "drill.json", "drill.sh", "drill.xml"]);
        let script = Command::new("sh").arg(out.join("drill.sh")).env("QEMU", "true").output().unwrap();
        assert!(!String::from_utf8_lossy(&script.stderr).contains("evil"));
        let refused = bench.run(&["restore", &group, "--in-place", "--yes"]);
        assert!([5, 7].contains(&refused.code), "{}", refused.stderr);
        // For people, control characters are written as escapes.
        for arguments in [&["show", &group][..], &["restore", &group, "--in-place", "--yes"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_leeward"));
            let output = command.args(arguments).env("LEEWARD_REPO", bench.repository()).output().unwrap();
            let told = [output.stdout, output.stderr].concat();
            assert!(!told.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n'), "{evil:?}");
        }
    }
    assert!(!trap.exists());
    // A place that the recorded location names is only written when it fits, and after the person agreed.
    let precious = bench.path("precious");
    std::fs::write(&precious, vec![9; 2 * MIB as usize]).unwrap();
    let mut machine = definition(&["p/root"]);
    machine["disks"][0]["location"] = json!(precious);
    machine["disks"][0]["format"] = json!("raw");
    publish(&bench, &["p/root"], Some(machine));
    bench.fails(&["restore", "p", "--in-place", "--yes"], 5);
    std::fs::write(&precious, vec![9; MIB as usize]).unwrap();
    bench.fails(&["restore", "p", "--in-place"], 5);
    assert!(std::fs::read(&precious).unwrap() == vec![9; MIB as usize]);
    bench.succeeds(&["restore", "p", "--in-place", "--yes"]);
    assert!(std::fs::read(&precious).unwrap() == vec![1; MIB as usize]);
}

#[test]
fn a_restored_machine_is_there_whole_or_not_at_all() {
    let bench = Bench::with_repository();
    let images = ["m/a", "m/b"];
    publish(&bench, &images, Some(definition(&images)));
    let out = bench.path("out");
    let arguments = ["restore", "m", "--as", "x", "--dir", out.to_str().unwrap()];

    bench.succeeds(&[&arguments[..], &["--dry-run"]].concat());
    assert!(!out.exists());
    let told = bench.command(&["restore", "m", "--as", "../x", "--dir", "out"]).output().unwrap();
    assert_eq!(told.status.code(), Some(2));
    bench.fails(&["restore", "nobody", "--as", "x", "--dir", out.to_str().unwrap()], 7);

    // The last of its files has its name taken.
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("x.xml"), "mine").unwrap();
    bench.fails(&arguments, 5);
    assert_eq!(names(&out), ["x.xml"]);
    let forced = [&arguments[..], &["--force"]].concat();
    bench.succeeds(&forced);
    bench.succeeds(&forced);
    assert_eq!(names(&out), ["x-a.raw", "x-b.raw", "x.json", "x.sh", "x.xml"]);
    assert!(std::fs::read_to_string(out.join("x.xml")).unwrap().contains("<domain"));
    bench.fails(&arguments, 5);

    // What a kill left goes with the next; what is not ours stays.
    std::fs::create_dir(out.join(".x.aB3dE6.part")).unwrap();
    std::fs::create_dir(out.join(".x.other.part")).unwrap();
    bench.succeeds(&forced);
    assert!(!out.join(".x.aB3dE6.part").exists() && out.join(".x.other.part").exists());

    // A group without a machine, and one that lacks a disk.
    publish(&bench, &["n/a"], None);
    let plain = bench.path("plain");
    let outcome = bench.succeeds(&["restore", "n", "--as", "y", "--dir", plain.to_str().unwrap()]);
    assert!(outcome.value()["notes"].to_string().contains("no definition"), "{}", outcome.stdout);
    assert_eq!(names(&plain), ["y-a.raw"]);
    bench.fails(&["restore", "n", "--as", "z", "--dir", plain.to_str().unwrap(), "--start"], 5);
    let (_, id) = bench.published().into_iter().find(|(image, _)| image == "m/b").unwrap();
    bench.succeeds(&["forget", &format!("m/b@{id}")]);
    let lacking = bench.path("lacking");
    let lacking = lacking.to_str().unwrap();
    let missing = bench.fails(&["restore", "m", "--as", "x", "--dir", lacking], 7);
    assert!(missing.stderr.contains("of b were forgotten") && missing.stderr.contains("--disk a"));
    bench.fails(&["restore", "m", "--as", "x", "--dir", lacking, "--disk", "b"], 7);
    assert!(!Path::new(lacking).exists());
    bench.succeeds(&["restore", "m", "--as", "x", "--dir", lacking, "--disk", "a"]);

    // A damaged repository gives nothing, not half.
    for entry in std::fs::read_dir(bench.repository().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let files = if path.is_dir() {
            names(&path).into_iter().map(|name| path.join(name)).collect()
        } else {
            vec![path]
        };
        for file in files {
            std::fs::write(file, "damaged").unwrap();
        }
    }
    let nothing = bench.path("nothing");
    let outcome = bench.run(&["restore", "n", "--as", "x", "--dir", nothing.to_str().unwrap()]);
    assert!(outcome.code != 0 && !nothing.exists(), "{}", outcome.stderr);
}

/// A stopped machine with a raw and a qcow2 disk, its group, and disks that have changed since.
fn stopped(bench: &Bench, bytes: u64) -> (Vec<Disk>, Vec<Vec<u8>>) {
    let disks =
        vec![Disk::create(bench, "a.raw", "raw", bytes), Disk::create(bench, "b.qcow2", "qcow2", bytes)];
    let mut content = vec![vec![0; bytes as usize]; 2];
    let mut random = Random::new(5);
    let machine = Machine::start(bench, &disks, &[]);
    for _ in 0..30 {
        let write = Write::random(&mut random, 2, bytes);
        machine.write(&write);
        write.apply(&mut content);
    }
    bench.succeeds(&bench.back_up(&machine.source(), &[]));
    // The guest goes on, and the bitmaps record it.
    (0..10).for_each(|_| machine.write(&Write::random(&mut random, 2, bytes)));

    let before: Vec<_> = disks.iter().map(|disk| std::fs::read(&disk.path).unwrap()).collect();
    let refused = bench.fails(&["restore", "m", "--in-place", "--yes"], 5);
    assert!(refused.stderr.contains("running machine"), "{}", refused.stderr);
    for (disk, before) in disks.iter().zip(before) {
        assert!(std::fs::read(&disk.path).unwrap() == before, "{disk:?} was written");
    }
    machine.end(true);
    (disks, content)
}

fn flat(bench: &Bench, disk: &Disk) -> Vec<u8> {
    let raw = bench.path("flat.raw");
    let paths = [&disk.path, &raw].map(|path| path.to_str().unwrap());
    qemu_img(&["convert", "-f", disk.format, "-O", "raw", paths[0], paths[1]]);
    std::fs::read(raw).unwrap()
}

fn is_reverted(bench: &Bench, disks: &[Disk], content: &[Vec<u8>], context: &str) {
    for (disk, content) in disks.iter().zip(content) {
        assert_same(&flat(bench, disk), content, &format!("{context}: {disk:?}"));
    }
    let left: Vec<_> =
        names(Path::new(bench.root())).into_iter().filter(|name| name.contains("revert")).collect();
    assert!(left.is_empty(), "{context}: {left:?}");
}

#[test]
fn a_stopped_machine_is_brought_back_where_it_is() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let (disks, content) = stopped(&bench, SIZE);
    let present: Vec<_> = disks.iter().map(|disk| flat(&bench, disk)).collect();
    assert!(present != content);

    bench.fails(&["restore", "m", "--in-place"], 5);
    bench.succeeds(&["restore", "m", "--in-place", "--dry-run"]);
    bench.fails(&["restore", "m", "--in-place", "--yes", "--disk", "vd7=/x"], 7);
    let raw = disks[0].path.to_str().unwrap();
    bench.fails(&["restore", "m", "--in-place", "--yes", "--disk", &format!("vd1={raw}")], 2);
    bench.fails(&["restore", "m", "--in-place", "--yes", "--disk", "vd0=/no/such/disk"], 7);
    qemu_img(&["resize", "-q", "-f", "raw", raw, "20M"]);
    bench.fails(&["restore", "m", "--in-place", "--yes"], 5);
    assert_same(&flat(&bench, &disks[1]), &present[1], "refused, and changed all the same");
    qemu_img(&["resize", "-q", "-f", "raw", "--shrink", raw, "16M"]);

    // The qcow2 image alone, elsewhere.
    std::fs::rename(&disks[1].path, bench.path("moved.qcow2")).unwrap();
    bench.fails(&["restore", "m", "--in-place", "--yes"], 7);
    let moved = Disk { path: bench.path("moved.qcow2"), format: "qcow2" };
    let place = format!("vd1={}", moved.path.display());
    bench.succeeds(&["restore", "m", "--in-place", "--yes", "--disk", &place]);
    let disks = [disks[0].clone(), moved];
    is_reverted(&bench, &disks, &content, "brought back");

    // No bitmap is believed that was before: the next backup reads all, and is right.
    let machine = Machine::start(&bench, &disks, &[]);
    assert_eq!(machine.bitmaps(1), Vec::<Value>::new());
    let write = Write { disk: 1, offset: 0, length: 4096, pattern: 3, kind: common::machine::Kind::Data };
    machine.write(&write);
    let mut content = content;
    write.apply(&mut content);
    bench.succeeds(&bench.back_up(&machine.source(), &[]));
    let shown = bench.succeeds(&["show", "m"]).value().clone();
    for disk in shown["disks"].as_array().unwrap() {
        assert_eq!(disk["capture"]["mode"], "full", "{disk}");
    }
    machine.end(true);
    for (number, content) in content.iter().enumerate() {
        assert_same(&bench.content(&format!("m/vd{number}")), content, "the backup after it");
    }
    // What is as it was is left alone.
    let again = bench.succeeds(&["restore", "m", "--in-place", "--yes"]);
    for disk in again.lines[1]["disks"].as_array().unwrap() {
        assert_eq!(disk["restore"]["written_bytes"], 0, "{disk}");
    }
}

#[test]
fn a_revert_that_was_killed_is_completed_by_the_next() {
    if !has_qemu() {
        return;
    }
    let bench = Bench::with_repository();
    let (disks, content) = stopped(&bench, SIZE);
    let mut random = Random::new(11);
    let (mut killed, mut longest) = (0, Duration::from_millis(40));
    for round in 0..12 {
        // Something else on both.
        for disk in &disks {
            let noise = bench.path("noise.raw");
            let mut bytes = vec![0; SIZE as usize];
            random.fill(&mut bytes);
            std::fs::write(&noise, bytes).unwrap();
            qemu_img(&[
                "convert",
                "-n",
                "-f",
                "raw",
                "-O",
                disk.format,
                noise.to_str().unwrap(),
                disk.path.to_str().unwrap(),
            ]);
        }
        let started = Instant::now();
        let mut child = bench.start(&["restore", "m", "--in-place", "--yes", "-j", "1"]);
        std::thread::sleep(Duration::from_micros(random.below(longest.as_micros() as u64 + 1)));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if ended.success() {
            longest = started.elapsed();
            is_reverted(&bench, &disks, &content, &format!("round {round}, not killed"));
            continue;
        }
        killed += 1;
        longest = longest.max(Duration::from_millis(150));
        // The image is whole, whichever it is.
        qemu_img(&["check", "-q", "-f", "qcow2", disks[1].path.to_str().unwrap()]);
        bench.succeeds(&["restore", "m", "--in-place", "--yes"]);
        is_reverted(&bench, &disks, &content, &format!("round {round}, killed"));
    }
    assert!(killed > 2, "only {killed} of 12 were killed in time");
    bench.is_sound("after kills");
}
