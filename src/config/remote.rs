//! Options of the remote backend.

use std::time::Duration;

use anyhow::{Context, Result};

use super::definition::Settings;
use super::options::CONTEXT_DEFAULT;
use crate::complete::remote::{Options, Token, TokenSource};

impl Settings {
    /// Options of the remote backend, if one is set.
    pub fn remote(&self) -> Result<Option<Options>> {
        let remote = &self.remote;
        let Some(url) = &remote.url else { return Ok(None) };
        Ok(Some(Options {
            url: url.clone(),
            model: remote.model.clone(),
            token: self.token()?,
            timeout: Duration::from_millis(remote.timeout_ms),
            requests_max: remote.requests_max as usize,
            retries: remote.retries,
            template: remote.fim,
            context: self.context.length.unwrap_or(CONTEXT_DEFAULT) as usize,
        }))
    }

    /// Where the token is: in the environment, else in the file, else with the program.
    fn token(&self) -> Result<Option<TokenSource>> {
        let remote = &self.remote;
        Ok(match (std::env::var(&remote.token_env), &remote.token_file, &*remote.token_command) {
            (Ok(text), ..) => {
                Some(TokenSource::Text(Token::new(&text).context("the token of the remote server")?))
            }
            (_, Some(path), _) => Some(TokenSource::File(path.into())),
            (.., []) => None,
            (.., command) => Some(TokenSource::Program(command.to_vec())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Configuration;

    fn token(settings: &[(&str, &str)]) -> Result<Option<TokenSource>> {
        let mut configuration = Configuration::default();
        for (name, value) in settings.iter().chain(&[("remote.token_env", "FIMD_TEST_NO_TOKEN")]) {
            configuration.fix(name, value).unwrap();
        }
        configuration.settings().token()
    }

    #[test]
    fn a_token_comes_from_where_the_settings_say() {
        assert_eq!(token(&[]).unwrap(), None);
        let command = ("remote.token_command", r#"["echo", "secret"]"#);
        let program = TokenSource::Program(vec!["echo".into(), "secret".into()]);
        assert_eq!(token(&[command]).unwrap(), Some(program));
        let file = token(&[command, ("remote.token_file", "/nowhere/token")]).unwrap();
        assert_eq!(file, Some(TokenSource::File("/nowhere/token".into())));
    }

    #[test]
    fn no_server_is_asked_unless_one_is_named() {
        let mut configuration = Configuration::default();
        assert_eq!(configuration.settings().remote().unwrap(), None);
        configuration.fix("remote.url", "http://localhost:1").unwrap();
        configuration.fix("remote.fim", "server").unwrap();
        let options = configuration.settings().remote().unwrap().unwrap();
        assert_eq!((&*options.url, options.retries, options.context), ("http://localhost:1", 2, 4096));
    }
}
