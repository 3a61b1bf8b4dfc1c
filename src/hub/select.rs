//! Which files of a repository make up the model that is meant.

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// From the root of the repository on.
    pub path: String,
    /// Its size, where the listing says it.
    pub bytes: Option<u64>,
}

/// A model in a repository: all files of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// A GGUF file, the first part of a split one, or nothing for a checkpoint folder.
    pub name: String,
    pub files: Vec<Listed>,
}

/// What a repository has of what is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    One(Variant),
    /// Several, or none of those that there are: the user chooses.
    Choices(Vec<Variant>),
    /// A split file, and which part of it is not there.
    Incomplete {
        name: String,
        missing: String,
    },
}

/// The quantisation that costs little quality for its size.
const RECOMMENDED: &str = "q4_k_m";
/// What makes up a checkpoint folder besides its safetensors.
const CHECKPOINT: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// The model in a repository with these files: the one that `wanted` names, by its file or by its quantisation,
/// or else the recommended one.
pub fn select(files: &[Listed], wanted: Option<&str>) -> Selected {
    let variants = ggufs(files);
    let found: Vec<&Variant> = match wanted {
        Some(wanted) => match variants.iter().filter(|variant| variant.has(wanted)).collect::<Vec<_>>() {
            exact if !exact.is_empty() => exact,
            _ => simplest(variants.iter().filter(|variant| variant.is_quantised(wanted))),
        },
        None if variants.is_empty() => return checkpoint(files),
        None => match simplest(variants.iter().filter(|variant| variant.is_quantised(RECOMMENDED))) {
            recommended if recommended.is_empty() => variants.iter().collect(),
            recommended => recommended,
        },
    };
    match (&found[..], wanted) {
        ([one], _) => (*one).clone().whole(),
        ([], Some(wanted)) if wanted.ends_with(".safetensors") => checkpoint(files),
        ([], _) => Selected::Choices(variants),
        _ => Selected::Choices(found.into_iter().cloned().collect()),
    }
}

/// The models in GGUF among `files`.
pub fn ggufs(files: &[Listed]) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    let mut files: Vec<&Listed> = files.iter().filter(|file| is_model(&file.path)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    for file in files {
        match variants.iter_mut().find(|variant| are_parts_of_one(&variant.name, &file.path)) {
            Some(variant) => variant.files.push(file.clone()),
            None => variants.push(Variant { name: file.path.clone(), files: vec![file.clone()] }),
        }
    }
    variants
}

/// Whether a file is a model in GGUF; others are what multimodal models see with, and statistics.
fn is_model(path: &str) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

fn checkpoint(files: &[Listed]) -> Selected {
    let is_part = |path: &str| {
        let is_weights =
            path.ends_with(".safetensors") && !path.contains('/') && !path.starts_with("consolidated");
        is_weights || CHECKPOINT.contains(&path)
    };
    let files: Vec<Listed> = files.iter().filter(|file| is_part(&file.path)).cloned().collect();
    let has = |end: &str| files.iter().any(|file| file.path.ends_with(end));
    if has("config.json") && has(".safetensors") {
        Variant { name: String::new(), files }.whole()
    } else {
        Selected::Choices(Vec::new())
    }
}

/// Of files that are quantised alike, those in one part before those in several, and the plain mix before another.
fn simplest<'v>(variants: impl Iterator<Item = &'v Variant>) -> Vec<&'v Variant> {
    let variants: Vec<&Variant> = variants.collect();
    let effort =
        |variant: &&Variant| (variant.name.to_ascii_lowercase().contains("ud-q"), variant.files.len() > 1);
    let least = variants.iter().map(effort).min();
    variants.into_iter().filter(|variant| Some(effort(variant)) == least).collect()
}

impl Variant {
    /// Bytes of its files, where all are known.
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether it has a file of this path or name.
    fn has(&self, wanted: &str) -> bool {
        self.files.iter().any(|file| file.path == wanted || file_name(&file.path) == wanted)
    }

    /// Whether its name says that it is quantised this way: as a word, in any case.
    fn is_quantised(&self, wanted: &str) -> bool {
        let (name, wanted) = (file_name(&self.name).to_ascii_lowercase(), wanted.to_ascii_lowercase());
        let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !wanted.is_empty()
            && name.match_indices(&wanted).any(|(at, _)| {
                !name[..at].ends_with(is_inside) && !name[at + wanted.len()..].starts_with(is_inside)
            })
    }

    /// It, unless one of its parts is not among its files.
    fn whole(self) -> Selected {
        let split = self.files.iter().find_map(|file| Some((&*file.path, part(&file.path)?)));
        let missing = split.and_then(|(path, (prefix, _, count))| {
            let ending = path.rsplit('.').next().unwrap_or_default();
            let mut parts = (1..=count).map(|number| format!("{prefix}-{number:05}-of-{count:05}.{ending}"));
            parts.find(|part| self.files.iter().all(|file| file.path != *part))
        });
        match missing {
            Some(missing) => Selected::Incomplete { name: self.name, missing },
            None => Selected::One(self),
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn are_parts_of_one(one: &str, other: &str) -> bool {
    let of = |path| part(path).map(|(prefix, _, count)| (prefix, count));
    of(one).is_some() && of(one) == of(other)
}

/// What the name of a part of a split file says: `PREFIX-00001-of-00003.gguf`, or `.safetensors`.
fn part(path: &str) -> Option<(&str, usize, usize)> {
    let stem = path.strip_suffix(".gguf").or_else(|| path.strip_suffix(".safetensors"))?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| if digits.len() == 5 { digits.parse().ok() } else { None };
    Some((prefix, parse(number)?, parse(count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(paths: &str) -> Vec<Listed> {
        paths.split_whitespace().map(|path| Listed { path: path.to_owned(), bytes: Some(1) }).collect()
    }

    /// What is selected, by the paths of its files; choices in brackets.
    fn selected(paths: &str, wanted: Option<&str>) -> String {
        match select(&listed(paths), wanted) {
            Selected::One(Variant { files, .. }) => {
                files.iter().map(|file| &*file.path).collect::<Vec<_>>().join(" ")
            }
            Selected::Choices(variants) => {
                let names: Vec<&str> = variants.iter().map(|variant| &*variant.name).collect();
                format!("[{}]", names.join(" "))
            }
            Selected::Incomplete { missing, .. } => format!("without {missing}"),
        }
    }

    const SPLIT: &str = "m-Q4_K_M/m-Q4_K_M-00001-of-00002.gguf m-Q4_K_M/m-Q4_K_M-00002-of-00002.gguf";
    const CHECKPOINT: &str = "config.json tokenizer.json model-00001-of-00002.safetensors \
        model-00002-of-00002.safetensors model.safetensors.index.json";

    #[test]
    fn the_recommended_file_is_taken_where_there_is_one() {
        for (files, expected) in [
            ("m-Q4_K_M.gguf m-Q8_0.gguf README.md", "m-Q4_K_M.gguf"),
            ("m-q4_k_m.gguf m-q4_k_m-00001-of-00002.gguf m-q4_k_m-00002-of-00002.gguf", "m-q4_k_m.gguf"),
            ("m.Q4_K_M.gguf m.UD-Q4_K_M.gguf", "m.Q4_K_M.gguf"),
            ("m-UD-Q4_K_M.gguf m-Q8_0.gguf mmproj-F16.gguf", "m-UD-Q4_K_M.gguf"),
            ("m-Q8_0.gguf mmproj-F16.gguf imatrix.gguf", "m-Q8_0.gguf"),
            ("m-Q8_0.gguf m-Q6_K.gguf", "[m-Q6_K.gguf m-Q8_0.gguf]"),
            ("a-Q4_K_M.gguf b-Q4_K_M.gguf c-Q8_0.gguf", "[a-Q4_K_M.gguf b-Q4_K_M.gguf]"),
            ("README.md", "[]"),
            (SPLIT, SPLIT),
            ("m-00001-of-00002.gguf", "without m-00002-of-00002.gguf"),
        ] {
            assert_eq!(selected(files, None), expected, "{files}");
        }
    }

    #[test]
    fn files_are_named_whole_or_by_their_quantisation() {
        let files = "m-Q4_K_M.gguf m-Q4_K_S.gguf x/m-Q8_0.gguf m-IQ4_XS.gguf m-Q4_0.gguf m-Q4_0_8_8.gguf";
        for (wanted, expected) in [
            ("q8_0", "x/m-Q8_0.gguf"),
            ("m-Q8_0.gguf", "x/m-Q8_0.gguf"),
            ("x/m-Q8_0.gguf", "x/m-Q8_0.gguf"),
            ("Q4_0", "m-Q4_0.gguf"),
            ("Q4_K", "[m-IQ4_XS.gguf m-Q4_0.gguf m-Q4_0_8_8.gguf m-Q4_K_M.gguf m-Q4_K_S.gguf x/m-Q8_0.gguf]"),
        ] {
            assert_eq!(selected(files, Some(wanted)), expected, "{wanted}");
        }
        assert_eq!(selected(SPLIT, Some("m-Q4_K_M-00002-of-00002.gguf")), SPLIT);
    }

    #[test]
    fn a_checkpoint_is_taken_whole_and_nothing_else() {
        let other = "README.md consolidated.safetensors original/model.safetensors pytorch_model.bin";
        assert_eq!(selected(&format!("{CHECKPOINT} {other}"), None), selected(CHECKPOINT, None));
        assert_eq!(selected(CHECKPOINT, None).split(' ').count(), 5);
        assert_eq!(selected("config.json tokenizer.json", None), "[]");
        let first = "config.json model-00001-of-00002.safetensors";
        assert_eq!(selected(first, None), "without model-00002-of-00002.safetensors");
        let both = format!("{CHECKPOINT} m-Q8_0.gguf");
        assert_eq!(selected(&both, None), "m-Q8_0.gguf");
        assert_eq!(selected(&both, Some("model.safetensors")), selected(CHECKPOINT, None));
    }
}
