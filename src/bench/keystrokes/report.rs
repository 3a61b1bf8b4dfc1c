//! The report of replayed sessions: one JSON object, or tables in Markdown. Pure.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::replay::{Cause, Figures, Keystroke, Outcome, Replayed};
use crate::bench::machine::Machine;
use crate::complete::fim::Order;
use crate::complete::record::Source;

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of fimd.
    pub version: &'static str,
    /// Where it ran.
    pub machine: Machine,
    pub typist: &'static str,
    /// Factor of the pauses; 0 where each key waited for the response to the one before.
    pub pace: f64,
    /// Names of the sessions.
    pub sessions: Vec<String>,
    /// One for each server and prompt order.
    pub runs: Vec<Run>,
}

/// All sessions with one server and prompt order.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Name of the server.
    pub server: String,
    /// The model, where it is known.
    pub model: Option<String>,
    /// Compute threads, where that is known.
    pub threads: Option<usize>,
    /// The prompt order.
    pub order: &'static str,
    pub summary: Summary,
    /// Every request.
    pub keystrokes: Vec<Keystroke>,
}

/// Summary of all sessions. Figures that the server does not report are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Requests: one for every change of a document.
    pub requests: usize,
    /// Requests whose response came while they were the newest.
    pub answered: usize,
    /// Requests superseded by a newer one.
    pub superseded: usize,
    /// Requests without a response.
    pub unanswered: usize,
    /// Responses with a suggestion.
    pub suggested: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: Option<Quantiles>,
    /// Prompt tokens evaluated for a response for which the model ran.
    pub evaluated: Option<Quantiles>,
    /// Prompt tokens replayed for such a response.
    pub replayed: Option<Quantiles>,
    /// From the request to the first token of such a response.
    pub first_token_ms: Option<Quantiles>,
    /// From the request to the response.
    pub answer_ms: Option<Quantiles>,
    /// From the request until a suggestion was shown.
    pub line_ms: Option<Quantiles>,
    /// Sources of the responses.
    pub sources: Option<Sources>,
    /// Cost of superseded requests.
    pub wasted: Wasted,
    /// The same by cause.
    pub causes: Vec<ByCause>,
}

/// Nearest-rank quantiles: values that occurred.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// Number of responses by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sources {
    /// The suggestion shown, typed through.
    pub typed_through: usize,
    /// An earlier response.
    pub cache: usize,
    /// A generation in flight for an earlier request.
    pub joined: usize,
    /// A new generation.
    pub model: usize,
    /// No completion.
    pub nothing: usize,
    /// Share of the first two among all but the last.
    pub share_without_model: f64,
}

/// Cost of superseded requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Wasted {
    /// Prompt tokens evaluated.
    pub evaluated: usize,
    /// Tokens generated.
    pub generated: usize,
    /// The former among all prompt tokens evaluated.
    pub share_of_evaluated: f64,
}

/// Requests with one cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ByCause {
    pub cause: Cause,
    /// How many.
    pub requests: usize,
    /// Prompt tokens evaluated.
    pub evaluated: Option<Quantiles>,
    /// From the request to the response.
    pub answer_ms: Option<Quantiles>,
}

impl Run {
    /// Summarises the sessions.
    pub fn new(server: String, order: Order, sessions: Vec<Replayed>) -> Self {
        let wasted: Vec<Figures> = sessions.iter().flat_map(|session| &session.wasted).copied().collect();
        let keystrokes: Vec<Keystroke> =
            sessions.into_iter().flat_map(|session| session.keystrokes).collect();
        let summary = Summary::of(&keystrokes, &wasted);
        Self { server, model: None, threads: None, order: order.name(), summary, keystrokes }
    }

    /// Title for tables and plots.
    pub fn title(&self) -> String {
        format!("{}, {}", self.server, self.order)
    }
}

impl Summary {
    fn of(keystrokes: &[Keystroke], wasted: &[Figures]) -> Self {
        let count = |outcome| keystrokes.iter().filter(|keystroke| keystroke.outcome == outcome).count();
        let figures = || keystrokes.iter().filter_map(|keystroke| keystroke.figures.as_ref());
        let tokens = |of: fn(&Figures) -> usize| {
            Quantiles::of(figures().filter(ran).map(|figures| of(figures) as f64).collect())
        };
        let times =
            |of: fn(&Keystroke) -> Option<f64>| Quantiles::of(keystrokes.iter().filter_map(of).collect());
        let by_cause = |cause| {
            let of = || keystrokes.iter().filter(move |keystroke| keystroke.cause == cause);
            let evaluated = of().filter_map(|keystroke| keystroke.figures.as_ref()).filter(ran);
            ByCause {
                cause,
                requests: of().count(),
                evaluated: Quantiles::of(evaluated.map(|figures| figures.evaluated as f64).collect()),
                answer_ms: Quantiles::of(of().filter_map(|keystroke| keystroke.answer_ms).collect()),
            }
        };
        let used: usize = figures().map(|figures| figures.evaluated).sum();
        Self {
            requests: keystrokes.len(),
            answered: count(Outcome::Answered),
            superseded: count(Outcome::Superseded),
            unanswered: count(Outcome::Unanswered),
            suggested: keystrokes.iter().filter(|keystroke| keystroke.shown_chars > 0).count(),
            prompt_tokens: tokens(|figures| figures.prompt_tokens),
            evaluated: tokens(|figures| figures.evaluated),
            replayed: tokens(|figures| figures.replayed),
            first_token_ms: Quantiles::of(
                figures().filter(ran).filter_map(|figures| figures.first_token_ms).collect(),
            ),
            answer_ms: times(|keystroke| keystroke.answer_ms),
            line_ms: times(|keystroke| keystroke.line_ms),
            sources: Sources::of(figures().map(|figures| figures.source)),
            wasted: Wasted::of(wasted, used),
            causes: Cause::ALL.into_iter().map(by_cause).filter(|by| by.requests > 0).collect(),
        }
    }
}

/// Whether the model ran for the answer.
fn ran(figures: &&Figures) -> bool {
    figures.prompt_tokens > 0
}

impl Quantiles {
    /// Of numbers; none of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |percent: usize| values[(values.len() * percent).div_ceil(100).saturating_sub(1)];
        Some(Self { p50: at(50), p90: at(90), p99: at(99), max: values[last] })
    }
}

impl Sources {
    fn of(sources: impl Iterator<Item = Source>) -> Option<Self> {
        let mut all = Self::default();
        for source in sources {
            *match source {
                Source::TypedThrough => &mut all.typed_through,
                Source::Cache => &mut all.cache,
                Source::Joined => &mut all.joined,
                Source::Model => &mut all.model,
                Source::Nothing => &mut all.nothing,
            } += 1;
        }
        let without = all.typed_through + all.cache;
        let served = without + all.joined + all.model;
        all.share_without_model = share(without, served);
        (served + all.nothing > 0).then_some(all)
    }
}

impl Wasted {
    fn of(wasted: &[Figures], used: usize) -> Self {
        let evaluated = wasted.iter().map(|figures| figures.evaluated).sum();
        Self {
            evaluated,
            generated: wasted.iter().map(|figures| figures.generated).sum(),
            share_of_evaluated: share(evaluated, evaluated + used),
        }
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Markdown.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let pace = match self.pace {
            0.0 => "each key waits for the answer to the one before".to_owned(),
            1.0 => "in real time".to_owned(),
            pace => format!("with pauses times {pace}"),
        };
        writeln!(f, "{}, typed by {}, {pace}", self.sessions.join(", "), self.typist)?;
        writeln!(f, "{}, {} cores", self.machine.cpu, self.machine.cores)?;
        for run in &self.runs {
            writeln!(f, "\n## {}\n", run.title())?;
            run.describe(f)?;
        }
        self.compare(f)
    }
}

impl Report {
    /// One line for each run, where there are several.
    fn compare(&self, f: &mut Formatter) -> fmt::Result {
        if self.runs.len() < 2 {
            return Ok(());
        }
        writeln!(f, "\n## All\n")?;
        writeln!(
            f,
            "| p50 / p90 | evaluated | first token, ms | answer, ms | line, ms | without the model | wasted |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|")?;
        for run in &self.runs {
            let Summary { evaluated, first_token_ms, answer_ms, line_ms, sources, wasted, .. } = &run.summary;
            let pair = |quantiles: &Option<Quantiles>| match quantiles {
                Some(quantiles) => format!("{} / {}", figure(quantiles.p50), figure(quantiles.p90)),
                None => "-".into(),
            };
            let without =
                sources.map_or("-".into(), |sources| format!("{:.0} %", 100.0 * sources.share_without_model));
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {without} | {} |",
                run.title(),
                pair(evaluated),
                pair(first_token_ms),
                pair(answer_ms),
                pair(line_ms),
                wasted.evaluated
            )?;
        }
        Ok(())
    }
}

impl Run {
    fn describe(&self, f: &mut Formatter) -> fmt::Result {
        let summary = &self.summary;
        if let Some(model) = &self.model {
            write!(f, "{model}")?;
            if let Some(threads) = self.threads {
                write!(f, ", {threads} threads")?;
            }
            writeln!(f, "\n")?;
        }
        writeln!(
            f,
            "{} requests: {} answered, {} superseded, {} unanswered; {} suggestions\n",
            summary.requests, summary.answered, summary.superseded, summary.unanswered, summary.suggested
        )?;
        writeln!(f, "| per keystroke | p50 | p90 | p99 | max |\n|---|---:|---:|---:|---:|")?;
        for (what, quantiles) in [
            ("prompt, tokens", summary.prompt_tokens),
            ("evaluated, tokens", summary.evaluated),
            ("replayed, tokens", summary.replayed),
            ("to the first token, ms", summary.first_token_ms),
            ("to the answer, ms", summary.answer_ms),
            ("to a line on screen, ms", summary.line_ms),
        ] {
            if let Some(Quantiles { p50, p90, p99, max }) = quantiles {
                let [p50, p90, p99, max] = [p50, p90, p99, max].map(figure);
                writeln!(f, "| {what} | {p50} | {p90} | {p99} | {max} |")?;
            }
        }
        writeln!(
            f,
            "\n| after | requests | evaluated, p50 | p90 | answer, ms, p50 | p90 |\n|---|---:|---:|---:|---:|---:|"
        )?;
        for by in &summary.causes {
            let pair = |quantiles: Option<Quantiles>| match quantiles {
                Some(quantiles) => format!("{} | {}", figure(quantiles.p50), figure(quantiles.p90)),
                None => "- | -".into(),
            };
            let cause = match by.cause {
                Cause::Start => "opening",
                Cause::Typing => "a character",
                Cause::Newline => "a line end",
                Cause::Deletion => "a deletion",
                Cause::Accept => "an accept",
                Cause::Jump => "a jump",
                Cause::Undo => "an undo",
                Cause::Edit => "an edit elsewhere",
            };
            writeln!(f, "| {cause} | {} | {} | {} |", by.requests, pair(by.evaluated), pair(by.answer_ms))?;
        }
        if let Some(sources) = summary.sources {
            writeln!(
                f,
                "\nAnswers: {} typed through, {} from the cache, {} joined, {} from the model, {} with nothing to offer; \
                 {:.0} % without the model.",
                sources.typed_through,
                sources.cache,
                sources.joined,
                sources.model,
                sources.nothing,
                100.0 * sources.share_without_model
            )?;
        }
        let Wasted { evaluated, generated, share_of_evaluated } = summary.wasted;
        if evaluated + generated > 0 {
            writeln!(
                f,
                "Wasted on superseded requests: {evaluated} tokens evaluated ({:.0} % of all), {generated} generated.",
                100.0 * share_of_evaluated
            )?;
        }
        Ok(())
    }
}

/// Whole, or two digits.
fn figure(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        10.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn keystroke(cause: Cause, source: Source, evaluated: usize, answer_ms: f64) -> Keystroke {
        let ran = source == Source::Model;
        let figures = Figures {
            source,
            prompt_tokens: if ran { 100 } else { 0 },
            evaluated,
            replayed: 0,
            generated: 1,
            first_token_ms: ran.then_some(answer_ms / 2.0),
        };
        Keystroke {
            session: "a".into(),
            event: 0,
            cause,
            outcome: Outcome::Answered,
            shown_chars: 3,
            figures: Some(figures),
            answer_ms: Some(answer_ms),
            line_ms: None,
        }
    }

    fn report() -> Report {
        let mut superseded = keystroke(Cause::Typing, Source::Model, 0, 0.0);
        (superseded.outcome, superseded.figures) = (Outcome::Superseded, None);
        (superseded.shown_chars, superseded.answer_ms, superseded.line_ms) = (0, None, Some(25.0));
        let wasted = keystroke(Cause::Typing, Source::Model, 20, 0.0).figures.unwrap();
        let replayed = Replayed {
            keystrokes: vec![
                keystroke(Cause::Start, Source::Model, 60, 90.0),
                keystroke(Cause::Typing, Source::TypedThrough, 0, 0.5),
                keystroke(Cause::Typing, Source::Model, 2, 12.25),
                superseded,
            ],
            wasted: vec![wasted],
        };
        let run = Run::new("fimd".into(), Order::PsmAnchored, vec![replayed]);
        let other = Run::new("llama.cpp".into(), Order::Psm, vec![Replayed::default()]);
        Report {
            version: "0",
            machine: Machine { cpu: "a cpu".into(), cores: 2, memory_bytes: 1 },
            typist: "the script",
            pace: 1.0,
            sessions: vec!["a".into()],
            runs: vec![run, other],
        }
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let of = |n: u32| {
            Quantiles::of((1..=n).rev().map(f64::from).collect()).map(|q| [q.p50, q.p90, q.p99, q.max])
        };
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some([1.0, 1.0, 1.0, 1.0]));
        assert_eq!(of(2), Some([1.0, 2.0, 2.0, 2.0]));
        assert_eq!(of(10), Some([5.0, 9.0, 10.0, 10.0]));
        assert_eq!(of(1000), Some([500.0, 900.0, 990.0, 1000.0]));
    }

    #[test]
    fn summaries_count_what_ran_and_what_was_wasted() {
        let summary = &report().runs[0].summary;
        assert_eq!((summary.requests, summary.answered, summary.superseded), (4, 3, 1));
        assert_eq!((summary.unanswered, summary.suggested), (0, 3));
        let evaluated = summary.evaluated.unwrap();
        assert_eq!((evaluated.p50, evaluated.p90), (2.0, 60.0), "what was typed through needed no tokens");
        assert_eq!(summary.first_token_ms.unwrap().max, 45.0);
        assert_eq!(summary.line_ms.unwrap().p50, 25.0);
        let sources = summary.sources.unwrap();
        assert_eq!((sources.typed_through, sources.model), (1, 2));
        assert!((sources.share_without_model - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(summary.wasted, Wasted { evaluated: 20, generated: 1, share_of_evaluated: 20.0 / 82.0 });
        assert_eq!(summary.causes.len(), 2);
        assert_eq!(summary.causes[1].requests, 3);
    }

    #[test]
    fn reports_are_tables_and_json() {
        let report = report();
        let text = report.to_string();
        for line in [
            "a, typed by the script, in real time",
            "## fimd, psm-anchored",
            "4 requests: 3 answered, 1 superseded, 0 unanswered; 3 suggestions",
            "| evaluated, tokens | 2 | 60 | 60 | 60 |",
            "| to the answer, ms | 12 | 90 | 90 | 90 |",
            "| a character | 3 | 2 | 2 | 0.50 | 12 |",
            "Answers: 1 typed through, 0 from the cache, 0 joined, 2 from the model, 0 with nothing to offer; 33 % without the model.",
            "Wasted on superseded requests: 20 tokens evaluated (24 % of all), 1 generated.",
            "| fimd, psm-anchored | 2 / 60 | 6.1 / 45 | 12 / 90 | 25 / 25 | 33 % | 20 |",
            "| llama.cpp, psm | - | - | - | - | - | 0 |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["runs"][0]["keystrokes"][1]["source"], "typed_through");
        assert_eq!(json["runs"][0]["keystrokes"][0]["cause"], "start");
        assert_eq!(json["runs"][0]["summary"]["evaluated"]["p90"], 60.0);
        assert_eq!(json["runs"][1]["summary"]["evaluated"], serde_json::Value::Null);
    }
}
