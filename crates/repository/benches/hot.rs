//! What a backup and a restore do most: test for zeros, name chunks, encode and decode frames.

#![allow(clippy::expect_used, reason = "a benchmark that cannot run has nothing to say")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use leeward_disk::is_zero;
use leeward_repository::measure::{decode_frame, encode_frame, name_chunks};

const FRAME_BYTES: usize = 2 << 20;
const CHUNK_BYTES: usize = 64 << 10;

/// Text-like content: words of a small vocabulary in random order.
fn content() -> Vec<u8> {
    let words = [
        "snapshot ",
        "repository ",
        "site ",
        "lost+found ",
        "/usr/lib/",
        "0x7f454c46 ",
        "\0\0\0\0",
        "Leeward\n",
    ];
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(FRAME_BYTES + 16);
    while bytes.len() < FRAME_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(words[(state >> 61) as usize].as_bytes());
        bytes.extend_from_slice(&(state >> 40).to_le_bytes()[..2]);
    }
    bytes.truncate(FRAME_BYTES);
    bytes
}

fn hot(criterion: &mut Criterion) {
    let content = content();
    let zeros = vec![0; FRAME_BYTES];
    let mut group = criterion.benchmark_group("frame of 2 MiB");
    group.throughput(Throughput::Bytes(FRAME_BYTES as u64)).sample_size(20);
    group.bench_function("zero test of zeros", |b| b.iter(|| is_zero(black_box(&zeros))));
    group.bench_function("names of chunks", |b| b.iter(|| name_chunks(black_box(&content), CHUNK_BYTES)));
    for level in [1, 2, 3] {
        group.bench_function(format!("encode and check, level {level}"), |b| {
            b.iter(|| encode_frame(black_box(&content), level).expect("a frame"));
        });
    }
    let frame = encode_frame(&content, 2).expect("a frame");
    let mut back = Vec::new();
    group.bench_function("decode", |b| b.iter(|| decode_frame(black_box(&frame), &mut back).expect("zstd")));
    assert_eq!(back, content, "what was encoded is decoded");
    group.finish();
}

criterion_group!(benches, hot);
criterion_main!(benches);
