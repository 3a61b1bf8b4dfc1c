//! The report: tables in Markdown, or one JSON object. Pure.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::play::{Answer, Example, Trigger};
use super::variants::Variant;
use super::verdict::{Fault, Verdict};

/// All answers, and how many of them are right.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of fimd.
    pub version: &'static str,
    pub seed: u64,
    pub files: usize,
    pub places: usize,
    pub variants: Vec<Share>,
    pub languages: Vec<Share>,
    /// Answers with a fault, that end too early, or are worse than the first line of what the model said.
    pub(super) faulty: Vec<Answer>,
    /// Most examples to print of each kind of fault.
    #[serde(skip)]
    pub examples: usize,
}

/// The shares of answers, in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    pub name: &'static str,
    pub trigger: &'static str,
    pub answers: usize,
    /// What the author wrote, or nothing where nothing is missing.
    pub exact: f64,
    /// A correct beginning.
    pub beginning: f64,
    pub nothing: f64,
    pub wrong: f64,
    /// Worse than the first line of what the model said.
    pub worse: f64,
}

impl Report {
    pub(super) fn new(seed: u64, files: usize, places: usize, answers: Vec<Answer>, examples: usize) -> Self {
        let mut names: Vec<&'static str> = answers.iter().map(|answer| answer.language).collect();
        names.sort_unstable();
        names.dedup();
        let is_language =
            |answer: &&Answer, name| answer.language == name && answer.variant <= Variant::Continues;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            seed,
            files,
            places,
            variants: shares(&Variant::ALL, Variant::name, &answers, |answer, variant| {
                answer.variant == variant
            }),
            languages: shares(&names, |name| name, &answers, |answer, name| is_language(&answer, name)),
            faulty: answers.into_iter().filter(|answer| answer.example.is_some()).collect(),
            examples,
        }
    }
}

fn shares<T: Copy>(
    groups: &[T],
    name: impl Fn(T) -> &'static str,
    answers: &[Answer],
    is_in: impl Fn(&Answer, T) -> bool,
) -> Vec<Share> {
    let mut shares = Vec::new();
    for &group in groups {
        for trigger in Trigger::ALL {
            let chosen: Vec<&Answer> =
                answers.iter().filter(|answer| answer.trigger == trigger && is_in(answer, group)).collect();
            if !chosen.is_empty() {
                shares.push(Share::new(name(group), trigger.name(), &chosen));
            }
        }
    }
    shares
}

impl Share {
    fn new(name: &'static str, trigger: &'static str, answers: &[&Answer]) -> Self {
        let share = |is: &dyn Fn(&Answer) -> bool| {
            let count = answers.iter().filter(|answer| is(answer)).count();
            100.0 * count as f64 / answers.len() as f64
        };
        Self {
            name,
            trigger,
            answers: answers.len(),
            exact: share(&|answer| answer.verdict.is_exact()),
            beginning: share(&|answer| matches!(answer.verdict, Verdict::Prefix(_))),
            nothing: share(&|answer| answer.verdict == Verdict::Nothing),
            wrong: share(&|answer| answer.verdict.is_wrong()),
            worse: share(&|answer| answer.is_worse),
        }
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter) -> fmt::Result {
        writeln!(
            out,
            "{} places in {} files, seed {}; shares in percent of the answers",
            self.places, self.files, self.seed
        )?;
        table(out, "what the model says", &self.variants)?;
        table(out, "language", &self.languages)?;
        self.write_faults(out)?;
        self.write_examples(out)
    }
}

fn table(out: &mut Formatter, head: &str, shares: &[Share]) -> fmt::Result {
    writeln!(
        out,
        "\n| {head} | asked | answers | exact | beginning | nothing | wrong | worse than its first line |"
    )?;
    writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|")?;
    for Share { name, trigger, answers, exact, beginning, nothing, wrong, worse } in shares {
        writeln!(
            out,
            "| {name} | {trigger} | {answers} | {exact:.1} | {beginning:.1} | {nothing:.1} | {wrong:.2} | {worse:.2} |"
        )?;
    }
    Ok(())
}

/// What is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shortcoming {
    Worse,
    Early,
    Wrong(Fault),
}

/// What answers are grouped by.
type Group = (Variant, Trigger, Shortcoming);

fn group_of(answer: &Answer) -> Group {
    let shortcoming = match answer.verdict {
        Verdict::Wrong(fault) => Shortcoming::Wrong(fault),
        _ if answer.is_worse => Shortcoming::Worse,
        _ => Shortcoming::Early,
    };
    (answer.variant, answer.trigger, shortcoming)
}

impl Shortcoming {
    fn name(self) -> &'static str {
        match self {
            Self::Worse => "worse than the first line",
            Self::Early => "ends too early",
            Self::Wrong(Fault::CloserOnLine) => "closing delimiter on a line of its own",
            Self::Wrong(Fault::CloserGlued) => "closing delimiter not on a line of its own",
            Self::Wrong(Fault::Torn) => "line end behind a torn line",
            Self::Wrong(Fault::Closers) => "delimiters repeated",
            Self::Wrong(Fault::Repeats) => "text repeated",
            Self::Wrong(Fault::Extra) => "more than is missing",
            Self::Wrong(Fault::Indentation) => "indentation",
            Self::Wrong(Fault::Whitespace) => "whitespace",
            Self::Wrong(Fault::Other) => "other text",
        }
    }
}

impl Report {
    /// The faulty answers by kind of fault.
    fn by_fault(&self) -> Vec<(Group, Vec<&Answer>)> {
        let mut sorted: Vec<&Answer> = self.faulty.iter().collect();
        sorted.sort_by_key(|answer| group_of(answer));
        let groups = sorted.chunk_by(|a, b| group_of(a) == group_of(b));
        groups.map(|group| (group_of(group[0]), group.to_vec())).collect()
    }

    fn write_faults(&self, out: &mut Formatter) -> fmt::Result {
        if self.faulty.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n| fault | what the model says | asked | answers |")?;
        writeln!(out, "|---|---|---|---:|")?;
        for ((variant, trigger, fault), answers) in self.by_fault() {
            let (fault, count) = (fault.name(), answers.len());
            writeln!(out, "| {fault} | {} | {} | {count} |", variant.name(), trigger.name())?;
        }
        Ok(())
    }

    fn write_examples(&self, out: &mut Formatter) -> fmt::Result {
        for ((variant, trigger, fault), answers) in self.by_fault() {
            for answer in answers.iter().take(self.examples) {
                let Some(Example { before, after, middle, said, shown }) = &answer.example else { continue };
                writeln!(
                    out,
                    "\n{}: {}, {}, {}, {:?}, {:?}",
                    answer.file,
                    fault.name(),
                    variant.name(),
                    trigger.name(),
                    answer.kind,
                    answer.verdict
                )?;
                writeln!(out, "  before {before:?}\n  after  {after:?}\n  truth  {middle:?}")?;
                writeln!(out, "  said   {said:?}\n  shown  {shown:?}")?;
            }
        }
        Ok(())
    }
}
