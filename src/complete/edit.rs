//! Changes of a document's text, as an editor reports them. Pure.

/// One change of a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it begins, in bytes.
    pub at: usize,
    /// Bytes removed.
    pub removed: usize,
    pub inserted: String,
}

impl Change {
    /// The typed text, without a closing bracket or quote that the editor has added.
    pub fn typed(&self) -> &str {
        let pairs = ["()", "[]", "{}", "<>", "\"\"", "''", "``"];
        let closed = pairs.iter().any(|pair| self.inserted.ends_with(pair));
        &self.inserted[..self.inserted.len() - usize::from(closed)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closer_of_the_editor_is_not_typed() {
        for (inserted, expected) in
            [("", ""), ("a", "a"), ("f(", "f("), ("f()", "f("), ("\"\"", "\""), (")", ")")]
        {
            assert_eq!(Change { at: 0, removed: 0, inserted: inserted.into() }.typed(), expected);
        }
    }
}
