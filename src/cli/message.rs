//! Messages to the user on stderr, in the colours of clap's own.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

use crate::base::escape;

pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const LABEL: Style = Style::new().bold();

/// Says why a command failed.
pub(super) fn error(error: &anyhow::Error) {
    print(ERROR, "error", &format_args!("{error:#}"));
}

/// Reports a problem that does not end the command.
pub(super) fn warning(text: impl Display) {
    print(WARNING, "warning", &text);
}

/// Says what else there is to know.
pub(super) fn hint(text: impl Display) {
    print(GOOD, "hint", &text);
}

fn print(style: Style, kind: &str, text: &dyn Display) {
    anstream::eprintln!("{style}{kind}:{style:#} {}", escape::text(&text.to_string()));
}
