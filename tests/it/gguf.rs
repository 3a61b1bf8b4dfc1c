//! Models in GGUF: the same answers as from safetensors, and every damaged or foreign file refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fimd::base::dtype::DType;
use fimd::compute::Precision;
use fimd::compute::cpu::{Cpu, CpuOptions};
use fimd::decode::sample::log_softmax;
use fimd::format::gguf::{Array, TensorInfo, Value, Writer};
use fimd::format::{Bytes, Description, ModelDir};
use fimd::hub::quantize::Plan;
use fimd::model::architecture::{Field, LayerField};
use fimd::model::config::Architecture;
use fimd::model::layout::{self, Stored};
use fimd::model::{Config, Model, Tokenizer, architecture, export};
use tempfile::TempDir;

use crate::convert::{Form, Gguf, tokenizer_metadata};
use crate::{load, reference};

fn checkpoint(case: &str) -> ModelDir {
    ModelDir::open(&reference::folder(case)).unwrap()
}

/// Logits after every token of a prompt, and the greedy continuation.
fn run(dir: &ModelDir) -> anyhow::Result<(Vec<f32>, Vec<u32>)> {
    let options = load::options(128, 128);
    let mut model = load::model::<Cpu>(dir, 1, 8, options)?;
    let vocab = model.config().vocab as u32;
    let prompt: Vec<u32> = (0..50).map(|i| i * i % vocab).collect();
    Ok(reference::run(&mut model, &prompt, 32, 8))
}

#[test]
fn logits_equal_those_from_safetensors() {
    for case in ["odd", "fp8", "tied", "layer_types", "long"] {
        let dir = checkpoint(case);
        let (logits, ids) = run(&dir).unwrap();
        let bound = 1e-5 * logits.iter().fold(0f32, |max, x| max.max(x.abs()));
        for form in [Form::Split, Form::Fused, Form::Float] {
            let bytes = Bytes::from(Gguf::of(&dir, form).bytes());
            let converted = ModelDir::from_gguf(case, &bytes).unwrap();
            let (other, other_ids) = run(&converted).unwrap();
            let error = reference::distance(&logits, &other);
            assert!(error <= bound, "{case} {form:?}: {error} > {bound}");
            assert_eq!(ids, other_ids, "{case} {form:?}");
        }
    }
}

/// What transformers has stored is what the table says, and so is what a conversion writes.
#[test]
fn the_table_lists_all_tensors_of_both_kinds_of_files() {
    type Shapes = BTreeMap<String, Vec<usize>>;
    let shapes = |dir: &ModelDir| -> Shapes {
        let is_other = |name: &str| ["mtp.", "model.visual."].iter().any(|other| name.starts_with(other));
        let is_known = |name: &&str| !name.ends_with("_scale_inv") && !is_other(name);
        let names = dir.names().filter(is_known);
        names.map(|name| (name.to_owned(), dir.tensor(name).unwrap().shape)).collect()
    };
    for case in reference::CASES {
        let dir = checkpoint(case);
        let config = Config::read(&dir).unwrap();
        let parts = architecture::tensors(&config);
        let stored = parts.iter().flat_map(|part| &layout::locate(&dir, part).unwrap().tensors);
        let stored: Shapes = stored.map(|rows| (rows.tensor.clone(), rows.shape.clone())).collect();
        assert_eq!(stored, shapes(&dir), "{case}");

        if config.architecture != Architecture::Qwen3Next {
            continue;
        }
        let Ok(exported) = export::tensors(&config) else { continue };
        let exported: Shapes = exported.into_iter().map(|(tensor, _)| (tensor.name, tensor.shape)).collect();
        let converted = Gguf::of(&dir, Form::Split).tensors;
        let converted: Shapes = converted.into_iter().map(|(info, _)| (info.name, info.shape)).collect();
        assert_eq!(exported, converted, "{case}");
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("model.gguf");
        Plan::new(&dir, &"q8_0".parse().unwrap(), case).unwrap().write(&path, 1, |_| {}).unwrap();
        assert_eq!(exported, shapes(&ModelDir::open(&path).unwrap()), "{case}");
    }
}

/// Files that llama.cpp's converter made, with the case that each was made from.
fn converted() -> Vec<(String, ModelDir)> {
    let files = std::fs::read_dir(reference::folder("gguf")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let case =
        |path: &Path| path.file_stem().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0.to_owned();
    files.iter().map(|path| (case(path), ModelDir::open(path).unwrap())).collect()
}

/// The mean log-probability errors of llama.cpp itself (of October 2026, AVX2) in files for which it quantises
/// activations. Random weights make them large: a router's near tie alone moves a whole row, so they are compared with
/// a tenth to spare.
const LLAMA_CPP_ERRORS: [(&str, f32); 5] = [
    ("qwen2_tied-q8_0", 0.13),
    ("qwen3_tied-q8_0", 0.11),
    ("qwen3_5-q8_0", 0.22),
    ("qwen3_moe_q8_0-q8_0", 0.18),
    ("qwen3_5_moe-q8_0", 0.37),
];

#[test]
fn files_of_llama_cpp_agree_with_transformers() {
    for (case, dir) in converted() {
        for exact in [true, false] {
            let options = CpuOptions { exact, ..load::cpu(2, 8, Precision::F32) };
            let config = Config::read(&dir).unwrap();
            let mut model = Model::load(&dir, config, load::options(256, 256), Cpu::new(options)).unwrap();
            let vocab = model.config().vocab;
            let of_llama_cpp = LLAMA_CPP_ERRORS.iter().find(|(name, _)| dir.origin().contains(name));
            let mean_max = of_llama_cpp.map_or(2e-3, |&(_, mean)| if exact { 2e-3 } else { 1.1 * mean });
            let max = if mean_max > 2e-3 { f32::INFINITY } else { 2e-3 };
            for expected in reference::expected(&case) {
                let (mut logits, greedy) = reference::run(&mut model, &expected.prompt, 256, 24);
                logits.chunks_exact_mut(vocab).for_each(log_softmax);
                let error = reference::distance(&logits, &expected.logprobs);
                let errors = logits.iter().zip(&expected.logprobs).map(|(a, b)| (a - b).abs());
                let mean = errors.sum::<f32>() / logits.len() as f32;
                println!(
                    "{}, exact {exact}: log-probability error {error:.1e}, mean {mean:.1e}",
                    dir.origin()
                );
                assert!(error <= max && mean <= mean_max, "{}, exact {exact}: {error}, {mean}", dir.origin());
                assert!(!exact || greedy == expected.greedy, "{}", dir.origin());
            }
        }
    }
}

#[test]
fn repacked_weights_compute_the_same() {
    for (case, dir) in converted() {
        for exact in [true, false] {
            let of = |repack| {
                let options = CpuOptions { exact, repack, ..load::cpu(2, 8, Precision::F32) };
                let config = Config::read(&dir).unwrap();
                let mut model =
                    Model::load(&dir, config, load::options(256, 256), Cpu::new(options)).unwrap();
                let prompt = &reference::expected(&case)[0].prompt;
                let (logits, greedy) = reference::run(&mut model, prompt, 256, 24);
                (logits.into_iter().map(f32::to_bits).collect::<Vec<_>>(), greedy)
            };
            assert!(of(true) == of(false), "{}, exact {exact}", dir.origin());
        }
    }
}

/// Value by value, whatever the order of heads and however tensors are fused.
#[test]
fn a_conversion_writes_what_llama_cpp_writes() {
    let temp = TempDir::new().unwrap();
    for (case, theirs) in converted() {
        let mix = theirs.origin().rsplit_once('-').unwrap().1.trim_end_matches(".gguf");
        let path = temp.path().join("model.gguf");
        Plan::new(&checkpoint(&case), &mix.parse().unwrap(), &case).unwrap().write(&path, 2, |_| {}).unwrap();
        let ours = ModelDir::open(&path).unwrap();
        let config = Config::read(&ours).unwrap();
        assert_eq!(config, Config::read(&theirs).unwrap(), "{}", theirs.origin());
        for part in architecture::tensors(&config) {
            let values = |dir: &ModelDir| {
                let source = layout::locate(dir, &part).unwrap();
                Stored::open(dir, &config, source, part.cols()).unwrap().values()
            };
            // Exponentials of different libraries differ in their last bit.
            let is_exponential = matches!(part.field, Field::Layer(_, LayerField::DeltaDecay));
            let bound = if is_exponential { 4.0 * f32::EPSILON } else { 0.0 };
            let is_close = |(a, b): (f32, f32)| (a - b).abs() <= bound * b.abs();
            let mut pairs = values(&ours).into_iter().zip(values(&theirs));
            assert!(pairs.all(is_close), "{} {:?}", theirs.origin(), part.field);
        }
    }
}

#[test]
fn configurations_equal_those_from_config_json() {
    for case in ["odd", "tied", "layer_types", "long"] {
        let dir = checkpoint(case);
        let expected = Config::read(&dir).unwrap();
        let read = |edit: fn(&mut Gguf)| {
            let mut gguf = Gguf::of(&dir, Form::Split);
            edit(&mut gguf);
            Config::read(&ModelDir::from_gguf(case, &gguf.bytes().into()).unwrap()).unwrap()
        };
        assert_eq!(read(|_| ()), expected, "{case}");
        let per_layer = read(|gguf| {
            gguf.set("qwen3next.block_count", Value::U32(7));
            gguf.set("qwen3next.nextn_predict_layers", Value::U32(2));
            gguf.set("qwen3next.full_attention_interval", Value::U32(2));
            gguf.metadata.retain(|(key, _)| !key.ends_with("recurrent_layers"));
            let kv = [0, 0, 2, 0, 2].to_vec();
            gguf.set("qwen3next.attention.head_count_kv", Value::Array(Array::I32(kv)));
            gguf.set("qwen3next.attention.head_count", Value::U64(8));
        });
        assert_eq!(per_layer.layers.len(), 5, "{case}");
        let attention = per_layer.attention();
        assert_eq!((attention.kv_heads, attention.heads), (2, 8));
        assert_eq!(per_layer.attention_shapes().count(), 2);
    }
}

/// What a writer was given comes back from a reader.
#[test]
fn every_kind_of_metadata_survives() {
    let strings = |texts: &[&str]| Array::String(texts.iter().map(|text| (*text).to_owned()).collect());
    let values = [
        Value::U8(255),
        Value::I8(-128),
        Value::U16(65535),
        Value::I16(-32768),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::F32(-0.1),
        Value::Bool(true),
        "naïve 🦀".into(),
        "".into(),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(1e300),
        Value::Array(Array::U8(vec![0, 255])),
        Value::Array(Array::I8(vec![-1])),
        Value::Array(Array::U16(vec![])),
        Value::Array(Array::I16(vec![-2, 2])),
        Value::Array(Array::U32(vec![3; 3])),
        Value::Array(Array::I32(vec![-4; 4])),
        Value::Array(Array::F32(vec![0.5; 5])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(strings(&["", "two", "🦀"])),
        Value::Array(Array::Array(vec![strings(&["a"]), Array::Array(vec![Array::U8(vec![1])])])),
        Value::Array(Array::U64(vec![1 << 63])),
        Value::Array(Array::I64(vec![-1 << 63])),
        Value::Array(Array::F64(vec![2.5])),
    ];
    let metadata: Vec<(String, Value)> = (0..).map(|i| format!("key {i}")).zip(values).collect();
    for alignment in [None, Some(1), Some(64)] {
        let mut metadata = metadata.clone();
        metadata.extend(alignment.map(|bytes| ("general.alignment".to_owned(), Value::U32(bytes))));
        let tensor = |name: &str, dtype, shape: &[usize]| TensorInfo {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        };
        let tensors = [
            (tensor("a", DType::F32, &[3]), vec![1; 12]),
            (tensor("b", DType::Q4_0, &[1, 2, 3, 64]), vec![2; 216]),
            (tensor("c", DType::BF16, &[2, 3]), vec![3; 12]),
        ];
        let bytes = Gguf { metadata: metadata.clone(), tensors: tensors.to_vec() }.bytes();
        let dir = ModelDir::from_gguf("test", &bytes.into()).unwrap();
        let Description::Gguf(read) = dir.description() else { panic!("it is GGUF") };
        assert_eq!(read.entries(), metadata);
        assert_eq!(dir.names().count(), 3);
        for (info, bytes) in tensors {
            let tensor = dir.tensor(&info.name).unwrap();
            assert_eq!((tensor.dtype, &tensor.shape, &*tensor.bytes), (info.dtype, &info.shape, &*bytes));
        }
    }
}

#[test]
fn parts_of_a_quantised_tensor_are_whole_rows() {
    let info = TensorInfo { name: "a".into(), dtype: DType::Q8_0, shape: vec![3, 2, 64] };
    let bytes: Vec<u8> = (0..3 * 2 * 2 * 34).map(|i| (i % 97) as u8).collect();
    let gguf = Gguf { metadata: Vec::new(), tensors: vec![(info, bytes.clone())] };
    let tensor = ModelDir::from_gguf("test", &gguf.bytes().into()).unwrap().tensor("a").unwrap();
    let part = tensor.rows(1..3);
    assert_eq!((&*part.bytes, &part.shape), (&bytes[136..], &vec![2, 2, 64]));
    assert_eq!(part.to_f32(), tensor.to_f32()[128..]);
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    let info =
        |name: &str, dtype, shape: &[usize]| TensorInfo { name: name.into(), dtype, shape: shape.into() };
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let tensors = [info("a", DType::F32, &[3]), info("b", DType::F32, &[2])];

    let mut writer = Writer::create(&path, &[], &tensors).unwrap();
    writer.write(&[0; 14]).unwrap();
    assert!(!path.exists());
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("tensor b is incomplete; 2 of its 8"), "{error}");
    assert_eq!(files(), 0);

    let mut writer = Writer::create(&path, &[], &tensors).unwrap();
    assert!(writer.write(&[0; 21]).unwrap_err().to_string().contains("1 bytes come after"));
    drop(writer);
    let mut writer = Writer::create(&path, &[], &tensors).unwrap();
    writer.write(&[0; 20]).unwrap();
    writer.finish().unwrap();
    assert_eq!((files(), path.exists()), (1, true));

    let twice = vec![("k".to_owned(), Value::U8(1)); 2];
    let alignment = vec![("general.alignment".to_owned(), Value::U32(48))];
    for (metadata, tensors, word) in [
        (&twice, vec![], "\"k\" is empty or listed twice"),
        (&alignment, vec![], "a power of two"),
        (&vec![], vec![info("a", DType::F8E4M3, &[3])], "no type F8_E4M3"),
        (&vec![], vec![info("a", DType::Q4K, &[2, 384])], "384"),
        (&vec![], vec![info("a", DType::F32, &[])], "tensor a has shape []"),
        (&vec![], vec![info("a", DType::F32, &[2, 0])], "[2, 0]"),
        (&vec![], vec![info("a", DType::F32, &[1; 5])], "1 to 4"),
        (&vec![], vec![info("a", DType::F32, &[usize::MAX, 9])], "too large"),
        (&vec![], vec![info(&"a".repeat(64), DType::F32, &[1])], "longer than 63"),
        (&vec![], vec![tensors[0].clone(), tensors[0].clone()], "tensor a is listed twice"),
    ] {
        let error = format!("{:#}", Writer::create(&path, metadata, &tensors).err().expect(word));
        assert!(error.contains(word) && error.contains("model.gguf"), "{error}");
    }
    assert!(Writer::create(&dir.path().join("gone/model.gguf"), &[], &[]).is_err());
}

/// Loads a model whose conversion was edited before it was written.
#[track_caller]
fn check_refused(edit: impl FnOnce(&mut Gguf), words: &[&str]) {
    let mut gguf = Gguf::of(&checkpoint("odd"), Form::Split);
    edit(&mut gguf);
    check_bytes_refused(gguf.bytes(), words);
}

#[track_caller]
fn check_bytes_refused(bytes: Vec<u8>, words: &[&str]) {
    let result = ModelDir::from_gguf("the file", &bytes.into()).and_then(|dir| run(&dir));
    let error = format!("{:#}", result.expect_err("it should be refused"));
    for word in ["the file"].iter().chain(words) {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn incomplete_and_foreign_metadata_is_refused() {
    for key in Gguf::of(&checkpoint("odd"), Form::Split).metadata.iter().map(|(key, _)| key) {
        let optional = ["attention.value_length", "attention.recurrent_layers", "expert_weights_norm"];
        if !optional.iter().any(|end| key.ends_with(end)) {
            check_refused(|gguf| gguf.metadata.retain(|(own, _)| own != key), &[key, "missing"]);
        }
    }
    let cases: [(&str, Value, &[&str]); 17] = [
        ("general.architecture", "llama".into(), &["\"llama\"", "qwen3next"]),
        ("general.architecture", Value::U8(1), &["U8(1)", "text"]),
        ("qwen3next.block_count", "four".into(), &["block_count is String(\"four\")", "a count"]),
        ("qwen3next.block_count", Value::U32(0), &["num_hidden_layers is 0"]),
        ("qwen3next.block_count", Value::U32(u32::MAX), &["block_count is 4294967295"]),
        ("qwen3next.block_count", Value::I32(-1), &["I32(-1)"]),
        ("qwen3next.nextn_predict_layers", Value::U32(5), &["nextn_predict_layers (5)"]),
        ("qwen3next.attention.recurrent_layers", Value::Array(Array::Bool(vec![true])), &["1 of 4 layers"]),
        ("qwen3next.attention.head_count", Value::Array(Array::U32(vec![3, 4])), &["differs between"]),
        ("qwen3next.attention.value_length", Value::U32(3), &["value_length is 3"]),
        ("qwen3next.rope.scaling.type", "yarn".into(), &["\"yarn\""]),
        ("qwen3next.rope.scaling.factor", Value::F32(4.0), &["\"linear\""]),
        ("qwen3next.rope.dimension_count", Value::U32(16), &["16 of 14"]),
        ("qwen3next.rope.dimension_count", Value::U32(5), &["5 of 14", "even"]),
        ("qwen3next.expert_gating_func", Value::U32(2), &["expert_gating_func is 2"]),
        ("qwen3next.ssm.inner_size", Value::U32(19), &["inner_size (19)", "(3)"]),
        ("qwen3next.expert_used_count", Value::U64(1 << 40), &["num_experts_per_tok"]),
    ];
    for (key, value, words) in cases {
        check_refused(|gguf| gguf.set(key, value), words);
    }
}

#[test]
fn tensors_that_do_not_fit_the_model_are_refused_by_name() {
    for name in ["token_embd.weight", "blk.0.ssm_a", "blk.2.attn_q.weight", "blk.3.ffn_up_exps.weight"] {
        check_refused(|gguf| gguf.tensors.retain(|(info, _)| info.name != name), &[name, "missing"]);
    }
    let odd = checkpoint("odd");
    for (name, shape, words) in [
        ("output_norm.weight", &[30][..], &["[30]", "[29]"][..]),
        ("blk.0.ssm_ba.weight", &[5, 29], &["[5, 29]", "[6, 29]"]),
        ("blk.1.ffn_down_exps.weight", &[6, 29, 11], &["[6, 29, 11]", "[7, 29, 11]"]),
        ("token_embd.weight", &[66, 29], &["output.weight", "[67, 29]", "[66, 29]"]),
        ("blk.0.attn_gate.weight.bias", &[1], &[]),
    ] {
        let mut gguf = Gguf::of(&odd, Form::Split);
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        let info = TensorInfo { name: name.into(), dtype: DType::F32, shape: shape.to_vec() };
        gguf.tensors.retain(|(info, _)| info.name != name);
        gguf.tensors.push((info, bytes));
        let result = ModelDir::from_gguf("test", &gguf.bytes().into()).and_then(|dir| run(&dir));
        assert_eq!(result.is_err(), !words.is_empty(), "tensors nobody knows do no harm");
        let error = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let extra = |name: &str| TensorInfo { name: name.into(), dtype: DType::F32, shape: vec![1] };
    for name in ["blk.0.attn_gate.bias", "blk.2.attn_q.scale"] {
        check_refused(|gguf| gguf.tensors.push((extra(name), vec![0; 4])), &[name, "does not have"]);
    }
}

#[test]
fn damaged_files_are_refused() {
    let whole = Gguf::of(&checkpoint("odd"), Form::Split).bytes();
    let after = |text: &str| {
        let needle = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        whole.windows(needle.len()).position(|window| window == needle).unwrap() + needle.len()
    };
    // After the name of a matrix: how many dimensions, two of them, type, offset.
    let matrix = after("blk.0.ssm_ba.weight");
    let (columns, dtype, offset) = (matrix + 4, matrix + 20, matrix + 24);
    let layers = after("qwen3next.attention.recurrent_layers");
    let word = |value: u32| value.to_le_bytes().to_vec();
    let long = |value: u64| value.to_le_bytes().to_vec();
    let cases: [(usize, Vec<u8>, &[&str]); 25] = [
        (0, b"GGML".to_vec(), &["GGML"]),
        (4, word(1), &["version 1", "2 and 3"]),
        (4, word(4), &["version 4"]),
        (4, 3u32.to_be_bytes().to_vec(), &["big-endian"]),
        (8, long(u64::MAX), &["18446744073709551615 tensors"]),
        (8, long(1 << 20), &["1048576 tensors"]),
        (16, long(1 << 40), &["1099511627776 metadata entries"]),
        (24, long(u64::MAX), &["metadata key 0", "bytes of text"]),
        (32, vec![0xff], &["metadata key 0", "UTF-8"]),
        (52, word(13), &["general.architecture", "value type 13"]),
        (56, long(1 << 50), &["general.architecture", "bytes of text"]),
        (layers + 4, word(99), &["recurrent_layers", "value type 99"]),
        (layers + 8, long(1 << 60), &["recurrent_layers", "1152921504606846976 items"]),
        (layers + 16, vec![2], &["recurrent_layers", "neither true nor false"]),
        (after("qwen3next.ssm.group_count") - 11, b"conv_kernel".to_vec(), &["conv_kernel is listed twice"]),
        (after("blk.1.ssm_ba.weight") - 19, b"blk.0".to_vec(), &["blk.0.ssm_ba.weight is listed twice"]),
        (matrix, word(0), &["blk.0.ssm_ba.weight has 0 dimensions"]),
        (matrix, word(5), &["blk.0.ssm_ba.weight has 5 dimensions"]),
        (columns, long(u64::MAX), &["blk.0.ssm_ba.weight", "too large"]),
        (dtype, word(15), &["blk.0.ssm_ba.weight has type Q8_K", "Q4_K", "IQ4_XS"]),
        (dtype, word(99), &["blk.0.ssm_ba.weight has type number 99"]),
        (dtype, word(8), &["blk.0.ssm_ba.weight has rows of 29", "32", "Q8_0"]),
        (dtype, word(14), &["blk.0.ssm_ba.weight has rows of 29", "256", "Q6_K"]),
        (offset, long(33), &["blk.0.ssm_ba.weight lies at byte 33", "multiple of 32"]),
        (offset, long(1 << 40), &["blk.0.ssm_ba.weight", "cut short"]),
    ];
    for (at, replacement, words) in cases {
        let mut bytes = whole.clone();
        bytes[at..at + replacement.len()].copy_from_slice(&replacement);
        check_bytes_refused(bytes, words);
    }
    let last_tensor_end = whole.len() - 32;
    for len in (0..100).chain((100..last_tensor_end).step_by(997)).chain([last_tensor_end]) {
        check_bytes_refused(whole[..len].to_vec(), &[]);
    }
    let nested = (0..5).fold(Array::U8(vec![]), |array, _| Array::Array(vec![array]));
    check_refused(|gguf| gguf.set("deep", Value::Array(nested)), &["deep", "arrays lie more than"]);
    // Version 2 differs in nothing that is read.
    let mut older = whole;
    older[4] = 2;
    run(&ModelDir::from_gguf("older", &older.into()).unwrap()).unwrap();
}

/// Writes the parts of a split model to a folder, the tensors dealt out in turn.
fn split(dir: &Path, count: usize) {
    let gguf = Gguf::of(&checkpoint("odd"), Form::Split);
    let total = Value::I32(gguf.tensors.len() as i32);
    for no in 0..count {
        let tensors = gguf.tensors.iter().skip(no).step_by(count).cloned().collect();
        let metadata = if no == 0 { gguf.metadata.clone() } else { Vec::new() };
        let mut part = Gguf { metadata, tensors };
        part.set("split.no", Value::U16(no as u16));
        part.set("split.count", Value::U16(count as u16));
        part.set("split.tensors.count", total.clone());
        part.write(&dir.join(part_name(no + 1, count)));
    }
}

fn part_name(number: usize, count: usize) -> String {
    format!("model-Q8-{number:05}-of-{count:05}.gguf")
}

#[test]
fn a_split_model_opens_by_any_part_or_its_folder() {
    let dir = TempDir::new().unwrap();
    split(dir.path(), 3);
    let expected = run(&checkpoint("odd")).unwrap();
    let parts = (1..=3).map(|number| dir.path().join(part_name(number, 3)));
    for path in parts.chain([dir.path().to_owned()]) {
        assert_eq!(run(&ModelDir::open(&path).unwrap()).unwrap(), expected, "{}", path.display());
    }
    std::fs::copy(dir.path().join(part_name(1, 3)), dir.path().join("other.gguf")).unwrap();
    let error = ModelDir::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("several models"), "{error}");
}

/// Damages a split model, given what to call each of its parts, and opens it by the second.
#[track_caller]
fn check_parts_refused(damage: impl FnOnce(&dyn Fn(usize) -> PathBuf), words: &[&str]) {
    let dir = TempDir::new().unwrap();
    split(dir.path(), 3);
    let part = |number| dir.path().join(part_name(number, 3));
    damage(&part);
    let error = format!("{:#}", ModelDir::open(&part(2)).err().expect("it should be refused"));
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

#[test]
fn wrong_parts_are_refused_by_name() {
    let rewrite = |path: &Path, edit: &dyn Fn(&mut Gguf)| {
        let mut part = Gguf { metadata: Vec::new(), tensors: Vec::new() };
        part.set("split.no", Value::U16(2));
        part.set("split.count", Value::U16(3));
        edit(&mut part);
        part.write(path);
    };
    let remove = |path| std::fs::remove_file(path).unwrap();
    check_parts_refused(|part| remove(part(3)), &["model-Q8-00003-of-00003.gguf is missing", "3 parts"]);
    check_parts_refused(
        |part| drop(std::fs::copy(part(2), part(3))),
        &["00003-of", "part 2 by its metadata"],
    );
    check_parts_refused(|part| rewrite(&part(3), &|_| ()), &["the parts hold", "tensors, not"]);
    check_parts_refused(
        |part| rewrite(&part(3), &|part| part.set("split.count", Value::U16(4))),
        &["one of 4"],
    );
    check_parts_refused(|part| rewrite(&part(3), &|part| part.metadata.clear()), &["one of 1 parts"]);
    check_parts_refused(
        |part| rewrite(&part(2), &|part| part.set("split.count", "3".into())),
        &["split.count", "count"],
    );
    check_parts_refused(
        |part| std::fs::write(part(1), b"GGUF").unwrap(),
        &["00001-of-00003.gguf", "not a valid GGUF"],
    );
    check_parts_refused(
        |part| {
            let extra = TensorInfo { name: "output.weight".into(), dtype: DType::F32, shape: vec![1] };
            rewrite(&part(3), &|part| part.tensors.push((extra.clone(), vec![0; 4])));
        },
        &["the parts hold"],
    );
    let dir = TempDir::new().unwrap();
    split(dir.path(), 3);
    let renamed = dir.path().join("renamed.gguf");
    std::fs::rename(dir.path().join(part_name(2, 3)), &renamed).unwrap();
    let error = format!("{:#}", ModelDir::open(&renamed).err().unwrap());
    assert!(error.contains("its name does not say which"), "{error}");
}

const STARTER_TOKENIZER: &[u8] = include_bytes!("../../src/starter/tokenizer.json");

/// Text of many kinds.
const TEXTS: [&str; 12] = [
    "",
    "def f(x):\n    return x + 1\n",
    "fn main() {\r\n\tprintln!(\"{}\", 1234567890);\r\n}\r\n",
    "naïve café, Ångström, e\u{301}\u{323}, ﬁ, 한글 각",
    "世界，你好。こんにちは",
    "🦀👩‍👩‍👧‍👦🏳️‍🌈",
    "I'M you'Re WE'LL don't 'S",
    "   \t\n\n  \n x  ",
    "a\u{a0}b\u{2003}c\u{200b}d\u{feff}",
    "1.5e-10 0xdeadbeef ²³ ½ Ⅷ ४५",
    "<|fim_prefix|>a<|endoftext|><tool_call>",
    "\0\u{1}\u{7f}\u{85}",
];

#[test]
fn a_tokenizer_in_gguf_gives_the_same_ids() {
    let expected = load::tokenizer(&fimd::hub::starter().unwrap());
    let gguf = Gguf { metadata: tokenizer_metadata(STARTER_TOKENIZER, 8192), tensors: Vec::new() };
    let tokenizer = load::tokenizer(&ModelDir::from_gguf("gguf", &gguf.bytes().into()).unwrap());
    let code = include_str!("gguf.rs");
    for text in TEXTS.iter().chain([&code]) {
        assert_eq!(tokenizer.encode(text), expected.encode(text), "{text:?}");
        assert_eq!(tokenizer.encode_with_specials(text), expected.encode_with_specials(text), "{text:?}");
    }
    assert_eq!(tokenizer.fim().unwrap(), expected.fim().unwrap());
    assert_eq!((tokenizer.vocab_size(), tokenizer.stop_ids()), (expected.vocab_size(), expected.stop_ids()));
    for id in 0..expected.vocab_size() as u32 {
        assert_eq!(tokenizer.token_bytes(id), expected.token_bytes(id), "token {id}");
    }
}

#[test]
fn qwen_vocabulary_strings_agree_with_llama_cpp() {
    let Some(folder) = std::env::var_os("FIMD_QWEN_TOKENIZER").map(PathBuf::from) else {
        return eprintln!("skipped: FIMD_QWEN_TOKENIZER is not set to a folder with Qwen's tokenizer");
    };
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let json = read("tokenizer.json");
    let gguf = Gguf { metadata: tokenizer_metadata(&json, 151_936), tensors: Vec::new() }.bytes();
    let started = std::time::Instant::now();
    let dir = ModelDir::from_gguf("qwen", &gguf.into()).unwrap();
    let (header, tokenizer) = (started.elapsed(), load::tokenizer(&dir));
    let opened = started.elapsed();
    let (texts, ids) = (read("vocab_tests.inp"), read("vocab_tests.out"));
    let texts = std::str::from_utf8(&texts).unwrap().split("\n__ggml_vocab_test__\n");
    // The last text is empty, and so has no ids and no line.
    let ids = std::str::from_utf8(&ids).unwrap().lines().chain([""]);
    let mut count = 0;
    for (text, ids) in texts.zip(ids) {
        let expected: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text), expected, "{text:?}");
        count += 1;
    }
    let expected = Tokenizer::from_bytes("qwen", &json).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.stop_ids()), (expected.vocab_size(), expected.stop_ids()));
    assert_eq!(count, 47);
    eprintln!("{count} strings agree; opened in {opened:?}, {header:?} of it the header");
}

#[test]
fn other_tokenizers_are_refused_by_name() {
    let read = |edit: &dyn Fn(&mut Gguf)| {
        let mut gguf = Gguf { metadata: tokenizer_metadata(STARTER_TOKENIZER, 8192), tensors: Vec::new() };
        edit(&mut gguf);
        Tokenizer::read(&ModelDir::from_gguf("some.gguf", &gguf.bytes().into()).unwrap())
    };
    let texts = |texts: &[&str]| Value::Array(Array::String(texts.iter().map(|&text| text.into()).collect()));
    let cases: [(&str, Value, &str); 9] = [
        ("tokenizer.ggml.model", "llama".into(), "\"llama\", only \"gpt2\""),
        ("tokenizer.ggml.pre", "llama-bpe".into(), "\"llama-bpe\", only \"qwen2\""),
        ("tokenizer.ggml.tokens", "a".into(), "tokens is String(\"a\")"),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1])), "1 types for"),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![6; 8192])), "has type 6"),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![5; 8192])), "merges do not fit"),
        ("tokenizer.ggml.merges", texts(&["ab"]), "\"ab\" is not a pair"),
        ("tokenizer.ggml.merges", texts(&["a 🦀"]), "merges do not fit"),
        ("tokenizer.ggml.merges", Value::U8(3), "a list of strings"),
    ];
    for (key, value, word) in cases {
        let error = read(&|gguf| gguf.set(key, value.clone())).err().expect(word);
        let error = format!("{error:#}");
        assert!(error.contains(word) && error.contains("some.gguf"), "{word:?} is not in: {error}");
    }
    assert!(read(&|gguf| gguf.metadata.clear()).unwrap().is_none());
    for key in ["pre", "tokens", "token_type", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        let error = read(&|gguf| gguf.metadata.retain(|(own, _)| *own != key)).err().unwrap();
        assert!(format!("{error:#}").contains(&format!("{key} is missing")), "{error:#}");
    }
}

#[test]
fn chat_templates_are_found() {
    let gguf = |metadata: &[(&str, Value)]| {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let bytes = Gguf { metadata, tensors: Vec::new() }.bytes();
        ModelDir::from_gguf("test", &bytes.into()).unwrap().chat_template()
    };
    assert_eq!(gguf(&[("tokenizer.chat_template", "{{ x }}".into())]).unwrap().unwrap(), "{{ x }}");
    assert_eq!(gguf(&[]).unwrap(), None);
    assert!(gguf(&[("tokenizer.chat_template", Value::U8(1))]).is_err());

    let dir = TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(reference::folder("odd").join(file), dir.path().join(file)).unwrap();
    }
    let template = || ModelDir::open(dir.path()).unwrap().chat_template();
    let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
    assert_eq!(template().unwrap(), None);
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "default", "template": "many"}]}"#);
    assert_eq!(template().unwrap().unwrap(), "many");
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(template().unwrap().unwrap(), "one");
    write("chat_template.jinja", "own");
    assert_eq!(template().unwrap().unwrap(), "own");
    write("tokenizer_config.json", "{");
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    assert!(format!("{:#}", template().unwrap_err()).contains("tokenizer_config.json"));
}
