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
use fimd::model::tokenizer::chat::{ChatTemplate, Message, Role};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value as Json;

use crate::convert::Gguf;

#[path = "../fuzz/readers.rs"]
mod readers;

/// Mutations of all seeds of a target together.
const CASES: u64 = 20_000;

/// No allocation may be larger, whatever a file of a few KB claims.
const ALLOCATION_BYTES_MAX: usize = 8 << 20;
/// The same where tables are as long as the greatest token id, which is limited.
const TABLE_BYTES_MAX: usize = 64 << 20;

/// How long one mutant takes at most,
const CASE_TIME_MAX: Duration = Duration::from_secs(20);
/// and how many bytes are held for it.
const CASE_BYTES_MAX: isize = 1 << 30;

/// How long folders and templates take at most, which are slow to read.
const FOLDERS_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a template takes at most without optimisation; with it, a second.
const TEMPLATE_TIME_MAX: Duration = Duration::from_secs(20);
/// Most memory that a template takes, in bytes.
const TEMPLATE_BYTES_MAX: isize = 256 << 20;

/// The system's allocator, which remembers the largest allocation of each thread, what it holds, and the most that it
/// has held.
struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST_HELD: Cell<isize> = const { Cell::new(0) };
}

fn note(size: usize, freed: usize) {
    LARGEST.set(LARGEST.get().max(size));
    HELD.set(HELD.get() + size as isize - freed as isize);
    MOST_HELD.set(MOST_HELD.get().max(HELD.get()));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller keeps the promises of `dealloc`, and `at` came from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps the promises of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
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
    check_with(
        readers::folder,
        &seeds("folder"),
        &[mutate_bytes, mutate_json, mutate_json, mutate_words],
        TABLE_BYTES_MAX,
        FOLDERS_TIME_MAX,
    );
}

#[test]
fn templates_are_rendered_or_refused() {
    let mutations: &[Mutation] = &[mutate_bytes, mutate_words, mutate_words, mutate_words];
    check_with(
        readers::template,
        &seeds("template"),
        mutations,
        TEMPLATE_BYTES_MAX as usize,
        FOLDERS_TIME_MAX,
    );
}

/// Templates that make something large of something small, again and again.
#[test]
fn growing_templates_are_refused() {
    const FILTERS: [&str; 48] = [
        "abs",
        "attr",
        "batch",
        "bool",
        "capitalize",
        "chain",
        "count",
        "d",
        "dictsort",
        "e",
        "first",
        "float",
        "format",
        "groupby",
        "indent",
        "int",
        "items",
        "join",
        "last",
        "length",
        "lines",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "pprint",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "slice",
        "sort",
        "split",
        "string",
        "sum",
        "title",
        "tojson",
        "trim",
        "unique",
        "upper",
        "urlencode",
        "zip",
        "wordwrap",
    ];
    let again = |times: usize, start: &str, step: &str| {
        format!(
            "{{% set n = namespace(x={start}, y={start}) %}}{{% for i in range({times}) %}}{{% set n.x = {step} %}}{{% endfor %}}"
        )
    };
    let steps = [
        "n.x ~ n.x",
        "n.x + n.x",
        "n.x * 2",
        "n.x * 99999999",
        "[n.x, n.x]",
        "(n.x, n.x)",
        "(n.x,)",
        "{'a': n.x, 'b': n.x}",
        "dict(a=n.x, b=n.x)",
        "namespace(a=n.x, b=n.x)",
        "n.x[0:]",
        "n.x[::-1]",
        "n.x * 1",
        "n.x + []",
        "n.x|join(n.x)",
        "n.x|list + n.x|list",
        "n.x|replace('a', n.x|string)",
        "n.x.replace('a', n.x)",
        "n.x|string",
        "n.x|string + n.x|string",
        "n.x|tojson",
        "n.x|tojson(indent=n.x|string)",
        "n.x|tojson|tojson",
        "n.x|tojson(sort_keys=true)",
        "n.x|list|batch(2)|list",
        "n.x|batch(99999999)|list",
        "n.x|slice(99999999)|list",
        "n.x|chain(n.x)",
        "n.x|zip(n.x)|list",
        "n.x|list|map('string')|list",
        "[n.x, n.x]|sum(start=[])",
        "n.x|items|list",
        "n.x|dictsort",
        "n.x|groupby(0)",
        "n.x|indent(99999999)",
        "'%99999999s'|format(n.x)",
        "'%s%s'|format(n.x, n.x)",
        "'{0}{0}'.format(n.x)",
        "'{:>99999999}'.format(n.x)",
        "n.x.join([n.x, n.x])",
        "n.x.split('')",
        "range(99999999)|list",
        "[range(16000)|list] * 99",
        "n.x|e",
        "n.x|urlencode",
        "n.x|pprint",
        "[n.x]|unique|list",
        "[n.x, n.y]|sort",
        "[n.x, n.y]|min",
        "n.x == n.y",
        "n.x in [n.y, n.x]",
        "n.x is eq(n.y)",
        "[[n.x, n.y]]|max",
        "{n.x: n.x}",
        "n",
        "[n]",
        "loop",
        "[loop]",
        "loop.previtem",
        "n.x|map('list')|list",
        "n.x|round(99999999)",
        "9 ** 9 ** 9",
        "n.x % (n.x, n.x)",
        "n.x|first + n.x|last",
        "n.x|wordwrap(1)",
        "n.x|sum",
    ];
    let deep =
        ["(n.x,)", "[n.x]", "n.x[0:]", "n.x[::-1]", "n.x * 1", "n.x + []", "n.x|reverse", "n.x|map('list')"];
    let mut templates: Vec<String> = deep.iter().map(|step| again(16_000, "['a', 'b']", step)).collect();
    for start in ["'ab'", "{'a': 'b', 'c': 'd'}", "('a', 'b')", "messages"] {
        templates.extend(steps.iter().map(|step| again(100, start, step)));
    }
    for filter in FILTERS {
        for arguments in ["", "(99999999)", "(n.x)", "('a' * 9999, n.x)"] {
            let step = format!("n.x|{filter}{arguments}");
            templates.extend(["'ab'", "['a', messages]"].map(|start| again(100, start, &step)));
        }
    }
    let set = "{% set x = [x, x, 'a'] %}";
    templates.extend([
        format!("{{% set x = 'a' %}}{}{{{{ x|tojson }}}}", set.repeat(2000)),
        format!("{{% set x = 'a' * 9999 %}}{}", "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(1000)),
        format!("{{% set x = range(5000)|list %}}{}", (0..2000).map(|i| format!("{{% set a{i} = x[1:] %}}")).collect::<String>()),
        "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f('a') }}".into(),
        "{% macro f(x) %}{{ f(x ~ x) }}{{ f(x ~ x) }}{% endmacro %}{{ f('a') }}".into(),
        "{% set n = namespace(t=0) %}{% for i in range(9999) %}{% set k = namespace() %}{% set n.t.x = k %}{% set n.t = k %}{% endfor %}".into(),
        "{% set n = namespace(f=0) %}{% for i in range(9999) %}{% set p = n.f %}{% macro f() %}{{ p }}{% endmacro %}{% set n.f = f %}{% endfor %}".into(),
        "{% set n = namespace(l=0) %}{% for i in range(9999) %}{% for j in [n.l] %}{% set n.l = loop %}{% endfor %}{% endfor %}".into(),
        "{% set a = [range(4000)|list, 1] %}{% set b = [range(4000)|list, 2] %}{% for i in range(16000) %}{% if a == b or a < b or a in [b] %}{% endif %}{% endfor %}".into(),
        "{% set a = [range(4000)|list, 1] %}{% set b = [range(4000)|list, 2] %}{% for i in range(16000) %}{% if [a, b]|min(case_sensitive=true) %}{% endif %}{% endfor %}".into(),
        "{% set d = {'a': 1} %}{% set k = [range(9000)|list] %}{% for i in range(16000) %}{{ d[k] }}{% endfor %}".into(),
        "{% for a in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}".into(),
        "{% set x = ('a' * 100000000) + ('a' * 100000000) %}{% set y = (1,) * 100000000 %}".into(),
        "{% filter replace('a', 'a' * 9999) %}{{ 'a' * 99999 }}{% endfilter %}".into(),
        "{% set m = messages * 4000 %}{% for i in range(16000) %}{% for a in m %}{% for b in m %}{{ a.role }}{% endfor %}{% endfor %}{% endfor %}".into(),
    ]);
    let said = [Message::new(Role::User, "fn a() {\n".repeat(100))];
    let mut wrong = Vec::new();
    for template in &templates {
        let before = HELD.get();
        MOST_HELD.set(before);
        let started = Instant::now();
        let outcome = ChatTemplate::new(template, "").and_then(|parsed| parsed.render(&said));
        let (time, bytes) = (started.elapsed(), MOST_HELD.get() - before);
        if std::env::var_os("FIMD_FUZZ_SHOW").is_some() {
            let outcome =
                outcome.map_or_else(|error| format!("{error:#}"), |text| format!("{} bytes", text.len()));
            println!(
                "{:6} ms {:5} MiB {} {outcome:?}",
                time.as_millis(),
                bytes >> 20,
                template.chars().take(120).collect::<String>()
            );
        }
        if time > TEMPLATE_TIME_MAX || bytes > TEMPLATE_BYTES_MAX {
            wrong.push(format!("{time:?}, {bytes} bytes: {template}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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

/// A change of the bytes of a seed, which may take from other seeds.
type Mutation = fn(&mut Vec<u8>, &mut Mmix, &[Vec<u8>]);

#[track_caller]
fn check(read: fn(&[u8]), seeds: &[Vec<u8>], allocation_bytes_max: usize, time_max: Duration) {
    check_with(read, seeds, &[mutate_bytes], allocation_bytes_max, time_max);
}

/// FIMD_FUZZ_SECONDS sets another time, which alone then ends it, and FIMD_FUZZ_SEED other mutations.
#[track_caller]
fn check_with(
    read: fn(&[u8]),
    seeds: &[Vec<u8>],
    mutations: &[Mutation],
    allocation_bytes_max: usize,
    time_max: Duration,
) {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let mut random = Mmix(number("FIMD_FUZZ_SEED").unwrap_or(1));
    let (cases, time_max) = number("FIMD_FUZZ_SECONDS")
        .map_or((CASES, time_max), |seconds| (u64::MAX, Duration::from_secs(seconds)));
    let started = Instant::now();
    let mut done = 0;
    for case in (0..cases).take_while(|_| started.elapsed() < time_max) {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(3) {
            mutations[random.below(mutations.len())](&mut bytes, &mut random, seeds);
        }
        LARGEST.set(0);
        let (before, begun) = (HELD.get(), Instant::now());
        MOST_HELD.set(before);
        let shown = || String::from_utf8_lossy(&bytes).escape_debug().to_string();
        assert!(catch_unwind(|| read(&bytes)).is_ok(), "case {case}: {bytes:02x?} {}", shown());
        let (largest, time) = (LARGEST.get(), begun.elapsed());
        assert!(
            largest <= allocation_bytes_max,
            "case {case} allocates {largest} bytes: {bytes:02x?} {}",
            shown()
        );
        assert!(MOST_HELD.get() - before < CASE_BYTES_MAX, "case {case} holds too much: {}", shown());
        assert!(time < CASE_TIME_MAX, "case {case} takes {time:?}: {}", shown());
        done = case + 1;
    }
    println!("{done} mutants in {:?}", started.elapsed());
}

/// Replaces parts of the JSON texts in a seed, of which a zero byte separates each from the next.
fn mutate_json(bytes: &mut Vec<u8>, random: &mut Mmix, _: &[Vec<u8>]) {
    const JUNK: [&str; 26] = [
        "null",
        "true",
        "false",
        r#""""#,
        r#""x""#,
        r#""l""#,
        "[]",
        "{}",
        "[[]]",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "7",
        "0.5",
        "1e308",
        "1e-320",
        "65536",
        "1048577",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551616",
        r#"{"type":"Sequence","normalizers":[{"type":"Lowercase"},{"type":"Replace","pattern":{"Regex":"."},"content":"aa"}]}"#,
    ];
    let mut parts: Vec<Vec<u8>> = bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
    let part = random.below(2.min(parts.len()));
    let Ok(mut value) = serde_json::from_slice::<Json>(&parts[part]) else { return };
    let mut pointer = String::new();
    while random.below(4) > 0 {
        let child = match value.pointer(&pointer).unwrap() {
            Json::Object(map) if !map.is_empty() => map.keys().nth(random.below(map.len())).unwrap().clone(),
            Json::Array(list) if !list.is_empty() => random.below(list.len()).to_string(),
            _ => break,
        };
        pointer += "/";
        pointer += &child.replace('~', "~0").replace('/', "~1");
    }
    let integer = (1_u64 << random.below(64)).wrapping_sub(random.below(2) as u64);
    let copies = [1, 2, 1000][random.below(3)];
    let junk = match random.below(4) {
        0 => integer.into(),
        1 => "\u{120}la ".repeat(copies).into(),
        _ => serde_json::from_str(JUNK[random.below(JUNK.len())]).unwrap_or_default(),
    };
    match value.pointer_mut(&pointer).unwrap() {
        Json::Object(map) if random.below(2) == 0 => {
            let key = map.keys().nth(random.below(map.len().max(1))).cloned().unwrap_or_default();
            let moved = map.remove(&key).unwrap_or_default();
            map.insert(
                ["type", "id", "", "\u{120}l"][random.below(4)].into(),
                [moved, junk][random.below(2)].clone(),
            );
        }
        Json::Array(list) if random.below(2) == 0 => {
            let copied = if list.is_empty() { junk } else { list[random.below(list.len())].clone() };
            list.extend(std::iter::repeat_n(copied, copies));
        }
        node => *node = junk,
    }
    parts[part] = serde_json::to_vec(&value).unwrap();
    *bytes = parts.join(&0);
}

/// Moves, repeats and removes words of the text in a seed after its last zero byte.
fn mutate_words(bytes: &mut Vec<u8>, random: &mut Mmix, seeds: &[Vec<u8>]) {
    let text_of = |bytes: &[u8]| bytes.rsplit(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let text = text_of(bytes);
    let start = bytes.len() - text.len();
    let mut own = words(&text);
    let others = words(&text_of(&seeds[random.below(seeds.len())]));
    for _ in 0..1 + random.below(4) {
        if own.is_empty() || others.is_empty() {
            break;
        }
        let at = random.below(own.len());
        let end = own.len().min(at + 1 + random.below(12));
        let from = random.below(others.len());
        let some = &others[from..others.len().min(from + 1 + random.below(12))];
        match random.below(5) {
            0 => drop(own.splice(at..=at, [others[from].clone()])),
            1 => drop(own.splice(at..at, some.iter().cloned())),
            2 => drop(own.drain(at..end)),
            3 => {
                let copies = [1, 2, 100][random.below(3)];
                let repeated: Vec<_> = std::iter::repeat_n(own[at..end].to_vec(), copies).flatten().collect();
                drop(own.splice(at..at, repeated));
            }
            _ => {
                let other = random.below(own.len());
                own.swap(at, other);
            }
        }
    }
    bytes.truncate(start);
    bytes.extend(own.concat());
}

/// Runs of letters and digits, runs of whitespace, delimiters of tags, and single other characters.
fn words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let kind = |byte: u8| match byte {
        b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => 1,
        b'{' | b'%' | b'}' => 2,
        b' ' | b'\n' => 3,
        _ => 0,
    };
    for &byte in text {
        match words.last_mut() {
            Some(word) if kind(byte) > 0 && kind(word[0]) == kind(byte) => word.push(byte),
            _ => words.push(vec![byte]),
        }
    }
    words
}

fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Mmix, seeds: &[Vec<u8>]) {
    const INTEGERS: [u64; 12] =
        [0, 1, 2, 31, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 60, u64::MAX / 2, u64::MAX];
    if bytes.is_empty() {
        return;
    }
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
        ("template", "chatml.jinja", CHATML.as_bytes().to_vec()),
        ("template", "chains.jinja", CHAINS.as_bytes().to_vec()),
        ("template", "tools.jinja", TOOLS.as_bytes().to_vec()),
        ("template", "growth.jinja", GROWTH.as_bytes().to_vec()),
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

const TOOLS: &str = "{%- set ns = namespace(last=messages|length - 1, tools=[]) -%}
{%- macro show(value, depth=0) -%}
    {%- if value is mapping -%}
        {%- for key, item in value|items recursive -%}<{{ key|upper }}>{{ show(item, depth + 1) }}</{{ key }}>{%- endfor -%}
    {%- elif value is string -%}{{ value.strip().replace('\\n', ' ')|trim }}
    {%- else -%}{{ value|tojson(indent=2) }}{%- endif -%}
{%- endmacro -%}
{%- for m in messages[::-1] if m.role != 'system' -%}
    {%- set ns.tools = ns.tools + [{'name': m.role, 'text': m.content.split('l')[-1]}] -%}
    {%- if loop.first and loop.index0 == ns.last or not loop.last -%}{{ loop.previtem is defined }}{%- endif -%}
{%- endfor -%}
{{- show(ns.tools[0]) ~ ns.tools|map(attribute='name')|join(', ') -}}
{%- if ns.tools|selectattr('name', 'eq', 'user')|list|length > 1 -%}{{ raise_exception('two') }}{%- endif -%}
{{ '%s: %d'|format(eos_token, 3) }}{{ strftime_now('%d %b %Y') }}";

const GROWTH: &str = "{% set n = namespace(x=['a', 'b'], y='ab', d={'a': 1}) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}
{% set n.y = n.y ~ n.y * 2 %}{% set n.d = dict(n.d, b=n.d) %}{% set n.x = (n.x, n.x)|list|batch(2)|sort|unique %}{% endfor %}
{% macro f(x) %}{{ f([x, x]) }}{{ caller() }}{% endmacro %}{% call f(n.y) %}{{ n.x|join(n.y) }}{% endcall %}
{% set y %}{{ y }}{{ y|replace('a', y) }}{% endset %}{% filter upper %}{{ n.x[1:]|tojson }}{{ '{0:>9}'.format(y) }}{% endfilter %}
{% for a in [n.x, [n.d]] recursive %}{{ loop(a) if a is iterable else a is eq(n.x) }}{% endfor %}{{ 2 ** 9 // 3 % 2 in n.x }}";

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
