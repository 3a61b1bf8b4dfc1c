//! Where models are downloaded from and to, as the environment says it to all tools of Hugging Face.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::base::client::Token;
use crate::hub::download::Options;

const ENDPOINT: &str = "https://huggingface.co";
/// How long nothing may come before a connection counts as broken.
const STALL: Duration = Duration::from_secs(30);
const BACK_OFF: Duration = Duration::from_secs(1);
const RETRIES: u32 = 5;

/// What `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and the token that `hf auth login` has left
/// say.
pub fn hub() -> Result<Options> {
    let home = dirs::cache_dir();
    options(&|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from), home.as_deref())
}

/// Where it is remembered which experts were in memory; none where the system has no folder for caches.
pub fn experts_dir() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("fimd").join("experts"))
}

/// The same from any environment and folder for caches.
fn options(variable: &dyn Fn(&str) -> Option<PathBuf>, caches: Option<&Path>) -> Result<Options> {
    let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
    let home = variable("HF_HOME").or_else(|| Some(usual(variable, caches)?.join("huggingface")));
    let below = |name: &str| home.as_ref().map(|home| home.join(name));
    let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(variable);
    let cache =
        cache.or_else(|| below("hub")).context("this system has no folder for caches; set HF_HOME")?;
    let token_file = variable("HF_TOKEN_PATH").or_else(|| below("token"));
    let token = text("HF_TOKEN").or_else(|| fs::read_to_string(token_file?).ok());
    let is_empty = |token: &String| token.trim().is_empty();
    Ok(Options {
        endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()),
        token: token
            .filter(|token| !is_empty(token))
            .map(|token| Token::new(&token).context("HF_TOKEN"))
            .transpose()?,
        cache,
        stall: STALL,
        back_off: BACK_OFF,
        retries: RETRIES,
    })
}

/// Those tools look below `~/.cache` on every system.
fn usual(variable: &dyn Fn(&str) -> Option<PathBuf>, caches: Option<&Path>) -> Option<PathBuf> {
    let home = dirs::home_dir().map(|home| home.join(".cache"));
    variable("XDG_CACHE_HOME").or(home).or_else(|| caches.map(Path::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &Path)]) -> Options {
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.to_path_buf());
        options(&variable, None).unwrap()
    }

    #[test]
    fn the_environment_is_read_as_the_tools_of_the_hub_do() {
        let dir = tempfile::tempdir().unwrap();
        let (home, other) = (dir.path().join("hf"), dir.path().join("other"));
        let plain = read(&[("XDG_CACHE_HOME", dir.path())]);
        assert_eq!((&*plain.endpoint, plain.token), (ENDPOINT, None));
        assert_eq!(plain.cache, dir.path().join("huggingface/hub"));
        assert_eq!(read(&[("HF_HOME", &home)]).cache, home.join("hub"));
        assert_eq!(read(&[("HF_HOME", &home), ("HF_HUB_CACHE", &other)]).cache, other);
        assert_eq!(read(&[("HF_HOME", &home), ("HF_ENDPOINT", Path::new("http://x"))]).endpoint, "http://x");

        fs::create_dir(&home).unwrap();
        fs::write(home.join("token"), "of-home\n").unwrap();
        fs::write(&other, "of-file").unwrap();
        let token = |variables: &[(&str, &Path)]| {
            read(&[variables, &[("HF_HOME", &*home)]].concat()).token.unwrap().bearer()
        };
        assert_eq!(token(&[]), "Bearer of-home");
        assert_eq!(token(&[("HF_TOKEN_PATH", &other)]), "Bearer of-file");
        assert_eq!(token(&[("HF_TOKEN_PATH", &other), ("HF_TOKEN", Path::new("mine"))]), "Bearer mine");
    }
}
