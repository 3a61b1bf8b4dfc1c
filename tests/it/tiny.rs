//! A tiny model that recites: after `a` it says `b`, after `z` a line break, and so on to the end of
//! [`TEXT`]. Its embedding is the identity and its head says what follows what; two layers of random
//! weights add little to that, but are computed. So every answer is known, whatever training brings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use fimd::base::Cancel;
use fimd::base::random::Mmix;
use fimd::compute::cpu::Cpu;
use fimd::decode::Task;
use fimd::format::ModelDir;
use fimd::serve::{Engine, Event, Priority, Request};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

use crate::load;

/// What the model says after anything that is not in it; then it ends.
pub const TEXT: &str = "abcdefghijklmnopqrstuvwxyz\nABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
/// Its first line.
pub const LINE: &str = "abcdefghijklmnopqrstuvwxyz";

const SPECIALS: [&str; 8] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];
const END: usize = 256;
const VOCAB: usize = 256 + SPECIALS.len();
const HIDDEN: usize = VOCAB;
const CONTEXT: usize = 2048;

/// Writes the model to a folder of its own.
pub fn folder() -> TempDir {
    folder_of(["linear_attention", "full_attention"])
}

/// Writes a model that says the same with such layers.
pub fn folder_of(mixers: [&str; 2]) -> TempDir {
    folder_with(&mixers, 4)
}

/// Writes a model with such layers that each have `experts` experts.
pub fn folder_with(mixers: &[&str], experts: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("config.json", config(mixers, experts).to_string().as_bytes());
    write("tokenizer.json", tokenizer().to_string().as_bytes());
    let tensors = weights(mixers, experts);
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    write("model.safetensors", &safetensors::serialize(views, None).unwrap());
    dir
}

/// Writes a model that says the same, and can be talked to, to a folder of its own.
pub fn chatting_folder() -> TempDir {
    let dir = folder();
    let template = "{% for message in messages %}{{ message.content }}\n{% endfor %}<|file_sep|>";
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    dir
}

/// An engine that serves the model in `dir`.
pub fn engine(dir: &Path) -> Engine {
    let dir = ModelDir::open(dir).unwrap();
    let options = load::options(CONTEXT, 64);
    let open = move |dir: &ModelDir| load::session(load::model::<Cpu>(dir, 1, 16, options.clone()).unwrap());
    let (session, tokenizer) = (open(&dir), load::tokenizer(&dir));
    Engine::start(session, tokenizer, move || Ok(open(&dir)))
}

/// Keeps `engine` busy until the returned sender is dropped.
pub fn hold(engine: &Engine) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let (hold, held) = mpsc::channel();
    engine.submit(Request {
        key: "a request of the test".into(),
        task: Task::greedy(vec![0], 1),
        cancel: Cancel::new(),
        priority: Priority::Interactive,
        not_before: None,
        listener: Box::new(move |event| {
            if let Event::Done(_) = event {
                hold.send(()).unwrap();
                let _ = released.recv();
            }
        }),
    });
    held.recv().unwrap();
    release
}

fn config(mixers: &[&str], experts: usize) -> serde_json::Value {
    json!({
        "model_type": "qwen3_next", "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "max_position_embeddings": CONTEXT, "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": mixers.len(),
        "layer_types": mixers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
        "num_experts": experts, "num_experts_per_tok": 2, "norm_topk_prob": true,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    })
}

/// Byte-level BPE without merges: the id of a token is its byte.
fn tokenizer() -> serde_json::Value {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut moved = '\u{100}'..;
    let vocab: serde_json::Map<String, serde_json::Value> = (0..=255u8)
        .map(|byte| if is_printable(&byte) { char::from(byte) } else { moved.next().unwrap() })
        .zip(0..)
        .map(|(c, id)| (c.to_string(), json!(id)))
        .collect();
    let added: Vec<_> = SPECIALS
        .iter()
        .zip(END..)
        .map(|(text, id)| json!({"id": id, "content": text, "special": true}))
        .collect();
    json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

type Weights = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn weights(mixers: &[&str], experts: usize) -> Weights {
    let mut all = Weights::new();
    let mut numbers = Mmix(1);
    let mut random = move || numbers.unit();
    let mut add = |name: String, shape: &[usize], value: &mut dyn FnMut(usize) -> f32| {
        let bytes = (0..shape.iter().product()).flat_map(|i| value(i).to_le_bytes()).collect();
        all.insert(name, (shape.to_vec(), bytes));
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN], &mut |i| f32::from(i / HIDDEN == i % HIDDEN));
    add("lm_head.weight".into(), &[VOCAB, HIDDEN], &mut |i| f32::from(i / HIDDEN == following(i % HIDDEN)));
    add("model.norm.weight".into(), &[HIDDEN], &mut |_| 0.0);
    for (layer, mixer) in mixers.iter().enumerate() {
        let mut add = |name: &str, shape: &[usize], scale: f32| {
            add(format!("model.layers.{layer}.{name}"), shape, &mut |_| scale * random());
        };
        add("input_layernorm.weight", &[HIDDEN], 0.1);
        add("post_attention_layernorm.weight", &[HIDDEN], 0.1);
        let (mixer, tensors): (_, &[(&str, &[usize], f32)]) = match *mixer {
            "linear_attention" => (
                "linear_attn",
                &[
                    ("A_log", &[4], 1.0),
                    ("dt_bias", &[4], 1.0),
                    ("norm.weight", &[8], 1.0),
                    ("conv1d.weight", &[64, 1, 4], 0.5),
                    ("in_proj_qkvz.weight", &[96, HIDDEN], 0.1),
                    ("in_proj_ba.weight", &[8, HIDDEN], 0.1),
                    ("out_proj.weight", &[HIDDEN, 32], 0.01),
                ],
            ),
            _ => (
                "self_attn",
                &[
                    ("q_proj.weight", &[64, HIDDEN], 0.1),
                    ("k_proj.weight", &[16, HIDDEN], 0.1),
                    ("v_proj.weight", &[16, HIDDEN], 0.1),
                    ("o_proj.weight", &[HIDDEN, 32], 0.01),
                    ("q_norm.weight", &[16], 0.1),
                    ("k_norm.weight", &[16], 0.1),
                ],
            ),
        };
        for (name, shape, scale) in tensors {
            add(&format!("{mixer}.{name}"), shape, *scale);
        }
        add("mlp.gate.weight", &[experts, HIDDEN], 0.1);
        add("mlp.shared_expert_gate.weight", &[1, HIDDEN], 0.1);
        let routed = (0..experts).map(|expert| format!("experts.{expert}"));
        for expert in routed.chain(["shared_expert".into()]) {
            add(&format!("mlp.{expert}.gate_proj.weight"), &[16, HIDDEN], 0.1);
            add(&format!("mlp.{expert}.up_proj.weight"), &[16, HIDDEN], 0.1);
            add(&format!("mlp.{expert}.down_proj.weight"), &[HIDDEN, 16], 0.01);
        }
    }
    all
}

/// The token the model says after `token`.
fn following(token: usize) -> usize {
    let text = TEXT.as_bytes();
    match text.iter().position(|&byte| usize::from(byte) == token) {
        Some(at) => text.get(at + 1).map_or(END, |&byte| byte.into()),
        None => text[0].into(),
    }
}
