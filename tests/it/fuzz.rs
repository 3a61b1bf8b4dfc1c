//! Readers of untrusted files under deterministic mutations of `tests/fuzz/corpus`: what cargo-fuzz does with
//! the same functions, on any toolchain and in seconds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
/// The same where tables are as long as the greatest token id, which is limited.
const TABLE_BYTES_MAX: usize = 64 << 20;

/// How long folders take at most, which are slow to read.
const FOLDERS_TIME_MAX: Duration = Duration::from_secs(30);

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
    check(readers::gguf, &seeds("gguf"), ALLOCATION_BYTES_MAX, Duration::MAX);
}

#[test]
fn safetensors_files_are_read_or_refused() {
    check(readers::safetensors, &seeds("safetensors"), ALLOCATION_BYTES_MAX, Duration::MAX);
}

#[test]
fn folders_are_read_or_refused() {
    check(readers::folder, &seeds("folder"), TABLE_BYTES_MAX, FOLDERS_TIME_MAX);
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

/// FIMD_FUZZ_SECONDS sets another time, which alone then ends it.
#[track_caller]
fn check(read: fn(&[u8]), seeds: &[Vec<u8>], allocation_bytes_max: usize, time_max: Duration) {
    let mut random = Mmix(1);
    let seconds = std::env::var("FIMD_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let (cases, time_max) =
        seconds.map_or((CASES, time_max), |seconds| (u64::MAX, Duration::from_secs(seconds)));
    let started = Instant::now();
    for case in (0..cases).take_while(|_| started.elapsed() < time_max) {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(3) {
            mutate(&mut bytes, &mut random, seeds);
        }
        LARGEST.set(0);
        assert!(catch_unwind(|| read(&bytes)).is_ok(), "case {case}: {bytes:02x?}");
        let largest = LARGEST.get();
        assert!(largest <= allocation_bytes_max, "case {case} allocates {largest} bytes: {bytes:02x?}");
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Mmix, seeds: &[Vec<u8>]) {
    const INTEGERS: [u64; 12] =
        [0, 1, 2, 31, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 60, u64::MAX / 2, u64::MAX];
    let at = random.below(bytes.len());
    match random.below(7) {
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
        5 => {
            let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let integer = INTEGERS[random.below(INTEGERS.len())].to_string();
            bytes.splice(at..at + digits, integer.bytes());
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
        ("folder", "qwen3_next.folder", folder_seed(QWEN3_NEXT, r#"{"type": "NFC"}"#, CHATML)),
        (
            "folder",
            "qwen2.folder",
            folder_seed(
                QWEN2,
                r#"{"type": "Replace", "pattern": {"String": "l"}, "content": "llll"}"#,
                CHAINS,
            ),
        ),
        ("gguf", "types.gguf", types_seed().bytes()),
        ("gguf", "metadata.gguf", metadata_seed().bytes()),
        ("gguf", "model.gguf", model_seed().bytes()),
        ("gguf", "tokenizer.gguf", tokenizer_seed().bytes()),
    ]
}

const QWEN3_NEXT: &str = r#"{"model_type":"qwen3_next","vocab_size":512,"hidden_size":8,"num_hidden_layers":2,
"num_attention_heads":1,"num_key_value_heads":1,"head_dim":8,"rms_norm_eps":1e-6,"max_position_embeddings":64,
"tie_word_embeddings":true,"layer_types":["linear_attention","full_attention"],"rope_theta":1e4,
"linear_num_key_heads":1,"linear_num_value_heads":1,"linear_key_head_dim":8,"linear_value_head_dim":8,
"linear_conv_kernel_dim":4,"num_experts":2,"num_experts_per_tok":1,"moe_intermediate_size":8,
"shared_expert_intermediate_size":8,"mlp_only_layers":[]}"#;

const QWEN2: &str = r#"{"model_type":"qwen2","vocab_size":512,"hidden_size":8,"num_hidden_layers":1,
"num_attention_heads":1,"num_key_value_heads":1,"rms_norm_eps":1e-6,"max_position_embeddings":64,
"intermediate_size":8,"rope_parameters":{"rope_theta":1e4,"rope_type":"default"},
"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}}"#;

const CHATML: &str = "{% macro turn(role, text) %}<|im_start|>{{ role ~ '\\n' + text }}<|im_end|>\n{% endmacro %}\
{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ turn(m.role, m['content'] | trim) }}\
{% endfor %}{% if add_generation_prompt and ns.n %}<|im_start|>assistant\n{% elif x is defined %}{{ x | tojson }}{% endif %}";

const CHAINS: &str =
    "{{ a.b.c[0](1)|d|e is f if g else not -1 }}{% for i in range(9) %}{{ messages[::-1] }}{% endfor %}";

/// The small files of a folder.
fn folder_seed(config: &str, normalizer: &str, template: &str) -> Vec<u8> {
    let vocab: Vec<String> =
        byte_tokens().zip(0..).map(|(token, id)| format!("{}:{id}", serde_json::json!(token))).collect();
    let split = r#"{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|\\p{L}+|."},"behavior":"Isolated","invert":false}"#;
    let bytes = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
    let tokenizer = format!(
        r#"{{"added_tokens":[{{"id":257,"content":"<|im_end|>"}}],"normalizer":{normalizer},
"pre_tokenizer":{{"type":"Sequence","pretokenizers":[{split},{bytes}]}},
"model":{{"type":"BPE","vocab":{{{},"le":256}},"merges":[["l","e"]]}}}}"#,
        vocab.join(",")
    );
    [config, &tokenizer, template].join("\0").into_bytes()
}

/// How each byte is spelled.
fn byte_tokens() -> impl Iterator<Item = String> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut moved = '\u{100}'..;
    (0..=255u8).map(move |byte| {
        if is_printable(&byte) { char::from(byte) } else { moved.next().unwrap() }.to_string()
    })
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
    let tokens: Vec<String> =
        byte_tokens().chain(["ab".into(), "<|endoftext|>".into(), "[PAD]".into()]).collect();
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
