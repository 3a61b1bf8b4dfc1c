//! Committed PTX is of the sources that are there; `scripts/ptx --check` compiles them again.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use ring::digest::{Context, SHA256};

use super::build::{PRODUCT, TRIAL, with_extension};

#[test]
fn each_ptx_is_of_its_source() {
    let headers = with_extension(PRODUCT, &["cuh"]);
    for folder in [PRODUCT, TRIAL] {
        let sources = with_extension(folder, &["cu"]);
        for source in &sources {
            let mut context = Context::new(&SHA256);
            for path in [source].into_iter().chain(&headers) {
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

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}
