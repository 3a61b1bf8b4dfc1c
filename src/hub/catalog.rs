//! The models that fimd recommends, from the smallest to the most capable, and which of them suits a machine.

/// A model that is known by a name of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// What users call it.
    pub name: &'static str,
    /// Where it is published.
    pub repo: &'static str,
    /// Its file, the first part of a split one; none for a checkpoint folder.
    pub file: Option<&'static str>,
    /// Bytes of its files, rounded where they were not looked up.
    pub bytes: u64,
    /// Bytes of weights that one token reads: all of a dense model, a few experts of a mixture.
    pub token_bytes: u64,
    pub license: &'static str,
    /// In one line.
    pub about: &'static str,
}

/// What a model runs on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes of main memory.
    pub memory_bytes: u64,
    /// Bytes that are read from it in a second.
    pub bandwidth: f64,
}

/// How well a model runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Suits,
    /// It fits, and decodes fewer than 8 tokens per second.
    Slow,
    TooLarge,
}

/// Tokens per second from which ghost text keeps up with typing.
const SLOW_PER_SECOND: f64 = 8.0;
/// What a model needs besides its weights, in bytes: its context, what earlier prompts left behind, the program.
const BESIDES_BYTES: u64 = 1 << 30;
/// What the system and the editors need, in bytes.
const OTHERS_BYTES: u64 = 2 << 30;

/// The licence of models that may be used for everything.
const FREE: &str = "Apache-2.0";

/// From the least capable on; of two neighbours the first is the smaller.
pub static MODELS: &[Model] = &[
    Model {
        name: "qwen2.5-coder-0.5b",
        repo: "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        file: Some("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
        bytes: 491_400_064,
        token_bytes: 491_400_064,
        license: FREE,
        about: "the smallest that is of use: short lines, any laptop",
    },
    Model {
        name: "qwen3.5-0.8b",
        repo: "unsloth/Qwen3.5-0.8B-GGUF",
        file: Some("Qwen3.5-0.8B-Q4_K_M.gguf"),
        bytes: 532_517_120,
        token_bytes: 532_517_120,
        license: FREE,
        about: "small and recent; hybrid attention, long contexts cost little",
    },
    Model {
        name: "qwen2.5-coder-1.5b",
        repo: "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        file: Some("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        bytes: 1_117_000_000,
        token_bytes: 1_117_000_000,
        license: FREE,
        about: "good lines of code on a laptop without a GPU",
    },
    Model {
        name: "qwen3.5-2b",
        repo: "unsloth/Qwen3.5-2B-GGUF",
        file: Some("Qwen3.5-2B-Q4_K_M.gguf"),
        bytes: 1_280_835_840,
        token_bytes: 1_280_835_840,
        license: FREE,
        about: "recent, hybrid attention; lines and short blocks",
    },
    Model {
        name: "qwen2.5-coder-3b",
        repo: "Qwen/Qwen2.5-Coder-3B-Instruct-GGUF",
        file: Some("qwen2.5-coder-3b-instruct-q4_k_m.gguf"),
        bytes: 2_105_000_000,
        token_bytes: 2_105_000_000,
        license: "Qwen Research (not for commercial use)",
        about: "blocks of code on 8 GB",
    },
    Model {
        name: "qwen3.5-4b",
        repo: "unsloth/Qwen3.5-4B-GGUF",
        file: Some("Qwen3.5-4B-Q4_K_M.gguf"),
        bytes: 2_740_937_888,
        token_bytes: 2_740_937_888,
        license: FREE,
        about: "recent, hybrid attention; completes and explains on 8 GB",
    },
    Model {
        name: "qwen2.5-coder-7b",
        repo: "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF",
        file: Some("qwen2.5-coder-7b-instruct-q4_k_m.gguf"),
        bytes: 4_683_073_536,
        token_bytes: 4_377_000_000,
        license: FREE,
        about: "what most people run for completion; 8 GB and a fast memory",
    },
    Model {
        name: "qwen3.5-9b",
        repo: "unsloth/Qwen3.5-9B-GGUF",
        file: Some("Qwen3.5-9B-Q4_K_M.gguf"),
        bytes: 5_680_522_464,
        token_bytes: 5_100_000_000,
        license: FREE,
        about: "recent, hybrid attention; completes and explains well on 16 GB",
    },
    Model {
        name: "qwen3.6-27b",
        repo: "unsloth/Qwen3.6-27B-GGUF",
        file: Some("Qwen3.6-27B-Q4_K_M.gguf"),
        bytes: 16_817_244_384,
        token_bytes: 16_100_000_000,
        license: FREE,
        about: "the best dense one; wants a very fast memory",
    },
    Model {
        name: "qwen3-coder-30b-a3b",
        repo: "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF",
        file: Some("Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf"),
        bytes: 18_556_689_568,
        token_bytes: 2_000_000_000,
        license: FREE,
        about: "a mixture made for code: as fast as 3B on 24 to 32 GB",
    },
    Model {
        name: "qwen3.6-35b-a3b",
        repo: "unsloth/Qwen3.6-35B-A3B-GGUF",
        file: Some("Qwen3.6-35B-A3B-UD-Q4_K_M.gguf"),
        bytes: 22_134_528_992,
        token_bytes: 2_200_000_000,
        license: FREE,
        about: "a recent mixture, hybrid attention: as fast as 3B on 32 GB",
    },
    Model {
        name: "qwen3-coder-next",
        repo: "unsloth/Qwen3-Coder-Next-GGUF",
        file: Some("Qwen3-Coder-Next-UD-Q4_K_XL.gguf"),
        bytes: 49_608_478_720,
        token_bytes: 2_100_000_000,
        license: FREE,
        about: "80B of experts made for code, 3B of them a token; 64 GB",
    },
    Model {
        name: "qwen3-coder-next-fp8",
        repo: "Qwen/Qwen3-Coder-Next-FP8",
        file: None,
        bytes: 82_000_000_000,
        token_bytes: 4_000_000_000,
        license: FREE,
        about: "the same at 8 bits as it was released; 96 GB",
    },
];

/// The model of this name.
pub fn named(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

/// The name that is most like `name`.
pub fn nearest(name: &str) -> &'static str {
    let distance = |model: &&Model| strsim::levenshtein(model.name, &name.to_ascii_lowercase());
    MODELS.iter().min_by_key(distance).map_or("", |model| model.name)
}

/// The most capable model for everybody that suits a machine, or else the smallest that fits.
pub fn best(machine: Machine) -> Option<&'static Model> {
    let free = || MODELS.iter().filter(|model| model.license == FREE);
    let fits = |wanted| free().filter(move |model| model.fit(machine) == wanted);
    fits(Fit::Suits).next_back().or_else(|| fits(Fit::Slow).next())
}

/// Bytes of memory that a model needs, from those of its weights.
pub fn needs_bytes(weight_bytes: u64) -> u64 {
    weight_bytes + BESIDES_BYTES
}

impl Model {
    /// Bytes of memory that it needs.
    pub fn needs_bytes(&self) -> u64 {
        needs_bytes(self.bytes)
    }

    /// How well it runs.
    pub fn fit(&self, machine: Machine) -> Fit {
        if self.needs_bytes() + OTHERS_BYTES > machine.memory_bytes {
            Fit::TooLarge
        } else if self.tokens_per_second(machine) < SLOW_PER_SECOND {
            Fit::Slow
        } else {
            Fit::Suits
        }
    }

    /// Tokens that the memory lets it write in a second: each reads its weights once.
    pub fn tokens_per_second(&self, machine: Machine) -> f64 {
        machine.bandwidth / self.token_bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::reference::Reference;

    #[test]
    fn every_model_can_be_named_and_pulled() {
        for model in MODELS {
            assert_eq!(named(&model.name.to_uppercase()), Some(model));
            let reference: Reference = model.name.parse().unwrap();
            assert_eq!((reference.repo.name(), reference.file.as_deref()), (model.repo, model.file));
            assert!(model.token_bytes <= model.bytes && !model.about.ends_with('.'), "{}", model.name);
        }
        let names: std::collections::BTreeSet<&str> = MODELS.iter().map(|model| model.name).collect();
        assert_eq!(names.len(), MODELS.len());
        assert_eq!(named("llama"), None);
        assert_eq!(nearest("qwen2.5-coder-1.5"), "qwen2.5-coder-1.5b");
    }

    #[test]
    fn the_best_fits_and_keeps_up() {
        let best = |gigabytes: u64, bandwidth| {
            best(Machine { memory_bytes: gigabytes << 30, bandwidth }).map(|model| model.name)
        };
        for (gigabytes, bandwidth, expected) in [
            (1, 1e11, None),
            (4, 1e9, Some("qwen2.5-coder-0.5b")),
            (4, 2e10, Some("qwen3.5-0.8b")),
            (8, 2e10, Some("qwen3.5-2b")),
            (8, 5e10, Some("qwen2.5-coder-7b")),
            (16, 6e10, Some("qwen3.5-9b")),
            (32, 5e10, Some("qwen3.6-35b-a3b")),
            (64, 5e10, Some("qwen3-coder-next")),
            (128, 2e11, Some("qwen3-coder-next-fp8")),
        ] {
            assert_eq!(best(gigabytes, bandwidth), expected, "{gigabytes} GB, {bandwidth}");
        }
    }
}
