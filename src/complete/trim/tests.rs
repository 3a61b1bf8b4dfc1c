use super::without_fence;
use crate::base::random::Mmix;
use crate::complete::rules::trimmed;
use crate::complete::{Document, Lines, Request};
use crate::decode::StopReason;

/// `document` has the cursor at `$0`, `output` is what the model writes there.
#[track_caller]
fn check(document: &str, output: &str, expected: Option<&str>) {
    check_in(None, document, output, expected);
}

/// The same in the file `path`.
#[track_caller]
fn check_in(path: Option<&str>, document: &str, output: &str, expected: Option<&str>) {
    let (prefix, suffix) = document.split_once("$0").unwrap();
    for crlf in [false, true] {
        let ends = |text: &str| if crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
        let request = Request::of(Document::new(path.map(String::from), ends(prefix), ends(suffix)));
        let is_crlf = request.document.uses_crlf();
        let expected = expected.map(|text| if is_crlf { ends(text) } else { text.into() });
        for output in [output.to_owned(), ends(output)] {
            assert_eq!(
                trimmed(&request, &output, StopReason::EndToken).ok(),
                expected,
                "{document:?}, CRLF {crlf}"
            );
        }
    }
}

#[test]
fn python() {
    check("def add(a, b):\n    $0\n", "    return a + b\n\nprint(1)\n", Some("return a + b"));
    check("def add(a, b):$0\n", "\n    return a + b\n\ndef sub", Some("\n    return a + b"));
    check("class A:\n    def f(self):\n    $0\n", "    return 1\n", Some("    return 1"));
    check("print($0)\n", "x)\n", Some("x"));
    check("print($0)\n", "f(x), g(y))  # done\n", Some("f(x), g(y)"));
    check("print(\"$0\")\n", "it's \\\"here\\\"\")\n", Some("it's \\\"here\\\""));
    check("for x in $0:\n    pass\n", "range(3):\n", Some("range(3)"));
    check("x = $0\n", " 1  \n", Some("1"));
    check("a = 1\n$0\nb = 2\n", "b = 2\n", None);
    check("run()\nrun()\n$0", "run()\n", None);
    check(
        "# All primes below n.\n$0",
        "def primes(n):\n    s = 1\n\n    return s\n\nx",
        Some("def primes(n):\n    s = 1\n\n    return s"),
    );
    check(
        "def f():\n    \"\"\"One.\"\"\"\n    $0",
        "a = 1\n\n    return a\n\nx",
        Some("a = 1\n\n    return a"),
    );
}

#[test]
fn rust() {
    check("fn f() {$0}\n", "\n    body();\n}\n", Some("\n    body();\n"));
    check("mod m {\n    fn f() {$0}\n}\n", "\n        body();\n    }\n", Some("\n        body();\n    "));
    check("fn f() {\n    $0\n}\n", "let x = 1;\n    x\n}\n\nfn g", Some("let x = 1;\n    x"));
    check("fn f() {\n    $0", "let x = 1;\n    x\n}\n\nfn g", Some("let x = 1;\n    x\n}"));
    check("    let v: Vec<$0> = x;\n", "u8> = x;\n", Some("u8"));
    check("    let v = Vec::<$0>", "Option<fn() -> u8>>::new();\n", Some("Option<fn() -> u8>"));
    check("    s.push('$0')\n", "🦀')\n", Some("🦀"));
    check(
        "/// Twice.\n$0\n\nfn g() {}\n",
        "fn f<'a>(x: &'a u8) -> u8 {\n    x * 2\n}\n\nfn h",
        Some("fn f<'a>(x: &'a u8) -> u8 {\n    x * 2\n}"),
    );
    check("if a {$0} else {\n", "\n    b();\n} else {\n    c();\n}", Some("\n    b();\n"));
    check("    x.iter()$0;\n", ".sum();\n", Some(".sum()"));
}

#[test]
fn typescript() {
    check("items.forEach((item) => {$0});\n", "\n  use(item);\n});\n", Some("\n  use(item);\n"));
    check("const s = `$0`;\n", "a ${b}`;\n", Some("a ${b}"));
    check("const a = [$0];\n", "1, f([2])];\n", Some("1, f([2])"));
    check("const n:$0\n", " number = 1;\nconst m", Some(" number = 1;"));
    check("if (a$0) {\n", " && b) {\n", Some(" && b"));
}

#[test]
fn go() {
    check(
        "func f() error {\n\t$0\n}\n",
        "\tif err != nil {\n\t\treturn err\n\t}\n\treturn nil\n}\n",
        Some("if err != nil {\n\t\treturn err\n\t}\n\treturn nil"),
    );
    check("\tfmt.Println($0)\n", "\"a)\", b)\n", Some("\"a)\", b"));
    check("\tx := $0\n\ty := 2\n", "1\n\ty := 2\n", Some("1"));
}

#[test]
fn c() {
    check("int main(void)\n{\n\t$0\n}\n", "return 0;\n}\n", Some("return 0;"));
    check("\tfor (int i = 0; $0)\n", "i < n; i++) {\n", Some("i < n; i++"));
    check("#include $0\n", "<stdio.h>\n#include", Some("<stdio.h>"));
    check(
        "/* Sum. */\n$0",
        "int sum(int a)\n{\n\treturn a;\n}\n\nint x",
        Some("int sum(int a)\n{\n\treturn a;\n}"),
    );
}

#[test]
fn lua() {
    check("local function f(x)\n  $0\nend\n", "return x\nend\n", Some("return x"));
    check("for i = 1, 3 do\n  $0", "print(i)\nend\nprint(2)", Some("print(i)\nend"));
    check("t[$0] = 1\n", "#t + 1] = 1", Some("#t + 1"));
    check("x = 1$0\n", "\n\n", None);
}

#[test]
fn indentation_is_the_documents() {
    check(
        "class A:\n\tdef f(self):\n\t\t$0\n",
        "        x = 1\n        return x\n",
        Some("x = 1\n\t\treturn x"),
    );
    check("func f() {\n\tif x {$0}\n}\n", "\n        return\n    }\n", Some("\n\t\treturn\n\t"));
    check("func f() {\n\tif x {$0}\n}\n", "\n    return\n  }\n", Some("\n\t\treturn\n\t"));
    check("function f() {\n  if (a) {$0}\n}\n", "\n\t\treturn;\n\t}\n", Some("\n    return;\n  "));
    check("def f():$0\n", "\n\treturn 1\n", Some("\n\treturn 1"));
    check("/* a\n * b */\nint f() {\n\t$0\n}\n", "\treturn 1;\n}\n", Some("return 1;"));
}

#[test]
fn comments_are_the_languages() {
    let lua = "return 1 -- done (\nend\n";
    check_in(Some("a.lua"), "if x then\n  $0\nend\n", lua, Some("return 1 -- done ("));
    check_in(Some("a.py"), "x = ($0)\n", "a // b) + c\n", Some("a // b"));
    check_in(Some("a.py"), "def f():\n    \"\"\"$0\n", "Adds (a\nand b.\n", Some("Adds (a"));
    check_in(
        Some("a.py"),
        "def f():\n    $0\n",
        "\"\"\"Adds.\n\nAnd more.\n\"\"\"\n    return 1\n\nx",
        Some("\"\"\"Adds.\n\nAnd more.\n\"\"\"\n    return 1"),
    );
    check_in(Some("a.rs"), "fn f<'a>($0)\n", "x: &'a A<'a, 'b>) {\n", Some("x: &'a A<'a, 'b>"));
    check_in(Some("a.c"), "for (; i; $0)\n", "i--)\n", Some("i--"));
    check_in(Some("a.c"), "switch (x) {$0}\n", "\ncase 1:\n    f();\n}\ng();", Some("\ncase 1:\n    f();\n"));
    check_in(Some("a.ts"), "function f() {\n  $0\n}\n", "return `a\n}`;\n}\n", Some("return `a\n}`;"));
    check_in(Some("a.go"), "func f() {\n\t$0\n}\n", "s := `a\n}`\n\tg(s)\n}\n", Some("s := `a\n}`\n\tg(s)"));
}

#[test]
fn the_suffix_is_not_repeated() {
    check("    let a = 1;\n    $0\n    let b = 2;\n", "let b = 2;\n", None);
    check("let x = foo($0);\n", "a, b);\n", Some("a, b"));
    check("const x = f({ $0 });\n", "a: 1 });\n", Some("a: 1"));
    check("x := []int{$0}\n", "1, 2}\n", Some("1, 2"));
    check("int a[] = {$0};\n", "1, 2};\n", Some("1, 2"));
    check("local t = {$0}\n", "1, 2}\n", Some("1, 2"));
    check("d = {\"a\": [$0]}\n", "1, 2]}\n", Some("1, 2"));
    // Two lines that stand above already.
    check("// One.\na(1);\nb(2);\n// One.\n$0", "a(1);\nb(2);\n", Some("a(1);\nb(2);"));
    check("{\na(1);\nb(2);\n{\n$0", "{\na(1);\nb(2);\n{\n", Some("{"));
}

#[test]
fn fences_are_dropped() {
    for (text, expected) in [
        ("```rust\nlet x = 1;\n```\nDone.", "let x = 1;"),
        ("```\nlet x", "let x"),
        ("```\n```\n", ""),
        ("let x = 1;\n```", "let x = 1;\n```"),
        ("```", "```"),
    ] {
        assert_eq!(without_fence(text), expected);
    }
}

#[test]
fn no_text_is_too_strange() {
    const PIECES: [&str; 20] = [
        "{", "}", "(", ")", "\n", "\r\n", "\r", "\t", "    ", "\"", "'", "\\", "🦀", "é", "end", "x", ">",
        ":", "// ", ";",
    ];
    let mut random = Mmix(1);
    let mut text =
        |pieces: usize| -> String { (0..pieces).map(|_| PIECES[random.below(PIECES.len())]).collect() };
    for round in 0..3000 {
        let (prefix, suffix, output) = (text(round % 13), text(round % 7), text(round % 17));
        for lines in [Lines::Auto, Lines::Single, Lines::Multi] {
            let request = Request { lines, ..Request::new(prefix.clone(), suffix.clone()) };
            let text = trimmed(&request, &output, StopReason::EndToken).ok();
            assert!(text.is_none_or(|text| !text.trim().is_empty()), "{request:?} {output:?}");
        }
    }
}

/// An answer where there is a choice of triggers and endings.
struct Answer {
    path: &'static str,
    document: &'static str,
    said: &'static str,
    /// What is shown; nothing if it is empty.
    shown: &'static str,
}

#[track_caller]
fn check_answers(lines: Lines, reason: StopReason, answers: &[Answer]) {
    for Answer { path, document, said, shown } in answers {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let document = Document::new(Some(path.to_string()), prefix, suffix);
        let request = Request { lines, ..Request::of(document) };
        let found = trimmed(&request, said, reason).unwrap_or_default();
        assert_eq!(found, *shown, "{prefix:?} {suffix:?} {said:?}");
    }
}

const fn answer(
    path: &'static str,
    document: &'static str,
    said: &'static str,
    shown: &'static str,
) -> Answer {
    Answer { path, document, said, shown }
}

#[test]
fn what_follows_is_not_repeated_at_any_length() {
    check_answers(
        Lines::Multi,
        StopReason::EndToken,
        &[
            // Lines of signs, and the line after them.
            answer("a.js", "/**\n * One.$0\n */\nf();\n", "\n * Two.\n */\nf();\n", "\n * Two."),
            answer("a.sh", "case $a in\n  b)\n    x$0\n    ;;\nesac\n", "\n    y\n    ;;\nesac\n", "\n    y"),
            answer("a.md", "```sh\nls$0\n```\n\nEnd.\n", "\npwd\n```\n\nEnd.\n", "\npwd"),
            answer("a.js", "x = [\n  $0\n  7,\n  8,\n];\n", "5,\n  6,\n  7,\n  8,\n];\n", "5,\n  6,"),
            answer("a.json", "{\n  \"a\": 1,$0\n  \"b\": 2,\n  \"c\": 3\n}\n", "\n  \"b\": 2\n}\n", ""),
            // A line that equals the one below is one of two where they go on differently.
            answer("a.go", "func f() {\n\t$0\n\n\tlog()\n\tb()\n}\n", "log()\n\ta()\n", "log()\n\ta()"),
            answer("a.py", "with x:$0\n\nwith x:\n    b()\n", "\n    a()\n", "\n    a()"),
            // The rest of the line, whole or in part.
            answer("a.py", "y = $0 * rate\nprint(y)\n", "price\nz = 1\n", "price"),
            answer("a.py", "y = $0 * rate\n", "price * rate\n", "price"),
            answer("a.py", "get$0item(1)\n", "item", ""),
            answer("a.py", "d = {1: 2, 3$0: 4}\n", ": 5}\n", ""),
            answer("a.js", "let x = $0; // why\n", "[\n  1,\n];\nlet y;\n", ""),
            answer("a.json", "{\n  \"v\": \"^$0.2.0\"\n}\n", "1.2.0\"\n}\n", "1"),
            answer("a.js", "f($0, g(1)) + h(2);\n", "a, g(1)) + h(2);\nk();\n", "a"),
        ],
    );
}

#[test]
fn delimiters_close_once() {
    check_answers(
        Lines::Multi,
        StopReason::EndToken,
        &[
            answer("a.js", "on(\"x\", function ($0) {\n  go();\n});\n", "a, b) {\n  go();\n});\n", "a, b"),
            answer("A.java", "@Use({One, $0)\nclass A {}\n", "Two})\n", "Two}"),
            answer("a.go", "const ($0)\n\nvar x\n", "\n\ta = 1\n)\n\nvar x\n", "\n\ta = 1\n"),
            answer(
                "a.c",
                "void f() {\n    if (x) {\n        g();\n    $0\n}\n",
                "}\n    h();\n}\n",
                "}\n    h();",
            ),
            answer(
                "a.c",
                "int f() {\n  if (x) {\n    g();\n  $0\n  }\n}\n",
                "} else {\n    h();\n  }\n}\n",
                "} else {\n    h();",
            ),
            answer("a.css", "$0\n}\n.b {\n  top: 0\n}\n", ".a {\n  top: 1\n}\n.b {\n", ".a {\n  top: 1"),
            answer("a.lisp", "(defun f (x)$0)\n", "\n  (g x))\n", "\n  (g x)"),
            answer("a.py", "x = f($0)\n", "\n    1,\n    2)\n", "\n    1,\n    2"),
            answer(
                "a.js",
                "run(function () {$0});\n",
                " // now\n  go(); // last\n});\n",
                " // now\n  go(); // last\n",
            ),
            answer("a.py", "print(\"a$0)\n", "b\", c)\n", "b\", c"),
            answer("a.rs", "    f(Err($0),\n", "e)", "e)"),
        ],
    );
}

#[test]
fn a_budget_leaves_whole_pieces() {
    check_answers(
        Lines::Multi,
        StopReason::Length,
        &[
            answer("a.rs", "fn f() {$0}\n", "\n    let a = b();\n    let c = d(", "\n    let a = b();\n"),
            answer("a.py", "def f():\n    $0\n    third(1)\n", "first(1)\n    third", "first(1)"),
            answer("a.py", "x = $0\n", "f(a, ", "f(a"),
            answer("a.py", "x = $0\n", "total +", "total"),
            answer("a.py", "x = $0\n", "g(\"abc", "g"),
            answer("a.py", "x = $0\n", "\"a\" + \"b", ""),
            answer("a.py", "x = $0\n", "\"ab\u{fffd}", ""),
        ],
    );
}

#[test]
fn columns_stay_aligned() {
    check_answers(
        Lines::Auto,
        StopReason::EndToken,
        &[answer("a.sv", "  input logic  $0\n", "  b,\n", "  b,"), answer("a.py", "x = $0\n", " 1\n", "1")],
    );
}

#[test]
fn closing_delimiters_stand_where_the_model_puts_them() {
    let check = |path: &str, document: &str, output: &str, expected: &str| {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let request = Request::of(Document::new(Some(path.into()), prefix, suffix));
        assert_eq!(trimmed(&request, output, StopReason::EndToken).as_deref(), Ok(expected), "{document:?}");
    };
    // As deep as a line above, and less deep than what it closes.
    let ada = "   type A is\n     (B);\n   type C is ($0);\n";
    check("a.adb", ada, "\n      D\n     ", "\n      D\n     ");
    // One more line of the block has begun.
    check("a.js", "f() {\n  g() {$0}\n}\n", "\n    h();\n    ", "\n    h();\n  ");
    // A brace on a line of its own has the other one below it.
    check("a.c", "  for (a)\n    {$0}\n", "\n      b;\n    ", "\n      b;\n    ");
}

#[test]
fn the_rest_is_not_repeated_from_within_a_string() {
    check_in(Some("a.py"), "f(\"$0A number: \")\n", "A number: \")\n", None);
    check_in(
        Some("a.pas"),
        "x = ($0);\n",
        "\n    1, // one (1)\n    2  // two (2)\n",
        Some("\n    1, // one (1)\n    2  // two (2)\n"),
    );
    check_in(Some("a.tex"), "\\newcommand{\\a}{\\$0}\n", "b{c}}\n", Some("b{c}"));
}

#[test]
fn the_next_line_tells_what_has_to_be_closed() {
    for (path, document, output, expected) in [
        ("a.el", "(defun f (x)\n  (g (h $0\n  (i))\n", "x))", "x))"),
        ("a.v", "  .a($b(\"c\", $0\n  .d($b(\"e\", f)),\n", "g)),", "g)),"),
        ("a.ps1", "  param(\n    [P(A=0,$0\n    [P(A=1)]$b\n    )\n", " B)]$c,", " B)]$c,"),
    ] {
        check_in(Some(path), document, output, Some(expected));
    }
}

#[test]
fn arguments_go_on_up_to_what_closes_them() {
    let (document, output) = ("  list(A$0)\n  f()\n", "\n    b\n    c\n  )\n  f()\n");
    check_in(Some("a.cmake"), document, output, Some("\n    b\n    c\n  "));
    let output = " b\n    c)\n  f()\n";
    check_in(Some("a.cmake"), document, output, Some(" b\n    c"));
}

#[test]
fn what_the_statement_closes_below_may_be_opened() {
    let invoked = |path: &str, document: &str, output: &str| {
        let (prefix, suffix) = document.split_once("$0").unwrap();
        let request = Request::of(Document::new(Some(path.into()), prefix, suffix));
        let request = Request { lines: Lines::Multi, is_invoked: true, ..request };
        trimmed(&request, output, StopReason::EndToken).unwrap_or_default()
    };
    let list = "f x = 1\ng d = $0 h y\n       | y <- d ]\nk = 2\n";
    assert_eq!(invoked("a.hs", list, "["), "[");
    assert_eq!(invoked("a.hs", &list.replace(" ]", ""), "["), "");
    assert_eq!(invoked("a.hs", &list.replace("= $0", "= [ $0"), "("), "");
}

#[test]
fn closing_delimiters_follow_comments_and_shallower_lines() {
    // The cursor and what follows it are in one comment.
    check_in(Some("a.ml"), "(** [current $0] is it. *)\n", "g", Some("g"));
    // A line has begun that is less deep than the last one: it is for what closes the list.
    let document = "f(\n\ta\n);\n\ng($0);\n";
    check_in(Some("a.sql"), document, "\n\tb\n  ", Some("\n\tb\n"));
    check_in(Some("a.sql"), document, "\n\tb\n\t", Some("\n\tb"));
}

#[test]
fn an_invoked_text_that_ends_by_itself_is_whole() {
    let document = Document::new(Some("a.py".into()), "def f():\n    ", "\n    d()\n");
    let request = Request { lines: Lines::Multi, is_invoked: true, ..Request::of(document) };
    let text = "a()\n\n\ndef g():\n    b()";
    let shown = |request: &Request, reason| trimmed(request, text, reason).unwrap();
    assert_eq!(shown(&request, StopReason::EndToken), text);
    assert_eq!(shown(&request, StopReason::Length), "a()");
    assert_eq!(shown(&Request { is_invoked: false, ..request.clone() }, StopReason::EndToken), "a()");
    // At the end of a document there is nothing that it could have reached.
    let document = Document::new(Some("a.py".into()), "def f():\n    ", "\n");
    assert_eq!(shown(&Request { document: document.into(), ..request }, StopReason::EndToken), "a()");
}

#[test]
fn code_between_fences_is_in_its_language() {
    let fenced = |code: &str| format!("# A\n\nIt's so:\n\n```js\n{code}\n```\n\nIt isn't.\n");
    let check = |code: &str, output: &str, expected: &str| {
        check_in(Some("a.md"), &fenced(code), output, Some(expected));
    };
    check("f(() => {\n  $0\n});", "g();\n});\n```\n\nIt isn't.\n", "g();");
    check("f({$0});", "\n  a: 1,\n});\n```\n", "\n  a: 1,\n");
    check("x = $0", "f(a,\n  b);\n```\n\nIt", "f(a,\n  b);");
    check("if (a) {\n    b();\n}\nif (c) {$0}", "\n  d();\n}", "\n    d();\n");
    check_in(Some("a.md"), &fenced("f();\n$0"), "```\n\nIt isn't.\n", None);
}

#[test]
fn three_blocks_may_end_alike() {
    let html = "<div>\n<div>\n<div>\na\n</div>\n</div>\n$0\n";
    check_in(Some("a.html"), html, "</div>", Some("</div>"));
    check_in(Some("a.cmake"), "endif()\nendif()\n$0\nf()\n", "endif()", Some("endif()"));
    check_in(Some("a.cmake"), "f(a)\nf(a)\n$0\ng()\n", "f(a)", None);
}
