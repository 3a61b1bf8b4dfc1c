//! How a model is talked to: its chat template, in Jinja, rendered as transformers does.

use anyhow::{Context, Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;

/// Instructions that rendering may take: a template is part of a model, and models are untrusted.
const FUEL: u64 = 1 << 20;
/// How deep macros may call each other.
const RECURSION_MAX: usize = 100;
/// Longer templates are no templates, in bytes.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

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
        let this = Self { source: source.to_owned(), eos: eos.to_owned() };
        this.environment().context("the chat template is damaged")?;
        Ok(this)
    }

    /// The text that has said `messages` and begins the model's answer. Fails when the template refuses them,
    /// or takes too long.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let environment = self.environment().context("the chat template is damaged")?;
        let template = environment.get_template(NAME).context("the chat template is missing")?;
        let one = |message: &Message| {
            Value::from_pairs([("role", message.role.name()), ("content", &message.content)])
        };
        let messages: Value = messages.iter().map(one).collect();
        let said =
            context! { messages, add_generation_prompt => true, bos_token => "", eos_token => &*self.eos };
        template.render(said).context("the chat template refuses what was said")
    }

    /// As transformers sets Jinja up: blocks take their line with them, and strings have Python's methods.
    fn environment(&self) -> Result<Environment<'_>, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template(NAME, &self.source)?;
        Ok(environment)
    }
}

/// JSON as Python writes it, with blanks and without escapes for HTML.
fn to_json(value: Value) -> Result<String, Error> {
    struct Python;
    impl serde_json::ser::Formatter for Python {
        fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
            writer.write_all(b": ")
        }
        fn begin_object_key<W: std::io::Write + ?Sized>(
            &mut self,
            writer: &mut W,
            is_first: bool,
        ) -> std::io::Result<()> {
            writer.write_all(if is_first { b"" } else { b", " })
        }
        fn begin_array_value<W: std::io::Write + ?Sized>(
            &mut self,
            writer: &mut W,
            is_first: bool,
        ) -> std::io::Result<()> {
            writer.write_all(if is_first { b"" } else { b", " })
        }
    }
    let mut bytes = Vec::new();
    let wrong = |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Python);
    value.serialize(&mut serializer).map_err(|error| wrong(&error))?;
    String::from_utf8(bytes).map_err(|error| wrong(&error))
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
                "{{ messages[0].content.startswith('a') and not messages[0].content.endswith('b') }}",
                &[(User, "ac")],
                "True",
            ),
        ] {
            assert_eq!(render(template, messages).unwrap(), expected, "{template}");
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
            ("{% include 'other' %}", "refuses"),
            (endless, "refuses"),
            (recursive, "refuses"),
            (CHATML, "Unexpected role: system"),
        ] {
            let error = render(template, &[(User, "a"), (System, "b")]).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{template}: {error:#}");
        }
    }
}
