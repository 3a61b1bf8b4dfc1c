//! Changing one setting in the user's file. Everything else in it stays as it is, comments too.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike};

use super::configuration::{Configuration, unknown};
use super::definition::Setting;

/// Gives a setting a value in the file at `path`, which is made if it is not there; `null` takes it out. Fails, and
/// changes nothing, when there is no such setting, it cannot have this value, or the file is damaged.
pub fn set(path: &Path, name: &str, text: &str) -> Result<()> {
    let setting = Setting::named(name).ok_or_else(|| anyhow!(unknown(name)))?;
    let value = if text == "null" {
        Value::Null
    } else {
        setting.parse(text).map_err(|why| anyhow!("{name}: {why}"))?
    };
    // What others link to stays a link.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        before => before.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let after = changed(&before, name, &value).with_context(|| {
        format!("{} stays as it is; correct it first, `fimd config` shows what is wrong", path.display())
    })?;
    check(path, &after, name, &value)?;
    if after == before {
        return Ok(());
    }
    replace(path, &after).with_context(|| format!("cannot write {}", path.display()))
}

/// The text of a file with one setting changed.
fn changed(text: &str, name: &str, value: &Value) -> Result<String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        anyhow!("it is damaged: {}", error.message().lines().next().unwrap_or_default())
    })?;
    let (group, key) = name.split_once('.').unwrap_or(("", name));
    if value.is_null() && !group.is_empty() && !document.contains_key(group) {
        return Ok(text.to_owned());
    }
    let table: &mut dyn TableLike = if group.is_empty() {
        document.as_table_mut()
    } else {
        let group_item = document.entry(group).or_insert_with(|| Item::Table(Table::new()));
        group_item.as_table_like_mut().with_context(|| format!("{group} is no table"))?
    };
    match to_toml(value) {
        None => drop(table.remove(key)),
        Some(new) => match table.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = new;
                *old.decor_mut() = decor;
            }
            None => drop(table.insert(key, Item::Value(new))),
        },
    }
    Ok(document.to_string())
}

fn to_toml(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null | Value::Object(_) => return None,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.into(),
        Value::Array(items) => items.iter().filter_map(to_toml).collect::<Array>().into(),
    })
}

/// Fails unless the file now says what it should.
fn check(path: &Path, text: &str, name: &str, value: &Value) -> Result<()> {
    let mut configuration = Configuration::default();
    configuration.read(path, text);
    let read = configuration.strongest(name).map(|(_, value)| value.clone()).unwrap_or_default();
    let is_same = read == *value || read.as_f64().is_some_and(|read| value.as_f64() == Some(read));
    let problems: Vec<String> = configuration.problems().iter().map(ToString::to_string).collect();
    ensure!(is_same, "{} would not say {name} = {value} then: {}", path.display(), problems.join("; "));
    Ok(())
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Ok(metadata) = path.metadata() {
        file.as_file().set_permissions(metadata.permissions())?;
    }
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_setting_changes_and_nothing_else() {
        let file = "# Mine.\nwarm = false # slow\n\n[budget] # both\n# Patience.\nsoft_ms = 300   # short\nhard_ms = 9\n";
        for (name, value, from, to) in [
            ("warm", json!(true), "warm = false # slow", "warm = true # slow"),
            ("budget.soft_ms", json!(7), "soft_ms = 300   # short", "soft_ms = 7   # short"),
            ("budget.hard_ms", Value::Null, "hard_ms = 9\n", ""),
            ("logprob_min", json!(-2.5), "# slow\n", "# slow\nlogprob_min = -2.5\n"),
            ("model", json!("/a \"b\""), "# slow\n", "# slow\nmodel = '/a \"b\"'\n"),
            (
                "disabled.languages",
                json!(["a", "b"]),
                "hard_ms = 9\n",
                "hard_ms = 9\n\n[disabled]\nlanguages = [\"a\", \"b\"]\n",
            ),
            ("fim.order", Value::Null, "", ""),
        ] {
            let text = changed(file, name, &value).unwrap();
            assert_eq!(text, file.replacen(from, to, 1), "{name}");
        }
        for (file, expected) in [
            ("", "warm = true\n"),
            ("budget.soft_ms = 3\n", "budget.soft_ms = 3\nwarm = true\n"),
            ("budget = { soft_ms = 3 }\n", "budget = { soft_ms = 3 }\nwarm = true\n"),
        ] {
            assert_eq!(changed(file, "warm", &json!(true)).unwrap(), expected);
        }
        for file in ["budget.soft_ms = 3\n", "budget = { soft_ms = 3 }\n", "[budget]\nsoft_ms = 3\n"] {
            let expected = file.replace('3', "4");
            assert_eq!(changed(file, "budget.soft_ms", &json!(4)).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_wrong_is_refused_and_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/fimd.toml");
        set(&path, "alternatives", "2").unwrap();
        set(&path, "logprob_min", "-3").unwrap();
        set(&path, "disabled.globs", "*.csv, *.txt").unwrap();
        let mut configuration = Configuration::default();
        configuration.read(&path, &fs::read_to_string(&path).unwrap());
        let settings = configuration.settings();
        assert_eq!((settings.alternatives, settings.logprob_min), (2, Some(-3.0)));
        assert_eq!(settings.disabled.globs, ["*.csv", "*.txt"]);
        let before = fs::read_to_string(&path).unwrap();
        for (name, text, word) in [
            ("alternative", "2", "did you mean alternatives?"),
            ("alternatives", "9", "from 1 to 3"),
            ("enabled", "yes", "true or false"),
        ] {
            let error = format!("{:#}", set(&path, name, text).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        for damaged in ["a = [", "budget = 3\n"] {
            fs::write(&path, damaged).unwrap();
            let error = format!("{:#}", set(&path, "budget.soft_ms", "3").unwrap_err());
            assert!(error.contains("stays as it is"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("dotfile"), dir.path().join("fimd.toml"));
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        set(&link, "warm", "false").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "warm = false\n");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }
}
