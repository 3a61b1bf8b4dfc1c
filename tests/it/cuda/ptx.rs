//! Committed PTX is of the sources that are there; `scripts/ptx --check` compiles them again.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, iter};

use ring::digest::{Context, SHA256};

use super::build::{PRODUCT, TRIAL, with_extension};

#[test]
fn each_ptx_is_of_its_source() {
    for folder in [PRODUCT, TRIAL] {
        let sources = with_extension(folder, &["cu"]);
        for source in &sources {
            let mut context = Context::new(&SHA256);
            for path in iter::once(source.clone()).chain(included_by(source)) {
                context.update(&fs::read(path).unwrap());
            }
            let hash = context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            });
            let name = source.file_name().unwrap().to_str().unwrap();
            let ptx = fs::read_to_string(source.with_extension("ptx")).unwrap_or_default();
            let first = format!("// Made by scripts/ptx of {name} and headers, sha256 {hash}.");
            assert_eq!(
                ptx.lines().next(),
                Some(&*first),
                "the PTX of {name} is of another text: run scripts/ptx {}",
                stem(source)
            );
        }
        let orphans: Vec<_> = with_extension(folder, &["ptx"])
            .into_iter()
            .filter(|ptx| !ptx.with_extension("cu").exists())
            .collect();
        assert!(orphans.is_empty(), "PTX without a source: {orphans:?}");
    }
}

/// Headers that a file includes, and those that they include, by name.
fn included_by(source: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut open) = (BTreeSet::new(), vec![source.to_owned()]);
    while let Some(path) = open.pop() {
        let text = fs::read_to_string(path).unwrap();
        for name in text.split("#include \"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let header = Path::new(PRODUCT).join(name);
            if found.insert(header.clone()) {
                open.push(header);
            }
        }
    }
    found
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}
