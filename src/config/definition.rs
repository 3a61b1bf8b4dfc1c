//! The one definition of every setting: name, type, default, scope and description. The guide, the schemas and the
//! template of the file are generated from it, see `render`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::complete::fim::{Format, Order};
use crate::complete::remote::Template;

/// Prefix of environment variables that set settings.
pub(super) const VARIABLE_PREFIX: &str = "FIMD_";

/// Who may set a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each editor, for itself.
    Editor,
    /// The process that all editors share: an editor must not change the model of the others, nor where their
    /// code is sent.
    Process,
}

/// Which requests for a completion are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TriggerMode {
    /// All of them.
    Automatic,
    /// Those that the user has invoked.
    Manual,
}

/// The valid values of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Bool,
    /// An integer in this range.
    Integer(RangeInclusive<u64>),
    /// A number in this range.
    Number(RangeInclusive<f64>),
    Text,
    /// The path of a file or folder.
    Path,
    Texts,
    Choice(&'static [&'static str]),
}

/// Definition of a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Dotted path, as in `fim.order`.
    pub name: &'static str,
    /// Description, in Markdown.
    pub about: &'static str,
    pub kind: Kind,
    pub scope: Scope,
    /// Meaning of an unset value, where it may be unset.
    pub unset: Option<&'static str>,
    /// For such a setting, a usual value, in TOML.
    pub example: Option<&'static str>,
}

/// Defines the structs, their defaults, and the list of definitions.
macro_rules! settings {
    (
        alone { $($(#[doc = $about:literal])* $name:ident: $type:ty = $default:expr,
            $scope:ident, $kind:expr $(, unset: $unset:literal, as $example:literal)?;)* }
        groups { $($(#[doc = $group_about:literal])* $group:ident: $Group:ident {
            $($(#[doc = $in_about:literal])* $in_name:ident: $in_type:ty = $in_default:expr,
                $in_scope:ident, $in_kind:expr $(, unset: $in_unset:literal, as $in_example:literal)?;)*
        })* }
    ) => {
        /// All settings, each named by its dotted path, as in `fim.order`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $about])* pub $name: $type,)*
            $($(#[doc = $group_about])* pub $group: $Group,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $default,)* $($group: $Group::default(),)* }
            }
        }

        $(
            $(#[doc = $group_about])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $Group {
                $($(#[doc = $in_about])* pub $in_name: $in_type,)*
            }

            impl Default for $Group {
                fn default() -> Self {
                    Self { $($in_name: $in_default,)* }
                }
            }
        )*

        /// Every setting, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[
            $(Setting {
                name: stringify!($name),
                about: concat!($($about),*),
                kind: $kind,
                scope: Scope::$scope,
                unset: settings!(@optional $($unset)?),
                example: settings!(@optional $($example)?),
            },)*
            $($(Setting {
                name: concat!(stringify!($group), ".", stringify!($in_name)),
                about: concat!($($in_about),*),
                kind: $in_kind,
                scope: Scope::$in_scope,
                unset: settings!(@optional $($in_unset)?),
                example: settings!(@optional $($in_example)?),
            },)*)*
        ];
    };
    (@optional) => { None };
    (@optional $text:literal) => { Some($text) };
}

settings! {
    alone {
        /// Whether completion is enabled.
        enabled: bool = true, Editor, Kind::Bool;
        /// What triggers a completion: typing (`automatic`), or only a key by which you invoke it (`manual`); nothing is
        /// computed in between then. A completion menu counts as typing, since editors do not tell which it was.
        trigger: TriggerMode = TriggerMode::Automatic, Editor, Kind::Choice(&["automatic", "manual"]);
        /// Longest debounce in milliseconds: the wait for more typing before a request. It adapts to your typing speed and
        /// the latency of the model.
        debounce_ms_max: u64 = 75, Editor, Kind::Integer(0..=10_000);
        /// Number of items in a manually invoked completion.
        alternatives: usize = 3, Editor, Kind::Integer(1..=3);
        /// Lowest mean log-probability (natural) of the tokens of an automatic completion that is shown.
        logprob_min: Option<f32> = None, Editor, Kind::Number(-1e6..=1e6), unset: "depends on the model",
            as "-2.1";
        /// Whether to prepare the completion after the shown one in the background, as if that had been accepted.
        speculate: bool = true, Editor, Kind::Bool;
        /// Whether to prewarm the cache with a document's prompt in the background when it is opened, focused, or idle.
        warm: bool = true, Editor, Kind::Bool;
        /// The model: a checkpoint folder, a `.safetensors` or a `.gguf` file.
        model: Option<PathBuf> = None, Process, Kind::Path, unset: "the built-in starter model",
            as "'~/models/model.gguf'";
        /// Whether weights are copied into memory in the order in which the CPU reads them: faster, and the copy takes as much
        /// memory as the file. What memory does not hold is read from where it is.
        repack: bool = false, Process, Kind::Bool;
        /// Number of compute threads.
        threads: Option<u16> = None, Process, Kind::Integer(1..=1024), unset: "one for each physical core, of a hybrid CPU each for performance",
            as "4";
    }
    groups {
        /// Where completion is disabled. Such files are not used as context either.
        disabled: Disabled {
            /// Languages that are neither completed nor used as context, by their LSP identifiers (`markdown`). `*` matches
            /// all, and `!` negates: `["*", "!rust"]` is Rust only.
            languages: Vec<String> = Vec::new(), Editor, Kind::Texts;
            /// Files that are neither, as patterns of a `.gitignore` at the root of the workspace:
            /// `["*.csv", "!small.csv"]`.
            globs: Vec<String> = Vec::new(), Editor, Kind::Texts;
        }

        /// What is never read.
        privacy: Privacy {
            /// Names of files with secrets, besides those that fimd knows, as patterns of a `.gitignore`: they are neither
            /// completed nor used as context nor sent.
            secret_files: Vec<String> = Vec::new(), Editor, Kind::Texts;
            /// Files that may be, although their names are those of files with secrets, as patterns of a `.gitignore`:
            /// `[".env.example"]`. `fimd doctor FILE` names the rule that excludes a file.
            allow: Vec<String> = Vec::new(), Process, Kind::Texts;
        }

        /// Time limits of a completion.
        budget: Budget {
            /// Soft time limit in milliseconds: an automatic completion then stops at the end of its line.
            soft_ms: u64 = 250, Editor, Kind::Integer(0..=600_000);
            /// Hard time limit in milliseconds: every completion then stops where it is.
            hard_ms: u64 = 5000, Editor, Kind::Integer(1..=600_000);
        }

        /// Length limits of a completion.
        max_tokens: MaxTokens {
            /// Length limit of an automatic completion, in tokens.
            auto: usize = 64, Editor, Kind::Integer(1..=4096);
            /// Length limit of a manually invoked completion, in tokens.
            invoked: usize = 128, Editor, Kind::Integer(1..=4096);
        }

        /// What a prompt contains.
        context: Context {
            /// Budget for text of other open files in a prompt, in tokens; 0 for none.
            tokens_max: Option<usize> = None, Editor, Kind::Integer(0..=1_048_576),
                unset: "512; none for the starter model, which was not trained with them", as "512";
            /// Context length, in tokens: the limit for a prompt together with its completion.
            length: Option<u32> = None, Process, Kind::Integer(1..=1_048_576), unset: "4096, or the model's own",
                as "4096";
        }

        /// Fill-in-the-middle prompts.
        fim: Fim {
            /// Order of a prompt: first the text before the cursor (`psm`), first the text after it (`spm`), or all before
            /// the cursor's line, then the text after it, then the line (`psm-anchored`).
            order: Option<Order> = None, Editor, Kind::Choice(&["psm", "spm", "psm-anchored"]),
                unset: "depends on the model", as "'psm-anchored'";
            /// FIM format: the prompt as it is (`raw`), in a chat message (`chat`), or a chat request for the replacement of
            /// a mark in the cursor's line (`search-replace`, for chat models without FIM training).
            format: Option<Format> = None, Editor, Kind::Choice(&["raw", "chat", "search-replace"]),
                unset: "depends on the model", as "'raw'";
        }

        /// Documentation on hover.
        hover: Hover {
            /// Whether the model documents undocumented symbols on hover.
            enabled: bool = true, Editor, Kind::Bool;
            /// Time limit in milliseconds: a hover then shows what is generated so far, and the next hover the rest.
            budget_ms: u64 = 400, Editor, Kind::Integer(1..=600_000);
        }

        /// Explaining, fixing and documenting.
        assist: Assist {
            /// Length limit of an explanation, a fix or a documentation, in tokens.
            max_tokens: usize = 1024, Editor, Kind::Integer(1..=65_536);
        }

        /// The prefix cache: KV caches and recurrent states of earlier prompts.
        cache: Cache {
            /// Memory budget of the prefix cache, in bytes.
            bytes_max: Option<u64> = None, Process, Kind::Integer(1..=1 << 50),
                unset: "a tenth of the memory, at most 4 GiB", as "4_294_967_296";
        }

        /// Models with experts that are larger than the memory: some experts stay there, the others are read from disk.
        experts: Experts {
            /// Memory budget of a model with its prefix cache, in bytes. It must hold what every token reads and some
            /// experts of each layer: `fimd plan` shows what it is divided into.
            ram_bytes_max: Option<u64> = None, Process, Kind::Integer(1..=1 << 50),
                unset: "what is free, less a margin", as "17_179_869_184";
            /// Whether the memory of experts is locked, so that the system never swaps it out, and with a GPU also files that they are mapped from.
            lock: bool = false, Process, Kind::Bool;
            /// A smaller copy of the model's experts, which `fimd quantize --cold` writes: an expert that is not in memory is
            /// computed with there and not read from disk. Faster, and less exact. Memory has to hold all of the copy.
            cold: Option<PathBuf> = None, Process, Kind::Path, unset: "none", as "'~/models/model-cold.gguf'";
        }

        /// The GPU, an NVIDIA one with compute capability 8.0 (RTX 30 series) or newer.
        gpu: Gpu {
            /// Whether a model that fits runs on the GPU. Its kernels were tested on an emulated driver and not yet on a
            /// GPU, and they are not tuned.
            enabled: bool = false, Process, Kind::Bool;
            /// Budget of GPU memory, in bytes: weights, caches and all else. With 0 models run on the CPU.
            vram_bytes_max: Option<u64> = None, Process, Kind::Integer(0..=1 << 50),
                unset: "what is free, less a margin", as "8_589_934_592";
            /// Minutes without a request after which its memory is given back to other programs; 0 for never. The next request
            /// takes it again, which takes as long as loading the model, and evaluates its prompt anew.
            idle_minutes: f64 = 15.0, Process, Kind::Number(0.0..=1e6);
        }

        /// A remote backend, used instead of the model on this machine.
        remote: Remote {
            /// URL of an OpenAI-compatible server (vLLM, SGLang, llama.cpp), as `https://host:8000`: your code is sent there
            /// and completed there.
            url: Option<String> = None, Process, Kind::Text, unset: "the model on this machine",
                as "'https://host:8000'";
            /// Name of the model on the server.
            model: Option<String> = None, Process, Kind::Text, unset: "chosen by the server",
                as "'name'";
            /// The environment variable that holds the API token.
            token_env: String = "FIMD_REMOTE_TOKEN".to_owned(), Process, Kind::Text;
            /// A file that holds the token, readable only by you (mode 0600).
            token_file: Option<PathBuf> = None, Process, Kind::Path, unset: "none", as "'~/.config/fimd/token'";
            /// A program that prints the token, with its arguments:
            /// `["secret-tool", "lookup", "service", "fimd"]`.
            token_command: Vec<String> = Vec::new(), Process, Kind::Texts;
            /// Timeout of a connection attempt, and of each read, in milliseconds.
            timeout_ms: u64 = 10_000, Process, Kind::Integer(1..=600_000);
            /// Most requests in flight at once. A busy server (429, 503) gets fewer for a while.
            requests_max: u32 = 4, Process, Kind::Integer(1..=64);
            /// Number of retries after a failed connection or a busy server, with exponential back-off.
            retries: u32 = 2, Process, Kind::Integer(0..=10);
            /// Which FIM template is used: that of fimd (`ours`), as for Qwen models, or that of the server (`server`), which
            /// is sent `prompt` and `suffix` and no other files.
            fim: Template = Template::Ours, Process, Kind::Choice(&["ours", "server"]);
        }

        /// The process that all editors share.
        daemon: Daemon {
            /// Idle timeout in minutes: without an editor for that long the daemon shuts down; 0 for never.
            idle_exit_minutes: f64 = 30.0, Process, Kind::Number(0.0..=1e6);
        }

        /// Logging.
        log: Log {
            /// Log level of the daemon; document text is never logged.
            level: String = "info".to_owned(), Process,
                Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]);
        }
    }
}

impl Setting {
    /// The setting with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }

    /// Description, without surrounding whitespace.
    pub fn about(&self) -> &'static str {
        self.about.trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    #[test]
    fn the_list_names_every_field_and_variables_are_told_apart() {
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        let leaves = |value: &Value| value.as_object().map_or(1, serde_json::Map::len);
        let fields: usize = defaults.as_object().unwrap().values().map(leaves).sum();
        assert_eq!(fields, SETTINGS.len());
        for setting in SETTINGS {
            let value = defaults.pointer(&format!("/{}", setting.name.replace('.', "/"))).unwrap();
            assert_eq!(value.is_null(), setting.unset.is_some(), "{}", setting.name);
            assert!(value.is_null() || setting.kind.check(value).is_ok(), "{}", setting.name);
            assert!(setting.about().ends_with('.'), "{}", setting.name);
        }
        let variables: BTreeSet<String> = SETTINGS.iter().map(Setting::variable).collect();
        assert_eq!(variables.len(), SETTINGS.len());
    }
}
