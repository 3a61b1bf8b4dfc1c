//! The one definition of every setting: name, type, default, who may set it, and what it means. The README,
//! the schemas and the template of the file are made from it, see `render`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::complete;
use crate::complete::fim::{Format, Order};
use crate::complete::remote::Template;

/// How the environment variables start that set settings.
pub(super) const VARIABLE_START: &str = "FIMD_";

/// Who may set a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each editor for itself.
    Editor,
    /// The process that all editors share: an editor must not change the model under the others, nor say
    /// where their code goes.
    Process,
}

/// Which values a setting may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Integer(RangeInclusive<u64>),
    /// Any number.
    Number(RangeInclusive<f64>),
    /// A text.
    Text,
    /// The path of a file or folder.
    Path,
    /// Several texts.
    Texts,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// What is known of a setting besides its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The path to it, as in `fim.order`.
    pub name: &'static str,
    /// What it means, in Markdown.
    pub about: &'static str,
    /// Which values it may have.
    pub kind: Kind,
    /// Who may set it.
    pub scope: Scope,
    /// What no value stands for, where it may have none.
    pub unset: Option<&'static str>,
}

/// Makes the structs, their defaults, and the list of what is known of them.
macro_rules! settings {
    (
        alone { $($(#[doc = $about:literal])* $name:ident: $type:ty = $default:expr,
            $scope:ident, $kind:expr $(, unset: $unset:literal)?;)* }
        groups { $($(#[doc = $group_about:literal])* $group:ident: $Group:ident {
            $($(#[doc = $in_about:literal])* $in_name:ident: $in_type:ty = $in_default:expr,
                $in_scope:ident, $in_kind:expr $(, unset: $in_unset:literal)?;)*
        })* }
    ) => {
        /// All settings. A setting is named by the path to it, as in `fim.order`.
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

        /// Every setting, in the order in which they are listed.
        pub static SETTINGS: &[Setting] = &[
            $(Setting {
                name: stringify!($name),
                about: concat!($($about),*),
                kind: $kind,
                scope: Scope::$scope,
                unset: settings!(@unset $($unset)?),
            },)*
            $($(Setting {
                name: concat!(stringify!($group), ".", stringify!($in_name)),
                about: concat!($($in_about),*),
                kind: $in_kind,
                scope: Scope::$in_scope,
                unset: settings!(@unset $($in_unset)?),
            },)*)*
        ];
    };
    (@unset) => { None };
    (@unset $unset:literal) => { Some($unset) };
}

settings! {
    alone {
        /// Whether to complete at all.
        enabled: bool = true, Editor, Kind::Bool;
        /// Longest wait for more typing before the model is asked, in milliseconds; how long it is depends on how
        /// fast you type and how fast the model answers.
        debounce_ms_max: u64 = 75, Editor, Kind::Integer(0..=10_000);
        /// How many items to offer when asked for a completion by hand.
        alternatives: usize = 3, Editor, Kind::Integer(1..=3);
        /// Least mean natural log-probability of the tokens of a completion that is shown unasked.
        logprob_min: f32 = complete::Options::LOGPROB_MIN, Editor, Kind::Number(-1e6..=1e6);
        /// Whether to continue a suggestion in the background, as if it had been accepted.
        speculate: bool = true, Editor, Kind::Bool;
        /// Whether to evaluate a document's prompt in the background when it is opened, focused, or left idle.
        warm: bool = true, Editor, Kind::Bool;
        /// The model: a checkpoint folder, a `.safetensors` or a `.gguf` file.
        model: Option<PathBuf> = None, Process, Kind::Path, unset: "the starter model in the program";
        /// How many threads compute.
        threads: Option<u16> = None, Process, Kind::Integer(1..=1024), unset: "one for each physical core";
    }
    groups {
        /// Where not to complete. Such files are no context for others either.
        disabled: Disabled {
            /// Languages that are neither completed nor shown as context, by their identifiers as editors send them
            /// (`markdown`). `*` stands for all, and `!` before one takes it out again: `["*", "!rust"]` is Rust only.
            languages: Vec<String> = Vec::new(), Editor, Kind::Texts;
            /// Files that are neither, as in a `.gitignore` at the root of the workspace: `["*.csv", "!small.csv"]`.
            globs: Vec<String> = Vec::new(), Editor, Kind::Texts;
        }

        /// How long a completion may take.
        budget: Budget {
            /// After so many milliseconds, a completion that was not asked for by hand ends with its line.
            soft_ms: u64 = 250, Editor, Kind::Integer(0..=600_000);
            /// After so many milliseconds, every completion ends with what there is.
            hard_ms: u64 = 5000, Editor, Kind::Integer(1..=600_000);
        }

        /// How long a completion may be.
        max_tokens: MaxTokens {
            /// Most tokens of a completion while typing.
            auto: usize = 64, Editor, Kind::Integer(1..=4096);
            /// Most tokens of one asked for by hand.
            invoked: usize = 128, Editor, Kind::Integer(1..=4096);
        }

        /// What a prompt shows.
        context: Context {
            /// Most tokens of other open files in a prompt; 0 for none.
            tokens_max: Option<usize> = None, Editor, Kind::Integer(0..=1_048_576),
                unset: "512; none for the starter model, which was not trained with them";
            /// Most tokens that a prompt and its completion may have together.
            length: Option<u32> = None, Process, Kind::Integer(1..=1_048_576), unset: "4096, or the model's own";
        }

        /// How fill-in-the-middle prompts are made.
        fim: Fim {
            /// What a prompt shows first: the text before the cursor (`psm`), the text after it (`spm`), or all before
            /// the cursor's line, then the text after it, then the line (`psm-anchored`).
            order: Option<Order> = None, Editor, Kind::Choice(&["psm", "spm", "psm-anchored"]),
                unset: "what suits the model";
            /// Whether the model is given the prompt as it is (`raw`), in a chat (`chat`), or asked in a chat for what
            /// replaces a mark in the cursor's line (`search-replace`, for models that chat and cannot fill in).
            format: Option<Format> = None, Editor, Kind::Choice(&["raw", "chat", "search-replace"]),
                unset: "what suits the model";
        }

        /// Documentation on hover.
        hover: Hover {
            /// Whether the model documents what the pointer is on, where nobody has.
            enabled: bool = true, Editor, Kind::Bool;
            /// After so many milliseconds a hover shows what there is; the rest is there at the next one.
            budget_ms: u64 = 400, Editor, Kind::Integer(1..=600_000);
        }

        /// Explaining, fixing and documenting.
        assist: Assist {
            /// Most tokens of an explanation, a fix or a documentation.
            max_tokens: usize = 1024, Editor, Kind::Integer(1..=65_536);
        }

        /// What is kept of prompts evaluated earlier.
        cache: Cache {
            /// Most bytes of memory for what earlier prompts leave behind.
            bytes_max: Option<u64> = None, Process, Kind::Integer(1..=1 << 50),
                unset: "a tenth of the memory, at most 4 GiB";
        }

        /// A server elsewhere that completes in the place of the model on this machine.
        remote: Remote {
            /// The address of an OpenAI-compatible server (vLLM, SGLang, llama.cpp), as `https://host:8000`: what you
            /// edit is sent there, and completed there.
            url: Option<String> = None, Process, Kind::Text, unset: "the model on this machine";
            /// Which of its models.
            model: Option<String> = None, Process, Kind::Text, unset: "the server's choice";
            /// The environment variable that holds the token of the server.
            token_env: String = "FIMD_REMOTE_TOKEN".to_owned(), Process, Kind::Text;
            /// A file that holds the token, which nobody else may read (mode 0600).
            token_file: Option<PathBuf> = None, Process, Kind::Path, unset: "none";
            /// A program that prints the token, and its arguments:
            /// `["secret-tool", "lookup", "service", "fimd"]`.
            token_command: Vec<String> = Vec::new(), Process, Kind::Texts;
            /// Longest wait for a connection, and for the server to say more, in milliseconds.
            timeout_ms: u64 = 10_000, Process, Kind::Integer(1..=600_000);
            /// New attempts after a connection that failed, or a server that was busy; the waits between them double.
            retries: u32 = 2, Process, Kind::Integer(0..=10);
            /// What shows the server the text around the cursor: our prompt (`ours`), as for Qwen models, or `prompt`
            /// and `suffix` in the template of the server (`server`), which shows no other files.
            fim: Template = Template::Ours, Process, Kind::Choice(&["ours", "server"]);
        }

        /// The process that all editors share.
        daemon: Daemon {
            /// After so many minutes without an editor the daemon ends; 0 for never.
            idle_exit_minutes: f64 = 30.0, Process, Kind::Number(0.0..=1e6);
        }

        /// What is logged.
        log: Log {
            /// What the daemon writes to its log; document text never is.
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

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_START}{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }

    /// What it means.
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
