//! Readers of untrusted files under deterministic mutations of `tests/fuzz/corpus`: what cargo-fuzz does with
//! the same functions, on any toolchain and in seconds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use fimd::base::dtype::DType;
use fimd::base::random::Mmix;
use fimd::format::gguf::{Array, TensorInfo, Value};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::convert::Gguf;

#[path = "../fuzz/readers.rs"]
mod readers;

/// Mutations of all seeds of a target together.
const CASES: u64 = 20_000;

/// No allocation may be larger, whatever a file of a few KB claims.
const ALLOCATION_BYTES_MAX: usize = 8 << 20;

/// The system's allocator, which remembers the largest allocation of each thread.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`, and `at` came from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller keeps the promises of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(size));
        // SAFETY: the caller keeps the promises of `realloc`, and `at` came from the system's allocator.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

#[test]
fn gguf_files_are_read_or_refused() {
    check(readers::gguf, &seeds("gguf"));
}

#[test]
fn safetensors_files_are_read_or_refused() {
    check(readers::safetensors, &seeds("safetensors"));
}

/// With FIMD_WRITE_SEEDS set, writes them.
#[test]
fn the_seeds_are_what_is_built_here() {
    for (target, name, bytes) in built_seeds() {
        let path = corpus(target).join(name);
        if std::env::var_os("FIMD_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(corpus(target)).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(bytes.len() < 4096, "{name} is small enough to mutate all of it");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", path.display());
    }
}

#[track_caller]
fn check(read: fn(&[u8]), seeds: &[Vec<u8>]) {
    let mut random = Mmix(1);
    for case in 0..CASES {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(3) {
            mutate(&mut bytes, &mut random, seeds);
        }
        LARGEST.set(0);
        assert!(catch_unwind(|| read(&bytes)).is_ok(), "case {case}: {bytes:02x?}");
        let largest = LARGEST.get();
        assert!(largest <= ALLOCATION_BYTES_MAX, "case {case} allocates {largest} bytes: {bytes:02x?}");
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Mmix, seeds: &[Vec<u8>]) {
    const INTEGERS: [u64; 12] =
        [0, 1, 2, 31, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 60, u64::MAX / 2, u64::MAX];
    let at = random.below(bytes.len());
    match random.below(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => {
            let integer = INTEGERS[random.below(INTEGERS.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            let end = bytes.len().min(at + width);
            bytes[at..end].copy_from_slice(&integer[..end - at]);
        }
        3 => {
            let other = &seeds[random.below(seeds.len())];
            let start = random.below(other.len());
            let end = other.len().min(start + random.below(64));
            bytes.splice(at..at, other[start..end].iter().copied());
        }
        4 => {
            let end = bytes.len().min(at + random.below(64));
            bytes.drain(at..end);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let start = random.below(other.len());
            let len = random.below(32).min(other.len() - start).min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&other[start..start + len]);
        }
    }
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        std::fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Target, file name and bytes of every seed.
fn built_seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let f32s: Vec<u8> = (0..12).flat_map(|i| (i as f32 / 4.0).to_le_bytes()).collect();
    let views = [
        ("a", TensorView::new(Dtype::F32, vec![3, 4], &f32s).unwrap()),
        ("b", TensorView::new(Dtype::F8_E4M3, vec![48], &f32s).unwrap()),
        ("c", TensorView::new(Dtype::I64, vec![2, 1, 3], &f32s).unwrap()),
        ("d", TensorView::new(Dtype::BF16, vec![0], &[]).unwrap()),
    ];
    vec![
        ("safetensors", "types.safetensors", safetensors::serialize(views, None).unwrap()),
        (
            "safetensors",
            "empty.safetensors",
            safetensors::serialize(Vec::<(&str, TensorView)>::new(), None).unwrap(),
        ),
        ("gguf", "types.gguf", types_seed().bytes()),
        ("gguf", "metadata.gguf", metadata_seed().bytes()),
        ("gguf", "model.gguf", model_seed().bytes()),
        ("gguf", "tokenizer.gguf", tokenizer_seed().bytes()),
    ]
}

/// A block of each type.
fn types_seed() -> Gguf {
    let types = DType::ALL.into_iter().filter(|&dtype| dtype != DType::F8E4M3);
    let tensors = types.map(|dtype| {
        let shape = vec![1, dtype.block_len()];
        (TensorInfo { name: dtype.to_string(), dtype, shape }, vec![0x5a; dtype.block_bytes()])
    });
    Gguf { metadata: Vec::new(), tensors: tensors.collect() }
}

fn metadata_seed() -> Gguf {
    let mut seed = Gguf { metadata: Vec::new(), tensors: Vec::new() };
    for (i, value) in [
        Value::U8(1),
        Value::I16(-1),
        Value::F32(0.5),
        Value::Bool(true),
        "text".into(),
        Value::F64(0.25),
        Value::Array(Array::U8(vec![1, 2, 3])),
        Value::Array(Array::String(vec!["a".into(), String::new()])),
        Value::Array(Array::Array(vec![Array::Bool(vec![true, false]), Array::I64(vec![-1])])),
    ]
    .into_iter()
    .enumerate()
    {
        seed.set(&i.to_string(), value);
    }
    seed.set("general.alignment", Value::U32(8));
    seed.set("tokenizer.chat_template", "{{ messages }}".into());
    seed
}

fn model_seed() -> Gguf {
    let embedding = TensorInfo { name: "token_embd.weight".into(), dtype: DType::BF16, shape: vec![4, 2] };
    let mut seed = Gguf { metadata: Vec::new(), tensors: vec![(embedding, vec![0x3f; 16])] };
    seed.set("general.architecture", "qwen3next".into());
    let mut set = |key: &str, value| seed.set(&format!("qwen3next.{key}"), value);
    for (key, count) in [
        ("block_count", 5),
        ("nextn_predict_layers", 1),
        ("context_length", 64),
        ("embedding_length", 2),
        ("attention.head_count", 2),
        ("attention.key_length", 4),
        ("rope.dimension_count", 2),
        ("expert_count", 2),
        ("expert_used_count", 1),
        ("expert_feed_forward_length", 2),
        ("expert_shared_feed_forward_length", 2),
        ("ssm.conv_kernel", 4),
        ("ssm.state_size", 2),
        ("ssm.group_count", 1),
        ("ssm.time_step_rank", 2),
        ("ssm.inner_size", 4),
    ] {
        set(key, Value::U32(count));
    }
    set("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    set("rope.freq_base", Value::F32(1e4));
    set("attention.head_count_kv", Value::Array(Array::I32(vec![0, 0, 0, 1, 1])));
    set("attention.recurrent_layers", Value::Array(Array::Bool(vec![true, true, true, false, false])));
    seed
}

/// All tokens of one byte, a merge and a special token.
fn tokenizer_seed() -> Gguf {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut moved = '\u{100}'..;
    let bytes = (0..=255u8)
        .map(|byte| if is_printable(&byte) { char::from(byte) } else { moved.next().unwrap() }.to_string());
    let tokens: Vec<String> = bytes.chain(["ab".into(), "<|endoftext|>".into(), "[PAD]".into()]).collect();
    let mut types = vec![1; 257];
    types.extend([3, 5]);
    let mut seed = Gguf { metadata: Vec::new(), tensors: Vec::new() };
    seed.set("tokenizer.ggml.model", "gpt2".into());
    seed.set("tokenizer.ggml.pre", "qwen2".into());
    seed.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    seed.set("tokenizer.ggml.token_type", Value::Array(Array::U8(types)));
    seed.set("tokenizer.ggml.merges", Value::Array(Array::String(vec!["a b".into()])));
    seed
}
