//! What a chat model is told. Pure.

use std::ops::Range;

use super::Subject;
use super::answer::fence_for;
use crate::complete::context;
use crate::model::Tokenizer;
use crate::model::tokenizer::chat::{Message, Role};

/// Tokens of the document that are shown before and after the lines in question.
const AROUND_TOKENS: (usize, usize) = (1536, 512);
/// Most problems that are named.
const PROBLEMS_MAX: usize = 16;
/// Most characters of what a problem says.
const PROBLEM_CHARS_MAX: usize = 400;

/// What was said, and how the answer begins.
pub struct Said {
    /// The messages.
    pub messages: Vec<Message>,
    /// The beginning of the answer.
    pub begun: String,
}

/// Asks to explain the lines in question.
pub fn explain(subject: &Subject, tokenizer: &Tokenizer) -> Said {
    let task = "Explain this code to a programmer who sees it for the first time: what it is for, how it works, and \
                what is surprising about it. Be brief, write Markdown, and do not repeat the code.";
    say(subject, tokenizer, "You explain code, briefly and precisely.", task, String::new())
}

/// Asks to write the lines in question anew, without the problems.
pub fn fix(subject: &Subject, tokenizer: &Tokenizer) -> Said {
    let mut task = String::new();
    for problem in subject.problems.iter().take(PROBLEMS_MAX) {
        let line = subject.text.lines().nth(problem.line).unwrap_or_default().trim();
        let message: String = problem.message.chars().take(PROBLEM_CHARS_MAX).collect();
        task += &format!("- at `{line}`: {message}\n");
    }
    let task = match task.as_str() {
        "" => "Correct the mistakes in these lines.".to_owned(),
        problems => {
            format!("These problems were found:\n{problems}\nCorrect these lines so that they are solved.")
        }
    };
    let task = format!(
        "{task} Keep everything else as it is. Answer with all of these lines, in one code block, and with nothing else."
    );
    let begun = opened(subject);
    say(subject, tokenizer, "You correct code, with as few changes as possible.", &task, begun)
}

/// Asks for the comment that begins with `opening`.
pub fn document(subject: &Subject, tokenizer: &Tokenizer, opening: &str) -> Said {
    let task = "Write the documentation comment of this definition, in the style of its language and of the file: \
                what it does and what its callers have to know, not how. Be brief. Answer with the comment in one \
                code block, and with nothing else.";
    let begun = format!("{}{}", opened(subject), opening.trim_start());
    say(subject, tokenizer, "You document code, briefly and precisely.", task, begun)
}

/// The fence of an answer about `subject`, and the name of its language.
fn opened(subject: &Subject) -> String {
    format!("{}{}\n", subject.fence(), subject.language_name())
}

fn say(subject: &Subject, tokenizer: &Tokenizer, who: &str, task: &str, begun: String) -> Said {
    let Range { start, end } = subject.lines;
    let count = |text: &str| tokenizer.encode(text).len();
    let before = context::prefix_window(&subject.text[..start], AROUND_TOKENS.0, count);
    let after = context::suffix_window(&subject.text[end..], AROUND_TOKENS.1, count);
    let block = |code: &str| {
        let code = code.replace("\r\n", "\n");
        let fence = fence_for(&code);
        format!("{fence}{}\n{}\n{fence}\n", subject.language_name(), code.trim_end())
    };
    let lines = &subject.text[start..end];
    let around = [before, lines, after].concat();
    let mut text = String::new();
    if before.trim().len() + after.trim().len() > 0 {
        text += &format!(
            "From the file `{}`:\n\n{}\nThese lines of it are meant:\n\n",
            subject.path,
            block(&around)
        );
    } else {
        text += &format!("The file `{}`:\n\n", subject.path);
    }
    text += &format!("{}\n{task}", block(lines));
    Said { messages: vec![Message::new(Role::System, who), Message::new(Role::User, text)], begun }
}
