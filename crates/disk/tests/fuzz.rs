//! The fuzzers of the formats, on stable Rust: the committed inputs, then inputs made from them.
//!
//! `LEEWARD_FUZZ_SECONDS` says for how long each format is fuzzed (2). An input that breaks a reader is kept in the
//! directory for temporary files; put it into `fuzz/corpus/<format>` with the fix. `fuzz/` has the same for cargo-fuzz, with coverage
//! to guide it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use leeward_disk::Format;
use support::exercise::exercise;
use support::mutate::mutate;
use support::{Random, corpus, has_qemu_img};

/// No input may take longer, on a slow and busy machine.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
/// Memory that the whole process may have taken, with all tests in it.
const MEMORY_KIB_MAX: u64 = 1 << 20;
const CORPUS_BYTES_MAX: usize = 1 << 20;

fn seconds() -> Duration {
    let seconds = std::env::var("LEEWARD_FUZZ_SECONDS").ok().map_or(2.0, |text| text.parse().unwrap());
    Duration::from_secs_f64(seconds)
}

fn run(format: Format, name: &str, input: &[u8]) {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| exercise(format, input)));
    let took = started.elapsed();
    if result.is_err() || took > INPUT_TIME_MAX {
        let kept = std::env::temp_dir().join(format!("leeward-fuzz-{format}-{name}"));
        std::fs::write(&kept, input).unwrap();
        eprintln!("{format} input {name} took {took:?}; it is kept in {}", kept.display());
    }
    if let Err(panic) = result {
        resume_unwind(panic);
    }
    assert!(took <= INPUT_TIME_MAX, "{format} input {name} took {took:?}");
}

fn fuzz(format: Format) {
    let inputs = corpus::read(format);
    assert!(!inputs.is_empty());
    for (name, input) in &inputs {
        run(format, name, input);
    }
    let mut random = Random(format.name().bytes().map(u64::from).sum());
    let end = Instant::now() + seconds();
    let mut count = 0_u64;
    while Instant::now() < end {
        let (name, input) = &inputs[random.below(inputs.len() as u64) as usize];
        run(format, &format!("{name}-{count}"), &mutate(&mut random, input));
        count += 1;
    }
    println!("{format}: {} inputs of the corpus, {count} made from them", inputs.len());
    assert!(memory_kib() < MEMORY_KIB_MAX, "{} KiB of memory", memory_kib());
}

/// The most memory that this process has had.
fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn raw_withstands_the_fuzzer() {
    fuzz(Format::Raw);
}

#[test]
fn qcow2_withstands_the_fuzzer() {
    fuzz(Format::Qcow2);
}

#[test]
fn vmdk_withstands_the_fuzzer() {
    fuzz(Format::Vmdk);
}

#[test]
fn vhd_withstands_the_fuzzer() {
    fuzz(Format::Vhd);
}

#[test]
fn vhdx_withstands_the_fuzzer() {
    fuzz(Format::Vhdx);
}

#[test]
fn vdi_withstands_the_fuzzer() {
    fuzz(Format::Vdi);
}

#[test]
fn the_corpus_stays_small() {
    let sizes =
        Format::FILES.map(|format| corpus::read(format).iter().map(|(_, input)| input.len()).sum::<usize>());
    assert!(sizes.iter().sum::<usize>() < CORPUS_BYTES_MAX, "{sizes:?}");
}

#[test]
#[ignore = "writes the corpus anew: only after a change of what is in it"]
fn the_corpus_is_written_anew() {
    if has_qemu_img("writing the corpus") {
        corpus::write();
    }
}
