//! What a user calls a model that is published: a name of the catalogue, or a repository and perhaps a file.

use std::fmt;
use std::str::FromStr;

use super::catalog;

/// A repository, `OWNER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo(String);

/// What is meant of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub repo: Repo,
    /// A file, or the part of its name that says how it is quantised, such as `Q4_K_M`.
    pub file: Option<String>,
}

impl Repo {
    /// Fails for what cannot be part of an address and of a path. Two dashes stand for the slash in the cache.
    pub fn new(text: &str) -> Result<Self, String> {
        let is_part = |part: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(is_allowed) && !part.contains("--")
        };
        match text.split('/').collect::<Vec<_>>()[..] {
            [owner, name] if is_part(owner) && is_part(name) => Ok(Self(text.to_owned())),
            _ => Err(format!("{text:?} is not a repository, which is called OWNER/NAME")),
        }
    }

    /// `OWNER/NAME`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The name of its folder in the cache.
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository whose folder in the cache has this name.
    pub fn of_folder(folder: &str) -> Option<Self> {
        Self::new(&folder.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of = |repo: &str, file: Option<&str>| {
            let file = file.map(str::to_owned).filter(|file| !file.is_empty());
            Repo::new(repo).map(|repo| Self { repo, file })
        };
        if let Some(model) = catalog::named(text) {
            return of(model.repo, model.file);
        }
        match text.split_once(':') {
            _ if !text.contains('/') => Err(format!(
                "there is no model {text}; did you mean {}? `fimd models` lists them, and a repository is OWNER/NAME[:FILE]",
                catalog::nearest(text)
            )),
            Some((repo, file)) => of(repo, Some(file)),
            None => of(text, None),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{file}", self.repo.0),
            None => f.write_str(&self.repo.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_names_and_repositories() {
        for (text, expected) in [
            ("me/model", Ok("me/model")),
            ("me/model:", Ok("me/model")),
            ("me/model:Q4_K_M", Ok("me/model:Q4_K_M")),
            ("me/model:a/b-00001-of-00002.gguf", Ok("me/model:a/b-00001-of-00002.gguf")),
            ("qwen3.5-4b", Ok("unsloth/Qwen3.5-4B-GGUF:Qwen3.5-4B-Q4_K_M.gguf")),
            ("qwen3.5-4", Err("did you mean qwen3.5-4b?")),
            ("/me/model", Err("OWNER/NAME")),
            ("../model", Err("OWNER/NAME")),
            ("me/..", Err("OWNER/NAME")),
            ("me/a b", Err("OWNER/NAME")),
            ("me/a--b", Err("OWNER/NAME")),
            ("a/b/c", Err("OWNER/NAME")),
            ("", Err("there is no model")),
        ] {
            match (text.parse::<Reference>(), expected) {
                (Ok(reference), Ok(expected)) => assert_eq!(reference.to_string(), expected),
                (Err(error), Err(word)) => assert!(error.contains(word), "{error}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }

    #[test]
    fn folders_of_the_cache_are_named_both_ways() {
        let repo = Repo::new("me/my-model").unwrap();
        assert_eq!(repo.folder(), "models--me--my-model");
        assert_eq!(Repo::of_folder(&repo.folder()), Some(repo));
        for other in ["datasets--me--data", "models--gpt2", "models--a--../x"] {
            assert_eq!(Repo::of_folder(other), None);
        }
    }
}
