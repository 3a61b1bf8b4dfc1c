//! Options of the remote backend, with its API token.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::definition::Settings;
use super::options::CONTEXT_DEFAULT;
use crate::complete::remote::{Options, Token};

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
            retries: remote.retries,
            template: remote.fim,
            context: self.context.length.unwrap_or(CONTEXT_DEFAULT) as usize,
        }))
    }

    /// The token: from the environment, else the file, else the program.
    fn token(&self) -> Result<Option<Token>> {
        let remote = &self.remote;
        let text = match (std::env::var(&remote.token_env), &remote.token_file, &*remote.token_command) {
            (Ok(text), ..) => text,
            (_, Some(path), _) => token_from_file(path)?,
            (.., [program, arguments @ ..]) => token_from_program(program, arguments)?,
            _ => return Ok(None),
        };
        Token::new(&text).context("the token of the remote server").map(Some)
    }
}

fn token_from_file(path: &Path) -> Result<String> {
    let describe = || format!("remote.token_file: cannot read {}", path.display());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = path.metadata().with_context(describe)?.permissions().mode();
        ensure!(
            mode & 0o077 == 0,
            "remote.token_file: other users may read {0}; `chmod 600 {0}` makes it private",
            path.display()
        );
    }
    fs::read_to_string(path).with_context(describe)
}

fn token_from_program(program: &str, arguments: &[String]) -> Result<String> {
    let describe = || format!("remote.token_command: cannot run {program}");
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(describe)?;
    ensure!(output.status.success(), "remote.token_command: {program} failed ({})", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Configuration;

    fn token(settings: &[(&str, &str)]) -> Result<Option<Token>> {
        let mut configuration = Configuration::default();
        for (name, value) in settings.iter().chain(&[("remote.token_env", "FIMD_TEST_NO_TOKEN")]) {
            configuration.fix(name, value).unwrap();
        }
        configuration.settings().token()
    }

    #[cfg(unix)]
    #[test]
    fn a_token_comes_from_where_the_settings_say() {
        use std::os::unix::fs::PermissionsExt;
        let secret = Some(Token::new("secret").unwrap());
        assert_eq!(token(&[]).unwrap(), None);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "secret\n").unwrap();
        let path = file.path().to_str().unwrap();
        for (mode, is_private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            match token(&[("remote.token_file", path)]) {
                Ok(token) => assert!(is_private && token == secret, "{mode:o}"),
                Err(error) => assert!(!is_private && error.to_string().contains("chmod 600"), "{mode:o}"),
            }
        }
        let said = |command| token(&[("remote.token_command", command)]);
        assert_eq!(said(r#"["echo", "secret"]"#).unwrap(), secret);
        for (command, word) in
            [(r#"["false"]"#, "failed"), (r#"["/nonexistent"]"#, "cannot run"), (r#"["true"]"#, "empty")]
        {
            let error = format!("{:#}", said(command).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
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
