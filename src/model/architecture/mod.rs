//! One table per architecture: which tensors a model is made of, what they are for, and where files keep them.
//!
//! Loading, quantising, export and synthetic models are derived from it; no tensor has its name anywhere else. An
//! optional part (a bias, norms of queries and keys, a head of its own) is one that a table may leave out.

mod part;
mod qwen2;
mod qwen3;
mod qwen35;
mod qwen3next;
mod table;

use super::config::{Architecture, Config};

pub use part::{Arrangement, Change, Field, LayerField, Part, Role, Rows, Source, expert_name};

/// All tensors of the model, in the order of a GGUF file.
pub fn tensors(config: &Config) -> Vec<Part> {
    let architecture = config.architecture;
    match architecture {
        Architecture::Qwen2 => table::build(config, qwen2::layer),
        Architecture::Qwen3 | Architecture::Qwen3Moe => {
            table::build(config, |layer, shape| qwen3::layer(layer, architecture, shape))
        }
        Architecture::Qwen3Next => table::build(config, qwen3next::layer),
        Architecture::Qwen35 | Architecture::Qwen35Moe => table::build(config, qwen35::layer),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::compute::{AttentionShape, DeltaShape};
    use crate::format::{Bytes, ModelDir};
    use crate::model::config::{FfnShape, MixerShape};

    fn starter() -> Config {
        let config = include_bytes!("../../starter/config.json");
        let weights = Bytes::embedded(include_bytes!("../../starter/model.safetensors"));
        let config =
            Config::read(&ModelDir::from_safetensors("starter", config, None, &weights).unwrap()).unwrap();
        Config { tied: false, ..config }
    }

    /// With a dense layer.
    fn dense() -> Config {
        let mut config = starter();
        config.layers[1].ffn = FfnShape::Dense { width: 96 };
        config
    }

    /// The layers of the starter, as far as the architecture has them, and four value heads to a key head.
    fn of(architecture: Architecture) -> Config {
        let mut config = Config { architecture, ..starter() };
        let attention = AttentionShape { gated: architecture.is_hybrid(), ..config.attention() };
        for layer in &mut config.layers {
            match &mut layer.mixer {
                MixerShape::DeltaNet(shape) if architecture.is_hybrid() => {
                    *shape = DeltaShape { value_heads: 4 * shape.key_heads, ..*shape };
                }
                mixer => *mixer = MixerShape::Attention(attention),
            }
            match &mut layer.ffn {
                FfnShape::Moe(shape) if architecture.has_experts() => {
                    shape.shared_width = shape.shared_width.filter(|_| architecture.has_shared_expert());
                }
                ffn => *ffn = FfnShape::Dense { width: 96 },
            }
        }
        config
    }

    /// Of each architecture, in the order of checkpoints and in that of GGUF files.
    fn all() -> impl Iterator<Item = Config> {
        let each = Architecture::ALL.into_iter().map(of);
        each.flat_map(|config| [config.clone(), config.as_in_gguf()]).chain([dense()])
    }

    #[test]
    fn every_part_has_one_place_of_its_own() {
        for config in all() {
            let parts = tensors(&config);
            let fields: HashSet<Field> = parts.iter().map(|part| part.field).collect();
            assert_eq!(fields.len(), parts.len());
            let mut names = HashSet::new();
            for part in &parts {
                let is_dense = |layer: usize| {
                    let is_dense = matches!(config.layers[layer].ffn, FfnShape::Dense { .. });
                    is_dense && config.architecture.has_experts()
                };
                match part.gguf_name() {
                    Some(name) => assert!(names.insert(name), "{name}"),
                    None => assert!(part.field.layer().is_some_and(is_dense), "{:?}", part.field),
                }
                for source in part.gguf.iter().chain(&part.checkpoint) {
                    assert_eq!(source.rows(), part.rows(), "{:?}", part.field);
                    for rows in &source.tensors {
                        let height = rows.shape.iter().product::<usize>() / part.cols();
                        assert!(rows.ranges.iter().all(|range| range.end <= height), "{:?}", part.field);
                    }
                }
            }
        }
    }

    /// Every row of every tensor of a checkpoint belongs to one part.
    #[test]
    fn checkpoints_are_used_up() {
        for config in all() {
            let parts = tensors(&config);
            let mut taken: HashMap<&str, Vec<std::ops::Range<usize>>> = HashMap::new();
            let mut heights = HashMap::new();
            for part in &parts {
                let mut columns = part.checkpoint[0].columns.clone();
                columns.sort_by_key(|range| range.start);
                let columns: Vec<usize> = columns.into_iter().flatten().collect();
                assert!(columns.is_empty() || columns == (0..part.cols()).collect::<Vec<_>>());
                for rows in &part.checkpoint[0].tensors {
                    let height = rows.shape.iter().product::<usize>() / part.cols();
                    assert_eq!(*heights.entry(&rows.tensor[..]).or_insert(height), height, "{}", rows.tensor);
                    taken.entry(&rows.tensor).or_default().extend(rows.ranges.iter().cloned());
                }
            }
            for (name, mut ranges) in taken {
                ranges.sort_by_key(|range| range.start);
                let mut end = 0;
                for range in ranges {
                    assert_eq!(range.start, end, "{name}");
                    end = range.end;
                }
                assert_eq!(end, heights[name], "{name}");
            }
        }
    }

    #[test]
    fn layers_have_the_fields_of_their_shape() {
        let config = dense();
        let parts = tensors(&config);
        for (i, layer) in config.layers.iter().enumerate() {
            let has = |field| parts.iter().any(|part| part.field == Field::Layer(i, field));
            let is_attention = matches!(layer.mixer, MixerShape::Attention(_));
            let is_moe = matches!(layer.ffn, FfnShape::Moe(_));
            assert!(has(LayerField::MixerNorm) && has(LayerField::FfnNorm) && has(LayerField::SharedUp));
            assert_eq!((has(LayerField::Query), has(LayerField::DeltaZ)), (is_attention, !is_attention));
            assert_eq!((has(LayerField::Router), has(LayerField::SharedExpertGate)), (is_moe, is_moe));
        }
        let tied = tensors(&Config { tied: true, ..starter() });
        assert!(tied.iter().all(|part| part.field != Field::Head));
        assert_eq!((tied[0].field, tied[0].role), (Field::Embedding, Role::Head));
    }

    #[test]
    fn changes_are_those_of_the_format() {
        let changed = |change: Change| {
            let mut values = [0.0, -0.5];
            change.apply(&mut values);
            values
        };
        assert_eq!(changed(Change::None), [0.0, -0.5]);
        assert_eq!(changed(Change::AddOne), [1.0, 0.5]);
        assert_eq!(changed(Change::NegativeExp), [-1.0, -(-0.5f32).exp()]);
    }
}
