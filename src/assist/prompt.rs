//! Chat prompts. Pure.

use std::ops::Range;

use super::Subject;
use super::answer::fence_for;
use crate::complete::context;
use crate::model::Tokenizer;
use crate::model::tokenizer::chat::{Message, Role};

/// Tokens of the document to include before and after the selected lines.
const AROUND_TOKENS: (usize, usize) = (1536, 512);
/// Most problems to include.
const PROBLEMS_MAX: usize = 16;
/// Most characters of a problem's message.
const PROBLEM_CHARS_MAX: usize = 400;

/// The messages of a chat, and the start of the answer, which the model continues.
pub struct ChatPrompt {
    pub messages: Vec<Message>,
    pub answer_start: String,
}

/// Asks for an explanation of the selected lines.
pub fn explain(subject: &Subject, tokenizer: &Tokenizer) -> ChatPrompt {
    let task = "Explain this code to a programmer who sees it for the first time: what it is for, how it works, and \
                what is surprising about it. Be brief, write Markdown, and do not repeat the code.";
    chat(subject, tokenizer, "You explain code, briefly and precisely.", task, String::new())
}

/// Asks for the selected lines without their problems.
pub fn fix(subject: &Subject, tokenizer: &Tokenizer) -> ChatPrompt {
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
    let answer_start = opening_fence(subject);
    chat(subject, tokenizer, "You correct code, with as few changes as possible.", &task, answer_start)
}

/// Asks for a documentation comment, which begins with `opening`.
pub fn document(subject: &Subject, tokenizer: &Tokenizer, opening: &str) -> ChatPrompt {
    let task = "Write the documentation comment of this definition, in the style of its language and of the file: \
                what it does and what its callers have to know, not how. Be brief. Answer with the comment in one \
                code block, and with nothing else.";
    let answer_start = format!("{}{}", opening_fence(subject), opening.trim_start());
    chat(subject, tokenizer, "You document code, briefly and precisely.", task, answer_start)
}

/// The opening fence of the answer, with its info string.
fn opening_fence(subject: &Subject) -> String {
    format!("{}{}\n", subject.fence(), subject.language_name())
}

fn chat(
    subject: &Subject,
    tokenizer: &Tokenizer,
    role: &str,
    task: &str,
    answer_start: String,
) -> ChatPrompt {
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
    ChatPrompt {
        messages: vec![Message::new(Role::System, role), Message::new(Role::User, text)],
        answer_start,
    }
}
