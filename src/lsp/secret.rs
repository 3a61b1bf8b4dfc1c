//! Recognises files with credentials by their names.

/// Folders of such files.
const FOLDERS: [&str; 4] = [".ssh", ".aws", ".gnupg", "secrets"];
/// Prefixes of such file names.
const PREFIXES: [&str; 6] = [".env", ".netrc", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"];
/// Suffixes of such file names.
const SUFFIXES: [&str; 4] = [".pem", ".key", ".p12", ".pfx"];

/// Whether the name of the file at `path`, with the separator `/`, suggests credentials.
pub(super) fn is_secret(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", &path));
    folders.split('/').any(|folder| FOLDERS.contains(&folder))
        || PREFIXES.iter().any(|start| name.starts_with(start))
        || SUFFIXES.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_files_are_recognised_by_name() {
        for path in [
            "/home/me/app/.env",
            ".env.production",
            "/srv/tls/Server.PEM",
            "/srv/tls/server.key",
            "/home/me/id_rsa",
            "/keys/id_ed25519.pub",
            "/home/me/.ssh/config",
            "/home/me/.aws/sso/cache.json",
            "/c:/app/secrets/values.yaml",
        ] {
            assert!(is_secret(path), "{path}");
        }
        for path in
            ["", "/src/main.rs", "/src/environment.rs", "/src/secrets.rs", "/src/key/keyboard.c", "pem"]
        {
            assert!(!is_secret(path), "{path}");
        }
    }
}
