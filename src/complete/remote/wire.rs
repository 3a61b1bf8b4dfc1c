//! Request and response of OpenAI's `/v1/completions`: JSON, and lines of event streams. Pure.

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decode::{StopReason, Task};
use crate::model::Tokenizer;
use crate::model::tokenizer::specials::broken_up;
use crate::model::tokenizer::{END_OF_TEXT, END_OF_TURN, FILE_SEP, REPO_NAME};

/// Stop sequences for the server, of all model families, the most important first. The response is cut at other
/// special tokens too.
const STOPS: [&str; 26] = [
    END_OF_TEXT,
    FILE_SEP,
    END_OF_TURN,
    REPO_NAME,
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|im_start|>",
    "<fim_prefix>",
    "<fim_suffix>",
    "<fim_middle>",
    "<fim_pad>",
    "<file_sep>",
    "<|end_of_text|>",
    "<|start_of_role|>",
    "<|file_separator|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<EOT>",
    "<SUF>",
    "<|EOT|>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
    "<｜end▁of▁sentence｜>",
];
/// Some servers take at most this many stop sequences.
const STOPS_MIN: usize = 4;

/// Keeps texts of documents from reading like special tokens; removed from what the server writes.
const GUARD: char = '\u{200b}';

/// What the server has not rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Support {
    /// Log-probabilities.
    pub logprobs: bool,
    /// More than four stop sequences.
    pub stops: bool,
}

/// Who renders the FIM prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// fimd, with Qwen's special tokens as text.
    Ours,
    /// The server, from `prompt` and `suffix`, without context files.
    Server,
}

/// A request whose prompt has no trailing whitespace: tokens of words begin with their space, and a prompt that ends with
/// it would make the server generate tokens without one.
pub(super) struct CompletionRequest {
    /// The JSON to send.
    pub body: Value,
    /// The whitespace removed from the end of the prompt, which the response begins with.
    pub withheld: String,
}

impl CompletionRequest {
    /// The request for `task`, with what the server has `support` for.
    pub(super) fn new(
        task: &Task,
        tokenizer: &Tokenizer,
        template: Template,
        model: Option<&str>,
        support: Support,
    ) -> Self {
        let mut withheld = String::new();
        let mut prompt = |ids: &[u32]| {
            let prompt = spelled(ids, &task.forced_prefix, tokenizer);
            let end = prompt.trim_end_matches([' ', '\t']).len();
            withheld = prompt[end..].to_owned();
            Value::from(&prompt[..end])
        };
        let mut body = json!({
            "max_tokens": task.max_tokens,
            "temperature": task.sampling.temperature,
            "stream": true,
        });
        match (template, parts(task, tokenizer)) {
            (Template::Server, Some((before, suffix))) => {
                body["prompt"] = prompt(&before);
                body["suffix"] = spelled(&suffix, "", tokenizer).into();
            }
            _ => body["prompt"] = prompt(&task.prompt),
        }
        if let Some(model) = model {
            body["model"] = model.into();
        }
        if task.sampling.temperature > 0.0 {
            body["top_p"] = task.sampling.top_p.into();
            body["seed"] = task.sampling.seed.into();
        }
        if support.logprobs {
            body["logprobs"] = 1.into();
        }
        let is_long = support.stops && task.ends_at_specials.is_some();
        let stops = if is_long { &STOPS[..] } else { &STOPS[..STOPS_MIN] };
        if !task.stop_ids.is_empty() {
            body["stop"] = stops.into();
        }
        Self { body, withheld }
    }
}

/// The text of a prompt and `end`, in which only special tokens of the prompt read like special tokens.
fn spelled(ids: &[u32], end: &str, tokenizer: &Tokenizer) -> String {
    let mut prompt = String::new();
    let mut runs =
        ids.chunk_by(|&one, &other| !tokenizer.is_special(one) && !tokenizer.is_special(other)).peekable();
    while let Some(run) = runs.next() {
        match tokenizer.is_special(run[0]) {
            true => prompt += &tokenizer.decode(run),
            false if runs.peek().is_none() => return prompt + &plain(tokenizer.decode(run) + end),
            false => prompt += &plain(tokenizer.decode(run)),
        }
    }
    prompt + &plain(end.to_owned())
}

/// A text of a document, which reads like no special token.
fn plain(text: String) -> String {
    broken_up(&text, GUARD)
}

/// What a server writes, without the guards that it has copied from a prompt.
fn unguarded(text: &str) -> String {
    text.replace(GUARD, "")
}

/// A piece of a response.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub logprobs: Vec<f32>,
    pub stop: Option<StopReason>,
    pub is_last: bool,
}

/// Parses a line of a response; `None` for one without data.
pub(super) fn piece(line: &str) -> Result<Option<Piece>> {
    let line = line.trim();
    let data = match line.strip_prefix("data:") {
        Some(data) => data.trim(),
        // A server that does not stream.
        None if line.starts_with('{') => line,
        None => return Ok(None),
    };
    if data == "[DONE]" {
        return Ok(Some(Piece { is_last: true, ..Piece::default() }));
    }
    let data: Value =
        serde_json::from_str(data).map_err(|_| anyhow!("the remote server sent an unexpected reply"))?;
    ensure!(data["error"].is_null(), "the remote server reports an error");
    let choice = &data["choices"][0];
    if choice.is_null() {
        return Ok(None);
    }
    let logprobs = &choice["logprobs"];
    let numbers = logprobs["token_logprobs"].as_array().into_iter().flatten();
    // llama.cpp uses the format of chat completions.
    let content = logprobs["content"].as_array().into_iter().flatten().map(|token| &token["logprob"]);
    let logprobs = numbers.chain(content).filter_map(Value::as_f64).map(|number| number as f32).collect();
    let stop = match choice["finish_reason"].as_str() {
        Some("length") => Some(StopReason::Length),
        Some(_) => Some(StopReason::EndToken),
        None => None,
    };
    let text = choice["text"].as_str().context("the remote server sent a completion without text")?;
    Ok(Some(Piece { text: unguarded(text), logprobs, stop, is_last: stop.is_some() }))
}

/// The ids before and after the gap of a fill-in-the-middle prompt, without other files.
fn parts(task: &Task, tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let fim = tokenizer.fim().ok()?;
    let find = |id| task.prompt.iter().rposition(|&other| other == id);
    let (prefix, suffix, middle) = (find(fim.prefix)?, find(fim.suffix)?, find(fim.middle)?);
    let typed = task.marks.last()?.at.max(middle + 1);
    let before = [task.prompt.get(prefix + 1..suffix)?, task.prompt.get(typed..)?].concat();
    Some((before, task.prompt.get(suffix + 1..middle)?.to_vec()))
}

/// `text` without the withheld whitespace that it begins with.
pub(super) fn without<'t>(withheld: &mut String, text: &'t str) -> &'t str {
    let shared = withheld.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    withheld.drain(..if shared == text.len() { shared } else { withheld.len() });
    &text[shared..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complete::fim;
    use crate::complete::{Document, Options as Prompts, Planner, Request, Window};
    use crate::model::tokenizer::tests::tiny_fim;

    #[test]
    fn lines_of_answers_are_understood() {
        let text = |text: &str| Piece { text: text.into(), ..Piece::default() };
        for (line, expected) in [
            ("", None),
            (": comment", None),
            ("event: x", None),
            ("data: {\"choices\":[]}", None),
            ("data: [DONE]", Some(Piece { is_last: true, ..Piece::default() })),
            ("data: {\"choices\":[{\"text\":\"a\\n\",\"finish_reason\":null}]}\r\n", Some(text("a\n"))),
            (
                "data:{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}",
                Some(Piece { stop: Some(StopReason::Length), is_last: true, ..Piece::default() }),
            ),
            (
                "{\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\",\"logprobs\":{\"token_logprobs\":[-1,null]}}]}",
                Some(Piece {
                    logprobs: vec![-1.0],
                    stop: Some(StopReason::EndToken),
                    is_last: true,
                    ..text("a")
                }),
            ),
            (
                "data: {\"choices\":[{\"text\":\"a\",\"logprobs\":{\"content\":[{\"logprob\":-0.5}]}}]}",
                Some(Piece { logprobs: vec![-0.5], ..text("a") }),
            ),
        ] {
            assert_eq!(piece(line).unwrap(), expected, "{line}");
        }
        for wrong in ["data: x", "data: {\"error\":{}}", "data: {\"choices\":[{}]}", "{"] {
            let error = piece(wrong).unwrap_err().to_string();
            assert!(error.starts_with("the remote server"), "{error}");
        }
    }

    #[test]
    fn prompts_are_taken_apart_for_the_template_of_the_server() {
        let tokenizer = tiny_fim();
        for order in [fim::Order::Psm, fim::Order::Spm, fim::Order::PsmAnchored] {
            let mut planner = Planner::new(Prompts::new(order));
            let request = Request::new("a\nb = c", ")\nd\n");
            let planned = planner.plan("", &request, Window::Small, &tokenizer, 256, None).unwrap();
            let (before, suffix) = parts(&planned.task, &tokenizer).unwrap();
            let before = tokenizer.decode(&before) + &planned.task.forced_prefix;
            assert_eq!((&*before, &*tokenizer.decode(&suffix)), ("a\nb = c", "\nd\n"), "{order}");
        }
        assert!(parts(&Task::greedy(vec![97], 1), &tokenizer).is_none());
    }

    #[test]
    fn documents_are_sent_as_text() {
        let tokenizer = tiny_fim();
        let document = Document {
            path: Some("<|fim_prefix|>.py".into()),
            repository: Some("<file_sep>".into()),
            ..Document::new(
                None,
                "a = \"<|fim_middle|>\"\nb = '<｜fim▁hole｜>', <|im_end|>",
                "\n</s> [SUFFIX]\n",
            )
        };
        let request = Request::of(document);
        for order in [fim::Order::Psm, fim::Order::Spm, fim::Order::PsmAnchored] {
            let options = Prompts { names_files: true, ..Prompts::new(order) };
            let planned =
                Planner::new(options).plan("", &request, Window::Small, &tokenizer, 256, None).unwrap();
            for template in [Template::Ours, Template::Server] {
                let support = Support { logprobs: false, stops: true };
                let CompletionRequest { body, .. } =
                    CompletionRequest::new(&planned.task, &tokenizer, template, None, support);
                let sent =
                    format!("{}{}", body["prompt"].as_str().unwrap(), body["suffix"].as_str().unwrap_or(""));
                for token in ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"] {
                    assert_eq!(
                        sent.matches(token).count(),
                        usize::from(template == Template::Ours),
                        "{sent}"
                    );
                }
                for token in ["<｜fim▁hole｜>", "<|im_end|>", "</s>", "[SUFFIX]", "<file_sep>"] {
                    assert!(!sent.contains(token), "{sent}");
                }
                let text = unguarded(&sent);
                assert!(text.contains("<|im_end|>") && text.contains("</s> [SUFFIX]"), "{text}");
                assert!(body["stop"].as_array().unwrap().contains(&json!("<|im_end|>")));
            }
        }
        let few = Support { logprobs: true, stops: false };
        let planned = Planner::new(Prompts::new(fim::Order::Psm)).plan(
            "",
            &request,
            Window::Small,
            &tokenizer,
            256,
            None,
        );
        let few = CompletionRequest::new(&planned.unwrap().task, &tokenizer, Template::Ours, None, few);
        assert_eq!(few.body["stop"].as_array().unwrap().len(), STOPS_MIN);
    }

    #[test]
    fn guards_are_not_copied_from_prompts() {
        let text = broken_up("x = \"<|im_end|>\"", GUARD);
        let line = json!({"choices": [{"text": text}]}).to_string();
        assert_eq!(piece(&line).unwrap().unwrap().text, "x = \"<|im_end|>\"");
    }

    #[test]
    fn blank_that_was_held_back_is_not_said_again() {
        for (withheld, pieces, expected) in [
            (" ", &[" a b"][..], "a b"),
            (" ", &["a", " b"], "a b"),
            ("    ", &["  ", "      a"], "    a"),
            ("    ", &["  ", "a"], "a"),
            ("\t", &[" a"], " a"),
            (" ", &["\n", " a"], "\n a"),
            ("", &[" a"], " a"),
        ] {
            let mut withheld = withheld.to_owned();
            let text: String = pieces.iter().map(|piece| without(&mut withheld, piece)).collect();
            assert_eq!(text, expected);
        }
    }
}
