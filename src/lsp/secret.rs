//! Files that hold credentials by their very name.

/// Folders whose files are never completed.
const FOLDERS: [&str; 4] = [".ssh", ".aws", ".gnupg", "secrets"];
/// How the names of such files start.
const STARTS: [&str; 6] = [".env", ".netrc", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"];
/// How the names of such files end.
const ENDS: [&str; 4] = [".pem", ".key", ".p12", ".pfx"];

/// Whether the file at `path`, its parts separated by `/`, looks like it keeps secrets.
pub(super) fn is_secret(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", &path));
    folders.split('/').any(|folder| FOLDERS.contains(&folder))
        || STARTS.iter().any(|start| name.starts_with(start))
        || ENDS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
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
