//! The layers and absences that the crate doc promises, read from the text of the sources.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

/// Names and the only places below `src` that may have them, outside comments and test modules. Names are searched in
/// strings too.
struct Reserved {
    rule: &'static str,
    names: &'static [&'static str],
    places: &'static [&'static str],
}

const RESERVED: &[Reserved] = &[
    Reserved { rule: "LSP types", names: &["tower_lsp::"], places: &["lsp/"] },
    Reserved {
        rule: "no async below lsp",
        names: &["tokio", "async fn", "async move", ".await"],
        places: &["resident/mod.rs", "lsp/", "daemon/", "cli/", "bench/keystrokes/client.rs"],
    },
    Reserved { rule: "intrinsics", names: &["std::arch", "core::arch"], places: &["compute/cpu/"] },
    Reserved { rule: "CUDA", names: &["cudarc"], places: &["compute/cuda/"] },
    Reserved { rule: "mapped files", names: &["memmap2"], places: &["format/mmap.rs", "format/slots.rs"] },
    Reserved {
        rule: "no network outside",
        names: &["std::net", "TcpStream", "TcpListener", "UdpSocket", "tokio::net"],
        places: &["bench/keystrokes/infill.rs"],
    },
    Reserved {
        rule: "no network outside",
        names: &["ureq"],
        places: &["complete/remote/transport.rs", "hub/download/"],
    },
    Reserved { rule: "stdout", names: &["println!", "print!"], places: &["cli/mod.rs"] },
    Reserved { rule: "stdout", names: &["stdout()"], places: &["cli/"] },
    Reserved {
        rule: "settings and the environment",
        names: &["std::env", "env::var", "option_env!", "env!(\"FIMD", "dirs::"],
        places: &[
            "config/",
            "daemon/",
            "lsp/explain.rs",
            "cli/bench.rs",
            "cli/doctor/probe.rs",
            "bench/machine.rs",
            "bench/synthetic.rs",
        ],
    },
    Reserved {
        rule: "settings and the environment",
        names: &["\"FIMD_", "try_from_env"],
        // What the program logs is known before there are settings.
        places: &["config/", "base/logging.rs", "daemon/runtime_dir.rs", "bench/daemon.rs"],
    },
    Reserved {
        rule: "unsafe",
        names: &["unsafe_code"],
        places: &[
            "lib.rs",
            "main.rs",
            "base/crash.rs",
            "base/pool.rs",
            "format/mmap.rs",
            "format/slots.rs",
            "compute/cpu/",
            "compute/cuda/",
        ],
    },
];

/// What completing and assisting never see: tensors, and sessions but for what they say about a generation.
const NO_TENSORS: Forbidden = Forbidden {
    from: &["complete", "assist"],
    to: &["format", "compute", "model", "hub", "session", "resident"],
    except: &["model::Tokenizer", "model::tokenizer", "session::Mark", "session::Synced"],
};

struct Forbidden {
    from: &'static [&'static str],
    to: &'static [&'static str],
    except: &'static [&'static str],
}

/// Files and folders that decide without touching the world.
const PURE: &[&str] = &[
    "session/keep.rs",
    "session/prefix.rs",
    "compute/cuda/split.rs",
    "compute/cuda/tiles.rs",
    "compute/experts/policy.rs",
    "decode/drafts.rs",
    "serve/queue.rs",
    "complete/anchor.rs",
    "complete/encode.rs",
    "complete/fim.rs",
    "complete/context.rs",
    "complete/edit.rs",
    "complete/gate.rs",
    "complete/nesting.rs",
    "complete/options.rs",
    "complete/plan.rs",
    "complete/record.rs",
    "complete/remote/wire.rs",
    "complete/request.rs",
    "complete/retained.rs",
    "complete/rules.rs",
    "complete/service/",
    "complete/stats.rs",
    "complete/trim.rs",
    "assist/answer.rs",
    "assist/cache.rs",
    "assist/definition.rs",
    "assist/documentation.rs",
    "assist/prompt.rs",
    "assist/symbol.rs",
    "decode/stop/",
    "text/",
    "bench/fidelity/places.rs",
    "bench/fidelity/play.rs",
    "bench/fidelity/report.rs",
    "bench/fidelity/source.rs",
    "bench/fidelity/variants.rs",
    "bench/fidelity/verdict.rs",
    "bench/experts.rs",
    "bench/fit.rs",
    "bench/hardware.rs",
    "bench/plan.rs",
    "bench/rates.rs",
    "bench/routing.rs",
    "bench/schedule.rs",
    "bench/simulate.rs",
    "bench/warmups.rs",
    "bench/keystrokes/plot.rs",
    "bench/keystrokes/report.rs",
    "bench/keystrokes/session.rs",
    "bench/keystrokes/typist.rs",
    "cli/doctor/findings.rs",
    "cli/status/dashboard.rs",
    "hub/catalog.rs",
    "hub/reference.rs",
    "hub/select.rs",
    "lsp/bridge/replay.rs",
    "model/architecture/",
    "model/experts/tiers.rs",
    "model/export/",
    "privacy/content.rs",
    "privacy/location.rs",
    "privacy/names.rs",
    "privacy/pattern.rs",
];

/// What a pure file does not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    ".elapsed()",
    "SystemTime",
    "sleep(",
];

/// Circles of imports that there still are. Each entry is the files of one.
const CYCLES_LEFT: &[&[&str]] = &[];

/// A rule, by the name that its findings have, and what finds violations.
type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: &[Rule] = &[layers, table, reserved, no_tensors, pure, pure_list, cycles, unsafe_code];

/// Name of the rule and what is wrong.
type Finding = (&'static str, String);

#[test]
fn sources_keep_the_rules() {
    let found: Vec<String> =
        findings(sources()).into_iter().map(|(rule, text)| format!("{rule}: {text}")).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_rule_finds_its_violation_and_no_other_does() {
    const TEST_MODULE: &str = "#[cfg(test)]\nmod planted {\n    fn braces() { \"}\"; '}'; /* } */ }\n";
    // A rule, if one is to report it, and texts of files: what is replaced, or nothing where text is added.
    type Plant<'a> = (&'a str, &'a str, String);
    let added = |path, text: &str| -> Plant { (path, "", text.to_owned()) };
    let cases: &[(Option<&str>, Vec<Plant>)] = &[
        (Some("layers"), vec![added("base/pool.rs", "use crate::{compute::Backend};")]),
        (Some("layers"), vec![added("base/pool.rs", "/// See [`crate::cli`].\nstruct X;")]),
        (Some("layers"), vec![added("base/mod.rs", "use super::cli;")]),
        (Some("layers"), vec![added("complete/mod.rs", "use crate::assist::Asked;")]),
        (Some("layers"), vec![added("base/pool.rs", "#[cfg(test)]\nmod planted { use crate::cli; }")]),
        (Some("table"), vec![added("planted/mod.rs", "")]),
        (Some("table"), vec![("lib.rs", "| 13 | [`cli`]", "| 15 | [`cli`]".into())]),
        (Some("table"), vec![("lib.rs", "pub mod base;", "pub mod base;\npub mod planted;".into())]),
        (Some("LSP types"), vec![added("daemon/mod.rs", "use tower_lsp::Client;")]),
        (Some("no async below lsp"), vec![added("serve/mod.rs", "async fn f() {}")]),
        (
            Some("no async below lsp"),
            vec![added("serve/mod.rs", &format!("{TEST_MODULE}}}\nuse tokio::fs;"))],
        ),
        (Some("intrinsics"), vec![added("compute/mod.rs", "use std::arch::asm;")]),
        (Some("CUDA"), vec![added("compute/mod.rs", "use cudarc::driver;")]),
        (Some("mapped files"), vec![added("hub/mod.rs", "use memmap2::Mmap;")]),
        (Some("no network outside"), vec![added("complete/mod.rs", "use std::net::SocketAddr;")]),
        (Some("no network outside"), vec![added("hub/mod.rs", "use ureq::Agent;")]),
        (Some("stdout"), vec![added("serve/mod.rs", "fn f() { println!(\"x\") }")]),
        (Some("settings and the environment"), vec![added("decode/mod.rs", "use std::env;")]),
        (Some("settings and the environment"), vec![added("decode/mod.rs", "const X: &str = \"FIMD_X\";")]),
        (
            Some("settings and the environment"),
            vec![added("model/mod.rs", "const X: &str = env!(\"FIMD_X\");")],
        ),
        (Some("no tensors"), vec![added("complete/gate.rs", "use crate::compute::Backend;")]),
        (Some("no tensors"), vec![added("assist/mod.rs", "use crate::session::{Mark, Session};")]),
        (Some("pure"), vec![added("complete/service/mod.rs", "fn f() { std::time::Instant::now(); }")]),
        (Some("pure"), vec![added("text/mod.rs", "fn f() { std::process::exit(1) }")]),
        (Some("list of pure files"), vec![("lib.rs", "`serve/queue.rs`", "`serve/mod.rs`".into())]),
        (
            Some("cycles"),
            vec![
                added("base/cancel.rs", "use super::memory::X;"),
                added("base/memory.rs", "use crate::base::{pool::Y};"),
                added("base/pool.rs", "use crate::base::cancel::Z;"),
            ],
        ),
        (
            Some("cycles"),
            vec![
                added("base/mod.rs", "pub mod planted;\npub use planted::{Planted};"),
                added("base/planted.rs", "use super::cancel::Cancel; pub struct Planted;"),
                added("base/cancel.rs", "fn f(_: super::Planted) {}"),
            ],
        ),
        (Some("unsafe"), vec![added("session/mod.rs", "#[allow(unsafe_code)]\nfn f() {}")]),
        (Some("unsafe"), vec![("lib.rs", "unsafe_code,", "".into())]),
        (Some("unsafe"), vec![("main.rs", "forbid(unsafe_code)", "warn(unused)".into())]),
        (None, vec![added("session/mod.rs", "// tokio, \"std::net\"\n/* /* ureq */ std::env */")]),
        (None, vec![added("session/mod.rs", &format!("{TEST_MODULE}use std::env; use tokio::fs; }}"))]),
        (None, vec![added("session/mod.rs", "const X: &str = r#\"crate::cli \" mod x {\"#;")]),
    ];
    let sources = sources();
    for (rule, plants) in cases {
        let mut files = sources.clone();
        for (path, old, new) in plants {
            plant(&mut files, path, old, new);
        }
        let mut found: Vec<&str> = findings(files).into_iter().map(|(rule, _)| rule).collect();
        found.dedup();
        assert_eq!(found, Vec::from_iter(*rule), "{plants:?}");
    }
}

/// Replaces `old` in a file, or adds `new` to it where `old` is empty.
fn plant(files: &mut Vec<File>, path: &str, old: &str, new: &str) {
    let before = files.iter().position(|file| file.path == path).map(|at| files.swap_remove(at).text);
    let text = before.unwrap_or_default();
    assert!(text.contains(old), "{path} has no {old}");
    let text = if old.is_empty() { format!("{text}\n{new}\n") } else { text.replacen(old, new, 1) };
    files.push(File::new(path.to_owned(), text));
}

fn findings(files: Vec<File>) -> Vec<Finding> {
    let tree = Tree::new(files);
    RULES.iter().flat_map(|rule| rule(&tree)).collect()
}

/// A module names only itself and what stands on a lower layer, even in comments and tests.
fn layers(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.files {
        let Some(own) = tree.layer(file.top()) else { continue };
        for path in tree.paths(file, &file.mentioned) {
            let used = path.first().map_or("", String::as_str);
            let is_below = tree.layer(used).is_none_or(|other| other < own);
            if used != file.top() && !is_below {
                found.push((
                    "layers",
                    format!("{} names {}, which is not below it", file.path, path.join("::")),
                ));
            }
        }
    }
    found
}

/// Every module has one row in the table of the crate doc, whose layers ascend from 0.
fn table(tree: &Tree) -> Vec<Finding> {
    let mut wrong = Vec::new();
    let root = tree.file("lib.rs").expect("the crate has a root");
    let declared =
        root.code.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';'));
    let declared: BTreeSet<&str> = declared.collect();
    let folders = tree.files.iter().map(File::top).filter(|top| !["lib", "main"].contains(top));
    for module in folders.chain(declared.iter().copied()).collect::<BTreeSet<&str>>() {
        let rows = tree.table.iter().filter(|(_, name)| name == module).count();
        if rows != 1 {
            wrong.push(format!("{module} has {rows} rows in the table of the crate doc"));
        }
    }
    wrong.extend(
        tree.table
            .iter()
            .filter(|(_, name)| !declared.contains(&**name))
            .map(|(_, name)| format!("{name} is no module")),
    );
    let numbers: Vec<usize> = tree.table.iter().map(|&(layer, _)| layer).collect();
    if numbers.first() != Some(&0) || numbers.windows(2).any(|pair| pair[1].wrapping_sub(pair[0]) > 1) {
        wrong.push(format!("layers do not ascend from 0 without a gap: {numbers:?}"));
    }
    wrong.into_iter().map(|text| ("table", text)).collect()
}

fn reserved(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for Reserved { rule, names, places } in RESERVED {
        for file in tree.files.iter().filter(|file| !places.iter().any(|place| file.path.starts_with(place)))
        {
            for name in names.iter().filter(|name| contains_word(&file.code_and_strings, name)) {
                found.push((*rule, format!("{} names {name}, which belongs in {places:?}", file.path)));
            }
        }
    }
    found
}

fn no_tensors(tree: &Tree) -> Vec<Finding> {
    let Forbidden { from, to, except } = NO_TENSORS;
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| from.contains(&file.top())) {
        for path in tree.paths(file, &file.named).map(|path| path.join("::")) {
            let is_under =
                |name: &&str| path.strip_prefix(*name).is_some_and(|rest| !rest.starts_with(is_name));
            if to.iter().any(is_under) && !except.iter().any(is_under) {
                found.push(("no tensors", format!("{} names {path}", file.path)));
            }
        }
    }
    found
}

fn pure(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in PURE {
        let mut files = tree.files.iter().filter(|file| file.path.starts_with(place)).peekable();
        if files.peek().is_none() {
            found.push(("pure", format!("there is no {place}")));
        }
        for file in files {
            for name in IMPURE.iter().filter(|name| file.code.contains(**name)) {
                found.push(("pure", format!("{} names {name}", file.path)));
            }
        }
    }
    found
}

/// The crate doc lists the pure files as [`PURE`] does.
fn pure_list(tree: &Tree) -> Vec<Finding> {
    let root = tree.file("lib.rs").expect("the crate has a root");
    let list = root.text.split_once("- Pure files (").and_then(|(_, rest)| rest.split_once(") do no I/O"));
    let (list, _) = list.expect("the crate doc lists the pure files");
    let listed: BTreeSet<String> = list.split('`').skip(1).step_by(2).flat_map(alternatives).collect();
    let checked: BTreeSet<String> = PURE.iter().map(|path| path.trim_end_matches('/').to_owned()).collect();
    let differ = listed.symmetric_difference(&checked);
    differ.map(|path| ("list of pure files", format!("{path} is in one list only"))).collect()
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn alternatives(path: &str) -> Vec<String> {
    let parts = path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)));
    let Some((start, (names, end))) = parts else { return vec![path.to_owned()] };
    names.split(',').map(|name| format!("{start}{name}{end}")).collect()
}

/// Files of one module import each other in one direction. What the `mod.rs` of a folder defines belongs to all files of
/// the folder, so that their way up to it counts for none.
fn cycles(tree: &Tree) -> Vec<Finding> {
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in &tree.files {
        let used =
            tree.uses(file).filter(|used| used.top() == file.top() && !file.module.starts_with(&used.module));
        edges.insert(&file.path, used.map(|used| &*used.path).collect());
    }
    let mut found = Vec::new();
    let mut left = BTreeSet::new();
    while let Some(cycle) = shortest_cycle(&edges) {
        match CYCLES_LEFT.iter().position(|known| cycle.iter().all(|file| known.contains(file))) {
            Some(known) => {
                left.insert(known);
            }
            None => found.push(("cycles", cycle.join(" -> "))),
        }
        // The search goes on without the last import of this circle.
        let [.., last, first] = *cycle else { unreachable!("a circle has two files") };
        edges.get_mut(last).expect("it is a file").remove(first);
    }
    let gone = (0..CYCLES_LEFT.len()).filter(|known| !left.contains(known));
    found.extend(gone.map(|known| ("cycles", format!("{:?} is none any more", CYCLES_LEFT[known]))));
    found
}

/// From a file by the fewest imports back to it, for the first file that has such a way.
fn shortest_cycle<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    let ways = edges.keys().filter_map(|&start| {
        let mut before = BTreeMap::new();
        let mut todo = VecDeque::from([start]);
        while let Some(file) = todo.pop_front() {
            for &next in &edges[file] {
                if !before.contains_key(next) {
                    before.insert(next, file);
                    todo.push_back(next);
                }
            }
        }
        before.contains_key(start).then(|| {
            let mut way = vec![start, before[start]];
            while way[way.len() - 1] != start {
                way.push(before[way[way.len() - 1]]);
            }
            way.reverse();
            way
        })
    });
    ways.min_by_key(Vec::len)
}

/// The compiler knows where there is unsafe code; it has to be told that there is to be none.
fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    let roots = [("lib.rs", "#![deny("), ("main.rs", "#![forbid(")];
    let is_denied = |&(path, attribute): &(&str, &str)| {
        let code = &tree.file(path).expect("the crate has its roots").code;
        let lints = code.split_once(attribute).and_then(|(_, rest)| rest.split_once(")]"));
        lints.is_some_and(|(lints, _)| lints.split(',').any(|lint| lint.trim() == "unsafe_code"))
    };
    let missing = roots.iter().filter(|root| !is_denied(root));
    missing.map(|(path, attribute)| ("unsafe", format!("{path} lacks {attribute}unsafe_code)]"))).collect()
}

/// A source file, with its text as the rules read it. Everything left out is blank, so lines stay where they are.
#[derive(Clone)]
struct File {
    /// Below `src`.
    path: String,
    text: String,
    /// Names of the modules down to this one.
    module: Vec<String>,
    code: String,
    code_and_strings: String,
    /// What its code names.
    named: Vec<Named>,
    /// What its code, its tests and its comments name.
    mentioned: Vec<Named>,
}

struct Tree {
    files: Vec<File>,
    /// Where in `files` the file of each module is.
    modules: HashMap<Vec<String>, usize>,
    /// Layer and name of each module, as the crate doc lists them.
    table: Vec<(usize, String)>,
}

impl File {
    /// The module of the crate that the file belongs to.
    fn top(&self) -> &str {
        self.path.split(['/', '.']).next().expect("a path has a part")
    }

    fn new(path: String, text: String) -> Self {
        let kinds = kinds(&text);
        let code_and_tests = keep(&text, |at| kinds[at] == Kind::Code);
        let tests = test_modules(&code_and_tests);
        let is_test = |at| tests.iter().any(|test| test.contains(&at));
        let module = path.trim_end_matches(".rs").split('/').map(str::to_owned);
        let module: Vec<String> = module.filter(|name| !["mod", "lib"].contains(&&**name)).collect();
        let code = keep(&text, |at| kinds[at] == Kind::Code && !is_test(at));
        let comments = keep(&text, |at| kinds[at] == Kind::Comment);
        Self {
            named: named(&code, &module),
            mentioned: [named(&code_and_tests, &module), named(&comments, &module)].concat(),
            code,
            code_and_strings: keep(&text, |at| kinds[at] != Kind::Comment && !is_test(at)),
            module,
            path,
            text,
        }
    }
}

impl Tree {
    /// The files that are part of the program, without those of test modules.
    fn new(mut files: Vec<File>) -> Self {
        let mut table = Vec::new();
        for line in files.iter().filter(|file| file.path == "lib.rs").flat_map(|file| file.text.lines()) {
            let Some((layer, row)) = line.strip_prefix("//! | ").and_then(|row| row.split_once(" | [`"))
            else {
                continue;
            };
            let layer = layer.parse().expect("a row of the table begins with the layer");
            table.push((layer, row.split('`').next().expect("a row names a module").to_owned()));
        }
        let tests: Vec<Vec<String>> = files.iter().flat_map(test_files).collect();
        for file in files.iter_mut().filter(|file| tests.iter().any(|test| file.module.starts_with(test))) {
            (file.code, file.code_and_strings, file.named) = Default::default();
        }
        let modules = files.iter().enumerate().filter(|(_, file)| file.path != "main.rs");
        let modules = modules.map(|(at, file)| (file.module.clone(), at)).collect();
        Self { files, modules, table }
    }

    fn layer(&self, module: &str) -> Option<usize> {
        self.table.iter().find(|(_, name)| name == module).map(|&(layer, _)| layer)
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    fn module(&self, module: &[String]) -> Option<&File> {
        self.modules.get(module).map(|&at| &self.files[at])
    }

    /// The paths among those named in `file` that lie in the crate, from its root on.
    fn paths<'a>(&'a self, file: &'a File, named: &'a [Named]) -> impl Iterator<Item = Vec<String>> {
        named.iter().filter_map(move |path| self.absolute(file, &path.names))
    }

    /// The files that have what `file` names. What a file only exports again is no use of it, and whoever names that
    /// uses the file where it is.
    fn uses<'a>(&'a self, file: &'a File) -> impl Iterator<Item = &'a File> {
        let paths = file.named.iter().filter(|path| !path.is_export);
        paths.filter_map(|path| self.absolute(file, &path.names)).filter_map(|path| self.owner(&path, 0))
    }

    /// A path from the crate's root on; none for one into another crate.
    fn absolute(&self, file: &File, names: &[String]) -> Option<Vec<String>> {
        if names.first().is_some_and(|name| name == "crate") {
            return Some(names[1..].to_vec());
        }
        let child: Vec<String> = file.module.iter().chain(names.first()).cloned().collect();
        self.module(&child)?;
        Some(file.module.iter().chain(names).cloned().collect())
    }

    /// The file that has the item at a path, through what modules on the way import or export.
    fn owner(&self, path: &[String], depth: usize) -> Option<&File> {
        let (len, file) = (0..=path.len()).rev().find_map(|len| Some((len, self.module(&path[..len])?)))?;
        let Some(item) = path.get(len).filter(|_| depth < 8) else { return Some(file) };
        let import = file.named.iter().find(|path| path.alias.as_ref() == Some(item));
        let target = import.and_then(|import| self.absolute(file, &import.names));
        let target = target.filter(|target| target != path).and_then(|target| self.owner(&target, depth + 1));
        target.or(Some(file))
    }
}

/// A path as it is named: with `crate` first where it begins with `crate`, `self` or `super`.
#[derive(Clone)]
struct Named {
    names: Vec<String>,
    /// What an import calls it.
    alias: Option<String>,
    is_export: bool,
}

/// Every path of two names or more in a text of module `module`.
fn named(text: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    // Inline modules and the depth of their braces.
    let (mut inline, mut depth): (Vec<(usize, &str)>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            "{" => {
                depth += 1;
                if at >= 2 && tokens[at - 2] == "mod" {
                    inline.push((depth, tokens[at - 1]));
                }
            }
            "}" => {
                inline.pop_if(|(start, _)| *start == depth);
                depth = depth.saturating_sub(1);
            }
            name if name.starts_with(is_name) && tokens.get(at + 1) == Some(&"::") => {
                let import = import_before(&tokens[..at]);
                let here: Vec<String> =
                    module.iter().cloned().chain(inline.iter().map(|(_, name)| (*name).to_owned())).collect();
                let start = found.len();
                at = path_tree(&tokens, at, Vec::new(), &mut found);
                for path in &mut found[start..] {
                    path.names = from_root(std::mem::take(&mut path.names), &here);
                    path.is_export = import == Some(true);
                    path.alias = path.alias.take().filter(|_| import.is_some());
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether the path after these tokens is imported, and then whether it is exported too.
fn import_before(before: &[&str]) -> Option<bool> {
    let before = before.strip_suffix(&["use"])?;
    Some(
        before.last() == Some(&"pub")
            || before.ends_with(&[")"]) && before.iter().rev().take(6).any(|t| *t == "pub"),
    )
}

/// Reads the path or tree of paths at `at`, and returns where it ends.
fn path_tree(tokens: &[&str], mut at: usize, mut names: Vec<String>, out: &mut Vec<Named>) -> usize {
    let token = |at: usize| tokens.get(at).copied().unwrap_or("");
    loop {
        match token(at) {
            "{" => {
                at += 1;
                while !["}", "", ";"].contains(&token(at)) {
                    at = path_tree(tokens, at, names.clone(), out);
                    at += usize::from(!["}", ";"].contains(&token(at)));
                }
                return at + 1;
            }
            name if name.starts_with(is_name) => {
                if name != "self" || names.is_empty() {
                    names.push(name.to_owned());
                }
                if token(at + 1) == "::"
                    && (token(at + 2).starts_with(is_name) || ["{", "*"].contains(&token(at + 2)))
                {
                    at += 2;
                    continue;
                }
                let is_renamed = token(at + 1) == "as";
                let alias = if is_renamed { Some(token(at + 2).to_owned()) } else { names.last().cloned() };
                out.push(Named { names, alias, is_export: false });
                return at + if is_renamed { 3 } else { 1 };
            }
            _ => {
                out.push(Named { names, alias: None, is_export: false });
                return at + 1;
            }
        }
    }
}

/// `self` and `super` replaced.
fn from_root(names: Vec<String>, here: &[String]) -> Vec<String> {
    let up = names.iter().take_while(|name| *name == "super").count();
    let is_self = names.first().is_some_and(|name| name == "self");
    if up == 0 && !is_self {
        return names;
    }
    let base = &here[..here.len().saturating_sub(up)];
    let rest = &names[up.max(usize::from(is_self))..];
    ["crate".to_owned()].iter().chain(base).chain(rest).cloned().collect()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names, `::`, and every other character that is not blank.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    tokens
}

/// Whether `name` is in the text and no part of a longer name on its left.
fn contains_word(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !(name.starts_with(is_name) && text[..at].ends_with(is_name)))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    String,
}

/// What each byte of a source is.
fn kinds(text: &str) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(text.len());
    while kinds.len() < text.len() {
        let (kind, len) = piece(text, kinds.len());
        kinds.resize((kinds.len() + len).min(text.len()), kind);
    }
    kinds
}

/// The kind and length of the comment, the literal or the single character at `at`.
fn piece(text: &str, at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let is_inside_name = text[..at].ends_with(is_name);
    let first = rest.chars().next().expect("there is more");
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    if first == '"' {
        return (Kind::String, quoted(rest, '"'));
    }
    // A character, or else a lifetime.
    if let Some(inside) = rest.strip_prefix('\'')
        && (inside.starts_with('\\') || inside.chars().nth(1) == Some('\''))
    {
        return (Kind::String, quoted(rest, '\''));
    }
    let raw = ["r", "br", "cr"].iter().find_map(|start| rest.strip_prefix(start)).filter(|_| !is_inside_name);
    if let Some((hashes, string)) = raw.and_then(|raw| raw.split_once('"'))
        && hashes.bytes().all(|byte| byte == b'#')
    {
        let end = string.find(&format!("\"{hashes}")).map_or(string.len(), |end| end + 1 + hashes.len());
        return (Kind::String, rest.len() - string.len() + end);
    }
    (Kind::Code, first.len_utf8())
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of a literal between quotes in which a backslash escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = true;
    for (at, c) in rest.char_indices() {
        if c == quote && !is_escaped {
            return at + 1;
        }
        // The first character is the quote that begins it.
        is_escaped = c == '\\' && !is_escaped && at > 0;
    }
    rest.len()
}

/// The text with blanks in place of every byte that is not kept.
fn keep(text: &str, is_kept: impl Fn(usize) -> bool) -> String {
    let bytes = text.bytes().enumerate();
    let bytes = bytes.map(|(at, byte)| if byte == b'\n' || is_kept(at) { byte } else { b' ' }).collect();
    String::from_utf8(bytes).expect("whole characters are kept")
}

const TEST: &str = "#[cfg(test)]";

/// The inline test modules of a text without comments and strings.
fn test_modules(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut modules = Vec::new();
    for (start, _) in code.match_indices(TEST) {
        let Some(open) = code[start..].find(['{', ';']).map(|open| start + open) else { continue };
        if code.as_bytes()[open] == b'{' && is_module(&code[start..open]) {
            modules.push(start..closing(code, open));
        }
    }
    modules
}

/// Whether an item that begins so is a module.
fn is_module(item: &str) -> bool {
    tokens(item).iter().nth_back(1) == Some(&"mod")
}

/// Past the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The modules that a file declares for tests alone and that have files of their own.
fn test_files(file: &File) -> Vec<Vec<String>> {
    let items = file.code.split(TEST).skip(1).filter_map(|rest| rest.split_once(';'));
    let items = items.filter(|(item, _)| is_module(item));
    items
        .map(|(item, _)| {
            file.module.iter().cloned().chain(tokens(item).last().map(|&name| name.to_owned())).collect()
        })
        .collect()
}

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file.
fn sources() -> Vec<File> {
    let mut files = Vec::new();
    let mut dirs = vec![source_dir()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source_dir()).unwrap().to_string_lossy().replace('\\', "/");
                files.push(File::new(name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 20);
    files
}
