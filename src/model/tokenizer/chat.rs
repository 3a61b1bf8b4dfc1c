//! How a model is talked to: its chat template, in Jinja, rendered as transformers does.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use minijinja::machinery::{CompiledTemplate, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::date::strftime;
use super::limits::{Bounded, check_tokens, check_widths, print};
use super::values::{add_functions, bounded};

/// Instructions that rendering may take: a template is part of a model, and models are untrusted.
const FUEL: u64 = 1 << 20;
/// How deep macros may call each other.
const RECURSION_MAX: usize = 100;
/// Longer templates are no templates, in bytes.
const TEMPLATE_BYTES_MAX: usize = 1 << 16;
/// Most spaces that a template indents JSON by.
const INDENT_MAX: usize = 16;

const NAME: &str = "chat_template";

/// The template of chats with a model.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    /// The text of the token that ends what the model writes; templates may name it.
    eos: String,
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// By whom.
    pub role: Role,
    /// The words.
    pub content: String,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions of the program that runs the model.
    System,
    /// The user's request.
    User,
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl Message {
    /// What `role` says.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

impl ChatTemplate {
    /// Fails when `source` is no template. `eos` is the text of the token that ends what the model writes.
    pub fn new(source: &str, eos: &str) -> Result<Self> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(anyhow!("the chat template has {} bytes", source.len()));
        }
        check_tokens(source, syntax()?).context("the chat template is damaged")?;
        let this = Self { source: without_generation_blocks(source), eos: eos.to_owned() };
        this.compile()?;
        Ok(this)
    }

    /// The text that has said `messages` and begins the model's answer. Fails when the template refuses them,
    /// or takes too long.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let template = self.compile()?;
        let one = |message: &Message| {
            Value::from_pairs([("role", message.role.name()), ("content", &message.content)])
        };
        let messages: Value = messages.iter().map(one).collect();
        let said =
            context! { messages, add_generation_prompt => true, bos_token => "", eos_token => &*self.eos };
        let (mut text, instructions) = (String::new(), bounded(&template.instructions));
        let (environment, mut out) = (environment(), make_string_output(&mut text));
        let ended =
            eval(&environment, &instructions, said, &template.blocks, &mut out, AutoEscape::None).map(drop);
        ended.context("the chat template refuses what was said")?;
        Ok(text)
    }

    fn compile(&self) -> Result<CompiledTemplate<'_>> {
        let config =
            TemplateConfig { syntax_config: syntax()?, default_auto_escape: Arc::new(|_| AutoEscape::None) };
        CompiledTemplate::new(NAME, &self.source, &config).context("the chat template is damaged")
    }
}

/// As transformers sets Jinja up: strings have Python's methods.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_formatter(print);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        if method == "format" {
            check_widths(value.as_str().unwrap_or_default())?;
        }
        unknown_method_callback(state, value, method, arguments)
    });
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| strftime(format, seconds_now()));
    environment.add_filter("tojson", to_json);
    add_functions(&mut environment);
    environment
}

/// As transformers sets Jinja up: blocks take their line with them.
fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A block that marks what the model is trained on; what is in it stays. minijinja has none, so it becomes a condition.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let inside = start + 2;
        let Some(length) = rest[inside..].find("%}") else { break };
        let end = inside + length;
        let block = &rest[inside..end];
        let word = block.trim_matches(['-', '+']).trim();
        let instead = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => word,
        };
        out += &rest[..inside];
        out += &if instead == word { block.to_owned() } else { block.replacen(word, instead, 1) };
        rest = &rest[end..];
    }
    out + rest
}

/// JSON as Python's `json.dumps` writes it, without escapes for HTML.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let format = Python::new(&options)?;
    options.assert_all_used()?;
    let mut bytes = Bounded::default();
    if format.sorts_keys {
        // What is too long as text would be much longer in memory.
        serde_json::to_writer(&mut Bounded::default(), &value).map_err(wrong)?;
        let value = sorted(serde_json::to_value(&value).map_err(wrong)?);
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format)).map_err(wrong)?;
    } else {
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format)).map_err(wrong)?;
    }
    String::from_utf8(bytes.0).map_err(wrong)
}

fn wrong(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadSerialization, error.to_string())
}

/// With the keys of all objects in order.
fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value::{Array, Object};
    match value {
        Object(object) => {
            let mut pairs: Vec<_> = object.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            pairs.sort_by(|one, other| one.0.cmp(&other.0));
            Object(pairs.into_iter().collect())
        }
        Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// The arguments of `json.dumps`.
struct Python {
    /// What one level is indented by; without it all is on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    is_ascii: bool,
    sorts_keys: bool,
    depth: usize,
    has_items: bool,
}

impl Python {
    fn new(options: &Kwargs) -> Result<Self, Error> {
        let indent: Option<Value> = options.get("indent")?;
        let indent = match indent.filter(|indent| !indent.is_none()) {
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_owned(),
                None => " ".repeat(usize::try_from(indent)?.min(INDENT_MAX)),
            }),
            None => None,
        };
        let separators: Option<Vec<String>> = options.get("separators")?;
        let (item, key) = match separators.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            Some(_) => return Err(wrong("separators of tojson are two texts")),
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        Ok(Self {
            indent,
            item_separator: item,
            key_separator: key,
            is_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            sorts_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            depth: 0,
            has_items: false,
        })
    }

    fn begin(&mut self, writer: &mut (impl Write + ?Sized), opening: &str) -> io::Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(opening.as_bytes())
    }

    fn end(&mut self, writer: &mut (impl Write + ?Sized), closing: &str) -> io::Result<()> {
        self.depth -= 1;
        if std::mem::replace(&mut self.has_items, true) {
            self.new_line(writer)?;
        }
        writer.write_all(closing.as_bytes())
    }

    fn item(&mut self, writer: &mut (impl Write + ?Sized), is_first: bool) -> io::Result<()> {
        self.has_items = true;
        if !is_first {
            writer.write_all(self.item_separator.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn new_line(&self, writer: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }
}

impl Formatter for Python {
    fn begin_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, "[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, "]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        self.item(writer, is_first)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, "{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, "}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, writer: &mut W, is_first: bool) -> io::Result<()> {
        self.item(writer, is_first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key_separator.as_bytes())
    }

    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if !self.is_ascii {
            return writer.write_all(text.as_bytes());
        }
        for c in text.chars() {
            match c.is_ascii() {
                true => write!(writer, "{c}")?,
                false => {
                    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Assistant, System, User};

    /// ChatML as Qwen's models have it: an own system message, whitespace control, macros, Python's methods.
    const CHATML: &str = r#"{% macro turn(role, text) %}
    {{- '<|im_start|>' ~ role ~ '\n' ~ text ~ '<|im_end|>\n' }}
{%- endmacro %}

{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{%- if not tools is defined %}
    {%- set tools = [] %}
{%- endif %}

{%- if system_message is defined %}
    {{- turn('system', system_message) }}
{%- else %}
    {%- if tools is iterable and tools | length > 0 %}
        {{- turn('system', tools | tojson) }}
    {%- endif %}
{%- endif %}
{%- for message in loop_messages %}
    {%- if message.role == "assistant" and message.content is string and '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {{- turn(message.role, content) }}
    {%- elif message.role == "user" or message.role == "assistant" %}
        {{- turn(message.role, message.content) }}
    {%- else %}
        {{- raise_exception('Unexpected role: ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

    fn render(template: &str, messages: &[(Role, &str)]) -> Result<String> {
        let messages: Vec<Message> =
            messages.iter().map(|&(role, content)| Message::new(role, content)).collect();
        ChatTemplate::new(template, "<|im_end|>")?.render(&messages)
    }

    #[test]
    fn templates_render_as_transformers_does() {
        for (template, messages, expected) in [
            (
                CHATML,
                &[(System, "Be brief."), (User, "a < b & \"c\"\n")][..],
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na < b & \"c\"\n<|im_end|>\n\
                 <|im_start|>assistant\n",
            ),
            (
                CHATML,
                &[(User, "hi"), (Assistant, "<think>x</think>\n\nyes"), (User, "why?")],
                "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n\
                 <|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n",
            ),
            ("{{ messages | tojson }}", &[(User, "é<\n")], r#"[{"role": "user", "content": "é<\n"}]"#),
            (
                "{{ messages[0].content.strip().upper() }}{{ eos_token }}{{ bos_token }}\n",
                &[(User, " a ")],
                "A<|im_end|>",
            ),
            ("  {% for m in messages %}\n  {{ m.role }}\n  {% endfor %}\n", &[(User, "")], "  user\n"),
            (
                "{{ messages | tojson(ensure_ascii=False) }}",
                &[(User, "é<🦀")],
                r#"[{"role": "user", "content": "é<🦀"}]"#,
            ),
            (
                "{{ messages[0] | tojson(ensure_ascii=True, sort_keys=true) }}",
                &[(User, "é\u{7f}🦀\n")],
                "{\"content\": \"\\u00e9\u{7f}\\ud83e\\udd80\\n\", \"role\": \"user\"}",
            ),
            (
                "{{ messages | tojson(indent=2) }}{{ [] | tojson(indent=4) }}",
                &[(User, "a")],
                "[\n  {\n    \"role\": \"user\",\n    \"content\": \"a\"\n  }\n][]",
            ),
            ("{{ [[1], {'a': none}] | tojson(separators=(',', ':')) }}", &[(User, "")], "[[1],{\"a\":null}]"),
            (
                "{% for m in messages %}\n  {%- generation -%}\n  {{ m.content }}\n  {%- endgeneration %}\n{% endfor %}",
                &[(User, "a"), (Assistant, "b")],
                "ab",
            ),
            ("{% generation %}{{ messages[0].role }}{% endgeneration %}", &[(User, "")], "user"),
            (
                "{{ messages[0].content.startswith('a') and not messages[0].content.endswith('b') }}",
                &[(User, "ac")],
                "True",
            ),
        ] {
            assert_eq!(render(template, messages).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn templates_may_say_the_date() {
        let text = render("{{ strftime_now('%Y-%m-%d') }}", &[]).unwrap();
        let today = strftime("%F", seconds_now());
        let yesterday = strftime("%F", seconds_now() - 86_400);
        assert!([&today, &yesterday].contains(&&text), "{text}");
    }

    #[test]
    fn long_chains_are_refused() {
        let many = |text: &str| text.repeat(10_000);
        let conditions = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(4000));
        for template in [
            format!("{{{{ {}1 }}}}", many("-")),
            format!("{{{{ {}1 }}}}", many("not ")),
            format!("{{{{ a{} }}}}", many(".b")),
            format!("{{{{ a{} }}}}", many("[0]")),
            format!("{{{{ a{} }}}}", many("[0:1]")),
            format!("{{{{ a{} }}}}", many("()")),
            format!("{{{{ a{} }}}}", many("|b")),
            format!("{{{{ a{} }}}}", many(" is b")),
            format!("{{{{ a{} }}}}", many(" if b else c")),
            format!("{{{{ {}1 }}}}", many("[")),
            format!("{{{{ 1{} }}}}", many(" ~ 1")),
            format!("{{{{ 1{} }}}}", many(" or 1")),
            format!("{{{{ 2{} }}}}", many(" ** 2")),
            format!("{{% set a = 1{} %}}", many(" + 1")),
            format!("{{% filter a{} %}}{{% endfilter %}}", many("|b")),
            format!("{{% if a == 1{} %}}{{% endif %}}", many(" == 1")),
            conditions,
        ] {
            let error = format!("{:#}", render(&template, &[(User, "a")]).unwrap_err());
            let start: String = template.chars().take(20).collect();
            let has_reason = ["tokens", "branches", "bytes"].iter().any(|word| error.contains(word));
            assert!(has_reason, "{start}: {error}");
        }
        let long =
            format!("{{{{ 0{} }}}}{}", " + 1".repeat(120), "{% if a %}{% elif b %}{% endif %}".repeat(100));
        assert_eq!(render(&long, &[]).unwrap(), "120");
    }

    #[test]
    fn lists_and_maps_are_made_of_variables() {
        for (template, expected) in [
            (
                "{% set x = ['a', {'b': none}] %}{{ x[0] }}{{ messages[0]['role'] }}{{ x[1:]|length }}",
                "auser1",
            ),
            ("{% set a = 'x' %}{% set b = [a, a] + [a] %}{{ {'k': b}|tojson }}", r#"{"k": ["x", "x", "x"]}"#),
            (
                "{% set n = namespace(l=[]) %}{% for m in messages %}{% set n.l = n.l + [m.role] %}{% endfor %}\
              {{ n.l|join(',') }}{{ 'user' in n.l }}{{ n.l == ['user'] }}",
                "userTrueTrue",
            ),
            (
                "{% set a, b = ('x', [1, 2] * 2) %}{{ a }}{{ b[-1] }}{{ (1, 2)[0] }}{{ b[::-1]|tojson }}",
                "x21[2, 1, 2, 1]",
            ),
            ("{% for k, v in messages[0]|items %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hi;"),
            (
                "{% for a in [[1, [2, [3]]], [4]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
                "1234",
            ),
            (
                "{% macro f(x, y=[1]) %}{{ x|length + y|length }}{{ caller() }}{% endmacro %}{% call f([1, 2]) %}!{% endcall %}",
                "3!",
            ),
        ] {
            assert_eq!(render(template, &[(User, "hi")]).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn what_a_template_makes_is_bounded() {
        for template in [
            "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "{% set n = namespace(x=1) %}{% set n.x = n %}{{ n }}",
            "{% set x = [messages] %}{{ x }}",
            "{{ '{:>99999999}'.format('a') }}",
            "{{ range(99999)|list|length }}",
            "{{ 'a' * 99999999 }}",
            "{{ ('a' * 9999)|replace('a', 'a' * 9999) }}",
            "{% for i in range(90000) %}{{ 'a' * 9999 }}{% endfor %}",
            "{{ messages|tojson * 1000000 }}",
        ] {
            let error = render(template, &[(User, "a")]).map(|text| text.len()).unwrap_err();
            assert!(format!("{error:#}").contains("refuses"), "{template}: {error:#}");
        }
    }

    #[test]
    fn hostile_templates_give_errors() {
        let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}";
        let recursive = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        for (template, expected) in [
            ("{% if %}", "damaged"),
            ("{{ raise_exception('no system role') }}", "no system role"),
            ("{{ messages[7].content.x }}", "refuses"),
            ("{{ nothing.here() }}", "refuses"),
            ("{% include 'other' %}", "damaged"),
            ("{{ 1 | tojson(unknown=1) }}", "refuses"),
            ("{% generation %}", "damaged"),
            (endless, "refuses"),
            (recursive, "refuses"),
            (CHATML, "Unexpected role: system"),
        ] {
            let error = render(template, &[(User, "a"), (System, "b")]).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{template}: {error:#}");
        }
    }
}
