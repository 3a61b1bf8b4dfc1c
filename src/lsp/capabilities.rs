//! The client's capabilities that matter here.

use tower_lsp::gen_lsp_types::{
    ClientCapabilities, CodeActionClientCapabilities, CodeActionTag, MarkupKind,
    WorkspaceEditClientCapabilities,
};

pub(super) struct Capabilities {
    /// Shows ghost text.
    pub inline_completion: bool,
    /// Renders Markdown in a hover.
    pub markdown_hover: bool,
    /// Shows progress that the server creates.
    pub work_done_progress: bool,
    /// Supports `window/showDocument`.
    pub show_document: bool,
    /// Answers `workspace/configuration`.
    pub configuration: bool,
    /// Supports dynamic registration of `workspace/didChangeConfiguration`.
    pub register_configuration: bool,
    /// Supports dynamic registration of `workspace/didChangeWatchedFiles`.
    pub register_watched_files: bool,
    /// Supports `fimd/status`.
    pub status: bool,
    /// Supports `fimd/explanation`.
    pub explanation: bool,
    pub code_action: CodeActionSupport,
    pub edit: EditSupport,
}

/// Capabilities for code actions.
pub(super) struct CodeActionSupport {
    /// Supports code actions; without this, commands only.
    pub literals: bool,
    /// Resolves the edit of an action when the user picks it.
    pub resolve: bool,
    /// Shows why an action is disabled.
    pub disabled: bool,
    /// Supports the tag `LLMGenerated`.
    pub tags: bool,
}

/// Capabilities for workspace edits.
pub(super) struct EditSupport {
    /// Answers `workspace/applyEdit`.
    pub apply: bool,
    /// Supports versioned document edits.
    pub versioned: bool,
    /// Supports change annotations, which ask the user to confirm.
    pub annotations: bool,
}

impl Capabilities {
    pub(super) fn of(client: &ClientCapabilities) -> Self {
        let text_document = client.text_document.as_ref();
        let workspace = client.workspace.as_ref();
        let window = client.window.as_ref();
        let hover = text_document.and_then(|can| can.hover.as_ref());
        let formats = hover.and_then(|can| can.content_format.as_ref());
        let change = workspace.and_then(|can| can.did_change_configuration.as_ref());
        let watched = workspace.and_then(|can| can.did_change_watched_files.as_ref());
        let supports = |notification: &str| {
            client.experimental.as_ref().is_some_and(|can| can["fimd"][notification] == true)
        };
        Self {
            inline_completion: text_document.is_some_and(|can| can.inline_completion.is_some()),
            markdown_hover: formats.is_some_and(|formats| formats.contains(&MarkupKind::Markdown)),
            work_done_progress: window.is_some_and(|can| can.work_done_progress == Some(true)),
            show_document: window.and_then(|can| can.show_document.as_ref()).is_some_and(|can| can.support),
            configuration: workspace.is_some_and(|can| can.configuration == Some(true)),
            register_configuration: change.is_some_and(|can| can.dynamic_registration == Some(true)),
            register_watched_files: watched.is_some_and(|can| can.dynamic_registration == Some(true)),
            status: supports("status"),
            explanation: supports("explanation"),
            code_action: CodeActionSupport::of(text_document.and_then(|can| can.code_action.as_ref())),
            edit: EditSupport {
                apply: workspace.is_some_and(|can| can.apply_edit == Some(true)),
                ..EditSupport::of(workspace.and_then(|can| can.workspace_edit.as_ref()))
            },
        }
    }
}

impl CodeActionSupport {
    fn of(client: Option<&CodeActionClientCapabilities>) -> Self {
        let resolves = |can: &CodeActionClientCapabilities| {
            let properties = can.resolve_support.as_ref().map(|support| &support.properties);
            can.data_support == Some(true)
                && properties.is_some_and(|properties| properties.iter().any(|property| property == "edit"))
        };
        let tags = client.and_then(|can| can.tag_support.as_ref());
        Self {
            literals: client.is_some_and(|can| can.code_action_literal_support.is_some()),
            resolve: client.is_some_and(resolves),
            disabled: client.is_some_and(|can| can.disabled_support == Some(true)),
            tags: tags.is_some_and(|can| can.value_set.contains(&CodeActionTag::LLMGenerated)),
        }
    }
}

impl EditSupport {
    fn of(client: Option<&WorkspaceEditClientCapabilities>) -> Self {
        Self {
            apply: false,
            versioned: client.is_some_and(|can| can.document_changes == Some(true)),
            annotations: client.is_some_and(|can| can.change_annotation_support.is_some()),
        }
    }
}
