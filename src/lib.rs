//! # fimd: a private code-completion daemon
//!
//! This page is the architecture document. fimd keeps a Qwen model (from Qwen2.5-Coder to Qwen3-Coder-Next, or the
//! small starter model that is part of the program) in memory, turns what an editor shows into fill-in-the-middle
//! prompts, and responds with ghost text.
//!
//! ## Bird's eye view
//!
//! ```text
//!  editor --LSP--> bridge ==socket==> daemon
//!                                       |   resident: one model for all editors
//!                                       v
//!                   lsp --Request--> complete --Task--> serve --> decode --> session --> model --> compute
//!                   ^                  |                 (one thread)                      |         |
//!                   |            window, FIM prompt,                                    layout    kernels: CPU, CUDA
//!                   +--ghost text-- stop rules, trim                                      |
//!                                                                            format: mapped tensors
//! ```
//!
//! A module uses only modules that stand earlier in this list:
//!
//! | layer | module | what it knows |
//! |---|---|---|
//! | 0 | [`base`] | number formats, thread pool, cancellation, random numbers, logging, files that others wrote |
//! | 1 | [`format`](mod@format) | bytes on disk as typed tensors; no model |
//! | 1 | [`text`] | source text: languages; code, comments and strings; identifiers, delimiters, indentation |
//! | 1 | [`privacy`] | which documents may be completed, read and sent, and which parts of a text are secrets; no settings |
//! | 2 | [`compute`] | arithmetic on buffers behind the trait [`compute::Backend`]; shapes, not layers |
//! | 3 | [`model`] | configuration, a table of tensors for each architecture, state, the forward pass, the tokenizer |
//! | 4 | [`hub`] | where a model comes from: a path, the built-in starter, a catalogue and downloads; quantising it |
//! | 4 | [`session`] | a model with a prefix cache: evaluated tokens are reused |
//! | 5 | [`decode`] | decoding: the loop, sampling, speculative decoding, stop rules |
//! | 6 | [`serve`] | the thread that owns a model; scheduling of requests |
//! | 7 | [`complete`] | code completion with no LSP and no tensors: window, prompt, trimming; the remote backend |
//! | 8 | [`assist`] | explaining, fixing, documenting, with no LSP and no tensors: definitions, prompts, edits |
//! | 9 | [`config`] | every setting, and the options of the layers from them |
//! | 10 | [`resident`] | the model in memory, and the state that all editors share |
//! | 11 | [`lsp`] | the language server, and the bridge that editors start |
//! | 12 | [`daemon`] | one process per user: socket, life cycle, protocol |
//! | 12 | [`bench`](mod@bench) | benchmarks: speed, also of synthetic models; replays of typing; a perfect model |
//! | 13 | [`cli`] | arguments and one file for each subcommand |
//!
//! ## Invariants
//!
//! They are absences, so they are easy to lose; `tests/it/layering.rs` checks those that show in the text.
//!
//! - No module names one of its own layer or of a later one. The files of a module import each other in one direction.
//! - Only `lsp` names LSP types. Only `compute/cpu` may name `std::arch`. Only `compute/cuda` may name cudarc. Only
//!   `format/{mmap,slots}.rs` name memmap2.
//! - `model` never learns where a request came from; `complete` and `assist` never see a tensor: of `model` they name
//!   the tokenizer, of `session` what it says of a generation, and nothing of `compute` and `format`;
//!   `compute` never sees a layer name.
//! - Nothing below `config` reads settings or the environment (but logging, which is there before settings are), and
//!   `config` reads none from a workspace. Open documents are what the editor sent; no other file of a workspace is
//!   read but those of git that say what it ignores, by `privacy/git.rs`, on threads that may block.
//! - No path to a prompt but through `privacy`: its guard decides about the document, and its content rules about the
//!   text.
//! - No async below `lsp` (`resident` has a channel that async code can wait for). No network but in
//!   `complete/remote/transport.rs`, which asks the one server that `remote.url` names, `hub/download`, which fetches a model
//!   when it is told to, and `bench/keystrokes/infill.rs`, which asks the server on this machine that a benchmark is told to
//!   compare with.
//! - `unsafe` only in `base/{crash,pool}.rs`, `format/{mmap,slots}.rs` and `compute/{cpu,cuda}`, in files that expect it and say what for; each
//!   block under a `// SAFETY:` line.
//! - Pure files (`session/{keep,prefix}.rs`, `decode/drafts.rs`, `decode/stop`, `text`, `serve/queue.rs`,
//!   `complete/{anchor,context,edit,encode,fim,gate,nesting,options,plan,record,request,retained,rules,stats,trim}.rs`,
//!   `complete/remote/wire.rs`, `complete/service`, `compute/{cuda/split,cuda/tiles,experts/policy}.rs`,
//!   `assist/{answer,cache,definition,documentation,prompt,symbol}.rs`, `bench/{experts,fit,hardware,plan,rates,routing,schedule,simulate,warmups}.rs`,
//!   `bench/fidelity/{places,play,report,source,variants,verdict}.rs`,
//!   `bench/keystrokes/{plot,report,session,typist}.rs`, `hub/{catalog,reference,select}.rs`, `lsp/bridge/replay.rs`,
//!   `cli/doctor/findings.rs`, `cli/status/dashboard.rs`,
//!   `model/architecture`, `model/experts/tiers.rs`, `model/export`,
//!   `privacy/{content,location,names,pattern}.rs`) do no I/O.
//! - A CPU kernel is written once, over the trait `Simd` of `compute/cpu/simd`; which instructions it is
//!   compiled to is decided at start, never at compile time.
//! - A CUDA kernel is text in `compute/cuda/kernels` and its PTX beside it, made by `scripts/ptx`; a driver is looked for
//!   when a model is loaded, and nothing needs one.
//! - The model is written once. A backend never sees the model, the model never sees a device.
//! - stdout carries results or the LSP wire; everything else goes to stderr. Document text is never logged.
//!
//! ## Threads
//!
//! State has one owner; threads exchange owned values, by channels and callbacks.
//!
//! | thread | started by | owns | may block |
//! |---|---|---|---|
//! | `fimd-engine`, one per engine; with a remote backend as many as `remote.requests_max` | `serve` | the session with its model, its backend and its caches; with a remote backend, a request | for as long as a generation takes; waits for the queue |
//! | `fimd-pool-N` | `base/pool.rs` | nothing: a loop of the engine's thread lends them its buffers, and returns when all are done | spins for a moment, then sleeps until the next loop |
//! | `fimd-experts`, one per model whose experts do not all fit in memory, with `fimd-pool-N` for reads | `model/experts/store.rs` | nothing: it fills slots that are free, reads the next layer's experts ahead, and useful ones where a smaller copy stands in for them | on the disk; waits for a pass |
//! | `fimd-remote`, one per request | `complete/remote` | one request and what is read of its response | in the network; the engine's thread ends it by shutting the connection down |
//! | `fimd-token`, while a program prints the token | `complete/remote` | what it has printed | until that program ends, which has a time limit |
//! | `fimd-hash`, one per file that is downloaded | `hub` | the checksum so far | until there is more to read |
//! | `fimd-loader`, one per load | `resident` | the model until it is loaded and swapped in | on the disk; a superseded one stops early |
//! | two workers of tokio | `daemon`, or `cli` for `--no-daemon` | connections, sessions with editors, their documents | never for long: what does goes to tokio's blocking threads |
//! | the only one of a bridge | `cli` | the state of an editor's session, to replay it to a new daemon | never |
//!
//! A completer (`complete`) has no thread: the thread that brings an event drains its inbox, a worker of tokio or the
//! engine's thread. So listeners and replies must not block. Requests are planned on the engine's thread when their
//! turn comes. Cancelling sets a flag ([`base::Cancel`]), which is looked at between steps. `hub` quantises with threads
//! of its own, which end with the call.
//!
//! ## Untrusted input
//!
//! Checkpoints, tokenizers, chat templates, documents, LSP messages and whatever comes over the socket are untrusted:
//! they give errors that name the file, the tensor or the setting. A panic means a bug in fimd; it ends one request or
//! one connection, never the engine thread or the daemon.

#![deny(unreachable_pub, unsafe_code, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod assist;
pub mod base;
pub mod bench;
pub mod cli;
pub mod complete;
pub mod compute;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod format;
pub mod hub;
pub mod lsp;
pub mod model;
pub mod privacy;
pub mod resident;
pub mod serve;
pub mod session;
pub mod text;
