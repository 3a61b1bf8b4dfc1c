//! Changes of a document's text, as an editor reports them. Pure.

/// One change of a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it begins, in bytes.
    pub at: usize,
    /// How many bytes it takes away.
    pub removed: usize,
    /// What it puts there.
    pub inserted: String,
}

impl Change {
    /// What was typed where the editor has closed a bracket in the same change.
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
